"""Differential operators on scattered nodes: one stencil of weights for each node.

    (L u)_i ≈ sum_k w_ik u_{j(i, k)},       L one of dx, dy, lap, dxx, dxy, dyy.

**RBF-FD** (`rbf`). Weights are exact on the polyharmonic splines |x - x_j|^m of the stencil's nodes and on polynomials
up to degree d:

    [A  P] [w]   [L phi]
    [P' 0] [l] = [L p  ],       A_jk = |x_j - x_k|^m,  P_jk = p_k(x_j).

**Least squares** (`least_squares`). The Taylor polynomial of degree d that fits the differences u_j - u_i best, with
weights that fall with the distance.

Both are consistent of order d + 1 - (order of L), on any scatter and at boundaries, where stencils are one-sided. The
cotangent operator, which is consistent only in the weak sense, stands in `laplacian.py`.

Neighbours are counted along the mesh (by rings), so that no stencil reaches across a thin wall.

References: Fornberg and Flyer, 2015, "Solving PDEs with radial basis functions", Acta Numerica 24; Bayona et al., 2017,
"On the role of polynomials in RBF-FD approximations II", J. Comput. Phys. 332.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, identity

from apps.pde.mesh import Mesh
from core.errors import DataError, UsageError

__all__ = ["DERIVATIVES", "Stencils", "fitted", "least_squares", "moments", "neighbours", "rbf"]

DERIVATIVES = ("dx", "dy", "lap", "dxx", "dxy", "dyy")
ORDER = {"dx": 1, "dy": 1, "lap": 2, "dxx": 2, "dxy": 2, "dyy": 2}
CHUNK = 256


@dataclass(frozen=True, eq=False)
class Stencils:
    """Weights on neighbours.

    Args:
        index: int64 [N, K], the node itself first.
        weights: name of the operator -> float64 [N, K].
    """

    index: np.ndarray
    weights: dict[str, np.ndarray]

    def matrix(self, name: str) -> csr_matrix:
        """Return an operator as a sparse matrix [N, N]."""
        n, k = self.index.shape
        rows = np.repeat(np.arange(n), k)
        return csr_matrix((self.weights[name].ravel(), (rows, self.index.ravel())), shape=(n, n))


def neighbours(mesh: Mesh, k: int, edge: int | None = None) -> np.ndarray:
    """Return the k nearest nodes of each along the mesh, the node itself first, int64 [N, k].

    Args:
        mesh: the mesh.
        k: how many.
        edge: of nodes on the boundary, the so many nearest (at least k); rows of others repeat their last node.
    """
    wide = max(k, edge or k)
    if wide > len(mesh):
        raise UsageError("more neighbours than nodes", field="neighbours", value=wide)
    step = csr_matrix(mesh.adjacency + identity(len(mesh), dtype="int32", format="csr"))
    reach, want = step, np.full(len(mesh), k)
    want[mesh.boundary_nodes] = wide
    for _ in range(40):
        if (np.diff(reach.indptr) >= np.maximum(want * 1.3, want + 2).clip(max=len(mesh))).all():
            break
        reach = csr_matrix((reach @ step) > 0, dtype=np.int32)
    else:
        raise DataError("falls into parts that are too small for a stencil", field="mesh")
    rows = np.repeat(np.arange(len(mesh)), np.diff(reach.indptr))
    d2 = (mesh.shortest(mesh.points[reach.indices] - mesh.points[rows]) ** 2).sum(1)
    order = np.lexsort((reach.indices, d2, rows))
    first = reach.indptr[:-1]
    place = np.minimum(np.arange(wide)[None], want[:, None] - 1)
    return reach.indices[order][first[:, None] + place].astype(np.int64)


def exponents(degree: int) -> np.ndarray:
    """Return the powers (a, b) of the monomials x^a y^b up to `degree`, the constant first, [M, 2]."""
    return np.array([(n - b, b) for n in range(degree + 1) for b in range(n + 1)])


def monomials(x: np.ndarray, degree: int) -> np.ndarray:
    powers = exponents(degree)
    return x[..., None, 0] ** powers[:, 0] * x[..., None, 1] ** powers[:, 1]


def at_origin(name: str, degree: int) -> np.ndarray:
    """Return the operator of each monomial at the origin, [M]."""
    value = {"dx": {(1, 0): 1.0}, "dy": {(0, 1): 1.0}, "dxx": {(2, 0): 2.0}, "dxy": {(1, 1): 1.0},
             "dyy": {(0, 2): 2.0}, "lap": {(2, 0): 2.0, (0, 2): 2.0}}[name]  # fmt: skip
    return np.array([value.get((int(a), int(b)), 0.0) for a, b in exponents(degree)])


def spline(name: str, x: np.ndarray, m: int) -> np.ndarray:
    """Return the operator of |x - x_j|^m at the origin for nodes x [..., 2]."""
    r2 = (x**2).sum(-1)
    r = np.sqrt(r2)
    if ORDER[name] == 1:
        return -m * r ** (m - 2) * x[..., {"dx": 0, "dy": 1}[name]]
    if name == "lap":
        return m * m * r ** (m - 2)
    a, b = {"dxx": (0, 0), "dxy": (0, 1), "dyy": (1, 1)}[name]
    return m * r ** (m - 2) * (a == b) + m * (m - 2) * r ** (m - 4) * x[..., a] * x[..., b]


def _local(mesh: Mesh, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scaled offsets [N, K, 2], scales h [N], and which entries repeat an earlier one [N, K]."""
    offset = mesh.shortest(mesh.points[index] - mesh.points[index[:, :1]])
    h = np.linalg.norm(offset, axis=-1).max(1)
    again = np.zeros(index.shape, bool)
    again[:, 1:] = index[:, 1:] == index[:, :-1]
    return offset / h[:, None, None], h, again


