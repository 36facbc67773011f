"""The privacy card against brute force, and against sets whose verdict is known."""

from __future__ import annotations

import numpy as np
import pytest

from apps.trajectory.baselines import KShortest, MarkovChain
from apps.trajectory.city import synthetic_city
from apps.trajectory.data import Trips
from apps.trajectory.privacy import (
    anonymity,
    copies,
    longest_shared_path,
    membership_auc,
    nearest_jaccard,
    privacy_card,
)
from apps.trajectory.similarity import jaccard, longest_shared
from core.errors import UsageError


@pytest.fixture(scope="module")
def city():
    return synthetic_city()


@pytest.fixture(scope="module")
def real(city):
    rng = np.random.default_rng(0)
    return KShortest(city, k=4).sample(rng.integers(0, city.n, 300), rng.integers(0, city.n, 300), None, 3)


def test_figures_equal_brute_force(city, real) -> None:
    mine, training = real.select(range(40)), real.select(range(30, 200))
    shared = [max(longest_shared(a, b) for b in training.lists()) for a in mine.lists()]
    assert longest_shared_path(mine, training).tolist() == shared
    near = [max(jaccard(a, b) for b in training.lists()) for a in mine.lists()]
    np.testing.assert_allclose(nearest_jaccard(mine, training), near, atol=1e-12)
    assert copies(mine, training)[30:].all()
    assert copies(mine, training)[:30].tolist() == [x == 1 and s == len(t) and any(np.array_equal(t, b) for b in
        training.lists()) for x, s, t in zip(near[:30], shared, mine.lists(), strict=False)]  # fmt: skip


def test_nothing_shared(city) -> None:
    a, b = Trips.from_lists(city, [np.array([1, 2])]), Trips.from_lists(city, [np.array([3, 4, 5])])
    assert longest_shared_path(a, b).tolist() == [0] and nearest_jaccard(a, b).tolist() == [0.0]
    # same segments, other order: alike as sets, but no run of two
    c = Trips.from_lists(city, [np.array([5, 4, 3])])
    assert longest_shared_path(c, b).tolist() == [1] and nearest_jaccard(c, b).tolist() == [1.0]
    assert not copies(c, b).any()


def test_membership_auc() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(-1, 1, 400), rng.normal(0, 1, 300)
    brute = np.mean([(m < o) + 0.5 * (m == o) for m in members for o in others])
    auc, rate = membership_auc(members, others)
    assert auc == pytest.approx(brute, abs=1e-12)
    assert rate == pytest.approx((members < np.sort(others)[3]).mean())
    assert membership_auc(np.zeros(5), np.zeros(7))[0] == 0.5
    assert membership_auc(np.zeros(5), np.ones(7)) == (1.0, 1.0)
    assert membership_auc(np.ones(5), np.zeros(7)) == (0.0, 0.0)
    with pytest.raises(UsageError, match="finite"):
        membership_auc(np.array([np.inf]), np.ones(3))


def test_anonymity_counts_training_trips_in_the_same_cells(city) -> None:
    near = [int(s) for s in np.flatnonzero((np.floor(city.middle / 500) == np.floor(city.middle[0] / 500)).all(1))[:3]]
    far = int(np.argmax(np.hypot(*(city.middle - city.middle[0]).T)))
    training = Trips.from_lists(city, [np.array([near[0], far]), np.array([near[1], far]), np.array([far, near[0]])])
    asked = Trips.from_lists(city, [np.array([near[2], far]), np.array([far, near[2]]), np.array([far, far])])
    assert anonymity(asked, training).tolist() == [2, 1, 0]


def test_card_tells_a_copyist_from_an_honest_model(city, real) -> None:
    training, held_out, fresh = real.select(range(200)), real.select(range(200, 250)), real.select(range(250, 300))
    copyist = privacy_card(training.select(range(50)), training, held_out)
    assert copyist.figures["synthetic_exact_copies"] == 1.0
    assert any("exact copies" in w for w in copyist.warnings) and any("not tried" in w for w in copyist.warnings)
    chain = MarkovChain.fit(real.select(range(250)))
    losses = tuple(-chain.log_prob(t) / t.hops() for t in (held_out, fresh))
    honest = privacy_card(fresh, training, held_out, losses)
    assert not any("exact" in w or "run" in w or "nearest" in w for w in honest.warnings)
    assert 0.3 < honest.figures["membership_auc"] <= 1.0
    seen = privacy_card(fresh, training, held_out, (np.zeros(9), np.ones(9)))
    assert any("AUC 1.000" in w for w in seen.warnings)
    with pytest.raises(UsageError, match="held_out"):
        privacy_card(fresh, training, held_out.select(slice(0, 0)))
