"""Does the matcher find the roads? Simulated GPS of known truth, and the real Porto taxis, on the Porto network.

Simulated: recursive logit trips, a fix every 15 s with Gaussian errors of 10 m; F1 of the segments driven (as a
multiset, over all trips) against the segments of the matched walks. Real: a trip counts as matched when at least 80 %
of its fixes near the network lie on a legal walk; trips outside the network and vehicles that never move count as
failures. Speed: all fixes of a set divided by the seconds of `match` (median of 3), the network's spatial index and
the compiled loops being ready.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.trajectory.data import Trips
from apps.trajectory.gps import GpsTrace, observe, read_gps
from apps.trajectory.logit import simulate
from apps.trajectory.matching import MatchResult, match
from apps.trajectory.network import RoadNetwork
from apps.trajectory.osm import from_osm
from benchmarks.harness import Bar, Result

__all__ = ["run", "segment_scores"]

PORTO = Path(__file__).resolve().parents[2] / "shared/data/trajectory/porto"
SEED = 11


def segment_scores(truth: Trips, result: MatchResult) -> tuple[float, float, float]:
    """Return F1, precision and recall of the segments driven, each counted as often as it is driven."""
    found: dict[str, Counter[int]] = {}
    for name, path in zip(result.trips.id, result.trips.lists(), strict=True):
        found.setdefault(name.split("/")[0], Counter()).update(path.tolist())
    both = driven = matched = 0
    for name, path in zip(truth.id, truth.lists(), strict=True):
        a, b = Counter(path.tolist()), found.get(name, Counter())
        both, driven, matched = both + (a & b).total(), driven + a.total(), matched + b.total()
    return 2 * both / (driven + matched), both / max(matched, 1), both / driven


def _timed(network: RoadNetwork, traces: Sequence[GpsTrace]) -> tuple[MatchResult, float]:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        result = match(network, traces)
        seconds.append(time.perf_counter() - began)
    return result, sum(map(len, traces)) / float(np.median(seconds))


def run(full: bool) -> Result:
    """Match 500 simulated trips (3,000 when full) and all real ones."""
    network = from_osm(PORTO / "porto_drive.osm.gz")
    truth = simulate(network, 3000 if full else 500, seed=SEED)
    traces, real = observe(truth, seed=SEED), read_gps(PORTO / "porto_taxi.csv.gz")
    match(network, traces[:3])
    simulated, rate = _timed(network, traces)
    f1, precision, recall = segment_scores(truth, simulated)
    taxis, real_rate = _timed(network, real)
    summary = taxis.summary()
    share = summary["matched"] / summary["traces"]
    illegal = len(simulated.trips.check()) + len(taxis.trips.check())
    figures = {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "simulated_points_per_second": rate,
        "real_matched_share": share,
        "real_points_per_second": real_rate,
        "illegal_steps": illegal,
        "real": summary,
    }
    bars = [
        Bar("Matcher: segment F1 on simulated GPS (10 m, 15 s)", f1, ">=", 0.97),
        Bar("Matcher: share of the real Porto trips matched", share, ">=", 0.95),
        Bar("Matcher: points per second after preparation", min(rate, real_rate), ">=", 1500.0),
        Bar("Matcher: illegal steps in its output", illegal, "==", 0),
    ]
    notes = f"{len(truth)} simulated trips; {summary['traces']} real traces of two fixes or more, none left out"
    return Result(figures, bars, {"points_per_second": "1/s, one process"}, seed=SEED, notes=notes)
