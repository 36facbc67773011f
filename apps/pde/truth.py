"""The truth of a recipe, one trajectory at a time: spectral on the torus, finite elements with holes and for flow.

A trajectory is a function of its label alone: of (seed, part, number) through its initial state, or of its Reynolds
number. So a data set that was interrupted goes on where it stopped, and one with more training trajectories keeps its
test trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from apps.pde.boundary import insulated, read_conditions
from apps.pde.expressions import Expression, Scene
from apps.pde.fem import Held
from apps.pde.mesh import Mesh
from apps.pde.model import DataConfig
from apps.pde.systems import SYSTEMS, System
from core.errors import UsageError

__all__ = ["Label", "Orbit", "begin", "first", "labels", "length", "solve", "tapered"]

PARTS = ("train", "valid", "test")
GRID = {"burgers": 128, "fitzhugh_nagumo": 128, "gray_scott": 192}
POSED = ("cylinder", "cells")  # whose solvers know the boundary conditions of the system alone
MOST = 4_000_000  # triangles of the elements
WARM = 0.02  # largest step of FitzHugh-Nagumo's warm-up from noise, whose errors do not matter
Say = Callable[[str], None]
Move = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Label:
    """Which trajectory: `part`, its `number` there, and its Reynolds number where it has one."""

    part: str
    number: int
    reynolds: float = 0.0

    @property
    def name(self) -> str:
        """The name of its file."""
        short = f"{self.reynolds:g}"
        exact = short if float(short) == self.reynolds else repr(self.reynolds)
        return f"re-{exact}" if self.reynolds else f"{self.part}-{self.number:03d}"

    def seed(self, seed: int) -> int:
        """Return the seed of its initial state."""
        return (seed * len(PARTS) + PARTS.index(self.part)) * 10000 + self.number


@dataclass(eq=False)
class Orbit:
    """One trajectory: states [T, N, C], values of the parameters, further series (pressure, forces)."""

    states: np.ndarray
    parameters: Mapping[str, float]
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)


def labels(config: DataConfig) -> dict[str, list[Label]]:
    """Return the labels of the three parts."""
    if config.system == "cylinder":
        given = (config.reynolds, config.reynolds_valid, config.reynolds_test)
        if not config.reynolds:
            raise UsageError("the cylinder needs Reynolds numbers", field="reynolds", hint="data.reynolds=[200]")
        return {p: [Label(p, i, float(r)) for i, r in enumerate(own)] for p, own in zip(PARTS, given, strict=True)}
    counts = (config.train, config.valid, config.test)
    return {p: [Label(p, i) for i in range(n)] for p, n in zip(PARTS, counts, strict=True)}


def solve(
    config: DataConfig, own: System, mesh: Mesh, seed: int, label: Label, say: Say = lambda line: None,
    state: Path | None = None,
) -> Orbit:  # fmt: skip
    """Run the solver of a system for one trajectory; a flow goes on from the file `state` where there is one.

    Raises:
        UsageError: the system has no solver on that domain, or none with such conditions or a warm-up, or the truth is
            to be too coarse or too fine.
        DataError: the time step is beyond stability.
    """
    if own.name in POSED and (changed := [p for p, text in own.boundary.items() if text != _usual(own, p)]):
        hint = "leave it as it is; trajectories of your own come as data.file"
        raise UsageError("is not what this system's solver has there", field=f"boundary.{changed[0]}",
                         value=own.boundary[changed[0]], hint=hint)  # fmt: skip
    if (size := len(mesh.triangles) * 4**config.fine) > MOST and not (all(mesh.period) and not mesh.groups):
        raise UsageError(f"refines the mesh so often that it has {size:.0e} triangles", field="data.fine",
                         value=config.fine, hint="0 is chosen; it is a grid's size on the torus alone")  # fmt: skip
    if label.reynolds:
        return _cylinder(config, mesh, label.reynolds, say, state)
    run = _cells if own.name == "cells" else _spectral if all(mesh.period) and not mesh.groups else _elements
    if config.warmup and run is not _spectral:
        raise UsageError("the elements keep all states from the start on", field="warmup", value=config.warmup,
                         hint="data.warmup=0")  # fmt: skip
    states = run(config, own, mesh, label.seed(seed))
    return Orbit(states.astype(np.float32), dict(own.parameters))


def _usual(own: System, part: str) -> str | None:
    """Return the condition that a solver has on a part of the boundary, None where it knows no such part."""
    known = SYSTEMS[own.name].boundary
    if own.name == "cells":  # any number of cells, any names outside
        return known["cell_1" if part.startswith("cell") else "left"]
    return known.get(part)


def _stride(config: DataConfig) -> int:
    """Return the solver's steps between two states."""
    return max(1, int(np.ceil(config.dt / (config.truth_dt or config.dt) - 1e-9)))


