"""Peptides as a user draws them: a sequence model whose lengths come from its training set, and what it draws as
molecules.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from apps.bio.generate import SequenceModel
from apps.bio.peptide.chemistry import Peptide
from apps.bio.peptide.network import PeptideNet
from core.noise import Stream
from core.run.checkpoint import Checkpoint
from core.run.models import fill

__all__ = ["PeptideModel", "molecules", "restored"]


class PeptideModel(SequenceModel):
    """A sequence model over peptides; without `length` or `start` each sample has a length of its own."""

    def set(self, **changes: Any) -> PeptideModel:
        """Return the same weights with other sampling defaults (as in `SequenceModel`)."""
        plain = super().set(**changes)
        return PeptideModel(plain.net, plain.recipe, plain.batch, plain.name)

    @property
    def counts(self) -> Tensor:
        """Return how many training peptides have each length, float64 [longest + 1]."""
        found = self.net.lengths
        assert isinstance(found, Tensor)
        return found.double().cpu()

    @property
    def usual(self) -> int:
        """Return the commonest length: that of designs for which none is asked."""
        return int(self.counts.argmax())

    def lengths(self, index: np.ndarray, seed: int) -> np.ndarray:
        """Return the length of each sample, drawn from those of the training set, int64 [n]."""
        counts = self.counts
        u = Stream(seed, torch.from_numpy(index)).fold(31).uniform(1)[:, 0]
        return torch.searchsorted(counts.cumsum(0) / counts.sum(), u, right=True).numpy()

    def sample(self, n: int, **wishes: Any) -> Any:
        """Draw peptides (arguments as in `SequenceModel.sample`)."""
        if wishes.get("length") is not None or wishes.get("start") is not None:
            return super().sample(n, **wishes)
        from apps.bio.records import Designs

        wishes = {k: v for k, v in wishes.items() if v is not None}
        given = wishes.pop("index", None)
        index = np.arange(n) if given is None else np.asarray(given, np.int64)
        lengths, found, manifest = self.lengths(index, wishes.get("seed", 0)), [""] * n, {}
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            part = super().sample(len(rows), length=int(length), index=index[rows], **wishes)
            manifest = part.manifest
            for i, sequence in zip(rows, part.sequences, strict=True):
                found[i] = sequence
        return Designs(found, None, manifest, molecule="protein")

    @torch.no_grad()
    def evaluate(self, n: int, seed: int = 0) -> dict[str, Any]:
        """Return nats per residue of at most `n` peptides of families held back, beside letter frequencies."""
        from apps.bio.peptide.task import bound, make, noised

        task, rng = make(self.recipe), np.random.default_rng(seed)
        held = task.held.select(rng.permutation(len(task.held.tokens))[:n])
        pairs = [bound(self.net, *noised(held.tokens, rng)) for _ in range(8)]
        nats, sites = (sum(float(p[k].sum()) for p in pairs) for k in (0, 1))
        counts = np.bincount(np.concatenate(task.train.tokens), minlength=20) + 0.5
        alone = -np.log(counts / counts.sum())[np.concatenate(held.tokens)].mean()
        return {"peptides": len(held.tokens), "nats_per_residue": nats / sites, "letter_frequencies": float(alone)}


def molecules(sequences: list[str], cyclic: bool = False, bridged: bool = False) -> list[Peptide]:
    """Return sequences as peptides; `bridged` joins the first cysteine of each to its last."""
    out = []
    for word in sequences:
        places = [i for i, a in enumerate(word) if a in "Cc"]
        joined = bridged and len(places) > 1 and places[-1] - places[0] > 1
        out.append(Peptide(word, cyclic, ((places[0], places[-1]),) if joined else ()))
    return out


def restored(saved: Checkpoint, recipe: Any, device: str = "cpu") -> PeptideModel:
    """Return the model of a checkpoint whose recipe is of kind `peptide`.

    Raises:
        CheckpointError: its weights do not fit the recipe's network.
    """
    net = PeptideNet(recipe.peptide)
    net.register_buffer("lengths", torch.zeros(recipe.peptide.longest + 1))
    fill(net, saved.inference, saved.path)
    return PeptideModel(net.to(device), recipe)
