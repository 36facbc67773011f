"""Which of our tables each recorded sampler of k-diffusion and diffusers is, and how far apart they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks._mixture import Oracle, golden
from core.plan import Table
from core.process.gaussian import Exploding, Gaussian
from core.sample import integrate
from core.solvers import adams as A
from core.solvers import runge_kutta as R
from core.solvers import sde as S

__all__ = ["Recorded", "recorded", "solver_of"]

Preset = Callable[[Gaussian, Tensor], Table]

PRESETS: dict[str, Preset] = {
    "k_diffusion.sample_euler": A.ddim,
    "k_diffusion.sample_heun": R.heun,
    "k_diffusion.sample_dpm_2": R.dpm_solver,
    "k_diffusion.sample_lms order=4": A.lms,
    "k_diffusion.sample_dpmpp_2m": A.dpmpp,
    "k_diffusion.sample_dpmpp_2s_ancestral eta=0": R.dpmpp_single,
    "k_diffusion.sample_dpmpp_3m_sde eta=0": lambda p, t: A.dpmpp(p, t, 3, "exact", 0.5),
    "k_diffusion.sample_euler_ancestral eta=1": S.ancestral,
    "k_diffusion.sample_dpmpp_2m_sde midpoint eta=1": A.dpmpp_sde,
    "k_diffusion.sample_dpmpp_2m_sde heun eta=1": lambda p, t: A.dpmpp_sde(p, t, rule="exact"),
    "k_diffusion.sample_dpmpp_3m_sde eta=1": lambda p, t: A.dpmpp_sde(p, t, 3, rule="exact", curvature=0.5),
    "diffusers.DEIS order=2": lambda p, t: A.deis(p, t, 2),
    "diffusers.DEIS order=3": A.deis,
    "diffusers.DPMSolverMultistep++ order=2 (float32 inside)": A.dpmpp,
    "diffusers.DPMSolverMultistep++ order=3 (float32 inside)": lambda p, t: A.dpmpp(p, t, 3, "midpoint", 0.5),
}


def solver_of(name: str) -> Preset:
    """Return our preset for the recorded sampler `name`."""
    found = re.fullmatch(r"diffusers\.UniPC order=(\d) bh([12]) predict_x0=(True|False)", name)
    if not found:
        return PRESETS[name]
    order, rule = int(found[1]), "midpoint" if found[2] == "2" else "linear"
    space = "data" if found[3] == "True" else "noise"
    return lambda process, times: A.unipc(process, times, order, space, rule)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Recorded:
    """Noise that was written down, one array for each step, in the place of a stream."""

    noise: Tensor
    step: int = 0

    def fold(self, step: int) -> Recorded:
        """Return the noise of a step."""
        return Recorded(self.noise, step)

    def normal(self, *shape: int) -> Tensor:
        """Return it."""
        return self.noise[self.step]


def recorded() -> dict[str, float]:
    """Return the largest relative difference from each recorded sampler, over mixtures, grids and step counts."""
    process, worst = Gaussian(Exploding(80.0)), {}
    for case in golden().values():
        oracle, x = Oracle(case["mixture"], process), torch.tensor(case["y_start"], dtype=torch.float64)
        for run in case["runs"]:
            times = torch.tensor(run["sigmas"], dtype=torch.float64) / 80
            stream = Recorded(torch.tensor(run["noise_first_N"], dtype=torch.float64))
            for name, output in run["outputs"].items():
                expected = torch.tensor(output, dtype=torch.float64)
                found = integrate(oracle, solver_of(name)(process, times), x, stream)  # type: ignore[arg-type]
                error = float((found - expected).abs().max() / expected.abs().max())
                worst[name] = max(worst.get(name, 0.0), error)
    return worst
