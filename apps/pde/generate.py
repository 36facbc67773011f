"""A trained model of moving fields: roll-outs, samples, ensembles."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.pde.data import posed
from apps.pde.dynamics import Dynamics, finite
from apps.pde.ensemble import Spread, calibrate, conform
from apps.pde.ensemble import members as draw_members
from apps.pde.ensemble import read as read_spread
from apps.pde.formats import read_mesh, write_series
from apps.pde.mesh import Mesh
from apps.pde.model import DataConfig, Recipe
from core.errors import QuintetError, UsageError
from core.noise import Stream
from core.run.config import instance, register
from core.run.models import fill, find

__all__ = ["FieldModel", "Fields", "restore"]


@dataclass(eq=False)
class Fields:
    """States over time: `states` [T, N, C] at `times` [T] on `mesh`; `spread` is an ensemble's, where it is one."""

    mesh: Mesh
    fields: tuple[str, ...]
    times: np.ndarray
    states: np.ndarray
    spread: np.ndarray | None = None

    def named(self) -> dict[str, np.ndarray]:
        """Return each field by its name, [T, N]."""
        out = {f: self.states[..., k] for k, f in enumerate(self.fields)}
        if self.spread is not None:
            out |= {f"{f}_std": self.spread[..., k] for k, f in enumerate(self.fields)}
        return out

    def write(self, path: Path | str) -> Path:
        """Write `.xdmf`, `.pvd` or `.npz` (`formats.write_series`)."""
        return write_series(Path(path), self.mesh, self.times, self.named())


@dataclass(eq=False)
class FieldModel:
    """A trained model on a mesh.

    Args:
        net: the learned solver.
        recipe: the run that trained it.
        seen: name of a parameter -> (least, largest) value in training.
        path: the checkpoint's folder, if it was read from one.
    """

    net: Dynamics
    recipe: Recipe
    seen: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    path: Path | None = None

    @property
    def mesh(self) -> Mesh:
        """Where it runs."""
        return self.net.mesh

    def _given(self, parameters: Mapping[str, float] | None) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, value in (parameters or {}).items():
            if name not in self.net.system.parameters:
                raise UsageError("no such parameter", field=name, choices=self.net.system.parameters)
            low, high = self.seen.get(name, (value, value))
            if not low <= value <= high:
                warnings.warn(f"{name} = {value:g} is outside the training range {low:g} to {high:g}", stacklevel=3)
            out[name] = torch.tensor([[float(value)]], device=self.net.points.device)
        return out

    def _start(self, start: np.ndarray) -> torch.Tensor:
        """Return a state [N, C] as a batch [1, N, C] of the model's."""
        want = (len(self.mesh), len(self.net.system.fields))
        if np.shape(start) != want:
            raise UsageError(f"must have one row a node, {want}", field="start", value=np.shape(start))
        return torch.as_tensor(np.asarray(start, np.float32))[None].to(self.net.points.device)

    @torch.inference_mode()
    def rollout(
        self,
        start: np.ndarray,
        steps: int,
        t: float = 0.0,
        parameters: Mapping[str, float] | None = None,
        every: int = 1,
    ) -> Fields:
        """Return the states after 0, every, 2 every, ... steps from `start` [N, C].

        Raises:
            UsageError: the state does not fit the mesh; a parameter is unknown.
            QuintetError: the roll-out left what is finite; the line says when.
        """
        net, given = self.net, self._given(parameters)
        u = net.enter(self._start(start), t, given)
        span, kept, times = net.dt * net.substeps, [net.leave(u)[0].cpu().numpy()], [t]
        for k in range(1, steps + 1):
            u = net.refined(u, t + (k - 1) * span, given)
            if k % every == 0:
                if not finite(u, kept[0]):
                    raise QuintetError(f"the roll-out is not finite after t = {times[-1]:g}", field="rollout",
                                       hint="take a smaller step, or train with longer windows")  # fmt: skip
                kept.append(net.leave(u)[0].cpu().numpy())
                times.append(t + k * span)
        return Fields(self.mesh, net.system.fields, np.array(times), np.stack(kept))

    @torch.inference_mode()
    def rollouts(
        self, start: np.ndarray, steps: int, parameters: Mapping[str, np.ndarray] | None = None, t: float = 0.0
    ) -> np.ndarray:
        """Return the states [V, steps + 1, N, C] from V starts [V, N, C] at time t; what is not finite stays so."""
        net = self.net
        device = net.points.device
        given = {k: torch.as_tensor(v, dtype=torch.float32)[:, None].to(device) for k, v in (parameters or {}).items()}
        u = torch.as_tensor(np.asarray(start, np.float32)).to(device)
        return torch.cat([net.leave(net.enter(u, t, given))[:, None], net(u, steps, t, given)], 1).cpu().numpy()

    def sample(
        self, n: int, *, steps: int = 20, seed: int = 0, index: np.ndarray | None = None,
        parameters: Mapping[str, float] | None = None,
    ) -> list[np.ndarray]:  # fmt: skip
        """Return states [N, C]: random smooth initial states of the recipe's law, `steps` steps later.

        Sample i is a function of (seed, index[i]) alone; each obeys the boundary conditions.

        Raises:
            UsageError: states of the system do not start at random: flow past a cylinder, cells.
        """
        from apps.pde.spectral import RATES
        from apps.pde.truth import begin, first

        streams = np.arange(n) if index is None else np.asarray(index)
        if len(streams) != n:
            raise UsageError("needs one number for each sample", field="index", value=len(streams))
        own, config = self.net.system, self.recipe.data
        if own.name not in RATES:
            raise UsageError("has no law of first states to sample", field="system", value=own.name, choices=RATES,
                             hint="roll a trajectory's start out")  # fmt: skip
        law = begin(own, self.mesh, config.modes) if own.name == "burgers" else None
        out = []
        for i in streams.tolist():
            key = int(Stream.of(seed, 1, int(i)).fold(1).uniform(1)[0, 0] * 2**52)
            start = law(key) if law is not None else first(config, own, self.mesh, key)
            out.append(self.rollout(start, steps, parameters=parameters, every=max(1, steps)).states[-1])
        return out

    @cached_property
    def spread(self) -> Spread:
        """How members differ: as kept beside the weights (`quintet pde calibrate`), else calibrated now."""
        kept = read_spread(self.path) if self.path is not None else None
        return kept or self.calibrate()

    def calibrate(self, further: int = 8) -> Spread:
        """Return how members must differ, calibrated on validation trajectories (`ensemble.calibrate`, `conform`).

        Args:
            further: validation trajectories beyond the recipe's that are simulated for the second of the two; 0, and
                where the recipe has a file or Reynolds numbers, the recipe's own serve both.

        Raises:
            UsageError: the model stands on another mesh than those trajectories.
        """
        from apps.pde.data import simulate, splits

        r = self.recipe
        valid = splits(r.data, r.seed).valid
        same = len(valid.mesh) == len(self.mesh)
        if not (same and np.allclose(valid.mesh.points, self.mesh.points, atol=1e-6 * float(np.ptp(self.mesh.points)))):
            raise UsageError("ensembles are calibrated on the mesh of the recipe", field="mesh", value=len(self.mesh),
                             hint="`quintet pde calibrate` the model first, or give `spread`")  # fmt: skip
        found, more = calibrate(self.net, valid, stride=r.stride), valid
        if further and not r.data.file and not r.data.reynolds:
            wide = dataclasses.replace(r.data, valid=len(valid) + further)
            made = simulate(wide, *posed(wide), r.seed, ("valid",))["valid"]
            more = made.select(slice(len(valid), None))
        return conform(self.net, more, found, stride=r.stride)

    def ensemble(
        self, start: np.ndarray, steps: int, members: int = 16, spread: Spread | None = None, seed: int = 0,
        t: float = 0.0, parameters: Mapping[str, float] | None = None, every: int = 1,
    ) -> tuple[Fields, np.ndarray]:  # fmt: skip
        """Return mean and spread of perturbed roll-outs, and the members [M, T, N, C].

        `spread` says how they differ, the calibrated one by default; all is a function of (seed, members).

        Raises:
            UsageError: the state does not fit the mesh, a parameter is unknown, there are fewer than two members, or
                there is no calibrated spread and none can be made here.
            QuintetError: members left what is finite; the line says when and how many.
        """
        net, u = self.net, self._start(start)
        if members < 2:
            raise UsageError("needs two at least", field="members", value=members, hint="one alone is `rollout`")
        given = self._given(parameters)
        states = draw_members(net, u, steps, spread or self.spread, members, seed, t, given, every)[0]
        times = t + np.arange(states.shape[1]) * every * net.dt * net.substeps
        if lost := sum(not finite(one, u) for one in states):
            first = next(s for k, s in enumerate(times) if not finite(states[:, k], u))
            raise QuintetError(f"{lost} of {members} members are not finite from t = {first:g} on", field="ensemble",
                               hint="take less noise, fewer steps or a model trained with longer windows")  # fmt: skip
        fields = Fields(self.mesh, net.system.fields, times, states.mean(0), states.std(0, ddof=1))
        return fields, states


