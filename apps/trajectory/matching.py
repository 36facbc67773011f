"""Map matching: GPS fixes to walks over the road network by a hidden Markov model.

The hidden state at fix i is a candidate c (a segment within `radius` metres and the point on it nearest to the fix).

    emission    log p(fix | c)     = -(distance from fix to c)^2 / (2 sigma^2)
    transition  log p(c | c')      = -|route(c', c) - straight(i-1, i)| / beta,    -inf where no route exists

The most probable sequence of candidates (Viterbi) is joined by shortest routes, so that a result is ALWAYS a walk of
the network. Fixes closer than 2 sigma to the one before are set aside (a standing vehicle tells nothing about its
route), fixes without a road within `radius` are dropped. Where no candidate can be reached, or the fixes pause for
longer than `max_gap` seconds or leave the roads for more than `outliers` fixes, the trace is split, and the report says
where and why.

Reference: Newson, Krumm (2009), Hidden Markov map matching through noise and sparseness, ACM GIS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely

from apps.trajectory.data import Trips, distinct
from apps.trajectory.gps import GpsTrace
from apps.trajectory.network import RoadNetwork
from core.errors import UsageError

__all__ = ["MatchResult", "Matcher", "TraceReport", "match"]


@dataclass(frozen=True)
class Matcher:
    """The parameters of the model (metres unless said otherwise).

    Args:
        sigma: error of a fix. beta: scale of what a route is longer than the straight line.
        radius: how far from a fix a road may lie. candidates: at most so many segments for a fix.
        max_gap: seconds without a fix after which a new trip begins.
        extra, wide: what a route may exceed the straight line by, and once more where nothing connects.
        top_speed: km/h beyond which a route is impossible.
        outliers: so many fixes in a row are passed over if the route goes on behind them.
    """

    sigma: float = 10.0
    beta: float = 20.0
    radius: float = 70.0
    candidates: int = 12
    max_gap: float = 300.0
    extra: float = 500.0
    wide: float = 2000.0
    top_speed: float = 130.0
    outliers: int = 2

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise UsageError("must be positive", field=f"matcher.{name}", value=getattr(self, name))


@dataclass
class TraceReport:
    """What became of one trace.

    Args:
        fixes, matched, off_road: number of fixes in all, on one of the trips, with no road within the radius.
        trips: number of trips made of it. median_metres: from its fixes to the road.
        breaks: where and why it was split.
    """

    id: str
    fixes: int
    matched: int = 0
    off_road: int = 0
    trips: int = 0
    median_metres: float = float("nan")
    breaks: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the fixes near the network that lie on one of the trips (those of a standing vehicle included)."""
        near = self.fixes - self.off_road
        return min(1.0, self.matched / near) if near else 0.0


@dataclass
class MatchResult:
    """The trips, in order of the traces (parts of one trace are named id, id/2, ...), and one report per trace."""

    trips: Trips
    report: list[TraceReport]

    def summary(self) -> dict[str, float]:
        """Return counts over all traces; a "matched" trace has 80 % or more of its fixes near the network on a trip."""
        good = [r for r in self.report if r.share >= 0.8]
        distances = [r.median_metres for r in self.report if np.isfinite(r.median_metres)]
        return {
            "traces": len(self.report),
            "matched": len(good),
            "matched in one piece": sum(r.trips == 1 for r in good),
            "trips": len(self.trips),
            "fixes": sum(r.fixes for r in self.report),
            "fixes off the road": sum(r.off_road for r in self.report),
            "fixes matched": sum(r.matched for r in self.report),
            "median metres to road": float(np.median(distances)) if distances else float("nan"),
        }


@dataclass
class _Fixes:
    """The fixes that take part, of all traces one after another, with their candidates."""

    trace: np.ndarray
    row: np.ndarray
    rank: np.ndarray
    t: np.ndarray
    xy: np.ndarray
    ptr: np.ndarray
    segment: np.ndarray
    offset: np.ndarray
    away: np.ndarray


