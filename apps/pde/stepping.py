"""Time steps of `u_t = F(u, t)` with the boundary padded after every stage.

**Explicit.** The core's Butcher tableaux (`core.solvers.runge_kutta.TABLEAUX`): with `pad` the map that makes a state
obey its boundary conditions,

    y_j = pad(u + dt sum_l A_jl k_l),    k_j = F(y_j, t + c_j dt),    u' = pad(u + dt sum b_j k_j).

**Chebyshev** (RKC of order two; Sommeijer, Shampine and Verwer, 1997, J. Comput. Appl. Math. 88): s stages whose
stability polynomial is a shifted Chebyshev polynomial, so that diffusion is stable while dt |lambda| < 0.65 (s^2 - 1),
where s / 2 steps of Heun's method, of the same work, reach s:

    y_1 = pad(u + m~_1 dt k_0),
    y_j = pad((1 - m_j - n_j) u + m_j y_{j-1} + n_j y_{j-2} + m~_j dt k_{j-1} + g~_j dt k_0),        u' = y_s.

**IMEX** (ARS 2,2,2; Ascher, Ruuth and Spiteri, 1997), for stiff linear diffusion L: with g = 1 - 1/sqrt 2,
d = 1 - 1/(2 g),

    (1 - dt g L) y_1 = u + dt g N(u)
    (1 - dt g L) u'  = u + dt (1 - g) L y_1 + dt (d N(u) + (1 - d) N(y_1)).

The systems are factored once; gradients pass through the transposed solve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_matrix, csr_matrix, identity
from scipy.sparse.linalg import splu
from torch import Tensor

from core.errors import UsageError
from core.solvers.runge_kutta import TABLEAUX

__all__ = ["INTEGRATORS", "Imex", "chebyshev", "explicit"]

INTEGRATORS = (*TABLEAUX, "chebyshev", "imex")
Rate = Callable[[Tensor, Any], Tensor]
Pad = Callable[[Tensor, Any], Tensor]


def explicit(rate: Rate, pad: Pad, u: Tensor, t: Tensor | float, dt: float, tableau: str = "heun") -> Tensor:
    """Return the state one step later.

    Args:
        rate: (u [B, N, C], t) -> du/dt.
        pad: (u, t) -> u that obeys its boundary conditions.
        u: state at t.
        t, dt: time and step.
        tableau: of `core.solvers.runge_kutta.TABLEAUX`.
    """
    if tableau not in TABLEAUX:
        raise UsageError("unknown", field="integrator", value=tableau, choices=INTEGRATORS)
    *inner, last = TABLEAUX[tableau]
    slopes = [rate(u, t)]
    for row in inner:
        c = math.fsum(row)
        slopes.append(rate(pad(_ahead(u, dt, row, slopes), t + c * dt), t + c * dt))
    return pad(_ahead(u, dt, last, slopes), t + dt)


def _ahead(u: Tensor, dt: float, row: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    out = u
    for weight, slope in zip(row, slopes, strict=True):
        out = out + dt * weight * slope if weight else out
    return out


def chebyshev(rate: Rate, pad: Pad, u: Tensor, t: Tensor | float, dt: float, stages: int) -> Tensor:
    """Return the state one step later, by `stages` evaluations of the rate (at least 2); otherwise as `explicit`."""
    first, *more = _recursion(stages)
    start = rate(u, t)
    before, now = u, pad(torch.add(u, start, alpha=first[2] * dt), t + first[4] * dt)
    clock = t + first[4] * dt
    for m, n, slope, begin, c in more:
        ahead = torch.add((1 - m - n) * u, now, alpha=m).add(before, alpha=n)
        ahead = ahead.add(rate(now, clock), alpha=slope * dt).add(start, alpha=begin * dt)
        clock = t + c * dt
        before, now = now, pad(ahead, clock)
    return now


@cache
def _recursion(s: int) -> list[tuple[float, float, float, float, float]]:
    """Return (m_j, n_j, m~_j, g~_j, c_j) of the stages j = 1 ... s."""
    if s < 2:
        raise UsageError("needs two at least", field="stages", value=s)
    w0 = 1 + 2 / 13 / s**2  # damped a little, so that no mode stays as it is
    T, dT, ddT = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, s + 1):
        ddT.append(4 * dT[-1] + 2 * w0 * ddT[-1] - ddT[-2])
        dT.append(2 * T[-1] + 2 * w0 * dT[-1] - dT[-2])
        T.append(2 * w0 * T[-1] - T[-2])
    w1 = dT[s] / ddT[s]
    b = [ddT[max(j, 2)] / dT[max(j, 2)] ** 2 for j in range(s + 1)]
    out = [(0.0, 0.0, b[1] * w1, 0.0, b[1] * w1)]
    for j in range(2, s + 1):
        slope = 2 * b[j] * w1 / b[j - 1]
        begin = -(1 - b[j - 1] * T[j - 1]) * slope
        out.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], slope, begin, w1 * ddT[j] / dT[j]))
    return out


class _Solve(torch.autograd.Function):
    """x = A^{-1} b for a factored A."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, factor: Any) -> Tensor:
        ctx.factor = factor
        return torch.from_numpy(factor.solve(b.detach().cpu().double().numpy())).to(b)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        back = ctx.factor.solve(np.ascontiguousarray(grad[0].cpu().double().numpy()), "T")
        return torch.from_numpy(back).to(grad[0]), None


