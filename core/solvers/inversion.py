"""Exact inversion: a sampler whose every step can be undone.

With `a_i = alpha_{i+1} / alpha_i`, `b_i = sigma_{i+1} - a_i sigma_i` the step of DDIM is `a_i x_i + b_i e_i`, and its
reverse from the same evaluation `(x_i - b_{i-1} e_i) / a_{i-1}`. Bidirectional integration (BDIA) combines both,

    x_{i+1} = gamma x_{i-1} + (a_i - gamma / a_{i-1}) x_i + (b_i + gamma b_{i-1} / a_{i-1}) e(x_i, t_i),

which is linear in `x_{i-1}`: knowing two neighbouring states, the next follows in either direction from one evaluation.
Noise to data and back is exact up to rounding, and rounding grows like `gamma^-N`. Order 2 at gamma = 1.

A state is therefore a `Pair`. The pair at the data end holds what the data alone cannot: the sampler's own last but
one state.

Reference: Zhang, Niwa and Kleijn, 2023, arXiv:2307.10829.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import UsageError
from core.process.gaussian import Gaussian
from core.sample import Estimate
from core.solvers.adams import Grid, Times

__all__ = ["Bidirectional", "Pair"]


@dataclass(frozen=True, eq=False)
class Pair:
    """The state `x` [B, ...] at one end of the grid and its `neighbour`, one step inside."""

    x: Float[Tensor, "*x"]
    neighbour: Float[Tensor, "*x"]


@dataclass(frozen=True)
class Bidirectional:
    """BDIA over a grid of N steps; `gamma` in (0, 1]."""

    grid: Grid
    gamma: float = 1.0

    @classmethod
    def over(cls, process: Gaussian, times: Times, gamma: float = 1.0) -> Bidirectional:
        """Return the sampler over `times`, falling from noise to data.

        Raises:
            UsageError: rounding would show, `gamma^-N eps > 1e-6`, or there are fewer than two steps.
        """
        grid = Grid.of(process, times)
        steps = len(grid.times) - 1
        if not 0 < gamma <= 1 or steps < 2 or gamma**-steps * 2.0**-52 > 1e-6:
            hint = "take gamma nearer to 1 or fewer steps"
            raise UsageError("cannot be inverted to 1e-6", field="gamma", value=(gamma, steps), hint=hint)
        return cls(grid, gamma)

    def sample(self, predict: Estimate, x: Float[Tensor, "b ..."]) -> Pair:
        """Return the pair at the data end, from noise `x` [B, ...] at the first time."""
        a, d = self.grid.first_order(0, 1)
        return self.forward(predict, Pair(x, a * x + d * predict(x, self._time(0)).mean))

    def encode(self, predict: Estimate, x: Float[Tensor, "b ..."]) -> Pair:
        """Return the pair at the noise end, from data `x` [B, ...] at the last time; `forward` gives `x` back."""
        n = len(self.grid.times) - 1
        at = n if self.grid.sigma[n] > 0 else n - 1  # noise is not defined on clean data
        e = self._noise(predict, x * float(self.grid.alpha[at] / self.grid.alpha[n]), at)
        carry = float(self.grid.alpha[n - 1] / self.grid.alpha[n])
        return self.backward(
            predict, Pair(x, carry * x + float(self.grid.sigma[n - 1] - carry * self.grid.sigma[n]) * e)
        )

    def forward(self, predict: Estimate, pair: Pair) -> Pair:
        """Return the pair at the data end, from the pair at the noise end."""
        before, now = pair.x, pair.neighbour
        for i in range(1, len(self.grid.times) - 1):
            a, b = self._coefficients(i)
            before, now = now, self.gamma * before + a * now + b * self._noise(predict, now, i)
        return Pair(now, before)

    def backward(self, predict: Estimate, pair: Pair) -> Pair:
        """Return the pair at the noise end, from the pair at the data end: the inverse of `forward`."""
        after, now = pair.x, pair.neighbour
        for i in range(len(self.grid.times) - 2, 0, -1):
            a, b = self._coefficients(i)
            after, now = now, (after - a * now - b * self._noise(predict, now, i)) / self.gamma
        return Pair(now, after)

    def _coefficients(self, i: int) -> tuple[float, float]:
        alpha, sigma = self.grid.alpha, self.grid.sigma
        a, back = alpha[i + 1] / alpha[i], alpha[i - 1] / alpha[i]
        b = sigma[i + 1] - a * sigma[i] + self.gamma * (sigma[i] * back - sigma[i - 1])
        return float(a - self.gamma * back), float(b)

    def _noise(self, predict: Estimate, x: Tensor, i: int) -> Tensor:
        return (x - float(self.grid.alpha[i]) * predict(x, self._time(i)).mean) / float(self.grid.sigma[i])

    def _time(self, i: int) -> Tensor:
        return torch.tensor(self.grid.times[i], dtype=torch.float64)