def restore(name: str | Path, mesh: str = "", device: str = "cpu") -> FieldModel:
    """Load a checkpoint (see `apps.pde.load`)."""
    from omegaconf import OmegaConf

    found = find(name, "pde")
    recipe: Recipe = instance(OmegaConf.create(found.config), register(Recipe))
    return dataclasses.replace(build(recipe, found.inference, mesh, device), path=found.path)


def build(recipe: Recipe, weights: Mapping[str, torch.Tensor], mesh: str = "", device: str = "cpu") -> FieldModel:
    """Return the model of a recipe with given weights, on its own mesh or another.

    The mesh and the time between states are those of the recipe's file where it has one; on another mesh the model does
    without the file. Sides of another mesh are one where they are in the recipe's (`_period`).
    """
    from apps.pde.data import fitting, interval, load

    d = recipe.data
    whole = load(d.file) if d.file and (not mesh or Path(d.file).is_file()) else None
    if whole is not None and not mesh:
        own, grid = fitting(d, whole.mesh), whole.mesh
    else:
        other = _period(d, whole.mesh if whole is not None else None, mesh) if mesh else None
        own, grid = posed(dataclasses.replace(d, mesh=mesh or d.mesh), other)
    net = Dynamics(recipe.model, own, grid, interval(d, whole) if whole is not None else d.dt, d.substeps)
    fill(net, weights, "checkpoint")
    seen = {"Re": (min(d.reynolds), max(d.reynolds))} if d.reynolds else {}
    return FieldModel(net.eval().to(device), recipe, seen)


def _period(d: DataConfig, own: Mesh | None, mesh: str) -> tuple[float, float] | None:
    """Return the period of another mesh for the model of a recipe, None where nothing is known of it.

    It is the period of the model's `own` mesh, of its file or its shape; none where each side has a condition.
    """
    from apps.pde.data import equations

    if own is None and (d.file or d.mesh):
        return None
    period = (own or posed(d)[1]).period
    bare, conditions = read_mesh(mesh, tagged=False), equations(d).boundary
    held = {tuple(sorted(e)) for part, edges in bare.groups.items() if part in conditions for e in edges.tolist()}
    return (0.0, 0.0) if len(held) == len(bare.boundary) else period