def _check(x: np.ndarray, again: np.ndarray, name: str, weights: np.ndarray, degree: int) -> None:
    """Refuse weights [N, K] at scaled offsets that are not exact on the polynomials up to a degree."""
    P = np.where(again[..., None], 0.0, monomials(x, degree))
    off = np.abs(np.einsum("nk,nkm->nm", weights, P) - at_origin(name, degree)).max(1)
    if (off > 1e-6 * np.abs(weights).sum(1).clip(1)).any():
        raise DataError("has a stencil on which derivatives are not determined", field="mesh",
                        hint="take a mesh with more nodes across, or a smaller model.degree")  # fmt: skip


def rbf(
    mesh: Mesh, k: int = 31, degree: int = 4, power: int = 5, names: Sequence[str] = ("dx", "dy", "lap"),
    edge: int | None = None,
) -> Stencils:  # fmt: skip
    """Return RBF-FD stencils.

    Args:
        mesh: the mesh.
        k: nodes of a stencil; at least the number of monomials, (degree + 1)(degree + 2) / 2.
        degree: of the polynomials that are reproduced.
        power: m of the splines, odd, at least 3 (5 for second derivatives other than `lap`).
        names: operators of `DERIVATIVES`.
        edge: nodes of boundary stencils (1.5 k by default where there is a boundary).
    """
    count = len(exponents(degree))
    if k < count:
        raise UsageError(f"degree {degree} needs at least {count} neighbours", field="neighbours", value=k)
    index = neighbours(mesh, k, edge or (int(1.5 * k) if len(mesh.boundary) else k))
    x, h, again = _local(mesh, index)
    n, wide = index.shape
    out = {name: np.zeros((n, wide)) for name in names}
    for a in range(0, n, CHUNK):
        rows = slice(a, min(a + CHUNK, n))
        xs, gone = x[rows], again[rows]
        A = np.zeros((len(xs), wide + count, wide + count))
        A[:, :wide, :wide] = np.linalg.norm(xs[:, :, None] - xs[:, None], axis=-1) ** power
        A[:, :wide, wide:] = P = monomials(xs, degree)
        A[:, wide:, :wide] = P.transpose(0, 2, 1)
        b = np.zeros((len(xs), wide + count, len(names)))
        for c, name in enumerate(names):
            b[:, :wide, c], b[:, wide:, c] = spline(name, xs, power), at_origin(name, degree)
        r, c = np.nonzero(gone)  # a repeated node: its weight is zero
        A[r, c], A[r, :, c], b[r, c] = 0, 0, 0
        A[r, c, c] = 1
        try:
            w = np.linalg.solve(A, b)[:, :wide]
        except np.linalg.LinAlgError:
            raise DataError("has a stencil on which derivatives are not determined", field="mesh") from None
        for c, name in enumerate(names):
            _check(xs, gone, name, w[:, :, c], degree)
            out[name][rows] = w[:, :, c] / h[rows, None] ** ORDER[name]
    return Stencils(index, out)


