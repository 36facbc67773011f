"""Guidance of real vectors: affine laws, Bayes on mixtures, exact Gaussian posteriors, independence of the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks._mixture import Mixture, Oracle, toy
from core.denoiser import GaussianPrediction
from core.guide.continuous import Classified, Guided, between, plus_plus
from core.guide.posterior import Known, MomentMatching, Residual
from core.process.gaussian import Cosine, Gaussian, Rectified
from core.sample import integrate
from core.solvers import adams as A
from core.solvers import grid as G

D64 = torch.float64
RF, VP = Gaussian(Rectified()), Gaussian(Cosine())
MIXTURE = toy()
X = torch.randn(5, 4, dtype=D64, generator=torch.Generator().manual_seed(3))


def two(x: Tensor, t: Tensor, context: object = None) -> GaussianPrediction:
    """A denoiser whose condition is to come from one of the first two components."""
    mixture = MIXTURE.restrict([0, 1]) if context else MIXTURE
    return Oracle(mixture, RF)(x, t)


def test_guidance_interpolates_and_extrapolates() -> None:
    t = torch.tensor(0.6, dtype=D64)
    free, conditional = two(X, t).mean, two(X, t, "y").mean
    for w, expected in ((0.0, free), (1.0, conditional), (3.0, free + 3 * (conditional - free))):
        assert torch.allclose(Guided(two, w)(X, t, "y").mean, expected, rtol=1e-12)
    velocity = Guided(two, 3.0)(X, t, "y").output("velocity", X, t, RF)
    mixed = [GaussianPrediction(m).output("velocity", X, t, RF) for m in (free, conditional)]
    assert torch.allclose(velocity, mixed[0] + 3 * (mixed[1] - mixed[0]), rtol=1e-11)


def test_weights_may_depend_on_the_time() -> None:
    guided = Guided(two, between(4.0, 0.2, 0.7))
    for t, w in ((0.1, 1.0), (0.5, 4.0), (0.9, 1.0)):
        time = torch.tensor(t, dtype=D64)
        assert torch.equal(guided(X, time, "y").mean, Guided(two, w)(X, time, "y").mean)
    each = torch.tensor([0.1, 0.5, 0.9, 0.5, 0.1], dtype=D64)
    free = lambda x, t, context=None: GaussianPrediction(x * 0 + (1.0 if context else 0.0))  # noqa: E731
    assert torch.equal(Guided(free, between(4.0, 0.2, 0.7))(X, each, "y").mean[:, 0], torch.tensor([1.0, 4, 1, 4, 1]))


def test_rescaling_restores_the_standard_deviation() -> None:
    t = torch.tensor(0.6, dtype=D64)
    found = Guided(two, 8.0, rescale=1.0)(X, t, "y").mean
    assert torch.allclose(found.std(-1), two(X, t, "y").mean.std(-1), rtol=1e-12)


@pytest.mark.parametrize("process", [RF, VP], ids=["rectified", "cosine"])
def test_cfg_plus_plus_moves_with_the_unconditional_noise(process: Gaussian) -> None:
    """Chung et al., 2024, algorithm 2, written out."""
    free, conditional = Oracle(MIXTURE, process), Oracle(MIXTURE.restrict([0, 1]), process)
    denoiser = lambda x, t, context=None: (conditional if context else free)(x, t)  # noqa: E731
    times, x = G.uniform(process, 6, 0.95, 0.0), X
    for t, s in zip(times[:-1], times[1:], strict=True):
        alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
        D = free(x, t).mean
        e = (x - alpha * D) / sigma
        x = process.schedule.alpha(s) * (D + 0.6 * (conditional(x, t).mean - D)) + process.schedule.sigma(s) * e
    guided = Guided(denoiser, plus_plus(0.6, process, times))
    found = integrate(lambda x, t: guided(x, t, "y"), A.ddim(process, times), X)
    assert torch.allclose(found, x, rtol=1e-11, atol=1e-11)


def test_a_classifier_turns_the_prior_into_the_posterior() -> None:
    def log_p(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = VP.schedule.alpha(t), VP.schedule.sigma(t)
        return MIXTURE.responsibilities(x, alpha, sigma)[0][:, :2].logsumexp(-1)

    for t in (0.1, 0.5, 0.9):
        time = torch.tensor(t, dtype=D64)
        found = Classified(Oracle(MIXTURE, VP), VP, log_p)(X, time).mean
        assert torch.allclose(found, Oracle(MIXTURE.restrict([0, 1]), VP)(X, time).mean, rtol=1e-10, atol=1e-10)


def gaussian(std: float = 0.8) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [4], covariance [4, 4] and observation matrix [2, 4]."""
    g = torch.Generator().manual_seed(5)
    root = torch.randn(4, 4, generator=g, dtype=D64) * std / 2
    return (
        torch.randn(4, generator=g, dtype=D64),
        root @ root.T + 0.1 * torch.eye(4, dtype=D64),
        torch.randn(2, 4, generator=g, dtype=D64),
    )


