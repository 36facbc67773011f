"""The training task: which trips, in which blocks, at which step.

Trips come from the recursive logit on the recipe's network (as many as wanted, of known law) and from a file of real
ones; only the training split of the file is ever used, also for calibrating the logit. A batch is a pure function
of (seed, step, rank).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from apps.trajectory.batch import Batch, Collator
from apps.trajectory.data import Trips
from apps.trajectory.encoder import graph_tensors
from apps.trajectory.field import Fields
from apps.trajectory.model import DataConfig, Recipe, TripNet, fitting
from apps.trajectory.network import RoadNetwork
from apps.trajectory.prior import RoutePrior, from_vector, to_vector
from apps.trajectory.sources import keep, kept, open_network, read_splits
from apps.trajectory.tokenizer import trim
from core.errors import UsageError

if TYPE_CHECKING:
    from apps.trajectory.logit import Parameters

SPLIT = (0.65, 0.10, 0.25)
"""Shares of real trips that train, choose when to stop, and judge."""

SEEN, FOLDS = 500, 5
"""Simulated trips that serve as experience only; folds of real trips, each read with the experience of the others."""

__all__ = ["FOLDS", "SEEN", "SPLIT", "Corpus", "TripTask", "corpus", "experience", "make", "open_network"]


@dataclass(eq=False)
class Corpus:
    """A network and its trips; `simulated` is empty where the recipe asks for none, the others where it has no file."""

    network: RoadNetwork
    simulated: Trips
    train: Trips
    valid: Trips
    test: Trips


def corpus(config: DataConfig, seed: int) -> Corpus:
    """Load and simulate the trips of a recipe; what was simulated is kept in `config.cache` where one is given."""
    from apps.trajectory.calibrate import fit
    from apps.trajectory.logit import Parameters

    network = open_network(config.network, config.cache)
    empty = Trips.from_lists(network, [])
    parts = (config.trips, network, SPLIT, config.cache, config.turn)
    real = read_splits(*parts) if config.trips else (empty, empty, empty)
    if config.whole:
        real = (Trips.concat([real[0], real[1]]), empty, real[2])
    parameters = Parameters()
    if config.fit and config.trips:
        parameters = fit(real[0]).parameters
    simulated = _simulated(config, seed, network, parameters, real[0] if config.trips else None)
    return Corpus(network, simulated, *real)


def _simulated(
    config: DataConfig, seed: int, network: RoadNetwork, parameters: Parameters | None, like: Trips | None
) -> Trips:
    from apps.trajectory.logit import simulate

    if not config.simulated:
        return Trips.from_lists(network, [])
    names = ("network", "trips", "simulated", "destinations", "max_hops")
    recipe = {k: getattr(config, k) for k in names} | {"seed": seed, "law": repr(parameters), "segments": network.n}
    if like is not None and not config.fit:  # a fitted law tells apart by itself what it was fitted on
        recipe["like"] = hashlib.sha256("\n".join(like.id).encode()).hexdigest()
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    store = Path(config.cache) / f"simulated-{key}.npz" if config.cache else None
    if store is not None and store.exists():
        return kept(store, network)
    trips = simulate(
        network,
        config.simulated,
        seed=seed,
        parameters=parameters,
        max_hops=config.max_hops,
        pairs=config.destinations,
        like=like,
        jitter=1500.0,
    )
    if store is not None:
        keep(store, trips)
    return trips


@dataclass(eq=False)
class _Pool:
    """Trips ready for batching, in folds: the experience that a fold's trips are read with comes from other trips.

    Args:
        trips: the trips.
        collators: one for each fold; trip i belongs to fold i modulo their number.
        strange: reads trips as in a city where nobody drove before.
    """

    trips: Trips
    collators: list[Collator]
    strange: Collator

    def __post_init__(self) -> None:
        """Trim every trip at its first arrival and drop those that never move."""
        self.walks = [trim(t) for t in self.trips.lists()]
        self.enter = self.trips.times()
        self.hops = np.array([len(w) for w in self.walks])
        usable = np.flatnonzero(self.hops >= 2)
        self.folds = [usable[usable % len(self.collators) == k] for k in range(len(self.collators))]
        self.filled = [k for k, fold in enumerate(self.folds) if len(fold)]

    def draw(self, size: int, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Draw trips of one fold and of similar length; every trip of the fold is equally likely."""
        fold = self.filled[int(rng.integers(len(self.filled)))]
        drawn = rng.choice(self.folds[fold], 8 * size)
        part = int(rng.integers(8)) * size
        return fold, drawn[np.argsort(self.hops[drawn], kind="stable")][part : part + size]

    def batch(
        self,
        fold: int,
        index: np.ndarray,
        block: int,
        rng: np.random.Generator,
        unconditional: float = 0.0,
        strange: float = 0.0,
    ) -> Batch:
        """Collate some trips of a fold; with probability `strange` without experience."""
        collator = self.strange if strange and rng.random() < strange else self.collators[fold]
        return collator(
            [self.walks[i] for i in index],
            block,
            rng,
            depart=self.trips.depart[index],
            enter=[self.enter[i] for i in index],
            unconditional=unconditional,
        )


def experience(trips: Trips) -> np.ndarray:
    """Return how often each transition was driven, float32 [M]."""
    net = trips.network
    if not len(trips.segment):
        return np.zeros(net.m, np.float32)
    step = net.transition(trips.segment[:-1], trips.segment[1:])
    inside = np.ones(len(step), bool)
    inside[trips.ptr[1:-1] - 1] = False
    return np.bincount(step[inside & (step >= 0)], minlength=net.m).astype(np.float32)


