"""The twin's decoders: the search reads what the sampler reads, arrives, and says when it does not."""

import numpy as np
import pytest
import torch

from apps.trajectory.baselines import Fastest
from apps.trajectory.city import synthetic_city
from apps.trajectory.field import Goals
from apps.trajectory.generate import TripModel
from apps.trajectory.model import ModelConfig, Recipe, TripNet, clock
from apps.trajectory.search import BestFirst, Greedy, _Reader
from core.errors import InfeasibleError


@pytest.fixture(scope="module")
def model() -> TripModel:
    torch.manual_seed(0)
    recipe = Recipe(model=ModelConfig(dim=32, depth=2, heads=2, road=16, rounds=1, block=8))
    net = TripNet(recipe.model)
    with torch.no_grad():
        net.query.weight.normal_(0.0, 1.0)  # an untrained network that has opinions
    return TripModel(net, recipe, synthetic_city())


def _log_p(model: TripModel, walk: np.ndarray) -> float:
    """Sum of the search's step log-probabilities along a walk, whatever the order of expansions."""
    with torch.inference_mode():
        condition = model.net.condition(clock(torch.tensor([float("nan")], dtype=torch.float64)))
        reader = _Reader(model, Goals([model.fields.to(int(walk[-1]))]), int(walk[0]), condition)
        tokens, total = [reader.first], 0.0
        for a, b in zip(walk[:-1], walk[1:], strict=True):
            following, encoded, chains = reader.successors(int(a))
            k = int(np.flatnonzero(following == b)[0])
            total += float(reader.log_p(tokens, encoded, chains)[k])
            tokens.append(reader.token(encoded[:, k : k + 1]))
    return total


def test_the_search_reads_what_the_sampler_reads(model: TripModel) -> None:
    """Sum of log-probabilities = -nll at block size 1, whose candidates are also all successors here."""
    trips = Fastest(model.network).sample(np.array([3, 40, 100]), np.array([200, 300, 17]))
    model_nll = model.nll(trips)
    for walk, nll in zip(trips.lists(), model_nll, strict=True):
        assert _log_p(model, walk) == pytest.approx(-nll, abs=2e-3 * len(walk))


def test_best_first_reaches_near_destinations_over_legal_roads(model: TripModel) -> None:
    search = BestFirst(model)
    near = np.array([int(model.network.succ[model.network.succ_ptr[s]]) for s in (3, 40, 100)])
    near = np.array([int(model.network.succ[model.network.succ_ptr[s]]) for s in near])
    trips = search.sample(np.array([3, 40, 100]), near)
    assert trips.check() == []
    assert all(e.reached for e in search.efforts)
    assert (trips.destination == near).all()
    for walk, effort in zip(trips.lists(), search.efforts, strict=True):
        assert effort.expansions >= len(walk) - 1


def test_a_search_that_gives_up_returns_its_nearest_prefix(model: TripModel) -> None:
    search = BestFirst(model, expansions=3)
    trips = search.sample(np.array([3]), np.array([400]))
    assert search.efforts[0].expansions == 3
    assert not search.efforts[0].reached
    assert trips.check() == []
    assert trips.destination[0] != 400
    seconds = model.fields.to(400).seconds
    assert seconds[trips.destination[0]] <= seconds[3]


def test_decoders_avoid_closed_segments(model: TripModel) -> None:
    origin, destination = np.array([3]), np.array([200])
    way = Greedy(model).sample(origin, destination).lists()[0]
    closed = np.zeros(model.network.n, bool)
    closed[way[len(way) // 2]] = True
    assert not closed[Greedy(model).closing(closed).sample(origin, destination).segment].any()
    assert not closed[BestFirst(model, 400).closing(closed).sample(origin, destination).segment].any()
    shut = np.zeros(model.network.n, bool)
    shut[200] = True
    with pytest.raises(InfeasibleError):
        Greedy(model).closing(shut).sample(origin, destination)
