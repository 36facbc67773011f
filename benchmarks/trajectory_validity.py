"""Are all trips legal? Twenty thousand under random requests and closures; what cannot be is refused.

Each request closes a random share of Porto (0 to 8 % of all segments; every third also the 200 busiest), draws none,
one or two via points and eight random destinations among the segments that still reach each other, and for each one
eight random origins that need at most 120 segments by way of the via points (the budget is 320). Settings rotate over
requests: block 4, 8, 16; 1 or 2 steps; every solver; every joint law. What comes out is checked against the tables of
the network alone. One step per block is the cheapest setting, not the best one: legality must not depend on it, and
`trajectory_porto` measures quality.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from typing import Any

import numpy as np

from apps.trajectory.generate import TripModel
from apps.trajectory.limits import Rules
from apps.trajectory.whatif import close_busiest
from benchmarks._trips import legal, model, open_component, parts, random_requests, rounded, single
from benchmarks.harness import Bar, Result
from core.errors import InfeasibleError

__all__ = ["run"]

SEED = 3
ROWS = 64
FAR = 120
SETTINGS = (
    {"block": 8, "steps": 1, "solver": "confidence"},
    {"block": 8, "steps": 1, "solver": "ancestral", "mode": "reference"},
    {"block": 16, "steps": 1, "solver": "confidence"},
    {"block": 4, "steps": 1, "solver": "in-order"},
    {"block": 8, "steps": 2, "solver": "first-hitting"},
    {"block": 8, "steps": 1, "solver": "threshold", "mode": "product"},
)


def in_order(walk: np.ndarray, via: list[int]) -> bool:
    """Tell whether a walk meets the via points one after the other."""
    at = 0
    for point in via:
        hits = np.flatnonzero(walk[at:] == point)
        if not len(hits):
            return False
        at += int(hits[0])
    return True


def _closure(number: int, rng: np.random.Generator, ours: TripModel) -> np.ndarray:
    n = ours.network.n
    closed = rng.random(n) < rng.choice([0.0, 0.01, 0.03, 0.08])
    if number % 3 == 2:
        closed |= close_busiest(parts()[0], 200)
    return closed


def _ends(
    ours: TripModel, via: list[int], closed: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the origins and destinations of a request, eight by eight."""
    roads, inside = ours.fields.roads, open_component(ours.network, closed)
    first = roads.togo(np.array(via[:1]), closed) if via else None
    between = sum(int(roads.togo(np.array([b]), closed)[a]) for a, b in itertools.pairwise(via))
    origins, destinations = [], []
    while len(destinations) < ROWS:
        d = rng.choice(inside)
        last = roads.togo(np.array([d]), closed)
        need = last[inside] if first is None else first[inside] + between + last[via[-1]]
        near = inside[(need <= FAR) & (inside != d)]
        if len(near):
            origins += rng.choice(near, 8).tolist()
            destinations += [d] * 8
    return np.array(origins), np.array(destinations)


