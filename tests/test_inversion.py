"""Exact inversion and likelihood against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks._mixture import Mixture, Oracle, exact_flow, slope, toy
from core.denoiser import GaussianPrediction
from core.errors import UsageError
from core.likelihood import log_likelihood
from core.noise import Stream
from core.process.gaussian import Exploding, Gaussian, Preserving, Rectified
from core.solvers import grid as G
from core.solvers.inversion import Bidirectional

D64 = torch.float64
MIXTURE = toy()
RF, VE, VP = Gaussian(Rectified()), Gaussian(Exploding(80.0)), Gaussian(Preserving())
NOISE = torch.randn(6, 4, dtype=D64, generator=torch.Generator().manual_seed(2))
DATA = MIXTURE.sample(6, 0)


@pytest.mark.parametrize("process", [RF, VE, VP], ids=["rectified", "exploding", "preserving"])
@pytest.mark.parametrize("gamma", [1.0, 0.96])
@pytest.mark.parametrize("steps", [2, 10, 50])
def test_round_trips_are_exact(process: Gaussian, gamma: float, steps: int) -> None:
    times = G.karras(process, steps, 1.0, 0.002 / 80) if process is VE else G.uniform(process, steps)
    sampler, oracle = Bidirectional.over(process, times, gamma), Oracle(MIXTURE, process)
    x = NOISE * float(process.radius(1.0))
    back = sampler.backward(oracle, sampler.sample(oracle, x))
    assert float((back.x - x).abs().max() / x.abs().max()) <= 1e-12
    assert float((sampler.forward(oracle, sampler.encode(oracle, DATA)).x - DATA).abs().max()) <= 1e-12


def test_the_neighbour_is_what_makes_it_exact() -> None:
    sampler, oracle = Bidirectional.over(RF, G.uniform(RF, 10)), Oracle(MIXTURE, RF)
    pair = sampler.sample(oracle, NOISE)
    lost = sampler.encode(oracle, pair.x)
    assert 1e-3 < float((lost.x - NOISE).abs().max())


def test_order_two_with_gamma_one() -> None:
    oracle, steps, errors = Oracle(MIXTURE, VE), [60, 120, 240], []
    exact = torch.from_numpy(exact_flow(MIXTURE, (80 * NOISE).numpy(), 80.0, 0.002))
    for n in steps:
        end = Bidirectional.over(VE, G.karras(VE, n, 1.0, 0.002 / 80)).sample(oracle, 80 * NOISE).x
        errors.append(float((end - exact).square().mean().sqrt()))
    assert 1.9 <= slope(steps, errors) <= 2.1


def test_rounding_that_would_show_is_refused() -> None:
    with pytest.raises(UsageError, match="nearer to 1"):
        Bidirectional.over(RF, G.uniform(RF, 60), 0.5)
    Bidirectional.over(RF, G.uniform(RF, 20), 0.5)


def test_likelihood_of_a_mixture() -> None:
    start = 0.002 / 80
    alpha, sigma = VE.schedule.alpha(start), VE.schedule.sigma(start)
    exact = MIXTURE.responsibilities(DATA, alpha, sigma)[1]
    for clock, times in (("angle", G.angle), ("log_snr", G.log_snr)):
        found = log_likelihood(
            Oracle(MIXTURE, VE), VE, DATA, times(VE, 40, 1.0, start).flip(0), clock=clock,
            prior=lambda x: MIXTURE.responsibilities(x, 1.0, 80.0)[1],
        )  # fmt: skip
        assert found.evaluations == 160
        assert float((found.log_p - exact).abs().max()) <= 1e-5
        assert torch.equal(found.error, torch.zeros(6, dtype=D64))
    bits = found.bits_per_dimension()
    assert torch.allclose(bits, -found.log_p / (4 * math.log(2)))


def test_likelihood_on_rectified_flow_needs_no_prior() -> None:
    times = G.uniform(RF, 10, 1.0, 1e-3).flip(0)
    exact = MIXTURE.responsibilities(DATA, RF.schedule.alpha(1e-3), RF.schedule.sigma(1e-3))[1]
    found = log_likelihood(Oracle(MIXTURE, RF), RF, DATA, times)
    assert float((found.log_p - exact).abs().max()) <= 1e-3
    assert abs(float(found.x.mean())) < 1


def test_probes_are_unbiased_within_their_own_error_and_independent_of_the_batch() -> None:
    times = G.uniform(RF, 6, 1.0, 1e-2).flip(0)
    exact = log_likelihood(Oracle(MIXTURE, RF), RF, DATA, times)
    found = log_likelihood(Oracle(MIXTURE, RF), RF, DATA, times, probes=64, stream=Stream.of(0, 6))
    assert bool(((found.log_p - exact.log_p).abs() <= 3 * found.error).all()) and bool((found.error > 0).all())
    alone = log_likelihood(Oracle(MIXTURE, RF), RF, DATA[4:5], times, probes=64, stream=Stream.of(0, 1, first=4))
    assert float(alone.log_p - found.log_p[4]) == pytest.approx(0, abs=1e-12)
    one = log_likelihood(Oracle(MIXTURE, RF), RF, DATA[:2], times, probes=1, stream=Stream.of(0, 2))
    assert bool(one.error.isnan().all()) and not bool(exact.error.any())  # one probe does not know its own error
    assert log_likelihood(Oracle(MIXTURE, RF), RF, DATA[:0], times).log_p.shape == (0,)


def test_likelihood_of_images_equals_that_of_vectors() -> None:
    lone = Mixture(torch.zeros(1, dtype=D64), torch.full((1, 8), 0.3, dtype=D64), torch.full((1, 8), 0.5, dtype=D64))
    flat = Oracle(lone, RF)

    def image(x: Tensor, t: Tensor) -> GaussianPrediction:
        return GaussianPrediction(flat(x.flatten(1), t).mean.reshape(x.shape))

    x, times = torch.randn(3, 2, 2, 2, dtype=D64), G.uniform(RF, 20, 1.0, 1e-3).flip(0)
    found = log_likelihood(image, RF, x, times, chunk=3)
    exact = lone.responsibilities(x.flatten(1), RF.schedule.alpha(1e-3), RF.schedule.sigma(1e-3))[1]
    assert torch.allclose(found.log_p, exact, atol=1e-5)


def test_mistakes_are_named() -> None:
    oracle = Oracle(MIXTURE, RF)
    with pytest.raises(UsageError, match="rise"):
        log_likelihood(oracle, RF, DATA, G.uniform(RF, 4).flip(0))
    with pytest.raises(UsageError, match="clock: is infinite at the last time"):
        log_likelihood(oracle, RF, DATA, torch.tensor([0.1, 1.0]), clock="log_snr")
    with pytest.raises(UsageError, match="stream"):
        log_likelihood(oracle, RF, DATA, torch.tensor([0.1, 1.0]), probes=2)
