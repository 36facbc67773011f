"""Noise schedules: how fast a datum is forgotten.

Time runs from data, `t = 0`, to noise, `t = 1`. A schedule is a decreasing map `alpha: [0, 1] -> [0, 1]`, and
`alpha(t)` is the probability that a site still carries its datum at time `t`; `sigma = 1 - alpha` is the probability
of corruption. The loss of information is measured by the logit

    lambda(t) = log alpha(t) - log sigma(t),

which falls from +inf to -inf and plays the part of the log signal-to-noise ratio. All laws depend on `t` through
`alpha` alone, so a change of schedule is a change of clock: it moves the variance of an estimator, never a bound.

| name         | sigma(t)                            | reference                                       |
|--------------|-------------------------------------|-------------------------------------------------|
| `linear`     | t                                   | Austin et al., 2021, arXiv:2107.03006           |
| `cosine`     | sin(pi t / 2)                       | Chang et al., 2022, arXiv:2202.04200            |
| `polynomial` | t ** power                          | Shi et al., 2024, arXiv:2406.04329              |
| `log_linear` | (1 - epsilon) t                     | Lou et al., 2023, arXiv:2310.16834 (its noise is -log alpha) |
| `clipped`    | beta + (omega - beta) sigma_base(t) | Arriola et al., 2025, arXiv:2503.09573, sec. 5  |

The first three reach `alpha(0) = 1` and `alpha(1) = 0` exactly. The last two stop short on purpose: they integrate a
bound over part of the time only, and serve training, not evaluation.

Every value is computed in float64, and `alpha` and `sigma` separately, so that neither loses digits where it is small.
`t` may have any shape; the library uses (), (B,) and (B, L).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import UsageError

__all__ = ["SCHEDULES", "Clipped", "Cosine", "Linear", "Polynomial", "Schedule", "clipped", "log_linear", "schedule"]


def _float64(t: Tensor | float) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


class Schedule(ABC):
    """A clock of forgetting: `alpha(t)`, its complement, its slope, its logit and the inverse of the logit."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return the probability that a site is still clean at time `t`, float64, of the shape of `t`."""

    @abstractmethod
    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return the probability of corruption `1 - alpha(t)`, accurate where it is small."""

    @abstractmethod
    def slope(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return `d alpha / d t <= 0`."""

    @abstractmethod
    def time(self, alpha: Float[Tensor, "*t"], sigma: Float[Tensor, "*t"]) -> Float64[Tensor, "*t"]:
        """Return the `t` at which the schedule passes the pair (`alpha`, `sigma = 1 - alpha`)."""

    def logit(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return `log alpha - log sigma`, the log-odds that a site is clean (+inf at t = 0, -inf at t = 1)."""
        return self.alpha(t).log() - self.sigma(t).log()

    def inverse(self, logit: Float[Tensor, "*x"] | float) -> Float64[Tensor, "*x"]:
        """Return the time at which the log-odds equal `logit`: `inverse(logit(t)) == t`."""
        logit = _float64(logit)
        return self.time(torch.sigmoid(logit), torch.sigmoid(-logit))


@dataclass(frozen=True)
class Linear(Schedule):
    """`sigma(t) = t`: a site forgets at a uniformly distributed time."""

    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return 1 - _float64(t)

    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return _float64(t)

    def slope(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return -torch.ones_like(_float64(t))

    def time(self, alpha: Float[Tensor, "*t"], sigma: Float[Tensor, "*t"]) -> Float64[Tensor, "*t"]:
        return sigma


@dataclass(frozen=True)
class Cosine(Schedule):
    """`sigma(t) = sin(pi t / 2)`: run backwards, few sites are revealed first, many at the end."""

    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        t = _float64(t)
        late = 2 * torch.sin(math.pi / 4 * (1 - t)).square()
        return torch.where(t < 0.5, 1 - torch.sin(math.pi / 2 * t), late)

    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return torch.sin(math.pi / 2 * _float64(t))

    def slope(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return -math.pi / 2 * torch.cos(math.pi / 2 * _float64(t))

    def time(self, alpha: Float[Tensor, "*t"], sigma: Float[Tensor, "*t"]) -> Float64[Tensor, "*t"]:
        early = torch.asin(sigma.clamp(max=1)) * (2 / math.pi)
        late = 1 - torch.asin((alpha / 2).sqrt()) * (4 / math.pi)
        return torch.where(sigma < 0.5, early, late)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """`sigma(t) = t ** power`; `power > 1` spends more time near the data."""

    power: float = 2.0

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise UsageError("must be positive", field="power", value=self.power)

    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return -torch.expm1(self.power * _float64(t).log())

    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return _float64(t) ** self.power

    def slope(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return -self.power * _float64(t) ** (self.power - 1)

    def time(self, alpha: Float[Tensor, "*t"], sigma: Float[Tensor, "*t"]) -> Float64[Tensor, "*t"]:
        return sigma ** (1 / self.power)


@dataclass(frozen=True)
class Clipped(Schedule):
    """`base` with its corruption probability mapped affinely onto [`beta`, `omega`]."""

    base: Schedule
    beta: float
    omega: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta < self.omega <= 1:
            raise UsageError("needs 0 <= beta < omega <= 1", field="clipped", value=(self.beta, self.omega))

    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return (1 - self.omega) + (self.omega - self.beta) * self.base.alpha(t)

    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return self.beta + (self.omega - self.beta) * self.base.sigma(t)

    def slope(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return (self.omega - self.beta) * self.base.slope(t)

    def time(self, alpha: Float[Tensor, "*t"], sigma: Float[Tensor, "*t"]) -> Float64[Tensor, "*t"]:
        width = self.omega - self.beta
        clean, noisy = (alpha - (1 - self.omega)) / width, (sigma - self.beta) / width
        return self.base.time(clean.clamp(0, 1), noisy.clamp(0, 1))


def clipped(base: Schedule, beta: float, omega: float) -> Schedule:
    """Return `base` restricted to corruption probabilities in [`beta`, `omega`]."""
    return Clipped(base, beta, omega)


def log_linear(epsilon: float = 1e-3) -> Schedule:
    """Return SEDD's and MDLM's schedule, `alpha(t) = 1 - (1 - epsilon) t`: linear time that stops `epsilon` short."""
    return Clipped(Linear(), 0.0, 1.0 - epsilon)


SCHEDULES = {"linear": Linear, "cosine": Cosine, "polynomial": Polynomial, "log_linear": log_linear}


def schedule(name: str, **options: float) -> Schedule:
    """Build the schedule `name` of `SCHEDULES` with its options (`power`, `epsilon`).

    Raises:
        UsageError: no schedule has this name.
    """
    if name not in SCHEDULES:
        raise UsageError("unknown noise schedule", field="schedule", value=name, choices=SCHEDULES)
    return SCHEDULES[name](**options)
