"""Flow maps: networks that jump along the probability flow in one evaluation.

**Consistency.** `f(x_t, t)` returns the data at the end of the path through `x_t`: constant along a path, the identity
at `t = 0`. Two neighbouring times s < t give the loss

    L = E d( f(x_t, t),  stop f_target(x_s, s) ),

where `x_s` is one step of a teacher's solver from `x_t` (**distillation**) or shares the noise of `x_t`
(**training**). The boundary condition is built in by `Consistent`: `f = c_skip x + c_out F` with the coefficients of
Karras et al., shifted so that `f(x, t_min) = x`.

**Mean flow.** The average velocity from t back to r, `z_r = x_t - (t - r) u(x_t, r, t)`, obeys

    u = v - (t - r) du/dt,      du/dt = v ∂_x u + ∂_t u,

for the rectified flow; `v = eps - x_0` replaces the marginal velocity in expectation. The derivative along the path is
a Jacobian-vector product or a central difference.

References: Song et al., 2023, arXiv:2303.01469; Song and Dhariwal, 2023, arXiv:2310.14189 (training without a teacher,
pseudo-Huber); Geng et al., 2025, arXiv:2505.13447 (mean flow).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.denoiser import GaussianPrediction
from core.errors import UsageError
from core.noise import Stream
from core.process.categorical import at_sites
from core.process.gaussian import Gaussian, Rectified
from core.transition import GaussianTransition

__all__ = ["AverageVelocity", "Consistent", "consistency_loss", "draw_pairs", "mean_flow_loss"]

Metrics = dict[str, Tensor]
Map = Callable[..., GaussianPrediction]
AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, r [B], t [B]) to u


@dataclass(frozen=True)
class Consistent:
    """A network as a consistency function: data from `x_t` in one evaluation, `f(x, t_min) = x / alpha`.

    With `s = sigma / alpha` and `d = s - s_min`: `f = sigma_d^2 / (d^2 + sigma_d^2) x / alpha + sigma_d d / r' F`,
    `r' = (s^2 + sigma_d^2)^{1/2}` (Song et al., 2023, appendix C).

    Args:
        network: (x [B, ...], c, context) to a tensor like x.
        process: the corruption; alpha_t > 0 where it is called.
        t_min: the time that counts as data.
    """

    network: Callable[..., Tensor]
    process: Gaussian
    t_min: float = 1e-3

    def __call__(self, x_t: Float[Tensor, "b ..."], t: Tensor | float, context: Any = None) -> GaussianPrediction:
        """Jump from `x_t` [B, ...] at `t` to the data."""
        path, std, time = self.process.schedule, self.process.data_std, at_sites(t, x_t)
        s = path.sigma(time) / path.alpha(time)
        d = s - path.sigma(self.t_min) / path.alpha(self.t_min)
        r = torch.hypot(s, torch.full_like(s, std))
        y = x_t / path.alpha(time).to(x_t)
        label = self.process.angle(torch.as_tensor(t, dtype=torch.float64)) * (2 / math.pi)
        output = self.network(y / r.to(x_t), label.to(x_t), context)
        skip, out = std**2 / (d.square() + std**2), std * d / r
        return GaussianPrediction(skip.to(x_t) * y + out.to(x_t) * output)


def draw_pairs(grid: Float[Tensor, " n"], stream: Stream) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Return neighbouring times `(t, s)` [B] of a falling `grid`, uniformly chosen for each sample."""
    i = (stream.uniform() * (len(grid) - 1)).long()
    return grid.to(stream.device)[i], grid.to(stream.device)[i + 1]


def consistency_loss(
    student: Map,
    target: Map,
    process: Gaussian,
    x_0: Float[Tensor, "b ..."],
    stream: Stream,
    grid: Float[Tensor, " n"],
    *,
    teacher: Map | None = None,
    context: object = None,
    huber: float | None = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the consistency loss over neighbouring times of `grid`, with its metrics.

    Args:
        student: learns.
        target: the same function with older or equal weights; gets no gradient.
        process: the corruption.
        x_0: data [B, ...].
        stream: noise of B samples.
        grid: falling times with 0 < alpha, ending at the student's `t_min`.
        teacher: a denoiser whose DDIM step leads from t to s; None for training without one.
        context: what all are told.
        huber: constant `c` of the pseudo-Huber distance; `0.00054 sqrt(d)` (Song and Dhariwal) by default.
    """
    t, s = draw_pairs(grid, stream.fold(0))
    eps = process.couple(tuple(x_0.shape[1:]), stream.fold(1)).to(x_0)
    x_t = process.corrupt(x_0, t, eps)
    with torch.no_grad():
        if teacher is None:
            x_s = process.corrupt(x_0, s, eps)
        else:
            x_s = GaussianTransition.step(process, teacher(x_t, t, context), x_t, t, s, eta=0.0).mean
        goal = target(x_s, s, context).mean
    found = student(x_t, t, context).mean
    square = (found - goal).square().flatten(1).sum(-1)
    c = 0.00054 * math.sqrt(math.prod(x_0.shape[1:])) if huber is None else huber
    distance = (square + c * c).sqrt() - c
    weight = float(grid[0] - grid[-1]) / ((len(grid) - 1) * (t - s))  # short steps count more; 1 on equal steps
    loss = (weight.to(distance) * distance).mean()
    return loss, {"loss": loss.detach(), "distance": square.mean().sqrt().detach()}


def mean_flow_loss(
    average: AverageVelocity,
    process: Gaussian,
    x_0: Float[Tensor, "b ..."],
    stream: Stream,
    *,
    plain: float = 0.5,
    derivative: Literal["jvp", "central"] = "central",
    step: float = 5e-3,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the mean-flow loss on the rectified flow, with its metrics.

    Args:
        average: u(x_t [B, ...], r [B], t [B]).
        process: must be the rectified flow, whose paths are straight lines.
        x_0: data [B, ...].
        stream: noise of B samples.
        plain: share of samples with r = t, which is flow matching.
        derivative: how du/dt along the path is taken; `central` needs no forward-mode differentiation.
        step: of the central difference.

    Raises:
        UsageError: another process.
    """
    if not isinstance(process.schedule, Rectified):
        raise UsageError("mean flow is written for the rectified flow", field="process", value=process.schedule)
    u = stream.fold(0).uniform(3).to(x_0)
    t, r = u[:, :2].amax(-1), u[:, :2].amin(-1)
    r = torch.where(u[:, 2] < plain, t, r)
    eps = process.couple(tuple(x_0.shape[1:]), stream.fold(1)).to(x_0)
    x_t, v = process.corrupt(x_0, t, eps), eps - x_0
    with torch.no_grad():
        change = along(average, x_t, r, t, v, derivative, step)
        goal = v - (t - r).reshape(-1, *[1] * (x_0.ndim - 1)) * change
    square = (average(x_t, r, t) - goal).square().flatten(1).mean(-1)
    return square.mean(), {"loss": square.mean().detach(), "plain": square[r == t].detach().mean()}


def along(
    average: AverageVelocity,
    x: Float[Tensor, "*x"],
    r: Float[Tensor, " b"],
    t: Float[Tensor, " b"],
    v: Float[Tensor, "*x"],
    derivative: str,
    step: float,
) -> Float[Tensor, "*x"]:
    """Return `v ∂_x u + ∂_t u` at (x, r, t)."""
    if derivative == "jvp":
        return torch.func.jvp(lambda x, t: average(x, r, t), (x, t), (v, torch.ones_like(t)))[1]
    return (average(x + step * v, r, t + step) - average(x - step * v, r, t - step)) / (2 * step)
