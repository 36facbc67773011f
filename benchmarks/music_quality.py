"""What a memory costs in quality: context modes against outpainting that rereads everything at every step.

Four networks of equal size, steps and data on the chorales, `runs/music/chorales` (diagonal) and `chorales-MODE`;
`diagonal` and `block-causal` learn from five blocks a step, the others from one. 10 blocks each from the same seeds, 8
solver steps. They learned all keys within five semitones, so the held-out part (test) is compared in all of these.
"""

from __future__ import annotations

import numpy as np
import torch

from apps.music.judge import real_features
from apps.music.metrics import frechet
from benchmarks._music import blocks_distance, open_run
from benchmarks.harness import Bar, Result

__all__ = ["run"]

RUNS = {"encoder-decoder": "chorales-encoder-decoder", "diagonal": "chorales", "block-causal": "chorales-block-causal",
        "full": "chorales-full"}  # fmt: skip


def transposed(rows: np.ndarray, most: int) -> np.ndarray:
    """Return features [n, 17] moved by -most ... most semitones, [(2 most + 1) n, 17]."""
    out = []
    for k in range(-most, most + 1):
        moved = rows.copy()
        moved[:, :12] = np.roll(rows[:, :12], k, 1)
        moved[:, 14] += k / 12 * (rows[:, 13] > 0)
        out.append(moved)
    return np.concatenate(out)


def run(full: bool) -> Result:
    """Measure; `full` plays more pieces."""
    torch.set_num_threads(1)
    models = {m: open_run(name) for m, name in RUNS.items()}
    reference, rows = models["full"], 192 if full else 96
    keys = reference.recipe.data.transpose
    real, trained = (transposed(real_features(reference, part), keys) for part in ("test", "train"))
    scale = real.std(0).clip(1e-3)
    found = {m: blocks_distance(model, real, rows, 10, steps=8) for m, model in models.items()}
    bars = [
        Bar(f"distance of {m} over outpainting without memory", found[m] / found["full"], "<=", limit)
        for m, limit in (("encoder-decoder", 1.10), ("diagonal", 1.2), ("block-causal", 1.2))
    ]
    floor = {"training against held-out music": frechet(trained / scale, real / scale)}
    notes = f"{rows} pieces of 10 blocks; equal parameters, steps and data; {2 * keys + 1} keys."
    return Result({"distance": found}, bars, {"distance": "Frechet, 17 features of a block"}, floor, notes=notes)
