"""What do set-up and steps cost? Operators per 2,000 nodes, a step at 1.6k nodes, the exact splitting, cost per node.

Seconds are processor seconds of this process on one thread; ratios are of runs side by side, medians of three.

**Memory.** A process of its own makes one training step of the paper's network (950k parameters, 1,600 nodes, a window
of 20 states, batch 1) with the inside of each time step computed again; its largest resident memory, Python and torch
included.

**Error against time.** One test trajectory of Burgers A: the model `runs/pde/burgers-0` with the steps of its training
and with one step a state, the same operators with the diffusion alone and with sparse regression of the rest, and
linear and quadratic finite elements on the same mesh, refined once and not, each with time steps that its accuracy
allows. `break_even` is the number of solves after which making the data and training the model (seconds as its log
says) is paid back against the cheapest elements that are as accurate; `never` where those are cheaper than the model
itself. The errors are drawn against the seconds in docs/pictures/pde_cost.png.
"""

from __future__ import annotations

import csv
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from apps.pde import fem, metrics, pictures, shapes, spectral
from apps.pde.baselines import Operators, Sparse
from apps.pde.dynamics import Dynamics
from apps.pde.mesh import Mesh
from apps.pde.model import ModelConfig
from apps.pde.operators import Operators as Stencilled
from apps.pde.systems import system
from apps.pde.truth import Label
from benchmarks import _pde
from benchmarks.harness import Bar, Result

__all__ = ["run"]

ELEMENTS = {"linear": (1, 0, 8), "linear_refined": (1, 1, 4), "quadratic": (2, 0, 4), "quadratic_refined": (2, 1, 2)}
PLOT = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "pde_cost.png"
DATA = 4.4  # processor seconds of one trajectory of the truth, `quintet pde simulate burgers`


def seconds(action: Callable[[], object]) -> float:
    """Return the processor seconds of an action."""
    began = time.process_time()
    action()
    return time.process_time() - began


def plus(mesh: Mesh, family: str = "least_squares") -> Callable[[], object]:
    """Return one Heun step of PhyMPGN+ on a mesh."""
    net = Dynamics(ModelConfig(operators=family), system("burgers"), mesh, 1e-3).eval()
    u = torch.randn(1, len(mesh), 2)

    def step() -> None:
        with torch.inference_mode():
            net.step(u, 0.0)

    step()
    return step


def splitting(mesh: Mesh) -> float:
    """Return how much longer a training step of PhyMPGN takes without the exact splitting."""
    config = ModelConfig(kind="phympgn", operators="cotangent", width=128, rounds=5, block=24, checkpoint=False)
    net = Dynamics(config, system("burgers"), mesh, 1e-3)
    u = torch.randn(1, len(mesh), 2)
    found: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(3):
        for split in (True, False):
            for layer in net.net.layers:  # type: ignore[union-attr]
                layer.split = split  # type: ignore[union-attr]
            found[split].append(seconds(lambda: net(u, 1).square().mean().backward()))
    return median(found[False]) / median(found[True])


