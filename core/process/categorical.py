"""Categorical diffusion: sites that jump to noise.

Each site of `x_0` carries one of K tokens. A site jumps once, at a random time, to a token drawn from the noise law
`pi`:

    q(x_t | x_0) = alpha_t 1(x_t = x_0) + sigma_t pi(x_t),                          sigma = 1 - alpha,
    q(x_t | x_s) = a 1(x_t = x_s) + (1 - a) pi(x_t),    a = alpha_t / alpha_s,      s < t.

`pi` is the only choice: all on a mask of index K (**absorbing**, state alphabet K' = K + 1), 1/K (**uniform**) or the
frequencies of the data (**marginal**). Bayes gives the bridge, which accepts a distribution in the place of `x_0`,

    q(x_s | x_t, x_0) ∝ [a 1(x_s = x_t) + (1 - a) pi(x_t)] [alpha_s x_0(x_s) + sigma_s pi(x_s)].

**The reverse step takes the leave-one-out.** Let `D(v) = p(x_0 = v | x_t)` be the posterior of a site and `l(v)` the
same without its own token `x_t`. Then `D(v) ∝ l(v) q(x_t | v)`, and

    p(x_s | x_t) = sum_v D(v) q(x_s | x_t, v) = bridge(x_t, l),

because the normaliser of the bridge at `v` is `q(x_t | v)` and divides `D` back into `l`. Plugging `D` into the bridge
counts the evidence of the own token twice; the type `Prediction` says which of the two a network gives.

**All randomness of corruption** is one level `u ~ U[0, 1)` and one noise token `n ~ pi` per site: `x_t = x_0` while
`alpha_t > u`, then `n`. Paths are therefore nested in `t` without any state.

**The rate** is the integrand of the negative evidence bound: `-log p(x_0) <= ∫ E_{x_t} sum_sites rate dt` with

    rate = -alpha'/alpha  pi(x_t)  sum_y [r^_y - r_y + r_y log(r_y / r^_y)],    r_y = q(y | x_0) / q(x_t | x_0),

and `r^` the ratio given by the prediction, `[alpha l + sigma pi](y) / [alpha l + sigma pi](x_t)`. For the absorbing
law it is `-alpha'/sigma · -log D(x_0)` at masked sites and 0 elsewhere.

References: Austin et al., 2021, arXiv:2107.03006; Lou et al., 2023, arXiv:2310.16834; Sahoo et al., 2024,
arXiv:2406.07524; Schiff et al., 2024, arXiv:2412.10193.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn.functional import one_hot, pad

from core.draw import inverse_cdf
from core.errors import UsageError
from core.process.schedule import Linear, Schedule

if TYPE_CHECKING:
    from core.denoiser import Prediction

__all__ = ["Categorical", "Coupling", "Uniforms", "at_sites", "safe_log"]


class Uniforms(Protocol):
    """A source of uniforms that can be told apart by integers (`core.noise.Stream`)."""

    def fold(self, *keys: int) -> Uniforms:
        """Return the independent stream of these keys."""
        ...

    def uniform(self, *shape: int) -> Tensor:
        """Return float64 uniforms in [0, 1); a stream of B samples puts B in front of `shape`."""
        ...


@dataclass(frozen=True)
class Coupling:
    """The noise of a whole corruption path: level `u` (float64) and noise token `n` (int64) of each site [B, ...]."""

    u: Float64[Tensor, "*x"]
    n: Int[Tensor, "*x"]

    def to(self, device: torch.device | str) -> Coupling:
        """Return the same noise on a device."""
        return Coupling(self.u.to(device), self.n.to(device))


def at_sites(t: Tensor | float, x: Tensor) -> Float64[Tensor, " ..."]:
    """Return `t` of shape (), (B,) or (B, L) as float64 that broadcasts against the tokens `x` [B, ...]."""
    t = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def safe_log(p: Float[Tensor, "*x"]) -> Float[Tensor, "*x"]:
    """Return `log p` with -inf at zeros and, there, gradient 0 instead of NaN: the mask goes before the logarithm."""
    zero = p <= 0
    return p.masked_fill(zero, 1.0).log().masked_fill(zero, -torch.inf)


@dataclass(frozen=True, eq=False)
class Categorical:
    """The corruption of tokens with noise law `pi` [K'] under `schedule`; `mask` is the index K when absorbing."""

    pi: Float64[Tensor, "*d states"]
    schedule: Schedule = field(default_factory=Linear)
    mask: int | None = None

    @classmethod
    def absorbing(cls, K: int, schedule: Schedule | None = None) -> Categorical:
        """Return masked diffusion over tokens 0..K-1; the mask is token K."""
        return cls(one_hot(torch.tensor(K), K + 1).to(torch.float64), schedule or Linear(), K)

    @classmethod
    def uniform(cls, K: int, schedule: Schedule | None = None) -> Categorical:
        """Return uniform diffusion over tokens 0..K-1."""
        return cls(torch.full((K,), 1.0 / K, dtype=torch.float64), schedule or Linear())

    @classmethod
    def marginal(cls, probabilities: Tensor, schedule: Schedule | None = None) -> Categorical:
        """Return diffusion with noise law `probabilities` [K] or counts (DiGress, Vignac et al., arXiv:2209.14734).

        Raises:
            UsageError: a weight is negative, or all are zero.
        """
        weight = torch.as_tensor(probabilities).to(torch.float64)
        if weight.ndim != 1 or bool((weight < 0).any()) or not weight.sum() > 0:
            raise UsageError("needs weights [K], not negative, not all zero", field="probabilities")
        return cls(weight / weight.sum(), schedule or Linear())

    @property
    def states(self) -> int:
        """Return K', the number of values that `x_t` can take."""
        return self.pi.shape[0]

    @property
    def K(self) -> int:
        """Return K, the number of values that `x_0` can take."""
        return self.states if self.mask is None else self.mask

    def prior(self, shape: tuple[int, ...], stream: Uniforms) -> Int[Tensor, " ..."]:
        """Draw `x_1 ~ pi`: int64, of the shape that `stream.uniform(*shape)` has."""
        u = stream.uniform(*shape)
        return inverse_cdf(self.pi.to(u.device), u)

    def couple(self, shape: tuple[int, ...], stream: Uniforms) -> Coupling:
        """Draw all randomness of a corruption path, for any number of times."""
        return Coupling(stream.fold(0).uniform(*shape), self.prior(shape, stream.fold(1)))

    def corrupt(self, x_0: Int[Tensor, "*x"], t: Tensor | float, coupling: Coupling) -> Int[Tensor, "*x"]:
        """Return `x_t ~ q(x_t | x_0)`; under one coupling the corrupted sites grow with `t`.

        Args:
            x_0: tokens, int64 [B, ...].
            t: time, (), (B,) or (B, L).
            coupling: as drawn by `couple`, of the shape of `x_0`.
        """
        coupling = coupling.to(x_0.device)
        return torch.where(self.schedule.alpha(at_sites(t, x_0)) > coupling.u, x_0, coupling.n)

    def corrupt_count(
        self,
        x_0: Int[Tensor, "*b l"],
        count: Tensor | int,
        coupling: Coupling,
        block: int | None = None,
        sites: Bool[Tensor, "*b l"] | None = None,
    ) -> Int[Tensor, "*b l"]:
        """Corrupt exactly `count` sites of each row or block: those of the highest levels, hence nested in `count`.

        Args:
            x_0: tokens [B, L].
            count: number of sites, (), (B,) or (B, L / block).
            coupling: as drawn by `couple`.
            block: sites per block; the whole row when None.
            sites: bool [B, L], the sites that may be corrupted (all when None); `count` may not exceed them.

        Raises:
            UsageError: `block` does not divide L.
        """
        length = x_0.shape[-1]
        block = block or length
        if length % block:
            raise UsageError(f"does not divide the length {length}", field="block", value=block)
        coupling = coupling.to(x_0.device)
        u = coupling.u if sites is None else coupling.u.masked_fill(~sites, -1.0)
        rank = u.unflatten(-1, (-1, block)).argsort(-1, descending=True).argsort(-1)
        count = torch.as_tensor(count, device=x_0.device)
        count = count[:, None] if count.ndim == 1 else count
        return torch.where((rank < count[..., None]).flatten(-2), coupling.n, x_0)

    def log_likelihood(self, x_t: Int[Tensor, "*x"], t: Tensor | float) -> Float64[Tensor, "*x k"]:
        """Return `log q(x_t | x_0 = v)` for every `v`: float64 [..., K]."""
        t = at_sites(t, x_t)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        other = sigma * self.noise(x_t)
        own = torch.arange(self.K, device=x_t.device) == x_t[..., None]
        return torch.where(own, safe_log(alpha + other)[..., None], safe_log(other)[..., None])

    def forward(
        self, x_0: Int[Tensor, "*x"] | Float[Tensor, "*x k"], t: Tensor | float
    ) -> Float64[Tensor, "*x states"]:
        """Return the law `q(x_t | x_0)`: probabilities, float64 [..., K'], of tokens or probabilities `x_0`."""
        clean = self.distribution(x_0)
        t = at_sites(t, clean[..., 0])[..., None]
        return self.schedule.alpha(t) * clean + self.schedule.sigma(t) * self.pi.to(clean.device)

    def bridge(
        self,
        x_t: Int[Tensor, "*x"],
        x_0: Int[Tensor, "*x"] | Float[Tensor, "*x k"],
        t: Tensor | float,
        s: Tensor | float,
    ) -> Float64[Tensor, "*x states"]:
        """Return `log q(x_s | x_t, x_0)`, s < t: float64 [..., K'].

        Where `x_t` is impossible given `x_0` (an unmasked site that the prediction contradicts) the site keeps `x_t`.

        Args:
            x_t: tokens [B, ...].
            x_0: tokens [B, ...], or probabilities [B, ..., K].
            t, s: times, (), (B,) or (B, L).
        """
        stay, move = self._ratio(at_sites(t, x_t), at_sites(s, x_t))
        here = one_hot(x_t, self.states).to(torch.float64)
        ahead = stay[..., None] * here + (move * self.noise(x_t))[..., None]
        p = ahead * self.forward(x_0, s)
        total = p.sum(-1, keepdim=True)
        return safe_log(torch.where(total > 0, p / total.masked_fill(total <= 0, 1.0), here))

    def reverse(
        self, prediction: Prediction, x_t: Int[Tensor, "*x"], t: Tensor | float, s: Tensor | float
    ) -> Float64[Tensor, "*x states"]:
        """Return `log p(x_s | x_t)` of each site under `prediction`, of either kind: float64 [..., K']."""
        return self.bridge(x_t, prediction.leave_one_out(x_t, t, self).log_p.to(torch.float64).exp(), t, s)

    def rate(
        self, prediction: Prediction, x_t: Int[Tensor, "*x"], x_0: Int[Tensor, "*x"], t: Tensor | float
    ) -> Float64[Tensor, "*x"]:
        """Return the integrand of the bound at each site, in nats per unit time: float64 [B, ...].

        Args:
            prediction: of `x_0` given `x_t`.
            x_t, x_0: tokens [B, ...].
            t: time, (), (B,) or (B, L).
        """
        time = at_sites(t, x_t)
        slope = -self.schedule.slope(time)
        if self.mask is not None:
            masked = x_t == self.mask
            nll = -prediction.log_p.gather(-1, x_0[..., None])[..., 0].to(torch.float64)
            return torch.where(masked, slope / self.schedule.sigma(time), 0.0) * torch.where(masked, nll, 0.0)
        log_r_hat = prediction.score(x_t, t, self)
        log_q = safe_log(self.forward(x_0, t))
        log_r = log_q - log_q.gather(-1, x_t[..., None])
        live = log_r > -torch.inf
        gap = torch.where(live, log_r_hat, 0.0) - torch.where(live, log_r, 0.0)
        excess = torch.where(live, log_r.exp() * (torch.expm1(gap) - gap), log_r_hat.exp()).sum(-1)
        weight = slope / self.schedule.alpha(time) * self.noise(x_t)
        live = (weight > 0) & weight.isfinite()
        return torch.where(live, weight, 0.0) * torch.where(live, excess, 0.0)

    def noise(self, x_t: Int[Tensor, "*x"]) -> Float64[Tensor, "*x"]:
        """Return `pi(x_t)` at each site, float64 [...]."""
        return self.pi.to(x_t.device)[x_t]

    def distribution(self, x_0: Int[Tensor, "*x"] | Float[Tensor, "*x k"]) -> Float64[Tensor, "*x states"]:
        """Return `x_0`, tokens [...] or probabilities [..., K], as probabilities over states: float64 [..., K']."""
        if not x_0.is_floating_point():
            return one_hot(x_0, self.states).to(torch.float64)
        return pad(x_0.to(torch.float64), (0, self.states - x_0.shape[-1]))

    def _ratio(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return `a = alpha_t / alpha_s` and `1 - a`, the latter from whichever of alpha and sigma is small."""
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        drop = torch.where(alpha_t < 0.5, alpha_s - alpha_t, self.schedule.sigma(t) - self.schedule.sigma(s))
        alive = alpha_s > 0
        scale = torch.where(alive, alpha_s, 1.0)
        return torch.where(alive, alpha_t / scale, 1.0), torch.where(alive, drop / scale, 0.0)
