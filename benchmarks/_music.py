"""What the benchmarks of trained music models share: where the runs stand, and what is compared.

Runs are trained by their recipes before (`quintet music train chorales --out runs/music/chorales`); a benchmark whose
run is missing says which command makes it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apps import music
from apps.music.generate import MusicModel
from apps.music.judge import features
from apps.music.metrics import frechet
from core.errors import CheckpointError

__all__ = ["blocks_distance", "open_run"]

RUNS = Path("runs/music")


def open_run(name: str, recipe: str) -> MusicModel:
    """Return the model of a run, or say how to make it.

    Raises:
        CheckpointError: there is none.
    """
    folder = RUNS / name
    if not folder.is_dir():
        raise CheckpointError(
            "has not been trained", field=str(folder), hint=f"quintet music train {recipe} --out {folder}"
        )
    return music.load(folder)


def blocks_distance(
    model: MusicModel, real: np.ndarray, rows: int, blocks: int, seed: int = 0, **options: int
) -> float:
    """Return the Frechet distance of generated blocks to `real` [n, k], features scaled by their deviations."""
    made = model.sample(rows, frames=blocks * model.recipe.model.block, seed=seed, **options)  # type: ignore[arg-type]
    found, scale = features(made), real.std(0).clip(1e-3)
    return frechet(found.reshape(-1, found.shape[2]) / scale, real / scale)
