"""The trip network: training and streaming are one function; the bound bounds; samples do not depend on their batch."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from shapely.geometry import shape

from apps.trajectory import tokenizer
from apps.trajectory.batch import Collator
from apps.trajectory.city import synthetic_city
from apps.trajectory.constraints import trip_law
from apps.trajectory.context import TripContext
from apps.trajectory.data import Trips
from apps.trajectory.generate import TripModel
from apps.trajectory.limits import Rules
from apps.trajectory.logit import simulate
from apps.trajectory.model import ModelConfig, Recipe, TripNet, clock
from apps.trajectory.requests import departure
from core.errors import UsageError


@pytest.fixture(scope="module")
def model() -> TripModel:
    """A small random network with some experience."""
    torch.manual_seed(0)
    city = synthetic_city()
    recipe = Recipe(model=ModelConfig(dim=32, depth=2, heads=2, road=16, rounds=1))
    recipe.data.max_hops, recipe.sample.block, recipe.sample.steps = 96, 8, 3
    net = TripNet(recipe.model, city.m)
    net.experience.copy_(torch.arange(city.m) % 5)
    return TripModel(net, recipe, city)


@pytest.fixture(scope="module")
def trips(model: TripModel):
    """A few simulated trips."""
    return simulate(model.network, 12, seed=3, max_hops=60)


@pytest.mark.parametrize("block", [1, 4, 8])
def test_streaming_equals_training(model: TripModel, trips, block: int) -> None:
    """The cached context predicts a fully masked block exactly as the training pass does."""
    walks = [tokenizer.trim(t) for t in trips.lists()]
    collate = Collator(model.fields, model.recipe.data.max_hops)
    rows = sum(-(-(len(w) - 1) // block) for w in walks)
    batch = collate(walks, block, np.random.default_rng(0), depart=trips.depart, masks=np.ones((rows, block), bool))
    with torch.inference_mode():
        trained = model.net(batch)[0]
    streamed = []
    for i, walk in enumerate(walks):
        streamed += _stream(model, walk, trips.depart[i : i + 1], block)
    assert len(streamed) == len(trained)
    assert torch.allclose(torch.tensor(streamed), trained, atol=1e-4)


def _stream(model: TripModel, walk: np.ndarray, depart: np.ndarray, block: int) -> list[float]:
    """Nats of each block of one trip, all of its sites masked, through the cache."""
    law = trip_law(model.fields, walk[:1], [(int(walk[-1]),)], Rules(), budget=model.recipe.data.max_hops)
    tokens = tokenizer.encode([walk], block)[0]
    out = []
    with torch.inference_mode():
        condition = model.net.condition(clock(torch.from_numpy(depart)))
        context = TripContext(model, law, condition, True, law.budget)
        state, total = law.law.begin(), -(-model.recipe.data.max_hops // block) * block
        for start in range(1, len(tokens), block):
            window = law.law.window(state, np.zeros(1, int), block, total - start - block + 1)
            context.enter(window, state)
            x_0 = torch.from_numpy((window.alphabet.numpy()[0] == tokens[start : start + block, None]).argmax(1))[None]
            log_p = context.predict(torch.full_like(x_0, window.alphabet.shape[1]), torch.ones(1)).log_p
            log_p = window.restrict(log_p, torch.full_like(x_0, -1))
            out.append(-float(log_p.gather(-1, x_0[..., None]).sum()))
            state = law.law.advance(window, x_0)
            context.commit(x_0)
            if law.law.finished(state, np.zeros(1, int))[0]:
                break
    return out


def test_count_form_averages_all_masks(model: TripModel) -> None:
    """The bound of one block is the mean over all orders: enumerated masks against the sampled count form."""
    walk = tokenizer.trim(simulate(model.network, 1, seed=8, max_hops=40).lists()[0])[:5]
    walk = walk if len(set(walk.tolist())) == len(walk) else walk[:3]
    block = len(walk) - 1
    collate = Collator(model.fields, model.recipe.data.max_hops)
    exact = 0.0
    for n in range(1, block + 1):
        subsets = [np.isin(np.arange(block), s) for s in itertools.combinations(range(block), n)]
        for mask in subsets:
            batch = collate([walk], block, np.random.default_rng(0), masks=mask[None])
            with torch.inference_mode():
                exact += float(model.net(batch)[0][0]) / n / len(subsets)
    rng = np.random.default_rng(1)
    with torch.inference_mode():
        drawn = [float(model.net(collate([walk] * 64, block, rng))[0].mean()) for _ in range(20)]
    assert abs(np.mean(drawn) - exact) < 4 * np.std(drawn) / np.sqrt(20) + 1e-6


def test_orders_are_laws(model: TripModel) -> None:
    """Under an order the nats of a block are those of a normalised law: they sum to one over all of its windows."""
    rng, ways = np.random.default_rng(2), 0
    for origin in rng.integers(0, model.network.n, 12):
        walks = _ways(model, int(origin), 4)
        target = walks[len(walks) // 2][-1]
        same = [w for w in _ways(model, int(origin), 4) if w[-1] == target and (w[1:-1] != target).all()]
        if origin == target or not same:
            continue
        tight = TripModel(model.net, replace(model.recipe, data=replace(model.recipe.data, max_hops=4)), model.network)
        trips = Trips.from_lists(model.network, same)
        short = [w for n in (1, 2, 3) for w in _ways(model, int(origin), n)]
        reach = [w for w in short if w[-1] == target and (w[:-1] != target).all()]
        every = Trips.from_lists(model.network, [*same, *reach])
        for order in ("in-order", "confidence"):
            assert len(trips) and abs(np.exp(-tight.nll(every, 4, order=order)).sum() - 1) < 1e-4
        assert abs(np.exp(-tight.nll(every, 1)).sum() - 1) < 1e-4
        ways += len(every)
    assert ways > 6  # choices were there to be summed over


def _ways(model: TripModel, origin: int, hops: int) -> list[np.ndarray]:
    """All walks of so many steps."""
    ways, net = [[origin]], model.network
    for _ in range(hops):
        ways = [[*w, int(k)] for w in ways for k in net.succ[net.succ_ptr[w[-1]] : net.succ_ptr[w[-1] + 1]]]
    return [np.array(w) for w in ways]


@pytest.mark.parametrize(
    "setting", [{}, {"solver": "first-hitting", "steps": 8}, {"mode": "reference"}, {"guidance": 0.5}]
)
def test_a_sample_does_not_depend_on_its_batch(model: TripModel, setting: dict[str, object]) -> None:
    """Row i of a batch equals the same request sampled alone, token by token."""
    rng = np.random.default_rng(0)
    o, d = rng.choice(model.network.n, (2, 9), replace=False)
    together = model.set(**setting).sample(o, d, seed=5).lists()
    for i in (0, 4, 8):
        alone = model.set(**setting).sample(o[i : i + 1], d[i : i + 1], seed=5, index=np.array([i])).lists()[0]
        assert np.array_equal(alone, together[i])


def test_guided_by_nothing_is_not_guided(model: TripModel) -> None:
    """A vanishing guidance weight changes nothing."""
    o, d = np.array([3, 50]), np.array([200, 120])
    plain, guided = model.sample(o, d, seed=1).lists(), model.set(guidance=1e-12).sample(o, d, seed=1).lists()
    assert all(np.array_equal(a, b) for a, b in zip(plain, guided, strict=True))


def test_rules_do_not_make_trips_wander() -> None:
    """Under a via point, a closure or both, the shipped model's trips stay near the least number of segments."""
    from apps import trajectory

    toy = trajectory.load("toy")
    for rules in ({}, {"via": [100]}, {"closed": [50]}, {"via": [100], "closed": [50]}):
        trips = toy.sample(n=40, origin=3, destination=200, depart="08:15", seed=0, **rules)
        closed = np.isin(np.arange(toy.network.n), rules.get("closed", []))
        legs = [3, *rules.get("via", []), 200]
        least = sum(int(toy.fields.roads.togo(np.array([b]), closed)[a]) for a, b in itertools.pairwise(legs))
        assert trips.hops().mean() - 1 < 1.7 * least


