r"""What if these segments were closed?

A router draws the trips of n requests (or the observed trips are given). Those that use a closed segment are drawn
again from the same router with the segments closed, request i from the SAME random stream (seed, i); all others stay
exactly as they were. For a router that conditions its law on the closure the result is a draw from that conditioned
law: a trip that avoids the segments already is one, and the others are replaced.

The flow of a segment is the number of times that it is driven; the difference, after minus before, says where the trips
go. The same request answered by the fastest path stands beside it. A request that the closure makes impossible is not
hidden: it is listed as stranded.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from apps.trajectory.baselines import Fastest, Router, reachable
from apps.trajectory.data import Trips
from apps.trajectory.export import collection, writing
from apps.trajectory.maps import difference_map, flow_features
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork
from apps.trajectory.pictures import uses
from core.errors import QuintetError, UsageError

__all__ = ["WhatIf", "close", "close_busiest", "closures", "inside"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def inside(network: RoadNetwork, polygon: np.ndarray | Sequence[Sequence[float]]) -> Mask:
    """Return which segments `[N]` touch a polygon of (longitude, latitude) corners `[k, 2]`.

    Raises:
        UsageError: not a polygon, or no segment touches it.
    """
    try:
        corners = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.empty((0, 2))
    if corners.ndim != 2 or corners.shape[-1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise UsageError("at least three (longitude, latitude) corners are needed", field="closed", value=polygon)
    area = shapely.Polygon(network.to_xy(corners)).buffer(0)
    rows = np.repeat(np.arange(network.n), np.diff(network.geom_ptr))
    touched = np.asarray(shapely.intersects(shapely.linestrings(network.geom_xy, indices=rows), area), dtype=bool)
    if not touched.any():
        metres = float(shapely.distance(area, shapely.multipoints(network.middle)))
        raise UsageError("the polygon touches no segment", field="closed", hint=f"the nearest is {metres:.0f} m away")
    return touched


def closures(network: RoadNetwork, closed: int | Sequence[Any] | np.ndarray) -> Mask:
    """Return the closed segments as a mask `[N]`.

    Args:
        network: the roads.
        closed: a mask `[N]`, segments (numbers or "u-v-key"), or polygon corners `[k, 2]` in degrees.

    Raises:
        UsageError: an unknown segment, or nothing to close.
    """
    table = np.asarray(closed)
    if table.dtype == bool and table.shape == (network.n,):
        mask = table.copy()
    elif table.ndim == 2:
        mask = inside(network, table)
    else:
        mask = np.zeros(network.n, dtype=bool)
        mask[[network.segment(s) for s in np.atleast_1d(np.asarray(closed, dtype=object))]] = True
    if not mask.any():
        raise UsageError("no segment to close", field="closed", value=closed if len(table) < 9 else None)
    return mask


def close_busiest(trips: Trips, k: int) -> Mask:
    """Return a mask of the k segments that the trips drive most often, none of them an end of a trip if possible."""
    flow = uses(trips).astype(np.float64)
    flow[np.unique(np.concatenate([trips.origin, trips.destination]))] *= 1e-6
    mask = np.zeros(trips.network.n, dtype=bool)
    mask[np.argsort(-flow, kind="stable")[:k]] = True
    return mask


@dataclass(frozen=True)
class WhatIf:
    """A closure and what it does.

    Args:
        closed: `[N]` the closed segments.
        before: all n trips before the closure.
        affected: indices of the trips that used a closed segment and could be drawn again.
        stranded: indices of the trips that the closure makes impossible, or longer than the router can draw.
        after: the affected trips as drawn again, in the order of `affected`.
        fastest: the fastest paths of the same requests, in the order of `affected`.
    """

    closed: Mask
    before: Trips
    affected: NDArray[np.int64]
    stranded: NDArray[np.int64]
    after: Trips
    fastest: Trips

    @cached_property
    def flows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Uses `[N]` of each segment before, after, and after if the affected trips took the fastest path."""
        gone = np.zeros(len(self.before), dtype=bool)
        gone[self.affected] = gone[self.stranded] = True
        kept = uses(self.before.select(~gone))
        return uses(self.before), kept + uses(self.after), kept + uses(self.fastest)

    @cached_property
    def changed(self) -> NDArray[np.int64]:
        """The segments whose flow changes, for the router or on the fastest path; largest change first."""
        before, after, fastest = self.flows
        order = np.argsort(-np.abs(after - before), kind="stable")
        return order[(after[order] != before[order]) | (fastest[order] != before[order])]

    def summary(self) -> dict[str, float | int]:
        """Return counts, detours (km more than before) and how far the flows are from fastest-path rerouting."""
        before, after, fastest = self.flows
        old = self.before.select(self.affected).kilometres()
        detour, quick = self.after.kilometres() - old, self.fastest.kilometres() - old
        moved = int(np.abs(after - before)[~self.closed].sum())
        result: dict[str, float | int] = {
            "trips": len(self.before),
            "closed_segments": int(self.closed.sum()),
            "affected": len(self.affected),
            "stranded": len(self.stranded),
            "uses_of_closed_before": int(before[self.closed].sum()),
            "uses_of_closed_after": int(after[self.closed].sum()),
            "flow_moved": moved,
            "flow_unlike_fastest": int(np.abs(after - fastest).sum()),
        }
        for name, value in (("detour", detour), ("detour_fastest", quick)):
            spread = np.quantile(value, [0.5, 0.95]) if len(value) else [0.0, 0.0]
            result |= {f"{name}_km_mean": float(value.mean()) if len(value) else 0.0}
            result |= {f"{name}_km_median": float(spread[0]), f"{name}_km_p95": float(spread[1])}
        return result

    def table(self) -> list[dict[str, object]]:
        """Return the segments whose flow changes, largest change first: before, after, change, fastest_after."""
        network, (before, after, fastest) = self.before.network, self.flows
        change, order = after - before, self.changed
        names, u, v = (a.tolist() for a in (network.ids(order), *map(network.junctions, (network.u, network.v))))
        return [
            {
                "segment": name, "u": u[i], "v": v[i], "key": int(network.key[i]),
                "class": ROAD_CLASSES[network.road_class[i]], "metres": round(float(network.length[i]), 1),
                "before": int(before[i]), "after": int(after[i]), "change": int(change[i]),
                "fastest_after": int(fastest[i]), "closed": bool(self.closed[i]),
            }
            for i, name in zip(order, names, strict=True)
        ]  # fmt: skip

    def write(self, folder: str | Path) -> list[Path]:
        """Write flow_difference.csv, .geojson and .html, and fastest_difference.html; return their paths."""
        folder, network = Path(folder), self.before.network
        before, after, fastest = self.flows
        rows = self.table()
        columns = {"before": before, "after": after, "change": after - before, "fastest_after": fastest}
        features = flow_features(network, self.changed, columns | {"closed": self.closed})
        paths = [folder / n for n in ("flow_difference.csv", "flow_difference.geojson", "flow_difference.html",
                                      "fastest_difference.html")]  # fmt: skip
        with writing(paths[0]) as file:
            out = csv.DictWriter(file, list(rows[0]) if rows else ["segment"], lineterminator="\n")
            out.writeheader()
            out.writerows(rows)
        collection(features, paths[1])
        difference_map(network, before, after, self.closed, paths[2], "Change of trips per segment: the router")
        difference_map(network, before, fastest, self.closed, paths[3], "Change of trips per segment: fastest path")
        return paths


