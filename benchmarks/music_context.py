"""Is the past used? The held-out loss with the right past and with another piece's, and what crosses the joins.

`runs/music/chorales-mean`, the model of which drift and few steps are judged, at 4 steps; held-out part: test. Onsets
per beat, held notes and pitch classes of the block before and the block after a join are compared with the 95 % band of
as many pieces of real music; beside it, without a bar, the flow that it came from and `chorales-arc`, the
run before.
"""

from __future__ import annotations

import numpy as np
import torch

from apps.music import data
from apps.music.generate import MusicModel
from apps.music.judge import context_gain, features, real_features
from apps.music.metrics import block_features
from apps.music.score import Score
from benchmarks._music import CHORALE_BPM, open_run
from benchmarks.harness import Bar, Result

__all__ = ["run"]

PLAYERS = {"model": "chorales-mean", "flow": "chorales-free", "before_the_mean": "chorales-arc"}


def held(score: Score, beats: float) -> float:
    """Return the share of joins, `beats` apart, across which a note sounds."""
    at = np.arange(beats, score.beats - 1e-9, beats)
    start, stop = score.notes[:, 0], score.notes[:, 0] + score.notes[:, 1]
    across = (start[:, None] < at - 1e-6) & (stop[:, None] > at + 1e-6)
    return float(across.any(0).mean()) if len(at) else 0.0


def likeness(rows: np.ndarray) -> tuple[float, float]:
    """Return (difference of onsets per beat, cosine of pitch classes) between neighbours of blocks [n, k], means."""
    a, b = rows[:-1], rows[1:]
    norm = np.linalg.norm(a[:, :12], axis=1) * np.linalg.norm(b[:, :12], axis=1)
    return float(np.abs(a[:, 12] - b[:, 12]).mean()), float(((a[:, :12] * b[:, :12]).sum(1) / norm.clip(1e-9)).mean())


def run(full: bool) -> Result:
    """Measure; `full` plays more pieces."""
    torch.set_num_threads(1)
    model = open_run(PLAYERS["model"])
    codec, length = model.net.codec, model.recipe.model.block
    beats, rows = float(length * codec.ticks / 4), 64 if full else 24  # type: ignore[operator, arg-type]
    config = model.recipe.data
    pieces = [s for s in data.scores(config.kind, config.root, "test") if s.beats >= 4 * beats]
    kept = [codec.score(codec.encode(s)) for s in pieces]  # type: ignore[operator]
    blocks = max(2, round(float(np.median([s.beats for s in kept])) / beats))

    def across(player: MusicModel) -> np.ndarray:
        music = player.sample(rows, frames=blocks * length, seed=0, bpm=CHORALE_BPM)
        return np.array([(*likeness(f), held(music.score(k), beats)) for k, f in enumerate(features(music))])

    real = np.array([(*likeness(block_features(s, beats)), held(s, beats)) for s in kept])
    rng = np.random.default_rng(0)
    draws = np.stack([real[rng.integers(len(real), size=rows)].mean(0) for _ in range(2000)])
    low, high = np.percentile(draws, 2.5, axis=0), np.percentile(draws, 97.5, axis=0)
    names = ("onsets", "key", "hold")
    figures: dict[str, dict[str, float]] = {n: {"low": low[k], "high": high[k]} for k, n in enumerate(names)}
    for label, run_name in PLAYERS.items():
        means = across(open_run(run_name)).mean(0)
        for k, name in enumerate(names):
            figures[name] |= {label: means[k], f"{label}, outside": max(low[k] - means[k], means[k] - high[k], 0.0)}
    gains = {label: context_gain(open_run(n)) for label, n in PLAYERS.items()}
    bars = [Bar("loss with another past over the right one", gains["model"], ">=", 1.05)]
    for name in names:
        outside = figures[name]["model, outside"]
        bars.append(Bar(f"{name} across joins, outside the data's 95 % band by", outside, "<=", 0.0))
    real_blocks = len(real_features(model, "test"))
    notes = f"{rows} pieces of {blocks} blocks against {len(kept)} pieces, {real_blocks} blocks."
    return Result(figures | {"loss with another past": gains}, bars, notes=notes)
