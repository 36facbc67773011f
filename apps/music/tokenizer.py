"""Scores and rolls: what a grid of sixteenths keeps of a score, nothing lost between the two.

`encode` writes scores as rolls (`roll.py`), `decode` reads them back; `on_grid` is what is kept: hits with class,
velocity and lateness, the louder where two of a class fall on one tick, and notes from tick to tick.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from apps.music.roll import RollCodec
from apps.music.score import Score

__all__ = ["decode", "encode", "on_grid", "same"]


def codec() -> RollCodec:
    """Return the roll of all drums and all pitches of a piano, a tick a frame."""
    return RollCodec(dim=2, ticks=1, drums=True, low=21, high=109)


def encode(scores: Sequence[Score]) -> list[Tensor]:
    """Return the rolls [T, width] of scores."""
    grid = codec()
    return [grid.roll(s) for s in scores]


def decode(rolls: Sequence[Tensor], bpm: Sequence[float] | None = None) -> list[Score]:
    """Return the scores of rolls."""
    grid, tempi = codec(), bpm or [120.0] * len(rolls)
    return [grid.read(r.double().numpy(), b) for r, b in zip(rolls, tempi, strict=True)]


def on_grid(score: Score) -> Score:
    """Return the score as the grid keeps it."""
    return decode(encode([score]), [score.bpm])[0]


def same(a: Score, b: Score) -> bool:
    """Tell whether two scores on the grid are the same music; velocities to a percent."""
    if len(a.hits) != len(b.hits) or len(a.notes) != len(b.notes):
        return False
    key = [np.lexsort(s.hits.round(4)[:, ::-1].T) for s in (a, b)]
    hits = np.abs(a.hits[key[0]] - b.hits[key[1]]).max(initial=0) < 0.01
    return bool(hits and np.abs(a.notes[:, :3] - b.notes[:, :3]).max(initial=0) < 1e-6)
