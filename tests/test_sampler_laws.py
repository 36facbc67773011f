"""Every token solver against the law it should follow, enumerated: a chi-square of what it draws, and no looser test.

The expected law pushes a vector over all states through the solver's definition, written out again here with the exact
denoiser; the observed one comes from the reverse loop itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from benchmarks._oracle import Oracle, chi_square, index, markov_law
from core.constrain.law import Free
from core.denoiser import Prediction
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.sample import Solver, denoise
from core.solvers.tokens import Ancestral, Confidence, Corrected, FirstHitting, InOrder, Remask, Threshold

LENGTH, DRAWS = 3, 60_000
Mixture = Iterable[tuple[Tensor, Tensor]]  # weights [M] and, for each, log-kernels of independent sites [M, L, K']


@dataclass
class Lookup:
    """The exact denoiser, tabulated over all states once per time."""

    oracle: Oracle
    table: dict[float, Tensor] = field(default_factory=dict)

    def all(self, t: float) -> Tensor:
        key = round(float(t), 6)
        if key not in self.table:
            self.table[key] = self.oracle.prediction(self.oracle.states, key).log_p
        return self.table[key]

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        return Prediction(self.all(float(t[0]))[index(x_t, self.oracle.process.states)], self.oracle.kind)


def exact(noise: str) -> Lookup:
    process = getattr(Categorical, noise)(3)
    return Lookup(Oracle(markov_law(3, LENGTH, seed=1), process, LENGTH))


def observed(net: Lookup, solver: Solver, steps: int, seed: int = 0) -> Tensor:
    process, stream = net.oracle.process, Stream.of(seed, DRAWS)
    window = Free(DRAWS, 3).window(Free(DRAWS, 3).begin(), torch.arange(DRAWS).numpy(), LENGTH, 0)
    x = process.prior((LENGTH,), stream.fold(9))
    x = denoise(net, process, uniform_plan(steps), window, solver, stream, x)
    return torch.bincount(index(x, 3), minlength=3**LENGTH)


def expected(net: Lookup, steps: int, kernel: Callable[[float, float, int], Mixture]) -> Tensor:
    process, states = net.oracle.process, net.oracle.states
    law = process.pi[states].prod(-1)
    grid = uniform_plan(steps).times.tolist()
    for left, (t, s) in zip(range(steps, 0, -1), itertools.pairwise(grid), strict=True):
        law = torch.stack(
            [(law * w) @ log_k.exp()[:, torch.arange(LENGTH), states].prod(-1) for w, log_k in kernel(t, s, left)]
        ).sum(0)
    clean = (states < 3).all(-1)
    assert float(law[~clean].sum()) < 1e-12
    return law[clean]


def uncover(net: Lookup, t: float, sites: Tensor) -> Tensor:
    """The kernel that draws masked `sites` [M, L] from the posterior and keeps the others."""
    states, width = net.oracle.states, net.oracle.process.states
    kept = one_hot(states, width).double().log()
    return torch.where(sites[..., None], pad(net.all(t), (0, 1), value=-torch.inf), kept)


def first(score: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    rank = score.masked_fill(~masked, -torch.inf).argsort(-1, descending=True).argsort(-1)
    return masked & (rank < count[:, None])


def share(masked: Tensor, left: int) -> Tensor:
    return (masked.sum(-1) + left - 1) // left


def masked_kernels(net: Lookup) -> dict[str, tuple[Solver, Callable[[float, float, int], Mixture]]]:
    """Each solver of masked sequences beside its definition."""
    process, states = net.oracle.process, net.oracle.states
    masked, one = states == 3, torch.ones(len(states), dtype=torch.float64)
    place = -torch.arange(LENGTH, dtype=torch.float64).expand_as(states)

    def ancestral(t: float, s: float, left: int) -> Mixture:
        yield one, process.reverse(Prediction(net.all(t)), states, t, s)

    def confidence(t: float, s: float, left: int) -> Mixture:
        yield one, uncover(net, t, first(net.all(t).amax(-1), masked, share(masked, left)))

    def in_order(t: float, s: float, left: int) -> Mixture:
        yield one, uncover(net, t, first(place, masked, share(masked, left)))

    def threshold(t: float, s: float, left: int) -> Mixture:
        best = net.all(t).amax(-1)
        sure = masked & (best.exp() >= 0.6)
        yield one, uncover(net, t, masked if left == 1 else sure | first(best, masked, torch.ones(len(states))))

    def first_hitting(t: float, s: float, left: int) -> Mixture:
        size = masked.sum(-1) if left == 1 else masked.sum(-1).clamp(max=2)
        patterns = torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))
        fits = (patterns[:, None] <= masked).all(-1) & (patterns[:, None].sum(-1) == size)
        for pattern, fit in zip(patterns, fits, strict=True):
            yield fit / fits.sum(0).double(), uncover(net, t, pattern & masked)

    def remask(t: float, s: float, left: int) -> Mixture:
        sigma = 0.3 * min(1.0, s / (1 - t)) if t < 1 else 0.0
        stay = (s - sigma * (1 - t)) / t
        drawn, kept, hidden = uncover(net, t, masked).exp(), one_hot(states, 4).double(), one_hot(torch.tensor(3), 4)
        p = torch.where(masked[..., None], stay * kept + (1 - stay) * drawn, (1 - sigma) * kept + sigma * hidden)
        yield one, p.log()

    return {
        "ancestral": (Ancestral(), ancestral),
        "confidence": (Confidence(), confidence),
        "in-order": (InOrder(), in_order),
        "threshold": (Threshold(0.6), threshold),
        "first-hitting": (FirstHitting(2), first_hitting),
        "remask": (Remask(0.3), remask),
    }


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["ancestral", "confidence", "in-order", "threshold", "first-hitting", "remask"])
def test_masked_solvers_follow_their_enumerated_law(name: str, steps: int) -> None:
    net = exact("absorbing")
    solver, kernel = masked_kernels(net)[name]
    assert chi_square(observed(net, solver, steps), expected(net, steps, kernel)) > 1e-3


@pytest.mark.parametrize("solver", [FirstHitting(), Confidence(), InOrder()], ids=lambda s: type(s).__name__)
def test_one_site_at_a_time_draws_the_data_law(solver: Solver) -> None:
    net = exact("absorbing")
    assert chi_square(observed(net, solver, LENGTH), net.oracle.law) > 1e-3


@pytest.mark.parametrize("noise", ["uniform", "absorbing"])
def test_the_test_can_tell_a_coarse_law_from_the_data(noise: str) -> None:
    net = exact(noise)
    assert chi_square(observed(net, Ancestral(), 2), net.oracle.law) < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_ancestral_uniform_follows_the_reverse_kernel(steps: int) -> None:
    net = exact("uniform")
    process, states = net.oracle.process, net.oracle.states
    one = torch.ones(len(states), dtype=torch.float64)

    def kernel(t: float, s: float, left: int) -> Mixture:
        yield one, process.reverse(Prediction(net.all(t)), states, t, s)

    assert chi_square(observed(net, Ancestral(), steps), expected(net, steps, kernel)) > 1e-3


def test_gibbs_corrections_follow_their_kernel() -> None:
    net, steps, rounds = exact("uniform"), 3, 2
    process, states = net.oracle.process, net.oracle.states
    one = torch.ones(len(states), dtype=torch.float64)
    law = process.pi[states].prod(-1)
    for t, s in itertools.pairwise(uniform_plan(steps).times.tolist()):
        log_k = process.reverse(Prediction(net.all(t)), states, t, s)
        law = (law * one) @ log_k.exp()[:, torch.arange(LENGTH), states].prod(-1)
        if s == 0:
            break
        log_c = Prediction(net.all(s)).conditional(states, s, process)
        for _ in range(rounds):
            moved = torch.zeros_like(law)
            for site in range(LENGTH):
                kept = one_hot(states, 3).double().log()
                kept[:, site] = log_c[:, site]
                moved += law @ kept.exp()[:, torch.arange(LENGTH), states].prod(-1) / LENGTH
            law = moved
    assert chi_square(observed(net, Corrected(Ancestral(), rounds), steps), law) > 1e-3


def test_a_draw_does_not_depend_on_the_size_of_its_batch() -> None:
    net = exact("absorbing")

    def run(n: int, start: int) -> Tensor:
        window = Free(n, 3).window(Free(n, 3).begin(), torch.arange(n).numpy(), LENGTH, 0)
        x = torch.full((n, LENGTH), 3)
        stream = Stream.of(4, n, first=start)
        return denoise(net, net.oracle.process, uniform_plan(3), window, Ancestral(), stream, x)

    assert torch.equal(run(40, 0)[10:15], run(5, 10))
