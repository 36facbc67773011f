"""Solvers of real vectors by name, for recipes and command lines: each makes a table of a process and its times."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from core.errors import UsageError
from core.plan import Table
from core.process.gaussian import Gaussian
from core.solvers import adams, runge_kutta, sde
from core.solvers.adams import Times

__all__ = ["SOLVERS", "solver"]

SOLVERS: dict[str, Callable[..., Table]] = {
    "adams": adams.adams,
    "adams2": partial(adams.adams, order=2),
    "ddim": adams.ddim,
    "euler": partial(runge_kutta.runge_kutta, tableau="euler", space="flow"),
    "midpoint": partial(runge_kutta.runge_kutta, tableau="midpoint", space="flow"),
    "rk4": partial(runge_kutta.runge_kutta, tableau="rk4"),
    "heun": runge_kutta.heun,
    "lms": adams.lms,
    "deis": adams.deis,
    "unipc": adams.unipc,
    "ghvb": adams.ghvb,
    "dpm-2": partial(runge_kutta.dpm_solver, order=2),
    "dpm-3": partial(runge_kutta.dpm_solver, order=3),
    "dpm-2m": adams.dpm_multistep,
    "dpmpp-2s": partial(runge_kutta.dpmpp_single, order=2),
    "dpmpp-3s": partial(runge_kutta.dpmpp_single, order=3),
    "dpmpp-2m": adams.dpmpp,
    "dpmpp-3m": partial(adams.dpmpp, order=3, rule="exact"),
    "dpmpp-2m-sde": adams.dpmpp_sde,
    "ancestral": sde.ancestral,
    "ping-pong": sde.ping_pong,
}


def solver(name: str, process: Gaussian, times: Times, **options: Any) -> Table:
    """Return the table of the solver `name` of `SOLVERS` over `times`.

    Raises:
        UsageError: no solver has this name.
    """
    if name not in SOLVERS:
        raise UsageError("unknown solver", field="solver", value=name, choices=SOLVERS)
    return SOLVERS[name](process, times, **options)