@dataclass(eq=False)
class TripTask:
    """Block diffusion on trips, for `core.run.train`.

    Args:
        recipe: the run.
        data: its trips.
    """

    recipe: Recipe
    data: Corpus

    def __post_init__(self) -> None:
        """Split the trips into those that are seen (experience), those that train and those that judge.

        Raises:
            UsageError: none is left to train or to validate with.
        """
        simulated, real = (self._short(t) for t in (self.data.simulated, self.data.train))
        held, first = len(simulated) // 50, min(SEEN, len(simulated) // 4)
        seen, strange = experience(simulated.select(slice(0, first))), self._collator(None)
        rest = simulated.select(slice(first, len(simulated) - held))
        self.simulated = _Pool(rest, [self._collator(seen)], strange)
        total, rows = experience(real), np.arange(len(real))
        parts = [experience(real.select(rows[rows % FOLDS == k])) for k in range(FOLDS)] if len(real) else []
        self.real = _Pool(real, [self._collator(total - part) for part in parts], strange) if parts else None
        self.seen = total if parts else seen
        last = simulated.select(slice(len(simulated) - held, None))
        judge = self._short(self.data.valid) if len(self.data.valid) else last
        self.judge = _Pool(judge, [self._collator(self.seen)], strange)
        self._refuse()
        self._calibrate(real if parts else simulated.select(slice(0, first)))

    def _refuse(self) -> None:
        """Refuse a recipe that would draw batches from no trips."""
        data = self.recipe.data
        if data.real > 0 and data.trips and (self.real is None or not self.real.filled):
            hint = f"trips of more than data.max_hops={data.max_hops} segments are left out"
            raise UsageError("no trip of it can train", field="data.trips", value=data.trips, hint=hint)
        if not self.simulated.filled and (self.real is None or data.real < 1 or data.real_from > 0):
            hint = "simulate some, or train on data.trips=FILE with data.real=1"
            raise UsageError("too few trips to train on", field="data.simulated", value=data.simulated, hint=hint)
        if not self.judge.filled:
            hint = "give more trips, or data.simulated=500"
            raise UsageError("no trip is left to validate with", field="data.trips", value=data.trips, hint=hint)

    def _short(self, trips: Trips) -> Trips:
        return trips.select(np.flatnonzero(trips.hops() <= self.recipe.data.max_hops)) if len(trips) else trips

    def _calibrate(self, trips: Trips) -> None:
        """Fit the prior on training trips and give it to every collator."""
        if not self.recipe.model.prior:
            return
        from apps.trajectory.calibrate import fit

        self.parameters = from_vector(to_vector(fit(trips).parameters))
        prior = RoutePrior(self.data.network, self.parameters)
        pools = [self.simulated, self.judge] + ([self.real] if self.real is not None else [])
        for collator in (c for pool in pools for c in [*pool.collators, pool.strange]):
            collator.fields.prior = prior

    def _collator(self, seen: np.ndarray | None) -> Collator:
        return Collator(Fields(self.data.network, seen, megabytes=600.0), self.recipe.data.max_hops)

    def module(self) -> TripNet:
        """Build the network on the recipe's city."""
        net = TripNet(self.recipe.model, self.data.network.m).bind(*graph_tensors(self.data.network))
        net.experience.copy_(torch.from_numpy(self.seen))
        if self.recipe.model.prior:
            net.prior.copy_(torch.from_numpy(to_vector(self.parameters)))  # type: ignore[union-attr]
        return net

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Return the batch of a step: one source, one block size, trips of similar length."""
        r = self.recipe
        rng = np.random.default_rng([r.seed, step, rank])
        block = int(rng.choice(r.blocks))
        real = self.real is not None and rng.random() < r.data.real and step >= r.data.real_from
        pool = self.real if real and self.real is not None else self.simulated
        fold, index = pool.draw(r.data.batch, rng)
        return pool.batch(fold, index, block, rng, r.unconditional, 0.0 if real else r.data.strange)

    def loss(self, module: torch.nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return nats per trip-segment (the count-form bound) plus the weighted travel-time loss."""
        nll, pace = module(batch)
        sites = float(batch.masked.numel())
        bound = nll.sum() / sites
        per_trip = nll.detach().sum() / len(batch.informed)
        total = bound + self.recipe.time_weight * pace
        return total, {"nats_per_trip": per_trip, "pace": pace.detach(), "block": float(batch.masked.shape[1])}

    def validate(self, module: torch.nn.Module, step: int) -> dict[str, float]:
        """Return nats per trip on held-out trips: the bound at the sampling block, and exact at block size 1."""
        net = getattr(module, "module", module)
        out, device = {}, next(net.parameters()).device
        for name, block in (("loss", self.recipe.sample.block), ("autoregressive", 1)):
            draws = 4 if block > 1 else 1
            order = self.judge.folds[0][np.argsort(self.judge.hops[self.judge.folds[0]])][:512]
            total = 0.0
            for draw, a in itertools.product(range(draws), range(0, len(order), 32)):
                rng = np.random.default_rng([draw, a])
                total += float(net(self.judge.batch(0, order[a : a + 32], block, rng).to(device))[0].sum())
            out[name] = total / len(order) / draws
        return out


def make(recipe: Recipe) -> TripTask:
    """Return the task of a recipe.

    Raises:
        UsageError: no block length to train with, or one that the network cannot read.
    """
    if not recipe.blocks:
        raise UsageError("at least one block length is needed", field="blocks")
    for name, block in (("sample.block", recipe.sample.block), ("blocks", max(recipe.blocks))):
        fitting(block, recipe, name)
    return TripTask(recipe, corpus(recipe.data, recipe.seed))
