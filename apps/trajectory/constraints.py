"""What a trip must obey, as one law over segments: a product of the roads with visits and counters.

| rule | how it enters the law |
|---|---|
| origin | the start state |
| destination (a segment, or any segment of a zone) | the accepting states; arriving ends the trip |
| via points, in order | product with a visit list |
| closed segments, a closed polygon, forbidden road classes | states that may not be entered |
| at most / at least so many hops or kilometres | product with a counter on the cone that the limit leaves |

Every rule holds by construction; a request that no trip can satisfy is refused before sampling with the first
reason found, from the cheapest check (a closed origin) to the full product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apps.trajectory.field import Field, Fields
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork
from core.constrain.graph import UNREACHABLE, StateGraph
from core.constrain.law import Law, Mode
from core.errors import InfeasibleError, UsageError

__all__ = ["Rules", "TripLaw", "closed_by", "trip_law"]

METRES = 10.0
"""Resolution of kilometre limits; lengths are rounded against the trip, so a limit is never broken."""


@dataclass(frozen=True)
class Rules:
    """Rules beside origin and destination, shared by all trips of a request.

    Args:
        via: segments to visit in order; each entry one segment or a set of which one must be visited.
        closed: bool [N] segments that may not be used, or None.
        min_hops, max_hops: number of segments after the origin.
        min_km, max_km: kilometres driven after the origin segment.
    """

    via: tuple[tuple[int, ...], ...] = ()
    closed: np.ndarray | None = None
    min_hops: int = 0
    max_hops: int = 0
    min_km: float = 0.0
    max_km: float = 0.0

    @property
    def counted(self) -> bool:
        """Whether a counter is needed (an upper limit on hops is the budget itself)."""
        return bool(self.min_hops or self.min_km or self.max_km)

    def closing(self, closed: np.ndarray) -> Rules:
        """Return the same rules with more segments closed."""
        return replace(self, closed=closed if self.closed is None else self.closed | closed)


def closed_by(
    network: RoadNetwork, segments: Sequence[int] = (), polygon: Sequence[tuple[float, float]] | None = None,
    classes: Sequence[str] = (),
) -> np.ndarray | None:
    """Return the segments closed by number, by a lon/lat polygon that they touch, or by road class; None for none.

    Raises:
        UsageError: a road class is unknown.
    """
    out = np.zeros(network.n, bool)
    out[np.asarray(segments, np.int64)] = True
    for name in classes:
        if name not in ROAD_CLASSES:
            raise UsageError("unknown road class", field="forbid", value=name, choices=ROAD_CLASSES)
        out |= network.road_class == ROAD_CLASSES.index(name)
    if polygon is not None:
        from shapely import contains_xy
        from shapely.geometry import Polygon

        area = Polygon(network.to_xy(np.asarray(polygon, float)))
        inside = contains_xy(area, network.geom_xy)
        out |= np.logical_or.reduceat(inside, network.geom_ptr[:-1])
    return out if out.any() else None


@dataclass(eq=False)
class TripLaw:
    """The law of a batch of trips.

    Args:
        law: for the block sampler; its tokens are segments.
        goals: the field of each group of rows.
        group: int64 [B].
        budget: most segments after the origin.
    """

    law: Law
    goals: list[Field]
    group: np.ndarray
    budget: int


def trip_law(
    fields: Fields, origin: np.ndarray, targets: Sequence[tuple[int, ...]], rules: Rules, *,
    budget: int, detour: float = np.inf, mode: Mode = "exists",
) -> TripLaw:
    """Return the law of B trips.

    Args:
        fields: the network's fields.
        origin: int64 [B] origin segments.
        targets: the accepted destination segments of each trip.
        rules: what else they obey.
        budget: most segments after the origin.
        detour: seconds to go are explored up to this multiple of the fastest way plus five minutes.
        mode: the joint law of reveals.

    Raises:
        InfeasibleError: a request that no trip satisfies, with the reason.
    """
    budget = min(budget, rules.max_hops) if rules.max_hops else budget
    origin = np.asarray(origin, np.int64)
    keys: dict[tuple[object, ...], int] = {}
    group, goals = np.empty(len(origin), np.int64), []
    graph = _graph(fields, origin, targets, rules)
    start = np.array([graph.enter(int(o)) for o in origin])
    for row, (o, s, target) in enumerate(zip(origin, start, targets, strict=True)):
        key = (target, int(o) if np.isfinite(detour) else -1)
        if key not in keys:
            keys[key] = len(goals)
            goals.append(graph.field(fields, int(o), int(s), target, rules, budget, detour))
        group[row] = keys[key]
        if goals[group[row]].hops[s] > budget:
            _explain(fields, int(o), target, rules, budget)
    law = Law(graph.graph, start, np.stack([g.hops for g in goals]), group, mode=mode)
    return TripLaw(law, goals, group, budget)


@dataclass(eq=False)
class _Product:
    """Roads x visits x counters, restricted to a cone where there are counters.

    Args:
        graph: the product.
        cone: int64 [n], segments of the cone.
        sets: the visit list in cone numbers.
        stages, lows: number of visit stages; for each counter the count from which a trip may end.
    """

    graph: StateGraph
    cone: np.ndarray
    base: StateGraph
    sets: list[np.ndarray]
    lows: list[tuple[int, int]]

    def number(self, segment: int) -> int:
        """Return a segment's number in the cone."""
        at = int(np.searchsorted(self.cone, segment))
        return at if at < len(self.cone) and self.cone[at] == segment else -1

    def enter(self, origin: int) -> int:
        """Return the start state of a trip from `origin` (state 0 stands for an origin outside the cone)."""
        here = self.number(origin)
        return self.base.stage(here, self.sets) if here >= 0 else 0

    def accept(self, target: tuple[int, ...]) -> np.ndarray:
        """Return the accepting states of a destination."""
        here = np.array([n for n in (self.number(t) for t in target) if n >= 0], np.int64)
        states, per = here + len(self.sets) * self.base.states, self.base.states * (len(self.sets) + 1)
        for low, size in self.lows:
            states = (np.arange(low, size + 1)[:, None] * per + states).reshape(-1)
            per *= size + 1
        return states

    def field(
        self, fields: Fields, origin: int, start: int, target: tuple[int, ...], rules: Rules, budget: int, detour: float
    ) -> Field:
        """Return the to-go tables of a destination, from the cache where the roads are all there is to the law."""
        if self.graph is fields.roads and rules.closed is None and len(target) == 1:
            return fields.to(target[0], origin, detour)
        aims = [np.array(v) for v in rules.via] + [np.array(target)]
        xy = np.stack([fields.network.end[a].mean(0) for a in aims])
        limit = np.inf if rules.counted else detour
        return fields.explore(self.graph, self.accept(target), rules.closed, xy, start, limit, per_stage=self.base.states)


