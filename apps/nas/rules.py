"""What makes a cell valid and within limits, as automata that read its variables one after the other.

The state after some variables holds what the rest needs to know and no more:

    structure   which nodes are present, which hear of the input, which are heard; the in-degree of the open column
    depth       of each node, the most counted operations on a path from the input
    on_paths    of each node, which nodes with counted operations lead to it, itself included
    sum         of additive costs so far; one state for all sums that no completion can push over the limit, and none
                for those that every completion does (exact reasoning about the budget that remains)
    listed      the prefix of the cells of a list (any limit at all, on spaces small enough to be listed)

`unroll` follows a step function from the start through all variables and numbers the states that it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import numpy as np

from apps.nas.space import ABSENT, NONE, Space
from core.constrain.timed import Timed
from core.errors import UsageError

__all__ = ["alphabets", "at_least", "depth", "listed", "on_paths", "structure", "total", "unroll"]

LARGEST = 300_000
"""States of one rule beyond which it is refused."""

Step = Callable[[Any, int, int], Hashable]


def alphabets(space: Space) -> np.ndarray:
    """Return which tokens the space leaves to each variable, bool [D, K]."""
    out = np.zeros((space.D, space.K), bool)
    for d, v in enumerate(space.variables):
        out[d, list(space.choices(v))] = True
    return out


def unroll(space: Space, start: Hashable, step: Step, accept: Callable[[Any], bool]) -> Timed:
    """Return the automaton of a step function.

    Args:
        space: whose variables are read.
        start: the first state.
        step: from (state, variable, token) to the next state, None to refuse.
        accept: of a last state.

    Raises:
        UsageError: there are too many states.
    """
    layer: list[Any] = [start]
    tables: list[np.ndarray] = []
    for d, variable in enumerate(space.variables):
        number: dict[Any, int] = {}
        table = np.full((len(layer), space.K), -1, np.int64)
        for q, state in enumerate(layer):
            for k in space.choices(variable):
                to = step(state, d, k)
                if to is not None:
                    table[q, k] = number.setdefault(to, len(number))
        if len(number) > LARGEST:
            raise UsageError(f"needs more than {LARGEST} states", field="constraints", hint="ask for something coarser")
        tables.append(table)
        layer = list(number)
    width = max([1, len(layer), *(len(t) for t in tables)])
    delta = np.full((space.D, width, space.K), -1, np.int32)
    for d, table in enumerate(tables):
        delta[d, : len(table)] = table
    ends = np.zeros(width, bool)
    ends[: len(layer)] = [accept(state) for state in layer]
    return Timed(delta, np.arange(space.D), ends)


def _columns(space: Space) -> list[list[int]]:
    """Return for each variable the nodes whose columns are complete after it, and first those complete before any."""
    last = {
        j: max((d for d, v in enumerate(space.variables) if v.node == j), default=-1) for j in range(1, space.nodes)
    }
    closed = [[] for _ in range(space.D + 1)]
    done = -1
    for j in range(1, space.nodes):
        done = max(done, last[j])
        closed[done + 1].append(j)
    return closed


State = tuple[int, int, int, int]
"""(present, reached, heard) as bits over nodes, and the in-degree of the open column, no higher than matters."""


class _Structure:
    """The step function of `structure`."""

    def __init__(self, space: Space) -> None:
        self.space, (self.low, self.high), self.last = space, space.in_degree, space.nodes - 1
        self.cap = min(max(self.low, 1, self.high + 1 if self.high < self.last else 0), space.nodes)
        self.closed = _columns(space)
        self.given = [[i for i, k in space.pairs if k == j] if space.given else [] for j in range(space.nodes)]

    def close(self, state: State, nodes: Sequence[int]) -> State | None:
        """Complete the columns of some nodes."""
        present, reached, heard, degree = state
        for j in nodes:
            for i in self.given[j]:
                degree, heard = min(degree + 1, self.cap), heard | 1 << i
                reached |= (reached >> i & 1) << j
            here = j == self.last or bool(present >> j & 1)
            if here and not self.low <= degree <= self.high:
                return None
            if self.space.connected == "all" and here and not reached >> j & 1:
                return None
            degree = 0
        return present, reached, heard, degree

    def __call__(self, state: State, d: int, k: int) -> Hashable:
        """Read token k of variable d."""
        present, reached, heard, degree = state
        v = self.space.variables[d]
        word = v.values[k]
        if v.source is None:
            if word != ABSENT and self.space.optional:
                if not present >> (v.node - 1) & 1:
                    return None
                present |= 1 << v.node
        elif word not in (NONE, "no"):
            i, j = v.source, v.node
            if not (present >> i & 1 and (j == self.last or present >> j & 1)):
                return None
            degree, heard = min(degree + 1, self.cap), heard | 1 << i
            reached |= (reached >> i & 1) << j
        return self.close((present, reached, heard, degree), self.closed[d + 1])

    def accept(self, state: State) -> bool:
        """Whether the output hears of the input and, where all must, every present node is heard."""
        present, reached, heard, _ = state
        interior = (present & ((1 << self.last) - 1)) | 1
        connected = self.space.connected == "no" or bool(reached >> self.last & 1)
        return connected and (self.space.connected != "all" or interior & ~heard == 0)


def structure(space: Space) -> Timed | None:
    """Return the automaton of a space's own rules; None where it has none."""
    low, high = space.in_degree
    if space.connected == "no" and not space.optional and low == 0 and high >= space.nodes - 1:
        return None
    step = _Structure(space)
    everything = 0 if space.optional else (1 << space.nodes) - 1
    start = step.close((everything | 1, 1, 0, 0), step.closed[0])
    if start is None:
        raise UsageError("no cell can have these edges", field="edges", hint="some node never hears of the input")
    return unroll(space, start, step, step.accept)


