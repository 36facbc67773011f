"""Guidance of real vectors by a condition: denoisers around a denoiser.

**Classifier-free.** With a conditional and an unconditional mean, guidance of strength `w` takes

    D_w = D_free + w (D_cond - D_free);

noise, velocity and flow are affine in `D`, so it does not matter which of them is mixed. `w = 0` ignores the condition,
1 obeys it, more exaggerates it. The weight may depend on the time: on an interval only (`between`), or such that a step
of DDIM from t to s becomes CFG++, which moves towards `D_w` with the *unconditional* noise:

    alpha_s D_w + sigma_s e_free   is   DDIM with weight   w / (1 - e^{-h}),   h = lambda_s - lambda_t.

`rescale` pulls the standard deviation of `D_w`, per sample, back to that of `D_cond`.

**Classifier.** By Bayes' rule the score of `p(x_t | y)` gains `∇ log p(y | x_t)`, hence `D += sigma^2 / alpha ∇ log p`.
Each sample is differentiated by itself.

References: Ho and Salimans, 2022, arXiv:2207.12598; Kynkaanniemi et al., 2024, arXiv:2404.07724 (interval); Chung et
al., 2024, arXiv:2406.08070 (CFG++); Lin et al., 2023, arXiv:2305.08891 (rescaling); Dhariwal and Nichol, 2021,
arXiv:2105.05233 (classifier).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.denoiser import GaussianPrediction
from core.process.categorical import at_sites
from core.process.gaussian import Gaussian
from core.solvers.adams import Grid, Times

__all__ = ["Classified", "Guided", "between", "plus_plus"]

Weight = Callable[[Tensor], Tensor | float]


def between(scale: float, low: float, high: float) -> Weight:
    """Return the weight `scale` at times in [low, high] and 1 outside."""
    return lambda t: torch.where((t >= low) & (t <= high), scale, 1.0)


def plus_plus(scale: float, process: Gaussian, times: Times) -> Weight:
    """Return the weight that makes DDIM over `times` the sampler CFG++ of strength `scale` in [0, 1]."""
    grid = Grid.of(process, times)
    lam = process.schedule.log_snr(torch.tensor(grid.times, dtype=torch.float64))
    rest = -torch.expm1(-(lam[1:] - lam[:-1]))
    starts = torch.tensor(grid.times[:-1], dtype=torch.float64)

    def weight(t: Tensor) -> Tensor:
        nearest = (torch.as_tensor(t, dtype=torch.float64)[..., None] - starts.to(t.device)).abs().argmin(-1)
        return scale / rest.to(t.device)[nearest]

    return weight


@dataclass(frozen=True)
class Guided:
    """A denoiser guided towards its own context.

    Args:
        denoiser: evaluated with the context and without its condition.
        scale: `w`, a number or a function of the time.
        drop: returns the context without the condition.
        rescale: share of the correction of the standard deviation, in [0, 1].
    """

    denoiser: Callable[..., GaussianPrediction]
    scale: float | Weight
    drop: Callable[[Any], Any] = lambda context: None
    rescale: float = 0.0

    def __call__(
        self, x_t: Float[Tensor, "b ..."], t: Float[Tensor, " ..."], context: Any = None
    ) -> GaussianPrediction:
        """Predict twice and mix."""
        conditional = self.denoiser(x_t, t, context)
        free = self.denoiser(x_t, t, self.drop(context)).mean
        w = self.scale(torch.as_tensor(t)) if callable(self.scale) else self.scale
        if isinstance(w, Tensor):
            w = at_sites(w, x_t).to(x_t)
        D = free + w * (conditional.mean - free)
        if self.rescale:
            flat = conditional.mean.flatten(1).std(-1) / D.flatten(1).std(-1).clamp(min=1e-12)
            factor = self.rescale * flat + (1 - self.rescale)
            D = D * factor.reshape(-1, *[1] * (D.ndim - 1))
        return replace(conditional, mean=D)


@dataclass(frozen=True)
class Classified:
    """A denoiser tilted by a classifier of noisy states.

    Args:
        denoiser: of `x_t`.
        process: the corruption; alpha_t > 0 where it is called.
        log_p: from (x_t [B, ...], t) to `log p(y | x_t)` [B], differentiable.
        scale: 1 is Bayes' rule.
    """

    denoiser: Callable[..., GaussianPrediction]
    process: Gaussian
    log_p: Callable[[Tensor, Tensor], Tensor]
    scale: float = 1.0

    def __call__(
        self, x_t: Float[Tensor, "b ..."], t: Float[Tensor, " ..."], context: Any = None
    ) -> GaussianPrediction:
        """Predict and tilt."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_p(x, t).sum(), x)
        prediction = self.denoiser(x_t, t, context)
        return replace(prediction, mean=prediction.mean + self.scale * spread(self.process, x_t, t) * slope)


def spread(process: Gaussian, x_t: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, " ..."]:
    """Return `sigma^2 / alpha` at `t`, which turns a gradient of log-density into a change of `D`."""
    time = at_sites(t, x_t)
    return (process.schedule.sigma(time).square() / process.schedule.alpha(time)).to(x_t)
