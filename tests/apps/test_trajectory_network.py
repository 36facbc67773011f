"""Road networks: built from OSM, synthetic, saved, asked; malformed files are one clear line."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from apps.trajectory.city import synthetic_city
from apps.trajectory.formats import read_sumo_network
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork, utm_zone
from apps.trajectory.osm import from_osm, from_place
from apps.trajectory.places import closures, resolve
from apps.trajectory.topology import assemble, components
from core.errors import DataError, UsageError

SHARED = Path(__file__).resolve().parents[3] / "shared/data/trajectory"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/trajectory is absent")


@pytest.fixture(scope="module")
def city() -> RoadNetwork:
    return synthetic_city()


def star(extra: tuple[tuple[int, int], ...] = ()) -> RoadNetwork:
    """A triangle 1-2-3 driven both ways with a dead end 3-4; two-way streets of one OSM way each."""
    place = {1: (0.0, 0.0), 2: (100.0, 0.0), 3: (100.0, 100.0), 4: (100.0, 200.0)}
    streets = [(1, 2), (2, 3), (3, 1), (3, 4), *extra]
    ends = [(a, b, w) for w, (a, b) in enumerate(streets) for a, b in ((a, b), (b, a))]
    u, v, way = np.array(ends).T
    xy = np.array([place[i] for e in ends for i in e[:2]]) + (500000.0, 4500000.0)
    ones = np.ones(len(u))
    length = np.hypot(*(xy[1::2] - xy[::2]).T)
    return assemble("star", "EPSG:32629", u=u, v=v, key=0 * u, osm_way=way, length=length, speed=30 * ones,
                    road_class=11 * u**0, geom_ptr=2 * np.arange(len(u) + 1), geom_xy=xy)  # fmt: skip


def test_u_turns_only_at_dead_ends() -> None:
    net = star()
    turns = {(int(net.u[a]), int(net.v[a]), int(net.v[k])) for a, k in zip(net.source, net.succ, strict=True)}
    assert (3, 4, 3) in turns, "the dead end lets no one out"
    assert [t for t in turns if t[0] == t[2]] == [(3, 4, 3)]
    assert net.n == 8 and components(net.n, net.source, net.succ).all()


def test_turn_is_signed_left_positive() -> None:
    net = star()
    east = net.segment("1-2")
    north = net.segment("2-3")
    turn = net.turn[net.transition(np.array([east]), np.array([north]))[0]]
    assert turn == pytest.approx(np.pi / 2, abs=1e-6)
    back = net.turn[net.transition(np.array([net.segment("3-2")]), np.array([net.segment("2-1")]))[0]]
    assert back == pytest.approx(-np.pi / 2, abs=1e-6)


def test_no_segment_is_cut_off_by_removing_u_turns() -> None:
    """4-2 can only be entered from 2-4, which has another way on: without its U-turn it would be lost."""
    place = {1: (0, 0), 2: (100, 0), 3: (100, 100), 4: (300, 0)}
    ends = [(1, 2), (2, 3), (3, 1), (2, 4), (4, 2), (4, 1)]
    u, v = np.array(ends).T
    xy = np.array([place[i] for e in ends for i in e], dtype=float)
    way = np.array([0, 1, 2, 3, 3, 4])
    net = assemble("way", "EPSG:32629", u=u, v=v, key=0 * u, osm_way=way, length=np.full(6, 100),
                   speed=np.full(6, 30), road_class=np.full(6, 11), geom_ptr=2 * np.arange(7), geom_xy=xy)  # fmt: skip
    assert net.n == 6
    assert net.is_walk([net.segment("2-4"), net.segment("4-2")])
    assert net.is_walk([net.segment("2-4"), net.segment("4-1")])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_city_is_whole_and_deterministic(seed: int) -> None:
    net, again = synthetic_city(seed), synthetic_city(seed)
    assert 400 <= net.n <= 500 and net.problem() is None
    assert components(net.n, net.source, net.succ).all()
    assert (net.geom_xy == again.geom_xy).all() and (net.succ == again.succ).all()
    two_way = set(zip(net.u.tolist(), net.v.tolist(), strict=True))
    one_way = np.mean([(b, a) not in two_way for a, b in two_way])
    assert 0.05 < one_way < 0.5
    assert {ROAD_CLASSES[c] for c in np.unique(net.road_class)} >= {"trunk", "primary", "residential"}


def test_city_has_a_river_with_three_bridges(city: RoadNetwork) -> None:
    """Without its (three, two-way) bridges the city falls into two banks."""
    angle = np.deg2rad(11.0)
    up = (city.end - city.start) @ np.array([-np.sin(angle), np.cos(angle)])
    bridges = (abs(up) > 195) & (city.length > 195)
    assert bridges.sum() == 6
    rest = city.subset(~bridges)
    from scipy.sparse.csgraph import connected_components

    _, bank = connected_components(rest.adjacency(), directed=False)
    sizes = np.sort(np.bincount(bank))[::-1]
    assert sizes[0] < 0.7 * rest.n and sizes[:2].sum() > 0.95 * rest.n


def test_walks_and_transitions(city: RoadNetwork) -> None:
    adjacency = city.adjacency().toarray()
    a, k = np.meshgrid(np.arange(city.n), np.arange(city.n), indexing="ij")
    assert ((city.transition(a, k) >= 0) == adjacency).all()
    assert city.is_walk([int(city.source[5]), int(city.succ[5])]) and city.is_walk([3])
    assert not city.is_walk([]) and not city.is_walk([0, 0]) and not city.is_walk([-1, 0])
    column = [sorted(city.pred[city.pred_ptr[i] : city.pred_ptr[i + 1]]) for i in range(city.n)]
    assert column == [sorted(np.flatnonzero(adjacency[:, i])) for i in range(city.n)]
    assert (city.succ[city.pred_transition] == np.repeat(np.arange(city.n), np.diff(city.pred_ptr))).all()


def test_closing_and_subset_agree(city: RoadNetwork) -> None:
    closed = np.zeros(city.n, dtype=bool)
    closed[[4, 20, 77]] = True
    open_only = city.adjacency(closed).toarray()
    assert not open_only[closed].any() and not open_only[:, closed].any()
    rest = city.subset(~closed)
    assert rest.problem() is None
    assert (rest.adjacency().toarray() == open_only[~closed][:, ~closed]).all()


def test_saved_and_loaded(city: RoadNetwork, tmp_path: Path) -> None:
    city.save(tmp_path / "c.npz")
    other = RoadNetwork.load(tmp_path / "c.npz")
    assert other.name == city.name and (other.succ == city.succ).all() and (other.geom_xy == city.geom_xy).all()
    (tmp_path / "half.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:-900])
    with pytest.raises(DataError, match="half.npz"):
        RoadNetwork.load(tmp_path / "half.npz")
    with pytest.raises(DataError, match="no such file"):
        RoadNetwork.load(tmp_path / "none.npz")
    city.subset(np.arange(city.n) < 50).save(tmp_path / "d.npz")
    stored = dict(np.load(tmp_path / "d.npz"))
    stored["succ"] = stored["succ"] + 40
    np.savez(tmp_path / "d.npz", **stored)
    with pytest.raises(DataError, match="inconsistent"):
        RoadNetwork.load(tmp_path / "d.npz")


def test_coordinates(city: RoadNetwork) -> None:
    assert np.allclose(city.to_xy(city.to_lonlat(city.middle)), city.middle, atol=1e-4)
    ids, metres = city.nearest(city.to_lonlat(city.middle[17]), k=5)
    assert ids[0] in (17, city.segment(f"{city.v[17]}-{city.u[17]}")) and metres[0] < 0.01
    assert len(set(ids.tolist())) == 5 and (np.diff(metres) >= 0).all()
    assert utm_zone(-8.6, 41.1) == "EPSG:32629" and utm_zone(151.2, -33.9) == "EPSG:32756"


def test_nearest_says_how_far_outside(city: RoadNetwork) -> None:
    far = city.to_lonlat(city.geom_xy.max(0) + (3000.0, 4000.0))
    with pytest.raises(UsageError, match=r"lies \d{4} m outside the network"):
        city.nearest(far)
    with pytest.raises(UsageError, match="not a longitude and latitude"):
        city.nearest((45.0, 100.0))


def test_segment_names(city: RoadNetwork) -> None:
    i = 33
    assert city.segment(i) == city.segment("33") == city.segment(f"{city.u[i]}-{city.v[i]}-{city.key[i]}") == i
    with pytest.raises(UsageError, match=f"{city.u[i]}-"):
        city.segment(f"{city.u[i]}-99999")
    with pytest.raises(UsageError, match="ids are 0 to"):
        city.segment(city.n)
    with pytest.raises(UsageError, match="segment"):
        city.segment("the bridge")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<osm><node id='1' lat='1' lon='1'></osm>", "malformed XML at line 1"),
        (b"hello", "malformed XML at line 1"),
        (b"<osm version='0.6'></osm>", "not a usable OpenStreetMap file"),
        (b"<osm version='0.6'><node id='1' lat='41' lon='-8'/><node id='2' lat='41.1' lon='-8'/><way id='5'>"
         b"<nd ref='1'/><nd ref='2'/><tag k='highway' v='footway'/></way></osm>", "no road that a car may drive"),
    ],
)  # fmt: skip
def test_malformed_osm(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.osm"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        from_osm(path, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value) and "bad" in str(caught.value)
    assert not (tmp_path / "cache").exists(), "nothing half-written"


def test_damaged_or_missing_osm(tmp_path: Path) -> None:
    path = tmp_path / "cut.osm.gz"
    path.write_bytes(gzip.compress(b"<osm>" + b"<node/>" * 9000)[:60])
    with pytest.raises(DataError, match="cut.osm.gz"):
        from_osm(path, cache=tmp_path)
    with pytest.raises(DataError, match="no such file"):
        from_osm(tmp_path / "none.osm", cache=tmp_path)
    (tmp_path / "a.shp").write_bytes(b"")
    with pytest.raises(DataError, match="expected .osm"):
        from_osm(tmp_path / "a.shp", cache=tmp_path)


@needs_shared
def test_porto(tmp_path: Path) -> None:
    """The data's README counts 20,782 segments, 83 more: it keeps streets that are closed to most cars."""
    net = from_osm(SHARED / "porto/porto_drive.osm.gz", cache=tmp_path)
    assert net.n == 20699 and 36_000 <= net.m <= 37_000 and net.crs == "EPSG:32629"
    assert components(net.n, net.source, net.succ).all()
    assert np.isfinite(net.speed).all() and 5 <= net.speed.min() and net.speed.max() <= 130
    prepared = from_osm(SHARED / "porto/porto_drive.osm.gz", cache=tmp_path, name="again")
    assert prepared.name == "again" and (prepared.succ == net.succ).all()
    assert len(list(tmp_path.iterdir())) == 1


