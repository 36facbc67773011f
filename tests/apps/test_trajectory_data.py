"""Trips and their readers: round trips, splits, other people's formats, and one clear line for each malformed file."""

from __future__ import annotations

import csv
import gzip
import time
from pathlib import Path

import numpy as np
import pytest

from apps.trajectory.city import synthetic_city
from apps.trajectory.data import Trips, read_matched, split
from apps.trajectory.export import to_hoser, to_sumo
from apps.trajectory.formats import read_hoser, read_roadmap, read_sumo, read_sumo_network
from apps.trajectory.gps import read_gps
from apps.trajectory.logit import simulate
from apps.trajectory.network import RoadNetwork
from apps.trajectory.osm import from_osm
from apps.trajectory.sources import read_trips
from apps.trajectory.topology import assemble
from core.errors import DataError, QuintetError, UsageError

SHARED = Path(__file__).resolve().parents[3] / "shared/data/trajectory"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/trajectory is absent")


@pytest.fixture(scope="module")
def city() -> RoadNetwork:
    return synthetic_city()


@pytest.fixture(scope="module")
def trips(city: RoadNetwork) -> Trips:
    return simulate(city, 200, seed=1)


def test_lists_select_concat(trips: Trips) -> None:
    again = Trips.from_lists(trips.network, trips.lists(), trips.depart, trips.times(), trips.id)
    assert (again.segment == trips.segment).all() and (again.ptr == trips.ptr).all() and again.id == trips.id
    order = np.random.default_rng(0).permutation(len(trips))
    mixed = trips.select(order)
    assert all((mixed.lists()[i] == trips.lists()[order[i]]).all() for i in range(len(trips)))
    back = Trips.concat([mixed.select(slice(0, 70)), mixed.select(slice(70, None))]).select(np.argsort(order))
    assert (back.segment == trips.segment).all() and (back.enter == trips.enter).all() and back.id == trips.id
    assert len(trips.select(np.zeros(len(trips), dtype=bool))) == 0
    km = [trips.network.length[s].sum() / 1000 for s in trips.lists()]
    assert np.allclose(trips.kilometres(), km, rtol=1e-5) and (trips.hops() == [len(s) for s in trips.lists()]).all()


def test_check_names_every_fault(city: RoadNetwork, trips: Trips) -> None:
    a, k = int(city.source[0]), int(city.succ[0])
    late = [np.array([0.0, 5.0]), np.empty(0), np.array([0.0, 5.0]), np.array([5.0, 0.0])]
    bad = Trips.from_lists(city, [np.array([a, k]), np.empty(0), np.array([a, a]), np.array([a, k])], None, late)
    faults = ["trip 1: empty", f"trip 2: no transition {a} -> {a}", f"trip 3: time runs back at segment {k}"]
    assert bad.check() == faults
    assert trips.check() == [] and "no segment" in Trips.from_lists(city, [np.array([city.n])]).check()[0]
    with pytest.raises(UsageError, match="depart"):
        Trips.from_lists(city, [np.array([a])], np.zeros(2))


def test_split_is_a_partition_stable_under_reordering(trips: Trips) -> None:
    parts = split(trips, seed=3)
    assert sorted(i for p in parts for i in p.id) == sorted(trips.id)
    assert 0.7 < len(parts[0]) / len(trips) < 0.9 and len(parts[1]) and len(parts[2])
    mixed = split(trips.select(np.random.default_rng(1).permutation(len(trips))), seed=3)
    assert [set(p.id) for p in mixed] == [set(p.id) for p in parts]
    assert set(split(trips, seed=4)[2].id) != set(parts[2].id)
    quarters = [split(trips, fractions=(0.65, 0.10, 0.25), turn=t)[2].id for t in (0, 0.25, 0.5, 0.75)]
    assert sorted(sum(quarters, [])) == sorted(trips.id)
    with pytest.raises(UsageError, match="fractions"):
        split(trips, fractions=(0.5, 0.1, 0.1))


