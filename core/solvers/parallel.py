"""Parallel directions: a step that asks several points between its ends at once.

With y = x / alpha and rho = sigma / alpha the probability-flow ODE is dy / d rho = e(x, rho). A step from rho_t to
rho_s looks once at its start, d = e(x_t), walks along d to K points between and asks all of them in one batched call:

    rho_k = rho_s^{r_k} rho_t^{1 - r_k},   y_k = y_t + (rho_k - rho_t) d,
    y_s = y_t + (rho_s - rho_t) sum_k w_k g_k e(alpha_k y_k, rho_k),                 sum_k w_k = 1.

Two calls a step in time, K + 1 evaluations: of use where a batch costs little more than one row. The fractions r, the
weights w and the scales g (near 1) of every step are learned from a finer solution of the same noise (`fit`). One
direction with r = 1/2, g = 1 is the DPM2 of Karras et al. (2022), of order 2; a step that starts in pure noise or whose
end is clean data (rho infinite or 0) is one of order 1.

Reference: Zhu et al., 2025, arXiv:2507.14797 (EPD-Solver; its time scaling is left out, its first stage only).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.errors import UsageError
from core.process.gaussian import Gaussian
from core.sample import Estimate
from core.solvers.adams import Grid, Times

__all__ = ["Parallel", "fit"]


class Parallel(nn.Module):
    """A solver with K parallel directions in each step.

    Args:
        process: the corruption.
        times: ends of the steps, falling.
        directions: K.

    Raises:
        UsageError: K below 1, or times that do not fall.
    """

    def __init__(self, process: Gaussian, times: Times, directions: int = 2) -> None:
        super().__init__()
        if directions < 1:
            raise UsageError("must be 1 or more", field="directions", value=directions)
        self.process, self.grid, self.count = process, Grid.of(process, times), directions
        steps = len(self.grid.times) - 1
        spread = (torch.arange(directions, dtype=torch.float64) + 1) / (directions + 1)
        self.place = nn.Parameter(torch.logit(spread).repeat(steps, 1))
        self.share = nn.Parameter(torch.zeros(steps, directions, dtype=torch.float64))
        self.scale = nn.Parameter(torch.zeros(steps, directions, dtype=torch.float64))

    @property
    def calls(self) -> int:
        """Evaluations of one row."""
        rho = self.grid.clocks["rho"]
        inner = sum(1 for i in range(len(rho) - 1) if self._inner(i))
        return len(rho) - 1 + inner * self.count

    def _inner(self, i: int) -> bool:
        rho = self.grid.clocks["rho"]
        return bool(0 < rho[i + 1] and rho[i] < float("inf"))

    def forward(self, predict: Estimate, x: Float[Tensor, "*x"]) -> Float[Tensor, "*x"]:
        """Return the state [B, ...] at the last time, from that at the first; `predict` takes times of rows (B,)."""
        for i in range(len(self.grid.times) - 1):
            x = self.step(predict, x, i)
        return x

    def step(self, predict: Estimate, x: Float[Tensor, "*x"], i: int) -> Float[Tensor, "*x"]:
        """Return the state after step i."""
        g, here = self.grid, torch.full((len(x),), self.grid.times[i], dtype=torch.float64)
        mean = predict(x, here).mean
        if not self._inner(i):
            a, d = g.first_order(i, i + 1)
            return a * x + d * mean
        rho_t, rho_s = (float(v) for v in g.clocks["rho"][[i, i + 1]])
        y, noise = x / g.alpha[i], (x - g.alpha[i] * mean) / g.sigma[i]
        r = self.place[i].sigmoid()
        rho = rho_s**r * rho_t ** (1 - r)
        t = self.process.schedule.inverse(-rho.log())
        alpha, sigma = self.process.schedule.alpha(t), self.process.schedule.sigma(t)
        shape = (self.count, *[1] * x.ndim)
        y_k = y + (rho - rho_t).view(shape) * noise  # [K, B, ...]
        x_k = (alpha.view(shape) * y_k).to(x)
        found = predict(x_k.flatten(0, 1), t.repeat_interleave(len(x))).mean.reshape(x_k.shape)
        e = (x_k - alpha.view(shape) * found) / sigma.view(shape)
        weight = self.share[i].softmax(0) * (1 + self.scale[i])
        return (g.alpha[i + 1] * (y + (rho_s - rho_t) * (weight.view(shape) * e).sum(0))).to(x)


def fit(
    solver: Parallel, predict: Estimate, start: Callable[[int], Tensor], teacher: Callable[[Tensor], Tensor],
    rounds: int = 100, lr: float = 0.03,
) -> list[float]:  # fmt: skip
    """Learn where a solver looks from a finer solution; return the loss of each round.

    Args:
        solver: changed in place.
        predict: the denoiser, differentiable in the state and the time.
        start: from a round's number to states [B, ...] at the first time.
        teacher: from these to the states at the last time.
        rounds: gradient steps.
        lr: of Adam.
    """
    optimiser, losses = torch.optim.Adam(solver.parameters(), lr), []
    for n in range(rounds):
        x = start(n)
        with torch.no_grad():
            right = teacher(x)
        loss = (solver(predict, x) - right).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses
