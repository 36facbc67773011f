"""Gaussian mixtures: denoiser, density, posterior variance and probability flow without a network.

    p(x_0) = sum_k w_k N(mu_k, diag v_k),     V_k = alpha^2 v_k + sigma^2,
    D(x) = sum_k w_k(x) [mu_k + alpha v_k / V_k (x - alpha mu_k)].

The exact end point of the flow is integrated in lambda by DOP853 at tolerance 1e-13.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from core.denoiser import GaussianPrediction
from core.errors import DataError
from core.process.categorical import at_sites
from core.process.gaussian import Gaussian

__all__ = ["Mixture", "Oracle", "exact_flow", "golden", "slope", "toy"]

GOLDEN = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "core" / "golden_solvers.json"


@dataclass(frozen=True)
class Mixture:
    """Weights (logarithms) [K], means [K, d] and variances [K, d], float64."""

    log_w: Tensor
    mean: Tensor
    var: Tensor

    def responsibilities(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the log-posterior of the component [B, K] and the log-density [B] of `x_t` [B, d]."""
        V = alpha**2 * self.var + sigma**2
        z = (x[:, None] - alpha * self.mean) ** 2 / V + V.log() + math.log(2 * math.pi)
        joint = self.log_w - 0.5 * z.sum(-1)
        total = joint.logsumexp(-1)
        return joint - total[:, None], total

    def denoise(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
        """Return `E[x_0 | x_t]` [B, d]."""
        V = alpha**2 * self.var + sigma**2
        each = self.mean + alpha * self.var / V * (x[:, None] - alpha * self.mean)
        return (self.responsibilities(x, alpha, sigma)[0].exp()[..., None] * each).sum(1)

    def restrict(self, components: list[int]) -> Mixture:
        """Return the law given that the component is one of some."""
        w = self.log_w[components]
        return Mixture(w - w.logsumexp(0), self.mean[components], self.var[components])

    def sample(self, n: int, seed: int) -> Tensor:
        """Draw [n, d]."""
        g = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.log_w.exp(), n, True, generator=g)
        return self.mean[k] + self.var[k].sqrt() * torch.randn(n, self.mean.shape[1], generator=g, dtype=torch.float64)


@dataclass(frozen=True)
class Oracle:
    """The exact denoiser of a mixture under a process; counts its own calls in `calls[0]`."""

    mixture: Mixture
    process: Gaussian

    def __call__(self, x_t: Tensor, t: Tensor | float, context: object = None) -> GaussianPrediction:
        """Predict `x_0` of `x_t` [B, d] at `t`, () or (B,)."""
        time = at_sites(t, x_t)[..., None] if torch.as_tensor(t).ndim else torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = self.process.schedule.alpha(time), self.process.schedule.sigma(time)
        if time.ndim:
            V = alpha**2 * self.mixture.var + sigma**2
            each = self.mixture.mean + alpha * self.mixture.var / V * (x_t[:, None] - alpha * self.mixture.mean)
            w = self.mixture.responsibilities(x_t, alpha, sigma)[0].exp()
            return GaussianPrediction((w[..., None] * each).sum(1))
        return GaussianPrediction(self.mixture.denoise(x_t, alpha, sigma))


def exact_flow(mixture: Mixture, y: np.ndarray, start: float, stop: float, guide: tuple | None = None) -> np.ndarray:
    """Return the flow of `y` = x / alpha [B, d] from rho = `start` to `stop`; `guide` = (component indices, scale)."""
    conditional = mixture.restrict(guide[0]) if guide else None
    scale = guide[1] if guide else 1.0

    def slope_of(lam: float, flat: np.ndarray) -> np.ndarray:
        rho, x = math.exp(-lam), torch.from_numpy(flat.reshape(y.shape))
        D = mixture.denoise(x, 1.0, rho)
        if conditional is not None:
            D = D + scale * (conditional.denoise(x, 1.0, rho) - D)
        return (D - x).numpy().ravel()

    done = solve_ivp(slope_of, (-math.log(start), -math.log(stop)), y.ravel(), method="DOP853", rtol=1e-13, atol=1e-13)
    return done.y[:, -1].reshape(y.shape)


def toy(d: int = 4, components: int = 5, seed: int = 0) -> Mixture:
    """Return a mixture with standard deviations from 0.5 to 0.8 and means of spread 0.7."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(components, generator=g, dtype=torch.float64) * 0.3
    mean = 0.7 * torch.randn(components, d, generator=g, dtype=torch.float64)
    std = 0.5 + 0.3 * torch.rand(components, d, generator=g, dtype=torch.float64)
    return Mixture(w.log_softmax(0), mean, std**2)


def golden() -> dict[str, dict]:
    """Return the recorded cases of two public libraries by name of their mixture.

    Raises:
        DataError: the file is not there.
    """
    if not GOLDEN.is_file():
        raise DataError("recorded solver outputs absent", field="golden_solvers.json", hint="see shared/data/core")
    cases = json.loads(GOLDEN.read_text())["cases"]
    for case in cases:
        case["mixture"] = Mixture(*(torch.tensor(case[k], dtype=torch.float64) for k in KEYS))
    return {case["gmm"]: case for case in cases}


KEYS = ("log_weights", "means", "variances")


def slope(steps: list[int], errors: list[float]) -> float:
    """Return minus the slope of log error against log steps: the observed order."""
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])
