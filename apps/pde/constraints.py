"""What fields must obey, as projections of the core (`core.constrain.linear`): values, totals, no divergence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix

from apps.pde.mesh import Mesh
from core.constrain.linear import Affine
from core.errors import UsageError

__all__ = ["boundary_values", "no_divergence", "totals", "weak_divergence"]


def boundary_values(mesh: Mesh, fields: int, parts: dict[str, Sequence[float]]) -> Affine:
    """Return the set of states [N, fields] with given values on boundary parts, part -> one value each field."""
    rows, values = [], []
    for part, value in parts.items():
        if len(value) != fields:
            raise UsageError(f"needs {fields} values", field=part, value=value)
        nodes = mesh.nodes(part)
        rows.append((nodes[:, None] * fields + np.arange(fields)).ravel())
        values.append(np.tile(np.asarray(value, np.float64), len(nodes)))
    where, first = np.unique(np.concatenate(rows), return_index=True)
    return Affine.fixed(len(mesh) * fields, where, np.concatenate(values)[first])


def totals(mesh: Mesh, fields: int, which: int, value: float) -> Affine:
    """Return the set of states whose field `which` has the integral `value`; nodes weigh by their areas."""
    n = len(mesh)
    columns = np.arange(n) * fields + which
    A = csr_matrix((mesh.node_area, (np.zeros(n, int), columns)), shape=(1, n * fields))
    return Affine(A, np.array([value]), np.repeat(mesh.node_area, fields))


def weak_divergence(mesh: Mesh) -> csr_matrix:
    """Return B with (B u)_q = int q div u for linear elements, [N, 2 N] on states [N, 2] laid flat."""
    area, e = mesh.signed_area, mesh.edge_vectors
    slope = np.stack([-e[..., 1], e[..., 0]], -1) / (2 * area)[:, None, None]  # of the hat function of each corner
    value = (slope * (area / 3)[:, None, None])[:, None].repeat(3, 1)  # [T, test corner, corner, 2]
    rows = np.broadcast_to(mesh.triangles[:, :, None, None], value.shape)
    columns = 2 * mesh.triangles[:, None, :, None] + np.arange(2)
    columns = np.broadcast_to(columns, value.shape)
    entries = value.ravel(), (rows.ravel(), columns.ravel())
    return csr_matrix(coo_matrix(entries, shape=(len(mesh), 2 * len(mesh))))


def no_divergence(mesh: Mesh, keep: Affine | None = None) -> Affine:
    """Return the velocities without weak divergence, tested at the nodes inside, with the values of `keep` kept."""
    inside = np.setdiff1d(np.arange(len(mesh)), mesh.boundary_nodes)
    B = weak_divergence(mesh)[inside]
    own = Affine(B, np.zeros(len(inside)), np.repeat(mesh.node_area, 2))
    return own if keep is None else keep & own


def flat(u: torch.Tensor) -> torch.Tensor:
    """Lay states [..., N, C] flat, [..., N C]."""
    return u.flatten(-2)
