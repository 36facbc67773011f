"""Gaussian processes: paths, parameterisations, Bayes' rule, transitions and preconditioning."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks._mixture import Oracle, toy
from core.denoiser import GaussianPrediction, Preconditioned, Thresholded
from core.errors import UsageError
from core.noise import Stream
from core.process.gaussian import KINDS, Cosine, Exploding, Gaussian, Path, Preserving, Rectified, Shifted
from core.transition import GaussianTransition

D64 = torch.float64
PATHS = [Rectified(), Cosine(), Preserving(), Exploding(), Shifted(Rectified(), 3.0), Shifted(Cosine(), 0.5)]
T = torch.linspace(0.001, 0.999, 97, dtype=D64)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_log_snr_has_an_exact_inverse(path: Path) -> None:
    assert torch.allclose(path.inverse(path.log_snr(T)), T, rtol=1e-12, atol=0)
    lam = torch.linspace(-3, 8, 51, dtype=D64)
    assert torch.allclose(path.log_snr(path.inverse(lam)), lam, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_slopes_are_derivatives(path: Path) -> None:
    t = T.clone().requires_grad_()
    for value, slope in zip((path.alpha(t), path.sigma(t)), path.slopes(T), strict=True):
        if value.requires_grad:
            (found,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
            assert torch.allclose(found, slope, rtol=1e-11, atol=1e-11)
        else:
            assert bool((slope == 0).all())


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_ends(path: Path) -> None:
    assert float(path.sigma(0.0)) == 0 and float(path.alpha(0.0)) == 1
    assert float(path.alpha(1.0)) == {Exploding: 1.0, Preserving: float(path.alpha(1.0))}.get(type(path), 0.0)
    assert bool((path.alpha(T).diff() <= 0).all()) and bool((path.sigma(T).diff() > 0).all())


@pytest.mark.parametrize("std", [1.0, 0.5])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_angle_has_an_exact_inverse(path: Path, std: float) -> None:
    process = Gaussian(path, std)
    assert torch.allclose(process.at_angle(process.angle(T)), T, rtol=1e-12, atol=0)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_all_parameterisations_convert_into_each_other(path: Path) -> None:
    process = Gaussian(path, 0.7)
    x_0, eps = torch.randn(2, 6, 3, dtype=D64)
    for t in (torch.tensor(0.3), torch.rand(6, dtype=D64) * 0.6 + 0.2, torch.rand(6, 3, dtype=D64) * 0.6 + 0.2):
        x_t = process.corrupt(x_0, t, eps)
        time = t.reshape(t.shape + (1,) * (2 - t.ndim)).to(D64)
        truth = {k: process.row(k, time)[0] * x_0 + process.row(k, time)[1] * eps for k in KINDS}
        for source in KINDS:
            for target in KINDS:
                found = process.convert(truth[source], x_t, t, source, target)
                assert torch.allclose(found, truth[target], rtol=1e-11, atol=1e-11), (source, target)


def test_flow_is_the_time_derivative_of_the_path() -> None:
    process, t = Gaussian(Preserving()), torch.tensor(0.4, dtype=D64, requires_grad=True)
    x_0, eps = torch.tensor([[1.3]], dtype=D64), torch.tensor([[-0.4]], dtype=D64)
    (rate,) = torch.autograd.grad((process.schedule.alpha(t) * x_0 + process.schedule.sigma(t) * eps).sum(), t)
    p_D, p_e = process.row("flow", 0.4)
    assert float(rate) == pytest.approx(float(p_D * x_0 + p_e * eps), rel=1e-12)


def test_gain_weights_errors_as_the_paper_does() -> None:
    process = Gaussian(Exploding(80.0), 0.5)
    sigma = process.schedule.sigma(T)
    assert torch.allclose(process.gain("velocity", T).square(), (sigma**2 + 0.25) / (0.5 * sigma) ** 2, rtol=1e-12)
    x_t, D, other = torch.randn(3, 97, 1, dtype=D64)
    for kind in KINDS:
        change = process.convert(D, x_t, T, "data", kind) - process.convert(other, x_t, T, "data", kind)
        assert torch.allclose(change, process.gain(kind, T)[:, None] * (D - other), rtol=1e-9, atol=1e-9)


def test_what_cannot_be_recovered_is_said() -> None:
    x = torch.zeros(2, 3, dtype=D64)
    with pytest.raises(UsageError, match="not recoverable from noise"):
        Gaussian(Rectified()).convert(x, x, 1.0, "noise", "data")
    with pytest.raises(UsageError, match="not recoverable from data"):
        Gaussian(Rectified()).convert(x, x, torch.tensor([0.0, 0.5]), "data", "noise")
    with pytest.raises(UsageError, match="did you mean 'velocity'"):
        Gaussian(Rectified()).row("velocty", 0.5)
    assert bool(Gaussian(Rectified()).convert(x, x + 1, 1.0, "flow", "data").isfinite().all())
    for source, target in (("flow", "data"), ("velocity", "flow"), ("velocity", "score")):  # infinite on clean data
        with pytest.raises(UsageError, match=f"not recoverable from {source}"):
            Gaussian(Preserving()).convert(x, x, 0.0, source, target)  # type: ignore[arg-type]
    for kind in KINDS[:4]:
        given = Gaussian(Rectified()).convert(x, x + 1, torch.tensor([0.5, 1.0]), "velocity", kind)
        assert bool(given.isfinite().all())


def test_corruption_has_the_stated_marginal_and_reads_times_of_three_shapes() -> None:
    process, stream = Gaussian(Rectified()), Stream.of(0, 4000)
    eps = process.couple((2,), stream)
    x_t = process.corrupt(torch.full((4000, 2), 3.0, dtype=D64), 0.25, eps)
    assert x_t.mean() == pytest.approx(2.25, abs=0.01) and x_t.std() == pytest.approx(0.25, abs=0.01)
    x_0 = torch.randn(2, 3, 5)
    by_site = process.corrupt(x_0, torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.5]]), torch.ones(2, 3, 5))
    assert by_site.dtype == torch.float32
    assert torch.equal(by_site[0, 0], x_0[0, 0]) and torch.equal(by_site[0, 2], torch.ones(5))
    assert torch.allclose(by_site[1, 2], (x_0[1, 2] + 1) / 2)
    assert torch.equal(process.corrupt(x_0, torch.tensor([0.0, 1.0]), torch.ones(2, 3, 5))[1], torch.ones(3, 5))
    assert process.prior((3,), Stream.of(1, 5)).shape == (5, 3)


def density(x: Tensor, mean: Tensor | float, var: Tensor | float) -> Tensor:
    var = torch.as_tensor(var, dtype=D64)
    return torch.exp(-((x - mean) ** 2) / (2 * var)) / (2 * math.pi * var).sqrt()


@pytest.mark.parametrize("path", PATHS[:4], ids=repr)
def test_bridge_is_bayes_rule_on_a_line(path: Path) -> None:
    process, t, s, x_0, x_t = Gaussian(path), 0.6, 0.35, 0.8, 1.1
    alpha, sigma = path.alpha(torch.tensor([t, s], dtype=D64)), path.sigma(torch.tensor([t, s], dtype=D64))
    x_s = torch.linspace(-12, 12, 200_001, dtype=D64) * max(1.0, float(sigma[0]))
    a = alpha[0] / alpha[1]  # q(x_t | x_s) of the Markov chain
    joint = density(x_s, alpha[1] * x_0, sigma[1] ** 2) * density(
        torch.tensor(x_t, dtype=D64), a * x_s, sigma[0] ** 2 - a**2 * sigma[1] ** 2
    )
    joint /= joint.sum()
    mean = (joint * x_s).sum()
    var = (joint * (x_s - mean) ** 2).sum()
    k, m, v = process.bridge(t, s)
    assert float(k * x_t + m * x_0) == pytest.approx(float(mean), rel=1e-10)
    assert float(v) == pytest.approx(float(var), rel=1e-10)


def test_posterior_of_a_mixture_equals_bayes_by_quadrature() -> None:
    mixture, process = toy(d=1, components=3), Gaussian(Cosine())
    grid = torch.linspace(-9, 9, 100_001, dtype=D64)
    prior = (mixture.log_w.exp()[:, None] * density(grid, mixture.mean, mixture.var)).sum(0)
    for t, x_t in ((0.2, 0.5), (0.5, -1.0), (0.9, 0.3)):
        alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
        law = prior * density(torch.tensor(x_t, dtype=D64), alpha * grid, sigma**2)
        found = Oracle(mixture, process)(torch.tensor([[x_t]], dtype=D64), t).mean
        assert float(found) == pytest.approx(float((law * grid).sum() / law.sum()), rel=1e-9)


def test_step_with_a_gaussian_posterior_is_exact() -> None:
    """Data N(m, w): the chain with the posterior's variance keeps the marginals from any t to any s."""
    process, m, w = Gaussian(Rectified()), 0.7, 0.3
    for t, s in ((1.0, 0.4), (0.8, 0.1), (0.5, 0.0)):
        alpha, sigma = (float(f(t)) for f in (process.schedule.alpha, process.schedule.sigma))
        total = alpha**2 * w + sigma**2
        x_t = torch.tensor([[0.0], [1.0]], dtype=D64)
        var = torch.full_like(x_t, w * sigma**2 / total)
        step = GaussianTransition.step(
            process, GaussianPrediction(m + alpha * w / total * (x_t - alpha * m), var), x_t, t, s
        )
        gain = float(step.mean[1] - step.mean[0])  # the mean is affine in x_t ~ N(alpha m, total)
        alpha_s, sigma_s = (float(f(s)) for f in (process.schedule.alpha, process.schedule.sigma))
        assert float(step.mean[0]) + gain * alpha * m == pytest.approx(alpha_s * m, rel=1e-12)
        assert gain**2 * total + float(step.std[0] ** 2) == pytest.approx(alpha_s**2 * w + sigma_s**2, rel=1e-12)


