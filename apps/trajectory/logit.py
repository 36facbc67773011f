"""Recursive logit: route choice with a known law, and trips drawn from it.

A traveller on segment a towards destination d chooses the next segment k with probability proportional to
`exp(v(k | a) + V_d(k))`, where `v <= 0` is the utility of the step and `V_d` the value of what remains. With
`z = exp V_d` and the matrix `M[a, k] = exp v(k | a)` on the transitions of the network,

    z_a = sum_k M[a, k] z_k   (a != d),    z_d = 1,                          (the destination absorbs)
    P(k | a) = M[a, k] z_k / z_a,
    P(path | o, d) = exp(sum of v along the path) / z_o.

So a path is a draw from a Boltzmann law over ALL walks from o to the first arrival at d, and z_o is its partition
function. Since `(I - M) G = I` gives `z = G[:, d] / G[d, d]`, ONE sparse factorisation of `I - M` serves every
destination. `I - M` is an M-matrix and is factorised with pivots on its diagonal: all the terms added have one sign, so
that the smallest values keep their relative accuracy. The entropy needs no other matrix: with
`w = (M * v) z` off d, `y = (I - M_d)^-1 w = G w - z (G w)_d`, and `H(path | o, d) = log z_o - y_o / z_o`.

`v` is linear in few parameters: minutes of travel (which depend on the departure), a constant per segment, turns, and
the rank of the road. It must be costly enough that walks are summable: spectral radius of M below 1.

Reference: Fosgerau, Frejinger, Karlstrom (2013), A link based network route choice model with unrestricted choice
set, Transportation Research B 56, equations 4 to 10.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import SuperLU, splu
from scipy.spatial import KDTree

from apps.trajectory.data import Trips
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork
from apps.trajectory.traffic import PERIODS, Traffic, noise, normal, period, segment_time
from core.errors import InfeasibleError, UsageError

__all__ = ["FEATURES", "Parameters", "RecursiveLogit", "features", "simulate"]

FEATURES: tuple[str, ...] = ("minutes", "segment", "left", "right", "double_back", "local", "express")
_LOCAL = np.array([c in ("unclassified", "residential", "living_street", "service", "other") for c in ROAD_CLASSES])
_EXPRESS = np.array([c.removesuffix("_link") in ("motorway", "trunk") for c in ROAD_CLASSES])
_TINY = 1e-290
_MONDAY = 1372636800.0  # 2013-07-01 00:00 UTC, the first day of the Porto trips


@dataclass(frozen=True)
class Parameters:
    """Utilities (dimensionless) of a step a -> k, and the law of travel times.

    Args:
        minutes: per minute of travel on k.
        segment: of every segment.
        left, right, double_back: of a change of heading beyond 40 degrees to a side, beyond 150 degrees.
        local, express: per segment k that is a local street; a motorway or trunk road.
        traffic: travel times.
    """

    minutes: float = -4.0
    segment: float = -0.9
    left: float = -0.8
    right: float = -0.5
    double_back: float = -3.0
    local: float = -0.2
    express: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)

    def vector(self) -> np.ndarray:
        """[J] the utilities in the order of `FEATURES`."""
        return np.array([getattr(self, f) for f in FEATURES], dtype=np.float64)


def features(network: RoadNetwork, traffic: Traffic, when: int) -> np.ndarray:
    """Return [M, J] what a step brings, in the order of `FEATURES`, for one period."""
    k, turn = network.succ, np.rad2deg(network.turn)
    back = abs(turn) > 150.0
    road = network.road_class[k]
    minutes = segment_time(network, traffic, when)[k] / 60.0
    sides = ((turn > 40) & ~back, (turn < -40) & ~back, back)
    columns = (minutes, np.ones(network.m), *sides, _LOCAL[road], _EXPRESS[road])
    return np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)


class Period:
    """The law in one period of the day: utilities, M, and the factorisation of I - M.

    Args:
        network: the roads.
        utility: [M] v of each transition.

    Raises:
        UsageError: the walks cannot be summed (spectral radius of M not below 1).
    """

    def __init__(self, network: RoadNetwork, utility: np.ndarray) -> None:
        self.network, self.utility, self.weight = network, utility, np.exp(utility)

    @cached_property
    def lu(self) -> SuperLU:
        """The factorisation of I - M."""
        n = self.network.n
        m = sp.csr_matrix((self.weight, self.network.succ, self.network.succ_ptr), shape=(n, n))
        system = (sp.identity(n, format="csc") - m.tocsc()).tocsc()
        try:
            lu = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
            visits = lu.solve(np.ones(n))
        except RuntimeError:
            visits = np.zeros(n)
        if not (visits >= 1.0 - 1e-9).all():  # (I - M) x = 1 has a positive solution if and only if the radius is < 1
            raise UsageError(
                "steps cost too little: the sum over all walks diverges (spectral radius of exp(v) is not below 1)",
                field="parameters.segment",
                hint="make `segment` or `minutes` more negative",
            )
        return lu

    def values(self, destination: np.ndarray) -> np.ndarray:
        """Return z [N, D] of D destinations; 0 where z is too small for a double."""
        d = np.asarray(destination)
        unit = np.zeros((self.network.n, len(d)))
        unit[d, np.arange(len(d))] = 1.0
        z = self.lu.solve(unit)
        z /= z[d, np.arange(len(d))]
        z[z < _TINY] = 0.0
        return z

    def partition(self, destination: int, per_step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return z [N] and the sums [N, J] over all paths to d of exp(utility) * (sum of `per_step` [M, J])."""
        net = self.network
        z = self.values(np.array([destination]))[:, 0]
        flow = (self.weight * z[net.succ])[:, None] * per_step
        w = np.stack([np.bincount(net.source, column, minlength=net.n) for column in flow.T], axis=1)
        w[destination] = 0.0
        g = self.lu.solve(w)
        return z, g - z[:, None] * g[destination]


