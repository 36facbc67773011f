"""Are the solvers right? Recorded peers, orders of convergence, inversion, likelihood, second moments, batches.

The mixture is analytic, so every figure is a distance from a closed form or from an ODE solved to 1e-13; nothing is
trained. Variances of stochastic solvers are exact too: with Gaussian data a step is affine, so impulses pushed through
the solver give its second moments without sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks._mixture import Oracle, golden, slope
from benchmarks._peers import recorded
from benchmarks.harness import Bar, Result
from core.denoiser import GaussianPrediction
from core.likelihood import log_likelihood
from core.noise import Stream
from core.plan import Table
from core.process.gaussian import Exploding, Gaussian, Rectified
from core.sample import integrate
from core.solvers import adams as A
from core.solvers import grid as G
from core.solvers import runge_kutta as R
from core.solvers import sde as S
from core.solvers.inversion import Bidirectional
from core.transition import GaussianTransition

__all__ = ["run"]

VE, RF, END = Gaussian(Exploding(80.0)), Gaussian(Rectified()), 0.002 / 80
Preset = Callable[[Gaussian, Tensor], Table]

PRESETS: dict[str, tuple[Preset, int]] = {
    "ddim": (A.ddim, 1),
    "heun": (R.heun, 2),
    "dpmpp_2m": (A.dpmpp, 1),
    "deis2": (lambda p, t: A.deis(p, t, 2), 1),
    "adams3_velocity_uncorrected": (lambda p, t: A.adams(p, t, corrector=False), 1),
    "dpmpp_3m": (lambda p, t: A.dpmpp(p, t, 3, "exact"), 1),
    "deis3": (A.deis, 1),
    "unipc2": (lambda p, t: A.unipc(p, t, 2), 1),
    "unipc3": (A.unipc, 1),
    "adams3_velocity": (A.adams, 1),
    "dpmpp_3m_as_shipped": (lambda p, t: A.dpmpp(p, t, 3, "exact", 0.5), 1),
    "lms4": (A.lms, 1),
    "dpm_solver_3": (lambda p, t: R.dpm_solver(p, t, 3), 3),
    "dpmpp_3s": (lambda p, t: R.dpmpp_single(p, t, 3), 3),
}
FLOORS = {"adams3_velocity_uncorrected": 2.8, "dpmpp_3m": 2.8, "deis3": 2.8, "unipc2": 2.9, "unipc3": 3.8,
          "adams3_velocity": 3.8}  # fmt: skip
EQUAL = {"ddim": (1.0, 0.05), "heun": (2.0, 0.1), "dpmpp_2m": (2.0, 0.1), "deis2": (2.0, 0.1), "bdia": (2.0, 0.1)}


def tensor(values: list) -> Tensor:
    """Return recorded numbers, float64."""
    return torch.tensor(values, dtype=torch.float64)


def slopes(case: dict) -> dict[str, float]:
    """Return the order of every preset between 80 and 320 evaluations, on Karras' grid from 80 to 0.002."""
    oracle, x, end = Oracle(case["mixture"], VE), tensor(case["y_start"]), tensor(case["y_end_exact"])
    counts, figures = [80, 160, 320], {}

    def fit(final: Callable[[Tensor], Tensor], cost: int) -> float:
        grids = [G.karras(VE, n // cost, 1.0, END) for n in counts]
        return slope(counts, [float((final(times) - end).square().mean().sqrt()) for times in grids])

    for name, (preset, cost) in PRESETS.items():
        figures[name] = fit(lambda times, preset=preset: integrate(oracle, preset(VE, times), x), cost)
    figures["bdia"] = fit(lambda times: Bidirectional.over(VE, times).sample(oracle, x).x, 1)
    return figures


def round_trips(case: dict) -> dict[str, float]:
    """Return the largest relative error of noise to data to noise, at 10 to 100 steps."""
    worst: dict[str, float] = {}
    for process in (VE, RF):
        oracle, x = Oracle(case["mixture"], process), tensor(case["y_start"]) * float(process.radius(1.0)) / 80
        for gamma in (1.0, 0.96, 0.9):
            for steps in (10, 20, 50, 100):
                times = G.karras(VE, steps, 1.0, END) if process is VE else G.uniform(RF, steps)
                sampler = Bidirectional.over(process, times, gamma)
                back = sampler.backward(oracle, sampler.sample(oracle, x)).x
                key = f"round_trip_gamma_{gamma}" + ("_to_50_steps" if gamma == 0.9 and steps <= 50 else "")
                worst[key] = max(worst.get(key, 0.0), float((back - x).abs().max() / x.abs().max()))
    return worst


def likelihoods(case: dict) -> dict[str, float]:
    """Return the RMS error in nats of the log-density, exact divergence, Runge-Kutta of order 4."""
    mixture, x = case["mixture"], tensor(case["logp_points"])
    exact, figures = tensor(case["logp_exact_sigma0.002"]), {}
    ways: list[tuple[Literal["angle", "log_snr"], Callable[..., Tensor]]] = [("angle", G.angle), ("log_snr", G.log_snr)]
    for clock, grid in ways:
        for steps in (10, 20, 40):
            found = log_likelihood(
                Oracle(mixture, VE), VE, x, grid(VE, steps, 1.0, END).flip(0), clock=clock,
                prior=lambda x: mixture.responsibilities(x, 1.0, 80.0)[1],
            )  # fmt: skip
            error = (found.log_p - exact).square().mean().sqrt()
            figures[f"likelihood_{clock}_{found.evaluations}"] = float(error)
    start = 1e-3
    found = log_likelihood(Oracle(mixture, RF), RF, x, G.uniform(RF, 40, 1.0, start).flip(0))
    exact = mixture.responsibilities(x, RF.schedule.alpha(start), RF.schedule.sigma(start))[1]
    figures["likelihood_rectified_160"] = float((found.log_p - exact).square().mean().sqrt())
    return figures


@dataclass(frozen=True)
class Impulses:
    """Noise of a symbolic batch: the noise of step i is coordinate i + 2."""

    step: int = 0

    def fold(self, step: int) -> Impulses:
        """Return the noise of a step."""
        return Impulses(step)

    def normal(self, *shape: int) -> Tensor:
        """Return the unit vector of this noise."""
        return torch.eye(1, shape[0], dtype=torch.float64).roll(self.step + 2, -1)


def moments(preset: Preset, steps: int, mean: float = 0.7, var: float = 0.25) -> tuple[float, float]:
    """Return the errors of mean and (relative) variance of the end, data N(mean, var), grid 20 to 0.02."""

    def predict(x: Tensor, t: Tensor) -> GaussianPrediction:
        gain = var / (var + VE.schedule.sigma(t) ** 2)
        shift = torch.zeros_like(x)
        shift[:, 0] = mean - gain * mean
        return GaussianPrediction(gain * x + shift)

    x = torch.zeros(1, steps + 2, dtype=torch.float64)
    x[0, 0], x[0, 1] = mean, math.sqrt(var + 400)
    table = preset(VE, G.log_snr(VE, steps, 20 / 80, 0.02 / 80))
    end = integrate(predict, table, x, Impulses())  # type: ignore[arg-type]
    return float(end[0, 0]) - mean, float(end[0, 1:].square().sum()) / (var + 0.02**2) - 1


def exact_chain(steps: int, mean: float = 0.7, var: float = 0.25) -> float:
    """Return the error of the variance of the chain of `GaussianTransition`s that know the posterior's variance."""
    times, total = G.uniform(RF, steps).tolist(), 1.0
    for t, s in zip(times, times[1:], strict=False):
        alpha, sigma = float(RF.schedule.alpha(t)), float(RF.schedule.sigma(t))
        spread = alpha**2 * var + sigma**2
        x = tensor([[alpha * mean], [alpha * mean + 1]])
        D = mean + alpha * var / spread * (x - alpha * mean)
        prediction = GaussianPrediction(D, torch.full_like(x, var * sigma**2 / spread))
        step = GaussianTransition.step(RF, prediction, x, t, s)
        total = float(step.mean[1] - step.mean[0]) ** 2 * total + float(step.std[0]) ** 2
    return abs(total / var - 1)


def moment_figures() -> dict[str, float]:
    """Return orders and errors of second moments of the stochastic solvers."""
    figures, counts = {}, [80, 160, 320]
    for name, preset in (("ancestral", S.ancestral), ("dpmpp_2m_sde", A.dpmpp_sde),
                         ("dpmpp_3m_sde", lambda p, t: A.dpmpp_sde(p, t, 3, rule="exact"))):  # fmt: skip
        found = [moments(preset, n) for n in counts]
        figures[f"variance_order_{name}"] = slope(counts, [abs(v) for _, v in found])
        figures[f"variance_error_{name}_40"] = abs(moments(preset, 40)[1])
        figures[f"mean_error_{name}"] = max(abs(m) for m, _ in found)
    figures["variance_error_chain_with_posterior_variance"] = max(exact_chain(n) for n in (1, 3, 10))
    return figures


def batch_error(case: dict) -> float:
    """Return how far sample i alone lies from sample i in a batch, stochastic and guided by nothing."""
    oracle, x = Oracle(case["mixture"], RF), tensor(case["y_start"]) / 80
    worst = 0.0
    for table in (A.adams(RF, G.uniform(RF, 8)), A.dpmpp_sde(RF, G.uniform(RF, 8)), S.ancestral(RF, G.uniform(RF, 8))):
        whole = integrate(oracle, table, x, Stream.of(0, len(x)))
        for i in range(len(x)):
            alone = integrate(oracle, table, x[i : i + 1], Stream.of(0, 1, first=i))
            worst = max(worst, float((alone[0] - whole[i]).abs().max()))
    return worst


def run(full: bool) -> Result:
    """Measure all of it; `full` changes nothing, everything is quick."""
    case = golden()["mild"]
    peers, orders, trips = recorded(), slopes(case), round_trips(case)
    chances, spread = likelihoods(case), moment_figures()
    double = max(v for k, v in peers.items() if "float32" not in k)
    single = max(v for k, v in peers.items() if "float32" in k)
    figures = {"agreement_float64": double, "agreement_float32": single, "batch": batch_error(case), **trips, **chances,
               **{f"order_{k}": v for k, v in orders.items()}, **spread}  # fmt: skip
    bars = [Bar("agreement with 25 recorded float64 samplers of k-diffusion and diffusers", double, "<=", 1e-12),
            Bar("agreement with 2 recorded float32 samplers", single, "<=", 2e-6)]  # fmt: skip
    bars += [Bar(f"order of {k}: distance from {v[0]:g}", abs(orders[k] - v[0]), "<=", v[1]) for k, v in EQUAL.items()]
    bars += [Bar(f"order of {k}", orders[k], ">=", v) for k, v in FLOORS.items()]
    bars += [Bar(f"BDIA round trip, gamma {g}, up to {n} steps", trips[f"round_trip_gamma_{k}"], "<=", 1e-12)
             for g, n, k in ((1, 100, "1.0"), (0.96, 100, "0.96"), (0.9, 50, "0.9_to_50_steps"))]  # fmt: skip
    for clock in ("angle", "log_snr"):
        value = chances[f"likelihood_{clock}_160"]
        bars.append(Bar(f"likelihood by RK4, 160 evaluations, steps in {clock}", value, "<=", 1e-3))
    moment = spread["variance_error_chain_with_posterior_variance"]
    bars += [Bar("SDE second moments: chain with the posterior's variance", moment, "<=", 1e-12),
             Bar("SDE second moments: order of 2M-SDE, distance from 2", abs(spread["variance_order_dpmpp_2m_sde"] - 2),
                 "<=", 0.1),
             Bar("SDE means", max(v for k, v in spread.items() if k.startswith("mean")), "<=", 1e-12),
             Bar("sample i alone - in a batch", figures["batch"], "<=", 1e-12)]  # fmt: skip
    notes = (
        "The mild mixture of the recorded file, 4 dimensions, 8 starts. Orders from 80 to 320 evaluations on Karras' "
        "grid, 80 to 0.002. gamma = 0.9 at 100 steps loses digits as gamma^-N does: round_trip_gamma_0.9. The exact "
        "third-order SDE multistep has second moments of order 2, like 2M-SDE: noise between the steps limits both."
    )
    return Result(figures, bars, UNITS, {"relative difference": peers}, notes=notes)


UNITS = {"agreement_*": "largest relative difference", "order_*": "slope of log error", "likelihood_*": "nats, RMS",
         "round_trip_*": "relative", "variance_*": "relative, or order", "batch": "absolute"}  # fmt: skip