@needs_shared
def test_monaco_and_porto_center(tmp_path: Path) -> None:
    assert from_osm(SHARED / "networks/monaco_drive.osm.gz", cache=tmp_path).n == 621
    assert from_osm(SHARED / "porto/porto_center.osm.gz", cache=tmp_path).n == 493


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


def test_an_impossible_network_is_not_assembled() -> None:
    one = np.ones(2)
    with pytest.raises(DataError, match="stop: inconsistent road network: a speed is not positive"):
        assemble("stop", "EPSG:32629", u=np.array([1, 2]), v=np.array([2, 1]), key=0 * one, osm_way=0 * one,
                 length=100 * one, speed=0 * one, road_class=11 * one, geom_ptr=np.array([0, 2, 4]),
                 geom_xy=np.array([[0, 0], [100, 0], [100, 0], [0, 0]], float))  # fmt: skip


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


def test_networks_saved_without_ways_and_junctions_load(city: RoadNetwork, tmp_path: Path) -> None:
    city.save(tmp_path / "c.npz")
    stored = {
        k: v for k, v in np.load(tmp_path / "c.npz").items() if k not in ("way_ptr", "way_id", "junction", "classes")
    }
    np.savez(tmp_path / "old.npz", **stored)
    old = RoadNetwork.load(tmp_path / "old.npz")
    way = int(city.osm_way[3])
    assert (old.succ == city.succ).all() and old.of_way(way).tolist() == city.of_way(way).tolist()
    assert (old.of_class("primary") == (city.road_class == ROAD_CLASSES.index("primary"))).all()