class RecursiveLogit:
    """The law of paths between two segments of a network.

    Args:
        network: the roads.
        parameters: the utilities.
    """

    def __init__(self, network: RoadNetwork, parameters: Parameters | None = None) -> None:
        self.network = network
        self.parameters = parameters or Parameters()
        self._periods: dict[int, Period] = {}

    def at(self, when: int) -> Period:
        """Return the law of one period (an index into `PERIODS`), factorised once."""
        if when not in self._periods:
            theta = self.parameters
            self._periods[when] = Period(self.network, features(self.network, theta.traffic, when) @ theta.vector())
        return self._periods[when]

    def _reach(self, origin: int, destination: int, depart: float) -> tuple[Period, np.ndarray]:
        law = self.at(int(period(np.array(depart))))
        if origin == destination:
            raise InfeasibleError("origin and destination are the same segment", field="destination", value=destination)
        z = law.values(np.array([destination]))[:, 0]
        if z[origin] == 0.0:
            raise InfeasibleError(
                "no path of representable probability from the origin",
                field="destination",
                value=destination,
                hint="it is cut off, or so far that exp(utility) underflows: choose utilities nearer to zero",
            )
        return law, z

    def choices(self, destination: int, depart: float = np.nan) -> np.ndarray:
        """Return [M] P(k | a) of each transition towards a destination (0 in the row of the destination)."""
        law = self.at(int(period(np.array(depart))))
        z, net = law.values(np.array([destination]))[:, 0], self.network
        here = z[net.source]
        p = np.divide(law.weight * z[net.succ], here, out=np.zeros(net.m), where=here > 0)
        return np.where(net.source == destination, 0.0, p)

    def log_prob(self, path: np.ndarray, depart: float = np.nan) -> float:
        """Return the exact log P(path | its first segment, its last segment), -inf where it is no path.

        Raises:
            InfeasibleError: origin and destination coincide or are not connected.
        """
        s = np.asarray(path, dtype=np.int64)
        law, z = self._reach(int(s[0]), int(s[-1]), depart)
        step = self.network.transition(s[:-1], s[1:])
        if (step < 0).any() or (s[:-1] == s[-1]).any():
            return -np.inf
        return float(law.utility[step].sum() - np.log(z[s[0]]))

    def log_probs(self, trips: Trips) -> np.ndarray:
        """Return [n] log_prob of each trip, grouped by destination (-inf where a trip is no path of the law)."""
        net, out = self.network, np.full(len(trips), -np.inf)
        when, o, d = period(trips.depart), trips.origin, trips.destination
        inner = np.ones(len(trips.segment), dtype=bool)
        inner[trips.ptr[1:] - 1] = False
        at = np.flatnonzero(inner)
        step, owner = net.transition(trips.segment[at], trips.segment[at + 1]), trips.owner[at]
        bad = np.bincount(owner, (step < 0) | (trips.segment[at] == d[owner]), minlength=len(trips)) > 0
        for p, chunk in _batches(when, d):
            law = self.at(p)
            target, column = np.unique(d[chunk], return_inverse=True)
            z = law.values(target)[o[chunk], column]
            with np.errstate(divide="ignore"):
                out[chunk] = -np.log(z)
        for p in np.unique(when):
            mine = (when[owner] == p) & (step >= 0)
            out += np.bincount(owner[mine], self.at(int(p)).utility[step[mine]], minlength=len(trips))
        return np.where(bad | ~np.isfinite(out) | (o == d), -np.inf, out)

    def entropy(self, origin: int, destination: int, depart: float = np.nan) -> float:
        """Return the exact entropy (nats) of the path from one segment to another.

        Raises:
            InfeasibleError: origin and destination coincide or are not connected.
        """
        law, _ = self._reach(origin, destination, depart)
        z, y = law.partition(destination, law.utility[:, None])
        return float(np.log(z[origin]) - y[origin, 0] / z[origin])

    def sample(self, origin: int, destination: int, n: int, seed: int, depart: float = np.nan) -> list[np.ndarray]:
        """Draw n paths from one segment to another.

        Raises:
            InfeasibleError: origin and destination coincide or are not connected.
        """
        self._reach(origin, destination, depart)
        o, d, t = np.full(n, origin), np.full(n, destination), np.full(n, depart)
        return self.walks(o, d, t, seed, np.arange(n))

    def walks(
        self, origin: np.ndarray, destination: np.ndarray, depart: np.ndarray, seed: int, stream: np.ndarray,
        max_hops: int = 1 << 30,
    ) -> list[np.ndarray]:  # fmt: skip
        """Draw one path per row; row i depends on (seed, stream[i]) only, whatever the other rows are.

        A row whose destination has no representable probability, or whose path exceeds `max_hops` segments, comes
        back empty.
        """
        out: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(origin)
        for p, chunk in _batches(period(depart), destination):
            law = self.at(p)
            target, column = np.unique(destination[chunk], return_inverse=True)
            z = law.values(target)
            paths = _walk(law, z, column, origin[chunk], destination[chunk], seed, stream[chunk], max_hops)
            for row, path in zip(chunk, paths, strict=True):
                out[row] = path
        return out


