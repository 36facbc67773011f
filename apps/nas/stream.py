"""Samples as records, any stretch of them at a time: what `quintet nas sample --shards` writes."""

from __future__ import annotations

from typing import Any

from apps.nas import verbs
from apps.nas.cell import Cell
from apps.nas.constraints import compile_
from core.noise import Stream
from core.run.shards import Rows

__all__ = ["rows"]


def rows(model: str, *, n: int, seed: int, steps: int | None, temperature: float | None, **asked: Any) -> Rows:
    """Return the source of records `id`, `cell`, `tokens` (arguments as in the verb `sample`)."""
    net = verbs.load(model).set(steps=steps, temperature=temperature)
    layers = compile_(net.space, verbs.wishes(**asked))

    def draw(first: int, count: int) -> list[dict[str, Any]]:
        found = net.draw(layers, Stream.of(seed, count, first)).tolist()
        return [{"id": first + k, "cell": str(Cell.of(net.space, x)), "tokens": x} for k, x in enumerate(found)]

    return draw
