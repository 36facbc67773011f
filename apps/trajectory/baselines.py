r"""What a transport engineer would use instead of a model: shortest, fastest, alternative and Markov routes.

Every router answers requests (origin segment, destination segment, departure) with one walk each on the road network. A
least-cost walk minimises the sum of the costs of the segments entered; one Dijkstra search per DESTINATION on the
reversed relation gives the whole tree of cheapest continuations, shared by all origins.

The penalty method makes k alternatives: the cheapest walk is found, its segments are made dearer by a factor, and so on
until k different walks exist. The unpenalised cost to go never overestimates, so it guides an A* search.

References: Dijkstra (1959); Hart, Nilsson and Raphael (1968) for A*; de la Barra, Perez and Anez (1993) for the
link penalty.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray
from scipy.sparse.csgraph import dijkstra

from apps.trajectory.data import Trips
from apps.trajectory.markov import MarkovChain
from apps.trajectory.network import RoadNetwork
from core.errors import InfeasibleError, UsageError

__all__ = ["Fastest", "KShortest", "MarkovChain", "Router", "Shortest", "cheapest", "reachable", "timed"]

Integers = NDArray[np.integer]
Floats = NDArray[np.floating]
Closed = NDArray[np.bool_] | None
JUNCTION = 3.0
BATCH = 32
TRIES = 12


class Router(Protocol):
    """Anything that answers route requests: a baseline or a model."""

    network: RoadNetwork

    def sample(
        self, origin: Integers, destination: Integers, depart: Floats | None, seed: int, index: Integers | None = None
    ) -> Trips:
        """Draw one trip per request.

        Args:
            origin: `[n]` first segments.
            destination: `[n]` last segments.
            depart: `[n]` unix seconds of departure, or None.
            seed: of the run; request i draws from the stream (seed, index[i]), whatever else is in the batch.
            index: `[n]` stream numbers, 0..n-1 by default.

        Raises:
            InfeasibleError: a destination cannot be reached.
        """
        ...

    def closing(self, closed: NDArray[np.bool_]) -> Self:
        """Return the same router on the network without the segments `closed` `[N]`."""
        ...


def reachable(
    network: RoadNetwork, origin: Integers, destination: Integers, closed: Closed = None, most: float = np.inf
) -> NDArray[np.bool_]:
    """Tell for each request `[n]` whether a walk of at most `most` hops leads to its end past the closed segments."""
    weight = np.ones(network.m)
    found = np.zeros(len(origin), dtype=bool)
    for rows, goals, cost, _ in _trees(network, weight, destination, closed):
        hops = cost[np.searchsorted(goals, destination[rows]), origin[rows]]
        found[rows] = np.isfinite(hops) & (hops <= most)
    if closed is not None:
        found &= ~closed[origin] & ~closed[destination]
    return found


def cheapest(
    network: RoadNetwork, weight: Floats, origin: Integers, destination: Integers, closed: Closed = None
) -> list[NDArray[np.int32]]:
    """Return the least-cost walk of each request.

    Args:
        network: of N segments and M transitions.
        weight: `[M]` positive cost of each transition, in the order of `network.succ`.
        origin: `[n]` first segments.
        destination: `[n]` last segments.
        closed: `[N]` segments that must not be used.

    Raises:
        InfeasibleError: a destination cannot be reached, or an end is closed.
    """
    _refuse_closed(network, origin, destination, closed)
    walks: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(origin)
    for rows, goals, _, follow in _trees(network, weight, destination, closed):
        tree = np.searchsorted(goals, destination[rows])
        at, steps = origin[rows].astype(np.int32), []
        while True:
            steps.append(at)
            moving = at != destination[rows]
            if not moving.any():
                break
            onward = follow[tree, at]
            _refuse_unreached(network, rows, origin, destination, moving & (onward < 0))
            at = np.where(moving, onward, at).astype(np.int32)
        grid = np.stack(steps, axis=1)
        size = (grid != destination[rows][:, None]).sum(axis=1) + 1
        for k, row in enumerate(rows):
            walks[row] = grid[k, : size[k]].copy()
    return walks


def _trees(
    network: RoadNetwork, weight: Floats, destination: Integers, closed: Closed
) -> Iterator[tuple[NDArray[np.int64], Integers, NDArray[np.float64], NDArray[np.int32]]]:
    """Yield (requests, their destinations sorted, cost to go [d, N], next segment [d, N]) a batch at a time."""
    source, target = network.source, network.succ
    keep = np.ones(network.m, dtype=bool) if closed is None else ~(closed[source] | closed[target])
    entry = (np.maximum(weight[keep], 1e-9), (target[keep], source[keep]))
    back = sp.csr_matrix(entry, shape=(network.n, network.n))
    goals = np.unique(destination)
    for start in range(0, len(goals), BATCH):
        some = goals[start : start + BATCH]
        cost, follow = dijkstra(back, indices=some, return_predecessors=True)
        yield np.flatnonzero(np.isin(destination, some)), some, cost, follow


def _refuse_closed(network: RoadNetwork, origin: Integers, destination: Integers, closed: Closed) -> None:
    for name, ends in (("origin", origin), ("destination", destination)):
        if len(ends) and (ends.min() < 0 or ends.max() >= network.n):
            raise UsageError("no such segment", field=name, value=int(ends[(ends < 0) | (ends >= network.n)][0]),
                             hint=f"segments are numbered 0 to {network.n - 1}")  # fmt: skip
        if closed is not None and closed[ends].any():
            raise InfeasibleError(f"segment {int(ends[closed[ends]][0])} is closed", field=name)


def _refuse_unreached(
    network: RoadNetwork, rows: Integers, origin: Integers, destination: Integers, lost: NDArray[np.bool_]
) -> None:
    if lost.any():
        first = rows[np.flatnonzero(lost)[0]]
        raise InfeasibleError(
            f"segment {int(destination[first])} cannot be reached from segment {int(origin[first])}",
            field="destination", hint=f"{int(lost.sum())} such requests; open a segment or choose another destination",
        )  # fmt: skip


def timed(network: RoadNetwork, walks: list[NDArray[np.int32]], depart: Floats | None, delay: float) -> Trips:
    """Return walks as trips that drive at free speed and lose `delay` seconds at each junction."""
    spent = network.travel_time + delay
    enter = [np.concatenate([[0.0], np.cumsum(spent[w[:-1]], dtype=np.float64)]) for w in walks]
    return Trips.from_lists(network, walks, depart=depart, enter=enter)


@dataclass(frozen=True)
class Shortest:
    """The walk of least length (metres)."""

    network: RoadNetwork
    closed: Closed = None

    def sample(
        self, origin: Integers, destination: Integers, depart: Floats | None = None, seed: int = 0,
        index: Integers | None = None,
    ) -> Trips:  # fmt: skip
        """Return the shortest walk of each request; nothing is random. See `Router.sample`."""
        weight = self.network.length[self.network.succ].astype(np.float64)
        walks = cheapest(self.network, weight, np.asarray(origin), np.asarray(destination), self.closed)
        return timed(self.network, walks, depart, JUNCTION)

    def closing(self, closed: NDArray[np.bool_]) -> Shortest:
        """Return the router without the closed segments `[N]`."""
        return replace(self, closed=_both(self.closed, closed))


@dataclass(frozen=True)
class Fastest:
    """The walk of least time: free speed of each segment, and `delay` seconds for each segment entered."""

    network: RoadNetwork
    delay: float = JUNCTION
    closed: Closed = None

    @property
    def weight(self) -> NDArray[np.float64]:
        """Seconds of each transition `[M]`."""
        return (self.network.travel_time.astype(np.float64) + self.delay)[self.network.succ]

    def sample(
        self, origin: Integers, destination: Integers, depart: Floats | None = None, seed: int = 0,
        index: Integers | None = None,
    ) -> Trips:  # fmt: skip
        """Return the fastest walk of each request; nothing is random. See `Router.sample`."""
        walks = cheapest(self.network, self.weight, np.asarray(origin), np.asarray(destination), self.closed)
        return timed(self.network, walks, depart, self.delay)

    def closing(self, closed: NDArray[np.bool_]) -> Fastest:
        """Return the router without the closed segments `[N]`."""
        return replace(self, closed=_both(self.closed, closed))


@dataclass(frozen=True)
class KShortest:
    """k alternative fast walks by link penalty.

    Args:
        network: the roads.
        k: alternatives per request.
        penalty: factor on the time of a segment for each alternative that uses it already.
        delay: seconds per segment entered.
        closed: `[N]` segments that must not be used.
    """

    network: RoadNetwork
    k: int = 5
    penalty: float = 1.05
    delay: float = JUNCTION
    closed: Closed = None

    def sample(
        self, origin: Integers, destination: Integers, depart: Floats | None = None, seed: int = 0,
        index: Integers | None = None,
    ) -> Trips:  # fmt: skip
        """Return for each request one of its k alternatives, all equally likely. See `Router.sample`."""
        index = np.arange(len(origin)) if index is None else np.asarray(index)
        choice = [np.random.Generator(np.random.Philox(key=[seed, int(i)])).integers(self.k) for i in index]
        ways = self._ways(np.asarray(origin), np.asarray(destination))
        return timed(self.network, [way[c] for way, c in zip(ways, choice, strict=True)], depart, self.delay)

    def alternatives(self, origin: Integers, destination: Integers, depart: Floats | None = None) -> list[Trips]:
        """Return k sets of trips; the j-th holds the j-th alternative of each request (repeats if too few exist)."""
        ways = self._ways(np.asarray(origin), np.asarray(destination))
        return [timed(self.network, [way[j] for way in ways], depart, self.delay) for j in range(self.k)]

    def closing(self, closed: NDArray[np.bool_]) -> KShortest:
        """Return the router without the closed segments `[N]`."""
        return replace(self, closed=_both(self.closed, closed))

    def _ways(self, origin: Integers, destination: Integers) -> list[list[NDArray[np.int32]]]:
        network, fast = self.network, Fastest(self.network, self.delay)
        _refuse_closed(network, origin, destination, self.closed)
        cost = network.travel_time.astype(np.float64) + self.delay
        if self.closed is not None:
            cost[self.closed] = np.inf
        ways: list[list[NDArray[np.int32]]] = [[]] * len(origin)
        for rows, goals, to_go, _ in _trees(network, fast.weight, destination, self.closed):
            tree = np.searchsorted(goals, destination[rows])
            _refuse_unreached(network, rows, origin, destination, ~np.isfinite(to_go[tree, origin[rows]]))
            for row, t in zip(rows, tree, strict=True):
                ways[row] = self._one(cost, to_go[t], int(origin[row]), int(destination[row]))
        return ways

    def _one(self, cost: Floats, to_go: Floats, origin: int, destination: int) -> list[NDArray[np.int32]]:
        dear, found = cost.copy(), {}
        for _ in range(TRIES * self.k):
            way = _guided(self.network.succ_ptr, self.network.succ, dear, to_go, origin, destination)
            found.setdefault(way.tobytes(), way)
            if len(found) == self.k:
                break
            dear[way[1:]] *= self.penalty
        distinct = list(found.values())
        return [distinct[j % len(distinct)] for j in range(self.k)]


def _both(first: Closed, second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    second = np.asarray(second, dtype=bool)
    return second if first is None else first | second


@njit(nogil=True, cache=True)
def _guided(succ_ptr, succ, cost, to_go, origin, destination):  # type: ignore[no-untyped-def]
    so_far = np.full(len(cost), np.inf)
    came = np.full(len(cost), -1, np.int32)
    so_far[origin] = 0.0
    queue = [(to_go[origin], np.int64(origin))]
    while len(queue) > 0:
        total, at = heapq.heappop(queue)
        if at == destination:
            break
        if total > so_far[at] + to_go[at] + 1e-9:
            continue
        for k in range(succ_ptr[at], succ_ptr[at + 1]):
            onward = succ[k]
            reached = so_far[at] + cost[onward]
            if reached < so_far[onward] and np.isfinite(to_go[onward]):
                so_far[onward], came[onward] = reached, at
                heapq.heappush(queue, (reached + to_go[onward], np.int64(onward)))
    way = [np.int32(destination)]
    while way[-1] != origin:
        way.append(came[way[-1]])
    return np.array(way[::-1], dtype=np.int32)
