"""Playing along: drums that answer a musician, against drums that answer another musician.

`runs/music/groove`; a held-out performance is heard as it comes in, block by block, and the model answers one block
later. Onset F1 at 50 ms against the performance itself, minus that of the answers to another performance of the same
tempo: at zero look-ahead the answer is compared with the block that was heard, moved to where the answer sounds; at
-1 s with what the musician plays while the answer sounds. After the performance there is silence, and what is still
played into it counts against the model. Beside it: an echo, which plays what was heard, every hit at its moment, and so
is the most that anybody can have at zero look-ahead; and the model without steering.

The weight of guidance, 2, was chosen on training pieces (`music_controls`), what attacks and changes weigh in the
search (`apps/music/steer.py`, `follow.py`) on the first performances of the validation part; the test part judges.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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


def answer(model: MusicModel, score: Score, seed: int, steer: float = STEER) -> Score:
    """Return what the model plays while it hears the sound of a score."""
    session = model.live(seed, bpm=score.bpm, guidance=2.0, steer=steer)
    sound, lasts, frames = torch.from_numpy(render(score)).float(), session.frames * session.hop, []
    cuts = [round(k * lasts) for k in range(-int(-len(sound) // lasts) + 1)]
    sound = torch.nn.functional.pad(sound, (0, cuts[-1] - len(sound)))  # the musician has stopped
    for a, b in zip(cuts[:-1], cuts[1:], strict=True):
        session.push_audio(sound[a:b])
        frames.append(session.block().frames)
    return model.net.codec.score(torch.cat(frames), score.bpm)  # type: ignore[operator, return-value]


def times(score: Score) -> np.ndarray:
    """Return onset times in seconds."""
    return np.unique(score.hits[:, 0].round(3)) * 60 / score.bpm


def gains(
    answers: Callable[[Score, int], Score], pieces: list[Score], delay: Callable[[Score], float]
) -> dict[str, float]:
    """Return how much better answers fit the performance that they answer than another's do, at both look-aheads."""
    found: dict[str, list[float]] = {"0 s": [], "-1 s": []}
    for k, piece in enumerate(pieces):
        other = pieces[(k + 1) % len(pieces)]
        wrong = Score(other.notes, other.hits, piece.bpm, beats=other.beats)
        mine, theirs = (times(answers(s, k)) for s in (piece, wrong))
        for name, shift in (("0 s", 0.0), ("-1 s", delay(piece))):
            real = times(piece) - shift
            found[name].append(f1(mine, real[real >= 0]) - f1(theirs, real[real >= 0]))
    return {k: float(np.mean(v)) for k, v in found.items()}


def run(full: bool) -> Result:
    """Measure; `full` takes more performances."""
    torch.set_num_threads(1)
    model = open_run("groove")
    config, count = model.recipe.data, 24 if full else 8
    pieces = [s.part(0, 32.0) for s in data.scores(config.kind, config.root, "test") if s.beats >= 32][:count]
    block = float(model.recipe.model.block * model.net.codec.ticks / 4)  # type: ignore[operator, arg-type]
    players = {
        "gain": partial(answer, model),
        "echo": lambda score, k: score,
        "not steered": partial(answer, model, steer=0.0),
    }
    found = {name: gains(play, pieces, lambda p: block * 60 / p.bpm) for name, play in players.items()}
    mine = found.pop("gain")
    bars = [
        Bar("onset F1 over a shuffled accompaniment, zero look-ahead", mine["0 s"], ">=", 0.2),
        Bar("the same, one block ahead of what was heard", mine["-1 s"], ">", 0.0),
    ]
    return Result(
        {"gain": mine}, bars, peers=found,
        notes=f"{len(pieces)} performances of 32 beats; {RATE} Hz; blocks of {block:g} beats.",
    )  # fmt: skip
