"""Routers: legal, optimal, exact and reproducible, whatever else is in the batch."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from apps.trajectory.baselines import Fastest, KShortest, MarkovChain, Shortest, reachable
from apps.trajectory.city import synthetic_city
from apps.trajectory.data import Trips
from core.errors import InfeasibleError, UsageError


@pytest.fixture(scope="module")
def city():
    return synthetic_city()


@pytest.fixture(scope="module")
def requests(city):
    rng = np.random.default_rng(0)
    return rng.integers(0, city.n, 70), rng.integers(0, city.n, 70)


@pytest.fixture(scope="module")
def chain(city, requests):
    return MarkovChain.fit(Fastest(city).sample(*requests, None))


def routers(city, chain):
    return [Shortest(city), Fastest(city), KShortest(city, k=3), chain]


def bellman_ford(network, weight, origin):
    """Return the least cost from `origin` to every segment, the slow and obvious way."""
    cost = np.full(network.n, np.inf)
    cost[origin] = 0.0
    for _ in range(network.n):
        better = cost.copy()
        np.minimum.at(better, network.succ, cost[network.source] + weight)
        if (better == cost).all():
            return cost
        cost = better
    return cost


def test_walks_are_legal_reach_their_ends_and_avoid_closures(city, chain, requests) -> None:
    closed = np.zeros(city.n, dtype=bool)
    closed[np.random.default_rng(3).choice(city.n, 12, replace=False)] = True
    origin, destination = requests
    for router in routers(city, chain):
        for shut in (None, closed):
            some = slice(None) if shut is None else reachable(city, origin, destination, shut)
            o, d = origin[some], destination[some]
            trips = (router if shut is None else router.closing(shut)).sample(o, d, None, 0)
            assert trips.check() == [] and len(trips) == len(o)
            assert (trips.origin == o).all() and (trips.destination == d).all()
            assert shut is None or not shut[trips.segment].any()


@pytest.mark.parametrize("kind", [Shortest, Fastest])
def test_least_cost_is_least(city, requests, kind) -> None:
    origin, destination = requests
    trips = kind(city).sample(origin[:12], destination[:12], None)
    per_segment = city.length if kind is Shortest else city.travel_time + 3.0
    for walk, d in zip(trips.lists(), destination, strict=False):
        best = bellman_ford(city, per_segment[city.succ].astype(float), walk[0])[d]
        assert per_segment[walk[1:]].sum(dtype=float) == pytest.approx(best, rel=1e-6)


def test_fastest_keeps_time(city) -> None:
    trips = Fastest(city, delay=5.0).sample(np.array([0]), np.array([100]), np.array([1000.0]))
    spent = np.diff(trips.enter)
    np.testing.assert_allclose(spent, city.travel_time[trips.segment[:-1]] + 5.0, rtol=1e-4)
    assert trips.depart[0] == 1000.0


def test_alternatives_start_with_the_fastest_and_differ(city, requests) -> None:
    origin, destination = requests
    sets = KShortest(city, k=4).alternatives(origin, destination)
    fastest = Fastest(city).sample(origin, destination, None)
    cost = city.travel_time.astype(float) + 3.0
    distinct = []
    for i in range(len(origin)):
        ways = [s.lists()[i] for s in sets]
        assert cost[ways[0]].sum() == pytest.approx(cost[fastest.lists()[i]].sum(), rel=1e-6)
        assert all(cost[w].sum() >= cost[ways[0]].sum() - 1e-6 for w in ways)
        distinct.append(len({w.tobytes() for w in ways}))
    assert np.mean(np.array(distinct) == 4) > 0.8
    drawn = KShortest(city, k=4).sample(origin, destination, None, 5)
    tables = [[s.lists()[i].tobytes() for s in sets] for i in range(len(origin))]
    assert all(w.tobytes() in table for w, table in zip(drawn.lists(), tables, strict=True))


def test_impossible_requests_are_refused(city, chain) -> None:
    goal = int(city.succ[0])
    walls = np.zeros(city.n, dtype=bool)
    walls[city.pred[city.pred_ptr[goal] : city.pred_ptr[goal + 1]]] = True
    start = int(np.flatnonzero(~walls & (np.arange(city.n) != goal))[0])
    assert reachable(city, np.array([start, goal]), np.array([goal, goal]), walls).tolist() == [False, True]
    for router in routers(city, chain):
        with pytest.raises(InfeasibleError, match="cannot be reached"):
            router.closing(walls).sample(np.array([start]), np.array([goal]), None, 0)
        with pytest.raises(UsageError):
            Fastest(city).sample(np.array([0]), np.array([city.n]), None)
    with pytest.raises(InfeasibleError, match="closed"):
        Shortest(city).closing(walls).sample(np.flatnonzero(walls)[:1], np.array([goal]), None)


def test_a_trip_depends_on_its_own_stream_only(city, chain, requests) -> None:
    origin, destination = requests
    for router in (chain, KShortest(city)):
        whole = router.sample(origin, destination, None, 11).lists()
        some = np.array([40, 3, 17])
        alone = router.sample(origin[some], destination[some], None, 11, index=some).lists()
        assert all(np.array_equal(whole[i], walk) for i, walk in zip(some, alone, strict=True))
        other = router.sample(origin, destination, None, 12).lists()
        assert any(not np.array_equal(a, b) for a, b in zip(whole, other, strict=True))


def walks_within(network, origin, destination, hops):
    """Enumerate every walk of at most `hops` transitions between two segments."""
    found, front = [], [(origin,)]
    for _ in range(hops + 1):
        found += [w for w in front if w[-1] == destination]
        onward = {w: network.succ[network.succ_ptr[w[-1]] : network.succ_ptr[w[-1] + 1]].tolist() for w in front}
        front = [(*w, s) for w in front for s in onward[w]]
    return found


def test_conditioned_chain_is_the_enumerated_law(city, chain) -> None:
    origin = 10
    destination = int(city.succ[city.succ_ptr[int(city.succ[city.succ_ptr[origin]])]])
    tight = replace(chain, factor=1.0, slack=6)
    walks = walks_within(city, origin, destination, 2 + 6)
    trips = Trips.from_lists(city, [np.array(w) for w in walks])
    plain = tight.log_prob(trips)
    exact = plain - np.log(np.exp(plain).sum())
    np.testing.assert_allclose(tight.log_prob_conditioned(trips, np.full(len(walks), 8)), exact, atol=1e-10)
    n = 20000
    drawn = tight.sample(np.full(n, origin), np.full(n, destination), None, 1)
    assert drawn.hops().max() - 1 <= 8
    number = {w: i for i, w in enumerate(walks)}
    count = np.bincount([number[tuple(w.tolist())] for w in drawn.lists()], minlength=len(walks))
    likely = np.exp(exact) * n >= 5
    expected = np.append(np.exp(exact)[likely], np.exp(exact)[~likely].sum()) * n
    seen = np.append(count[likely], count[~likely].sum())
    statistic = ((seen - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)


def test_plain_chain_is_a_law_and_prefers_what_it_saw(city, chain, requests) -> None:
    moves = np.bincount(city.source, weights=chain.move, minlength=city.n)
    np.testing.assert_allclose(moves[np.diff(city.succ_ptr) > 0], 1.0, atol=1e-12)
    assert ((chain.end > 0) & (chain.end < 1)).all()
    seen = Fastest(city).sample(*requests, None)
    rng = np.random.default_rng(5)
    walks = []
    for trip in seen.lists():
        walk = [int(trip[0])]
        while len(walk) < len(trip):
            walk.append(int(rng.choice(city.succ[city.succ_ptr[walk[-1]] : city.succ_ptr[walk[-1] + 1]])))
        walks.append(np.array(walk))
    random = Trips.from_lists(city, walks)
    assert chain.log_prob(seen).sum() > chain.log_prob(random).sum() + 50
    broken = Trips.from_lists(city, [np.array([0, 0])])
    assert np.isneginf(chain.log_prob(broken)[0]) == (not city.is_walk(np.array([0, 0])))


def test_total_probability_of_short_walks(city, chain) -> None:
    """All walks from one segment that have ended within 6 hops, plus those still going, have probability 1."""
    front, ended = {7: 1.0}, 0.0
    for _ in range(7):
        ended += sum(p * chain.end[s] for s, p in front.items())
        fresh: dict[int, float] = {}
        for s, p in front.items():
            for k in range(city.succ_ptr[s], city.succ_ptr[s + 1]):
                fresh[int(city.succ[k])] = fresh.get(int(city.succ[k]), 0.0) + p * (1 - chain.end[s]) * chain.move[k]
        front = fresh
    walks = list(itertools.chain.from_iterable(walks_within(city, 7, d, 6) for d in range(city.n)))
    mass = np.exp(chain.log_prob(Trips.from_lists(city, [np.array(w) for w in walks]))).sum()
    assert mass == pytest.approx(ended, rel=1e-10)
    assert mass + sum(front.values()) == pytest.approx(1.0, rel=1e-10)


def test_budget_is_respected_and_too_small_a_one_refused(city, chain, requests) -> None:
    origin, destination = requests
    tight = replace(chain, factor=1.0, slack=0)
    shortest_hops = tight.sample(origin, destination, None, 0).hops()
    assert (tight.sample(origin, destination, None, 1).hops() == shortest_hops).all()
    trips = chain.sample(origin, destination, None, 0)
    with pytest.raises(InfeasibleError, match="hops are too few"):
        chain.log_prob_conditioned(trips, np.zeros(len(trips), dtype=int))
    longer = trips.hops() > shortest_hops
    assert longer.any()
    result = tight.log_prob_conditioned(trips)
    assert np.isneginf(result[longer]).all() and np.isfinite(result[~longer]).all()


def test_chain_refuses_nothing_and_nonsense(city) -> None:
    with pytest.raises(UsageError, match="no trips"):
        MarkovChain.fit(Trips.from_lists(city, []))
    far = int(np.flatnonzero(~np.isin(np.arange(city.n), city.succ[city.succ_ptr[0] : city.succ_ptr[1]]))[-1])
    with pytest.raises(UsageError, match="illegal"):
        MarkovChain.fit(Trips.from_lists(city, [np.array([0, far])]))
