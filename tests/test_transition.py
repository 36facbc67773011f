"""One reverse step as a law: draws, densities, divergences and gradients, against enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from benchmarks._oracle import Oracle, chi_square, index, markov_law, sequences
from core.denoiser import Prediction, subs
from core.noise import Stream
from core.process.categorical import Categorical
from core.transition import CategoricalTransition

PROCESSES = {
    "absorbing": Categorical.absorbing(3),
    "uniform": Categorical.uniform(3),
    "marginal": Categorical.marginal(torch.tensor([0.2, 0.5, 0.3])),
}


def step(noise: str, x_t: Tensor, seed: int | None = None) -> CategoricalTransition:
    """The exact step from t = 0.7 to s = 0.3, or one of random predictions."""
    law = PROCESSES[noise]
    prediction = Oracle(markov_law(3, x_t.shape[1]), law, x_t.shape[1]).prediction(x_t, 0.7)
    if seed is not None:
        logits = torch.randn(*x_t.shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        prediction = Prediction(logits.log_softmax(-1)) if law.mask is None else subs(logits, x_t, law.mask)
    return CategoricalTransition.step(law, prediction, x_t, 0.7, 0.3)


def start(noise: str) -> Tensor:
    return torch.tensor([[3, 1, 3]]) if noise == "absorbing" else torch.tensor([[0, 1, 2]])


@pytest.mark.parametrize("noise", PROCESSES)
def test_samples_follow_log_prob(noise: str) -> None:
    law, n = PROCESSES[noise], 100_000
    one = step(noise, start(noise))
    states = sequences(law.states, 3)
    p = CategoricalTransition(one.log_p.expand(len(states), -1, -1)).log_prob(states).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    x_s = CategoricalTransition(one.log_p.expand(n, -1, -1)).sample(Stream.of(0, n))
    assert chi_square(torch.bincount(index(x_s, law.states), minlength=len(states)), p) > 1e-3
    soft = CategoricalTransition(one.log_p.expand(n, -1, -1)).rsample(Stream.of(1, n))
    assert torch.allclose(soft.max(-1).values, torch.ones(n, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert chi_square(torch.bincount(index(soft.argmax(-1), law.states), minlength=len(states)), p) > 1e-3


@pytest.mark.parametrize("noise", PROCESSES)
def test_kl_is_the_sum_over_all_outcomes(noise: str) -> None:
    x_t = start(noise)
    a, b = step(noise, x_t), step(noise, x_t, seed=5)
    states = sequences(PROCESSES[noise].states, 3)
    log_a, log_b = (CategoricalTransition(q.log_p.expand(len(states), -1, -1)).log_prob(states) for q in (a, b))
    live = log_a > -torch.inf
    want = float((log_a[live].exp() * (log_a[live] - log_b[live])).sum())
    assert float(a.kl(b)) == pytest.approx(want, abs=1e-12) and want > 0
    assert float(a.kl(a)) == 0.0


def test_kl_is_infinite_without_support_and_its_gradient_finite_with_it() -> None:
    log_p = torch.tensor([[[0.5, 0.5, 0.0]]], dtype=torch.float64).log()
    log_q = torch.tensor([[[1.0, 0.0, 0.0]]], dtype=torch.float64).log()
    assert float(CategoricalTransition(log_p).kl(CategoricalTransition(log_q))) == torch.inf
    logits = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    x_t, law = torch.tensor([[3, 1]]), PROCESSES["absorbing"]
    a = CategoricalTransition.step(law, subs(logits, x_t, 3), x_t, 0.7, 0.3)
    b = CategoricalTransition.step(law, subs(logits.detach() + 1, x_t, 3), x_t, 0.7, 0.3)
    for value in (a.kl(b), b.kl(a), a.rsample(Stream.of(0, 1))[..., 0].sum()):
        (grad,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        assert bool(grad.isfinite().all())


@pytest.mark.parametrize("noise", PROCESSES)
def test_rsample_gradient_is_the_finite_difference_of_the_relaxation(noise: str) -> None:
    """Its gradient is that of softmax((log p + g) / tau) at the same noise, down to the network outputs."""
    law, x_t = PROCESSES[noise], start(noise)
    g = torch.Generator().manual_seed(0)
    theta = torch.randn(1, 3, 3, generator=g, dtype=torch.float64)
    w = torch.randn(1, 3, law.states, generator=g, dtype=torch.float64)
    stream = Stream.of(7, 1)

    def transition(x: Tensor) -> CategoricalTransition:
        prediction = Prediction(x.log_softmax(-1)) if law.mask is None else subs(x, x_t, law.mask)
        return CategoricalTransition.step(law, prediction, x_t, 0.7, 0.3, temperature=0.8)

    def soft(x: Tensor) -> Tensor:
        noise_ = -(-stream.uniform(3, law.states).log()).log()
        return (((transition(x).log_p + noise_) / 0.8).softmax(-1) * w).sum()

    x = theta.clone().requires_grad_()
    (grad,) = torch.autograd.grad((transition(x).rsample(stream) * w).sum(), x)
    for place in itertools.product(range(1), range(3), range(3)):
        bump = torch.zeros_like(theta)
        bump[place] = 1e-5
        difference = float(soft(theta + bump) - soft(theta - bump)) / 2e-5
        assert float(grad[place]) == pytest.approx(difference, rel=1e-4, abs=1e-8)


def paths(law: Categorical, length: int, grid: list[float], theta: Tensor) -> tuple[Tensor, Tensor]:
    """All trajectories of a table network from the prior on: their log-probabilities [P] and final states [P, L]."""
    states = sequences(law.states, length)

    def log_kernel(t: float, s: float) -> Tensor:
        logits = theta[index(states, law.states)]
        prediction = Prediction(logits.log_softmax(-1)) if law.mask is None else subs(logits, states, law.mask)
        one = CategoricalTransition.step(law, prediction, states, t, s)
        pairs = [
            CategoricalTransition(one.log_p[i : i + 1].expand(len(states), -1, -1)).log_prob(states)
            for i in range(len(states))
        ]
        return torch.stack(pairs)

    log_p = law.pi.log()[states].sum(-1)
    end = torch.arange(len(states))
    for t, s in itertools.pairwise(grid):
        log_p = (log_p[:, None] + log_kernel(t, s)[end]).flatten()
        end = torch.arange(len(states)).repeat(len(end))
        log_p, end = log_p[log_p > -torch.inf], end[log_p > -torch.inf]
    return log_p, states[end]


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_path_probabilities_sum_to_one_and_give_the_policy_gradient(noise: str) -> None:
    law, length = getattr(Categorical, noise)(2), 2
    g = torch.Generator().manual_seed(0)
    theta = torch.randn(law.states**length, length, 2, generator=g, dtype=torch.float64).requires_grad_()
    log_p, x_0 = paths(law, length, [1.0, 0.6, 0.3, 0.0], theta)
    reward = torch.randn(law.states**length, generator=g, dtype=torch.float64)[index(x_0, law.states)]
    assert float(log_p.detach().exp().sum()) == pytest.approx(1, abs=1e-12)
    (exact,) = torch.autograd.grad((log_p.exp() * reward).sum(), theta, retain_graph=True)
    weight = (log_p.exp() * (reward - 0.37)).detach()  # any baseline
    (policy,) = torch.autograd.grad((weight * log_p).sum(), theta)
    assert torch.allclose(exact, policy, rtol=0, atol=1e-12) and float(exact.abs().max()) > 1e-3


def test_sampling_does_not_depend_on_the_batch() -> None:
    x_t = torch.full((6, 3), 3)
    whole = step("absorbing", x_t).sample(Stream.of(0, 6))
    part = step("absorbing", x_t[:2]).sample(Stream.of(0, 2, first=3))
    assert torch.equal(whole[3:5], part)
