"""Samples as records, any stretch of them at a time: what `quintet music sample --shards` writes."""

from __future__ import annotations

from typing import Any

import torch

from apps.music import verbs
from apps.music.audio import at_rate
from apps.music.roll import RollCodec
from apps.music.synth import RATE
from core.run.shards import Rows

__all__ = ["rows"]


def rows(
    model: str, *, n: int, seconds: float, bpm: float, key: str, label: str, seed: int, steps: int | None,
    guidance: float | None, rate: int = RATE, stereo: bool = False,
) -> Rows:  # fmt: skip
    """Return the source of records `id`, `notes` and `hits` (of models of scores), `sound` and `rate`.

    Raises:
        UsageError: stereo of a model of sound, or a key or style that it does not know.
    """
    net = verbs.load(model)
    verbs.checked(net, None, verbs.Form(rate, stereo))
    asked = verbs.wishes(model, key=key, label=label)
    scored = isinstance(net.net.codec, RollCodec)

    def draw(first: int, count: int) -> list[dict[str, Any]]:
        index = torch.arange(first, first + count)
        made = net.sample(
            count, seconds=seconds, asked=asked, bpm=bpm, seed=seed, index=index, steps=steps, guidance=guidance
        )
        found: list[dict[str, Any]] = []
        for k in range(count):
            row: dict[str, Any] = {"id": f"piece_{first + k}"}
            if scored:
                score = made.score(k)
                row |= {"notes": score.notes.round(4).tolist(), "hits": score.hits.round(4).tolist()}
            sound = made.stereo(k) if stereo else made.sound(k)
            found.append({**row, "sound": at_rate(sound, rate), "rate": rate})
        return found

    return draw
