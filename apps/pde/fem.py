"""Ground truth with holes: quadratic finite elements (scikit-fem) for Burgers' equation.

Crank-Nicolson for diffusion, Adams-Bashforth 2 for convection:

    (M / dt + nu/2 K) u^{n+1} = (M / dt - nu/2 K) u^n - 3/2 c(u^n) + 1/2 c(u^{n-1}),

with c(u) = B' W ((B u) (G_x u) + (B v) (G_y u)) at quadrature points: sparse products only, and one factorisation for
all steps. The start is projected onto the elements, not interpolated. Opposite sides of a periodic domain share their
unknowns. The vertices of the given mesh stay vertices under refinement, so states are read there without interpolation.

Where the boundary has values g other than zero, the start is that of the caller plus the harmonic field with these
values (K l = 0 within), so that nothing jumps, and every step has the values of its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, diags
from scipy.sparse.linalg import splu
from skfem import Basis, BilinearForm, ElementTriP1, ElementTriP2, MeshTri, MeshTri2
from skfem.helpers import dot, grad

from apps.pde.formats import unfolded
from apps.pde.mesh import Mesh
from core.errors import DataError

__all__ = ["Held", "Move", "Space", "burgers", "factor", "harmonic", "spaces"]

Move = Callable[[np.ndarray], np.ndarray]
Held = Callable[[np.ndarray, float], np.ndarray]
"""From points [n, 2] and the time to values [n, 2]."""
ELEMENTS = {1: ElementTriP1, 2: ElementTriP2}


@BilinearForm
def _mass(u, v, w):  # noqa: ANN001, ANN202
    return u * v


@BilinearForm
def _stiffness(u, v, w):  # noqa: ANN001, ANN202
    return dot(grad(u), grad(v))  # type: ignore[arg-type]


@dataclass(eq=False)
class Space:
    """Finite elements on a mesh with shared unknowns.

    Args:
        mesh: the (refined, cut-open) mesh with straight edges.
        degree: 1 or 2.
        period: of the domain.
        intorder: order of the quadrature.
        bent: the same mesh with curved edges, where it has some.
    """

    mesh: MeshTri
    degree: int
    period: tuple[float, float] = (0.0, 0.0)
    intorder: int = 5
    bent: MeshTri2 | None = None

    def __post_init__(self) -> None:
        """Number the unknowns."""
        self.basis = Basis(self.bent or self.mesh, ELEMENTS[self.degree](), intorder=self.intorder)
        where = self.basis.doflocs.T.copy()
        span = np.asarray(self.period)
        low, tolerance = self.mesh.p.min(1), 1e-7 * float(np.ptp(self.mesh.p))
        wrapped = np.where(span > 0, (where - low + tolerance) % np.where(span > 0, span, 1), where - low)
        made = []
        for shift in (0.0, 0.29, 0.37) if span.any() else (0.0,):  # copies may stand where numbers are rounded up
            key = np.round(wrapped / tolerance / 20 + shift).astype(np.int64)
            made.append(np.unique(key, axis=0, return_index=True, return_inverse=True)[1:])
        first, index = min(made, key=lambda found: len(found[0]))
        self.index = index.ravel()
        self.points = where[first]
        n = len(first)
        self.fold = csr_matrix((np.ones(len(where)), (np.arange(len(where)), self.index)), shape=(len(where), n))

    def __len__(self) -> int:
        return len(self.points)

    def assemble(self, form: BilinearForm) -> csr_matrix:
        """Return the matrix of a form."""
        return csr_matrix(self.fold.T @ form.assemble(self.basis) @ self.fold)

    @cached_property
    def mass(self) -> csr_matrix:
        """(u, v)."""
        return self.assemble(_mass)

    @cached_property
    def stiffness(self) -> csr_matrix:
        """(grad u, grad v)."""
        return self.assemble(_stiffness)

    @cached_property
    def quadrature(self) -> tuple[csr_matrix, csr_matrix, csr_matrix, np.ndarray]:
        """Values, x- and y-slopes at quadrature points [Q, n], and the weights [Q]."""
        weights = self.basis.dx
        elements, count = weights.shape
        rows = np.arange(elements * count).reshape(elements, count)
        data: list[list[np.ndarray]] = [[], [], []]
        r, c = [], []
        for k, local in enumerate(self.basis.basis):
            own = local[0]
            r.append(rows.ravel())
            c.append(np.repeat(np.asarray(self.basis.element_dofs)[k], count))
            slopes = np.broadcast_to(own.grad, (2, elements, count))  # type: ignore[arg-type]
            for into, value in zip(data, (own.value, slopes[0], slopes[1]), strict=True):
                into.append(np.broadcast_to(value, (elements, count)).ravel())
        shape = (elements * count, self.basis.N)
        made = [csr_matrix((np.concatenate(d), (np.concatenate(r), np.concatenate(c))), shape=shape) for d in data]
        B, Gx, Gy = (csr_matrix(m @ self.fold) for m in made)
        return B, Gx, Gy, weights.ravel()

    def convection(self, u: np.ndarray) -> np.ndarray:
        """Return (u . grad u_c, test) for velocities u [n, 2], [n, 2]."""
        B, Gx, Gy, w = self.quadrature
        here = B @ u * w[:, None]
        return B.T @ (here[:, :1] * (Gx @ u) + here[:, 1:] * (Gy @ u))

    def project(self, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the elements' nearest function to f, [n, 2] at points [n, 2], in the mean square.

        Its large scales are those of f to the order 2 (degree + 1); interpolation errs there by degree + 1, and large
        scales are what diffusion leaves in the end.
        """
        B, _, _, w = self.quadrature
        x = np.asarray(self.basis.global_coordinates().value).reshape(2, -1).T  # type: ignore[union-attr]
        right = np.asarray(B.T @ (w[:, None] * f(x)))
        return splu(csc_matrix(self.mass)).solve(right)

    def unknowns(self, edges: np.ndarray, mesh: Mesh) -> np.ndarray:
        """Return the unknowns on boundary edges of the original mesh."""
        return np.unique(self.index[self.basis.get_dofs(facets_on(self.mesh, edges, mesh)).all()])


