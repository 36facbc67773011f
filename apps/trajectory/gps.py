"""Raw GPS: readers of CSV, GPX and Porto polylines, and an observer that turns trips of known law into GPS.

A trace is a list of fixes (unix seconds, longitude, latitude). Files are untrusted: every mistake is one line with the
file, the line and the column; GPX is parsed without a document type, so that no entity is ever expanded.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.parsers import expat

import numpy as np
import shapely

from apps.trajectory.data import Trips, cell, distinct, open_text, table
from apps.trajectory.markup import parse
from apps.trajectory.network import RoadNetwork
from apps.trajectory.traffic import PERIODS, Traffic, normal, period, segment_time
from core.errors import DataError

__all__ = ["GpsTrace", "observe", "read_gps"]

_COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("trip_id", "traj_id", "trajectory_id", "track_id", "id", "tid", "uid", "user_id", "vehicle_id", "taxi_id"),
    "time": ("t", "time", "timestamp", "datetime", "date_time", "tracked_at", "unix", "start_unix"),
    "latitude": ("lat", "latitude", "y"),
    "longitude": ("lon", "lng", "long", "longitude", "x"),
}
_GPX = ("", "http://www.topografix.com/GPX/1/0", "http://www.topografix.com/GPX/1/1")
_PORTO_INTERVAL = 15.0


@dataclass(eq=False)
class GpsTrace:
    """The fixes of one vehicle, in order of time.

    Args:
        id: name.
        t: [n] float64 unix seconds, NaN unknown.
        lonlat: [n, 2] float64 degrees.
    """

    id: str
    t: np.ndarray
    lonlat: np.ndarray

    def __len__(self) -> int:
        return len(self.t)


def read_gps(path: str | Path) -> list[GpsTrace]:
    """Read traces: .gpx (1.0, 1.1), .csv with columns for time, latitude, longitude and maybe a name, or .csv with the
    columns TRIP_ID, TIMESTAMP, POLYLINE of the Porto taxi trips (a fix every 15 s); each also compressed (.gz).
    Where most points of a track have a time, those without one are left out; where fewer have, none counts. Names that
    repeat are counted (a, a.2, a.3).

    Raises:
        DataError: the file is missing, malformed, of another kind, or empty.
    """
    path = Path(path)
    kind = path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    if kind not in ("csv", "gpx"):
        raise DataError("not a GPS file", field=str(path), hint="expected .csv, .csv.gz, .gpx or .gpx.gz")
    traces = _read_gpx(path) if kind == "gpx" else _read_csv(path)
    if not traces:
        raise DataError("no trace of two fixes or more", field=str(path))
    for trace, name in zip(traces, distinct([t.id for t in traces]), strict=True):
        trace.id = name
    return traces


def _read_csv(path: Path) -> list[GpsTrace]:
    with open_text(path) as stream:
        try:
            header = [c.strip().strip('"') for c in stream.readline().split(",")]
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise DataError(f"cannot be read ({error})", field=str(path)) from None
    if "POLYLINE" in header:
        return _read_polylines(path)
    found = {k: next((h for n in names for h in header if h.lower() == n), None) for k, names in _COLUMNS.items()}
    for name in ("time", "latitude", "longitude"):
        if found[name] is None:
            known = ", ".join(_COLUMNS[name])
            raise DataError(f"no column for {name} (one of {known}) among {', '.join(header)[:120]}", field=str(path))
    clock, north, east = (str(found[k]) for k in ("time", "latitude", "longitude"))
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for line, row in table(path, [c for c in found.values() if c]):
        name = row[found["id"]] if found["id"] else path.name.split(".")[0]
        t = cell(path, line, clock, row[clock], _seconds)
        lat, lon = cell(path, line, north, row[north], float), cell(path, line, east, row[east], float)
        _on_earth(path, f"line {line}", lon, lat)
        rows.setdefault(name, []).append((t, lon, lat))
    return [trace for name, fixes in rows.items() if (trace := _trace(name, fixes)) is not None]


def _seconds(text: str) -> float:
    """Return unix seconds of a number (seconds, milli-, micro- or nanoseconds) or an ISO 8601 time (UTC by default)."""
    try:
        value = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(value):
        raise ValueError(text)
    while abs(value) > 1e11:
        value /= 1000.0
    return value


def _on_earth(path: Path, where: str, lon: float, lat: float) -> None:
    if not (math.isfinite(lon) and abs(lon) <= 180):
        raise DataError(f"{where}: longitude beyond 180 degrees", field=str(path), value=lon)
    if not (math.isfinite(lat) and abs(lat) <= 90):
        hint = "are longitude and latitude exchanged?" if abs(lat) <= 180 else None
        raise DataError(f"{where}: latitude beyond 90 degrees", field=str(path), value=lat, hint=hint)


def _trace(name: str, fixes: Sequence[tuple[float, float, float]]) -> GpsTrace | None:
    """Sort fixes by time, drop repeated times, and return None where fewer than two remain.

    Where most fixes have a time, the others are dropped; else the order of the file is kept, without times.
    """
    rows = np.asarray(fixes, dtype=np.float64).reshape(-1, 3)
    timed = np.isfinite(rows[:, 0])
    if 2 * timed.sum() > len(rows):
        rows = rows[timed]
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        rows = rows[np.concatenate([[True], np.diff(rows[:, 0]) > 0])] if len(rows) else rows
    else:
        rows[:, 0] = np.nan
    return GpsTrace(name, rows[:, 0], rows[:, 1:]) if len(rows) > 1 else None


def _read_polylines(path: Path) -> list[GpsTrace]:
    traces = []
    for line, row in table(path, ("TRIP_ID", "TIMESTAMP", "POLYLINE")):
        start = cell(path, line, "TIMESTAMP", row["TIMESTAMP"], _seconds)
        points = cell(path, line, "POLYLINE", row["POLYLINE"], json.loads)
        try:
            lonlat = np.array(points, dtype=np.float64).reshape(len(points), 2)
        except (TypeError, ValueError):
            raise DataError(f"line {line}, column 'POLYLINE' is not [[lon, lat], ...]", field=str(path)) from None
        for lon, lat in lonlat.tolist():
            _on_earth(path, f"line {line}", lon, lat)
        if len(lonlat) > 1:
            traces.append(GpsTrace(row["TRIP_ID"], start + _PORTO_INTERVAL * np.arange(len(lonlat)), lonlat))
    return traces


class _Gpx:
    """Collects the track points of a GPX document, one trace per track segment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler, self.parser.EndElementHandler = self.start, self.end
        self.parser.CharacterDataHandler = self.text
        self.segments: list[tuple[str, list[tuple[float, float, float]]]] = []
        self.open: list[str] = []
        self.words = ""
        self.track = 0
        self.name = ""

    def where(self) -> str:
        return f"line {self.parser.CurrentLineNumber}, column {self.parser.CurrentColumnNumber}"

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        space, _, name = tag.rpartition(" ")
        if not self.open and (name != "gpx" or space not in _GPX):
            raise DataError(f"{self.where()}: the root is {name!r}, not GPX 1.0 or 1.1", field=str(self.path))
        self.open.append(name)
        self.words = ""
        if name == "trk":
            self.track, self.name = self.track + 1, ""
        elif name == "trkseg":
            self.segments.append((self.name or f"track-{self.track}", []))
        elif name == "trkpt":
            self.point(attributes)

    def point(self, attributes: dict[str, str]) -> None:
        try:
            lon, lat = float(attributes["lon"]), float(attributes["lat"])
        except (KeyError, ValueError):
            what = f"{self.where()}: a track point without a readable lat and lon"
            raise DataError(what, field=str(self.path)) from None
        _on_earth(self.path, self.where(), lon, lat)
        if not self.segments:
            raise DataError(f"{self.where()}: a track point outside a track segment", field=str(self.path))
        self.segments[-1][1].append((math.nan, lon, lat))

    def text(self, words: str) -> None:
        self.words += words

    def end(self, tag: str) -> None:
        name = self.open.pop()
        parent = self.open[-1] if self.open else ""
        if name == "name" and parent == "trk":
            self.name = self.words.strip()
        elif name == "time" and parent == "trkpt":
            try:
                t = _seconds(self.words.strip().replace("Z", "+00:00"))
            except ValueError:
                raise DataError(f"{self.where()}: not a time", field=str(self.path), value=self.words[:40]) from None
            self.segments[-1][1][-1] = (t, *self.segments[-1][1][-1][1:])