def _request(ours: TripModel, number: int, count: Counter[str]) -> float:
    """Draw and check the trips of one request; return the seconds of drawing."""
    rng = np.random.default_rng([SEED, number])
    closed = _closure(number, rng, ours)
    via = _vias(ours, number // len(SETTINGS) % 3, closed, rng)
    origin, destination = _ends(ours, via, closed, rng)
    rules = Rules(via=tuple((v,) for v in via), closed=closed)
    router = ours.obeying(rules).set(**SETTINGS[number % len(SETTINGS)], detour=float("inf"))
    began = time.perf_counter()
    trips = router.sample(origin, destination, seed=number, timed=False)
    seconds = time.perf_counter() - began
    count["trips"] += len(trips)
    count["illegal"] += len(trips) - legal(trips)
    count["closed"] += int(closed[trips.segment].sum())
    count["closed_segments_in_force"] += int(closed.sum())
    count["origin_missed"] += int((trips.origin != origin).sum())
    count["destination_missed"] += int((trips.destination != destination).sum())
    count["via_asked"] += len(via) * len(trips)
    count["via_missed"] += sum(not in_order(w, via) for w in trips.lists()) if via else 0
    count[f"segments_with_{len(via)}_via"] += len(trips.segment)
    count[f"trips_with_{len(via)}_via"] += len(trips)
    return seconds


def _vias(ours: TripModel, number: int, closed: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Return so many via points, not farther apart than half of what a trip may take."""
    inside = open_component(ours.network, closed)
    while True:
        via = [int(v) for v in rng.choice(inside, number, replace=False)]
        hops = [ours.fields.roads.togo(np.array([b]), closed)[a] for a, b in itertools.pairwise(via)]
        if sum(hops) <= FAR // 2:
            return via


def _impossible(ours: TripModel) -> list[tuple[str, Rules, int, int]]:
    """Requests that no trip can satisfy: (what is wrong, rules, origin, destination)."""
    network, rng = ours.network, np.random.default_rng([SEED, 99])
    out = []
    for _ in range(6):
        (o,), (d,) = random_requests(network, 1, rng)
        (v,), _ = random_requests(network, 1, rng)
        wall = np.zeros(network.n, bool)
        wall[network.pred[network.pred_ptr[d] : network.pred_ptr[d + 1]]] = True
        wall[o] = False
        here, there, middle = (np.zeros(network.n, bool) for _ in range(3))
        here[o], there[d], middle[v] = True, True, True
        hops = int(ours.fields.to(int(d)).hops[o])
        out += [
            ("origin closed", Rules(closed=here), o, d),
            ("destination closed", Rules(closed=there), o, d),
            ("destination cut off", Rules(closed=wall), o, d),
            ("via closed", Rules(via=((int(v),),), closed=middle), o, d),
            ("too few hops", Rules(max_hops=max(hops - 1, 1)), o, d),
            ("too few kilometres", Rules(max_km=0.05), o, d),
        ]
    return out


def _refusals(ours: TripModel) -> dict[str, Any]:
    seconds, messages, accepted = [], {}, 0
    for what, rules, o, d in _impossible(ours):
        router = ours.obeying(rules)
        began = time.perf_counter()
        try:
            router.sample(np.array([o]), np.array([d]), timed=False)
            accepted += 1
        except InfeasibleError as error:
            messages.setdefault(what, str(error))
        seconds.append(time.perf_counter() - began)
    return {
        "requests": len(seconds), "accepted": accepted, "max_seconds": max(seconds),
        "median_seconds": float(np.median(seconds)), "messages": messages,
    }  # fmt: skip


def run(full: bool) -> Result:
    """Draw 20,032 trips (100,032 when full) in requests of 64."""
    single()
    ours = model("porto")
    wanted, count = 100_000 if full else 20_000, Counter()
    count.update(dict.fromkeys(("illegal", "closed", "origin_missed", "destination_missed", "via_missed"), 0))
    seconds, number = 0.0, 0
    while count["trips"] < wanted:
        seconds += _request(ours, number, count)
        number += 1
    impossible = _refusals(ours)
    slowest = float("inf") if impossible["accepted"] else impossible["max_seconds"]
    figures = dict(count) | {
        "requests": number, "seconds": seconds,
        "milliseconds_per_trip": 1000 * seconds / count["trips"], "infeasible": impossible,
    }  # fmt: skip
    bars = [
        Bar("Porto under random rules: trips drawn", count["trips"], ">=", 20_000),
        Bar("Porto under random rules: trips with an illegal transition", count["illegal"], "==", 0),
        Bar("Porto under random rules: uses of closed segments", count["closed"], "==", 0),
        Bar("Porto under random rules: share that reach their destination",
            1 - (count["destination_missed"] + count["origin_missed"]) / count["trips"], "==", 1.0),
        Bar("Porto under random rules: share of via points reached in order",
            1 - count["via_missed"] / max(count["via_asked"], 1), "==", 1.0),
        Bar("Infeasible requests: slowest refusal (s; infinite if one was not refused)", slowest, "<", 1.0),
    ]  # fmt: skip
    notes = f"requests of {ROWS} trips; settings in turn: {'; '.join(str(s) for s in SETTINGS)}"
    return Result(rounded(figures), bars, {"seconds": "s, drawing only"}, seed=SEED, notes=notes)