def _spectral(config: DataConfig, own: System, mesh: Mesh, seed: int) -> np.ndarray:
    from apps.pde import spectral

    n, each = config.fine or GRID[own.name], _stride(config)
    least = 3 * config.modes + 1 if own.name == "burgers" else 16
    if n < least:
        raise UsageError(f"is the size of a grid here, which needs {least} points in each direction to hold a start",
                         field="data.fine", value=n, hint="0 is chosen")  # fmt: skip
    solver = spectral.Spectral(own.name, own.parameters, n, own.size)
    if own.name == "burgers":
        start = np.moveaxis(spectral.initial(solver.grid(), seed, own.size, config.modes), -1, 0)
    elif own.name == "gray_scott":
        start = spectral.spots(n, seed)
    else:
        start = spectral.scaled_noise(n, seed)
    if config.warmup:
        steps = int(np.ceil(config.warmup / max(WARM, config.dt)))
        start = solver.run(start, config.warmup / steps, steps, steps)[-1]
    return solver.run(start, config.dt / each, config.steps * each, each, mesh.points)


def first(config: DataConfig, own: System, mesh: Mesh, seed: int) -> np.ndarray:
    """Return a first state [N, C] of a system's law on the torus, its warm-up included."""
    return _spectral(replace(config, steps=0), own, mesh, seed)[0]


def begin(own: System, mesh: Mesh, modes: int) -> Callable[[int], np.ndarray]:
    """Return the law of Burgers' first states at the nodes of a mesh: from a seed to a state [N, 2]."""
    from apps.pde import fem

    given = _values(own, mesh)
    held, at = _held(given, own.parameters), np.concatenate([np.zeros(0, np.int64), *map(mesh.nodes, given)])
    lift = fem.harmonic(mesh, held) if held else np.zeros(2)

    def law(seed: int) -> np.ndarray:
        u = _random(mesh, tuple(given), length(mesh), modes, seed)(mesh.points)
        u[at] = 0
        return u + lift

    return law


def _random(mesh: Mesh, fixed: tuple[str, ...], size: float, modes: int, seed: int) -> Move:
    """Return a random velocity that falls to 0 towards some parts, as a function of points [n, 2]."""
    from apps.pde import spectral

    return lambda p: tapered(p, mesh, fixed, size)[:, None] * spectral.initial(p, seed, size, modes)


def _elements(config: DataConfig, own: System, mesh: Mesh, seed: int) -> np.ndarray:
    from apps.pde import fem

    if own.name != "burgers":
        raise UsageError("has no solver on a domain with holes", field="system", value=own.name, choices=["burgers"])
    each, given = _stride(config), _given(own, mesh)
    fixed, held = tuple(given), _held(given, own.parameters)
    start = _random(mesh, fixed, length(mesh) if config.mesh else own.size, config.modes, seed)
    return fem.burgers(mesh, start, own.parameters["nu"], config.dt / each, config.steps * each, each,
                       refine=config.fine or 1, zero=() if held else fixed, held=held)  # fmt: skip


def length(mesh: Mesh) -> float:
    """Return the period of a mesh, its longer side where it has none: the length of the longest wave of a start."""
    return float(max(mesh.period) if any(mesh.period) else np.ptp(mesh.points, axis=0).max())


def _values(own: System, mesh: Mesh) -> dict[str, list[Expression]]:
    """Return the velocity of each part of the boundary that has one, in the order of the conditions."""
    if not mesh.groups:
        return {}
    conditions, out = read_conditions(mesh, own.boundary, own.fields, tuple(own.parameters)), {}
    for part in conditions[0]:
        values = [c[part].g for c in conditions if c[part].kind == "dirichlet"]
        known = [e for e in values if e is not None and not e.used & {*own.fields}]
        if len(known) == len(conditions):
            out[part] = known
    return out


