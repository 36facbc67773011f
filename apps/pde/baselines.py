"""What else one would use, behind one interface: `rollout(start [N, C], steps, parameters) -> [steps + 1, N, C]`.

* `Operators`: the same operators and known terms, nothing learned.
* `Sparse`: sparse regression of the rate on a library of terms made by the same operators (SINDy; Brunton et al., 2016;
  PDE-FIND; Rudy et al., 2017): ridge by thresholds.
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
from apps.pde.dynamics import Dynamics
from apps.pde.mesh import Mesh
from apps.pde.model import ModelConfig
from apps.pde.stepping import explicit
from apps.pde.systems import System

__all__ = ["Operators", "Sparse", "gappy_pod", "rbf_field"]


@dataclass(eq=False)
class Operators:
    """The known terms alone, on the operators of `config`."""

    system: System
    mesh: Mesh
    dt: float
    config: ModelConfig

    def __post_init__(self) -> None:
        """Build the solver."""
        self.net = Dynamics(replace(self.config, kind="operators"), self.system, self.mesh, self.dt).double()

    @torch.inference_mode()
    def rollout(self, start: np.ndarray, steps: int, parameters: Mapping[str, float] | None = None) -> np.ndarray:
        """Return the states [steps + 1, N, C]; what is not finite stays so."""
        u = torch.as_tensor(np.asarray(start, np.float64))[None]
        given = {k: torch.tensor([[float(v)]], dtype=torch.float64) for k, v in (parameters or {}).items()}
        return torch.cat([u[:, None], self.net(u, steps, 0.0, given)], 1)[0].numpy()


@dataclass(eq=False)
class Sparse:
    """Sparse regression: du/dt as few terms of a library as will do.

    Args:
        net: gives operators and boundary.
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

    def fit(self, data: Trajectories, stride: int = 10) -> Sparse:
        """Fit on trajectories: central differences in time, sequentially thresholded least squares."""
        states = torch.from_numpy(data.states[:, 1:-1:stride].astype(np.float64))
        rate = (data.states[:, 2::stride] - data.states[:, :-2:stride]).astype(np.float64) / (2 * data.dt)
        free = ~self.net.boundary.dirichlet.all(-1).numpy()
        X = self.library(states.flatten(0, 1))[:, free].flatten(0, 1).numpy()
        Y = rate.reshape(-1, *rate.shape[2:])[:, free].reshape(-1, rate.shape[-1])
        size = np.sqrt((X**2).mean(0)).clip(1e-12)
        weights = np.zeros((X.shape[1], Y.shape[1]))
        for c in range(Y.shape[1]):
            keep = np.ones(X.shape[1], bool)
            for _ in range(10):
                w = np.zeros(X.shape[1])
                w[keep] = np.linalg.lstsq(X[:, keep] / size[keep], Y[:, c], rcond=1e-10)[0]
                small = np.abs(w) < self.threshold * np.abs(w).max()
                if (small & keep).sum() == 0:
                    break
                keep &= ~small
            weights[:, c] = w / size
        self.weights = weights
        return self

    @torch.inference_mode()
    def rollout(self, start: np.ndarray, steps: int, parameters: Mapping[str, float] | None = None) -> np.ndarray:
        """Return the states [steps + 1, N, C]."""
        assert self.weights is not None
        w = torch.from_numpy(self.weights)
        u = torch.as_tensor(np.asarray(start, np.float64))[None]
        out = [u]
        for k in range(steps):
            u = explicit(lambda v, t: self.library(v) @ w, self.net.pad, u, k * self.net.dt, self.net.dt, "heun")
            out.append(u)
        return torch.cat(out)[:, :].numpy()


def gappy_pod(snapshots: np.ndarray, nodes: np.ndarray, values: np.ndarray, rank: int, noise: float) -> np.ndarray:
    """Return the field [N, C] whose leading modes fit the sensors best, a ridge on the modes by their energy.

    Args:
        snapshots: training states [S, N, C].
        nodes: sensors [P].
        values: what they read [P, C].
        rank: modes.
        noise: standard deviation of the readings.
    """
    mean = snapshots.mean(0)
    flat = (snapshots - mean).reshape(len(snapshots), -1)
    _, s, modes = np.linalg.svd(flat, full_matrices=False)
    s, modes = s[:rank] / np.sqrt(len(snapshots)), modes[:rank]
    seen = modes.reshape(rank, *mean.shape)[:, nodes].reshape(rank, -1).T * s
    rest = (values - mean[nodes]).ravel()
    a = np.linalg.solve(seen.T @ seen + noise**2 * np.eye(rank), seen.T @ rest)
    return mean + ((a * s) @ modes).reshape(mean.shape)


def rbf_field(mesh: Mesh, nodes: np.ndarray, values: np.ndarray, noise: float) -> np.ndarray:
    """Return the thin-plate interpolation [N, C] of sensors, smoothed by their noise."""
    return RBFInterpolator(mesh.points[nodes], values, smoothing=noise**2 * len(nodes))(mesh.points)
