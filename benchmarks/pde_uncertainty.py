"""Do ensembles say how sure they are? Coverage of 90 % intervals and spread over error, on trajectories nobody saw.

Members differ by perturbed tendencies (`apps/pde/ensemble.py`), whose size, reach, memory and floor are found on the
validation trajectories alone. Judged on the test trajectories, pooled over states, nodes and fields. The shipped `toy`
(Burgers around a hole) and, with --full, Burgers A (`runs/pde/burgers-0`).

A refiner head is not built and so not kept; the state sampler awaits the wakes of the cylinder: both are missed bars.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from apps import pde
from apps.pde import ensemble, metrics
from apps.pde.data import Splits, splits
from apps.pde.generate import FieldModel
from benchmarks import _pde
from benchmarks.harness import Bar, Result

__all__ = ["run"]

MEMBERS, FRAMES = 32, 20


def judge(model: FieldModel, data: Splits) -> dict[str, Any]:
    """Return coverage, spread over error and CRPS, beside those of members that differ in their starts alone."""
    test, stride = data.test, model.recipe.stride
    steps = (test.states.shape[1] - 1) // stride
    every = max(1, steps // FRAMES)
    truth = test.states[:, :: stride * every][:, 1 : steps // every + 1]
    found = ensemble.calibrate(model.net, data.valid, stride=stride)
    start = torch.from_numpy(test.states[:, 0])
    out: dict[str, Any] = {"sigma": found.tendency, "rings": found.rings, "memory": found.memory, "floor": found.floor}
    for label, spread in (("", found), ("noisy_starts_", ensemble.Spread(start=0.02))):
        own = ensemble.members(model.net, start, steps, spread, MEMBERS, 0, every=every, stride=stride)
        own = own[:, :, 1:].swapaxes(0, 1)
        out[f"{label}coverage"] = metrics.coverage(own, truth)
        out[f"{label}spread_skill"] = metrics.spread_skill(own, truth)
        out[f"{label}crps"] = metrics.crps(own, truth)
    out["mean_absolute_error_of_one_rollout"] = float(np.abs(alone(model, start, steps, every, stride) - truth).mean())
    return out


def alone(model: FieldModel, start: torch.Tensor, steps: int, every: int, stride: int) -> np.ndarray:
    """Return the undisturbed roll-out at the states that are judged."""
    still = ensemble.members(model.net, start, steps, ensemble.Spread(), 1, 0, every=every, stride=stride)
    return still[:, 0, 1:]


def run(full: bool) -> Result:
    """Run the benchmark."""
    torch.set_num_threads(1)
    toy = pde.load("toy")
    figures = {"toy": judge(toy, splits(toy.recipe.data, toy.recipe.seed))}
    model, data = (_pde.model("burgers-0"), _pde.kept("burgers")) if full else (None, None)
    if model is not None and data is not None:
        figures["burgers_a"] = judge(model, data)
    bars = []
    for name, found in figures.items():
        bars += [Bar(f"{name}: coverage of 90 % intervals, at least", found["coverage"], ">=", 0.87),
                 Bar(f"{name}: coverage of 90 % intervals, at most", found["coverage"], "<=", 0.93),
                 Bar(f"{name}: spread over error, at least", found["spread_skill"], ">=", 0.9),
                 Bar(f"{name}: spread over error, at most", found["spread_skill"], "<=", 1.1)]  # fmt: skip
    bars += [Bar("Refiner: longer correlation time, share", float("nan"), ">=", 0.1),
             Bar("State sampler, mean field, relative error", float("nan"), "<=", 0.03),
             Bar("State sampler, RMS field, relative error", float("nan"), "<=", 0.08)]  # fmt: skip
    return Result(figures, bars, {"crps": "fields' own units"}, notes="nan: not measured, a missed bar.")
