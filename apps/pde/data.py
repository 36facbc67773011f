"""Trajectories: states of a system on one mesh over time, simulated here or read from a file.

Training, validation and test are different trajectories: other initial states, or other Reynolds numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from apps.pde import shapes
from apps.pde.formats import read_mesh
from apps.pde.mesh import Mesh
from apps.pde.model import DataConfig
from apps.pde.systems import System, system
from core.errors import DataError, UsageError

__all__ = ["Splits", "Trajectories", "load", "posed", "simulate", "splits"]


@dataclass(eq=False)
class Trajectories:
    """n trajectories on one mesh.

    Args:
        mesh: where.
        fields: names of the C fields.
        times: [T].
        states: float32 [n, T, N, C].
        parameters: name -> value of each trajectory [n].
        extra: further series, name -> [n, ...] (pressure, forces).
    """

    mesh: Mesh
    fields: tuple[str, ...]
    times: np.ndarray
    states: np.ndarray
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.states)

    @property
    def dt(self) -> float:
        """Time between two states."""
        return float(self.times[1] - self.times[0])

    def select(self, rows: slice | np.ndarray) -> Trajectories:
        """Return some of the trajectories."""
        pick = {k: v[rows] for k, v in self.parameters.items()}
        return dataclasses.replace(self, states=self.states[rows], parameters=pick,
                                   extra={k: v[rows] for k, v in self.extra.items()})  # fmt: skip

    def save(self, path: Path) -> Path:
        """Write all of it to one `.npz` file."""
        m = self.mesh
        content = {"points": m.points, "triangles": m.triangles, "period": np.array(m.period), "times": self.times,
                   "states": self.states, "fields": np.array(self.fields)}  # fmt: skip
        content |= {f"group:{k}": v for k, v in m.groups.items()}
        content |= {f"parameter:{k}": v for k, v in self.parameters.items()}
        content |= {f"extra:{k}": v for k, v in self.extra.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".part-{path.name}")
        with part.open("wb") as file:
            np.savez(file, **content)
        os.replace(part, path)
        return path


def load(path: Path | str) -> Trajectories:
    """Read what `Trajectories.save` wrote.

    Raises:
        DataError: missing or not such a file.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as found:
            a = {k: found[k] for k in found.files}
        named = {
            p: {k[len(p) :]: v for k, v in a.items() if k.startswith(p)} for p in ("group:", "parameter:", "extra:")
        }
        mesh = Mesh(a["points"], a["triangles"], named["group:"], tuple(a["period"].tolist()))
        fields = tuple(str(f) for f in a["fields"])
        return Trajectories(mesh, fields, a["times"], a["states"], named["parameter:"], named["extra:"])
    except FileNotFoundError:
        raise DataError("no such file", field="file", value=str(path)) from None
    except (OSError, ValueError, KeyError) as error:
        message = f"not a data set of `quintet pde simulate` ({type(error).__name__})"
        raise DataError(message, field="file", value=str(path)) from None


@dataclass(eq=False)
class Splits:
    """The three parts, of different trajectories, and the system with the recipe's changes."""

    system: System
    train: Trajectories
    valid: Trajectories
    test: Trajectories


def posed(config: DataConfig) -> tuple[System, Mesh]:
    """Return the system and the mesh of a recipe.

    Raises:
        UsageError: unknown system, shape, boundary part or parameter.
        DataError: the mesh file is missing or malformed.
    """
    own = system(config.system, config.shape)
    for name in config.parameters:
        if name not in own.parameters:
            raise UsageError("no such parameter", field=f"parameters.{name}", choices=own.parameters)
    own = dataclasses.replace(own, parameters={**own.parameters, **config.parameters})
    if config.mesh:
        mesh = read_mesh(config.mesh, (own.size, own.size) if own.shape == "square" else (0.0, 0.0))
        boundary = config.boundary or own.boundary
        return dataclasses.replace(own, boundary=dict(boundary)), mesh
    mesh = shapes.make(own.shape, config.nodes)
    if own.size != 1:
        period = (mesh.period[0] * own.size, mesh.period[1] * own.size)
        mesh = Mesh(mesh.points * own.size, mesh.triangles, mesh.groups, period)
    return dataclasses.replace(own, boundary={**own.boundary, **config.boundary}), mesh


