"""How fast? Block diffusion against the autoregressive twin with its cache, and against best-first search.

The requests are those of test trips, quality is the DTW of greedy trips to what was driven. Latency: one request at a
time. Throughput: 32 at a time. All decoders run in turn in one process on one thread, several times; ratios are of
medians. The search reads one prefix at a time by nature; both ratios to it are shown. Which block and how many steps:
the fastest of a few settings whose DTW on the validation trips is within 2 % of the twin's; the model's own default
stands beside it.
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
FAST = [(8, 1), (10, 1), (12, 1), (16, 1), (8, 2), (16, 2), (8, 4)]
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


def fast_setting(ours: TripModel, twin: Decode, valid: Trips) -> tuple[dict[str, int], dict[str, float]]:
    """Return the fastest setting that is as good as the twin on validation trips, and each setting's relative DTW."""
    target = score_pairs(twin(valid), valid).means()["dtw_km"]
    times, loss = {}, {}
    for block, steps in FAST:
        decode = _decoder(ours, block=block, steps=steps)
        decode(valid.select(slice(0, 2)))
        began = time.perf_counter()
        found = decode(valid)
        times[block, steps] = time.perf_counter() - began
        loss[block, steps] = score_pairs(found, valid).means()["dtw_km"] / target
    good = [k for k in FAST if loss[k] <= 1.02] or [min(loss, key=lambda k: loss[k])]
    block, steps = min(good, key=lambda k: times[k])
    return {"block": block, "steps": steps}, {f"block {b}, steps {s}": v for (b, s), v in loss.items()}


def _quality(decoders: dict[str, Decode], trips: Trips) -> dict[str, dict[str, float]]:
    out = {}
    for name, decode in decoders.items():
        found = decode(trips)
        means = score_pairs(found, trips).means()
        out[name] = {k: means[k] for k in ("dtw_km", "dtw_km_median", "hausdorff_km", "jaccard")}
        out[name]["reached"] = float((found.destination == trips.destination).mean())
        out[name]["segments"] = float(found.hops().mean())
    return out


def _decoders(ours: TripModel, twin: TripModel, valid: Trips) -> tuple[dict[str, Decode], BestFirst, dict[str, Any]]:
    """Return all decoders by name, the search (it counts), and how the model's setting was chosen."""
    search, greedy = BestFirst(twin), Greedy(twin)
    decoders: dict[str, Decode] = {
        "twin_greedy": lambda t: greedy.sample(t.origin, t.destination, t.depart),
        "twin_best_first": lambda t: search.sample(t.origin, t.destination, t.depart),
    }
    setting, chosen = fast_setting(ours, decoders["twin_greedy"], valid)
    decoders |= {"model": _decoder(ours, **setting), "model_default": _decoder(ours)}
    return decoders, search, {"setting": setting, "dtw_over_the_twins_on_validation": chosen}


def _ratios(latency: dict[str, float], batched: dict[str, float], name: str) -> dict[str, float]:
    """Return how many times faster a decoder is than the twin's two."""
    return {
        "greedy_latency": latency["twin_greedy"] / latency[name],
        "greedy_throughput": batched["twin_greedy"] / batched[name],
        "search_latency": latency["twin_best_first"] / latency[name],
        "search_throughput": latency["twin_best_first"] / batched[name],
    }


def run(full: bool) -> Result:
    """Time the requests of 64 test trips (all when full)."""
    single()
    ours, twin = model("porto"), model("porto-ar")
    _, valid, test = parts()
    trips, repeats = (test, 5) if full else (test.select(slice(0, 64)), 3)
    ours.batch = twin.batch = 32
    decoders, search, chosen = _decoders(ours, twin, valid)
    quality = _quality(decoders, trips)  # also compiles and warms everything
    effort = np.quantile([e.expansions for e in search.efforts], (0.5, 0.9, 1.0)).tolist()
    latency = _interleaved(decoders, trips, 1, repeats)
    batched = _interleaved({k: d for k, d in decoders.items() if k != "twin_best_first"}, trips, 32, repeats)
    times = {name: _ratios(latency, batched, name) for name in ("model", "model_default")}
    dtw = quality["model"]["dtw_km"] / quality["twin_greedy"]["dtw_km"]
    figures = chosen | {
        "times_the_twin": times,
        "trips_per_second_at_batch_32": {k: 1 / v for k, v in batched.items()},
        "milliseconds_per_trip_at_batch_1": {k: 1000 * v for k, v in latency.items()},
        "segments_per_second_at_batch_32": quality["model"]["segments"] / batched["model"],
        "dtw_over_the_greedy_twins": dtw,
        "quality": quality,
        "search_expansions": dict(zip(("median", "p90", "max"), effort, strict=True)),
        "steps_against_quality": _curve(ours, trips),
    }
    ours_times, claim = times["model"], "Trips per second over the greedy twin with its cache"
    bars = [
        Bar("Trips per second over best-first search, same encoder", times["model"]["search_throughput"], ">=", 10.0),
        Bar(f"{claim}, one request at a time", ours_times["greedy_latency"], ">=", 2.8),
        Bar(f"{claim}, 32 requests at a time", ours_times["greedy_throughput"], ">=", 2.8),
        Bar("DTW to driven trips over the greedy twin's", dtw, "<=", 1.02),
    ]
    cfg = ours.recipe.sample
    notes = (
        f"{len(trips)} test requests; model_default: block {cfg.block}, {cfg.steps} steps ({cfg.solver}); the search "
        "runs one request at a time, at most 5,000 expansions, and keeps encoded segments (the trunk rereads them)"
    )
    return Result(rounded(figures), bars, {"milliseconds_per_trip": "ms, one thread"}, seed=SEED, notes=notes)
