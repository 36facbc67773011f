"""The model that a user holds: trips under rules, their times, their likelihood.

A `TripModel` joins a network's weights, a city and rules. It samples block by block (`core.blocks`) through the context
of `context.py`, so that every trip keeps its rules at any number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apps.trajectory.batch import Batch, Collator
from apps.trajectory.constraints import Rules, TripLaw, trip_law
from apps.trajectory.context import Opener
from apps.trajectory.data import Trips
from apps.trajectory.encoder import graph_tensors
from apps.trajectory.field import Fields
from apps.trajectory.likelihood import Order, nll
from apps.trajectory.model import Recipe, TripNet, fitting
from apps.trajectory.network import RoadNetwork
from apps.trajectory.prior import RoutePrior, from_vector
from apps.trajectory.sampler import Sampler
from apps.trajectory.tokenizer import trim
from core.blocks import generate
from core.noise import Stream
from core.plan import uniform_plan
from core.sample import Solver
from core.solvers.tokens import SOLVERS

__all__ = ["TripModel", "restore"]


@dataclass(eq=False)
class TripModel(Sampler):
    """A trained model on a road network.

    Args:
        net: the network.
        recipe: the run that trained it (defaults of sampling).
        network: the roads, not necessarily those it was trained on.
        rules: rules that every trip obeys.
        batch: most trips sampled together.
    """

    net: TripNet
    recipe: Recipe
    network: RoadNetwork
    rules: Rules = Rules()
    batch: int = 64

    def __post_init__(self) -> None:
        """Embed the roads once."""
        self.net.eval()
        device = self.net.masked.device
        self.net.bind(*(t.to(device) for t in graph_tensors(self.network)))
        seen = self.net.experience.cpu().numpy()
        prior = RoutePrior(self.network, from_vector(self.net.prior.cpu().numpy())) if self.net.config.prior else None  # type: ignore[union-attr]
        self.fields = Fields(self.network, seen if len(seen) == self.network.m else None, prior=prior)
        with torch.no_grad():
            self.roads = self.net.embed_roads()

    def on(self, network: RoadNetwork) -> TripModel:
        """Return the same weights on another city."""
        return TripModel(self.net, self.recipe, network, batch=self.batch)

    def obeying(self, rules: Rules) -> TripModel:
        """Return the model under other rules (roads and fields are shared)."""
        out = object.__new__(TripModel)
        vars(out).update(vars(self), rules=rules)
        return out

    def closing(self, closed: np.ndarray) -> TripModel:
        """Return the model with segments closed (bool [N]); same seeds, same noise."""
        return self.obeying(self.rules.closing(np.asarray(closed, bool)))

    def set(self, **changes: object) -> TripModel:
        """Return the model with other sampling defaults (block, steps, solver, guidance, mode, detour)."""
        out = self.obeying(self.rules)
        out.recipe = replace(self.recipe, sample=replace(self.recipe.sample, **changes))  # type: ignore[arg-type]
        fitting(out.recipe.sample.block, out.recipe)
        return out

    def draw(
        self, origin: np.ndarray, targets: list[tuple[int, ...]], depart: np.ndarray, seed: int, streams: np.ndarray,
        greedy: bool,
    ) -> Trips:  # fmt: skip
        """Return one trip without times for each request (`Sampler.draw`)."""
        walks: list[np.ndarray] = [np.empty(0, np.int64)] * len(origin)
        for rows in self._together(origin, targets):
            found = self._draw(origin[rows], [targets[i] for i in rows], depart[rows], seed, streams[rows], greedy)
            for i, walk in zip(rows, found, strict=True):
                walks[i] = walk
        return Trips.from_lists(self.network, walks, depart)

    def _together(self, origin: np.ndarray, targets: list[tuple[int, ...]]) -> list[np.ndarray]:
        """Return the rows of each batch: neighbours share destinations, and counters allow only one request a batch."""
        apart = self.rules.counted and not self.rules.origins
        asked = [(t, int(o) if apart else -1) for o, t in zip(origin, targets, strict=True)]
        number = {a: i for i, a in enumerate(dict.fromkeys(asked))}
        which = np.array([number[a] for a in asked])
        order = np.argsort(which, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(which[order])) + 1) if self.rules.counted else [order]
        return [part[a : a + self.batch] for part in parts for a in range(0, len(part), self.batch)]

    def law(self, origin: np.ndarray, targets: list[tuple[int, ...]]) -> TripLaw:
        """Return the law of a batch of requests under the model's rules (arguments as in `sample`)."""
        cfg, budget = self.recipe.sample, self.recipe.data.max_hops
        return trip_law(self.fields, origin, targets, self.rules, budget=budget, detour=cfg.detour, mode=cfg.mode)  # type: ignore[arg-type]

    def _draw(
        self,
        origin: np.ndarray,
        targets: list[tuple[int, ...]],
        depart: np.ndarray,
        seed: int,
        samples: np.ndarray,
        greedy: bool,
    ) -> list[np.ndarray]:
        cfg, law = self.recipe.sample, self.law(origin, targets)
        solver: Solver = SOLVERS[cfg.solver]()
        stream = Stream.strata(seed, torch.from_numpy(samples.astype(np.int64)), cfg.strata)
        rows = generate(
            Opener(self, law, depart, cfg.guidance),
            uniform_plan(cfg.steps),
            solver,
            constraint=law.law,
            length=law.budget,
            block=cfg.block,
            stream=stream,
            greedy=greedy,
        )
        stays = law.law.togo[law.group, law.law.begin()] == 0  # the origin is the destination already
        walks = [row[:0] if stay else _arrived(row) for row, stay in zip(rows.numpy(), stays, strict=True)]
        return [np.concatenate([[o], w]) for o, w in zip(origin, walks, strict=True)]

    @torch.inference_mode()
    def time(self, trips: Trips, seed: int = 0, index: np.ndarray | None = None, *, greedy: bool = False) -> Trips:
        """Return the trips with the seconds at which each segment is entered: drawn, or the medians."""
        lists, free = trips.lists(), self.network.travel_time
        enter: list[np.ndarray] = [np.zeros(len(t), np.float32) for t in lists]
        moving = np.flatnonzero(trips.hops() > 1)
        streams = np.arange(len(trips)) if index is None else np.asarray(index, np.int64)
        for some, batch in self._batches(trips.select(moving), self.recipe.sample.block, trimmed=False):
            rows = moving[some]
            hidden, encoded = self._clean(batch)
            mean, scale = self.net.paces(hidden, encoded)
            u = Stream(seed, torch.from_numpy(streams[rows])).fold(977).uniform(mean.shape[1]) - 0.5
            noise = -u.sign() * (1 - 2 * u.abs()).clamp_min(1e-12).log()
            pace = mean if greedy else mean + scale * noise.to(mean).clamp(-3, 3)
            for i, row in zip(rows, pace.exp().double().cpu().numpy(), strict=True):
                seconds = row[: len(lists[i])] * free[lists[i]]
                enter[i] = np.concatenate([[0.0], np.cumsum(seconds)[:-1]])
        return Trips.from_lists(self.network, lists, trips.depart, enter, trips.id)

    def _clean(self, batch: Batch) -> tuple[Tensor, Tensor]:
        net, b = self.net, batch
        encoded = net.encode(self.roads[b.segment], b.level, b.view, b.informed[b.trip][:, None])[b.clean]
        h = net.embed(encoded, torch.zeros_like(b.clean, dtype=torch.bool), b.place, net.condition(b.clock))
        position = torch.arange(len(b.place), device=h.device)
        return net.trunk(h, position, b.block, torch.ones_like(b.place, dtype=torch.bool)), encoded

    def _batches(self, trips: Trips, block: int, trimmed: bool = True):  # noqa: ANN202
        collate = Collator(self.fields, max(self.recipe.data.max_hops, int(trips.hops().max(initial=1))))
        walks = [trim(t) if trimmed else t for t in trips.lists()]
        order = np.argsort([len(w) for w in walks], kind="stable")
        for a in range(0, len(order), self.batch):
            rows = order[a : a + self.batch]
            batch = collate([walks[i] for i in rows], block, np.random.default_rng(a), depart=trips.depart[rows])
            yield rows, batch.to(self.net.masked.device)

    @torch.inference_mode()
    def nll(self, trips: Trips, block: int = 1, draws: int = 1, seed: int = 0, order: Order = "random") -> np.ndarray:
        """Return nats of each trip given origin, destination and departure, float64 [n], on the open roads.

        Exact at block size 1 or under an order (`in-order`, `confidence`); otherwise the bound, averaged over `draws`
        random masks (`likelihood.py`).
        """
        return nll(self, trips, fitting(block, self.recipe), draws, seed, order)

    def candidates(
        self, origin: np.ndarray, destination: np.ndarray, depart: np.ndarray | None, seed: int, draws: int
    ) -> list[Trips]:
        """Return two greedy decodes (at the sampling block, and at block 1) and `draws` samples of every request."""
        found = [self.sample(origin, destination, depart, seed, greedy=True, timed=False)]
        found.append(self.set(block=1, steps=1).sample(origin, destination, depart, seed, greedy=True, timed=False))
        rows, spread = np.arange(len(found[0])), self.set(strata=draws)
        for k in range(draws):
            found.append(spread.sample(origin, destination, depart, seed, rows * draws + k, timed=False))
        return found


def _arrived(row: np.ndarray) -> np.ndarray:
    """Cut a token row after the arrival: from there on the destination only repeats itself."""
    row = row[row >= 0]
    change = np.flatnonzero(row != row[-1])
    return row[: (change[-1] + 2) if len(change) else 1]


def restore(name: str | Path, network: RoadNetwork | str | None = None, device: str = "cpu") -> TripModel:
    """Return the model of a checkpoint (see `apps.trajectory.load`)."""
    from omegaconf import OmegaConf

    from apps.trajectory.sources import open_network
    from core.run.config import instance
    from core.run.models import fill, find

    saved = find(name, "trajectory")
    recipe = instance(OmegaConf.create(saved.config), Recipe)
    fitting(recipe.sample.block, recipe, "sample.block")
    state = saved.inference
    net = fill(TripNet(recipe.model, len(state.get("experience", ()))), state, saved.path)
    if not isinstance(network, RoadNetwork):
        network = open_network(network or recipe.data.network, recipe.data.cache)
    return TripModel(net.to(device), recipe, network)