def _graph(fields: Fields, origin: np.ndarray, targets: Sequence[tuple[int, ...]], rules: Rules) -> _Product:
    roads, lows = fields.roads, []
    cone = np.arange(roads.states)
    base = roads
    if rules.counted:
        inside = _cone(fields, origin, targets, rules)
        base, cone = roads.induced(inside)
    number = {int(s): i for i, s in enumerate(cone)} if rules.via else {}
    sets = [np.array([number[s] for s in v if s in number], np.int64) for v in rules.via]
    graph = base.visits(sets) if sets else base
    for field_name, unit, high, low in (
        ("km", np.ceil, rules.max_km, 0.0), ("km", np.floor, 0.0, rules.min_km), ("hops", np.ceil, 0.0, rules.min_hops)
    ):  # fmt: skip
        if not (high or low):
            continue
        cost = np.ones(graph.states, np.int64)
        size = int(low)
        if field_name == "km":
            cost = unit(fields.network.length[graph.labels] / METRES - 1e-9).astype(np.int64)
            size = int(np.floor(1000 * high / METRES)) if high else int(np.ceil(1000 * low / METRES))
        graph = graph.counted(cost, size, saturate=not high)
        lows.append((0 if high else size, size))
    return _Product(graph, cone, base, sets, lows)


def _cone(fields: Fields, origin: np.ndarray, targets: Sequence[tuple[int, ...]], rules: Rules) -> np.ndarray:
    """Segments that a trip within the upper limit on kilometres can use (all of them without one), bool [N]."""
    from scipy.sparse.csgraph import dijkstra

    net = fields.network
    if not rules.max_km:
        return np.ones(net.n, bool) if rules.closed is None else ~rules.closed
    limit = 1000.0 * rules.max_km
    out = np.zeros(net.n, bool)
    matrix = net.adjacency(rules.closed).astype(np.float64)
    matrix.data = net.length[matrix.indices].astype(np.float64)
    reverse = matrix.T.tocsr()
    for o, target in {(int(o), t) for o, t in zip(origin, targets, strict=True)}:
        ahead = dijkstra(matrix, indices=o, limit=limit)
        behind = dijkstra(reverse, indices=list(target), limit=limit).min(0)
        out |= ahead + behind <= limit + 1e-6
        if not np.isfinite(behind[o]) and not rules.via:
            _explain(fields, o, target, rules, 10**9)
    return out


def _explain(fields: Fields, origin: int, target: tuple[int, ...], rules: Rules, budget: int) -> None:
    """Raise InfeasibleError with the shortest reason why no trip exists."""
    name = "destination"
    closed = rules.closed if rules.closed is not None else np.zeros(fields.network.n, bool)
    if closed[origin]:
        raise InfeasibleError("the origin segment is closed", field="origin", value=origin)
    legs = [*rules.via, target]
    here: tuple[int, ...] = (origin,)
    hops = 0
    for index, leg in enumerate(legs):
        name = "destination" if index == len(legs) - 1 else f"via[{index}]"
        if closed[list(leg)].all():
            raise InfeasibleError("the segment is closed", field=name, value=leg[0])
        togo = fields.roads.togo(np.array(leg), closed)[list(here)].min()
        if togo >= UNREACHABLE:
            free = fields.roads.togo(np.array(leg))[list(here)].min() < UNREACHABLE
            why = "the closed segments cut it off" if free else "no road leads there"
            raise InfeasibleError(f"cannot be reached from segment {here[0]}: {why}", field=name, value=leg[0])
        hops, here = hops + int(togo), leg
    if hops > budget:
        raise InfeasibleError(f"needs at least {hops} segments", field="max_hops", value=budget, hint=f"allow {hops} or more")
    if rules.max_km:
        shortest = _kilometres(fields.network, origin, target, rules)
        raise InfeasibleError(
            f"the shortest admissible trip is {shortest:.2f} km", field="max_km", value=rules.max_km
        )
    raise InfeasibleError(
        f"no trip to segment {target[0]} satisfies all rules within {budget} segments", field="min_km or min_hops"
    )


def _kilometres(network: RoadNetwork, origin: int, target: tuple[int, ...], rules: Rules) -> float:
    from scipy.sparse.csgraph import dijkstra

    matrix = network.adjacency(rules.closed).astype(np.float64)
    matrix.data = network.length[matrix.indices].astype(np.float64)
    total, here = 0.0, [origin]
    for leg in [*rules.via, target]:
        far = dijkstra(matrix, indices=here).min(0)[list(leg)]
        total, here = total + far.min(), [leg[int(far.argmin())]]
    return total / 1000.0
