"""The cotangent Laplacian, and the paper's learnable correction of it.

    (L u)_i = 1 / d_i sum_j w_ij (u_j - u_i),      w_ij = (cot a_ij + cot b_ij) / 2,

with d_i the mixed Voronoi area: the circumcentric part of each acute triangle, half (at the obtuse corner) or a quarter
of each obtuse one (Meyer et al., 2003). L is exact in the weak sense only: pointwise its error does not fall on
irregular meshes.

**Laplace block** (Zeng et al., 2025, arXiv:2410.01337, eq. 5): a light message-passing network adds z_i to the sum
before the division by d_i. 5,602 parameters at width 16, 12,242 at width 24.

`released` is the operator of the paper's published code, for comparison: negative cotangents are set to zero, and the
area of an obtuse triangle's corner takes in what lies outside the triangle.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags
from torch import Tensor, nn

from apps.pde.mesh import Mesh
from apps.pde.passing import edge_geometry, mean_at, mlp

__all__ = ["LaplaceBlock", "cotangent", "voronoi"]

Area = Literal["mixed", "barycentric", "released"]


def _cotangents(mesh: Mesh) -> np.ndarray:
    """Return the cotangent of each corner [T, 3]."""
    e = mesh.edge_vectors
    dots = -(e[:, [1, 2, 0]] * e[:, [2, 0, 1]]).sum(-1)
    return dots / (2 * mesh.signed_area)[:, None]


def voronoi(mesh: Mesh, kind: Area = "mixed") -> np.ndarray:
    """Return the area that belongs to each node [N]."""
    area = mesh.signed_area[:, None]
    if kind == "barycentric":
        return mesh.node_area
    cot, square = _cotangents(mesh), (mesh.edge_vectors**2).sum(-1)
    if kind == "released":
        cot = cot.clip(min=0)
    part = (square[:, [1, 2, 0]] * cot[:, [1, 2, 0]] + square[:, [2, 0, 1]] * cot[:, [2, 0, 1]]) / 8
    if kind == "mixed":
        obtuse = cot < 0
        part = np.where(obtuse.any(1, keepdims=True), np.where(obtuse, area / 2, area / 4), part)
    return np.bincount(mesh.triangles.ravel(), part.ravel(), len(mesh))


def stiffness(mesh: Mesh, clamp: bool = False) -> csr_matrix:
    """Return sum_j w_ij (u_j - u_i) as a matrix: minus the stiffness matrix of linear elements."""
    cot = _cotangents(mesh)
    w = 0.5 * (cot.clip(min=0) if clamp else cot)
    i, j = mesh.triangles[:, [1, 2, 0]].ravel(), mesh.triangles[:, [2, 0, 1]].ravel()
    half = coo_matrix((w.ravel(), (i, j)), shape=(len(mesh), len(mesh))).tocsr()
    both = half + half.T
    return (both - diags(np.asarray(both.sum(1)).ravel())).tocsr()


def cotangent(mesh: Mesh, area: Area = "mixed") -> csr_matrix:
    """Return the Laplacian [N, N]; `released` also clamps the cotangents."""
    return csr_matrix(diags(1 / voronoi(mesh, area)) @ stiffness(mesh, area == "released"))


class LaplaceBlock(nn.Module):
    """The paper's learnable Laplacian.

    Args:
        mesh: where it acts.
        fields: components of the state.
        width: of its network (16: 5,602 parameters, 24: 12,242, at two fields).
        rounds: of message passing.
    """

    def __init__(self, mesh: Mesh, fields: int = 2, width: int = 16, rounds: int = 3) -> None:
        super().__init__()
        h = width
        self.encoder = mlp(fields + 2, h, h)
        self.message = nn.ModuleList(mlp(2 * h + 3, h, h) for _ in range(rounds))
        self.update = nn.ModuleList(mlp(2 * h, h, h) for _ in range(rounds))
        self.decoder = mlp(h, h, fields)
        nn.init.zeros_(self.decoder[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.decoder[-1].bias)  # type: ignore[arg-type]
        self.bind(mesh)

    def bind(self, mesh: Mesh) -> LaplaceBlock:
        """Put the block on another mesh."""
        from apps.pde.operators import SparseMap

        self.sum = SparseMap(stiffness(mesh))
        for name, value in {
            "inverse": 1 / voronoi(mesh), "graph": mesh.graph(), "edge": edge_geometry(mesh), "points": mesh.points
        }.items():  # fmt: skip
            kind = torch.int64 if name == "graph" else torch.float32
            self.register_buffer(name, torch.as_tensor(value, dtype=kind), persistent=False)
        return self

    inverse: Tensor
    graph: Tensor
    edge: Tensor
    points: Tensor

    def forward(self, u: Tensor) -> Tensor:
        """Return the Laplacian of u [B, N, C]."""
        i, j = self.graph
        points = self.points.to(u).expand(*u.shape[:-1], 2)
        h = self.encoder(torch.cat([u, points], -1))
        edge = self.edge.to(u).expand(u.shape[0], -1, -1)
        for message, update in zip(self.message, self.update, strict=True):
            sent = message(torch.cat([h[:, i], h[:, j] - h[:, i], edge], -1))
            h = h + update(torch.cat([h, mean_at(sent, i, u.shape[1])], -1))
        return self.inverse.to(u)[:, None] * (self.sum(u) + self.decoder(h))
