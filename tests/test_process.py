"""Laws of schedules and of categorical corruption, against enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from benchmarks._oracle import Oracle, chi_square, markov_law, mislabelled, propagate, sequences, total_variation
from core.denoiser import Prediction
from core.errors import UsageError
from core.noise import Stream
from core.process.categorical import Categorical
from core.process.schedule import Clipped, Cosine, Linear, Polynomial, Schedule, log_linear, schedule

EXACT: list[Schedule] = [Linear(), Cosine(), Polynomial(0.5), Polynomial(2.0), Polynomial(4.0)]
SHORT: list[Schedule] = [log_linear(), Clipped(Cosine(), 0.3, 0.8)]
NOISES = ["absorbing", "uniform", "marginal", "gapped"]


def process(noise: str, K: int = 3, clock: Schedule | None = None) -> Categorical:
    if noise == "marginal":
        return Categorical.marginal(torch.tensor([0.2, 0.5, 0.3])[:K], clock)
    if noise == "gapped":  # a noise law that never produces one of the tokens
        return Categorical.marginal(torch.tensor([0.4, 0.6, 0.0])[:K], clock)
    return getattr(Categorical, noise)(K, clock)


def matrix(law: Categorical, a: float) -> Tensor:
    """The one-site kernel that keeps a token with probability `a`: [K', K']."""
    return a * torch.eye(law.states, dtype=torch.float64) + (1 - a) * law.pi


@pytest.mark.parametrize("clock", EXACT + SHORT, ids=repr)
def test_schedule_is_monotone_invertible_and_differentiable(clock: Schedule) -> None:
    t = torch.linspace(1e-3, 1 - 1e-3, 997, dtype=torch.float64, requires_grad=True)
    alpha = clock.alpha(t)
    assert alpha.dtype == torch.float64 and bool((alpha.diff() < 0).all())
    assert torch.allclose(alpha + clock.sigma(t), torch.ones_like(alpha), rtol=0, atol=1e-15)
    (slope,) = torch.autograd.grad(alpha.sum(), t)
    assert torch.allclose(slope, clock.slope(t), rtol=1e-12, atol=1e-12)
    assert float((clock.inverse(clock.logit(t)) - t).detach().abs().max()) < 1e-12
    assert clock.alpha(torch.rand(2, 3)).shape == (2, 3) and clock.alpha(0.5).shape == ()


@pytest.mark.parametrize("clock", EXACT, ids=repr)
def test_schedule_runs_from_data_to_noise(clock: Schedule) -> None:
    assert (float(clock.alpha(0.0)), float(clock.sigma(0.0))) == (1.0, 0.0)
    assert (float(clock.alpha(1.0)), float(clock.sigma(1.0))) == (0.0, 1.0)
    assert float(clock.inverse(torch.inf)) == 0.0 and float(clock.inverse(-torch.inf)) == 1.0


def test_clipped_schedule_stays_inside_and_names_are_checked() -> None:
    low, high = SHORT[1].sigma(torch.tensor([0.0, 1.0])).tolist()
    assert low == pytest.approx(0.3, abs=1e-15) and high == pytest.approx(0.8, abs=1e-15)
    assert schedule("polynomial", power=3.0) == Polynomial(3.0)
    with pytest.raises(UsageError, match="cosine"):
        schedule("cosin")
    with pytest.raises(UsageError, match="clipped"):
        Clipped(Linear(), 0.8, 0.3)


@pytest.mark.parametrize("noise", NOISES)
def test_marginal_after_step_is_marginal(noise: str) -> None:
    law = process(noise, clock=Cosine())
    for s, t in [(0.0, 0.4), (0.2, 0.5), (0.5, 1.0)]:
        a = float(law.schedule.alpha(t) / law.schedule.alpha(s))
        q_s, q_t = (law.forward(torch.arange(law.K), u) for u in (s, t))
        assert torch.allclose(q_s @ matrix(law, a), q_t, rtol=0, atol=1e-14)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("t", "s"), [(0.7, 0.4), (0.7, 0.0), (1.0, 0.4), (1.0, 0.0), (0.4, 0.4 - 1e-9)])
def test_bridge_is_bayes(noise: str, t: float, s: float) -> None:
    law = process(noise)
    a = float(law.schedule.alpha(t) / law.schedule.alpha(s))
    for x_t, x_0 in itertools.product(range(law.states), range(law.K)):
        joint = law.forward(torch.tensor([x_0]), s)[0] * matrix(law, a)[:, x_t]
        got = law.bridge(torch.tensor([[x_t]]), torch.tensor([[x_0]]), t, s)[0, 0].exp()
        possible = float(joint.sum()) > 0
        want = joint / joint.sum() if possible else torch.eye(law.states, dtype=torch.float64)[x_t]
        assert torch.allclose(got, want, rtol=0, atol=1e-14 if t - s > 1e-6 else 1e-12), (x_t, x_0)


def test_time_may_differ_by_row_and_by_site() -> None:
    law, x_t, x_0 = process("absorbing"), torch.tensor([[3, 3], [3, 1]]), torch.tensor([[0, 1], [2, 1]])
    t = torch.tensor([[0.9, 0.6], [0.8, 0.3]], dtype=torch.float64)
    s = torch.tensor([[0.5, 0.1], [0.2, 0.2]], dtype=torch.float64)
    whole = law.bridge(x_t, x_0, t, s)
    for b, i in itertools.product(range(2), range(2)):
        one = law.bridge(x_t[b : b + 1, i : i + 1], x_0[b : b + 1, i : i + 1], t[b, i], s[b, i])
        assert torch.equal(whole[b, i], one[0, 0])
    assert torch.equal(law.bridge(x_t, x_0, t[:, 0], s[:, 0])[1], law.bridge(x_t, x_0, 0.8, 0.2)[1])


@pytest.mark.parametrize("noise", NOISES)
def test_corruption_has_its_marginals_and_is_nested(noise: str) -> None:
    law, n = process(noise, clock=Polynomial(2.0)), 200_000
    x_0 = torch.arange(law.K).expand(n // law.K, law.K)
    coupling = law.couple((law.K,), Stream.of(1, len(x_0)))
    before = torch.zeros_like(x_0, dtype=torch.bool)
    for t in (0.1, 0.5, 0.9):
        x_t = law.corrupt(x_0, t, coupling)
        for v in range(law.K):
            counts = torch.bincount(x_t[:, v], minlength=law.states)
            assert chi_square(counts, law.forward(torch.tensor([v]), t)[0]) > 1e-4
        hit = law.schedule.alpha(t) <= coupling.u
        assert bool((hit >= before).all()) and torch.equal(x_t, torch.where(hit, coupling.n, x_0))
        before = hit
    assert torch.equal(law.corrupt(x_0, 0.0, coupling), x_0)
    assert torch.equal(law.corrupt(x_0, 1.0, coupling), coupling.n)


def test_corruption_of_a_sample_does_not_depend_on_its_batch() -> None:
    law = process("uniform")
    whole, part = law.couple((5,), Stream.of(3, 8)), law.couple((5,), Stream.of(3, 2, first=4))
    assert torch.equal(whole.u[4:6], part.u) and torch.equal(whole.n[4:6], part.n)


def test_exact_counts_choose_every_subset_equally_and_nest() -> None:
    law, n = process("absorbing"), 60_000
    x_0, coupling = torch.zeros(n, 4, dtype=torch.long), law.couple((4,), Stream.of(2, n))
    masks = [(law.corrupt_count(x_0, k, coupling) == 3) for k in range(5)]
    assert [m.sum(-1).unique().tolist() for m in masks] == [[k] for k in range(5)]
    assert all(bool((b >= a).all()) for a, b in itertools.pairwise(masks))
    cells = (masks[2].long() * 2 ** torch.arange(4)).sum(-1)
    counts = torch.bincount(cells, minlength=16)[[3, 5, 6, 9, 10, 12]]
    assert chi_square(counts, torch.full((6,), 1 / 6)) > 1e-4


def test_exact_counts_per_block_and_among_allowed_sites() -> None:
    law = process("absorbing")
    x_0, coupling = torch.zeros(50, 6, dtype=torch.long), law.couple((6,), Stream.of(2, 50))
    x_t = law.corrupt_count(x_0, torch.tensor([[1, 3]]).expand(50, 2), coupling, block=3)
    assert (x_t == 3).unflatten(-1, (2, 3)).sum(-1).unique(dim=0).tolist() == [[1, 3]]
    sites = torch.tensor([True, False, True, True, False, True]).expand(50, 6)
    x_t = law.corrupt_count(x_0, torch.full((50,), 4), coupling, sites=sites)
    assert torch.equal(x_t == 3, sites)
    with pytest.raises(UsageError, match="block"):
        law.corrupt_count(x_0, 1, coupling, block=4)


def test_prior_is_the_noise_law() -> None:
    law = process("marginal")
    draws = law.prior((40,), Stream.of(0, 2_000))
    assert draws.shape == (2_000, 40) and chi_square(torch.bincount(draws.flatten(), minlength=3), law.pi) > 1e-4
    with pytest.raises(UsageError, match="probabilities"):
        Categorical.marginal(torch.tensor([0.5, -0.1]))


@pytest.mark.parametrize("noise", NOISES)
def test_reverse_averages_the_bridge_over_the_posterior(noise: str) -> None:
    law = process(noise)
    oracle = Oracle(markov_law(3, 3), law, 3)
    x_t, t, s = oracle.states, 0.6, 0.25
    posterior = oracle.prediction(x_t, t, "posterior")
    bridges = torch.stack([law.bridge(x_t, torch.full_like(x_t, v), t, s).exp() for v in range(3)], -1)
    want = (bridges * posterior.log_p.exp()[:, :, None]).sum(-1)
    for kind in ("posterior", "leave_one_out"):
        got = law.reverse(oracle.prediction(x_t, t, kind), x_t, t, s).exp()
        reachable = oracle.marginal(t) > 0
        assert torch.allclose(got[reachable], want[reachable], rtol=0, atol=1e-14)


@pytest.mark.parametrize("noise", NOISES)
def test_exact_posterior_is_a_martingale(noise: str) -> None:
    """D(x_t) = E D(x_s) when x_s follows the true reverse law, here by enumeration of the joint of (x_s, x_t)."""
    law, length, t, s = process(noise), 2, 0.7, 0.3
    oracle = Oracle(markov_law(3, length), law, length)
    states = oracle.states
    step = matrix(law, float(law.schedule.alpha(t) / law.schedule.alpha(s)))
    joint = oracle.marginal(s)[:, None] * step[states[:, None], states[None]].prod(-1)
    p_t = joint.sum(0)
    assert torch.allclose(p_t, oracle.marginal(t), rtol=0, atol=1e-14)
    d_s = oracle.prediction(states, s).log_p.exp()
    d_t = oracle.prediction(states, t).log_p.exp()
    mean = torch.einsum("st,slv->tlv", joint, d_s) / p_t.clamp(min=1e-300)[:, None, None]
    assert torch.allclose(mean[p_t > 0], d_t[p_t > 0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("noise", ["uniform", "marginal", "absorbing"])
def test_resampling_a_site_from_its_conditional_keeps_the_law(noise: str) -> None:
    law, length, s = process(noise), 3, 0.4
    oracle = Oracle(markov_law(3, length), law, length)
    states, p_s = oracle.states, oracle.marginal(s)
    conditional = oracle.prediction(states, s, "leave_one_out").conditional(states, s, law).exp()
    for i in range(length):
        others = [j for j in range(length) if j != i]
        same = (states[:, None, others] == states[None, :, others]).all(-1)
        kernel = conditional[:, i, :][:, states[:, i]] * same
        assert torch.allclose(p_s @ kernel, p_s, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("noise", "limit"), [("absorbing", 0.52), ("uniform", 0.57), ("marginal", 0.57)])
def test_ancestral_law_converges_with_the_number_of_steps(noise: str, limit: float) -> None:
    law, length = process(noise), 4
    oracle = Oracle(markov_law(3, length), law, length)
    errors = []
    for steps in (1, 4, 8, 16, 32):
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
        reached = propagate(law, length, grid, lambda x, t, s: law.reverse(oracle.prediction(x, t), x, t, s))
        if law.mask is not None:
            clean = (oracle.states != law.mask).all(-1)
            assert float(reached[~clean].sum()) == 0.0
            reached = reached[clean]
        errors.append(total_variation(reached, oracle.law))
    assert errors[0] > 0.15 and errors == sorted(errors, reverse=True)
    assert errors[3] / errors[2] < limit + 0.05 and errors[4] / errors[3] < limit


def test_posterior_mislabelled_as_leave_one_out_does_not_converge() -> None:
    """The classical mistake must be visible: the plug-in kernel stays far from the data, however many steps."""
    law, length = process("uniform"), 4
    oracle = Oracle(markov_law(3, length), law, length)
    wrong = mislabelled(oracle)

    def error(steps: int) -> float:
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
        kernel = lambda x, t, s: law.reverse(wrong(x, torch.tensor(t)), x, t, s)  # noqa: E731
        return total_variation(propagate(law, length, grid, kernel), oracle.law)

    assert error(32) > 0.1 and error(32) > 0.95 * error(8)


def test_reverse_keeps_a_site_that_the_prediction_contradicts() -> None:
    law = process("absorbing")
    log_p = torch.tensor([[[0.0, -torch.inf, -torch.inf]]], dtype=torch.float64)
    kept = law.reverse(Prediction(log_p), torch.tensor([[2]]), 0.6, 0.2).exp()
    assert kept.tolist() == [[[0.0, 0.0, 1.0, 0.0]]]


def test_sequences_are_in_lexicographic_order() -> None:
    assert sequences(3, 2).tolist() == [list(x) for x in itertools.product(range(3), repeat=2)]
