"""What the tags of an OpenStreetMap way mean for a car: may it drive there, which way, how fast, on what kind of road.

The graph is osmnx's, one edge per stretch between two points of a way, in the direction in which the way was drawn
(`settings.all_oneway`). The rules come first and the merging of stretches last, so that a merged segment's travel time
is the sum of its stretches' and it knows every road class that it has a part of.

Reference: OpenStreetMap wiki, "Key:access" (the most specific tag decides), "Key:oneway" (what implies it),
"Key:barrier".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from apps.trajectory.network import ROAD_CLASSES

if TYPE_CHECKING:
    from networkx import MultiDiGraph

__all__ = ["CLASS_SPEED", "NODE_TAGS", "TAGS", "drivable", "merged", "speeds", "values"]

CLASS_SPEED: dict[str, float] = {
    "motorway": 90, "motorway_link": 50, "trunk": 70, "trunk_link": 45, "primary": 50, "primary_link": 40,
    "secondary": 45, "secondary_link": 35, "tertiary": 40, "tertiary_link": 35, "unclassified": 35, "residential": 30,
    "living_street": 15, "service": 15, "road": 30, "other": 30,
}  # fmt: skip
"""Speeds in km/h for segments without a limit, by road class (urban defaults)."""

_ACCESS = ("motorcar", "motor_vehicle", "vehicle", "access")
"""Who may enter, from the tag that says most about a car to the one that says least."""

TAGS = (*_ACCESS, "service", "area", "junction")
"""The tags of ways to read beside osmnx's own."""

NODE_TAGS = (*_ACCESS, "barrier", "bollard", "kerb")
"""The tags of points to read beside osmnx's own."""

_PASSED = {
    "arch", "border_control", "cattle_grid", "entrance", "gate", "height_restrictor", "lift_gate", "no", "sally_port",
    "toll_booth",
}  # fmt: skip
"""Barriers that a car goes through where nothing forbids it (OSRM's car profile has the same); others close a road."""

_CLOSED = {
    "no", "private", "permit", "agricultural", "forestry", "delivery", "emergency", "military", "bus", "psv", "taxi",
    "official", "residents",
}  # fmt: skip
"""Values of these tags that leave out a driver like any other; `destination` and `customers` may end there."""

_MINOR_SERVICE = {"alley", "driveway", "emergency_access", "parking", "parking_aisle", "private"}
_ONE_WAY = {"yes", "true", "1", "-1", "reverse", "T", "F"}
"""Values of `oneway` that mean one direction; osmnx has turned the drawing round for those that mean the other."""

_NO_SPEED = re.compile(r"[^1-9]*0[^1-9]*|.*\d{9}.*")
"""Speed limits that no car can keep (0, in any unit) or reach (nine digits): they count as missing."""

_KNOTS = re.compile(r"(\d+(?:[.,]\d+)?) ?knots")
"""Limits on the water's edge, which osmnx reads as km/h."""


def values(tag: Any) -> list[str]:
    """Return a tag's values as text: none, one, or what osmnx or a mapper joined."""
    return [] if tag is None else [str(t) for t in (tag if isinstance(tag, list) else [tag])]


def drivable(graph: MultiDiGraph) -> MultiDiGraph:
    """Leave the stretches that a car may drive, in each direction that it may take (in place)."""
    graph.remove_edges_from([(u, v, k) for u, v, k, d in graph.edges(keys=True, data=True) if not _drives(d)])
    graph.remove_nodes_from([n for n, degree in list(graph.degree()) if degree == 0])
    back = [(v, u, {**d, "reversed": True}) for u, v, d in graph.edges(data=True) if not _one_way(d)]
    graph.add_edges_from(back)
    return _cut(graph)


