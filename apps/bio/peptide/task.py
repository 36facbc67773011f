"""The training task of peptides: masked diffusion of whole peptides, each at its own length.

Of each peptide n ~ U{1..L} residues are masked; the loss is the count form of the bound, nats per residue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from apps.bio.peptide.data import Peptides, read_peptides
from apps.bio.peptide.model import PeptideConfig
from apps.bio.peptide.network import END, LETTERS, PeptideNet
from core.errors import DataError

__all__ = ["PeptideTask", "bound", "make", "noised", "padded"]

HELD = 6
"""One family in so many of the training part chooses nothing and is only measured."""


class _Recipe(Protocol):
    """What is read of a recipe (`apps.bio.model.Recipe`)."""

    seed: int
    peptide: Any


def padded(tokens: list[np.ndarray]) -> Tensor:
    """Return peptides as int64 [B, L], END after the end."""
    out = np.full((len(tokens), max(len(x) for x in tokens)), END)
    for row, x in zip(out, tokens, strict=True):
        row[: len(x)] = x
    return torch.from_numpy(out)


@dataclass(eq=False)
class PeptideTask:
    """Masked diffusion on peptides, for `core.run.train`.

    Args:
        config: the recipe's part.
        seed: the recipe's.
        data: all peptides of the file.
    """

    config: PeptideConfig
    seed: int
    data: Peptides

    def __post_init__(self) -> None:
        """Keep the wanted label of the training part; hold some families back for the bound."""
        part = self.data.part("train")
        mine = part.select(np.flatnonzero(part.label == self.config.label))
        held = mine.family % HELD == 0
        self.train, self.held = mine.select(np.flatnonzero(~held)), mine.select(np.flatnonzero(held))
        if not self.train.tokens or not self.held.tokens:
            raise DataError(f"too few peptides of label {self.config.label} to train and to validate",
                            field="peptide.data", value=len(mine.tokens))  # fmt: skip

    def module(self) -> PeptideNet:
        """Build the network; the lengths of the training set travel with it."""
        net = PeptideNet(self.config)
        lengths = np.bincount([len(x) for x in self.train.tokens], minlength=self.config.longest + 1)
        net.register_buffer("lengths", torch.from_numpy(lengths).float())
        return net

    def batch(self, step: int, rank: int, world: int) -> tuple[Tensor, Tensor]:
        """Return noisy and clean peptides [B, L] of a step."""
        rng = np.random.default_rng([self.seed, step, rank])
        rows = rng.integers(0, len(self.train.tokens), self.config.batch)
        return noised([self.train.tokens[i] for i in rows], rng)

    def loss(self, module: torch.nn.Module, batch: Any, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return nats per residue: the count form, each residue of the batch of equal weight."""
        noisy, clean = batch
        nats, sites = bound(module, noisy, clean)
        return nats.sum() / sites.sum(), {"nats_per_peptide": nats.detach().mean()}

    def validate(self, module: torch.nn.Module, step: int) -> dict[str, float]:
        """Return nats per residue of the families held back."""
        total, sites, device = 0.0, 0.0, next(module.parameters()).device
        for draw in range(4):
            noisy, clean = noised(self.held.tokens, np.random.default_rng(draw))
            nats, length = bound(module, noisy.to(device), clean.to(device))
            total, sites = total + float(nats.sum()), sites + float(length.sum())
        return {"loss": total / sites}


def bound(module: torch.nn.Module, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bound of each peptide, nats [B], and its length [B]."""
    log_p = module(noisy).log_softmax(-1)
    nll = -log_p.gather(-1, clean.clamp_max(LETTERS - 1)[..., None])[..., 0]
    masked, length = noisy == LETTERS, (clean != END).sum(1)
    return (nll * masked).sum(1) * length / masked.sum(1), length


def noised(tokens: list[np.ndarray], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return noisy and clean peptides [B, L]; of each a uniform number of residues is masked."""
    clean = padded(tokens)
    noisy = clean.clone()
    for row, x in zip(noisy, tokens, strict=True):
        hidden = rng.permutation(len(x))[: rng.integers(1, len(x) + 1)]
        row[torch.from_numpy(hidden)] = LETTERS
    return noisy, clean


def make(recipe: _Recipe) -> PeptideTask:
    """Return the task of a recipe."""
    cfg = recipe.peptide
    return PeptideTask(cfg, recipe.seed, read_peptides(cfg.data, cfg.longest))
