"""Draws from categorical laws that are exact down to the rarest token.

Let `p` be weights over K symbols, `F(k) = p_0 + ... + p_k` and `u` uniform on [0, 1). The symbol

    k(u) = min { k : F(k) > u F(K-1) }

has law `p / F(K-1)` (inverse CDF). In float64 both `u` and `F` resolve 2^-53, so a symbol of probability 1e-9 is drawn
at its rate to seven digits, and one of probability 0 is never drawn. Gumbel-max in float32 is not a substitute: its
uniforms stop at 2^-24, so a symbol of probability `e` is too rare by `1 / (r (exp(1/r) - 1))`, `r = e 2^24`, and a
sampler that lets tokens compete with "stay masked" makes every `e` small (Zheng et al., 2024, arXiv:2409.02908).

For gradients, the relaxed draw `softmax((log p + g) / tau)`, `g = -log(-log u)`, tends to the Gumbel-max draw of the
same noise as `tau -> 0` (Jang et al., 2017, arXiv:1611.01144). Its straight-through form has the value of the hard
draw and the gradient of the relaxed one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["categorical", "gumbel", "inverse_cdf", "relaxed", "straight_through"]


def inverse_cdf(p: Float[Tensor, "... k"], u: Float[Tensor, "*u"]) -> Int[Tensor, "*u"]:
    """Draw several symbols from each row of weights.

    Args:
        p: weights >= 0, [..., K], not necessarily normalised.
        u: uniforms in [0, 1), [..., n] with the leading shape of `p`; for `p` of shape [K], of any shape.

    Returns:
        Symbols, int64, of the shape of `u`.

    Raises:
        ValueError: a row has no mass, or a weight that is negative or not finite.
    """
    cdf = p.cumsum(-1, dtype=torch.float64)
    if p.device.type != "cpu":
        cdf = cdf.cummax(-1).values  # a parallel scan need not be monotone
    total = cdf[-1] if p.ndim == 1 else cdf[..., -1:]
    if p.numel() and not (bool((total > 0).all()) and bool(total.isfinite().all()) and bool(p.amin() >= 0)):
        raise ValueError("a categorical law needs weights that are finite, not negative and not all zero")
    k = torch.searchsorted(cdf, (u.to(torch.float64) * total).contiguous(), right=True).clamp(max=p.shape[-1] - 1)
    weight = p[k] if p.ndim == 1 else p.gather(-1, k)
    if bool((weight == 0).any()):  # u * total rounded up to total, behind trailing zeros
        index = torch.arange(p.shape[-1], device=p.device)
        last = torch.where(p > 0, index, -1).cummax(-1).values
        k = last[k] if p.ndim == 1 else last.gather(-1, k)
    return k


def categorical(log_p: Float[Tensor, "*x k"], u: Float[Tensor, "*x"]) -> Int[Tensor, "*x"]:
    """Draw one symbol from each row of log-weights.

    Args:
        log_p: log-weights, [..., K], of any scale; -inf is never drawn. Exponentials keep the precision given, and
            their sums are float64.
        u: uniforms in [0, 1), [...].

    Returns:
        Symbols, int64, [...].
    """
    log_p = log_p.detach()
    log_p = log_p.float() if log_p.dtype in (torch.float16, torch.bfloat16) else log_p
    return inverse_cdf((log_p - log_p.amax(-1, keepdim=True)).exp_(), u[..., None])[..., 0]


def gumbel(u: Float[Tensor, "*u"]) -> Float64[Tensor, "*u"]:
    """Return standard Gumbel variables `-log(-log u)` of uniforms `u`, finite also at `u = 0`."""
    return -(-u.to(torch.float64).clamp(min=2.0**-54).log()).log()


def relaxed(log_p: Float[Tensor, "*#x k"], u: Float[Tensor, "*#x k"], temperature: float) -> Float[Tensor, "... k"]:
    """Return a point of the simplex that is differentiable in `log_p` and tends to a hard draw as temperature -> 0.

    Args:
        log_p: log-weights, [..., K]; -inf stays exactly 0.
        u: uniforms in [0, 1), [..., K].
        temperature: `tau > 0`.

    Returns:
        Probabilities, float64, [..., K].
    """
    return ((log_p + gumbel(u)) / temperature).softmax(-1)


def straight_through(
    log_p: Float[Tensor, "*#x k"], u: Float[Tensor, "*#x k"], temperature: float
) -> Float[Tensor, "... k"]:
    """Return the one-hot Gumbel-max draw, exact in value, with the gradient of `relaxed` at the same noise."""
    soft = relaxed(log_p, u, temperature)
    hard = one_hot(soft.detach().argmax(-1), soft.shape[-1]).to(soft)
    return hard + (soft - soft.detach())
