"""Exact likelihood by the probability-flow ODE.

In the coordinates `z = x / r` the flow is `dz / d phi = v` (`core.solvers.adams`), and along it

    log p(z_0) = log p(z_1) + ∫ tr(dv / dz) d phi,      log p(x_0) = log p(z_0) - d log r_0,

from the first time (data) to the last (noise). State and integral are advanced together by the classical Runge-Kutta
method of order 4, in `phi` or in lambda (`d phi / d lambda = -sin phi cos phi`), which suits sharp data.

The trace is exact, d products with the Jacobian a stage, or Hutchinson's estimate `z^T J z` with Rademacher probes,
unbiased, whose standard error is returned. The density at the noise end is `N(0, r_1^2)` unless given: with the scale
of the data in `r` this is their Gaussian fit, not `N(0, sigma_1^2)`.

References: Chen et al., 2018, arXiv:1806.07366; Song et al., 2020, arXiv:2011.13456, appendix D.2; Grathwohl et al.,
2018, arXiv:1810.01367.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import UsageError
from core.noise import Stream
from core.process.gaussian import Gaussian
from core.sample import Estimate

__all__ = ["Likelihood", "log_likelihood"]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """What the flow says of data.

    Attributes:
        log_p: nats [B].
        x: state at the noise end [B, ...].
        error: standard error of `log_p` from the probes [B]; zero when the trace is exact, nan for a single probe.
        evaluations: of the network, per sample.
    """

    log_p: Float[Tensor, " b"]
    x: Float[Tensor, "b ..."]
    error: Float[Tensor, " b"]
    evaluations: int

    def bits_per_dimension(self) -> Float[Tensor, " b"]:
        """Return `-log_p / (d log 2)` [B]."""
        return -self.log_p / (math.prod(self.x.shape[1:]) * math.log(2))


def log_likelihood(
    predict: Estimate,
    process: Gaussian,
    x: Float[Tensor, "b ..."],
    times: Float[Tensor, " n"],
    *,
    clock: Literal["angle", "log_snr"] = "angle",
    probes: int | None = None,
    stream: Stream | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    chunk: int = 64,
) -> Likelihood:
    """Return `log p(x)` at the first of `times`.

    Args:
        predict: the denoiser; must treat the rows of a batch independently and be differentiable.
        process: the corruption.
        x: data [B, ...].
        times: rising strictly, the first with sigma > 0; 4 evaluations between two.
        clock: the variable in which the steps of the Runge-Kutta method are taken.
        probes: Rademacher vectors for the trace; None for the exact trace.
        stream: one stream per row, for the probes.
        prior: log-density [B] of the state at the last time.
        chunk: rows of the Jacobian that are taken at once.

    Raises:
        UsageError: times do not rise, start on clean data, or end in pure noise by the clock `log_snr`, which is
            infinite there; probes without a stream.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    if bool((times.diff() <= 0).any()) or float(process.schedule.sigma(times[0])) == 0:
        raise UsageError("needs times that rise strictly from sigma > 0", field="times")
    if probes is not None and (stream is None or probes < 1):
        raise UsageError("needs a stream and one probe or more", field="probes", value=probes)
    vectors = None if probes is None or stream is None else _rademacher(stream, probes, x)
    slopes = _slopes(predict, process, clock, vectors, chunk)
    ends = process.angle(times) if clock == "angle" else process.schedule.log_snr(times)
    if not bool(ends.isfinite().all()):
        raise UsageError("is infinite at the last time", field="clock", value=clock, hint="take 'angle'")
    start, stop = (float(process.radius(v)) for v in (times[0], times[-1]))
    z, size = x / start, math.prod(x.shape[1:])
    total = torch.zeros(1 if vectors is None else len(vectors), len(x), dtype=torch.float64, device=x.device)
    for u, w in zip(ends[:-1], ends[1:], strict=True):
        z, total = _runge_kutta(slopes, z, total, u, w - u)
    log_z = _normal(z) if prior is None else prior(z * stop) + size * math.log(stop)
    log_p = log_z + total.mean(0) - size * math.log(start)
    error = torch.full_like(log_p, 0.0 if probes is None else math.nan)
    if len(total) > 1:
        error = total.std(0) / math.sqrt(len(total))
    return Likelihood(log_p, z * stop, error, 4 * (len(times) - 1))


def _rademacher(stream: Stream, probes: int, x: Tensor) -> Tensor:
    """Return signs [probes, B, ...]."""
    u = stream.uniform(probes, *x.shape[1:])
    return torch.where(u < 0.5, -1.0, 1.0).to(x).transpose(0, 1)


def _slopes(
    predict: Estimate, process: Gaussian, clock: str, vectors: Tensor | None, chunk: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return `(dz/du, d integral/du)` as a function of (z, u), u being the clock."""

    def slopes(z: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        t, rate = (process.at_angle(u) if clock == "angle" else process.schedule.inverse(u)), 1.0
        if clock == "log_snr":
            rate = -float(torch.sin(2 * process.angle(t))) / 2
        v, traces = _traced(lambda z: _velocity(predict, process, z, t), z, vectors, chunk)
        return rate * v, rate * traces

    return slopes


def _velocity(predict: Estimate, process: Gaussian, z: Tensor, t: Tensor) -> Tensor:
    x = z * float(process.radius(t))
    return predict(x, t).output("velocity", x, t, process)


def _traced(field: Callable[[Tensor], Tensor], z: Tensor, vectors: Tensor | None, chunk: int) -> tuple[Tensor, Tensor]:
    """Return `field(z)` [B, ...] and the trace of its Jacobian [1, B], or one estimate a probe [probes, B]."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = field(z)
        size = math.prod(z.shape[1:])
        if vectors is None:
            eye = torch.eye(size, dtype=z.dtype, device=z.device)
            rows = [part[:, None].expand(-1, len(z), -1).reshape(len(part), *z.shape) for part in eye.split(chunk)]
        else:
            rows = [vectors[i : i + chunk] for i in range(0, len(vectors), chunk)]
        parts = []
        for n, probe in enumerate(rows):
            more = n + 1 < len(rows)
            (back,) = torch.autograd.grad(value, z, probe, retain_graph=more, is_grads_batched=True)
            parts.append((back * probe).flatten(2).sum(-1).to(torch.float64))
    traces = torch.cat(parts)
    return value.detach(), traces.sum(0, keepdim=True) if vectors is None else traces


def _runge_kutta(
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], z: Tensor, total: Tensor, u: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance state and integral by `h` from `u` (Runge-Kutta of order 4)."""
    step = float(h)
    k1, g1 = slopes(z, u)
    k2, g2 = slopes(z + step / 2 * k1, u + h / 2)
    k3, g3 = slopes(z + step / 2 * k2, u + h / 2)
    k4, g4 = slopes(z + step * k3, u + h)
    return z + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4), total + step / 6 * (g1 + 2 * g2 + 2 * g3 + g4)


def _normal(z: Tensor) -> Tensor:
    """Return the log-density [B] of a standard normal."""
    flat = z.to(torch.float64).flatten(1)
    return -0.5 * (flat.square().sum(-1) + flat.shape[1] * math.log(2 * math.pi))
