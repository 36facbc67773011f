"""Trajectories: states of a system on one mesh over time, simulated here (`truth.py`) or read from a file.

Training, validation and test are different trajectories: other initial states, or other Reynolds numbers.

A cache keeps a data set as a folder: `mesh.npz` and one file for each trajectory, written whole or not at all, so that
an interrupted simulation goes on where it stopped. The folder's name is a hash of all that the trajectories depend on;
how many there are of each part is not among it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from apps.pde import shapes, truth
from apps.pde.boundary import read_conditions
from apps.pde.expressions import RESERVED
from apps.pde.formats import read_mesh
from apps.pde.mesh import Mesh
from apps.pde.model import DataConfig
from apps.pde.systems import System, system
from core.errors import DataError, UsageError

__all__ = [
    "Splits",
    "Trajectories",
    "equations",
    "fitting",
    "folder",
    "interval",
    "load",
    "posed",
    "simulate",
    "splits",
    "units",
]

COUNTS = ("file", "cache", "train", "valid", "test", "reynolds", "reynolds_valid", "reynolds_test", "substeps")
PLAIN = re.compile(r"\s*(free|(neumann|dirichlet)(\(\s*0?\s*\))?)\s*")
Say = Callable[[str], None]


def quiet(line: str) -> None:
    """Say nothing."""


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
        """Time between two states: of the first two, or the mean where digits are too few for these."""
        first, mean = np.diff(self.times[:2]), np.ptp(self.times) / (len(self.times) - 1)
        return float(first[0] if math.isclose(first[0], mean, rel_tol=1e-9) else mean)

    def select(self, rows: slice | np.ndarray) -> Trajectories:
        """Return some of the trajectories."""
        pick = {k: v[rows] for k, v in self.parameters.items()}
        return dataclasses.replace(self, states=self.states[rows], parameters=pick,
                                   extra={k: v[rows] for k, v in self.extra.items()})  # fmt: skip

    @classmethod
    def of(cls, mesh: Mesh, fields: tuple[str, ...], times: np.ndarray, paths: list[truth.Orbit]) -> Trajectories:
        """Put trajectories of the solver together."""
        shape = (len(times), len(mesh), len(fields))
        states = np.empty((len(paths), *shape), np.float32)
        for k, p in enumerate(paths):
            states[k] = p.states
        first = paths[0] if paths else truth.Orbit(states, {})
        values = {k: np.array([p.parameters[k] for p in paths], float) for k in first.parameters}
        return cls(mesh, fields, times, states, values, {k: np.stack([p.extra[k] for p in paths]) for k in first.extra})

    def save(self, path: Path) -> Path:
        """Write all of it to one `.npz` file."""
        content = _content(self.mesh) | {"times": self.times, "states": self.states, "fields": np.array(self.fields)}
        content |= {f"parameter:{k}": v for k, v in self.parameters.items()}
        return _write(path, content | {f"extra:{k}": v for k, v in self.extra.items()})


def _content(mesh: Mesh) -> dict[str, np.ndarray]:
    own = {"points": mesh.points, "triangles": mesh.triangles, "period": np.array(mesh.period)}
    return own | {f"group:{k}": v for k, v in mesh.groups.items()}


def _write(path: Path, content: Mapping[str, np.ndarray]) -> Path:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        with part.open("wb") as file:
            np.savez(file, **content)  # type: ignore[arg-type]
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {k: found[k] for k in found.files}
    except FileNotFoundError:
        raise DataError("no such file", field="file", value=str(path)) from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        message = f"not a data set of `quintet pde simulate` ({type(error).__name__})"
        raise DataError(message, field="file", value=str(path)) from None


def _named(content: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {k[len(kind) :]: v for k, v in content.items() if k.startswith(kind)}


def _mesh(a: Mapping[str, np.ndarray], path: Path | str) -> Mesh:
    """Return the mesh of a file, all of whose boundary edges have names."""
    groups, period = _named(a, "group:"), a["period"]
    for name, own in {"points": a["points"], "triangles": a["triangles"], "period": period, **groups}.items():
        if own.dtype.kind not in "iuf":
            raise DataError("must be numbers", field=f"{path}: {name}", value=str(own.dtype))
    for name, own in groups.items():
        if own.ndim != 2 or own.shape[1] != 2:
            raise DataError("needs the nodes of its edges, [E, 2]", field=f"{path}: group:{name}", value=own.shape)
    if period.shape != (2,) or not (np.isfinite(period) & (period >= 0)).all():
        raise DataError("needs two lengths, 0 for none", field=f"{path}: period", value=period.tolist())
    return Mesh(a["points"], a["triangles"], groups, tuple(period.tolist()), tagged=True)


def load(path: Path | str) -> Trajectories:
    """Read what `Trajectories.save` wrote, or the user in that form; states of any kind of number become float32.

    Raises:
        DataError: missing or not such a file, its states do not follow each other at equal times, are not finite or not
            those of its mesh, fields and parameters; boundary edges have no name, or parameters no numbers.
    """
    a = _read(Path(path))
    if lacking := {"points", "triangles", "period", "times", "states", "fields"} - set(a):
        message = f"not a data set of `quintet pde simulate` (no {min(lacking)})"
        raise DataError(message, field="file", value=str(path))
    _even(a["times"], a["states"], path)
    fields, mesh = tuple(str(f) for f in np.atleast_1d(a["fields"])), _mesh(a, path)
    series = {k: _named(a, k) for k in ("parameter:", "extra:")}
    states = _fitting(a["states"], len(mesh), fields, series, path)
    parameters = {k: _values(k, v, fields, path) for k, v in series["parameter:"].items()}
    return Trajectories(mesh, fields, a["times"].astype(float), states, parameters, series["extra:"])


def _values(name: str, value: np.ndarray, fields: tuple[str, ...], path: Path | str) -> np.ndarray:
    """Return a parameter's values as float64; refuse what is no number, or has the name of something else."""
    if name in (*fields, *RESERVED):
        raise DataError("is a name of something else", field=f"{path}: parameter:{name}", value=name,
                        hint="rename it")  # fmt: skip
    if value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise DataError("must be finite numbers", field=f"{path}: parameter:{name}", value=value.tolist()[:4])
    return value.astype(float)


