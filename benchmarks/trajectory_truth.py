"""Right proportions: the toy model on the synthetic city, whose law of trips is known exactly.

Trips follow a recursive logit with the recipe's parameters. Requests (origin, destination, departure) come from a seed
that training never used. With H the exact entropy of a request and  p  the exact law,

    cross-entropy of the model = mean H + mean( nll(trip) + log p(trip) ),

the second mean being an estimate of the divergence whose noise is far below that of mean nll alone. Route shares: for
requests whose ten likeliest routes hold at least 70 % of the mass and at least two of them 10 % each, the model's
shares among n samples against the exact ones, all other routes counted as one; beside it, n draws from the exact law
(floor), and the same routes with equal shares (uniform).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from apps.trajectory.data import Trips
from apps.trajectory.generate import TripModel
from apps.trajectory.logit import Parameters, RecursiveLogit, simulate
from apps.trajectory.metrics import share_distance, share_floor, uniform_shares
from benchmarks._trips import cut, model, rounded, single
from benchmarks.harness import Bar, Result

__all__ = ["run"]

SEED = 20_001
ROUTES = 10
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "one site a step, random order": {"steps": 64, "solver": "first-hitting"},
    "block 1": {"block": 1, "steps": 1},
    "one step": {"steps": 1},
}


@dataclass(frozen=True)
class Pair:
    """A request of known law: its main routes with their exact probabilities, and its entropy."""

    origin: int
    destination: int
    depart: float
    routes: dict[tuple[int, ...], float]
    entropy: float


def known_pairs(law: RecursiveLogit, held: Trips, wanted: int) -> list[Pair]:
    """Return requests with enough mass on few routes (see the module)."""
    out = []
    for o, d, t in zip(held.origin.tolist(), held.destination.tolist(), held.depart.tolist(), strict=True):
        found = Counter(tuple(p.tolist()) for p in law.sample(o, d, 2000, SEED, t))
        exact = {r: float(np.exp(law.log_prob(np.array(r), t))) for r, _ in found.most_common(3 * ROUTES)}
        best = dict(sorted(exact.items(), key=lambda item: -item[1])[:ROUTES])
        mass = list(best.values())
        if sum(mass) >= 0.7 and len(mass) > 1 and mass[1] >= 0.1:
            out.append(Pair(o, d, t, best, law.entropy(o, d, t)))
        if len(out) == wanted:
            break
    return out


def _shares(ours: TripModel, pairs: list[Pair], n: int) -> dict[str, float]:
    """Mean, median and largest total variation over the pairs."""
    found = []
    for pair in pairs:
        one = np.full(n, pair.origin), np.full(n, pair.destination), np.full(n, pair.depart)
        trips = ours.sample(*one, seed=SEED, timed=False)
        drawn = Counter(tuple(w.tolist()) for w in trips.lists())
        key = (pair.origin, pair.destination)
        shares = {route: count / n for route, count in drawn.items()}
        found.append(share_distance({key: shares}, {key: pair.routes})[key])
    return {"mean": float(np.mean(found)), "median": float(np.median(found)), "max": max(found)}


def _entropies(ours: TripModel, law: RecursiveLogit, held: Trips, draws: int) -> dict[str, float]:
    """Cross-entropies of the model beside the exact entropy, nats per trip."""
    requests = zip(held.origin.tolist(), held.destination.tolist(), held.depart.tolist(), strict=True)
    exact = np.array([law.entropy(o, d, t) for o, d, t in requests])
    true, block = -law.log_probs(held), ours.recipe.sample.block
    out = {"entropy": float(exact.mean()), "true_nll_of_the_trips": float(true.mean()), "block": block}
    for name, nll in (("bound", ours.nll(held, block, draws=draws)), ("exact_block_1", ours.nll(held, 1))):
        out[f"{name}_nll"] = float(nll.mean())
        out[f"{name}_cross_entropy"] = float(exact.mean() + (nll - true).mean())
        out[f"{name}_over_entropy"] = out[f"{name}_cross_entropy"] / out["entropy"]
        out[f"{name}_standard_error"] = float((nll - true).std() / np.sqrt(len(nll))) / out["entropy"]
    return out


def run(full: bool) -> Result:
    """Judge 1,500 held-out trips and 16 pairs with 1,000 samples each (40 pairs with 4,000 when full)."""
    single()
    ours = model("toy")
    network, parameters = ours.network, Parameters()
    law = RecursiveLogit(network, parameters)
    held, _ = cut(simulate(network, 1500, seed=SEED, parameters=parameters, max_hops=ours.recipe.data.max_hops))
    entropies = _entropies(ours, law, held, 8)
    count, n = (40, 4000) if full else (16, 1000)
    pairs = known_pairs(law, held, count)
    reference = {(p.origin, p.destination): p.routes for p in pairs}
    shares = {name: _shares(ours.set(**setting), pairs, n) for name, setting in SETTINGS.items()}
    equal = share_distance(uniform_shares(reference), reference)
    figures = {"entropies": entropies, "total_variation": shares, "pairs": len(pairs), "samples_per_pair": n}
    peers = {
        "sampling_floor": share_floor(reference, n), "uniform_over_routes": float(np.mean(list(equal.values()))),
        "mass_on_the_listed_routes": float(np.mean([sum(p.routes.values()) for p in pairs])),
        "entropy_of_the_pairs": float(np.mean([p.entropy for p in pairs])),
    }  # fmt: skip
    bars = [
        Bar("Known law: NELBO over the exact entropy", entropies["bound_over_entropy"], "<=", 1.05),
        Bar("Known law: mean total variation of route shares", shares["default"]["mean"], "<=", 0.10),
    ]
    notes = (
        f"{len(held)} held-out trips (origins, destinations and departures of another seed); settings: "
        f"{ours.recipe.sample}; parameters of the law: the defaults, as in the recipe"
    )
    return Result(rounded(figures), bars, {"entropies": "nats per trip"}, rounded(peers), SEED, notes)
