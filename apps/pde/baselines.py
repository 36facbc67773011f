"""What else one would use, behind one interface.

`rollout(start [V, N, C], steps, parameters, t) -> [V, steps + 1, N, C]`, with t the time of the starts:

* `Operators`: the same operators and known terms, nothing learned.
* `Sparse`: sparse regression of the unknown rate on a library of terms made by the same operators (SINDy; Brunton et
  al., 2016; PDE-FIND; Rudy et al., 2017): least squares by thresholds, the threshold chosen on validation data.
* Networks: the recipes' `model.kind=phympgn`, with `model.laplace=plain`, `model.padding=false`, or
  `model.knowledge=none` (MeshGraphNet style).
* Sensors: `gappy_pod` and `rbf_field`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from apps.pde.data import Trajectories
from apps.pde.dynamics import Dynamics, simpson
from apps.pde.mesh import Mesh
from apps.pde.model import ModelConfig
from apps.pde.stepping import chebyshev, explicit
from apps.pde.systems import System

__all__ = ["Operators", "Sparse", "gappy_pod", "pod", "rbf_field"]

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2)
HELD = 1_000_000  # nodes times intervals whose library is held at once


@dataclass(eq=False)
class Operators:
    """The known terms alone, on the operators of `config`."""

    system: System
    mesh: Mesh
    dt: float
    config: ModelConfig
    substeps: int = 1

    def __post_init__(self) -> None:
        """Build the solver."""
        own = replace(self.config, kind="operators")
        self.net = Dynamics(own, self.system, self.mesh, self.dt, self.substeps).double()

    @torch.inference_mode()
    def rollout(
        self, start: np.ndarray, steps: int, parameters: Mapping[str, np.ndarray] | None = None, t: float = 0.0
    ) -> np.ndarray:
        """Return the states [V, steps + 1, N, C]; what is not finite stays so."""
        given = {k: torch.as_tensor(v, dtype=torch.float64)[:, None] for k, v in (parameters or {}).items()}
        u = torch.as_tensor(np.asarray(start, np.float64))
        first = self.net.leave(self.net.enter(u, t, given))
        return torch.cat([first[:, None], self.net(u, steps, t, given)], 1).numpy()


@dataclass(eq=False)
class Sparse:
    """Sparse regression: what the known terms leave of du/dt, as few terms of a library as will do.

    Args:
        net: gives operators, known terms and boundary; of `Operators`.
        threshold: relative size under which a term is dropped.
        weights: [terms, C], after `fit`.
    """

    net: Dynamics
    threshold: float = 0.05
    weights: np.ndarray | None = None

    def names(self) -> list[str]:
        """Return the terms of the library."""
        f = self.net.system.fields
        first = [*f, *(f"{a}*{b}" for i, a in enumerate(f) for b in f[i:])]
        cubic = [f"{a}*{b}*{c}" for i, a in enumerate(f) for j, b in enumerate(f[i:], i) for c in f[j:]]
        slopes = [f"{a}*{d}({b})" for a in ("1", *f) for d in ("dx", "dy") for b in f]
        return ["1", *first, *cubic, *slopes, *(f"lap({a})" for a in f)]

    def library(self, u: Tensor) -> Tensor:
        """Return the terms at states u [B, N, C], [B, N, terms]."""
        C = u.shape[-1]
        dx, dy, lap = self.net.operators(u)
        columns = [torch.ones_like(u[..., 0]), *u.unbind(-1)]
        columns += [u[..., i] * u[..., j] for i in range(C) for j in range(i, C)]
        columns += [u[..., i] * u[..., j] * u[..., k] for i in range(C) for j in range(i, C) for k in range(j, C)]
        for a in (torch.ones_like(u[..., 0]), *u.unbind(-1)):
            columns += [a * part[..., b] for part in (dx, dy) for b in range(C)]
        return torch.stack([*columns, *lap.unbind(-1)], -1)

    def moments(self, data: Trajectories, frames: int = 100) -> tuple[np.ndarray, np.ndarray]:
        """Return X'X and X'Y over trajectories, by changes over two states as in `Dynamics.calibrate`."""
        free, count = self.net.free, data.states.shape[1] - 2
        terms = len(self.names())
        gram, moment = np.zeros((terms, terms)), np.zeros((terms, data.states.shape[-1]))
        begins, times = torch.arange(0, count, max(1, count // frames)), torch.from_numpy(data.times).double()
        places = [(row, at) for row in range(len(data)) for at in begins.split(max(1, HELD // len(self.net.points)))]
        for row, at in places:
            u = torch.from_numpy(data.states[row])
            now = torch.stack([u[at + k].double() for k in range(3)])
            flat = self.net.inside(now.flatten(0, 1))
            own = {k: torch.full((len(flat), 1), float(v[row])) for k, v in data.parameters.items()}
            when = torch.cat([times[at + k] for k in range(3)])[:, None]
            known = self.net.leave(self.net.rate(flat, when, own)).reshape(now.shape)
            rest = (now[2] - now[0]) / (2 * data.dt) - simpson(known)
            X = simpson(self.net.leave(self.library(flat))[:, free].unflatten(0, (3, -1))).flatten(0, 1).numpy()
            gram += X.T @ X
            moment += X.T @ rest[:, free].flatten(0, 1).numpy()
        return gram, moment

    @torch.inference_mode()
    def fit(self, data: Trajectories, valid: Trajectories | None = None) -> Sparse:
        """Fit on trajectories; where others are given, take the threshold whose roll-outs are best on them."""
        gram, moment = self.moments(data)
        if valid is None:
            self.weights = _thresholded(gram, moment, self.threshold)
            return self
        best = np.inf
        for threshold in THRESHOLDS:
            weights = _thresholded(gram, moment, threshold)
            own = replace(self, threshold=threshold, weights=weights)
            steps, t = valid.states.shape[1] - 1, float(valid.times[0])
            out = own.rollout(valid.states[:, 0], steps, valid.parameters, t)
            error = float(np.nan_to_num(np.square(out - valid.states).mean(), nan=1e30, posinf=1e30))
            if self.weights is None or error < best:
                best, self.threshold, self.weights = error, threshold, weights
        return self

    @torch.inference_mode()
    def rollout(
        self, start: np.ndarray, steps: int, parameters: Mapping[str, np.ndarray] | None = None, t: float = 0.0
    ) -> np.ndarray:
        """Return the states [V, steps + 1, N, C]."""
        assert self.weights is not None
        w, net, dt = torch.from_numpy(self.weights), self.net, self.net.dt
        given = {k: torch.as_tensor(v, dtype=torch.float64)[:, None] for k, v in (parameters or {}).items()}
        u = net.enter(torch.as_tensor(np.asarray(start, np.float64)), t, given)
        out = [net.leave(u)]

        def rate(v: Tensor, s: float) -> Tensor:
            return net.rate(v, s, given) + self.library(v) @ w

        def pad(v: Tensor, s: float) -> Tensor:
            return net.pad(v, s, given)

        for k in range(steps * net.substeps):
            if net.config.integrator == "chebyshev":
                u = chebyshev(rate, pad, u, t + k * dt, dt, net.config.stages)
            else:
                u = explicit(rate, pad, u, t + k * dt, dt, "heun")
            if (k + 1) % net.substeps == 0:
                out.append(net.leave(u))
        return torch.stack(out, 1).numpy()


def _thresholded(gram: np.ndarray, moment: np.ndarray, threshold: float) -> np.ndarray:
    """Return least-squares weights without the terms that are, in their units, below `threshold` of the largest."""
    unit = np.sqrt(gram.diagonal()).clip(1e-12)
    A, B = gram / unit / unit[:, None], moment / unit[:, None]
    weights = np.zeros_like(moment)
    for c in range(moment.shape[1]):
        keep = np.ones(len(gram), bool)
        w = np.zeros(len(gram))
        for _ in range(10):
            w = np.zeros(len(gram))
            w[keep] = np.linalg.lstsq(A[np.ix_(keep, keep)], B[keep, c], rcond=1e-10)[0]
            small = (np.abs(w) < threshold * np.abs(w).max()) & keep
            if not small.any():
                break
            keep &= ~small
        weights[:, c] = w / unit
    return weights


def pod(snapshots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean [N, C], spread of each mode's coefficient [R] and orthonormal modes [R, N C] of states [S, N, C]."""
    mean = snapshots.mean(0)
    _, s, modes = np.linalg.svd((snapshots - mean).reshape(len(snapshots), -1), full_matrices=False)
    return mean, s / np.sqrt(len(snapshots)), modes


