"""How big? Lower Saxony's main roads, unsimplified, under the weights of Porto: memory and time per trip.

A fresh process reads the OSM file (no cache), embeds all segments, samples, and reports its own peak resident memory.
In the same process the same weights answer requests of the same number of hops in Porto: pairs of segments whose least
number of hops is between 45 and 55, one request at a time and 32 at a time, in turn; the ratio is of medians.
Unsimplified roads have long stretches without a choice, where a window is a single way; to be judged on its size and
not on its emptiness, the network without these stretches (simplified) and Porto unsimplified stand beside it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from apps.trajectory.generate import TripModel
from benchmarks._trips import legal, model, open_component, roads, rounded, single
from benchmarks.harness import ROOT, Bar, Result

__all__ = ["run"]

SEED = 23
HOPS = (45, 55)
ROWS = 32
CITIES = {
    "porto": ("porto/porto_drive", True),
    "lower_saxony": ("networks/niedersachsen_main_roads", False),
    "lower_saxony_simplified": ("networks/niedersachsen_main_roads", True),
    "porto_unsimplified": ("porto/porto_drive", False),
}


def requests(here: TripModel, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n origins and destinations that are `HOPS` apart at least, each pair from a destination of its own."""
    rng = np.random.default_rng(SEED)
    inside, origins, destinations = open_component(here.network), [], []
    for d in rng.permutation(inside):
        hops = here.fields.to(int(d)).hops
        fit = np.flatnonzero((hops >= HOPS[0]) & (hops <= HOPS[1]))
        if len(fit):
            origins.append(rng.choice(fit))
            destinations.append(d)
        if len(origins) == n:
            break
    here.fields.kept.clear()
    return np.array(origins), np.array(destinations)


def _seconds(here: TripModel, origin: np.ndarray, destination: np.ndarray, rows: int) -> float:
    """Seconds per trip, `rows` at a time, nothing kept from earlier requests."""
    here.fields.kept.clear()
    began = time.perf_counter()
    for a in range(0, len(origin), rows):
        here.sample(origin[a : a + rows], destination[a : a + rows], seed=SEED, timed=False)
    return (time.perf_counter() - began) / len(origin)


def _timings(places: dict[str, TripModel], asked: dict[str, Any], repeats: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[int, list[float]]] = {name: {1: [], ROWS: []} for name in places}
    for _ in range(repeats + 1):
        for name, here in places.items():
            for rows in (1, ROWS):
                origin, destination = asked[name]
                found[name][rows].append(_seconds(here, origin, destination, rows))
    return {n: {f"ms_at_batch_{r}": 1000 * float(np.median(t[1:])) for r, t in f.items()} for n, f in found.items()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def child(full: bool) -> dict[str, Any]:
    """Measure everything in this process: memory first, with the large network alone."""
    single()
    began = time.perf_counter()
    large = roads(*CITIES["lower_saxony"])
    prepared = {"seconds_to_read_and_prepare": time.perf_counter() - began, "gigabytes_after_preparing": _peak()}
    porto = model("porto")
    places = {"lower_saxony": porto.on(large)}
    asked = {"lower_saxony": requests(places["lower_saxony"], ROWS)}
    trips = places["lower_saxony"].sample(*asked["lower_saxony"], seed=SEED)
    prepared |= {"gigabytes_peak": _peak(), "illegal": len(trips) - legal(trips)}
    prepared["arrived"] = float((trips.destination == asked["lower_saxony"][1]).mean())
    for name in ("porto", "lower_saxony_simplified", "porto_unsimplified"):
        places[name] = porto.on(roads(*CITIES[name]))
        asked[name] = requests(places[name], ROWS)
    table = _timings(places, asked, 7 if full else 3)
    for name, here in places.items():
        drawn = here.sample(*asked[name], seed=SEED, timed=False)
        table[name] |= {"segments": here.network.n, "transitions": here.network.m, "hops": float(drawn.hops().mean())}
    return {"lower_saxony": prepared, "per_trip": table}


def run(full: bool) -> Result:
    """Start the process that measures, with an empty cache of networks."""
    model("porto")  # what is missing is said here, in one line
    script = f"import json; from benchmarks.trajectory_scale import child; print(json.dumps(child({full})))"
    with tempfile.TemporaryDirectory() as folder:
        known = os.environ | {"QUINTET_CACHE": folder}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=ROOT, env=known, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    large, table = found["lower_saxony"], found["per_trip"]
    names = [f"ms_at_batch_{r}" for r in (1, ROWS)]
    over = {n: {k: table[n][k] / table["porto"][k] for k in names} for n in table if n != "porto"}
    figures = found | {"time_per_trip_over_porto": over}
    bars = [
        Bar("Lower Saxony: peak memory of reading, preparing and sampling (GB)", large["gigabytes_peak"], "<", 6.0),
        Bar("Lower Saxony: time per trip of equal hops over Porto's (worse of batch 1 and 32)",
            max(over["lower_saxony"].values()), "<=", 1.5),
    ]  # fmt: skip
    notes = (
        f"155,722 directed edges in the file; {table['lower_saxony']['segments']:,} segments after keeping the largest "
        f"strongly connected part without U-turns; nothing is simplified; {ROWS} requests of {HOPS[0]} to {HOPS[1]} "
        "least hops in each network, sampling defaults of the model, no to-go table kept between runs"
    )
    return Result(rounded(figures), bars, {"gigabytes": "GiB"}, seed=SEED, notes=notes)
