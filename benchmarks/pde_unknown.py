"""Only the diffusion is known and there are three trajectories: what is the error on Burgers A?

The model is `quintet pde train burgers data.train=3 --out runs/pde/burgers-few-0`; the tests are those of
`pde_accuracy`. What the same operators do with the diffusion alone is shown beside it, and sparse regression.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from apps.pde.baselines import Operators, Sparse
from benchmarks import _pde
from benchmarks.harness import Bar, Result
from benchmarks.pde_accuracy import error

__all__ = ["run"]

RUN, ROWS = "burgers-few-0", 3


def run(full: bool) -> Result:
    """Run the benchmark."""
    torch.set_num_threads(1)
    model, data = _pde.model(RUN), _pde.kept("burgers")
    if model is None or data is None:
        note = f"`quintet pde train burgers data.train=3 --out runs/pde/{RUN}` was not run here."
        return Result({}, [Bar("Burgers A, three trajectories, MSE", float("nan"), "<=", 2e-4)], notes=note)
    few = replace(data, train=data.train.select(slice(0, ROWS)))
    own, _ = error(model.rollouts, few)
    told = Operators(data.system, data.test.mesh, data.test.dt, model.recipe.model)
    alone, _ = error(told.rollout, few)
    sparse = Sparse(told.net).fit(few.train, few.valid)
    rival, _ = error(sparse.rollout, few)
    bars = [
        Bar("Burgers A, three trajectories, MSE", own, "<=", 2e-4),
        Bar("MSE over that of sparse regression on the same operators", own / rival, "<=", 1.0),
    ]
    peers = {"operators_diffusion_only": alone, "sparse_regression": rival, "paper_with_ten_trajectories": 2.99e-4}
    notes = f"{len(data.test)} test trajectories of 1,600 steps; with the diffusion alone fields only fade."
    return Result({"mse": own}, bars, {"mse": "over nodes and states after the first"}, peers, notes=notes)
