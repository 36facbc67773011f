"""Places: what a person writes, and the road segments that it means.

| written | means, as origin | as destination or via | as closure |
|---|---|---|---|
| `17`, `"u-v"`, `"u-v-key"` | that segment | that segment | that segment |
| `"edge"`, a name in the file (SUMO, HOSER) | the segment of that name, even a number | the same | the same |
| `"node:123"` | any segment that leaves the junction | any that enters it | all that touch it |
| `"way:456"` | any segment that is part of the OpenStreetMap way | the same | all of them |
| `"lon,lat"` | the nearest segment and its twin in the other direction | the same | both |
| `"zone:file.geojson"`, a polygon | any segment whose middle lies inside | the same | all that touch it |

Where a place means several segments, an origin is drawn for each trip (in proportion to length: a uniform point of the
place's roads), and a destination or via point is satisfied by any of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from apps.trajectory.network import ROAD_CLASSES, RoadNetwork
from core.errors import DataError, InfeasibleError, QuintetError, UsageError

__all__ = ["Place", "Role", "area", "closures", "naming", "resolve", "several"]

Place = int | str | Sequence[Any] | Mapping[str, Any] | BaseGeometry | np.ndarray
Role = Literal["leave", "enter", "touch"]

NUMBER = r"\s*([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*"
POINT = re.compile(NUMBER + "," + NUMBER)
FORMS = 'a segment number, "u-v" or "u-v-key", "node:ID", "way:ID", "lon,lat" or "zone:FILE.geojson"'


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Give the mistakes of a block the name that the user knows them by."""
    try:
        yield
    except DataError:
        raise
    except QuintetError as error:
        text = str(error).removeprefix(f"{error.field}: ")
        named = type(error)(text, field=field)
        named.value = error.value
        raise named from None


def resolve(network: RoadNetwork, place: Place | None, role: Role, field: str) -> tuple[int, ...]:
    """Return the segments that a place means, ascending and at least one.

    Args:
        network: the roads.
        place: see the table above; in Python also a pair of floats, corners [k, 2], a polygon of shapely, GeoJSON.
        role: leave (origin), enter (destination, via) or touch (closure).
        field: what the place is called in a mistake.

    Raises:
        UsageError: unknown segment, node or way, a coordinate outside the network (says how far), not a place.
        InfeasibleError: a zone without roads, a junction that no segment leaves or enters.
        DataError: a zone's file is missing or malformed.
    """
    with naming(field):
        found = np.unique(np.asarray(_segments(network, place, role), np.int64))
        if not len(found):
            verb = {"leave": "leaves", "enter": "enters", "touch": "touches"}[role]
            raise InfeasibleError(f"no segment {verb} it", field=field, value=str(place)[:60])
        return tuple(found.tolist())


def _segments(network: RoadNetwork, place: Place | None, role: Role) -> Sequence[int] | np.ndarray:
    if isinstance(place, str):
        return _written(network, place.strip(), role)
    if isinstance(place, int | np.integer) and not isinstance(place, bool):
        return [network.segment(int(place))]
    if isinstance(place, Sequence | np.ndarray) and np.shape(place) == (2,):
        return _near(network, float(place[0]), float(place[1]))
    if isinstance(place, BaseGeometry | Mapping | Sequence | np.ndarray):
        return _inside(network, area(place), role)
    raise UsageError("not a place", field="place", value=place, hint=f"write {FORMS}")


def _written(network: RoadNetwork, text: str, role: Role) -> Sequence[int] | np.ndarray:
    if point := POINT.fullmatch(text):
        return _near(network, float(point[1]), float(point[2]))
    kind, _, rest = text.partition(":")
    if kind == "zone":
        return _inside(network, _read_area(Path(rest)), role)
    if kind == "node":
        return _at_node(network, _junction(network, rest.strip()), role)
    if kind == "way":
        every = network.way_id if len(network.way_id) else network.osm_way
        return _known(network.of_way(_number(rest, "way")), "way", rest, every)
    try:
        return [network.segment(text)]
    except UsageError:
        if re.fullmatch(r"-?\d+(-\d+){0,2}", text) or len(network.label):
            raise
        raise UsageError("not a place", field="place", value=text, hint=f"write {FORMS}") from None


def _number(text: str, kind: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text.strip()):
        raise UsageError(f"the id of a {kind} is a whole number", field=kind, value=text)
    return int(text)


def _junction(network: RoadNetwork, name: str) -> int:
    """Return the number of a junction in u and v: the file's name for it, or the number itself."""
    if not len(network.junction):
        return _number(name, "node")
    return int(_known(np.flatnonzero(network.junction == name), "node", name, network.junction)[0])