def matched_csv(path: Path, network: RoadNetwork, walks: list[list[int]]) -> Path:
    """Write walks in the format of the matched Porto trips (any list of segments that meet end to start)."""
    lines = ["trip_id,start_unix,osm_nodes,enter_s"]
    for i, walk in enumerate(walks):
        nodes = [network.u[walk[0]], *network.v[walk]]
        lines.append(f"t{i},1000,{' '.join(map(str, nodes))},{' '.join(str(10 * j) for j in range(len(walk)))}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_read_matched_repairs_and_cuts(city: RoadNetwork, tmp_path: Path) -> None:
    """A short spur with a U-turn is dropped, at a long one the trip is cut and its longest part kept."""
    walk = simulate(city, 50, seed=5).lists()
    plain = next(w.tolist() for w in walk if len(w) > 8)
    junction = int(city.v[plain[3]])
    options = [int(s) for s in np.flatnonzero(city.u == junction)]
    reverse = {s: int(r[0]) for s in options if len(r := np.flatnonzero((city.u == city.v[s]) & (city.v == junction)))}
    spur = next(s for s, r in reverse.items() if s != plain[4] and city.transition(s, r) < 0 and r != plain[3])
    out_and_back = [*plain[:4], spur, reverse[spur], *plain[4:]]
    found = read_matched(matched_csv(tmp_path / "m.csv", city, [plain, out_and_back]), city)
    assert found.report == {"read": 2, "mapped": 2, "whole": 1, "spur dropped": 1}
    assert found.lists()[0].tolist() == found.lists()[1].tolist() == plain
    assert found.times()[1].tolist() == [0, 10, 20, 30, *(10.0 * np.arange(6, len(plain) + 2))]
    ahead = next(s for w in walk for i, s in enumerate(w[:-1].tolist()) if i > 1 and _reverse(city, s) is not None)
    there = next(w.tolist()[: w.tolist().index(ahead) + 1] for w in walk if ahead in w.tolist()[2:])
    cut = read_matched(matched_csv(tmp_path / "o.csv", city, [[*there, _reverse(city, ahead)]]), city)
    assert cut.lists()[0].tolist() == there and cut.report["longest part kept"] == 1


def test_a_trip_over_a_closed_street_keeps_its_longest_part(city: RoadNetwork, tmp_path: Path) -> None:
    walk = next(w.tolist() for w in simulate(city, 50, seed=5).lists() if len(w) > 8)
    closed = np.isin(np.arange(city.n), walk[2:3])
    file = matched_csv(tmp_path / "m.csv", city, [walk])
    found = read_matched(file, city.subset(~closed))
    kept = [s - (s > walk[2]) for s in walk[3:]]
    assert found.lists()[0].tolist() == kept and found.report == {"read": 1, "mapped": 1, "longest part kept": 1}
    assert found.times()[0].tolist() == [10.0 * i for i in range(len(kept))] and found.depart[0] == 1030


def test_points_that_are_no_junctions_are_passed_over(city: RoadNetwork, tmp_path: Path) -> None:
    """Another preparation of the map parted segments where this one has no junction: times are those of entering."""
    walk = next(w.tolist() for w in simulate(city, 50, seed=5).lists() if len(w) > 8)
    nodes = [int(city.u[walk[0]]), *city.v[walk].tolist()]
    said = [*nodes[:3], -7, *nodes[3:]]
    times = " ".join(str(10 * i) for i in range(len(walk) + 1))
    file = tmp_path / "m.csv"
    file.write_text(f"trip_id,start_unix,osm_nodes,enter_s\na,1000,{' '.join(map(str, said))},{times}\n")
    found = read_matched(file, city)
    assert found.lists()[0].tolist() == walk and found.report["whole"] == 1
    assert found.times()[0].tolist() == [0.0, 10.0, 20.0, *(10.0 * np.arange(4, len(walk) + 1))]
    file.write_text(f"trip_id,start_unix,osm_nodes,enter_s\na,1000,{' '.join(map(str, [-9, *said[1:]]))},{times}\n")
    headless = read_matched(file, city)
    assert headless.lists()[0].tolist() == walk[1:] and headless.report["longest part kept"] == 1


def test_a_long_way_out_is_no_spur_however_short_the_way_back(tmp_path: Path) -> None:
    """East to 2, 600 m round to 3, and 100 m straight back to 2: 700 m were driven, the trip is cut at 3."""
    place = {1: (0, 0), 2: (300, 0), 3: (400, 0), 4: (300, 300)}
    ends = [(1, 2), (2, 3), (3, 2), (2, 4), (4, 1), (3, 4), (4, 3)]
    lines = [np.array([place[a], place[b]], dtype=float) for a, b in ends]
    lines[1] = np.array([place[2], (300, -250), (350, -250), (350, -5), place[3]], dtype=float)
    u, v = np.array(ends).T
    length = [np.hypot(*np.diff(line, axis=0).T).sum() for line in lines]
    net = assemble("bow", "EPSG:32629", u=u, v=v, key=0 * u, osm_way=np.arange(7), length=np.array(length),
                   speed=np.full(7, 30), road_class=np.full(7, 11), geom_xy=np.concatenate(lines),
                   geom_ptr=np.cumsum([0, *map(len, lines)]))  # fmt: skip
    out, back = net.segment("2-3"), net.segment("3-2")
    assert net.transition(out, back) < 0 and net.length[out] > 590 and net.length[back] == 100
    walk = [net.segment(s) for s in ("1-2", "2-3", "3-2", "2-4")]
    found = read_matched(matched_csv(tmp_path / "m.csv", net, [walk]), net)
    assert found.lists()[0].tolist() == walk[:2] and found.report["longest part kept"] == 1


def _reverse(city: RoadNetwork, s: int) -> int | None:
    """Return the segment that drives s back, where turning into it is illegal."""
    back = np.flatnonzero((city.u == city.v[s]) & (city.v == city.u[s]))
    return int(back[0]) if len(back) and city.transition(s, back[0]) < 0 else None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'trip_id'"),
        ("trip_id,start_unix,osm_node,enter_s\n", "did you mean"),
        ("trip_id,start_unix,osm_nodes,enter_s\na,1,1 x 3,0 1\n", "line 2, column 'osm_nodes'"),
        ("trip_id,start_unix,osm_nodes,enter_s\na,1,1 2 3,0\n", "line 2: 1 times for 3 junctions"),
        ("trip_id,start_unix,osm_nodes,enter_s\na,soon,1 2 3,0 1\n", "line 2, column 'start_unix' is not a number"),
        ("trip_id,start_unix,osm_nodes,enter_s\na,1\n", "line 2 has fewer columns"),
        ("trip_id,start_unix,osm_nodes,enter_s\na,1,-1 -2 -3,0 1\n", "none of its 1 trips"),
    ],
)
def test_malformed_matched(city: RoadNetwork, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_matched(path, city)
    assert "m.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_csv_columns_are_found(tmp_path: Path) -> None:
    path = tmp_path / "fixes.csv"
    path.write_text("uid,datetime,lat,lng\nb,2020-01-01T00:00:10Z,45.0,-27.0\na,1577836800,45,-27\n"
                    "b,2020-01-01 00:00:00,45.1,-27.1\na,1577836805000,45.2,-27\n")  # fmt: skip
    b, a = read_gps(path)
    assert (b.id, a.id) == ("b", "a") and b.t.tolist() == [1577836800.0, 1577836810.0]
    assert b.lonlat.tolist() == [[-27.1, 45.1], [-27.0, 45.0]] and a.t.tolist() == [1577836800.0, 1577836805.0]


FLEET = "trip_id,time,lat,lon\na,1577836800,45,-27\nb,1577836801,45.1,-27\na,1577836805,45.2,-27\nb,1577836806,45,-27\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bom.csv", FLEET.encode("utf-8-sig")),
        ("bom.csv.gz", gzip.compress(FLEET.encode("utf-8-sig"), mtime=0)),
        ("FLEET.CSV.GZ", gzip.compress(FLEET.encode(), mtime=0)),
        ("blanks.csv", FLEET.replace(",", ", ").encode()),
        ("quoted.csv", FLEET.replace("trip_id,time,lat,lon", '"trip_id", "time" , "lat","lon"').encode()),
    ],
)
def test_tables_of_other_tools_mean_the_same(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    a, b = read_gps(tmp_path / name)
    assert (a.id, b.id) == ("a", "b") and a.t.tolist() == [1577836800.0, 1577836805.0]


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_times_in_any_unit(tmp_path: Path, scale: int) -> None:
    rows = "".join(f"{t * scale},45,-27.{t % 10}\n" for t in (1577836800, 1577836805))
    (tmp_path / "t.csv").write_text("timestamp,lat,lon\n" + rows)
    assert read_gps(tmp_path / "t.csv")[0].t.tolist() == [1577836800.0, 1577836805.0]


def test_a_time_without_a_zone_is_utc(city: RoadNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock of the machine says: as for raw GPS."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    a, k = int(city.source[5]), int(city.succ[5])
    rows = [f"x,2020-01-01 00:00:0{i},{s},{city.u[s]},{city.v[s]}" for i, s in enumerate((a, k))]
    (tmp_path / "long.csv").write_text("\n".join(["traj_id,t,segment_id,u,v", *rows]))
    found = read_trips(tmp_path / "long.csv", city)
    monkeypatch.undo()
    time.tzset()
    assert found.depart.tolist() == [1577836800.0] and found.enter.tolist() == [0.0, 1.0]


def gpx(body: str, version: str = "1/1", head: str = "") -> str:
    return f'<?xml version="1.0"?>{head}<gpx xmlns="http://www.topografix.com/GPX/{version}">{body}</gpx>'


@pytest.mark.parametrize("version", ["1/0", "1/1"])
def test_gpx(tmp_path: Path, version: str) -> None:
    points = "".join(f'<trkpt lat="45.{i}" lon="-27"><time>2020-01-01T00:00:0{i}Z</time></trkpt>' for i in range(3))
    body = f"<trk><name>walk</name><trkseg>{points}</trkseg><trkseg>{points}</trkseg></trk>"
    path = tmp_path / "a.gpx.gz"
    path.write_bytes(gzip.compress(gpx(body, version).encode()))
    one, two = read_gps(path)
    assert (one.id, two.id) == ("walk", "walk.2") and np.diff(one.t).tolist() == [1, 1]
    assert one.lonlat[2].tolist() == [-27.0, 45.2]


@pytest.mark.parametrize(("timed", "left", "known"), [("1111", 4, True), ("1011", 3, True), ("1001", 4, False)])
def test_points_without_time(tmp_path: Path, timed: str, left: int, known: bool) -> None:
    """One without costs itself, not the times of the others; where half have none, the order of the file counts."""
    points = "".join(
        f'<trkpt lat="45" lon="{i}">{f"<time>2024-01-01T00:0{i}:00Z</time>" if t == "1" else ""}</trkpt>'
        for i, t in enumerate(timed)
    )
    (tmp_path / "a.gpx").write_text(gpx(f"<trk><trkseg>{points}</trkseg></trk>"))
    (trace,) = read_gps(tmp_path / "a.gpx")
    assert len(trace) == left and np.isfinite(trace.t).all() == known and np.isnan(trace.t).all() != known
    assert (np.diff(trace.lonlat[:, 0]) > 0).all()


BOMB = '<!DOCTYPE gpx [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.gpx", gpx("<trk><trkseg>", head=""), "malformed XML at line 1"),
        ("a.gpx", gpx("<trk><name>&b;</name></trk>", head=BOMB), "document type"),
        ("a.gpx", "<kml></kml>", "not GPX"),
        ("a.gpx", gpx('<trk><trkseg><trkpt lat="x" lon="1"/></trkseg></trk>'), "column .* readable lat and lon"),
        ("a.gpx", gpx('<trk><trkseg><trkpt lat="95" lon="1"/></trkseg></trk>'), "latitude beyond 90"),
        ("a.gpx", gpx("<trk><trkseg></trkseg></trk>"), "no trace"),
        ("a.gpx", gpx('<trk><trkseg><trkpt lat="5" lon="1"><time>noon</time></trkpt></trkseg></trk>'), "not a time"),
        ("a.csv", "", "no column for time"),
        ("a.csv", "t,lat\n1,2\n", "no column for longitude"),
        ("a.csv", "t,lat,lon\n1,2,3\n2,north,3\n", "line 3, column 'lat' is not a number; got 'north'"),
        ("a.csv", "t,lat,lon\n1,-120,41\n", "exchanged"),
        ("a.csv", "t,lat,lon\nnan,45,3\n", "line 2, column 't'"),
        ("a.csv", "t,lat,lon\n1,45,3\n", "no trace"),
        ("a.csv", "TRIP_ID,TIMESTAMP,POLYLINE\n1,5,\"[[1,2],[3]]\"\n", "column 'POLYLINE'"),
        ("a.csv", "TRIP_ID,TIMESTAMP,POLYLINE\n1,5,\"[[1,2\"\n", "column 'POLYLINE'"),
        ("a.txt", "", "expected .csv"),
    ],
)  # fmt: skip
def test_malformed_gps(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_gps(path)
    assert name in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 3


def test_binary_rubbish_is_one_line(tmp_path: Path, city: RoadNetwork) -> None:
    rubbish = np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8).tobytes()
    for name in ("a.csv", "a.csv.gz", "a.gpx", "a.gpx.gz"):
        (tmp_path / name).write_bytes(rubbish)
        with pytest.raises(QuintetError, match=name):
            read_gps(tmp_path / name)
    with pytest.raises(QuintetError):
        read_matched(tmp_path / "a.csv.gz", city)
    with pytest.raises(QuintetError):
        read_sumo_network(tmp_path / "a.gpx.gz")


