"""The passes of `sums.py` on logarithms, for predictions so sharp that products of their weights underflow.

The same messages, each as a logarithm of its own, so that a sum over sequences of probability e^-5000 is as exact as
any other. They take about ten times as long.
"""

from __future__ import annotations

import numpy as np

from core.constrain.trellis import _pick
from core.jit import jit

__all__ = ["ahead", "back", "walk", "weigh"]


@jit
def weigh(log_p, letters, known, floor, w):  # noqa: ANN001, ANN202
    """Write to `w` [L, K] the logarithms of the weights of `sums.weigh`; return the log of what was divided out."""
    shift, least = 0.0, np.log(floor) if floor > 0.0 else -np.inf
    for i in range(len(known)):
        if known[i] >= 0:
            w[i, :] = 0.0
            continue
        top = -np.inf
        for v in range(w.shape[1]):
            if letters[i, v]:
                top = max(top, log_p[i, v])
        if top > -np.inf:
            shift += top
        for v in range(w.shape[1]):
            w[i, v] = max(log_p[i, v] - top, least) if top > -np.inf else (0.0 if floor > 0.0 else -np.inf)
    return shift


@jit
def _onward(delta, cost, known, nodes, at, slot, lo, hi, off, i, j, c, v):  # noqa: ANN001, ANN202
    """Return where the message lies to which token v leads from state j and sum lo + c of site i; -1 for nowhere."""
    t = delta[nodes[j], v]
    if t < 0 or (known[i] >= 0 and known[i] != v):
        return -1
    after, wide = lo[i] + c + cost[i, v] - lo[i + 1], hi[i + 1] - lo[i + 1] + 1
    return off[i + 1] + (slot[t] - at[i + 1]) * wide + after if 0 <= after < wide else -1


@jit
def back(delta, cost, w, known, nodes, at, slot, lo, hi, off, beta, best):  # noqa: ANN001, ANN202
    """Fill the logarithms of the backward messages."""
    length, terms = len(known), np.empty(delta.shape[1])
    beta[off[length] : off[length] + (at[length + 1] - at[length]) * (hi[length] - lo[length] + 1)] = 0.0
    for i in range(length - 1, -1, -1):
        wide = hi[i] - lo[i] + 1
        for j in range(at[i], at[i + 1]):
            for c in range(wide):
                n, top, total = 0, -np.inf, 0.0
                for v in range(delta.shape[1]):
                    k = _onward(delta, cost, known, nodes, at, slot, lo, hi, off, i, j, c, v)
                    if k >= 0:
                        terms[n] = w[i, v] + beta[k]
                        top = max(top, terms[n])
                        n += 1
                if top > -np.inf and not best:
                    for k in range(n):
                        total += np.exp(terms[k] - top)
                    top += np.log(total)
                beta[off[i] + (j - at[i]) * wide + c] = top


@jit
def walk(delta, cost, w, known, reveal, u, at, slot, lo, hi, off, beta, node, count, best, out):  # noqa: ANN001, ANN202
    """Draw as `sums._walk` does."""
    tokens, mass = np.empty(delta.shape[1], np.int64), np.empty(delta.shape[1])
    last = -1
    for i in range(len(known)):
        last = i if reveal[i] else last
    for i in range(last + 1):
        a = known[i]
        if a < 0:
            n, wider, top = 0, hi[i + 1] - lo[i + 1] + 1, -np.inf
            for v in range(delta.shape[1]):
                t, c = delta[node, v], count + cost[i, v] - lo[i + 1]
                if t >= 0 and 0 <= c < wider:
                    tokens[n], mass[n] = v, w[i, v] + beta[off[i + 1] + (slot[t] - at[i + 1]) * wider + c]
                    top = max(top, mass[n])
                    n += 1
            if top == -np.inf:
                return False
            for k in range(n):
                mass[k] = np.exp(mass[k] - top)
            a = _pick(tokens, mass, n, u[i], best)
        if reveal[i]:
            out[i] = a
        count += cost[i, a]
        node = delta[node, a]
    return True


@jit
def ahead(delta, cost, w, known, nodes, at, slot, lo, hi, off, beta, alpha, out):  # noqa: ANN001, ANN202
    """Fill the logarithms of the forward messages, and write the marginals of each site."""
    alpha[:] = -np.inf
    alpha[off[0]], whole, out[:] = 0.0, beta[off[0]], 0.0
    for i in range(len(known) if whole > -np.inf else 0):
        wide = hi[i] - lo[i] + 1
        for j in range(at[i], at[i + 1]):
            for c in range(wide):
                here = alpha[off[i] + (j - at[i]) * wide + c]
                for v in range(delta.shape[1] if here > -np.inf else 0):
                    k = _onward(delta, cost, known, nodes, at, slot, lo, hi, off, i, j, c, v)
                    if k >= 0 and w[i, v] > -np.inf:
                        alpha[k] = np.logaddexp(alpha[k], here + w[i, v])
                        out[i, v] += np.exp(here + w[i, v] + beta[k] - whole)
        out[i] /= out[i].sum()
