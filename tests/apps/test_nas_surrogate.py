"""The surrogate: its posterior against the plain formula, its noise against a brute-force marginal likelihood."""

from __future__ import annotations

import numpy as np
import pytest

from apps.nas.space import load
from apps.nas.surrogate import NOISE, Surrogate, likeliest

NB201 = load("nb201")


def cells(n: int, seed: int = 0) -> np.ndarray:
    """Return n random cells [n, 6]."""
    return np.random.default_rng(seed).integers(0, 5, (n, 6))


def test_the_noise_is_the_one_with_the_largest_marginal_likelihood() -> None:
    rng = np.random.default_rng(1)
    for noise in (0.1, 1.0):
        phi = rng.normal(size=(30, 12)) / np.sqrt(12)
        y = phi @ rng.normal(size=12) + noise * rng.normal(size=30)
        found = []
        for s in NOISE:
            covariance = phi @ phi.T + s**2 * np.eye(30)
            best = max(
                -0.5 * (np.linalg.slogdet(a * covariance)[1] + y @ np.linalg.solve(a * covariance, y))
                for a in np.exp(np.linspace(-8, 5, 400))  # the amplitude, by search instead of in closed form
            )
            found.append(best)
        assert likeliest(phi @ phi.T, y) == NOISE[int(np.argmax(found))]


@pytest.mark.parametrize("seed", range(3))
def test_answers_that_scatter_are_trusted_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = cells(120, seed)
    value = (x == 3).sum(1) + 0.5 * (x == 2).sum(1)
    quiet = Surrogate(NB201, "normal").fit(x, value + 0.01 * rng.normal(size=120)).deviation
    loud = Surrogate(NB201, "normal").fit(x, value + 3.0 * rng.normal(size=120)).deviation
    assert quiet < loud


def test_draws_have_the_posterior_mean_and_scatter() -> None:
    x, rng = cells(25), np.random.default_rng(0)
    model = Surrogate(NB201, "normal", calm=1.0).fit(x, rng.normal(size=25))
    phi = model.describe(cells(8, 3)).astype(np.float64)
    draws = model.thompson(phi, 20_000, rng)
    own = phi * model.scale
    inverse = np.linalg.inv(model.phi.T @ model.phi / model.deviation**2 + np.eye(own.shape[1]))  # primal form
    mean = own @ inverse @ model.phi.T @ model.y / model.deviation**2
    deviation = np.sqrt(np.einsum("nf,fg,ng->n", own, inverse, own))
    assert np.abs(model.mean(phi) - mean).max() < 1e-8
    assert (np.abs(draws.mean(0) - mean) / deviation).max() < 5 / np.sqrt(20_000)
    assert np.abs(draws.std(0) / deviation - 1).max() < 0.03


@pytest.mark.parametrize("scores", ["best", "normal"])
def test_the_order_of_answers_says_nothing(scores: str) -> None:
    """Many answers are equal; what is learned from them must not depend on which was asked first."""
    rng = np.random.default_rng(4)
    x, asked = cells(80), cells(20, 1)
    y = np.round((x == 3).sum(1) + rng.normal(size=80)).astype(float)
    y[:5] = -np.inf
    turn = rng.permutation(80)
    one, other = (Surrogate(NB201, scores).fit(x[i], y[i]) for i in (np.arange(80), turn))
    assert np.allclose(one.y[turn], other.y, atol=1e-12)
    assert all(np.ptp(one.y[y == v]) < 1e-12 for v in np.unique(y))
    phi = one.describe(asked)
    assert np.allclose(one.mean(phi), other.mean(phi), atol=1e-9)
