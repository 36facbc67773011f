"""Is it a copy? Distance of generated blocks to the nearest training block, against that of held-out music.

`runs/music/chorales-free` and what ARC-Forcing made of it; blocks in the frames of the codec, training blocks in all
their places and in all the keys that were trained.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from apps.music.corpus import Corpus, corpus, shifted
from apps.music.metrics import nearest
from benchmarks._music import CHORALE_BPM, open_run
from benchmarks.harness import Bar, Result

__all__ = ["run"]


def away(rows: Tensor, known: Corpus, length: int, most: int) -> Tensor:
    """Return the distance of rows [n, length dim] to the nearest training block, moved by up to `most` semitones."""
    found = torch.full((len(rows),), float("inf"), dtype=torch.float64)
    for shift in range(-most, most + 1):
        frames = [known.codec.pca(shifted(p.rows, shift, known.codec)) for p in known.pieces if len(p.rows) >= length]
        table = torch.cat([f.unfold(0, length, 1).transpose(1, 2).flatten(1) for f in frames])
        found = torch.minimum(found, nearest(rows, table))
    return found


@torch.inference_mode()
def run(full: bool) -> Result:
    """Measure; `full` plays more pieces."""
    torch.set_num_threads(1)
    models = {"flow": open_run("chorales-free"), "arc 4": open_run("chorales-mean")}
    model, rows = models["flow"], 48 if full else 24
    codec, length, most = model.net.codec, model.recipe.model.block, model.recipe.data.transpose
    recipe = replace(model.recipe, data=replace(model.recipe.data, heard=False))
    known, held = (corpus(codec, recipe, part) for part in ("train", "test"))
    assert isinstance(known, Corpus)
    other, _ = held.cut(240, length, np.random.default_rng(0))
    theirs = away(other.flatten(1), known, length, most)
    low, figures, bars = float(theirs.quantile(0.05)), {}, []
    for name, player in models.items():
        made = player.sample(rows, frames=10 * length, seed=0, bpm=CHORALE_BPM).frames.reshape(rows * 10, -1)
        mine = away(made, known, length, most)
        figures[name] = {"median": float(mine.median()), "p05": float(mine.quantile(0.05)),
                         "share_below": float((mine < low).double().mean())}  # fmt: skip
        bars.append(Bar(f"{name}: 5th percentile of the distance to training music over that of held-out music",
                        figures[name]["p05"] / low, ">=", 1.0))  # fmt: skip
    figures["held out"] = {"median": float(theirs.median()), "p05": low, "share_below": 0.05}
    return Result(figures, bars, {"median": "distance in whitened components"}, notes=f"{rows * 10} blocks each; "
                  f"{2 * most + 1} keys.")  # fmt: skip
