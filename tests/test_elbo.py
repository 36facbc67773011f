"""Bounds: exact for exact denoisers, above the exact likelihood for all others, unbiased when sampled."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from benchmarks._oracle import Oracle, count_bound, index, markov_law, mislabelled, propagate, rate_bound, sequences
from core.denoiser import Prediction, subs
from core.errors import UsageError
from core.noise import Stream
from core.objective.block import Interval, noise_by_block_time
from core.objective.elbo import (
    bound,
    count_form,
    count_terms,
    cross_entropy,
    importance_bound,
    noise_by_count,
    noise_by_time,
    rate_form,
    rate_terms,
    stratified,
    weighted_nll,
)
from core.process.categorical import Categorical
from core.process.schedule import Cosine, Polynomial

PROCESSES = {
    "absorbing": Categorical.absorbing(3),
    "uniform": Categorical.uniform(3),
    "marginal": Categorical.marginal(torch.tensor([0.2, 0.5, 0.3])),
}


class Table:
    """A network that is any function at all of `x_t`: random logits for each state."""

    def __init__(self, process: Categorical, length: int, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.process = process
        self.logits = torch.randn(process.states**length, length, process.K, generator=g, dtype=torch.float64)

    def __call__(self, x_t: Tensor, t: Tensor, context: object = None) -> Prediction:
        logits = self.logits[index(x_t, self.process.states)]
        if self.process.mask is not None:
            return subs(logits, x_t, self.process.mask)
        return Prediction(logits.log_softmax(-1), "leave_one_out")


def order_log_p(net: Table, x: Tensor) -> Tensor:
    """log prod_j D(x_j | revealed) for every order of revealing: [orders, B]."""
    length, rows = x.shape[1], []
    for order in itertools.permutations(range(length)):
        x_t, total = torch.full_like(x, net.process.mask), torch.zeros(len(x), dtype=torch.float64)
        for i in order:
            total = total + net(x_t, torch.tensor(0.5)).log_p[:, i].gather(-1, x[:, i : i + 1])[:, 0]
            x_t[:, i] = x[:, i]
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_count_form_of_the_exact_denoiser_is_the_exact_likelihood(block: int) -> None:
    law = markov_law(3, 4)
    oracle = Oracle(law, PROCESSES["absorbing"], 4)
    nats = count_bound(oracle, oracle.process, oracle.x, block)
    assert torch.allclose(nats, -law.log(), rtol=0, atol=1e-12)
    assert float(law @ nats) == pytest.approx(oracle.entropy, abs=1e-12)


@pytest.mark.parametrize("noise", [*PROCESSES, "gapped"])
@pytest.mark.parametrize("clock", [None, Cosine()], ids=["linear", "cosine"])
def test_rate_form_of_the_exact_denoiser_is_the_exact_likelihood(noise: str, clock: Cosine | None) -> None:
    """Also where the noise never produces one of the tokens."""
    gapped = Categorical.marginal(torch.tensor([0.4, 0.6, 0.0]))
    base, law = PROCESSES.get(noise, gapped), markov_law(3, 3)
    process = Categorical(base.pi, clock or base.schedule, base.mask)
    for kind in ("posterior", "leave_one_out"):
        oracle = Oracle(law, process, 3, kind)
        assert torch.allclose(rate_bound(oracle, process, oracle.x, 40), -law.log(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("noise", ["uniform", "marginal"])
def test_posterior_mislabelled_as_leave_one_out_costs_nats(noise: str) -> None:
    oracle = Oracle(markov_law(3, 3), PROCESSES[noise], 3)
    nats = rate_bound(mislabelled(oracle), oracle.process, oracle.x, 40)
    assert float(oracle.law @ nats) > oracle.entropy + 0.5


def test_absorbing_rate_is_the_limit_of_the_general_one() -> None:
    """With pi almost all on one extra token, the general formula must approach the masked one."""
    exact = Categorical.absorbing(3)
    close = Categorical.marginal(torch.tensor([1e-9, 1e-9, 1e-9, 1.0]))
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()[None, None]
    padded = torch.nn.functional.pad(p, (0, 1), value=-torch.inf)
    x_t, x_0 = torch.tensor([[3]]), torch.tensor([[1]])
    a = float(exact.rate(Prediction(p), x_t, x_0, 0.3))
    b = float(close.rate(Prediction(padded, "leave_one_out"), x_t, x_0, 0.3))
    assert a == pytest.approx(math.log(2) / 0.3, rel=1e-12) and b == pytest.approx(a, rel=1e-7)


def test_uniform_rate_equals_the_published_closed_form() -> None:
    """Schiff et al., 2024, arXiv:2412.10193, eq. 18, in float64; also never negative."""
    process, K = Categorical.uniform(5), 5
    g = torch.Generator().manual_seed(0)
    loo = torch.randn(1, 200, K, generator=g, dtype=torch.float64).log_softmax(-1)
    x_t, x_0 = (torch.randint(0, K, (1, 200), generator=g) for _ in range(2))
    for t in (0.1, 0.5, 0.9):
        alpha = 1 - t
        x_bar = K * alpha * torch.nn.functional.one_hot(x_0, K).double() + 1 - alpha
        m_bar = K * alpha * loo.exp() + 1 - alpha
        at = lambda a: a.gather(-1, x_t[..., None])  # noqa: B023, E731
        ratio = (at(m_bar) * x_bar / (m_bar * at(x_bar))).log() * x_bar / at(x_bar)
        want = -1 / (K * alpha) * (K / at(x_bar) - K / at(m_bar) - ratio.sum(-1, keepdim=True))[..., 0]
        got = process.rate(Prediction(loo, "leave_one_out"), x_t, x_0, t)
        assert bool((got >= 0).all()) and torch.allclose(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_count_form_bounds_any_network_and_importance_tightens_it(seed: int) -> None:
    process = PROCESSES["absorbing"]
    net, x = Table(process, 3, seed), sequences(3, 3)
    log_w = order_log_p(net, x)
    exact = -(log_w.logsumexp(0) - math.log(len(log_w)))
    assert float((-exact).exp().sum()) == pytest.approx(1, abs=1e-12)
    one = -log_w.mean(0)
    two = -torch.stack([torch.logaddexp(a, b) - math.log(2) for a in log_w for b in log_w]).mean(0)
    assert torch.allclose(count_bound(net, process, x), one, rtol=0, atol=1e-12)
    assert bool((one > two).all()) and bool((two > exact).all())


@pytest.mark.parametrize("noise", ["uniform", "marginal"])
def test_rate_form_bounds_any_network(noise: str) -> None:
    process, length = PROCESSES[noise], 2
    net, x = Table(process, length, 1), sequences(3, length)
    grid = torch.linspace(1, 0, 1025, dtype=torch.float64).tolist()
    kernel = lambda x_t, t, s: process.reverse(net(x_t, torch.tensor(t)), x_t, t, s)  # noqa: E731
    nats = rate_bound(net, process, x, 60)
    assert bool((nats > -propagate(process, length, grid, kernel).log()).all())


def test_loss_at_block_one_is_autoregressive_cross_entropy() -> None:
    x_0 = torch.randint(0, 3, (5, 4), generator=torch.Generator().manual_seed(0))
    noised = noise_by_count(PROCESSES["absorbing"], x_0, Stream.of(0, 5), block=1)
    assert bool((noised.x_t == 3).all()) and bool((noised.weight == 1).all()) and bool((noised.t == 1).all())
    log_p = torch.randn(5, 4, 3).log_softmax(-1)
    want = torch.nn.functional.cross_entropy(log_p.flatten(0, 1), x_0.flatten(), reduction="sum")
    assert float(weighted_nll(log_p, x_0, noised.weight).sum()) == pytest.approx(float(want), rel=1e-6)


@pytest.mark.parametrize("block", [None, 2])
def test_count_draws_are_unbiased(block: int | None) -> None:
    process, n = PROCESSES["absorbing"], 40_000
    x = torch.tensor([[0, 2, 1, 1]])
    net = Table(process, 4)
    if block is None:
        draws = count_terms(net, process, x.expand(n, -1), Stream.of(0, n))
        want = float(count_bound(net, process, x))
    else:  # both blocks are noised at once, so compare with the sum over independent blocks of the same network
        flat = Oracle(torch.full((81,), 1 / 81, dtype=torch.float64), process, 4)
        draws, want = count_terms(flat, process, x.expand(n, -1), Stream.of(0, n), block), 4 * math.log(3)
    error = float(draws.std()) / math.sqrt(n)
    assert float(draws.mean()) == pytest.approx(want, abs=4 * error + 1e-12)


@pytest.mark.parametrize("noise", PROCESSES)
def test_rate_draws_are_unbiased(noise: str) -> None:
    process, n = Categorical(PROCESSES[noise].pi, Polynomial(2.0), PROCESSES[noise].mask), 40_000
    x, net = torch.tensor([[0, 2, 1]]), Table(process, 3)
    draws = rate_terms(net, process, x.expand(n, -1), Stream.of(0, n))
    want = float(rate_bound(net, process, x, 60))
    assert float(draws.mean()) == pytest.approx(want, abs=4 * float(draws.std()) / math.sqrt(n))


def test_count_form_has_less_variance_than_the_rate_form() -> None:
    process, n = PROCESSES["absorbing"], 20_000
    x, net = torch.tensor([[0, 2, 1, 1]]).expand(n, -1), Table(process, 4)
    count, rate = (f(net, process, x, Stream.of(0, n)).var() for f in (count_terms, rate_terms))
    assert float(rate / count) > 3


def test_counts_are_uniform_stratified_and_skip_sites() -> None:
    process, n = PROCESSES["absorbing"], 3_000
    x_0 = torch.zeros(n, 6, dtype=torch.long)
    noised = noise_by_count(process, x_0, Stream.of(0, n))
    masked = (noised.x_t == 3).sum(-1)
    assert torch.bincount(masked, minlength=7).tolist() == [0] + [n // 6] * 6
    assert torch.allclose(noised.weight.sum(-1), torch.full((n,), 6.0, dtype=torch.float64))
    assert torch.allclose(noised.t, masked.double() / 6)
    sites = torch.tensor([True, False, True, True, False, False]).expand(n, 6)
    part = noise_by_count(process, x_0, Stream.of(0, n), sites=sites)
    assert bool((part.x_t[~sites] == 0).all()) and bool((part.weight[~sites] == 0).all())
    assert torch.allclose(part.weight.sum(-1), torch.full((n,), 3.0, dtype=torch.float64))
    empty = noise_by_count(process, x_0[:2], Stream.of(0, 2), sites=torch.zeros(2, 6, dtype=torch.bool))
    assert bool((empty.weight == 0).all()) and bool((empty.x_t == 0).all())
    u = stratified((4,), Stream.of(0, 25)).flatten()
    assert torch.equal((u * 100).long().sort().values, torch.arange(100))


def test_losses_are_nats_per_site_with_finite_gradients() -> None:
    process = PROCESSES["absorbing"]
    x_0 = torch.randint(0, 3, (64, 4), generator=torch.Generator().manual_seed(0))
    net = Table(process, 4)
    net.logits = net.logits.float().requires_grad_()
    for loss, metrics in (
        count_form(net, process, x_0, Stream.of(0, 64)),
        count_form(net, process, x_0, Stream.of(0, 64), block=2),
        rate_form(net, process, x_0, Stream.of(0, 64)),
        cross_entropy(net, process, x_0, Stream.of(0, 64)),
    ):
        (grad,) = torch.autograd.grad(loss, net.logits)
        assert bool(grad.isfinite().all()) and float(grad.abs().sum()) > 0
        assert 0.2 < float(loss.detach()) < 5 and all(bool(torch.as_tensor(v).isfinite()) for v in metrics.values())
    loss, metrics = count_form(net, process, x_0, Stream.of(0, 64))
    assert float(metrics["bits"]) == pytest.approx(float(loss.detach()) / math.log(2), rel=1e-6)


def test_cross_entropy_of_uniform_noise_scores_every_site() -> None:
    process, n = PROCESSES["uniform"], 512
    flat = lambda x_t, t, context=None: Prediction(torch.full((*x_t.shape, 3), -math.log(3)))  # noqa: E731
    loss, metrics = cross_entropy(flat, process, torch.zeros(n, 4, dtype=torch.long), Stream.of(0, n))
    assert float(loss) == pytest.approx(math.log(3), rel=1e-6) and float(metrics["noise"]) == 1.0


@pytest.mark.parametrize("noise", PROCESSES)
def test_bound_states_its_error(noise: str) -> None:
    process, net = PROCESSES[noise], Table(PROCESSES[noise], 3)
    x = sequences(3, 3)
    want = float((count_bound(net, process, x) if process.mask is not None else rate_bound(net, process, x, 60)).sum())
    got = bound(net, process, x, Stream.of(0, 27), samples=64)
    assert got.nats.shape == (27,) and 0 < got.standard_error < 0.2
    assert got.per_site == pytest.approx(want / x.numel(), abs=4 * got.standard_error)


def test_importance_bound_falls_from_the_count_form_to_the_likelihood() -> None:
    process, n = PROCESSES["absorbing"], 3_000
    net, x = Table(process, 3), torch.tensor([[0, 2, 1]])
    log_w = order_log_p(net, x)[:, 0]
    two = -torch.stack([torch.logaddexp(a, b) - math.log(2) for a in log_w for b in log_w])
    for samples, values in ((1, -log_w), (2, two)):
        got = importance_bound(net, process, x.expand(n, -1), Stream.of(0, n), samples)
        assert float(got.mean()) == pytest.approx(float(values.mean()), abs=4 * float(values.std()) / math.sqrt(n))
    oracle = Oracle(markov_law(3, 3), process, 3)
    assert torch.allclose(importance_bound(oracle, process, oracle.x, Stream.of(0, 27), 1), -oracle.law.log())


@pytest.mark.parametrize("kind", ["absorbing", "uniform"])
def test_noise_goes_where_the_tokens_are(kind: str) -> None:
    x, process = torch.zeros(4, 8, dtype=torch.long, device="meta"), getattr(Categorical, kind)(4)
    found = [noise_by_time(process, x, Stream.of(0, 4))]
    if kind == "absorbing":
        found.append(noise_by_count(process, x, Stream.of(0, 4), 4))
        found.append(noise_by_block_time(process, x, Stream.of(0, 4), 4, Interval(0.1, 0.9)))
    assert all(v.device.type == "meta" for noised in found for v in (noised.x_t, noised.t, noised.weight))


def test_misuse_is_refused() -> None:
    x_0 = torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(UsageError, match="absorbing"):
        noise_by_count(PROCESSES["uniform"], x_0, Stream.of(0, 2))
    with pytest.raises(UsageError, match="divide"):
        noise_by_count(PROCESSES["absorbing"], x_0, Stream.of(0, 2), block=3)
