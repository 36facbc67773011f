"""How fast? Block diffusion against the autoregressive twin with its cache, and against best-first search.

The requests are those of test trips, quality is the DTW of greedy trips to what was driven. Latency: one request at a
time. Throughput: 32 at a time. All decoders run in turn in one process on one thread, several times; ratios are of
medians. The search reads one prefix at a time by nature; both ratios to it are shown. The bar's ratio to the greedy
twin is the less favourable of latency and throughput.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from apps.trajectory.data import Trips
from apps.trajectory.generate import TripModel
from apps.trajectory.metrics import score_pairs
from apps.trajectory.search import BestFirst, Greedy
from benchmarks._trips import model, parts, rounded, single
from benchmarks.harness import Bar, Result

__all__ = ["run"]

SEED = 7
CURVE = [(8, s) for s in (1, 2, 4, 8)] + [(16, s) for s in (1, 2, 4, 8, 16)] + [(32, s) for s in (1, 2, 4, 8, 16, 32)]

Decode = Callable[[Trips], Trips]


def _decoder(ours: TripModel, **settings: Any) -> Decode:
    router = ours.set(**settings)
    return lambda t: router.sample(t.origin, t.destination, t.depart, SEED, greedy=True, timed=False)


def _latencies(decode: Decode, trips: Trips) -> np.ndarray:
    """Seconds of each request on its own."""
    out = []
    for i in range(len(trips)):
        one = trips.select([i])
        began = time.perf_counter()
        decode(one)
        out.append(time.perf_counter() - began)
    return np.array(out)


def _interleaved(decoders: dict[str, Decode], trips: Trips, rows: int, repeats: int) -> dict[str, float]:
    """Median seconds per trip of each decoder, `rows` requests at a time, the decoders taking turns."""
    found: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(repeats):
        for name, decode in decoders.items():
            if rows == 1:
                found[name].append(float(_latencies(decode, trips).mean()))
                continue
            began = time.perf_counter()
            for a in range(0, len(trips), rows):
                decode(trips.select(slice(a, a + rows)))
            found[name].append((time.perf_counter() - began) / len(trips))
    return {name: float(np.median(seconds)) for name, seconds in found.items()}


def _curve(ours: TripModel, trips: Trips) -> dict[str, dict[str, float]]:
    """Quality and throughput of greedy trips, and quality of one sample, by block and steps."""
    out = {}
    for block, steps in CURVE:
        decode = _decoder(ours, block=block, steps=steps)
        decode(trips.select(slice(0, 2)))
        began = time.perf_counter()
        greedy = decode(trips)
        seconds = (time.perf_counter() - began) / len(trips)
        router = ours.set(block=block, steps=steps)
        drawn = router.sample(trips.origin, trips.destination, trips.depart, SEED, timed=False)
        best, one = score_pairs(greedy, trips).means(), score_pairs(drawn, trips).means()
        out[f"block {block}, steps {steps}"] = {
            "milliseconds_per_trip": 1000 * seconds, "greedy_dtw_km": best["dtw_km"], "greedy_jaccard": best["jaccard"],
            "sample_dtw_km": one["dtw_km"], "sample_jaccard": one["jaccard"],
        }  # fmt: skip
    return out


def _quality(decoders: dict[str, Decode], trips: Trips) -> dict[str, dict[str, float]]:
    out = {}
    for name, decode in decoders.items():
        found = decode(trips)
        means = score_pairs(found, trips).means()
        out[name] = {k: means[k] for k in ("dtw_km", "dtw_km_median", "hausdorff_km", "jaccard")}
        out[name]["reached"] = float((found.destination == trips.destination).mean())
        out[name]["segments"] = float(found.hops().mean())
    return out


def run(full: bool) -> Result:
    """Time the requests of 64 test trips (all when full)."""
    single()
    ours, twin = model("porto"), model("porto-ar")
    test = parts()[2]
    trips = test if full else test.select(slice(0, 64))
    search = BestFirst(twin)
    greedy = Greedy(twin)
    ours.batch = twin.batch = 32
    cfg = ours.recipe.sample
    decoders: dict[str, Decode] = {
        "model": _decoder(ours),
        "twin_greedy": lambda t: greedy.sample(t.origin, t.destination, t.depart),
        "twin_best_first": lambda t: search.sample(t.origin, t.destination, t.depart),
    }
    quality = _quality(decoders, trips)  # also compiles and warms everything
    expansions = np.array([e.expansions for e in search.efforts])
    latency = _interleaved(decoders, trips, 1, 5 if full else 3)
    batched = _interleaved({k: decoders[k] for k in ("model", "twin_greedy")}, trips, 32, 5 if full else 3)
    to_search = latency["twin_best_first"] / batched["model"]
    both = {"latency": latency, "throughput": batched}
    to_greedy = {name: table["twin_greedy"] / table["model"] for name, table in both.items()}
    dtw = quality["model"]["dtw_km"] / quality["twin_greedy"]["dtw_km"]
    figures = {
        "trips_per_second_at_batch_32": {k: 1 / v for k, v in batched.items()},
        "milliseconds_per_trip_at_batch_1": {k: 1000 * v for k, v in latency.items()},
        "segments_per_second_at_batch_32": quality["model"]["segments"] / batched["model"],
        "times_the_greedy_twin": to_greedy, "times_the_search": {
            "throughput_over_its_own": to_search, "latency": latency["twin_best_first"] / latency["model"]},
        "dtw_over_the_greedy_twins": dtw, "quality": quality, "steps_against_quality": _curve(ours, trips),
        "search_expansions": dict(zip(("median", "p90", "max"), np.quantile(expansions, (0.5, 0.9, 1.0)), strict=True)),
    }  # fmt: skip
    bars = [
        Bar("Trips per second over best-first search with the same encoder", to_search, ">=", 10.0),
        Bar("Trips per second over the greedy autoregressive twin with its cache (less of batch 1 and 32)",
            min(to_greedy.values()), ">=", 2.8),
        Bar("DTW to driven trips over the greedy autoregressive twin's", dtw, "<=", 1.02),
    ]  # fmt: skip
    notes = (
        f"{len(trips)} test requests, block {cfg.block}, {cfg.steps} steps ({cfg.solver}); the search runs one request "
        "at a time, at most 5,000 expansions, and keeps encoded segments (only the trunk reads the prefix again)"
    )
    return Result(rounded(figures), bars, {"milliseconds_per_trip": "ms, one thread"}, seed=SEED, notes=notes)
