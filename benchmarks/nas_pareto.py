"""Pareto: one preference-conditioned policy, one run of at most 300 queries, against the true fronts."""

from __future__ import annotations

import numpy as np
import torch

from apps.nas import pareto as fronts
from apps.nas.baselines import Field
from apps.nas.constraints import everything
from apps.nas.pareto import Front
from apps.nas.rewards import Queries, Table, columns, load
from benchmarks._nas import NB201, fresh, single, table
from benchmarks.harness import Bar, Result
from core.finetune.reward import Reward

QUERIES = 300


def latency() -> Table:
    """Return the measured latency on an edge GPU."""
    rows = columns("hw")
    values = {tuple(int(c) for c in code): float(r["c10_edgegpu_latency"]) for code, r in rows.items()}
    return Table("edge GPU ms", NB201, values)  # type: ignore[arg-type]


def run(full: bool) -> Result:
    """Search, and divide the area below what was found by the area below the true front."""
    single()
    model, reward, figures, bars = fresh(), table("c10_test_200"), {}, []
    x = torch.from_numpy(everything(NB201))
    costs: dict[str, Reward] = {"FLOPs": load("flops", NB201), "edge GPU latency": latency()}
    for name, cost in costs.items():
        values = torch.stack([reward.score(x), -cost.score(x)], 1)
        reference = torch.stack([values[:, 0].quantile(0.02), values[:, 1].min() - 1e-6])
        true = Front.of(x, values)
        shares, hears = [], []
        for seed in range(10 if full else 3):
            found, policy = fronts.search(model, Queries(reward), cost, Field(NB201, seed=seed), QUERIES)
            shares.append(found.volume(reference) / true.volume(reference))
            wish = torch.linspace(0, 1, 200)
            spent = cost.score(policy.sample(wish)).argsort(stable=True).argsort()
            hears.append(float(np.corrcoef(spent.numpy(), np.arange(len(wish)))[0, 1]))
        figures[name] = {"true front": len(true.x), "median share": float(np.median(shares)), "worst": min(shares),
                         "rank correlation of preference and cost of samples": float(np.median(hears))}  # fmt: skip
        bars.append(
            Bar(f"{name}: share of the true hypervolume, {QUERIES} queries", float(np.median(shares)), ">=", 0.98)
        )
    notes = "Reference: 2 % quantile of accuracy, greatest cost. Median of 3 seeds, 10 with --full; cost is known."
    return Result(figures, bars, notes=notes)