class Imex:
    """The IMEX step with implicit diffusion `coefficient_c lap u_c`.

    Args:
        lap: the Laplacian [N, N].
        coefficients: of each field, constant.
        dt: the step, which the factors are made for.
        fixed: bool [N, C], nodes whose value the padding sets: their rows are left out of L.
    """

    GAMMA = 1 - 1 / math.sqrt(2)

    def __init__(self, lap: csr_matrix, coefficients: list[float], dt: float, fixed: np.ndarray | None = None) -> None:
        self.dt, self.factors, self.matrices = dt, [], []
        for k, value in enumerate(coefficients):
            L = csr_matrix(lap * value)
            if fixed is not None:
                L = csr_matrix(L.multiply(~fixed[:, k : k + 1]))
            self.factors.append(splu(csc_matrix(identity(len(lap.indptr) - 1) - dt * self.GAMMA * L)))
            self.matrices.append(L)

    def solve(self, b: Tensor) -> Tensor:
        """Return (1 - dt g L)^{-1} b for b [B, N, C]."""
        columns = [_Solve.apply(b[..., k].T.contiguous(), f) for k, f in enumerate(self.factors)]
        return torch.stack([c.T for c in columns], -1)  # type: ignore[union-attr]

    def __call__(self, rest: Rate, pad: Pad, u: Tensor, t: Tensor | float) -> Tensor:
        """Return the state one step later; `rest` is the rate without the diffusion."""
        g, dt = self.GAMMA, self.dt
        d = 1 - 1 / (2 * g)
        first = rest(u, t)
        y = pad(self.solve(u + dt * g * first), t + g * dt)
        # L y from the stage equation itself where it holds: (y - u) / (dt g) - N(u) would carry the padding's jump
        linear = torch.stack([_Multiply.apply(y[..., k].T.contiguous(), L).T for k, L in enumerate(self.matrices)], -1)  # type: ignore[union-attr]
        second = rest(y, t + g * dt)
        return pad(self.solve(u + dt * ((1 - g) * linear + d * first + (1 - d) * second)), t + dt)


class _Multiply(torch.autograd.Function):
    """A x for a scipy matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: csr_matrix) -> Tensor:
        ctx.A = A
        return torch.from_numpy(A @ x.detach().cpu().double().numpy()).to(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return torch.from_numpy(ctx.A.T @ grad[0].cpu().double().numpy()).to(grad[0]), None
