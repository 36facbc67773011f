"""What a user can ask of a cell, and the law over whole cells that follows.

    Forbid(op)  Require(op, least, most)  Fix(variable, value)  Depth(low, high, counted)  Edges(low, high)
    Limit(resource, high, low)            Listed(cells)

`compile_` makes one minimal layered automaton of the space's own rules and all of these, from which cells are drawn by
`core.constrain.shared`: every sample obeys, at any number of steps. What nothing can obey is refused before sampling,
with the fewest rules that contradict each other and the nearest value that can be reached.

Parameters and FLOPs add up over the variables of spaces that sum (they are exact whole numbers); where cells
concatenate they depend on the whole graph, and the limit is a list on spaces that can be listed, refused on others.
Operations on nodes off every path from input to output are no part of the network: no limit and no requirement counts
them (costs of the space's own do where edges are free). Operations on edges all are, as in NAS-Bench-201.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from apps.nas import rules
from apps.nas.cell import Cell, resources
from apps.nas.names import COST
from apps.nas.space import NONE, Space
from core.constrain.layers import Layers, conflict, unfold
from core.constrain.timed import Timed
from core.errors import InfeasibleError, UsageError

__all__ = [
    "Constraint", "Depth", "Edges", "Fix", "Forbid", "Limit", "Listed", "Require", "additive", "admissible", "compile_",
    "everything", "violations",
]  # fmt: skip

ENUMERABLE = 300_000
"""Vectors up to which a space is listed."""


class Constraint(Protocol):
    """One wish."""

    def rule(self, space: Space) -> Timed:
        """Return it as an automaton over the variables."""
        ...


def _known(space: Space, word: str, field_: str) -> None:
    words = sorted({w for v in space.variables for w in v.values})
    if word not in words:
        raise UsageError("no such operation in this space", field=field_, value=word, choices=words)


@dataclass(frozen=True)
class Forbid:
    """An operation that must not occur."""

    operation: str

    def rule(self, space: Space) -> Timed:
        """Return the law."""
        _known(space, self.operation, "forbid")
        return rules.at_least(space, [self.operation], 0, 0)


@dataclass(frozen=True)
class Require:
    """An operation that must occur `least` to `most` times in the network."""

    operation: str
    least: int = 1
    most: int = 10**9

    def rule(self, space: Space) -> Timed:
        """Return the law."""
        _known(space, self.operation, "require")
        if space.place == "nodes" and not space.given and space.connected != "all":
            return rules.on_paths(space, [self.operation], self.least, self.most)
        return rules.at_least(space, [self.operation], self.least, self.most, _off(space))


@dataclass(frozen=True)
class Fix:
    """A variable that has a value: a part of the cell that is given."""

    variable: str
    value: str

    def rule(self, space: Space) -> Timed:
        """Return the law."""
        if self.variable not in space.index:
            raise UsageError("no such variable", field="fix", value=self.variable, choices=list(space.index))
        at = space.index[self.variable]
        values = space.variables[at].values
        if self.value not in values:
            raise UsageError("no such value", field=f"fix {self.variable}", value=self.value, choices=values)
        token = values.index(self.value)
        return rules.unroll(space, 0, lambda q, d, k: 0 if d != at or k == token else None, lambda q: True)


@dataclass(frozen=True)
class Depth:
    """The longest path from input to output, in operations among `counted` (() for all that compute)."""

    low: int = 0
    high: int = 10**9
    counted: tuple[str, ...] = ()

    def rule(self, space: Space) -> Timed:
        """Return the law."""
        for word in self.counted:
            _known(space, word, "depth")
        counted = self.counted or tuple(op for op in space.operations if op not in (NONE, "skip_connect"))
        return rules.depth(space, counted, self.low, self.high)


@dataclass(frozen=True)
class Edges:
    """The number of edges."""

    low: int = 0
    high: int = 10**9

    def rule(self, space: Space) -> Timed:
        """Return the law."""
        cost = np.zeros((space.D, space.K), np.int64)
        for d, v in enumerate(space.variables):
            cost[d, : len(v.values)] = [v.source is not None and w not in (NONE, "no") for w in v.values]
        given = len(space.pairs) if space.given else 0
        return rules.total(space, cost, self.low - given, self.high - given, rules.alphabets(space))


@dataclass(frozen=True)
class Limit:
    """low <= resource <= high: "params", "flops" (of the network that `settings` says), or one of the space's costs."""

    resource: str
    high: float = math.inf
    low: float = -math.inf
    settings: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        if math.isnan(self.high) or math.isnan(self.low):
            raise UsageError("is not a number", field=self.resource, value=math.nan)

    def rule(self, space: Space) -> Timed:
        """Return the law, by adding up where that is exact and by listing elsewhere."""
        found = additive(space, self.resource, dict(self.settings))
        if found is None:
            x = everything(space)
            values = np.array([resources(Cell.of(space, row), **dict(self.settings)) for row in x])
            value = values[:, ("params", "flops").index(self.resource)]
            return rules.listed(space, x[(value >= self.low) & (value <= self.high)])
        cost, base = found
        low = -(2**60) if math.isinf(self.low) else math.ceil(self.low) - base
        high = 2**60 if math.isinf(self.high) else math.floor(self.high) - base
        return rules.total(space, cost, low, high, rules.alphabets(space))

    def reachable(self, space: Space, others: Sequence[Constraint]) -> tuple[int, int] | None:
        """Return the least and greatest value that cells with the other constraints have; None if there are none."""
        found = additive(space, self.resource, dict(self.settings))
        layers = _unfold(space, tuple(others))
        return None if found is None or layers is None else _extremes(layers, *found)


