"""Laws over whole sequences as sparse state graphs: who may follow whom, and how far it is to acceptance.

A **state graph** is a deterministic automaton whose arrows carry the token of the state they enter: reading
token `label[s']` in state `s` leads to the successor `s'` of `s` with that label, or nowhere. A road network is
one (states = segments, label = the segment), a finite automaton is one (states = (q, last token)), and so is
each product with an ordered visit list or an additive counter. Everything is sparse: memory and time grow with
the transitions that can be reached, never with states x states.

`togo[s]` is the least number of further tokens after which a sequence in state `s` can be accepted; accepting
states that loop on themselves ("arrived") make every longer completion possible too, which is how sequences of
different lengths share one budget.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from core.jit import jit

__all__ = ["UNREACHABLE", "StateGraph", "hops_to"]

UNREACHABLE = np.int32(2**30)


@dataclass(eq=False)
class StateGraph:
    """A deterministic, node-labelled automaton in compressed sparse rows.

    Args:
        succ_ptr: int64 [S + 1]; successors of state s are `succ[succ_ptr[s]:succ_ptr[s + 1]]`.
        succ: int32 [M].
        label: int32 [S], the token read on entering a state; None means the state's own number.
        tokens: size of the token alphabet.
        log_weight: float64 [M], an optional reference law on the transitions (log, need not be normalised).
    """

    succ_ptr: Int[np.ndarray, " ptr"]
    succ: Int[np.ndarray, " m"]
    tokens: int
    label: Int[np.ndarray, " s"] | None = None
    log_weight: Float[np.ndarray, " m"] | None = None
    _cache: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.succ_ptr) - 1

    @cached_property
    def labels(self) -> Int[np.ndarray, " s"]:
        """Token of each state, int32 [S]."""
        return np.arange(self.states, dtype=np.int32) if self.label is None else self.label.astype(np.int32)

    @cached_property
    def reverse(self) -> tuple[Int[np.ndarray, " ptr"], Int[np.ndarray, " m"]]:
        """Predecessors in compressed sparse rows: (pred_ptr int64 [S + 1], pred int32 [M])."""
        source = np.repeat(np.arange(self.states, dtype=np.int32), np.diff(self.succ_ptr))
        order = np.argsort(self.succ, kind="stable")
        ptr = np.zeros(self.states + 1, np.int64)
        np.cumsum(np.bincount(self.succ, minlength=self.states), out=ptr[1:])
        return ptr, source[order]

    def togo(
        self, accept: Int[np.ndarray, " a"], blocked: Bool[np.ndarray, " s"] | None = None
    ) -> Int[np.ndarray, " s"]:
        """Return the least number of further tokens to a state of `accept`, int32 [S].

        Args:
            accept: accepting state numbers.
            blocked: bool [S], states that may not be entered; they are unreachable themselves.
        """
        ptr, pred = self.reverse
        stop = np.zeros(self.states, np.bool_) if blocked is None else np.asarray(blocked, np.bool_)
        return hops_to(ptr, pred, np.asarray(accept, np.int64), stop)

    def follow(self, state: int, tokens: np.ndarray) -> int:
        """Return the state after reading `tokens` from `state`, or -1 where the law forbids it."""
        for token in np.asarray(tokens):
            nexts = self.succ[self.succ_ptr[state] : self.succ_ptr[state + 1]]
            hit = nexts[self.labels[nexts] == token]
            if len(hit) == 0:
                return -1
            state = int(hit[0])
        return state

    def visits(self, sets: list[np.ndarray]) -> StateGraph:
        """Return the product with an ordered visit list.

        State `stage * S + s`; a sequence moves from stage j to j + 1 on entering a state of `sets[j]`
        (several stages at once where one state serves several visits in a row).
        """
        n, stages = self.states, len(sets) + 1
        member = np.zeros((stages, n), bool)
        for j, visit in enumerate(sets):
            member[j, visit] = True
        target = np.empty((stages, len(self.succ)), np.int64)
        for j in range(stages):
            stage = np.full(len(self.succ), j)
            for step in range(j, stages - 1):
                stage = np.where((stage == step) & member[step, self.succ], step + 1, stage)
            target[j] = stage * n + self.succ
        starts = [self.succ_ptr[:-1] + j * len(self.succ) for j in range(stages)]
        ptr = np.concatenate([*starts, [stages * len(self.succ)]])
        weight = None if self.log_weight is None else np.tile(self.log_weight, stages)
        return StateGraph(ptr, target.reshape(-1).astype(np.int32), self.tokens, np.tile(self.labels, stages), weight)

    def stage(self, state: int, sets: list[np.ndarray]) -> int:
        """Return the state of the `visits` product in which a sequence that starts in `state` begins."""
        j = 0
        while j < len(sets) and state in sets[j]:
            j += 1
        return j * self.states + state

    def induced(self, keep: Bool[np.ndarray, " s"]) -> tuple[StateGraph, Int[np.ndarray, " kept"]]:
        """Return the graph on the states of `keep` (bool [S]) and their old numbers, int64 [S']."""
        old = np.flatnonzero(keep)
        new = np.full(self.states, -1, np.int64)
        new[old] = np.arange(len(old))
        source = np.repeat(np.arange(self.states), np.diff(self.succ_ptr))
        held = keep[source] & keep[self.succ]
        ptr = np.zeros(len(old) + 1, np.int64)
        np.cumsum(np.bincount(new[source[held]], minlength=len(old)), out=ptr[1:])
        weight = None if self.log_weight is None else self.log_weight[held]
        return StateGraph(ptr, new[self.succ[held]].astype(np.int32), self.tokens, self.labels[old], weight), old

    def counted(self, cost: Int[np.ndarray, " m"], size: int, saturate: bool = False) -> StateGraph:
        """Return the product with an additive counter c of what has been read.

        State `c * S + s`, c = 0 ... size. Beyond `size` a transition is forbidden (an upper limit), or the counter
        stays at `size` (a lower limit: "at least `size`").

        Args:
            cost: int64 [M] >= 0, the cost of each transition.
            size: largest count.
            saturate: stay at `size` instead of forbidding.
        """
        n = self.states
        source = np.repeat(np.arange(n), np.diff(self.succ_ptr))
        price = np.asarray(cost, np.int64)
        count = np.arange(size + 1)[:, None] + price
        fits = np.ones_like(count, bool) if saturate else count <= size
        row = (np.arange(size + 1)[:, None] * n + source)[fits]
        col = (np.minimum(count, size) * n + self.succ)[fits]
        ptr = np.zeros((size + 1) * n + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=(size + 1) * n), out=ptr[1:])
        weight = None if self.log_weight is None else np.broadcast_to(self.log_weight, count.shape)[fits]
        return StateGraph(ptr, col.astype(np.int32), self.tokens, np.tile(self.labels, size + 1), weight)


@jit
def hops_to(pred_ptr: np.ndarray, pred: np.ndarray, accept: np.ndarray, blocked: np.ndarray) -> np.ndarray:
    """Return breadth-first distances to `accept` against the arrows, int32 [S]."""
    n = len(pred_ptr) - 1
    far = np.int32(2**30)
    out = np.full(n, far, np.int32)
    queue = np.empty(n, np.int32)
    head, tail = 0, 0
    for s in accept:
        if not blocked[s] and out[s] == far:
            out[s] = 0
            queue[tail] = s
            tail += 1
    while head < tail:
        s = queue[head]
        head += 1
        for e in range(pred_ptr[s], pred_ptr[s + 1]):
            p = pred[e]
            if out[p] == far and not blocked[p]:
                out[p] = out[s] + 1
                queue[tail] = p
                tail += 1
    return out