def depth(space: Space, counted: Collection[str], low: int, high: int) -> Timed:
    """Return the law that the longest path from input to output, in counted operations, is low ... high long.

    State: the depth of each node, -1 where it hears of nothing, and the open column's depth so far.
    """
    return _followed(space, counted, max, lambda deepest, _, own: deepest + own, lambda found: low <= found <= high)


def on_paths(space: Space, counted: Collection[str], low: int, high: int) -> Timed:
    """Return the law that low ... high nodes on paths from input to output have counted operations.

    State: the counted nodes that lead to each node as bits, -1 where it hears of nothing, and those of the open column.
    """
    return _followed(
        space,
        counted,
        lambda first, other: max(first, 0) | other,
        lambda heard, j, own: heard | own << j,
        lambda found: low <= max(found, 0).bit_count() <= high,
    )


def _followed(
    space: Space, counted: Collection[str], join: Callable[[int, int], int], extend: Callable[[int, int, int], int],
    accept: Callable[[int], bool],
) -> Timed:  # fmt: skip
    """Return the law on what the output hears, where each node passes on a whole number, or -1 for nothing.

    Args:
        space: whose variables are read.
        counted: the operations that matter.
        join: of what was heard (-1 at first) and one more number >= 0.
        extend: of what was heard, by node j, whose operation is counted (1) or not (0).
        accept: of what the output hears.
    """
    closed, last = _columns(space), space.nodes - 1
    given = [[i for i, k in space.pairs if k == j] for j in range(space.nodes)] if space.given else None

    def close(state: tuple[Any, ...], nodes: Sequence[int]) -> tuple[Any, ...] | None:
        known, heard, own = state
        for j in nodes:
            for i in given[j] if given else ():
                heard = join(heard, known[i]) if known[i] >= 0 else heard
            known = (*known, extend(heard, j, own) if heard >= 0 else -1)
            heard, own = -1, 0
        return known, heard, own

    def step(state: tuple[Any, ...], d: int, k: int) -> Hashable:
        known, heard, own = state
        v = space.variables[d]
        word = v.values[k]
        if v.source is None:
            own = int(word in counted)
        elif word not in (NONE, "no") and known[v.source] >= 0:
            hit = int(space.place == "edges" and word in counted)
            heard = join(heard, extend(known[v.source], v.node, hit))
        return close((known, heard, own), closed[d + 1])

    start = close(((0,), -1, 0), closed[0])
    return unroll(space, start, step, lambda state: accept(state[0][last]))


def total(space: Space, cost: np.ndarray, low: int, high: int, allowed: np.ndarray) -> Timed:
    """Return the law low <= sum of cost[d, x_d] <= high.

    Args:
        space: whose variables are read.
        cost: int64 [D, K].
        low, high: the bounds.
        allowed: bool [D, K], for what may still be spent.
    """
    least = np.append(np.where(allowed, cost, 2**60).min(1)[::-1].cumsum()[::-1], 0)
    most = np.append(np.where(allowed, cost, -(2**60)).max(1)[::-1].cumsum()[::-1], 0)

    def reduced(spent: int, d: int) -> int | str | None:
        if spent + least[d] > high or spent + most[d] < low:
            return None
        return "any" if spent + most[d] <= high and spent + least[d] >= low else spent

    def step(state: Any, d: int, k: int) -> Hashable:
        if state == "any":
            return state if allowed[d, k] else None
        return reduced(state + int(cost[d, k]), d + 1) if allowed[d, k] else None

    start = reduced(0, 0)
    return unroll(
        space, 0 if start is None else start, step if start is not None else (lambda *_: None), lambda s: True
    )


def at_least(space: Space, words: Collection[str], low: int, high: int, off: Collection[int] = ()) -> Timed:
    """Return the law that low ... high variables have one of some values, those of the nodes `off` left out."""
    cost = np.zeros((space.D, space.K), np.int64)
    for d, v in enumerate(space.variables):
        cost[d, : len(v.values)] = [w in words and v.node not in off for w in v.values]
    return total(space, cost, low, high, alphabets(space))


def listed(space: Space, x: np.ndarray) -> Timed:
    """Return the law that the cell is one of x [n, D]: a trie."""
    prefixes = {tuple(row[:d]) for row in x.tolist() for d in range(space.D + 1)}

    def step(state: tuple[int, ...], d: int, k: int) -> Hashable:
        return (*state, k) if (*state, k) in prefixes else None

    return unroll(space, (), step, lambda state: True)
