"""Offline tuning: the minimisers, against enumeration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks._oracle import index, sequences, total_variation
from benchmarks._tilted import Chain, Table, Tuned, enumerate_sampler, prior, random_chain, tilt
from core.finetune.distill import distill, guided
from core.finetune.offline import Groups, Pool, complete, draw, reward_weighted, sdpo
from core.finetune.steer import ByClassifier
from core.noise import Stream

K, L = 3, 3


def toy() -> tuple[Chain, Table]:
    g = torch.Generator().manual_seed(3)
    return random_chain(K, L, 0), Table(torch.randn(K**L, generator=g, dtype=torch.float64), K)


def test_a_pool_weighs_towards_the_tilted_law() -> None:
    chain, reward = toy()
    pool = draw(prior(chain, K, L), reward, 40_000, Stream.of(0, 1))
    law = torch.zeros(K**L).double().index_add(0, index(pool.x_0, K), pool.weights(0.5)) / 40_000
    assert total_variation(law, tilt(chain.law(), reward.values, 0.5)) < 0.02
    assert pool.effective(0.5) < pool.effective(5.0) < 40_000
    assert Pool(pool.x_0, pool.reward).effective(1e9) == pytest.approx(40_000)


def fitted(build, steps: int) -> Tensor:  # noqa: ANN001
    chain, _ = toy()
    torch.manual_seed(0)
    policy = Tuned(chain, L, K, 64, torch.float64)
    optimiser = torch.optim.Adam(policy.inner.parameters(), lr=1e-2)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for n in range(steps):
        loss = build(policy, n)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slower.step()
    return enumerate_sampler(policy, chain, K, L)[0]


def test_reward_weighted_likelihood_reaches_the_tilted_law() -> None:
    chain, reward = toy()
    base, x = prior(chain, K, L), sequences(K, L)
    weight = chain.law() * (reward.values / 0.5).exp()
    weight = weight / weight.sum() * len(x)

    def build(policy: nn.Module, n: int) -> Tensor:
        loss, _ = reward_weighted(policy, base, x.repeat(4, 1), weight.repeat(4), Stream.of(0, 1).fold(n))
        return loss

    assert total_variation(fitted(build, 300), tilt(chain.law(), reward.values, 0.5)) < 0.05


def test_sdpo_fits_the_tilted_prediction() -> None:
    chain, reward = toy()
    base = prior(chain, K, L)
    groups = complete(base, reward, draw(base, reward, 2000, Stream.of(0, 1)).x_0, 32, Stream.of(1, 1))

    def build(policy: nn.Module, n: int) -> Tensor:
        rows = torch.randint(0, 2000, (64,), generator=torch.Generator().manual_seed(n))
        return sdpo(policy, chain, base, groups.select(rows), 0.5)[0]

    before, target = chain.law(), tilt(chain.law(), reward.values, 0.5)
    after = fitted(build, 200)
    assert total_variation(after, target) < 0.4 * total_variation(before, target)


def test_distilled_guidance_draws_as_guidance_does_and_asks_no_more() -> None:
    chain, reward = toy()
    base = prior(chain, K, L)
    teacher = guided(base, reward, 0.5, 600, Stream.of(0, 1))
    assert teacher.calls == 600 * L and len(teacher.t) == 600 * L and bool((teacher.x_t == K).any(-1).all())

    def build(policy: nn.Module, n: int) -> Tensor:
        rows = torch.randint(0, len(teacher.t), (128,), generator=torch.Generator().manual_seed(n))
        return distill(policy, base, teacher.select(rows), 0.5)[0]

    drawn = ByClassifier(0.5)(base, reward, 20_000, Stream.of(1, 1)).x
    law = torch.bincount(index(drawn, K), minlength=K**L) / len(drawn)
    assert total_variation(fitted(build, 200), law) < 0.05 < 0.2 * total_variation(chain.law(), law)
    even, _ = distill(chain, base, teacher, 1e9)
    assert float(even) == pytest.approx(0.0, abs=1e-6)


def test_guidance_of_a_network_that_rules_tokens_out_is_distilled() -> None:
    chain, reward = toy()
    base = replace(prior(chain, K, L), network=Without(chain, torch.tensor([True, False, True])))
    found = guided(base, reward, 0.5, 8, Stream.of(0, 1))
    assert bool(found.gain.isfinite().all()) and not bool((found.x_t == 1).any())
    assert not bool(found.gain[..., 1].any()) and bool(found.gain[..., 0].any())
    assert float(distill(base.network, base, found, 0.5)[0]) > 0.01  # it was nan, and then counted as nothing


class Without(nn.Module):
    """A network that rules some tokens out."""

    def __init__(self, network: nn.Module, allowed: Tensor) -> None:
        super().__init__()
        self.network, self.allowed = network, allowed

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the logits."""
        return self.network(x_t, t).masked_fill(~self.allowed, -torch.inf)


def test_completions_keep_what_is_known_and_the_loss_is_zero_excess_at_the_optimum() -> None:
    chain, reward = toy()
    base = prior(chain, K, L)
    groups = complete(base, reward, draw(base, reward, 50, Stream.of(0, 1)).x_0, 4, Stream.of(1, 1))
    known = (groups.x_t != K)[:, None].expand(-1, 4, -1)
    assert torch.equal(groups.x_0[known], groups.x_t[:, None].expand(-1, 4, -1)[known])
    assert torch.equal(groups.reward, reward.score(groups.x_0.reshape(-1, L)).view(50, 4))
    even = Groups(groups.x_t, groups.t, groups.x_0, torch.zeros_like(groups.reward))
    assert float(sdpo(chain, chain, base, even, 0.5)[1]["excess"]) == pytest.approx(0, abs=1e-12)