def match(network: RoadNetwork, traces: Sequence[GpsTrace], matcher: Matcher | None = None) -> MatchResult:
    """Match traces to the network.

    Raises:
        UsageError: not one fix lies near the network (says how far).
    """
    model = matcher or Matcher()
    reports = [TraceReport(t.id, len(t)) for t in traces]
    fixes = _prepare(network, traces, reports, model)
    if not len(fixes.t) and any(len(t) for t in traces):
        network.nearest(next(t for t in traces if len(t)).lonlat[0])
    runner = _Runner(network, model)
    lists, times, departs, names = [], [], [], []
    bounds = np.searchsorted(fixes.trace, np.arange(len(traces) + 1))
    for i, trace in enumerate(traces):
        for part in runner.parts(trace, fixes, int(bounds[i]), int(bounds[i + 1]), reports[i]):
            walk, enter, begin, covered = part
            reports[i].trips += 1
            reports[i].matched += covered
            lists.append(walk)
            times.append(enter)
            departs.append(begin)
            names.append(trace.id if reports[i].trips == 1 else f"{trace.id}/{reports[i].trips}")
    trips = Trips.from_lists(network, lists, np.array(departs), times, distinct(names))
    return MatchResult(trips, reports)


def _prepare(network: RoadNetwork, traces: Sequence[GpsTrace], reports: list[TraceReport], model: Matcher) -> _Fixes:
    """Thin the fixes, find their candidates at once, and drop the fixes that have none."""
    xy = [network.to_xy(t.lonlat) for t in traces]
    kept = [_moving(p, t.t, model) for p, t in zip(xy, traces, strict=True)]
    trace = np.repeat(np.arange(len(traces)), [len(k) for k in kept])
    row = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
    point = np.concatenate([p[k] for p, k in zip(xy, kept, strict=True)]) if kept else np.empty((0, 2))
    t = np.concatenate([f.t[k] for f, k in zip(traces, kept, strict=True)]) if kept else np.empty(0)
    dots = np.asarray(shapely.points(point)).reshape(-1)
    fix, segment = network.tree.query(dots, predicate="dwithin", distance=model.radius)
    away = shapely.distance(dots[fix], network.lines[segment])
    order = np.lexsort((segment, away, fix))
    fix, segment, away = fix[order], segment[order], away[order]
    nth = np.arange(len(fix)) - np.searchsorted(fix, fix)
    near = nth < model.candidates
    fix, segment, away = fix[near], segment[near], away[near]
    count = np.bincount(fix, minlength=len(point))
    share = shapely.line_locate_point(network.lines[segment], dots[fix], normalized=True)
    on_road = count > 0
    stands_for = np.concatenate([np.diff(k, append=len(p)) for k, p in zip(kept, xy, strict=True)] or [row])
    lost = np.bincount(trace[~on_road], stands_for[~on_road], minlength=len(traces)).astype(np.int64)
    for report, off in zip(reports, lost.tolist(), strict=True):
        report.off_road = off
    ptr = np.concatenate([[0], np.cumsum(count[on_road])])
    offset = share * network.length[segment]
    rank = np.flatnonzero(on_road)
    return _Fixes(trace[rank], row[rank], rank, t[rank], point[rank], ptr, segment, offset, away)


def _moving(xy: np.ndarray, t: np.ndarray, model: Matcher) -> np.ndarray:
    """Return the rows that lie at least 2 sigma from the last row kept, and always the first and the last of the trace
    and on both sides of a gap (a vehicle that parked sets out from where it stood)."""
    kept: list[int] = []
    gap = np.diff(t) > model.max_gap
    ends = np.concatenate([[True], gap]) | np.concatenate([gap, [True]])
    for i in range(len(xy)):
        if ends[i] or np.hypot(*(xy[i] - xy[kept[-1]])) >= 2 * model.sigma:
            kept.append(i)
    return np.array(kept, dtype=np.int64)


