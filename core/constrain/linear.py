"""Affine sets of real vectors and the projection onto them: boundary values, balances, fields without divergence.

    S = {x : A x = b, x_F = c},      P(x) = argmin over S of sum_i w_i (y_i - x_i)^2.

Coordinates F are given outright; the others follow from

    y = x - W^{-1} A' (A W^{-1} A')^+ (A x - b)           on the coordinates that are free.

The small system is factored once, rows whose units are far apart (a pressure, a share) at one size. Rows that depend
on others (the divergence of a closed domain has one) are allowed as
long as they do not contradict them; a contradiction is refused before anything is sampled. P is linear but for a
constant, so `Projected`, a denoiser whose prediction is projected, keeps gradients, and composes with guidance.

For a Gaussian prediction N(D, v W^{-1}) the projection of its mean is the mean of its restriction to S: what `admit` is
for tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.sparse import csr_matrix, diags, identity, vstack
from scipy.sparse.linalg import splu
from torch import Tensor

from core.denoiser import GaussianPrediction
from core.errors import InfeasibleError, UsageError

__all__ = ["Affine", "Projected"]

APART = 1e4
"""How much larger a row may be than another before all are scaled: beside it the smaller would count as rounding."""


@dataclass(eq=False)
class Affine:
    """The set {x in R^n : A x = b, x_F = c}.

    Args:
        A: [m, n], sparse.
        b: [m].
        weight: of the coordinates, positive [n]; ones by default.
        where, value: F and c: coordinates that are given.

    Raises:
        UsageError: shapes do not fit, or a weight is not positive.
        InfeasibleError: the rows contradict each other or the given coordinates, or one of these is given two values.
    """

    A: Any  # scipy's sparse types do not check
    b: np.ndarray
    weight: Any = None
    where: Any = None
    value: Any = None

    def __post_init__(self) -> None:
        """Check the shapes and that the set is not empty."""
        self.A = csr_matrix(self.A, dtype=np.float64)
        self.b = np.asarray(self.b, np.float64)
        n = self.A.shape[1]
        self.weight = np.ones(n) if self.weight is None else np.asarray(self.weight, np.float64)
        self.where = np.zeros(0, np.int64) if self.where is None else np.asarray(self.where, np.int64)
        self.value = np.zeros(0) if self.value is None else np.asarray(self.value, np.float64)
        if self.b.shape != (self.A.shape[0],) or self.weight.shape != (n,) or self.where.shape != self.value.shape:
            raise UsageError("rows, values and weights do not fit", field="constraint", value=self.A.shape)
        if not (self.weight > 0).all():
            raise UsageError("must be positive", field="weight", value=float(self.weight.min()))
        if len(np.unique(self.where)) < len(self.where):
            self.where, self.value = _once(self.where, self.value)
        start = torch.zeros(n, dtype=torch.float64)
        gap = float(self.residual(self.project(start)).abs().max()) if self.A.shape[0] else 0.0
        if gap > 1e-8 * (1 + np.abs(self.b).max(initial=0) + np.abs(self.value).max(initial=0)):
            raise InfeasibleError("the conditions contradict each other", field="constraint", value=f"gap {gap:.2g}")

    @classmethod
    def fixed(cls, n: int, where: np.ndarray, value: np.ndarray) -> Affine:
        """Return the set of x in R^n with x[where] = value."""
        return cls(csr_matrix((0, n)), np.zeros(0), None, where, value)

    def __and__(self, other: Affine) -> Affine:
        """Return the intersection; weights are the other's where this one has only given coordinates."""
        where, value = _once(np.r_[self.where, other.where], np.r_[self.value, other.value])
        weight = self.weight if self.A.shape[0] else other.weight
        return Affine(vstack([self.A, other.A]), np.r_[self.b, other.b], weight, where, value)

    @cached_property
    def _system(self) -> tuple[csr_matrix, Callable[[np.ndarray], np.ndarray]]:
        """Return W^{-1} A' on the free coordinates and the solver of A W^{-1} A'."""
        free = np.ones(self.A.shape[1])
        free[self.where] = 0
        lift = csr_matrix(diags(free / self.weight) @ self.A.T)
        gram = csr_matrix(self.A @ lift)
        size = np.sqrt(gram.diagonal())
        if not len(size) or size.max() <= APART * size.min(where=size > 0, initial=np.inf):
            return lift, _solver(gram)
        unit = 1 / np.where(size > 0, size, 1.0)[:, None]
        solve = _solver(csr_matrix(gram.multiply(unit).multiply(unit.T)))
        return lift, lambda r: unit * solve(unit * r)

    def residual(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b m"]:
        """Return A x - b for x [..., n], [..., m]."""
        flat = x.detach().cpu().double().reshape(-1, x.shape[-1]).numpy()
        return torch.from_numpy((self.A @ flat.T).T - self.b).reshape(*x.shape[:-1], -1)

    def violations(self, x: Float[Tensor, "*b n"]) -> Float64[Tensor, "*b"]:
        """Return the largest violation of x [..., n], of rows and given coordinates: float64 [...]."""
        rows = self.residual(x).abs()
        given = (x.detach().cpu().double()[..., self.where] - torch.from_numpy(self.value)).abs()
        return torch.cat([rows, given, torch.zeros(*x.shape[:-1], 1, dtype=torch.float64)], -1).amax(-1)

    def project(self, x: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
        """Return the nearest point of the set to each x [..., n]; given coordinates come out exactly."""
        return _Project.apply(x, self)  # type: ignore[return-value]


def _once(where: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates in order, each once, and their values."""
    once, first, again = np.unique(where, return_index=True, return_inverse=True)
    if not np.allclose(value[first][again], value, rtol=1e-12, atol=1e-12):
        raise InfeasibleError("a coordinate is given two values", field="constraint")
    return once, value[first]


def _solver(gram: csr_matrix) -> Callable[[np.ndarray], np.ndarray]:
    """Return what solves `gram x = r` for r [m, B] in the row space."""
    m = len(gram.diagonal())
    if m <= 400:  # small: exact also where rows depend on each other
        dense = gram.toarray()
        return lambda r: np.linalg.lstsq(dense, r, rcond=1e-12)[0]
    scale = float(gram.diagonal().mean())
    factor = splu((gram + 1e-10 * scale * identity(m)).tocsc())

    def solve(r: np.ndarray) -> np.ndarray:
        x = factor.solve(r)
        for _ in range(3):  # refinement takes the small shift out again, where the row space allows it
            x = x + factor.solve(r - gram @ x)
        return x

    return solve


class _Project(torch.autograd.Function):
    """P(x); its derivative is (I - W^{-1} A' G^+ A) on the free coordinates, whose transpose is applied backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Affine) -> Tensor:
        ctx.own = own
        flat = x.detach().cpu().double().reshape(-1, x.shape[-1]).numpy().copy()
        flat[:, own.where] = own.value
        if own.A.shape[0]:
            lift, solve = own._system
            flat -= (lift @ solve((own.A @ flat.T) - own.b[:, None])).T
        return torch.from_numpy(flat).to(x).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        own: Affine = ctx.own
        g = grad[0].cpu().double().reshape(-1, grad[0].shape[-1]).numpy().copy()
        if own.A.shape[0]:
            lift, solve = own._system
            g -= (own.A.T @ solve(lift.T @ g.T)).T
        g[:, own.where] = 0
        return torch.from_numpy(g).to(grad[0]).reshape(grad[0].shape), None


@dataclass(frozen=True)
class Projected:
    """A denoiser whose prediction obeys an affine set; states [B, ...] are laid flat from the second axis on."""

    denoiser: Callable[..., GaussianPrediction]
    constraint: Affine

    def __call__(
        self, x_t: Float[Tensor, "b ..."], t: Float[Tensor, " ..."], context: Any = None
    ) -> GaussianPrediction:
        """Predict and project."""
        prediction = self.denoiser(x_t, t, context)
        mean = prediction.mean
        return replace(prediction, mean=self.constraint.project(mean.flatten(1)).reshape(mean.shape))