def close(router: Router, before: Trips, closed: int | Sequence[Any] | np.ndarray, seed: int = 0) -> WhatIf:
    """Close segments and draw the affected trips again.

    Args:
        router: a baseline or a model.
        before: trips drawn by `router.sample(origin, destination, depart, seed)`, or observed ones.
        closed: see `closures`.
        seed: the one of `before`.

    Raises:
        UsageError: an unknown segment, nothing to close, no trips, or a round trip over a closed segment.
    """
    if not len(before):
        raise UsageError("no trips to reroute", field="before")
    network = before.network
    mask = closures(network, closed)
    hit = np.flatnonzero(np.add.reduceat(mask[before.segment], before.ptr[:-1], dtype=np.int64))
    tours = hit[(before.origin[hit] == before.destination[hit]) & (before.hops()[hit] > 1)]
    if len(tours):
        hint = "its ends do not say where it went: leave it out, or part it"
        raise UsageError("a round trip cannot be drawn again", field="before", value=before.id[tours[0]], hint=hint)
    most = getattr(router, "most_hops", np.inf)
    possible = reachable(network, before.origin[hit], before.destination[hit], mask, most)
    affected, stranded = hit[possible], hit[~possible]
    some = before.select(affected)
    request = (some.origin.astype(np.int64), some.destination.astype(np.int64), some.depart)
    after = router.closing(mask).sample(*request, seed, index=affected)
    fastest = Fastest(network).closing(mask).sample(*request, seed)
    after.id, fastest.id = list(some.id), list(some.id)
    result = WhatIf(mask, before, affected, stranded, after, fastest)
    if result.summary()["uses_of_closed_after"]:
        raise QuintetError("the router used a closed segment", field="router", value=type(router).__name__)
    return result