SUMO = """<net version="1.9"><location netOffset="-500000,-5500000"
 projParameter="+proj=utm +zone=32 +ellps=WGS84 +datum=WGS84 +units=m +no_defs"/>
<edge id="1" from="10" to="0"><lane id="1_0" index="0" speed="14" length="100" shape="0,0 100,0"/></edge>
<edge id="10" from="0" to="20"><lane id="10_0" index="0" speed="14" length="100" shape="100,0 200,0"/></edge>
<edge id="2" from="20" to="10"><lane id="2_0" index="0" speed="14" length="100" shape="200,0 0,0"/></edge>
<connection from="1" to="10"/><connection from="10" to="2"/><connection from="2" to="1"/></net>"""


def test_names_of_edges_and_junctions_are_not_numbers(tmp_path: Path) -> None:
    (tmp_path / "s.net.xml").write_text(SUMO)
    read_sumo_network(tmp_path / "s.net.xml").save(tmp_path / "s.npz")
    net = RoadNetwork.load(tmp_path / "s.npz")
    assert [net.segment(name) for name in ("1", "10", "2")] == [0, 1, 2] == [net.segment(i) for i in range(3)]
    assert resolve(net, "node:0", "leave", "x") == (1,) and resolve(net, "node:20", "enter", "x") == (1,)
    for wrong in ("0", "0-1", "node:2", "node:x"):
        with pytest.raises(UsageError) as caught:
            resolve(net, wrong, "touch", "closed")
        assert caught.value.field == "closed" and "\n" not in str(caught.value)