def _given(own: System, mesh: Mesh) -> dict[str, list[Expression]]:
    """Return the same of what the elements can solve.

    Raises:
        UsageError: a condition that the elements do not know; they know values and no flux.
    """
    conditions, out = read_conditions(mesh, own.boundary, own.fields, tuple(own.parameters)), _values(own, mesh)
    for part in {*conditions[0]} - {*out, *insulated(conditions)}:
        if {c[part].kind for c in conditions} != {"free"}:
            hint = "dirichlet(g) for both fields, neumann(0) or free; trajectories of your own come as data.file"
            raise UsageError("the elements cannot solve this", field=f"boundary.{part}", value=own.boundary[part],
                             hint=hint)  # fmt: skip
    return out


def _held(given: Mapping[str, Sequence[Expression]], parameters: Mapping[str, float]) -> dict[str, Held]:
    """Return the values of parts as functions of points and time; none where all of them are zero."""
    if all(e.number == 0 for pair in given.values() for e in pair):
        return {}

    def of(pair: Sequence[Expression]) -> Held:
        def value(points: np.ndarray, t: float) -> np.ndarray:
            scene = Scene.of((), torch.zeros(1, len(points), 0).double(), torch.from_numpy(points), t, parameters)
            return np.stack([np.broadcast_to(e(scene).numpy(), len(points)) for e in pair], -1)

        return value

    return {part: of(pair) for part, pair in given.items()}


def _cells(config: DataConfig, own: System, mesh: Mesh, seed: int) -> np.ndarray:
    from apps.pde import shapes
    from apps.pde.cells import Cells, random_start

    each = _stride(config)
    curve = {} if config.mesh else {f"cell_{k + 1}": _onto(c, shapes.CELL) for k, c in enumerate(shapes.CENTRES)}
    solver = Cells(mesh, own.parameters, config.fine, curve)
    start = random_start(len(solver.names), seed)
    return solver.run(start, config.dt / each, config.steps * each, each)


def _onto(centre: tuple[float, float], radius: float) -> Move:
    """Return the map of points near a circle onto it."""

    def move(points: np.ndarray) -> np.ndarray:
        away = points - centre
        return centre + radius * away / np.linalg.norm(away, axis=1, keepdims=True)

    return move


def tapered(
    points: np.ndarray, mesh: Mesh, zero: tuple[str, ...], size: float = 1.0, width: float = 0.05
) -> np.ndarray:
    """Return a factor [n] that falls smoothly to 0 towards parts of the boundary: 1 - exp(-(d / (width size))^2).

    A random state does not vanish where the boundary wants it to; the jump would ring through the truth's first steps.
    """
    if not zero:
        return np.ones(len(points))
    edges = np.concatenate([mesh.groups[g] for g in zero])
    a, b = mesh.points[edges[:, 0]], mesh.shortest(mesh.points[edges[:, 1]] - mesh.points[edges[:, 0]])
    offset = mesh.shortest(points[:, None] - a)
    along = ((offset * b).sum(-1) / (b**2).sum(-1)).clip(0, 1)
    square = ((offset - along[..., None] * b) ** 2).sum(-1).min(1)
    return -np.expm1(-square / (width * size) ** 2)


def _cylinder(config: DataConfig, mesh: Mesh, number: float, say: Say, state: Path | None) -> Orbit:
    """Simulate one Reynolds number in units of the diameter and the inflow."""
    from apps.pde.flow import Flow

    if config.warmup == 0:
        raise UsageError("the flow starts from rest: give it time", field="warmup", value=0, hint="data.warmup=30")
    curve = {} if config.mesh else {"cylinder": _onto((2.5, 2.0), 0.5)}
    flow = Flow(mesh, 1 / number, _ramp, refine=config.fine, curve=curve)
    first = np.ceil(config.warmup / config.dt - 1e-9) * config.dt  # states are kept at multiples of dt
    first = config.warmup if np.isclose(first, config.warmup, 1e-9) else float(first)
    end = first + config.steps * config.dt
    run = flow.run(end, every=config.dt, start=first, disturb=0.3, speed=1.8, dt=config.truth_dt or None,
                   say=say, state=state)  # fmt: skip
    count = config.steps + 1
    force = 2 * np.stack([np.interp(run.times[-count:], run.clock, f) for f in run.force.T], -1)
    extra = {"pressure": run.pressure[-count:].astype(np.float32), "force": force}
    return Orbit(run.velocity[-count:].astype(np.float32), {"Re": number}, extra)


def _ramp(points: np.ndarray, t: float) -> np.ndarray:
    """Return the uniform inflow, raised smoothly over four units of time."""
    level = 0.5 - 0.5 * np.cos(np.pi * min(1.0, t / 4))
    return np.stack([np.full(len(points), level), np.zeros(len(points))], 1)
