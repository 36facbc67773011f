"""What a user would do instead, behind the same `sample`: repeat, paste, or continue by likeness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apps.music.corpus import Corpus
from apps.music.generate import Music, MusicModel

__all__ = ["Concatenative", "Patchwork", "Repeat"]


@dataclass(eq=False)
class Repeat:
    """One block of real music, again and again.

    Args:
        model: whose codec and block are used.
        data: real music.
    """

    model: MusicModel
    data: Corpus

    def sample(self, n: int = 1, *, frames: int, seed: int = 0, bpm: float = 120.0) -> Music:
        """Return pieces of `frames` frames."""
        length = self.model.recipe.model.block
        block, _ = self.data.cut(n, length, np.random.default_rng(seed))
        return Music(block.repeat(1, -(-frames // length), 1)[:, :frames], self.model, bpm)


@dataclass(eq=False)
class Patchwork:
    """Blocks of real music in random order: right in every block, wrong at every join (arguments as in `Repeat`)."""

    model: MusicModel
    data: Corpus

    def sample(self, n: int = 1, *, frames: int, seed: int = 0, bpm: float = 120.0) -> Music:
        """Return pieces of `frames` frames."""
        length = self.model.recipe.model.block
        count = -(-frames // length)
        blocks, _ = self.data.cut(n * count, length, np.random.default_rng(seed))
        return Music(blocks.reshape(n, count * length, -1)[:, :frames], self.model, bpm)


@dataclass(eq=False)
class Concatenative:
    """Blocks of real music, each the one whose own past is most like the last block.

    Args:
        model, data: as in `Repeat`.
        pool: pairs of neighbouring blocks to choose from.
        among: a choice is drawn from so many of the nearest.
    """

    model: MusicModel
    data: Corpus
    pool: int = 2048
    among: int = 4

    def sample(self, n: int = 1, *, frames: int, seed: int = 0, bpm: float = 120.0) -> Music:
        """Return pieces of `frames` frames."""
        length, rng = self.model.recipe.model.block, np.random.default_rng(seed)
        pairs, _ = self.data.cut(self.pool, 2 * length, rng)
        before, after = pairs[:, :length].flatten(1), pairs[:, length:]
        last = after[torch.from_numpy(rng.integers(len(after), size=n))]
        out: list[Tensor] = [last]
        while len(out) * length < frames:
            near = torch.cdist(last.flatten(1), before).topk(self.among, largest=False).indices
            pick = torch.from_numpy(rng.integers(self.among, size=n))
            last = after[near[torch.arange(n), pick]]
            out.append(last)
        return Music(torch.cat(out, 1)[:, :frames], self.model, bpm)
