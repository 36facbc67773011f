"""What does the loop cost? A denoiser that does nothing, 50 steps, a state of 64 numbers.

Ours and the peers' loops alternate in one process, one thread; a figure is the median over repeats of CPU time of the
thread per step, and a bar the ratio of two. Peers: `pip install k-diffusion diffusers`; without them a ratio is not a
number and its bar does not hold.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import types
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Bar, Result
from core.denoiser import GaussianPrediction
from core.plan import Table
from core.process.gaussian import Exploding, Gaussian
from core.sample import integrate
from core.solvers import adams as A
from core.solvers import grid as G

__all__ = ["run"]

VE, STEPS = Gaussian(Exploding(80.0)), 50
TABLES: dict[str, Callable[[Tensor], Table]] = {
    "DDIM": lambda t: A.ddim(VE, t),
    "DPM-Solver++ 2M": lambda t: A.dpmpp(VE, t),
    "UniPC 3": lambda t: A.unipc(VE, t),
    "DEIS 3": lambda t: A.deis(VE, t),
    "default (adams3)": lambda t: A.adams(VE, t),
}


def ours(shape: tuple[int, ...]) -> dict[str, Callable[[], Tensor]]:
    """Return our loops over a constant denoiser."""
    prediction, x = GaussianPrediction(torch.zeros(shape)), torch.randn(shape)
    times = G.karras(VE, STEPS, 1.0, 0.002 / 80)

    def loop(table: Table) -> Callable[[], Tensor]:
        return lambda: integrate(lambda x, t: prediction, table, x)

    return {name: loop(make(times)) for name, make in TABLES.items()}


def k_diffusion(shape: tuple[int, ...]) -> dict[str, Callable[[], Tensor]]:
    """Return the loops of k-diffusion, whose package imports an image stack that its samplers do not use."""
    if "k_diffusion.sampling" in sys.modules:
        return _k_diffusion(sys.modules["k_diffusion.sampling"], shape)
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or not spec.submodule_search_locations:
        return {}
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    if importlib.util.find_spec("torchvision") is None:
        parts = [types.ModuleType(name) for name in ("torchvision", "torchvision.transforms", "functional")]
        parts[1].functional = parts[2]  # type: ignore[attr-defined]
        sys.modules |= {"torchvision": parts[0], "torchvision.transforms": parts[1]}
    return _k_diffusion(importlib.import_module("k_diffusion.sampling"), shape)


def _k_diffusion(sampling: Any, shape: tuple[int, ...]) -> dict[str, Callable[[], Tensor]]:
    D, x = torch.zeros(shape), torch.randn(shape)
    sigmas = sampling.get_sigmas_karras(STEPS, 0.002, 80.0)
    names = {"DDIM": sampling.sample_euler, "DPM-Solver++ 2M": sampling.sample_dpmpp_2m}
    return {k: (lambda run=v: run(lambda x, sigma: D, x, sigmas, disable=True)) for k, v in names.items()}


def diffusers(shape: tuple[int, ...]) -> dict[str, Callable[[], Tensor]]:
    """Return the loops of diffusers."""
    if importlib.util.find_spec("diffusers") is None:
        return {}
    try:
        home: Any = importlib.import_module("diffusers.schedulers")
        makes = {
            "UniPC 3": lambda: home.UniPCMultistepScheduler(solver_order=3, use_karras_sigmas=True),
            "DEIS 3": lambda: home.DEISMultistepScheduler(solver_order=3, use_karras_sigmas=True),
        }
        schedulers = {name: make() for name, make in makes.items()}
    except ImportError:
        return {}
    output, start = torch.zeros(shape), torch.randn(shape)

    def loop(scheduler: Any) -> Tensor:
        scheduler.set_timesteps(STEPS)
        x = start
        for t in scheduler.timesteps:
            x = scheduler.step(output, t, x, return_dict=False)[0]
        return x

    return {name: (lambda s=scheduler: loop(s)) for name, scheduler in schedulers.items()}


def timed(loops: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Return microseconds per step: medians over repeats in which all loops take turns."""
    seen: dict[str, list[float]] = {name: [] for name in loops}
    for n in range(repeats + 2):
        for name, loop in loops.items():
            began = time.thread_time()
            loop()
            if n >= 2:
                seen[name].append((time.thread_time() - began) / STEPS * 1e6)
    return {name: median(values) for name, values in seen.items()}


def run(full: bool) -> Result:
    """Time (1, 64) and, with `full`, (1, 64, 256) too."""
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    with torch.no_grad():
        for shape in ((1, 64), (1, 64, 256)) if full else ((1, 64),):
            found = {f"ours: {k}": v for k, v in ours(shape).items()}
            found |= {f"diffusers: {k}": v for k, v in diffusers(shape).items()}
            found |= {f"k-diffusion: {k}": v for k, v in k_diffusion(shape).items()}
            figures["x".join(map(str, shape))] = timed(found, 40 if full else 20)
        x = torch.randn(1, 64)
        figures["one addition"] = timed({"add": lambda: [torch.add(x, x, alpha=0.5) for _ in range(STEPS)][-1]}, 20)[
            "add"
        ]
    began = time.perf_counter()
    A.adams(VE, G.karras(VE, STEPS, 1.0, 0.0021 / 80))
    figures["milliseconds to build 50 steps"] = (time.perf_counter() - began) * 1e3
    small = figures["1x64"]

    def ratio(peer: str, own: str) -> float:
        return small.get(peer, float("nan")) / small[f"ours: {own}"]

    two, three = "k-diffusion: DPM-Solver++ 2M", "diffusers: UniPC 3"
    bars = [
        Bar("k-diffusion's 2M / ours, time per step", ratio(two, "DPM-Solver++ 2M"), ">=", 4.0),
        Bar("diffusers' UniPC 3 / ours, time per step", ratio(three, "UniPC 3"), ">=", 10.0),
        Bar("diffusers' UniPC 3 / our default, time per step", ratio(three, "default (adams3)"), ">=", 10.0),
    ]
    notes = "CPU time of the thread; diffusers' set_timesteps is inside its loop, our table is built once and cached."
    return Result(figures, bars, {"*": "microseconds per step"}, notes=notes)
