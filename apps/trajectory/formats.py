"""Other people's files: HOSER / LibCity road maps and trips, SUMO networks and routes.

Both state which segment follows which, so that the transitions are theirs, not derived. Where a road map names no
junctions they follow from its relation: the end of a and the start of k are one junction for every a -> k.
Segments keep the order of the file (HOSER's ids are rows) and their names as labels.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.parsers import expat

import numpy as np
import pyproj
import scipy.sparse as sp
from pyproj.exceptions import CRSError
from scipy.sparse.csgraph import connected_components

from apps.trajectory.data import Trips, cell, table
from apps.trajectory.markup import parse
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork, utm_zone
from apps.trajectory.roads import CLASS_SPEED
from apps.trajectory.topology import assemble
from core.errors import DataError

__all__ = ["read_hoser", "read_roadmap", "read_sumo", "read_sumo_network"]

_NUMBER = {c: i for i, c in enumerate(ROAD_CLASSES)}
MILE = 1.609344
"""Kilometres."""


def read_roadmap(folder: str | Path, stem: str = "roadmap") -> RoadNetwork:
    """Read a LibCity / HOSER road map: `stem`.geo (a line per segment) and `stem`.rel (which follows which).

    Raises:
        DataError: a file is missing or malformed (file, line, column).
    """
    geo, rel = Path(folder) / f"{stem}.geo", Path(folder) / f"{stem}.rel"
    names, lines, roads, speeds, lengths, ends = [], [], [], [], [], []
    for line, row in table(geo, ("geo_id", "coordinates")):
        names.append(row["geo_id"])
        lines.append(_polyline(geo, line, row["coordinates"]))
        roads.append(_road(row.get("highway")))
        speeds.append(_limit(row.get("maxspeed")) or CLASS_SPEED[roads[-1]])
        lengths.append(_number(row.get("length")))
        ends.append((row.get("u"), row.get("v"), row.get("key")))
    if not lines:
        raise DataError("no segment in it", field=str(geo))
    number = {name: i for i, name in enumerate(names)}
    pairs = []
    for line, row in table(rel, ("origin_id", "destination_id")):
        for column in ("origin_id", "destination_id"):
            if row[column] not in number:
                raise DataError(f"line {line}, column {column!r}: no such segment", field=str(rel), value=row[column])
        pairs.append((number[row["origin_id"]], number[row["destination_id"]]))
    joins = np.unique(np.array(pairs, dtype=np.int64).reshape(-1, 2), axis=0).T
    u, v, key = _junctions(ends, joins, len(lines))
    lonlat = np.concatenate(lines)
    crs = utm_zone(*np.median(lonlat, axis=0))
    project = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    xy = np.stack(project.transform(lonlat[:, 0], lonlat[:, 1]), axis=1)
    ptr = np.concatenate([[0], np.cumsum([len(p) for p in lines])])
    metres = [length or float(np.linalg.norm(np.diff(xy[a:b], axis=0), axis=1).sum())
              for length, a, b in zip(lengths, ptr[:-1], ptr[1:], strict=True)]  # fmt: skip
    plain = names == [str(i) for i in range(len(names))]
    return assemble(
        Path(folder).name, crs, u=u, v=v, key=key, osm_way=np.zeros(len(u)), length=np.array(metres),
        speed=np.array(speeds), road_class=np.array([_NUMBER[r] for r in roads]), geom_ptr=ptr, geom_xy=xy,
        label=None if plain else np.array(names), pairs=(joins[0], joins[1]), connected=False,
    )  # fmt: skip


def _polyline(path: Path, line: int, text: str) -> np.ndarray:
    points = cell(path, line, "coordinates", text, json.loads)
    try:
        lonlat = np.array(points, dtype=np.float64).reshape(len(points), 2)
    except (TypeError, ValueError):
        lonlat = np.empty((0, 2))
    if len(lonlat) < 2 or not (np.isfinite(lonlat).all() and (abs(lonlat) <= (180, 90)).all()):
        raise DataError(f"line {line}, column 'coordinates' is not [[lon, lat], [lon, lat], ...]", field=str(path))
    return lonlat


def _road(text: str | None) -> str:
    """Return the first road class that a list of tags or a SUMO type (cycleway.lane|highway.primary) names."""
    named = (word.strip("[]'\" ").removeprefix("highway.") for word in re.split(r"[,|]", text or ""))
    return next((word for word in named if word in _NUMBER), "other")


def _number(text: str | None) -> float | None:
    try:
        value = float((text or "").strip("[]'\" ").split(",")[0].strip("'\" "))
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0 else None


def _limit(text: str | None) -> float | None:
    """Return a speed limit in km/h (the first of several), None where there is none."""
    said = re.match(r"[\['\" ]*(\d+(?:\.\d+)?)\s*(mph)?", (text or "").lower())
    value = _number(text) or (_number(said[1]) if said else None)
    return value * MILE if value and said and said[2] else value


def _junctions(
    ends: Sequence[tuple[str | None, str | None, str | None]], joins: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return u, v, key: those of the file where it has them and the relation agrees, else those of the relation."""
    try:
        u, v, key = (np.array([int(e[k] or "") for e in ends], dtype=np.int64) for k in range(3))
        if (v[joins[0]] == u[joins[1]]).all():
            return u, v, key
    except ValueError:
        pass
    same = sp.csr_matrix((np.ones(joins.shape[1], dtype=bool), (joins[0] + n, joins[1])), shape=(2 * n, 2 * n))
    node = connected_components(same, directed=False)[1].astype(np.int64)
    return node[:n], node[n:], _keys(node[:n], node[n:])


