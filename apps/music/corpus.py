"""Pieces ready to be cut: frames and what is asked of each of them.

A roll is moved to another key by moving its columns, and so are the controls that name pitches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apps.music import controls, data
from apps.music.codec import MelCodec
from apps.music.model import Recipe
from apps.music.roll import TICKS, RollCodec
from apps.music.score import Score
from apps.music.synth import RATE, render
from core.errors import DataError

__all__ = ["Corpus", "Piece", "corpus", "fit", "told"]


@dataclass(frozen=True, eq=False)
class Piece:
    """One piece: rows [F, ...] (of a roll, or finished frames) and controls [F, WIDTH]."""

    rows: Tensor
    control: Tensor


@dataclass(eq=False)
class Corpus:
    """Pieces of one split, in the frames of a codec.

    Args:
        codec: fitted.
        pieces: long enough for one window each.
    """

    codec: RollCodec | MelCodec
    pieces: list[Piece]

    def cut(
        self, count: int, length: int, rng: np.random.Generator, transpose: int = 0, step: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return frames [count, length, dim] and controls [count, length, WIDTH] of random places.

        Every place is equally likely; places are multiples of `step` frames.
        """
        room = np.array([max(0, (len(p.rows) - length) // step + 1) for p in self.pieces])
        if not room.sum():
            raise DataError(f"no piece has {length} frames", field="data", hint="take a smaller model.block or window")
        x, c = [], []
        for number in rng.choice(len(room), count, p=room / room.sum()):
            piece, at = self.pieces[number], step * int(rng.integers(room[number]))
            shift = int(rng.integers(-transpose, transpose + 1)) if transpose else 0
            x.append(_moved(piece.rows[at : at + length], shift, self.codec))
            c.append(moved(piece.control[at : at + length], shift))
        frames = torch.stack(x)
        if isinstance(self.codec, RollCodec):
            with torch.no_grad():
                frames = self.codec.pca(frames)
        return frames, torch.stack(c)


def _moved(rows: Tensor, shift: int, codec: RollCodec | MelCodec) -> Tensor:
    """Return the rows of a roll [n, ticks width] moved by semitones; what leaves the range is lost."""
    if not shift or not isinstance(codec, RollCodec) or codec.high == codec.low:
        return rows
    table = rows.reshape(len(rows), codec.ticks, codec.width).clone()
    pitches = table[..., codec.hits :]
    out = torch.full_like(pitches, -1.0)
    n, k = pitches.shape[-1], 2 * shift
    out[..., max(k, 0) : n + min(k, 0)] = pitches[..., max(-k, 0) : n - max(k, 0)]
    table[..., codec.hits :] = out
    return table.reshape(rows.shape)


def moved(control: Tensor, shift: int) -> Tensor:
    """Return controls [n, WIDTH] moved by semitones."""
    if not shift:
        return control
    out, at = control.clone(), controls.AT
    for name in ("notes", "chroma"):
        out[:, at[name]] = control[:, at[name]].roll(shift, 1)
    key = control[:, at["key"]].reshape(-1, 2, 12).roll(shift, 2)
    out[:, at["key"]] = key.reshape(-1, 24)
    out[:, at["centroid"].start] += shift / 12 * control[:, controls.FLAGS + list(controls.GROUPS).index("centroid")]
    out[:, at["pitch"].start] += shift / 12 * control[:, at["pitch"].start + 1]
    return out


def told(score: Score, codec: RollCodec, label: int | None = None, heard: bool = False) -> Tensor:
    """Return the controls [F, WIDTH] that describe a score in the frames of a roll."""
    beats = codec.ticks / TICKS
    count = -(-round(score.beats * TICKS) // codec.ticks)
    starts = np.arange(count) * beats
    asked = controls.describe(score, starts, beats, label)
    if heard:
        edges = torch.from_numpy(np.append(starts, starts[-1] + beats) * 60 / score.bpm * RATE)
        sound = torch.from_numpy(render(score, float(edges[-1]) / RATE)).float()
        asked |= controls.pool(controls.listen(sound), edges)
    return controls.vector(asked, count)


def fit(codec: RollCodec | MelCodec, recipe: Recipe) -> None:
    """Fit the components of a codec to the training part; scores in all keys that occur."""
    config = recipe.data
    if isinstance(codec, MelCodec):
        codec.fit(data.recordings(config.root, "train"))
        return
    pieces = data.scores(config.kind, config.root, "train", config.count, recipe.seed)
    keys = range(-config.transpose, config.transpose + 1, 2) if config.transpose else range(1)
    codec.fit(s.transpose(k) for s in pieces for k in keys)


def corpus(codec: RollCodec | MelCodec, recipe: Recipe, split: str) -> Corpus:
    """Return the pieces of a split in the frames of a fitted codec."""
    config = recipe.data
    if isinstance(codec, MelCodec):
        return Corpus(codec, [_recorded(codec, audio) for audio in data.recordings(config.root, split)])
    names = data.labels(config.kind, config.root)
    pieces = []
    for score in data.scores(config.kind, config.root, split, config.count, recipe.seed):
        label = names.index(score.label) if score.label in names else None
        rows = codec.roll(score).reshape(-1, codec.ticks * codec.width)
        pieces.append(Piece(rows, told(score, codec, label, config.heard)))
    return Corpus(codec, pieces)


def _recorded(codec: MelCodec, audio: Tensor) -> Piece:
    z = codec.encode(audio)
    edges = torch.arange(len(z) + 1) * codec.hop
    return Piece(z, controls.vector(controls.pool(controls.listen(audio), edges), len(z)))
