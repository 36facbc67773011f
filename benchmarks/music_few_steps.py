"""Few steps: the model after ARC-Forcing at 4 steps against the flow it came from at 50.

`runs/music/chorales-mean` and `runs/music/chorales-free`; distance of 10 blocks to the held-out part (test), and
diversity, the mean distance of pieces from different seeds, in the codec's frames and, beside it, in the features of
whole pieces.
"""

from __future__ import annotations

import numpy as np
import torch

from apps.music.judge import features, real_features
from apps.music.metrics import frechet
from benchmarks._music import CHORALE_BPM, distance, open_run
from benchmarks.harness import Bar, Result

__all__ = ["run"]


def _spread(rows: np.ndarray) -> float:
    """Return the mean distance of the rows of [n, k]."""
    return float(torch.pdist(torch.from_numpy(rows)).mean())


def run(full: bool) -> Result:
    """Measure; `full` plays more pieces."""
    torch.set_num_threads(1)
    flow = open_run("chorales-free")
    arc = open_run("chorales-mean")
    real, rows = real_features(flow, "test"), 192 if full else 128
    frames, far, spread = 10 * flow.recipe.model.block, {}, {}
    for name, model, counts in (("flow", flow, (4, 8, 50)), ("arc", arc, (1, 2, 4, 8))):
        for steps in counts:
            made = model.sample(rows, frames=frames, seed=0, steps=steps, bpm=CHORALE_BPM)
            far[f"{name} {steps}"] = distance(made, real)
            if f"{name} {steps}" in {"flow 50", "arc 4"}:
                spread[f"{name} {steps}"] = float(torch.pdist(made.frames.flatten(1)).mean())
                whole = _spread(features(made).mean(1) / real.std(0).clip(1e-3))
                spread[f"{name} {steps}, features"] = whole
    scale = real.std(0).clip(1e-3)
    floor = frechet(real_features(flow, "train") / scale, real / scale)
    bars = [
        Bar("distance at 4 steps over the flow's at 50", far["arc 4"] / far["flow 50"], "<=", 0.75),
        Bar("diversity kept", spread["arc 4"] / spread["flow 50"], ">=", 0.8),
    ]
    return Result({"distance": far, "diversity": spread}, bars, {"distance": "Frechet, 17 features of a block"},
                  {"training against held-out music": floor}, notes=f"{rows} pieces of 10 blocks.")  # fmt: skip
