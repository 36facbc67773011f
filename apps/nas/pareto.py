"""Accuracy against cost: all good compromises in one run.

Cost is known or cheap (a closed form, a latency table) and costs no query; accuracy does. In each round the surrogate
gives one draw of the accuracy of every candidate (samples of the policy, mutants of the present front), and the
candidate is asked that would add the most area to the front of what was asked, drawn alike. Cells whose cost is no
finite number are never asked for, and those whose reward is none are on no front. The policy hears a preference
between the two (`Compromise`), and is what a user keeps: asked with a preference, it draws such cells.

Reference: Zitzler and Thiele, 1999 (hypervolume); Bradford et al., 2018 (Thompson sampling for fronts).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from apps.nas.baselines import Field, fitted
from apps.nas.generate import CellModel
from apps.nas.model import CellNet
from apps.nas.rewards import Queries
from apps.nas.search import Tuner
from core.errors import UsageError
from core.finetune.reward import Reward, hypervolume, pareto
from core.nn.graph_transformer import GraphTransformer

__all__ = ["Compromise", "Front", "gain", "search"]

RATE = 4e-3


@dataclass(frozen=True, eq=False)
class Front:
    """Cells [n, D] that none other dominates, with values [n, 2]: reward and negated cost."""

    x: Tensor
    values: Tensor

    @classmethod
    def of(cls, x: Tensor, values: Tensor) -> Front:
        """Return the front of those cells whose values are finite, by falling reward."""
        told = values.isfinite().all(-1)
        x, values = x[told], values[told]
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


class Preferring(nn.Module):
    """A network that hears a preference: 1 for the reward alone, 0 for low cost alone.

    The preference enters through an embedding that starts at zero, so that before any learning the model is the
    pretrained one at every preference.
    """

    def __init__(self, net: CellNet) -> None:
        super().__init__()
        dim = net.graph.node_head.in_features
        self.net = net
        last = nn.Linear(dim, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.embed = nn.Sequential(nn.Linear(3, dim), nn.GELU(), last)
        self.wish = torch.full((1,), 0.5)

    @property
    def graph(self) -> GraphTransformer:
        """The transformer."""
        return self.net.graph

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return logits; row i hears `wish[i]`, and wishes repeat where there are more rows."""
        w = self.wish.repeat(len(x_t) // len(self.wish))[:, None]
        return self.net(x_t, t, self.embed(torch.cat([w, w * w, (torch.pi * w).sin()], 1)))


class Compromise:
    """One policy for all preferences.

    Whatever was asked teaches at every preference: for a random one, cells are drawn among those that serve it best,

        s_w(x) = -max(w (1 - u_1), (1 - w) (1 - u_2)) + 0.05 (u_1 + u_2),     u the objectives' ranks in [0, 1]

    (Chebyshev's scalarisation, which reaches concave parts of a front too), and made more likely at that preference.
    """

    def __init__(self, model: CellModel, field: Field) -> None:
        with torch.random.fork_rng(devices=[]):  # the embedding begins as the field's seed says, whoever drew before
            torch.manual_seed(int(field.rng.integers(2**62)))
            net = Preferring(copy.deepcopy(model.net))  # type: ignore[arg-type]
        net.to(next(model.net.parameters()).device)
        base = CellModel(net, model.recipe, model.space, model.process, model.name)
        self.tuner = Tuner(base, replace(model.recipe.tune, lr=RATE), field)

    def sample(self, wish: Tensor) -> Tensor:
        """Draw one allowed cell for each preference [n] in [0, 1], int64 [n, D]."""
        self.hear(wish)
        return self.tuner.sample(len(wish))

    def hear(self, wish: Tensor) -> None:
        """Tell the policy, and the model that it is tied to, what is wanted."""
        for model in (self.tuner.model, self.tuner.before):
            model.net.wish = wish.float().to(next(model.net.parameters()).device)  # type: ignore[assignment]

    def learn(self, x: Tensor, values: np.ndarray, steps: int, rows: int = 32, best: int = 3) -> None:
        """Take some steps from cells x [n, D] with objectives values [n, 2], both to be large."""
        rng, n = self.tuner.field.rng, len(x)
        u = (rankdata(values, axis=0) - 1) / max(n - 1, 1)  # equal values share the mean of their ranks
        for _ in range(steps):
            wish = rng.random(rows)
            score = -np.maximum(wish * (1 - u[:, :1]), (1 - wish) * (1 - u[:, 1:])) + 0.05 * u.sum(1, keepdims=True)
            order = np.argsort(-score, axis=0, kind="stable")[: min(best, n)]
            taken = order[rng.integers(len(order), size=rows), np.arange(rows)]
            self.hear(torch.from_numpy(wish))
            self.tuner.raise_(x[torch.from_numpy(taken)], torch.ones(rows, dtype=torch.float64))


def search(
    model: CellModel, queries: Queries, cost: Reward, field: Field, budget: int, pool: int = 256, batch: int = 5,
    steps: int = 6,
) -> tuple[Front, Compromise]:  # fmt: skip
    """Spend a budget of queries; return the front of everything that was asked, and the policy.

    Args:
        model: the pretrained policy.
        queries: the reward, counted.
        cost: less is better; not counted.
        field: space, limits, randomness.
        budget: unique queries.
        pool: samples of the policy in each round, and as many mutants and uniform draws.
        batch: cells asked in each round.
        steps: of the policy in each round.

    Raises:
        UsageError: no cell has both a finite reward and a finite cost.
    """
    policy = Compromise(model, field)
    queries.score(priced(policy.sample(torch.from_numpy(field.rng.random(min(20, budget)))).unique(dim=0), cost)[0])
    while queries.unique < budget:
        x, values = asked(queries, cost, field.space.D)
        front = Front.of(x, torch.from_numpy(values))
        told = np.isfinite(values).all(1)
        parents = front.x
        if told.any():
            policy.learn(x[torch.from_numpy(told)], values[told], steps)
            parents = parents[torch.from_numpy(field.rng.integers(len(parents), size=pool))]
        wishes = torch.from_numpy(field.rng.random(pool))
        wide = torch.cat([policy.sample(wishes), field.mutate(parents), field.uniform(pool)]).unique(dim=0)
        fresh, ahead = priced(wide[[not queries.known(row) for row in wide.tolist()]], cost)
        count = min(batch, budget - queries.unique, len(fresh))
        if not count:
            break
        queries.score(fresh[_choose(queries, field, fresh.numpy(), ahead, values, count)])
    x, values = asked(queries, cost, field.space.D)
    front = Front.of(x, torch.from_numpy(values))
    if not len(front.x):
        problem = f"has no finite value beside a finite {cost.name} for any of {queries.unique} cells"
        raise UsageError(problem, field=queries.name)
    return front, policy


def asked(queries: Queries, cost: Reward, D: int) -> tuple[Tensor, np.ndarray]:
    """Return the cells that were asked for, int64 [n, D], and their rewards and negated costs [n, 2]."""
    x = torch.tensor([row for row, _ in queries.history], dtype=torch.long).reshape(-1, D)
    price = cost.score(x).numpy() if len(x) else np.zeros(0)
    return x, np.column_stack([[v for _, v in queries.history], -price])


def priced(x: Tensor, cost: Reward) -> tuple[Tensor, np.ndarray]:
    """Return those of cells x [n, D] whose cost is a finite number, and the costs."""
    price = cost.score(x).numpy() if len(x) else np.zeros(0)
    told = np.isfinite(price)
    return x[torch.from_numpy(told)], price[told]


def _choose(
    queries: Queries, field: Field, fresh: np.ndarray, ahead: np.ndarray, values: np.ndarray, count: int
) -> list[int]:
    """Return which candidates add the most to the drawn front, one for each draw; any where nothing is known yet."""
    told = np.isfinite(values).all(1)
    if not told.any():
        return field.rng.permutation(len(fresh))[:count].tolist()
    model, price = fitted(queries, field.space, "normal"), -values[told, 1]
    scale = max(float(price.std()), 1e-9)
    known = np.column_stack([model.y[told], -price / scale])
    reference = known.min(0) - 0.1
    chosen: list[int] = []
    for draw in model.thompson(model.describe(fresh), count, field.rng):
        extra = gain(np.column_stack([draw, -ahead / scale]), known_front(known), reference)
        order = np.argsort(-extra)
        chosen.append(int(next(i for i in order if i not in chosen)))
    return chosen


def known_front(values: np.ndarray) -> np.ndarray:
    """Return the rows of values [n, 2] that none dominates."""
    return values[pareto(torch.from_numpy(values)).numpy()]
