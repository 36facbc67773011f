"""What do the parts do? The shipped `toy` (Burgers around a hole) trained without one of them at a time.

PhyMPGN+ without second order in time (Euler), without second derivatives as inputs, without any, with the cotangent
operators of low order, and without the known diffusion; and the paper's network at width 32 with two rounds, without
its Laplace block, its padding, and second order. Same data, windows, noise and number of steps in a family; each is
judged on the recipe's four test trajectories by the mean square error over nodes and states after the first. One seed
and few steps (`STEPS`): differences of some ten per cent say nothing, and the paper's network is far from converged.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps import pde
from apps.pde.data import Splits, splits
from apps.pde.model import Recipe
from apps.pde.task import FieldTask
from benchmarks.harness import Bar, Result
from core.run.config import load_recipe
from core.run.train import train

__all__ = ["run"]

STEPS = {"plus": 60, "phympgn": 40}
PLUS = {
    "plus": (),
    "plus_euler": ("model.integrator=euler",),
    "plus_first_derivatives": ("model.inputs=1",),
    "plus_no_derivatives": ("model.inputs=0",),
    "plus_low_order_operators": ("model.operators=cotangent",),
    "plus_nothing_known": ("model.knowledge=none",),
}
PAPERS = ("model.kind=phympgn", "model.operators=cotangent", "model.width=32", "model.rounds=2",
          "model.checkpoint=false", "optim.lr=1e-3", "batch=2")  # fmt: skip
PHYMPGN = {
    "phympgn": PAPERS,
    "phympgn_plain_laplacian": (*PAPERS, "model.laplace=plain"),
    "phympgn_no_padding": (*PAPERS, "model.padding=false"),
    "phympgn_neither": (*PAPERS, "model.laplace=plain", "model.padding=false"),
    "phympgn_euler": (*PAPERS, "model.integrator=euler"),
}


def trained(words: tuple[str, ...], steps: int, data: Splits) -> float:
    """Train a variant of the toy and return its mean square error on the tests; infinite where it blew up."""
    recipe: Recipe = load_recipe("pde", "toy", [*words, f"trainer.steps={steps}", f"trainer.validate_every={steps}",
                                                f"trainer.checkpoint_every={steps}", "trainer.ema=0.9"])  # fmt: skip
    task = FieldTask(recipe, data)
    with tempfile.TemporaryDirectory() as folder:
        train(task, app="pde", config=dataclasses.asdict(recipe), trainer=recipe.trainer, optim=recipe.optim,
              logger=recipe.logger, out=Path(folder) / "run")  # fmt: skip
        model = pde.load(Path(folder) / "run" / "model")
    states = data.test.states
    out = model.rollouts(states[:, 0], states.shape[1] - 1, data.test.parameters)
    value = float(np.square(out[:, 1:] - states[:, 1:], dtype=np.float64).mean())
    return value if np.isfinite(value) else float("inf")


def run(full: bool) -> Result:
    """Run the benchmark."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    toy: Recipe = load_recipe("pde", "toy")
    data = splits(toy.data, toy.seed)
    for family, kinds in (("plus", PLUS), ("phympgn", PHYMPGN)):
        for name, words in kinds.items():
            figures[name] = trained(words, STEPS[family] * (3 if full else 1), data)
    bars = [Bar(f"{name}: error over that with nothing left out", v / figures[name.split("_")[0]], ">=", 1.0)
            for name, v in figures.items() if "_" in name]  # fmt: skip
    notes = "At least 1: the part that is left out helps. One seed; see the module for what is the same for all."
    paper = {"full": 3.56e-2, "no_laplace_block": 1.57e-1, "no_padding": 1.06e-1, "neither": 2.50e-1}
    return Result(figures, bars, {"*": "mean square error"}, {"paper_wake_re_440_520": paper}, notes=notes)
