"""The matcher: its output is always a walk, it recovers simulated truth, and it says what it could not match."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.trajectory.city import synthetic_city
from apps.trajectory.data import Trips, distinct
from apps.trajectory.gps import GpsTrace, observe, read_gps
from apps.trajectory.logit import simulate
from apps.trajectory.matching import Matcher, match
from apps.trajectory.network import RoadNetwork
from apps.trajectory.osm import from_osm
from apps.trajectory.sources import read_trips
from benchmarks.trajectory_matching import segment_scores
from core.errors import UsageError

SHARED = Path(__file__).resolve().parents[3] / "shared/data/trajectory"


@pytest.fixture(scope="module")
def city() -> RoadNetwork:
    return synthetic_city()


@pytest.fixture(scope="module")
def long_trace(city: RoadNetwork) -> tuple[np.ndarray, GpsTrace]:
    trips = simulate(city, 60, seed=7)
    i = int(np.argmax(trips.hops()))
    return trips.lists()[i], observe(trips.select([i]), interval=5.0, sigma=3.0)[0]


def test_truth_is_recovered(city: RoadNetwork) -> None:
    truth = simulate(city, 300, seed=3)
    result = match(city, observe(truth, seed=1))
    f1, precision, recall = segment_scores(truth, result)
    assert f1 >= 0.97 and min(precision, recall) >= 0.96
    assert result.trips.check() == [] and result.summary()["matched"] == 300


def test_noiseless_fixes_give_the_very_path(city: RoadNetwork) -> None:
    truth = simulate(city, 100, seed=4)
    result = match(city, observe(truth, interval=3.0, sigma=0.2))
    same = [np.array_equal(a, b) for a, b in zip(truth.lists(), result.trips.lists(), strict=True)]
    assert np.mean(same) >= 0.97


def test_times_are_those_of_the_drive(city: RoadNetwork) -> None:
    truth = simulate(city, 100, seed=4)
    result = match(city, observe(truth, interval=3.0, sigma=0.2))
    errors = []
    for i, (a, b) in enumerate(zip(truth.lists(), result.trips.lists(), strict=True)):
        if np.array_equal(a, b) and len(a) > 2:
            true = truth.depart[i] + truth.times()[i][1:]
            errors.append(np.abs(true - (result.trips.depart[i] + result.trips.times()[i][1:])))
    assert np.median(np.concatenate(errors)) < 1.5 and np.concatenate(errors).max() < 12.0


@pytest.mark.parametrize("sigma", [40.0, 200.0, 2000.0])
def test_any_noise_gives_a_walk(city: RoadNetwork, sigma: float) -> None:
    """However absurd the fixes, what comes out is legal and in order of time."""
    result = match(city, observe(simulate(city, 40, seed=9), sigma=sigma))
    assert result.trips.check() == []
    assert all(r.matched <= r.fixes for r in result.report) and len(result.report) == 40


def test_an_outlier_is_passed_over(city: RoadNetwork, long_trace: tuple[np.ndarray, GpsTrace]) -> None:
    path, trace = long_trace
    bent = GpsTrace("bent", trace.t, trace.lonlat.copy())
    bent.lonlat[len(bent) // 2] = city.to_lonlat(city.to_xy(bent.lonlat[len(bent) // 2]) + (900.0, 0.0))
    result = match(city, [bent])
    assert result.report[0].trips == 1 and result.trips.check() == []
    assert len(set(path.tolist()) & set(result.trips.lists()[0].tolist())) >= 0.85 * len(path)


def test_a_silence_splits_the_trace(city: RoadNetwork, long_trace: tuple[np.ndarray, GpsTrace]) -> None:
    _, trace = long_trace
    half = len(trace) // 2
    late = GpsTrace("late", trace.t + np.where(np.arange(len(trace)) >= half, 3600.0, 0.0), trace.lonlat)
    result = match(city, [late])
    assert result.trips.id == ["late", "late/2"]
    pause = 3600 + trace.t[half] - trace.t[half - 1]
    assert result.report[0].breaks == [f"{pause:.0f} s without a fix after fix {half - 1}"]
    assert result.trips.depart[1] - result.trips.depart[0] > 3600


def test_a_standing_vehicle_is_no_silence(city: RoadNetwork, long_trace: tuple[np.ndarray, GpsTrace]) -> None:
    _, trace = long_trace
    half, stop = len(trace) // 2, 200
    lonlat = np.insert(trace.lonlat, half, np.repeat(trace.lonlat[[half]], stop, axis=0), axis=0)
    t = np.concatenate([trace.t[:half], trace.t[half] + 5.0 * np.arange(stop), trace.t[half:] + 5.0 * stop])
    result = match(city, [GpsTrace("stop", t, lonlat)])
    assert result.report[0].trips == 1 and result.report[0].share == 1.0
    assert result.trips.lists()[0].tolist() == match(city, [trace]).trips.lists()[0].tolist()


def test_a_jump_is_explained(city: RoadNetwork, long_trace: tuple[np.ndarray, GpsTrace]) -> None:
    """A vehicle that reappears across the city within five seconds is two trips."""
    _, trace = long_trace
    far = city.to_lonlat(city.middle[np.argmax(np.linalg.norm(city.middle - city.to_xy(trace.lonlat[-1]), axis=1))])
    again = np.linspace(0, 1, 12)[:, None] * (city.to_lonlat(city.middle.mean(0)) - far) + far
    t = np.concatenate([trace.t, trace.t[-1] + 5.0 * np.arange(1, 13)])
    result = match(city, [GpsTrace("jump", t, np.concatenate([trace.lonlat, again]))])
    assert result.trips.check() == [] and any(f"no route to fix {len(trace)}" in b for b in result.report[0].breaks)


def test_fixes_far_from_any_road(city: RoadNetwork) -> None:
    away = GpsTrace("sea", np.arange(5.0), city.to_lonlat(city.geom_xy.max(0) + 5000.0 + np.arange(10).reshape(5, 2)))
    with pytest.raises(UsageError, match="m outside the network"):
        match(city, [away])
    good = observe(simulate(city, 2, seed=1))
    result = match(city, [good[0], away, good[1]])
    assert [r.trips for r in result.report] == [1, 0, 1] and result.report[1].off_road == 5
    assert result.report[1].breaks == ["0 of 5 fixes near a road"]


def test_without_times_the_walk_is_the_same(city: RoadNetwork, long_trace: tuple[np.ndarray, GpsTrace]) -> None:
    _, trace = long_trace
    untimed = match(city, [GpsTrace("x", np.full(len(trace), np.nan), trace.lonlat)]).trips
    assert np.isnan(untimed.enter[1:]).all() and np.isnan(untimed.depart).all() and untimed.check() == []
    assert untimed.segment.tolist() == match(city, [trace]).trips.segment.tolist()


def test_a_trace_without_a_fix_is_reported(city: RoadNetwork, long_trace: tuple[np.ndarray, GpsTrace]) -> None:
    nothing = GpsTrace("empty", np.empty(0), np.empty((0, 2)))
    found = match(city, [nothing, long_trace[1]])
    assert [r.trips for r in found.report] == [0, 1] and found.report[0].fixes == found.report[0].matched == 0
    assert match(city, [nothing]).summary()["trips"] == 0


def test_matching_does_not_depend_on_the_batch(city: RoadNetwork) -> None:
    traces = observe(simulate(city, 12, seed=2))
    together = match(city, traces).trips
    for i, trace in enumerate(traces):
        assert (match(city, [trace]).trips.lists()[0] == together.lists()[i]).all()
    assert len(match(city, []).trips) == 0


def test_parameters_must_be_positive() -> None:
    with pytest.raises(UsageError, match="matcher.sigma"):
        Matcher(sigma=0.0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/trajectory is absent")
def test_real_taxis_are_matched() -> None:
    net = from_osm(SHARED / "porto/porto_drive.osm.gz")
    traces = read_gps(SHARED / "porto/porto_taxi.csv.gz")[:200]
    result = match(net, traces)
    assert result.trips.check() == [] and result.summary()["matched"] >= 0.95 * len(traces)


def test_who_parked_sets_out_from_where_it_stood(city: RoadNetwork, long_trace: tuple[np.ndarray, GpsTrace]) -> None:
    """The fix after a gap begins the second trip, though the vehicle has not moved since the one before."""
    path, trace = long_trace
    k = len(trace) // 2
    t = np.concatenate([trace.t[: k + 1], trace.t[k:] + 3600.0])
    found = match(city, [GpsTrace("a", t, np.concatenate([trace.lonlat[: k + 1], trace.lonlat[k:]]))])
    first, second = found.trips.lists()
    assert found.trips.depart[1] == trace.t[k] + 3600.0 and found.report[0].matched == len(t)
    assert second[0] == first[-1] and [*first, *second[1:]] == path.tolist()


def test_trips_of_one_name_stay_apart(city: RoadNetwork, tmp_path: Path) -> None:
    """Names that repeat, or that parts of a trace would repeat, are counted, so that what is written can be read."""
    assert distinct(["a", "a", "a.2", "a"]) == ["a", "a.3", "a.2", "a.4"]
    traces = observe(simulate(city, 4, seed=4), interval=5.0, sigma=1.0)
    rows = [f'7,{t.t[0]:.0f},"{t.lonlat.tolist()}"' for t in traces]
    (tmp_path / "p.csv").write_text("\n".join(["TRIP_ID,TIMESTAMP,POLYLINE", *rows]))
    named = read_gps(tmp_path / "p.csv")
    assert [t.id for t in named] == ["7", "7.2", "7.3", "7.4"]
    parked = GpsTrace("7", np.concatenate([traces[0].t, traces[0].t + 1e4]), np.tile(traces[0].lonlat, (2, 1)))
    found = match(city, [parked, GpsTrace("7/2", named[1].t, named[1].lonlat), *named[2:]]).trips
    assert len(found) == 5 and len(set(found.id)) == 5
    both = Trips.concat([found, found])
    both.write(tmp_path / "t.csv")
    again = read_trips(tmp_path / "t.csv", city)
    assert again.id == both.id and np.array_equal(again.segment, both.segment)
