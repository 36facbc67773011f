"""Evidence bounds of sequence models, with the exact chain as a control variate.

The count form draws masks; at each masked site the model pays -log D and its reference chain -log m. Since the chain's
bound is an equality (`apps.bio.dna.background`), the mean of the latter over masks is known: -log chain(x). So

    nll(x) = -log chain(x) + E_masks [ count form of the model - count form of the chain ],

an unbiased estimate of the same bound whose Monte Carlo error is that of the difference only. Without a chain the
difference is the count form itself. Draws come in antithetic pairs: counts n and L + 1 - n of masked sites, the second
mask taken from the other end of the same order of sites; counts are stratified over the batch.

In blocks of L' the bound is that of block-wise sampling, -log p(x) <= sum_b NELBO(x^b | x^{<b}), nothing after a block
being seen; at L' = 1 it is exact.

References: Sahoo et al., 2024, arXiv:2406.07524; Arriola et al., 2025, arXiv:2503.09573.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.denoiser import subs
from core.errors import UsageError
from core.nn.tokens import TokenNet
from core.noise import Stream
from core.objective.elbo import count_terms, stratified, weighted_nll

if TYPE_CHECKING:
    from apps.bio.generate import SequenceModel

__all__ = ["Estimate", "nll"]

ROWS = 64
"""Sequences read at a time."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Bounds of some sequences.

    Args:
        nats: of each, float64 [B].
        variance: of each estimate, float64 [B]; NaN where a single draw shows none.
        chain: exact nats of the reference chain, [B]; None without one.
    """

    nats: Tensor
    variance: Tensor
    chain: Tensor | None

    def per_letter(self, letters: int) -> tuple[float, float]:
        """Return the mean in nats per letter and the Monte Carlo standard error of that mean."""
        count = len(self.nats) * letters
        return float(self.nats.sum() / count), float(self.variance.sum().sqrt() / count)


@torch.no_grad()
def nll(model: SequenceModel, x: Tensor, *, block: int | None = None, draws: int = 8, seed: int = 0,
        index: Tensor | None = None) -> Estimate:  # fmt: skip
    """Estimate the bound of tokens [B, S] (arguments as in `SequenceModel.nll`)."""
    if block is not None and (block < 1 or x.shape[1] % block):
        raise UsageError(f"does not divide the {x.shape[1]} tokens of a sequence", field="block", value=block)
    draws = 1 if block == 1 else draws
    parts, chain = [], _chain(model)
    for a in range(0, len(x), ROWS):
        rows = x[a : a + ROWS]
        stream = Stream(seed, torch.arange(a, a + len(rows)) if index is None else index[a : a + ROWS])
        if block in (None, x.shape[1]):
            parts.append(_whole(model, chain, rows, draws, stream, index is not None))
        elif isinstance(model.net, TokenNet):
            denoiser = model.net.beside(rows.to(model.device), block)
            parts.append(_repeated(denoiser, model, rows, draws, stream, block))
        else:
            parts.append(_blocks(model, rows, block, draws, stream))
    values = torch.cat(parts, 1)
    exact = None if chain is None else chain.nll(x.to(model.device)).cpu()
    base = exact if exact is not None and block in (None, x.shape[1]) else 0.0
    nan = torch.full_like(values[0], torch.nan)
    variance = values.var(0) / len(values) if len(values) > 1 else torch.zeros_like(nan) if block == 1 else nan
    return Estimate(values.mean(0) + base, variance, exact)


def _chain(model: SequenceModel) -> Any:
    return getattr(model.net, "background", None)


def _log_p(model: SequenceModel, x_t: Tensor, **more: Tensor) -> Tensor:
    t = (x_t == model.process.K).double().mean(1)
    device = model.device
    return subs(model.net(x_t.to(device), t.to(device), **more).cpu(), x_t, model.process.K).log_p


def _whole(model: SequenceModel, chain: Any, x: Tensor, draws: int, stream: Stream, alone: bool) -> Tensor:
    """Return estimates [ceil(draws / 2), B] from antithetic pairs, less the chain's count form.

    Counts are stratified over the batch, or with `alone` over the pairs of each sequence.
    """
    length, pairs = x.shape[1], (draws + 1) // 2
    stratum = stream.fold(pairs).uniform(pairs).argsort(-1) if alone else None
    out = []
    for k in range(pairs):
        here = stream.fold(k)
        rank = here.fold(1).uniform(length).argsort(-1).argsort(-1)
        u = stratified((), here.fold(0)) if stratum is None else (stratum[:, k] + here.fold(0).uniform()) / pairs
        n = 1 + (u * length).long().clamp(max=length - 1)
        pair = [(rank < n[:, None], n), (rank >= n[:, None] - 1, length + 1 - n)][: min(2, draws - 2 * k)]
        values = []
        for masked, many in pair:
            x_t = torch.where(masked, model.process.K, x)
            weight = masked * (length / many.double())[:, None]
            if chain is None:
                values.append(weighted_nll(_log_p(model, x_t), x, weight))
                continue
            log_m = chain(x_t.to(model.device))
            value = weighted_nll(_log_p(model, x_t, chain=log_m), x, weight)
            values.append(value - weighted_nll(log_m.cpu(), x, weight))
        out.append(torch.stack(values).mean(0))
    return torch.stack(out)


def _repeated(denoiser: Any, model: SequenceModel, x: Tensor, draws: int, stream: Stream, block: int) -> Tensor:
    """Return draws [draws, B] of the block form, all blocks in one pass."""
    device = model.device
    found = [count_terms(denoiser, model.process, x.to(device), stream.fold(k).to(device), block) for k in range(draws)]
    return torch.stack(found).cpu()


def _blocks(model: SequenceModel, x: Tensor, block: int, draws: int, stream: Stream) -> Tensor:
    """Return draws [draws, B] of the block form, a pass for each block: letters after it are masked."""
    length, place = x.shape[1], torch.arange(x.shape[1])
    out = torch.zeros(draws, len(x), dtype=torch.float64)
    for k in range(draws):
        for a in range(0, length, block):
            here = stream.fold(k, a)
            rank = here.fold(1).uniform(block).argsort(-1).argsort(-1)
            n = 1 + (stratified((), here.fold(0)) * block).long().clamp(max=block - 1)
            masked = (place >= a + block).expand(len(x), -1).clone()
            masked[:, a : a + block] = rank < n[:, None]
            weight = masked * (place < a + block) * (block / n.double())[:, None]
            out[k] += weighted_nll(_log_p(model, torch.where(masked, model.process.K, x)), x, weight)
    return out