def _cut(graph: MultiDiGraph) -> MultiDiGraph:
    """Part the stretches that meet at a barrier: each ends there, at a point of its own (in place)."""
    free = max((abs(n) for n in graph), default=0) + 1
    for n in sorted(n for n, tags in graph.nodes(data=True) if _bars(tags)):
        around = sorted({*graph.predecessors(n), *graph.successors(n)} - {n})
        for other in around[1:]:
            graph.add_node(free, **graph.nodes[n])
            for u, v in ((n, other), (other, n)):
                for key, tags in list((graph.get_edge_data(u, v) or {}).items()):
                    graph.remove_edge(u, v, key)
                    graph.add_edge(free if u == n else u, free if v == n else v, key, **tags)
            free += 1
    return graph


def _bars(tags: dict[str, Any]) -> bool:
    kind = tags.get("barrier")
    said = _said(tags)
    if kind is None or said:
        return kind is not None and not _allowed(said)
    lowered = kind == "kerb" and (tags.get("kerb") in ("flush", "lowered", "no") or tags.get("highway") == "crossing")
    return not (lowered or kind in _PASSED or (kind == "bollard" and tags.get("bollard") == "rising"))


def _said(tags: dict[str, Any]) -> list[str]:
    """Return what the tag that says most about a car says of who may enter."""
    return next((values(tags[key]) for key in _ACCESS if tags.get(key) is not None), [])


def _allowed(said: list[str]) -> bool:
    return any(part not in _CLOSED for value in said for part in re.split(r"\s*;\s*", value))


def _drives(tags: dict[str, Any]) -> bool:
    roads = set(values(tags.get("highway")))
    if not roads.intersection(CLASS_SPEED) or "service" in roads or "yes" in values(tags.get("area")):
        return False
    if _MINOR_SERVICE.intersection(values(tags.get("service"))):
        return False
    said = _said(tags)
    return not said or _allowed(said)


def _one_way(tags: dict[str, Any]) -> bool:
    said = values(tags.get("oneway"))
    if said:
        return bool(_ONE_WAY.intersection(said))
    return "motorway" in values(tags.get("highway")) or tags.get("junction") in ("roundabout", "circular")


def _in_kmh(knots: re.Match[str]) -> str:
    return f"{1.852 * float(knots[1].replace(',', '.')):g}"


def speeds(graph: MultiDiGraph) -> MultiDiGraph:
    """Give every edge a speed (km/h; its limit, or its class's where none can be kept) and a travel time (s)."""
    import osmnx as ox

    for *_, data in graph.edges(data=True):
        said = values(data.get("maxspeed"))
        possible = [_KNOTS.sub(_in_kmh, limit) for limit in said if not _NO_SPEED.fullmatch(limit)]
        if possible != said:
            data["maxspeed"] = possible or None
    graph = ox.routing.add_edge_speeds(graph, hwy_speeds=CLASS_SPEED, fallback=CLASS_SPEED["other"])
    for *_, data in graph.edges(data=True):
        data["travel_time"] = data["length"] / (data["speed_kph"] / 3.6)
    return graph


def merged(graph: MultiDiGraph) -> MultiDiGraph:
    """Merge the stretches between two junctions: metres and seconds add up, ways and classes are listed in order.

    Of several road classes the first is the one of most metres.
    """
    import osmnx as ox

    for *_, data in graph.edges(data=True):
        data["highway"] = [(road, data["length"]) for road in values(data["highway"])]
    together = {"length": sum, "travel_time": sum, "osmid": _in_order, "highway": _longest_first}
    graph = ox.simplify_graph(graph, edge_attr_aggs=together)
    for *_, data in graph.edges(data=True):
        if isinstance(data["highway"][0], tuple):
            data["highway"] = [road for road, _ in data["highway"]]
    return graph


def _in_order(ways: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(ways))


def _longest_first(parts: Iterable[list[tuple[str, float]]]) -> list[str]:
    metres: dict[str, float] = {}
    for road, length in (pair for part in parts for pair in part):
        metres[road] = metres.get(road, 0.0) + length
    rank = {road: i for i, road in enumerate(ROAD_CLASSES)}
    return sorted(metres, key=lambda road: (-metres[road], rank.get(road, len(rank)), road))
