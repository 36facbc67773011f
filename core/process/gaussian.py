"""Gaussian diffusion: real vectors that lose signal and gain noise.

    x_t = alpha_t x_0 + sigma_t eps,      eps ~ N(0, I),      t = 0 data, t = 1 noise.

Half the log signal-to-noise ratio is `lambda = log alpha - log sigma`; other clocks are `rho = sigma / alpha` and, with
`sigma_d` the scale of the data, the angle and the radius

    phi = atan2(sigma, sigma_d alpha) in [0, pi/2],      r = sqrt(sigma_d^2 alpha^2 + sigma^2),

which stay finite at both ends, so that one code serves paths that reach pure noise (alpha = 0) and those that do not.

**Parameterisations.** With `D = E[x_0 | x_t]` and `e = (x_t - alpha D) / sigma`, an output of a network is one row of a
linear system, `P = p_D D + p_e e`:

| kind       | p_D                    | p_e                 | reference                                              |
|------------|------------------------|---------------------|--------------------------------------------------------|
| `data`     | 1                      | 0                   |                                                        |
| `noise`    | 0                      | 1                   | Ho et al., 2020, arXiv:2006.11239                      |
| `velocity` | -sigma / (sigma_d r)   | sigma_d alpha / r   | Salimans and Ho, 2022, arXiv:2202.00512; it is -F of   |
|            |                        |                     | the preconditioning of Karras et al., arXiv:2206.00364 |
| `flow`     | alpha'                 | sigma'              | dx/dt; Lipman et al., 2022, arXiv:2210.02747           |
| `score`    | 0                      | -1 / sigma          | Song et al., 2020, arXiv:2011.13456                    |

Any one follows from any other: solve `[x_t; P] = [[alpha, sigma], [p_D, p_e]] [D; e]`. Where the determinant vanishes
(noise at alpha = 0, data at sigma = 0) the others cannot be recovered, which is said, not returned as NaN.

A squared error of one kind is a weighted squared error of `D`: the weight is `gain(kind)^2`. `velocity` gives the
weighting of Karras et al., `(sigma^2 + sigma_d^2) / (sigma sigma_d)^2` at alpha = 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.errors import UsageError
from core.noise import Stream
from core.process.categorical import at_sites

__all__ = ["KINDS", "PATHS", "Cosine", "Exploding", "Gaussian", "Kind", "Path", "Preserving", "Rectified", "Shifted"]

Kind = Literal["data", "noise", "velocity", "flow", "score"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def _float64(t: Tensor | float) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


class Path(ABC):
    """The clock of forgetting: `alpha(t)`, `sigma(t)`, their slopes, the log-SNR and its inverse, all in float64."""

    @abstractmethod
    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return the scale of the signal at time `t`, of the shape of `t`."""

    @abstractmethod
    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return the scale of the noise at time `t`."""

    @abstractmethod
    def slopes(self, t: Float[Tensor, "*t"] | float) -> tuple[Float64[Tensor, "*t"], Float64[Tensor, "*t"]]:
        """Return `(d alpha / d t, d sigma / d t)`."""

    @abstractmethod
    def inverse(self, log_snr: Float[Tensor, "*x"] | float) -> Float64[Tensor, "*x"]:
        """Return the time at which `log alpha - log sigma` equals `log_snr`: `inverse(log_snr(t)) == t`."""

    def log_snr(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return `lambda = log alpha - log sigma` (+inf where sigma = 0, -inf where alpha = 0)."""
        return self.alpha(t).log() - self.sigma(t).log()


@dataclass(frozen=True)
class Rectified(Path):
    """`alpha = 1 - t`, `sigma = t`: straight lines (Liu et al., 2022, arXiv:2209.03003)."""

    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return 1 - _float64(t)

    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return _float64(t)

    def slopes(self, t: Float[Tensor, "*t"] | float) -> tuple[Float64[Tensor, "*t"], Float64[Tensor, "*t"]]:
        one = torch.ones_like(_float64(t))
        return -one, one

    def inverse(self, log_snr: Float[Tensor, "*x"] | float) -> Float64[Tensor, "*x"]:
        return torch.sigmoid(-_float64(log_snr))


@dataclass(frozen=True)
class Cosine(Path):
    """`alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`: uniform in angle (Nichol and Dhariwal, 2021, 2102.09672)."""

    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        t = _float64(t)
        return torch.where(t < 0.5, torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * (1 - t)))

    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return torch.sin(math.pi / 2 * _float64(t))

    def slopes(self, t: Float[Tensor, "*t"] | float) -> tuple[Float64[Tensor, "*t"], Float64[Tensor, "*t"]]:
        return -math.pi / 2 * self.sigma(t), math.pi / 2 * self.alpha(t)

    def inverse(self, log_snr: Float[Tensor, "*x"] | float) -> Float64[Tensor, "*x"]:
        return torch.atan(torch.exp(-_float64(log_snr))) * (2 / math.pi)


