"""How far it still is: hops, seconds and surprise to a destination, and what a driver sees of the roads ahead.

For a goal the **field** holds, for every state x of the trip's law (a segment, and with via points or counters what
has been visited and spent), what lies between the end of x and the end of the destination: the least number of
segments, the least free-flow seconds tau, and the least **surprise**, a path cost of  -log P(k | a)  under the
first-order chain counted on trips seen before (the *experience*; without any, all successors are equally likely).
Each comes from one sweep against the arrows (breadth first, Dijkstra), stopped where the detour would exceed a budget,
so that their cost follows the trip, not the size of the city.

The **view** describes the candidates x of a window that starts after segment s, relative to the trip: hops, seconds
and surprise from s and to go, the excess over the best way  g(s, x) + tau(x) - tau(s) >= 0  in either cost, the
position in the frame that points from s to the destination, the heading relative to it, how often x was driven, and
whether anything ever was.
Nothing in it names a segment, so what is learned on one city applies to another.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from apps.trajectory.network import RoadNetwork
from apps.trajectory.prior import RoutePrior
from apps.trajectory.traffic import PERIODS
from core.constrain.graph import StateGraph, hops_to
from core.constrain.trellis import Trellis
from core.jit import jit

__all__ = ["VIEW", "Field", "Fields", "Goals", "alone", "view"]

SEGMENT_SECONDS = 3.0
"""Seconds lost at each junction, added to the free-flow time of every segment."""

KAPPA, FLOOR = 2.0, 0.02
"""Weight of the uniform prior in the chain of experience, in observations, and the least surprise of a transition."""

VIEW = 23
"""Number of features of a view."""

CAP = 7200.0
"""Seconds to go beyond which a view no longer distinguishes."""


@dataclass(eq=False)
class Field:
    """To-go tables of one goal over the states of a law.

    Args:
        hops: int32 [S], 2^30 unreachable.
        seconds, surprise: float32 [S], inf unreachable.
        target: a destination segment.
        value: float32 [periods, S], minus the least cost to go under the prior where the law is more than the open
            roads to one segment (there the prior's own value holds); None without.
        xy: float64 [stages, 2], where each stage of the trip is heading, metres.
        per_stage: number of states of a stage (state // per_stage is the stage).
    """

    hops: np.ndarray
    seconds: np.ndarray
    surprise: np.ndarray
    xy: np.ndarray
    per_stage: int
    target: int = -1
    value: np.ndarray | None = None


@dataclass(eq=False)
class Goals:
    """The fields of a batch's goals, `each`, and their tables stacked once: hops, seconds, surprise [G, S]."""

    each: list[Field]

    @cached_property
    def hops(self) -> np.ndarray:
        """int32 [G, S]."""
        return np.stack([g.hops for g in self.each])

    @cached_property
    def seconds(self) -> np.ndarray:
        """float32 [G, S]."""
        return np.stack([g.seconds for g in self.each])

    @cached_property
    def surprise(self) -> np.ndarray:
        """float32 [G, S]."""
        return np.stack([g.surprise for g in self.each])


@dataclass(eq=False)
class Fields:
    """Fields of a network, computed once per goal and kept while memory allows.

    Args:
        network: the roads.
        experience: float [M], how often each transition was driven by trips seen before; None for no experience.
        megabytes: memory for kept fields.
        prior: a calibrated route choice model, a third reference chain, or None.
    """

    network: RoadNetwork
    experience: np.ndarray | None = None
    megabytes: float = 256.0
    prior: RoutePrior | None = None
    kept: OrderedDict[tuple[object, ...], Field] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        """Store the cost of entering a segment [N] seconds and [M] surprise, and the roads as a law."""
        net = self.network
        self.cost = (net.travel_time + SEGMENT_SECONDS).astype(np.float32)
        counts = np.zeros(net.m) if self.experience is None else np.asarray(self.experience, np.float64)
        choices, left = np.diff(net.succ_ptr)[net.source], np.bincount(net.source, counts, minlength=net.n)[net.source]
        self.price = (FLOOR - np.log((counts + KAPPA / choices) / (left + KAPPA))).astype(np.float32)
        self.familiar = bool(counts.any())
        self.driven = np.log1p(np.bincount(net.succ, counts, minlength=net.n)).astype(np.float32)
        self.roads = StateGraph(net.succ_ptr, net.succ, net.n)

    def to(self, target: int, origin: int = -1, detour: float = np.inf, slack: float = 300.0) -> Field:
        """Return the field of a destination segment on the open roads.

        Args:
            target: destination segment.
            origin: the trip's first segment, -1 for none.
            detour: states are explored up to `detour * seconds(origin) + slack` seconds to go; what lies beyond is
                unreachable. Infinite: the whole network.
            slack: seconds.
        """
        key = (target, origin if np.isfinite(detour) else -1, detour)
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        found = self.explore(self.roads, np.array([target]), None, self.network.end[[target]], origin, detour, slack)
        self.kept[key] = found
        while len(self.kept) > max(64, int(self.megabytes * 1e6 / (12 * self.network.n))):
            self.kept.popitem(last=False)
        return found

    def explore(
        self,
        law: StateGraph,
        accept: np.ndarray,
        closed: np.ndarray | None,
        xy: np.ndarray,
        origin: int = -1,
        detour: float = np.inf,
        slack: float = 300.0,
        per_stage: int = 0,
    ) -> Field:
        """Return the field of accepting states of any law over the segments (arguments as in `to` and `Field`)."""
        blocked = np.zeros(law.states, np.bool_) if closed is None else np.asarray(closed, np.bool_)[law.labels]
        ptr, pred = law.reverse
        targets = np.asarray(accept, np.int64)
        into = np.repeat(law.labels, np.diff(ptr))
        seconds = _dijkstra(ptr, pred, self.cost[into], targets, blocked, origin, detour, slack)
        far = ~np.isfinite(seconds)
        step = self.network.pred_transition if law is self.roads else self.network.transition(law.labels[pred], into)
        surprise = _dijkstra(ptr, pred, self.price[step], targets, far, -1, np.inf, 0.0)
        hops, first = hops_to(ptr, pred, targets, far), int(law.labels[targets[0]])
        found = Field(hops, seconds, surprise, np.atleast_2d(xy), per_stage or law.states, first)
        if self.prior is not None and not (law is self.roads and closed is None and len(targets) == 1):
            costs = [(-self.prior.utility(when)[step]).astype(np.float32) for when in range(len(PERIODS))]
            found.value = np.stack([-_dijkstra(ptr, pred, c, targets, far, -1, np.inf, 0.0) for c in costs])
        return found


@jit
def _dijkstra(pred_ptr, pred, cost, targets, blocked, origin, detour, slack):
    """Least cost from each state to a target, `cost` [M] along `pred`; inf beyond the budget."""
    n = len(pred_ptr) - 1
    out = np.full(n, np.inf, np.float32)
    done = np.zeros(n, np.bool_)
    heap = [(np.float32(0.0), np.int64(t)) for t in targets if not blocked[t]]
    for _, t in heap:
        out[t] = 0.0
    heapq.heapify(heap)
    limit = np.float32(np.inf)
    while len(heap) > 0:
        d, x = heapq.heappop(heap)
        if done[x]:
            continue
        if d > limit:
            break
        done[x] = True
        if x == origin:
            limit = np.float32(detour * d + slack)
        for e in range(pred_ptr[x], pred_ptr[x + 1]):
            p, step = pred[e], d + cost[e]
            if not done[p] and not blocked[p] and step < out[p]:
                out[p] = step
                heapq.heappush(heap, (step, np.int64(p)))
    for x in range(n):
        if not done[x]:
            out[x] = np.inf
    return out


@jit
def _price(a, k, succ_ptr, succ, price):
    """Surprise of the transition from segment a to segment k."""
    for e in range(succ_ptr[a], succ_ptr[a + 1]):
        if succ[e] == k:
            return price[e]
    return np.float32(0.0)


@jit
def _ahead(layer, state, token, edge_ptr, edge, segment, group, k, roads, price, cost, seconds, surprise, hops):
    """Per local token: first layer; least seconds, surprise, hops from the start and to go, float32 [B, K, 5]."""
    rows, length = layer.shape[0], layer.shape[1] - 2
    first = np.zeros((rows, k), np.int64)
    out = np.full((rows, k, 5), np.inf, np.float32)
    for b in range(rows):
        base, total, goal = layer[b, 0], layer[b, length + 1] - layer[b, 0], group[b]
        g, w = np.full(total, np.inf, np.float32), np.full(total, np.inf, np.float32)
        g[0], w[0] = 0.0, 0.0
        for i in range(length):
            for n in range(layer[b, i], layer[b, i + 1]):
                for e in range(edge_ptr[n], edge_ptr[n + 1]):
                    d = edge[e]
                    enter, odd = g[n - base], w[n - base]
                    if state[d] != state[n]:
                        x = segment[state[d]]
                        enter += cost[x]
                        odd += _price(segment[state[n]], x, roads[0], roads[1], price)
                    g[d - base], w[d - base] = min(g[d - base], enter), min(w[d - base], odd)
                    v = token[d]
                    if first[b, v] == 0:
                        first[b, v] = i + 1
                    if enter + seconds[goal, state[d]] < out[b, v, 0] + out[b, v, 1]:
                        out[b, v, 0], out[b, v, 1], out[b, v, 4] = enter, seconds[goal, state[d]], hops[goal, state[d]]
                    if odd + surprise[goal, state[d]] < out[b, v, 2] + out[b, v, 3]:
                        out[b, v, 2], out[b, v, 3] = odd, surprise[goal, state[d]]
    return first, out


def view(
    fields: Fields, trellis: Trellis, segment: np.ndarray, start: np.ndarray, goals: Goals, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Describe the candidates of a window.

    Args:
        fields: the network's fields.
        trellis: the window, B rows over a local alphabet of segments.
        segment: int [S], segment of each state of the law.
        start: int64 [B], state before the window.
        goals: the G goals.
        group: int64 [B], the goal of each row.

    Returns:
        (level int64 [B, K] hops from the start, view float32 [B, K, VIEW]); padding is zero.
    """
    alphabet, net = trellis.alphabet, fields.network
    seconds, surprise = goals.seconds, goals.surprise
    level, costs = _ahead(
        trellis.layer,
        trellis.state,
        trellis.token,
        trellis.edge_ptr,
        trellis.edge,
        segment,
        group,
        alphabet.shape[1],
        (net.succ_ptr, net.succ),
        fields.price,
        fields.cost,
        seconds,
        surprise,
        goals.hops,
    )
    row, col = np.nonzero(alphabet >= 0)
    out = np.zeros((*alphabet.shape, VIEW), np.float32)
    out[row, col] = _describe(
        fields,
        alphabet[row, col],
        segment[start][row],
        _aim(goals, group, start)[row],
        costs[row, col],
        seconds[group, start][row],
        surprise[group, start][row],
    )
    return level, out


def _aim(goals: Goals, group: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Where each row is heading, metres [B, 2]."""
    at = [(goals.each[g].xy, s // goals.each[g].per_stage) for g, s in zip(group, start, strict=True)]
    return np.stack([xy[min(stage, len(xy) - 1)] for xy, stage in at])


def alone(fields: Fields, segment: np.ndarray, start: np.ndarray, goals: Goals, group: np.ndarray) -> np.ndarray:
    """View of the origins (law states `start` [B] on `segment` [S]) seen from themselves, float32 [B, VIEW]."""
    pairs = list(zip((goals.each[g] for g in group), start, strict=True))
    tau, odd, left = (np.array([getattr(g, name)[s] for g, s in pairs]) for name in ("seconds", "surprise", "hops"))
    zero = np.zeros(len(start))
    costs = np.stack([zero, tau, zero, odd, left], 1)
    x = segment[start]
    return _describe(fields, x, x, _aim(goals, group, start), costs, tau, odd)


def _describe(
    fields: Fields,
    x: np.ndarray,
    s: np.ndarray,
    xy: np.ndarray,
    costs: np.ndarray,
    tau_s: np.ndarray,
    odd_s: np.ndarray,
) -> np.ndarray:
    """View of segments x [C] from segments s [C], heading to xy [C, 2].

    `costs` [C, 5]: seconds ahead and to go, surprise ahead and to go, hops to go; `tau_s`, `odd_s` those to go from s.
    """
    net = fields.network
    caps = np.array([CAP, CAP, 200.0, 200.0, 1000.0])
    ahead, tau, seen, odd, hops = np.minimum(costs, caps).T
    tau_s, odd_s = np.minimum(tau_s, CAP), np.minimum(odd_s, 200.0)
    excess, rare = np.maximum(ahead + tau - tau_s, 0.0), np.maximum(seen + odd - odd_s, 0.0)
    to_goal, here = xy - net.end[s], net.end[x] - net.end[s]
    span = np.maximum(np.hypot(*to_goal.T), 1.0)
    unit = to_goal / span[:, None]
    left = np.stack([-unit[:, 1], unit[:, 0]], 1)
    rest = xy - net.end[x]
    bearing = np.arctan2(rest[:, 1], rest[:, 0])
    off, turn = net.heading_out[x] - bearing, net.heading_in[x] - net.heading_out[s]
    return np.stack(
        [
            np.log1p(ahead / 30), np.log1p(tau / 60), np.log1p(hops / 4), np.log1p(excess / 10), excess / 60,
            np.clip((tau_s - tau) / 120, -4, 4), np.log1p(tau_s / 60), np.log(span / 1000),
            np.arcsinh((here * unit).sum(1) / 200), np.arcsinh((here * left).sum(1) / 200),
            np.log1p(np.hypot(*rest.T) / 500), np.cos(off), np.sin(off), np.cos(turn), np.sin(turn),
            (hops == 0).astype(float), (excess < 1.0).astype(float),
            np.log1p(seen), np.log1p(odd), np.log1p(rare), np.minimum(rare, 20.0) / 4, fields.driven[x] / 2,
            np.full(len(x), float(fields.familiar)),
        ],
        1,
    ).astype(np.float32)  # fmt: skip
