"""Is it a copy? Distance of generated blocks to the nearest training block, against that of held-out music.

`runs/music/chorales`; blocks of two bars in the frames of the codec, training blocks in all their places.
"""

from __future__ import annotations

import numpy as np
import torch

from apps.music.corpus import corpus
from apps.music.metrics import nearest
from benchmarks._music import open_run
from benchmarks.harness import Bar, Result

__all__ = ["run"]


def run(full: bool) -> Result:
    """Measure; `full` plays more pieces."""
    torch.set_num_threads(1)
    model = open_run("chorales", "chorales")
    codec, length, rows = model.net.codec, model.recipe.model.block, 64 if full else 24
    known = corpus(codec, model.recipe, "train")
    table = [codec.pca(p.rows).unfold(0, length, 1).transpose(1, 2).flatten(1) for p in known.pieces  # type: ignore[operator]
             if len(p.rows) >= length]  # fmt: skip
    other, _ = corpus(codec, model.recipe, "valid").cut(1024, length, np.random.default_rng(0))
    made = model.sample(rows, frames=10 * length, seed=0).frames.reshape(rows * 10, -1)
    mine, theirs = nearest(made, torch.cat(table)), nearest(other.flatten(1), torch.cat(table))
    low = float(theirs.quantile(0.05))
    figures = {"median": float(mine.median()), "p05": float(mine.quantile(0.05)),
               "held_out_median": float(theirs.median()),
               "held_out_p05": low, "share_below": float((mine < low).double().mean())}  # fmt: skip
    bars = [
        Bar(
            "5th percentile of the distance to training music over that of held-out music",
            figures["p05"] / low,
            ">=",
            1.0,
        )
    ]
    return Result(figures, bars, {"median": "distance in whitened components"}, notes=f"{len(made)} blocks.")
