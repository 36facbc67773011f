"""Sampling from a posterior: inverse problems `y = A(x_0) + noise`, solved by a prior that knows nothing of `A`.

**Moment matching** (`MomentMatching`). Given `x_t`, take `x_0 ~ N(D, V)` with the covariance that Tweedie's formula
gives, `V = sigma^2 / alpha · dD/dx_t`. Then for linear `A` and noise `N(0, s^2)`

    E[x_0 | x_t, y] = D + V A^T (s^2 + A V A^T)^{-1} (y - A D),

exact where the prior is Gaussian. `V` is only multiplied with vectors (one backward pass), and the system is solved by
conjugate gradients, each sample with its own scalars.

**Diffusion posterior sampling** (`Residual`) follows the gradient of the misfit instead, `D - scale sigma^2 / alpha
∇ |y - A(D)|`, with one norm for each sample: cheap, any `A`, no exact law.

**Descent** (`descend`) moves the prediction of x_0 itself down any misfit, in steps of one length for each sample, and
leaves the network alone: its gradient is never taken, so a step costs an observation, not a pass.

**Inpainting** (`Known`) is the simplest case: known coordinates of `D` are what they are. They come out exactly.

A posterior is undefined at alpha = 0, where `sigma^2 / alpha` is infinite: start a little below t = 1, as a grid's
`start` allows, with `Gaussian.prior(..., t=start)`.

References: Rozet et al., 2024, arXiv:2405.13712 (moment matching); Chung et al., 2022, arXiv:2209.14687 (DPS); Lugmayr
et al., 2022, arXiv:2201.09865 (inpainting); He et al., 2023, arXiv:2311.16424 (descent on the prediction).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.denoiser import GaussianPrediction
from core.guide.continuous import spread
from core.process.gaussian import Gaussian

__all__ = ["Known", "MomentMatching", "Residual", "descend"]

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Known:
    """A denoiser with the coordinates where `mask` is set replaced by those of `value`; both broadcast to [B, ...]."""

    denoiser: Callable[..., GaussianPrediction]
    mask: Bool[Tensor, " ..."]
    value: Float[Tensor, " ..."]

    def __call__(
        self, x_t: Float[Tensor, "b ..."], t: Float[Tensor, " ..."], context: Any = None
    ) -> GaussianPrediction:
        """Predict and replace."""
        prediction = self.denoiser(x_t, t, context)
        return replace(prediction, mean=torch.where(self.mask, self.value.to(prediction.mean), prediction.mean))


@dataclass(frozen=True)
class Residual:
    """A denoiser that follows the misfit of its own prediction, per sample."""

    denoiser: Callable[..., GaussianPrediction]
    process: Gaussian
    observe: Callable[[Tensor], Tensor]
    y: Float[Tensor, " ..."]
    scale: float = 1.0

    def __call__(
        self, x_t: Float[Tensor, "b ..."], t: Float[Tensor, " ..."], context: Any = None
    ) -> GaussianPrediction:
        """Predict and correct."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            prediction = self.denoiser(x, t, context)
            misfit = (self.y - self.observe(prediction.mean)).flatten(1).norm(dim=-1)
            (slope,) = torch.autograd.grad(misfit.sum(), x)
        change = self.scale * spread(self.process, x_t, t) * slope
        return replace(prediction, mean=prediction.mean.detach() - change)


def descend(
    x_0: Float[Tensor, "*x"], misfit: Callable[[Tensor], Tensor], rounds: int, rate: float
) -> Float[Tensor, "*x"]:
    """Return predictions [B, ...] moved down a misfit, each sample by itself.

    A step divides the gradient by its root mean square, so that `rate` is the length of a step per number; steps fall
    linearly to nothing.

    Args:
        x_0: predictions.
        misfit: from predictions [B, ...] to [B], differentiable; rows independent.
        rounds: steps.
        rate: of the first one.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x_0.detach().clone()
        for k in range(rounds):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(misfit(x).sum(), x)
            size = slope.flatten(1).square().mean(1).sqrt().clamp(min=1e-12).reshape(-1, *[1] * (x.ndim - 1))
            x = x - rate * (1 - k / rounds) * slope / size
    return x.detach()


@dataclass(frozen=True)
class MomentMatching:
    """A denoiser of the posterior given linear observations.

    Args:
        denoiser: the prior's, differentiable; rows of a batch independent.
        process: the corruption; alpha_t > 0 where it is called.
        observe: `A`, linear, from [B, ...] to [B, ...].
        y: observations [B, ...], or one that broadcasts.
        noise: standard deviation `s` of the observations.
        rounds: of conjugate gradients; as many as observed numbers are exact.
    """

    denoiser: Callable[..., GaussianPrediction]
    process: Gaussian
    observe: Linear
    y: Float[Tensor, " ..."]
    noise: float
    rounds: int = 3

    def __call__(
        self, x_t: Float[Tensor, "b ..."], t: Float[Tensor, " ..."], context: Any = None
    ) -> GaussianPrediction:
        """Predict and condition."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            prediction = self.denoiser(x, t, context)
            D = prediction.mean
            clean = torch.zeros_like(D, requires_grad=True)
            seen = self.observe(clean)
        gain = spread(self.process, x_t, t)

        def lift(u: Tensor) -> Tensor:
            """Return `V A^T u`: `dD/dx` is symmetric, so a product with its transpose will do."""
            (back,) = torch.autograd.grad(seen, clean, u, retain_graph=True)
            return gain * torch.autograd.grad(D, x, back, retain_graph=True)[0]

        def system(u: Tensor) -> Tensor:
            return self.noise**2 * u + self.observe(lift(u))

        rest = self.y - self.observe(D.detach())
        return replace(prediction, mean=D.detach() + lift(conjugate_gradients(system, rest, self.rounds)))


def conjugate_gradients(system: Linear, b: Float[Tensor, "*x"], rounds: int) -> Float[Tensor, "*x"]:
    """Solve `system(u) = b` [B, ...] for each sample, `system` symmetric and positive."""
    u, r = torch.zeros_like(b), b
    p, square = r, _dot(r, r)
    for _ in range(rounds):
        image = system(p)
        curve = _dot(p, image)
        step = torch.where(curve > 0, square / curve.clamp(min=torch.finfo(b.dtype).tiny), 0.0)
        u, r = u + step * p, r - step * image
        new = _dot(r, r)
        ratio = torch.where(square > 0, new / square.clamp(min=torch.finfo(b.dtype).tiny), 0.0)
        p, square = r + ratio * p, new
    return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(-1).reshape(-1, *[1] * (a.ndim - 1))