def facets_on(fine: MeshTri, edges: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Return the boundary facets of a refined mesh that lie on edges of the original one."""
    facets = fine.boundary_facets()
    middle = np.asarray(fine.p)[:, np.asarray(fine.facets)[:, facets]].mean(1).T
    a, b = mesh.points[edges[:, 0]], mesh.shortest(mesh.points[edges[:, 1]] - mesh.points[edges[:, 0]])
    offset = mesh.shortest(middle[:, None] - a[None])
    along = (offset * b).sum(-1) / (b**2).sum(-1)
    across = np.abs(offset[..., 0] * b[:, 1] - offset[..., 1] * b[:, 0]) / np.linalg.norm(b, axis=-1)
    return facets[((along > 0) & (along < 1) & (across < 1e-8 * np.linalg.norm(b, axis=-1))).any(1)]


def spaces(
    mesh: Mesh, degrees: Iterable[int] = (2,), refine: int = 0, curve: Mapping[str, Move] | None = None
) -> tuple[list[Space], np.ndarray]:
    """Return spaces on a refined mesh, and the first space's unknown at each node of the mesh.

    Args:
        mesh: the mesh.
        degrees: of the elements, one for each space.
        refine: how often it is refined.
        curve: boundary part -> map of points [n, 2] near it onto the true boundary: its edges become quadratic.
    """
    points, triangles, index = unfolded(mesh)
    fine = MeshTri(np.ascontiguousarray(points.T), np.ascontiguousarray(triangles.T)).refined(refine)
    bent = _bent(fine, mesh, curve) if curve else None
    made = [Space(fine, d, mesh.period, bent=bent) for d in degrees]
    first = np.full(len(mesh), -1)
    nodal = np.asarray(made[0].basis.nodal_dofs)[0]
    first[index] = made[0].index[nodal[: len(index)]]
    return made, first


def _bent(fine: MeshTri, mesh: Mesh, curve: Mapping[str, Move]) -> MeshTri2:
    """Return the mesh with quadratic edges on the parts of `curve`."""
    straight = MeshTri2.from_mesh(fine)
    places = straight.doflocs.copy()
    for part, move in curve.items():
        nodes = straight.dofs.get_facet_dofs(facets_on(fine, mesh.groups[part], mesh)).flatten()
        places[:, nodes] = move(places[:, nodes].T).T
    return replace(straight, doflocs=places)


def factor(matrix: csr_matrix, fixed: np.ndarray) -> tuple[object, csr_matrix]:
    """Factor a symmetric matrix with the rows and columns of `fixed` taken out; also return those columns."""
    free = np.ones(matrix.shape[0])  # type: ignore[index]
    free[fixed] = 0
    keep = diags(free)
    inside = csc_matrix(keep @ matrix @ keep + diags(1 - free))
    columns = csr_matrix(keep @ matrix)[:, fixed]
    options = {"SymmetricMode": True}
    return splu(inside, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options), columns


class _Sides:
    """The unknowns on parts of the boundary with given velocity, and their values; the part named first wins."""

    def __init__(self, space: Space, mesh: Mesh, zero: tuple[str, ...], held: Mapping[str, Held]) -> None:
        where = {g: space.unknowns(mesh.groups[g], mesh) for g in (*zero, *held)}
        self.fixed = np.unique(np.concatenate([np.zeros(0, np.int64), *where.values()]))
        self.parts = [(np.searchsorted(self.fixed, where[g]), space.points[where[g]], f) for g, f in held.items()]

    def at(self, t: float) -> np.ndarray:
        """Return the values at a time, [unknowns, 2]."""
        out = np.zeros((len(self.fixed), 2))
        for rows, points, value in reversed(self.parts):
            out[rows] = value(points, t)
        return out

    def harmonic(self, space: Space) -> np.ndarray:
        """Return the harmonic field of the values at the start [n, 2]."""
        solver, columns = factor(space.stiffness, self.fixed)
        right = -(columns @ self.at(0.0))
        right[self.fixed] = self.at(0.0)
        return solver.solve(right)  # type: ignore[attr-defined]


def harmonic(mesh: Mesh, held: Mapping[str, Held], refine: int = 1) -> np.ndarray:
    """Return the harmonic field [N, 2] at the nodes of a mesh that has given values on parts of its boundary."""
    (space,), nodes = spaces(mesh, (2,), refine)
    return _Sides(space, mesh, (), held).harmonic(space)[nodes]


def burgers(
    mesh: Mesh, start: Callable[[np.ndarray], np.ndarray], nu: float, dt: float, steps: int, every: int = 1, *,
    degree: int = 2, refine: int = 1, zero: tuple[str, ...] = (), held: Mapping[str, Held] | None = None,
) -> np.ndarray:  # fmt: skip
    """Solve Burgers' equation and return the states at the mesh's nodes.

    Args:
        mesh: the mesh whose nodes are read.
        start: initial velocity, a function of points [n, 2] -> [n, 2].
        nu: viscosity. dt: step. steps: their number. every: steps between two states.
        degree, refine: of the elements, and how often the mesh is refined.
        zero: boundary parts on which the velocity is zero; others are free (zero flux).
        held: parts with a velocity of their own; where there are some, the start is beyond their harmonic field.

    Returns:
        [steps / every + 1, N, 2].

    Raises:
        DataError: the solution is not finite.
    """
    (space,), nodes = spaces(mesh, (degree,), refine)
    first, sides = start(mesh.points).copy(), _Sides(space, mesh, zero, held or {})
    fixed = sides.fixed
    u = space.project(start)
    u[fixed] = 0
    first[np.isin(nodes, fixed)] = 0
    if held:
        lift = sides.harmonic(space)
        u, first = u + lift, first + lift[nodes]
    M, K = space.mass, space.stiffness
    solver, columns = factor(csr_matrix(M / dt + 0.5 * nu * K), fixed)
    explicit = csr_matrix(M / dt - 0.5 * nu * K)
    out, before, usual = [first], None, float(np.abs(u).max())
    for step in range(1, steps + 1):
        now = space.convection(u)
        b = explicit @ u - (now if before is None else 1.5 * now - 0.5 * before)
        b[fixed] = 0
        if held:
            value = sides.at(step * dt)
            b -= columns @ value
            b[fixed], usual = value, max(usual, float(np.abs(value).max(initial=0)))
        u, before = solver.solve(b), now  # type: ignore[attr-defined]
        if step % every == 0:
            if not np.isfinite(u).all() or np.abs(u).max() > 1e3 * max(1.0, usual):
                raise DataError("beyond stability: the solution grew without bound", field="dt", value=dt)
            out.append(u[nodes])
    return np.stack(out)
