"""Classifier guidance of token predictions: a reward's gradient at every masked site.

Let `p(z)` be the predicted laws at a one-hot state z [S, K + 1]: the token itself where a site is known, the softmax of
the network where it is masked,

    p_i(z) = z_i[:K] + z_i[K] softmax(network(z))_i,

and `psi(x_t) = exp(r(p(z)) / alpha)` the guess of what the state will be worth. To first order, uncovering site i with
token v changes log psi by

    gain_i(v) = (d r / d z_i[v] - d r / d z_i[mask]) / alpha,

and the guided prediction is `p_i(v) exp(scale gain_i(v))`. The reward is fed probabilities, and each sample is
differentiated by itself: guidance does not depend on the batch.

References: Nisonoff et al., 2024, arXiv:2406.01572 (first-order guidance of discrete diffusion); Vignac et al., 2023,
arXiv:2209.14734.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from core.denoiser import subs
from core.sample import Step

__all__ = ["Classifier"]


@dataclass(frozen=True)
class Classifier:
    """The tilt of a step's prediction towards a differentiable reward.

    Args:
        network: from one-hot states [B, S, K + 1] and times [B] to logits [B, S, K].
        value: from laws [B, S, K] to rewards [B], differentiable.
        alpha: reward units per nat.
        scale: 1 follows the gradient, more exaggerates it.
        dtype: of the one-hot states.
    """

    network: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], Tensor]
    alpha: float
    scale: float = 1.0
    dtype: torch.dtype = torch.float32

    def __call__(self, step: Step) -> Float[Tensor, "b s k"]:
        """Return the guided log-weights [B, S, K]; the step gets its own prediction from the same network call."""
        K = step.process.K
        t = torch.full(step.x_t.shape[:1], step.t, device=step.x_t.device)
        with torch.enable_grad():
            z = one_hot(step.x_t, K + 1).to(self.dtype).requires_grad_()
            logits = self.network(z, t)[..., :K]
            p = z[..., :K] + z[..., K:] * logits.softmax(-1).to(z.dtype)
            (slope,) = torch.autograd.grad(self.value(p).sum(), z)
        step.__dict__["raw"] = subs(logits.detach().double(), step.x_t, K)
        gain = (slope[..., :K] - slope[..., K:]).double()
        return step.raw.log_p + torch.where(step.masked[..., None], self.scale / self.alpha * gain, 0.0)
