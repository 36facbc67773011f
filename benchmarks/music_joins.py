"""Are the joins of blocks heard? Places where blocks meet against other places of the same grid.

The toy model (trained by this benchmark unless a run stands at `runs/music/toy`) plays for 500 blocks and more at three
tempi; blocks begin on beats, so they are compared with the other beats inside blocks. A block is a bar long, so all
joins of a session fall on one beat of the bar, often its first, whose change is larger in any music: many short
sessions are taken together, and beside them stands the same of held-out tunes, their bar lines against other beats.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch

from apps import music
from apps.music import data
from apps.music.generate import MusicModel
from apps.music.metrics import joins
from apps.music.roll import TICKS, RollCodec
from apps.music.synth import RATE
from benchmarks.harness import Bar, Result

__all__ = ["obtain", "run"]


def obtain(name: str = "toy") -> MusicModel:
    """Return the model that ships, or a run's; train one where there is neither."""
    from core.errors import CheckpointError
    from core.run.config import load_recipe
    from core.run.launch import run as train

    folder = Path("runs/music") / name
    for place in (name, str(folder)):
        try:
            return music.load(place)
        except CheckpointError:
            continue
    train("music", load_recipe("music", name), folder, None)
    return music.load(folder)


def measure(model: MusicModel, bpm: float, sessions: int, blocks: int, seed: int) -> dict[str, float]:
    """Return the comparison of the joins of sessions of so many blocks."""
    sounds, places, hop = [], [], 0.0
    for k in range(sessions):
        session = model.live(100 * seed + k, bpm=bpm)
        parts = list(islice(session, blocks))
        hop = session.hop
        sounds.append(torch.cat([p.audio for p in parts]))
        places.append(np.array([round(p.number * session.frames * hop) for p in parts[1:]]))
    return joins(sounds, places, hop, seed)


def real(model: MusicModel, bpm: float, seed: int) -> dict[str, float]:
    """Return the comparison of the bar lines of held-out tunes, played by the codec, with their other beats."""
    codec, config, block = model.net.codec, model.recipe.data, model.recipe.model.block
    assert isinstance(codec, RollCodec)
    sounds, places, hop = [], [], 60 / bpm / TICKS * codec.ticks * RATE
    for score in data.scores("tunes", config.root, "valid", config.count, model.recipe.seed):
        frames, player = codec.encode(score), codec.player()
        player.bpm = bpm
        sounds.append(torch.cat([player.push(frames), player.flush()]))
        places.append(np.array([round(k * hop) for k in range(block, len(frames), block)]))
    return joins(sounds, places, hop, seed)


def run(full: bool) -> Result:
    """Measure; `full` plays three times as many sessions."""
    torch.set_num_threads(1)
    model = obtain()
    tempi, sessions = (96.0, 120.0, 137.0), 48 if full else 16
    found = [measure(model, bpm, sessions, 12, seed) for seed, bpm in enumerate(tempi)]
    tunes = [real(model, bpm, seed) for seed, bpm in enumerate(tempi)]
    total = sum(f["joins"] for f in found)
    mean = {k: sum(f[k] * f["joins"] for f in found) / total for k in ("flux_z", "step_z", "loudness_p95_db")}
    bars = [
        Bar("joins", total, ">=", 500),
        Bar("spectral flux at joins, |z| against other beats", abs(mean["flux_z"]), "<", 0.5),
        Bar("sample step at joins, |z| against other beats", abs(mean["step_z"]), "<", 0.5),
        Bar("change of loudness at joins, p95 above inner beats, dB", mean["loudness_p95_db"], "<=", 1.0),
    ]
    figures = {**mean, "joins": total, "by_tempo": dict(zip(map(str, tempi), found, strict=True))}
    notes = f"{sessions} sessions of 12 blocks of {model.recipe.model.block} beats at 96, 120 and 137 bpm; {RATE} Hz."
    units = {"flux_z": "standard deviations", "step_z": "standard deviations"}
    peers = {"bar lines of held-out tunes": dict(zip(map(str, tempi), tunes, strict=True))}
    return Result(figures, bars, units, peers, notes=notes)
