"""How close to the exact flow do few evaluations come? The default solver and its peers on an analytic mixture.

Error is the root mean square distance from the flow integrated to 1e-13. Peers are solved by our tables of them, which
reproduce k-diffusion and diffusers to 1e-12 (`solver_exact`), without the rounding of their time steps and states that
costs them accuracy beyond 1e-3; each on the best of six grids. `flow_matching` runs as installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._mixture import Oracle, exact_flow, golden
from benchmarks.harness import Bar, Result
from core.denoiser import GaussianPrediction
from core.plan import Table
from core.process.gaussian import Exploding, Gaussian, Rectified
from core.sample import Estimate, integrate
from core.solvers import adams as A
from core.solvers import grid as G
from core.solvers import runge_kutta as R

__all__ = ["run"]

VE, RF = Gaussian(Exploding(80.0)), Gaussian(Rectified())
HIGH, LOW = 1.0, 0.002 / 80
Preset = Callable[[Gaussian, Tensor], Table]

OURS: dict[str, Preset] = {
    "adams2": lambda p, t: A.adams(p, t, 2),
    "adams3": A.adams,
    "adams4": lambda p, t: A.adams(p, t, 4),
}
PEERS: dict[str, tuple[Preset, int]] = {
    "DDIM": (A.ddim, 1),
    "DPM-Solver++ 2M": (A.dpmpp, 1),
    "DPM-Solver++ 3M as shipped": (lambda p, t: A.dpmpp(p, t, 3, "exact", 0.5), 1),
    "DEIS 3": (A.deis, 1),
    "UniPC 2": (lambda p, t: A.unipc(p, t, 2), 1),
    "UniPC 3": (A.unipc, 1),
    "UniPC 3, noise": (lambda p, t: A.unipc(p, t, 3, "noise"), 1),
    "LMS 4": (A.lms, 1),
    "Heun": (R.heun, 2),
}


def by_rectified_time(process: Gaussian, steps: int) -> Tensor:
    """Return the grid that is uniform in the time of the rectified flow, t = rho / (1 + rho)."""
    rho = torch.exp(-process.schedule.log_snr(torch.tensor([HIGH, LOW], dtype=torch.float64)))
    high, low = (rho / (1 + rho)).tolist()
    u = torch.linspace(high, low, steps + 1, dtype=torch.float64)
    times = process.schedule.inverse(-(u / (1 - u)).log())
    times[0], times[-1] = HIGH, LOW
    return times


GRIDS: dict[str, Callable[[int], Tensor]] = {
    "karras7": lambda n: G.karras(VE, n, HIGH, LOW),
    "karras3": lambda n: G.karras(VE, n, HIGH, LOW, 3.0),
    "log_snr": lambda n: G.log_snr(VE, n, HIGH, LOW),
    "angle": lambda n: G.angle(VE, n, HIGH, LOW),
    "rectified time": lambda n: by_rectified_time(VE, n),
    "uniform": lambda n: G.uniform(VE, n, HIGH, LOW),
}


def rms(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square difference."""
    return float((found - exact).square().mean().sqrt())


