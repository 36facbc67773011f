"""Shared laws equal enumeration: what is accepted, sums, draws, marginals, what can still be completed, why not."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from core.constrain.layers import Layers, admits, conflict, unfold
from core.constrain.patterns import avoid_all, occurrences
from core.constrain.shared import SharedLaw
from core.constrain.timed import Budget, codons, region, tally, tiles
from core.errors import UsageError

K, L = 3, 7
ALL = np.array(list(itertools.product(range(K), repeat=L)))


def hits(x: np.ndarray, patterns: list[list[set[int]]]) -> int:
    """Count the places at which a match of some pattern ends."""
    ends = {i + len(p) for p in patterns for i in range(len(x) - len(p) + 1)
            if all(int(x[i + j]) in s for j, s in enumerate(p))}  # fmt: skip
    return len(ends)


AVOID = [[{0}, {1, 2}, {0}], [{2}, {2}]]
NEED = [[{1}, {0, 1}], [{2}, {0}, {1}]]
COST = np.tile([0, 1, 2], (L, 1))


def rules() -> tuple[list, np.ndarray, Budget]:
    allowed = np.ones((L, K), bool)
    allowed[0] = [True, True, False]
    frame = codons([{(0, 1, 0), (0, 1, 1), (1, 1, 0)}], L, 3, K)
    return [region(avoid_all(AVOID, K), L), region(occurrences(NEED, K, 1, 2), L), frame], allowed, Budget(COST, 3, 6)


def legal() -> np.ndarray:
    triples = {(0, 1, 0), (0, 1, 1), (1, 1, 0)}
    return np.array([
        hits(x, AVOID) == 0 and 1 <= hits(x, NEED) <= 2 and tuple(x[3:6]) in triples and x[0] < 2 and 3 <= x.sum() <= 6
        for x in ALL
    ])  # fmt: skip


@pytest.fixture(scope="module")
def layers() -> Layers:
    found = unfold(*rules())
    assert found is not None
    return found


def test_accepts_what_is_legal(layers: Layers) -> None:
    assert (layers.accepts(ALL) == legal()).all()
    assert 0 < legal().sum() < len(ALL)


def test_is_minimal(layers: Layers) -> None:
    """No two states of a layer have the same successors, and each leads on."""
    for i in range(L):
        rows = layers.delta[layers.ptr[i] : layers.ptr[i + 1]]
        assert len(np.unique(rows, axis=0)) == len(rows) and (rows >= 0).any(1).all()


def law_of(log_p: torch.Tensor, known: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the conditioned product law over ALL and the log of the total before normalising, by enumeration."""
    p = log_p.numpy()
    fits = legal() & ((known < 0) | (known == ALL)).all(1)
    log_w = np.where(fits, np.where(known < 0, p[np.arange(L), ALL], 0.0).sum(1), -np.inf)
    total = float(np.logaddexp.reduce(log_w))
    return np.exp(log_w - total), total


COLD = [1.0, 10.0, 60.0, 600.0, 6000.0]
"""Sharpness of predictions; from 60 on, what the rules ask for has less than the smallest number."""


