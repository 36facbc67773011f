"""One architecture: a point of a space, what it is as a graph, and when two of them are the same.

**When two cells are the same.** With operations on edges, node j is an expression: the sum, in any order, of
`op(expression of i)` over its edges, where `skip_connect` is its argument and `none`, and any operation on nothing, is
nothing; the cell is the expression of its output (after Dong and Yang 2020, whose text form keeps sums with nothing
apart and therefore tells more of the 15,625 cells apart). With operations on nodes, cells are the same if the graphs
that remain without nodes off every path from input to output are isomorphic, labels and all (Ying et al. 2019; 2,532
classes up to five nodes). The canonical form is then the least code over renumberings; colour refinement leaves few of
them to try.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from apps.nas.names import COST
from apps.nas.space import ABSENT, NONE, Space

if TYPE_CHECKING:
    from networkx import DiGraph

__all__ = ["Cell", "canonical_graph", "enumerate_classes", "resources"]

TERMS, LONG = 64, 4000  # of a sum and of its text, beyond which it is written short
ORDERS = 1000  # numberings of a graph that are tried


@dataclass(frozen=True)
class Cell:
    """A cell.

    Args:
        space: where it lives.
        x: one token for each variable of the space.
    """

    space: Space
    x: tuple[int, ...]

    @classmethod
    def of(cls, space: Space, x: Sequence[int]) -> Cell:
        """Return the cell of any sequence of tokens."""
        return cls(space, tuple(int(v) for v in x))

    @cached_property
    def words(self) -> dict[str, str]:
        """The value of each variable by name."""
        return {v.name: v.values[k] for v, k in zip(self.space.variables, self.x, strict=True)}

    @cached_property
    def ops(self) -> tuple[str, ...]:
        """The operation of each node but input and output, `absent` where there is none; () for edges."""
        return tuple(self.words[str(j)] for j in range(1, self.space.nodes - 1)) if self.space.place == "nodes" else ()

    @cached_property
    def edges(self) -> tuple[tuple[int, int, str], ...]:
        """The edges (i, j, operation); the operation is "" where they stand on nodes."""
        s = self.space
        if s.place == "edges":
            found = ((i, j, self.words[f"{i}-{j}"]) for i, j in s.pairs)
            return tuple(e for e in found if e[2] != NONE)
        return tuple((i, j, "") for i, j in s.pairs if s.given or self.words[f"{i}-{j}"] == "yes")

    @cached_property
    def live(self) -> frozenset[int]:
        """The nodes on some path from input to output; empty where there is none."""
        ahead, back, last = {0}, {self.space.nodes - 1}, self.space.nodes - 1
        for i, j, _ in sorted(self.edges, key=lambda e: e[1]):
            ahead |= {j} if i in ahead else set()
        for i, j, _ in sorted(self.edges, key=lambda e: -e[0]):
            back |= {i} if j in back else set()
        return frozenset(ahead & back) if last in ahead else frozenset()

    @cached_property
    def key(self) -> str:
        """What all cells of one class, and no others, have in common."""
        return self._expression() if self.space.place == "edges" else self._graph()

    def _expression(self) -> str:
        terms: dict[int, Counter[str]] = {0: Counter({"x": 1})}
        for j in range(1, self.space.nodes):
            terms[j] = Counter()
            for i, k, op in self.edges:
                if k == j and terms[i]:
                    terms[j].update(terms[i] if op == "skip_connect" else {f"{op}({_summed(terms[i])})": 1})
        return _summed(terms[self.space.nodes - 1]) or "0"

    def _graph(self) -> str:
        kept = sorted(self.live)
        place = {v: n for n, v in enumerate(kept)}
        labels = ["in", *(self.ops[v - 1] for v in kept[1:-1]), "out"] if kept else []
        arcs = tuple((place[i], place[j]) for i, j, _ in self.edges if i in place and j in place)
        return canonical_graph(tuple(labels), arcs) if kept else "0"

    def literal(self) -> dict[str, Any]:
        """Return what `apps.nas.modules.build` takes; nodes off every path are left out where they stand alone."""
        s = self.space
        if s.place == "edges":
            return {"nodes": s.nodes, "edges": [list(e) for e in self.edges]}
        kept = sorted(self.live | {0, s.nodes - 1})
        place = {v: n for n, v in enumerate(kept)}
        arcs = [[place[i], place[j]] for i, j, _ in self.edges if i in place and j in place]
        return {"ops": [self.ops[v - 1] for v in kept[1:-1]], "edges": arcs, "merge": s.merge}

    def to_string(self) -> str:
        """Return the text that `tokenizer.from_string` reads: that of NAS-Bench-201 for edges, `ops;edges` else."""
        s = self.space
        if s.place == "edges":
            columns = [[f"{self.words[f'{i}-{k}']}~{i}" for i, k in s.pairs if k == j] for j in range(1, s.nodes)]
            return "+".join(f"|{'|'.join(c)}|" for c in columns)
        return f"{','.join(self.ops)};{' '.join(f'{i}-{j}' for i, j, _ in self.edges)}"

    def to_networkx(self) -> DiGraph:
        """Return the directed graph with attributes `op` on its nodes or edges; absent nodes are left out."""
        import networkx as nx

        s, graph = self.space, nx.DiGraph()
        labels = ["input", *(self.ops or [""] * (s.nodes - 2)), "output"]
        graph.add_nodes_from((j, {"op": op}) for j, op in enumerate(labels) if op != ABSENT)
        graph.add_edges_from((i, j, {"op": op} if op else {}) for i, j, op in self.edges)
        return graph

    def to_dot(self) -> str:
        """Return the graph in the language of Graphviz."""
        graph = self.to_networkx()
        lines = [f'  {j} [label="{d["op"] or j}"];' for j, d in graph.nodes(data=True)]
        lines += [f'  {i} -> {j} [label="{d.get("op", "")}"];' for i, j, d in graph.edges(data=True)]
        return "\n".join(["digraph cell {", "  rankdir=LR;", *lines, "}"]) + "\n"

    def __str__(self) -> str:
        """Return `to_string()`."""
        return self.to_string()


def _summed(terms: Counter[str]) -> str:
    """Return a sum as text; where it would be long, with factors or as a digest, since copies of copies double it."""
    if terms.total() <= TERMS:
        text = "+".join(sorted(terms.elements()))
    else:
        text = "+".join(f"{n}*{term}" for term, n in sorted(terms.items()))
    return text if len(text) <= LONG else f"#{hashlib.sha256(text.encode()).hexdigest()}"


@lru_cache(maxsize=200_000)
def canonical_graph(labels: tuple[str, ...], arcs: tuple[tuple[int, int], ...]) -> str:
    """Return a code that a labelled acyclic graph shares with those that are isomorphic to it, and no others.

    It is the least one over the numberings that sort nodes by refined colour, so that only nodes of one colour change
    places; those between the same nodes need not change places with each other. Where these are too many, it is that of
    one numbering that isomorphic graphs agree on (`_agreed`).
    """
    n = len(labels)
    colour = _refined(dict(enumerate(_ranked(list(labels)))), arcs)
    groups = [[v for v in range(n) if colour[v] == c] for c in sorted(set(colour.values()))]
    around = [_around(v, arcs) for v in range(n)]
    twins = Counter((colour[v], around[v]) for v in range(n))
    if math.prod(math.factorial(len(g)) for g in groups) // math.prod(map(math.factorial, twins.values())) > ORDERS:
        order = _agreed(colour, arcs)[1]
        place = {v: k for k, v in enumerate(order)}
        code = " ".join(f"{a}-{b}" for a, b in sorted((place[i], place[j]) for i, j in arcs))
        return f"{','.join(labels[v] for v in order)};{code}"
    best = ""
    for row in itertools.product(*(_orders(g, around) for g in groups)):
        place = {v: k for k, v in enumerate(itertools.chain(*row))}
        code = " ".join(f"{a}-{b}" for a, b in sorted((place[i], place[j]) for i, j in arcs))
        best = code if not best or code < best else best
    shown = [labels[v] for g in groups for v in g]
    return f"{','.join(shown)};{best}"


Arcs = Sequence[tuple[int, int]]
Code = tuple[tuple[int, ...], tuple[tuple[int, int], ...]]


def _refined(colour: dict[int, int], arcs: Arcs) -> dict[int, int]:
    """Return colours that also tell nodes apart by the colours of those before and after them."""
    while True:
        seen = [
            (own, sorted(colour[i] for i, j in arcs if j == v), sorted(colour[j] for i, j in arcs if i == v))
            for v, own in colour.items()
        ]
        finer = dict(zip(colour, _ranked(seen), strict=True))
        if max(finer.values(), default=0) == max(colour.values(), default=0):
            return colour
        colour = finer


def _agreed(given: dict[int, int], arcs: Arcs) -> tuple[Code, list[int]]:
    """Return a code of a coloured graph and the order of its nodes that has it, the same code for isomorphic graphs.

    Nodes that share their colour with none leave components, which are ordered each for itself and then by their codes;
    in a component where every colour is shared, each node of the first of the rarest colours is tried as one apart, of
    those between the same nodes one.
    """
    colour = _refined(dict(zip(given, _ranked(list(given.values())), strict=True)), arcs)
    count = Counter(colour.values())
    alone = sorted((v for v in colour if count[colour[v]] == 1), key=colour.__getitem__)
    parts = _components([v for v in colour if count[colour[v]] > 1], arcs)

    def code(order: list[int]) -> tuple[Code, list[int]]:
        place = {v: k for k, v in enumerate(order)}
        inner = sorted((place[i], place[j]) for i, j in arcs if i in place and j in place)
        return (tuple(given[v] for v in order), tuple(inner)), order

    if alone or len(parts) != 1:
        made = sorted(_agreed({v: colour[v] for v in part}, _within(part, arcs)) for part in parts)
        return code([*alone, *itertools.chain(*(order for _, order in made))])
    rare = min(count, key=lambda c: (count[c], c))
    ones = {_around(v, arcs): v for v in colour if colour[v] == rare}.values()
    tried = ({v: 2 * c + (v == one) for v, c in colour.items()} for one in ones)
    return min(code(_agreed(apart, arcs)[1]) for apart in tried)


def _around(v: int, arcs: Arcs) -> tuple[frozenset[int], frozenset[int]]:
    """Return the nodes before and after a node."""
    return frozenset(i for i, j in arcs if j == v), frozenset(j for i, j in arcs if i == v)


def _within(nodes: Iterable[int], arcs: Arcs) -> list[tuple[int, int]]:
    """Return the arcs between some nodes."""
    kept = set(nodes)
    return [(i, j) for i, j in arcs if i in kept and j in kept]


def _components(nodes: Sequence[int], arcs: Arcs) -> list[list[int]]:
    """Return the connected parts of a graph on some nodes."""
    part = {v: v for v in nodes}
    for i, j in _within(nodes, arcs):
        a, b = part[i], part[j]
        part = {v: a if p == b else p for v, p in part.items()}
    return [[v for v in nodes if part[v] == p] for p in dict.fromkeys(part.values())]


def _orders(group: Sequence[int], around: Sequence[Any]) -> Iterator[tuple[int, ...]]:
    """Yield the orders of some nodes, of those that only exchange nodes with the same neighbours one."""
    kinds: dict[Any, list[int]] = {}
    for v in group:
        kinds.setdefault(around[v], []).append(v)
    if len(kinds) == len(group):
        yield from itertools.permutations(group)
        return
    for own in kinds.values():
        for rest in _orders([v for v in group if v != own[0]], around):
            yield own[0], *rest


def _ranked(values: list[Any]) -> list[int]:
    order = {repr(v): k for k, v in enumerate(sorted({repr(v): v for v in values}.values(), key=repr))}
    return [order[repr(v)] for v in values]


def resources(cell: Cell, channels: int = 16, cells: int = 5, stages: int = 3, size: int = 32, classes: int = 10,
              inputs: int = 3) -> tuple[int, int]:  # fmt: skip
    """Return parameters and FLOPs of the network around a cell in closed form (settings as in `modules.Network`)."""
    from apps.nas.skeleton import halved, skeleton

    params, flops = skeleton(channels, stages, size, classes, inputs)
    for stage in range(stages):
        c, area = channels << stage, halved(size, stage) ** 2
        inner = _inside(cell, c, area)
        params, flops = params + cells * inner[0], flops + cells * inner[1]
    return params, flops


def _inside(cell: Cell, c: int, area: int) -> tuple[int, int]:
    from apps.nas.modules import vertex_channels

    if cell.space.place == "edges":
        parts = [COST[op](c, area) for _, _, op in cell.edges]
    else:
        text = cell.literal()
        last = len(text["ops"]) + 1
        concat = text["merge"] == "concat"
        width = vertex_channels(last + 1, [tuple(edge) for edge in text["edges"]], c) if concat else [c] * (last + 1)
        parts = [COST[op](width[j], area) for j, op in enumerate(text["ops"], 1)]
        entered = [width[j] for i, j in text["edges"] if i == 0] if concat else []
        parts += [(c * w + 2 * w, c * w * area + 3 * w * area) for w in entered]
    return sum(p for p, _ in parts), sum(f for _, f in parts)


def enumerate_classes(cells: Iterable[Cell]) -> dict[str, Cell]:
    """Return the smallest cell of each class by key: of fewest edges, then of the least tokens."""
    found: dict[str, Cell] = {}
    for cell in cells:
        other = found.get(cell.key)
        if other is None or (len(cell.edges), cell.x) < (len(other.edges), other.x):
            found[cell.key] = cell
    return found