@dataclass(frozen=True)
class Preserving(Path):
    """`log alpha = -t^2 (high - low) / 4 - t low / 2`, `sigma^2 = 1 - alpha^2`: variance preserving with linear rate.

    Reference: Song et al., 2020, arXiv:2011.13456, appendix C.
    """

    low: float = 0.1
    high: float = 20.0

    def _exponent(self, t: Tensor | float) -> Tensor:
        t = _float64(t)
        return t * (t * (self.high - self.low) / 4 + self.low / 2)

    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return torch.exp(-self._exponent(t))

    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return (-torch.expm1(-2 * self._exponent(t))).sqrt()

    def slopes(self, t: Float[Tensor, "*t"] | float) -> tuple[Float64[Tensor, "*t"], Float64[Tensor, "*t"]]:
        alpha = self.alpha(t)
        fall = -alpha * (_float64(t) * (self.high - self.low) / 2 + self.low / 2)
        return fall, -fall * alpha / self.sigma(t)

    def inverse(self, log_snr: Float[Tensor, "*x"] | float) -> Float64[Tensor, "*x"]:
        x = -2 * _float64(log_snr)
        exponent = (x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))) / 2  # -log alpha, without softplus's cut-off
        a, b = (self.high - self.low) / 4, self.low / 2
        return 2 * exponent / (b + (b * b + 4 * a * exponent).sqrt())


@dataclass(frozen=True)
class Exploding(Path):
    """`alpha = 1`, `sigma = high t`: the variance exploding path of Karras et al., 2022, arXiv:2206.00364."""

    high: float = 80.0

    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return torch.ones_like(_float64(t))

    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return self.high * _float64(t)

    def slopes(self, t: Float[Tensor, "*t"] | float) -> tuple[Float64[Tensor, "*t"], Float64[Tensor, "*t"]]:
        zero = torch.zeros_like(_float64(t))
        return zero, zero + self.high

    def inverse(self, log_snr: Float[Tensor, "*x"] | float) -> Float64[Tensor, "*x"]:
        return torch.exp(-_float64(log_snr)) / self.high


