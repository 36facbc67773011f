"""Projections onto affine sets: nearest points, exact values, gradients, contradictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from core.constrain.linear import Affine, Projected
from core.denoiser import GaussianPrediction
from core.errors import InfeasibleError, UsageError


def random_set(rng: np.random.Generator, m: int = 4, n: int = 9) -> Affine:
    return Affine(csr_matrix(rng.standard_normal((m, n))), rng.standard_normal(m), rng.uniform(0.5, 2, n),
                  np.array([1, 5]), np.array([0.3, -2.0]))  # fmt: skip


def test_the_projection_is_the_nearest_point() -> None:
    rng = np.random.default_rng(0)
    own, x = random_set(rng), torch.from_numpy(rng.standard_normal((3, 9)))
    y = own.project(x)
    assert float(own.violations(y).max()) < 1e-12
    assert torch.equal(y[:, [1, 5]], torch.tensor([[0.3, -2.0]], dtype=torch.float64).expand(3, 2))
    # optimality: W (y - x) is orthogonal to every direction that stays inside the set
    E = np.zeros((2, 9))
    E[0, 1] = E[1, 5] = 1
    rows = np.vstack([own.A.toarray(), E])
    inside = np.linalg.svd(rows)[2][len(rows) :]
    assert np.abs((own.weight * (y - x).numpy()) @ inside.T).max() < 1e-12
    assert torch.allclose(own.project(y), y, atol=1e-12)


def test_gradients_are_those_of_the_map() -> None:
    own = random_set(np.random.default_rng(1))
    x = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(own.project, (x,))


def test_many_rows_with_dependent_ones() -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal((500, 700)) * (rng.uniform(size=(500, 700)) < 0.02)
    A = np.vstack([a, a[:3].sum(0)])  # the last row follows from others
    b = A @ rng.standard_normal(700)
    own = Affine(csr_matrix(A), b)
    assert float(own.violations(own.project(torch.zeros(700).double()))) < 1e-8


@pytest.mark.parametrize("m", [2, 402])
def test_rows_may_have_units_far_apart(m: int) -> None:
    A = np.zeros((m, m + 2))
    A[np.arange(m), np.arange(m)] = A[np.arange(m), np.arange(m) + 1] = 1
    b = np.linspace(-1, 1, m)
    unit = np.where(np.arange(m) % 2, 1.0, 1e7)  # pascals and shares, say
    x = torch.randn(3, m + 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = Affine(unit[:, None] * A, unit * b).project(x)
    assert torch.allclose(found, Affine(A, b).project(x), atol=1e-6)
    assert float(Affine(A, b).violations(found).max()) < 1e-8


def test_contradictions_are_refused() -> None:
    with pytest.raises(InfeasibleError, match="two values"):
        Affine.fixed(3, np.array([1, 0, 1]), np.array([1.0, 2.0, 3.0]))
    assert Affine.fixed(3, np.array([1, 0, 1]), np.array([1.0, 2.0, 1.0])).project(torch.zeros(3)).tolist() == [2, 1, 0]
    with pytest.raises(UsageError, match="weight: must be positive"):
        Affine(np.ones((1, 2)), np.ones(1), np.array([0.0, 1.0]))
    with pytest.raises(InfeasibleError, match="contradict"):
        Affine(csr_matrix(np.ones((2, 3))), np.array([0.0, 1.0]))
    with pytest.raises(InfeasibleError, match="contradict"):
        Affine(csr_matrix(np.eye(3)[:1]), np.ones(1), None, np.array([0]), np.zeros(1))
    with pytest.raises(InfeasibleError, match="two values"):
        Affine.fixed(3, np.array([1]), np.ones(1)) & Affine.fixed(3, np.array([1]), np.zeros(1))
    with pytest.raises(InfeasibleError, match="two values"):
        Affine.fixed(3, np.array([1]), np.array([101325.0])) & Affine.fixed(3, np.array([1]), np.array([101326.0]))
    with pytest.raises(UsageError, match="do not fit"):
        Affine(csr_matrix(np.ones((2, 3))), np.zeros(3))


def test_a_projected_denoiser_obeys() -> None:
    own = random_set(np.random.default_rng(3), n=10)
    denoiser = Projected(lambda x, t, c=None: GaussianPrediction(0.5 * x), own)
    mean = denoiser(torch.randn(4, 5, 2).double(), torch.tensor(0.3)).mean
    assert mean.shape == (4, 5, 2) and float(own.violations(mean.flatten(1)).max()) < 1e-12
