"""Choice sets: overlaps against sets counted by hand, greedy cover against its definition, rules and bounds kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from apps.trajectory.choice import choice_set, cover, overlap
from apps.trajectory.city import synthetic_city
from apps.trajectory.generate import TripModel
from apps.trajectory.model import ModelConfig, Recipe, TripNet
from core.errors import UsageError


@pytest.fixture(scope="module")
def model() -> TripModel:
    """A small random network."""
    torch.manual_seed(0)
    city = synthetic_city()
    recipe = Recipe(model=ModelConfig(dim=32, depth=1, heads=2, road=16, rounds=1))
    recipe.data.max_hops, recipe.sample.block, recipe.sample.steps = 96, 8, 2
    return TripModel(TripNet(recipe.model, city.m), recipe, city)


def test_overlap_is_the_jaccard_index() -> None:
    """Repeated segments count once."""
    walks = [np.array([1, 2, 3, 2]), np.array([2, 3, 4]), np.array([9])]
    assert np.allclose(overlap(walks), [[1, 2 / 4, 0], [2 / 4, 1, 0], [0, 0, 1]])


def test_cover_reaches_the_bound_of_greedy_choice() -> None:
    """The set is within (1 - 1/e) of the best of all, its first member is the best alone, and no member repeats."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = rng.random((8, 12))
        chosen = cover(table, 3)
        worth = table[chosen].max(0).mean()
        best = max(table[list(c)].max(0).mean() for c in itertools.combinations(range(8), 3))
        assert len(set(chosen)) == 3
        assert chosen[0] == table.mean(1).argmax()
        assert best >= worth >= (1 - np.exp(-1)) * best


def test_representatives_cover_more_than_draws(model: TripModel) -> None:
    """A choice set is legal, reaches its destination, and stands for the draws better than as many draws do."""
    origin, destination = np.array([3, 40]), np.array([200, 310])
    sets = choice_set(model, origin, destination, n=3, draws=16, seed=1)
    draws = [model.set(strata=16).sample(origin, destination, seed=1, index=np.arange(2) * 16 + k) for k in range(16)]
    for i in range(2):
        walks, chosen = [d.lists()[i] for d in draws], [s.lists()[i] for s in sets]
        table = overlap(walks + chosen)[:16]
        assert table[:, 16:].max(1).mean() >= table[:, :3].max(1).mean()
        assert all(any(np.array_equal(c, w) for w in walks) for c in chosen)
    assert all(not s.check() and (s.destination == destination).all() for s in sets)


def test_too_few_draws_are_refused(model: TripModel) -> None:
    """Five representatives need five draws."""
    with pytest.raises(UsageError, match="between 1 and the number of draws, 4"):
        choice_set(model, np.array([3]), np.array([200]), n=5, draws=4)
