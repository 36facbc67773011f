"""Which micro-batch of a step is in work, and the noise of its items.

With A micro-batches on each of W processes, micro-batch a of process r is lane r A + a. Its n items are numbers
lane · n ... lane · n + n - 1 of the step, and so is their noise: however a batch is cut into lanes, every item has
noise of its own, that of the same item of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from core.noise import Stream

__all__ = ["lane", "noise", "within"]

_LANE: ContextVar[int] = ContextVar("lane", default=0)


def lane() -> int:
    """Return the number of the micro-batch in work; 0 outside the loop."""
    return _LANE.get()


@contextmanager
def within(number: int) -> Iterator[None]:
    """Let a micro-batch be the one in work."""
    token = _LANE.set(number)
    try:
        yield
    finally:
        _LANE.reset(token)


def noise(seed: int, n: int) -> Stream:
    """Return the streams of the n items of the micro-batch in work; fold in the step."""
    return Stream.of(seed, n, lane() * n)
