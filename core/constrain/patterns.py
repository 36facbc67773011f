"""Automata of many patterns at once: none of them, one of them, so many of them.

A pattern is a list of allowed token sets; a window matches it where each of its tokens lies in the set of its place.
All patterns are matched together by one register of bits, one bit for each place of each pattern: bit j stands where a
match of some pattern has come as far as its j-th place (Baeza-Yates and Gonnet 1992, "shift-and"),

    D'  =  ((D << 1) | first places) & those places that allow the token read,

and a match is complete where D' meets the last places. The registers that can occur are the states of a deterministic
automaton; there are few of them, whatever the number of ambiguous letters, so that a site such as CCANNNNNNTGG costs
no list of 4096 words.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from core.constrain.automaton import Automaton
from core.errors import UsageError

__all__ = ["MOST", "avoid_all", "occurrences"]

Pattern = Sequence[Iterable[int]]
State = TypeVar("State", bound=Hashable)

MOST = 60_000
"""States beyond which an automaton is refused: its windows would take seconds, not milliseconds."""


class _Register:
    """The bits of some patterns: what a token keeps, where matches begin, where they are complete."""

    def __init__(self, patterns: Iterable[Pattern], tokens: int) -> None:
        self.keep, self.first, self.last, place = [0] * tokens, 0, 0, 0
        for pattern in patterns:
            sets = [frozenset(s) for s in pattern]
            wrong = [v for s in sets for v in s if not 0 <= v < tokens]
            if wrong or not sets:
                raise UsageError(f"patterns are not empty, their tokens 0 ... {tokens - 1}", field="pattern",
                                 value=wrong[0] if wrong else "")  # fmt: skip
            self.first |= 1 << place
            for j, allowed in enumerate(sets):
                for v in allowed:
                    self.keep[v] |= 1 << (place + j)
            place += len(sets)
            self.last |= 1 << (place - 1)
        self._gaps = ~(self.last << 1)

    def read(self, bits: int, token: int) -> int:
        """Return the register after one more token."""
        return (((bits << 1) & self._gaps) | self.first) & self.keep[token]


def _explore(start: State, tokens: int, step: Callable[[State, int], State | None]) -> tuple[np.ndarray, list[State]]:
    """Return the transitions [Q, K] between the states that `start` reaches (None refuses), and these states."""
    number, order, rows = {start: 0}, [start], []
    for state in order:  # grows while it is read
        row = []
        for v in range(tokens):
            to = step(state, v)
            if to is not None and to not in number:
                number[to] = len(order)
                order.append(to)
                if len(order) > MOST:
                    raise UsageError(f"the patterns need more than {MOST} states", field="constraint",
                                     hint="shorten the spacing or the motif, or ask for fewer occurrences")  # fmt: skip
            row.append(-1 if to is None else number[to])
        rows.append(row)
    return np.array(rows, np.int64), order


def avoid_all(patterns: Iterable[Pattern], tokens: int) -> Automaton:
    """Return the law of sequences in which no window matches any of the patterns."""
    register = _Register(patterns, tokens)

    def step(bits: int, token: int) -> int | None:
        bits = register.read(bits, token)
        return None if bits & register.last else bits

    delta, states = _explore(0, tokens, step)
    return Automaton(delta, np.ones(len(states), bool))


def occurrences(patterns: Iterable[Pattern], tokens: int, low: int = 1, high: int | None = None) -> Automaton:
    """Return the law of sequences with low ... high places at which a match of some pattern ends.

    Matches may overlap; two patterns that match the same window (a palindrome on both strands) count once.

    Args:
        patterns: the patterns; at each end at least one of them matches.
        tokens: size of the alphabet.
        low: least number of matches.
        high: largest number, None for any.
    """
    register = _Register(patterns, tokens)
    if low < 0 or (high is not None and high < low):
        raise UsageError("0 <= low <= high is needed", field="count", value=(low, high))

    def step(state: tuple[int, int], token: int) -> tuple[int, int] | None:
        bits, count = state
        if high is None and count >= low:
            return state
        bits = register.read(bits, token)
        count += bool(bits & register.last)
        if high is None:
            return (0, low) if count >= low else (bits, count)
        return None if count > high else (bits, count)

    delta, states = _explore((0, 0), tokens, step)
    return Automaton(delta, np.array([count >= low for _, count in states]))
