"""Automata that know where they are: laws over sequences of one length whose rules depend on the site.

A timed automaton has a few transition tables and says which of them each site uses. Fixed translations, patterns that
matter only in some region, and sums over tiles are all of this kind; outside their region they wait.

    region(A, L, i, j)   A reads the sites i ... j - 1 and ignores the others
    codons(S, L, i)      the triple at i + 3 n is one of S_n                       (a reading frame)
    tiles(c, w, L)       low <= sum of c over each tile of w sites <= high

A `Budget` is a sum over the whole sequence. It is not multiplied into the states: sums of a hundred values times
hundreds of states would be slow, while vectors and bit sets over the sum are fast (`sweep.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from core.constrain.automaton import Automaton
from core.errors import UsageError

__all__ = ["Budget", "Timed", "codons", "region", "tally", "tiles"]


@dataclass(frozen=True, eq=False)
class Timed:
    """A deterministic automaton over L sites.

    Args:
        delta: int32 [T, Q, K], the tables; -1 refuses.
        table: int64 [L], the table that each site uses.
        accept: bool [Q], where a sequence may end.
        start: the first state.
    """

    delta: Int[np.ndarray, "t q k"]
    table: Int[np.ndarray, " l"]
    accept: Bool[np.ndarray, " q"]
    start: int = 0

    @property
    def length(self) -> int:
        """Number of sites L."""
        return len(self.table)

    def alive(self, allowed: Bool[np.ndarray, "l k"]) -> Bool[np.ndarray, "ends q"]:
        """Return after how many sites which states still lead to acceptance by `allowed` tokens, bool [L + 1, Q]."""
        out = np.empty((self.length + 1, len(self.accept)), bool)
        out[-1] = self.accept
        for i in range(self.length - 1, -1, -1):
            step = self.delta[self.table[i]][:, allowed[i]]
            out[i] = (out[i + 1][step] & (step >= 0)).any(1)
        return out


@dataclass(frozen=True, eq=False)
class Budget:
    """low <= sum over sites of cost[i, x_i] <= high.

    Args:
        cost: int64 [L, K] >= 0.
        low, high: the bounds, inclusive.
    """

    cost: Int[np.ndarray, "l k"]
    low: int
    high: int


def region(automaton: Automaton, length: int, start: int = 0, stop: int | None = None) -> Timed:
    """Return the law that an automaton accepts what stands on the sites start ... stop - 1 of `length`."""
    stop = length if stop is None else stop
    if not 0 <= start <= stop <= length:
        raise UsageError(f"must lie within 0 ... {length}", field="region", value=(start, stop))
    wait = np.broadcast_to(np.arange(automaton.states)[:, None], automaton.delta.shape)
    ends = np.flatnonzero(automaton.accept)
    good = automaton.accept[automaton.delta] & (automaton.delta >= 0)
    close = np.where(good, ends[0] if len(ends) else -1, -1)  # behind the region all that is accepted is one
    table = np.ones(length, np.int64)
    table[start:stop] = 0
    table[max(start, stop - 1) : stop] = 2
    delta = np.stack([automaton.delta, wait, close]).astype(np.int32)
    return Timed(delta, table, automaton.accept, automaton.start)


def codons(allowed: Sequence[Iterable[tuple[int, int, int]]], length: int, start: int, tokens: int) -> Timed:
    """Return the law that the n-th triple of sites from `start` on is one of `allowed[n]`.

    States: 0 between triples, 1 + a after one token, 1 + K + K a + b after two.
    """
    if not 0 <= start <= start + 3 * len(allowed) <= length:
        raise UsageError(f"{len(allowed)} triples from {start} on do not fit into {length} sites", field="frame")
    states = 1 + tokens + tokens * tokens
    wait = np.broadcast_to(np.arange(states)[:, None], (states, tokens))
    tables, number, table = [wait.copy()], {}, np.zeros(length, np.int64)
    for n, triples in enumerate(allowed):
        key = frozenset(triples)
        if key not in number:
            number[key] = len(tables)
            one, two, three = (np.full((states, tokens), -1) for _ in range(3))
            for a, b, c in key:
                one[0, a], two[1 + a, b], three[1 + tokens + tokens * a + b, c] = 1 + a, 1 + tokens + tokens * a + b, 0
            tables += [one, two, three]
        table[start + 3 * n : start + 3 * n + 3] = number[key] + np.arange(3)
    accept = np.zeros(states, bool)
    accept[0] = True
    return Timed(np.stack(tables).astype(np.int32), table, accept)


def tiles(cost: Sequence[int], width: int, low: int, high: int, length: int, start: int = 0) -> Timed:
    """Return the law that each of the tiles of `width` sites from `start` on sums to low ... high.

    Sites behind the last whole tile, and before the first, are not counted.
    """
    price, top = np.asarray(cost, np.int64), np.arange(high + 1)
    total = top[:, None] + price
    add = np.where(total > high, -1, total)
    close = np.where((total >= low) & (total <= high), 0, -1)
    wait = np.broadcast_to(top[:, None], add.shape)
    table = np.full(length, 2)
    for first in range(start, length - width + 1, width):
        table[first : first + width] = 0
        table[first + width - 1] = 1
    return Timed(np.stack([add, close, wait]).astype(np.int32), table, top == 0)


def tally(budget: Budget) -> Timed:
    """Return a budget as an automaton whose states are the sums; for a second budget beside the first."""
    top = np.arange(budget.high + 1)
    kinds, table = np.unique(budget.cost, axis=0, return_inverse=True)
    total = top[None, :, None] + kinds[:, None, :]
    delta = np.where(total > budget.high, -1, total)
    return Timed(delta.astype(np.int32), table.reshape(-1), top >= budget.low)
