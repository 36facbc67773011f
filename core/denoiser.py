"""Denoisers of tokens and of real vectors, and what exactly they predict.

Three functions of a noisy sequence describe one site with own token `x_t`; they carry the same information:

    posterior       D(v) = p(x_0 = v | x_t)                    sees the own token
    leave-one-out   l(v) = p(x_0 = v | x_t of the other sites) does not
    score           r(y) = p(x_t with the site set to y) / p(x_t)

    D(v) ∝ l(v) q(x_t | v),        r(y) = c(y) / c(x_t),   c(y) = alpha_t l(y) + sigma_t pi(y).

`c` is the law of the site at time t given all the others: resampling a site from it leaves the law of `x_t` unchanged.
The first conversion is a shift of one log-odd, `log(1 + alpha / (sigma pi(x_t)))` at `v = x_t`. Each law of
`core.process.categorical` needs a particular one of the three, so a `Prediction` names what it is and converts itself.

A site with `pi(x_t) = 0` (an unmasked site of the absorbing law) is known: `D` is the point mass on its token,
whatever `l` was, so `l` cannot be recovered from it; the conversion returns the point mass, and every reverse law
ignores the difference.

For real vectors a prediction is the mean `D = E[x_0 | x_t]` (and perhaps the variance); noise, velocity, flow and score
are rows of one linear system with it (`core.process.gaussian`).

Wrapping is how predictions are modified: temperature, nucleus, guidance and caches are denoisers around a denoiser.

References: Sahoo et al., 2024, arXiv:2406.07524 (SUBS); Lou et al., 2023, arXiv:2310.16834 (score); Holtzman et al.,
2020, arXiv:1904.09751 (nucleus); Gourevitch et al., 2026, arXiv:2605.22765 (leave-one-out for uniform diffusion).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from core.process.categorical import Categorical, at_sites, safe_log
from core.process.gaussian import Gaussian
from core.process.gaussian import Kind as GaussianKind

__all__ = [
    "Denoiser", "GaussianPrediction", "Kind", "Preconditioned", "Prediction", "Temperature", "Thresholded", "TopP",
    "log_normalise", "subs",
]  # fmt: skip

Kind = Literal["posterior", "leave_one_out"]


def log_normalise(log_w: Float[Tensor, "*x k"], otherwise: Float[Tensor, "*x k"]) -> Float[Tensor, "*x k"]:
    """Return `log_w` [..., K] normalised to a law; rows without any mass take the row of `otherwise` (log-weights)."""
    return torch.where((log_w == -torch.inf).all(-1, keepdim=True), otherwise, log_w).log_softmax(-1)


@dataclass(frozen=True)
class Prediction:
    """A normalised law over `x_0` at each site: `log_p` [B, S, K], of the stated kind."""

    log_p: Float[Tensor, "*x k"]
    kind: Kind = "posterior"

    def posterior(self, x_t: Int[Tensor, "*x"], t: Tensor | float, process: Categorical) -> Prediction:
        """Return `D`, having seen the own token `x_t` [B, S] at time `t`."""
        if self.kind == "posterior":
            return self
        log_q = process.log_likelihood(x_t, t)
        own = torch.arange(process.K, device=x_t.device) == x_t[..., None]
        known = torch.where(own, 0.0, -torch.inf).to(log_q)
        otherwise = torch.where(own.any(-1, keepdim=True), known, self.log_p.to(log_q))
        return Prediction(log_normalise(self.log_p + log_q, otherwise), "posterior")

    def leave_one_out(self, x_t: Int[Tensor, "*x"], t: Tensor | float, process: Categorical) -> Prediction:
        """Return `l`, the evidence of the own token `x_t` [B, S] at time `t` taken out."""
        if self.kind == "leave_one_out" or process.mask is not None:
            return replace(self, kind="leave_one_out")
        log_q = process.log_likelihood(x_t, t)
        possible = log_q > -torch.inf
        log_w = torch.where(possible, self.log_p - torch.where(possible, log_q, 0.0), -torch.inf)
        return Prediction(log_normalise(log_w, self.log_p.to(log_w)), "leave_one_out")

    def conditional(
        self, x_t: Int[Tensor, "*x"], t: Tensor | float, process: Categorical
    ) -> Float64[Tensor, "*x states"]:
        """Return `log p_t(site = y | the other sites)`, the kernel of Gibbs correctors: float64 [B, S, K']."""
        return safe_log(process.forward(self.leave_one_out(x_t, t, process).log_p.to(torch.float64).exp(), t))

    def score(self, x_t: Int[Tensor, "*x"], t: Tensor | float, process: Categorical) -> Float64[Tensor, "*x states"]:
        """Return the log-score `log r(y)` of every single-site change: float64 [B, S, K'], 0 at `y = x_t`."""
        log_c = self.conditional(x_t, t, process)
        return log_c - log_c.gather(-1, x_t[..., None])

    @classmethod
    def from_score(cls, log_r: Float[Tensor, "*x states"], t: Tensor | float, process: Categorical) -> Prediction:
        """Invert `score`: `l = (c - sigma pi) / alpha` with `c = r / sum r`.

        Args:
            log_r: log-scores [B, S, K'].
            t: time at which they were taken, with alpha_t > 0.
            process: the corruption.
        """
        t = at_sites(t, log_r[..., 0])[..., None]
        if process.mask is not None:  # on tokens c = alpha l: nothing to subtract
            return cls(log_r[..., : process.K].to(torch.float64).log_softmax(-1), "leave_one_out")
        noise = process.schedule.sigma(t) * process.pi.to(log_r.device)
        clean = (log_r.to(torch.float64).softmax(-1) - noise).clamp(min=0)
        return cls(safe_log(clean / clean.sum(-1, keepdim=True)), "leave_one_out")


class Denoiser(Protocol):
    """Anything that predicts `x_0` from tokens `x_t` [B, S] at time `t` ((), (B,) or (B, S)) and a context."""

    def __call__(self, x_t: Int[Tensor, "b s"], t: Float[Tensor, " ..."], context: Any = None) -> Prediction:
        """Return the law of `x_0` at each site."""
        ...


def subs(logits: Float[Tensor, "b s columns"], x_t: Int[Tensor, "b s"], mask: int) -> Prediction:
    """Turn network outputs into the posterior of absorbing diffusion.

    The mask is never predicted (zero masking probability), and a site that is not masked returns itself (carry-over).

    Args:
        logits: [B, S, K], or [B, S, K + 1] whose last column is the mask's and is dropped.
        x_t: tokens [B, S] in 0..K.
        mask: K, the index of the mask.
    """
    log_p = logits[..., :mask].log_softmax(-1)
    point = torch.full_like(log_p, -torch.inf).scatter(-1, x_t.clamp(max=mask - 1)[..., None], 0.0)
    return Prediction(torch.where((x_t != mask)[..., None], point, log_p), "posterior")


@dataclass(frozen=True)
class _Reshaped:
    """A denoiser whose log-probabilities pass through `reshape` before they are normalised again."""

    denoiser: Callable[..., Prediction]

    def reshape(self, log_p: Float[Tensor, "*x k"]) -> Float[Tensor, "*x k"]:
        raise NotImplementedError

    def __call__(self, x_t: Int[Tensor, "b s"], t: Float[Tensor, " ..."], context: Any = None) -> Prediction:
        prediction = self.denoiser(x_t, t, context)
        return replace(prediction, log_p=self.reshape(prediction.log_p).log_softmax(-1))


@dataclass(frozen=True)
class Temperature(_Reshaped):
    """A denoiser with `p` replaced by `p^(1/temperature)`, normalised."""

    temperature: float = 1.0

    def reshape(self, log_p: Float[Tensor, "*x k"]) -> Float[Tensor, "*x k"]:
        return log_p / self.temperature


@dataclass(frozen=True)
class TopP(_Reshaped):
    """A denoiser restricted to its nucleus: the likeliest tokens up to and including the one that crosses mass `p`."""

    p: float = 0.9

    def reshape(self, log_p: Float[Tensor, "*x k"]) -> Float[Tensor, "*x k"]:
        if self.p >= 1:
            return log_p
        ranked, order = log_p.sort(-1, descending=True)
        mass = ranked.to(torch.float64).exp()
        before = mass.cumsum(-1) - mass
        outside = (before >= self.p).scatter(-1, order, before >= self.p)
        outside = outside.scatter(-1, order[..., :1], False)
        return log_p.masked_fill(outside, -torch.inf)


@dataclass(frozen=True)
class GaussianPrediction:
    """What is known of real `x_0` given `x_t`: its mean `D` and, where known, its variance, both [B, ...]."""

    mean: Float[Tensor, "*x"]
    var: Float[Tensor, " ..."] | None = None

    @classmethod
    def of(
        cls,
        output: Float[Tensor, "*x"],
        kind: GaussianKind,
        x_t: Float[Tensor, "*x"],
        t: Tensor | float,
        process: Gaussian,
    ) -> GaussianPrediction:
        """Read a network's `output` [B, ...], of parameterisation `kind`, at `x_t` and time `t`."""
        return cls(process.convert(output, x_t, t, kind, "data"))

    def output(
        self, kind: GaussianKind, x_t: Float[Tensor, "*x"], t: Tensor | float, process: Gaussian
    ) -> Float[Tensor, "*x"]:
        """Return the prediction as the parameterisation `kind`."""
        return process.convert(self.mean, x_t, t, "data", kind)


@dataclass(frozen=True)
class Preconditioned:
    """A network of real vectors as a denoiser: input of unit scale, output read as `kind`.

        D from kind = network(x_t / r(t), c(t), context)

    With kind `velocity` this is the preconditioning of Karras et al. (2022, arXiv:2206.00364) up to the sign of the
    network, at any path: c_skip = sigma_d^2 alpha / r^2, c_out = -sigma_d sigma / r, c_in = 1 / r.

    Args:
        network: (x [B, ...], c of the shape of t and the dtype of x, context) to a tensor like x.
        process: the corruption.
        kind: what the network's output is.
        clock: what it is told of the time: `angle` / (pi / 2), finite everywhere, `time`, or `log_snr` / 4.
    """

    network: Callable[..., Tensor]
    process: Gaussian
    kind: GaussianKind = "velocity"
    clock: Literal["angle", "time", "log_snr"] = "angle"

    def label(self, t: Float[Tensor, "*t"] | float) -> Float64[Tensor, "*t"]:
        """Return what the network is told of time `t`, float64."""
        if self.clock == "angle":
            return self.process.angle(t) * (2 / math.pi)
        if self.clock == "log_snr":
            return self.process.schedule.log_snr(t) / 4
        return torch.as_tensor(t, dtype=torch.float64)

    def __call__(self, x_t: Float[Tensor, "b ..."], t: Tensor | float, context: Any = None) -> GaussianPrediction:
        """Predict `x_0` from `x_t` [B, ...] at `t`, (), (B,) or (B, L)."""
        scale = self.process.radius(at_sites(t, x_t)).to(x_t)
        output = self.network(x_t / scale, self.label(t).to(x_t), context)
        return GaussianPrediction.of(output, self.kind, x_t, t, self.process)


@dataclass(frozen=True)
class Thresholded:
    """A denoiser whose `D` is clipped per sample to `[-q, q] / q`, `q = max(1, quantile of |D|)`; for data in [-1, 1].

    Reference: Saharia et al., 2022, arXiv:2205.11487, dynamic thresholding.
    """

    denoiser: Callable[..., GaussianPrediction]
    quantile: float = 0.995

    def __call__(
        self, x_t: Float[Tensor, "b ..."], t: Float[Tensor, " ..."], context: Any = None
    ) -> GaussianPrediction:
        """Predict and clip."""
        prediction = self.denoiser(x_t, t, context)
        D = prediction.mean
        size = D.abs().flatten(1).to(torch.promote_types(D.dtype, torch.float32))  # no quantiles in half precision
        q = size.quantile(self.quantile, -1).to(D) if len(D) else size.new_ones(0).to(D)
        q = q.clamp(min=1.0).reshape(-1, *[1] * (D.ndim - 1))
        return replace(prediction, mean=D.clamp(-q, q) / q)
