"""Laws tilted by a reward, by enumeration: `p* ∝ p_pre exp(r / alpha)`, and the law and path KL of any sampler.

The prior is a Markov chain whose denoiser is exact and differentiable: with the evidence e_i(v) = z_i(v) + z_i(mask) of
a one-hot state z, forward and backward messages give the posterior of each site. Uncovering one site a step in a
random order, a sampler with predictions p has the law

    q(all masked) = 1,      q(x with site i set to v) += q(x) p_i(v | x) / #masked,

over the (K + 1)^L states, and its path KL is the sum over states of q(x) / #masked times the KLs of its masked sites.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from benchmarks._oracle import index, sequences
from core.finetune import drakes
from core.finetune.base import Base
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.solvers.tokens import FirstHitting

__all__ = ["Chain", "Table", "Tuned", "enumerate_sampler", "floor", "prior", "random_chain", "tilt", "tune"]


class Chain(nn.Module):
    """The exact denoiser of a Markov chain over K tokens, from tokens or one-hot laws [B, L, K + 1].

    Args:
        start: law of the first token [K].
        move: transition matrices [L - 1, K, K].
    """

    start: Tensor
    move: Tensor

    def __init__(self, start: Tensor, move: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.double())
        self.register_buffer("move", move.double())

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return logits [B, L, K], the law of each site given the others."""
        K, length = len(self.start), len(self.move) + 1
        z = x_t.to(self.start) if x_t.is_floating_point() else one_hot(x_t, K + 1).to(self.start)
        evidence = z[..., :K] + z[..., K:]
        ahead, behind = [self.start.expand(len(z), -1)], [torch.ones_like(evidence[:, 0])]
        for i in range(length - 1):
            ahead.append((ahead[-1] * evidence[:, i]) @ self.move[i])
            behind.append((behind[-1] * evidence[:, length - 1 - i]) @ self.move[length - 2 - i].T)
        return (torch.stack(ahead, 1) * torch.stack(behind[::-1], 1)).clamp_min(1e-300).log()

    def law(self) -> Tensor:
        """Return the law over all sequences, float64 [K^L]."""
        law = self.start
        for move in self.move:
            law = law[..., None] * move
        return law.flatten()


class Tuned(nn.Module):
    """A network plus a correction of its logits, zero at first, by a perceptron on the state and its masks."""

    def __init__(self, network: nn.Module, length: int, K: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.shape = network, (length, K)
        self.inner = nn.Sequential(
            nn.Linear(length * (K + 1), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, length * K),
        ).to(dtype)  # fmt: skip
        last = self.inner[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return logits [B, L, K]."""
        dtype = next(self.inner.parameters()).dtype
        z = x_t.to(dtype) if x_t.is_floating_point() else one_hot(x_t, self.shape[1] + 1).to(dtype)
        return self.network(x_t, t) + self.inner(z.flatten(1)).view(-1, *self.shape)


@dataclass(frozen=True, eq=False)
class Table:
    """A reward given for every sequence, `values` [K^L]; at laws, its expectation under independent sites."""

    values: Tensor
    K: int
    name: str = "table"

    def score(self, x: Tensor) -> Tensor:
        """Return the rewards [B]."""
        return self.values[index(x, self.K)]

    def soft(self, p: Tensor) -> Tensor:
        """Return the multilinear extension [B] at laws [B, L, K]."""
        p = p.to(self.values)
        rest = p[:, 0] @ self.values.view(self.K, -1)
        for i in range(1, p.shape[1]):
            rest = (p[:, i, :, None] * rest.view(len(p), self.K, -1)).sum(1)
        return rest[:, 0]


def random_chain(K: int, length: int, seed: int) -> Chain:
    """Return a random chain, every transition possible."""
    g = torch.Generator().manual_seed(seed)
    start = torch.rand(K, generator=g, dtype=torch.float64).square() + 0.05
    move = torch.rand(length - 1, K, K, generator=g, dtype=torch.float64).square() + 0.05
    return Chain(start / start.sum(), move / move.sum(-1, keepdim=True))


def prior(network: Callable[[Tensor, Tensor], Tensor], K: int, length: int) -> Base:
    """Return the sampler that uncovers one site a step, whose law is the network's own."""
    return Base(network, Categorical.absorbing(K), uniform_plan(length), length, solver=FirstHitting())


def tilt(law: Tensor, reward: Tensor, alpha: float) -> Tensor:
    """Return `p* ∝ law exp(reward / alpha)`."""
    return (law.log() + reward / alpha).softmax(-1)


def floor(law: Tensor, draws: int) -> float:
    """Return the expected total variation between a law and the frequencies of independent draws from it.

    Half the sum of the mean absolute deviations of binomials, `2 (k + 1) C(n, k + 1) p^(k + 1) (1 - p)^(n - k) / n`
    with k = floor(n p) (de Moivre, 1730).
    """
    p = law[law > 0].clamp(max=1 - 1e-15)
    k, n = (draws * p).floor(), torch.tensor(float(draws), dtype=torch.float64)
    choose = torch.lgamma(n + 1) - torch.lgamma(k + 2) - torch.lgamma(n - k)
    return float(((k + 1).log() + choose + (k + 1) * p.log() + (n - k) * torch.log1p(-p)).exp().sum() / draws)


def tune(
    network: nn.Module, reward: Table, alpha: float, updates: int, batch: int, temperature: float, seed: int = 0
) -> Tuned:
    """Return the correction of a network that DRAKES finds, back-propagating through all steps."""
    torch.manual_seed(seed)
    length = round(math.log(len(reward.values), reward.K))
    policy = Tuned(network, length, reward.K, 128, torch.float64)
    optimiser = torch.optim.Adam(policy.inner.parameters(), lr=5e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    base = prior(policy, reward.K, length)
    for n in range(updates):
        stream = Stream.of(seed, 1).fold(n)
        value, _ = drakes.loss(policy, network, base, reward, alpha, length, temperature, batch, stream)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        slower.step()
    return policy


@torch.no_grad()
def enumerate_sampler(network: nn.Module, other: nn.Module, K: int, length: int) -> tuple[Tensor, float]:
    """Return the law [K^L] of the sampler that uncovers one site a step, and its path KL to another network's."""
    states = sequences(K + 1, length)
    log_p, log_q = (_tabulate(net, states, K) for net in (network, other))
    letters, kl = (states < K).sum(-1), 0.0
    law = torch.zeros(len(states), dtype=torch.float64)
    law[-1] = 1.0
    for n in range(length):
        for i in range(length):
            rows = ((letters == n) & (states[:, i] == K)).nonzero()[:, 0]
            mass = law[rows] / (length - n)
            kl += float(mass @ drakes.divergence(log_p[rows, i], log_q[rows, i]))
            after = rows[:, None] + (torch.arange(K) - K) * (K + 1) ** (length - 1 - i)
            law.index_add_(0, after.flatten(), (mass[:, None] * log_p[rows, i].exp()).flatten())
    return law[letters == length], kl


def _tabulate(network: nn.Module, states: Tensor, K: int) -> Tensor:
    parts = [network(x, torch.full((len(x),), 0.5, dtype=torch.float64)) for x in states.split(20_000)]
    return torch.cat(parts)[..., :K].double().log_softmax(-1)
