"""Playing along: drums that answer a musician, against drums that answer another musician.

`runs/music/groove`; a held-out performance is heard as it comes in, block by block, and the model answers one block
later. Onset F1 at 50 ms against the performance itself, minus that of the answers to another performance of the same
tempo: at zero look-ahead the answer is compared with the block that was heard, moved to where the answer sounds; at
-1 s with what the musician plays while the answer sounds. The weight of guidance, 2, was chosen on training pieces, and
so was that of steering (`music_controls`).
"""

from __future__ import annotations

import numpy as np
import torch

from apps.music import data
from apps.music.follow import STEER
from apps.music.generate import MusicModel
from apps.music.metrics import f1
from apps.music.score import Score
from apps.music.synth import RATE, render
from benchmarks._music import open_run
from benchmarks.harness import Bar, Result

__all__ = ["run"]


def answer(model: MusicModel, score: Score, seed: int) -> Score:
    """Return what the model plays while it hears the sound of a score."""
    session = model.live(seed, bpm=score.bpm, guidance=2.0, steer=STEER)
    sound = torch.from_numpy(render(score)).float()
    frames = []
    for part in sound.split(round(session.frames * session.hop)):
        session.push_audio(part)
        frames.append(session.block().frames)
    return model.net.codec.score(torch.cat(frames), score.bpm)  # type: ignore[operator, return-value]


def times(score: Score) -> np.ndarray:
    """Return onset times in seconds."""
    return np.unique(score.hits[:, 0].round(3)) * 60 / score.bpm


def run(full: bool) -> Result:
    """Measure; `full` takes more performances."""
    torch.set_num_threads(1)
    model = open_run("groove")
    config, count = model.recipe.data, 24 if full else 8
    pieces = [s.part(0, 32.0) for s in data.scores(config.kind, config.root, "test") if s.beats >= 32][:count]
    block = model.recipe.model.block * model.net.codec.ticks / 4  # type: ignore[operator]
    gains = {"0 s": [], "-1 s": []}
    for k, piece in enumerate(pieces):
        other = pieces[(k + 1) % len(pieces)]
        wrong = Score(other.notes, other.hits, piece.bpm, beats=other.beats)
        mine, theirs = (times(answer(model, s, k)) for s in (piece, wrong))
        delay = block * 60 / piece.bpm
        for name, shift in (("0 s", 0.0), ("-1 s", delay)):
            real = times(piece) - shift
            gains[name].append(f1(mine, real[real >= 0]) - f1(theirs, real[real >= 0]))
    means = {k: float(np.mean(v)) for k, v in gains.items()}
    bars = [
        Bar("onset F1 over a shuffled accompaniment, zero look-ahead", means["0 s"], ">=", 0.2),
        Bar("the same, one block ahead of what was heard", means["-1 s"], ">", 0.0),
    ]
    return Result(
        {"gain": means}, bars, notes=f"{len(pieces)} performances of 32 beats; {RATE} Hz; blocks of {block:g} beats."
    )
