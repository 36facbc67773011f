"""Sensors on a wake or any recurring flow: posterior states beside what one would use instead.

A state sampler (`states.py`) is fitted to the training trajectories; sensors at random free nodes read a test state
with noise; the posterior's mean stands beside gappy POD (Everson and Sirovich, 1995), whose rank is chosen on
validation states, and thin-plate interpolation of the same readings. States that do not recur, of which training holds
nothing like the one that is sought, are no use case: interpolation is better there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apps.pde.baselines import gappy_pod, pod, rbf_field
from apps.pde.data import Splits, Trajectories
from apps.pde.states import StateSampler, fit
from core.errors import UsageError

__all__ = ["Readings", "compare", "read"]

RANKS = (2, 4, 8, 16, 24)


@dataclass(frozen=True, eq=False)
class Readings:
    """What `nodes` [P] read of `truth` [N, C]: `values` [P, C], with noise of standard deviation `noise`."""

    truth: np.ndarray
    nodes: np.ndarray
    values: np.ndarray
    noise: float
    parameters: dict[str, float]


def read(data: Trajectories, row: int, frame: int, sensors: int, noise: float, seed: int = 0) -> Readings:
    """Return noisy readings of a state; `noise` is relative to the field's standard deviation over the mesh.

    Raises:
        UsageError: more sensors than free nodes, or no such trajectory or state.
    """
    if not (0 <= row < len(data) and -data.states.shape[1] <= frame < data.states.shape[1]):
        raise UsageError("no such state", field="row", value=(row, frame))
    free = np.setdiff1d(np.arange(len(data.mesh)), data.mesh.boundary_nodes)
    if not 0 < sensors <= len(free):
        raise UsageError(f"there are {len(free)} free nodes", field="sensors", value=sensors)
    rng, truth = np.random.default_rng([seed, 14]), data.states[row, frame].astype(np.float64)
    nodes = np.sort(rng.choice(free, sensors, replace=False))
    size = noise * float(truth.std())
    values = truth[nodes] + size * rng.standard_normal((sensors, truth.shape[1]))
    return Readings(truth, nodes, values, size, {k: float(v[row]) for k, v in data.parameters.items()})


def away(u: np.ndarray, truth: np.ndarray) -> float:
    """Return the relative error of a state."""
    return float(np.linalg.norm(u - truth) / np.linalg.norm(truth))


def compare(
    data: Splits, readings: list[Readings], members: int = 16, seed: int = 0
) -> tuple[dict[str, float], list[np.ndarray], StateSampler]:
    """Return mean relative errors by method, the posterior's members of each reading, and the sampler."""
    sampler = fit(data.train)
    whole = data.train.states.reshape(-1, *data.train.states.shape[2:]).astype(np.float64)
    basis = pod(whole[:: max(1, len(whole) // 800)])
    first = readings[0]
    rank = _rank(basis, data.valid, len(first.nodes), first.noise / float(first.truth.std()), seed)
    found: dict[str, list[float]] = {"posterior": [], "gappy_pod": [], "rbf": []}
    drawn = []
    for r in readings:
        own = {k: r.parameters[k] for k in sampler.given}
        drawn.append(sampler.assimilate(r.nodes, r.values, r.noise, members, own, seed))
        found["posterior"].append(away(drawn[-1].mean(0), r.truth))
        found["gappy_pod"].append(away(gappy_pod(basis, r.nodes, r.values, rank, r.noise), r.truth))
        found["rbf"].append(away(rbf_field(data.train.mesh, r.nodes, r.values, r.noise), r.truth))
    return {k: float(np.mean(v)) for k, v in found.items()} | {"gappy_pod_rank": rank}, drawn, sampler


def _rank(
    basis: tuple[np.ndarray, np.ndarray, np.ndarray], valid: Trajectories, sensors: int, noise: float, seed: int
) -> int:
    """Return the rank of gappy POD that is best on validation states."""
    tries = [read(valid, 0, k, sensors, noise, seed + 1 + k) for k in (0, valid.states.shape[1] // 2, -1)]
    errors = [sum(away(gappy_pod(basis, r.nodes, r.values, rank, r.noise), r.truth) for r in tries)
              for rank in RANKS]  # fmt: skip
    return RANKS[int(np.argmin(errors))]
