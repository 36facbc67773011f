"""Search spaces: directed acyclic graphs with operations on edges or on nodes, as vectors of variables.

A cell has n nodes in topological order, 0 the input and n - 1 the output. It is written as one token for each
variable, column by column: for j = 1 ... n - 1 the operation of node j (where operations stand on nodes and j is not
the output), then its incoming edges (i, j), i < j. Each kind of variable has its own alphabet:

    operations on edges   edge: `operations`, of which `none` is no edge
    operations on nodes   node: `operations`, and `absent` last where nodes are `optional`;  edge: no (0) or yes (1)

Edges go from lower to higher nodes, so every vector is acyclic; absent nodes come last among the interior ones.
`connected` says what else a valid cell must have: `path` (the output hears of the input) or `all` (every present node
lies on a path from input to output).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from core.errors import DataError, UsageError

__all__ = ["ABSENT", "NONE", "Space", "Variable", "kept", "load", "names"]

FOLDER = Path(__file__).parent / "spaces"
NONE, ABSENT = "none", "absent"
CHOICES = {
    "place": ("edges", "nodes"), "connected": ("no", "path", "all"), "merge": ("sum", "concat"),
}  # fmt: skip
LARGEST = 64
CHANNELS = 16  # of the first stage of a network
WORDED = ("connected", "fixed", "alphabets", "costs")


@dataclass(frozen=True)
class Variable:
    """One variable: a node's operation (`source` None) or the edge from `source` to `node`, and its alphabet."""

    node: int
    source: int | None
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return `node` or `source-node`."""
        return str(self.node) if self.source is None else f"{self.source}-{self.node}"


@dataclass(frozen=True)
class Space:
    """A search space.

    Args:
        name: of the space.
        place: whether operations stand on "edges" or on "nodes".
        nodes: number of nodes n, input and output included.
        operations: names of `apps.nas.modules.OPERATIONS`, and `none` where they stand on edges.
        optional: whether interior nodes may be absent.
        edges: "free", "chain", or the pairs [i, j] that may be edges; in a chain, and on nodes in a list with
            `free_edges` false, all of them are there.
        free_edges: whether listed edges may also be missing.
        max_edges: at most so many edges, 0 for any number.
        in_degree: least and greatest number of edges into each present node but the input.
        connected: "no", "path" or "all".
        merge: how the output of a cell with operations on nodes joins what it hears, "sum" or "concat".
        fixed: variables that have one value, by name, e.g. {"0-3": "skip_connect"}.
        alphabets: variables that may only take some values.
        costs: additive costs: {resource: {operation: whole number}}; parameters and FLOPs are known anyway.
    """

    name: str
    place: str
    nodes: int
    operations: tuple[str, ...]
    optional: bool = False
    edges: str | tuple[tuple[int, int], ...] = "free"
    free_edges: bool = True
    max_edges: int = 0
    in_degree: tuple[int, int] = (0, LARGEST)
    connected: str = "path"
    merge: str = "sum"
    fixed: Mapping[str, str] | None = None
    alphabets: Mapping[str, Sequence[str]] | None = None
    costs: Mapping[str, Mapping[str, int]] | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a space."""
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise UsageError("not a valid choice", field=field, value=getattr(self, field), choices=choices)
        if not isinstance(self.nodes, int) or not 2 <= self.nodes <= LARGEST:
            raise UsageError(f"must lie between 2 and {LARGEST}", field="nodes", value=self.nodes)
        _check_operations(self)
        _check_settings(self)
        for field in ("fixed", "alphabets"):
            for name, value in (getattr(self, field) or {}).items():
                if field == "alphabets" and isinstance(value, str):
                    raise UsageError("must be a list of values", field=f"{field}.{name}", value=value)
                variable = {v.name: v for v in self._all}.get(name)
                if variable is None:
                    raise UsageError("no such variable", field=field, value=name, choices=[v.name for v in self._all])
                for word in [value] if field == "fixed" else value:
                    if word not in variable.values:
                        raise UsageError("no such value", field=f"{field}.{name}", value=word, choices=variable.values)
                if not self.choices(variable):
                    raise UsageError("leaves no value", field=f"{field}.{name}", choices=variable.values)
        if self.widest > CHANNELS:
            hint = f"max_edges, in_degree or alphabets that leave {CHANNELS} at most, or merge: sum"
            raise UsageError(f"shares {CHANNELS} channels among up to {self.widest} nodes", field="merge",
                             value=self.merge, hint=hint)  # fmt: skip

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs (i, j) that may be edges, column by column."""
        if self.edges == "free":
            return tuple((i, j) for j in range(1, self.nodes) for i in range(j))
        if self.edges == "chain":
            return tuple((j - 1, j) for j in range(1, self.nodes))
        if isinstance(self.edges, str):
            raise UsageError("not a valid choice", field="edges", value=self.edges, choices=("free", "chain"))
        listed = sorted({(int(j), int(i)) for i, j in self.edges})
        for j, i in listed:
            if not 0 <= i < j < self.nodes:
                raise UsageError("must run from a lower to a higher node", field="edges", value=[i, j])
        return tuple((i, j) for j, i in listed)

    @cached_property
    def given(self) -> bool:
        """Whether the edges of a space with operations on nodes are all there."""
        return self.place == "nodes" and (self.edges == "chain" or not self.free_edges)

    @cached_property
    def widest(self) -> int:
        """At most so many nodes share the channels of the output where it concatenates; 0 where it sums."""
        if self.merge == "sum" or self.place == "edges":
            return 0
        last = self.nodes - 1
        into = [f"{i}-{last}" for i, j in self.pairs if j == last and i]
        if not self.given:
            into = [name for name in into if 1 in self.choices(self._all[self.index[name]])]
        return min(len(into), self.in_degree[1], self.max_edges // 2 or len(into))  # each hears of another edge

    @cached_property
    def _all(self) -> tuple[Variable, ...]:
        out: list[Variable] = []
        words = (*self.operations, ABSENT) if self.optional else self.operations
        for j in range(1, self.nodes):
            if self.place == "nodes" and j < self.nodes - 1:
                out.append(Variable(j, None, words))
            if not self.given:
                values = self.operations if self.place == "edges" else ("no", "yes")
                out += [Variable(j, i, values) for i, k in self.pairs if k == j]
        return tuple(out)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables in their order."""
        return self._all

    @cached_property
    def index(self) -> dict[str, int]:
        """From a variable's name to its place."""
        return {v.name: d for d, v in enumerate(self._all)}

    @property
    def D(self) -> int:
        """Number of variables."""
        return len(self._all)

    @cached_property
    def K(self) -> int:
        """Size of the largest alphabet."""
        return max(len(v.values) for v in self._all)

    def choices(self, variable: Variable) -> tuple[int, ...]:
        """Return the tokens that the space itself leaves to a variable."""
        only = (self.alphabets or {}).get(variable.name, variable.values)
        fixed = (self.fixed or {}).get(variable.name)
        return tuple(k for k, v in enumerate(variable.values) if v in only and fixed in (None, v))


