"""Realignment: how far a tuned network goes from its parent is chosen while it draws, and asks no reward.

What is tuned to a reward at the price `alpha` of a nat aims at `p*_alpha ∝ p_pre exp(r / alpha)`. For any other price

    p*_(alpha / s) ∝ p_pre^(1 - s) (p*_alpha)^s,

so that one tuned law gives all of them: s = 0 the parent, 1 what was tuned, above 1 further. A sampler does not have
the laws but their predictions at each state. Mixing those,

    log p_s(v | x_t) = (1 - s) log p_pre(v | x_t) + s log p_theta(v | x_t) + const,

is exact where the reward is a sum over independent sites, and for the last site of any reward. Otherwise, with m and V
mean and variance of the reward of what the parent makes of `x_t` and v,

    s log E exp(r / alpha) = s m / alpha + s V / (2 alpha^2) + ...,   of  log E exp(s r / alpha) = s m / alpha + s^2 V /
    (2 alpha^2) + ...:

what a token promises in the mean is followed in full, what it only makes possible is not. The optimum itself at a low
price is drawn to the rare and extreme, where a learned reward is wrong most.

References: Liu et al., 2024, arXiv:2402.02992 (language models; between parent and tuned, and beyond).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from core.errors import UsageError
from core.guide.classifier_free import mix

__all__ = ["Realigned"]


class Realigned(nn.Module):
    """A tuned network and its parent as one network, whose predictions are mixed.

    Args:
        parent, tuned: from tokens or laws and times [B] to logits [B, S, K], or more columns of which K count.
        strength: s; the price of a nat is that of the tuning over s.
        tokens: K.

    Raises:
        UsageError: the strength is negative or no number.
    """

    def __init__(
        self, parent: Callable[..., Tensor], tuned: Callable[..., Tensor], strength: float, tokens: int
    ) -> None:
        super().__init__()
        if not (math.isfinite(strength) and strength >= 0):
            raise UsageError("must be a number of at least 0", field="strength", value=strength)
        self.parent, self.tuned, self.strength, self.tokens = parent, tuned, strength, tokens

    def forward(self, x: Tensor, t: Float[Tensor, " b"]) -> Float[Tensor, "b s k"]:
        """Return log-probabilities [B, S, K], float64, normalised."""
        parent, tuned = (net(x, t)[..., : self.tokens].double().log_softmax(-1) for net in (self.parent, self.tuned))
        return mix(parent, tuned, self.strength)
