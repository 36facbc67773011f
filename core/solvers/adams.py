"""The coefficient engine: every multistep solver of the probability-flow ODE is a table of scalars.

With `P` the data `D`, the noise `e`, the velocity `v` or the flow `u`, the ODE is solved exactly by

    noise     x_s = (alpha_s / alpha_t) x_t + alpha_s ∫ e d rho                              rho = sigma / alpha
    data      x_s = (sigma_s / sigma_t) x_t + sigma_s ∫ e^lambda D d lambda                  lambda = -log rho
    velocity  x_s = (r_s / r_t) x_t + r_s ∫ v d phi                                          phi = the angle
    flow      x_s = x_t + ∫ u d t

An Adams method puts a polynomial through the last k predictions, in some clock (lambda, rho, phi or t), in the place of
`P`: `x_s = a x_t + sum_j b_j P_j` with `b_j = ∫ w l_j`, integrated here by Gauss-Legendre in float64. The corrector
(Adams-Moulton) repeats the step with the prediction at its end as one node more, which the next step needs anyway.
The reverse SDE of noise level eta adds `sigma_s (1 - e^{-2 eta h})^{1/2} z` and replaces h by `(1 + eta) h` in `data`.

| preset | space, clock | reference |
|---|---|---|
| `ddim` | order 1 of any | Song et al., 2020, arXiv:2010.02502 |
| `lms` | noise, rho | Liu et al., 2022, arXiv:2202.09778 (rho-AB); k-diffusion's LMS |
| `dpm_multistep` | noise, lambda | Lu et al., 2022, arXiv:2206.00927 (multistep form) |
| `dpmpp`, `dpmpp_sde` | data, lambda | Lu et al., 2022, arXiv:2211.01095 |
| `deis` | noise, lambda | Zhang and Chen, 2022, arXiv:2204.13902 |
| `unipc` | data or noise, lambda, corrected | Zhao et al., 2023, arXiv:2302.04867 |
| `ghvb` | noise, rho, averaged over the past | Wizadwongsa and Suwajanakorn, 2023, arXiv:2307.11106 |
| `adams` | velocity, phi, corrected: the default | this library |

**Published variants** are rules for the weights: `midpoint` and `linear` replace two-node integrals by `(∫w) l(lambda +
h/2)` (DPM-Solver++ 2M; UniPC's B_2) and by the first term of their expansion (B_1); `curvature` scales the second
derivative in three-node integrals. It is 1/2 in the public implementations of DPM-Solver++ 3M, whose order it lowers
to 2 (and whose error it lowers at few steps).

Infinite clocks (lambda at pure noise or clean data) never enter: such nodes are dropped and the order falls with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from core.errors import UsageError
from core.plan import Row, Table
from core.process.gaussian import Gaussian

__all__ = [
    "CLOCKS", "RULES", "SPACES", "Clock", "Grid", "Rule", "Space", "adams", "ddim", "deis", "dpm_multistep", "dpmpp",
    "dpmpp_sde", "ghvb", "lms", "unipc", "weights",
]  # fmt: skip

Space = Literal["data", "noise", "velocity", "flow"]
Clock = Literal["log_snr", "rho", "angle", "time"]
Rule = Literal["exact", "midpoint", "linear"]
SPACES: tuple[Space, ...] = get_args(Space)
CLOCKS: tuple[Clock, ...] = get_args(Clock)
RULES: tuple[Rule, ...] = get_args(Rule)
NODES, MASS = (v.astype(np.float64) for v in np.polynomial.legendre.leggauss(32))
Times = Tensor | Sequence[float]


@dataclass(frozen=True)
class Grid:
    """Times in the order in which they are visited, with all that a coefficient can need of them, in float64."""

    process: Gaussian
    times: tuple[float, ...]

    @classmethod
    def of(cls, process: Gaussian, times: Times) -> Grid:
        """Check and keep `times`, falling strictly.

        Raises:
            UsageError: fewer than two times, or they do not fall.
        """
        values = tuple(float(t) for t in times)
        if len(values) < 2 or not all(s < t for t, s in zip(values, values[1:], strict=False)):
            raise UsageError("needs two or more times that fall strictly", field="times")
        return cls(process, values)

    @cached_property
    def alpha(self) -> np.ndarray:
        """Scale of the signal."""
        return self.process.schedule.alpha(self._t).numpy()

    @cached_property
    def sigma(self) -> np.ndarray:
        """Scale of the noise."""
        return self.process.schedule.sigma(self._t).numpy()

    @cached_property
    def radius(self) -> np.ndarray:
        """Scale of the state."""
        return self.process.radius(self._t).numpy()

    @cached_property
    def clocks(self) -> dict[str, np.ndarray]:
        """All clocks at all times."""
        with np.errstate(divide="ignore"):
            rho = self.sigma / self.alpha
        log_snr = self.process.schedule.log_snr(self._t).numpy()
        return {"log_snr": log_snr, "rho": rho, "angle": self.process.angle(self._t).numpy(), "time": self._t.numpy()}

    @cached_property
    def _t(self) -> Tensor:
        return torch.tensor(self.times, dtype=torch.float64)

    def read(self, i: int, space: Space) -> tuple[float, float]:
        """Return `(p, q)` such that `P = p x + q D` at time i, an evaluation."""
        p, q = self.process.linear("data", space, self._t[i])
        return float(p), float(q)

    def first_order(self, i: int, j: int) -> tuple[float, float]:
        """Return `(a, d)` of the step `x_j = a x_i + d D_i` of order 1, finite at alpha_i = 0 and sigma_j = 0."""
        a = self.sigma[j] / self.sigma[i]
        return float(a), float(self.alpha[j] - a * self.alpha[i])

    def clock(self, name: Clock, rho: np.ndarray) -> np.ndarray:
        """Return the clock `name` where sigma / alpha equals `rho`."""
        if name == "rho":
            return rho
        if name == "angle":
            return np.arctan(rho / self.process.data_std)
        with np.errstate(divide="ignore"):
            log_snr = -np.log(rho)
        return log_snr if name == "log_snr" else self.process.schedule.inverse(torch.from_numpy(log_snr)).numpy()

    def carry(self, i: int, j: int, space: Space, eta: float = 0.0) -> float:
        """Return `a`: what remains of `x_i` at time j."""
        if space == "noise":
            return float(self.alpha[j] / self.alpha[i])
        if space == "velocity":
            return float(self.radius[j] / self.radius[i])
        if space == "flow":
            return 1.0
        h = self.clocks["log_snr"][j] - self.clocks["log_snr"][i]
        return float(self.sigma[j] / self.sigma[i] * (math.exp(-eta * h) if eta else 1.0))

    def quadrature(self, i: int, j: int, space: Space, clock: Clock, eta: float) -> tuple[np.ndarray, np.ndarray]:
        """Return points of `clock` between times i and j, and the weights of the integral over `P` of `space`."""
        lam, name = self.clocks["log_snr"], {"noise": "rho", "velocity": "angle", "flow": "time"}
        if space == "data" or (space == "noise" and clock == "log_snr"):
            if clock == "log_snr":  # smooth in lambda, also over long steps
                x, w = _between(lam[i], lam[j])
                if space == "noise":
                    return x, -self.sigma[j] * np.exp(lam[j] - x) * w
                return x, self.alpha[j] * (1 + eta) * np.exp((1 + eta) * (x - lam[j])) * w
            y, w = _between(math.exp((1 + eta) * (lam[i] - lam[j])), 1.0)
            return self.clock(clock, self.clocks["rho"][j] * y ** (-1 / (1 + eta))), self.alpha[j] * w
        own = name[space]
        x, w = _between(self.clocks[own][i], self.clocks[own][j])
        scale = {"noise": self.alpha[j], "velocity": self.radius[j], "flow": 1.0}[space]
        if clock == own:
            return x, scale * w
        if own == "time":
            path, t = self.process.schedule, torch.from_numpy(x)
            rho = (path.sigma(t) / path.alpha(t)).numpy()
        else:
            rho = x if own == "rho" else np.tan(x) * self.process.data_std
        return self.clock(clock, rho), scale * w

    def total(self, i: int, j: int, space: Space, eta: float) -> float:
        """Return the integral of the weight: the coefficient of a constant `P`."""
        h = self.clocks["log_snr"][j] - self.clocks["log_snr"][i]
        if space == "data":
            return float(-self.alpha[j] * math.expm1(-(1 + eta) * h))
        if space == "noise":
            return float(self.alpha[j] * (self.clocks["rho"][j] - self.clocks["rho"][i]))
        if space == "velocity":
            return float(self.radius[j] * (self.clocks["angle"][j] - self.clocks["angle"][i]))
        return self.times[j] - self.times[i]


def _between(start: float, stop: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the points and weights of ∫ from `start` to `stop` (Gauss-Legendre)."""
    half = (stop - start) / 2
    return start + half * (1 + NODES), half * MASS