def _fitting(
    states: np.ndarray, nodes: int, fields: tuple[str, ...], series: Mapping[str, dict[str, np.ndarray]],
    path: Path | str,
) -> np.ndarray:  # fmt: skip
    """Return states [n, T, N, C] as float32; refuse what is no number, or not of the file's mesh and fields."""
    want = (nodes, len(fields))
    if states.shape[2:] != want:
        message = f"needs states [n, T, N, C] with N, C = {want}, its nodes and fields; they are {states.shape}"
        raise DataError(message, field="file", value=str(path))
    for kind, own in series.items():
        for name, value in own.items():
            if value.shape[:1] != states.shape[:1] or (kind == "parameter:" and value.ndim != 1):
                message = f"needs a value for each of {len(states)} trajectories"
                raise DataError(message, field=f"{path}: {kind}{name}", value=value.shape)
    if states.dtype.kind not in "iuf":
        raise DataError("must be numbers", field=f"{path}: states", value=str(states.dtype))
    with np.errstate(over="ignore"):
        states = states.astype(np.float32, copy=False)
    lost = np.argwhere(~np.isfinite(states).all((2, 3)))
    if len(lost):
        row, at = lost[0].tolist()
        message = f"{len(lost)} states are not finite, the first at step {at} of trajectory {row}"
        raise DataError(message, field=f"{path}: states", hint="fill them, or cut the trajectories before")
    return states


def _even(times: np.ndarray, states: np.ndarray, path: Path | str) -> None:
    """Refuse times [T] that are not those of states [n, T, N, C], or not equally far apart up to rounding."""
    if states.ndim != 4 or times.shape != states.shape[1:2] or len(times) < 2:
        message = f"needs times [T] of states [n, T, N, C], two at least; they are {times.shape} of {states.shape}"
        raise DataError(message, field="file", value=str(path))
    if times.dtype.kind not in "iuf":
        raise DataError("must be numbers", field=f"{path}: times", value=str(times.dtype))
    step, last = np.diff(times.astype(float)), float(np.abs(times).max())
    slack = 1e-3 * step[0] + 4 * last * (np.finfo(times.dtype).eps if times.dtype.kind == "f" else 0)
    if not (step.min() > 0 and np.ptp(step) <= slack):
        message = f"states follow each other after {step.min():g} to {step.max():g}, which must be one positive time"
        raise DataError(message, field="times", value=str(path), hint="interpolate them at equal times")


