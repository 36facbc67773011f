"""Beyond the training data: pretrained only below a threshold, tuned, and how many samples cross it.

On NAS-Bench-201 the threshold is that of the published experiment, 85 % validation accuracy; on our digits table of
NAS-Bench-101 cells with at most five nodes, where edges vary, it is the accuracy that 7 % of the cells stay below. The
same search, from a model that was pretrained on everything, is what the best cell is compared with. Nothing was chosen
on these runs: the settings are the recipe's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from apps.nas.baselines import Field
from apps.nas.constraints import everything
from apps.nas.generate import CellModel
from apps.nas.rewards import Queries, load
from apps.nas.search import Policy
from apps.nas.space import Space
from apps.nas.space import load as load_space
from apps.nas.table import unique
from apps.nas.task import keys, make
from benchmarks._nas import single
from benchmarks.harness import Bar, Result
from core.errors import DataError
from core.run.config import load_recipe

QUERIES, SAMPLES = 600, 300


def pretrained(space: Space, reward: str, below: float, steps: int) -> tuple[CellModel, torch.Tensor]:
    """Train on what stays below the threshold (0: on everything)."""
    changes = [f"data.reward={reward}", f"data.below={below}"] if below else []
    recipe = load_recipe("nas", "toy", [*changes, f"data.space={space.name}"])
    task = make(recipe)
    torch.manual_seed(0)
    net = task.module()
    adam = torch.optim.AdamW(net.parameters(), 2e-3)
    for step in range(steps):
        loss, _ = task.loss(net, task.batch(step, 0, 1), step)
        adam.zero_grad()
        loss.backward()
        adam.step()
    cells = torch.from_numpy(everything(space)) if task.cells is None else task.cells
    return CellModel(net, recipe, space, task.process, "filtered"), cells


def measured(space: Space, name: str, below: float, steps: int, seeds: range) -> dict[str, Any]:
    """Return what the filtered and the unfiltered model reach, means over seeds, and what the first one was taught."""
    reward = load(name, space)
    figures: dict[str, Any] = {}
    for label, level in (("filtered", below), ("unfiltered", 0.0)):
        model, cells = pretrained(space, name, level, steps)
        best, crossing, before = [], [], float((reward.score(model.sample(SAMPLES, seed=7).x) > below).double().mean())
        for seed in seeds:
            queries = Queries(reward)
            tuner = Policy(model, model.recipe.tune)(queries, Field(space, seed=seed), QUERIES)
            best.append(float(queries.curve()[-1]))
            crossing.append(float((reward.score(tuner.sample(SAMPLES)) > below).double().mean()))
        figures[label] = {"cells": len(cells), "classes": len(keys(space, cells)), "best": float(np.mean(best)),
                          "highest in training": float(reward.score(cells).max()), "crossing before": before,
                          "crossing": float(np.mean(crossing))}  # fmt: skip
        if level:
            known = keys(space, cells[reward.score(cells) >= below])
            figures["cells above in training"] = int((reward.score(cells) >= below).sum())
            figures["classes above in training"] = len(known)
    return figures


def run(full: bool) -> Result:
    """Measure NB201, and NB101 where the digits table has all of it."""
    single()
    steps, seeds = (1000, range(5)) if full else (200, range(2))
    tasks: dict[str, tuple[Space, str, float]] = {"NB201": (load_space("nb201"), "nb201:c10_val_200_s777", 85.0)}
    small, missing = load_space("nb101-5"), ""
    try:
        digits = load("digits:valid", small)
        values = np.array(list(digits.values.values()))  # type: ignore[attr-defined]
        if len(values) == len(unique(small)):
            tasks["digits-NB101"] = small, "digits:valid", float(np.quantile(values, 0.07))
        else:
            missing = f"Digits-NB101 is missing: its table has {len(values)} of {len(unique(small))} classes. "
    except DataError:
        missing = "Digits-NB101 is missing: its table is not computed yet. "
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    for label, (space, reward, below) in tasks.items():
        found = {**measured(space, reward, below, steps, seeds), "threshold": below}
        figures[label] = found
        gap = found["unfiltered"]["best"] - found["filtered"]["best"]
        bars += [
            Bar(f"{label}: cells in training at or above the threshold", found["cells above in training"], "==", 0),
            Bar(f"{label}: share of tuned samples that cross it", found["filtered"]["crossing"], ">=", 0.95),
            Bar(f"{label}: points below the unfiltered run's best", gap, "<=", 0.32),
        ]
    notes = f"{missing}{len(seeds)} seeds, 5 with --full; {QUERIES} queries; NB201: CIFAR-10 validation of seed 777."
    return Result(figures, bars, notes=notes)
