"""When memory runs out: the batch is halved, and the step is made again.

The gradient of a step is the mean over its micro-batches, so A batches of B items and 2 A batches of B / 2 items make
the same step where the loss is a mean over items. What stands at a position of the data is a function of the position
alone (`core/run/data.py`), so both read the same items if a task reads by position; one that draws its items at random
draws others of the same law. The loss's own noise has a stream for each micro-batch and is drawn anew.

A run that was halved stays so; its checkpoints say in how many parts, and one that goes on begins with as many. With
several processes nothing is halved: the others already wait for this one's gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from core.run.data import Prefetch

__all__ = ["Feed", "divided", "divisors", "scarce"]

SAYS = ("can't allocate memory", "out of memory")


def scarce(error: BaseException) -> bool:
    """Tell whether an error says that there is no memory left, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in SAYS)


def batches(recipe: Any) -> Iterator[int]:
    """Yield each setting of a recipe that is named `batch`, at any depth."""
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            yield from batches(value)
        elif field.name == "batch":
            yield value


def divisors(recipe: Any) -> list[int]:
    """Return the numbers of parts, in order, into which every `batch` of a recipe can be cut without a rest."""
    sizes = list(batches(recipe))
    return [n for n in range(2, min(sizes, default=0) + 1) if not any(size % n for size in sizes)]


def divided(recipe: Any, parts: int) -> Any:
    """Return a recipe each of whose settings named `batch` is `parts` times smaller."""
    change: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            change[field.name] = divided(value, parts)
        elif field.name == "batch":
            change[field.name] = value // parts
    return dataclasses.replace(recipe, **change)


class Feed:
    """The micro-batches of each step, in smaller pieces once memory ran out.

    Args:
        task: the task (`core.run.train.Task`).
        rank, world: of this process.
        micro: micro-batches of one step.
        ahead: batches that are prepared while one is used.
        smaller: for each number of parts that the batch can be cut into, in order, a function that makes the task of
            batches so much smaller.
        parts: into how many the batch was cut before, by the run that this one goes on with.
    """

    def __init__(
        self,
        task: Any,
        rank: int,
        world: int,
        micro: int,
        ahead: int,
        smaller: Mapping[int, Callable[[], Any]],
        parts: int = 1,
    ) -> None:
        self.task: Any = task
        self.rank, self.world, self.whole, self.ahead = rank, world, micro, ahead
        self.smaller, self.parts = dict(smaller) if world == 1 else {}, 1
        if parts in self.smaller:
            self.task, self.parts = self.smaller[parts](), parts
            self.smaller = {n: make for n, make in self.smaller.items() if n > parts}
        self.prefetch = self.open()

    @property
    def micro(self) -> int:
        """How many micro-batches make a step."""
        return self.whole * self.parts

    def open(self) -> Prefetch:
        """Begin to prepare batches of the present size."""
        task, micro, first, world = self.task, self.micro, self.rank * self.micro, self.world * self.micro
        return Prefetch(lambda n: task.batch(n // micro, first + n % micro, world), self.ahead)

    def get(self, step: int, last: int) -> list[Any]:
        """Return the micro-batches of a step; those of steps before `last` may be prepared ahead."""
        return [self.prefetch.get(step * self.micro + a, last * self.micro) for a in range(self.micro)]

    def cut(self) -> bool:
        """Go on with the next smaller batch; False where there is none."""
        if not self.smaller:
            return False
        self.close()
        self.task = None  # its data may be what fills the memory
        self.parts = min(self.smaller)
        self.task = self.smaller.pop(self.parts)()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.prefetch = self.open()
        return True

    def close(self) -> None:
        """Drop what is prepared."""
        self.prefetch.close()
