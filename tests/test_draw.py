"""Categorical draws: exact rates down to 1e-9, nothing of probability zero, gradients of the relaxed draw."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks._oracle import chi_square
from core.denoiser import Prediction
from core.draw import categorical, gumbel, inverse_cdf, relaxed, straight_through
from core.noise import Stream
from core.process.categorical import Categorical


def uniforms(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def zipf(K: int, power: float = 1.0) -> Tensor:
    p = torch.arange(1, K + 1, dtype=torch.float64) ** -power
    return p[torch.randperm(K, generator=torch.Generator().manual_seed(K))] / p.sum()


@pytest.mark.parametrize("K", [2, 17, 50_257])
def test_draws_follow_the_law(K: int) -> None:
    p = zipf(K)
    p[:: max(K // 7, 2)] = 0.0
    k = inverse_cdf(p, uniforms(2_000_000))
    counts = torch.bincount(k, minlength=K)
    assert bool((counts[p == 0] == 0).all())
    assert chi_square(counts, p / p.sum()) > 1e-3


def test_rare_tokens_are_drawn_at_their_rate() -> None:
    """Uniforms confined to the few cells around each rare token: its share of that window must be right."""
    K, rare = 50_257, torch.tensor([3, 20_000, 50_250])
    p = zipf(K)
    p[rare] = 1e-9
    p = p / p.sum()
    cdf = p.cumsum(0)
    for r in rare.tolist():
        low, high = cdf[r - 1] - 2e-9, cdf[r] + 2e-9
        k = inverse_cdf(p, low + (high - low) * uniforms(200_000, r))
        window = (torch.minimum(cdf, high) - torch.maximum(cdf - p, low)).clamp(min=0)
        assert chi_square(torch.bincount(k, minlength=K), window / window.sum()) > 1e-3
        assert 0.19 < float((k == r).double().mean()) < 0.21


def test_zero_probability_is_never_drawn_even_at_the_ends() -> None:
    p = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0, 0.0])
    edges = torch.tensor([0.0, 0.3, 1 - 2.0**-53, 1.0], dtype=torch.float64)
    assert set(inverse_cdf(p.double(), edges).tolist()) == {1, 3}
    assert categorical(p.log().expand(4, 6), edges).tolist()[0::2] == [1, 3]
    weights = torch.tensor([1.5, 0.0], dtype=torch.float64)  # u * total rounds up to total
    assert inverse_cdf(weights, edges[2:]).tolist() == [0, 0]


def test_rows_are_independent_and_weights_need_not_be_normalised() -> None:
    log_p = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = uniforms(20).reshape(5, 4)
    whole = categorical(log_p, u)
    assert torch.equal(whole, categorical(log_p + 3.7, u)) and torch.equal(whole[2], categorical(log_p[2], u[2]))
    assert torch.equal(whole[0, 0], inverse_cdf(log_p[0, 0].exp(), u[0, 0]))


@pytest.mark.parametrize("bad", [[0.0, 0.0], [torch.nan, 1.0], [-0.5, 1.0], [torch.inf, 1.0]])
def test_impossible_laws_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        inverse_cdf(torch.tensor(bad), torch.tensor([0.5]))


def revealed_entropy(steps: int, grid: float) -> float:
    """Entropy of the tokens revealed in one of `steps` steps, V = 10,000, from uniforms rounded to `grid`, in nats."""
    K = 10_000
    process, p = Categorical.absorbing(K), zipf(K)
    log_p = process.reverse(Prediction(p.log()[None, None]), torch.tensor([[K]]), 1.0, 1.0 - 1.0 / steps)[0, 0]
    u = uniforms(300_000) * float(log_p[:K].exp().sum())  # condition on the site being revealed
    k = inverse_cdf(log_p.exp(), (u / grid).floor() * grid)
    share = torch.bincount(k, minlength=K + 1)[:K].double()
    return float(torch.special.entr(share / share.sum()).sum())


def test_entropy_does_not_fall_with_the_number_of_steps() -> None:
    exact = [revealed_entropy(steps, 2.0**-53) for steps in (1, 1000, 5000)]
    assert max(abs(h / exact[0] - 1) for h in exact) < 0.005
    assert revealed_entropy(5000, 2.0**-24) < 0.995 * exact[0]  # what float32 uniforms would do


def test_relaxed_draw_tends_to_the_hard_draw_of_the_same_noise() -> None:
    log_p = torch.randn(200, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64).log_softmax(-1)
    u = uniforms(1000).reshape(200, 5)
    hard = (log_p + gumbel(u)).argmax(-1)
    cold = relaxed(log_p, u, 1e-4)
    assert torch.equal(cold.argmax(-1), hard) and float((cold.max(-1).values > 0.999).double().mean()) > 0.98
    value = straight_through(log_p, u, 0.7)
    assert torch.allclose(value, torch.nn.functional.one_hot(hard, 5).double(), rtol=0, atol=1e-15)


def test_straight_through_gradient_is_the_finite_difference_of_the_relaxed_draw() -> None:
    g = torch.Generator().manual_seed(3)
    theta = torch.randn(4, 5, generator=g, dtype=torch.float64)
    theta[0, 2] = -torch.inf
    u, w = uniforms(20, 4).reshape(4, 5), torch.randn(4, 5, generator=g, dtype=torch.float64)

    def soft(x: Tensor) -> Tensor:
        return (relaxed(x.log_softmax(-1), u, 0.7) * w).sum()

    x = theta.clone().requires_grad_()
    (grad,) = torch.autograd.grad((straight_through(x.log_softmax(-1), u, 0.7) * w).sum(), x)
    assert bool(grad.isfinite().all()) and float(grad[0, 2]) == 0.0
    for b in range(4):
        for v in range(5):
            if (b, v) == (0, 2):
                continue
            step = torch.zeros_like(theta)
            step[b, v] = 1e-5
            difference = float(soft(theta + step) - soft(theta - step)) / 2e-5
            assert float(grad[b, v]) == pytest.approx(difference, rel=1e-6, abs=1e-9)


def test_gumbel_max_draws_the_law_and_survives_zero() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0], dtype=torch.float64)
    u = Stream.of(0, 100_000).uniform(5)
    counts = torch.bincount(straight_through(p.log(), u, 1.0).argmax(-1), minlength=5)
    assert int(counts[4]) == 0 and chi_square(counts, p) > 1e-3
    assert bool(gumbel(torch.zeros(3)).isfinite().all())