def test_one_departure_is_that_of_all(model: TripModel) -> None:
    one = model.sample([3, 5], [200, 150], depart="08:15", seed=1)
    each = model.sample([3, 5], [200, 150], depart=np.full(2, departure("08:15")), seed=1)
    assert (one.segment == each.segment).all() and (one.depart == departure("08:15")).all()
    assert np.isnan(model.sample([3], [200], timed=False).depart).all()


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (([3], [99_999]), "destination"),
        (([3], [[200, -1]]), "destination"),
        (([-1], [200]), "origin"),
        (([3, 4], [200]), "destination"),
        (([3, 4], [200, 150], np.zeros(3)), "depart"),
        (([3, 4], [200, 150], "noon"), "depart"),
        (([3, 4], [200, 150], None, 0, np.arange(3)), "index"),
    ],
    ids=str,
)
def test_arrays_that_are_no_requests_are_refused(model: TripModel, asked: tuple, field: str) -> None:
    with pytest.raises(UsageError) as caught:
        model.sample(*asked)
    assert caught.value.field == field


def test_one_place_needs_no_list(model: TripModel) -> None:
    ask = {"origin": 3, "destination": 200, "n": 2, "timed": False}
    corners = model.network.to_lonlat(model.network.middle[50] + np.array([[-9.0, -9], [9, -9], [9, 9], [-9, 9]]))
    zone = {"type": "Polygon", "coordinates": [[*corners.tolist(), corners[0].tolist()]]}
    for one in (50, np.int64(50), zone, shape(zone)):
        assert (model.sample(**ask, closed=one).segment == model.sample(**ask, closed=[one]).segment).all()
    assert all(100 in walk for walk in model.sample(**ask, via=100).lists())


@pytest.mark.parametrize("order", ["random", "in-order"])
def test_a_trip_that_stays_where_it_is_is_certain(model: TripModel, trips: Trips, order: str) -> None:
    stays = Trips.from_lists(model.network, [np.array([3]), np.array([7])])
    assert model.nll(stays, 4, order=order).tolist() == [0.0, 0.0]  # type: ignore[arg-type]
    mixed = Trips.from_lists(model.network, [np.array([3]), *trips.lists()])
    assert np.allclose(model.nll(mixed)[1:], model.nll(Trips.from_lists(model.network, trips.lists())), atol=1e-4)
    assert model.most_likely([3], [3], draws=1).lists()[0].tolist() == [3]
