"""Offline tuning: from a scored pool of the prior's own sequences, without back-propagation through sampling.

**Reward-weighted likelihood.** With x_0 ~ p_pre and self-normalised weights w ∝ exp(r(x_0) / alpha), the minimiser of

    sum_i w_i NELBO_theta(x_0^i)

is p* ∝ p_pre exp(r / alpha) as the pool grows. The effective number of the weights says how many sequences carry it.

**SDPO.** At a noisy state x_t, N completions x_0^1..x_0^N of the prior's prediction p_pre(x_0 | x_t) are scored once.
The tuned prediction is fitted to theirs, tilted, on that group alone:

    loss = - sum_i softmax(r / alpha)_i log softmax(log p_theta(x_0 | x_t) - log p_pre(x_0 | x_t))_i,

a cross-entropy in which the implicit reward `log p_theta / p_pre` needs no normaliser, since all completions share
x_t. Its minimum over all predictions is p_pre(x_0 | x_t) exp(r / alpha), normalised; over products of sites, its
nearest product.

References: Han et al., 2025, arXiv:2507.04832 (stepwise decomposition preference optimisation; there the completions
come from one pool); Peters and Schaal, 2007, "Reinforcement learning by reward-weighted regression".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.denoiser import Prediction
from core.finetune.base import Base, address
from core.finetune.reward import Reward
from core.noise import Stream
from core.objective.elbo import count_terms, noise_by_count

__all__ = ["Groups", "Pool", "complete", "draw", "reward_weighted", "sdpo"]

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Pool:
    """Scored sequences of the prior: tokens [N, S] and rewards [N]."""

    x_0: Int[Tensor, "n s"]
    reward: Float[Tensor, " n"]

    def weights(self, alpha: float) -> Float[Tensor, " n"]:
        """Return exp(r / alpha) with mean 1 over the pool [N]."""
        return (self.reward / alpha).softmax(0) * len(self.reward)

    def effective(self, alpha: float) -> float:
        """Return the effective number of sequences."""
        return float(len(self.reward) ** 2 / self.weights(alpha).square().sum())


@dataclass(frozen=True, eq=False)
class Groups:
    """States with scored completions: x_t [G, S], times [G], x_0 [G, N, S], rewards [G, N]."""

    x_t: Int[Tensor, "g s"]
    t: Float[Tensor, " g"]
    x_0: Int[Tensor, "g n s"]
    reward: Float[Tensor, "g n"]

    def select(self, rows: Tensor) -> Groups:
        """Return some groups."""
        return Groups(self.x_t[rows], self.t[rows], self.x_0[rows], self.reward[rows])


@torch.no_grad()
def draw(base: Base, reward: Reward, n: int, stream: Stream) -> Pool:
    """Sample and score a pool of `n` sequences."""
    x_0 = base.sample(address(stream, n))
    return Pool(x_0, reward.score(x_0).double())


@torch.no_grad()
def complete(base: Base, reward: Reward, x_0: Int[Tensor, "g s"], count: int, stream: Stream) -> Groups:
    """Mask sequences of the prior [G, S] to a random degree, and score `count` completions of each."""
    stream = address(stream, len(x_0))
    sites = base.begin(len(x_0)) == base.mask
    noised = noise_by_count(base.process, x_0, stream.fold(0), sites=sites)
    known = torch.where(noised.x_t == base.mask, -1, noised.x_t)
    log_p, window = base.predict(noised.x_t, noised.t).log_p, base.law(len(x_0))
    drawn = [window.admit(log_p, known, known < 0, stream.fold(1, n).uniform(known.shape[1])) for n in range(count)]
    score = torch.stack([reward.score(x).double() for x in drawn], 1)
    return Groups(noised.x_t, noised.t, torch.stack(drawn, 1), score)


def reward_weighted(
    network: Network, base: Base, x_0: Int[Tensor, "b s"], weight: Float[Tensor, " b"], stream: Stream
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the weighted NELBO in nats per free site, and metrics.

    Args:
        network: what is tuned.
        base: the prior's sampler, for its noise and its free sites.
        x_0: tokens of a pool [B, S].
        weight: their weights [B] (`Pool.weights`).
        stream: of the noise.
    """
    sites = base.begin(len(x_0)) == base.mask
    tuned, rows = replace(base, network=network), address(stream, len(x_0))

    def predict(x_t: Tensor, t: Tensor, context: object = None) -> Prediction:
        return tuned.predict(x_t, t)

    nats = count_terms(predict, base.process, x_0, rows, sites=sites)
    loss = (weight * nats).sum() / sites.sum().clamp_min(1)
    return loss, {"nll": (nats.sum() / sites.sum().clamp_min(1)).detach(), "loss": loss.detach()}


def sdpo(
    network: Network, prior: Network, base: Base, groups: Groups, alpha: float
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the cross-entropy between tilted and implicit rewards over each group, and metrics.

    Args:
        network: what is tuned.
        prior: where it started.
        base: the prior's sampler.
        groups: states with scored completions.
        alpha: reward units per nat.
    """
    log_p = replace(base, network=network).predict(groups.x_t, groups.t).log_p
    with torch.no_grad():
        log_q = replace(base, network=prior).predict(groups.x_t, groups.t).log_p
        target = (groups.reward / alpha).softmax(-1)
    masked = (groups.x_t == base.mask)[:, None]
    at = [torch.where(masked, _gather(law, groups.x_0), 0.0) for law in (log_p, log_q)]
    implicit = (at[0] - at[1]).sum(-1)
    loss = -(target * implicit.log_softmax(-1)).sum(-1).mean()
    least = -torch.special.xlogy(target, target).sum(-1).mean()
    return loss, {"loss": loss.detach(), "excess": (loss - least).detach()}


def _gather(log_p: Tensor, x: Tensor) -> Tensor:
    """Return the log-probabilities [G, N, S] of completions."""
    return log_p[:, None].expand(-1, x.shape[1], -1, -1).gather(-1, x[..., None])[..., 0]