def gappy_pod(
    basis: tuple[np.ndarray, np.ndarray, np.ndarray], nodes: np.ndarray, values: np.ndarray, rank: int, noise: float
) -> np.ndarray:
    """Return the field [N, C] whose leading modes fit the sensors best, a ridge on the modes by their energy.

    Args:
        basis: of `pod`.
        nodes: sensors [P].
        values: what they read [P, C].
        rank: modes.
        noise: standard deviation of the readings.
    """
    mean, s, modes = basis[0], basis[1][:rank], basis[2][:rank]
    seen = modes.reshape(len(modes), *mean.shape)[:, nodes].reshape(len(modes), -1).T * s
    rest = (values - mean[nodes]).ravel()
    if noise:
        a = np.linalg.solve(seen.T @ seen + noise**2 * np.eye(len(modes)), seen.T @ rest)
    else:  # the limit, where modes may be more than readings
        a = np.linalg.lstsq(seen, rest, rcond=1e-10)[0]
    return mean + ((a * s) @ modes).reshape(mean.shape)


def rbf_field(mesh: Mesh, nodes: np.ndarray, values: np.ndarray, noise: float) -> np.ndarray:
    """Return the thin-plate interpolation [N, C] of sensors, smoothed by their noise; their mean where they do not span
    the plane."""
    away = mesh.points[nodes] - mesh.points[nodes].mean(0)
    if np.linalg.matrix_rank(away, 1e-6 * float(np.ptp(mesh.points))) < 2:
        return np.tile(values.mean(0), (len(mesh), 1))
    return RBFInterpolator(mesh.points[nodes], values, smoothing=noise**2 * len(nodes))(mesh.points)
