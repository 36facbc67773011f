"""Ground truth of incompressible flow: quadratic velocities, linear pressure, rotational pressure correction.

With the pressure extrapolated as p' = p^n + 4/3 phi^n - 1/3 phi^{n-1}, N the convection (Adams-Bashforth 2):

    (3 u* - 4 u^n + u^{n-1}) / (2 dt) + 2 N^n - N^{n-1} + grad p' - nu lap u* = 0     with the boundary values
    lap phi^{n+1} = 3 / (2 dt) div u*,     phi = 0 at the outlet
    p^{n+1} = p^n + phi^{n+1} - nu div u*

(Guermond, Minev and Shen, 2006, "An overview of projection methods for incompressible flows", the rotational scheme of
order 2, with u* kept as the velocity). Three triangular solves a step with factors made once. Forces on a body are the
residual of the momentum equation at its nodes, which is more accurate than an integral of stresses over its surface.

**Guard.** Convection is explicit: where |u| dt / h (h the spacing of the quadratic nodes) passes `LIMIT` anywhere, the
run stops in one line with the step that would do. Left alone, `dt=None` takes the step of `COURANT` at the top speed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import splu

from apps.pde.fem import Move, Space, factor, spaces
from apps.pde.mesh import Mesh
from core.errors import DataError, UsageError

__all__ = ["Flow", "Run"]

LIMIT, COURANT = 0.7, 0.15
REST = 30.0  # processor seconds between two writings of a run's state
Inflow = Callable[[np.ndarray, float], np.ndarray]


@dataclass(eq=False)
class Run:
    """What a simulation gave: times [F], velocities at the mesh's nodes [F, N, 2], pressures [F, N], and at every step
    the time, the force on the body over rho [S, 2], and the pressure at the probes [S, P]."""

    times: np.ndarray
    velocity: np.ndarray
    pressure: np.ndarray
    clock: np.ndarray
    force: np.ndarray
    probes: np.ndarray
    courant: float


@dataclass(eq=False)
class Flow:
    """A flow in a channel.

    Args:
        mesh: with the parts that the next arguments name.
        nu: kinematic viscosity.
        inflow: (points [n, 2], t) -> velocity [n, 2] on the parts `inlet`.
        inlet, walls, slip, outlet: names of parts: given velocity; zero; zero v; zero traction.
        body: parts whose force is measured (among the walls).
        refine: how often the mesh is refined.
        curve: part -> map of points onto the true boundary (`fem.spaces`): drag wants round cylinders.
    """

    mesh: Mesh
    nu: float
    inflow: Inflow
    inlet: tuple[str, ...] = ("left",)
    walls: tuple[str, ...] = ("cylinder",)
    slip: tuple[str, ...] = ("bottom", "top")
    outlet: tuple[str, ...] = ("right",)
    body: tuple[str, ...] = ("cylinder",)
    refine: int = 0
    curve: Mapping[str, Move] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Assemble what does not change."""
        for name in (*self.inlet, *self.walls, *self.slip, *self.outlet, *self.body):
            self.mesh.nodes(name)
        (self.V, self.Q), self.nodes = spaces(self.mesh, (2, 1), self.refine, self.curve)
        _, self.pressure_nodes = spaces(self.mesh, (1,), self.refine)

        def of(space: Space, names: tuple[str, ...]) -> np.ndarray:
            found = [space.unknowns(self.mesh.groups[g], self.mesh) for g in names]
            return np.unique(np.concatenate([*found, np.zeros(0, np.int64)])).astype(np.int64)

        self.at_inlet, self.at_wall, self.at_slip = (of(self.V, g) for g in (self.inlet, self.walls, self.slip))
        self.at_body, self.at_outlet = of(self.V, self.body), of(self.Q, self.outlet)
        BV, GxV, GyV, w = self.V.quadrature
        BQ = self.Q.quadrature[0]
        scaled = BQ.multiply(w[:, None]).tocsr()
        self.div_x, self.div_y = csr_matrix(scaled.T @ GxV), csr_matrix(scaled.T @ GyV)  # (q, du/dx), (q, dv/dy)
        self.project = splu(self.Q.mass.tocsc())

    def spacing(self) -> float:
        """Return the least distance of neighbouring quadratic nodes."""
        p = self.V.mesh.p[:, self.V.mesh.facets]
        return float(np.linalg.norm(p[:, 0] - p[:, 1], axis=0).min()) / 2

    def step(self, speed: float, courant: float = COURANT) -> float:
        """Return the time step of a Courant number at a speed."""
        return courant * self.spacing() / speed

    def _fixed(self, t: float) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the unknowns with given values, per component, and all values [n, 2]."""
        value = np.zeros((len(self.V), 2))
        value[self.at_inlet] = self.inflow(self.V.points[self.at_inlet], t)
        value[self.at_wall] = 0
        both = np.union1d(self.at_inlet, self.at_wall)
        return [both, np.union1d(both, self.at_slip)], value

    def run(
        self, end: float, dt: float | None = None, every: float | None = None, start: float = 0.0,
        disturb: float = 0.0, probes: tuple[tuple[float, float], ...] = (), speed: float = 1.5,
        say: Callable[[str], None] = lambda line: None, state: Path | None = None,
    ) -> Run:  # fmt: skip
        """Simulate from rest.

        Args:
            end: last time. dt: time step, by the guard if None.
            every: time between two kept states, those from `start` on.
            disturb: height of a transverse bump behind the body at t = 0, which starts the shedding sooner.
            probes: points whose pressure is kept at every step.
            speed: the largest velocity that is expected, for dt = None.
            say: is told of the progress.
            state: a file in which the run keeps how far it is; the same run goes on from there, bit for bit.

        Raises:
            UsageError: the time step does not divide `every`.
            DataError: beyond stability; the file is of another run.
        """
        every = every or end
        if dt is None:
            dt = every / int(np.ceil(every / self.step(speed)))
        stride, steps = round(every / dt), round(end / dt)
        if abs(stride * dt - every) > 1e-9 * every:
            raise UsageError("does not divide the time between states", field="dt", value=dt)
        at = [self.pressure_nodes[self.mesh.locate(p)] for p in probes]
        stamp = np.array([end, dt, every, start, disturb, self.nu, len(self.V), self.V.points.sum(), len(at)])
        clock, force, seen = (np.zeros((steps, k)) for k in (1, 2, len(at)))
        track = _Track(_State.at_rest(self, disturb), clock, force, seen)
        if state is not None and state.exists():
            track = _Track.read(state, stamp)
        solvers, rested = self._solvers(dt), time.process_time()
        for n in range(track.n + 1, steps + 1):
            track.force[n - 1] = self._advance(track.state, n, dt, solvers)
            track.n, track.clock[n - 1], track.probes[n - 1] = n, n * dt, track.state.p[at]
            if n % 20 == 0 or n == steps:
                track.worst = max(track.worst, self._guard(track.state.u, dt, n))
            if n % max(1, steps // 20) == 0:
                say(f"t = {n * dt:.3g} of {end:.3g}, Courant number {track.worst:.2f}")
            if n % stride == 0 and n * dt >= start - 1e-9:
                track.keep(n * dt, track.state.u[self.nodes], track.state.p[self.pressure_nodes])
            if state is not None and (n == steps or time.process_time() - rested > REST):
                track.write(state, stamp)
                rested = time.process_time()
        times, velocity, pressure = zip(*track.kept, strict=True)
        clock, force, seen = track.clock[:, 0], track.force, track.probes
        return Run(np.array(times), np.stack(velocity), np.stack(pressure), clock, force, seen, track.worst)

    def _guard(self, u: np.ndarray, dt: float, n: int) -> float:
        speed = float(np.abs(u).max())
        number = speed * dt / self.spacing()
        if not np.isfinite(speed) or number > LIMIT:
            hint = f"take dt <= {self.step(min(speed, 3.0) if np.isfinite(speed) else 3.0):.2g}"
            raise DataError(f"beyond stability at t = {n * dt:.3g}: Courant number {number:.2g}", field="dt", value=dt,
                            hint=hint)  # fmt: skip
        return number

    def _solvers(self, dt: float) -> dict[str, list]:
        fixed, _ = self._fixed(0.0)
        made = {"pressure": [factor(self.Q.stiffness, self.at_outlet)]}
        for name, a in (("start", 2.0), ("later", 3.0)):
            A = csr_matrix(self.V.mass * (a / (2 * dt)) + self.nu * self.V.stiffness)
            first = factor(A, fixed[0])
            made[name] = [first, first if np.array_equal(fixed[0], fixed[1]) else factor(A, fixed[1])]
        return made

    def _advance(self, s: _State, n: int, dt: float, solvers: Mapping[str, list]) -> np.ndarray:
        """Make one step in place and return the force on the body over the density."""
        first = n == 1
        a = 2.0 if first else 3.0
        now = self.V.convection(s.u)
        N = now if first else 2 * now - s.N
        M = self.V.mass
        history = M @ (2 * s.u if first else 4 * s.u - s.u_before) / (2 * dt)
        p = s.p + (4 * s.phi - s.phi_before) / 3
        push = np.stack([self.div_x.T @ p, self.div_y.T @ p], 1)
        fixed, value = self._fixed(n * dt)
        b, new, (x, y) = history - N + push, value.copy(), solvers["start" if first else "later"]
        right = b.copy()
        for c, (_, columns) in enumerate((x, y)):
            right[:, c] -= columns @ value[fixed[c], c]
            right[fixed[c], c] = value[fixed[c], c]
        if x is y:
            new = x[0].solve(right)
        else:
            new[:, 0], new[:, 1] = x[0].solve(right[:, 0]), y[0].solve(right[:, 1])
        rest = a / (2 * dt) * (M @ new) + self.nu * (self.V.stiffness @ new) - b
        div = self.div_x @ new[:, 0] + self.div_y @ new[:, 1]
        right = -a / (2 * dt) * div
        right[self.at_outlet] = 0
        phi = solvers["pressure"][0][0].solve(right)
        s.p = s.p + phi - self.nu * self.project.solve(div)
        s.u_before, s.u, s.N = s.u, new, now
        s.phi_before, s.phi = s.phi, phi
        return -rest[self.at_body].sum(0)


@dataclass(eq=False)
class _State:
    """What one step hands to the next."""

    u: np.ndarray
    u_before: np.ndarray
    N: np.ndarray
    p: np.ndarray
    phi: np.ndarray
    phi_before: np.ndarray

    @classmethod
    def at_rest(cls, flow: Flow, disturb: float) -> _State:
        u = np.zeros((len(flow.V), 2))
        if disturb:
            body = flow.V.points[flow.at_body]
            centre, size = body.mean(0), np.ptp(body, axis=0).max()
            d = (flow.V.points - centre - (1.5 * size, 0)) / size
            u[:, 1] = disturb * np.exp(-(d**2).sum(1))
        zero = np.zeros(len(flow.Q))
        return cls(u, u.copy(), np.zeros_like(u), zero, zero.copy(), zero.copy())


@dataclass(eq=False)
class _Track:
    """A run as far as it is."""

    state: _State
    clock: np.ndarray
    force: np.ndarray
    probes: np.ndarray
    n: int = 0
    worst: float = 0.0
    kept: list[tuple[float, np.ndarray, np.ndarray]] = field(default_factory=list)

    def keep(self, t: float, u: np.ndarray, p: np.ndarray) -> None:
        """Keep a state."""
        self.kept.append((t, u, p))

    def write(self, path: Path, stamp: np.ndarray) -> None:
        """Write all of it, whole or not at all."""
        own = {f"state_{k}": v for k, v in vars(self.state).items()} | {"stamp": stamp, "n": np.array(self.n)}
        own |= {k: getattr(self, k) for k in ("clock", "force", "probes")} | {"worst": np.array(self.worst)}
        own |= {f"kept_{k}": np.array(v) for k, v in zip("tup", zip(*self.kept, strict=True), strict=False)}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".part-{path.name}")
        with part.open("wb") as file:
            np.savez(file, **own)  # type: ignore[arg-type]
        os.replace(part, path)

    @classmethod
    def read(cls, path: Path, stamp: np.ndarray) -> _Track:
        try:
            with np.load(path, allow_pickle=False) as found:
                a = {k: found[k] for k in found.files}
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            raise DataError("is damaged", field="state", value=str(path), hint="delete it") from None
        if "stamp" not in a or not np.array_equal(a["stamp"], stamp):
            raise DataError("is of another run", field="state", value=str(path), hint="delete it")
        state = _State(**{k[6:]: v for k, v in a.items() if k.startswith("state_")})
        kept = list(zip(*(a[f"kept_{k}"] for k in "tup"), strict=True)) if "kept_t" in a else []
        return cls(state, a["clock"], a["force"], a["probes"], int(a["n"]), float(a["worst"]), kept)