def conditioned(mean: Tensor, cov: Tensor, A_: Tensor, y: Tensor, s: float) -> tuple[Tensor, Tensor]:
    gain = cov @ A_.T @ torch.linalg.inv(A_ @ cov @ A_.T + s**2 * torch.eye(len(A_), dtype=D64))
    return mean + gain @ (y - A_ @ mean), cov - gain @ A_ @ cov


def denoiser(process: Gaussian, mean: Tensor, cov: Tensor):  # noqa: ANN201
    def predict(x: Tensor, t: Tensor, context: object = None) -> GaussianPrediction:
        alpha, sigma = process.schedule.alpha(t), process.schedule.sigma(t)
        gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(4, dtype=D64))
        return GaussianPrediction(mean + (x - alpha * mean) @ gain.T)

    return predict


def test_moment_matching_is_exact_for_gaussian_priors() -> None:
    mean, cov, A_ = gaussian()
    y, s = torch.tensor([0.4, -1.2], dtype=D64), 0.3
    matched = MomentMatching(denoiser(VP, mean, cov), VP, lambda x: x @ A_.T, y, s, rounds=2)
    exact = denoiser(VP, *conditioned(mean, cov, A_, y, s))
    for t in (0.05, 0.5, 0.97):
        time = torch.tensor(t, dtype=D64)
        assert torch.allclose(matched(X, time).mean, exact(X, time).mean, rtol=1e-9, atol=1e-9)
    table = A.adams(VP, G.angle(VP, 30, 0.99))
    ends = [integrate(p, table, X) for p in (matched, exact)]
    assert torch.allclose(ends[0], ends[1], rtol=1e-8, atol=1e-8)


def test_samples_of_the_posterior_have_its_moments() -> None:
    """The flow of an affine field is affine: its matrix gives the covariance of the samples without sampling."""
    mean, cov, A_ = gaussian()
    y, s, start = torch.tensor([0.4, -1.2], dtype=D64), 0.3, 0.999
    matched = MomentMatching(denoiser(VP, mean, cov), VP, lambda x: x @ A_.T, y, s, rounds=2)
    basis = torch.cat([torch.zeros(1, 4, dtype=D64), torch.eye(4, dtype=D64)])
    ends = integrate(matched, A.adams(VP, G.angle(VP, 64, start)), basis)
    map_ = (ends[1:] - ends[0]).T
    target, spread = conditioned(mean, cov, A_, y, s)
    assert torch.allclose(ends[0], target, atol=1e-2)
    assert torch.allclose((map_ @ map_.T).diagonal().sqrt(), spread.diagonal().sqrt(), rtol=0.05)


@pytest.mark.parametrize("kind", ["residual", "moments"])
def test_guidance_of_a_sample_does_not_depend_on_its_batch(kind: str) -> None:
    oracle, y = Oracle(MIXTURE, RF), torch.tensor([0.3, 0.9], dtype=D64)
    observe = lambda x: x[:, :2]  # noqa: E731
    make = {
        "residual": Residual(oracle, RF, observe, y, 5.0),
        "moments": MomentMatching(oracle, RF, observe, y, 0.1),
    }[kind]
    table = A.adams(RF, G.uniform(RF, 12, 0.99), 2)
    whole = integrate(make, table, X)
    for i in range(5):
        assert torch.allclose(integrate(make, table, X[i : i + 1])[0], whole[i], rtol=1e-12, atol=1e-12)
    free = integrate(oracle, table, X)
    assert float((whole[:, :2] - y).abs().mean()) < 0.5 * float((free[:, :2] - y).abs().mean())


def test_known_coordinates_come_out_exactly() -> None:
    mask, value = torch.tensor([True, False, True, False]), torch.tensor([0.5, 9.0, -1.0, 9.0], dtype=D64)
    end = integrate(Known(Oracle(MIXTURE, RF), mask, value), A.dpmpp(RF, G.uniform(RF, 8)), X)
    assert torch.allclose(end[:, mask], value[mask].expand(5, 2), rtol=0, atol=1e-12)
    assert float(end[:, 1].max()) < 5


def test_inpainting_by_moments_finds_the_conditional_mixture() -> None:
    """Two far components: seeing one coordinate tells which."""
    pair = Mixture(
        torch.tensor([0.5, 0.5], dtype=D64).log(),
        torch.tensor([[-2.0, -2.0], [2.0, 2.0]], dtype=D64),
        torch.full((2, 2), 0.05, dtype=D64),
    )
    x = torch.randn(40, 2, dtype=D64)
    matched = MomentMatching(Oracle(pair, RF), RF, lambda x: x[:, :1], torch.tensor([2.0], dtype=D64), 0.1)
    end = integrate(matched, A.adams(RF, G.uniform(RF, 40, 0.99), 2), x)
    assert float((end[:, 1] > 0).double().mean()) >= 0.95
