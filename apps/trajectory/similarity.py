r"""How far one trip is from another.

A trip is a sequence of points `a_1 … a_n` (the middles of its segments) and a set of segments `A`. With `d(i, j)` the
distance between `a_i` and `b_j`:

- Hausdorff: `max( max_i min_j d(i, j), max_j min_i d(i, j) )`, the worst excursion from the other trip;
- DTW: the cheapest monotone alignment, `γ(i, j) = d(i, j) + min(γ(i-1, j), γ(i, j-1), γ(i-1, j-1))`, a SUM over the
  alignment, hence growing with the number of points; divided by `max(n, m)` it is a mean per point;
- EDR: the fewest insertions, deletions and substitutions that turn one trip into the other, two points being equal when
  `d < ε`, divided by `max(n, m)`;
- Jaccard: `|A ∩ B| / |A ∪ B|`; plain counts segments (it is "the" Jaccard of every table here), length-weighted counts
  their metres.

The dynamic programmes read a matrix of distances, so they are the same on the plane and on the sphere.

References: Sakoe and Chiba (1978) for DTW; Salvador and Chan, "FastDTW" (2007); Chen, Özsu and Oria, "Robust and fast
similarity search for moving object trajectories" (2005) for EDR.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "dtw",
    "edr",
    "fast_dtw",
    "great_circle",
    "hausdorff",
    "haversine",
    "jaccard",
    "jaccard_length",
    "longest_shared",
    "planar",
]

Array = NDArray[np.float64]
Metric = Callable[[Array, Array], Array]
EPSILON = 100.0


def planar(a: Array, b: Array) -> Array:
    """Return the Euclidean distances `[n, m]` between points `a` `[n, 2]` and `b` `[m, 2]`, in their unit."""
    delta = a[:, None, :] - b[None, :, :]
    return np.sqrt(delta[..., 0] ** 2 + delta[..., 1] ** 2)


def great_circle(radius: float) -> Metric:
    """Return the haversine metric on a sphere of `radius` (its unit is the unit of the result).

    The metric takes points `[n, 2]` and `[m, 2]` as (latitude, longitude) in degrees.
    """

    def metric(a: Array, b: Array) -> Array:
        return haversine(a[:, None, :], b[None, :, :], radius)

    return metric


def haversine(a: Array, b: Array, radius: float) -> Array:
    """Return the great-circle distances of points `[..., 2]` (latitude, longitude in degrees), broadcast."""
    a, b = np.radians(a), np.radians(b)
    rise, run = np.sin((b[..., 0] - a[..., 0]) / 2.0), np.sin((b[..., 1] - a[..., 1]) / 2.0)
    square = rise * rise + np.cos(a[..., 0]) * np.cos(b[..., 0]) * run * run
    return radius * 2.0 * np.arcsin(np.sqrt(np.minimum(square, 1.0)))


def hausdorff(a: Array, b: Array, metric: Metric = planar) -> float:
    """Return the symmetric Hausdorff distance of two point sequences, in the unit of `metric`."""
    distance = metric(a, b)
    return float(max(distance.min(axis=1).max(), distance.min(axis=0).max()))


def dtw(a: Array, b: Array, metric: Metric = planar) -> float:
    """Return the exact dynamic-time-warping cost of two point sequences: a sum, in the unit of `metric`."""
    return float(_warp(metric(a, b)))


def edr(a: Array, b: Array, epsilon: float = EPSILON, metric: Metric = planar) -> float:
    """Return the edit distance on real sequences in [0, 1]; points closer than `epsilon` are equal."""
    return float(_edits(metric(a, b) < epsilon)) / max(len(a), len(b))


def jaccard(a: NDArray[np.integer], b: NDArray[np.integer]) -> float:
    """Return the plain Jaccard index of the two sets of segments, in [0, 1]."""
    shared, union = np.intersect1d(a, b), np.union1d(a, b)
    return len(shared) / len(union)


def jaccard_length(a: NDArray[np.integer], b: NDArray[np.integer], length: NDArray[np.floating]) -> float:
    """Return the Jaccard index where each segment counts with its `length` `[N]` in metres."""
    shared, union = np.intersect1d(a, b), np.union1d(a, b)
    return float(length[shared].sum(dtype=float) / length[union].sum(dtype=float))


def fast_dtw(a: Array, b: Array, metric: Metric = planar, radius: int = 1) -> float:
    """Return the FastDTW approximation (an upper bound) of `dtw`, ties broken as in the Python package `fastdtw`.

    Each level halves both sequences by averaging neighbours, aligns them, and refines the alignment inside a window of
    `radius` cells around it.

    Reference: Salvador and Chan (2007), section 4.
    """
    return _fast_path(a, b, metric, radius)[0]


def _fast_path(a: Array, b: Array, metric: Metric, radius: int) -> tuple[float, NDArray[np.int64]]:
    n, m = len(a), len(b)
    if n < radius + 2 or m < radius + 2:
        low, high = np.zeros(n, np.int64), np.full(n, m, np.int64)
    else:
        _, path = _fast_path(_halve(a), _halve(b), metric, radius)
        low, high = _window(path, n, m, radius)
    total, path = _warp_window(metric(a, b), low, high)
    return float(total), np.asarray(path)


def _halve(points: Array) -> Array:
    even = len(points) - len(points) % 2
    return (points[0:even:2] + points[1:even:2]) / 2.0


@njit(nogil=True, cache=True)
def _warp(distance):  # type: ignore[no-untyped-def]
    n, m = distance.shape
    row = np.full(m + 1, np.inf)
    row[0] = 0.0
    for i in range(n):
        corner = row[0]
        row[0] = np.inf
        for j in range(m):
            above = row[j + 1]
            row[j + 1] = distance[i, j] + min(min(above, row[j]), corner)
            corner = above
    return row[m]


@njit(nogil=True, cache=True)
def _edits(equal):  # type: ignore[no-untyped-def]
    n, m = equal.shape
    row = np.arange(m + 1)
    for i in range(n):
        corner = row[0]
        row[0] = i + 1
        for j in range(m):
            above = row[j + 1]
            row[j + 1] = min(min(above, row[j]) + 1, corner + (0 if equal[i, j] else 1))
            corner = above
    return row[m]


@njit(nogil=True, cache=True)
def _window(path, n, m, radius):  # type: ignore[no-untyped-def]
    inside = np.zeros((n, m), np.bool_)
    for k in range(len(path)):
        for i in range(2 * (path[k, 0] - radius), 2 * (path[k, 0] + radius) + 2):
            for j in range(2 * (path[k, 1] - radius), 2 * (path[k, 1] + radius) + 2):
                if 0 <= i < n and 0 <= j < m:
                    inside[i, j] = True
    low, high = np.zeros(n, np.int64), np.zeros(n, np.int64)
    start = 0
    for i in range(n):
        j = start
        while j < m and not inside[i, j]:
            j += 1
        start = j
        while j < m and inside[i, j]:
            j += 1
        low[i], high[i] = start, j
    return low, high


@njit(nogil=True, cache=True)
def _warp_window(distance, low, high):  # type: ignore[no-untyped-def]
    n, m = distance.shape
    total = np.full((n + 1, m + 1), np.inf)
    move = np.zeros((n + 1, m + 1), np.int8)
    total[0, 0] = 0.0
    for i in range(1, n + 1):
        for j in range(low[i - 1] + 1, high[i - 1] + 1):
            best, came = total[i - 1, j], 0
            if total[i, j - 1] + distance[i - 1, j - 1] < best + distance[i - 1, j - 1]:
                best, came = total[i, j - 1], 1
            if total[i - 1, j - 1] + distance[i - 1, j - 1] < best + distance[i - 1, j - 1]:
                best, came = total[i - 1, j - 1], 2
            total[i, j], move[i, j] = best + distance[i - 1, j - 1], came
    path = np.empty((n + m, 2), np.int64)
    i, j, size = n, m, 0
    while i > 0 or j > 0:
        path[size, 0], path[size, 1] = i - 1, j - 1
        size += 1
        came = move[i, j]
        i, j = (i - 1 if came != 1 else i), (j - 1 if came != 0 else j)
    return total[n, m], path[:size][::-1].copy()


@njit(nogil=True, cache=True)
def longest_shared(a, b):  # type: ignore[no-untyped-def]
    """Return the length of the longest run of consecutive segments that both sequences contain."""
    row = np.zeros(len(b) + 1, np.int64)
    best = 0
    for i in range(len(a)):
        corner = 0
        for j in range(len(b)):
            above = row[j + 1]
            row[j + 1] = corner + 1 if a[i] == b[j] else 0
            best = max(best, row[j + 1])
            corner = above
    return best