@dataclass(frozen=True, eq=False)
class Listed:
    """The cell is one of x [n, D]; `name` says why."""

    x: np.ndarray
    name: str = "the list"

    def rule(self, space: Space) -> Timed:
        """Return the law."""
        return rules.listed(space, self.x)


@dataclass(frozen=True)
class _Own:
    """The space's own rules."""

    def rule(self, space: Space) -> Timed:
        """Return the law."""
        return rules.structure(space) or rules.unroll(space, 0, lambda q, d, k: 0, lambda q: True)


def additive(space: Space, resource: str, settings: dict[str, int]) -> tuple[np.ndarray, int] | None:
    """Return a resource as (cost [D, K], constant part); None where it does not add up.

    Raises:
        UsageError: the space knows no such resource.
    """
    cost, off = np.zeros((space.D, space.K), np.int64), _off(space)
    inside = [(d, v) for d, v in enumerate(space.variables) if v.node not in off]
    own = (space.costs or {}).get(resource)
    if own is not None:
        for d, v in inside:
            cost[d, : len(v.values)] = [int(own.get(w, 0)) for w in v.values]
        return cost, int(own.get("base", 0))
    if resource not in ("params", "flops"):
        raise UsageError(
            "no such resource", field="limit", value=resource, choices=["params", "flops", *(space.costs or {})]
        )
    if space.place == "nodes" and (space.merge == "concat" or space.optional or not space.given):
        return None
    which = ("params", "flops").index(resource)
    channels, cells = settings.get("channels", 16), settings.get("cells", 5)
    size, stages = settings.get("size", 32), settings.get("stages", 3)
    from apps.nas.skeleton import halved, skeleton

    for d, v in inside:
        for k, word in enumerate(v.values):
            if word in COST:
                parts = (COST[word](channels << s, halved(size, s) ** 2)[which] for s in range(stages))
                cost[d, k] = cells * sum(parts)
    base = skeleton(channels, stages, size, settings.get("classes", 10), settings.get("inputs", 3))
    return cost, base[which]


def _off(space: Space) -> frozenset[int]:
    """Return the nodes off every path from input to output where the space itself gives all edges, else none."""
    nodes = frozenset(range(space.nodes))
    return nodes - Cell.of(space, [0] * space.D).live if space.given else frozenset()


def _extremes(layers: Layers, cost: np.ndarray, base: int) -> tuple[int, int]:
    """Return the least and greatest cost of what the layers accept, going back through them."""
    low = high = np.zeros(1, np.int64)
    for d in range(layers.length - 1, -1, -1):
        rows = layers.delta[layers.ptr[d] : layers.ptr[d + 1]].astype(np.int64)
        to = np.maximum(rows - layers.ptr[d + 1], 0)
        low = np.where(rows >= 0, low[to] + cost[d], 2**60).min(1)
        high = np.where(rows >= 0, high[to] + cost[d], -(2**60)).max(1)
    return int(low[0]) + base, int(high[0]) + base


def everything(space: Space) -> np.ndarray:
    """Return every valid cell of a space that can be listed, int64 [n, D].

    Raises:
        UsageError: it has too many vectors.
    """
    if (size := math.prod(len(space.choices(v)) for v in space.variables)) > ENUMERABLE * 50:
        hint = "only spaces up to some hundred thousand cells can be listed"
        raise UsageError(f"has {size:.3g} vectors", field="space", value=space.name, hint=hint)
    return _walk(compile_(space))


