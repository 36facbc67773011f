"""Products of the road law: visit lists and limits on hops and kilometres.

Kilometres are counted as the **excess** over the shortest way to go,

    len(y) + rest(y) - rest(x) >= 0     for a transition x -> y,      sum over a trip = its length - rest(origin),

which is zero along shortest ways. Rounding (always against the trip, so that no limit is ever broken) therefore touches
detours only, and a limit that equals the shortest way can be met. A trip's kilometres are those that `Trips.kilometres`
reports, its first and its last segment included. The counter's resolution is 1 m, or coarser where the product would
exceed `STATES` states; a lower limit alone explores trips of up to 1.5 times that length. Both follow from all segments
at which the request may start (`Rules.origins`), so that a trip does not depend on those that are drawn beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from apps.trajectory.field import Field, Fields
from apps.trajectory.network import RoadNetwork
from core.constrain.graph import StateGraph

__all__ = ["Limited", "Rules", "Visits", "limited", "shortest_metres", "visit_product"]

STATES = 2_000_000
"""Most states of a product with counters."""


@dataclass(frozen=True)
class Rules:
    """Rules beside origin and destination, shared by all trips of a request.

    Args:
        via: segments to visit in order; each entry one segment or a set of which one must be visited.
        closed: bool [N] segments that may not be used, or None.
        min_hops, max_hops: number of segments after the origin.
        min_km, max_km: kilometres of the whole trip, its origin and its destination segment included.
        origins: all segments at which a trip of the request may start; () if each trip is a request of its own.
    """

    via: tuple[tuple[int, ...], ...] = ()
    closed: np.ndarray | None = None
    min_hops: int = 0
    max_hops: int = 0
    min_km: float = 0.0
    max_km: float = 0.0
    origins: tuple[int, ...] = ()

    @property
    def counted(self) -> bool:
        """Whether a counter is needed (an upper limit on hops is the budget itself)."""
        return bool(self.min_hops or self.min_km or self.max_km)

    def closing(self, closed: np.ndarray) -> Rules:
        """Return the same rules with more segments closed."""
        return replace(self, closed=closed if self.closed is None else self.closed | closed)


@dataclass(eq=False)
class Visits:
    """Roads x visit list."""

    graph: StateGraph
    roads: StateGraph
    sets: list[np.ndarray]

    def start(self, origin: np.ndarray) -> np.ndarray:
        """Return start states, int64 [B]."""
        return np.array([self.roads.stage(int(o), self.sets) for o in origin], np.int64)

    def accept(self, target: tuple[int, ...]) -> np.ndarray:
        """Return the accepting states of a destination."""
        return np.array(target, np.int64) + len(self.sets) * self.roads.states

    def field(
        self, fields: Fields, origin: int, start: int, target: tuple[int, ...], rules: Rules, detour: float
    ) -> Field:
        """Return the to-go tables of a destination, from the cache where the roads are all there is to the law."""
        if not self.sets and rules.closed is None and len(target) == 1:
            return fields.to(target[0], origin, detour)
        xy = np.stack([fields.network.end[list(leg)].mean(0) for leg in [*rules.via, target]])
        accept = self.accept(target)
        return fields.explore(self.graph, accept, rules.closed, xy, start, detour, per_stage=self.roads.states)


def visit_product(fields: Fields, rules: Rules) -> Visits:
    sets = [np.array(v, np.int64) for v in rules.via]
    return Visits(fields.roads.visits(sets) if sets else fields.roads, fields.roads, sets)


def shortest_metres(network: RoadNetwork, visits: Visits, target: tuple[int, ...], rules: Rules) -> np.ndarray:
    """Return the least metres still to drive from the end of each state of the visit product, float64 [S]."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import dijkstra

    graph = visits.graph
    length = network.length.astype(np.float64)[graph.labels]
    source = np.repeat(np.arange(graph.states), np.diff(graph.succ_ptr))
    open_ = np.ones(len(source), bool) if rules.closed is None else ~rules.closed[graph.labels[graph.succ]]
    entries = (length[graph.succ[open_]], (graph.succ[open_], source[open_]))
    reverse = sp.csr_matrix(entries, shape=(graph.states, graph.states))
    return dijkstra(reverse, indices=visits.accept(target), min_only=True)


@dataclass(frozen=True)
class _Counter:
    """One counter: what a transition costs, from which count a trip may end, where each origin starts."""

    unit: float
    size: int
    lower: bool
    first: np.ndarray

    @property
    def low(self) -> int:
        """Least count at the end."""
        return self.size if self.lower else 0

    def cost(self, excess: np.ndarray) -> np.ndarray:
        """Return integer costs of transitions, rounded against the trip."""
        units = excess / self.unit
        return (np.floor(units + 1e-9) if self.lower else np.ceil(units - 1e-6)).astype(np.int64)


