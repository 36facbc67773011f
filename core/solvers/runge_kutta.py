"""One-step solvers of the probability-flow ODE as tables: Runge-Kutta and exponential Runge-Kutta.

**Runge-Kutta** in the variable in which the linear part is gone: with `g = alpha, r, 1` and `u = rho, phi, t` for
`noise`, `velocity` and `flow` (`core.solvers.adams`), `d(x / g) / du = P`. A Butcher tableau `(c, A, b)` gives

    x_j / g_j = x_t / g_t + du sum_l A_jl P_l,     u_j = u_t + c_j du.

In `noise` this is Heun's method of Karras et al. (2022, arXiv:2206.00364), in `flow` what flow matching libraries call
midpoint and RK4, in `velocity` the same in the network's own output.

**Exponential** (`singlestep`): stages at fractions of the step in lambda, each the exact integral of the line through
the first and the last prediction: DPM-Solver-2 and -3 (Lu et al., 2022, arXiv:2206.00927) and DPM-Solver++ 2S and 3S
(arXiv:2211.01095).

A step that starts in pure noise or has a stage on clean data (where `P` is not defined) is one of order 1. In `noise`
and for `singlestep` there is no other, rho and lambda being infinite in pure noise; in `velocity` and `flow`, whose
variables are finite there, it is how these tables begin. It errs by the square of its length, so that from alpha = 0
all methods are of order 2 at most. A grid that starts a little below t = 1 keeps the order; `core.solvers.adams` is
not bound by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from core.errors import UsageError
from core.plan import Row, Table
from core.process.gaussian import Gaussian
from core.solvers.adams import Clock, Grid, Rule, Space, Times, weights

__all__ = ["TABLEAUX", "Tableau", "dpm_solver", "dpmpp_single", "heun", "runge_kutta", "singlestep"]

Tableau = tuple[tuple[float, ...], ...]  # the rows of A below the first, then b

TABLEAUX: dict[str, Tableau] = {
    "euler": ((1.0,),),
    "midpoint": ((0.5,), (0.0, 1.0)),
    "heun": ((1.0,), (0.5, 0.5)),
    "heun3": ((1 / 3,), (0.0, 2 / 3), (1 / 4, 0.0, 3 / 4)),
    "rk4": ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
HOLD = (1.0, ())


def runge_kutta(
    process: Gaussian,
    times: Times,
    tableau: str = "heun",
    space: Literal["noise", "velocity", "flow"] = "velocity",
) -> Table:
    """Return the explicit Runge-Kutta method `tableau` of `TABLEAUX` over the steps between `times`.

    Raises:
        UsageError: no tableau has this name, or the space is `data`.
    """
    if tableau not in TABLEAUX:
        raise UsageError("unknown", field="tableau", value=tableau, choices=TABLEAUX)
    own: dict[str, Clock] = {"noise": "rho", "velocity": "angle", "flow": "time"}
    if space not in own:
        raise UsageError("has no Runge-Kutta form", field="space", value=space, choices=own)
    grid, rows = Grid.of(process, times), []
    for t, s in zip(grid.times, grid.times[1:], strict=False):
        inner = _inner(process, t, s, TABLEAUX[tableau], own[space])
        if not inner:
            rows.append(_first_order(process, t, s, space))
            continue
        rows += _stages(process, t, s, inner[1:], TABLEAUX[tableau], space)
    return Table(tuple(rows), grid.times[-1])


def heun(process: Gaussian, times: Times) -> Table:
    """Return Heun's method in rho, the deterministic sampler of Karras et al., 2022."""
    return runge_kutta(process, times, "heun", "noise")


def singlestep(
    process: Gaussian, times: Times, fractions: Sequence[float], space: Space, rule: Rule = "exact"
) -> Table:
    """Return the exponential method with stages at `fractions` of each step in lambda."""
    grid, rows = Grid.of(process, times), []
    for t, s in zip(grid.times, grid.times[1:], strict=False):
        lam_t, lam_s = (float(v) for v in Grid.of(process, (t, s)).clocks["log_snr"])
        if not (math.isfinite(lam_t) and math.isfinite(lam_s)):
            rows.append(_first_order(process, t, s, space))
            continue
        inner = [float(process.schedule.inverse(lam_t + r * (lam_s - lam_t))) for r in fractions]
        step = Grid(process, (t, *inner, s))
        for j in range(len(fractions) + 1):
            nodes = [0] if j == 0 else [j, 0]
            found = weights(step, 0, j + 1, nodes, space, "log_snr", 0.0, rule)
            b = (found[0],) if j == 0 else (found[0], *[0.0] * (j - 1), found[1])
            anchor = None if j == 0 else HOLD
            rows.append(Row(step.times[j], *step.read(j, space), step.carry(0, j + 1, space), b, anchor=anchor))
    return Table(tuple(rows), grid.times[-1])


def dpm_solver(process: Gaussian, times: Times, order: int = 2) -> Table:
    """Return DPM-Solver-1, -2 or -3: `order` evaluations a step."""
    return singlestep(process, times, _fractions(order), "noise", "midpoint" if order == 2 else "exact")


def dpmpp_single(process: Gaussian, times: Times, order: int = 2) -> Table:
    """Return DPM-Solver++ 1, 2S or 3S: `order` evaluations a step."""
    return singlestep(process, times, _fractions(order), "data", "midpoint" if order == 2 else "exact")


FRACTIONS: dict[int, tuple[float, ...]] = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}


def _fractions(order: int) -> tuple[float, ...]:
    if order not in FRACTIONS:
        raise UsageError("no singlestep method of this order", field="order", value=order, choices=FRACTIONS)
    return FRACTIONS[order]


def _time(process: Gaussian, u: float, clock: Clock) -> float:
    """Return the time at which `clock` reads `u`."""
    if clock == "time":
        return u
    if clock == "angle":
        return float(process.at_angle(u))
    return float(process.schedule.inverse(-torch.tensor(u, dtype=torch.float64).log()))


def _inner(process: Gaussian, t: float, s: float, tableau: Tableau, clock: Clock) -> list[float]:
    """Return the times of the stages, `t` first; nothing where the first or another is singular."""
    if float(process.schedule.alpha(t)) == 0:
        return []
    start, stop = (float(v) for v in Grid.of(process, (t, s)).clocks[clock])
    times = [t]
    for row in tableau[:-1]:
        c = math.fsum(row)
        times.append(_time(process, start + c * (stop - start), clock) if c < 1 else s)
    return [] if any(float(process.schedule.sigma(v)) == 0 for v in times) else times


def _first_order(process: Gaussian, t: float, s: float, space: Space) -> Row:
    grid = Grid(process, (t, s))
    a, d = grid.first_order(0, 1)
    return Row(t, *grid.read(0, space), a, d=d)


def _stages(process: Gaussian, t: float, s: float, inner: Sequence[float], tableau: Tableau, space: Space) -> list[Row]:
    """Return the rows of one Runge-Kutta step from t to s with its later stages at `inner`."""
    step = Grid(process, (t, *inner, s))
    last, rows = len(inner) + 1, []
    for j, row in enumerate(tableau):
        reach = step.total(0, last, space, 0.0) / step.carry(last, j + 1, space) ** -1  # g_{j+1} du
        b = tuple(reach * w for w in reversed(row))
        rows.append(
            Row(step.times[j], *step.read(j, space), step.carry(0, j + 1, space), b, anchor=HOLD if j else None)
        )
    return rows
