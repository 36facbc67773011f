"""A cheap guess of the reward from few queries: Bayesian linear regression on operations and their pairs.

Features are the one-hot values of all variables and of all pairs of variables, so that synergies count; with a
Gaussian prior on the weights the posterior is exact. `thompson` draws whole functions from it (Matheron's rule: a draw
from the prior, corrected by what it gets wrong at the data),

    f(x) = w.phi(x) + phi(x).Phi^T (Phi Phi^T + s^2 I)^-1 (y - Phi w - e),        w ~ N(0, I),  e ~ N(0, s^2),

and the best of each draw is what to ask for next (Thompson 1933). `screen` does so for the candidates of a policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from apps.nas.space import Space

__all__ = ["Surrogate", "features"]


def features(space: Space, x: np.ndarray, pairs: float = 0.5) -> np.ndarray:
    """Return one-hot values and their products, float32 [n, F]; `pairs` is the prior deviation of the products."""
    hot = np.eye(space.K, dtype=np.float32)[x]
    first, second = np.triu_indices(space.D, 1)
    keep = [len(v.values) for v in space.variables]
    used = np.concatenate([np.arange(k) + d * space.K for d, k in enumerate(keep)])
    joint = (hot[:, first, :, None] * hot[:, second, None, :]).reshape(len(x), -1)
    return np.concatenate([hot.reshape(len(x), -1)[:, used], pairs * joint], 1)


@dataclass(eq=False)
class Surrogate:
    """The regression.

    Args:
        space: of the cells.
        noise: standard deviation of an observation, in deviations of the rewards.
    """

    space: Space
    noise: float = 0.15

    def fit(self, x: np.ndarray, y: np.ndarray) -> Surrogate:
        """Learn from cells x [n, D] with rewards y [n], which are turned into normal scores (ranks, robustly)."""
        rank = np.argsort(np.argsort(y, kind="stable"), kind="stable")
        z = (y - np.median(y)) / max(float(np.std(y)), 1e-9)
        scores = torch.special.ndtri(torch.from_numpy((rank + 0.5) / len(y))).numpy()
        self.y = 0.5 * (np.clip(z, -2.5, 2.5) + scores)
        self.phi = features(self.space, x).astype(np.float64)
        scale = float((self.phi**2).sum(1).mean())
        self.scale = 1.0 / np.sqrt(scale)
        self.phi *= self.scale
        gram = self.phi @ self.phi.T + self.noise**2 * np.eye(len(y))
        self.chol = np.linalg.cholesky(gram)
        return self

    def _solve(self, r: np.ndarray) -> np.ndarray:
        return np.linalg.solve(self.chol.T, np.linalg.solve(self.chol, r))

    def mean(self, phi: np.ndarray) -> np.ndarray:
        """Return the posterior mean at features [n, F]."""
        return phi @ (self.scale * (self.phi.T @ self._solve(self.y)))

    def thompson(self, phi: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Return draws of the function at features [n, F]: float64 [draws, n]."""
        w = rng.normal(size=(self.phi.shape[1], draws))
        e = self.noise * rng.normal(size=(len(self.y), draws))
        fix = self._solve(self.y[:, None] - self.phi @ w - e)
        return (phi @ (self.scale * (w + self.phi.T @ fix))).T

    def screen(self, pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return `count` different rows of a pool [n, D], each the best of its own draw."""
        values = self.thompson(features(self.space, pool), count, rng)
        chosen: list[int] = []
        for row in values:
            order = np.argsort(-row)
            chosen.append(int(next(i for i in order[: count + 1] if i not in chosen)))
        return pool[chosen]
