"""A sampler of states: where a system may be found, without a transient, given its parameters.

    u = mean + sum_k s_k z_k phi_k,      p(z | parameters) = sum_i w_i N(z; z_i, h^2),     w_i ~ K(parameters - theirs).

phi are the leading modes of the training states (proper orthogonal decomposition; Lumley, 1967), s their spread. The
law of the coefficients is a kernel density over the training states z_i, whose denoiser is exact and needs no training:
a cycle of shedding, a curve and not an ellipsoid, stays one, and a few hundred states are all there is to learn from.
h is what makes the states of one block of time likeliest under the others. What all training states obey linearly with
common values (boundary values, no weak divergence), samples obey to rounding.

Sensors condition the samples through `core.guide.posterior.MomentMatching`, the same guidance that any continuous
denoiser of the core takes: `y = u[nodes] + noise` is linear in z. What the modes leave out counts as noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apps.pde.data import Trajectories
from core.denoiser import GaussianPrediction
from core.errors import UsageError
from core.guide.posterior import MomentMatching
from core.noise import Stream
from core.process.gaussian import Cosine, Gaussian
from core.sample import integrate
from core.solvers import adams, grid

__all__ = ["Modes", "StateSampler", "fit"]

START = 0.995  # a posterior is undefined at alpha = 0
EXACT = 1e-9  # least noise of a reading, relative to what the modes do there


@dataclass(frozen=True, eq=False)
class Modes:
    """Leading modes of states: `mean` [N, C], orthonormal `modes` [R, N, C], `scale` [R], `rest` what they leave out.

    `rest` is the standard deviation of a value.
    """

    mean: np.ndarray
    modes: np.ndarray
    scale: np.ndarray
    rest: float

    @classmethod
    def of(cls, states: np.ndarray, rank: int) -> Modes:
        """Return the leading modes of states [S, N, C]."""
        mean = states.mean(0, dtype=np.float64)
        flat = (states - mean).reshape(len(states), -1)
        _, s, modes = np.linalg.svd(flat, full_matrices=False)
        rank = min(rank, int((s > 1e-5 * s[0]).sum()))
        rest = float(np.sqrt((s[rank:] ** 2).sum() / flat.size))
        return cls(mean, modes[:rank].reshape(rank, *mean.shape), s[:rank] / np.sqrt(len(states)), rest)

    def encode(self, states: np.ndarray) -> np.ndarray:
        """Return coefficients of unit variance [S, R]."""
        return np.einsum("snc,rnc->sr", states - self.mean, self.modes) / self.scale

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Return the states [S, N, C] of coefficients."""
        return self.mean + np.einsum("sr,rnc->snc", z * self.scale, self.modes)

    def at(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return A [P C, R] and b [P C] with u[nodes] = A z + b, laid flat."""
        A = (self.modes[:, nodes] * self.scale[:, None, None]).reshape(len(self.modes), -1).T
        return A, self.mean[nodes].ravel()


@dataclass(frozen=True, eq=False)
class Kernels:
    """The denoiser of a kernel density: centres z [S, R], log-weights [S] or [1, S], bandwidth h."""

    z: Tensor
    log_w: Tensor
    h: float
    process: Gaussian

    def __call__(self, x_t: Tensor, t: Tensor, context: object = None) -> GaussianPrediction:
        """Return the exact mean of x_0 given x_t [B, R]."""
        alpha, sigma = self.process.schedule.alpha(t).to(x_t), self.process.schedule.sigma(t).to(x_t)
        total = (alpha * self.h) ** 2 + sigma**2
        off = (x_t[:, None] - alpha * self.z).square().sum(-1)
        weight = (self.log_w - off / (2 * total)).softmax(-1)
        near = weight @ self.z
        return GaussianPrediction(near + alpha * self.h**2 / total * (x_t - alpha * near))


@dataclass(eq=False)
class StateSampler:
    """Draws states, freely or given sensors.

    Args:
        modes: of the training states.
        z: their coefficients [S, R].
        given: parameters of each, name -> [S]; only those that vary.
        h: bandwidth of the coefficients.
    """

    modes: Modes
    z: Tensor
    given: Mapping[str, np.ndarray]
    h: float

    @property
    def process(self) -> Gaussian:
        """The corruption of the coefficients."""
        return Gaussian(Cosine())

    def weights(self, parameters: Mapping[str, float] | None) -> Tensor:
        """Return log-weights of the training states [S]: those of near parameters count."""
        out = torch.zeros(len(self.z), dtype=torch.float64)
        for name, value in (parameters or {}).items():
            if name not in self.given:
                raise UsageError("does not vary in the data", field=name, choices=list(self.given))
            own = self.given[name]
            gap = np.diff(np.unique(own)).mean()
            out = out - torch.from_numpy((own - value) ** 2) / (2 * (gap / 3) ** 2)
        return out

    def denoiser(self, parameters: Mapping[str, float] | None = None) -> Callable[..., GaussianPrediction]:
        """Return the denoiser of coefficients at given parameters, of all where none are given."""
        return Kernels(self.z, self.weights(parameters), self.h, self.process)

    def _draw(self, predict: Callable[..., GaussianPrediction], n: int, seed: int, steps: int) -> np.ndarray:
        start = self.process.prior((len(self.modes.scale),), Stream.of(seed, n).fold(4), START)
        table = adams.dpmpp(self.process, grid.angle(self.process, steps, START))
        z = integrate(predict, table, start)
        return self.modes.decode(z.detach().numpy())

    def sample(
        self, n: int, parameters: Mapping[str, float] | None = None, seed: int = 0, steps: int = 32
    ) -> np.ndarray:
        """Return states [n, N, C]; state i is a function of (seed, i)."""
        return self._draw(self.denoiser(parameters), n, seed, steps)

    def assimilate(
        self, nodes: np.ndarray, values: np.ndarray, noise: float, n: int = 16,
        parameters: Mapping[str, float] | None = None, seed: int = 0, steps: int = 24, rounds: int = 12,
    ) -> np.ndarray:  # fmt: skip
        """Return states [n, N, C] of the posterior, given what sensors read.

        Args:
            nodes: sensors [P], different ones.
            values: what they read [P, C].
            noise: standard deviation of the readings.
            n: members.
            parameters: of the system.
            seed: member i is a function of (seed, i).
            steps: of the sampler.
            rounds: of conjugate gradients in each.

        Raises:
            UsageError: sensors and readings do not fit, or a node is named twice or does not exist.
        """
        N, C = self.modes.mean.shape
        nodes, values = np.asarray(nodes), np.asarray(values, np.float64)
        if values.shape != (len(nodes), C):
            raise UsageError(f"needs {C} values for each of {len(nodes)} sensors", field="values", value=values.shape)
        if len(np.unique(nodes)) != len(nodes) or nodes.min(initial=0) < 0 or nodes.max(initial=0) >= N:
            raise UsageError(f"must be different nodes below {N}", field="nodes")
        A, b = self.modes.at(nodes)
        s = max(float(np.hypot(noise, self.modes.rest)), EXACT * float(np.abs(A).max(initial=0)))
        matrix, y = torch.from_numpy(A / s), torch.from_numpy((values.ravel() - b) / s)[None]
        guided = MomentMatching(self.denoiser(parameters), self.process, lambda z: z @ matrix.T, y, 1.0,
                                min(rounds, len(A)))  # fmt: skip
        return self._draw(guided, n, seed, steps)


def fit(data: Trajectories, rank: int = 24, most: int = 1200, blocks: int = 4) -> StateSampler:
    """Return the sampler of the states of trajectories.

    Args:
        data: the training trajectories.
        rank: modes.
        most: states that are kept as centres.
        blocks: of time, each left out in turn where h is chosen.
    """
    every = max(1, data.states.shape[0] * data.states.shape[1] // most)
    kept = data.states[:, ::every].astype(np.float64)
    flat, T = kept.reshape(-1, *kept.shape[2:]), kept.shape[1]
    modes = Modes.of(flat, rank)
    z = torch.from_numpy(modes.encode(flat))
    given = {k: np.repeat(v, T).astype(np.float64) for k, v in data.parameters.items() if np.ptp(v) > 0}
    block = (torch.arange(len(z)) % T) * blocks // T
    square = torch.cdist(z, z).square()
    square[block[:, None] == block[None]] = torch.inf
    best, h = -math.inf, 1.0
    for width in np.geomspace(0.02, 1.0, 14):
        likely = (-square / (2 * width**2)).logsumexp(1).mean() - z.shape[1] * math.log(width)
        if float(likely) > best:
            best, h = float(likely), float(width)
    return StateSampler(modes, z, given, h)
