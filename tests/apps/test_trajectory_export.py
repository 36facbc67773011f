"""What is written is what can be read back: by other libraries, by our own readers, and whole or not at all."""

from __future__ import annotations

import csv
import gzip
import json
import xml.etree.ElementTree as ElementTree
from datetime import datetime
from pathlib import Path

import geopandas
import gpxpy
import numpy as np
import pytest

from apps.trajectory import export, maps, pictures
from apps.trajectory.baselines import Fastest, KShortest
from apps.trajectory.city import synthetic_city
from apps.trajectory.data import Trips
from apps.trajectory.formats import read_hoser, read_roadmap, read_sumo
from apps.trajectory.sources import read_trips
from core.errors import DataError, UsageError

NOON = 1372680000.0
GPX = "{http://www.topografix.com/GPX/1/1}"


@pytest.fixture(scope="module")
def city():
    return synthetic_city()


@pytest.fixture(scope="module")
def trips(city):
    rng = np.random.default_rng(0)
    depart = NOON + rng.permutation(25) * 60.5
    return Fastest(city).sample(rng.integers(0, city.n, 25), rng.integers(0, city.n, 25), depart)


@pytest.fixture(scope="module")
def timeless(city, trips):
    return Trips.from_lists(city, trips.lists(), id=[f"<trip & {i}>" for i in range(len(trips))])


