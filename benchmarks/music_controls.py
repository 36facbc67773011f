"""Are controls followed? Held-out renders say what they do; the model is asked for the same and listened to.

`runs/music/groove` (drums: loudness, centroid, onsets, tempo) and `runs/music/chorales-free` (chroma), trained with
`data.heard=true`; held-out part: test. What is asked is what the ear hears in the render, frame by frame; beside each
figure stands the same with the control dropped (the others asked), by the same seeds, and without steering
(`apps/music/follow.py`). The weights of guidance and of steering were chosen on twelve training performances, that of
attacks in the search on four validation ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apps.music import controls, data
from apps.music.corpus import told, when
from apps.music.follow import STEER
from apps.music.generate import MusicModel
from apps.music.metrics import f1
from apps.music.score import Score
from apps.music.synth import RATE, render
from apps.music.verbs import groups
from benchmarks._music import open_run, pace
from benchmarks.harness import Bar, Result

__all__ = ["run"]

HEARD = ("loudness", "centroid", "onset", "chroma")


def listened(score: Score, frames: int, length: float) -> tuple[dict[str, Tensor], np.ndarray]:
    """Return the features of a score's sound by frame, and its onset times in seconds."""
    edges = torch.arange(frames + 1) * (length * 60 / score.bpm * RATE)
    sound = torch.from_numpy(render(score, float(edges[-1]) / RATE)).float()
    beats = np.concatenate([score.hits[:, 0], score.notes[:, 0]])
    return controls.pool(controls.listen(sound), edges), np.unique(beats.round(3)) * 60 / score.bpm


def agreement(name: str, real: Tensor, made: Tensor) -> float:
    """Return the correlation of a feature [F, 1], or the mean cosine of [F, 12]."""
    if name == "chroma":
        return float(torch.cosine_similarity(real, made, dim=1).mean())
    return float(np.corrcoef(real[:, 0].numpy(), made[:, 0].numpy())[0, 1])


def measure(model: MusicModel, pieces: list[Score], dropped: str = "", steer: float = STEER) -> dict[str, float]:
    """Return the mean agreement of each feature over pieces, one of them maybe not asked for."""
    codec, found = model.net.codec, {k: [] for k in (*HEARD, "onset_f1", "tempo_error")}
    length = float(codec.ticks / 4)  # type: ignore[operator, arg-type]
    for k, piece in enumerate(pieces):
        score = codec.score(codec.encode(piece), piece.bpm)  # type: ignore[operator, arg-type]
        asked = groups(told(score, codec, heard=True))  # type: ignore[arg-type]
        asked = {n: v for n, v in asked.items() if n not in {dropped, "notes"}}
        if dropped != "onset":
            asked["attack"] = when(score, codec)  # type: ignore[arg-type]
        frames = len(next(iter(asked.values())))
        made = model.sample(1, frames=frames, asked=asked, bpm=piece.bpm, seed=k, guidance=2.0, steer=steer).score(0)
        (real, at), (mine, then) = (listened(s, frames, length) for s in (score, made))
        for name in HEARD:
            found[name].append(agreement(name, real[name], mine[name]))
        found["onset_f1"].append(f1(then, at))
        if len(then) > 4:
            found["tempo_error"].append(abs(pace(made) / pace(score) - 1))
    return {n: float(np.nanmean(v)) for n, v in found.items() if v}


def run(full: bool) -> Result:
    """Measure; `full` takes more pieces."""
    torch.set_num_threads(1)
    count = 32 if full else 12
    drums = open_run("groove")
    voices = open_run("chorales-free")
    parts = {m: [s.part(0, 32.0) for s in data.scores(c.kind, c.root, "test") if s.beats >= 32][:count]
             for m, c in (("groove", drums.recipe.data), ("chorales", voices.recipe.data))}  # fmt: skip
    asked = {"groove": measure(drums, parts["groove"]), "chorales": measure(voices, parts["chorales"])}
    without = {n: measure(drums, parts["groove"], n)[k] for n, k in (("loudness", "loudness"), ("centroid", "centroid"),
                                                                     ("onset", "onset_f1"))}  # fmt: skip
    without["chroma"] = measure(voices, parts["chorales"], "chroma")["chroma"]
    alone = {
        "groove": measure(drums, parts["groove"], steer=0.0),
        "chorales": measure(voices, parts["chorales"], steer=0.0),
    }
    g, c = asked["groove"], asked["chorales"]
    bars = [
        Bar("loudness, correlation", g["loudness"], ">=", 0.9), Bar("centroid, correlation", g["centroid"], ">=", 0.7),
        Bar("onset F1 at 50 ms", g["onset_f1"], ">=", 0.8), Bar("chroma, cosine", c["chroma"], ">=", 0.85),
        Bar("tempo, relative error", g["tempo_error"], "<=", 0.02),
    ]  # fmt: skip
    return Result(
        asked, bars, peers={"control dropped": without, "not steered": alone}, notes=f"{count} pieces of 32 beats each."
    )
