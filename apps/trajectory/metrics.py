r"""What makes generated trips good: close to the trip that was driven, alike as a crowd, and in the right proportions.

Three questions, three kinds of figure.

1. *Is this trip the one that a driver would have taken?* Generated trip i and real trip i answer the same request
   (origin, destination); `score_pairs` gives Hausdorff (km), DTW (km, a sum; and metres per point), EDR (100 m),
   Jaccard (plain set of segments; `jaccard_length` weighs metres) and whether the path is exactly the same. Differences
   between two routers are judged by `paired_bootstrap` over the SAME requests.
2. *Is the crowd alike?* Jensen-Shannon divergence (nats, at most ln 2) of the kilometres driven and of the radius of
   gyration (root mean square distance to the mean point). A histogram of few trips differs from its own law, so each
   divergence stands beside a floor: real trips against other real trips.
3. *Are the routes of one origin-destination pair in the right proportions?* Total variation
   `½ Σ_r |p(r) − q(r)|` of route shares.

`evaluate(…, protocol="hoser")` is the published protocol with its oddities: see `hoser_protocol`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from apps.trajectory.data import Trips
from apps.trajectory.hoser_protocol import (
    Grid,
    centroids,
    evaluate_hoser,
    halves_jsd,
    histogram_jsd,
    od_pairs,
    same_cells,
)
from apps.trajectory.similarity import dtw, edr, hausdorff, jaccard, jaccard_length
from core.errors import UsageError

__all__ = [
    "Interval", "PairScores", "best_of", "evaluate", "noise_floor", "paired_bootstrap", "radius_km", "route_shares",
    "score_pairs", "share_distance", "share_floor", "uniform_shares",
]  # fmt: skip

Array = NDArray[np.float64]
Route = tuple[int, ...]
Shares = dict[tuple[int, int], dict[Route, float]]
PROTOCOLS = ("strict", "hoser")


@dataclass(frozen=True)
class PairScores:
    """Scores of K pairs (generated, real), each an array `[K]`; lower is better but for the Jaccards and `exact`."""

    hausdorff_km: Array
    dtw_km: Array
    dtw_point_m: Array
    edr: Array
    jaccard: Array
    jaccard_length: Array
    exact: Array

    def means(self) -> dict[str, float]:
        """Return the mean of each score (NaN without pairs), and the median of DTW, whose mean a few detours rule."""
        if not len(self.edr):
            return {f.name: float("nan") for f in fields(self)} | {"dtw_km_median": float("nan")}
        table = {f.name: float(getattr(self, f.name).mean()) for f in fields(self)}
        return table | {"dtw_km_median": float(np.median(self.dtw_km))}


@dataclass(frozen=True)
class Interval:
    """A mean paired difference with its percentile bootstrap interval; `decided` if the interval excludes zero."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def decided(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0.0 or self.high < 0.0


def score_pairs(generated: Trips, real: Trips, pairs: NDArray[np.integer] | None = None) -> PairScores:
    """Score generated trips against real ones, point = middle of a segment, metres in the network's projection.

    Args:
        generated: n trips.
        real: the trips that were driven.
        pairs: `[K, 2]` indices (generated, real); i with i by default.

    Raises:
        UsageError: without `pairs`, the two sets are not of one size.
    """
    if pairs is None:
        if len(generated) != len(real):
            raise UsageError(
                f"{len(generated)} generated trips cannot be paired one by one with {len(real)} real ones",
                field="pairs", hint='pass pairs="od" to pair by origin and destination, or the indices',
            )  # fmt: skip
        pairs = np.repeat(np.arange(len(real))[:, None], 2, axis=1)
    mine, theirs = generated.lists(), real.lists()
    middle, length = real.network.middle, real.network.length
    rows = [_score(mine[i], theirs[j], middle, length) for i, j in pairs]
    return PairScores(*np.array(rows, dtype=np.float64).reshape(-1, len(fields(PairScores))).T)


def _score(a: NDArray[np.integer], b: NDArray[np.integer], middle: Array, length: NDArray) -> tuple[float, ...]:
    x, y = middle[a], middle[b]
    warp = dtw(x, y)
    return (
        hausdorff(x, y) / 1e3,
        warp / 1e3,
        warp / max(len(a), len(b)),
        edr(x, y),
        jaccard(a, b),
        jaccard_length(a, b, length),
        float(np.array_equal(a, b)),
    )