def test_hoser_files_come_back(trips: Trips, tmp_path: Path) -> None:
    to_hoser(trips, tmp_path)
    found, net = read_hoser(tmp_path / "test.csv"), trips.network
    other = found.network
    assert other.problem() is None and (other.succ == net.succ).all() and (other.u == net.u).all()
    assert (other.road_class == net.road_class).all() and np.allclose(other.length, net.length, atol=1e-3)
    assert np.abs(other.middle - net.middle).max() < 0.05
    assert (found.segment == trips.segment).all() and found.id == trips.id and found.check() == []
    assert np.abs(found.enter - trips.enter).max() < 1.01 and np.abs(found.depart - trips.depart).max() < 1.01


def test_roadmap_without_junctions(trips: Trips, tmp_path: Path) -> None:
    """LibCity's own files have no u and v: junctions follow from the relation, and names need not be rows."""
    net = trips.network
    to_hoser(trips, tmp_path)
    geo = (tmp_path / "roadmap.geo").read_text().splitlines()
    with (tmp_path / "roadmap.geo").open("w", newline="") as stream:
        for i, row in enumerate(csv.reader(geo)):
            csv.writer(stream).writerow(("geo_id", "type", "coordinates") if i == 0 else (f"r{row[0]}", *row[1:3]))
    rel = [r.split(",") for r in (tmp_path / "roadmap.rel").read_text().splitlines()]
    rows = [",".join(rel[0]), *(f"{a},{b},r{c},r{d}" for a, b, c, d in rel[1:])]
    (tmp_path / "roadmap.rel").write_text("\n".join(rows))
    found = read_roadmap(tmp_path)
    assert found.problem() is None and (found.succ == net.succ).all() and found.segment("r17") == 17
    assert np.allclose(found.length, net.length, rtol=2e-3)
    (tmp_path / "roadmap.rel").write_text("\n".join([*rows, "9,geo,r1,r9999"]))
    with pytest.raises(DataError, match="roadmap.rel.*'destination_id': no such segment.*r9999"):
        read_roadmap(tmp_path)