def _check_operations(space: Space) -> None:
    from apps.nas.names import COST

    known = [NONE, *COST] if space.place == "edges" else list(COST)
    if not space.operations:
        raise UsageError("needs at least one", field="operations")
    if len(set(space.operations)) < len(space.operations):
        raise UsageError("names one twice", field="operations", value=list(space.operations))
    for name in space.operations:
        if name not in known:
            raise UsageError("no such operation", field="operations", value=name, choices=known)
    if space.optional and (space.place == "edges" or space.edges != "free" or not space.free_edges):
        raise UsageError("needs operations on nodes and free edges", field="optional", value=True)
    if space.connected == "all" and space.place == "edges":
        raise UsageError("needs operations on nodes", field="connected", value="all", choices=("no", "path"))
    low, high = space.in_degree
    if not 0 <= low <= high or not all(type(end) is int for end in (low, high)):
        raise UsageError("needs whole numbers 0 <= least <= greatest", field="in_degree", value=list(space.in_degree))


def _check_settings(space: Space) -> None:
    """Refuse flags, numbers and costs that are none, and a space in which nothing is open."""
    for name in ("optional", "free_edges"):
        if not isinstance(getattr(space, name), bool):
            raise UsageError("must be true or false", field=name, value=getattr(space, name))
    if isinstance(space.max_edges, bool) or not isinstance(space.max_edges, int) or space.max_edges < 0:
        raise UsageError("must be a whole number, 0 for any", field="max_edges", value=space.max_edges)
    if not space.variables:
        raise UsageError("leave nothing to choose", field="edges", value=space.edges, hint="add nodes or edges")
    words = sorted({w for v in space.variables for w in v.values} | {"base"})
    for resource, own in (space.costs or {}).items():
        for word, value in own.items():
            if word not in words:
                raise UsageError("no such operation", field=f"costs.{resource}", value=word, choices=words)
            if isinstance(value, bool) or not isinstance(value, int):
                hint = "count in smaller units"
                raise UsageError("must be a whole number", field=f"costs.{resource}.{word}", value=value, hint=hint)


