"""Does endless music drift? Ten times the training window, before and after ARC-Forcing.

The flow and what ARC-Forcing makes of it (`runs/music/chorales-free`, `runs/music/chorales-mean`) play 50 blocks from
the same seeds, nothing asked. Blocks are compared with held-out music (test) by the Frechet distance of 17 features.
The 38 held-out pieces are in keys of their own, which is most of that distance, so the same against training music
stands beside, as does `chorales-arc`, which the
runs averaged in `chorales-mean` went on from. Beside the distances: the
slope of the loudness that is heard, the similarity of blocks to those 1 to 8 before (a loop reaches 1) in as many
blocks as held-out pieces have, and tempo and pitch-class entropy of the last five blocks against the 95 % band of five
blocks of held-out music.
"""

from __future__ import annotations

import numpy as np
import torch

from apps.music import data
from apps.music.generate import Music, MusicModel
from apps.music.judge import features, real_features
from apps.music.metrics import entropy, frechet, loop
from apps.music.roll import RollCodec
from apps.music.score import Score
from apps.music.synth import RATE, render
from benchmarks._music import CHORALE_BPM, open_run, pace
from benchmarks.harness import Bar, Result

__all__ = ["run"]

BLOCKS, END = 50, slice(-5, None)
PIECES = 128
"""Of 64 the ratio goes from 0.7 to 1.4 by seed."""


def _apart(found: np.ndarray, real: np.ndarray) -> float:
    """Return the distance of blocks [p, n, k] to real ones [m, k], in units of their deviations."""
    scale = real.std(0).clip(1e-3)
    return frechet(found.reshape(-1, found.shape[2]) / scale, real / scale)


def slope(score: Score) -> float:
    """Return how the loudness of a score's sound changes, in dB per minute: a line through seconds that sound."""
    sound = render(score)
    seconds = sound[: len(sound) // RATE * RATE].reshape(-1, RATE)
    level = 20 * np.log10(np.sqrt((seconds**2).mean(1)).clip(1e-4))
    at = np.flatnonzero(level > -60)
    return float(60 * np.polyfit(at, level[at], 1)[0])


def repeats(frames: torch.Tensor, block: int, count: int) -> float:
    """Return the loop figure of the last `count` blocks of frames [F, dim]."""
    return loop(frames[-count * block :], block)


def curve(music: Music, real: np.ndarray, trained: np.ndarray, count: int, heard: int) -> dict[str, float]:
    """Return what 50 blocks of each piece are like at their beginning and their end."""
    codec, block = music.model.net.codec, music.model.recipe.model.block
    assert isinstance(codec, RollCodec)
    found = features(music)
    far = [_apart(found[:, p], real) for p in (slice(0, 5), slice(10, 15), slice(20, 25), slice(30, 35), END)]
    known = [_apart(found[:, p], trained) for p in (slice(0, 5), END)]
    scores = [music.score(k) for k in range(len(music))]
    last = 5 * block * codec.ticks / 4
    ends = [s.part(s.beats - last, s.beats) for s in scores]
    slopes = [slope(s) for s in scores[:heard]]
    loops = [repeats(f, block, count) for f in music.frames]
    return {"first": far[0], "blocks_11_15": far[1], "blocks_21_25": far[2], "blocks_31_35": far[3], "last": far[-1],
            "ratio": far[-1] / max(far[0], 1e-9), "first_from_training": known[0], "last_from_training": known[1],
            "ratio_from_training": known[1] / max(known[0], 1e-9), "loop": float(np.mean(loops)),
            "loudness_slope": float(np.mean(slopes)), "loudness_slope_spread": float(np.std(slopes)),
            "tempo": float(np.mean([pace(s) for s in ends])), "entropy": float(np.mean([entropy(s) for s in ends])),
            "silent_ends": float(np.mean([not len(s.notes) for s in ends]))}  # fmt: skip


def bands(model: MusicModel) -> tuple[dict[str, tuple[float, float]], float, int]:
    """Return the 95 % bands of five held-out blocks, the loop figure's 95th percentile, and over how many blocks."""
    codec, config, block = model.net.codec, model.recipe.data, model.recipe.model.block
    assert isinstance(codec, RollCodec)
    beats = 5 * block * codec.ticks / 4
    pieces = data.scores(config.kind, config.root, "test")
    parts = [s.part(a, a + beats) for s in pieces for a in np.arange(0, s.beats - beats + 1e-9, beats / 5)]
    band = {name: tuple(np.percentile([of(s) for s in parts], [2.5, 97.5]).tolist())
            for name, of in (("tempo", pace), ("entropy", entropy))}  # fmt: skip
    frames = [codec.encode(s) for s in pieces]
    count = int(np.median([len(f) // block for f in frames]))
    return band, float(np.percentile([repeats(f, block, count) for f in frames if len(f) >= 9 * block], 95)), count


def run(full: bool) -> Result:
    """Measure; `full` plays the flow with 50 steps too and listens to more pieces."""
    torch.set_num_threads(1)
    flow, arc = open_run("chorales-free"), open_run("chorales-mean")
    real, trained = real_features(flow, "test"), real_features(flow, "train")
    rows, heard = PIECES, 32 if full else 16
    band, most, count = bands(flow)

    def play(model: MusicModel, steps: int) -> dict[str, float]:
        frames = BLOCKS * model.recipe.model.block
        return curve(
            model.sample(rows, frames=frames, seed=0, steps=steps, bpm=CHORALE_BPM), real, trained, count, heard
        )

    before = {k: play(flow, k) for k in ((8, 50) if full else (8,))}
    after = {k: play(arc, k) for k in (4, 8)}
    one = {4: play(open_run("chorales-arc"), 4)}
    end, worse = after[4], after[4]["last"] / before[8]["last"]
    bars = [
        Bar("drift after ARC-Forcing, last five blocks over first five", end["ratio"], "<=", 1.10),
        Bar("last blocks after ARC-Forcing, 4 steps, over before, 8 steps", worse, "<=", 1.0),
        Bar("slope of loudness, dB per minute", abs(end["loudness_slope"]), "<=", 0.5),
        Bar("likeness to blocks 1 to 8 before", end["loop"], "<=", most),
    ]
    for name, (low, high) in band.items():
        bars.append(Bar(f"{name} of the last blocks, outside the data's 95 % band by",
                        round(max(low - end[name], end[name] - high, 0.0), 6), "<=", 0.0))  # fmt: skip
    figures = {"before": before, "after": after, "before_the_mean": one, "band": band, "loop_of_data_p95": most}
    return Result(
        figures, bars, {"first": "Frechet distance", "loudness_slope": "dB/min", "entropy": "bits", "tempo": "bpm"},
        {"training against held-out music": _apart(trained[None], real)},
        notes=f"{rows} pieces of {BLOCKS} blocks of {flow.recipe.model.block} frames; loops over {count} blocks; "
        f"loudness of {heard} pieces; held out: test. The drift before: `before`, `ratio`.",
    )  # fmt: skip
