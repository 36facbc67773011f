"""The training task: which trips, in which blocks, at which step.

Trips come from the recursive logit on the recipe's network (as many as wanted, of known law) and from a file of real
ones; only the training split of the file is ever used, also for calibrating the logit. A batch is a pure function
of (seed, step, rank).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apps.trajectory.batch import Batch, Collator
from apps.trajectory.data import Trips, read_matched, split
from apps.trajectory.encoder import graph_tensors
from apps.trajectory.field import Fields
from apps.trajectory.model import DataConfig, Recipe, TripNet
from apps.trajectory.network import RoadNetwork
from apps.trajectory.tokenizer import trim

SPLIT = (0.65, 0.10, 0.25)
"""Shares of real trips that train, choose when to stop, and judge."""

__all__ = ["SPLIT", "Corpus", "TripTask", "corpus", "make", "open_network"]


def open_network(name: str, cache: str = "") -> RoadNetwork:
    """Return the network of a recipe: `city`, a prepared .npz, or an OSM or GraphML file."""
    if name == "city":
        from apps.trajectory.city import synthetic_city

        return synthetic_city()
    if name.endswith(".npz"):
        return RoadNetwork.load(Path(name))
    from apps.trajectory.osm import from_osm

    return from_osm(name, cache=cache or None)


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
    real = split(read_matched(config.trips, network), fractions=SPLIT) if config.trips else (empty, empty, empty)
    parameters = Parameters()
    if config.fit and config.trips:
        parameters = fit(real[0]).parameters
    simulated = _simulated(config, seed, network, parameters, real[0] if config.trips else None)
    return Corpus(network, simulated, *real)


def _simulated(config: DataConfig, seed: int, network: RoadNetwork, parameters: object, like: Trips | None) -> Trips:
    from apps.trajectory.logit import simulate

    if not config.simulated:
        return Trips.from_lists(network, [])
    recipe = {**asdict(config), "seed": seed, "parameters": repr(parameters), "segments": network.n}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    kept = Path(config.cache) / f"simulated-{key}.npz" if config.cache else None
    if kept is not None and kept.exists():
        with np.load(kept) as z:
            return Trips(network, z["ptr"], z["segment"], z["enter"], z["depart"], [str(i) for i in z["id"]])
    trips = simulate(
        network, config.simulated, seed=seed, parameters=parameters, max_hops=config.max_hops,  # type: ignore[arg-type]
        pairs=config.destinations, like=like, jitter=1500.0,
    )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part.npz")
        np.savez_compressed(
            part, ptr=trips.ptr, segment=trips.segment, enter=trips.enter, depart=trips.depart, id=np.array(trips.id)
        )
        part.replace(kept)
    return trips


@dataclass(eq=False)
class _Pool:
    """Trips ready for batching: trimmed, with their lengths."""

    trips: Trips

    def __post_init__(self) -> None:
        """Trim every trip at its first arrival and drop those that never move."""
        self.walks = [trim(t) for t in self.trips.lists()]
        self.enter = self.trips.times()
        self.usable = np.flatnonzero([len(w) >= 2 for w in self.walks])
        self.hops = np.array([len(w) for w in self.walks])

    def batch(
        self, collate: Collator, index: np.ndarray, block: int, rng: np.random.Generator, unconditional: float = 0.0
    ) -> Batch:
        """Collate some trips."""
        return collate(
            [self.walks[i] for i in index], block, rng, depart=self.trips.depart[index],
            enter=[self.enter[i] for i in index], unconditional=unconditional,
        )


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
        """Prepare pools and the collator."""
        cfg = self.recipe.data
        self.collate = Collator(Fields(self.data.network, megabytes=600.0), cfg.max_hops)
        limit = lambda t: t.select(np.flatnonzero(t.hops() <= cfg.max_hops)) if len(t) else t  # noqa: E731
        held = max(32, len(self.data.simulated) // 50)
        self.simulated = _Pool(limit(self.data.simulated).select(slice(held, None)))
        self.real = _Pool(limit(self.data.train))
        judge = self.data.valid if len(self.data.valid) else self.data.simulated.select(slice(0, held))
        self.judge = _Pool(limit(judge))

    def module(self) -> TripNet:
        """Build the network on the recipe's city."""
        return TripNet(self.recipe.model).bind(*graph_tensors(self.data.network))

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Return the batch of a step: one source, one block size, trips of similar length."""
        r = self.recipe
        rng = np.random.default_rng([r.seed, step, rank])
        block = int(rng.choice(r.blocks))
        pool = self.real if len(self.real.usable) and rng.random() < r.data.real else self.simulated
        drawn = rng.choice(pool.usable, 8 * r.data.batch)
        drawn = drawn[np.argsort(pool.hops[drawn], kind="stable")]
        part = int(rng.integers(8)) * r.data.batch
        return pool.batch(self.collate, drawn[part : part + r.data.batch], block, rng, r.unconditional)

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
        out = {}
        for name, block in (("loss", self.recipe.sample.block), ("autoregressive", 1)):
            rng = np.random.default_rng(0)
            order = self.judge.usable[np.argsort(self.judge.hops[self.judge.usable])][:512]
            total = 0.0
            for a in range(0, len(order), 32):
                total += float(net(self.judge.batch(self.collate, order[a : a + 32], block, rng))[0].sum())
            out[name] = total / len(order)
        return out


def make(recipe: Recipe) -> TripTask:
    """Return the task of a recipe."""
    return TripTask(recipe, corpus(recipe.data, recipe.seed))