@dataclass(eq=False)
class Splits:
    """The three parts, of different trajectories, and the system with the recipe's changes."""

    system: System
    train: Trajectories
    valid: Trajectories
    test: Trajectories


def equations(config: DataConfig) -> System:
    """Return the system of a recipe with the recipe's parameters and boundary conditions.

    Raises:
        UsageError: unknown system, shape or parameter.
    """
    own = system(config.system, config.shape)
    for name in config.parameters:
        if name not in own.parameters:
            raise UsageError("no such parameter", field=f"parameters.{name}", choices=own.parameters)
    return dataclasses.replace(own, parameters={**own.parameters, **config.parameters},
                               boundary={**own.boundary, **config.boundary})  # fmt: skip


def fitting(config: DataConfig, mesh: Mesh) -> System:
    """Return the system of a recipe on the mesh of its file: the system's own conditions only of parts that it has.

    Raises:
        UsageError: unknown system, shape or parameter.
    """
    own = equations(config)
    kept = {k: v for k, v in own.boundary.items() if k in mesh.groups or k in config.boundary}
    return dataclasses.replace(own, boundary=kept)


def interval(config: DataConfig, whole: Trajectories) -> float:
    """Return the time between two states of a recipe whose trajectories are those of a file.

    It is the file's, in the recipe's own digits where the two are one number up to rounding.
    """
    return config.dt if math.isclose(config.dt, whole.dt, rel_tol=1e-6) else whole.dt


def posed(config: DataConfig, period: tuple[float, float] | None = None) -> tuple[System, Mesh]:
    """Return the system and the mesh of a recipe; `period` is that of its mesh file, by default the square's.

    Raises:
        UsageError: unknown system, shape, boundary part or parameter.
        DataError: the mesh file is missing or malformed.
    """
    own = equations(config)
    if not config.dt > 0:
        raise UsageError("must be positive", field="data.dt", value=config.dt)
    if config.mesh:
        mesh = read_mesh(config.mesh, period or ((own.size, own.size) if own.shape == "square" else (0.0, 0.0)))
        boundary = config.boundary or own.boundary
        return _bounded(config, dataclasses.replace(own, boundary=dict(boundary)), mesh), mesh
    mesh = shapes.make(own.shape, config.nodes)
    if own.size != 1:
        period = (mesh.period[0] * own.size, mesh.period[1] * own.size)
        mesh = Mesh(mesh.points * own.size, mesh.triangles, mesh.groups, period)
    return _bounded(config, own, mesh), mesh


def _bounded(config: DataConfig, own: System, mesh: Mesh) -> System:
    """Return the system if its boundary conditions can be read, and those of the recipe concern what is there."""
    closed = any(mesh.period) if config.mesh else not mesh.groups
    if lost := [part for part in config.boundary if closed and part not in mesh.groups]:
        hint = "data.shape=hole takes the sides of a mesh as they are" if config.mesh else "choose another data.shape"
        raise UsageError("the mesh has no such part, or it lies on a side that is periodic here",
                         field=f"boundary.{lost[0]}", value=config.boundary[lost[0]],
                         hint=hint if own.name == "burgers" else None)  # fmt: skip
    read_conditions(mesh, own.boundary if mesh.groups else {}, own.fields, tuple(own.parameters))
    return own


def folder(config: DataConfig, seed: int) -> Path:
    """Return where the cache keeps a recipe's trajectories."""
    plain = dataclasses.asdict(DataConfig())  # what is left as it is stays out, so that new settings change no name
    text = {k: v for k, v in dataclasses.asdict(config).items() if k not in COUNTS and v != plain[k]} | {"seed": seed}
    if any(not PLAIN.fullmatch(one) for own in config.boundary.values() for one in own.split(";")):
        text["solver"] = "hears the conditions"  # those of other values were once kept under the plain name
    if config.mesh:
        text["mesh"] = hashlib.sha256(Path(config.mesh).read_bytes()).hexdigest()
    key = hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:12]
    return Path(config.cache) / f"{config.system}-{key}"


