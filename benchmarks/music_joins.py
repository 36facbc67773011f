"""Are the joins of blocks heard? Places where blocks meet against other places of the same grid.

The toy model (trained by this benchmark unless a run stands at `runs/music/toy`) plays for 500 blocks and more at three
tempi; blocks begin on beats, so they are compared with the other beats inside blocks.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch

from apps import music
from apps.music.generate import MusicModel
from apps.music.metrics import joins
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


def measure(model: MusicModel, bpm: float, blocks: int, seed: int) -> dict[str, float]:
    """Return the comparison of the joins of one session."""
    session = model.live(seed, bpm=bpm)
    parts = list(islice(session, blocks))
    audio = torch.cat([p.audio for p in parts])
    at = np.array([round(p.number * session.frames * session.hop) for p in parts[1:]])
    return joins(audio, at, round(session.hop), seed)


def run(full: bool) -> Result:
    """Measure; `full` plays three times as long."""
    torch.set_num_threads(1)
    model = obtain()
    tempi, blocks = (96.0, 120.0, 137.0), 510 if full else 172
    found = [measure(model, bpm, blocks, seed) for seed, bpm in enumerate(tempi)]
    total = sum(f["joins"] for f in found)
    mean = {k: sum(f[k] * f["joins"] for f in found) / total for k in ("flux_z", "step_z", "loudness_p95_db")}
    bars = [
        Bar("joins", total, ">=", 500),
        Bar("spectral flux at joins, |z| against other beats", abs(mean["flux_z"]), "<", 0.5),
        Bar("sample step at joins, |z| against other beats", abs(mean["step_z"]), "<", 0.5),
        Bar("change of loudness at joins, p95 above inner beats, dB", mean["loudness_p95_db"], "<=", 1.0),
    ]
    figures = {**mean, "joins": total, "by_tempo": dict(zip(map(str, tempi), found, strict=True))}
    notes = f"Recipe toy; blocks of {model.recipe.model.block} beats at 96, 120 and 137 bpm; {RATE} Hz."
    return Result(figures, bars, {"flux_z": "standard deviations", "step_z": "standard deviations"}, notes=notes)
