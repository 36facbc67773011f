"""Sums over the accepted sequences of a shared layered automaton, row by row, in compiled passes.

Sites carry weights p_i(v), known sites one token. With c the budget spent so far, backward messages

    b_L(q, c) = 1 if low <= c <= high,        b_i(q, c) = sum_v  p_i(v)  b_{i+1}(delta(q, v), c + cost_i(v))

give the total b_0, exact draws of the product law conditioned on the rules, its marginals, and with max for sum its
mode. Only states that the known tokens leave reachable are visited, and only sums that can still both occur and end
within the bounds; where the bounds can no longer be missed the sum is dropped. So a step costs little once much is
known, and the inner loop runs over the sums, which are contiguous. Messages are divided by their largest; where some
are so small beside it that they, or what they lead to, would be lost, the row is done on logarithms (`logs.py`).
"""

from __future__ import annotations

import numpy as np

from core.constrain import logs
from core.constrain.trellis import _pick
from core.jit import jit

__all__ = ["draw", "marginals", "total"]

FLOOR = 1e-12
"""Weight, beside the likeliest token's, of one that the prediction rules out: used only where nothing else is left."""

SHARP, RARE, LOST = 1e-12, 1e-50, 1e-200
"""Least weight of a token for messages to be divided at every eighth site only, and for products at all; least message.
From one division to the next a message is multiplied by at most eight weights: 1e-296 is still a whole number of
binary digits."""


@jit
def weigh(log_p, letters, known, floor, p):  # noqa: ANN001, ANN202
    """Write to `p` [L, K] the weights of the tokens, the likeliest 1.

    Return the log of what was divided out, and the least weight that is not zero (0 where it rounds to that).
    """
    shift, least = 0.0, 1.0
    for i in range(len(known)):
        if known[i] >= 0:
            p[i, :] = 1.0
            continue
        top = -np.inf
        for v in range(p.shape[1]):
            if letters[i, v]:
                top = max(top, log_p[i, v])
        if top > -np.inf:
            shift += top
        for v in range(p.shape[1]):
            p[i, v] = max(np.exp(log_p[i, v] - top), floor) if top > -np.inf else (1.0 if floor > 0.0 else 0.0)
            if letters[i, v] and (p[i, v] > 0.0 or log_p[i, v] > -np.inf):
                least = min(least, p[i, v])
    return shift, least


@jit
def spend(cost, letters, known, low, high, count, lo, hi):  # noqa: ANN001, ANN202
    """Write the sums that matter before each site to lo ... hi; return 0 (none), 1, or 2 (they cannot be missed)."""
    length = len(known)
    least, most = np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int64)
    for i in range(length - 1, -1, -1):
        small, large = np.int64(1 << 40), np.int64(-1)
        for v in range(cost.shape[1]):
            if letters[i, v] and (known[i] < 0 or known[i] == v):
                small, large = min(small, cost[i, v]), max(large, cost[i, v])
        if large < 0:
            return 0
        least[i], most[i] = least[i + 1] + small, most[i + 1] + large
    if low <= count + least[0] and count + most[0] <= high:
        lo[:], hi[:] = 0, 0
        return 2
    for i in range(length + 1):
        lo[i] = max(low - most[i], count + least[0] - least[i])
        hi[i] = min(high - least[i], count + most[0] - most[i])
        if lo[i] > hi[i]:
            return 0
    return 1


@jit
def spread(delta, node, known, stamp, clock, nodes, at, slot):  # noqa: ANN001, ANN202
    """List the states of each layer that the known tokens leave reachable: nodes[at[i]:at[i + 1]]."""
    nodes[0], slot[node], at[0], at[1], size = node, 0, 0, 1, 1
    for i in range(len(known)):
        for j in range(at[i], at[i + 1]):
            for v in range(delta.shape[1]):
                if known[i] < 0 or known[i] == v:
                    t = delta[nodes[j], v]
                    if t >= 0 and stamp[t] != clock:
                        stamp[t], slot[t], nodes[size] = clock, size, t
                        size += 1
        at[i + 2] = size
    return size


@jit
def _place(at, lo, hi, off):  # noqa: ANN001, ANN202
    """Write where the messages of each layer lie; return their number."""
    size = 0
    for i in range(len(lo)):
        off[i] = size
        size += (at[i + 1] - at[i]) * (hi[i] - lo[i] + 1)
    return size


@jit
def _gather(beta, base, src, begin, end, weight, best):  # noqa: ANN001, ANN202
    if best:
        for c in range(begin, end):
            beta[base + c] = max(beta[base + c], weight * beta[src + c])
    else:
        for c in range(begin, end):
            beta[base + c] += weight * beta[src + c]