@dataclass(eq=False)
class Limited:
    """(Roads x visit list) x counters, on the cone of one destination.

    Args:
        graph: the product; later counters are more significant in a state's number.
        cone: int64 [n], states of the visit product that remain.
        visits: the visit product.
        counters: in the order in which they were multiplied.
    """

    graph: StateGraph
    cone: np.ndarray
    visits: Visits
    counters: list[_Counter]

    def start(self, origin: np.ndarray) -> np.ndarray:
        """Return start states, int64 [B], -1 where a limit cannot be met."""
        entered = self.visits.start(origin)
        at = np.minimum(np.searchsorted(self.cone, entered), len(self.cone) - 1)
        inside, state, per = self.cone[at] == entered, at.copy(), len(self.cone)
        for counter in self.counters:
            inside &= counter.first <= counter.size
            state, per = state + np.maximum(counter.first, 0) * per, per * (counter.size + 1)
        return np.where(inside, state, -1)

    def field(
        self, fields: Fields, origin: int, start: int, target: tuple[int, ...], rules: Rules, detour: float
    ) -> Field:
        """Return the to-go tables: hops of the product, seconds of the visit product."""
        base = self.visits.field(fields, origin, start, target, rules, np.inf)
        accept, per = np.searchsorted(self.cone, np.intersect1d(self.cone, self.visits.accept(target))), len(self.cone)
        for counter in self.counters:
            accept = (np.arange(counter.low, counter.size + 1)[:, None] * per + accept).reshape(-1)
            per *= counter.size + 1
        hops = self.graph.togo(accept)
        copies, reached = per // len(self.cone), hops < 2**30
        seconds = np.where(reached, np.tile(base.seconds[self.cone], copies), np.inf).astype(np.float32)
        surprise = np.where(reached, np.tile(base.surprise[self.cone], copies), np.inf).astype(np.float32)
        value = None if base.value is None else np.tile(base.value[:, self.cone], copies)
        return Field(hops, seconds, surprise, base.xy[-1:], self.graph.states, base.target, value)


def limited(fields: Fields, origin: np.ndarray, target: tuple[int, ...], rules: Rules) -> Limited:
    """Return the product of one destination with the counters of its rules.

    Args:
        fields: of the network.
        origin: int64 [B], one of `rules.origins` each; without those, all that the resolution is to follow from.
        target: accepted destination segments.
        rules: what a trip obeys.
    """
    visits = visit_product(fields, rules)
    rest = shortest_metres(fields.network, visits, target, rules)
    length = fields.network.length.astype(np.float64)
    possible = np.union1d(np.array(rules.origins, np.int64), origin)
    shortest = rest[visits.start(possible)]
    farthest = shortest[np.isfinite(shortest)].max(initial=0.0)
    most = 1000 * rules.max_km if rules.max_km else 1500 * rules.min_km + 1.5 * farthest + 1000
    cone = rest <= most
    if rules.closed is not None:
        cone &= ~rules.closed[visits.graph.labels]
        through = possible[~rules.closed[possible]]
        cone[visits.start(through if len(through) else possible)] = True
    graph, cone_states = visits.graph.induced(cone)
    own = (rest[visits.start(origin)] + length[origin], shortest + length[possible])
    counters = list(_counters(rules, *own, len(cone_states)))
    for counter in counters:
        source = np.repeat(np.arange(graph.states), np.diff(graph.succ_ptr)) % len(cone_states)
        there = cone_states[graph.succ % len(cone_states)]
        with np.errstate(invalid="ignore"):  # an origin without a way on stays in the cone, to be refused by name
            excess = length[visits.graph.labels[there]] + rest[there] - rest[cone_states[source]]
        excess = np.where(np.isfinite(rest[there]), np.maximum(excess, 0.0), 1e9)
        cost = np.ones(len(excess), np.int64) if counter.unit == 0 else counter.cost(excess)
        graph = graph.counted(cost, counter.size, saturate=counter.lower)
    return Limited(graph, cone_states, visits, counters)


def _counters(rules: Rules, shortest: np.ndarray, every: np.ndarray, states: int) -> Iterator[_Counter]:
    """Yield the counters of a request; kilometre counters share what is left of `STATES`.

    Args:
        rules: what a trip obeys.
        shortest: metres [B] of the shortest whole trip from each origin of the batch.
        every: the same from all origins of the request, from which unit and size follow.
        states: of the cone.
    """
    shortest, every = (np.where(np.isfinite(x), x, 1e12) for x in (shortest, every))
    limits = [(1000 * km, lower) for km, lower in ((rules.max_km, False), (rules.min_km, True)) if km]
    room = max(STATES / states / (rules.min_hops + 1), 4.0)
    ranges = [max(metres - every.min(), 1.0) for metres, _ in limits]
    unit = max(1.0, float(np.prod(ranges) / room) ** (1 / max(len(ranges), 1)))
    for metres, lower in limits:
        steps, most = (_steps(metres - x, unit, lower) for x in (shortest, every))
        size = max(int(most.max()), 0)
        yield _Counter(unit, size, lower, (size - steps).astype(np.int64))
    if rules.min_hops:
        yield _Counter(0.0, rules.min_hops, True, np.zeros(len(shortest), np.int64))


def _steps(span: np.ndarray, unit: float, lower: bool) -> np.ndarray:
    """Return the whole units of excess that a limit demands or allows, rounded against the trip."""
    return np.ceil(np.maximum(span, 0) / unit - 1e-9) if lower else np.floor(span / unit + 1e-6)