def test_transition_sample_log_prob_and_kl() -> None:
    process, x_t = Gaussian(Cosine()), torch.randn(3, 4, dtype=D64)
    D = torch.randn(3, 4, dtype=D64, requires_grad=True)
    step = GaussianTransition.step(process, GaussianPrediction(D), x_t, 0.7, 0.4)
    other = GaussianTransition.step(process, GaussianPrediction(D + 0.3), x_t, 0.7, 0.4)
    normal = [torch.distributions.Normal(v.mean, v.std.expand_as(v.mean)) for v in (step, other)]
    x_s = step.sample(Stream.of(0, 3))
    assert not x_s.requires_grad and torch.equal(x_s, step.rsample(Stream.of(0, 3)).detach())
    assert torch.allclose(step.log_prob(x_s), normal[0].log_prob(x_s).sum(-1), rtol=1e-12)
    assert torch.allclose(step.kl(other), torch.distributions.kl_divergence(*normal).sum(-1), rtol=1e-12)
    _, m, _ = process.bridge(0.7, 0.4)
    (found,) = torch.autograd.grad(step.rsample(Stream.of(0, 3)).sum(), D)
    assert torch.allclose(found, m.expand_as(found), rtol=1e-12)
    assert float(GaussianTransition.step(process, GaussianPrediction(D), x_t, 0.7, 0.4, eta=0.0).std) == 0


