"""DRAKES: hard paths, the exact path KL, and gradients against finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from benchmarks._oracle import index, propagate, sequences, total_variation
from benchmarks._surrogate import gradient_errors
from benchmarks._tilted import Table, Tuned, enumerate_sampler, prior, random_chain, tilt
from core.constrain.automaton import forbid
from core.constrain.law import Window
from core.constrain.regular import law
from core.denoiser import subs
from core.draw import categorical, gumbel
from core.errors import UsageError
from core.finetune import drakes
from core.finetune.base import Base, record, uncovering
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.solvers.tokens import Ancestral, Confidence, FirstHitting, Remask

K, L = 3, 3


def networks(scale: float = 0.7, length: int = L) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    chain = random_chain(K, length, 0)
    policy = Tuned(chain, length, K, 16, torch.float64)
    for p in policy.inner.parameters():
        nn.init.normal_(p, std=scale)
    return policy, drakes.frozen(chain)


def sampler(network: nn.Module, solver=None, steps: int = L, length: int = L) -> Base:  # noqa: ANN001
    return Base(network, Categorical.absorbing(K), uniform_plan(steps), length, solver=solver or FirstHitting())


def enumerated(policy: nn.Module, base_net: nn.Module, steps: int, of=drakes.divergence) -> float:  # noqa: ANN001
    """Return the path KL of the ancestral sampler, or what `of` sums, over all states at every time."""
    process, states, total = Categorical.absorbing(K), sequences(K + 1, L), 0.0
    grid = uniform_plan(steps).times.tolist()

    def logs(net: nn.Module) -> Tensor:
        return subs(net(states, torch.zeros(len(states))).double(), states, K).log_p

    def kernel(x: Tensor, t: float, s: float) -> Tensor:
        return process.reverse(subs(policy(x, torch.zeros(len(x))).double(), x, K), x, t, s)

    with torch.no_grad():
        for k in range(steps):
            t, s = grid[k], grid[k + 1]
            at = propagate(process, L, grid[: k + 1], kernel) if k else (states == K).all(-1).double()
            step = of(logs(policy), logs(base_net)).sum(-1)
            total += float(at @ step) * (t - s) / t
    return total


def test_gumbel_noise_given_the_winner_is_gumbel_noise() -> None:
    rows = 40_000
    log_p = torch.tensor([0.6, 0.3, 0.1, 0.0]).double().log().expand(rows, -1)
    y = categorical(log_p, Stream.of(0, rows).uniform(1)[:, 0])
    g = drakes.gumbel_given(y, log_p, Stream.of(1, rows).uniform(4))
    assert bool(((log_p + g).argmax(-1) == y).all()) and bool((g[:, 3] == 0).all())
    plain = gumbel(Stream.of(2, rows).uniform(3)).sort(0).values
    assert float((g[:, :3].sort(0).values - plain)[rows // 100 : -rows // 100].abs().max()) < 0.15


def test_paths_remember_every_state() -> None:
    policy, _ = networks()
    base = replace(sampler(policy, Ancestral(), 7), start=torch.tensor([K, 1, K]))
    path = record(base, Stream.of(0, 50))
    assert bool((path.x_0 < K).all()) and bool((path.x_0[:, 1] == 1).all())
    assert bool((path.state(0) == base.begin(50)).all()) and bool((path.state(7) == path.x_0).all())
    for k in range(7):
        now, then = path.state(k), path.state(k + 1)
        assert torch.equal((now == K) & (then != K), path.uncovered(k))
        assert torch.equal(path.state(torch.full((50,), k)), now)
    assert torch.equal(record(base, Stream.of(0, 5, 20)).x_0, path.x_0[20:25])


@pytest.mark.parametrize("solver", [Ancestral(), FirstHitting(), FirstHitting(2), Confidence()])
def test_uncovering_is_as_likely_as_it_says(solver) -> None:  # noqa: ANN001
    base, rows = sampler(networks()[0], solver, 4), 8000
    path = record(base, Stream.of(0, rows))
    for k in range(4):
        weight = uncovering(base, path, torch.full((rows,), k))
        assert float((weight - path.uncovered(k).double()).mean(0).abs().max()) < 0.02


def test_path_kl_is_the_enumerated_one_also_from_some_steps() -> None:
    policy, prior_net = networks()
    for base, exact in [(sampler(policy, Ancestral(), 4), enumerated(policy, prior_net, 4)),
                        (sampler(policy), enumerate_sampler(policy, prior_net, K, L)[1])]:  # fmt: skip
        found = drakes.path_kl(policy, prior_net, base, 3000, Stream.of(0, 1))
        assert exact > 0.1 and abs(found.value - exact) < 3 * found.error < 0.2 * exact
        some = drakes.path_kl(policy, prior_net, base, 3000, Stream.of(3, 1), kl_steps=2)
        assert abs(some.value - exact) < 3 * some.error and some.error > found.error
    assert drakes.path_kl(prior_net, prior_net, base, 50, Stream.of(0, 1)).value == 0


@pytest.mark.parametrize(("truncate", "kl_steps", "draws"), [(4, None, 1), (2, None, 3), (4, 2, 2), (1, 3, 1)])
def test_gradients_are_those_of_the_surrogate(truncate: int, kl_steps: int | None, draws: int) -> None:
    policy, prior_net = networks()
    base = sampler(policy, Ancestral(), 4)
    found = drakes.walk(policy, prior_net, base, torch.arange(16), Stream.of(0, 1), 0.8, kl_steps, draws)
    reward = Table(torch.randn(K**L, generator=torch.Generator().manual_seed(3), dtype=torch.float64), K)
    x_0, _, _ = found.run(truncate)
    assert torch.equal(x_0.detach(), one_hot(found.path.x_0, K).double())
    mine, numeric = gradient_errors(found, reward, 0.3, truncate, policy.inner[2].weight)
    assert mine < 1e-9 and numeric < 1e-3


def test_nats_of_paths_are_the_enumerated_ones_and_kl_is_what_entropy_leaves_of_them() -> None:
    policy, prior_net = networks()
    base, stream = sampler(policy, Ancestral(), 4), Stream.of(0, 2000)
    want = [enumerated(policy, net, 4, drakes.cross_entropy) for net in (prior_net, policy)]
    found = drakes.walk(policy, prior_net, base, torch.arange(2000), stream)
    with torch.no_grad():
        _, kl, nats = found.run(4)
    error = drakes.PathKL.of(nats).error
    assert abs(float(nats.mean()) - want[0]) < 3 * error < 0.1 * want[0]
    assert drakes.path_entropy(policy, base, 2000, stream) == pytest.approx(want[1], abs=3 * error)
    assert float((nats - kl).mean()) == pytest.approx(drakes.path_entropy(policy, base, 2000, stream), abs=1e-9)
    assert enumerated(policy, prior_net, 4) == pytest.approx(want[0] - want[1], abs=1e-9)


def test_only_nats_below_the_level_are_paid_for() -> None:
    policy, prior_net = networks()
    base, reward = sampler(policy, Ancestral(), 4), Table(torch.randn(K**L).double(), K)

    def call(**more: float) -> tuple[float, Tensor, float]:
        value, metrics = drakes.loss(policy, prior_net, base, reward, 0.3, 4, 1.0, 16, Stream.of(0, 16), **more)  # type: ignore[arg-type]
        (slope,) = torch.autograd.grad(value, policy.inner[2].weight)  # type: ignore[union-attr, arg-type]
        return float(value.detach()), slope, metrics["nats"]

    plain, slope, nats = call()
    for more in ({"hold": 0.0, "level": 99.0}, {"hold": 5.0, "level": nats - 0.1}):
        assert call(**more)[0] == plain and torch.equal(call(**more)[1], slope)
    held = call(hold=5.0, level=nats + 0.2)
    assert held[0] - plain == pytest.approx(2.5 * 0.04) and not torch.allclose(held[1], slope)


def forbidden(rows: int) -> Window:
    made = law(forbid([(0, 1)], K), rows, L)
    return made.window(made.begin(), np.arange(rows), L, 0)


def test_constraints_hold_on_every_path_and_enter_the_kl() -> None:
    policy, prior_net = networks()
    base = replace(sampler(policy), window=forbidden)
    stream = Stream.of(0, 200)
    x = record(base, stream).x_0
    assert not bool(((x[:, :-1] == 0) & (x[:, 1:] == 1)).any())
    value, metrics = drakes.loss(policy, prior_net, base, Table(torch.zeros(27).double(), K), 1.0, 3, 1.0, 200, stream)
    value.backward()
    assert metrics["kl"] > 0 and float(value.detach()) == pytest.approx(metrics["kl"])


def test_a_sampler_that_covers_sites_again_does_not_depend_on_its_batch_and_is_not_tuned() -> None:
    chain = random_chain(3, 4, 0)
    base = replace(prior(chain, 3, 4), solver=Remask(0.9), plan=uniform_plan(16))
    whole = base.sample(Stream.of(0, 40))
    assert all(torch.equal(base.sample(Stream.of(0, 1, i))[0], whole[i]) for i in range(40))
    with pytest.raises(UsageError, match="solver: covers sites again"):
        drakes.path_kl(chain, chain, base, 4, Stream.of(0, 4))


def test_wrong_options_are_refused() -> None:
    policy, prior_net = networks()
    reward = Table(torch.zeros(27).double(), K)
    for options in ({"truncate": 0}, {"truncate": 9}, {"truncate": 1, "kl_steps": 9}):
        call = {"temperature": 1.0, "batch": 2, "stream": Stream.of(0, 2), **options}
        with pytest.raises(UsageError, match="must lie"):
            drakes.loss(policy, prior_net, sampler(policy), reward, 1.0, **call)


def test_tuning_moves_towards_the_tilted_law() -> None:
    torch.manual_seed(0)
    chain = random_chain(K, L, 0)
    policy = Tuned(chain, L, K, 32, torch.float64)
    r = torch.randn(K**L, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    base, target = prior(policy, K, L), tilt(chain.law(), r, 0.5)
    optimiser = torch.optim.Adam(policy.inner.parameters(), lr=1e-2)
    for n in range(60):
        value, _ = drakes.loss(policy, chain, base, Table(r, K), 0.5, L, 0.5, 64, Stream.of(n, 1))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    before, after = chain.law(), enumerate_sampler(policy, chain, K, L)[0]
    assert total_variation(after, target) < 0.7 * total_variation(before, target)
    assert index(record(base, Stream.of(0, 4)).x_0, K).max() < K**L


def test_held_nats_lead_to_the_law_with_less_of_the_prior() -> None:
    torch.manual_seed(0)
    chain = random_chain(K, L, 0)
    base, law = prior(Tuned(chain, L, K, 32, torch.float64), K, L), chain.law()
    r = 0.7 * law.log() + 0.3 * torch.randn(K**L, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    level, after = drakes.path_entropy(chain, base, 2000, Stream.of(5, 1)), {}
    for hold in (0.0, 20.0):
        policy = Tuned(chain, L, K, 32, torch.float64)
        optimiser = torch.optim.Adam(policy.inner.parameters(), lr=1e-2)
        for n in range(80):
            stream = Stream.of(n, 1)
            value, _ = drakes.loss(policy, chain, base, Table(r, K), 0.5, L, 0.5, 64, stream, hold=hold, level=level)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        after[hold] = enumerate_sampler(policy, chain, K, L)[0]
    nats = {hold: float(-(p * law.log()).sum()) for hold, p in after.items()}
    assert nats[0.0] < level - 0.3 and level - 0.1 < nats[20.0] < level + 0.1
    tilted = [(law.log() * (1 - mu) + r / 0.5).softmax(0) for mu in torch.linspace(0, 4, 81)]
    wanted = min(tilted, key=lambda p: abs(float(-(p * law.log()).sum()) - nats[20.0]))  # the law of this C
    assert total_variation(after[20.0], wanted) < 0.5 * total_variation(after[0.0], wanted)
