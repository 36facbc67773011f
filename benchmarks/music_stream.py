"""Do the pieces that sound comes in matter? Random partitions of every stream against the whole.

Reader and player of the mel codec (random decoder weights, worst case for streaming), player of the roll codec, the
ear, and a live session end to end, each cut in random portions from several seeds. The largest difference is given.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apps.music import controls, tunes
from apps.music.codec import MelCodec
from apps.music.generate import MusicModel
from apps.music.model import MusicNet, Recipe
from apps.music.roll import RollCodec
from apps.music.synth import render
from benchmarks.harness import Bar, Result
from core.run.config import load_recipe

__all__ = ["run", "untrained"]


def cuts(n: int, seed: int, most: int) -> list[slice]:
    """Return consecutive slices of random lengths 0 ... most - 1 that cover n."""
    rng, at, out = np.random.default_rng(seed), 0, []
    while at < n:
        step = int(rng.integers(0, most))
        out.append(slice(at, min(at + step, n)))
        at += step
    return out


def untrained(overrides: list[str], mel: bool = False) -> MusicModel:
    """Return a model of random weights on a fitted codec."""
    torch.manual_seed(0)
    recipe: Recipe = load_recipe("music", "recordings" if mel else "toy", overrides)
    net = MusicNet(recipe)
    for p in net.flow.parameters():
        torch.nn.init.normal_(p, std=0.05)
    if isinstance(net.codec, RollCodec):
        net.codec.fit(tunes.collection(0, 14))
    else:
        net.codec.fit([sound(k, 6.0) for k in range(4)])
    return MusicModel(net, recipe)


def sound(seed: int, seconds: float) -> Tensor:
    """Return an embedded tune as sound."""
    return torch.from_numpy(render(tunes.arrange("joy", seed), seconds)).float()


def worst(pieces: list[Tensor], whole: Tensor) -> float:
    """Return the largest difference; infinite where the lengths differ."""
    joined = torch.cat(pieces)
    return float((joined - whole).abs().max()) if joined.shape == whole.shape else float("inf")


def run(full: bool) -> Result:
    """Measure; `full` cuts more often."""
    torch.set_num_threads(1)
    seeds = range(20 if full else 4)
    audio, mel, roll = sound(1, 6.0), untrained([], mel=True), untrained([])
    codec: MelCodec = mel.net.codec  # type: ignore[assignment]
    z = codec.encode(audio)
    figures: dict[str, float] = dict.fromkeys(("reader", "player", "roll", "ear", "live roll", "live mel"), 0.0)
    scores = roll.net.codec.encode(tunes.arrange("saints", 2))  # type: ignore[arg-type]
    wholes = {m: model.live(5, steps=2).read(150_000) for m, model in (("live roll", roll), ("live mel", mel))}
    heard, decoded, rolled = controls.listen(audio), codec.decode(z), roll.net.codec.decode(scores)
    for seed in seeds:
        reader, player, other, ear = codec.reader(), codec.player(), roll.net.codec.player(), controls.Ear()
        found = {
            "reader": worst([*(reader.push(audio[s]) for s in cuts(len(audio), seed, 9000)), reader.flush()], z),
            "player": worst([*(player.push(z[s]) for s in cuts(len(z), seed, 9)), player.flush()], decoded),
            "roll": worst([*(other.push(scores[s]) for s in cuts(len(scores), seed, 7)), other.flush()], rolled),
        }
        parts = [*(ear.push(audio[s]) for s in cuts(len(audio), seed, 4000)), ear.flush()]
        found["ear"] = max(worst([p[name] for p in parts], rows) for name, rows in heard.items())
        for name, model in (("live roll", roll), ("live mel", mel)):
            session = model.live(5, steps=2)
            found[name] = worst([session.read(s.stop - s.start) for s in cuts(150_000, seed, 20_000)], wholes[name])
        figures = {k: max(v, found[k]) for k, v in figures.items()}
    bars = [Bar(f"any partition against the whole: {k}", v, "<=", 1e-6) for k, v in figures.items() if k != "ear"]
    bars.append(Bar("any partition against the whole: features heard (units of one)", figures["ear"], "<=", 1e-5))
    notes = f"{len(seeds)} random partitions each; random weights of the recipes toy and recordings."
    return Result(figures, bars, {k: "largest absolute difference" for k in figures}, notes=notes)
