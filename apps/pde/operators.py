"""Sparse operators on batches of fields, differentiable, and a learnable correction that cannot break consistency.

A state is u [B, N, C]. `SparseMap` applies a fixed matrix to the node axis; its gradient is the transposed matrix.
`Operators` holds dx, dy and lap of one family as one matrix of 3 N rows. The flux divergence with a variable
coefficient is `div(D grad u) = D lap u + grad D . grad u`, of the order of its parts.

**Correction** (`Correction`). A network on the geometry of a stencil gives a change of weights c_k; what is added is

    delta w = (I - Q Q') c / h^order,

with Q an orthonormal basis of the polynomials up to degree q on the stencil: every moment up to q stays as it was, to
rounding, whatever the network learns.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix, lil_matrix, vstack
from torch import Tensor, nn

from apps.pde.hermite import insulated as without_flux
from apps.pde.laplacian import cotangent
from apps.pde.mesh import Mesh
from apps.pde.passing import mlp
from apps.pde.stencils import ORDER, Stencils, least_squares, moments, rbf
from core.errors import UsageError

__all__ = ["FAMILIES", "Correction", "Family", "Operators", "SparseMap"]

Family = Literal["rbf", "least_squares", "cotangent"]
FAMILIES: tuple[Family, ...] = ("rbf", "least_squares", "cotangent")


class _Apply(torch.autograd.Function):
    """y = A x for sparse A, with A' for the gradient, which is differentiable in turn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, A_t: Tensor) -> Tensor:
        ctx.save_for_backward(A, A_t)
        return A @ x

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        A, A_t = ctx.saved_tensors
        return (_Apply.apply(grad[0].contiguous(), A_t, A) if ctx.needs_input_grad[0] else None), None, None


