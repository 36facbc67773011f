"""Toy laws small enough to enumerate, with denoisers that are exact.

A law over `N = V^L` sequences is one vector, so every quantity that diffusion only bounds or estimates is here a
finite sum:

    p(x_t)   = sum_x law(x) prod_i q(x_t^i | x^i)
    D^i(v)   = sum_{x : x^i = v} law(x) prod_j q(x_t^j | x^j) / p(x_t)
    l^i(v)   the same with the factor j = i left out

and a sampler's law is found by pushing a vector over all states of `x_t` through its kernel, one step after the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.denoiser import Denoiser, Kind, Prediction, log_normalise
from core.process.categorical import Categorical

__all__ = [
    "Oracle",
    "chi_square",
    "count_bound",
    "markov_law",
    "propagate",
    "rate_bound",
    "sequences",
    "total_variation",
]


def sequences(values: int, length: int) -> Tensor:
    """Return all `values^length` sequences in lexicographic order: int64 [N, L]."""
    return torch.cartesian_prod(*[torch.arange(values)] * length).reshape(-1, length)


def index(x: Tensor, values: int) -> Tensor:
    """Return the row of each sequence `x` [..., L] in `sequences(values, L)`."""
    place = values ** torch.arange(x.shape[-1] - 1, -1, -1)
    return (x * place).sum(-1)


def markov_law(values: int = 3, length: int = 4, seed: int = 0) -> Tensor:
    """Return the law of a random Markov chain over all sequences: float64 [V^L], every entry positive."""
    g = torch.Generator().manual_seed(seed)
    start = torch.rand(values, generator=g, dtype=torch.float64).pow(2).add(0.05)
    move = torch.rand(values, values, generator=g, dtype=torch.float64).pow(2).add(0.05)
    start, move = start / start.sum(), move / move.sum(-1, keepdim=True)
    x = sequences(values, length)
    law = start[x[:, 0]]
    for i in range(1, length):
        law = law * move[x[:, i - 1], x[:, i]]
    return law


def total_variation(p: Tensor, q: Tensor) -> float:
    """Return half the L1 distance of two laws."""
    return float((p - q).abs().sum() / 2)


def chi_square(counts: Tensor, law: Tensor, smallest: float = 5.0) -> float:
    """Return the p-value of counts under `law`; cells that expect fewer than `smallest` are pooled into one.

    A count in a cell of probability 0 gives p = 0.
    """
    from scipy.stats import chi2

    counts, expected = counts.to(torch.float64), law.to(torch.float64) * counts.sum()
    if bool((counts[expected == 0] > 0).any()):
        return 0.0
    rare = expected < smallest
    seen = torch.cat([counts[~rare], counts[rare].sum()[None]])
    mean = torch.cat([expected[~rare], expected[rare].sum()[None]])
    seen, mean = seen[mean > 0], mean[mean > 0]
    return float(chi2.sf(float(((seen - mean).square() / mean).sum()), max(len(mean) - 1, 1)))


@dataclass(frozen=True, eq=False)
class Oracle:
    """The exact denoiser of `law` [V^L] under `process`; called, it returns a prediction of `kind`."""

    law: Tensor
    process: Categorical
    length: int
    kind: Kind = "posterior"

    @property
    def x(self) -> Tensor:
        """Return all data sequences, int64 [N, L]."""
        return sequences(self.process.K, self.length)

    @property
    def states(self) -> Tensor:
        """Return all noisy sequences, int64 [K'^L, L]."""
        return sequences(self.process.states, self.length)

    @property
    def entropy(self) -> float:
        """Return the entropy of the data in nats."""
        return float(-torch.special.xlogy(self.law, self.law).sum())

    def evidence(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """Return `q(x_t^i | x^i)` for every data sequence: float64 [B, N, L]."""
        likelihood = self.process.log_likelihood(x_t, t).exp()
        if self.process.mask is not None:  # constant factors cancel, and 0/0 at the ends of time with them
            masked = (x_t == self.process.mask)[..., None]
            likelihood = torch.where(masked, 1.0, (torch.arange(self.process.K) == x_t[..., None]).to(torch.float64))
        return likelihood.transpose(1, 2)[:, self.x, torch.arange(self.length)]

    def marginal(self, t: float) -> Tensor:
        """Return the law of `x_t` over `states`: float64 [K'^L]."""
        kernel = self.process.forward(torch.arange(self.process.K), t)
        per_site = kernel[self.x[:, None], self.states[None]]
        return self.law @ per_site.prod(-1)

    def prediction(self, x_t: Tensor, t: Tensor | float, kind: Kind | None = None) -> Prediction:
        """Return the exact `Prediction` for `x_t` [B, L]; impossible states get the uniform law."""
        factor = self.evidence(x_t, t)
        kind = kind or self.kind
        if kind == "posterior":
            weight = (self.law * factor.prod(-1))[..., None].expand(-1, -1, self.length)
        else:
            others = [factor[..., [j for j in range(self.length) if j != i]].prod(-1) for i in range(self.length)]
            weight = self.law[:, None] * torch.stack(others, -1)
        value = torch.nn.functional.one_hot(self.x, self.process.K).to(torch.float64)
        p = torch.einsum("bnl,nlv->blv", weight, value)
        return Prediction(log_normalise(p.log(), torch.zeros_like(p)), kind)

    def __call__(self, x_t: Tensor, t: Tensor, context: Any = None) -> Prediction:
        return self.prediction(x_t, t)


def count_bound(denoiser: Denoiser, process: Categorical, x_0: Tensor, block: int | None = None) -> Tensor:
    """Return the count form of each sequence `x_0` [B, L] exactly, over all masks of each block: nats, float64 [B].

    Blocks before the current one are clean and those after it masked, which is what a block-causal denoiser sees.
    """
    if process.mask is None:
        raise ValueError("the count form needs absorbing noise")
    length = x_0.shape[-1]
    block = block or length
    total = torch.zeros(len(x_0), dtype=torch.float64)
    for start in range(0, length, block):
        for n in range(1, block + 1):
            choices = list(itertools.combinations(range(start, start + block), n))
            for chosen in choices:
                x_t = x_0.clone()
                x_t[:, start + block :] = process.mask
                x_t[:, list(chosen)] = process.mask
                t = torch.full((len(x_0),), n / block, dtype=torch.float64)
                log_p = denoiser(x_t, t).log_p.gather(-1, x_0[..., None])[..., 0]
                total -= log_p[:, list(chosen)].sum(-1).to(torch.float64) / (n * len(choices))
    return total


def rate_bound(denoiser: Denoiser, process: Categorical, x_0: Tensor, points: int = 400) -> Tensor:
    """Return the rate form of each sequence, exact in `x_t`, by Gauss-Legendre quadrature in `t ** (1/4)`: float64 [B].

    The fourth root flattens the `log t` that the integrand has at the data end.
    """
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(points)
    length = x_0.shape[-1]
    states = sequences(process.states, length)
    total = torch.zeros(len(x_0), dtype=torch.float64)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        t, weight = torch.tensor(node**4, dtype=torch.float64), weight * 4 * node**3
        reach = process.forward(x_0, t)[:, torch.arange(length), states].prod(-1)
        prediction = denoiser(states, t.expand(len(states)))
        for b in range(len(x_0)):
            rate = process.rate(prediction, states, x_0[b].expand_as(states), t).sum(-1)
            total[b] += weight * (reach[b] * torch.where(reach[b] > 0, rate, 0.0)).sum()
    return total


Kernel = Callable[[Tensor, float, float], Tensor]


def propagate(process: Categorical, length: int, grid: list[float], kernel: Kernel) -> Tensor:
    """Return the law over `sequences(K', L)` that a sampler of independent sites reaches at `grid[-1]`.

    Args:
        grid: decreasing times; the state starts from the prior at `grid[0]`.
        kernel: (states [M, L], t, s) -> log p(x_s^i | x_t), [M, L, K'].
    """
    states = sequences(process.states, length)
    law = process.pi[states].prod(-1)
    for t, s in itertools.pairwise(grid):
        per_site = kernel(states, t, s).exp()
        law = law @ per_site[:, torch.arange(length), states].prod(-1)
    return law


def mislabelled(oracle: Oracle) -> Callable[..., Prediction]:
    """Return the classical mistake as a denoiser: posteriors that claim to be leave-one-outs."""
    return lambda x_t, t, context=None: replace(oracle.prediction(x_t, t, "posterior"), kind="leave_one_out")
