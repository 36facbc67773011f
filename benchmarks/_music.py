"""What the benchmarks of trained music models share: where the runs stand, and what is compared.

Runs are trained by their recipes before (`quintet music train chorales --out runs/music/chorales`); a benchmark whose
run is missing says which command makes it. The flow that is judged is `chorales-free`; what ARC-Forcing makes of it is
`chorales-arc`, of which validation keeps the best checkpoint (adversaries swing), and in the end `chorales-mean`, the
mean of three runs of the recipe `chorales-even` that went on from it (`MEMBERS`), played with more stretch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apps import music
from apps.music.generate import Music, MusicModel
from apps.music.judge import features
from apps.music.metrics import frechet
from apps.music.score import Score
from core.errors import CheckpointError

__all__ = ["CHORALE_BPM", "blocks_distance", "distance", "open_run", "pace"]

RUNS = Path("runs/music")
CHORALE_BPM = 90.0
"""The tempo that the reader gives all chorales; no other is known to what they trained."""
MEMBERS = ("chorales-even", "chorales-even-1", "chorales-even-2")
"""Whose best checkpoints are averaged into `chorales-mean`: seeds 0, 1, 2."""
MADE_BY = {
    **{n: f"train {n}" for n in ("chorales", "chorales-free", "chorales-arc", "groove")},
    **{f"chorales-{m}": f"train chorales model.mode={m}" for m in ("full", "encoder-decoder", "block-causal")},
    "chorales-mean": " ".join(["average", *(f"{RUNS / m}/best" for m in MEMBERS), "sample.stretch=5"]),
}


def open_run(name: str) -> MusicModel:
    """Return the model of a run of `MADE_BY`, or say how to make it.

    Raises:
        CheckpointError: there is none.
    """
    folder = RUNS / name
    if not folder.is_dir():
        raise CheckpointError(
            "has not been trained", field=str(folder), hint=f"quintet music {MADE_BY[name]} --out {folder}"
        )
    return music.load(folder / "best" if name == "chorales-arc" else folder)


def pace(score: Score) -> float:
    """Return the tempo whose grid of sixteenths fits a score's onsets best, within a factor of 1.12 of what it says.

    Farther away the grid of another note value fits as well.
    """
    onsets = np.unique(np.concatenate([score.notes[:, 0], score.hits[:, 0]]).round(3)) * 60 / score.bpm
    bpm = np.geomspace(score.bpm / 1.12, score.bpm * 1.12, 1001)
    if not len(onsets):
        return 0.0
    return float(bpm[np.abs(np.exp(2j * np.pi * onsets[:, None] * (bpm / 15)).mean(0)).argmax()])


def blocks_distance(
    model: MusicModel, real: np.ndarray, rows: int, blocks: int, seed: int = 0, **options: int
) -> float:
    """Return the Frechet distance of generated blocks to `real` [n, k], features scaled by their deviations."""
    frames = blocks * model.recipe.model.block
    made = model.sample(rows, frames=frames, seed=seed, bpm=CHORALE_BPM, **options)  # type: ignore[arg-type]
    return distance(made, real)


def distance(made: Music, real: np.ndarray) -> float:
    """Return the Frechet distance of the blocks of pieces to `real` [n, k], features scaled by their deviations."""
    found, scale = features(made), real.std(0).clip(1e-3)
    return frechet(found.reshape(-1, found.shape[2]) / scale, real / scale)
