"""Samples as records, any stretch of them at a time: what `quintet pde sample --shards` writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from apps.pde import verbs
from core.run.shards import Rows

__all__ = ["rows"]


def rows(model: str, *, n: int, steps: int, seed: int) -> Rows:
    """Return the source of records `id` and, for each field of the system, its values at the nodes [N]."""
    net = verbs.load(model)
    names = net.net.system.fields

    def draw(first: int, count: int) -> list[dict[str, Any]]:
        made = net.sample(count, steps=steps, seed=seed, index=np.arange(first, first + count))
        return [
            {"id": first + k, **{name: state[:, c].tolist() for c, name in enumerate(names)}}
            for k, state in enumerate(made)
        ]

    return draw
