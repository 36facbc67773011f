"""Samples as records, any stretch of them at a time: what `quintet trajectory sample --shards` writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from apps.trajectory import verbs
from core.errors import UsageError
from core.run.shards import Rows

__all__ = ["rows"]


def rows(
    model: str, *, n: int, od: Path | None, seed: int, steps: int | None, block: int | None, guidance: float | None,
    network: str, **asked: Any,
) -> Rows:  # fmt: skip
    """Return the source of records: the trips of `verbs.sample`, one by one.

    A record has the number `id`, `segments` as the network's file calls them, and for each of these `enter`, seconds
    after departure (NaN where unknown).
    """
    if od is not None or not (asked["origin"] and asked["destination"]):
        raise UsageError("shards are of one request: give --origin and --destination", field="od")
    request = verbs.wishes(**asked)
    net = verbs.load(model, network, {"steps": steps, "block": block, "guidance": guidance})
    rules = request.rules(net.network, net.rules)

    def draw(first: int, count: int) -> list[dict[str, Any]]:
        ends = request.ends(net.fields, rules, net.recipe.data.max_hops, count, seed, first)
        own = replace(rules, origins=ends.possible) if rules.counted else rules
        made = net.obeying(own).sample(ends.origin, ends.target, ends.depart, seed, np.arange(first, first + count))
        cuts = made.ptr[1:-1]
        parts = zip(np.split(made.segment, cuts), np.split(made.enter, cuts), strict=True)
        return [
            {"id": first + k, "segments": net.network.ids(s).tolist(), "enter": [round(float(v), 3) for v in e]}
            for k, (s, e) in enumerate(parts)
        ]

    return draw
