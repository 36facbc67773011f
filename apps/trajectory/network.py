"""The road network: directed segments as nodes of a sparse successor relation.

A network is a set of N directed segments (a stretch of road between two junctions, driven one way) and a relation
A of M transitions: `A[a, k] = 1` when a vehicle at the end of segment a may enter segment k. A trip is a walk
`s_0 s_1 ... s_L` with every `A[s_i, s_{i+1}] = 1`; the relation is all that a decoder, a matcher or a route choice
model needs, and it is stored as compressed rows (successors) and columns (predecessors): no N x N array anywhere.

Coordinates are metres in the UTM zone of the network's centre, so that distances and angles are Euclidean; longitude
and latitude (degrees, WGS 84) appear only at the border of the system.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import scipy.sparse as sp
import shapely
from numpy.typing import ArrayLike

from core.errors import DataError, UsageError

__all__ = ["OUTSIDE", "ROAD_CLASSES", "RoadNetwork", "utm_zone"]

ROAD_CLASSES: tuple[str, ...] = (
    "motorway", "motorway_link", "trunk", "trunk_link", "primary", "primary_link", "secondary", "secondary_link",
    "tertiary", "tertiary_link", "unclassified", "residential", "living_street", "service", "road", "other",
)  # fmt: skip
"""OpenStreetMap `highway` values, from the most to the least important; anything else is "other"."""

OUTSIDE = 500.0
"""Metres beyond which a coordinate is said to lie outside the network."""

_FORMAT = 2
_TEXT = ("name", "crs")


def utm_zone(lon: float, lat: float) -> str:
    """Return the EPSG code of the UTM zone that holds a point given in degrees."""
    zone = int(np.floor((lon + 180.0) / 6.0)) % 60 + 1
    return f"EPSG:{(32600 if lat >= 0 else 32700) + zone}"


@dataclass(eq=False)
class RoadNetwork:
    """N directed segments and M transitions between them (all arrays read-only by convention).

    Args:
        name: what the network is called.
        crs: the projected coordinate system, e.g. "EPSG:32629".
        u, v: [N] ids of the junctions where a segment starts and ends.
        key: [N] number that tells parallel segments between the same junctions apart.
        osm_way: [N] id of the (first) OpenStreetMap way, 0 when unknown.
        length: [N] metres. speed: [N] free-flow speed in km/h. road_class: [N] index into `ROAD_CLASSES`.
        heading_in, heading_out: [N] direction of travel at the start and at the end, radians, `atan2(dy, dx)`.
        start, middle, end: [N, 2] points in metres in `crs`; the middle is halfway along the segment.
        geom_ptr, geom_xy: [N+1], [P, 2] the polyline of segment i is `geom_xy[geom_ptr[i]:geom_ptr[i+1]]`.
        succ_ptr, succ: [N+1], [M] successors of each segment, ascending within a row.
        turn: [M] change of heading of each transition, radians in (-pi, pi], left positive.
        label: [N] the ids of another system (SUMO, LibCity), or [0] when there are none.
        junction: [J] that system's names of the junctions 0 to J - 1 in u and v, or [0] when u and v are its ids.
        way_ptr, way_id: [N+1], [W] all OpenStreetMap ways of segment i are `way_id[way_ptr[i]:way_ptr[i+1]]`; [0], [0]
            when only `osm_way` is known.
        classes: [N] bit c is set where a part of the segment is of class c; [0] when only `road_class` is known (the
            class of most of its length).
    """

    name: str
    crs: str
    u: np.ndarray
    v: np.ndarray
    key: np.ndarray
    osm_way: np.ndarray
    length: np.ndarray
    speed: np.ndarray
    road_class: np.ndarray
    heading_in: np.ndarray
    heading_out: np.ndarray
    start: np.ndarray
    middle: np.ndarray
    end: np.ndarray
    geom_ptr: np.ndarray
    geom_xy: np.ndarray
    succ_ptr: np.ndarray
    succ: np.ndarray
    turn: np.ndarray
    label: np.ndarray = field(default_factory=lambda: np.empty(0, dtype="U1"))
    junction: np.ndarray = field(default_factory=lambda: np.empty(0, dtype="U1"))
    way_ptr: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    way_id: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    classes: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    def __repr__(self) -> str:
        return f"RoadNetwork({self.name!r}, {self.n} segments, {self.m} transitions, {self.crs})"

    @property
    def n(self) -> int:
        """Number of segments."""
        return len(self.u)

    @property
    def m(self) -> int:
        """Number of transitions."""
        return len(self.succ)

    @cached_property
    def travel_time(self) -> np.ndarray:
        """[N] float32 seconds at free-flow speed."""
        return (self.length / (self.speed / 3.6)).astype(np.float32)

    @cached_property
    def source(self) -> np.ndarray:
        """[M] int32 segment that each transition leaves (`succ` is the one it enters)."""
        return np.repeat(np.arange(self.n, dtype=np.int32), np.diff(self.succ_ptr))

    @cached_property
    def _reverse(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.argsort(self.succ, kind="stable")
        ptr = np.concatenate([[0], np.cumsum(np.bincount(self.succ, minlength=self.n))]).astype(np.int64)
        return ptr, self.source[order], order

    @property
    def pred_ptr(self) -> np.ndarray:
        """[N+1] rows of `pred`."""
        return self._reverse[0]

    @property
    def pred(self) -> np.ndarray:
        """[M] predecessors of each segment, ascending within a row."""
        return self._reverse[1]

    @property
    def pred_transition(self) -> np.ndarray:
        """[M] the index into `succ` and `turn` of each entry of `pred`."""
        return self._reverse[2]

    @cached_property
    def _pairs(self) -> np.ndarray:
        return self.source.astype(np.int64) * self.n + self.succ

    def transition(self, a: ArrayLike, k: ArrayLike) -> np.ndarray:
        """Return the index into `succ` of each transition a -> k, -1 where there is none."""
        wanted = np.asarray(a, dtype=np.int64) * self.n + np.asarray(k, dtype=np.int64)
        pairs = self._pairs if self.m else np.array([-1])
        at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        return np.where(pairs[at] == wanted, at, -1)

    def is_walk(self, segments: ArrayLike) -> bool:
        """Tell whether every step of a sequence of segments is a transition (one segment is a walk)."""
        s = np.asarray(segments, dtype=np.int64)
        if s.size == 0 or s.min() < 0 or s.max() >= self.n:
            return False
        return bool((self.transition(s[:-1], s[1:]) >= 0).all())

    def adjacency(self, closed: np.ndarray | None = None) -> sp.csr_matrix:
        """Return the [N, N] sparse 0/1 relation, without the segments that are `closed` ([N] bool)."""
        if closed is None:
            return sp.csr_matrix((np.ones(self.m, dtype=bool), self.succ, self.succ_ptr), shape=(self.n, self.n))
        keep = ~(closed[self.source] | closed[self.succ])
        ptr = np.concatenate([[0], np.cumsum(np.bincount(self.source[keep], minlength=self.n))])
        return sp.csr_matrix((np.ones(keep.sum(), dtype=bool), self.succ[keep], ptr), shape=(self.n, self.n))

    @cached_property
    def _projections(self) -> tuple[pyproj.Transformer, pyproj.Transformer]:
        forward = pyproj.Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)
        return forward, pyproj.Transformer.from_crs(self.crs, "EPSG:4326", always_xy=True)

    def to_xy(self, lonlat: np.ndarray) -> np.ndarray:
        """Project [..., 2] degrees (longitude, latitude) to metres."""
        p = np.asarray(lonlat, dtype=np.float64)
        return np.stack(self._projections[0].transform(p[..., 0], p[..., 1]), axis=-1)

    def to_lonlat(self, xy: np.ndarray) -> np.ndarray:
        """Return [..., 2] degrees (longitude, latitude) of points in metres."""
        p = np.asarray(xy, dtype=np.float64)
        return np.stack(self._projections[1].transform(p[..., 0], p[..., 1]), axis=-1)

    def polyline(self, segments: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return the [P, 2] longitudes and latitudes along a walk, without repeated points."""
        parts = [self.geom_xy[self.geom_ptr[s] : self.geom_ptr[s + 1]] for s in np.atleast_1d(segments)]
        xy = np.concatenate(parts) if parts else np.empty((0, 2))
        keep = np.ones(len(xy), dtype=bool)
        keep[1:] = (np.diff(xy, axis=0) != 0).any(axis=1)
        return self.to_lonlat(xy[keep])

    @cached_property
    def lines(self) -> np.ndarray:
        """[N] shapely LineStrings in metres."""
        rows = np.repeat(np.arange(self.n), np.diff(self.geom_ptr))
        return np.asarray(shapely.linestrings(self.geom_xy, indices=rows))

    @cached_property
    def tree(self) -> shapely.STRtree:
        """A spatial index over `lines`."""
        return shapely.STRtree(self.lines)

    def nearest(self, lonlat: np.ndarray | Sequence[float], k: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids and distances (metres) of the k segments nearest to one point, nearest first.

        Raises:
            UsageError: the point is not a coordinate or lies more than `OUTSIDE` metres from every segment.
        """
        p = np.asarray(lonlat, dtype=np.float64)
        if p.shape != (2,) or not np.isfinite(p).all() or abs(p[0]) > 180 or abs(p[1]) > 90:
            raise UsageError("not a longitude and latitude in degrees", field="coordinate", value=lonlat)
        point = shapely.points(self.to_xy(p))
        found, distance = self.tree.query_nearest(point, return_distance=True, all_matches=True)
        if not len(found) or distance[0] > OUTSIDE:
            far = f"{distance[0]:.0f} m" if len(distance) and np.isfinite(distance[0]) else "far"
            box = self.to_lonlat(np.array([self.geom_xy.min(0), self.geom_xy.max(0)])).round(4).tolist()
            where = f"({p[0]:.5f}, {p[1]:.5f}) lies {far} outside the network {self.name!r}"
            raise UsageError(where, field="coordinate", hint=f"it spans longitude, latitude {box[0]} to {box[1]}")
        radius = float(distance[0]) + 1e-6
        while len(found) < min(k, self.n):
            radius = 2 * radius + 25.0
            found = self.tree.query(point, predicate="dwithin", distance=radius)
        away = shapely.distance(self.lines[found], point)
        best = np.lexsort((found, away))[:k]
        return found[best], away[best]

    def of_way(self, way: int) -> np.ndarray:
        """Return the segments that an OpenStreetMap way is part of, ascending."""
        if not len(self.way_ptr):
            return np.flatnonzero(self.osm_way == way)
        return np.unique(np.searchsorted(self.way_ptr, np.flatnonzero(self.way_id == way), side="right") - 1)

    def of_class(self, road: str) -> np.ndarray:
        """[N] bool: where a segment, or a part of it, is of this one of `ROAD_CLASSES`."""
        number = ROAD_CLASSES.index(road)
        return self.classes >> number & 1 == 1 if len(self.classes) else self.road_class == number

    def ids(self, segments: ArrayLike) -> np.ndarray:
        """Return segments as `segment` takes them from text: by their labels where the network has them."""
        return self.label[np.asarray(segments)] if len(self.label) else np.asarray(segments)

    def junctions(self, numbers: ArrayLike) -> np.ndarray:
        """Return junctions (from `u` or `v`) as the file of the network calls them."""
        return self.junction[np.asarray(numbers)] if len(self.junction) else np.asarray(numbers)

    def segment(self, text: str | int) -> int:
        """Return the id of a segment given as an id, "u-v", "u-v-key" (junction ids) or a label.

        Where segments have labels a text is the label of a segment, or junction ids that the file states, never an id.

        Raises:
            UsageError: there is no such segment.
        """
        if not isinstance(text, str) or (not len(self.label) and re.fullmatch(r"\d+", text)):
            if 0 <= int(text) < self.n:
                return int(text)
            raise UsageError(f"no segment {text} in {self.name!r}", field="segment", hint=f"ids are 0 to {self.n - 1}")
        named = np.flatnonzero(self.label == text) if len(self.label) else np.empty(0, dtype=int)
        if len(named):
            return int(named[0])
        part = None if len(self.junction) else re.fullmatch(r"(-?\d+)-(-?\d+)(?:-(\d+))?", text)
        if not part:
            form = f"use an id from 0 to {self.n - 1}, or u-v or u-v-key with junction ids"
            known = self.label.tolist() or None
            form = "use the id that the file gives it" if known else form
            raise UsageError("not a segment", field="segment", value=text, choices=known, hint=form)
        u, v, key = (int(g) if g else None for g in part.groups())
        same = np.flatnonzero((self.u == u) & (self.v == v))
        chosen = same[:1] if key is None else same[self.key[same] == key]
        if len(chosen):
            return int(chosen[0])
        near = same if len(same) else np.flatnonzero((self.u == u) | (self.v == v) | (self.u == v))
        raise UsageError("unknown segment", field="segment", value=text, choices=self._names(near[:200]))

    def _names(self, ids: np.ndarray) -> list[str]:
        ids = ids if len(ids) else np.arange(min(self.n, 8))
        return [f"{self.u[i]}-{self.v[i]}-{self.key[i]}" for i in ids]

    def subset(self, mask: np.ndarray) -> RoadNetwork:
        """Return the network of the segments where `mask` ([N] bool) holds, with the transitions among them."""
        mask = np.asarray(mask, dtype=bool)
        new = np.cumsum(mask) - 1
        keep = mask[self.source] & mask[self.succ]
        count = np.bincount(new[self.source[keep]], minlength=int(mask.sum()))
        geom_ptr, geom_xy = _rows(self.geom_ptr, self.geom_xy, mask)
        way_ptr, way_id = _rows(self.way_ptr, self.way_id, mask) if len(self.way_ptr) else (self.way_ptr, self.way_id)
        rows = {f.name: getattr(self, f.name)[mask] for f in fields(self) if f.name in _PER_SEGMENT}
        return replace(
            self,
            **rows,
            geom_ptr=geom_ptr,
            geom_xy=geom_xy,
            way_ptr=way_ptr,
            way_id=way_id,
            succ_ptr=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
            succ=new[self.succ[keep]].astype(np.int32),
            turn=self.turn[keep],
            label=self.label[mask] if len(self.label) else self.label,
            classes=self.classes[mask] if len(self.classes) else self.classes,
        )

    def save(self, path: str | Path) -> None:
        """Write the network as one .npz file (no pickle), under a temporary name first."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".npz.part")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, format=np.int64(_FORMAT), **arrays)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path) -> RoadNetwork:
        """Read what `save` wrote, checked.

        Raises:
            DataError: the file is missing, damaged, of another format, or inconsistent.
        """
        names = [f.name for f in fields(cls)]
        try:
            with np.load(path, allow_pickle=False) as stored:
                if "format" not in stored.files or int(stored["format"]) != _FORMAT:
                    raise DataError("not a prepared road network of this version", field=str(path))
                values = {k: stored[k] for k in names if k in stored.files or k not in _OPTIONAL}
        except FileNotFoundError:
            raise DataError("no such file", field=str(path)) from None
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"damaged road network ({type(error).__name__}: {error})", field=str(path)) from None
        text = {k: str(values.pop(k)) for k in _TEXT}
        network = cls(name=text["name"], crs=text["crs"], **values)
        problem = network.problem()
        if problem:
            raise DataError(f"inconsistent road network: {problem}", field=str(path))
        return network

    def problem(self) -> str | None:
        """Return the first inconsistency among the arrays, or None."""
        n = self.n
        for name in _PER_SEGMENT:
            if len(getattr(self, name)) != n:
                return f"{name} has {len(getattr(self, name))} rows, not {n}"
        ragged = [("succ", self.succ_ptr, self.m), ("geom", self.geom_ptr, len(self.geom_xy))]
        for name, ptr, size in [*ragged, ("way", self.way_ptr, len(self.way_id))][: 3 if len(self.way_ptr) else 2]:
            if len(ptr) != n + 1 or ptr[0] != 0 or ptr[-1] != size or (np.diff(ptr) < 0).any():
                return f"{name}_ptr does not index {name}"
        if len(self.junction) and max(self.u.max(), self.v.max()) >= len(self.junction):
            return "a junction has no name"
        if len(self.turn) != self.m or (self.m and (self.succ.min() < 0 or self.succ.max() >= n)):
            return "a transition leads nowhere"
        if not {len(self.label), len(self.classes)} <= {0, n} or (self.m and (np.diff(self._pairs) <= 0).any()):
            return "successors are not sorted, or labels or classes are missing"
        if (self.v[self.source] != self.u[self.succ]).any():
            return "a transition joins segments that do not meet"
        for name in ("length", "speed"):
            if not (getattr(self, name) > 0).all() or not np.isfinite(getattr(self, name)).all():
                return f"a {name} is not positive"
        return None if np.isfinite(self.geom_xy).all() else "a coordinate is not finite"


_PER_SEGMENT = (
    "u", "v", "key", "osm_way", "length", "speed", "road_class", "heading_in", "heading_out", "start", "middle", "end",
)  # fmt: skip
_OPTIONAL = ("junction", "way_ptr", "way_id", "classes")


def _rows(ptr: np.ndarray, values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pointers and values of the rows of a ragged array where `mask` holds."""
    sizes = np.diff(ptr)
    return np.concatenate([[0], np.cumsum(sizes[mask])]).astype(np.int64), values[np.repeat(mask, sizes)]
