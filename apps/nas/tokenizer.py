"""From text to the tokens of a cell; `Cell.to_string` is the way back, and `from_string(space, str(cell)) == cell`.

With operations on edges the text is that of NAS-Bench-201, `|op~0|+|op~0|op~1|+...`: for each node its incoming edges.
With operations on nodes it is `op,op,...;0-1 1-2 ...`. The digits of the tokens are read as well (`333132`).
"""

from __future__ import annotations

from apps.nas.cell import Cell
from apps.nas.space import ABSENT, Space
from core.errors import UsageError

__all__ = ["from_string"]


def from_string(space: Space, text: str) -> Cell:
    """Return the cell that a text stands for: `to_string()`, or the digits of the tokens.

    Raises:
        UsageError: it does not read as a cell of this space, or has edges where there is no node.
    """
    text = text.strip()
    if text.isdecimal() and len(text) == space.D:
        x = [int(c) for c in text]
        if all(k < len(v.values) for k, v in zip(x, space.variables, strict=True)):
            return _graph(Cell.of(space, x))
    read = _read_edges if space.place == "edges" else _read_nodes
    words = read(space, text)
    x = []
    for v in space.variables:
        word = words.pop(v.name, "no" if v.values == ("no", "yes") else None)
        if word not in v.values:
            raise UsageError(f"says nothing valid about {v.name}", field="cell", value=word, choices=v.values)
        x.append(v.values.index(word))
    if words:
        raise UsageError("no such variable", field="cell", value=next(iter(words)), choices=list(space.index))
    return _graph(Cell.of(space, x))


def _graph(cell: Cell) -> Cell:
    """Return a cell; refuse edges of nodes that are absent, which no graph has."""
    absent = {j for j, op in enumerate(cell.ops, 1) if op == ABSENT}
    for i, j, _ in cell.edges:
        if {i, j} & absent:
            raise UsageError("has an edge of a node that is absent", field="cell", value=f"{i}-{j}")
    return cell


def _read_edges(space: Space, text: str) -> dict[str, str]:
    words = {}
    for j, column in enumerate(text.split("+"), 1):
        for term in filter(None, column.strip("|").split("|")):  # no edge may lead to a node of a list
            op, _, i = term.partition("~")
            if f"{i}-{j}" in words:
                raise UsageError("says two things about an edge", field="cell", value=f"{i}-{j}")
            words[f"{i}-{j}"] = op
    return words


def _read_nodes(space: Space, text: str) -> dict[str, str]:
    ops, _, arcs = text.partition(";")
    words = {str(j): op for j, op in enumerate(ops.split(","), 1) if op}
    return words if space.given else words | {arc: "yes" for arc in arcs.split()}