@pytest.mark.parametrize("cold", COLD)
@pytest.mark.parametrize("sites", [[], [3], [0, 5], [1, 2, 6]])
def test_sums_equal_enumeration(layers: Layers, sites: list[int], cold: float) -> None:
    known = [int(v) if i in sites else -1 for i, v in enumerate(ALL[legal()][len(sites)])]
    log_p = torch.randn(1, L, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_p = (cold * log_p).log_softmax(-1)
    weight, total = law_of(log_p[0], np.array(known))
    window, held = SharedLaw(layers, 1).whole(), torch.tensor([known])
    assert float(window.log_partition(log_p, held)) == pytest.approx(total, abs=1e-10, rel=1e-14)
    marginal, possible = np.zeros((L, K)), np.zeros((L, K), bool)
    for x, w in zip(ALL, weight, strict=True):
        marginal[np.arange(L), x] += w
    for x in ALL[legal() & ((np.array(known) < 0) | (np.array(known) == ALL)).all(1)]:
        possible[np.arange(L), x] = True
    assert np.abs(window.marginals(log_p, held)[0].numpy() - marginal).max() < 1e-10
    assert (window.allowed(held)[0].numpy() == possible).all()


@pytest.mark.parametrize("cold", COLD)
def test_draws_follow_the_conditioned_product(layers: Layers, cold: float) -> None:
    """Also where the rules ask for what the prediction, a cold one, gives less than 1e-12."""
    n = 100_000
    log_p = torch.randn(1, L, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    log_p = (cold * log_p).log_softmax(-1)
    u = torch.rand(n, L, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    everything = torch.ones(n, L, dtype=torch.bool)
    x = SharedLaw(layers, n).whole().admit(log_p.expand(n, -1, -1), torch.full((n, L), -1), everything, u)
    seen = np.bincount(x.numpy() @ K ** np.arange(L)[::-1], minlength=K**L) / n
    assert np.abs(seen - law_of(log_p[0], np.full(L, -1))[0]).sum() / 2 <= 0.02


@pytest.mark.parametrize("cold", COLD)
def test_greedy_is_the_mode(layers: Layers, cold: float) -> None:
    log_p = torch.randn(5, L, K, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    log_p = (cold * log_p).log_softmax(-1)
    everything, none = torch.ones(5, L, dtype=torch.bool), torch.full((5, L), -1)
    x = SharedLaw(layers, 5).whole().admit(log_p, none, everything, torch.zeros(5, L), greedy=True)
    for row, p in zip(x.numpy(), log_p, strict=True):
        assert (row == ALL[law_of(p, np.full(L, -1))[0].argmax()]).all()


@pytest.mark.parametrize(("rate", "at_least"), [(0.5, 270), (0.2, 270), (0.01, 270), (1e-40, 200)])
def test_a_sum_far_from_what_is_expected(rate: float, at_least: int) -> None:
    """The tail of a binomial law, down to e^-18000: its probability, and where the tokens that it takes stand."""
    n = 300
    found = unfold([], np.ones((n, 2), bool), Budget(np.tile([0, 1], (n, 1)), at_least, n))
    assert found is not None
    window, none = SharedLaw(found, 1).whole(), torch.full((1, n), -1)
    log_p = torch.tensor([np.log1p(-rate), np.log(rate)], dtype=torch.float64).expand(1, n, 2)
    k = np.arange(at_least, n + 1)
    terms = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1) + k * np.log(rate) + (n - k) * np.log1p(-rate)
    total = np.logaddexp.reduce(terms)
    assert float(window.log_partition(log_p, none)) == pytest.approx(total, rel=1e-12)
    share = (np.exp(terms - total) * k).sum() / n
    assert np.abs(window.marginals(log_p, none)[0, :, 1].numpy() - share).max() < 1e-9
    u = torch.rand(400, n, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    many = SharedLaw(found, 400).whole()
    x = many.admit(log_p.expand(400, -1, -1), none.expand(400, -1), torch.ones(400, n, dtype=torch.bool), u).numpy()
    assert (x.sum(1) >= at_least).all() and abs(x.mean() - share) < 0.01
    for half in (x[:, : n // 2], x[:, n // 2 :]):  # exchangeable: no half of the sequence pays for the other
        assert abs(half.mean() - share) < 5 * np.sqrt(share * (1 - share) / half.size) + 1e-9


@pytest.mark.parametrize("mode", ["product", "exists"])
def test_every_order_of_reveals_ends_well(layers: Layers, mode: str) -> None:
    """No dead ends, also under predictions that rule out what the rules ask for."""
    n, generator = 500, torch.Generator().manual_seed(5)
    law, known = SharedLaw(layers, n, mode), torch.full((n, L), -1)  # type: ignore[arg-type]
    for _ in range(12):
        log_p = (40 * torch.randn(n, L, K, generator=generator, dtype=torch.float64)).log_softmax(-1)
        log_p = torch.where(torch.rand(log_p.shape, generator=generator) < 0.5, -torch.inf, log_p)
        reveal = (torch.rand(n, L, generator=generator) < 0.3) & (known < 0)
        u = torch.rand(n, L, generator=generator, dtype=torch.float64)
        known = law.whole().admit(log_p, known, reveal, u)
    known = law.whole().admit(log_p, known, known < 0, u)
    assert layers.accepts(known.numpy()).all()


def test_windows_continue_one_another(layers: Layers) -> None:
    """Block after block is legal, and a block's law counts what follows uniformly."""
    n, law = 300, SharedLaw(layers, 300)
    state, generator, parts = law.begin(), torch.Generator().manual_seed(6), []
    for size, left in ((3, 4), (2, 2), (2, 0)):
        window = law.window(state, np.arange(n), size, left)
        u = torch.rand(n, size, generator=generator, dtype=torch.float64)
        flat, open_ = torch.zeros(n, size, K, dtype=torch.float64), torch.full((n, size), -1)
        parts.append(window.admit(flat, open_, open_ < 0, u))
        state = law.advance(window, parts[-1])
        assert (state >= 0).all()
    x = torch.cat(parts, 1).numpy()
    assert layers.accepts(x).all()
    first = np.array([legal()[ALL[:, 0] == v].sum() for v in range(K)]) / legal().sum()
    assert np.abs(np.bincount(x[:, 0], minlength=K) / n - first).max() < 0.1


def test_log_partition_has_the_right_gradient(layers: Layers) -> None:
    log_p = torch.randn(2, L, K, generator=torch.Generator().manual_seed(7), dtype=torch.float64, requires_grad=True)
    known = torch.tensor([[-1] * L, [-1, -1, -1, 0, -1, -1, -1]])
    window = SharedLaw(layers, 2).whole()
    assert torch.autograd.gradcheck(lambda p: window.log_partition(p, known), log_p)


def test_tiles_and_tallies() -> None:
    tiled = unfold([tiles([0, 1, 1], 3, 1, 2, L)], np.ones((L, K), bool))
    assert tiled is not None
    sums = (ALL[:, :6].reshape(-1, 2, 3) > 0).sum(2)
    assert (tiled.accepts(ALL) == ((sums >= 1) & (sums <= 2)).all(1)).all()
    summed = unfold([tally(Budget(COST, 3, 5))], np.ones((L, K), bool))
    assert summed is not None and (summed.accepts(ALL) == ((ALL.sum(1) >= 3) & (ALL.sum(1) <= 5))).all()


def test_the_shortest_reason() -> None:
    all_, free = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, np.ones((L, K), bool)
    assert sorted(conflict(list(all_), lambda part: not {"b", "d"} <= set(part))) == ["b", "d"]
    assert conflict(list(all_), lambda part: "c" not in part) == ["c"]
    assert sorted(conflict(list(all_), lambda part: len(part) < 5)) == sorted(all_)
    assert not admits([region(occurrences([[{0}]], K, L + 1), L)], free)
    assert not admits([], free, [Budget(COST, 2 * L + 1, 99)]) and admits([], free, [Budget(COST, 2 * L, 99)])


def test_a_long_product_is_quick_and_a_wide_one_refused() -> None:
    length = 300
    began = time.process_time()
    wild = [[{0}, *[{0, 1, 2}] * 5, {1}], [{2}] * 6]
    assert unfold([region(avoid_all(wild, K), length)], np.ones((length, K), bool)) is not None
    assert time.process_time() - began < 2
    with pytest.raises(UsageError, match="states"):
        occurrences([[{0, 1}, *[{0, 1, 2}] * 24, {1, 2}]], K, 3)
