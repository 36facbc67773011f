"""Accuracy against cost: all good compromises in one run.

Cost is known or cheap (a closed form, a latency table) and costs no query; accuracy does. In each round the surrogate
gives one draw of the accuracy of every candidate (samples of the policy, mutants of the present front), and the
candidate is asked that would add the most area to the front of what was asked, drawn alike. The policy learns from the
members of the front, so that it proposes compromises instead of one winner.

Reference: Zitzler and Thiele, 1999 (hypervolume); Bradford et al., 2018 (Thompson sampling for fronts).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apps.nas.baselines import Field, fitted
from apps.nas.generate import CellModel
from apps.nas.rewards import Queries
from apps.nas.search import Tuner
from apps.nas.surrogate import features
from core.finetune.reward import Reward, hypervolume, pareto

__all__ = ["Front", "gain", "search"]


@dataclass(frozen=True, eq=False)
class Front:
    """Cells [n, D] that none other dominates, with values [n, 2]: reward and negated cost."""

    x: Tensor
    values: Tensor

    @classmethod
    def of(cls, x: Tensor, values: Tensor) -> Front:
        """Return the front of some cells, by falling reward."""
        keep = pareto(values)
        order = values[keep][:, 0].argsort(descending=True)
        return cls(x[keep][order], values[keep][order])

    def volume(self, reference: Tensor) -> float:
        """Return the area above a reference point [2]."""
        return hypervolume(self.values, reference)


def gain(values: np.ndarray, front: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the area that each row of `values` [n, 2] would add to a front [m, 2] above a reference, float64 [n]."""
    inside = front[(front > reference).all(1)]
    order = inside[np.argsort(-inside[:, 0])]
    left = np.concatenate([[np.inf], order[:, 0], [reference[0]]])  # bands of the first axis, from the right
    height = np.concatenate([[reference[1]], np.maximum.accumulate(order[:, 1])]) if len(order) else reference[1:]
    top, bottom = left[:-1], left[1:]
    width = np.minimum(values[:, :1], top) - np.maximum(bottom, reference[0])
    rise = values[:, 1:] - height
    return (width.clip(0) * rise.clip(0)).sum(1)


def search(
    model: CellModel, queries: Queries, cost: Reward, field: Field, budget: int, pool: int = 512, batch: int = 5
) -> Front:
    """Spend a budget of queries and return the front of everything that was asked.

    Args:
        model: the pretrained policy.
        queries: the reward, counted.
        cost: less is better; not counted.
        field: space, limits, randomness.
        budget: unique queries.
        pool: samples of the policy in each round, and as many mutants.
        batch: cells asked in each round.
    """
    tuner = Tuner(model, model.recipe.tune, field)
    first = tuner.sample(min(20, budget)).unique(dim=0)
    queries.score(first)
    while queries.unique < budget:
        x = torch.tensor([row for row, _ in queries.history])
        price = cost.score(x).numpy()
        front = Front.of(x, torch.from_numpy(np.column_stack([[v for _, v in queries.history], -price])))
        tuner.learn(front.x, torch.ones(len(front.x), dtype=torch.float64) + torch.rand(len(front.x)) * 1e-6)
        parents = front.x[torch.from_numpy(field.rng.integers(len(front.x), size=pool))]
        wide = torch.cat([tuner.sample(pool), field.mutate(parents), field.uniform(pool)]).unique(dim=0)
        fresh = np.array([row for row in wide.tolist() if not queries.known(row)])
        count = min(batch, budget - queries.unique, len(fresh))
        if not count:
            break
        chosen = _choose(queries, field, fresh, cost, price, count)
        queries.score(torch.from_numpy(fresh[chosen]))
    x = torch.tensor([row for row, _ in queries.history])
    values = torch.tensor([v for _, v in queries.history], dtype=torch.float64)
    return Front.of(x, torch.stack([values, -cost.score(x)], 1))


def _choose(
    queries: Queries, field: Field, fresh: np.ndarray, cost: Reward, price: np.ndarray, count: int
) -> list[int]:
    """Return which candidates add the most to the drawn front, one for each draw."""
    model = fitted(queries, field.space)
    ahead = cost.score(torch.from_numpy(fresh)).numpy()
    scale = max(float(price.std()), 1e-9)
    known = np.column_stack([model.y, -price / scale])
    reference = known.min(0) - 0.1
    chosen: list[int] = []
    for draw in model.thompson(features(field.space, fresh), count, field.rng):
        extra = gain(np.column_stack([draw, -ahead / scale]), known_front(known), reference)
        order = np.argsort(-extra)
        chosen.append(int(next(i for i in order if i not in chosen)))
    return chosen


def known_front(values: np.ndarray) -> np.ndarray:
    """Return the rows of values [n, 2] that none dominates."""
    return values[pareto(torch.from_numpy(values)).numpy()]
