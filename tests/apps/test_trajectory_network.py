"""Road networks: built from OSM, synthetic, saved, asked; malformed files are one clear line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from apps.trajectory.city import synthetic_city
from apps.trajectory.formats import read_sumo_network
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork, utm_zone
from apps.trajectory.osm import from_osm
from apps.trajectory.places import resolve
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


def test_an_impossible_network_is_not_assembled() -> None:
    one = np.ones(2)
    with pytest.raises(DataError, match="stop: inconsistent road network: a speed is not positive"):
        assemble("stop", "EPSG:32629", u=np.array([1, 2]), v=np.array([2, 1]), key=0 * one, osm_way=0 * one,
                 length=100 * one, speed=0 * one, road_class=11 * one, geom_ptr=np.array([0, 2, 4]),
                 geom_xy=np.array([[0, 0], [100, 0], [100, 0], [0, 0]], float))  # fmt: skip


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
