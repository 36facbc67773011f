"""Realignment: exact for sums over independent sites and for last sites, wrong by a known second order elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.errors import UsageError
from core.guide.classifier_free import mix
from core.guide.realign import Realigned

K = 3


class Fixed(torch.nn.Module):
    """A network that says the same of every state."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1, -1)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def realigned(parent: Tensor, tuned: Tensor, strength: float) -> Tensor:
    x = torch.full((1, parent.shape[0]), K)
    return Realigned(Fixed(parent), Fixed(tuned), strength, K)(x, torch.ones(1))[0]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 4.0])
def test_sums_over_independent_sites_are_exact(strength: float) -> None:
    prior, reward, alpha = drawn(0, 4, K), drawn(1, 4, K), 0.7
    found = realigned(prior, prior + reward / alpha, strength)
    expected = (prior + strength * reward / alpha).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_whole_laws_are_exact() -> None:
    prior, reward = drawn(2, K**3).log_softmax(0), drawn(3, K**3)
    tilted = {a: (prior + reward / a).log_softmax(0) for a in (0.9, 0.3)}
    torch.testing.assert_close(mix(prior, tilted[0.9], 3.0), tilted[0.3], rtol=0, atol=1e-13)


@pytest.mark.parametrize("strength", [2.0, 5.0])
def test_the_first_of_two_sites_is_wrong_by_the_variance_that_it_leaves(strength: float) -> None:
    law, reward = drawn(4, K, K).flatten().softmax(0).view(K, K), drawn(5, K, K)
    given = law / law.sum(1, keepdim=True)
    mean = (given * reward).sum(1)
    variance = (given * reward**2).sum(1) - mean**2

    def first(alpha: float) -> Tensor:
        return (law * (reward / alpha).exp()).sum(1).log().log_softmax(0)

    for alpha in (200.0, 400.0):
        found = realigned(law.sum(1).log()[None], first(alpha)[None], strength)[0]
        error = found - first(alpha / strength)
        expected = -strength * (strength - 1) * variance / (2 * alpha**2)
        assert error.abs().max() > 1e-6
        assert (error - error.mean() - expected + expected.mean()).abs().max() < 0.05 * expected.abs().max()
    last = realigned(given.log(), (given.log() + reward / 0.5).log_softmax(-1), strength)
    torch.testing.assert_close(last, (given.log() + strength * reward / 0.5).log_softmax(-1), rtol=0, atol=1e-13)


def test_the_ends_are_parent_and_tuned_and_what_neither_allows_stays_out() -> None:
    parent, tuned = drawn(6, 2, K), drawn(7, 2, K)
    parent[0, 1] = tuned[0, 1] = -torch.inf
    torch.testing.assert_close(realigned(parent, tuned, 0.0), parent.log_softmax(-1))
    torch.testing.assert_close(realigned(parent, tuned, 1.0), tuned.log_softmax(-1))
    assert realigned(parent, tuned, 9.0)[0, 1] == -torch.inf
    assert torch.isfinite(realigned(parent, tuned, 9.0)[1]).all()


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    with pytest.raises(UsageError, match="strength"):
        Realigned(torch.nn.Identity(), torch.nn.Identity(), strength, K)
