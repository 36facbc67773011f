"""Beyond the training data: pretrained only below a threshold, tuned, and how many samples cross it."""

from __future__ import annotations

import numpy as np
import torch

from apps.nas.baselines import Field
from apps.nas.generate import CellModel
from apps.nas.rewards import Queries
from apps.nas.search import Tuner, method
from apps.nas.task import keys, make
from benchmarks._nas import NB201, single, table
from benchmarks.harness import Bar, Result
from core.run.config import load_recipe

BELOW, QUERIES = 85.0, 1000


def pretrained(below: float, steps: int) -> tuple[CellModel, torch.Tensor]:
    """Train on what stays below the threshold (0: on everything)."""
    changes = ["data.reward=nb201:c10_val_200_s777", f"data.below={below}"] if below else []
    recipe = load_recipe("nas", "nb201", [*changes, "data.batch=128"])
    task = make(recipe)
    torch.manual_seed(0)
    net = task.module()
    adam = torch.optim.AdamW(net.parameters(), 2e-3)
    for step in range(steps):
        loss, _ = task.loss(net, task.batch(step, 0, 1), step)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert task.cells is not None
    return CellModel(net, recipe, NB201, task.process, "filtered"), task.cells


def run(full: bool) -> Result:
    """Tune both models on the validation column; only the filtered one must cross the threshold."""
    single()
    reward, best, figures = table("c10_val_200_s777"), {}, {}
    for name, below in (("filtered", BELOW), ("unfiltered", 0.0)):
        model, cells = pretrained(below, 1000 if full else 200)
        score = reward.score(cells)
        queries, field = Queries(reward), Field(NB201, seed=0)
        tuner = method("policy", model)(queries, field, QUERIES if full else 300)
        assert isinstance(tuner, Tuner)
        late = reward.score(tuner.sample(300))
        best[name] = float(queries.curve()[-1])
        figures[name] = {"cells": len(cells), "highest in training": float(score.max()), "best": best[name],
                         "crossing": float((late > BELOW).double().mean())}  # fmt: skip
        if below:
            above = {tuple(r) for r, v in reward.values.items() if v >= BELOW}  # type: ignore[misc]
            figures["cells above in training"] = sum(tuple(r) in above for r in cells.tolist())
            figures["classes in training"] = len(keys(NB201, cells))
    bars = [
        Bar("cells in training at or above the threshold", figures["cells above in training"], "==", 0),
        Bar("share of tuned samples that cross the threshold", figures["filtered"]["crossing"], ">=", 0.95),
        Bar("points below the unfiltered run's best", best["unfiltered"] - best["filtered"], "<=", 0.32),
    ]
    notes = (
        "NB201, CIFAR-10 validation accuracy of seed 777. Digits-NB101 is missing here: its table is being computed."
    )
    return Result(plain(figures), bars, notes=notes)


def plain(figures: dict) -> dict:
    """Return figures as plain numbers."""
    return {k: (np.asarray(v).item() if not isinstance(v, dict) else v) for k, v in figures.items()}
