"""How far it still is: hops and seconds to a destination, and what a driver sees of the roads ahead.

For a destination set the **field** holds, for every segment x, the least number of further segments and the least
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
from core.constrain.graph import hops_to
from core.constrain.trellis import Trellis

__all__ = ["VIEW", "Field", "Fields", "Goal", "alone", "view"]

SEGMENT_SECONDS = 3.0
"""Seconds lost at each junction, added to the free-flow time of every segment."""

VIEW = 17
"""Number of features of a view."""

CAP = 7200.0
"""Seconds to go beyond which a view no longer distinguishes."""


@dataclass(frozen=True)
class Goal:
    """Where a trip must end and what it may not use.

    Args:
        targets: accepting segments, ascending.
        closed: bool [N] segments that may not be entered, or None.
    """

    targets: tuple[int, ...]
    closed: np.ndarray | None = None

    def key(self) -> tuple[object, ...]:
        """Return what tells two goals apart."""
        return self.targets, None if self.closed is None else self.closed.tobytes()


@dataclass(eq=False)
class Field:
    """To-go tables of one goal: hops int32 [N] (2^30 unreachable), seconds float32 [N] (inf unreachable)."""

    hops: np.ndarray
    seconds: np.ndarray
    xy: np.ndarray


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
        """Store the cost of entering each segment, float32 [N] seconds."""
        self.cost = (self.network.travel_time + SEGMENT_SECONDS).astype(np.float32)

    def to(self, goal: Goal, origin: int = -1, detour: float = np.inf, slack: float = 300.0) -> Field:
        """Return the field of a goal.

        Args:
            goal: destination and closures.
            origin: the trip's first segment, -1 for none.
            detour: seconds to go are explored up to `detour * tau(origin) + slack`; segments beyond are
                unreachable. Infinite: the whole network.
            slack: seconds.
        """
        key = (*goal.key(), origin if np.isfinite(detour) else -1, detour)
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        n = self.network.n
        blocked = np.zeros(n, np.bool_) if goal.closed is None else goal.closed
        targets = np.array(goal.targets, np.int64)
        ptr, pred = self.network.pred_ptr, self.network.pred
        seconds = _dijkstra(ptr, pred, self.cost, targets, blocked, origin, detour, slack)
        hops = hops_to(ptr, pred, targets, ~np.isfinite(seconds))
        found = Field(hops, seconds, self.network.end[targets].mean(0))
        self.kept[key] = found
        while len(self.kept) > max(64, int(self.megabytes * 1e6 / (8 * n))):
            self.kept.popitem(last=False)
        return found


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
def _ahead(layer, state, token, edge_ptr, edge, segment, cost, k):  # noqa: ANN001, ANN202
    """First layer and least seconds at which each local token is reached from the window's start, [B, K] each."""
    rows, length = layer.shape[0], layer.shape[1] - 2
    first = np.zeros((rows, k), np.int64)
    least = np.full((rows, k), np.inf, np.float32)
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
                    least[b, v] = min(least[b, v], enter)
    return first, least


def view(
    fields: Fields, trellis: Trellis, segment: np.ndarray, start: np.ndarray, goals: list[Field]
) -> tuple[np.ndarray, np.ndarray]:
    """Describe the candidates of a window.

    Args:
        fields: the network's fields.
        trellis: the window, B rows over a local alphabet of segments.
        segment: int [S], segment of each state of the law.
        start: int64 [B], segment before the window.
        goals: the field of each row.

    Returns:
        (level int64 [B, K] hops from the start, view float32 [B, K, VIEW]); padding is zero.
    """
    alphabet = trellis.alphabet
    level, ahead = _ahead(
        trellis.layer, trellis.state, trellis.token, trellis.edge_ptr, trellis.edge, segment, fields.cost,
        alphabet.shape[1],
    )
    row, col = np.nonzero(alphabet >= 0)
    x = alphabet[row, col]
    out = np.zeros((*alphabet.shape, VIEW), np.float32)
    out[row, col] = _describe(fields, x, row, start, goals, ahead[row, col])
    return level, out


def _describe(
    fields: Fields, x: np.ndarray, row: np.ndarray, start: np.ndarray, goals: list[Field], ahead: np.ndarray
) -> np.ndarray:
    """View of candidates x [C] of rows `row` [C]."""
    net = fields.network
    s, xy = start[row], np.stack([g.xy for g in goals])[row]
    bounds = np.flatnonzero(np.diff(row, prepend=-1))
    stops = np.append(bounds[1:], len(row))
    tau, hops = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
    tau_s = np.empty(len(x), np.float32)
    for a, b in zip(bounds, stops, strict=True):
        goal = goals[row[a]]
        tau[a:b], hops[a:b], tau_s[a:b] = goal.seconds[x[a:b]], goal.hops[x[a:b]], goal.seconds[s[a]]
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


def alone(fields: Fields, segment: np.ndarray, goals: list[Field]) -> np.ndarray:
    """View of segments seen from themselves (the origin, before the first window), float32 [B, VIEW]."""
    rows = np.arange(len(segment))
    return _describe(fields, segment, rows, segment, goals, np.zeros(len(segment), np.float32))
