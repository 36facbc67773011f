"""RBF-FD stencils that know of sides without flux: n . grad u = 0 is built into the weights.

A stencil near such a side has two kinds of data: values u_j at its nodes, and slopes n_b . grad u(x_b) at those of
them that lie on the side. With lambda the functionals that give them, phi(x, y) = |x - y|^m and P the polynomials up to
degree d, Hermite-Birkhoff interpolation has the weights

    [lambda_x lambda_y phi   lambda P] [w]   [L_x lambda_y phi]
    [(lambda P)'             0       ] [l] = [L P             ]

at the stencil's own node, and the slopes' weights meet zeros. The system is symmetric, stencils keep their order, and
nodes on the side stay unknowns for which the equation itself holds. Rows that are solved for instead (`boundary.py`)
reach to one side only, and with RBF-FD they give the Laplacian eigenvalues in the right half-plane on curved sides.

Reference: Wu, 1992, "Hermite-Birkhoff interpolation of scattered data by radial basis functions", Approx. Theory
Appl. 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apps.pde.mesh import Mesh
from apps.pde.stencils import ORDER, Stencils, at_origin, exponents, monomials, spline
from core.errors import DataError

__all__ = ["insulated"]

AXIS = {"dx": 0, "dy": 1}


def slopes(x: np.ndarray, n: np.ndarray, degree: int) -> np.ndarray:
    """Return n . grad of each monomial at points x [K, 2] with directions n [K, 2], [K, M]."""
    a, b = exponents(degree).T
    px, py = x[:, :1], x[:, 1:]
    along_x = a * px ** np.maximum(a - 1, 0) * py**b
    along_y = b * px**a * py ** np.maximum(b - 1, 0)
    return along_x * n[:, :1] + along_y * n[:, 1:]


def _applied(name: str, x: np.ndarray, n: np.ndarray, m: int) -> np.ndarray:
    """Return L_x (n . grad_y) |x - y|^m at x = 0 for y = x [K, 2]."""
    r = np.linalg.norm(x, axis=-1)
    along, far = (x * n).sum(-1), np.where(r > 0, r, 1.0) ** (m - 4) * (r > 0)
    if name == "lap":
        return m * m * (m - 2) * far * along
    axis = AXIS[name]
    return -m * r ** (m - 2) * n[:, axis] - m * (m - 2) * far * x[:, axis] * along


def _system(x: np.ndarray, at: np.ndarray, n: np.ndarray, degree: int, m: int) -> np.ndarray:
    """Return the matrix for values at x [K, 2] and slopes along n [B, 2] at `at` [B, 2]."""
    K, S, P = len(x), len(x) + len(at), len(exponents(degree))
    A = np.zeros((S + P, S + P))
    A[:K, :K] = np.linalg.norm(x[:, None] - x, axis=-1) ** m
    apart = x[:, None] - at
    A[:K, K:S] = -m * np.linalg.norm(apart, axis=-1) ** (m - 2) * (apart * n).sum(-1)
    apart = at[:, None] - at
    r = np.linalg.norm(apart, axis=-1)
    far = np.where(r > 0, r, 1.0) ** (m - 4) * (r > 0)
    both = (apart * n[:, None]).sum(-1) * (apart * n).sum(-1)
    A[K:S, K:S] = -m * r ** (m - 2) * (n @ n.T) - m * (m - 2) * far * both
    A[:S, S:] = np.concatenate([monomials(x, degree), slopes(at, n, degree)])
    upper = np.triu(A, 1)
    return upper + upper.T + np.diag(A.diagonal())


def insulated(mesh: Mesh, made: Stencils, parts: Sequence[str], degree: int, power: int) -> Stencils:
    """Return stencils in which `parts` of the boundary have no flux.

    Args:
        mesh: the mesh.
        made: RBF-FD stencils of dx, dy and lap; those that no part touches stay as they are.
        parts: names. A node where two of them meet has both conditions.
        degree: of the polynomials that are reproduced.
        power: m of the splines.

    Raises:
        DataError: a stencil does not determine its operators.
    """
    node = np.concatenate([mesh.nodes(p) for p in parts])
    normal = np.concatenate([mesh.normals_of(p)[mesh.nodes(p)] for p in parts])
    out = {name: w.copy() for name, w in made.weights.items()}
    for i in np.flatnonzero(np.isin(made.index, node).any(1)):
        J = np.unique(made.index[i])
        J = np.concatenate([[i], J[J != i]])
        held = np.isin(node, J)
        offset, n = mesh.shortest(mesh.points[J] - mesh.points[i]), normal[held]
        h = np.linalg.norm(offset, axis=-1).max()
        x, at = offset / h, mesh.shortest(mesh.points[node[held]] - mesh.points[i]) / h
        right = [np.concatenate([spline(name, x, power), _applied(name, at, n, power), at_origin(name, degree)])
                 for name in out]  # fmt: skip
        try:
            w = np.linalg.solve(_system(x, at, n, degree, power), np.stack(right, 1))[: len(J)]
        except np.linalg.LinAlgError:
            raise DataError("has a stencil on which derivatives are not determined", field="mesh") from None
        place = np.array([np.flatnonzero(made.index[i] == j)[0] for j in J])
        for c, name in enumerate(out):
            out[name][i] = 0
            out[name][i, place] = w[:, c] / h ** ORDER[name]
    return Stencils(made.index, out)