def exploding(predict: Estimate, x: Tensor, exact: Tensor, counts: tuple[int, ...]) -> tuple[dict, dict]:
    """Return the errors of ours, by grid, and of the peers, on their best grid, from 80 to 0.002."""
    ours = {
        f"{name} {n} {grid}": rms(integrate(predict, preset(VE, times(n)), x), exact)
        for name, preset in OURS.items() for n in counts for grid, times in GRIDS.items()
    }  # fmt: skip
    peers = {
        f"{name} {n}": min(rms(integrate(predict, preset(VE, times(n // cost)), x), exact) for times in GRIDS.values())
        for name, (preset, cost) in PEERS.items() for n in counts
    }  # fmt: skip
    return ours, peers


def rectified(case: dict, counts: tuple[int, ...]) -> tuple[dict, dict]:
    """Return the errors of ours and of the peers on the rectified flow, equal steps from t = 1 to 0."""
    oracle, x = Oracle(case["mixture"], RF), torch.tensor(case["y_start"], dtype=torch.float64) / 80
    exact = torch.from_numpy(exact_flow(case["mixture"], x.numpy() * 1e9, 1e9, 1e-12))
    solved = {**{k: (v, 1) for k, v in OURS.items()}, **PEERS, "Euler": (flow("euler"), 1),
              "midpoint": (flow("midpoint"), 2), "Adams-Bashforth 3 in t": (adams_in_time, 1)}  # fmt: skip
    errors = {
        f"{name} {n}": rms(integrate(oracle, preset(RF, G.uniform(RF, n // cost)), x), exact)
        for name, (preset, cost) in solved.items() for n in counts
    }  # fmt: skip
    ours = {k: v for k, v in errors.items() if k.split()[0] in OURS}
    peers = {k: v for k, v in errors.items() if k not in ours}
    return ours, {**peers, **flow_matching(oracle, x, exact, counts)}


def flow(tableau: str) -> Preset:
    """Return a Runge-Kutta method in the flow."""
    return lambda process, times: R.runge_kutta(process, times, tableau, "flow")


def adams_in_time(process: Gaussian, times: Tensor) -> Table:
    """Return Adams-Bashforth of order 3 on dx/dt, uncorrected."""
    return A.adams(process, times, 3, "flow", "time", corrector=False)


def flow_matching(oracle: Oracle, x: Tensor, exact: Tensor, counts: tuple[int, ...]) -> dict[str, float]:
    """Return the errors of `flow_matching`'s ODE solver, if installed; its time runs from noise 0 to data 1."""
    if importlib.util.find_spec("flow_matching") is None:
        return {}
    solver: Any = importlib.import_module("flow_matching.solver")
    wrapper: Any = importlib.import_module("flow_matching.utils").ModelWrapper

    class Field(wrapper):
        def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
            time = (1 - t).clamp(min=1e-12)
            return -oracle(x, time).output("flow", x, time, RF)

    found = {}
    for method, cost in (("midpoint", 2), ("heun3", 3), ("rk4", 4)):
        for n in counts:
            grid = torch.linspace(0, 1, n // cost + 1, dtype=torch.float64)
            end = solver.ODESolver(velocity_model=Field(None)).sample(
                x_init=x, time_grid=grid, method=method, step_size=None
            )
            found[f"flow_matching {method} {n}"] = rms(end, exact)
    return found


def guided(case: dict, counts: tuple[int, ...]) -> tuple[dict, dict]:
    """Return errors under guidance of scale 7.5 towards two of the five components, from 80 to 0.002."""
    mixture, chosen, scale = case["mixture"], [0, 1], 7.5
    free, conditional = Oracle(mixture, VE), Oracle(mixture.restrict(chosen), VE)

    def predict(x: Tensor, t: Tensor) -> GaussianPrediction:
        D = free(x, t).mean
        return GaussianPrediction(D + scale * (conditional(x, t).mean - D))

    y = np.array(case["y_start"])
    exact = torch.from_numpy(exact_flow(mixture, y, 80.0, 0.002, (chosen, scale)))
    return exploding(predict, torch.from_numpy(y), exact, counts)


def run(full: bool) -> Result:
    """Measure errors at 5, 10, 20 and 40 evaluations; `full` adds the sharp mixture."""
    cases, counts = golden(), (5, 10, 20, 40)
    figures: dict[str, Any] = {}
    peers: dict[str, Any] = {}
    for name in ("mild", "sharp") if full else ("mild",):
        case = cases[name]
        start, end = (torch.tensor(case[k], dtype=torch.float64) for k in ("y_start", "y_end_exact"))
        figures[f"exploding {name}"], peers[f"exploding {name}"] = exploding(
            Oracle(case["mixture"], VE), start, end, counts
        )
        figures[f"rectified {name}"], peers[f"rectified {name}"] = rectified(case, counts)
    figures["guided mild"], peers["guided mild"] = guided(cases["mild"], counts)
    bars = judge(figures, peers)
    notes = (
        "RMS over 8 starts in 4 dimensions. Peers on their best of six grids (rectified flow: equal steps of t), ours "
        "on the grid named in the bar, both chosen on this very mixture. An analytic target says nothing "
        "about the quality of a learned model."
    )
    return Result(figures, bars, {"*": "RMS distance from the exact flow"}, peers, notes=notes)


def judge(figures: dict[str, Any], peers: dict[str, Any]) -> list[Bar]:
    """Return what was asked of the figures."""
    ve, rf, w = (figures[k] for k in ("exploding mild", "rectified mild", "guided mild"))
    grid = "rectified time"
    return [
        Bar("rectified flow, adams3, 10 evaluations", rf["adams3 10"], "<=", 6e-4),
        Bar("rectified flow, adams3, 20 evaluations", rf["adams3 20"], "<=", 4.5e-5),
        Bar("80 to 0.002, adams3, 10 evaluations, equal steps of rectified time", ve[f"adams3 10 {grid}"], "<=", 6e-4),
        Bar("80 to 0.002, adams3, 20 evaluations, equal steps of rectified time", ve[f"adams3 20 {grid}"], "<=", 4e-5),
        Bar("guidance 7.5, adams2, 10 evaluations, best of six grids", best(w, "adams2 10"), "<=", 3.5e-2),
        Bar("rectified flow, 10: ours / best peer", rf["adams3 10"] / best(peers["rectified mild"], "", 10), "<", 1.0),
        Bar("rectified flow, 20: ours / best peer", rf["adams3 20"] / best(peers["rectified mild"], "", 20), "<", 1.0),
        Bar(
            "80 to 0.002, 10: ours / best peer",
            ve[f"adams3 10 {grid}"] / best(peers["exploding mild"], "", 10),
            "<",
            1.0,
        ),
        Bar(
            "80 to 0.002, 20: ours / best peer",
            ve[f"adams3 20 {grid}"] / best(peers["exploding mild"], "", 20),
            "<",
            1.0,
        ),
        Bar("guidance 7.5, 10: ours / best peer", best(w, "adams2 10") / best(peers["guided mild"], "", 10), "<", 1.0),
    ]


def best(errors: dict[str, float], start: str, count: int | None = None) -> float:
    """Return the smallest error among those whose name begins with `start` or has `count` evaluations."""
    return min(v for k, v in errors.items() if k.startswith(start) and (count is None or str(count) in k.split()))
