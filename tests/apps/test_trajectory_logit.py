"""The recursive logit is exact: everything against enumeration of walks on a small network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2, kstest

from apps.trajectory.calibrate import fit
from apps.trajectory.city import synthetic_city
from apps.trajectory.data import Trips
from apps.trajectory.logit import FEATURES, Parameters, RecursiveLogit, features, simulate
from apps.trajectory.network import RoadNetwork
from apps.trajectory.traffic import ARTERIAL, Traffic, noise, normal, period, segment_time
from core.errors import InfeasibleError, UsageError

PEAK, NIGHT = 1372636800.0 + 8 * 3600, 1372636800.0 + 3 * 3600


@pytest.fixture(scope="module")
def tiny() -> RoadNetwork:
    return synthetic_city(0, (4, 4))


@pytest.fixture(scope="module")
def law(tiny: RoadNetwork) -> RecursiveLogit:
    """Steps of about 1.8 nats at 1.7 choices, so that enumeration converges: walks below e^-36 weigh nothing."""
    costs = Parameters(minutes=-1.5, segment=-1.5, left=-0.2, right=-0.1, double_back=-1.0, local=0.0)
    return RecursiveLogit(tiny, costs)


def enumerate_walks(law: RecursiveLogit, o: int, d: int, depart: float, least: float = -36.0) -> dict[tuple, float]:
    """Return exp(utility) of every walk from o to its first arrival at d with a utility above `least`."""
    net, v = law.network, law.at(int(period(np.array(depart)))).utility
    found, stack = {}, [((o,), 0.0)]
    while stack:
        walk, u = stack.pop()
        a = walk[-1]
        for j in range(net.succ_ptr[a], net.succ_ptr[a + 1]):
            k = int(net.succ[j])
            if u + v[j] < least:
                continue
            if k == d:
                found[(*walk, k)] = np.exp(u + v[j])
            else:
                stack.append(((*walk, k), u + v[j]))
    return found


@pytest.fixture(scope="module")
def case(law: RecursiveLogit) -> tuple[int, int, dict[tuple, float]]:
    net = law.network
    o = int(np.flatnonzero(np.diff(net.succ_ptr) == 3)[0])
    near = [o]
    for _ in range(4):
        near = sorted({int(k) for a in near for k in net.succ[net.succ_ptr[a] : net.succ_ptr[a + 1]]} - {o})
    d = near[len(near) // 2]
    return o, d, enumerate_walks(law, o, d, NIGHT)


def test_probabilities_equal_enumeration(law: RecursiveLogit, case: tuple) -> None:
    o, d, walks = case
    total = sum(walks.values())
    assert len(walks) > 200
    exact = {w: np.log(p / total) for w, p in walks.items()}
    for walk in sorted(walks, key=walks.__getitem__)[-40:]:
        assert law.log_prob(np.array(walk), NIGHT) == pytest.approx(exact[walk], abs=1e-5)
    assert sum(np.exp(law.log_prob(np.array(w), NIGHT)) for w in walks) == pytest.approx(1.0, abs=1e-5)


def test_log_prob_is_the_product_of_choices(law: RecursiveLogit, case: tuple) -> None:
    o, d, walks = case
    choice = law.choices(d, NIGHT)
    rows = np.bincount(law.network.source, choice, minlength=law.network.n)
    rows[d] = 1.0
    assert np.allclose(rows, 1.0, atol=1e-12)
    for walk in list(walks)[:50]:
        steps = law.network.transition(np.array(walk[:-1]), np.array(walk[1:]))
        assert law.log_prob(np.array(walk), NIGHT) == pytest.approx(np.log(choice[steps]).sum(), abs=1e-9)


def test_entropy_equals_enumeration(law: RecursiveLogit, case: tuple) -> None:
    o, d, walks = case
    p = np.array(list(walks.values())) / sum(walks.values())
    assert law.entropy(o, d, NIGHT) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)


def test_small_values_keep_their_relative_accuracy(tiny: RoadNetwork) -> None:
    """Costs of hundreds of nats: one factorisation agrees with the fixed point of z = M z to 1e-12, relatively."""
    law = RecursiveLogit(tiny, Parameters(segment=-40.0))
    d = 40
    z, m = law.at(0).values(np.array([d]))[:, 0], law.at(0).weight
    assert 0 < z.min() < 1e-150
    again = np.bincount(tiny.source, m * z[tiny.succ], minlength=tiny.n)
    again[d] = 1.0
    assert np.abs(again / z - 1).max() < 1e-12


def test_sampled_shares_pass_chi_square() -> None:
    city = synthetic_city()
    law = RecursiveLogit(city)
    trips = simulate(city, 40, seed=4)
    i = int(np.argmax([law.entropy(int(o), int(d)) for o, d in zip(trips.origin, trips.destination, strict=True)]))
    paths = law.sample(int(trips.origin[i]), int(trips.destination[i]), 20_000, seed=1)
    counts = Counter(map(tuple, paths))
    statistic, cells, rest, other = 0.0, 0, 1.0, len(paths)
    for path, n in counts.most_common(200):
        expected = len(paths) * np.exp(law.log_prob(np.array(path)))
        if expected < 15:
            break
        statistic += (n - expected) ** 2 / expected
        cells, rest, other = cells + 1, rest - expected / len(paths), other - n
    statistic += (other - rest * len(paths)) ** 2 / (rest * len(paths))
    assert cells >= 10 and chi2.sf(statistic, cells) > 1e-3
    log_prob = law.log_probs(Trips.from_lists(city, paths))
    error = log_prob.std() / np.sqrt(len(paths))
    assert abs(-log_prob.mean() - law.entropy(int(trips.origin[i]), int(trips.destination[i]))) < 4 * error


def test_log_probs_of_many_trips() -> None:
    city = synthetic_city()
    law, trips = RecursiveLogit(city), simulate(city, 60, seed=2)
    one_by_one = [law.log_prob(s, t) for s, t in zip(trips.lists(), trips.depart, strict=True)]
    assert np.allclose(law.log_probs(trips), one_by_one, atol=1e-10)
    there_and_on = Trips.from_lists(city, [np.array([city.source[9], city.succ[9], city.source[9]]), np.array([5, 5])])
    assert (law.log_probs(there_and_on) == -np.inf).all()


def test_a_walk_through_its_destination_is_no_path(law: RecursiveLogit, case: tuple) -> None:
    o, d, walks = case
    beyond = next(iter(enumerate_walks(law, d, o, NIGHT, least=-30.0)))
    walk = max(walks, key=walks.__getitem__)
    round_trip = np.array([*walk, *beyond[1:], *walk[1:]])
    assert law.network.is_walk(round_trip) and law.log_prob(round_trip, NIGHT) == -np.inf


def test_draws_do_not_depend_on_their_batch(law: RecursiveLogit) -> None:
    o, d, t = np.array([3, 9, 3, 12]), np.array([40, 41, 40, 7]), np.array([NIGHT, PEAK, PEAK, NIGHT])
    together = law.walks(o, d, t, 5, np.arange(4))
    for i in (2, 0, 3, 1):
        alone = law.walks(o[[i]], d[[i]], t[[i]], 5, np.array([i]))[0]
        assert (together[i] == alone).all()


def test_departure_carries_information() -> None:
    city = synthetic_city()
    law = RecursiveLogit(city)
    drawn = [law.sample(10, 400, 400, 0, t) for t in (NIGHT, PEAK)]
    shares = [np.mean([ARTERIAL[city.road_class[p]].mean() for p in paths]) for paths in drawn]
    assert shares[1] < shares[0] - 0.02
    assert law.entropy(10, 400, NIGHT) != law.entropy(10, 400, PEAK)
    assert period(np.array([PEAK, NIGHT, PEAK + 5 * 86400, np.nan])).tolist() == [1, 0, 0, 0]


def test_divergent_walks_are_refused(tiny: RoadNetwork) -> None:
    free = RecursiveLogit(tiny, Parameters(minutes=-0.1, segment=-0.1, left=0, right=0, double_back=0, local=0))
    with pytest.raises(UsageError, match="spectral radius"):
        free.entropy(0, 5)
    radius = np.abs(np.linalg.eigvals(_dense(tiny, free))).max()
    assert radius >= 1
    bound = RecursiveLogit(tiny, replace(free.parameters, segment=-0.1 - np.log(radius) - 1e-3))
    assert np.abs(np.linalg.eigvals(_dense(tiny, bound))).max() < 1 and bound.entropy(0, 5) > 0


def _dense(net: RoadNetwork, law: RecursiveLogit) -> np.ndarray:
    m = np.zeros((net.n, net.n))
    m[net.source, net.succ] = np.exp(features(net, law.parameters.traffic, 0) @ law.parameters.vector())
    return m


def test_impossible_requests(tiny: RoadNetwork) -> None:
    law = RecursiveLogit(tiny)
    with pytest.raises(InfeasibleError, match="same segment"):
        law.sample(3, 3, 1, 0)
    with pytest.raises(InfeasibleError, match="underflow"):
        RecursiveLogit(tiny, Parameters(segment=-400.0)).sample(3, 40, 1, 0)


def test_simulated_trips_are_legal_timed_and_repeatable() -> None:
    city = synthetic_city()
    trips, again = simulate(city, 500, seed=3), simulate(city, 500, seed=3)
    assert trips.check() == [] and (trips.segment == again.segment).all() and (trips.enter == again.enter).all()
    assert len(set(trips.id)) == 500 and (trips.origin != trips.destination).all()
    assert (simulate(city, 500, seed=4).segment[:50] != trips.segment[:50]).any()
    assert (simulate(city, 300, seed=3, max_hops=12).hops() <= 12).all()
    with pytest.raises(InfeasibleError, match="max_hops"):
        simulate(city, 300, seed=3, max_hops=2)


def test_simulated_times_follow_their_law() -> None:
    city, traffic = synthetic_city(), Traffic()
    trips = simulate(city, 4000, seed=6)
    first = trips.enter[trips.ptr[:-1] + 1].astype(float)
    mean = np.stack([segment_time(city, traffic, p) for p in (0, 1)])[period(trips.depart), trips.origin] * traffic.pace
    ratio = first / mean
    assert ratio.mean() == pytest.approx(1.0, abs=4 * ratio.std() / np.sqrt(len(ratio)))
    sd = np.hypot(traffic.trip_noise, traffic.segment_noise)
    assert kstest((np.log(ratio) + 0.5 * sd**2) / sd, "norm").pvalue > 1e-3


def test_demand_like_given_trips_stays_near_them() -> None:
    city = synthetic_city()
    few = simulate(city, 5, seed=1)
    trips = simulate(city, 200, seed=2, like=few, jitter=100.0)
    gap = np.linalg.norm(city.middle[trips.origin][:, None] - city.middle[few.origin], axis=2).min(axis=1)
    assert gap.max() < 200.0
    assert np.abs(trips.depart[:, None] - few.depart).min(axis=1).max() <= 900.0
    short = simulate(city, 200, seed=2, within=300.0)
    assert np.linalg.norm(city.middle[short.origin] - city.middle[short.destination], axis=1).max() < 450.0


def test_noise_is_uniform_and_addressed() -> None:
    u = noise(7, np.arange(20_000), 3)
    assert kstest(u, "uniform").pvalue > 1e-3 and kstest(normal(7, np.arange(20_000)), "norm").pvalue > 1e-3
    assert (noise(7, np.array([5, 11]), 3) == u[[5, 11]]).all()
    assert abs(np.corrcoef(u, noise(7, np.arange(20_000), 4))[0, 1]) < 0.03
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03


def test_score_is_the_gradient_and_fit_recovers_the_truth() -> None:
    from apps.trajectory import calibrate

    city = synthetic_city()
    trips = simulate(city, 1500, seed=8)
    theta, traffic = Parameters().vector() - 0.1, Traffic()
    few = trips.select(np.arange(40))
    value, score = calibrate._likelihood(few, traffic, theta)
    law = RecursiveLogit(city, Parameters(**dict(zip(FEATURES, theta.tolist(), strict=True))))
    assert np.allclose(value, law.log_probs(few), atol=1e-9)
    for j in range(len(theta)):
        step = np.eye(len(theta))[j] * 1e-5
        up, down = (calibrate._likelihood(few, traffic, theta + s * step)[0].sum() for s in (1, -1))
        assert score[:, j].sum() == pytest.approx((up - down) / 2e-5, abs=1e-4)
    found = fit(trips, Parameters(minutes=-2.0, segment=-1.5, left=0.0, right=0.0, double_back=-1.0, local=0.0))
    z = (found.parameters.vector() - Parameters().vector()) / found.errors
    assert (z**2).sum() < chi2.isf(1e-4, len(z)), f"off by {z} standard errors"
    assert found.parameters.traffic.pace == pytest.approx(Traffic().pace, rel=0.03)


def test_simulation_on_porto_is_fast_enough() -> None:
    import time

    from apps.trajectory.osm import from_osm

    porto = Path(__file__).resolve().parents[3] / "shared/data/trajectory/porto/porto_drive.osm.gz"
    if not porto.exists():
        pytest.skip("../shared/data/trajectory is absent")
    network = from_osm(porto)
    began = time.process_time()
    trips = simulate(network, 600, seed=0)
    assert 600 / (time.process_time() - began) >= 300 and trips.check() == []
