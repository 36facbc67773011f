"""The paper's method works: the eager policy gradient without a surrogate, its inverse, and aiming at a value."""

from __future__ import annotations

import numpy as np

from apps.nas.rewards import Negated, Queries, Target
from benchmarks._nas import COLUMNS, NB201, fresh, many, single, table
from benchmarks.harness import Bar, Result

QUERIES = 1000


def run(full: bool) -> Result:
    """Tune the policy from several seeds on each data set."""
    single()
    model, figures, bars, shares = fresh(), {}, [], []
    seeds = range(10 if full else 2)
    last = model.recipe.tune.queries

    def note(queries: Queries) -> None:
        shares.append(len({row for row, _ in queries.history[-last:]}) / last)

    for key, column in COLUMNS.items():
        reward = table(column)
        runs = many("policy", reward, NB201, QUERIES, seeds, model, note=note)
        figures[key] = float(np.mean([q.reached(reward.best()) is not None for q in runs]))
        bars.append(Bar(f"{key}: share of seeds at the optimum within {QUERIES} queries", figures[key], ">=", 0.9))
    figures["unique share of the last batch"] = min(shares)
    bars.append(Bar("least unique share of the last batch", min(shares), ">=", 0.2))
    reward = table("c10_test_200")
    inverse = many("policy", Negated(reward), NB201, QUERIES // 2, seeds, model)
    figures["inverse"] = float(np.median([-q.curve()[-1] for q in inverse]))
    bars.append(Bar("accuracy that the inverse control reaches, percent", figures["inverse"], "<=", 10.0))
    aims = [many("policy", Target(reward, v), NB201, QUERIES // 4, seeds, model) for v in (70.0, 85.0, 92.0)]
    late = [np.mean([v for _, v in q.history[-32:]]) for runs in aims for q in runs]
    figures["distance of the last 32 from the target"] = float(-np.mean(late))
    bars.append(Bar("mean distance of the last samples from a target accuracy", -float(np.mean(late)), "<=", 1.0))
    return Result(figures, bars, notes=f"{len(seeds)} seeds; 10 with --full. Real table, 200-epoch test accuracy.")
