"""Another city: weights trained on Porto drive in Monaco, without retraining.

Truth in Monaco is simulated by the recursive logit with the parameters of maximum likelihood on Porto's training trips:
the law that the weights have learned from, on roads that they have never seen (the logit's default parameters stand
beside it). The model's most likely trip and the shortest path answer the request of every simulated trip.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from apps.trajectory.baselines import Fastest, Shortest, cheapest
from apps.trajectory.data import Trips
from apps.trajectory.generate import TripModel
from apps.trajectory.logit import Parameters, RecursiveLogit, simulate
from apps.trajectory.metrics import score_pairs
from apps.trajectory.traffic import period
from benchmarks._trips import cut, fitted, gain, legal, model, parts, roads, rounded, single
from benchmarks.harness import Bar, Result

__all__ = ["run"]

SEED = 17


def _compare(abroad: TripModel, truth: Trips, parameters: Parameters) -> dict[str, Any]:
    """Local metrics of every router, gains over the shortest path, and nats per trip."""
    request = truth.origin.astype(np.int64), truth.destination.astype(np.int64), truth.depart
    again = simulate_pairs(truth, parameters)
    answers = {
        "most_likely": abroad.most_likely(*request, seed=SEED, draws=8),
        "one_sample": abroad.sample(*request, seed=SEED),
        "shortest": Shortest(truth.network).sample(*request),
        "fastest": Fastest(truth.network).sample(*request),
        "another_draw_from_the_truth": again,
        "likeliest_path_of_the_truth": likeliest(truth, parameters),
    }
    scores = {name: score_pairs(trips, truth) for name, trips in answers.items()}
    return {
        "routers": {k: v.means() for k, v in scores.items()},
        "most_likely_against_shortest": gain(scores["most_likely"], scores["shortest"]),
        "most_likely_against_fastest": gain(scores["most_likely"], scores["fastest"]),
        "nats_per_trip": {
            "model_exact_block_1": float(abroad.nll(truth).mean()),
            "truth": float(-RecursiveLogit(truth.network, parameters).log_probs(truth).mean()),
        },
        "illegal": sum(len(answers[k]) - legal(answers[k]) for k in ("most_likely", "one_sample")),
        "trips": len(truth),
    }


def simulate_pairs(truth: Trips, parameters: Parameters) -> Trips:
    """Return another draw from the true law for every request: what a perfect sampler would score."""
    law = RecursiveLogit(truth.network, parameters)
    n = np.arange(len(truth))
    walks = law.walks(truth.origin.astype(np.int64), truth.destination.astype(np.int64), truth.depart, SEED + 1, n)
    return Trips.from_lists(truth.network, walks, truth.depart)


def likeliest(truth: Trips, parameters: Parameters) -> Trips:
    """Return the path of greatest probability under the true law for every request: the best that one answer can do."""
    law, walks = RecursiveLogit(truth.network, parameters), [np.empty(0, np.int32)] * len(truth)
    when = period(truth.depart)
    for p in np.unique(when):
        rows = np.flatnonzero(when == p)
        ends = truth.origin[rows].astype(np.int64), truth.destination[rows].astype(np.int64)
        for row, walk in zip(rows, cheapest(truth.network, -law.at(int(p)).utility, *ends), strict=True):
            walks[row] = walk
    return Trips.from_lists(truth.network, walks, truth.depart)


def run(full: bool) -> Result:
    """Judge 300 simulated trips in Monaco (1,500 when full)."""
    single()
    network = roads("networks/monaco_drive")
    abroad = model("porto").on(network)
    laws = {"fitted_on_porto": fitted(parts()[0]), "default_parameters": Parameters()}
    found = {}
    for name, parameters in laws.items():
        truth, _ = cut(simulate(network, 1500 if full else 300, seed=SEED, parameters=parameters))
        found[name] = _compare(abroad, truth, parameters)
    main = found["fitted_on_porto"]
    closer = sum(v["mean"] > 0 for v in main["most_likely_against_shortest"].values())
    sure = sum(v["low"] > 0 for v in main["most_likely_against_shortest"].values())
    figures = found | {"metrics_closer": closer, "metrics_closer_with_95_percent": sure}
    bars = [
        Bar("Porto's weights in Monaco: illegal trips", sum(f["illegal"] for f in found.values()), "==", 0),
        Bar(
            "Porto's weights in Monaco: metrics closer to simulated truth than the shortest path, of 4", closer, ">=", 3
        ),
    ]
    notes = (
        f"{network.n} segments, {main['trips']} simulated trips; the bars are judged on the law fitted on Porto's "
        "training trips, from which the weights were pre-trained"
    )
    return Result(rounded(figures), bars, {"nats_per_trip": "nats"}, seed=SEED, notes=notes)
