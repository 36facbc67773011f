"""Requests: what a user asks of a trip, checked before anything is drawn.

    model.sample(n=100, origin=a, destination=b, via=[c], closed=[bridge], depart="08:15", seed=0)

A request becomes `Rules` (shared by its trips) and arrays (origin, accepted destinations, departure of each trip).
Trip i is a function of (seed, i) and the request, whatever else is drawn with it. Contradictions are refused with the
field that has to change; what only the roads can tell (a cut-off destination, a limit below the shortest way) is
refused by the law itself, still before sampling.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from apps.trajectory.constraints import trip_law
from apps.trajectory.data import Trips, cell, table
from apps.trajectory.field import Fields
from apps.trajectory.limits import Rules, limited, visit_product
from apps.trajectory.network import RoadNetwork
from apps.trajectory.places import Place, closures, resolve, several
from apps.trajectory.traffic import noise
from core.errors import DataError, InfeasibleError, UsageError

if TYPE_CHECKING:
    from apps.trajectory.generate import TripModel
    from apps.trajectory.mixture import Mixture

__all__ = ["Ends", "Request", "Wishes", "departure", "read_requests", "sample_all"]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MONDAY = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
CLOCK = re.compile(r"(?:([A-Za-z]{3})[a-z]*\s+)?(\d{1,2}):(\d{2})(?::(\d{2}))?")
OLDEST, LATEST = 1e8, 1e11
DRAW = 31


class Wishes(TypedDict, total=False):
    """The fields of a `Request` beside its ends and its departure."""

    via: Sequence[Place]
    closed: Sequence[Place] | np.ndarray
    forbid: Sequence[str]
    min_hops: int
    max_hops: int
    min_km: float
    max_km: float


@dataclass(frozen=True)
class Ends:
    """What each of n trips starts from and aims at.

    Args:
        origin: int64 [n]. target: accepted segments of each trip. depart: float64 [n] unix seconds, NaN unknown.
        possible: all segments that the origin's place means.
    """

    origin: np.ndarray
    target: list[tuple[int, ...]]
    depart: np.ndarray
    possible: tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """One request for trips; places as `places.resolve` reads them.

    Args:
        origin, destination: places.
        via: places to pass in this order.
        closed: places that may not be used (segments, junctions, ways, polygons), or a mask bool [N].
        forbid: road classes that may not be used.
        min_hops, max_hops: segments after the origin; 0 for no limit.
        min_km, max_km: kilometres of the whole trip, first and last segment included; 0 for no limit.
        depart: see `departure`; one for all trips.
    """

    origin: Place | None
    destination: Place | None
    via: Sequence[Place] = ()
    closed: Sequence[Place] | np.ndarray = ()
    forbid: Sequence[str] = ()
    min_hops: int = 0
    max_hops: int = 0
    min_km: float = 0.0
    max_km: float = 0.0
    depart: str | float | datetime | None = None

    def rules(self, network: RoadNetwork, base: Rules | None = None) -> Rules:
        """Return the rules that all trips share; closures of `base` stay closed.

        Raises:
            UsageError: limits that are negative or contradict each other, unknown places or classes.
        """
        for unit in ("hops", "km"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            for name, value in ((f"min_{unit}", low), (f"max_{unit}", high)):
                if not (math.isfinite(value) and value >= 0):
                    raise UsageError("must be a number, at least 0", field=name, value=value)
            if high and low > high:
                raise InfeasibleError(f"exceeds max_{unit} = {high:g}", field=f"min_{unit}", value=low)
        via = tuple(resolve(network, v, "enter", f"via[{i}]") for i, v in enumerate(several(self.via)))
        closed = closures(network, self.closed, self.forbid)
        rules = Rules(via, closed, int(self.min_hops), int(self.max_hops), float(self.min_km), float(self.max_km))
        return rules if base is None or base.closed is None else rules.closing(base.closed)

    def ends(self, fields: Fields, rules: Rules, budget: int, n: int, seed: int, first: int = 0) -> Ends:
        """Return origin, accepted destinations and departure of n trips.

        Args:
            fields: of the network.
            rules: from `rules`.
            budget: most segments after the origin.
            n: number of trips.
            seed: of the draws of an origin that is a zone, a junction or a coordinate.
            first: number of the first trip's stream.
        """
        network = fields.network
        if not isinstance(n, int | np.integer) or n < 1:
            raise UsageError("at least one trip", field="n", value=n)
        possible = resolve(network, self.origin, "leave", "origin")
        target = resolve(network, self.destination, "enter", "destination")
        origin = self._usable(fields, rules, budget, np.array(possible), target)
        share = np.cumsum(network.length[origin].astype(np.float64))
        u = noise(seed, np.arange(first, first + n), DRAW) * share[-1]
        start = origin[np.minimum(np.searchsorted(share, u, side="right"), len(origin) - 1)]
        return Ends(start, [target] * n, np.full(n, departure(self.depart)), possible)

    def _usable(
        self, fields: Fields, rules: Rules, budget: int, origin: np.ndarray, target: tuple[int, ...]
    ) -> np.ndarray:
        """Return the origins from which the request can be met; refuse with the reason where there is none."""
        product = limited(fields, origin, target, rules) if rules.counted else visit_product(fields, rules)
        start = product.start(origin)
        hops = product.field(fields, int(origin[0]), int(start[0]), target, rules, np.inf).hops
        need = np.where(start >= 0, hops[np.maximum(start, 0)], 2**30)
        if rules.closed is not None:
            need = np.where(rules.closed[origin], 2**30, need)
        most = min(budget, rules.max_hops) if rules.max_hops else budget
        if ((need > 0) & (need <= most)).any():
            return origin[(need > 0) & (need <= most)]
        if (need == 0).any():
            here, hint = int(origin[need == 0][0]), "for a round trip give via, min_hops or min_km"
            raise InfeasibleError("is reached at the origin already", field="destination", value=here, hint=hint)
        trip_law(fields, origin[np.argsort(need, kind="stable")[:1]], [target], rules, budget=budget)
        raise InfeasibleError(f"no trip from it within {most} segments", field="origin", value=int(origin[0]))

    def sample(
        self, model: TripModel | Mixture, n: int, seed: int = 0, *, greedy: bool = False, timed: bool = True
    ) -> Trips:
        """Draw n trips.

        Raises:
            UsageError, InfeasibleError: the request is wrong or cannot be met; nothing was sampled.
        """
        return sample_all(model, [self], n, seed, greedy=greedy, timed=timed)


def sample_all(
    model: TripModel | Mixture,
    requests: Sequence[Request],
    n: int,
    seed: int = 0,
    *,
    greedy: bool = False,
    timed: bool = True,
) -> Trips:
    """Draw n trips of each request; all share the rules (via, closures, limits) of the first.

    Trip k of request i has the stream i * n + k and, with several requests, the name "i-k" (no reader takes it for a
    number: as numbers, 0.1 and 0.10 would be one trip).
    """
    if not requests:
        raise UsageError("no request", field="requests")
    rules = requests[0].rules(model.network, model.rules)
    budget = model.recipe.data.max_hops
    ends = [r.ends(model.fields, rules, budget, n, seed, i * n) for i, r in enumerate(requests)]
    drawn, streams = [], np.arange(len(ends) * n)
    for some in [[k] for k in range(len(ends))] if rules.counted else [range(len(ends))]:
        target = [t for k in some for t in ends[k].target]
        origin, depart = (np.concatenate([getattr(ends[k], name) for k in some]) for name in ("origin", "depart"))
        index = streams[some[0] * n : (some[-1] + 1) * n]
        own = replace(rules, origins=ends[some[0]].possible) if rules.counted else rules
        drawn.append(model.obeying(own).sample(origin, target, depart, seed, index, greedy=greedy, timed=timed))
    trips = Trips.concat(drawn)
    if len(requests) > 1:
        trips.id = [f"{i}-{k}" for i in range(len(requests)) for k in range(n)]
    return trips


def departure(when: str | float | datetime | np.datetime64 | None) -> float:
    """Return unix seconds of a departure, NaN for None or "".

    Args:
        when: a clock time ("08:15" of a working day, Wednesday; "sat 23:40"), an ISO 8601 time ("2013-07-01T08:15", in
            the clock of the training trips unless it names a zone), a datetime, or unix seconds.

    Raises:
        UsageError: none of these, or beyond `LATEST` (as unix milliseconds are).
    """
    if when is None or when == "":
        return math.nan
    forms = 'write "08:15", "sat 23:40", "2013-07-01T08:15" or unix seconds'
    if isinstance(when, datetime):
        moment = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        if moment > LATEST:
            raise UsageError("is too late", field="depart", value=str(when), hint=forms)
        return moment
    if found := CLOCK.fullmatch(str(when).strip()):
        day, hour, minute, second = (found[1] or "wed").lower(), int(found[2]), int(found[3]), int(found[4] or 0)
        if day in DAYS and hour < 24 and minute < 60 and second < 60:
            return MONDAY + 86400.0 * DAYS.index(day) + 3600.0 * hour + 60.0 * minute + second
        raise UsageError("not a time of day", field="depart", value=when, hint=forms)
    try:
        value = float(when)
    except (TypeError, ValueError):
        try:
            return departure(datetime.fromisoformat(str(when).strip()))
        except ValueError:
            raise UsageError("not a time", field="depart", value=when, hint=forms) from None
    if not math.isfinite(value) or value < OLDEST:
        raise UsageError("not unix seconds", field="depart", value=when, hint=forms)
    if value > LATEST:
        hint = f"if these are milliseconds write {value / 1000:.0f}; {forms}"
        raise UsageError("not unix seconds", field="depart", value=when, hint=hint)
    return value


def read_requests(path: str | Path, shared: Request) -> list[Request]:
    """Read a table of requests (columns origin, destination, and maybe depart); the rest comes from `shared`.

    Raises:
        DataError: missing or malformed (file, line, column), or empty.
    """
    out = []
    for line, row in table(path, ("origin", "destination")):
        depart = cell(path, line, "depart", row.get("depart") or "", _departure)
        when = shared.depart if math.isnan(depart) else depart
        out.append(replace(shared, origin=row["origin"], destination=row["destination"], depart=when))
    if not out:
        raise DataError("no request in it", field=str(path))
    return out


def _departure(text: str) -> float:
    try:
        return departure(text)
    except UsageError as error:
        raise ValueError(str(error)) from None