@jit
def _back(delta, cost, p, least, known, nodes, at, slot, lo, hi, off, beta, best):  # noqa: ANN001, ANN202
    """Fill the backward messages; return the log of what they were divided by, and whether none was lost."""
    length, scale, kept, every = len(known), 0.0, least >= RARE, 8 if least >= SHARP else 1
    beta[off[length] : off[length] + (at[length + 1] - at[length]) * (hi[length] - lo[length] + 1)] = 1.0
    for i in range(length - 1, -1, -1):
        wide, wider = hi[i] - lo[i] + 1, hi[i + 1] - lo[i + 1] + 1
        top = 0.0
        for j in range(at[i], at[i + 1]):
            base = off[i] + (j - at[i]) * wide
            beta[base : base + wide] = 0.0
            for v in range(delta.shape[1]):
                t = delta[nodes[j], v]
                if t >= 0 and p[i, v] > 0.0 and (known[i] < 0 or known[i] == v):
                    shift = lo[i] + cost[i, v] - lo[i + 1]
                    src = off[i + 1] + (slot[t] - at[i + 1]) * wider + shift
                    _gather(beta, base, src, max(0, -shift), min(wide, wider - shift), p[i, v], best)
        if i % every == 0:
            stop, small = off[i] + (at[i + 1] - at[i]) * wide, 1.0
            for k in range(off[i], stop):
                top = max(top, beta[k])
            if top > 0.0:
                scale += np.log(top)
                for k in range(off[i], stop):
                    beta[k] /= top
                    small = min(small, beta[k] if beta[k] > 0.0 else 1.0)
            kept = kept and small >= LOST
    return scale, kept


@jit
def _walk(delta, cost, p, known, reveal, u, at, slot, lo, hi, off, beta, node, count, best, out):  # noqa: ANN001, ANN202
    """Draw the unknown sites one after the other and write those of `reveal`; False where there is no mass."""
    tokens, mass = np.empty(delta.shape[1], np.int64), np.empty(delta.shape[1])
    last = -1
    for i in range(len(known)):
        last = i if reveal[i] else last
    for i in range(last + 1):
        a = known[i]
        if a < 0:
            n, wider, total = 0, hi[i + 1] - lo[i + 1] + 1, 0.0
            for v in range(delta.shape[1]):
                t, c = delta[node, v], count + cost[i, v] - lo[i + 1]
                if t >= 0 and 0 <= c < wider:
                    tokens[n], mass[n] = v, p[i, v] * beta[off[i + 1] + (slot[t] - at[i + 1]) * wider + c]
                    total += mass[n]
                    n += 1
            if total <= 0.0:
                return False
            a = _pick(tokens, mass, n, u[i], best)
        if reveal[i]:
            out[i] = a
        count += cost[i, a]
        node = delta[node, a]
    return True


@jit
def _prepare(layers, node, count, known, lo, hi, at, nodes, slot, stamp, clock):  # noqa: ANN001, ANN202
    """Return what the budget does to a row (see `spend`), having listed its states."""
    delta, cost, letters, low, high = layers
    kind = spend(cost, letters, known, low, high, count, lo, hi)
    if kind > 0:
        spread(delta, node, known, stamp, clock, nodes, at, slot)
    return kind


@jit
def draw(layers, node, count, log_p, known, reveal, u, best):  # noqa: ANN001, ANN202
    """Draw the sites of `reveal` from the product law given the rules; returns (tokens [B, L], which rows had mass).

    Args:
        layers: (delta, cost, letters, low, high), the sites from the present one on.
        node, count: int64 [B], the state and the sum so far.
        log_p: float64 [B, L, K].
        known: int64 [B, L], token or -1.
        reveal: bool [B, L].
        u: float64 [B, L] uniforms.
        best: the most likely completion instead of a draw.
    """
    delta, cost, letters, low, high = layers
    rows, length, tokens = log_p.shape
    out, done = known.copy(), np.ones(rows, np.bool_)
    lo, hi, off = np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int64)
    at, nodes, slot = np.zeros(length + 2, np.int64), np.empty(len(delta), np.int64), np.empty(len(delta), np.int64)
    stamp, beta, p, nothing = np.full(len(delta), -1), np.empty(1024), np.empty((length, tokens)), np.zeros_like(cost)
    for b in range(rows):
        if not reveal[b].any():
            continue
        kind = _prepare(layers, node[b], count[b], known[b], lo, hi, at, nodes, slot, stamp, b)
        done[b] = kind > 0
        if kind > 0:
            size = _place(at, lo, hi, off)
            beta = beta if size <= len(beta) else np.empty(2 * size)
            price, spent, done[b] = (nothing, 0, False) if kind == 2 else (cost, count[b], False)
            for floor in (0.0, FLOOR):  # the law itself, and only where it has no mass what lets any token be taken
                if not done[b]:
                    _, least = weigh(log_p[b], letters, known[b], floor, p)
                    _, kept = _back(delta, price, p, least, known[b], nodes, at, slot, lo, hi, off, beta, best)
                    if kept:
                        done[b] = _walk(delta, price, p, known[b], reveal[b], u[b], at, slot, lo, hi, off, beta,
                                        node[b], spent, best, out[b])  # fmt: skip
                        continue
                    logs.weigh(log_p[b], letters, known[b], floor, p)
                    logs.back(delta, price, p, known[b], nodes, at, slot, lo, hi, off, beta, best)
                    done[b] = logs.walk(delta, price, p, known[b], reveal[b], u[b], at, slot, lo, hi, off, beta,
                                        node[b], spent, best, out[b])  # fmt: skip
    return out, done