@dataclass(frozen=True)
class Shifted(Path):
    """`base` at the later time `k t / (1 + (k - 1) t)`: more steps in the noise (Esser et al., 2024, 2403.03206)."""

    base: Path = field(default_factory=Rectified)
    shift: float = 3.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise UsageError("must be positive", field="shift", value=self.shift)

    def _later(self, t: Tensor | float) -> Tensor:
        t = _float64(t)
        return self.shift * t / (1 + (self.shift - 1) * t)

    def alpha(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return self.base.alpha(self._later(t))

    def sigma(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        return self.base.sigma(self._later(t))

    def slopes(self, t: Float[Tensor, "*t"] | float) -> tuple[Float64[Tensor, "*t"], Float64[Tensor, "*t"]]:
        rate = self.shift / (1 + (self.shift - 1) * _float64(t)).square()
        fall, rise = self.base.slopes(self._later(t))
        return fall * rate, rise * rate

    def inverse(self, log_snr: Float[Tensor, "*x"] | float) -> Float64[Tensor, "*x"]:
        t = self.base.inverse(log_snr)
        return t / (self.shift - (self.shift - 1) * t)


PATHS = {"rectified": Rectified, "cosine": Cosine, "preserving": Preserving, "exploding": Exploding, "shifted": Shifted}


@dataclass(frozen=True)
class Gaussian:
    """The corruption of real vectors along `schedule`; `data_std` is `sigma_d`, the scale of the data."""

    schedule: Path = field(default_factory=Rectified)
    data_std: float = 1.0

    def radius(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return `r(t)`, the standard deviation of `x_t` when the data have `data_std`."""
        return torch.hypot(self.data_std * self.schedule.alpha(t), self.schedule.sigma(t))

    def angle(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return `phi(t)` in [0, pi / 2]."""
        return torch.atan2(self.schedule.sigma(t), self.data_std * self.schedule.alpha(t))

    def at_angle(self, phi: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return the time at which the angle equals `phi`: `at_angle(angle(t)) == t`."""
        phi = _float64(phi)
        return self.schedule.inverse(torch.cos(phi).log() - torch.sin(phi).log() - math.log(self.data_std))

    def prior(self, shape: tuple[int, ...], stream: Stream, t: float = 1.0) -> Float64[Tensor, "b ..."]:
        """Draw `x_t ~ N(0, r(t)^2)`: float64 [B, *shape]; exact where alpha = 0 or the data are Gaussian."""
        return stream.normal(*shape) * float(self.radius(t))

    def couple(self, shape: tuple[int, ...], stream: Stream) -> Float64[Tensor, "b ..."]:
        """Draw the noise `eps` of a whole corruption path, float64 [B, *shape]."""
        return stream.normal(*shape)

    def corrupt(self, x_0: Float[Tensor, "*x"], t: Tensor | float, noise: Float[Tensor, "*x"]) -> Float[Tensor, "*x"]:
        """Return `alpha x_0 + sigma eps`.

        Args:
            x_0: data [B, ...].
            t: time, (), (B,) or (B, L).
            noise: `eps`, of the shape of `x_0`.
        """
        time = at_sites(t, x_0)
        return self.schedule.alpha(time).to(x_0) * x_0 + self.schedule.sigma(time).to(x_0) * noise.to(x_0)

    def row(
        self, kind: Kind | str, t: Float[Tensor, "*t"] | float
    ) -> tuple[Float64[Tensor, "*t"], Float64[Tensor, "*t"]]:
        """Return `(p_D, p_e)`, float64, of the shape of `t`.

        Raises:
            UsageError: no parameterisation has this name.
        """
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
        if kind == "data":
            return one, zero
        if kind == "noise":
            return zero, one
        if kind == "velocity":
            r = self.radius(t)
            return -sigma / (self.data_std * r), self.data_std * alpha / r
        if kind == "flow":
            return self.schedule.slopes(t)
        if kind == "score":
            return zero, -1 / sigma
        raise UsageError("unknown parameterisation", field="kind", value=kind, choices=KINDS)

    def linear(
        self, source: Kind, target: Kind, t: Float[Tensor, "*t"] | float
    ) -> tuple[Float64[Tensor, "*t"], Float64[Tensor, "*t"]]:
        """Return `(a, c)` such that `target = a x_t + c source` at time `t`, float64.

        Raises:
            UsageError: `source` does not determine `target` at this time.
        """
        p_D, p_e = self.row(source, t)
        if source == target:
            return torch.zeros_like(p_D), torch.ones_like(p_D)
        q_D, q_e = self.row(target, t)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        determinant = p_e * alpha - p_D * sigma
        a, c = (q_D * p_e - q_e * p_D) / determinant, (q_e * alpha - q_D * sigma) / determinant
        sure = source == "velocity" and target in {"data", "noise"}  # its rows never lose rank
        if not sure and not bool((a.isfinite() & c.isfinite()).all()):
            where = "sigma = 0" if source == "data" else "alpha = 0 or sigma = 0"
            raise UsageError(f"not recoverable from {source} at {where}", field="kind", value=target)
        return a, c

    def convert(
        self, output: Float[Tensor, "*x"], x_t: Float[Tensor, "*x"], t: Tensor | float, source: Kind, target: Kind
    ) -> Float[Tensor, "*x"]:
        """Return the parameterisation `target` of what `output` [B, ...] says as `source` about `x_t` [B, ...].

        Args:
            output: a network's output.
            x_t: the noisy state.
            t: time, (), (B,) or (B, L).
            source, target: two of `KINDS`.
        """
        if source == target:
            return output
        a, c = self.linear(source, target, at_sites(t, x_t))
        return a.to(x_t) * x_t + c.to(x_t) * output

    def gain(self, kind: Kind, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return `d kind / d D` at fixed `x_t`; its square is the weight of an error of `D` in one of `kind`."""
        p_D, p_e = self.row(kind, t)
        return p_D - p_e * self.schedule.alpha(t) / self.schedule.sigma(t)

    def bridge(
        self, t: Tensor | float, s: Tensor | float
    ) -> tuple[Float64[Tensor, " ..."], Float64[Tensor, " ..."], Float64[Tensor, " ..."]]:
        """Return `(k, m, v)` of Bayes' rule `q(x_s | x_t, x_0) = N(k x_t + m x_0, v)`, s < t, float64."""
        alpha_t, sigma_t = self.schedule.alpha(t), self.schedule.sigma(t)
        alpha_s, sigma_s = self.schedule.alpha(s), self.schedule.sigma(s)
        fade = alpha_t * sigma_s / (alpha_s * sigma_t)  # e^{-h}, h = lambda_s - lambda_t
        rest = (1 - fade) * (1 + fade)
        return fade * sigma_s / sigma_t, alpha_s * rest, sigma_s.square() * rest