def splits(config: DataConfig, seed: int) -> Splits:
    """Return the trajectories of a recipe, from its file, its cache or the solver."""
    if config.file:
        whole, own = load(config.file), system(config.system, config.shape)
        if whole.fields != own.fields:
            raise DataError("holds other fields than the system", field="file", value=whole.fields, choices=own.fields)
        own = dataclasses.replace(own, parameters={**own.parameters, **config.parameters},
                                  boundary={**own.boundary, **config.boundary})  # fmt: skip
        return _split(config, own, whole)
    own, mesh = posed(config)
    text = json.dumps(dataclasses.asdict(config) | {"seed": seed, "cache": ""}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    store = Path(config.cache) / f"{config.system}-{key}.npz" if config.cache else None
    if store is not None and store.exists():
        return _split(config, own, load(store))
    whole = simulate(config, own, mesh, seed)
    if store is not None:
        whole.save(store)
    return _split(config, own, whole)


def counts(config: DataConfig) -> tuple[int, int, int]:
    """Return the sizes of the three parts."""
    if config.reynolds:
        return len(config.reynolds), len(config.reynolds_valid), len(config.reynolds_test)
    return config.train, config.valid, config.test


def _split(config: DataConfig, own: System, whole: Trajectories) -> Splits:
    a, b, c = counts(config)
    if len(whole) < a + b + c or min(a, b, c) < 1:
        raise DataError(f"needs {a} + {b} + {c} trajectories, one of each at least", field="data", value=len(whole))
    return Splits(own, whole.select(slice(0, a)), whole.select(slice(a, a + b)), whole.select(slice(a + b, a + b + c)))


def simulate(config: DataConfig, own: System, mesh: Mesh, seed: int) -> Trajectories:
    """Run the truth's solver: spectral on the torus, finite elements elsewhere.

    Trajectory i of a system starts from a state that is a function of (seed, i).
    """
    if own.name == "cylinder":
        return _cylinder(config, own, mesh)
    number = sum(counts(config))
    times = np.arange(config.steps + 1) * config.dt
    run = _spectral if all(mesh.period) and not mesh.groups else _elements
    states = np.stack([run(config, own, mesh, seed * 1000 + i) for i in range(number)])
    values = {k: np.full(number, v) for k, v in own.parameters.items()}
    return Trajectories(mesh, own.fields, times, states.astype(np.float32), values)


def _spectral(config: DataConfig, own: System, mesh: Mesh, seed: int) -> np.ndarray:
    from apps.pde import spectral

    n = config.fine or {"burgers": 128, "fitzhugh_nagumo": 128, "gray_scott": 192}[own.name]
    solver = spectral.Spectral(own.name, own.parameters, n, own.size)
    each = max(1, int(np.ceil(config.dt / (config.truth_dt or config.dt))))
    if own.name == "burgers":
        start = np.moveaxis(spectral.initial(solver.grid(), seed, own.size, config.modes), -1, 0)
    elif own.name == "gray_scott":
        start = spectral.spots(n, seed)
    else:
        start = spectral.scaled_noise(n, seed)
    dt = config.dt / each
    if config.warmup:
        start = solver.run(start, dt, round(config.warmup / dt), round(config.warmup / dt))[-1]
    return solver.run(start, dt, config.steps * each, each, mesh.points)


def _elements(config: DataConfig, own: System, mesh: Mesh, seed: int) -> np.ndarray:
    from apps.pde import fem, spectral

    if own.name != "burgers":
        raise UsageError("has no solver on a domain with holes", field="system", value=own.name, choices=["burgers"])
    each = max(1, int(np.ceil(config.dt / (config.truth_dt or config.dt))))
    zero = tuple(g for g in mesh.groups if own.boundary[g].startswith("dirichlet"))
    return fem.burgers(
        mesh, lambda p: spectral.initial(p, seed, own.size, config.modes), own.parameters["nu"], config.dt / each,
        config.steps * each, each, refine=config.fine or 1, zero=zero,
    )  # fmt: skip


def _cylinder(config: DataConfig, own: System, mesh: Mesh) -> Trajectories:
    """Simulate each Reynolds number in units of the diameter and the inflow."""
    from apps.pde.flow import Flow

    numbers = [*config.reynolds, *config.reynolds_valid, *config.reynolds_test]
    if not numbers:
        raise UsageError("the cylinder needs Reynolds numbers", field="reynolds", hint="data.reynolds=[200]")
    runs = []
    for number in numbers:
        flow = Flow(mesh, 1 / number, _ramp, refine=config.fine)
        end = config.warmup + config.steps * config.dt
        runs.append(flow.run(end, every=config.dt, start=config.warmup, disturb=0.3, speed=1.8,
                             dt=config.truth_dt or None))  # fmt: skip
    count = config.steps + 1
    states = np.stack([r.velocity[-count:] for r in runs]).astype(np.float32)
    extra = {"pressure": np.stack([r.pressure[-count:] for r in runs]).astype(np.float32)}
    extra["force"] = np.stack(
        [2 * np.stack([np.interp(r.times[-count:], r.clock, f) for f in r.force.T], -1) for r in runs]
    )
    times = np.arange(states.shape[1]) * config.dt
    return Trajectories(mesh, own.fields, times, states, {"Re": np.array(numbers, float)}, extra)


def _ramp(points: np.ndarray, t: float) -> np.ndarray:
    """Return the uniform inflow, raised smoothly over four units of time."""
    level = 0.5 - 0.5 * np.cos(np.pi * min(1.0, t / 4))
    return np.stack([np.full(len(points), level), np.zeros(len(points))], 1)


def units(states: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return mean and standard deviation of each field over trajectories [n, T, N, C]."""
    flat = states.reshape(-1, states.shape[-1]).astype(np.float64)
    return {"mean": flat.mean(0), "std": flat.std(0).clip(1e-12)}