@jit
def total(layers, node, count, log_p, known):  # noqa: ANN001, ANN202
    """Return the log of the summed weight [B] of all accepted sequences; -inf where there is none."""
    delta, cost, letters, low, high = layers
    rows, length, tokens = log_p.shape
    out = np.full(rows, -np.inf)
    lo, hi, off = np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int64)
    at, nodes, slot = np.zeros(length + 2, np.int64), np.empty(len(delta), np.int64), np.empty(len(delta), np.int64)
    stamp, beta, p, nothing = np.full(len(delta), -1), np.empty(1024), np.empty((length, tokens)), np.zeros_like(cost)
    for b in range(rows):
        kind = _prepare(layers, node[b], count[b], known[b], lo, hi, at, nodes, slot, stamp, b)
        if kind > 0:
            size = _place(at, lo, hi, off)
            beta = beta if size <= len(beta) else np.empty(2 * size)
            price = nothing if kind == 2 else cost
            shift, least = weigh(log_p[b], letters, known[b], 0.0, p)
            scale, kept = _back(delta, price, p, least, known[b], nodes, at, slot, lo, hi, off, beta, False)
            first = beta[off[0]]  # the first state, and its sum is the only one
            if not kept:
                logs.weigh(log_p[b], letters, known[b], 0.0, p)
                logs.back(delta, price, p, known[b], nodes, at, slot, lo, hi, off, beta, False)
                out[b] = shift + beta[off[0]]
            elif first > 0.0:
                out[b] = shift + scale + np.log(first)
    return out


@jit
def _ahead(delta, cost, p, known, nodes, at, slot, lo, hi, off, beta, alpha, out):  # noqa: ANN001, ANN202
    """Fill the forward messages and add up the marginals of each site; return whether none was lost."""
    alpha[:] = 0.0
    alpha[off[0]], small = 1.0, 1.0
    for i in range(len(known)):
        wide, wider, norm = hi[i] - lo[i] + 1, hi[i + 1] - lo[i + 1] + 1, 0.0
        for j in range(at[i], at[i + 1]):
            base = off[i] + (j - at[i]) * wide
            for v in range(delta.shape[1]):
                t = delta[nodes[j], v]
                if t >= 0 and p[i, v] > 0.0 and (known[i] < 0 or known[i] == v):
                    shift = lo[i] + cost[i, v] - lo[i + 1]
                    dst = off[i + 1] + (slot[t] - at[i + 1]) * wider + shift
                    for c in range(max(0, -shift), min(wide, wider - shift)):
                        mass = p[i, v] * alpha[base + c]
                        alpha[dst + c] += mass
                        out[i, v] += mass * beta[dst + c]
        for v in range(delta.shape[1]):
            norm += out[i, v]
        top = 0.0
        stop = off[i + 1] + (at[i + 2] - at[i + 1]) * wider
        for k in range(off[i + 1], stop):
            top = max(top, alpha[k])
        if norm > 0.0:
            out[i] /= norm
            for k in range(off[i + 1], stop):
                alpha[k] /= top
                small = min(small, alpha[k] if alpha[k] > 0.0 else 1.0)
    return small >= LOST


@jit
def marginals(layers, node, count, log_p, known, floor):  # noqa: ANN001, ANN202
    """Return P(x_i = v) under the product law given the rules, float64 [B, L, K]; zeros where nothing is accepted."""
    delta, cost, letters, low, high = layers
    rows, length, tokens = log_p.shape
    out = np.zeros((rows, length, tokens))
    lo, hi, off = np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int64), np.zeros(length + 1, np.int64)
    at, nodes, slot = np.zeros(length + 2, np.int64), np.empty(len(delta), np.int64), np.empty(len(delta), np.int64)
    stamp, p, nothing = np.full(len(delta), -1), np.empty((length, tokens)), np.zeros_like(cost)
    for b in range(rows):
        kind = _prepare(layers, node[b], count[b], known[b], lo, hi, at, nodes, slot, stamp, b)
        if kind > 0:
            size = _place(at, lo, hi, off)
            beta, alpha = np.empty(size), np.empty(size)
            price = nothing if kind == 2 else cost
            _, least = weigh(log_p[b], letters, known[b], floor, p)
            _, kept = _back(delta, price, p, least, known[b], nodes, at, slot, lo, hi, off, beta, False)
            kept = kept and _ahead(delta, price, p, known[b], nodes, at, slot, lo, hi, off, beta, alpha, out[b])
            if not kept:
                logs.weigh(log_p[b], letters, known[b], floor, p)
                logs.back(delta, price, p, known[b], nodes, at, slot, lo, hi, off, beta, False)
                logs.ahead(delta, price, p, known[b], nodes, at, slot, lo, hi, off, beta, alpha, out[b])
    return out
