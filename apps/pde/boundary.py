"""Boundary conditions as rows of full order, by the names of the mesh's parts.

For each field, nodes of a part obey one condition (n the outward normal):

| text              | row                                      |
|-------------------|------------------------------------------|
| `dirichlet(g)`    | u = g                                    |
| `neumann(g)`      | n . grad u = g                           |
| `robin(a, b, g)`  | a u + b n . grad u = g                   |
| `slip`            | of a vector field at a straight wall: normal component 0, tangential one `neumann(0)` |
| `free`            | none: the equation holds at the boundary too, with one-sided stencils |

One condition serves all fields; several, divided by `;`, one each. a and b are expressions in x, y and the parameters,
g in these, t and the other fields' values on the node (so cells are coupled: `robin(d1, eps*D, d2*v)`).

The gradient in a row is the one-sided stencil of the operators, so that the rows have their order. With R the nodes
that have a Neumann or Robin row, G the rows' matrix and O all other nodes,

    u_R = G_RR^{-1} (g - G_RO u_O):

`Padding` applies this linear map, and sets the Dirichlet nodes, after every stage of a time step. Values on Dirichlet
nodes are exact. Sides where no field has a flux need no such rows with RBF-FD: its stencils know of them
(`hermite.py`), unless a known term differentiates places or slopes, `dx(x*u)` or `dx(dx(u))`, which have one. Where
parts meet, a Dirichlet row wins, then the part that is named first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_matrix, diags
from scipy.sparse.linalg import splu
from torch import Tensor, nn

from apps.pde.expressions import Expression, Scene
from apps.pde.mesh import Mesh
from apps.pde.stencils import Stencils, rbf
from core.errors import DataError, UsageError

__all__ = ["Condition", "Padding", "insulated", "read_conditions"]

KINDS = {"dirichlet": 1, "neumann": 1, "robin": 3, "slip": 0, "free": 0}


@dataclass(frozen=True)
class Condition:
    """A row `a u + b n . grad u = g`; `kind` is dirichlet (b = 0), robin or free."""

    kind: str
    a: Expression | None = None
    b: Expression | None = None
    g: Expression | None = None


def _one(text: str, part: str, names: Sequence[str], fields: Sequence[str] = ()) -> Condition | str:
    found = re.fullmatch(r"\s*([a-z]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if not found or found[1] not in KINDS:
        raise UsageError("is not a boundary condition", field=f"boundary.{part}", value=text, choices=KINDS)
    words = _arguments(found[2] or "")
    if len(words) != KINDS[found[1]] and not (found[1] in ("dirichlet", "neumann") and not words):
        raise UsageError(f"{found[1]} takes {KINDS[found[1]]} values", field=f"boundary.{part}", value=text)
    wide = (*names, *fields)
    made = [Expression(w, wide if k == len(words) - 1 else names, spatial=False) for k, w in enumerate(words)]
    made = made or [Expression(0, names, spatial=False)]
    if found[1] == "slip":
        return "slip"
    if found[1] == "free":
        return Condition("free")
    if found[1] == "dirichlet":
        return Condition("dirichlet", g=made[0])
    if found[1] == "robin" and (late := [e.text.strip() for e in made[:2] if "t" in e.used]):
        raise UsageError("a and b of robin(a, b, g) must not depend on t", field=f"boundary.{part}", value=late[0])
    zero, one = Expression(0, names, spatial=False), Expression(1, names, spatial=False)
    return Condition("robin", *((zero, one, made[0]) if found[1] == "neumann" else made))


def _arguments(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    out, depth, start = [], 0, 0
    for k, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            out.append(text[start:k])
            start = k + 1
    return [p for p in [*out, text[start:]] if p.strip()]


def read_conditions(
    mesh: Mesh, boundary: Mapping[str, str], fields: Sequence[str], parameters: Sequence[str]
) -> list[dict[str, Condition]]:
    """Return for each field the condition of each boundary part.

    Raises:
        UsageError: a part that the mesh does not have, or a condition that cannot be read.
        DataError: a part of the mesh without a condition.
    """
    if missing := [g for g in mesh.groups if g not in boundary]:
        hint = "give one, or 'free'"
        raise DataError(f"boundary part {missing[0]!r} has no condition", field="boundary", hint=hint)
    out: list[dict[str, Condition]] = [{} for _ in fields]
    for part, text in boundary.items():
        nodes = mesh.nodes(part)
        texts = text.split(";")
        if len(texts) not in (1, len(fields)):
            raise UsageError(f"needs 1 or {len(fields)} conditions", field=f"boundary.{part}", value=text)
        made = [_one(t, part, parameters, fields) for t in texts] * (len(fields) if len(texts) == 1 else 1)
        for k, condition in enumerate(made):
            out[k][part] = _slip(mesh, nodes, part, k, parameters) if isinstance(condition, str) else condition
    return out


def insulated(conditions: Sequence[Mapping[str, Condition]]) -> list[str]:
    """Return the parts on which every field has `neumann(0)`."""

    def closed(c: Condition) -> bool:
        return c.kind == "robin" and [e.number for e in (c.a, c.b, c.g) if e is not None] == [0, 1, 0]

    return [part for part in conditions[0] if all(closed(own[part]) for own in conditions)]


def _slip(mesh: Mesh, nodes: np.ndarray, part: str, k: int, names: Sequence[str]) -> Condition:
    edges = mesh.groups[part]
    along = np.abs(mesh.shortest(mesh.points[edges[:, 1]] - mesh.points[edges[:, 0]]))
    straight = along.max(0) < 1e-6 * along.max()  # in any units
    axis = 0 if straight[1] else 1 if straight[0] else -1
    if axis < 0 or k > 1:
        raise UsageError("slip is for the velocity at walls along x or y", field=f"boundary.{part}", value="slip")
    text = "dirichlet(0)" if k != axis else "neumann(0)"
    found = _one(text, part, names)
    assert isinstance(found, Condition)
    return found


class Padding(nn.Module):
    """The map that makes a state obey its boundary conditions.

    Args:
        mesh: the mesh.
        conditions: of `read_conditions`.
        fields: names of the fields.
        stencils: gradients for Neumann and Robin rows (RBF-FD of degree 4 by default).
        parameters: their default values, for coefficients a and b, which must not depend on t.
    """

    def __init__(
        self, mesh: Mesh, conditions: list[dict[str, Condition]], fields: Sequence[str],
        stencils: Stencils | None = None, parameters: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.fields, self.n = tuple(fields), len(mesh)
        self.register_buffer("points", torch.from_numpy(mesh.points), persistent=False)
        if stencils is None and any(c.kind == "robin" for own in conditions for c in own.values()):
            stencils = rbf(mesh, names=("dx", "dy"))
        self.rows: list[list[tuple[Tensor, Expression]]] = []
        self.solved: list[dict[str, Any] | None] = []
        fixed = np.zeros((len(mesh), len(fields)), bool)
        for k, own in enumerate(conditions):
            taken, dirichlet, robin = np.zeros(len(mesh), bool), [], []
            for kind, into in (("dirichlet", dirichlet), ("robin", robin)):
                for part, condition in own.items():
                    if condition.kind == kind:
                        nodes = mesh.nodes(part)
                        nodes = nodes[~taken[nodes]]
                        taken[nodes] = True
                        into.append((nodes, condition, mesh.normals_of(part)[nodes]))
            fixed[np.concatenate([n for n, *_ in dirichlet] or [np.zeros(0, int)]), k] = True
            self.rows.append([(torch.from_numpy(n), c.g) for n, c, _ in dirichlet])
            self.solved.append(self._factor(mesh, robin, stencils, parameters or {}, k))
        self.register_buffer("dirichlet", torch.from_numpy(fixed), persistent=False)

    points: Tensor
    dirichlet: Tensor

    def _factor(
        self, mesh: Mesh, robin: list[tuple[np.ndarray, Condition, np.ndarray]], stencils: Stencils | None,
        parameters: Mapping[str, float], field: int,
    ) -> dict[str, Any] | None:  # fmt: skip
        """Eliminate the unknowns of Neumann and Robin rows."""
        if not robin or stencils is None:
            return None
        nodes = np.concatenate([n for n, *_ in robin])
        a, b = np.zeros(len(mesh)), np.zeros(len(mesh))
        for own, c, _ in robin:
            scene = Scene.of(
                (), torch.zeros(1, len(own), 0).double(), torch.from_numpy(mesh.points[own]), 0.0, parameters
            )
            a[own], b[own] = (np.broadcast_to(e(scene).numpy(), len(own)) for e in (c.a, c.b) if e is not None)
        n = np.concatenate([normal for *_, normal in robin])
        slope = diags(n[:, 0]) @ stencils.matrix("dx")[nodes] + diags(n[:, 1]) @ stencils.matrix("dy")[nodes]
        own = csc_matrix((a[nodes], (np.arange(len(nodes)), nodes)), shape=slope.shape)
        G = csc_matrix(diags(b[nodes]) @ slope + own)
        others = np.setdiff1d(np.unique(G.indices if G.format == "csr" else G.tocoo().col), nodes)
        try:
            inverse = splu(csc_matrix(G[:, nodes])).solve(np.eye(len(nodes)))
        except RuntimeError:
            raise DataError(
                "its boundary rows determine no values there", field=f"boundary of {self.fields[field]}"
            ) from None
        take = torch.from_numpy(-inverse @ G[:, others].toarray())
        made = {"nodes": nodes, "others": others, "take": take, "inverse": torch.from_numpy(inverse)}
        for name, value in made.items():
            tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
            self.register_buffer(f"{name}_{field}", tensor, persistent=False)
        return {"g": [(len(own), c.g) for own, c, _ in robin]}

    def forward(
        self, u: Tensor, t: float | Tensor = 0.0, parameters: Mapping[str, Tensor | float] | None = None
    ) -> Tensor:
        """Return u [B, N, C] with its boundary nodes set, at time t."""
        if not self.dirichlet.any() and not any(self.solved):
            return u
        columns = list(u.unbind(-1))
        given = parameters or {}
        for k, rows in enumerate(self.rows):
            for nodes, g in rows:
                value = self._value(g, nodes, u, t, given)
                columns[k] = columns[k].index_copy(1, nodes.to(u.device), value)
            solved = self.solved[k]
            if solved is not None:
                nodes = getattr(self, f"nodes_{k}")
                starts = np.cumsum([0, *(n for n, _ in solved["g"])])
                g = torch.cat([self._value(e, nodes[a:b], u, t, given)
                               for (_, e), a, b in zip(solved["g"], starts, starts[1:], strict=False)], 1)  # fmt: skip
                take, inverse = getattr(self, f"take_{k}").to(u), getattr(self, f"inverse_{k}").to(u)
                inner = columns[k][:, getattr(self, f"others_{k}")]
                columns[k] = columns[k].index_copy(1, nodes, inner @ take.T + g @ inverse.T)
        return torch.stack(columns, -1)

    def _value(
        self, g: Expression | None, nodes: Tensor, u: Tensor, t: float | Tensor, parameters: Mapping[str, Any]
    ) -> Tensor:
        assert g is not None
        nodes = nodes.to(u.device)
        given = {k: v[..., nodes] if isinstance(v, Tensor) and v.ndim == 2 and v.shape[-1] == self.n else v
                 for k, v in parameters.items()}  # fmt: skip
        scene = Scene.of(self.fields, u[:, nodes], self.points.to(u)[nodes], t, given)
        return g(scene).to(u).expand(u.shape[0], len(nodes))
