"""Evidence bounds of discrete diffusion: what training minimises and what evaluation reports.

All return nats, and the training losses are per site.

**Count form** (absorbing, the default). Under any schedule the number `n` of masked sites in a block of L' makes the
time redundant: integrating the rate over `t` leaves Beta integrals, and

    -log p(x_0) <= sum_blocks  E_{n ~ U{1..L'}}  E_{|masked| = n}  (L'/n) sum_masked -log D(x_0).

No 1/t, no clipping, no epsilon, and no draw without a masked site. At L' = 1 it is the autoregressive loss. It is an
equality when `D` is exact, for every sequence and every L': each order of revealing is then the chain rule.

**Rate form** (any noise law). `E_{t ~ U[0,1]} sum_sites rate(x_t, x_0, t)`, see `Categorical.rate`.

**Cross-entropy**. `-log D(x_0)` averaged over masked sites (absorbing) or all sites (uniform, marginal): no bound, but
the same minimiser, and what DiGress and SEDD-like recipes train.

**Importance form** (absorbing). Revealing one site at a time in a uniform random order is a latent-variable model,
`p(x) = E_order prod_j D(x_j | revealed)`; K orders give the bound `-log mean_k prod`, which tightens with K (Burda et
al., 2016, arXiv:1509.00519) from the count form, K = 1, to `-log p(x)`.

Counts and times are stratified over the batch: sorted by one uniform, jittered by another, so each is exactly uniform
and together they cover the interval evenly. A block-causal network gets its clean context from `core.objective.block`,
which uses the same `noise_by_count` and `weighted_nll`.

References: Sahoo et al., 2024, arXiv:2406.07524, eq. 10; Ou et al., 2024, arXiv:2406.03736 (any-order form); Schiff et
al., 2024, arXiv:2412.10193; Arriola et al., 2025, arXiv:2503.09573.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from core.denoiser import Denoiser
from core.errors import UsageError
from core.process.categorical import Categorical, Uniforms

__all__ = [
    "Bound",
    "Noised",
    "bound",
    "count_form",
    "count_terms",
    "cross_entropy",
    "importance_bound",
    "noise_by_count",
    "noise_by_time",
    "rate_form",
    "rate_terms",
    "stratified",
    "weighted_nll",
]

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Noised:
    """A corrupted batch: `x_t` [B, L], its time `t` [B] or [B, L], and the weight [B, L] of each site's -log D(x_0)."""

    x_t: Int[Tensor, "b l"]
    t: Tensor
    weight: Float[Tensor, "b l"]


@dataclass(frozen=True)
class Bound:
    """An estimate of the negative evidence bound, in nats.

    Args:
        nats: per sequence, [B].
        per_site: mean over all sites that count.
        standard_error: Monte Carlo error of `per_site`, given the sequences (conservative: draws are stratified).
    """

    nats: Float[Tensor, " b"]
    per_site: float
    standard_error: float


def stratified(shape: tuple[int, ...], stream: Uniforms) -> Float64[Tensor, "b ..."]:
    """Return uniforms, each exactly U[0, 1), that together hit each of n equal cells once: float64, [B, *shape]."""
    order, jitter = stream.fold(0).uniform(*shape), stream.fold(1).uniform(*shape)
    rank = order.flatten().argsort().argsort().reshape(order.shape)
    return (rank + jitter) / rank.numel()


def weighted_nll(
    log_p: Float[Tensor, "b l k"], x_0: Int[Tensor, "b l"], weight: Float[Tensor, "b l"]
) -> Float64[Tensor, " b"]:
    """Return `sum_sites weight · -log p(x_0)` [B], float64; a site of weight 0 never counts, not even as inf."""
    live = weight > 0
    nll = -log_p.gather(-1, x_0[..., None])[..., 0]
    return (weight * torch.where(live, nll, 0.0).to(torch.float64)).flatten(1).sum(-1)