def _keys(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    seen: Counter[tuple[int, int]] = Counter()
    key = []
    for pair in zip(u.tolist(), v.tolist(), strict=True):
        key.append(seen[pair])
        seen[pair] += 1
    return np.array(key)


def read_hoser(path: str | Path, network: RoadNetwork | None = None) -> Trips:
    """Read HOSER trips (rid_list, time_list) or generated trips (gene_trace_road_id, gene_trace_datetime).

    Args:
        path: the table.
        network: its road map; by default `roadmap.geo` and `roadmap.rel` beside the table.

    Raises:
        DataError: malformed (file, line, column), or a segment that the network does not have.
    """
    path = Path(path)
    network = network or read_roadmap(path.parent)
    known = {str(name): i for i, name in enumerate(network.label)}
    first = next(table(path, ()), (0, {}))[1]
    generated = ("gene_trace_road_id", "gene_trace_datetime")
    segments, times = ("rid_list", "time_list") if "rid_list" in first else generated
    lists, enters, departs, names, own = [], [], [], [], []
    for line, row in table(path, (segments, times)):
        ids = cell(path, line, segments, row[segments], _ids)
        clock = cell(path, line, times, row[times], _clock)
        if len(clock) != len(ids) or not len(ids):
            raise DataError(f"line {line}: {len(clock)} times for {len(ids)} segments", field=str(path))
        walk = [known.get(i, -1) if known else int(i) if i.isdecimal() else -1 for i in ids]
        wrong = [i for i, s in zip(ids, walk, strict=True) if not 0 <= s < network.n]
        if wrong:
            raise DataError(f"line {line}, column {segments!r}: no such segment", field=str(path), value=wrong[0])
        lists.append(np.array(walk))
        enters.append(clock - clock[0])
        departs.append(clock[0])
        names.append(row.get("traj_id") or str(len(names)))
        own.append(row.get("entity_id") or "")
    unique = len(set(own)) == len(own) and all(own)
    return Trips.from_lists(network, lists, np.array(departs), enters, own if unique else names)


def _ids(text: str) -> list[str]:
    return [w.strip(" '\"") for w in text.strip().strip("[]").split(",") if w.strip()]


def _clock(text: str) -> np.ndarray:
    moments = np.array([w.removesuffix("Z") for w in _ids(text)], dtype="datetime64[ms]")
    if np.isnat(moments).any():
        raise ValueError(text)
    return moments.astype(np.int64) / 1000.0


class _SumoNetwork:
    """Collects the edges that cars may use, and the connections between their lanes for cars."""

    def __init__(self) -> None:
        self.edges: dict[str, tuple[str, str, str, str, float, float]] = {}
        self.shut: set[tuple[str, str | None]] = set()
        self.connections: list[tuple[str, str]] = []
        self.offset, self.projection = (0.0, 0.0), "!"
        self.edge: dict[str, str] | None = None
        self.root = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.root = self.root or tag
        if tag == "location":
            self.offset = tuple(float(x) for x in attributes["netOffset"].split(","))
            self.projection = attributes.get("projParameter", "!")
        elif tag == "edge":
            self.edge = attributes if attributes.get("function", "normal") == "normal" else None
        elif tag == "lane" and self.edge and not _for_cars(attributes):
            self.shut.add((self.edge["id"], attributes.get("index")))
        elif tag == "lane" and self.edge and self.edge["id"] not in self.edges:
            e = self.edge
            shape = e.get("shape") or attributes["shape"]
            length, speed = float(attributes["length"]), float(attributes["speed"])
            self.edges[e["id"]] = (e["from"], e["to"], e.get("type", ""), shape, length, speed)
        elif tag == "connection" and "from" in attributes and not attributes["from"].startswith(":"):
            lanes = {(attributes[end], attributes.get(f"{end}Lane", "")) for end in ("from", "to")}
            if _for_cars(attributes) and not lanes & self.shut:
                self.connections.append((attributes["from"], attributes["to"]))


def _for_cars(part: dict[str, str]) -> bool:
    """Tell whether a lane or a connection is open to passenger cars."""
    allow, disallow = part.get("allow", "").split(), part.get("disallow", "").split()
    return "passenger" in allow or "all" in allow if allow else not {"passenger", "all"}.intersection(disallow)


def read_sumo_network(path: str | Path) -> RoadNetwork:
    """Read a SUMO network (.net.xml, .net.xml.gz): its edges for passenger cars and its connections.

    Raises:
        DataError: malformed, not a SUMO network, or without a projection.
    """
    path, net, parser = Path(path), _SumoNetwork(), expat.ParserCreate()
    parser.StartElementHandler = net.start
    try:
        parse(path, parser)
    except (KeyError, ValueError) as error:
        where = f"line {parser.CurrentLineNumber}: an element lacks or misstates {error}"
        raise DataError(where, field=str(path)) from None
    if net.root != "net" or not net.edges:
        raise DataError("not a SUMO network with edges for cars", field=str(path), value=net.root)
    try:
        pyproj.CRS(net.projection)
    except CRSError:
        found = {"field": str(path), "value": net.projection, "hint": "build it with netconvert --proj.utm"}
        raise DataError("the network has no usable projection", **found) from None
    names, rows = list(net.edges), list(net.edges.values())
    number = {name: i for i, name in enumerate(names)}
    node = {name: i for i, name in enumerate(dict.fromkeys(x for r in rows for x in r[:2]))}
    try:
        lines = [np.array([p.split(",")[:2] for p in r[3].split()], dtype=np.float64).reshape(-1, 2) for r in rows]
    except ValueError as error:
        raise DataError(f"a lane's shape cannot be read ({error})", field=str(path)) from None
    for name, row, line in zip(names, rows, lines, strict=True):
        if not (np.isfinite(line).all() and np.isfinite(row[4:]).all() and min(row[4:]) > 0):
            raise DataError("a lane's length, speed or shape is not a finite number", field=str(path), value=name)
    joins = sorted({(number[a], number[k]) for a, k in net.connections if a in number and k in number})
    source, target = np.array(joins, dtype=np.int64).reshape(-1, 2).T
    u, v = np.array([node[r[0]] for r in rows]), np.array([node[r[1]] for r in rows])
    return assemble(
        path.name.split(".")[0], net.projection, u=u, v=v, key=_keys(u, v), osm_way=np.zeros(len(u)),
        length=np.array([r[4] for r in rows]), speed=np.array([r[5] * 3.6 for r in rows]),
        road_class=np.array([_NUMBER[_road(r[2])] for r in rows]),
        geom_ptr=np.concatenate([[0], np.cumsum([len(p) for p in lines])]),
        geom_xy=np.concatenate(lines) - np.array(net.offset), label=np.array(names), junction=list(node),
        pairs=(source, target), connected=False,
    )  # fmt: skip


class _SumoRoutes:
    """Collects the vehicles (name, departure, name of the route), the routes, and what `to_sumo` says of time 0."""

    def __init__(self) -> None:
        self.routes: dict[str, str] = {}
        self.vehicles: list[tuple[str, str, str | None]] = []
        self.inside, self.midnight = False, 0.0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "vehicle":
            self.vehicles.append((attributes.get("id", ""), attributes.get("depart", ""), attributes.get("route")))
            self.inside = True
        elif tag == "route" and self.inside and self.vehicles[-1][2] is None:
            name, depart, _ = self.vehicles[-1]
            self.routes[f"of {name}"] = attributes.get("edges", "")
            self.vehicles[-1] = (name, depart, f"of {name}")
        elif tag == "route" and "id" in attributes:
            self.routes[attributes["id"]] = attributes.get("edges", "")

    def end(self, tag: str) -> None:
        self.inside = self.inside and tag != "vehicle"

    def comment(self, text: str) -> None:
        if said := re.fullmatch(r" time 0 is (\S+)Z ", text):
            self.midnight = float(_clock(said[1])[0])


def read_sumo(path: str | Path, network: RoadNetwork, *, midnight: float | None = None) -> Trips:
    """Read SUMO routes (.rou.xml, .rou.xml.gz): every vehicle with a list of edges; `report` counts the others.

    Args:
        path: the routes.
        network: the SUMO network.
        midnight: unix seconds of SUMO's time 0; by default what the file's comment (`export.to_sumo`) says, else 0.

    Raises:
        DataError: malformed, or no vehicle has a route on the network.
    """
    number = {str(name): i for i, name in enumerate(network.label)}
    file, parser = _SumoRoutes(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = file.start, file.end
    parser.CommentHandler = file.comment
    parse(path, parser)
    begin = file.midnight if midnight is None else midnight
    lists, departs, names, counts = [], [], [], Counter()
    for name, depart, route in file.vehicles:
        edges = file.routes.get(route or "", "").split()
        case = "no route" if not edges else "unknown edge" if any(e not in number for e in edges) else "read"
        walk = np.array([number[e] for e in edges]) if case == "read" else np.empty(0, dtype=int)
        case = "unconnected edges" if case == "read" and not network.is_walk(walk) else case
        counts[case] += 1
        if case == "read":
            lists.append(walk)
            departs.append(begin + _seconds_or_nan(depart))
            names.append(name)
    if not lists:
        raise DataError(f"no vehicle with a route on this network ({dict(counts)})", field=str(path))
    trips = Trips.from_lists(network, lists, np.array(departs), None, names)
    trips.report = dict(counts)
    return trips


def _seconds_or_nan(text: str) -> float:
    """Return the seconds of a SUMO time ("27.5", "08:15:00", "1:08:15:00"), NaN where it is none."""
    try:
        units = [float(part) for part in reversed(text.split(":"))]
        return sum(unit * size for unit, size in zip(units, (1, 60, 3600, 86400), strict=False))
    except ValueError:
        return float("nan")