def _lagrange(nodes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the Lagrange basis of `nodes` [k] at points `x` [n]: [k, n]."""
    gaps = nodes[:, None] - nodes[None, :]
    np.fill_diagonal(gaps, 1.0)
    terms = x[None, None, :] - nodes[None, :, None]  # [1, m, n]
    terms = np.repeat(terms, len(nodes), 0)
    terms[np.arange(len(nodes)), np.arange(len(nodes))] = 1.0
    return terms.prod(1) / gaps.prod(1)[:, None]


def weights(
    grid: Grid, i: int, j: int, nodes: Sequence[int], space: Space, clock: Clock, eta: float = 0.0,
    rule: Rule = "exact", curvature: float = 1.0,
) -> list[float]:  # fmt: skip
    """Return `b`: the weights of the predictions at the times `nodes`, i among them, in the step from i to j.

    Nodes at which the clock is infinite are left out (weight 0); without any other, all weight is on i.
    """
    b = np.zeros(len(nodes))
    tau = grid.clocks[clock]
    use = [n for n, k in enumerate(nodes) if np.isfinite(tau[k])]
    if len(use) < 2 or (clock in {"log_snr", "rho"} and not np.isfinite(tau[[i, j]]).all()):
        b[nodes.index(i)] = grid.total(i, j, space, eta)
        return b.tolist()
    places = tau[[nodes[n] for n in use]]
    lam = grid.clocks["log_snr"]
    if len(use) == 2 and rule in {"midpoint", "linear"}:
        total, h = grid.total(i, j, space, eta), lam[j] - lam[i]
        moment = total * h / 2  # of lambda - lambda_i
        if rule == "linear":
            moment = (grid.alpha[j] if space == "data" else -grid.sigma[j]) * h * h / 2
        start = nodes.index(i)
        other = use[0] if use[1] == start else use[1]
        b[other] = moment / (lam[nodes[other]] - lam[i])
        b[start] = total - b[other]
        return b.tolist()
    x, w = grid.quadrature(i, j, space, clock, eta)
    basis = _lagrange(places, x)
    if curvature != 1 and len(use) == 3:
        gaps = places[:, None] - places[None, :]
        np.fill_diagonal(gaps, 1.0)
        basis = basis - (1 - curvature) * ((x - tau[i]) ** 2)[None] / gaps.prod(1)[:, None]
    b[use] = basis @ w
    return b.tolist()


def adams(
    process: Gaussian, times: Times, order: int | Sequence[int] = 3, space: Space | str = "velocity",
    clock: Clock | str = "angle", corrector: bool = True, eta: float = 0.0, rule: Rule = "exact",
    curvature: float = 1.0,
) -> Table:  # fmt: skip
    """Return the Adams solver of `order` over `times`.

    Args:
        process: the corruption.
        times: evaluation times and the last, falling strictly.
        order: predictions that are interpolated, in all steps or in each; fewer while there are fewer.
        space: what is interpolated.
        clock: in which variable.
        corrector: correct each step by the prediction at its end.
        eta: noise of the reverse SDE, 0 for the ODE, 1 for the reverse of the corruption; needs `data`.
        rule: how weights of two nodes are integrated; those but `exact` are expansions in the log-SNR.
        curvature: factor on the second derivative in weights of three nodes.

    Raises:
        UsageError: an unknown space, clock or rule; an order below 1 or not one for each step; eta outside of `data`;
            a rule but `exact` outside of `data` and `noise` in the log-SNR.
    """
    for field, value, choices in (("space", space, SPACES), ("clock", clock, CLOCKS), ("rule", rule, RULES)):
        if value not in choices:
            raise UsageError("unknown", field=field, value=value, choices=choices)
    grid = Grid.of(process, times)
    steps = len(grid.times) - 1
    orders = (order,) * steps if isinstance(order, int) else tuple(order)
    if len(orders) != steps or min(orders) < 1:
        raise UsageError("must be 1 or more, one for all steps or for each", field="order", value=order)
    if eta and (space != "data" or corrector):
        raise UsageError("noise needs space 'data' and no corrector", field="eta", value=eta)
    if rule != "exact" and (clock != "log_snr" or space not in {"data", "noise"}):
        raise UsageError("needs space 'data' or 'noise' and clock 'log_snr'", field="rule", value=rule)
    return _adams(grid, orders, space, clock, corrector, eta, rule, curvature)  # type: ignore[arg-type]


@lru_cache(256)
def _adams(
    grid: Grid, order: tuple[int, ...], space: Space, clock: Clock, corrector: bool, eta: float, rule: Rule,
    curvature: float,
) -> Table:  # fmt: skip
    steps = len(grid.times) - 1
    orders = [min(i + 1, k) for i, k in enumerate(order)]
    lam, rows = grid.clocks["log_snr"], []
    for i in range(steps):
        p, q = grid.read(i, space)
        anchor = None
        if corrector and i > 0:
            nodes = range(i, i - 1 - orders[i - 1], -1)
            anchor = _correction(grid, i, list(nodes), space, clock, rule)
        if space == "noise" and grid.alpha[i] == 0:
            a, d = grid.first_order(i, i + 1)
            rows.append(Row(grid.times[i], p, q, a, d=d))
            continue
        nodes = list(range(i, i - orders[i], -1))
        b = weights(grid, i, i + 1, nodes, space, clock, eta, rule, curvature)
        c = float(grid.sigma[i + 1] * math.sqrt(-math.expm1(-2 * eta * (lam[i + 1] - lam[i])))) if eta else 0.0
        rows.append(Row(grid.times[i], p, q, grid.carry(i, i + 1, space, eta), tuple(b), 0.0, c, anchor))
    return Table(tuple(rows), grid.times[-1])


def _correction(
    grid: Grid, i: int, nodes: list[int], space: Space, clock: Clock, rule: Rule
) -> tuple[float, tuple[float, ...]] | None:
    """Return the step from i - 1 to i with the prediction at i known; None where order 1 is all there is."""
    if clock in {"log_snr", "rho"} and not np.isfinite(grid.clocks[clock][[i - 1, i]]).all():
        return None
    if space == "noise" and grid.alpha[i - 1] == 0:
        return None
    return grid.carry(i - 1, i, space), tuple(weights(grid, i - 1, i, nodes, space, clock, 0.0, rule))


def ddim(process: Gaussian, times: Times) -> Table:
    """Return DDIM, the exponential Euler step of order 1."""
    return adams(process, times, 1, "data", "log_snr", corrector=False)


def lms(process: Gaussian, times: Times, order: int = 4) -> Table:
    """Return the linear multistep method in rho (Karras et al., 2022; rho-AB)."""
    return adams(process, times, order, "noise", "rho", corrector=False)


def deis(process: Gaussian, times: Times, order: int = 3) -> Table:
    """Return DEIS with polynomials in the log-SNR."""
    return adams(process, times, order, "noise", "log_snr", corrector=False)


def dpm_multistep(process: Gaussian, times: Times, order: int = 2) -> Table:
    """Return the multistep form of DPM-Solver, order 1 or 2 (3: DEIS)."""
    return adams(process, times, order, "noise", "log_snr", corrector=False, rule="midpoint")


def dpmpp(process: Gaussian, times: Times, order: int = 2, rule: Rule = "midpoint", curvature: float = 1.0) -> Table:
    """Return DPM-Solver++ 2M or 3M; curvature 1/2 gives 3M as public implementations have it."""
    return adams(process, times, order, "data", "log_snr", corrector=False, rule=rule, curvature=curvature)


def dpmpp_sde(
    process: Gaussian, times: Times, order: int = 2, eta: float = 1.0, rule: Rule = "midpoint", curvature: float = 1.0
) -> Table:
    """Return SDE-DPM-Solver++ 1, 2M or 3M."""
    return adams(process, times, order, "data", "log_snr", False, eta, rule, curvature)


def unipc(process: Gaussian, times: Times, order: int = 3, space: Space = "data", rule: Rule = "midpoint") -> Table:
    """Return UniPC with B_2 (`midpoint`) or B_1 (`linear`)."""
    return adams(process, times, order, space, "log_snr", corrector=True, rule=rule)


def ghvb(process: Gaussian, times: Times, order: int = 2, beta: float = 0.8) -> Table:
    """Return the generalised heavy-ball method: Adams on a running mean of the noise, of weight `beta`.

        V_n = (1 - beta) V_{n-1} + beta e_n,      y_{n+1} = y_n + (rho_{n+1} - rho_n) sum_k c_k ∇^k V_n,

    y = x / alpha, c_k = g_k + g_{k-1} (1 - beta) / beta with Adams' g = 1, 1/2, 5/12, 3/8. Of its order on grids that
    are uniform in rho, of order 2 at most on others.

    Raises:
        UsageError: order outside 1 to 4 or beta outside (0, 1].
    """
    if not 1 <= order <= 4 or not 0 < beta <= 1:
        raise UsageError("needs order 1 to 4 and 0 < beta <= 1", field="ghvb", value=(order, beta))
    g = (1.0, 1 / 2, 5 / 12, 3 / 8)
    c = [g[k] + (g[k - 1] * (1 - beta) / beta if k else 0.0) for k in range(4)]
    grid, rows, means = Grid.of(process, times), [], []
    for i, t in enumerate(grid.times[:-1]):
        unit = np.zeros(i + 1)  # V_i as weights of e_i, e_{i-1}, ..., e_0
        unit[0] = 1.0
        means.insert(0, unit if i == 0 else beta * unit + (1 - beta) * np.append(0.0, means[0]))
        means[1:] = [np.append(0.0, m) for m in means[1:4]]
        if grid.alpha[i] == 0:
            a, d = grid.first_order(i, i + 1)
            rows.append(Row(t, *grid.read(i, "noise"), a, d=d))
            continue
        b = np.zeros(i + 1)
        for k in range(min(order, i + 1)):
            b += c[k] * sum((-1) ** m * math.comb(k, m) * means[m] for m in range(k + 1))
        b *= grid.total(i, i + 1, "noise", 0.0)
        rows.append(Row(t, *grid.read(i, "noise"), grid.carry(i, i + 1, "noise"), tuple(b.tolist())))
    return Table(tuple(rows), grid.times[-1])
