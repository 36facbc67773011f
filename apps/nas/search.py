"""The search with a diffusion policy, with or without a surrogate in front of it.

`Policy` is the paper's method, repaired: sample cells (valid ones, always), ask, raise the probability of the better
ones by the eager policy gradient (`core.finetune.policy_gradient`), tied to the pretrained model and held above an
entropy floor; the best cells seen so far take part in every step.

`Guided` puts a surrogate between policy and reward: of many samples and mutants of the best, only those are asked that
are best in some draw from the surrogate's posterior; where cells of a class have one value and all classes can be
listed, of all classes. The surrogate costs no query; `Queries` counts what does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apps.nas.baselines import BASELINES, PATIENCE, Field, Search, fitted, listed_classes
from apps.nas.cell import Cell
from apps.nas.generate import CellModel
from apps.nas.model import TuneConfig
from apps.nas.rewards import Queries, classes, floored
from apps.nas.space import Space
from core.errors import UsageError
from core.finetune.policy_gradient import Advantage, Penalties, Replay, eager, per_step, record, states
from core.plan import uniform_plan
from core.solvers.tokens import SOLVERS

__all__ = ["METHODS", "Guided", "Policy", "Tuner", "method"]

WIDE = 4


class Tuner:
    """A copy of a model under policy gradient.

    Args:
        model: the pretrained one; it stays as it is.
        config: see `TuneConfig`.
        field: space, limits and randomness.
    """

    def __init__(self, model: CellModel, config: TuneConfig, field: Field) -> None:
        self.before, self.config, self.field = model, config, field
        self.model = CellModel(copy.deepcopy(model.net), model.recipe, model.space, model.process, model.name)
        layers = list(self.model.net.graph.layers)  # type: ignore[union-attr, arg-type]
        for layer in layers[: round(config.frozen * len(layers))]:
            layer.requires_grad_(False)
        moving = [p for p in self.model.net.parameters() if p.requires_grad]
        self.adam = torch.optim.AdamW(moving, lr=config.lr, weight_decay=0.0)
        self.advantage, self.replay = Advantage(config.clip), Replay()
        self.penalties = Penalties(config.kl, config.entropy, config.floor)

    def sample(self, n: int) -> Tensor:
        """Draw n allowed cells from the policy."""
        return self.model.draw(self.field.layers, self.field.stream(n))

    def propose(self, n: int, queries: Queries) -> Tensor:
        """Return what a round learns from: up to n different samples never asked for, and the known ones among n.

        Samples are free and rewards are not: of `WIDE` n samples those that are known cost nothing.
        """
        rows = [tuple(row) for row in self.sample(WIDE * n).tolist()]
        fresh = list(dict.fromkeys(row for row in rows if not queries.known(row)))[:n]
        again = list(dict.fromkeys(row for row in rows[:n] if queries.known(row)))
        return torch.tensor(again + fresh, dtype=torch.long)

    def learn(self, x: Tensor, reward: Tensor, inner: int | None = None) -> None:
        """Take the steps that a batch of rewarded cells is good for (`inner` of them, else as the recipe says).

        Cells with the reward -inf count as the worst of the others; where there are no others, nothing is learnt.
        """
        told = reward.isfinite()
        if not bool(told.any()):
            return
        self.replay.add(x[told], reward[told])
        advantage = self.advantage(floored(reward))
        for _ in range(inner or self.config.inner):
            old = round(self.config.replay * self.config.queries)
            rows, weight = x, advantage
            if old:
                best = self.replay.draw(old, self.config.top, self.field.rng)
                rows, weight = torch.cat([x, best]), torch.cat([advantage, torch.ones(old, dtype=torch.float64)])
            self.raise_(rows, weight)

    def raise_(self, rows: Tensor, weight: Tensor) -> None:
        """Take one step that makes cells [B, D] more likely by their weights [B]."""
        stream, n = self.field.stream(len(rows)), self.config.states
        x_t, x_0, t = states(self.model.process, rows, stream, n)
        loss, _ = eager(self.model.predict, self.model.process, x_t, x_0, t, weight.repeat(n),
                        self.penalties, self.before.predict)  # fmt: skip
        self.step(loss)

    def step(self, loss: Tensor) -> None:
        """Follow one gradient."""
        self.adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.net.parameters(), self.config.gradient or float("inf"))
        self.adam.step()

    def settle(self) -> CellModel:
        """Return the policy as a model to keep: fitted to the best share of what was seen, with nothing held back.

        It costs no query. While it searches, the policy is kept wide; samples that are to be used are wanted good.
        """
        self.penalties, n = Penalties(), 2 * self.config.queries
        for _ in range(self.config.settle if self.replay.x else 0):
            best = self.replay.draw(n, self.config.keep, self.field.rng)
            self.raise_(best, torch.ones(n, dtype=torch.float64))
        return self.model

    def learn_per_step(self, n: int, score: Callable[[Tensor], Tensor]) -> None:
        """Sample n cells, score them, and follow the exact policy gradient along their trajectories (DDPO)."""
        from apps.nas.data import window

        m, field = self.model, self.field
        law, start = window(field.layers, n), torch.full((n, m.space.D), m.process.states - 1)
        stream = field.stream(n)
        start = start if m.process.mask is not None else m.process.prior((m.space.D,), stream.fold(7))
        solver = SOLVERS[m.recipe.sample.solver]()
        path = record(m.predict, m.process, uniform_plan(m.recipe.sample.steps), law, solver, stream, start)
        reward = floored(score(path.x_0))
        if not bool(reward.isfinite().all()):
            return
        advantage = self.advantage(reward)
        for k in field.rng.permutation(len(path.x) - 1):
            self.step(per_step(m.predict, m.process, path, int(k), advantage)[0])


@dataclass(frozen=True, eq=False)
class Policy:
    """The eager policy gradient alone."""

    model: CellModel
    config: TuneConfig

    def __call__(self, queries: Queries, field: Field, budget: int) -> Tuner:
        """Spend the budget; return the tuned policy."""
        tuner, idle = Tuner(self.model, self.config, field), 0
        while queries.unique < budget and idle < PATIENCE // 4:
            before, n = queries.unique, min(self.config.queries, budget - queries.unique)
            if self.config.form == "step":
                tuner.learn_per_step(n, queries.score)
            else:
                x = tuner.propose(n, queries)
                tuner.learn(x, queries.score(x))
            idle = 0 if queries.unique > before else idle + 1
        return tuner


@dataclass(frozen=True, eq=False)
class Guided:
    """The policy behind a surrogate.

    Args:
        model: the pretrained policy.
        config: of its gradient.
        initial: cells asked before there is a surrogate.
        batch: asked in each round.
        pool: samples of the policy from which they are chosen.
        mutants: of the best cells, beside them.
        inner: steps of the policy between rounds.
        patience: queries without a better cell, after which only classes never met are asked for: the search has then
            settled on one whose many isomorphic copies it would ask for one by one.
        scouts: cells of the whole space asked for first where there are limits. Narrow limits may leave no two cells
            that show what makes a good one; their values beyond the limits teach the surrogate (never the policy).
    """

    model: CellModel
    config: TuneConfig
    initial: int = 10
    batch: int = 4
    pool: int = 256
    mutants: int = 256
    inner: int = 2
    patience: int = 40
    scouts: int = 0

    def __call__(self, queries: Queries, field: Field, budget: int) -> Tuner:
        """Spend the budget; return the tuned policy."""
        tuner, idle, best, since = Tuner(self.model, self.config, field), 0, -float("inf"), 0
        first = tuner.sample(min(self.initial, budget)).unique(dim=0)
        tuner.learn(first, queries.score(first))
        every = listed_classes(field) if classes(queries.reward) is not None else None
        if field.constraints and self.scouts:
            count = min(self.scouts, budget // 2, budget - queries.unique)
            queries.scout(Field(field.space, (), field.seed).uniform(count), field.layers)
        while queries.unique < budget and idle < PATIENCE // 10:
            if tuner.replay.x and tuner.replay.reward[0] > best:
                best, since = tuner.replay.reward[0], queries.unique
            pool = self.candidates(tuner, field) if every is None else every
            fresh = pool[[not queries.known(row) for row in pool.tolist()]]
            if queries.unique - since >= self.patience:
                seen = {Cell.of(field.space, row).key for row, _ in queries.history if row not in queries.beyond}
                new = [Cell.of(field.space, row).key not in seen for row in fresh.tolist()]
                fresh = fresh[new] if any(new) else fresh
            count = min(self.batch, budget - queries.unique, len(fresh))
            idle = idle + 1 if not count else 0
            if count:
                x = torch.from_numpy(fitted(queries, field.space).screen(fresh, count, field.rng))
                tuner.learn(x, queries.score(x), self.inner)
        return tuner

    def candidates(self, tuner: Tuner, field: Field) -> np.ndarray:
        """Return samples of the policy and mutants of its best cells, each once [n, D]."""
        if not tuner.replay.x:
            return tuner.sample(self.pool).unique(dim=0).numpy()
        parents = distinct(field.space, tuner.replay.x, 10)
        mutants = field.mutate(parents[torch.from_numpy(field.rng.integers(len(parents), size=self.mutants))])
        return torch.cat([tuner.sample(self.pool), mutants]).unique(dim=0).numpy()


def distinct(space: Space, rows: Sequence[tuple[int, ...]], n: int) -> Tensor:
    """Return the first n of some cells that are of different classes, int64 [n', D]."""
    found: dict[str, tuple[int, ...]] = {}
    for row in rows:
        if len(found) < n:
            found.setdefault(Cell.of(space, row).key, row)
    return torch.tensor(list(found.values()), dtype=torch.long)


METHODS = ("guided", "policy", *BASELINES)


def method(name: str, model: CellModel | None = None, scouts: int = 0) -> Search:
    """Return a search by name; `guided` and `policy` need a model, `scouts` (see `Guided`) are sent by `guided` alone.

    Raises:
        UsageError: no such search, it lacks its model, or sends no scouts.
    """
    if scouts and name != "guided":
        raise UsageError("only guided sends any", field="scouts", value=scouts, hint=f"leave them out with {name}")
    if name in BASELINES:
        return BASELINES[name]()
    if name not in METHODS:
        raise UsageError("no such search", field="method", value=name, choices=METHODS)
    if model is None:
        raise UsageError("needs a model", field="model", hint="name one, or choose another --method")
    tune = model.recipe.tune
    return Guided(model, tune, scouts=scouts) if name == "guided" else Policy(model, tune)  # type: ignore[return-value]
