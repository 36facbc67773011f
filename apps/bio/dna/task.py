"""The training task of DNA: the evidence bound per token, under masks drawn by count.

A convolution network learns the count form of the whole sequence (`core.objective.elbo`); a transformer the block form
at a block length drawn from the recipe (`core.objective.block`). With a reference chain each batch is of one fold of
groups, and the chain it is corrected from was counted on the other folds only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apps.bio.data import Sequences, read
from apps.bio.dna.network import ConvNet, SequenceTransformer, build
from apps.bio.model import LETTERS, ModelConfig, Recipe
from apps.bio.tokenizer import Tokenizer, complement
from core.denoiser import subs
from core.errors import DataError, UsageError
from core.noise import Stream
from core.objective.elbo import noise_by_count, weighted_nll
from core.process.categorical import Categorical

__all__ = ["Batch", "DnaTask", "make"]

JUDGED, DRAWS = 512, 2
"""Validation sequences and draws of the bound at each validation."""


@dataclass(eq=False)
class Batch:
    """Noisy tokens, clean tokens, weights of the sites [B, S]; the fold of the rows [B]; tokens of a block (0: all)."""

    x_t: Tensor
    x_0: Tensor
    weight: Tensor
    fold: Tensor
    block: int

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        x_t, x_0, weight, fold = (v.to(device) for v in (self.x_t, self.x_0, self.weight, self.fold))
        return Batch(x_t, x_0, weight, fold, self.block)


@dataclass(eq=False)
class DnaTask:
    """Masked diffusion on DNA, for `core.run.train`.

    Args:
        recipe: the run.
        data: its sequences, single letters.
    """

    recipe: Recipe
    data: Sequences

    def __post_init__(self) -> None:
        """Deal the training sequences into folds, by group; and the tokens into k-mers."""
        _of_words(self.recipe.model, self.data.tokens.shape[1])
        self.tokenizer = Tokenizer(LETTERS["dna"], self.recipe.model.kmer)
        self.process = Categorical.absorbing(self.tokenizer.tokens)
        self.train, self.valid = self.data.select(0), self.data.select(1)
        if not len(self.train) or not len(self.valid):
            raise DataError("too few sequences to train and to validate", field="data", value=len(self.data))
        groups, number = np.unique(self.train.group, return_inverse=True)
        dealt = np.random.default_rng([self.recipe.seed, len(groups)]).permutation(len(groups))
        self.fold = dealt[number] % self.recipe.model.folds
        self.rows = [np.flatnonzero(self.fold == f) for f in range(self.recipe.model.folds)]

    def module(self) -> ConvNet | SequenceTransformer:
        """Build the network; its chain is counted on the training part."""
        net = build(self.recipe.model)
        if isinstance(net, ConvNet) and net.background is not None:
            net.background.fit(self.train.tokens, self.fold, both=self.recipe.model.both)
        return net

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Return the batch of a step: one fold, one block length, random strands where the recipe flips."""
        r = self.recipe
        rng = np.random.default_rng([r.seed, step, rank])
        fold = int(rng.integers(len(self.rows)))
        x = self.train.tokens[rng.choice(self.rows[fold], r.data.batch)]
        if r.data.flip:
            x = np.where(rng.random(len(x))[:, None] < 0.5, complement(x), x)
        block = int(rng.choice(r.blocks)) if r.model.backbone == "transformer" else 0
        return self.noised(x, Stream.of(r.seed, len(x)).fold(step, rank), block, fold)

    def noised(self, letters: np.ndarray, stream: Stream, block: int, fold: int) -> Batch:
        """Mask letters [B, L] by count; fold -1 reads the chain of all training data."""
        x = torch.from_numpy(np.ascontiguousarray(letters))
        if self.tokenizer.k > 1:
            weight = 4 ** torch.arange(self.tokenizer.k).flip(0)
            x = x.unflatten(1, (-1, self.tokenizer.k)) @ weight
        noised = noise_by_count(self.process, x, stream, block or None)
        return Batch(noised.x_t, x, noised.weight, torch.full((len(x),), fold), block)

    def loss(self, module: torch.nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the bound in nats per letter."""
        net: Any = getattr(module, "module", module)
        if batch.block:
            denoiser = net.beside(batch.x_0, batch.block)
            log_p = denoiser(batch.x_t, torch.zeros(len(batch.x_t), device=batch.x_t.device)).log_p
        else:
            t = (batch.x_t == self.process.K).double().mean(1)
            more = {} if isinstance(net, SequenceTransformer) else {"fold": batch.fold}
            log_p = subs(module(batch.x_t, t, **more), batch.x_t, self.process.K).log_p
        nats = weighted_nll(log_p, batch.x_0, batch.weight).sum() / (batch.x_0.numel() * self.tokenizer.k)
        return nats, {"nats_per_letter": nats.detach()}

    def validate(self, module: torch.nn.Module, step: int) -> dict[str, float]:
        """Return the bound in nats per letter on validation sequences, under masks that are the same each time."""
        total, letters = 0.0, 0
        device = next(module.parameters()).device
        for draw in range(DRAWS):
            for a in range(0, min(len(self.valid), JUDGED), 64):
                x = self.valid.tokens[a : min(a + 64, JUDGED)]
                batch = self.noised(x, Stream.of(0, len(x), a).fold(draw), 0, -1)
                total += float(self.loss(module, batch.to(device), step)[0]) * x.size
                letters += x.size
        return {"loss": total / letters}


def _of_words(model: ModelConfig, length: int) -> None:
    """Refuse what tokens of several letters cannot do.

    Raises:
        UsageError: a length that they do not divide, a chain of letters, or both strands.
    """
    if length % model.kmer:
        raise UsageError(f"is no multiple of the {model.kmer} letters of a token", field="data.length", value=length)
    if model.kmer > 1 and model.backbone == "conv" and (model.order or model.strands):
        raise UsageError("a reference chain and both strands are of single letters", field="model.kmer",
                         value=model.kmer, hint="give model.order=0 model.strands=false")  # fmt: skip


def make(recipe: Recipe) -> DnaTask:
    """Return the task of a recipe."""
    return DnaTask(recipe, read(recipe.data, recipe.seed))
