"""How a model is asked from Python: one place or an array of segments, and what cannot be answered is said so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from apps import trajectory
from apps.trajectory import verbs
from apps.trajectory.choice import choice_set
from apps.trajectory.data import Trips
from apps.trajectory.generate import TripModel
from apps.trajectory.model import ModelConfig, Recipe, SampleConfig
from apps.trajectory.requests import Request, sample_all
from apps.trajectory.task import make
from apps.trajectory.whatif import close
from core.errors import InfeasibleError, UsageError


@pytest.fixture(scope="module")
def model() -> TripModel:
    return trajectory.load("toy")


def test_one_place_each_is_one_request(model: TripModel) -> None:
    """As with n=1; an accepted destination may be a set of segments in an array."""
    for origin, destination in ((3, 200), ("3", "node:9"), (np.int64(3), 200)):
        whole = model.sample(n=1, origin=origin, destination=destination, seed=2)
        assert np.array_equal(model.sample(origin, destination, seed=2).segment, whole.segment)
    assert model.sample([3, 4], [200, (200, 201)]).destination[1] in (200, 201)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"origin": [3, 4], "destination": 200}, "destination"),
        ({"origin": ["node:5"], "destination": [200]}, "origin"),
        ({"origin": [3], "destination": [199.5]}, "destination"),
        ({"origin": (-26.99, 45.0), "destination": [200, 201]}, "origin"),
        ({"origin": [3], "destination": [200], "depart": ["08:15"]}, "depart"),
        ({"origin": 3, "destination": 200, "depart": ["08:15"]}, "depart"),
        ({"origin": [3], "destination": [200], "depart": [1.37e12]}, "depart"),
        ({"origin": 3, "destination": 200, "n": 2, "index": [5, 6]}, "index"),
        ({"origin": {}, "destination": {}}, "origin"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(model: TripModel, asked: dict, field: str) -> None:
    with pytest.raises(UsageError) as caught:
        model.sample(**asked)
    assert caught.value.field == field and "\n" not in str(caught.value)


def test_the_likeliest_trip_and_a_choice_set_take_numbers_too(model: TripModel) -> None:
    one, many = model.most_likely(3, 200, draws=3), model.most_likely(np.array([3]), np.array([200]), draws=3)
    assert np.array_equal(one.segment, many.segment)
    one, many = choice_set(model, 3, 200, n=2, draws=4), choice_set(model, [3], [200], n=2, draws=4)
    assert [t.segment.tolist() for t in one] == [t.segment.tolist() for t in many]


def test_a_round_trip_is_not_rerouted_to_nowhere(model: TripModel) -> None:
    """Its ends say that it is there already: a closure on its way must not turn it into a trip of one segment."""
    tour = model.sample(n=1, origin=3, destination=3, min_km=2.0)
    with pytest.raises(UsageError, match="round trip"):
        close(model, tour, [int(tour.segment[4])])
    unused = np.setdiff1d(np.arange(model.network.n), tour.segment)
    assert not len(close(model, tour, unused[:1]).affected)


def test_departures_are_seconds_whatever_clock_counts_them(model: TripModel) -> None:
    """Columns of pandas count nanoseconds; unknown ones stay unknown."""
    moments = np.array(["2013-07-01T08:15:00.5", "NaT"], dtype="datetime64[ns]")
    for unit in ("ns", "ms"):
        found = model.sample([3, 4], [200, 201], moments.astype(f"datetime64[{unit}]"), timed=False).depart
        np.testing.assert_array_equal(found, [1372666500.5, np.nan])
    assert model.sample([3], [200], np.datetime64("2013-07-01T08:15"), timed=False).depart[0] == 1372666500.0


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"min_km": 3.0, "max_km": 3.0}, "min_km and max_km"),
        ({"min_hops": 30, "max_km": 2.6}, "min_hops and max_km"),
        ({"max_km": 2.0}, "max_km"),
        ({"min_hops": 200}, "min_hops"),
    ],
    ids=str,
)
def test_a_refusal_names_the_limits_that_cannot_hold(model: TripModel, limits: dict, field: str) -> None:
    """The shortest trip, 2.2 km, is the reason only where it is longer than the limit."""
    with pytest.raises(InfeasibleError) as caught:
        model.sample(3, 200, **limits)
    assert caught.value.field == field and ("shortest" in str(caught.value)) == (field == "max_km")


def test_what_cannot_be_drawn_has_no_probability(model: TripModel) -> None:
    """Illegal steps and round trips, at any block and order; the trips beside them keep their nats."""
    good = model.sample([3], [200], seed=0, timed=False)
    round_trip = model.sample(n=1, origin=3, destination=3, via=[100], timed=False)
    cut = np.delete(good.segment, 4)
    mixed = Trips.from_lists(model.network, [good.segment, cut, round_trip.segment, [3, 200], [3]])
    for block, order in ((1, "random"), (4, "random"), (4, "in-order"), (4, "confidence")):
        nats = model.nll(mixed, block, order=order)  # type: ignore[arg-type]
        assert np.isfinite(nats[0]) and np.isinf(nats[1:4]).all() and nats[4] == 0.0
    assert model.nll(mixed)[0] == pytest.approx(model.nll(good)[0], abs=1e-5)


def test_the_names_of_trips_survive_a_table_of_numbers(model: TripModel, tmp_path: Path) -> None:
    """Readers that guess types (pandas) keep the trips of a table of requests apart."""
    asked = [Request(3, 5), Request(4, 8)]
    trips = sample_all(model, asked, 11)
    trips.write(tmp_path / "t.csv")
    groups = pandas.read_csv(tmp_path / "t.csv").groupby("traj_id", sort=False)["segment_id"]
    assert [walk.tolist() for _, walk in groups] == [walk.tolist() for walk in trips.lists()]


def test_a_block_is_no_longer_than_the_network_can_read(model: TripModel) -> None:
    trips = model.sample([3], [5])
    longest = model.recipe.model.block
    assert np.isfinite(model.nll(trips, longest)).all() and len(model.set(block=longest).sample([3], [5])) == 1
    recipe = Recipe(model=ModelConfig(block=8))
    settings = ({"blocks": [1, 9]}, {"blocks": []}, {"sample": SampleConfig(block=9), "blocks": [8]})
    calls = [lambda given=given: make(replace(recipe, **given)) for given in settings]
    for call in (lambda: model.nll(trips, longest + 1), lambda: model.set(block=longest + 1), *calls):
        with pytest.raises(UsageError, match="block"):
            call()


def test_the_report_of_a_match_outlives_its_table(model: TripModel, tmp_path: Path) -> None:
    """GPS without times fits no SUMO routes; what became of each trace was found all the same."""
    model.network.save(tmp_path / "city.npz")
    lonlat = model.network.polyline(model.sample([3], [200]).segment)
    points = "".join(f'<trkpt lat="{lat}" lon="{lon}"/>' for lon, lat in lonlat)
    (tmp_path / "t.gpx").write_text(f'<gpx version="1.1"><trk><trkseg>{points}</trkseg></trk></gpx>')
    with pytest.raises(UsageError, match="match GPS with times"):
        verbs.match(str(tmp_path / "city.npz"), tmp_path / "t.gpx", tmp_path / "t.rou.xml", tmp_path / "r.csv")
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 2 and not (tmp_path / "t.rou.xml").exists()
