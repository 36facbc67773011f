"""The compiled loops of the matcher: bounded route search and the Viterbi recursion over candidates.

A candidate is (segment, metres from its start, metres from the fix). Between two fixes the vehicle drives from one
candidate to another; the route's length is what remains of the first segment, plus the way from its end to the start of
the second (a Dijkstra search over segments, pruned to the ellipse of points through which a route of at most `limit`
metres can pass), plus the metres into the second.
"""

from __future__ import annotations

import heapq

import numpy as np

from core.jit import jit

__all__ = ["best_candidates", "connect"]

_NONE = -1


@jit
def _search(source, rest, limit, x, y, slack, ptr, succ, length, start, dist, parent, stamp, version):
    """Fill `dist[k]`, metres from the end of `source` to the start of k, where `stamp[k] == version`."""
    heap = [(0.0, source)]
    heapq.heappop(heap)
    for j in range(ptr[source], ptr[source + 1]):
        k = succ[j]
        dist[k], parent[k], stamp[k] = 0.0, _NONE, version
        heapq.heappush(heap, (0.0, np.int64(k)))
    while len(heap) > 0:
        d, a = heapq.heappop(heap)
        if d > dist[a]:
            continue
        far = d + length[a]
        for j in range(ptr[a], ptr[a + 1]):
            k = succ[j]
            if stamp[k] == version and dist[k] <= far:
                continue
            if rest + far + np.hypot(start[k, 0] - x, start[k, 1] - y) - slack > limit:
                continue
            dist[k], parent[k], stamp[k] = far, a, version
            heapq.heappush(heap, (far, np.int64(k)))


@jit
def _advance(
    p, i, limit, xy, cand_ptr, cand, offset, away, score, origin, sigma, beta, radius, back,
    ptr, succ, length, start, dist, parent, stamp,
):  # fmt: skip
    """Extend the best sequences from fix p to fix i over routes of at most `limit` metres; tell whether any exists."""
    straight = np.hypot(xy[i, 0] - xy[p, 0], xy[i, 1] - xy[p, 1])
    reached = False
    for b in range(cand_ptr[p], cand_ptr[p + 1]):
        if score[b] == -np.inf:
            continue
        a = cand[b]
        rest = length[a] - offset[b]
        version = stamp[len(length)] + 1
        stamp[len(length)] = version
        _search(a, rest, limit, xy[i, 0], xy[i, 1], radius, ptr, succ, length, start, dist, parent, stamp, version)
        for c in range(cand_ptr[i], cand_ptr[i + 1]):
            k = cand[c]
            if k == a and offset[c] >= offset[b] - back:
                route = max(offset[c] - offset[b], 0.0)
            elif stamp[k] == version:
                route = rest + dist[k] + offset[c]
            else:
                continue
            value = score[b] - abs(route - straight) / beta - 0.5 * (away[c] / sigma) ** 2
            if route <= limit and value > score[c]:
                score[c], origin[c], reached = value, b, True
    return reached


@jit
def _trace_back(p, cand_ptr, score, origin, fresh, link):
    """Follow the best sequence of each part from its last fix, p at first, to where the part begins."""
    chosen = np.full(len(fresh), _NONE, dtype=np.int64)
    follow = _NONE
    while p >= 0:
        if follow == _NONE:
            follow = cand_ptr[p] + np.argmax(score[cand_ptr[p] : cand_ptr[p + 1]])
        chosen[p] = follow
        follow = _NONE if fresh[p] else origin[follow]
        p = p - 1 if fresh[p] else link[p]
    return chosen


@jit
def _step(
    p, i, gap, extra, wide, top_speed, xy, cand_ptr, cand, offset, away, score, origin, sigma, beta, radius, back,
    ptr, succ, length, start, dist, parent, stamp,
):  # fmt: skip
    """Extend to fix i over short routes, or else over long ones; none is faster than `top_speed`."""
    straight = np.hypot(xy[i, 0] - xy[p, 0], xy[i, 1] - xy[p, 1])
    cap = max(straight * 1.2, top_speed * gap) + 2 * radius if gap > 0 else np.inf
    for more in (extra, wide):
        if _advance(
            p, i, min(straight + more, cap), xy, cand_ptr, cand, offset, away, score, origin, sigma, beta, radius,
            back, ptr, succ, length, start, dist, parent, stamp,
        ):  # fmt: skip
            return True
    return False


@jit
def best_candidates(
    xy, t, cand_ptr, cand, offset, away, sigma, beta, radius, extra, wide, back, top_speed, skip,
    ptr, succ, length, start, dist, parent, stamp,
):  # fmt: skip
    """Return the best candidate of each fix, -1 for an outlier, and whether a new part begins there.

    Args:
        xy, t: [P, 2] metres, [P] seconds of the fixes, each with at least one candidate.
        cand_ptr, cand, offset, away: [P+1], [C] candidates.
        sigma, beta: metres: error of a fix; how much longer than straight a route is.
        radius: metres within which candidates lie. extra, wide: metres that a route may exceed the straight line by,
            at first, and again where nothing connects.
        back: metres that a vehicle may seem to roll back on its segment (noise).
        top_speed: metres per second beyond which a route is impossible. skip: so many fixes in a row may be outliers.
        dist, parent: [N] work space. stamp: [N+1] work space, the last entry counts the searches.
    """
    n = len(xy)
    score = np.full(len(cand), -np.inf)
    origin = np.full(len(cand), _NONE, dtype=np.int64)
    fresh = np.zeros(n, dtype=np.bool_)
    link = np.full(n, _NONE, dtype=np.int64)
    p, i = -1, 0
    while i < n:
        if p >= 0 and _step(
            p, i, t[i] - t[p], extra, wide, top_speed, xy, cand_ptr, cand, offset, away, score, origin, sigma, beta,
            radius, back, ptr, succ, length, start, dist, parent, stamp,
        ):  # fmt: skip
            link[i] = p
            p, i = i, i + 1
        elif p >= 0 and i - p <= skip and i + 1 < n:
            i += 1
        else:
            p = p + 1
            fresh[p] = True
            score[cand_ptr[p] : cand_ptr[p + 1]] = -0.5 * (away[cand_ptr[p] : cand_ptr[p + 1]] / sigma) ** 2
            i = p + 1
    return _trace_back(p, cand_ptr, score, origin, fresh, link), fresh


@jit
def connect(walk, size, a, k, limit, x, y, ptr, succ, length, start, dist, parent, stamp):
    """Append the shortest way from the end of a to segment k, k included, to `walk[:size]`; return the new size.

    The size stays as it is where no way of at most `limit` metres exists.
    """
    version = stamp[len(length)] + 1
    stamp[len(length)] = version
    _search(a, 0.0, limit, x, y, 0.0, ptr, succ, length, start, dist, parent, stamp, version)
    if stamp[k] != version:
        return size
    count, at = 0, k
    while at != _NONE:
        count += 1
        at = parent[at]
    at = k
    for i in range(count):
        walk[size + count - 1 - i] = at
        at = parent[at]
    return size + count
