"""What do set-up and steps cost? Operators per 2,000 nodes, a step at 1.6k nodes, the exact splitting, cost per node.

Seconds are processor seconds of this process on one thread; ratios are of runs side by side, medians of three. The
plot of error against time, the break-even number and the memory of a window of 20 are not measured here yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from apps.pde import shapes
from apps.pde.dynamics import Dynamics
from apps.pde.mesh import Mesh
from apps.pde.model import ModelConfig
from apps.pde.operators import Operators
from apps.pde.systems import system
from benchmarks.harness import Bar, Result

__all__ = ["run"]


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


def run(full: bool) -> Result:
    """Run the benchmark."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mesh, small, large = shapes.jittered(45), shapes.jittered(40), shapes.jittered(200 if full else 100)
    setup = {
        f: seconds(lambda f=f: Operators(mesh, f)) * 2000 / len(mesh) for f in ("rbf", "least_squares", "cotangent")
    }
    step = plus(small, "rbf")
    each = 1e3 * median(seconds(step) for _ in range(5))
    near, far = plus(mesh), plus(large)
    per = [median(seconds(s) for _ in range(5)) / len(m) for s, m in ((near, mesh), (far, large))]
    ratio = splitting(shapes.jittered(41 if full else 24))
    figures = {f"setup_{k}": v for k, v in setup.items()}
    figures |= {"step_ms": each, "split_ratio": ratio, "per_node_growth": per[1] / per[0], "large_nodes": len(large)}
    bars = [
        Bar("Operator set-up, seconds for 2,000 nodes", setup["rbf"], "<=", 1.0),
        Bar("A step at 1.6k nodes, ms", each, "<=", 25),
        Bar("Training step of PhyMPGN, unsplit over split", ratio, ">=", 1.5),
        Bar("Cost per node, large over 2k nodes", per[1] / per[0], "<=", 1.3),
    ]
    notes = "40k nodes and 1.7k for the splitting with --full; 10k and 576 otherwise."
    return Result(figures, bars, {"setup_*": "processor s for 2,000 nodes"}, {"released_setup": 248}, notes=notes)
