"""Step-addressed data: what step s reads is a pure function of (seed, s, rank).

No loader has a state, so a checkpoint needs none: after a crash, step s reads the same items again. One epoch is one
permutation of the items, drawn from a hash of (seed, epoch); the position of an item in the endless sequence of
permutations is

    position = (step * world + rank) * batch + j,        epoch = position // size,

so that `world` processes (or accumulated micro-batches) of `batch` items read together what one process would read
in batches of `world * batch`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Prefetch", "indices", "stream"]


def stream(*key: int | str) -> int:
    """Hash a key such as (seed, step, rank, "noise") to a 63-bit seed, the same on every machine."""
    text = "/".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """Return the order in which epoch `epoch` reads `size` items."""
    return np.random.default_rng(stream(seed, epoch, "epoch")).permutation(size)


def indices(seed: int, step: int, rank: int, world: int, *, size: int, batch: int) -> NDArray[np.int64]:
    """Return the `batch` item numbers in [0, size) that process `rank` of `world` reads at step `step`."""
    position = (step * world + rank) * batch + np.arange(batch)
    epoch, offset = np.divmod(position, size)
    return np.array([permutation(seed, int(e), size)[o] for e, o in zip(epoch, offset, strict=True)], dtype=np.int64)


class Prefetch:
    """Compute the values of a pure function of a counter ahead of time, in a thread.

    Args:
        function: called with 0, 1, 2, ...; it must not touch a global random generator.
        ahead: how many values are prepared while one is used; 0 computes each when it is asked for.
    """

    def __init__(self, function: Callable[[int], Any], ahead: int = 1) -> None:
        self.function, self.ahead = function, ahead
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch") if ahead else None
        self.waiting: deque[tuple[int, Future[Any]]] = deque()

    def get(self, count: int, last: int) -> Any:
        """Return the value at `count` and begin on those after it, up to `last` (exclusive)."""
        if self.pool is None:
            return self.function(count)
        if not self.waiting or self.waiting[0][0] != count:
            self.waiting.clear()
            self.waiting.append((count, self.pool.submit(self.function, count)))
        _, future = self.waiting.popleft()
        start = self.waiting[-1][0] + 1 if self.waiting else count + 1
        for ahead in range(start, min(count + self.ahead + 1, last)):
            self.waiting.append((ahead, self.pool.submit(self.function, ahead)))
        return future.result()

    def close(self) -> None:
        """Drop what is waiting and end the thread."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
