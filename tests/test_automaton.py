"""Automata against brute force over all sequences, and the reasons they give."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from core.constrain.automaton import anything, avoids, contains, count, counter, forbid, sites
from core.constrain.regular import conflict, feasible, law
from core.errors import InfeasibleError, UsageError

X = np.array(list(itertools.product(range(3), repeat=6)))


def has(x: np.ndarray, pattern: list[set[int]]) -> bool:
    windows = range(len(x) - len(pattern) + 1)
    return any(all(int(x[i + j]) in p for j, p in enumerate(pattern)) for i in windows)


@pytest.mark.parametrize("seed", range(8))
def test_words_and_patterns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = [rng.integers(0, 3, n).tolist() for n in rng.integers(1, 5, 4)]
    free = np.array([not any(has(x, [{v} for v in w]) for w in words) for x in X])
    assert (forbid(words, 3).accepts(X) == free).all()
    pattern = [set(rng.choice(3, rng.integers(1, 3), replace=False).tolist()) for _ in range(3)]
    found = np.array([has(x, pattern) for x in X])
    assert (contains(pattern, 3).accepts(X) == found).all() and (avoids(pattern, 3).accepts(X) == ~found).all()


def test_counters_and_sites() -> None:
    assert (counter([0, 1, 2], 3, 5).accepts(X) == ((X.sum(1) >= 3) & (X.sum(1) <= 5))).all()
    assert (counter([0, 1, 2], 3).accepts(X) == (X.sum(1) >= 3)).all()
    allowed = [{0, 1}, {2}, {0, 1, 2}, {1}, {0, 2}, {0, 1}]
    inside = [all(int(v) in a for v, a in zip(x, allowed, strict=True)) for x in X]
    assert (sites(allowed, 3).accepts(X) == inside).all()
    assert not sites(allowed, 3).accepts(X[:, :5]).any()


def test_algebra_and_minimisation() -> None:
    a, b = contains([{0}, {1, 2}], 3), counter([1, 0, 0], 1, 3)
    p, q = a.accepts(X), b.accepts(X)
    for law_, truth in ((a & b, p & q), (a | b, p | q), (~a, ~p), (~(a & ~b), ~p | q)):
        assert (law_.accepts(X) == truth).all() and (law_.minimise().accepts(X) == truth).all()
    assert (a & b).minimise().states == (b & a).minimise().states
    assert (a & a & a).minimise().states == a.minimise().states
    assert (a & ~a).minimise().states == 1 and (a | ~a).minimise().states == 1
    twice = (forbid([(0, 1)], 3) & forbid([(0, 1), (0, 1, 2)], 3)).minimise()
    assert twice.states == forbid([(0, 1)], 3).states == 2


def test_counted_chain() -> None:
    data = np.random.default_rng(0).integers(0, 3, (50, 6))
    chain = count(data, 3, order=1, prior=0.0)
    starts = np.bincount(data[:, 0], minlength=3) / 50
    moves = np.zeros((3, 3))
    np.add.at(moves, (data[:, :-1], data[:, 1:]), 1)
    moves /= moves.sum(1, keepdims=True)
    truth = np.log(starts[X[:, 0]]) + np.log(moves[X[:, :-1], X[:, 1:]]).sum(1)
    assert np.allclose(chain.log_prob(X), truth, atol=1e-12)
    for order in (0, 2, 3):
        assert np.exp(count(data, 3, order).log_prob(X)).sum() == pytest.approx(1, abs=1e-12)
    small = (chain & anything(3)).minimise()
    assert np.allclose(small.log_prob(X), truth, atol=1e-12)


def test_the_shortest_reason() -> None:
    rules = {
        "enough": counter([0, 1, 2], 10), "spare": forbid([(1, 2)], 3), "zeros": contains([{0}, {0}, {0}], 3),
        "first": sites([{0, 1, 2}] * 6, 3),
    }  # fmt: skip
    names, site = conflict(rules, 6) or ([], None)
    assert names == ["enough", "zeros"] and site is not None
    assert conflict({k: v for k, v in rules.items() if k != "zeros"}, 6) is None
    with pytest.raises(InfeasibleError, match="enough and zeros contradict each other at site"):
        feasible(rules, 6)
    with pytest.raises(InfeasibleError, match="long cannot be met within 6"):
        feasible({"long": contains([{0}] * 7, 3), "spare": rules["spare"]}, 6)
    with pytest.raises(InfeasibleError):
        law(forbid([(0,), (1,), (2,)], 3), 2, 6)
    fixed = {"first": sites([{0}, {1}, {0, 1, 2}], 3), "ban": forbid([(0, 1)], 3)}
    assert conflict(fixed, 3) == (["first", "ban"], 1)


def test_mistakes_are_named() -> None:
    for wrong in (lambda: counter([-1, 0]), lambda: forbid([(0, 3)], 3), lambda: anything(2) & anything(3)):
        with pytest.raises(UsageError):
            wrong()
    for low, high in ((-1, None), (-1, 2), (3, 2)):
        with pytest.raises(UsageError, match="low"):
            counter([0, 1], low, high)
    with pytest.raises(UsageError, match="constraints: needs one or more"):
        feasible({}, 4)
    assert conflict({}, 4) is None


def test_a_site_may_be_left_without_any_token() -> None:
    none = sites([{0, 1}, set(), {2}], 3)
    assert none.accepts(np.array([[0, 1, 2], [1, 0, 2]])).tolist() == [False, False]
    with pytest.raises(InfeasibleError, match="letters cannot be met within 3 tokens"):
        feasible({"letters": none, "rest": anything(3)}, 3)
