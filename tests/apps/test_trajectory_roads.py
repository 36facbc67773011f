"""Roads of OpenStreetMap: who may drive where, which way, how fast, and what merged stretches are called."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from apps.trajectory.network import ROAD_CLASSES, RoadNetwork
from apps.trajectory.osm import from_osm, from_place
from apps.trajectory.places import closures, resolve
from core.errors import DataError

PLACE = {1: (10.0, 50.0), 2: (10.004, 50.0), 3: (10.008, 50.0), 4: (10.004, 50.004)}


def osm(folder: Path, point: str = "", **tags: str) -> Path:
    """Write a ring of two-way streets: way 11 from 1 to 2 (with `tags`), way 12 on to 3, and back over 4 or not.

    Point 2 has the tags of `point`.
    """
    ways = {11: ((1, 2), tags), 12: ((2, 3), {}), 13: ((3, 4, 1), {}), 14: ((1, 3), {})}
    own = "".join(f'<tag k="{k}" v="{v}"/>' for k, v in (tag.split("=") for tag in point.split()))
    lines = [f'<node id="{i}" lon="{x}" lat="{y}">{own if i == 2 else ""}</node>' for i, (x, y) in PLACE.items()]
    for way, (nodes, more) in ways.items():
        said = "".join(f'<tag k="{k}" v="{v}"/>' for k, v in ({"highway": "residential"} | more).items())
        lines.append(f'<way id="{way}">' + "".join(f'<nd ref="{i}"/>' for i in nodes) + said + "</way>")
    (folder / "ring.osm").write_text('<osm version="0.6">' + "".join(lines) + "</osm>")
    return folder / "ring.osm"


def directions(net: RoadNetwork, *ways: int) -> set[tuple[int, int]]:
    """Return the stretches of these ways that may be driven, as pairs of junctions."""
    return {(int(net.u[i]), int(net.v[i])) for way in ways for i in net.of_way(way)}


@pytest.mark.parametrize(
    ("said", "open_"),
    [
        ("access=private", False), ("access=no", False), ("vehicle=no", False), ("motor_vehicle=private", False),
        ("motorcar=no motor_vehicle=yes", False), ("access=agricultural;forestry", False), ("vehicle=permit", False),
        ("access=private motor_vehicle=yes", True), ("access=no vehicle=destination", True), ("access=yes", True),
        ("vehicle=no motorcar=yes", True), ("access=customers", True), ("access=private;destination", True),
        ("service=alley", False), ("area=yes", False), ("highway=footway", False), ("highway=service", False),
    ],
)  # fmt: skip
def test_the_most_specific_tag_says_who_may_drive(tmp_path: Path, said: str, open_: bool) -> None:
    tags = dict(tag.split("=") for tag in said.split())
    net = from_osm(osm(tmp_path, **tags), cache=tmp_path / "cache", simplify=False)
    assert bool(len(net.of_way(11))) == open_ and len(net.of_way(14)) == 2


@pytest.mark.parametrize(
    ("point", "open_"),
    [
        ("barrier=bollard", False), ("barrier=block", False), ("barrier=gate access=private", False),
        ("barrier=kerb", False), ("barrier=gate", True), ("barrier=bollard motor_vehicle=yes access=no", True),
        ("barrier=bollard bollard=rising", True), ("barrier=kerb kerb=lowered", True), ("barrier=toll_booth", True),
        ("barrier=kerb highway=crossing", True), ("access=no", True), ("barrier=gate access=destination", True),
    ],
)  # fmt: skip
def test_a_barrier_parts_the_street(tmp_path: Path, point: str, open_: bool) -> None:
    """Nobody drives from 1 to 2 and on to 3 then, but up to the barrier from either side."""
    file = osm(tmp_path, point)
    net = from_osm(file, cache=tmp_path / "cache", simplify=False)
    plain = from_osm(osm(tmp_path), cache=tmp_path / "cache", simplify=False)
    assert net.n == plain.n == 10 and net.problem() is None
    (first,), (second,) = [i for i in net.of_way(11) if net.u[i] == 1], [i for i in net.of_way(12) if net.v[i] == 3]
    onward = {int(i) for i in net.succ[net.succ_ptr[first] : net.succ_ptr[first + 1]]}
    if open_:
        assert second in onward and directions(net, 11, 12) == directions(plain, 11, 12)
    else:
        assert net.v[first] != net.u[second] and second not in onward and all(net.v[i] == 1 for i in onward)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("highway=motorway", {(1, 2)}), ("highway=motorway oneway=no", {(1, 2), (2, 1)}),
        ("highway=motorway oneway=-1", {(2, 1)}), ("junction=circular", {(1, 2)}), ("junction=roundabout", {(1, 2)}),
        ("junction=roundabout oneway=no", {(1, 2), (2, 1)}), ("oneway=yes", {(1, 2)}), ("oneway=no", {(1, 2), (2, 1)}),
        ("highway=motorway_link", {(1, 2), (2, 1)}), ("oneway=reverse", {(2, 1)}), ("", {(1, 2), (2, 1)}),
    ],
)  # fmt: skip
def test_motorways_and_circles_run_one_way_unless_they_say_otherwise(
    tmp_path: Path, said: str, expected: set[tuple[int, int]]
) -> None:
    tags = dict(tag.split("=") for tag in said.split())
    net = from_osm(osm(tmp_path, **tags), cache=tmp_path / "cache", simplify=False)
    assert directions(net, 11) == expected and directions(net, 12) == {(2, 3), (3, 2)}


def test_a_merged_segment_takes_the_time_of_its_stretches_and_knows_their_classes(tmp_path: Path) -> None:
    """1-2 at 120 km/h and 2-3, as long, at the 30 km/h of its class: 48 km/h, not the mean of 75."""
    file = osm(tmp_path, highway="motorway", oneway="no", maxspeed="120")
    net, parts = (from_osm(file, cache=tmp_path / "cache", simplify=s) for s in (True, False))
    (there,) = set(net.of_way(11).tolist()) & set(np.flatnonzero(net.u == 1).tolist())
    stretches = [int(i) for way in (11, 12) for i in parts.of_way(way) if parts.u[i] < parts.v[i]]
    assert np.isclose(net.travel_time[there], parts.travel_time[stretches].sum(), rtol=1e-6)
    assert np.isclose(net.speed[there], 48.0, atol=0.1) and np.isclose(net.length[there], parts.length[stretches].sum())
    closed = [set(np.flatnonzero(net.of_class(road)).tolist()) for road in ("motorway", "residential", "primary")]
    assert closed[0] == set(net.of_way(11).tolist()) and closed[1] == set(range(net.n)) and not closed[2]
    assert (closures(net, (), ["motorway"]) == net.of_class("motorway")).all()


def test_a_place_is_read_by_the_rules_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import osmnx as ox

    file, asked = osm(tmp_path, highway="motorway", access="private", motor_vehicle="yes"), {}

    def download(place: str, **options: str | bool) -> object:
        asked.update(options)
        return ox.graph_from_xml(file, simplify=options["simplify"], retain_all=options["retain_all"])

    monkeypatch.setattr(ox, "graph_from_place", download)
    there, here = from_place("Nowhere", cache=tmp_path / "a"), from_osm(file, cache=tmp_path / "b")
    assert (there.succ == here.succ).all() and (there.speed == here.speed).all() and directions(there, 11) == {(1, 2)}
    kinds = re.fullmatch(r'\["highway"~"(.*)"\]', asked["custom_filter"])[1]
    assert [bool(re.search(kinds, road)) for road in ("motorway_link", "road", "footway", "tertiary")] == [1, 1, 0, 1]
    assert not ox.settings.all_oneway and "motorcar" not in ox.settings.useful_tags_way
    assert "barrier" not in ox.settings.useful_tags_node


@pytest.mark.parametrize("far", [0.0079, 0.001])
def test_the_class_of_a_merged_segment_is_that_of_most_metres(tmp_path: Path, far: float) -> None:
    before = PLACE[2]
    try:
        PLACE[2] = (10.0 + far, 50.0)
        net = from_osm(osm(tmp_path, highway="tertiary"), cache=tmp_path / "cache")
    finally:
        PLACE[2] = before
    kept = from_osm(tmp_path / "ring.osm", cache=tmp_path / "cache").subset(np.arange(net.n) < net.n)
    longest = "tertiary" if far > 0.004 else "residential"
    for network in (net, kept):
        assert {ROAD_CLASSES[c] for c in network.road_class[network.of_way(11)]} == {longest}
        assert network.of_class("tertiary").sum() == 2


@pytest.mark.parametrize(("limit", "kmh"), [("50", 50), ("5 knots", 9.26), ("7.5 knots", 13.89), ("20 mph", 32.19)])
def test_limits_have_their_units(tmp_path: Path, limit: str, kmh: float) -> None:
    net = from_osm(osm(tmp_path, maxspeed=limit), cache=tmp_path / "cache", simplify=False)
    assert np.allclose(net.speed[net.of_way(11)], kmh, atol=0.01)


@pytest.mark.parametrize("limit", ["0", "0 mph", "9" * 400, "walk"])
def test_a_speed_limit_that_no_car_can_keep_is_missing(tmp_path: Path, limit: str) -> None:
    odd = from_osm(osm(tmp_path, maxspeed=limit), cache=tmp_path / "cache", simplify=False)
    plain = from_osm(osm(tmp_path), cache=tmp_path / "cache", simplify=False)
    assert odd.problem() is None and np.isfinite(odd.travel_time).all() and (odd.speed == plain.speed).all()


def test_projected_graphml_is_the_same_network(tmp_path: Path) -> None:
    import osmnx as ox

    graph = ox.graph_from_xml(osm(tmp_path))
    ox.save_graphml(graph, tmp_path / "plain.graphml")
    ox.save_graphml(ox.project_graph(graph), tmp_path / "projected.graphml")
    plain, projected = (from_osm(tmp_path / f"{n}.graphml", cache=tmp_path) for n in ("plain", "projected"))
    assert (plain.succ == projected.succ).all() and np.allclose(plain.geom_xy, projected.geom_xy, atol=0.01)


def test_a_way_is_every_segment_that_it_is_part_of(tmp_path: Path) -> None:
    """Ways 11 and 12 meet at a junction of two, so that they become one segment each way."""
    net = from_osm(osm(tmp_path), cache=tmp_path / "cache")
    again = from_osm(tmp_path / "ring.osm", cache=tmp_path / "cache")
    direct = np.flatnonzero((abs(net.length - 573) < 3) & np.isin(net.u, (1, 3)) & (net.u != net.v))
    for network in (net, again, net.subset(np.arange(net.n) < net.n)):
        found = [set(resolve(network, f"way:{w}", "touch", "closed")) for w in (11, 12, 13, 14)]
        assert found[0] == found[1] and len(found[0]) == 2 and found[0] <= set(direct.tolist())
        assert not found[0] & (found[2] | found[3]) and set().union(*found) == set(range(net.n))


def test_an_extract_that_cuts_ways_says_how_to_keep_them(tmp_path: Path) -> None:
    path = osm(tmp_path)
    path.write_text(path.read_text().replace('<nd ref="3"/><tag', '<nd ref="3"/><nd ref="99"/><tag'))
    with pytest.raises(DataError, match="complete_ways"):
        from_osm(path, cache=tmp_path / "cache")
