"""What a user would run instead: five searches behind one interface, all counted alike.

A search is called with `Queries` (which counts), a `Field` (space, limits, randomness) and a budget of unique queries;
it asks until the budget is spent or the space is.

References: Real et al., 2019, arXiv:1802.01548 (regularised evolution); White et al., 2021, arXiv:2005.02960 (local
search); Williams, 1992 (REINFORCE).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from apps.nas.cell import Cell
from apps.nas.constraints import Constraint, compile_
from apps.nas.data import window
from apps.nas.rewards import Queries, classes, floored
from apps.nas.space import Space
from apps.nas.surrogate import Surrogate
from core.constrain.layers import Layers
from core.noise import Stream

__all__ = [
    "BASELINES", "Evolution", "Field", "LocalSearch", "Random", "Reinforce", "Ridge", "Search", "fitted",
    "listed_classes",
]  # fmt: skip

PATIENCE = 200
"""Proposals in a row that were all known before a search gives up: the space is exhausted."""


@dataclass(eq=False)
class Field:
    """Where a search takes place.

    Args:
        space: of the cells.
        constraints: limits; nothing outside is ever proposed.
        seed: all randomness.
    """

    space: Space
    constraints: Sequence[Constraint] = ()
    seed: int = 0
    calls: int = 0

    @cached_property
    def layers(self) -> Layers:
        """The law of what is allowed."""
        return compile_(self.space, self.constraints)

    @cached_property
    def rng(self) -> np.random.Generator:
        """Randomness of the search."""
        return np.random.default_rng([self.seed, 77])

    def stream(self, rows: int) -> Stream:
        """Return fresh streams for some rows."""
        self.calls += 1
        return Stream.of(self.seed, rows).fold(3, self.calls)

    def uniform(self, n: int) -> Tensor:
        """Return n allowed cells, all equally likely."""
        return self.complete(torch.full((n, self.space.D), -1))

    def complete(self, known: Tensor, log_p: Tensor | None = None) -> Tensor:
        """Return allowed cells with the open variables (-1) of `known` [n, D] drawn, uniformly or from `log_p`."""
        flat = torch.zeros(len(known), self.space.D, self.space.K, dtype=torch.float64) if log_p is None else log_p
        u = self.stream(len(known)).uniform(self.space.D)
        return window(self.layers, len(known)).admit(flat, known, known < 0, u)

    def mutate(self, x: Tensor, most: int = 3) -> Tensor:
        """Return allowed neighbours of cells [n, D]: one to `most` variables opened and drawn again."""
        n, D = x.shape
        out = x.clone()
        for _ in range(8):
            same = (out == x).all(-1)
            if not bool(same.any()):
                break
            count = torch.from_numpy(self.rng.integers(1, most + 1, size=n))
            order = torch.from_numpy(self.rng.random((n, D))).argsort(-1).argsort(-1)
            drawn = self.complete(torch.where(order < count[:, None], -1, x))
            out = torch.where(same[:, None], drawn, out)
        return out

    def neighbours(self, row: Sequence[int]) -> np.ndarray:
        """Return the allowed cells that differ in one variable, [n, D]."""
        rows = []
        for d, v in enumerate(self.space.variables):
            for k in self.space.choices(v):
                if k != row[d]:
                    rows.append([*row[:d], k, *row[d + 1 :]])
        near = np.array(rows)
        return near[self.layers.accepts(near)] if len(near) else near


Search = Callable[[Queries, Field, int], None]


@dataclass(frozen=True)
class Random:
    """Uniform draws from what is allowed."""

    def __call__(self, queries: Queries, field: Field, budget: int) -> None:
        """Spend the budget."""
        idle = 0
        while queries.unique < budget and idle < PATIENCE:
            before = queries.unique
            queries.score(field.uniform(min(64, budget - before)))
            idle = 0 if queries.unique > before else idle + 1


@dataclass(frozen=True)
class Evolution:
    """Regularised evolution: the best of a random few is mutated, the oldest dies."""

    population: int = 20
    sample: int = 5

    def __call__(self, queries: Queries, field: Field, budget: int) -> None:
        """Spend the budget."""
        first = field.uniform(min(self.population, budget))
        alive = deque(zip(first.tolist(), queries.score(first).tolist(), strict=True))
        idle = 0
        while queries.unique < budget and idle < PATIENCE:
            before = queries.unique
            few = [alive[i] for i in field.rng.integers(len(alive), size=self.sample)]
            child = field.mutate(torch.tensor([max(few, key=lambda c: c[1])[0]]), most=1)
            alive.append((child[0].tolist(), float(queries.score(child)[0])))
            alive.popleft()
            idle = 0 if queries.unique > before else idle + 1


@dataclass(frozen=True)
class LocalSearch:
    """Climb to the first better neighbour, in random order; start anew where there is none."""

    def __call__(self, queries: Queries, field: Field, budget: int) -> None:
        """Spend the budget."""
        idle = 0
        while queries.unique < budget and idle < PATIENCE:
            before = queries.unique
            here = field.uniform(1)
            value = float(queries.score(here)[0])
            climbing = True
            while climbing and queries.unique < budget:
                climbing = False
                near = field.neighbours(here[0].tolist())
                for row in near[field.rng.permutation(len(near))]:
                    found = float(queries.score(torch.from_numpy(row[None]))[0])
                    if found > value:
                        here, value, climbing = torch.from_numpy(row[None]), found, True
                        break
                    if queries.unique >= budget:
                        break
            idle = 0 if queries.unique > before else idle + 1


@dataclass(frozen=True)
class Ridge:
    """A linear predictor with Thompson sampling: over all allowed cells where they can be listed, else over a pool."""

    initial: int = 10
    batch: int = 3
    pool: int = 2000

    def __call__(self, queries: Queries, field: Field, budget: int) -> None:
        """Spend the budget."""
        queries.score(field.uniform(min(self.initial, budget)))
        everything = listable(field)
        while queries.unique < budget:
            model = fitted(queries, field.space)
            count = min(self.batch, budget - queries.unique)
            pool = field.uniform(self.pool).numpy() if everything is None else everything
            hot = model.describe(pool) if everything is None else described(model, pool)
            fresh = np.array([not queries.known(row) for row in pool.tolist()])
            if not fresh.any():
                return
            for values in model.thompson(hot[fresh], count, field.rng):
                queries.score(torch.from_numpy(pool[fresh][[int(values.argmax())]]))


@dataclass(frozen=True)
class Reinforce:
    """One independent law for each variable, moved by the policy gradient; draws are made admissible."""

    batch: int = 10
    rate: float = 0.3

    def __call__(self, queries: Queries, field: Field, budget: int) -> None:
        """Spend the budget."""
        logits = torch.zeros(field.space.D, field.space.K, dtype=torch.float64)
        mean, idle = None, 0
        while queries.unique < budget and idle < PATIENCE:
            before = queries.unique
            unknown = torch.full((min(self.batch, budget - before), field.space.D), -1)
            x = field.complete(unknown, logits.log_softmax(-1).expand(len(unknown), -1, -1))
            r = floored(queries.score(x))
            idle = 0 if queries.unique > before else idle + 1
            if not bool(r.isfinite().all()):
                continue
            mean = float(r.mean()) if mean is None else 0.9 * mean + 0.1 * float(r.mean())
            a = (r - mean) / r.std(correction=0).clamp_min(1e-6)
            hot = torch.nn.functional.one_hot(x, field.space.K) - logits.softmax(-1)
            logits = logits + self.rate * (a[:, None, None] * hot).mean(0)


def listable(field: Field) -> np.ndarray | None:
    """Return all allowed cells [n, D], None where there are too many."""
    from apps.nas.constraints import admissible
    from core.errors import UsageError

    if field.space.D > 13:
        return None
    try:
        return admissible(field.space, field.constraints)
    except UsageError:
        return None


def listed_classes(field: Field) -> np.ndarray | None:
    """Return one allowed cell of each class [n, D], None where there are too many."""
    cells = listable(field)
    if cells is None:
        return None
    first: dict[str, int] = {}
    for place, row in enumerate(cells.tolist()):
        first.setdefault(Cell.of(field.space, row).key, place)
    return cells[list(first.values())]


_KNOWN: dict[tuple[str, bool, bytes], np.ndarray] = {}


def described(model: Surrogate, x: np.ndarray) -> np.ndarray:
    """Return the features of a list of cells; those of the last few lists are kept."""
    key = (repr(model.space), model.by_class, x.tobytes())
    if key not in _KNOWN:
        if len(_KNOWN) > 3:
            _KNOWN.clear()
        _KNOWN[key] = model.describe(x)
    return _KNOWN[key]


def fitted(queries: Queries, space: Space, scores: str = "best") -> Surrogate:
    """Return the surrogate of everything that was asked (`scores` as in `Surrogate`)."""
    x, y = np.array([row for row, _ in queries.history]), np.array([v for _, v in queries.history])
    return Surrogate(space, scores, by_class=classes(queries.reward) is not None).fit(x, y)


BASELINES: dict[str, Callable[[], Search]] = {
    "random": Random, "evolution": Evolution, "local": LocalSearch, "ridge": Ridge, "reinforce": Reinforce,
}  # fmt: skip
