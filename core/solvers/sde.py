"""Stochastic solvers of order 1 as tables, and where their noise goes.

| name | step | reference |
|---|---|---|
| `ancestral` | Bayes' rule with `D` for `x_0`, its width times eta | Ho et al., 2020, arXiv:2006.11239 |
| `ping_pong` | `alpha_s D + sigma_s z`: all noise anew | Song et al., 2023, arXiv:2303.01469, algorithm 1 |

Higher orders are `core.solvers.adams.dpmpp_sde`. The noise of row i of sample n is a function of (seed, n, i).
"""

from __future__ import annotations

import math

from core.plan import Row, Table
from core.process.gaussian import Gaussian
from core.solvers.adams import Grid, Times

__all__ = ["ancestral", "ping_pong"]


def ancestral(process: Gaussian, times: Times, eta: float = 1.0) -> Table:
    """Return the reverse Markov chain; `eta` 1 is Bayes' rule, 0 DDIM."""
    grid, rows = Grid.of(process, times), []
    for i, (t, s) in enumerate(zip(grid.times, grid.times[1:], strict=False)):
        c = eta * math.sqrt(float(process.bridge(t, s)[2]))
        a = math.sqrt(max(float(grid.sigma[i + 1]) ** 2 - c * c, 0.0)) / float(grid.sigma[i])
        rows.append(Row(t, 0.0, 1.0, a, (float(grid.alpha[i + 1]) - a * float(grid.alpha[i]),), c=c))
    return Table(tuple(rows), grid.times[-1])


def ping_pong(process: Gaussian, times: Times) -> Table:
    """Return the sampler of consistency models: predict, add fresh noise, predict."""
    grid, rows = Grid.of(process, times), []
    for i, t in enumerate(grid.times[:-1]):
        rows.append(Row(t, 0.0, 1.0, 0.0, (float(grid.alpha[i + 1]),), c=float(grid.sigma[i + 1])))
    return Table(tuple(rows), grid.times[-1])
