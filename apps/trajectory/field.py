"""How far it still is: hops and seconds to a destination, and what a driver sees of the roads ahead.

For a goal the **field** holds, for every state x of the trip's law (a segment, and with via points or counters what has
been visited and spent), the least number of further segments and the least
free-flow seconds from the end of x to the end of the destination. Both come from one sweep each against the arrows
(breadth first, Dijkstra), stopped where the detour would exceed a budget, so that their cost follows the trip, not the
size of the city.

The **view** describes the candidates x of a window that starts after segment s, relative to the trip: hops and
seconds from s, seconds and hops to go, the excess over the fastest way  g(s, x) + tau(x) - tau(s) >= 0,  the position
in the frame that points from s to the destination, the heading relative to it. Nothing in it names a segment, so
what is learned on one city applies to another.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numba import njit

from apps.trajectory.network import RoadNetwork
from core.constrain.graph import StateGraph, hops_to
from core.constrain.trellis import Trellis

__all__ = ["VIEW", "Field", "Fields", "alone", "view"]

SEGMENT_SECONDS = 3.0
"""Seconds lost at each junction, added to the free-flow time of every segment."""

VIEW = 17
"""Number of features of a view."""

CAP = 7200.0
"""Seconds to go beyond which a view no longer distinguishes."""


@dataclass(eq=False)
class Field:
    """To-go tables of one goal over the states of a law.

    Args:
        hops: int32 [S], 2^30 unreachable.
        seconds: float32 [S], inf unreachable.
        xy: float64 [stages, 2], where each stage of the trip is heading, metres.
        per_stage: number of states of a stage (state // per_stage is the stage).
    """

    hops: np.ndarray
    seconds: np.ndarray
    xy: np.ndarray
    per_stage: int


@dataclass(eq=False)
class Fields:
    """Fields of a network, computed once per goal and kept while memory allows.

    Args:
        network: the roads.
        megabytes: memory for kept fields.
    """

    network: RoadNetwork
    megabytes: float = 256.0
    kept: OrderedDict[tuple[object, ...], Field] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        """Store the cost of entering each segment, float32 [N] seconds, and the roads as a law."""
        self.cost = (self.network.travel_time + SEGMENT_SECONDS).astype(np.float32)
        self.roads = StateGraph(self.network.succ_ptr, self.network.succ, self.network.n)

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
        while len(self.kept) > max(64, int(self.megabytes * 1e6 / (8 * self.network.n))):
            self.kept.popitem(last=False)
        return found

    def explore(
        self, law: StateGraph, accept: np.ndarray, closed: np.ndarray | None, xy: np.ndarray,
        origin: int = -1, detour: float = np.inf, slack: float = 300.0, per_stage: int = 0,
    ) -> Field:
        """Return the field of accepting states of any law over the segments (arguments as in `to` and `Field`)."""
        blocked = np.zeros(law.states, np.bool_) if closed is None else np.asarray(closed, np.bool_)[law.labels]
        ptr, pred = law.reverse
        targets = np.asarray(accept, np.int64)
        seconds = _dijkstra(ptr, pred, self.cost[law.labels], targets, blocked, origin, detour, slack)
        hops = hops_to(ptr, pred, targets, ~np.isfinite(seconds))
        return Field(hops, seconds, np.atleast_2d(xy), per_stage or law.states)


@njit(cache=True, nogil=True)
def _dijkstra(pred_ptr, pred, cost, targets, blocked, origin, detour, slack):  # noqa: ANN001, ANN202
    """Least seconds from the end of each segment to the end of a target; inf beyond the budget."""
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
        step = d + cost[x]
        for e in range(pred_ptr[x], pred_ptr[x + 1]):
            p = pred[e]
            if not done[p] and not blocked[p] and step < out[p]:
                out[p] = step
                heapq.heappush(heap, (step, np.int64(p)))
    for x in range(n):
        if not done[x]:
            out[x] = np.inf
    return out


@njit(cache=True, nogil=True)
def _ahead(layer, state, token, edge_ptr, edge, segment, cost, k, seconds, hops, group):  # noqa: ANN001, ANN202
    """Per local token: first layer, least seconds from the window's start, and seconds and hops to go from there."""
    rows, length = layer.shape[0], layer.shape[1] - 2
    first = np.zeros((rows, k), np.int64)
    ahead = np.full((rows, k), np.inf, np.float32)
    togo, left = np.full((rows, k), np.inf, np.float32), np.full((rows, k), 2**30, np.int64)
    for b in range(rows):
        base, total = layer[b, 0], layer[b, length + 1] - layer[b, 0]
        g = np.full(total, np.inf, np.float32)
        g[0] = 0.0
        for i in range(length):
            for n in range(layer[b, i], layer[b, i + 1]):
                for e in range(edge_ptr[n], edge_ptr[n + 1]):
                    d = edge[e]
                    enter = g[n - base]
                    if state[d] != state[n]:
                        enter += cost[segment[state[d]]]
                    g[d - base] = min(g[d - base], enter)
                    v = token[d]
                    if first[b, v] == 0:
                        first[b, v] = i + 1
                    rest = seconds[group[b], state[d]]
                    if enter + rest < ahead[b, v] + togo[b, v]:
                        ahead[b, v], togo[b, v], left[b, v] = enter, rest, hops[group[b], state[d]]
    return first, ahead, togo, left


def view(
    fields: Fields, trellis: Trellis, segment: np.ndarray, start: np.ndarray, goals: list[Field], group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Describe the candidates of a window.

    Args:
        fields: the network's fields.
        trellis: the window, B rows over a local alphabet of segments.
        segment: int [S], segment of each state of the law.
        start: int64 [B], state before the window.
        goals: G fields.
        group: int64 [B], the goal of each row.

    Returns:
        (level int64 [B, K] hops from the start, view float32 [B, K, VIEW]); padding is zero.
    """
    alphabet = trellis.alphabet
    seconds, hops = np.stack([g.seconds for g in goals]), np.stack([g.hops for g in goals])
    level, ahead, togo, left = _ahead(
        trellis.layer, trellis.state, trellis.token, trellis.edge_ptr, trellis.edge, segment, fields.cost,
        alphabet.shape[1], seconds, hops, group,
    )
    row, col = np.nonzero(alphabet >= 0)
    aim = np.stack([goals[g].xy[min(s // goals[g].per_stage, len(goals[g].xy) - 1)] for g, s in zip(group, start, strict=True)])
    out = np.zeros((*alphabet.shape, VIEW), np.float32)
    out[row, col] = _describe(
        fields.network, alphabet[row, col], segment[start][row], aim[row],
        ahead[row, col], togo[row, col], left[row, col], seconds[group, start][row],
    )
    return level, out


def alone(fields: Fields, segment: np.ndarray, start: np.ndarray, goals: list[Field], group: np.ndarray) -> np.ndarray:
    """View of the origins (law states `start` [B] on `segment` [S]) seen from themselves, float32 [B, VIEW]."""
    zero = np.zeros(len(start), np.float32)
    tau = np.array([goals[g].seconds[s] for g, s in zip(group, start, strict=True)])
    left = np.array([goals[g].hops[s] for g, s in zip(group, start, strict=True)])
    aim = np.stack([goals[g].xy[min(s // goals[g].per_stage, len(goals[g].xy) - 1)] for g, s in zip(group, start, strict=True)])
    x = segment[start]
    return _describe(fields.network, x, x, aim, zero, tau, left, tau)


def _describe(
    net: RoadNetwork, x: np.ndarray, s: np.ndarray, xy: np.ndarray, ahead: np.ndarray, tau: np.ndarray,
    hops: np.ndarray, tau_s: np.ndarray,
) -> np.ndarray:
    """View of segments x [C] from segments s [C], heading to xy [C, 2]; times in seconds."""
    tau, tau_s, hops = np.minimum(tau, CAP), np.minimum(tau_s, CAP), np.minimum(hops, 1000)
    excess = np.maximum(ahead + tau - tau_s, 0.0)
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
        ],
        1,
    ).astype(np.float32)  # fmt: skip
