"""SUMO's own ways: junctions that have a width, types of several ways at once, times of a simulated day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.trajectory import export
from apps.trajectory.data import Trips
from apps.trajectory.formats import read_sumo, read_sumo_network
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork

SATURDAY = 1372550400.0 - 86400.0  # 2013-06-29 00:00 UTC
NET = """<net version="1.9"><location netOffset="-500000,-5500000"
 projParameter="+proj=utm +zone=32 +ellps=WGS84 +datum=WGS84 +units=m +no_defs"/>
<edge id="a" from="1" to="2" type="cycleway.lane|highway.primary">
 <lane id="a_0" index="0" speed="10" length="100" shape="0,0 100,0"/></edge>
<edge id="b" from="2" to="3" type="highway.residential|railway.tram">
 <lane id="b_0" index="0" speed="10" length="100" shape="110,10 110,110"/></edge>
<edge id="c" from="3" to="1" type="railway.tram">
 <lane id="c_0" index="0" speed="10" length="150" shape="105,115 0,5"/></edge>
<connection from="a" to="b"/><connection from="b" to="c"/><connection from="c" to="a"/></net>"""


@pytest.fixture
def net(tmp_path: Path) -> RoadNetwork:
    (tmp_path / "x.net.xml").write_text(NET)
    return read_sumo_network(tmp_path / "x.net.xml")


def test_a_type_of_several_ways_has_the_class_of_its_road(net: RoadNetwork) -> None:
    assert [ROAD_CLASSES[k] for k in net.road_class] == ["primary", "residential", "other"]


def test_a_track_crosses_the_junction_and_cuts_no_corner(net: RoadNetwork) -> None:
    """Every segment's own points are on the line, its start at the second at which it is entered."""
    enter = np.array([0.0, 12.0, 25.0])
    trip = Trips.from_lists(net, [np.arange(3)], np.array([SATURDAY]), [enter])
    lonlat, seconds = export.track(trip, 0)
    np.testing.assert_allclose(net.to_xy(lonlat), net.geom_xy, atol=1e-6)
    np.testing.assert_allclose(seconds[::2], enter)
    np.testing.assert_allclose(lonlat, net.polyline([0, 1, 2]))


def test_routes_come_back_on_their_day(net: RoadNetwork, tmp_path: Path) -> None:
    depart = SATURDAY + np.array([86399.5, 85200.25, 86400.0 + 900.0])
    trips = Trips.from_lists(net, [np.array([0, 1]), np.array([1, 2]), np.array([2, 0])], depart)
    for name in ("t.rou.xml", "t.rou.xml.gz"):
        trips.write(tmp_path / name)
        back = read_sumo(tmp_path / name, net)
        order = np.argsort(depart)
        assert back.id == [trips.id[i] for i in order]
        np.testing.assert_allclose(back.depart, depart[order], atol=0.011)
    np.testing.assert_allclose(read_sumo(tmp_path / "t.rou.xml", net, midnight=0.0).depart, back.depart - SATURDAY)


def test_times_of_day_and_routes_with_names(net: RoadNetwork, tmp_path: Path) -> None:
    own = '<vehicle id="{0}" depart="{0}"><route{1} edges="{2}"/></vehicle>'
    cars = (("27.5", "", "a b"), ("08:15:00", ' id="own"', "b c"), ("1:00:00:10", "", "c a"), ("triggered", "", "a b"))
    later = '<vehicle id="5" route="late" depart="5"/><route id="late" edges="b c"/>'
    (tmp_path / "x.rou.xml").write_text(f"<routes>{''.join(own.format(*c) for c in cars)}{later}</routes>")
    found = read_sumo(tmp_path / "x.rou.xml", net)
    assert found.report == {"read": 5}
    np.testing.assert_array_equal(found.depart, [27.5, 29700.0, 86410.0, np.nan, 5.0])
    assert [w.tolist() for w in found.lists()] == [[0, 1], [1, 2], [2, 0], [0, 1], [1, 2]]
