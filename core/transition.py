"""One step of the reverse process as a law.

A step from time `t` to `s < t` draws every site independently, `x_s^i ~ p(x_s^i | x_t, prediction)`, the product over
sites of `Categorical.reverse`. Rewards, distillation and policy gradients need four operations on that law and nothing
else:

    sample      x_s, drawn by inverse CDF in float64
    rsample     one-hot x_s whose gradient reaches the prediction (Gumbel-softmax, straight-through)
    log_prob    log p(x_s | x_t), summed over sites
    kl          KL(p || q) to another step from the same x_t, summed over sites; over a path they add up to its KL

Over real vectors the step is Bayes' rule `q(x_s | x_t, x_0) = N(k x_t + m x_0, v)` with the prediction in the place of
`x_0`: `N(k x_t + m D, v + m^2 Var[x_0 | x_t])`, exact for Gaussian posteriors of given variance.

Terms of probability 0 are removed before the logarithm is taken, so neither values nor gradients contain 0 · inf.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor

from core.denoiser import GaussianPrediction, Prediction
from core.draw import categorical, straight_through
from core.noise import Stream
from core.process.categorical import Categorical, Uniforms, at_sites
from core.process.gaussian import Gaussian

__all__ = ["CategoricalTransition", "GaussianTransition", "Transition"]


class Transition(Protocol):
    """The law `p(x_s | x_t, prediction)` of one reverse step, over tokens or real vectors."""

    def sample(self, stream: Uniforms) -> Shaped[Tensor, "b ..."]:
        """Draw `x_s` [B, ...]."""
        ...

    def rsample(self, stream: Uniforms) -> Float[Tensor, "b ..."]:
        """Draw `x_s` such that gradients reach the prediction."""
        ...

    def log_prob(self, x_s: Shaped[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Return `log p(x_s | x_t)` [B]."""
        ...

    def kl(self, other: Transition) -> Float[Tensor, " b"]:
        """Return `KL(self || other)` [B], in nats."""
        ...


@dataclass(frozen=True, eq=False)
class CategoricalTransition:
    """A product over sites of categorical laws `log_p`, float64 [B, ..., K']; `temperature` softens `rsample` only."""

    log_p: Float64[Tensor, "b *x k"]
    temperature: float = 1.0

    @classmethod
    def step(
        cls,
        process: Categorical,
        prediction: Prediction,
        x_t: Int[Tensor, "b ..."],
        t: Tensor | float,
        s: Tensor | float,
        temperature: float = 1.0,
    ) -> CategoricalTransition:
        """Return the reverse step of `process` from `x_t` at `t` to `s` under `prediction`, of either kind."""
        return cls(process.reverse(prediction, x_t, t, s), temperature)

    def sample(self, stream: Uniforms) -> Int[Tensor, "b ..."]:
        """Draw tokens `x_s` [B, ...], int64."""
        return categorical(self.log_p, stream.uniform(*self.log_p.shape[1:-1]))

    def rsample(self, stream: Uniforms) -> Float64[Tensor, "b ..."]:
        """Draw one-hot tokens `x_s` [B, ..., K'], float64, differentiable in the prediction."""
        return straight_through(self.log_p, stream.uniform(*self.log_p.shape[1:]), self.temperature)

    def log_prob(self, x_s: Int[Tensor, "b ..."]) -> Float64[Tensor, " b"]:
        """Return `log p(x_s | x_t)` [B] of tokens `x_s` [B, ...]."""
        return self.log_p.gather(-1, x_s[..., None]).flatten(1).sum(-1)

    def kl(self, other: CategoricalTransition) -> Float64[Tensor, " b"]:
        """Return `KL(self || other)` [B] in nats; inf where `other` forbids what `self` allows."""
        live = self.log_p > -torch.inf
        gap = torch.where(live, self.log_p, 0.0) - torch.where(live, other.log_p, 0.0)
        return (torch.where(live, self.log_p, 0.0).exp() * gap * live).flatten(1).sum(-1)


@dataclass(frozen=True, eq=False)
class GaussianTransition:
    """The law `N(mean, std^2)` of each coordinate; `mean` [B, ...], `std` broadcasts against it (0: a point)."""

    mean: Float[Tensor, "b ..."]
    std: Float[Tensor, " ..."]

    @classmethod
    def step(
        cls,
        process: Gaussian,
        prediction: GaussianPrediction,
        x_t: Float[Tensor, "b ..."],
        t: Tensor | float,
        s: Tensor | float,
        eta: float = 1.0,
    ) -> GaussianTransition:
        """Return the reverse step from `x_t` at `t` to `s` < `t`, times of shape (), (B,) or (B, L).

        Args:
            process: the corruption.
            prediction: of `x_0`; its variance, if given, widens the step.
            x_t: the state [B, ...].
            t, s: times.
            eta: standard deviation relative to Bayes' rule: 1 ancestral sampling, 0 the deterministic step (DDIM; Song
                et al., 2020, arXiv:2010.02502, equation 12).
        """
        time, then = at_sites(t, x_t), at_sites(s, x_t)
        sigma_s, alpha_s = process.schedule.sigma(then), process.schedule.alpha(then)
        _, m, v = process.bridge(time, then)
        std = eta * v.sqrt()
        keep = (sigma_s.square() - std.square()).clamp(min=0).sqrt() / process.schedule.sigma(time)
        clean = alpha_s - keep * process.schedule.alpha(time)
        mean = keep.to(x_t) * x_t + clean.to(x_t) * prediction.mean
        if prediction.var is not None:
            std = (std.square() + (eta * m).square() * prediction.var).sqrt()
        return cls(mean, std.to(x_t))

    def sample(self, stream: Stream) -> Float[Tensor, "b ..."]:
        """Draw `x_s` [B, ...], without gradient."""
        return self.rsample(stream).detach()

    def rsample(self, stream: Stream) -> Float[Tensor, "b ..."]:
        """Draw `x_s` [B, ...], differentiable in the prediction."""
        return self.mean + self.std * stream.normal(*self.mean.shape[1:]).to(self.mean)

    def log_prob(self, x_s: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """Return `log p(x_s | x_t)` [B], a density; its gradient reaches the prediction."""
        std = self.std.expand_as(self.mean)
        z = (x_s - self.mean) / std
        return -(0.5 * z.square() + std.log() + 0.5 * math.log(2 * math.pi)).flatten(1).sum(-1)

    def kl(self, other: GaussianTransition) -> Float[Tensor, " b"]:
        """Return `KL(self || other)` [B] in nats: for equal widths `|mean - mean'|^2 / (2 std^2)`."""
        std = other.std.expand_as(other.mean)
        ratio = (self.std / std).square()
        gap = ((self.mean - other.mean) / std).square()
        return 0.5 * (ratio - 1 - ratio.log() + gap).flatten(1).sum(-1)
