"""Pieces ready to be cut: frames and what is asked of each of them.

A roll is moved to another key by moving its columns, and so are the controls that name pitches.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from apps.music import attack, controls, data, spectral, synth
from apps.music.codec import MelCodec
from apps.music.folder import Library, StreamCorpus
from apps.music.foreign import ForeignCodec
from apps.music.model import AnyCodec, DataConfig, Recipe
from apps.music.roll import TICKS, RollCodec
from apps.music.score import Score
from apps.music.synth import RATE, render
from core.errors import DataError
from core.run import fetch

__all__ = ["Corpus", "Piece", "corpus", "fit", "moved", "shifted", "told", "when"]


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

    codec: AnyCodec
    pieces: list[Piece]

    def cut(
        self, count: int, length: int, rng: np.random.Generator, transpose: int | np.ndarray = 0, step: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return frames [count, length, dim] and controls [count, length, WIDTH] of random places.

        Every place is equally likely; places are multiples of `step` frames. Each row is moved by up to `transpose`
        semitones, one bound for all or one for each [count].
        """
        room = np.array([max(0, (len(p.rows) - length) // step + 1) for p in self.pieces])
        if not room.sum():
            raise DataError(f"no piece has {length} frames", field="data", hint="take a smaller model.block or window")
        x, c = [], []
        bounds = np.broadcast_to(transpose, count).tolist()
        for number, bound in zip(rng.choice(len(room), count, p=room / room.sum()), bounds, strict=True):
            piece, at = self.pieces[number], step * int(rng.integers(room[number]))
            shift = int(rng.integers(-bound, bound + 1)) if bound else 0
            x.append(shifted(piece.rows[at : at + length], shift, self.codec))
            c.append(moved(piece.control[at : at + length], shift))
        frames = torch.stack(x)
        if isinstance(self.codec, RollCodec):
            with torch.no_grad():
                frames = self.codec.pca(frames)
        return frames, torch.stack(c)


def shifted(rows: Tensor, shift: int, codec: AnyCodec) -> Tensor:
    """Return the rows of a roll [n, ticks width] moved by semitones; what leaves the range is lost."""
    if not shift or not isinstance(codec, RollCodec) or codec.high == codec.low:
        return rows
    table = rows.reshape(len(rows), codec.ticks, codec.width).clone()
    pitches = table[..., codec.hits :]
    out = torch.full_like(pitches, -1.0)
    n, k = pitches.shape[-1], 2 * shift
    if abs(k) < n:  # else all is lost
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
    starts = _starts(score, codec)
    asked = controls.describe(score, starts, codec.ticks / TICKS, label)
    return controls.vector(asked | (_heard(score, codec) if heard else {}), len(starts))


def _starts(score: Score, codec: RollCodec) -> np.ndarray:
    """Return the beat at which each frame begins."""
    return np.arange(-(-round(score.beats * TICKS) // codec.ticks)) * (codec.ticks / TICKS)


def _heard(score: Score, codec: RollCodec) -> dict[str, Tensor]:
    """Return what is heard of a score in each frame."""
    return controls.pool(*_rows(score, codec))


def when(score: Score, codec: RollCodec) -> Tensor:
    """Return the attacks that are heard in each frame of a score, [F, 2 PARTS BANDS]."""
    sound, edges = _sound(score, codec)
    return attack.attacks(attack.hear(sound)["rise"], edges)


def _rows(score: Score, codec: RollCodec) -> tuple[dict[str, Tensor], Tensor]:
    """Return what is heard of a score, a row every HOP samples, and the samples where its frames begin and end."""
    sound, edges = _sound(score, codec)
    return controls.listen(sound), edges


def _sound(score: Score, codec: RollCodec) -> tuple[Tensor, Tensor]:
    """Return the sound of a score, and the samples where its frames begin and end."""
    edges = np.append(_starts(score, codec), 0.0)
    edges[-1] = (len(edges) - 1) * codec.ticks / TICKS
    samples = torch.from_numpy(edges * 60 / score.bpm * RATE)
    return torch.from_numpy(render(score, float(samples[-1]) / RATE)).float(), samples


def _all_heard(scores: Sequence[Score], codec: RollCodec) -> list[dict[str, Tensor]]:
    """Return `_heard` of many scores; minutes of work, so it is kept in the cache of data until the code changes."""
    key = hashlib.sha256(str(codec.ticks).encode())
    for module in (synth, spectral, controls):
        key.update(Path(str(module.__file__)).read_bytes())
    for s in scores:
        key.update(s.notes.tobytes() + s.hits.tobytes() + np.array([s.bpm, s.beats]).tobytes())
    file = fetch.cache() / "music-heard" / f"{key.hexdigest()[:20]}.safetensors"
    if file.is_file():
        kept = load_file(file)
        return [{name: kept[f"{n}.{name}"] for name in controls.HEARD} for n in range(len(scores))]
    found = [_heard(s, codec) for s in scores]
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    save_file({f"{n}.{name}": v.contiguous() for n, one in enumerate(found) for name, v in one.items()}, part)
    part.replace(file)
    return found


def fit(codec: AnyCodec, recipe: Recipe) -> None:
    """Fit the components of a codec to the training part; scores in all keys that occur."""
    config = recipe.data
    if not isinstance(codec, RollCodec):
        codec.fit(_sounds(config, "train"))
        return
    pieces = data.scores(config.kind, config.root, "train", config.count, recipe.seed)
    keys = range(-config.transpose, config.transpose + 1, 2) if config.transpose else range(1)
    codec.fit(s.transpose(k) for s in pieces for k in keys)


def _sounds(config: DataConfig, split: str) -> list[Tensor]:
    if config.kind == "folder":
        return Library(config.root, split).some(32, 10 * RATE)
    return data.sounds(config.kind, config.root, split)


def corpus(codec: AnyCodec, recipe: Recipe, split: str) -> Corpus | StreamCorpus:
    """Return the pieces of a split in the frames of a fitted codec; only those that train are told what is heard."""
    config = recipe.data
    if not isinstance(codec, RollCodec):
        if config.kind == "folder":
            return StreamCorpus(codec, Library(config.root, split))
        return Corpus(codec, [_recorded(codec, audio) for audio in _sounds(config, split)])
    names = data.labels(config.kind, config.root)
    scores = data.scores(config.kind, config.root, split, config.count, recipe.seed)
    heard = _all_heard(scores, codec) if config.heard and split == "train" else [{}] * len(scores)
    pieces = []
    for score, features in zip(scores, heard, strict=True):
        label = names.index(score.label) if score.label in names else None
        rows = codec.roll(score).reshape(-1, codec.ticks * codec.width)
        control = told(score, codec, label)
        for name, value in features.items():
            control[:, controls.AT[name]] = value
            control[:, controls.FLAGS + list(controls.GROUPS).index(name)] = 1
        pieces.append(Piece(rows, control))
    return Corpus(codec, pieces)


def _recorded(codec: MelCodec | ForeignCodec, audio: Tensor) -> Piece:
    z = codec.encode(audio)
    edges = torch.arange(len(z) + 1) * codec.hop
    return Piece(z, controls.vector(controls.pool(controls.listen(audio), edges), len(z)))