def least_squares(
    mesh: Mesh, degree: int = 3, k: int | None = None, names: Sequence[str] = ("dx", "dy", "lap"), fall: float = 2.0
) -> Stencils:
    """Return least-squares stencils of `degree` on k nodes (2.1 times the monomials: two rings at degree 3).

    The fit interpolates the centre; the weight of a node at scaled distance r is (r + 0.1)^-fall.
    """
    count = len(exponents(degree)) - 1
    k = k or int(2.1 * (count + 1))
    if k <= count:
        raise UsageError(f"degree {degree} needs at least {count + 1} neighbours", field="neighbours", value=k)
    index = neighbours(mesh, k, 2 * k if len(mesh.boundary) else k)
    x, h, again = _local(mesh, index)
    P = monomials(x, degree)[:, 1:, 1:]
    weight = np.where(again[:, 1:], 0.0, (np.linalg.norm(x[:, 1:], axis=-1) + 0.1) ** -fall)
    inverse = np.linalg.pinv(P * weight[..., None], rcond=1e-12)  # [N, M, K - 1]
    out = {}
    for name in names:
        rows = np.einsum("m,nmk->nk", at_origin(name, degree)[1:], inverse) * weight / h[:, None] ** ORDER[name]
        out[name] = np.concatenate([-rows.sum(1, keepdims=True), rows], 1)
        _check(x, again, name, out[name] * h[:, None] ** ORDER[name], degree)
    return Stencils(index, out)


def moments(mesh: Mesh, index: np.ndarray, degree: int) -> np.ndarray:
    """Return an orthonormal basis [N, K, M] of the polynomials up to `degree` on each stencil.

    A change of weights that is orthogonal to it leaves the stencil exact on those polynomials.
    """
    x, _, again = _local(mesh, index)
    P = np.where(again[..., None], 0.0, monomials(x, degree))
    return np.linalg.qr(P)[0]


def fitted(
    mesh: Mesh, base: Stencils, name: str, u: np.ndarray, target: np.ndarray, degree: int = 2, ridge: float = 1e-9
) -> Stencils:
    """Return stencils whose weights are fitted to examples, with the moments up to `degree` kept exactly.

    For each node, `w = w_0 + Z theta` with Z orthogonal to the polynomials, and theta solves the ridge regression of
    `target - L_0 u` on `Z' u`.

    Args:
        base: stencils to begin with.
        name: the operator.
        u: functions at the nodes [F, N].
        target: the operator applied to them [F, N].
        degree: moments that are kept.
        ridge: relative to the mean square of the regressors.
    """
    n, k = base.index.shape
    Q = moments(mesh, base.index, degree)
    w = base.weights[name].copy()
    for a in range(0, n, CHUNK):
        rows = slice(a, min(a + CHUNK, n))
        near = u[:, base.index[rows]].transpose(1, 0, 2)  # [n, F, K]
        rest = target[:, rows].T - np.einsum("nfk,nk->nf", near, w[rows])
        Z = np.eye(k) - Q[rows] @ Q[rows].transpose(0, 2, 1)
        X = near @ Z
        gram = X.transpose(0, 2, 1) @ X
        scale = ridge * np.trace(gram, axis1=1, axis2=2)[:, None, None] / k
        theta = np.linalg.solve(gram + scale * np.eye(k), (X.transpose(0, 2, 1) @ rest[..., None]))[..., 0]
        w[rows] += np.einsum("nkl,nl->nk", Z, theta)
    return Stencils(base.index, {**base.weights, name: w})
