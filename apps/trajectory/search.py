"""Decoders of the autoregressive twin: what trip generators do without a law over whole trips.

At block size 1 the network is a plain next-segment model  p(x | s_0 ... s_n, d).  Two ways to make trips of it:

- `BestFirst`: keep a queue of prefixes ordered by  sum log p,  pop the best, read the WHOLE prefix again, push its
  successors. A segment is expanded once; after so many expansions the search gives up and answers with the popped
  prefix that ends nearest to the destination, which is then not reached. There is no look-ahead: a successor is pushed
  whether or not the destination can still be reached in time.
- `Greedy`: the likeliest segment, one after the other, over the key-value cache. Here the law keeps it on the way: it
  always arrives.

Reference: Cao et al. 2025, arXiv 2501.02737 (HOSER), section 4.4 and its published code.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from apps.trajectory.chains import Chains
from apps.trajectory.data import Trips
from apps.trajectory.field import Goals, alone, view
from apps.trajectory.generate import TripModel
from apps.trajectory.model import clock
from apps.trajectory.network import RoadNetwork
from core.constrain.graph import UNREACHABLE
from core.constrain.trellis import unroll

__all__ = ["BestFirst", "Effort", "Greedy"]


@dataclass(frozen=True)
class Effort:
    """What one search took.

    Args:
        expansions: prefixes popped and extended; each is one forward pass.
        reached: whether the destination was popped.
    """

    expansions: int
    reached: bool


@dataclass(eq=False)
class _Reader:
    """The network at block size 1 on one request, reading whole prefixes.

    Args:
        model: the twin.
        goals: the destination alone.
        origin: first segment.
        condition: embedded departure [1, d].
    """

    model: TripModel
    goals: Goals
    origin: int
    condition: Tensor

    def __post_init__(self) -> None:
        """Embed the origin; encoded successors are kept, so a prefix costs only the trunk."""
        start = np.array([self.origin])
        seen = alone(self.model.fields, np.arange(self.model.network.n), start, self.goals, np.zeros(1, np.int64))
        net, roads = self.model.net, self.model.roads[self.origin][None]
        flag = torch.ones(1, 1)
        first = net.encode(roads, torch.zeros(1, dtype=torch.long), torch.from_numpy(seen), flag)
        hidden = torch.zeros(1, 1, dtype=torch.bool)
        self.first = net.embed(first[None], hidden, torch.zeros(1, dtype=torch.long), self.condition)
        blank = torch.zeros(1, 1, net.config.dim)
        self.asking = net.embed(blank, ~hidden, torch.ones(1, dtype=torch.long), self.condition)

    def successors(self, segment: int) -> tuple[np.ndarray, Tensor, Tensor]:
        """Return the segments that may follow, int64 [K], their encodings [1, K, d], and their chains."""
        model, zero, start = self.model, np.zeros(1, np.int64), np.array([segment])
        graph, hops = model.fields.roads, self.goals.hops
        trellis = unroll(graph, start, 1, int(UNREACHABLE) - 2, hops, zero)
        level, seen = view(model.fields, trellis, graph.labels, start, self.goals, zero)
        ids = torch.from_numpy(trellis.alphabet)
        flag = torch.ones(1, ids.shape[1], 1)
        encoded = model.net.encode(model.roads[ids], torch.from_numpy(level), torch.from_numpy(seen), flag)
        chains = Chains.of(model.fields, trellis, graph.labels, self.goals, zero).marginals(np.full((1, 1), -1))
        return trellis.alphabet[0], encoded, torch.from_numpy(chains)

    def token(self, encoded: Tensor) -> Tensor:
        """Return the embedded token [1, 1, d] of an encoded segment [1, 1, d]."""
        clean = torch.zeros(1, 1, dtype=torch.bool)
        return self.model.net.embed(encoded, clean, torch.ones(1, dtype=torch.long), self.condition)

    def log_p(self, tokens: list[Tensor], candidates: Tensor, chains: Tensor) -> np.ndarray:
        """Read a whole prefix of embedded tokens and return log p of the candidates, float64 [K]."""
        net, n = self.model.net, len(tokens)
        at = torch.arange(n + 1)
        hidden = net.trunk(torch.cat([*tokens, self.asking], 1), at, at, at < n)
        return net.scores(hidden[:, -1:], candidates, chains)[0, 0].double().log_softmax(-1).numpy()


@dataclass(eq=False)
class BestFirst:
    """Best-first search over prefixes, one request at a time.

    Args:
        model: the autoregressive twin.
        expansions: most prefixes extended for one request.
        closed: bool [N] segments that may not be used.
        efforts: what each request of the last `sample` took.
    """

    model: TripModel
    expansions: int = 5000
    closed: np.ndarray | None = None
    efforts: list[Effort] = field(default_factory=list)

    @property
    def network(self) -> RoadNetwork:
        """The roads."""
        return self.model.network

    @torch.inference_mode()
    def sample(
        self, origin: np.ndarray, destination: np.ndarray, depart: np.ndarray | None = None, seed: int = 0,
        index: np.ndarray | None = None,
    ) -> Trips:  # fmt: skip
        """Return the first trip found for each request; nothing is random. It may end before the destination."""
        when = np.full(len(origin), np.nan) if depart is None else np.asarray(depart, float)
        found = [self._search(int(o), int(d), float(t)) for o, d, t in zip(origin, destination, when, strict=True)]
        self.efforts = [effort for _, effort in found]
        return Trips.from_lists(self.network, [walk for walk, _ in found], when)

    def closing(self, closed: np.ndarray) -> BestFirst:
        """Return the same search without the closed segments [N]."""
        return replace(self, closed=closed if self.closed is None else self.closed | closed, efforts=[])

    def _search(self, origin: int, destination: int, depart: float) -> tuple[np.ndarray, Effort]:
        net = self.model.net
        condition = net.condition(clock(torch.tensor([depart], dtype=torch.float64)))
        goal = self.model.fields.to(destination)
        reader = _Reader(self.model, Goals([goal]), origin, condition)
        queue: list[tuple[float, int, tuple[int, ...], list[Tensor]]] = [(0.0, 0, (origin,), [reader.first])]
        visited: set[int] = set()
        nearest, left, pushed, count = (origin,), float(goal.seconds[origin]), 0, 0
        while queue and count < self.expansions:
            cost, _, walk, tokens = heapq.heappop(queue)
            here = walk[-1]
            if here in visited:
                continue
            visited.add(here)
            if goal.seconds[here] < left:
                nearest, left = walk, float(goal.seconds[here])
            if here == destination:
                return np.array(walk), Effort(count, True)
            following, encoded, chains = reader.successors(here)
            log_p = reader.log_p(tokens, encoded, chains)
            count += 1
            for k, onward in enumerate(following.tolist()):
                if onward in visited or (self.closed is not None and self.closed[onward]):
                    continue
                pushed += 1
                ahead = [*tokens, reader.token(encoded[:, k : k + 1])]
                heapq.heappush(queue, (cost - float(log_p[k]), pushed, (*walk, onward), ahead))
        return np.array(nearest), Effort(count, False)


@dataclass(eq=False)
class Greedy:
    """The likeliest segment, one after the other, over the key-value cache.

    Args:
        model: a model trained at block size 1 (any model can be asked).
    """

    model: TripModel

    @property
    def network(self) -> RoadNetwork:
        """The roads."""
        return self.model.network

    def sample(
        self, origin: np.ndarray, destination: np.ndarray, depart: np.ndarray | None = None, seed: int = 0,
        index: np.ndarray | None = None,
    ) -> Trips:  # fmt: skip
        """Return the greedy trip of each request; nothing is random."""
        plain = self.model.set(block=1, steps=1, guidance=0.0)
        return plain.sample(origin, destination, depart, seed, index, greedy=True, timed=False)

    def closing(self, closed: np.ndarray) -> Greedy:
        """Return the same decoder without the closed segments [N]."""
        return Greedy(self.model.closing(closed))