def noise_by_count(
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    block: int | None = None,
    sites: Bool[Tensor, "b l"] | None = None,
) -> Noised:
    """Mask `n ~ U{1..L'}` sites of each block and weigh them by `L'/n`.

    Args:
        process: an absorbing corruption.
        x_0: tokens [B, L].
        stream: noise of B samples.
        block: L', which divides L; the whole sequence when None.
        sites: bool [B, L], the sites to learn (all when None); L' then counts those of the block.

    Raises:
        UsageError: the corruption is not absorbing, or `block` does not divide L.
    """
    if process.mask is None:
        raise UsageError("the count form needs absorbing noise; use the rate form", field="objective", value="count")
    length = x_0.shape[-1]
    block = block or length
    if length % block:
        raise UsageError(f"does not divide the length {length}", field="block", value=block)
    sites = torch.ones_like(x_0, dtype=torch.bool) if sites is None else sites
    size = sites.unflatten(-1, (-1, block)).sum(-1)
    cell = stratified((length // block,), stream.fold(0)).to(x_0.device)
    n = torch.minimum(1 + (cell * size).long(), size)
    coupling = process.couple((length,), stream.fold(1))
    x_t = process.corrupt_count(x_0, n, coupling, block, sites)
    scale, level = size / n.clamp(min=1), n / size.clamp(min=1)
    t = process.schedule.time(1 - level.to(torch.float64), level.to(torch.float64))
    weight = scale.to(torch.float64).repeat_interleave(block, -1) * (sites & (x_t == process.mask))
    return Noised(x_t, t[:, 0] if block == length else t.repeat_interleave(block, -1), weight)


def noise_by_time(
    process: Categorical, x_0: Int[Tensor, "b l"], stream: Uniforms, sites: Bool[Tensor, "b l"] | None = None
) -> Noised:
    """Corrupt at one stratified time per sequence, with weight 1; sites outside `sites` stay clean."""
    t = stratified((), stream.fold(0)).to(x_0.device)
    x_t = process.corrupt(x_0, t, process.couple(x_0.shape[1:], stream.fold(1)))
    x_t = x_t if sites is None else torch.where(sites, x_t, x_0)
    live = torch.ones_like(x_0, dtype=torch.bool) if sites is None else sites
    return Noised(x_t, t, live.to(torch.float64))


def count_terms(
    denoiser: Denoiser,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    block: int | None = None,
    sites: Bool[Tensor, "b l"] | None = None,
    context: Any = None,
) -> Float64[Tensor, " b"]:
    """Return one unbiased draw of the count form for each sequence: nats, float64 [B]."""
    noised = noise_by_count(process, x_0, stream, block, sites)
    return weighted_nll(denoiser(noised.x_t, noised.t, context).log_p, x_0, noised.weight)


def rate_terms(
    denoiser: Denoiser,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    block: int | None = None,
    sites: Bool[Tensor, "b l"] | None = None,
    context: Any = None,
) -> Float64[Tensor, " b"]:
    """Return one unbiased draw of the rate form for each sequence, at one time: nats, float64 [B]."""
    if block is not None:
        raise UsageError("the rate form draws one time per sequence", field="block", value=block)
    noised = noise_by_time(process, x_0, stream, sites)
    rate = process.rate(denoiser(noised.x_t, noised.t, context), noised.x_t, x_0, noised.t)
    return (rate * noised.weight).flatten(1).sum(-1)


Terms = Callable[..., Tensor]


def _loss(terms: Terms, process: Categorical, x_0: Tensor, sites: Tensor | None, *args: Any) -> tuple[Tensor, Metrics]:
    denoiser, stream, block, context = args
    nats = terms(denoiser, process, x_0, stream, block, sites, context)
    loss = nats.sum() / (x_0.numel() if sites is None else sites.sum().clamp(min=1))
    return loss, {"nll": loss.detach(), "bits": loss.detach() / math.log(2)}


def count_form(
    denoiser: Denoiser,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    block: int | None = None,
    sites: Bool[Tensor, "b l"] | None = None,
    context: Any = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the count form in nats per site, with its metrics (`nll` in nats, `bits` in bits per site)."""
    return _loss(count_terms, process, x_0, sites, denoiser, stream, block, context)


def rate_form(
    denoiser: Denoiser,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    sites: Bool[Tensor, "b l"] | None = None,
    context: Any = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the rate form in nats per site, with its metrics (`nll` in nats, `bits` in bits per site)."""
    return _loss(rate_terms, process, x_0, sites, denoiser, stream, None, context)


def cross_entropy(
    denoiser: Denoiser,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    sites: Bool[Tensor, "b l"] | None = None,
    context: Any = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the mean of `-log D(x_0)` over the masked sites, or over all sites when no mask tells which are noise."""
    noised = noise_by_time(process, x_0, stream, sites)
    weight = noised.weight if process.mask is None else noised.weight * (noised.x_t == process.mask)
    posterior = denoiser(noised.x_t, noised.t, context).posterior(noised.x_t, noised.t, process)
    loss = weighted_nll(posterior.log_p, x_0, weight).sum() / weight.sum().clamp(min=1)
    return loss, {"cross_entropy": loss.detach(), "noise": weight.mean()}


@torch.no_grad()
def bound(
    denoiser: Denoiser,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    samples: int = 16,
    block: int | None = None,
    sites: Bool[Tensor, "b l"] | None = None,
    context: Any = None,
) -> Bound:
    """Estimate the bound on `-log p(x_0)` of these sequences: the count form when absorbing, the rate form otherwise.

    Args:
        samples: independent draws per sequence, at least 2 for a standard error.
    """
    terms = rate_terms if process.mask is None else count_terms
    draws = torch.stack([terms(denoiser, process, x_0, stream.fold(k), block, sites, context) for k in range(samples)])
    total = x_0.numel() if sites is None else int(sites.sum())
    error = (draws.var(0) / samples).sum().sqrt() if samples > 1 else torch.tensor(torch.nan)
    return Bound(draws.mean(0), float(draws.mean(0).sum() / total), float(error / total))


@torch.no_grad()
def importance_bound(
    denoiser: Denoiser,
    process: Categorical,
    x_0: Int[Tensor, "b l"],
    stream: Uniforms,
    samples: int = 8,
    context: Any = None,
) -> Float64[Tensor, " b"]:
    """Return `-log mean_k prod_j D(x_j | revealed)` over `samples` random orders: nats, float64 [B].

    It costs `samples · L` evaluations, and in expectation falls towards `-log p(x_0)` as `samples` grows.
    """
    length = x_0.shape[-1]
    log_w = []
    for k in range(samples):
        coupling = process.couple((length,), stream.fold(k)).to(x_0.device)
        rank = coupling.u.argsort(-1, descending=True).argsort(-1)
        steps = []
        for n in range(length, 0, -1):
            level = torch.full((len(x_0),), n / length, dtype=torch.float64, device=x_0.device)
            x_t = process.corrupt_count(x_0, n, coupling)
            log_p = denoiser(x_t, process.schedule.time(1 - level, level), context).log_p
            steps.append(-weighted_nll(log_p, x_0, (rank == n - 1).to(torch.float64)))
        log_w.append(torch.stack(steps).sum(0))
    return math.log(samples) - torch.stack(log_w).logsumexp(0)
