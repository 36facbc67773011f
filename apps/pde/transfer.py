"""From one mesh to another: states as the linear elements say.

    u(x) = sum_k lambda_k(x) u_k,

lambda the barycentric coordinates of x in the triangle that holds it. Two meshes of one domain have different polygons
for its curved sides: what lies outside by less than an edge takes the value at the nearest point of the boundary. At
the nodes of the first mesh values are kept as they are, so that another numbering of the same nodes changes nothing.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from apps.pde.mesh import Mesh, place
from core.errors import UsageError

__all__ = ["carried", "transfer"]

CHUNK, NEAR = 2_000_000, 1e-9  # coordinates that are held at once; share of a triangle that is no more than rounding


def transfer(mesh: Mesh, points: np.ndarray) -> csr_matrix:
    """Return P [M, N], from values at the nodes of a mesh to values at points [M, 2].

    Raises:
        UsageError: a point lies outside the mesh by more than its longest edge.
    """
    size = max(1, CHUNK // len(mesh.triangles))
    found = [_inside(mesh, points[a : a + size]) for a in range(0, len(points), size)]
    corners, weights = (np.concatenate(part) for part in zip(*found, strict=True))
    outside = np.flatnonzero(weights.min(1) < 0)
    if len(outside):
        corners[outside], weights[outside] = _nearest(mesh, points[outside])
    rows = np.repeat(np.arange(len(points)), 3)
    return csr_matrix((weights.ravel(), (rows, corners.ravel())), shape=(len(points), len(mesh)))


def carried(mesh: Mesh, states: np.ndarray, other: Mesh) -> np.ndarray:
    """Return states [..., N, C] of a mesh at the nodes of another [..., M, C]; the same array on the same nodes.

    Raises:
        UsageError: the other mesh reaches beyond this one.
    """
    if np.array_equal(mesh.points, other.points):
        return states
    last = np.moveaxis(states, -2, 0)
    moved = transfer(mesh, other.points) @ last.reshape(len(mesh), -1)
    return np.moveaxis(moved.reshape(len(other), *last.shape[1:]), 0, -2).astype(states.dtype)


def _inside(mesh: Mesh, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return corners [M, 3] of the triangles that hold points and the coordinates in them, below 0 where none does."""
    e, area = mesh.edge_vectors, 2 * mesh.signed_area
    d = mesh.shortest(points[:, None] - mesh.points[mesh.triangles[:, 0]])
    second = (e[:, 1, 0] * d[..., 1] - e[:, 1, 1] * d[..., 0]) / area
    third = (e[:, 2, 0] * d[..., 1] - e[:, 2, 1] * d[..., 0]) / area
    lam = np.stack([1 - second - third, second, third], -1)
    best = lam.min(-1).argmax(1)
    held = lam[np.arange(len(points)), best]
    held[np.abs(held) < NEAR] = 0
    return mesh.triangles[best], held / held.sum(1, keepdims=True)


def _nearest(mesh: Mesh, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return corners [M, 3], the last without weight, and weights of the boundary's nearest point."""
    a, b = mesh.boundary.T
    along = mesh.shortest(mesh.points[b] - mesh.points[a])
    d = mesh.shortest(points[:, None] - mesh.points[a])
    s = ((d * along).sum(-1) / (along**2).sum(-1)).clip(0, 1)
    away = np.linalg.norm(d - s[..., None] * along, axis=-1)
    best, rows = away.argmin(1), np.arange(len(points))
    far, edge = away[rows, best], float(np.linalg.norm(mesh.edge_vectors, axis=-1).max())
    if far.max() > edge:
        where = place(points[far.argmax()])
        message = f"reaches {far.max():.3g} beyond the mesh of the trajectories, whose edges are at most {edge:.3g}"
        raise UsageError(message, field="mesh", value=where, hint="give a mesh of the same domain")
    share = s[rows, best]
    return np.stack([a[best], b[best], b[best]], 1), np.stack([1 - share, share, 0 * share], 1)