class SparseMap(nn.Module):
    """A fixed sparse matrix [M, N] on the node axis of [B, N, C]."""

    def __init__(self, matrix: Any, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        for name, own in (("a", csr_matrix(matrix)), ("t", csr_matrix(csr_matrix(matrix).T))):
            own.sort_indices()
            self.register_buffer(f"{name}_row", torch.from_numpy(own.indptr.astype(np.int32)), persistent=False)
            self.register_buffer(f"{name}_col", torch.from_numpy(own.indices.astype(np.int32)), persistent=False)
            self.register_buffer(f"{name}_val", torch.from_numpy(own.data).to(dtype), persistent=False)
        self.shape: tuple[int, int] = matrix.shape  # type: ignore[assignment]
        self.ready: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if like.dtype not in self.ready or self.ready[like.dtype][0].device != like.device:
            made = []
            for name, shape in (("a", self.shape), ("t", self.shape[::-1])):
                row, col, val = (getattr(self, f"{name}_{part}") for part in ("row", "col", "val"))
                with warnings.catch_warnings():  # each first use says that the layout is in beta state
                    warnings.simplefilter("ignore", UserWarning)
                    made.append(torch.sparse_csr_tensor(row, col, val.to(like), shape, check_invariants=False))
            self.ready[like.dtype] = (made[0].to(like.device), made[1].to(like.device))
        return self.ready[like.dtype]

    def _apply(self, *args: Any, **kwargs: Any) -> SparseMap:
        self.ready = {}
        return super()._apply(*args, **kwargs)  # type: ignore[return-value]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "ready": {}}  # type: ignore[misc]

    def forward(self, u: Tensor) -> Tensor:
        """Return A u, [B, M, C]."""
        batch, n, fields = u.shape
        flat = u.permute(1, 0, 2).reshape(n, batch * fields)
        out: Tensor = _Apply.apply(flat, *self._matrices(u))  # type: ignore[assignment]
        return out.reshape(-1, batch, fields).permute(1, 0, 2)


class Operators(nn.Module):
    """Gradient, Laplacian and divergence on one mesh.

    Args:
        mesh: where.
        family: `rbf` (degree 4 on 31 nodes), `least_squares` (degree 3, two rings) or `cotangent` (the paper's
            Laplacian, with the gradients of `least_squares` of degree 1).
        k, degree: of the stencils, instead of the family's own.
        insulated: boundary parts without flux that RBF-FD stencils are to know of (`hermite.py`).
    """

    def __init__(
        self, mesh: Mesh, family: Family = "rbf", k: int = 0, degree: int = 0, insulated: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.family, self.n, self.mesh = family, len(mesh), mesh
        self.parts = nn.ModuleDict()
        self.stencils: Stencils | None = None
        if family == "cotangent":
            slopes = least_squares(mesh, degree or 1, k or 7, ("dx", "dy"))
            parts = [slopes.matrix("dx"), slopes.matrix("dy"), cotangent(mesh)]
        else:
            degree = degree or (4 if family == "rbf" else 3)
            if family == "rbf":
                power = 7 if degree > 5 else 5
                made = rbf(mesh, k or 31, degree, power)
                made = without_flux(mesh, made, insulated, degree, power) if insulated else made
            else:
                made = least_squares(mesh, degree, k or None)
            self.stencils = made
            parts = [made.matrix(name) for name in ("dx", "dy", "lap")]
        self.all, self.laplacian = SparseMap(vstack(parts)), SparseMap(parts[2])
        self.matrices: dict[str, csr_matrix] = dict(zip(("dx", "dy", "lap"), parts, strict=True))

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (dx u, dy u, lap u), each [B, N, C]."""
        a, b, c = self.all(u).split(self.n, 1)
        return a, b, c

    def lap(self, u: Tensor) -> Tensor:
        """Return the Laplacian of u [B, N, C]."""
        return self.laplacian(u)

    def divergence(self, u: Tensor) -> Tensor:
        """Return d u_0 / dx + d u_1 / dy of a vector field [B, N, 2], [B, N]."""
        dx, dy, _ = self(u)
        return dx[..., 0] + dy[..., 1]

    def part(self, prefix: str) -> SparseMap:
        """Return the mean over each boundary part whose name begins with `prefix`, on its nodes; elsewhere 0.

        Raises:
            UsageError: no part's name begins so.
        """
        if prefix not in self.parts:
            names = [g for g in self.mesh.groups if g.startswith(prefix)]
            if not names:
                raise UsageError("no boundary part begins so", field="part", value=prefix, choices=self.mesh.groups)
            mean = lil_matrix((self.n, self.n))
            for name in names:
                a, b = self.mesh.groups[name].T
                half = np.linalg.norm(self.mesh.shortest(self.mesh.points[b] - self.mesh.points[a]), axis=1) / 2
                weight = np.bincount(np.r_[a, b], np.r_[half, half], self.n)
                nodes = self.mesh.nodes(name)
                mean[np.ix_(nodes, nodes)] = np.tile(weight[nodes] / weight.sum(), (len(nodes), 1))
            self.parts[prefix] = SparseMap(mean.tocsr())
        made = self.parts[prefix]
        assert isinstance(made, SparseMap)
        return made

    def diffuse(self, D: Tensor, u: Tensor) -> Tensor:
        """Return div(D grad u) for D [B, N, 1 or C] and u [B, N, C]."""
        (ux, uy, lap), (Dx, Dy, _) = self(u), self(D)
        return D * lap + Dx * ux + Dy * uy


class Correction(nn.Module):
    """A learnable change of stencils that keeps all moments up to `degree`.

    Args:
        mesh: where.
        stencils: the stencils that are changed.
        names: their operators.
        degree: moments that are kept exactly.
        width: of the network on the stencil's geometry.
    """

    index: Tensor
    Q: Tensor
    geometry: Tensor
    scale: Tensor

    def __init__(
        self, mesh: Mesh, stencils: Stencils, names: tuple[str, ...] = ("lap",), degree: int = 2, width: int = 24
    ) -> None:
        super().__init__()
        self.names, self.degree = names, degree
        self.edge = mlp(3, width, width)
        self.weight = mlp(2 * width, width, len(names))
        nn.init.zeros_(self.weight[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.weight[-1].bias)  # type: ignore[arg-type]
        self.bind(mesh, stencils)

    def bind(self, mesh: Mesh, stencils: Stencils) -> Correction:
        """Put the correction on another mesh."""
        offset = mesh.shortest(mesh.points[stencils.index] - mesh.points[stencils.index[:, :1]])
        h = np.linalg.norm(offset, axis=-1).max(1)
        near = offset / h[:, None, None]
        geometry = np.concatenate([near, np.linalg.norm(near, axis=-1, keepdims=True)], -1)
        scale = np.stack([h ** -ORDER[name] for name in self.names], -1)
        for name, value in {"geometry": geometry, "scale": scale}.items():
            self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)
        self.register_buffer("Q", torch.from_numpy(moments(mesh, stencils.index, self.degree)), persistent=False)
        self.register_buffer("index", torch.from_numpy(stencils.index), persistent=False)
        return self

    def delta(self) -> Tensor:
        """Return the changes of weights [N, K, names]."""
        own = self.edge(self.geometry)
        around = own.mean(1, keepdim=True).expand_as(own)
        c = self.weight(torch.cat([own, around], -1)).to(self.Q)
        return (c - self.Q @ (self.Q.transpose(1, 2) @ c)) * self.scale.to(c)[:, None]

    def forward(self, u: Tensor) -> Tensor:
        """Return what the changes add to the operators of u [B, N, C]: [B, N, C, names]."""
        return torch.einsum("nko,bnkc->bnco", self.delta().to(u), u[:, self.index])