class _Runner:
    """The compiled model over one network, with its work space."""

    def __init__(self, network: RoadNetwork, model: Matcher) -> None:
        from apps.trajectory import viterbi  # numba takes half a second to import

        self.network, self.model, self.viterbi = network, model, viterbi
        self.length = network.length.astype(np.float64)
        self.graph = (network.succ_ptr, network.succ, self.length, network.start)
        self.work = (np.zeros(network.n), np.full(network.n, -1), np.zeros(network.n + 1, dtype=np.int64))

    def parts(
        self, trace: GpsTrace, fixes: _Fixes, first: int, last: int, report: TraceReport
    ) -> list[tuple[np.ndarray, np.ndarray, float, int]]:
        """Return (walk, enter seconds, departure, fixes covered) of each part of the trace in rows first to last."""
        if last - first < 2:
            report.breaks.append(f"{last - first} of {report.fixes} fixes near a road")
            return []
        silent = np.flatnonzero(np.diff(trace.t) > self.model.max_gap)
        report.breaks += [f"{trace.t[i + 1] - trace.t[i]:.0f} s without a fix after fix {i}" for i in silent]
        inner = np.searchsorted(fixes.row[first:last], silent, side="right")
        away_from = np.flatnonzero(np.diff(fixes.rank[first:last]) - 1 > self.model.outliers) + 1
        report.breaks += [f"off the road before fix {fixes.row[first + i]}" for i in away_from]
        cuts = np.unique([0, *inner.tolist(), *away_from.tolist(), last - first]).tolist()
        out, away = [], []
        for a, b in zip(cuts[:-1], cuts[1:], strict=True):
            chosen, fresh = self._decode(fixes, first + a, first + b)
            edges = [*np.flatnonzero(fresh).tolist(), b - a]
            for row in fixes.row[first + a + np.flatnonzero(fresh)[1:]]:
                report.breaks.append(f"no route to fix {row}")
            for c, d in zip(edges[:-1], edges[1:], strict=True):
                used = c + np.flatnonzero(chosen[c:d] >= 0)
                part = self._walk(fixes, first + a + used, chosen[used])
                if part is not None:
                    out.append(part)
                    away.append(fixes.away[chosen[used]])
        if away:
            report.median_metres = float(np.median(np.concatenate(away)))
        else:
            report.breaks.append("never leaves one segment")
        return out

    def _decode(self, fixes: _Fixes, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        low, high, m = fixes.ptr[first], fixes.ptr[last], self.model
        chosen, fresh = self.viterbi.best_candidates(
            fixes.xy[first:last], np.nan_to_num(fixes.t[first:last]), fixes.ptr[first : last + 1] - low,
            fixes.segment[low:high], fixes.offset[low:high], fixes.away[low:high],
            m.sigma, m.beta, m.radius, m.extra, m.wide, 3 * m.sigma, m.top_speed / 3.6, m.outliers,
            *self.graph, *self.work,
        )  # fmt: skip
        return np.where(chosen < 0, -1, chosen + low), fresh

    def _walk(
        self, fixes: _Fixes, rows: np.ndarray, chosen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, float, int] | None:
        """Join the chosen candidates by shortest routes, and time the segments; None for a walk of one segment."""
        segment, offset = fixes.segment[chosen], fixes.offset[chosen]
        walk, size = np.empty(self.network.n + len(rows), dtype=np.int64), 1
        walk[0], place = segment[0], np.zeros(len(rows), dtype=np.int64)
        for i in range(1, len(rows)):
            a, k = segment[i - 1], segment[i]
            if k != a or offset[i] < offset[i - 1] - 3 * self.model.sigma:
                reach = 2 * (np.hypot(*(fixes.xy[rows[i]] - fixes.xy[rows[i - 1]])) + self.model.wide)
                aim = self.network.start[k]
                if size + self.network.n > len(walk):
                    walk = np.concatenate([walk, np.empty_like(walk)])
                size = self.viterbi.connect(walk, size, a, k, reach, aim[0], aim[1], *self.graph, *self.work)
            place[i] = size - 1
        if size < 2:
            return None
        path = walk[:size].copy()
        along = np.concatenate([[0.0], np.cumsum(self.length[path])])
        reached = np.maximum.accumulate(along[place] + offset)
        t = fixes.t[rows]
        enter = np.interp(along[:-1], reached, t) - t[0]
        return path, enter, float(t[0]), int(fixes.row[rows[-1]] - fixes.row[rows[0]] + 1)