def _known(found: np.ndarray, kind: str, value: object, ids: np.ndarray) -> np.ndarray:
    if not len(found):
        raise UsageError(f"unknown {kind}", field=kind, value=str(value), choices=np.unique(ids).tolist())
    return found


def _at_node(network: RoadNetwork, node: int, role: Role) -> np.ndarray:
    here = {"leave": network.u == node, "enter": network.v == node, "touch": (network.u == node) | (network.v == node)}
    _known(np.flatnonzero(here["touch"]), "node", node, np.concatenate([network.u, network.v]))
    return np.flatnonzero(here[role])


def _near(network: RoadNetwork, lon: float, lat: float) -> np.ndarray:
    """Return the nearest segment and, on a two-way street, its twin."""
    found, _ = network.nearest(np.array([lon, lat]))
    best = int(found[0])
    twin = np.flatnonzero((network.u == network.v[best]) & (network.v == network.u[best]))
    same = abs(network.length[twin] - network.length[best]) < 1.0
    close = np.hypot(*(network.middle[twin] - network.middle[best]).T) < 5.0
    return np.append(twin[same & close], best)


def _inside(network: RoadNetwork, lonlat: BaseGeometry, role: Role) -> np.ndarray:
    metric = shapely.transform(lonlat, network.to_xy)
    if role == "touch":
        found = network.tree.query(metric, predicate="intersects")
    else:
        found = np.flatnonzero(shapely.contains_xy(metric, network.middle))
    if not len(found):
        metres = float(shapely.distance(metric, shapely.multipoints(network.middle)))
        what = "touches no segment" if role == "touch" else "holds the middle of no segment"
        raise InfeasibleError(f"the zone {what}; the nearest is {metres:.0f} m away", field="zone")
    return found


def area(zone: Place) -> BaseGeometry:
    """Return a polygon in degrees from corners [k, 2], a shapely geometry or a GeoJSON dict.

    Raises:
        UsageError: not a polygon on the earth.
    """
    found: BaseGeometry | None = None
    try:
        if isinstance(zone, BaseGeometry):
            found = zone
        elif isinstance(zone, Mapping):
            parts = zone["features"] if zone.get("type") == "FeatureCollection" else [zone]
            found = shapely.union_all([shapely.make_valid(shape(p.get("geometry", p))) for p in parts])
        elif np.ndim(np.asarray(zone, float)) == 2 and len(zone) >= 3:  # type: ignore[arg-type]
            found = shapely.make_valid(shapely.Polygon(np.asarray(zone, float)))
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, shapely.errors.ShapelyError):
        found = None
    if found is None or found.is_empty or not found.area > 0:
        raise UsageError("not a polygon of at least three (longitude, latitude) corners", field="zone")
    west, south, east, north = found.bounds
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise UsageError("the polygon's corners are not longitudes and latitudes", field="zone")
    return found


def _read_area(path: Path) -> BaseGeometry:
    if not path.is_file():
        raise DataError("no such file", field=str(path))
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"malformed GeoJSON ({error})", field=str(path)) from None
    if not isinstance(content, dict):
        raise DataError("malformed GeoJSON (not an object)", field=str(path))
    try:
        return area(content)
    except UsageError as error:
        raise DataError(str(error).removeprefix("zone: "), field=str(path)) from None


def several(places: Place | Iterable[Place]) -> Iterable[Any]:
    """Return places one by one, also where only one is given without a list."""
    return [places] if isinstance(places, str | int | np.integer | Mapping | BaseGeometry) else places


def closures(network: RoadNetwork, closed: Iterable[Place], forbid: Iterable[str]) -> np.ndarray | None:
    """Return the closed segments, bool [N], by place and by road class; None where nothing is closed.

    Raises:
        UsageError: see `resolve`; an unknown road class.
    """
    mask = np.zeros(network.n, bool)
    if isinstance(closed, np.ndarray) and closed.dtype == bool:
        if closed.shape != mask.shape:
            raise UsageError(f"a mask needs {network.n} entries", field="closed", value=closed.shape)
        mask |= closed
    else:
        for place in several(closed):
            mask[list(resolve(network, place, "touch", "closed"))] = True
    for name in [forbid] if isinstance(forbid, str) else forbid:
        if name not in ROAD_CLASSES:
            raise UsageError("unknown road class", field="forbid", value=name, choices=ROAD_CLASSES)
        mask |= network.of_class(name)
    return mask if mask.any() else None
