"""Steering: limit laws against enumeration, the prior at infinite alpha, counts, constraints and batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks._oracle import index, total_variation
from benchmarks._tilted import Chain, Table, floor, prior, random_chain, tilt
from core.constrain.automaton import forbid
from core.constrain.law import Window
from core.constrain.regular import law
from core.denoiser import subs
from core.errors import UsageError
from core.finetune.base import Base
from core.finetune.drakes import path_kl
from core.finetune.steer import BestOf, ByClassifier, Gilc, GilcBlackBox, Smc, Svdd, Tds
from core.guide.classifier import Classifier
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.sample import Step
from core.solvers.tokens import Ancestral, Confidence, Remask, Threshold

K, L, DRAWS = 3, 4, 16_384


def toy() -> tuple[Chain, Table]:
    g = torch.Generator().manual_seed(3)
    return random_chain(K, L, 0), Table(torch.randn(K**L, generator=g, dtype=torch.float64), K)


def law_of(x: Tensor, log_weight: Tensor | None = None) -> Tensor:
    weight = torch.ones(len(x)).double() if log_weight is None else log_weight
    total = torch.zeros(K**L, dtype=torch.float64)
    return total.index_add(0, index(x, K), weight.softmax(0))


EXACT = [Smc(0.5, 1024), Smc(0.5, 16, 2), Tds(0.5, 1024), Tds(0.5, 256, scale=2.0), Tds(0.5, 1024, asks=2)]


@pytest.mark.parametrize("method", EXACT)
def test_populations_reach_the_tilted_law(method: Smc) -> None:
    chain, reward = toy()
    target = tilt(chain.law(), reward.values, 0.5)
    found = method(prior(chain, K, L), reward, DRAWS, Stream.of(0, 1))
    assert total_variation(law_of(found.x, found.log_weight), target) < 3 * floor(target, DRAWS)
    assert total_variation(chain.law(), target) > 0.3
    assert found.log_weight is not None and found.ess is not None
    evidence = float((chain.law() * (reward.values / 0.5).exp()).sum().log())
    assert float(found.log_weight.logsumexp(0)) - np.log(DRAWS) == pytest.approx(evidence, abs=0.06)
    assert 0 < found.ess < DRAWS and found.ancestors is not None and 0 < found.ancestors <= DRAWS


@pytest.mark.parametrize("solver", [Confidence(), Threshold(0.6)])
def test_twisted_diffusion_is_exact_where_the_prediction_says_what_is_uncovered(solver: Confidence | Threshold) -> None:
    """Several sites a step are drawn apart, so that the order is part of the law that is tilted."""
    chain, reward = random_chain(K, L, 3), toy()[1]
    base = replace(prior(chain, K, L), plan=uniform_plan(2), solver=solver)
    target = tilt(law_of(base.sample(Stream.of(1, 4 * DRAWS))), reward.values, 0.5)
    found = Tds(0.5, 1024)(base, reward, DRAWS, Stream.of(0, 1))
    assert total_variation(law_of(found.x, found.log_weight), target) < 3 * floor(target, DRAWS)


@pytest.mark.parametrize("barred", [-torch.inf, torch.nan])
@pytest.mark.parametrize("method", [Smc(0.5, 64, 1), Smc(0.5, 64, 1, share=0.0)])
def test_a_reward_may_rule_sequences_out(method: Smc, barred: float) -> None:
    chain, reward = toy()
    target = tilt(chain.law(), torch.where(reward.values > 0, reward.values, -torch.inf), 0.5)
    reward = Table(torch.where(reward.values > 0, reward.values, barred), K)
    found = method(prior(chain, K, L), reward, DRAWS, Stream.of(0, 1))
    assert found.log_weight is not None and bool(found.log_weight.isfinite().all())
    assert total_variation(law_of(found.x, found.log_weight), target) < 4 * floor(target, DRAWS)


def test_scores_that_rule_sequences_out_lead_away_from_them() -> None:
    chain, reward = toy()
    barred = Table(torch.where(reward.values > 0, reward.values, -torch.inf), K)
    base, alive = prior(chain, K, L), (chain.law() * (reward.values > 0)).sum()
    found = GilcBlackBox(0.5)(base, barred, 2000, Stream.of(0, 1)).x
    assert float(barred.score(found).isfinite().double().mean()) > float(alive) + 0.1
    nothing = Table(torch.full_like(reward.values, -torch.inf), K)
    found = GilcBlackBox(0.5)(base, nothing, 100, Stream.of(0, 1)).x
    assert torch.equal(found, base.sample(Stream.of(0, 100)))


@pytest.mark.parametrize("method", [Smc(0.5, 512), Tds(0.5, 512)])
def test_populations_under_a_grid_tilt_the_samplers_own_law(method: Smc) -> None:
    chain, reward = toy()
    base = replace(prior(chain, K, L), solver=Ancestral(), plan=uniform_plan(2))
    plain = law_of(base.sample(Stream.of(5, 200_000)))
    target = tilt(plain, reward.values, 0.5)
    found = method(base, reward, DRAWS, Stream.of(0, 1))
    assert total_variation(law_of(found.x, found.log_weight), target) < 3 * floor(target, DRAWS)


def test_samples_may_share_their_noise() -> None:
    chain, reward = toy()
    base, stream = prior(chain, K, L), Stream.strata(0, torch.arange(8), 4)
    for method in (BestOf(2), ByClassifier(), Smc(0.5, 4), Tds(0.5, 4), Svdd(0.5, 4), Gilc(), GilcBlackBox()):
        assert method(base, reward, 8, stream).x.shape == (8, L)
    assert path_kl(chain, chain, base, 6, stream).value == 0


def test_others_move_towards_it() -> None:
    chain, reward = toy()
    target = tilt(chain.law(), reward.values, 0.5)
    start = total_variation(chain.law(), target)
    methods = {"classifier": (ByClassifier(0.5), 0.8), "svdd": (Svdd(0.5, 16, 4), 0.5), "gilc": (Gilc(0.5), 1.0),
               "black": (GilcBlackBox(0.5), 1.0)}  # fmt: skip
    for name, (method, share) in methods.items():
        found = method(prior(chain, K, L), reward, 4096, Stream.of(0, 1))
        assert total_variation(law_of(found.x), target) < share * start, name
        assert float(reward.score(found.x).mean()) > float(chain.law() @ reward.values) + 0.1, name
    best = BestOf(16)(prior(chain, K, L), reward, 512, Stream.of(0, 1))
    assert float(reward.score(best.x).mean()) > 1.0 and best.calls == 16 * 512


def test_infinite_alpha_is_the_prior() -> None:
    chain, reward = toy()
    base = prior(chain, K, L)
    plain = base.sample(Stream.of(0, 300))
    for method in (ByClassifier(1e12), Gilc(1e12), GilcBlackBox(1e12)):
        assert torch.equal(method(base, reward, 300, Stream.of(0, 1)).x, plain)
    for method in (Smc(1e12, 64), Tds(1e12, 64), Svdd(1e12, 4)):
        found = method(base, reward, DRAWS, Stream.of(0, 1))
        assert total_variation(law_of(found.x), chain.law()) < 1.5 * floor(chain.law(), DRAWS)
    found = Smc(1e12, 64)(base, reward, 256, Stream.of(0, 1))
    assert found.ancestors == 256 and found.ess == pytest.approx(256)


def test_calls_are_counted() -> None:
    chain, reward = toy()
    base = prior(chain, K, L)
    found = Smc(0.5, 32, draws=3)(base, reward, 64, Stream.of(0, 1))
    assert (found.calls, found.gradients, found.network_calls) == (64 * (3 * 3 + 1), 0, 64 * 4)
    found = ByClassifier(0.5)(base, reward, 10, Stream.of(0, 1))
    assert (found.calls, found.gradients, found.network_calls) == (0, 40, 40)
    found = Svdd(0.5, 4, 2)(base, reward, 10, Stream.of(0, 1))
    assert (found.calls, found.network_calls) == (10 * 4 * (3 * 2 + 1), 10 * (4 + 3 * 4))
    found = Gilc(0.5, draws=5)(base, reward, 10, Stream.of(0, 1))
    assert (found.calls, found.gradients, found.network_calls, found.ancestors) == (0, 200, 40, None)


def test_fewer_steps_may_ask() -> None:
    chain, reward = toy()
    base = prior(chain, K, L)
    found = ByClassifier(0.5, asks=2)(base, reward, 512, Stream.of(0, 1))
    assert (found.calls, found.gradients) == (0, 512 * 2)
    assert float(reward.score(found.x).mean()) > float(chain.law() @ reward.values) + 0.1
    found = Tds(0.5, 32, draws=1, asks=2)(base, reward, 64, Stream.of(0, 1))
    assert (found.calls, found.gradients) == (64 * 2, 64 * 2)
    found = Svdd(0.5, 4, asks=1)(base, reward, 10, Stream.of(0, 1))
    assert (found.calls, found.network_calls) == (10 * 4, 10 * (4 + 4))
    assert Gilc(0.5, draws=5, asks=3)(base, reward, 10, Stream.of(0, 1)).gradients == 150
    with pytest.raises(UsageError, match="must not be negative"):
        Gilc(0.5, asks=-1)(base, reward, 10, Stream.of(0, 1))


def rule(rows: int) -> Window:
    made = law(forbid([(0, 1), (2, 2)], K), rows, L)
    return made.window(made.begin(), np.arange(rows), L, 0)


METHODS = [BestOf(3), ByClassifier(0.3), Smc(0.3, 8), Tds(0.3, 8), Svdd(0.3, 3), Gilc(0.3), GilcBlackBox(0.3),
           ByClassifier(0.3, asks=2), Tds(0.3, 8, asks=2), Svdd(0.3, 3, asks=2), Gilc(0.3, asks=2)]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_constraints_and_fixed_sites_always_hold_and_batches_do_not_matter(method) -> None:  # noqa: ANN001
    chain, reward = toy()
    start = torch.tensor([K, K, 1, K])
    base = replace(prior(chain, K, L), window=rule, start=start, solver=Ancestral(), plan=uniform_plan(3))
    found = method(base, reward, 48, Stream.of(0, 1)).x
    pairs = found[:, :-1] * K + found[:, 1:]
    assert bool((found[:, 2] == 1).all()) and not bool(((pairs == 1) | (pairs == 8)).any())
    assert torch.equal(method(base, reward, 16, Stream.of(0, 1, 8)).x, found[8:24])


REVISED = [ByClassifier(0.5), ByClassifier(0.5, asks=3), Gilc(0.5, 2), GilcBlackBox(0.5, 2), Svdd(0.5, 2), Smc(0.5, 4)]


@pytest.mark.parametrize("method", REVISED, ids=str)
def test_batches_do_not_matter_where_sites_are_covered_again(method) -> None:  # noqa: ANN001
    chain, reward = toy()
    base = replace(prior(chain, K, L), solver=Remask(0.9), plan=uniform_plan(8))
    found, size = method(base, reward, 12, Stream.of(0, 1)).x, 4 if isinstance(method, Smc) else 1
    parts = [method(base, reward, size, Stream.of(0, 1, first)).x for first in range(0, 12, size)]
    assert torch.equal(torch.cat(parts), found)


def test_constrained_populations_reach_the_conditioned_tilted_law() -> None:
    chain, reward = toy()
    base = replace(prior(chain, K, L), window=rule)
    plain = law_of(base.sample(Stream.of(5, 40_000)))
    target = torch.where(plain > 0, plain * (reward.values / 0.5).exp(), 0.0)
    target = target / target.sum()
    for method in (Smc(0.5, 512), Tds(0.5, 512)):
        found = method(base, reward, 4096, Stream.of(0, 1))
        assert total_variation(law_of(found.x, found.log_weight), target) < 3.5 * floor(target, 4096)


def test_guidance_is_fed_probabilities_and_differentiates_each_sample_by_itself() -> None:
    chain, reward = toy()
    seen = []

    def value(p: Tensor) -> Tensor:
        seen.append(p.detach())
        return reward.soft(p)

    x_t = torch.tensor([[K, 1, K, K], [0, K, K, 2], [K, K, K, K]])
    base = prior(chain, K, L)

    def step(rows: Tensor) -> Step:
        window, stream = base.law(len(rows)), Stream.of(0, len(rows))
        return Step(base.process, base.predict, window, rows, 0.75, 0.5, 3, torch.zeros(rows.shape), stream)

    tilt_ = Classifier(chain, value, 0.7, dtype=torch.float64)
    all_of = tilt_(step(x_t))
    assert torch.allclose(seen[0].sum(-1), torch.ones(3, L).double()) and float(seen[0].min()) >= 0
    assert torch.allclose(tilt_(step(x_t[1:2]))[0], all_of[1])
    z = nn.functional.one_hot(x_t, K + 1).double()

    def score(z: Tensor) -> Tensor:
        return reward.soft(z[..., :K] + z[..., K:] * chain(z, torch.zeros(len(z))).softmax(-1))

    bump = torch.zeros_like(z[:1, 0])
    bump[0, 1], bump[0, K] = 1e-6, -1e-6
    moved = [z.clone(), z.clone()]
    moved[0][2, 3] += bump[0]
    moved[1][2, 3] -= bump[0]
    slope = (score(moved[0]) - score(moved[1]))[2] / 2e-6
    plain = subs(chain(x_t, torch.zeros(3)), x_t, K).log_p
    assert float((all_of - plain)[2, 3, 1]) == pytest.approx(float(slope) / 0.7, rel=1e-3)


def test_wrong_options_are_refused() -> None:
    chain, reward = toy()
    base = prior(chain, K, L)

    class BlackBox:
        name = "black"
        score = staticmethod(reward.score)

    for make in (lambda: Smc(0.0), lambda: Svdd(0.5, 0), lambda: BestOf(0)):
        with pytest.raises(UsageError, match="must be positive"):
            make()(base, reward, 4, Stream.of(0, 1))
    with pytest.raises(UsageError, match="2 or more"):
        GilcBlackBox(0.5, 1)(base, reward, 4, Stream.of(0, 1))
    for method in (ByClassifier(0.5), Tds(0.5), Gilc(0.5)):
        with pytest.raises(UsageError, match="no gradients"):
            method(base, BlackBox(), 4, Stream.of(0, 1))
    assert GilcBlackBox(0.5)(base, BlackBox(), 4, Stream.of(0, 1)).calls == 4 * 4 * 5
    assert isinstance(Base(chain, Categorical.absorbing(K), uniform_plan(2), L).sample(Stream.of(0, 2)), Tensor)