def window(answer: Any) -> None:
    """Send the largest resident memory, in GiB, of a process that makes one training step over a window of 20."""
    torch.set_num_threads(1)
    config = ModelConfig(kind="phympgn", operators="cotangent", width=128, rounds=5, block=24)
    mesh = shapes.jittered(40)
    net = Dynamics(config, system("burgers"), mesh, 1e-3)
    net(0.1 * torch.randn(1, len(mesh), 2), 19).square().mean().backward()
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def memory() -> float:
    """Return what `window` sends from a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    answer = fresh.Queue()
    process = fresh.Process(target=window, args=(answer,))
    process.start()
    found = answer.get(timeout=600)
    process.join()
    return float(found)


def trade() -> dict[str, Any]:
    """Return error and seconds of the model and of finite elements on a trajectory, and the break-even number."""
    model, data = _pde.model("burgers-0"), _pde.kept("burgers")
    if model is None or data is None:
        return {}
    d, truth, stride = model.recipe.data, data.test.states[0].astype(np.float64), model.recipe.stride
    u, figures = torch.from_numpy(data.test.states[:1, 0]), {}
    for name, own in (("model", stride), ("model_small_steps", 1)):
        began = time.process_time()
        with torch.inference_mode():
            out = model.net(u, d.steps // own, 0.0, stride=own)[0].double().numpy()
        each = time.process_time() - began
        figures[name] = {"mse": float(np.square(out - truth[own::own]).mean()), "seconds": each}

    told = Operators(data.system, data.test.mesh, data.test.dt, model.recipe.model)
    sparse = Sparse(told.net).fit(data.train, data.valid)
    for name, rollout in (("operators_diffusion_only", told.rollout), ("sparse_regression", sparse.rollout)):
        began = time.process_time()
        out = rollout(data.test.states[:1, 0], d.steps, {})[0, 1:]
        each = time.process_time() - began
        figures[name] = {"mse": float(np.square(out - truth[1:]).mean()), "seconds": each}

    def start(p: np.ndarray) -> np.ndarray:
        return spectral.initial(p, Label("test", 0).seed(model.recipe.seed), 1.0, d.modes)

    for name, (degree, refine, own) in ELEMENTS.items():
        began = time.process_time()
        out = fem.burgers(data.test.mesh, start, 5e-3, own * d.dt, d.steps // own, degree=degree, refine=refine)[1:]
        each = time.process_time() - began
        figures[name] = {"mse": float(np.square(out - truth[own::own]).mean()), "seconds": each}
    pictures.trade({k: (v["seconds"], v["mse"]) for k, v in figures.items()}, PLOT)
    with (_pde.RUNS / "burgers-0" / "log.csv").open() as file:
        trained = sum(float(row["seconds"]) for row in csv.DictReader(file))
    as_good = [v["seconds"] for k, v in figures.items() if k in ELEMENTS and v["mse"] <= figures["model"]["mse"]]
    paid = metrics.break_even(trained + DATA * 12, figures["model"]["seconds"], min(as_good, default=float("inf")))
    never = not np.isfinite(paid)
    return figures | {"training_seconds": trained, "break_even": "never" if never else int(np.ceil(paid))}


def run(full: bool) -> Result:
    """Run the benchmark."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mesh, small, large = shapes.jittered(45), shapes.jittered(40), shapes.jittered(200 if full else 100)
    setup = {
        f: seconds(lambda f=f: Stencilled(mesh, f)) * 2000 / len(mesh) for f in ("rbf", "least_squares", "cotangent")
    }
    step = plus(small, "rbf")
    each = 1e3 * median(seconds(step) for _ in range(5))
    near, far = plus(mesh), plus(large)
    per = [median(seconds(s) for _ in range(5)) / len(m) for s, m in ((near, mesh), (far, large))]
    ratio = splitting(shapes.jittered(41 if full else 24))
    figures = {f"setup_{k}": v for k, v in setup.items()}
    figures |= {"step_ms": each, "split_ratio": ratio, "per_node_growth": per[1] / per[0], "large_nodes": len(large)}
    peak = memory()
    figures |= {"window_gib": peak}
    about = {"error_time": trade()}
    bars = [
        Bar("Operator set-up, seconds for 2,000 nodes", setup["rbf"], "<=", 1.0),
        Bar("A step at 1.6k nodes, ms", each, "<=", 25),
        Bar("Training step of PhyMPGN, unsplit over split", ratio, ">=", 1.5),
        Bar("Cost per node, large over 2k nodes", per[1] / per[0], "<=", 1.3),
        Bar("Memory of a training window of 20 of PhyMPGN, GiB", peak, "<=", 2.0),
    ]
    notes = "40k nodes and 1.7k for the splitting with --full; 10k and 576 otherwise."
    return Result(figures | about, bars, {"setup_*": "processor s for 2,000 nodes"},
                  {"released_setup": 248, "released_window_gib": "12 to 18"}, notes=notes)  # fmt: skip
