"""Truth of `cells`: small compartments with kinetics of their own, coupled through what diffuses between them.

    u_t = D lap u - decay u                                     between the cells,   n . grad u = 0 on the outer sides
    d1 u + eps D n . grad u = d2 v_j                            on cell j, of radius eps (n points into the cell)
    v_j' = alpha w_j + w_j v_j^2 - v_j + 1/eps oint (d1 u - d2 v_j) ds
    w_j' = rate (mu - alpha w_j - w_j v_j^2)                    Sel'kov's kinetics

(Gou and Ward, 2016, "An asymptotic analysis of a 2-D model of dynamically active compartments coupled by bulk
diffusion", J. Nonlinear Sci. 26, with other letters.) As D grows, u becomes one number U,

    U' = -decay U - 1 / (eps |Omega|) sum_j |Gamma_j| (d1 U - d2 v_j),

the limit that `limit` integrates and that tests hold the elements to.

Quadratic elements; BDF2, diffusion and the Robin term implicit, kinetics extrapolated:

    (3 v^{n+1} - 4 v^n + v^{n-1}) / (2 dt) = 2 f^n - f^{n-1},
    (3/(2 dt) M + D K + decay M + d1/eps R) u^{n+1} = M (4 u^n - u^{n-1}) / (2 dt) + d2/eps sum_j v_j^{n+1} r_j
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp
from scipy.sparse import csr_matrix
from skfem import BilinearForm, FacetBasis, LinearForm

from apps.pde.fem import ELEMENTS, Move, facets_on, factor, spaces
from apps.pde.mesh import Mesh
from core.errors import DataError

__all__ = ["Cells", "kinetics", "limit", "random_start"]


@BilinearForm
def _along(u, v, w):  # noqa: ANN001, ANN202
    return u * v


@LinearForm
def _once(v, w):  # noqa: ANN001, ANN202
    return v


def kinetics(v: np.ndarray, w: np.ndarray, p: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return Sel'kov's rates of v and w [cells]."""
    made = p["alpha"] * w + w * v**2
    return made - v, p["rate"] * (p["mu"] - made)


def random_start(count: int, seed: int) -> np.ndarray:
    """Return (v, w) of each cell at the start, [count, 2]."""
    rng = np.random.default_rng([seed, 9])
    return np.stack([rng.uniform(0.3, 2.5, count), rng.uniform(0.2, 1.0, count)], 1)


@dataclass(eq=False)
class Cells:
    """The coupled system on a mesh.

    Args:
        mesh: with parts whose names begin with `cell`.
        parameters: D, decay, d1, d2, eps, alpha, mu, rate.
        refine: how often the mesh is refined.
        curve: part -> map of points onto the true boundary (`fem.spaces`).
    """

    mesh: Mesh
    parameters: Mapping[str, float]
    refine: int = 0
    curve: Mapping[str, Move] | None = None

    def __post_init__(self) -> None:
        """Assemble the matrices."""
        self.names = sorted(g for g in self.mesh.groups if g.startswith("cell"))
        (self.space,), self.nodes = spaces(self.mesh, (2,), self.refine, self.curve)
        s = self.space
        self.once, robin = [], csr_matrix((len(s), len(s)))
        for name in self.names:
            facets = facets_on(s.mesh, self.mesh.groups[name], self.mesh)
            basis = FacetBasis(s.bent or s.mesh, ELEMENTS[2](), facets=facets, intorder=5)
            robin = robin + s.fold.T @ _along.assemble(basis) @ s.fold
            self.once.append(s.fold.T @ _once.assemble(basis))
        p = self.parameters
        self.ring = np.array([o.sum() for o in self.once])  # |Gamma_j|
        self.fixed = p["D"] * s.stiffness + p["decay"] * s.mass + p["d1"] / p["eps"] * robin

    @property
    def area(self) -> float:
        """The area between the cells."""
        return float(self.space.mass.sum())

    def flow_in(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return what enters each cell, 1/eps oint (d1 u - d2 v) ds, [cells]."""
        p = self.parameters
        return (p["d1"] * np.array([o @ u for o in self.once]) - p["d2"] * self.ring * v) / p["eps"]

    def run(self, start: np.ndarray, dt: float, steps: int, every: int = 1, level: float = 0.0) -> np.ndarray:
        """Return states [steps / every + 1, N, 3] of (u, v, w) at the mesh's nodes; v and w are 0 off the cells.

        Args:
            start: v and w of each cell [cells, 2]; u starts at `level` everywhere.
            dt: time step. steps: their number. every: steps between two states.

        Raises:
            DataError: the solution is not finite.
        """
        p, M = self.parameters, self.space.mass
        solvers = [factor(csr_matrix(a / dt * M + self.fixed), np.zeros(0, np.int64))[0] for a in (1.0, 1.5)]
        u = u_before = np.full(len(self.space), level)
        y = y_before = start.T.copy()
        f_before, out = None, [self._read(u, y)]
        for n in range(1, steps + 1):
            f = np.stack(kinetics(y[0], y[1], p))
            f[0] += self.flow_in(u, y[0])
            if f_before is None:
                y, y_before, history = y + dt * f, y, M @ u / dt
            else:
                y, y_before = (4 * y - y_before + 2 * dt * (2 * f - f_before)) / 3, y
                history = M @ (4 * u - u_before) / (2 * dt)
            right = history + p["d2"] / p["eps"] * sum(v * o for v, o in zip(y[0], self.once, strict=True))
            u, u_before = solvers[f_before is not None].solve(right), u  # type: ignore[attr-defined]
            f_before = f
            if n % every == 0:
                if not np.isfinite(u).all() or not np.isfinite(y).all():
                    raise DataError("beyond stability: the solution grew without bound", field="dt", value=dt)
                out.append(self._read(u, y))
        return np.stack(out)

    def _read(self, u: np.ndarray, y: np.ndarray) -> np.ndarray:
        state = np.zeros((len(self.mesh), 3))
        state[:, 0] = u[self.nodes]
        for j, name in enumerate(self.names):
            state[self.mesh.nodes(name), 1:] = y[:, j]
        return state


def limit(cells: Cells, start: np.ndarray, times: np.ndarray, level: float = 0.0) -> np.ndarray:
    """Return (U, v_1 ... v_m, w_1 ... w_m) at `times` of the limit of fast diffusion, [T, 1 + 2 m]."""
    p, m, ring, area = cells.parameters, len(cells.names), cells.ring, cells.area

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        inward = ring / p["eps"] * (p["d1"] * y[0] - p["d2"] * y[1 : m + 1])
        dv, dw = kinetics(y[1 : m + 1], y[m + 1 :], p)
        return np.r_[-p["decay"] * y[0] - inward.sum() / area, dv + inward, dw]

    first = np.r_[level, start[:, 0], start[:, 1]]
    return solve_ivp(rate, (times[0], times[-1]), first, t_eval=times, rtol=1e-9, atol=1e-11).y.T
