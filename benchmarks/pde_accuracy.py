"""How far from the truth are roll-outs on the paper's systems, beside everything that knows as much?

Mean square error over all nodes and all states after the first of test trajectories, whose initial states no training
saw. The data are made by `quintet pde simulate RECIPE` at the paper's nodes, steps and trajectories; the models are
read from `runs/pde`: `quintet pde train burgers trainer.seed=SEED --out runs/pde/burgers-SEED`, seeds 0 to 2, `fhn` and
`gray_scott` alike. Two rivals are networks of about the paper's size, trained for about the same processor time on
the same data with steps sixteen times as long (`RIVALS`): far from converged, so they measure the return of a minute
of training, not what they can do in the end; the paper's own figures stand among the peers.

A system without a model or data is a missed bar.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from apps.pde.baselines import Operators, Sparse
from apps.pde.data import Splits
from apps.pde.generate import FieldModel
from benchmarks import _pde
from benchmarks.harness import Bar, Result

__all__ = ["run"]

PAPER = {"burgers": 2.99e-4, "fhn": 2.82e-3, "gray_scott": 4.05e-4}
BARS = {"burgers": 1e-4, "fhn": 1e-3, "gray_scott": 1.5e-4}
NAMES = {"burgers": "Burgers A", "fhn": "FitzHugh-Nagumo", "gray_scott": "Gray-Scott"}
ABSENT = {"Burgers B": 1e-4, "Burgers C": 1e-4, "Burgers D": 3e-4, "cylinder, Re 200-360": 1e-4,
          "cylinder, Re 440-520": 1.5e-2, "cylinder, Re 600-1000": 6e-2}  # fmt: skip
RIVALS = ("phympgn", "mgn")


def error(make: Any, data: Splits, size: int = 5) -> tuple[float, float]:
    """Return mean square error and processor seconds of one trajectory; not finite where one is not."""
    test, squares, began = data.test, [], time.process_time()
    steps = test.states.shape[1] - 1
    for a in range(0, len(test), size):
        some = test.select(slice(a, a + size))
        out = make(some.states[:, 0], steps, some.parameters)[:, 1:]
        squares.append(np.square(out - some.states[:, 1:], dtype=np.float64).mean((1, 2, 3)))
    return float(np.concatenate(squares).mean()), (time.process_time() - began) / len(test)


def rival(model: FieldModel, data: Splits) -> float:
    """Return the mean square error of a model that takes the long steps of its training."""
    test, stride = data.test, model.recipe.stride
    truth = torch.from_numpy(test.states[:, ::stride])
    with torch.inference_mode():
        out = model.net(truth[:, 0], truth.shape[1] - 1, 0.0, stride=stride)
    return float((out.double() - truth[:, 1:]).square().mean())


def setting(name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return figures and peers of a system, or None where there is no model of it."""
    models = [m for m in (_pde.model(f"{name}-{seed}") for seed in range(3)) if m is not None]
    data = _pde.kept(name)
    if not models or data is None:
        return None
    own = [error(m.rollouts, data) for m in models]
    figures: dict[str, Any] = {"mse": float(np.mean([e for e, _ in own])), "mse_of_seeds": [e for e, _ in own]}
    figures |= {"seconds_of_a_trajectory": own[0][1], "test_trajectories": len(data.test)}
    shape, substeps = models[0].recipe.model, models[0].recipe.data.substeps
    told = Operators(data.system, data.test.mesh, data.test.dt, shape, substeps)
    peers: dict[str, Any] = {"operators_diffusion_only": error(told.rollout, data)[0]}
    sparse = Sparse(told.net).fit(data.train, data.valid)
    peers["sparse_regression"] = error(sparse.rollout, data)[0]
    for label in RIVALS:
        other = _pde.model(f"{name}-{label}")
        if other is not None:
            peers[f"{label}_minutes"] = rival(other, data)
    whole = Operators(data.system, data.test.mesh, data.test.dt, _pde.told(shape), substeps)
    peers["operators_whole_equation_told"] = error(whole.rollout, data)[0]
    return figures, peers | {"paper": PAPER[name]}


def run(full: bool) -> Result:
    """Run the benchmark."""
    torch.set_num_threads(1)
    figures, peers, bars = {}, {}, []
    for name, bar in BARS.items():
        found = setting(name)
        value = found[0]["mse"] if found else float("nan")
        bars.append(Bar(f"{NAMES[name]}, MSE (paper {PAPER[name]:.3g})", value, "<=", bar))
        if found is None:
            continue
        figures[name], peers[name] = found
        equal = [v for k, v in found[1].items() if k not in ("paper", "operators_whole_equation_told")]
        best = float(np.nanmin([v if np.isfinite(v) else np.nan for v in equal]))
        bars.append(Bar(f"{NAMES[name]}, MSE over the best of those that know no more", value / best, "<=", 1.0))
    bars += [Bar(f"{name}, MSE", float("nan"), "<=", bar) for name, bar in ABSENT.items()]
    notes = "Not measured (no data or no model yet) is nan and a missed bar. All are told the diffusion alone, but for \
operators_whole_equation_told, which shows what the mesh allows with the whole equation and nothing learned."
    units = {"mse": "fields' own units, over nodes and states after the first"}
    return Result(figures, bars, units, peers, notes=notes)
