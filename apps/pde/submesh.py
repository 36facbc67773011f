"""A finer mesh inside: the state lives on the given mesh refined, the data on the given nodes alone.

    w_0 = P u_0,     w^{k+1} = step(w^k),     u^k = the first N values of w^k.

Every triangle becomes four; the given nodes stay nodes, the first N of them. P leaves their values alone and gives the
new nodes, the middles of edges, those of the RBF interpolant (|x|^7 and polynomials of degree 4, exact on these) of
the nearest given ones. So the equation is solved where fronts are resolved, though it was seen, and is judged, on the
given nodes.

What lies between the nodes is not measured. From a smooth start P finds it; later, where fronts are narrower than the
edges, it does not, and the learned rate would be biased by what its derivatives miss there. `Dynamics.analysed` follows
a trajectory instead: after each step of the model the given nodes are put back to the data and the new ones move along,

    w <- w + P (u - w[:N]),

direct insertion, the simplest of data assimilation (Daley, 1991, "Atmospheric Data Analysis"): P then only interpolates
what the model did not know. Rate and analysis are found in turn (`Dynamics.calibrate`).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, identity, vstack

from apps.pde.mesh import Mesh
from apps.pde.stencils import exponents, monomials, neighbours
from core.errors import DataError

__all__ = ["interpolation", "refined"]

NEAR, DEGREE, POWER, CHUNK = 90, 4, 7, 256


def refined(mesh: Mesh) -> Mesh:
    """Return the mesh with every triangle cut into four; the nodes that were there come first, in their order."""
    n, edges = len(mesh), mesh.edges
    number = {edge: n + i for i, edge in enumerate(map(tuple, edges.tolist()))}

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([number[min(p, q), max(p, q)] for p, q in zip(a.tolist(), b.tolist(), strict=True)], np.int64)

    a, b, c = mesh.triangles.T
    ab, bc, ca = between(a, b), between(b, c), between(c, a)
    triangles = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    groups = {}
    for name, own in mesh.groups.items():
        middle = between(*own.T)
        groups[name] = np.concatenate([np.stack([own[:, 0], middle], 1), np.stack([middle, own[:, 1]], 1)])
    return Mesh(np.concatenate([mesh.points, middles(mesh)]), triangles, groups, mesh.period, mesh.tagged)


def middles(mesh: Mesh) -> np.ndarray:
    """Return the middle of each edge, [E, 2]."""
    a, b = mesh.edges.T
    middle = mesh.points[a] + mesh.shortest(mesh.points[b] - mesh.points[a]) / 2
    period = np.asarray(mesh.period)
    low = mesh.points.min(0)  # a side of a periodic domain begins at or before its first node
    return np.where(period > 0, np.where(middle < np.minimum(low, 0), middle + period, middle), middle)


def interpolation(mesh: Mesh) -> csr_matrix:
    """Return P [N + E, N], from the nodes of a mesh to those of `refined`.

    Raises:
        DataError: the nodes around an edge do not determine a polynomial.
    """
    n, (a, _) = len(mesh), mesh.edges.T
    k = min(NEAR, n)
    near = neighbours(mesh, min(2 * k, n))[a]
    offset = mesh.shortest(mesh.points[near] - middles(mesh)[:, None])
    order = np.argsort((offset**2).sum(-1), axis=1, kind="stable")[:, :k]
    index, x = np.take_along_axis(near, order, 1), np.take_along_axis(offset, order[..., None], 1)
    x /= np.linalg.norm(x, axis=-1).max(1)[:, None, None]
    count = len(exponents(DEGREE))
    weights = np.empty((len(x), k))
    for start in range(0, len(x), CHUNK):
        own = x[start : start + CHUNK]
        A = np.zeros((len(own), k + count, k + count))
        A[:, :k, :k] = np.linalg.norm(own[:, :, None] - own[:, None], axis=-1) ** POWER
        A[:, :k, k:] = P = monomials(own, DEGREE)
        A[:, k:, :k] = P.transpose(0, 2, 1)
        right = np.zeros((len(own), k + count, 1))
        right[:, :k, 0], right[:, k, 0] = np.linalg.norm(own, axis=-1) ** POWER, 1
        try:
            weights[start : start + CHUNK] = np.linalg.solve(A, right)[:, :k, 0]
        except np.linalg.LinAlgError:
            raise DataError("is too coarse to be refined: values between its nodes are not determined",
                            field="mesh") from None  # fmt: skip
    rows = np.repeat(np.arange(len(x)), k)
    between = csr_matrix((weights.ravel(), (rows, index.ravel())), shape=(len(x), n))
    return csr_matrix(vstack([identity(n), between]))