@pytest.mark.parametrize(
    ("said", "kmh"),
    [("50", 50), ("30 mph", 48.28), ("['25 mph', '40 mph']", 40.23), ("['60', '40']", 60), ("70 km/h", 70),
     ("none", 35), ("", 35), ("0", 35), ("80;50", 80)],
)  # fmt: skip
def test_speed_limits_of_a_roadmap(tmp_path: Path, said: str, kmh: float) -> None:
    rows = ((0, "[[10, 50], [10.01, 50]]", "unclassified", said), (1, "[[10.01, 50], [10, 50]]", "unclassified", said))
    with (tmp_path / "roadmap.geo").open("w", newline="") as stream:
        csv.writer(stream).writerows([("geo_id", "coordinates", "highway", "maxspeed"), *rows])
    (tmp_path / "roadmap.rel").write_text("origin_id,destination_id\n")
    net = read_roadmap(tmp_path)
    assert net.speed.tolist() == pytest.approx([kmh, kmh], abs=0.01)
    assert not net.is_walk([0, 1]) and net.is_walk([1]), "no segment follows another"


def test_only_lanes_for_cars_join_edges(tmp_path: Path) -> None:
    """A turn of the bicycle lane, or one that is closed to cars, is none for cars."""
    lane = '<lane index="{}" speed="9" length="10" shape="0,0 10,{}"{}/>'
    bike, car = (lane.format(i, i, more) for i, more in ((0, ' allow="bicycle"'), (1, "")))
    edges = "".join(f'<edge id="{e}" from="{a}" to="{b}">{bike}{car}</edge>' for e, a, b in ("abc", "bca", "cad"))
    link = '<connection from="{}" to="{}" fromLane="{}" toLane="{}"{}/>'
    links = (
        ("a", "b", 1, 1, ""),
        ("a", "c", 0, 0, ""),
        ("b", "c", 0, 1, ""),
        ("b", "a", 1, 1, ' disallow="passenger"'),
    )
    where = '<location projParameter="+proj=utm +zone=29 +datum=WGS84" netOffset="0,0"/>'
    path = tmp_path / "x.net.xml"
    path.write_text(f"<net>{where}{edges}{''.join(link.format(*k) for k in links)}</net>")
    net = read_sumo_network(path)
    assert [(net.label[a], net.label[k]) for a, k in zip(net.source, net.succ, strict=True)] == [("a", "b")]
    path.write_text(path.read_text().replace("+proj=utm +zone=29 +datum=WGS84", "-"))
    with pytest.raises(DataError, match="projection"):
        read_sumo_network(path)


