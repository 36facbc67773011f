"""Trained at 503 nodes, run at about 1,000, 2,000 and 4,000 on other meshes: is the error larger?

Fresh initial states, solved by the spectral solver to t = 0.8 and read at the nodes of every mesh, so that all meshes
judge the same fields. The model is `runs/pde/burgers-0`; its nodes of training are another mesh again. The operators
with the whole equation told show what each mesh allows.
"""

from __future__ import annotations

import numpy as np
import torch

from apps.pde import shapes, spectral
from apps.pde.baselines import Operators
from apps.pde.dynamics import Dynamics
from benchmarks import _pde
from benchmarks.harness import Bar, Result

__all__ = ["run"]

NODES, STARTS, STEPS, EVERY, SEED = (500, 1000, 2000, 4000), 2, 800, 20, 77_000


def run(full: bool) -> Result:
    """Run the benchmark."""
    torch.set_num_threads(1)
    model = _pde.model("burgers-0")
    if model is None:
        nothing = [Bar("Error on finer meshes over that at 500 nodes", float("nan"), "<=", 1.0)]
        return Result({}, nothing, notes="`runs/pde/burgers-0` is not there.")
    meshes = [shapes.make("square", n) for n in NODES]
    points, cuts = np.concatenate([m.points for m in meshes]), np.cumsum([len(m) for m in meshes])[:-1]
    net, recipe = model.net, model.recipe
    solver = spectral.Spectral("burgers", net.system.parameters, 128)
    runs = []
    for k in range(STARTS):
        start = np.moveaxis(spectral.initial(solver.grid(), SEED + k), -1, 0)
        runs.append(solver.run(start, 1e-3, STEPS, EVERY, points))
    truths = np.split(np.stack(runs), cuts, 2)
    own, told = [], []
    for mesh, truth in zip(meshes, truths, strict=True):
        stride = 4 if len(mesh) < 1500 else 2 if len(mesh) < 3000 else 1
        moved = Dynamics(recipe.model, net.system, mesh, recipe.data.dt)
        moved.load_state_dict(net.state_dict())
        own.append(judge(moved.eval(), truth, stride))
        whole = Operators(net.system, mesh, recipe.data.dt, _pde.told(recipe.model))
        told.append(judge(whole.net.float(), truth, stride))
    figures = {"nodes": [len(m) for m in meshes], "mse": own}
    bars = [Bar(f"MSE at {len(m)} nodes over that at {len(meshes[0])}", e / own[0], "<=", 1.0)
            for m, e in zip(meshes[1:], own[1:], strict=True)]  # fmt: skip
    notes = f"{STARTS} starts, to t = {STEPS * 1e-3:g}; model steps of 4, 2 and 1 ms with the mesh."
    return Result(figures, bars, {"mse": "over nodes and states"}, {"whole_equation_told": told}, SEED, notes)


@torch.inference_mode()
def judge(net: Dynamics, truth: np.ndarray, stride: int) -> float:
    """Return the mean square error at the truth's states [V, T, N, C], which are EVERY steps of data apart."""
    u, squares = torch.from_numpy(truth[:, 0].astype(np.float32)), []
    for k in range(1, truth.shape[1]):
        for n in range(EVERY // stride):
            u = net.step(u, ((k - 1) * EVERY + n * stride) * net.dt, None, stride)
        squares.append(np.square(u.numpy() - truth[:, k]).mean())
    return float(np.mean(squares))