def _batches(when: np.ndarray, destination: np.ndarray, targets: int = 64) -> list[tuple[int, np.ndarray]]:
    """Group rows by period and by at most `targets` destinations."""
    groups = []
    for p in np.unique(when):
        rows = np.flatnonzero(when == p)
        _, rank = np.unique(destination[rows], return_inverse=True)
        groups += [(int(p), rows[rank // targets == g]) for g in range(rank.max() // targets + 1)]
    return groups


def _walk(
    law: Period, z: np.ndarray, column: np.ndarray, origin: np.ndarray, destination: np.ndarray,
    seed: int, stream: np.ndarray, max_hops: int,
) -> list[np.ndarray]:  # fmt: skip
    net = law.network
    degree = np.diff(net.succ_ptr)
    slots = np.arange(degree.max())
    here = np.where((z[origin, column] > 0) & (origin != destination), origin, -1)
    alive = np.flatnonzero(here >= 0)
    trace, rows = [here[alive]], [alive]
    for hop in range(1, max_hops):
        if not len(alive):
            break
        a = here[alive]
        at = np.minimum(net.succ_ptr[a][:, None] + slots, net.m - 1)
        share = np.where(slots < degree[a][:, None], law.weight[at] * z[net.succ[at], column[alive][:, None]], 0.0)
        level = np.cumsum(share, axis=1)
        draw = noise(seed, stream[alive], hop) * level[:, -1]
        pick = (level <= draw[:, None]).sum(axis=1)
        here[alive] = net.succ[net.succ_ptr[a] + pick]
        trace.append(here[alive])
        rows.append(alive)
        alive = alive[here[alive] != destination[alive]]
    owner, flat = np.concatenate(rows), np.concatenate(trace)
    order = np.argsort(owner, kind="stable")
    cuts = np.cumsum(np.bincount(owner, minlength=len(origin)))[:-1]
    paths = np.split(flat[order].astype(np.int64), cuts)
    unfinished = set(alive.tolist())
    return [path[:0] if i in unfinished else path for i, path in enumerate(paths)]


def simulate(
    network: RoadNetwork, n: int, *, seed: int, parameters: Parameters | None = None, max_hops: int = 400,
    pairs: int | None = None, like: Trips | None = None, jitter: float = 400.0, within: float = np.inf,
) -> Trips:  # fmt: skip
    """Draw n timed trips of known law.

    Args:
        network: the roads.
        n: number of trips.
        seed: all randomness.
        parameters: the recursive logit; by default `Parameters()`.
        max_hops: longer paths are drawn again (the law is then conditioned on at most `max_hops` segments).
        pairs: how many destinations to draw; by default one for every four trips.
        like: draw origins, destinations and departures near those of given trips, else by length of segment.
        jitter: metres around the given origins and destinations.
        within: metres from the destination within which origins are drawn (large networks), without `like`.

    Returns:
        Trips with times; `enter` follows `traffic` as its docstring says.
    """
    law = RecursiveLogit(network, parameters)
    stream, kept = 0, []
    for _ in range(64):
        ids = np.arange(stream, stream + n - len(kept))
        stream += len(ids)
        o, d, t = _demand(network, ids, seed, max(1, pairs or n // 4), like, jitter, within)
        drawn = law.walks(o, d, t, seed, ids, max_hops)
        kept += [row for row in zip(drawn, t.tolist(), ids.tolist(), strict=True) if len(row[0])]
        if len(kept) == n:
            break
    else:
        reason = "too few destinations can be reached with so many segments and a representable probability"
        hint = "draw origins nearer to destinations with `within`"
        raise InfeasibleError(reason, field="max_hops", value=max_hops, hint=hint)
    names = [f"simulated-{seed}-{i}" for _, _, i in kept]
    trips = Trips.from_lists(network, [path for path, _, _ in kept], np.array([t for _, t, _ in kept]), None, names)
    trips.enter = _enter(trips, law.parameters.traffic, seed, np.array([i for _, _, i in kept], dtype=np.int64))
    return trips


def _demand(
    network: RoadNetwork, ids: np.ndarray, seed: int, pairs: int, like: Trips | None, jitter: float, within: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw origin, destination and departure of each stream; every destination serves several origins."""
    group = (noise(seed, ids, -1) * pairs).astype(np.int64)
    clock = noise(seed, ids, -2)
    if like is None:
        share = np.cumsum(network.length.astype(np.float64))
        d = np.searchsorted(share, noise(seed, group, -4) * share[-1])
        if np.isfinite(within):
            o = _near(network, KDTree(network.middle), d, noise(seed, ids, -3), noise(seed, ids, -7), within)
        else:
            o = np.searchsorted(share, noise(seed, ids, -3) * share[-1])
        hours = np.array([0.0, 6.0, 7.5, 9.5, 17.0, 19.0, 22.0, 24.0])
        day = (noise(seed, ids, -5) * 28).astype(np.int64) * 86400.0
        clock = np.interp(clock, [0.0, 0.05, 0.12, 0.37, 0.60, 0.85, 0.96, 1.0], hours) * 3600.0
        return np.where(o == d, network.succ[network.succ_ptr[d]], o), d, _MONDAY + day + clock
    model = (noise(seed, group, -6) * len(like)).astype(np.int64)
    tree = KDTree(network.middle)
    o = _near(network, tree, like.origin[model], noise(seed, ids, -3), noise(seed, ids, -7), jitter)
    d = _near(network, tree, like.destination[model], noise(seed, group, -4), noise(seed, group, -8), jitter)
    days = np.floor(np.nan_to_num(like.depart[model], nan=_MONDAY) / 86400.0) * 86400.0
    t = like.depart[model] + 1800.0 * (clock - 0.5)
    return np.where(o == d, network.succ[network.succ_ptr[d]], o), d, np.where(np.isnan(t), days + 86400.0 * clock, t)


def _near(
    network: RoadNetwork, tree: KDTree, segment: np.ndarray, u: np.ndarray, w: np.ndarray, jitter: float
) -> np.ndarray:
    """Move segments to the one nearest to a point drawn uniformly in a disc around their middle."""
    radius, angle = jitter * np.sqrt(u), 2 * np.pi * w
    aim = network.middle[segment] + np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return np.asarray(tree.query(aim)[1], dtype=np.int64)


def _enter(trips: Trips, traffic: Traffic, seed: int, stream: np.ndarray) -> np.ndarray:
    net, when = trips.network, period(trips.depart)[trips.owner]
    mean = np.stack([segment_time(net, traffic, p) for p in range(len(PERIODS))])[when, trips.segment]
    hop = np.arange(len(trips.segment)) - trips.ptr[trips.owner]
    spread = traffic.trip_noise * normal(seed, stream, -9)[trips.owner]
    spread = spread + traffic.segment_noise * normal(seed, stream[trips.owner], hop, -10)
    level = traffic.pace * np.exp(-0.5 * (traffic.trip_noise**2 + traffic.segment_noise**2))
    along = np.concatenate([[0.0], np.cumsum(mean * level * np.exp(spread))])
    return (along[:-1] - along[trips.ptr[trips.owner]]).astype(np.float32)
