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

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from apps.nas.names import COST
from apps.nas.space import ABSENT, NONE, Space

if TYPE_CHECKING:
    from networkx import DiGraph

__all__ = ["Cell", "canonical_graph", "enumerate_classes", "resources"]


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
        terms: dict[int, tuple[str, ...]] = {0: ("x",)}
        for j in range(1, self.space.nodes):
            heard = [(op, terms[i]) for i, k, op in self.edges if k == j and terms.get(i)]
            terms[j] = tuple(sorted(itertools.chain(
                *(t if op == "skip_connect" else (f"{op}({'+'.join(t)})",) for op, t in heard)
            )))  # fmt: skip
        return "+".join(terms[self.space.nodes - 1]) or "0"

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


@lru_cache(maxsize=200_000)
def canonical_graph(labels: tuple[str, ...], arcs: tuple[tuple[int, int], ...]) -> str:
    """Return the least code of a labelled acyclic graph over the numberings that keep its arcs ascending.

    Nodes are sorted by refined colour first, so that only nodes of one colour change places; those between the same
    nodes need not change places with each other.
    """
    n = len(labels)
    colour = list(_ranked(list(labels)))
    while True:
        seen = [
            (colour[v], sorted(colour[i] for i, j in arcs if j == v), sorted(colour[j] for i, j in arcs if i == v))
            for v in range(n)
        ]
        finer = _ranked(seen)
        if max(finer, default=0) == max(colour, default=0):
            break
        colour = finer
    groups = [[v for v in range(n) if colour[v] == c] for c in sorted(set(colour))]
    around = [(frozenset(i for i, j in arcs if j == v), frozenset(j for i, j in arcs if i == v)) for v in range(n)]
    best = ""
    for row in itertools.product(*(_orders(g, around) for g in groups)):
        place = {v: k for k, v in enumerate(itertools.chain(*row))}
        code = " ".join(f"{a}-{b}" for a, b in sorted((place[i], place[j]) for i, j in arcs))
        best = code if not best or code < best else best
    shown = [labels[v] for g in groups for v in g]
    return f"{','.join(shown)};{best}"


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
    from apps.nas.skeleton import skeleton

    params, flops = skeleton(channels, stages, size, classes, inputs)
    for stage in range(stages):
        c, area = channels << stage, (size >> stage) ** 2
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
