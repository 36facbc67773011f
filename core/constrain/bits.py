"""What is still possible under a shared layered automaton with a budget: sets of sums as bit sets.

For each state q of layer i, G_i(q) is the set of sums so far from which some completion is accepted,

    G_L(q) = {low, ..., high},        G_i(q) = union over v of  G_{i+1}(delta(q, v)) - cost_i(v),

a shift and an "or" of a few machine words. Going forward with the sets of sums that the tokens drawn so far allow tells
exactly which tokens have an admissible completion. No weights enter, hence nothing underflows: this is the *exists* law
(`trellis.py`), and what the sums (`sums.py`) fall back on where a prediction leaves them no mass.
"""

from __future__ import annotations

import numpy as np

from core.constrain.sums import spread
from core.constrain.trellis import _pick
from core.jit import jit

__all__ = ["exists", "feasible"]

ONE, ZERO = np.uint64(1), np.uint64(0)


@jit
def _up(source, cost, full, out):  # noqa: ANN001, ANN202
    """Write the set with `cost` added to its members (no more than the largest) to `out`."""
    word, bit = cost >> 6, np.uint64(cost & 63)
    for w in range(len(out) - 1, -1, -1):
        value = np.uint64(0)
        if w - word >= 0:
            value = source[w - word] << bit
            if bit > np.uint64(0) and w - word >= 1:
                value |= source[w - word - 1] >> (np.uint64(64) - bit)
        out[w] = value & full[w]


@jit
def _down(source, cost, out):  # noqa: ANN001, ANN202
    """Add to `out` the set with `cost` taken from its members."""
    word, bit = cost >> 6, np.uint64(cost & 63)
    for w in range(len(out)):
        if w + word < len(out):
            value = source[w + word] >> bit
            if bit > np.uint64(0) and w + word + 1 < len(out):
                value |= source[w + word + 1] << (np.uint64(64) - bit)
            out[w] |= value


@jit
def _span(low, high, words):  # noqa: ANN001, ANN202
    """Return the set {low, ..., high}."""
    out = np.zeros(words, np.uint64)
    for s in range(low, high + 1):
        out[s >> 6] |= np.uint64(1) << np.uint64(s & 63)
    return out


@jit
def _ahead(delta, cost, known, low, high, nodes, at, slot, good):  # noqa: ANN001, ANN202
    """Fill the sets G of the listed states."""
    length = len(known)
    final = _span(low, high, good.shape[1])
    for j in range(at[length], at[length + 1]):
        good[j] = final
    for i in range(length - 1, -1, -1):
        for j in range(at[i], at[i + 1]):
            good[j] = np.uint64(0)
            for v in range(delta.shape[1]):
                t = delta[nodes[j], v]
                if t >= 0 and (known[i] < 0 or known[i] == v):
                    _down(good[slot[t]], cost[i, v], good[j])


@jit
def _meets(here, good):  # noqa: ANN001, ANN202
    """Keep in `here` what is also in `good`; tell whether anything is left."""
    some = False
    for w in range(len(here)):
        here[w] &= good[w]
        some = some or here[w] != np.uint64(0)
    return some


@jit
def _move(delta, cost, i, only, full, nodes, at, slot, good, here, work, seen):  # noqa: ANN001, ANN202
    """Carry the sets `here` over site i by the tokens (all, or `only` one) that can be completed; mark these tokens."""
    for j in range(at[i + 1], at[i + 2]):
        here[j] = np.uint64(0)
    for j in range(at[i], at[i + 1]):
        for v in range(delta.shape[1]):
            t = delta[nodes[j], v]
            if t >= 0 and (only < 0 or only == v):
                _up(here[j], cost[i, v], full, work)
                if _meets(work, good[slot[t]]):
                    seen[v] = True
                    for w in range(len(work)):
                        here[slot[t], w] |= work[w]


@jit
def feasible(layers, node, count, known):  # noqa: ANN001, ANN202
    """Return which tokens have an admissible completion given `known`, bool [B, L, K]."""
    delta, cost, _, low, high = layers
    rows, length = known.shape
    words = (high >> 6) + 1
    out = np.zeros((rows, length, delta.shape[1]), np.bool_)
    full, work = _span(0, high, words), np.zeros(words, np.uint64)
    at, nodes, slot = np.zeros(length + 2, np.int64), np.empty(len(delta), np.int64), np.empty(len(delta), np.int64)
    good, here = np.zeros((len(delta), words), np.uint64), np.zeros((len(delta), words), np.uint64)
    stamp = np.full(len(delta), -1)
    for b in range(rows):
        spread(delta, node[b], known[b], stamp, b, nodes, at, slot)
        _ahead(delta, cost, known[b], low, high, nodes, at, slot, good)
        here[0] = _span(count[b], count[b], words)
        for i in range(length):
            _move(delta, cost, i, known[b, i], full, nodes, at, slot, good, here, work, out[b, i])
    return out


@jit
def exists(layers, node, count, log_p, known, reveal, u, greedy):  # noqa: ANN001, ANN202
    """Draw the sites of `reveal` by the *exists* law; int64 [B, L] with `known` elsewhere."""
    delta, cost, _, low, high = layers
    rows, length, tokens = log_p.shape
    words = (high >> 6) + 1
    out, full, work = known.copy(), _span(0, high, words), np.zeros(words, np.uint64)
    at, nodes, slot = np.zeros(length + 2, np.int64), np.empty(len(delta), np.int64), np.empty(len(delta), np.int64)
    good, here = np.zeros((len(delta), words), np.uint64), np.zeros((len(delta), words), np.uint64)
    stamp, seen = np.full(len(delta), -1), np.zeros(tokens, np.bool_)
    words_, mass = np.empty(tokens, np.int64), np.empty(tokens)
    for b in range(rows):
        if not reveal[b].any():
            continue
        spread(delta, node[b], known[b], stamp, b, nodes, at, slot)
        _ahead(delta, cost, known[b], low, high, nodes, at, slot, good)
        here[0] = _span(count[b], count[b], words)
        for i in range(length):
            seen[:] = False
            _move(delta, cost, i, known[b, i], full, nodes, at, slot, good, here, work, seen)
            if reveal[b, i] and known[b, i] < 0:
                n, top = 0, -np.inf
                for v in range(tokens):
                    if seen[v]:
                        words_[n], mass[n], top = v, log_p[b, i, v], max(top, log_p[b, i, v])
                        n += 1
                if n == 0:
                    break
                for k in range(n):
                    mass[k] = np.exp(mass[k] - top) if top > -np.inf else 0.0
                out[b, i] = _pick(words_, mass, n, u[b, i], greedy)
                _move(delta, cost, i, out[b, i], full, nodes, at, slot, good, here, work, seen)
    return out
