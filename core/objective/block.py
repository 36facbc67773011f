"""The block objective: diffusion inside blocks, autoregression between them, in one pass.

    -log p(x) <= sum_b  NELBO(x^b | x^{<b}),

all blocks at once: a noisy and a clean copy of the sequence side by side, under the attention rule of
`core.nn.transformer` (Arriola et al. 2025, arXiv:2503.09573). `net.beside(x_0, L')` is that pass as a denoiser, so
every bound of `core.objective.elbo` applies to it. Two ways to draw the noise of a block:

**Counts** (`block_loss`, the default): n ~ U{1..L'} masked sites, weight L'/n; the exact bound without schedules. At
L' = 1 it is the cross-entropy of an autoregressive model, at L' = L that of full diffusion.

**Times on a clipped interval** (`clipped_loss`): t ~ U[low, high] per block, weight -alpha'/sigma. Clipping away rates
that teach little lowers the variance of the gradient, at the price of a bound that holds only for [0, 1]; `search`
returns the interval of a grid whose loss varies least, to be called now and then on held-out data (ibid., section 5).

`draw_block` picks the block size of a training step, so that one model serves many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.denoiser import Prediction
from core.errors import UsageError
from core.objective.elbo import Noised, count_form, stratified, weighted_nll
from core.process.categorical import Categorical, Uniforms

__all__ = ["Beside", "Interval", "block_loss", "clipped_loss", "draw_block", "noise_by_block_time", "search"]

Metrics = dict[str, Tensor]


class Beside(Protocol):
    """A network that denoises each block beside the clean blocks before it."""

    def beside(self, x_0: Int[Tensor, "b l"], block: int) -> Callable[..., Prediction]:
        """Return the denoiser of noisy copies of `x_0` [B, L] in blocks of `block` sites."""
        ...


@dataclass(frozen=True)
class Interval:
    """Times low <= t <= high from which a block's time is drawn."""

    low: float = 0.0
    high: float = 1.0


def block_loss(
    net: Beside,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    block: int,
    sites: Bool[Tensor, "b l"] | None = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the count form of the block bound in nats per site, with its metrics.

    Args:
        net: the network.
        process: absorbing noise.
        x_0: tokens [B, L].
        stream: noise of B samples; counts are stratified over all blocks of the batch.
        block: L', a divisor of L.
        sites: bool [B, L], the sites to learn; all when None.
    """
    return count_form(net.beside(x_0, block), process, x_0, stream, block, sites)


def noise_by_block_time(
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    block: int,
    interval: Interval,
    sites: Bool[Tensor, "b l"] | None = None,
) -> Noised:
    """Corrupt each block at its own time, stratified over the batch and the interval; weights are -alpha'/sigma.

    Raises:
        UsageError: the corruption is not absorbing, `block` does not divide L, or the interval is empty.
    """
    if process.mask is None:
        raise UsageError("clipped times need absorbing noise", field="objective", value="clipped")
    if x_0.shape[1] % block:
        raise UsageError(f"does not divide the length {x_0.shape[1]}", field="block", value=block)
    if not 0 <= interval.low < interval.high <= 1:
        raise UsageError("needs 0 <= low < high <= 1", field="interval", value=(interval.low, interval.high))
    u = stratified((x_0.shape[1] // block,), stream.fold(0)).to(x_0.device)
    t = (interval.low + (interval.high - interval.low) * u).repeat_interleave(block, -1)
    x_t = process.corrupt(x_0, t, process.couple(x_0.shape[1:], stream.fold(1)))
    x_t = x_t if sites is None else torch.where(sites, x_t, x_0)
    rate = -process.schedule.slope(t) / process.schedule.sigma(t)
    return Noised(x_t, t, torch.where(x_t == process.mask, rate, 0.0))


def clipped_loss(
    net: Beside,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    block: int,
    interval: Interval,
    sites: Bool[Tensor, "b l"] | None = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the rate form at times of an interval, in nats per site; on [0, 1] it is the bound."""
    noised = noise_by_block_time(process, x_0, stream, block, interval, sites)
    nats = weighted_nll(net.beside(x_0, block)(noised.x_t, noised.t).log_p, x_0, noised.weight)
    loss = nats.sum() / (x_0.numel() if sites is None else sites.sum().clamp(min=1))
    return loss, {"nll": loss.detach(), "bits": loss.detach() / math.log(2)}


@torch.no_grad()
def search(
    net: Beside,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    block: int,
    candidates: Sequence[Interval],
    draws: int = 8,
) -> tuple[Interval, list[float]]:
    """Return the interval whose per-block loss varies least, and the variance of each candidate.

    Args:
        x_0: held-out tokens [B, L].
        candidates: the intervals to choose from.
        draws: noises per sequence.
    """
    variance = []
    for interval in candidates:
        losses = []
        for k in range(draws):
            noised = noise_by_block_time(process, x_0, stream.fold(k), block, interval)
            log_p = net.beside(x_0, block)(noised.x_t, noised.t).log_p
            blocks = [v.reshape(-1, block) for v in (x_0, noised.weight)]
            losses.append(weighted_nll(log_p.reshape(-1, block, log_p.shape[-1]), *blocks) / block)
        variance.append(float(torch.stack(losses).var()))
    return candidates[min(range(len(variance)), key=variance.__getitem__)], variance


def draw_block(sizes: Sequence[int], u: float, weights: Sequence[float] | None = None) -> int:
    """Return one of the block sizes, by a uniform `u` and weights (equal when None)."""
    share = torch.tensor([1.0] * len(sizes) if weights is None else list(weights), dtype=torch.float64).cumsum(0)
    return sizes[min(int((share <= u * share[-1]).sum()), len(sizes) - 1)]