def simulate(
    config: DataConfig, own: System, mesh: Mesh, seed: int, parts: tuple[str, ...] = truth.PARTS, say: Say = quiet
) -> dict[str, Trajectories]:
    """Return the parts of a data set: from the cache what is there, from the solver the rest.

    Raises:
        UsageError: the system has no solver on that domain.
        DataError: the time step is beyond stability; a file of the cache is damaged.
    """
    store = folder(config, seed) if config.cache else None
    if store is not None and (store / "mesh.npz").exists():
        mesh = _mesh(_read(store / "mesh.npz"), store / "mesh.npz")
    elif store is not None:
        _write(store / "mesh.npz", _content(mesh))
    times, out = np.arange(config.steps + 1) * config.dt, {}
    for part, own_labels in truth.labels(config).items():
        if part in parts:
            paths = [_one(config, own, mesh, seed, label, store, say) for label in own_labels]
            out[part] = Trajectories.of(mesh, own.fields, times, paths)
    return out


def _one(
    config: DataConfig, own: System, mesh: Mesh, seed: int, label: truth.Label, store: Path | None, say: Say
) -> truth.Orbit:  # fmt: skip
    """Return one trajectory, from its file where there is one."""
    file = store / f"{label.name}.npz" if store is not None else None
    if file is not None and file.exists():
        a = _read(file)
        if "states" not in a or a["states"].shape[1:] != (len(mesh), len(own.fields)):
            raise DataError("is damaged or of another mesh", field="cache", value=str(file), hint="delete it")
        values = {k: float(v) for k, v in _named(a, "parameter:").items()}
        return truth.Orbit(a["states"], values, _named(a, "extra:"))
    say(f"{label.name} ...")
    state = file.with_name(f".state-{file.name}") if file is not None else None
    made = truth.solve(config, own, mesh, seed, label, say, state)
    if file is not None and state is not None:
        content = {"states": made.states} | {f"parameter:{k}": np.array(v) for k, v in made.parameters.items()}
        _write(file, content | {f"extra:{k}": v for k, v in made.extra.items()})
        state.unlink(missing_ok=True)
    return made


def splits(config: DataConfig, seed: int) -> Splits:
    """Return the trajectories of a recipe, from its file, its cache or the solver.

    Raises:
        UsageError, DataError: as `posed`, `load` and `simulate`; a part is empty.
    """
    if config.file:
        whole = load(config.file)
        own = fitting(config, whole.mesh)
        if whole.fields != own.fields:
            raise DataError("holds other fields than the system", field="file", value=whole.fields, choices=own.fields)
        return _split(config, own, whole)
    if empty := [part for part, rows in truth.labels(config).items() if not rows]:
        raise DataError("needs one trajectory at least", field=f"data.{empty[0]}", value=0)
    own, mesh = posed(config)
    return Splits(own, **simulate(config, own, mesh, seed))


def _split(config: DataConfig, own: System, whole: Trajectories) -> Splits:
    a, b, c = (len(rows) for rows in truth.labels(config).values())
    if len(whole) < a + b + c or min(a, b, c) < 1:
        raise DataError(f"needs {a} + {b} + {c} trajectories, one of each at least", field="data", value=len(whole))
    return Splits(own, whole.select(slice(0, a)), whole.select(slice(a, a + b)), whole.select(slice(a + b, a + b + c)))


def joined(parts: Mapping[str, Trajectories]) -> Trajectories:
    """Return the parts of a data set as one, in their order."""
    all_ = [p for p in parts.values() if len(p)] or list(parts.values())  # an empty part has no parameters
    values = {k: np.concatenate([p.parameters[k] for p in all_]) for k in all_[0].parameters}
    extra = {k: np.concatenate([p.extra[k] for p in all_]) for k in all_[0].extra}
    return dataclasses.replace(all_[0], states=np.concatenate([p.states for p in all_]), parameters=values, extra=extra)


def units(states: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return mean and standard deviation of each field over trajectories [n, T, N, C]."""
    flat = states.reshape(-1, states.shape[-1])
    return {"mean": flat.mean(0, dtype=np.float64), "std": flat.std(0, dtype=np.float64).clip(1e-12)}
