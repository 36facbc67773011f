"""Samples as records, any stretch of them at a time: what `quintet bio sample --shards` writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from apps.bio import verbs
from core.errors import UsageError
from core.run.shards import Rows

__all__ = ["rows"]


def rows(
    model: str, *, n: int, length: int | None, start: str, seed: int, topology: str = "",
    strength: float | None = None, **settings: Any,
) -> Rows:  # fmt: skip
    """Return the source of records `id`, `sequence` (arguments as in the verb `sample`).

    Raises:
        UsageError: a topology, which records of a shard cannot say.
    """
    if topology:
        raise UsageError(
            "is for .sdf, .smi and .helm, which are not written in shards", field="topology", value=topology
        )
    net = verbs.sequences(verbs.load(model, strength), "sample", "use `design` with a template")

    def draw(first: int, count: int) -> list[dict[str, Any]]:
        index = np.arange(first, first + count)
        made = net.sample(count, length=length, start=start or None, seed=seed, index=index, **settings)
        return [{"id": f"sample_{i}", "sequence": text} for i, text in zip(index, made.sequences, strict=True)]

    return draw
