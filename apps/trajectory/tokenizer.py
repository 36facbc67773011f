"""Trips as token rows: the origin is the prompt, the rest is padded with the destination up to a whole block.

    s_0 | s_1 ... s_n d d ... d          the destination absorbs: it is the end-of-trip token and the padding at once

`decode(encode(trip)) == trip` for every walk that meets its destination only at its end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["decode", "encode", "trim"]


def trim(trip: np.ndarray) -> np.ndarray:
    """Cut a walk at the first arrival at its destination (a trip that starts there is cut at the next)."""
    hits = np.flatnonzero(trip[1:] == trip[-1])
    return trip[: hits[0] + 2] if len(hits) else trip


def encode(trips: Sequence[np.ndarray], block: int) -> np.ndarray:
    """Return token rows int64 [B, 1 + n * block], n the least number of blocks that holds the longest trip."""
    longest = max(len(t) for t in trips) - 1
    width = 1 + max(-(-longest // block), 1) * block
    out = np.empty((len(trips), width), np.int64)
    for row, trip in zip(out, trips, strict=True):
        row[: len(trip)], row[len(trip) :] = trip, trip[-1]
    return out


def decode(rows: np.ndarray) -> list[np.ndarray]:
    """Return the trips of token rows [B, T]: up to the first arrival at the last token of each (-1 is ignored)."""
    return [trim(row[row >= 0]) for row in np.asarray(rows)]
