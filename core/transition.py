"""One step of the reverse process as a law.

A step from time `t` to `s < t` draws every site independently, `x_s^i ~ p(x_s^i | x_t, prediction)`, the product over
sites of `Categorical.reverse`. Rewards, distillation and policy gradients need four operations on that law and nothing
else:

    sample      x_s, drawn by inverse CDF in float64
    rsample     one-hot x_s whose gradient reaches the prediction (Gumbel-softmax, straight-through)
    log_prob    log p(x_s | x_t), summed over sites
    kl          KL(p || q) to another step from the same x_t, summed over sites; over a path they add up to its KL

Terms of probability 0 are removed before the logarithm is taken, so neither values nor gradients contain 0 · inf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from core.denoiser import Prediction
from core.draw import categorical, straight_through
from core.process.categorical import Categorical, Uniforms

__all__ = ["CategoricalTransition", "Transition"]


class Transition(Protocol):
    """The law `p(x_s | x_t, prediction)` of one reverse step, over tokens or real vectors."""

    def sample(self, stream: Uniforms) -> Tensor:
        """Draw `x_s` [B, ...]."""
        ...

    def rsample(self, stream: Uniforms) -> Tensor:
        """Draw `x_s` such that gradients reach the prediction."""
        ...

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return `log p(x_s | x_t)` [B]."""
        ...

    def kl(self, other: Transition) -> Tensor:
        """Return `KL(self || other)` [B], in nats."""
        ...


@dataclass(frozen=True, eq=False)
class CategoricalTransition:
    """A product over sites of categorical laws `log_p`, float64 [B, ..., K']; `temperature` softens `rsample` only."""

    log_p: Tensor
    temperature: float = 1.0

    @classmethod
    def step(
        cls,
        process: Categorical,
        prediction: Prediction,
        x_t: Tensor,
        t: Tensor | float,
        s: Tensor | float,
        temperature: float = 1.0,
    ) -> CategoricalTransition:
        """Return the reverse step of `process` from `x_t` at `t` to `s` under `prediction`, of either kind."""
        return cls(process.reverse(prediction, x_t, t, s), temperature)

    def sample(self, stream: Uniforms) -> Tensor:
        """Draw tokens `x_s` [B, ...], int64."""
        return categorical(self.log_p, stream.uniform(*self.log_p.shape[1:-1]))

    def rsample(self, stream: Uniforms) -> Tensor:
        """Draw one-hot tokens `x_s` [B, ..., K'], float64, differentiable in the prediction."""
        return straight_through(self.log_p, stream.uniform(*self.log_p.shape[1:]), self.temperature)

    def log_prob(self, x_s: Tensor) -> Tensor:
        """Return `log p(x_s | x_t)` [B] of tokens `x_s` [B, ...]."""
        return self.log_p.gather(-1, x_s[..., None]).flatten(1).sum(-1)

    def kl(self, other: CategoricalTransition) -> Tensor:
        """Return `KL(self || other)` [B] in nats; inf where `other` forbids what `self` allows."""
        live = self.log_p > -torch.inf
        gap = torch.where(live, self.log_p, 0.0) - torch.where(live, other.log_p, 0.0)
        return (torch.where(live, self.log_p, 0.0).exp() * gap * live).flatten(1).sum(-1)
