"""Mixtures: one law, exactly the mean of its members', drawn stream by stream under the same rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apps.trajectory.baselines import Fastest, reachable
from apps.trajectory.choice import choice_set
from apps.trajectory.city import synthetic_city
from apps.trajectory.constraints import Rules
from apps.trajectory.data import Trips
from apps.trajectory.generate import TripModel
from apps.trajectory.mixture import Mixture
from apps.trajectory.model import ModelConfig, Recipe, TripNet
from apps.trajectory.whatif import close, close_busiest
from core.errors import UsageError


def member(seed: int, blocks: tuple[int, int] = (5, 4)) -> TripModel:
    """Return a small random network, sharpened so that members differ."""
    torch.manual_seed(seed)
    city = synthetic_city(blocks=blocks)
    recipe = Recipe(model=ModelConfig(dim=32, depth=1, heads=2, road=16, rounds=1))
    recipe.data.max_hops, recipe.sample.block, recipe.sample.steps = 16, 1, 1
    net = TripNet(recipe.model, city.m)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.3 * torch.randn_like(p)
    return TripModel(net, recipe, city)


@pytest.fixture(scope="module")
def pair() -> tuple[TripModel, TripModel]:
    """Two networks of one city that were never trained together."""
    return member(0), member(1)


ORIGIN, DESTINATION = np.array([3, 10, 3]), np.array([20, 40, 50])


def test_a_mixture_of_one_is_its_member(pair: tuple[TripModel, TripModel]) -> None:
    """Draws, times, likelihoods and the most likely trip are equal to the bit."""
    one, alone = Mixture(pair[:1]), pair[0]
    ours, theirs = (m.sample(ORIGIN, DESTINATION, seed=4) for m in (one, alone))
    assert np.array_equal(ours.segment, theirs.segment)
    assert np.array_equal(ours.enter, theirs.enter)
    assert np.array_equal(one.nll(ours), alone.nll(ours))
    best = [m.most_likely(ORIGIN, DESTINATION, draws=4) for m in (one, alone)]
    assert np.array_equal(best[0].segment, best[1].segment)


def test_draws_follow_the_mean_of_the_members_laws(pair: tuple[TripModel, TripModel]) -> None:
    """On a request of many routes the frequencies are those that `nll` says, and no single member says them."""
    both, n = Mixture(pair), 1000
    drawn = both.sample(np.full(n, 3), np.full(n, 20), seed=1, timed=False)
    routes: dict[tuple[int, ...], int] = {}
    for walk in drawn.lists():
        key = tuple(walk.tolist())
        routes[key] = routes.get(key, 0) + 1
    seen = Trips.from_lists(both.network, [np.array(r) for r in routes])
    share = np.array(list(routes.values())) / n
    law = {name: np.exp(-m.nll(seen)) for name, m in (("both", both), ("first", pair[0]), ("second", pair[1]))}
    assert np.allclose(law["both"], (law["first"] + law["second"]) / 2, rtol=1e-6)
    often = share >= 0.01
    assert often.sum() >= 3
    error = np.abs(share - law["both"])[often]
    assert (error < 4.5 * np.sqrt(share[often] / n)).all()
    for alone in ("first", "second"):
        assert np.abs(share - law[alone])[often].max() > 2 * error.max()


def test_a_draw_depends_on_its_own_stream_alone(pair: tuple[TripModel, TripModel]) -> None:
    """Whatever the batch, stream i is the draw of member i modulo 2."""
    both = Mixture(pair)
    whole = both.sample(ORIGIN, DESTINATION, seed=2, index=np.array([7, 2, 5]))
    for i, k in enumerate((7, 2, 5)):
        alone = pair[k % 2].sample(ORIGIN[i : i + 1], DESTINATION[i : i + 1], seed=2, index=np.array([k]))
        assert np.array_equal(whole.lists()[i], alone.lists()[0])
        assert np.allclose(whole.times()[i], alone.times()[0], rtol=1e-5)


def test_the_most_likely_trip_beats_every_candidate(pair: tuple[TripModel, TripModel]) -> None:
    """Under the mixture, no candidate of any member is likelier."""
    both = Mixture(pair)
    best = both.nll(both.most_likely(ORIGIN, DESTINATION, draws=4))
    rivals = np.stack([both.nll(t) for t in both.candidates(ORIGIN, DESTINATION, None, 0, 4)])
    assert np.allclose(best, rivals.min(0), atol=1e-5)


def test_rules_hold_for_every_member(pair: tuple[TripModel, TripModel]) -> None:
    """A request with a via point and closures is kept by all draws; choice sets work as with one model."""
    both = Mixture(pair)
    trips = both.sample(3, 50, n=12, via=[20], closed=[12], seed=3)
    for walk in trips.lists():
        assert walk[0] == 3 and walk[-1] == 50 and 20 in walk and 12 not in walk
    sets = choice_set(both, ORIGIN, DESTINATION, n=2, draws=6)
    assert all((s.destination == DESTINATION).all() for s in sets)


def test_a_mixture_is_asked_what_if(pair: tuple[TripModel, TripModel]) -> None:
    """Trips over a closure are drawn again; what then needs more segments than can be drawn is stranded, not fatal."""
    both = Mixture(pair).obeying(Rules(max_hops=9))
    net, (origin, destination) = both.network, (x.ravel() for x in np.indices((both.network.n, 12)))
    far = reachable(net, origin, destination, most=9) & ~reachable(net, origin, destination, most=8)
    before = Fastest(net).sample(origin[far], destination[far])
    closed = close_busiest(before, 1)
    found = close(both, before, closed, seed=2)
    assert both.most_hops == 9 and len(found.affected) and found.summary()["uses_of_closed_after"] == 0
    ends = before.origin[found.stranded], before.destination[found.stranded]
    long = reachable(net, *ends, closed)
    assert long.any() and not reachable(net, *ends, closed, most=9).any()


def test_members_must_share_the_roads(pair: tuple[TripModel, TripModel]) -> None:
    """Another city, or nobody, is refused in a line that names the member."""
    with pytest.raises(UsageError, match=r"members\[1\]"):
        Mixture([pair[0], member(0, (6, 4))])
    with pytest.raises(UsageError, match="members"):
        Mixture([])


def test_trips_of_a_mixture_have_names_of_their_own(pair: tuple[TripModel, TripModel]) -> None:
    """As those of one model: a table tells trips apart by name."""
    both = Mixture(pair)
    assert both.sample(ORIGIN, DESTINATION).id == ["0", "1", "2"] == pair[0].sample(ORIGIN, DESTINATION).id
    named = Trips.from_lists(both.network, both.sample(ORIGIN, DESTINATION).lists(), id=["x", "y", "z"])
    assert both.time(named).id == ["x", "y", "z"]