@needs_shared
def test_sumo_bologna(tmp_path: Path) -> None:
    net = read_sumo_network(SHARED / "sumo_bologna/joined_buslanes.net.xml.gz")
    found = read_sumo(SHARED / "sumo_bologna/joined.rou.xml.gz", net)
    assert net.problem() is None and sum(found.report.values()) == 11_000 and len(found) > 10_000
    assert found.check() == [] and 0 <= found.depart.min() and found.depart.max() < 3600
    assert np.abs(net.to_lonlat(net.middle).mean(0) - (11.32, 44.50)).max() < 0.05
    to_sumo(found.select(slice(0, 500)), tmp_path / "again.rou.xml")
    again = read_sumo(tmp_path / "again.rou.xml", net)
    assert sorted(again.id) == sorted(found.id[:500]) and again.report == {"read": 500}


def test_malformed_sumo(tmp_path: Path, city: RoadNetwork) -> None:
    path = tmp_path / "x.net.xml"
    for text, message in (
        ("<net><edge", "malformed XML"),
        ("<routes/>", "not a SUMO network"),
        ('<net><edge id="a" from="1" to="2"><lane id="a_0" speed="9"/></edge></net>', "lacks or misstates"),
        ('<net><edge id="a" from="1" to="2"><lane speed="9" length="1" shape="0,0 1,1"/></edge></net>', "projection"),
        ('<net><location projParameter="+proj=utm +zone=29 +datum=WGS84" netOffset="0,0"/><edge id="a" from="1" to="2">'
         '<lane speed="9" length="inf" shape="0,0 1,1"/></edge><edge id="b" from="2" to="1"><lane speed="9" length="1" '
         'shape="1,1 0,0"/></edge><connection from="a" to="b"/></net>', "finite"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_sumo_network(path)
    path.write_text('<routes><vehicle id="1" depart="0"><route edges="zz"/></vehicle></routes>')
    with pytest.raises(DataError, match="no vehicle with a route"):
        read_sumo(path, city)


@needs_shared
def test_porto_trips_are_mapped() -> None:
    net = from_osm(SHARED / "porto/porto_drive.osm.gz")
    found = read_matched(SHARED / "porto/porto_taxi_matched.csv.gz", net)
    assert found.check() == [], "taxis also drive streets that are closed to cars, and turn round in mid-street"
    assert found.report == {"read": 762, "mapped": 762, "whole": 607, "spur dropped": 50, "longest part kept": 105}
    traces = read_gps(SHARED / "porto/porto_taxi.csv.gz")
    assert len(traces) > 780 and all((np.diff(t.t) == 15).all() for t in traces)
