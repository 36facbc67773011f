"""What `evaluate` says of a model: how far it is from held-out music, and whether it drifts, loops or copies."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from apps.music import data
from apps.music.corpus import corpus
from apps.music.folder import Library
from apps.music.generate import Music, MusicModel
from apps.music.metrics import block_features, frechet, loop, nearest, sound_features
from apps.music.roll import TICKS, RollCodec
from apps.music.score import Score
from apps.music.synth import RATE
from core.errors import DataError

__all__ = ["features", "judge", "real_features", "real_scores", "steps"]

ONSETS = 12
"""Which feature of a block of a score is its onsets per beat."""


def features(music: Music) -> np.ndarray:
    """Return the features of the blocks of pieces, [pieces, blocks, k]."""
    model, codec = music.model, music.model.net.codec
    length = model.recipe.model.block
    if isinstance(codec, RollCodec):
        beats = length * codec.ticks / TICKS
        return np.stack([block_features(music.score(k), beats) for k in range(len(music))])
    return np.stack([sound_features(s, length * codec.hop) for s in music])


def real_features(model: MusicModel, split: str) -> np.ndarray:
    """Return the features of the blocks of real music, [n, k]."""
    codec, config, length = model.net.codec, model.recipe.data, model.recipe.model.block
    if isinstance(codec, RollCodec):
        return np.concatenate(real_scores(model, split))
    whole = (
        Library(config.root, split).some(16, 20 * RATE)
        if config.kind == "folder"
        else data.sounds(config.kind, config.root, split)
    )
    return np.concatenate([sound_features(codec.decode(codec.encode(a)), length * codec.hop) for a in whole])


def real_scores(model: MusicModel, split: str) -> list[np.ndarray]:
    """Return the features of the blocks of each real score, [n, k]."""
    codec, config = model.net.codec, model.recipe.data
    assert isinstance(codec, RollCodec)
    beats = model.recipe.model.block * codec.ticks / TICKS
    pieces = data.scores(config.kind, config.root, split, config.count, model.recipe.seed)
    return [block_features(_kept(codec, s), beats) for s in pieces]


def steps(pieces: Iterable[np.ndarray]) -> float:
    """Return how much onsets per beat differ between neighbouring blocks of scores, whose features [n, k] are given."""
    return _mean(float(np.abs(np.diff(p[:, ONSETS])).mean()) for p in pieces if len(p) > 1)


def _kept(codec: RollCodec, score: Score) -> Score:
    """Return the score as its roll keeps it, so that the codec's loss is not the model's."""
    return codec.score(codec.encode(score), score.bpm)


def judge(model: MusicModel, n: int, seed: int, factor: int = 10) -> dict[str, float]:
    """Judge `n` pieces of `factor` times the training window.

    Returns:
        frechet_first, frechet_last: of the first and last five blocks to held-out music; drift: their ratio; floor:
        training against held-out music; loop: of the pieces and, real_loop, of held-out ones; copies: nearest distance
        to training windows over that of held-out ones (median); context_gain: how much dearer a wrong past is.
    """
    m = model.recipe.model
    blocks = factor * (m.window + 1)
    music = model.sample(n, frames=blocks * m.block, seed=seed)
    real, trained = real_features(model, "valid"), real_features(model, "train")
    if len(real) < 20:
        raise DataError("has too few held-out blocks to judge by", field="data", value=len(real))
    found = features(music)
    scale = real.std(0).clip(1e-3)
    first, last = (frechet(found[:, part].reshape(-1, found.shape[2]) / scale, real / scale)
                   for part in (slice(0, 5), slice(-5, None)))  # fmt: skip
    known, held = (corpus(model.net.codec, model.recipe, split) for split in ("train", "valid"))
    rng, length = np.random.default_rng([seed, 1]), m.block
    windows, other = (c.cut(512, length, rng)[0].flatten(1) for c in (known, held))
    mine = music.frames.reshape(-1, length * music.frames.shape[2])
    copies = float(nearest(mine, windows).median() / nearest(other, windows).median().clamp(min=1e-9))
    pieces = [held.cut(1, min(blocks, 4) * length, rng)[0][0] for _ in range(8)]
    return {
        "frechet_first": first, "frechet_last": last, "drift": last / max(first, 1e-9),
        "floor": frechet(trained / scale, real / scale), "loop": _mean(loop(f, length) for f in music.frames),
        "real_loop": _mean(loop(f, length) for f in pieces), "copies": copies,
        "context_gain": context_gain(model),
    }  # fmt: skip


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return float(sum(found) / len(found))


def context_gain(model: MusicModel) -> float:
    """Return the held-out loss with another piece's past over that with the right one."""
    from apps.music.task import FlowTask

    task = object.__new__(FlowTask)
    task.recipe, task.codec = model.recipe, model.net.codec
    task.held = corpus(task.codec, model.recipe, "valid")
    with torch.no_grad():
        found = task.validate(model.net, 0)
    return found["shuffled"] / found["loss"]