def _read_gpx(path: Path) -> list[GpsTrace]:
    gpx = _Gpx(path)
    parse(path, gpx.parser)
    return [trace for name, fixes in gpx.segments if (trace := _trace(name, fixes)) is not None]


def observe(
    trips: Trips, *, interval: float = 15.0, sigma: float = 10.0, seed: int = 0, traffic: Traffic | None = None
) -> list[GpsTrace]:
    """Return the GPS of trips with times: a fix every `interval` seconds with Gaussian errors of `sigma` metres.

    The vehicle starts halfway along its first segment, ends halfway along its last one, and moves at constant speed
    within a segment; the last fix is where it ends. `traffic` says how long the last segment takes.
    """
    net, traces, law = trips.network, [], traffic or Traffic()
    last_time = np.stack([segment_time(net, law, p) for p in range(len(PERIODS))]) * law.pace
    for i, (path, enter) in enumerate(zip(trips.lists(), trips.times(), strict=True)):
        when = int(period(trips.depart[i : i + 1])[0])
        half = 0.5 * float(last_time[when, path[-1]])
        clock = np.append(enter.astype(np.float64), enter[-1] + 2 * half)
        along = np.concatenate([[0.0], np.cumsum(net.length[path].astype(np.float64))])
        first, last = 0.5 * clock[1], enter[-1] + half
        t = np.append(np.arange(first, last, interval), last)
        xy = _place(net, path, along, np.interp(t, clock, along))
        stream = np.arange(len(t))
        error = sigma * np.stack([normal(seed, i, stream, axis) for axis in (11, 12)], axis=1)
        start = trips.depart[i] if np.isfinite(trips.depart[i]) else 0.0
        traces.append(GpsTrace(trips.id[i], start + t, net.to_lonlat(xy + error)))
    return traces


def _place(net: RoadNetwork, path: np.ndarray, along: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the points [n, 2] in metres at distances `at` along a walk whose segments start at `along`."""
    hop = np.clip(np.searchsorted(along, at, side="right") - 1, 0, len(path) - 1)
    lines = net.lines[path[hop]]
    share = (at - along[hop]) / (along[hop + 1] - along[hop])
    return shapely.get_coordinates(shapely.line_interpolate_point(lines, share, normalized=True))