def admissible(space: Space, constraints: Sequence[Constraint] = ()) -> np.ndarray:
    """Return every cell of a space that obeys, int64 [n, D]."""
    return _walk(compile_(space, constraints))


def _walk(layers: Layers) -> np.ndarray:
    x, node = np.zeros((1, 0), np.int64), np.zeros(1, np.int64)
    for _ in range(layers.length):
        row, k = np.nonzero(layers.delta[node] >= 0)
        node = layers.delta[node[row], k]
        x = np.column_stack([x[row], k])
        if len(x) > ENUMERABLE:
            raise UsageError(f"has more than {ENUMERABLE} cells", field="space")
    return x


def _unfold(space: Space, constraints: tuple[Constraint, ...]) -> Layers | None:
    wishes: list[Constraint] = [_Own(), *constraints]
    if space.max_edges:
        wishes.append(Edges(0, space.max_edges))
    return unfold([_rule(space, c) for c in wishes], rules.alphabets(space))


_RULES: dict[tuple[Any, ...], Timed] = {}


def _rule(space: Space, wish: Constraint) -> Timed:
    """Return a rule, from memory where it was made before."""
    key = (repr(space), id(wish) if isinstance(wish, Listed) else wish)
    if isinstance(wish, Listed):
        return wish.rule(space)
    if key not in _RULES:
        _RULES[key] = wish.rule(space)
    return _RULES[key]


def compile_(space: Space, constraints: Sequence[Constraint] = ()) -> Layers:
    """Return the layered automaton of all valid cells that obey the constraints.

    Raises:
        InfeasibleError: there are none; names a smallest conflict and the tightest value that can be reached.
    """
    found = _unfold(space, tuple(constraints))
    if found is not None:
        return found
    wishes = {f"{n} {_words(c)}": c for n, c in enumerate(constraints)}

    def test(names: Sequence[str]) -> bool:
        return _unfold(space, tuple(wishes[n] for n in names)) is not None

    if not test(()):
        raise InfeasibleError("the space has no valid cell", field="space", value=space.name)
    names = conflict(list(wishes), test)
    parts = [wishes[n] for n in names]
    hint = "drop or relax one of them" if len(parts) > 1 else "relax it"
    for part in parts:
        if isinstance(part, Limit):
            ends = part.reachable(space, [p for p in parts if p is not part])
            if ends is not None:
                hint = f"{part.resource} reaches from {ends[0]:,} to {ends[1]:,} here"
                break
        if isinstance(part, Depth | Edges | Require):
            hint = _nearest(space, part, [p for p in parts if p is not part])
    raise InfeasibleError(" and ".join(_words(p) for p in parts) + " admit no cell", field="constraints", hint=hint)


def _nearest(space: Space, part: Depth | Edges | Require, others: Sequence[Constraint]) -> str:
    """Return which whole values a count can have beside the other constraints."""

    def one(n: int) -> Constraint:
        return replace(part, least=n, most=n) if isinstance(part, Require) else replace(part, low=n, high=n)

    reach = [n for n in range(max(space.D, len(space.pairs)) + 1) if _unfold(space, (*others, one(n))) is not None]
    word = part.operation if isinstance(part, Require) else type(part).__name__.lower()
    return f"{word} reaches from {reach[0]} to {reach[-1]} here" if reach else "relax another one"


def _words(wish: Constraint) -> str:
    if isinstance(wish, Listed):
        return wish.name
    given = [f"{k}={v}" for k, v in vars(wish).items() if v not in (10**9, math.inf, -math.inf, ())]
    return f"{type(wish).__name__.lower()}({', '.join(given)})"


def violations(cell: Cell, constraints: Sequence[Constraint] = ()) -> list[str]:
    """Return what a cell breaks, judged by each rule alone."""
    space, found = cell.space, []
    wishes: list[Constraint] = [_Own(), Edges(0, space.max_edges or 10**9), *constraints]
    allowed = rules.alphabets(space)
    for wish in wishes:
        rule, state = _rule(space, wish), 0
        for d, k in enumerate(cell.x):
            state = rule.delta[d, state, k] if state >= 0 and allowed[d, k] else -1
        if state < 0 or not rule.accept[state]:
            found.append("invalid" if isinstance(wish, _Own) else _words(wish))
    return found