def unix(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_geojson_lines(trips, timeless, tmp_path) -> None:
    export.to_geojson(trips, tmp_path / "t.geojson")
    frame = geopandas.read_file(tmp_path / "t.geojson")
    assert list(frame["id"].astype(str)) == trips.id and frame.crs.to_epsg() == 4326
    metres = frame.to_crs(trips.network.crs).length
    np.testing.assert_allclose(metres, trips.kilometres() * 1e3, rtol=2e-3, atol=1.0)
    export.to_geojson(timeless, tmp_path / "u.geojson")
    features = json.loads((tmp_path / "u.geojson").read_text())["features"]
    for feature, walk, name in zip(features, trips.lists(), timeless.id, strict=True):
        assert feature["properties"]["segments"] == walk.tolist() and feature["properties"]["id"] == name
        assert feature["properties"]["depart"] is None and feature["properties"]["seconds"] is None
        line = np.array(feature["geometry"]["coordinates"])
        np.testing.assert_allclose(line[0], trips.network.to_lonlat(trips.network.start[walk[0]]), atol=1e-7)
        np.testing.assert_allclose(line[-1], trips.network.to_lonlat(trips.network.end[walk[-1]]), atol=1e-7)


def test_geojson_points_and_csv_agree(trips, tmp_path) -> None:
    export.to_geojson(trips, tmp_path / "p.geojson", "point")
    export.to_csv(trips, tmp_path / "t.csv.gz")
    features = json.loads((tmp_path / "p.geojson").read_text())["features"]
    with gzip.open(tmp_path / "t.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == export.COLUMNS and len(rows) == len(features) == len(trips.segment)
    assert [int(r["segment_id"]) for r in rows] == trips.segment.tolist()
    for row, feature in zip(rows[:50], features, strict=False):
        assert [float(row["lon"]), float(row["lat"])] == feature["geometry"]["coordinates"]
        assert row["t"] == feature["properties"]["t"]
    moments = np.array([unix(r["t"]) for r in rows])
    np.testing.assert_allclose(moments, np.repeat(trips.depart, trips.hops()) + trips.enter, atol=6e-4)
    last = trips.ptr[1:] - 1
    assert all(rows[i]["speed"] == "" for i in last)
    speed = np.array([float(r["speed"]) for i, r in enumerate(rows) if i not in set(last.tolist())])
    assert (speed > 1).all() and (speed < 130).all()
    with pytest.raises(UsageError, match="line"):
        export.to_geojson(trips, tmp_path / "x.geojson", "lines")


def test_unknown_times_stay_empty(timeless, tmp_path) -> None:
    export.to_csv(timeless, tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").open(newline="")))
    assert {r["t"] for r in rows} == {r["speed"] for r in rows} == {""}
    assert rows[0]["traj_id"] == "<trip & 0>"
    export.to_gpx(timeless, tmp_path / "t.gpx")
    root = ElementTree.parse(tmp_path / "t.gpx").getroot()
    assert root.find(f"{GPX}trk/{GPX}name").text == "<trip & 0>" and root.find(f".//{GPX}time") is None


def test_a_departure_is_kept_where_the_times_on_the_way_are_unknown(trips, tmp_path) -> None:
    """SUMO's routes have a departure and nothing else; a name in capitals is compressed as it says."""
    started = Trips.from_lists(trips.network, trips.lists(), trips.depart)
    export.write(started, tmp_path / "T.CSV.GZ")
    assert gzip.decompress((tmp_path / "T.CSV.GZ").read_bytes()).startswith(b"traj_id")
    found = read_trips(tmp_path / "T.CSV.GZ", trips.network)
    assert np.abs(found.depart - trips.depart).max() < 1e-3 and (found.segment == trips.segment).all()
    first = np.isin(np.arange(len(found.segment)), found.ptr[:-1])
    assert (found.enter[first] == 0).all() and np.isnan(found.enter[~first]).all()


def test_parquet(trips, tmp_path) -> None:
    export.to_parquet(trips, tmp_path / "t.parquet")
    frame = geopandas.read_parquet(tmp_path / "t.parquet")
    assert tuple(frame.columns) == (*export.COLUMNS, "geometry") and frame.crs.to_epsg() == 4326
    lists = [g["segment_id"].to_numpy() for _, g in frame.groupby("traj_id", sort=False)]
    assert all(np.array_equal(a, b) for a, b in zip(lists, trips.lists(), strict=True))
    assert frame["t"].iloc[0].timestamp() == pytest.approx(trips.depart[0])
    assert frame["t"].dt.tz is not None and frame["speed"].isna().sum() == len(trips)


def test_gpx_is_readable_and_its_time_runs_forward(trips, tmp_path) -> None:
    export.to_gpx(trips, tmp_path / "t.gpx")
    tracks = gpxpy.parse((tmp_path / "t.gpx").read_text()).tracks
    assert [t.name for t in tracks] == trips.id
    for i, track in enumerate(tracks):
        points = track.segments[0].points
        seconds = np.array([p.time.timestamp() for p in points])
        assert (np.diff(seconds) >= 0).all() and seconds[0] == pytest.approx(trips.depart[i], abs=1e-3)
        lonlat = trips.network.polyline(trips.lists()[i])
        ends = [[points[0].longitude, points[0].latitude], [points[-1].longitude, points[-1].latitude]]
        np.testing.assert_allclose(ends, lonlat[[0, -1]], atol=1e-6)
        assert track.length_2d() / 1e3 == pytest.approx(trips.kilometres()[i], rel=5e-3, abs=2e-3)


def test_sumo_round_trip(trips, tmp_path) -> None:
    export.to_sumo(trips, tmp_path / "t.rou.xml")
    vehicles = ElementTree.parse(tmp_path / "t.rou.xml").getroot().findall("vehicle")
    departs = [float(v.get("depart")) for v in vehicles]
    assert departs == sorted(departs) and 0 <= departs[0] < 86400
    network = trips.network.subset(np.ones(trips.network.n, dtype=bool))
    network.label = np.array(export.edge_names(network))
    back = read_sumo(tmp_path / "t.rou.xml", network, midnight=NOON // 86400 * 86400)
    order = np.argsort(trips.depart)
    assert back.id == [trips.id[i] for i in order]
    np.testing.assert_allclose(back.depart, trips.depart[order], atol=0.011)
    assert all(np.array_equal(a, trips.lists()[i]) for a, i in zip(back.lists(), order, strict=True))


def test_segments_are_called_as_their_network_calls_them(trips, tmp_path) -> None:
    """What GeoJSON and CSV say of trips on another system's network can be asked for again, and is read again."""
    network = trips.network.subset(np.ones(trips.network.n, dtype=bool))
    junctions = np.unique([network.u, network.v])
    network.u, network.v = np.searchsorted(junctions, network.u), np.searchsorted(junctions, network.v)
    network.label = np.array([f"{network.n - i}" for i in range(network.n)])
    network.junction = np.array([f"J{j}" for j in junctions])
    theirs = Trips.from_lists(network, trips.lists(), trips.depart, trips.times(), trips.id)
    export.to_geojson(theirs, tmp_path / "t.geojson")
    for feature, walk in zip(json.loads((tmp_path / "t.geojson").read_text())["features"], theirs.lists(), strict=True):
        said = feature["properties"]
        assert [network.segment(name) for name in said["segments"]] == walk.tolist()
        assert [said["origin"], said["destination"]] == [said["segments"][0], said["segments"][-1]]
    export.to_csv(theirs, tmp_path / "t.csv")
    first = next(csv.DictReader((tmp_path / "t.csv").open(newline="")))
    assert first["segment_id"] == network.label[theirs.segment[0]] and first["u"].startswith("J")
    again = read_trips(tmp_path / "t.csv", network)
    assert again.id == theirs.id and (again.segment == theirs.segment).all()
    export.to_parquet(theirs, tmp_path / "t.parquet")
    assert geopandas.read_parquet(tmp_path / "t.parquet")["segment_id"][0] == first["segment_id"]
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace(f",{first['segment_id']},J", ",0,J", 1))
    with pytest.raises(DataError, match="line 2, column 'segment_id'"):
        read_trips(tmp_path / "t.csv", network)


def test_sumo_network_names_what_the_routes_use(trips, tmp_path) -> None:
    export.to_sumo_network(trips.network, tmp_path / "city")
    parts = {k: ElementTree.parse(tmp_path / f"city.{k}.xml").getroot() for k in ("nod", "edg", "con")}
    nodes = {n.get("id") for n in parts["nod"]}
    edges = {e.get("id"): (e.get("from"), e.get("to")) for e in parts["edg"]}
    assert len(edges) == trips.network.n and {n for ends in edges.values() for n in ends} == nodes
    joined = {(c.get("from"), c.get("to")) for c in parts["con"]}
    assert len(joined) == trips.network.m and all(edges[a][1] == edges[b][0] for a, b in joined)
    export.to_sumo(trips, tmp_path / "t.rou.xml")
    for route in ElementTree.parse(tmp_path / "t.rou.xml").getroot().iter("route"):
        names = route.get("edges").split()
        assert all(pair in joined for pair in zip(names, names[1:], strict=False))


def test_hoser_round_trip(trips, tmp_path) -> None:
    export.to_hoser(trips, tmp_path, "test")
    network = read_roadmap(tmp_path)
    assert network.n == trips.network.n and network.m == trips.network.m
    np.testing.assert_array_equal(network.succ, trips.network.succ)
    np.testing.assert_allclose(network.length, trips.network.length, atol=2e-3)
    np.testing.assert_array_equal(network.road_class, trips.network.road_class)
    back = read_hoser(tmp_path / "test.csv", network)
    assert all(np.array_equal(a, b) for a, b in zip(back.lists(), trips.lists(), strict=True))
    np.testing.assert_allclose(back.enter, trips.enter, atol=1.01)
    assert back.id == trips.id


def test_departures_are_demanded_where_the_format_does(timeless, tmp_path) -> None:
    for write in (export.to_sumo, export.to_hoser):
        with pytest.raises(UsageError, match="departure"):
            write(timeless, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_half_written(trips, tmp_path, monkeypatch) -> None:
    path = tmp_path / "t.geojson"
    path.write_text("old")
    calls = iter([0, 0, 0])

    def failing(*args: object) -> object:
        next(calls)
        return track(*args)

    track = export.track
    monkeypatch.setattr(export, "track", failing)
    with pytest.raises((StopIteration, RuntimeError)):
        export.to_geojson(trips, path)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["t.geojson"]
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(UsageError, match="cannot be written"):
        export.to_csv(trips, blocked / "t.csv")


def test_long_table_of_one_segment_trips(city) -> None:
    table = export.long_table(Trips.from_lists(city, [np.array([3]), np.array([5])], np.array([NOON, NOON])))
    assert np.isnan(table["speed"]).all() and table["segment_id"].tolist() == [3, 5]


def test_maps_hold_their_data_and_a_picture(trips, tmp_path) -> None:
    maps.flow_map(trips, tmp_path / "flow.html", "Flow <of> trips")
    page = (tmp_path / "flow.html").read_text()
    assert "data:image/png;base64," in page and "Flow &lt;of&gt; trips" in page and "loads Leaflet" in page
    busiest = int(pictures.uses(trips).max())
    assert f'"trips": {busiest}' in page and "window.L" in page
    maps.trips_map({"fastest": trips, "one": trips.select([0])}, tmp_path / "trips.html")
    page = (tmp_path / "trips.html").read_text()
    assert page.count('"type": "LineString"') == len(trips) + 1
    closed = np.zeros(trips.network.n, dtype=bool)
    closed[3] = True
    flow = pictures.uses(trips)
    maps.difference_map(trips.network, flow, flow[::-1], closed, tmp_path / "d.html")
    assert '"change": ' in (tmp_path / "d.html").read_text()


def test_names_from_strangers_are_words_on_a_map(trips, tmp_path) -> None:
    """A tooltip is HTML: the name of a GPX track must not run when the mouse passes over its trip."""
    named = trips.select([0, 1])
    named.id = ["<img src=x onerror=alert(1)>", "a & b"]
    maps.trips_map({"<b>trips</b>": named}, tmp_path / "m.html")
    page = (tmp_path / "m.html").read_text()
    assert "\\u0026lt;img src=x" in page and "a \\u0026amp; b" in page
    assert "\\u003cimg" not in page and "\\u003cb" not in page and "<img src=x" not in page


@pytest.mark.parametrize("times", ["NaT,2013-07-01T08:15:00Z", "2013-07-01T08:15:00Z,soon"])
def test_a_time_that_is_none_is_no_time_in_a_distant_past(trips, tmp_path, times: str) -> None:
    start = trips.lists()[0][:2].tolist()
    (tmp_path / "t.csv").write_text(f'traj_id,rid_list,time_list\n0,"{start}","{times}"\n')
    with pytest.raises(DataError, match="line 2, column 'time_list' is not readable"):
        read_hoser(tmp_path / "t.csv", trips.network)


def test_pictures_draw_every_kind(city, trips) -> None:
    ways = KShortest(city, k=3).alternatives(trips.origin[:1], trips.destination[:1])
    figures = [
        pictures.flow_picture(city, pictures.uses(trips)),
        pictures.flow_picture(city, np.zeros(city.n)),
        pictures.trips_picture({"a": trips}),
        pictures.routes_picture(city, [(w.segment, s) for w, s in zip(ways, (0.5, 0.3, 0.2), strict=True)]),
        pictures.steps_picture([1, 2, 4], {"ours": [0.1, 0.2, 0.3]}, "Jaccard", {"fastest": 0.2}, "steps"),
    ]
    assert len({pictures.png(f, dpi=40) for f in figures}) == len(figures)
    assert pictures.credit(city) == ""


def test_porto_center_exports(shared_data: Path, tmp_path) -> None:
    from apps.trajectory.osm import from_osm

    network = from_osm(shared_data / "trajectory" / "porto" / "porto_center.osm.gz")
    assert "OpenStreetMap" in pictures.credit(network)
    rng = np.random.default_rng(0)
    some = Fastest(network).sample(rng.integers(0, network.n, 9), rng.integers(0, network.n, 9), np.full(9, NOON))
    export.to_hoser(some, tmp_path)
    back = read_hoser(tmp_path / "test.csv")
    assert all(np.array_equal(a, b) for a, b in zip(back.lists(), some.lists(), strict=True))
    maps.flow_map(some, tmp_path / "m.html")
    assert "OpenStreetMap contributors" in (tmp_path / "m.html").read_text()