def best_of(scores: Sequence[PairScores]) -> PairScores:
    """Return for each pair and each score the best of several tries (lowest distance, highest Jaccard)."""
    higher = {"jaccard", "jaccard_length", "exact"}
    stacked = {f.name: np.stack([getattr(s, f.name) for s in scores]) for f in fields(PairScores)}
    return PairScores(**{k: v.max(axis=0) if k in higher else v.min(axis=0) for k, v in stacked.items()})


def paired_bootstrap(a: Array, b: Array, n: int = 10000, seed: int = 0, level: float = 0.95) -> Interval:
    """Return the mean of `a - b` over the same requests with a percentile bootstrap interval.

    Args:
        a: `[K]` scores of the first router.
        b: `[K]` scores of the second, same requests in the same order.
        n: resamples of the K requests, with replacement.
        seed: of the resampling.
        level: coverage.

    Raises:
        UsageError: the two are not of one size, or empty.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise UsageError("scores must be two non-empty vectors of one size", field="a, b", value=(a.shape, b.shape))
    difference, generator = a - b, np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // len(a))
    means = [
        difference[generator.integers(0, len(a), (min(chunk, n - start), len(a)))].mean(axis=1)
        for start in range(0, n, chunk)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference.mean()), float(low), float(high), len(a))


def radius_km(trips: Trips) -> Array:
    """Return the radius of gyration `[n]` of each trip in km: root mean square distance of its points to their mean."""
    points, start = trips.network.middle[trips.segment], trips.ptr[:-1]
    size = np.diff(trips.ptr)
    mean = np.add.reduceat(points, start) / size[:, None]
    square = ((points - np.repeat(mean, size, axis=0)) ** 2).sum(axis=1)
    return np.sqrt(np.add.reduceat(square, start) / size) / 1e3


_CROWD: dict[str, Callable[[Trips], Array]] = {"distance": Trips.kilometres, "radius": radius_km}


def noise_floor(real: Trips, seed: int = 0) -> dict[str, float]:
    """Return what real trips score against other real trips: the level below which a figure means nothing.

    Divergences are of random halves (mean and standard deviation of 20); the local scores are of consecutive real trips
    whose ends share their 200 m cells, `pairs_floor` of them.
    """
    result: dict[str, float] = {"trips_floor": len(real) // 2}
    for name, measure in _CROWD.items():
        result |= {f"jsd_{name}{k}": v for k, v in halves_jsd(np.asarray(measure(real), dtype=float), seed).items()}
    lonlat = centroids(real.network)
    pairs = same_cells(real.lists(), Grid.around(lonlat).cells(lonlat))
    local = score_pairs(real, real, pairs).means()
    return result | {"pairs_floor": len(pairs)} | {f"{k}_floor": v for k, v in local.items()}


def evaluate(
    generated: Trips,
    real: Trips,
    protocol: str = "strict",
    *,
    pairs: str | NDArray[np.integer] = "index",
    box: str | tuple[float, float, float, float] | None = None,
    seed: int = 0,
) -> dict:
    """Judge generated trips against held-out real ones.

    Args:
        generated: the trips to judge.
        real: held-out real trips on the same network.
        protocol: "strict" (paired by request, network metres), or "hoser" (the published notebook, oddities kept).
        pairs: strict only: "index" (generated i answers the request of real i), "od" (equal first and last segment, the
            i-th with the i-th), or `[K, 2]` indices.
        box: hoser only: the city's grid box, see `evaluate_hoser`.
        seed: of the random halves of the noise floor.

    Returns:
        One flat dictionary: `pairs` matched, `od_reached` (share of pairs with the right first and last segment),
        `illegal` transitions, means of `PairScores`, kilometres of both, divergences, and the `*_floor` of each.

    Raises:
        UsageError: an unknown protocol or pairing, no trips, or sets that cannot be paired.
    """
    _check(generated, real, protocol)
    if protocol == "hoser":
        return evaluate_hoser(generated, real, box, seed)
    return _strict(generated, real, _pairing(generated, real, pairs)) | noise_floor(real, seed)


def _check(generated: Trips, real: Trips, protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise UsageError("unknown protocol", field="protocol", value=protocol, choices=PROTOCOLS)
    if not len(generated) or not len(real):
        raise UsageError("nothing to evaluate: no trips", field="generated" if not len(generated) else "real")
    if generated.network is not real.network and generated.network.n != real.network.n:
        raise UsageError("generated and real trips are on different networks", field="network",
                         value=(generated.network.name, real.network.name))  # fmt: skip


def _strict(generated: Trips, real: Trips, chosen: NDArray[np.integer] | None) -> dict:
    scores = score_pairs(generated, real, chosen)
    chosen = np.repeat(np.arange(len(real))[:, None], 2, axis=1) if chosen is None else chosen
    mine, theirs = generated.lists(), real.lists()
    reached = [mine[i][0] == theirs[j][0] and mine[i][-1] == theirs[j][-1] for i, j in chosen]
    result: dict = {"protocol": "strict", "generated": len(mine), "real": len(theirs), "pairs": len(chosen)}
    result |= {"od_reached": float(np.mean(reached)) if len(chosen) else float("nan"), "illegal": _illegal(generated)}
    for name, measure in _CROWD.items():
        value, truth = np.asarray(measure(generated), dtype=float), np.asarray(measure(real), dtype=float)
        result |= {f"{name}_km": float(value.mean()), f"{name}_km_real": float(truth.mean())}
        result[f"jsd_{name}"] = histogram_jsd(value, truth)
    return result | scores.means()


def _pairing(generated: Trips, real: Trips, pairs: str | NDArray[np.integer]) -> NDArray[np.integer] | None:
    if not isinstance(pairs, str):
        return pairs
    if pairs not in ("index", "od"):
        raise UsageError("unknown pairing", field="pairs", value=pairs, choices=("index", "od"))
    return None if pairs == "index" else od_pairs(generated.lists(), real.lists(), np.arange(real.network.n))


def _illegal(trips: Trips) -> int:
    inside = np.ones(max(len(trips.segment) - 1, 0), dtype=bool)
    inside[trips.ptr[1:-1] - 1] = False
    known = trips.network.transition(trips.segment[:-1], trips.segment[1:]) >= 0
    return int((inside & ~known).sum())


def route_shares(trips: Trips) -> Shares:
    """Return for each (origin, destination) the share of each distinct route among its trips."""
    table: dict[tuple[int, int], Counter[Route]] = defaultdict(Counter)
    for trip in trips.lists():
        table[int(trip[0]), int(trip[-1])][tuple(trip.tolist())] += 1
    return {od: {r: c / routes.total() for r, c in routes.items()} for od, routes in table.items()}


def uniform_shares(reference: Shares) -> Shares:
    """Return equal shares over the routes of `reference`: what a router without any idea of proportion would do."""
    return {od: dict.fromkeys(routes, 1.0 / len(routes)) for od, routes in reference.items()}


def share_distance(generated: Shares, reference: Shares) -> dict[tuple[int, int], float]:
    """Return the total variation of route shares for each pair of `reference`; 1 where nothing was generated.

    A reference that lists only its main routes (its shares sum to less than 1) counts all others as one route.
    """
    return {od: _variation(generated.get(od, {}), truth) for od, truth in reference.items()}


def _variation(mine: Mapping[Route, float], truth: Mapping[Route, float]) -> float:
    if not mine:
        return 1.0
    listed = sum(abs(mine.get(r, 0.0) - p) for r, p in truth.items())
    others = sum(p for r, p in mine.items() if r not in truth)
    return 0.5 * (listed + abs(others - max(0.0, 1.0 - sum(truth.values()))))


def share_floor(reference: Shares, n: int, repeats: int = 200, seed: int = 0) -> float:
    """Return the mean total variation of `n` draws per pair from `reference` itself: no router can be told below it."""
    generator, found = np.random.default_rng(seed), []
    for truth in reference.values():
        p = np.array(list(truth.values()))
        p = np.append(p, max(0.0, 1.0 - p.sum()))
        p = p / p.sum()
        drawn = generator.multinomial(n, p, size=repeats) / n
        found.append(0.5 * np.abs(drawn - p).sum(axis=1).mean())
    return float(np.mean(found))
