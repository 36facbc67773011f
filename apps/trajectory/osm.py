"""Road networks from OpenStreetMap: a file or the name of a place, through osmnx, prepared once and cached.

Only ways that a car may drive are kept, in the directions that it may take (`apps/trajectory/roads.py`); the missing
speed limits (92 % of Porto's) are imputed by road class; the largest strongly connected component remains, so
that every segment can be reached from every other. Turn restrictions are relations that osmnx does not read: they
are not obeyed. Map data (c) OpenStreetMap contributors, ODbL 1.0.

Reference: Boeing (2017), OSMnx, Computers, Environment and Urban Systems 65.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError
from xml.sax import SAXParseException
from zlib import error as ZlibError

import numpy as np

from apps.trajectory.network import ROAD_CLASSES, RoadNetwork, utm_zone
from apps.trajectory.roads import CLASS_SPEED, NODE_TAGS, TAGS, drivable, merged, speeds, values
from apps.trajectory.topology import assemble
from core.errors import DataError

if TYPE_CHECKING:
    from networkx import MultiDiGraph

__all__ = ["cache_folder", "from_osm", "from_place"]

_SUFFIXES = (".osm", ".osm.gz", ".osm.bz2", ".graphml")
_VERSION = "7"
_ROADS = f'["highway"~"^({"|".join(CLASS_SPEED)})$"]'
"""What to ask the Overpass service for; `drivable` does the rest."""


def cache_folder() -> Path:
    """Return where prepared networks are kept: $QUINTET_CACHE, or `quintet` in the user's cache folder."""
    chosen = os.environ.get("QUINTET_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen if chosen else f"{base}/quintet").expanduser()


def from_osm(
    path: str | Path, *, name: str | None = None, simplify: bool = True, cache: str | Path | None = None
) -> RoadNetwork:
    """Build the road network of an OpenStreetMap extract.

    Args:
        path: .osm, .osm.gz, .osm.bz2 or .graphml (as osmnx writes it).
        name: what to call it; by default the file's name.
        simplify: merge the stretches between two junctions into one segment.
        cache: folder for the prepared network, keyed by the content of the file; by default `cache_folder()`.

    Raises:
        DataError: the file is missing, damaged, or holds no road.
    """
    path = Path(path)
    name = name or path.name.split(".")[0]
    if not path.is_file():
        raise DataError("no such file", field=str(path))
    if not path.name.endswith(_SUFFIXES):
        raise DataError("not a road network file", field=str(path), hint="expected " + ", ".join(_SUFFIXES))
    key = hashlib.sha256(path.read_bytes() + f"|{simplify}|{_VERSION}".encode()).hexdigest()
    network = _cached(key, cache, lambda: _build(_read(path, simplify), name))
    network.name = name
    return network


def from_place(name: str, *, cache: str | Path | None = None) -> RoadNetwork:
    """Download and build the road network of a place ("Porto, Portugal") from the public OpenStreetMap services.

    Raises:
        DataError: the services cannot be reached, or do not know the place.
    """
    key = hashlib.sha256(f"{name}|{_VERSION}".encode()).hexdigest()
    return _cached(key, cache, lambda: _build(_download(name), name))


def _cached(key: str, cache: str | Path | None, prepare: Callable[[], RoadNetwork]) -> RoadNetwork:
    stored = (Path(cache) if cache else cache_folder()) / f"roads-{key[:32]}.npz"
    if stored.is_file():
        with suppress(DataError):
            return RoadNetwork.load(stored)
    network = prepare()
    try:
        network.save(stored)
    except OSError as error:
        print(f"note: the prepared network was not cached ({error})", file=sys.stderr)
    return network


@contextmanager
def _tags() -> Iterator[Any]:
    """Ask osmnx for the tags that say who may drive where, and which way, for as long as the context lasts."""
    import osmnx as ox

    own = ox.settings
    ways, points, one_way = own.useful_tags_way, own.useful_tags_node, own.all_oneway
    own.useful_tags_way, own.useful_tags_node, own.all_oneway = [*ways, *TAGS], [*points, *NODE_TAGS], True
    try:
        yield ox
    finally:
        own.useful_tags_way, own.useful_tags_node, own.all_oneway = ways, points, one_way


def _read(path: Path, simplify: bool) -> MultiDiGraph:
    field = str(path)
    try:
        with _tags() as ox:
            if path.name.endswith(".graphml"):
                return speeds(_in_degrees(ox.load_graphml(path)))
            return _prepare(ox.graph_from_xml(path, simplify=False, retain_all=True), simplify)
    except (ParseError, SAXParseException) as error:
        sax = isinstance(error, SAXParseException)
        line, column = (error.getLineNumber(), error.getColumnNumber()) if sax else error.position
        reason = error.getMessage() if sax else error.msg.split(":")[0]
        raise DataError(f"malformed XML at line {line}, column {column} ({reason})", field=field) from None
    except (OSError, EOFError, ZlibError) as error:
        raise DataError(f"cannot be read ({error})", field=field) from None
    except Exception as error:
        detail = f"{type(error).__name__}: {error}".splitlines()[0]
        cut = "the extract lacks points of its ways: cut it with `osmium extract --strategy=complete_ways`"
        hint = cut if "missing nodes" in detail else None
        raise DataError(f"not a usable OpenStreetMap file ({detail})", field=field, hint=hint) from None


def _download(place: str) -> MultiDiGraph:
    try:
        with _tags() as ox:
            ox.settings.cache_folder = str(cache_folder() / "osmnx")
            graph = ox.graph_from_place(place, simplify=False, retain_all=True, custom_filter=_ROADS)
            return _prepare(graph, simplify=True)
    except Exception as error:
        detail = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        hint = "check the name and the connection, or pass an .osm file"
        raise DataError(f"no road network for this place ({detail})", field="place", value=place, hint=hint) from None


def _in_degrees(graph: MultiDiGraph) -> MultiDiGraph:
    """Return a graph in longitude and latitude, whatever coordinates osmnx wrote it in."""
    import osmnx as ox

    crs = graph.graph.get("crs")
    return ox.project_graph(graph, to_latlong=True) if crs and ox.projection.is_projected(crs) else graph


def _prepare(graph: MultiDiGraph, simplify: bool) -> MultiDiGraph:
    graph = drivable(graph)
    if graph.number_of_edges() == 0:
        return graph
    return merged(speeds(graph)) if simplify else speeds(graph)


def _build(graph: MultiDiGraph, name: str) -> RoadNetwork:
    """Turn an osmnx graph (longitude and latitude on the nodes) into arrays."""
    import pyproj

    if graph.number_of_edges() == 0:
        raise DataError("no road that a car may drive", field=name)
    nodes = {n: (d["x"], d["y"]) for n, d in graph.nodes(data=True)}
    edges = sorted(graph.edges(keys=True, data=True), key=lambda e: e[:3])
    lines = [_line(nodes, u, v, d) for u, v, _, d in edges]
    lonlat = np.concatenate(lines)
    crs = utm_zone(*np.median(lonlat, axis=0))
    project = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    columns = _columns(edges)
    ways = [[int(way) for way in values(e[3].get("osmid"))] for e in edges]
    ptr = np.concatenate([[0], np.cumsum([len(p) for p in lines])]).astype(np.int64)
    xy = np.stack(project.transform(lonlat[:, 0], lonlat[:, 1]), axis=1)
    return assemble(name, crs, **columns, geom_ptr=ptr, geom_xy=xy, ways=ways)


def _line(nodes: dict[int, tuple[float, float]], u: int, v: int, data: dict[str, Any]) -> np.ndarray:
    if "geometry" in data:
        return np.asarray(data["geometry"].coords)[:, :2]
    return np.array([nodes[u], nodes[v]])


def _columns(edges: list[tuple[int, int, int, dict[str, Any]]]) -> dict[str, Any]:
    number = {c: i for i, c in enumerate(ROAD_CLASSES)}
    data = [e[3] for e in edges]
    roads = [[number.get(r, number["other"]) for r in values(d.get("highway")) or ["other"]] for d in data]
    return {
        "u": np.array([e[0] for e in edges], dtype=np.int64),
        "v": np.array([e[1] for e in edges], dtype=np.int64),
        "key": np.array([e[2] for e in edges]),
        "osm_way": np.array([int((values(d.get("osmid")) or ["0"])[0]) for d in data], dtype=np.int64),
        "length": np.array([d["length"] for d in data]),
        "speed": np.array([_speed(d, ROAD_CLASSES[own[0]]) for d, own in zip(data, roads, strict=True)]),
        "road_class": np.array([own[0] for own in roads]),
        "classes": np.array([sum(1 << c for c in set(own)) for own in roads]),
    }


def _speed(data: dict[str, Any], road: str) -> float:
    """Return the speed at which a segment takes the time of its stretches, km/h (two points may lie in one place)."""
    return 3.6 * data["length"] / data["travel_time"] if data["travel_time"] > 0 else CLASS_SPEED[road]
