"""How far a roll-out is from the truth, what it conserves, how it sheds, and how sure it is.

u, truth: [..., T, N, C] of one trajectory or several; `area` [N] are the mesh's weights (`Mesh.node_area`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core.errors import UsageError

__all__ = ["break_even", "correlation", "correlation_time", "coverage", "crps", "energy", "mse", "relative", "spectrum",
           "spread_skill", "strouhal"]  # fmt: skip


def mse(u: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean square error over everything."""
    return float(((u.astype(np.float64) - truth) ** 2).mean())


def _wide(*states: np.ndarray) -> list[np.ndarray]:
    """Return states as float64, in which their squares are numbers in any units."""
    return [np.asarray(s, np.float64) for s in states]


def relative(u: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return |u - truth| / |truth| at each time, [..., T]."""
    u, truth = _wide(u, truth)
    return np.sqrt(((u - truth) ** 2).sum((-2, -1)) / (truth**2).sum((-2, -1)).clip(1e-300))


def correlation(u: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation over nodes and fields, each field centred, at each time [..., T]."""
    u, truth = _wide(u, truth)
    a, b = u - u.mean(-2, keepdims=True), truth - truth.mean(-2, keepdims=True)
    return (a * b).sum((-2, -1)) / np.sqrt((a**2).sum((-2, -1)) * (b**2).sum((-2, -1))).clip(1e-300)


def correlation_time(u: np.ndarray, truth: np.ndarray, times: np.ndarray, level: float = 0.9) -> np.ndarray:
    """Return the first time at which the correlation falls below `level` (the last where it never does), [...]."""
    low = ~(correlation(u, truth) >= level)
    return np.where(low.any(-1), times[low.argmax(-1)], times[-1])


def energy(u: np.ndarray, area: np.ndarray) -> Any:
    """Return 1/2 int |u|^2 at each time [..., T], a number for one state."""
    return 0.5 * np.einsum("...nc,n->...", u.astype(np.float64) ** 2, area)


def spectrum(u: np.ndarray, points: np.ndarray, area: np.ndarray, size: float, shells: int = 12) -> np.ndarray:
    """Return the mean of |u|^2 in shells |k| in [s - 1/2, s + 1/2) of the torus, s = 1 ... shells, of u [..., N, C].

    It is twice the energy over the area. Coefficients are quadratures with the nodes' areas, so shells near the mesh's
    own scale are indicative only.
    """
    k = np.arange(-shells - 1, shells + 2)
    kx, ky = (v.ravel() for v in np.meshgrid(k, k, indexing="ij"))
    wave = np.exp(-2j * np.pi / size * (points @ np.stack([kx, ky]))) * (area / size**2)[:, None]
    power = (np.abs(np.einsum("...nc,nk->...kc", u, wave)) ** 2).sum(-1)
    shell = np.floor(np.hypot(kx, ky) + 0.5).astype(int)
    return np.stack([power[..., shell == s].sum(-1) for s in range(1, shells + 1)], -1)


def strouhal(signal: np.ndarray, dt: float, speed: float = 1.0, length: float = 1.0) -> float:
    """Return f L / U of a periodic signal, from the mean distance of its upward crossings of the mean.

    Raises:
        UsageError: fewer than three crossings.
    """
    s = signal - signal.mean()
    up = np.flatnonzero((s[:-1] < 0) & (s[1:] >= 0))
    if len(up) < 3:
        raise UsageError("too short to count periods", field="signal", value=len(signal))
    at = up + s[up] / (s[up] - s[up + 1])
    return float((len(at) - 1) / ((at[-1] - at[0]) * dt) * length / speed)


def crps(ensemble: np.ndarray, truth: np.ndarray) -> float:
    """Return the continuous ranked probability score, fair: E|x - y| - E|x - x'| / 2 over members [M, ...]."""
    m = len(ensemble)
    ordered = np.sort(ensemble.astype(np.float64), 0)
    weight = (2 * np.arange(m) - m + 1).reshape(-1, *[1] * truth.ndim)
    pairs = (weight * ordered).sum(0) * 2 / (m * (m - 1))
    return float((np.abs(ensemble - truth).mean(0) - pairs / 2).mean())


def spread_skill(ensemble: np.ndarray, truth: np.ndarray) -> float:
    """Return the ratio of spread to error, 1 where an ensemble [M, ...] is calibrated (Fortin et al., 2014)."""
    m, (ensemble, truth) = len(ensemble), _wide(ensemble, truth)
    spread = ensemble.var(0, ddof=1).mean() * (m + 1) / m
    return float(np.sqrt(spread / ((ensemble.mean(0) - truth) ** 2).mean()))


def coverage(ensemble: np.ndarray, truth: np.ndarray, level: float = 0.9) -> float:
    """Return how often the truth lies in the central interval of an ensemble [M, ...] of that level."""
    low, high = np.quantile(ensemble, [(1 - level) / 2, (1 + level) / 2], 0, method="weibull")
    return float(((truth >= low) & (truth <= high)).mean())


def break_even(prepare: float, learned: float, classical: float) -> float:
    """Return after how many solves a model is cheaper than an equally accurate solver; infinity: never.

    Args:
        prepare: seconds of data and training.
        learned, classical: seconds of one solve.
    """
    return prepare / (classical - learned) if classical > learned else math.inf
