"""Flow matching and denoising: one regression, in any parameterisation, under any law of times.

    L = E_{t, x_0, eps} w |P_theta(x_t, t) - P|^2,      P = p_D x_0 + p_e eps,      x_t = alpha x_0 + sigma eps.

`kind = "flow"` is flow matching (`P = dx/dt`, for the rectified flow `eps - x_0`), `"noise"` the simple loss, `"data"`
plain denoising, `"velocity"` the weighting of Karras et al.; the minimiser is `E[x_0 | x_t]` for each, and the losses
differ by `gain(kind)^2` only. **Reflow** is the same with pairs `(x_0, eps)` that a teacher's sampler connects
(`couple`) instead of independent ones: it straightens the paths.

Times come from stratified uniforms `u` through a quantile function:

| name           | density                                     | reference |
|----------------|---------------------------------------------|-----------|
| `uniform`      | 1                                           | |
| `logit_normal` | logit t ~ N(mean, std^2)                    | Esser et al., 2024, arXiv:2403.03206 |
| `u_shape`      | e^{a t} + e^{-a t} about the middle         | Lee et al., 2024, arXiv:2405.20320 (reflow) |
| `log_normal`   | log rho ~ N(mean, std^2)                    | Karras et al., 2022, arXiv:2206.00364 |

`huber` replaces the square by `(|e|^2 + c^2)^{1/2} - c` per sample, which large errors pull on less (ibid.).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from core.denoiser import GaussianPrediction
from core.noise import Stream
from core.objective.elbo import stratified
from core.plan import Table
from core.process.categorical import at_sites
from core.process.gaussian import Gaussian, Kind
from core.sample import Estimate, integrate

__all__ = [
    "TIMES",
    "Clocked",
    "couple",
    "flow_loss",
    "log_normal",
    "logit_normal",
    "straightness",
    "u_shape",
    "uniform",
]

Metrics = dict[str, Tensor]
Quantile = Callable[[Tensor], Tensor]


def uniform() -> Quantile:
    """Return the quantile function of t ~ U[0, 1)."""
    return lambda u: u


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Quantile:
    """Return the quantile function of logit t ~ N(mean, std^2)."""
    return lambda u: torch.sigmoid(mean + std * torch.special.ndtri(u.clamp(2.0**-54, 1 - 2.0**-53)))


def u_shape(a: float = 4.0) -> Quantile:
    """Return the quantile function of the density `∝ cosh(a (2 t - 1))`: ends more often than the middle."""
    top = torch.sinh(torch.tensor(a, dtype=torch.float64))
    return lambda u: (1 + torch.asinh((2 * u - 1) * top.to(u)) / a) / 2


def log_normal(process: Gaussian, mean: float = -1.2, std: float = 1.2) -> Quantile:
    """Return the quantile function of log(sigma / alpha) ~ N(mean, std^2) on the path of `process`."""
    return lambda u: process.schedule.inverse(-mean - std * torch.special.ndtri(u.clamp(2.0**-54, 1 - 2.0**-53)))


TIMES = {"uniform": uniform, "logit_normal": logit_normal, "u_shape": u_shape, "log_normal": log_normal}


@dataclass(frozen=True)
class Clocked:
    """How times are drawn: a quantile function, kept off the ends where a parameterisation is not defined."""

    quantile: Quantile
    low: float = 1e-4
    high: float = 1.0

    def __call__(self, stream: Stream) -> Float64[Tensor, " b"]:
        """Return stratified times [B], float64."""
        return self.quantile(stratified((), stream)).clamp(self.low, self.high)


def flow_loss(
    denoiser: Callable[..., GaussianPrediction],
    process: Gaussian,
    x_0: Float[Tensor, " b *x"],
    stream: Stream,
    *,
    kind: Kind = "flow",
    times: Clocked | Tensor | None = None,
    noise: Float[Tensor, " b *x"] | None = None,
    context: object = None,
    huber: float = 0.0,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the loss, a mean over coordinates and samples, with its metrics.

    Args:
        denoiser: (x_t [B, ...], t, context) to a prediction.
        process: the corruption.
        x_0: data [B, ...].
        stream: noise of B samples.
        kind: in which parameterisation errors are squared.
        times: how t is drawn (uniform), or t itself, (B,) or (B, L).
        noise: `eps` [B, ...]; independent of the data unless given (reflow).
        context: what the denoiser is told.
        huber: the constant `c` of the robust loss; 0 for squares.
    """
    t = times if isinstance(times, Tensor) else (times or Clocked(uniform()))(stream.fold(0)).to(x_0.device)
    eps = process.couple(tuple(x_0.shape[1:]), stream.fold(1)) if noise is None else noise
    eps = eps.to(x_0)
    x_t = process.corrupt(x_0, t, eps)
    p_D, p_e = process.row(kind, at_sites(t, x_0))
    target = p_D.to(x_0) * x_0 + p_e.to(x_0) * eps
    prediction = denoiser(x_t, t, context)
    square = (prediction.output(kind, x_t, t, process) - target).square().flatten(1)
    plain = square.mean(-1)
    loss = (square.sum(-1) + huber**2).sqrt() - huber if huber else plain
    rmse = (prediction.mean - x_0).detach().square().mean().sqrt()
    return loss.mean(), {"loss": plain.mean().detach(), "rmse": rmse}


@torch.no_grad()
def couple(teacher: Estimate, process: Gaussian, table: Table, noise: Float[Tensor, "*x"]) -> Float[Tensor, "*x"]:
    """Return the data [B, ...] that the teacher's solver `table` makes of `noise` [B, ...]: a pair for reflow.

    `noise` is standard normal; the table starts where `alpha = 0`.
    """
    return integrate(teacher, table, noise * float(process.schedule.sigma(table.rows[0].t)))


@torch.no_grad()
def straightness(
    predict: Estimate, process: Gaussian, x_0: Float[Tensor, " b *x"], noise: Float[Tensor, " b *x"], times: Tensor
) -> Float[Tensor, " b"]:
    """Return `E |u(x_t, t) - (d alpha x_0 + d sigma eps)|^2` over `times`, [B]: 0 where paths do not cross."""
    total = torch.zeros(len(x_0), dtype=torch.float64, device=x_0.device)
    for t in times:
        x_t = process.corrupt(x_0, t, noise)
        fall, rise = process.schedule.slopes(t)
        gap = predict(x_t, t).output("flow", x_t, t, process) - (fall.to(x_0) * x_0 + rise.to(x_0) * noise)
        total += gap.square().flatten(1).mean(-1)
    return total / len(times)