def names() -> list[str]:
    """Return the spaces that ship."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def kept(name: str) -> str:
    """Return what a model keeps of its space: the name of one that ships, else what its file says (`load` reads it).

    A run would otherwise be lost with its file, or mean other cells when that is edited.
    """
    if name in names():
        return name
    space = load(name)
    own = {f.name: getattr(space, f.name) for f in fields(Space)}
    return json.dumps({f.name: own[f.name] for f in fields(Space) if f.default is MISSING or own[f.name] != f.default})


def load(name: str | Path) -> Space:
    """Return a space that ships, or that of a YAML file, or of the text that `kept` gives.

    Raises:
        UsageError: no such space, or a field that is unknown or wrong.
        DataError: the file is missing or no YAML mapping.
    """
    from omegaconf import OmegaConf

    if str(name).startswith("{"):
        try:
            return make(json.loads(str(name)))
        except ValueError as error:
            raise UsageError(f"is no JSON ({error})", field="space", value=str(name)) from None
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        if str(name) not in names():
            raise UsageError("no such space", field="space", value=str(name), choices=[*names(), "FILE.yaml"])
        path = FOLDER / f"{name}.yaml"
    try:
        text = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # what the YAML parser raises has no common name
        raise DataError(f"cannot be read ({' '.join(str(error).split())})", field=str(path)) from None
    if not isinstance(text, dict):
        raise DataError("is no YAML mapping", field=str(path))
    return make({str(key): value for key, value in text.items()})


def make(text: Mapping[str, Any]) -> Space:
    """Return the space of a mapping as YAML gives it."""
    known = [f.name for f in fields(Space)]
    for key in text:
        if key not in known:
            raise UsageError("no such setting of a space", field="space", value=key, choices=known)
    for key in ("name", "place", "nodes", "operations"):
        if key not in text:
            raise UsageError("is missing", field=key, hint=f"a space needs {key}")
    given = {key: _worded(value) if key in WORDED else value for key, value in text.items()}
    if isinstance(given["operations"], str):
        raise UsageError("must be a list", field="operations", value=given["operations"])
    try:
        given["operations"] = tuple(str(v) for v in given["operations"])
        for key in ("edges", "in_degree"):
            if key in given and not isinstance(given[key], str):
                given[key] = tuple(tuple(v) if isinstance(v, list) else v for v in given[key])
        return Space(**given)
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"malformed ({error})", field="space", value=str(given.get("name"))) from None


def _worded(value: Any) -> Any:
    """Return what was written where YAML took the words yes and no for truth values, and names of nodes for numbers."""
    if isinstance(value, Mapping):
        return {str(_worded(k)): _worded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_worded(v) for v in value]
    return ("no", "yes")[value] if isinstance(value, bool) else value
