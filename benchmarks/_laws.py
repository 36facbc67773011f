"""The law that each token solver should follow, by enumeration, beside what the reverse loop draws.

The expected law pushes a vector over all states through the solver's definition, written here a second time as a
mixture of kernels of independent sites; the prediction is the exact denoiser's. The observed counts come from
`core.sample.denoise` and `core.blocks.generate`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from benchmarks._oracle import Oracle, index, markov_law
from core.blocks import generate
from core.constrain.law import Free
from core.denoiser import Prediction
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.sample import Solver, denoise
from core.solvers.tokens import Ancestral, Confidence, FirstHitting, InOrder, Remask, Threshold

__all__ = ["Lookup", "corrected_law", "definitions", "exact", "expected", "observed", "observed_blocks"]

Mixture = Iterable[tuple[Tensor, Tensor]]  # weights [M] and, for each, log-kernels of independent sites [M, L, K']
Definition = Callable[[float, float, int], Mixture]  # of (t, s, steps left)


@dataclass
class Lookup:
    """The exact denoiser, tabulated over all states once per time."""

    oracle: Oracle
    table: dict[float, Tensor] = field(default_factory=dict)

    def all(self, t: float) -> Tensor:
        """Return its log-probabilities at every state: float64 [K'^L, L, K]."""
        key = round(float(t), 6)
        if key not in self.table:
            self.table[key] = self.oracle.prediction(self.oracle.states, key).log_p
        return self.table[key]

    def __call__(self, x_t: Tensor, t: Tensor, context: Any = None) -> Prediction:
        return Prediction(self.all(float(t[0]))[index(x_t, self.oracle.process.states)], self.oracle.kind)

    def open(self, rows: int, length: int) -> Prefix:
        """Return the block-wise view of the denoiser."""
        return Prefix(self, torch.empty(rows, 0, dtype=torch.long))


@dataclass
class Prefix:
    """The exact denoiser after some committed tokens, later blocks being masked."""

    net: Lookup
    past: Tensor

    def enter(self, window: Any, state: np.ndarray) -> None:
        """Nothing to prepare."""

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Predict the current block."""
        done, size = self.past.shape[1], x_t.shape[1]
        rest = torch.full((len(x_t), self.net.oracle.length - done - size), self.net.oracle.process.mask or 0)
        whole = self.net(torch.cat([self.past, x_t, rest], 1), t)
        return Prediction(whole.log_p[:, done : done + size], whole.kind)

    def commit(self, x_0: Tensor) -> None:
        """Append a clean block."""
        self.past = torch.cat([self.past, x_0], 1)

    def select(self, rows: Tensor) -> None:
        """Keep some rows."""
        self.past = self.past[rows]


def exact(noise: str, length: int = 3) -> Lookup:
    """Return the exact denoiser of a Markov chain over 3 tokens under `absorbing` or `uniform` noise."""
    return Lookup(Oracle(markov_law(3, length, seed=1), getattr(Categorical, noise)(3), length))


def observed(net: Lookup, solver: Solver, steps: int, draws: int, seed: int = 0) -> Tensor:
    """Return how often the reverse loop draws each sequence: int64 [3^L]."""
    process, length, stream = net.oracle.process, net.oracle.length, Stream.of(seed, draws)
    window = Free(draws, 3).window(np.zeros(draws, np.int64), np.arange(draws), length, 0)
    x = process.prior((length,), stream.fold(9))
    x = denoise(net, process, uniform_plan(steps), window, solver, stream, x)
    return torch.bincount(index(x, 3), minlength=3**length)


def observed_blocks(net: Lookup, solver: Solver, steps: int, block: int, draws: int, seed: int = 0) -> Tensor:
    """Return how often the block sampler draws each sequence: int64 [3^L]."""
    x = generate(
        net,
        uniform_plan(steps),
        solver,
        constraint=Free(draws, 3),
        length=net.oracle.length,
        block=block,
        stream=Stream.of(seed, draws),
    )
    return torch.bincount(index(x, 3), minlength=3**net.oracle.length)


def push(net: Lookup, law: Tensor, mixture: Mixture) -> Tensor:
    """Push a law over all states through one step."""
    states, site = net.oracle.states, torch.arange(net.oracle.length)
    return torch.stack([(law * weight) @ log_k.exp()[:, site, states].prod(-1) for weight, log_k in mixture]).sum(0)


def expected(net: Lookup, steps: int, kernel: Definition) -> Tensor:
    """Return the law over clean sequences [3^L] of a solver on the grid of `steps` equal steps."""
    states = net.oracle.states
    law = net.oracle.process.pi[states].prod(-1)
    grid = itertools.pairwise(uniform_plan(steps).times.tolist())
    for left, (t, s) in zip(range(steps, 0, -1), grid, strict=True):
        law = push(net, law, kernel(t, s, left))
    return law[(states < 3).all(-1)]


def corrected_law(net: Lookup, steps: int, rounds: int) -> Tensor:
    """Return the law of `Corrected(Ancestral(), rounds)`: ancestral steps and Gibbs updates of a random site."""
    process, states, length = net.oracle.process, net.oracle.states, net.oracle.length
    one = torch.ones(len(states), dtype=torch.float64)
    law = process.pi[states].prod(-1)
    for t, s in itertools.pairwise(uniform_plan(steps).times.tolist()):
        law = push(net, law, [(one, process.reverse(Prediction(net.all(t)), states, t, s))])
        if s == 0:
            break
        log_c = Prediction(net.all(s)).conditional(states, s, process)
        kept = one_hot(states, process.states).double().log()
        moves = [torch.where((torch.arange(length) == i)[:, None], log_c, kept) for i in range(length)]
        for _ in range(rounds):
            law = push(net, law, [(one / length, move) for move in moves])
    return law


def definitions(net: Lookup) -> dict[str, tuple[Solver, Definition]]:
    """Return each solver beside its definition: all six when absorbing, the ancestral one otherwise."""
    process, states, length = net.oracle.process, net.oracle.states, net.oracle.length
    one = torch.ones(len(states), dtype=torch.float64)

    def ancestral(t: float, s: float, left: int) -> Mixture:
        yield one, process.reverse(Prediction(net.all(t)), states, t, s)

    if process.mask is None:
        return {"ancestral": (Ancestral(), ancestral)}
    masked = states == process.mask
    kept = one_hot(states, process.states).double()
    patterns = torch.tensor(list(itertools.product([False, True], repeat=length)))

    def uncover(t: float, sites: Tensor) -> Tensor:
        return torch.where(sites[..., None], pad(net.all(t), (0, 1), value=-torch.inf), kept.log())

    def first(score: Tensor, count: Tensor) -> Tensor:
        rank = score.masked_fill(~masked, -torch.inf).argsort(-1, descending=True).argsort(-1)
        return masked & (rank < count[:, None])

    def share(left: int) -> Tensor:
        return (masked.sum(-1) + left - 1) // left

    def confidence(t: float, s: float, left: int) -> Mixture:
        yield one, uncover(t, first(net.all(t).amax(-1), share(left)))

    def in_order(t: float, s: float, left: int) -> Mixture:
        yield one, uncover(t, first(-torch.arange(length, dtype=torch.float64).expand_as(states), share(left)))

    def threshold(t: float, s: float, left: int) -> Mixture:
        best = net.all(t).amax(-1)
        sure = (masked & (best.exp() >= 0.6)) | first(best, one)
        yield one, uncover(t, masked if left == 1 else sure)

    def first_hitting(t: float, s: float, left: int) -> Mixture:
        size = masked.sum(-1) if left == 1 else masked.sum(-1).clamp(max=2)
        fits = (patterns[:, None] <= masked).all(-1) & (patterns[:, None].sum(-1) == size)
        for pattern, fit in zip(patterns, fits, strict=True):
            yield fit / fits.sum(0).double(), uncover(t, pattern & masked)

    def remask(t: float, s: float, left: int) -> Mixture:
        sigma = 0.3 * min(1.0, s / (1 - t)) if t < 1 else 0.0
        stay = (s - sigma * (1 - t)) / t
        hidden = one_hot(torch.tensor(process.states - 1), process.states).double()
        revealed = stay * kept + (1 - stay) * uncover(t, masked).exp()
        yield one, torch.where(masked[..., None], revealed, (1 - sigma) * kept + sigma * hidden).log()

    return {
        "ancestral": (Ancestral(), ancestral),
        "confidence": (Confidence(), confidence),
        "in_order": (InOrder(), in_order),
        "threshold": (Threshold(0.6), threshold),
        "first_hitting": (FirstHitting(2), first_hitting),
        "remask": (Remask(0.3), remask),
    }
