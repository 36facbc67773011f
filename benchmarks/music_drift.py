"""Does endless music drift? Ten times the training window, before and after ARC-Forcing, and few steps against many.

The flow and the post-trained model of one recipe (`runs/music/chorales`, `runs/music/chorales-arc`) play 50 blocks from
the same seeds; blocks are compared with held-out music by the Frechet distance of stated features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from apps import music
from apps.music.generate import MusicModel
from apps.music.judge import context_gain, features, real_features
from apps.music.metrics import frechet, loop
from benchmarks.harness import Bar, Result

__all__ = ["pair", "run"]

FLOW, ARC = Path("runs/music/chorales"), Path("runs/music/chorales-arc")


def pair() -> tuple[MusicModel, MusicModel]:
    """Return the flow model and the post-trained one, which plays by ping-pong."""
    return music.load(FLOW), music.load(ARC).set(solver="ping-pong", steps=4)


def curve(model: MusicModel, steps: int, real: np.ndarray, rows: int, blocks: int) -> dict[str, float]:
    """Return distances of the first and last five blocks, their ratio, the loop figure and the diversity."""
    made = model.sample(rows, frames=blocks * model.recipe.model.block, seed=0, steps=steps)
    found, scale = features(made), real.std(0).clip(1e-3)
    first, last = (frechet(found[:, p].reshape(-1, found.shape[2]) / scale, real / scale)
                   for p in (slice(0, 5), slice(-5, None)))  # fmt: skip
    flat = made.frames.flatten(1)
    return {"first": first, "last": last, "ratio": last / max(first, 1e-9),
            "loop": float(np.mean([loop(f, model.recipe.model.block) for f in made.frames])),
            "diversity": float(torch.pdist(flat).mean())}  # fmt: skip


def run(full: bool) -> Result:
    """Measure; `full` plays more pieces."""
    torch.set_num_threads(1)
    flow, arc = pair()
    real, trained = real_features(flow, "valid"), real_features(flow, "train")
    scale, rows = real.std(0).clip(1e-3), 64 if full else 24
    floor = frechet(trained / scale, real / scale)
    before = {k: curve(flow, k, real, rows, 50) for k in (8, 50)}
    after = {k: curve(arc, k, real, rows, 50) for k in (4, 8)}
    bars = [
        Bar("drift after ARC-Forcing, last over first", after[8]["ratio"], "<=", 1.10),
        Bar("last blocks after over before", after[8]["last"] / before[8]["last"], "<=", 1.0),
        Bar("4 steps after over 50 before", after[4]["first"] / before[50]["first"], "<=", 0.75),
        Bar("diversity kept at 4 steps", after[4]["diversity"] / before[50]["diversity"], ">=", 0.8),
        Bar("loss with another past over the right one", context_gain(flow), ">=", 1.05),
    ]
    figures = {"before": before, "after": after, "floor": floor}
    return Result(figures, bars, {"first": "Frechet distance"}, notes=f"{rows} pieces of 50 blocks; held out: valid.")
