"""The product of timed automata on L sites, unrolled once and shared by all samples.

Layer i holds the joint states that some prefix of i tokens leads to and from which some completion is accepted. Since
every rule is asked at its own site, fixed letters and reading frames cut the product down while it is built. Going back
from the last layer, states with the same successors are merged (Revuz 1992: for a layered automaton one pass is exact
minimisation), so the layers are the smallest deterministic automaton of the law over this length, times the budget.

**The shortest reason.** The rules are put in a row and the shortest row of first rules that admits nothing is found by
bisection; its last rule belongs to the conflict and moves to the front; repeated until only such rules are left. None
of them can be spared (Bradley and Manna 2007: k log n feasibility tests for a conflict of k among n).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from core.constrain.timed import Budget, Timed, tally
from core.errors import UsageError

__all__ = ["Layers", "admits", "conflict", "prepared", "unfold"]

LARGEST = 4_000_000
"""Joint states, over all layers, beyond which a product is refused."""


@dataclass(eq=False)
class Layers:
    """A minimal layered automaton with at most one budget.

    Args:
        ptr: int64 [L + 2]; the states of layer i are ptr[i] ... ptr[i + 1] - 1; layer 0 has one.
        delta: int32 [N, K], the state in the next layer, -1 where nothing accepted follows.
        cost: int64 [L, K], what each token adds to the budget.
        low, high: the budget's bounds (0, 0 and no costs where there is none).
    """

    ptr: Int[np.ndarray, " ptr"]
    delta: Int[np.ndarray, "n k"]
    cost: Int[np.ndarray, "l k"]
    low: int
    high: int

    @property
    def length(self) -> int:
        """Number of sites L."""
        return len(self.ptr) - 2

    @property
    def tokens(self) -> int:
        """Size of the alphabet K."""
        return self.delta.shape[1]

    @cached_property
    def letters(self) -> Bool[np.ndarray, "l k"]:
        """Which tokens occur at each site in accepted sequences (the budget aside), bool [L, K]."""
        used = self.delta >= 0
        return np.stack([used[self.ptr[i] : self.ptr[i + 1]].any(0) for i in range(self.length)])

    def accepts(self, x: Int[np.ndarray, "n l"]) -> Bool[np.ndarray, " n"]:
        """Return which sequences of x [n, L] are accepted, bool [n]."""
        x = np.asarray(x, np.int64)
        node = np.zeros(len(x), np.int64)
        for i in range(self.length):
            node = np.where(node >= 0, self.delta[node, x[:, i]], -1)
        total = self.cost[np.arange(self.length), x].sum(1)
        return (node >= 0) & (total >= self.low) & (total <= self.high)


def unfold(rules: Sequence[Timed], allowed: Bool[np.ndarray, "l k"], budget: Budget | None = None) -> Layers | None:
    """Return the product of the rules on the sites of `allowed` (bool [L, K]); None where no sequence obeys them.

    Raises:
        UsageError: the product is too large to be sampled from.
    """
    steps, last = [], None
    size = 0
    for step in _frontiers(rules, allowed):
        steps.append(step[1])
        last = step[0]
        size += len(last)
        if size > LARGEST:
            raise UsageError(f"together need more than {LARGEST} states", field="constraints", hint="ask for fewer")
    length, tokens = allowed.shape
    if last is None or len(last) == 0 or len(steps) < length:
        return None
    layers = _merge(steps, _accepting(rules, last), tokens)
    if layers is None:
        return None
    ptr, delta = layers
    plain = Budget(np.zeros((length, tokens), np.int64), 0, 0) if budget is None else budget
    if budget is not None and not _affordable(ptr, delta, budget):
        return None
    return Layers(ptr, delta, np.asarray(plain.cost, np.int64), plain.low, plain.high)


def _frontiers(rules: Sequence[Timed], allowed: np.ndarray):  # noqa: ANN202
    """Yield for each site the joint states after it, int32 [n', rules], and how they are reached, int64 [n, K]."""
    state = np.array([[r.start for r in rules]], np.int32)
    alive = [rule.alive(allowed) for rule in rules]  # each rule by itself; what it cannot accept is not followed
    radix = np.cumprod([1] + [r.delta.shape[1] for r in rules], dtype=object)
    for site, legal in enumerate(allowed):
        table = np.empty((len(state), len(legal), len(rules)), np.int64)
        for j, rule in enumerate(rules):
            step = rule.delta[rule.table[site]][state[:, j]]
            table[:, :, j] = np.where(alive[j][site + 1][step], step, -1)
        open_ = (table >= 0).all(2) & legal
        found = table[open_]
        if radix[-1] < 2**62:
            code = found @ radix[:-1].astype(np.int64)
        else:
            code = np.unique(found, axis=0, return_inverse=True)[1].reshape(-1)
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        edge = np.full(open_.shape, -1, np.int64)
        edge[open_] = inverse
        state = found[first].astype(np.int32)
        yield state, edge
        if not len(state):
            return


def _accepting(rules: Sequence[Timed], state: np.ndarray) -> np.ndarray:
    ends = [rule.accept[state[:, j]] for j, rule in enumerate(rules)]
    return np.logical_and.reduce(ends) if ends else np.ones(len(state), bool)


def _merge(steps: list[np.ndarray], accept: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (ptr, delta) of the minimal layered automaton, going back from the last layer."""
    kind = np.where(accept, 0, -1)
    rows = [np.full((1, tokens), -1, np.int64)]
    for edge in reversed(steps):
        target = np.where(edge >= 0, kind[edge], -1)
        live = (target >= 0).any(1)
        if not live.any():
            return None
        small, inverse = _distinct(target[live])
        kind = np.full(len(edge), -1)
        kind[live] = inverse
        rows.append(small)
    rows.reverse()
    ptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    delta = [np.where(r >= 0, r + ptr[i + 1], -1) for i, r in enumerate(rows[:-1])]
    return ptr, np.concatenate([*delta, rows[-1]]).astype(np.int32)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows and which of them each one is."""
    base = int(rows.max()) + 2
    if base ** rows.shape[1] < 2**62:
        code = (rows + 1) @ base ** np.arange(rows.shape[1])
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        return rows[first], inverse
    small, inverse = np.unique(rows, axis=0, return_inverse=True)
    return small, inverse.reshape(-1)


def _affordable(ptr: np.ndarray, delta: np.ndarray, budget: Budget) -> bool:
    """Tell whether some accepted sequence keeps the budget: sets of sums so far as the bits of whole numbers."""
    full = (1 << (budget.high + 1)) - 1
    sums = [1]
    for i in range(len(ptr) - 2):
        ahead = [0] * int(ptr[i + 2] - ptr[i + 1])
        price = budget.cost[i].tolist()
        for here, row in zip(sums, (delta[ptr[i] : ptr[i + 1]] - ptr[i + 1]).tolist(), strict=True):
            for to, c in zip(row, price, strict=True):
                if to >= 0:
                    ahead[to] |= (here << c) & full
        sums = ahead
    return any(s >> budget.low for s in sums)


def prepared(rules: Sequence[Timed], budgets: Sequence[Budget]) -> tuple[list[Timed], Budget | None] | None:
    """Return rules and at most one budget that together say the same; None where two budgets leave no sum.

    Budgets of equal costs become one; the widest stays a budget and the others become automata.
    """
    joined: list[Budget] = []
    for budget in budgets:
        same = next((b for b in joined if (b.cost == budget.cost).all()), None)
        if same is None:
            joined.append(budget)
            continue
        low, high = max(same.low, budget.low), min(same.high, budget.high)
        if low > high:
            return None
        joined[joined.index(same)] = Budget(same.cost, low, high)
    widest = max(joined, key=lambda b: b.high, default=None)
    return [*rules, *(tally(b) for b in joined if b is not widest)], widest


def admits(rules: Sequence[Timed], allowed: Bool[np.ndarray, "l k"], budgets: Sequence[Budget] = ()) -> bool:
    """Tell whether any sequence obeys the rules and the budgets."""
    plan = prepared(rules, budgets)
    return plan is not None and unfold(plan[0], allowed, plan[1]) is not None


def conflict(names: Sequence[str], test: Callable[[Sequence[str]], bool]) -> list[str]:
    """Return names that together fail `test` and of which none can be spared; all of them together must fail.

    Args:
        names: of the rules; earlier ones are preferred.
        test: tells whether some of the rules, together, admit a sequence.
    """
    row, members = list(names), 0
    while True:
        low, high = members, len(row)  # the shortest failing row of first rules has low ... high of them
        while low < high:
            middle = (low + high) // 2
            if test(row[:middle]):
                low = middle + 1
            else:
                high = middle
        if low <= members:
            return row[:members]
        row = [row[low - 1], *row[: low - 1]]
        members += 1
