"""Classifier-free guidance of token predictions.

With a conditional and an unconditional prediction of one site, guidance of strength `gamma` samples from the sharpened
law

    log p_gamma(v) = (1 - gamma) log p(v) + gamma log p(v | y) + const;

`gamma = 0` ignores the condition, 1 obeys it, more exaggerates it. There are two places to mix.

**Predictions** (`ClassifierFree`, a denoiser around a denoiser, the default). Posterior and leave-one-out of one site
differ by the factor `q(x_t | v)`, which both predictions share and which the weights, having sum 1, leave alone; so
mixing posteriors and mixing leave-one-outs are the same operation, exact in either parameterisation and independent of
the next time. For absorbing noise it changes what a revealed site says, never when it is revealed.

**Reverse kernels** (`guided`, a transition from two transitions). For uniform and marginal noise, `p(x_s | x_t)` is the
mixture `alpha_s l + sigma_s pi` times a factor that the two kernels share, so mixing kernels tilts with the law of the
*noisy* site: where noise dominates there is little to tilt, and a rare token of `l` cannot be blown up before it is
visible. It is the rule of Schiff et al. It needs both times, hence a transition. For absorbing noise the kernel also
carries the probability of staying masked, which the renormalisation would shift: there, use `ClassifierFree`.

References: Ho and Salimans, 2022, arXiv:2207.12598; Schiff et al., 2024, arXiv:2412.10193, sec. 4; Nisonoff et al.,
2024, arXiv:2406.01572.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.denoiser import Denoiser, Prediction, log_normalise
from core.errors import UsageError
from core.transition import CategoricalTransition

__all__ = ["ClassifierFree", "guided", "mix"]


def mix(free: Float[Tensor, "*x k"], conditional: Float[Tensor, "*x k"], scale: float) -> Float[Tensor, "*x k"]:
    """Return `(1 - scale) free + scale conditional` normalised, on the tokens that both allow (else `conditional`)."""
    both = (free > -torch.inf) & (conditional > -torch.inf)
    log_w = (1 - scale) * torch.where(both, free, 0.0) + scale * torch.where(both, conditional, 0.0)
    return log_normalise(log_w.masked_fill(~both, -torch.inf), conditional)


@dataclass(frozen=True)
class ClassifierFree:
    """A denoiser guided towards its own context.

    Args:
        denoiser: evaluated with the context and without its condition.
        scale: `gamma`.
        drop: returns the context without the condition.
    """

    denoiser: Denoiser
    scale: float
    drop: Callable[[Any], Any] = lambda context: None

    def __call__(self, x_t: Int[Tensor, "b s"], t: Float[Tensor, " ..."], context: Any = None) -> Prediction:
        """Predict twice and mix.

        Raises:
            UsageError: the two predictions are of different kinds.
        """
        conditional = self.denoiser(x_t, t, context)
        free = self.denoiser(x_t, t, self.drop(context))
        if free.kind != conditional.kind:
            kinds = (free.kind, conditional.kind)
            raise UsageError("both predictions must be of one kind", field="guidance", value=kinds)
        return replace(conditional, log_p=mix(free.log_p, conditional.log_p, self.scale))


def guided(free: CategoricalTransition, conditional: CategoricalTransition, scale: float) -> CategoricalTransition:
    """Return the transition whose log-kernel is the mixture of two (uniform and marginal noise)."""
    return replace(conditional, log_p=mix(free.log_p, conditional.log_p, scale))