def test_a_step_reads_one_time_for_each_site() -> None:
    process, x_t, D = Gaussian(Rectified()), torch.randn(2, 3, 4, dtype=D64), torch.randn(2, 3, 4, dtype=D64)
    t, s = torch.rand(2, 3, dtype=D64) * 0.4 + 0.5, torch.rand(2, 3, dtype=D64) * 0.4
    whole = GaussianTransition.step(process, GaussianPrediction(D), x_t, t, s)
    for b in range(2):
        for i in range(3):
            one = GaussianTransition.step(
                process, GaussianPrediction(D[b, i][None]), x_t[b, i][None], float(t[b, i]), float(s[b, i])
            )
            assert torch.allclose(whole.mean[b, i], one.mean[0]) and torch.allclose(whole.std[b, i, 0], one.std[0])


@pytest.mark.parametrize("clock", ["angle", "time", "log_snr"])
def test_preconditioning_is_the_papers(clock: str) -> None:
    """c_skip, c_out and c_in of Karras et al. at alpha = 1, with F = -velocity."""
    seen: list[Tensor] = []

    def network(x: Tensor, c: Tensor, context: object) -> Tensor:
        seen.append(c)
        return torch.tanh(x)

    process, x = Gaussian(Exploding(80.0), 0.5), torch.randn(5, 2, dtype=D64) * 3
    sigma = 2.4
    D = Preconditioned(network, process, "velocity", clock)(x, sigma / 80).mean  # type: ignore[arg-type]
    r = math.hypot(sigma, 0.5)
    expected = 0.25 / r**2 * x - sigma * 0.5 / r * torch.tanh(x / r)
    assert torch.allclose(D, expected, rtol=1e-12)
    labels = {"angle": math.atan(sigma / 0.5) * 2 / math.pi, "time": sigma / 80, "log_snr": -math.log(sigma) / 4}
    assert float(seen[0]) == pytest.approx(labels[clock], rel=1e-12)


def test_thresholding_clips_each_sample_by_its_own_quantile() -> None:
    D = torch.tensor([[0.2, -0.5, 0.9, 0.1], [4.0, -2.0, 0.5, 1.0]])
    clipped = Thresholded(lambda x, t, context=None: GaussianPrediction(D), 0.5)(D, torch.tensor(0.5)).mean
    assert torch.equal(clipped[0], D[0])
    assert torch.allclose(clipped[1], torch.tensor([1.0, -1.0, 0.5 / 1.5, 1.0 / 1.5]))
    for some in (D.half(), D.bfloat16(), D[:0]):
        given = GaussianPrediction(some)
        found = Thresholded(lambda x, t, context=None, given=given: given, 0.5)(some, torch.tensor(0.5)).mean
        assert found.dtype == some.dtype and torch.allclose(found.float(), clipped[: len(some)], atol=0.01)
