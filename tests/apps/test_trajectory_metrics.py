"""Similarities against naive definitions and the published notebook; protocols, floors, bootstrap, route shares."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from apps.trajectory.baselines import Fastest, Shortest
from apps.trajectory.city import synthetic_city
from apps.trajectory.data import Trips, read_matched
from apps.trajectory.hoser_protocol import BOXES, Grid, centroids, histogram_jsd, od_pairs
from apps.trajectory.metrics import (
    best_of,
    evaluate,
    paired_bootstrap,
    radius_km,
    route_shares,
    score_pairs,
    share_distance,
    share_floor,
    uniform_shares,
)
from apps.trajectory.osm import from_osm
from apps.trajectory.similarity import (
    dtw,
    edr,
    fast_dtw,
    great_circle,
    hausdorff,
    haversine,
    jaccard,
    jaccard_length,
    longest_shared,
)
from core.errors import UsageError

# (longitude, latitude); the expected values below were printed by HOSER's own notebook (fastdtw 0.3.4, hausdorff 0.2.6)
A = np.array([[-8.61878, 41.14847], [-8.61852, 41.14813], [-8.6188, 41.148], [-8.62001, 41.14786], [-8.62053, 41.14985],
              [-8.62039, 41.14964], [-8.62056, 41.14924], [-8.62119, 41.149], [-8.6209, 41.14886]])  # fmt: skip
B = np.array([[-8.6183, 41.14837], [-8.61851, 41.1489], [-8.61974, 41.14761], [-8.62062, 41.15012],
              [-8.61959, 41.14911], [-8.62131, 41.1495], [-8.62134, 41.14871], [-8.61984, 41.14951]])  # fmt: skip
HAUSDORFF, FASTDTW, EDR_SWAPPED, EDR_PLAIN = 0.08258477710672638, 0.5519143695155385, 0.3333333333333333, 2 / 9


@pytest.fixture(scope="module")
def city():
    return synthetic_city()


def requests(network, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, network.n, n), rng.integers(0, network.n, n)


def test_notebook_values() -> None:
    a, b = A[:, ::-1], B[:, ::-1]
    assert hausdorff(a, b, great_circle(6378.0)) == pytest.approx(HAUSDORFF, rel=1e-6)  # the package is float32
    assert fast_dtw(a, b, great_circle(6378.0)) == pytest.approx(FASTDTW, rel=1e-12)
    assert edr(A, B, 100.0, great_circle(6378137.0)) == EDR_SWAPPED
    assert edr(a, b, 100.0, great_circle(6378137.0)) == pytest.approx(EDR_PLAIN)
    assert Grid(BOXES["Porto"]).cells(A[:1]).tolist() == [[29, 4]]


def naive(a, b, epsilon):
    """Textbook recursions for DTW and the number of edits."""

    @cache
    def warp(i: int, j: int) -> float:
        here = float(np.hypot(*(a[i] - b[j])))
        before = [warp(*p) for p in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if min(p) >= 0]
        return here + min(before, default=0.0)

    @cache
    def edits(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        differ = float(np.hypot(*(a[i - 1] - b[j - 1]))) >= epsilon
        return min(edits(i - 1, j) + 1, edits(i, j - 1) + 1, edits(i - 1, j - 1) + differ)

    return warp(len(a) - 1, len(b) - 1), edits(len(a), len(b))


@pytest.mark.parametrize("seed", range(12))
def test_dynamic_programmes_equal_their_recursions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 15, 2)
    a, b = rng.normal(0, 60, (n, 2)), rng.normal(0, 60, (m, 2))
    warp, edits = naive(a, b, 70.0)
    assert dtw(a, b) == pytest.approx(warp, rel=1e-12)
    assert edr(a, b, 70.0) == edits / max(n, m)
    worst = max(min(np.hypot(*(p - q)) for q in b) for p in a), max(min(np.hypot(*(p - q)) for p in a) for q in b)
    assert hausdorff(a, b) == pytest.approx(max(worst), rel=1e-12)
    assert fast_dtw(a, b) >= warp - 1e-9
    assert fast_dtw(a, b, radius=20) == pytest.approx(warp, rel=1e-12)


def test_identity_symmetry_and_sets() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 50, (9, 2)), rng.normal(0, 50, (6, 2))
    assert hausdorff(a, a) == dtw(a, a) == edr(a, a) == 0.0
    for distance in (hausdorff, dtw, edr):
        assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-12)
    assert jaccard(np.array([1, 2, 3, 2]), np.array([2, 3, 4])) == 0.5
    length = np.array([0.0, 10, 20, 30, 40])
    assert jaccard_length(np.array([1, 2, 3]), np.array([2, 3, 4]), length) == pytest.approx(50 / 100)
    assert longest_shared(np.array([5, 1, 2, 3, 9]), np.array([1, 2, 3, 4])) == 3
    assert longest_shared(np.array([1]), np.array([2])) == 0


def test_plane_and_sphere_agree(city) -> None:
    some = np.arange(0, city.n, 7)
    lonlat = city.to_lonlat(city.middle[some])
    plane = np.hypot(*(city.middle[some] - city.middle[some[0]]).T)
    sphere = haversine(lonlat[:1, ::-1], lonlat[:, ::-1], 6371008.8)
    np.testing.assert_allclose(sphere[1:], plane[1:], rtol=4e-3)  # 0.9996 of the zone, and the earth is no sphere


def test_perfect_trips_score_perfectly(city) -> None:
    real = Fastest(city).sample(*requests(city, 60), None)
    r = evaluate(real, real)
    assert (r["hausdorff_km"], r["dtw_km"], r["edr"], r["jsd_distance"], r["jsd_radius"]) == (0, 0, 0, 0, 0)
    assert (r["jaccard"], r["jaccard_length"], r["exact"], r["od_reached"], r["pairs"]) == (1, 1, 1, 1, 60)
    assert r["illegal"] == 0 and r["jsd_distance_floor"] > 0


def test_strict_reports_failure_to_arrive_and_illegal_steps(city) -> None:
    real = Fastest(city).sample(*requests(city, 20), None)
    cut = [t[:-1] if len(t) > 2 and i % 2 else t for i, t in enumerate(real.lists())]
    shorter = sum(len(a) != len(b) for a, b in zip(cut, real.lists(), strict=True))
    cut[0] = np.array([cut[0][0], cut[0][0], cut[0][-1]])
    r = evaluate(Trips.from_lists(city, cut), real)
    assert r["od_reached"] == pytest.approx(1 - shorter / 20)
    assert r["illegal"] >= 1


def test_pairing_by_origin_and_destination(city) -> None:
    real = Fastest(city).sample(*requests(city, 30), None)
    order = np.random.default_rng(1).permutation(30)[:20]
    assert evaluate(real.select(order), real, pairs="od")["pairs"] == 20
    assert evaluate(real.select(order), real, pairs="od")["exact"] == 1.0
    pairs = od_pairs([np.array([1, 2]), np.array([1, 2]), np.array([3, 4])], [np.array([1, 2])], np.arange(9))
    assert pairs.tolist() == [[0, 0]]
    with pytest.raises(UsageError, match="cannot be paired one by one"):
        evaluate(real.select(order), real)
    with pytest.raises(UsageError, match="strict"):
        evaluate(real, real, "strickt")
    with pytest.raises(UsageError, match="Porto"):
        evaluate(real, real, "hoser", box="Portto")


def naive_hoser(generated, real, network):
    """Return the local scores and the JSD of the distance as the notebook's loops define them."""
    points, rad = centroids(network), np.pi / 180

    def arc(x, y):  # x, y = (a, b): a is taken for the latitude
        s = np.sin(rad * (y[0] - x[0]) / 2) ** 2
        s += np.cos(rad * x[0]) * np.cos(rad * y[0]) * np.sin(rad * (y[1] - x[1]) / 2) ** 2
        return 2 * np.arcsin(np.sqrt(s))

    cells = Grid.around(points).cells(points)
    keys = [[(*cells[t[0]], *cells[t[-1]]) for t in trips.lists()] for trips in (generated, real)]
    scores, left = [], {}
    for j, key in enumerate(keys[1]):
        left.setdefault(key, []).append(j)
    for i, key in enumerate(keys[0]):
        if left.get(key):
            x, y = points[real.lists()[left[key].pop(0)]], points[generated.lists()[i]]
            sphere = np.array([[6378.0 * arc(p[::-1], q[::-1]) for q in y] for p in x])
            # the notebook hands (lat, lon) to a function of (lon, lat): the longitude is taken for the latitude
            same = np.array([[6378137.0 * arc(p, q) < 100 for q in y] for p in x])
            row = np.arange(len(y) + 1)
            for line in same:
                fresh = [row[0] + 1]
                for j, equal in enumerate(line):
                    fresh.append(min(fresh[-1] + 1, row[j + 1] + 1, row[j] + (not equal)))
                row = np.array(fresh)
            scores.append((max(sphere.min(1).max(), sphere.min(0).max()), row[-1] / max(same.shape)))
    return np.array(scores)


def test_hoser_protocol_equals_the_notebooks_loops(city) -> None:
    real = Fastest(city).sample(*requests(city, 40), None)
    generated = Shortest(city).sample(*requests(city, 40), None).select(np.random.default_rng(2).permutation(40)[:25])
    scores = naive_hoser(generated, real, city)
    r = evaluate(generated, real, "hoser")
    assert r["pairs"] == len(scores) == 25
    assert r["hausdorff_km"] == pytest.approx(scores[:, 0].mean(), rel=1e-9)
    assert r["edr"] == pytest.approx(scores[:, 1].mean(), rel=1e-12)
    assert "jsd_duration" in r
    assert evaluate(generated, Trips.from_lists(city, real.lists()), "hoser").get("jsd_duration") is None


def test_histogram_jsd() -> None:
    real = np.array([0.0, 1.0, 2.0, 10.0])
    assert histogram_jsd(real, real) == 0.0
    assert histogram_jsd(np.full(5, 0.5), np.array([1.0, 2.0, 3.0])) == pytest.approx(np.log(2))
    p, q = np.array([3, 1, 0, 6]) / 10, np.array([1, 1, 4, 2]) / 8
    values = np.array([0.5, 2.5, 5.0, 99.0])  # four different bins of the 100
    got = histogram_jsd(np.repeat(values, [1, 1, 4, 2]), np.repeat(values, [3, 1, 0, 6]))
    m = (p + q) / 2
    exact = 0.5 * sum(x * np.log(x / z) for x, z in zip(p, m, strict=True) if x)
    exact += 0.5 * sum(x * np.log(x / z) for x, z in zip(q, m, strict=True) if x)
    assert got == pytest.approx(exact, rel=1e-9) == pytest.approx(0.22966809734290272)


def test_radius_is_the_root_mean_square(city) -> None:
    trips = Fastest(city).sample(*requests(city, 5), None)
    for value, trip in zip(radius_km(trips), trips.lists(), strict=True):
        points = city.middle[trip]
        assert value == pytest.approx(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()) / 1e3)


def test_bootstrap_covers_and_pairs() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for k in range(60):
        base = rng.normal(0, 5, 80)
        interval = paired_bootstrap(base + rng.normal(0.3, 1.0, 80), base, n=2000, seed=k)
        inside += interval.low <= 0.3 <= interval.high
        assert interval.high - interval.low < 0.7  # unpaired it would be about 3
    assert 50 <= inside <= 60
    assert paired_bootstrap(np.ones(9), np.zeros(9)).decided
    assert paired_bootstrap(np.arange(9.0), np.arange(9.0)).decided is False
    with pytest.raises(UsageError, match="one size"):
        paired_bootstrap(np.ones(3), np.ones(4))


def test_best_of_takes_the_better_of_each(city) -> None:
    o, d = requests(city, 15)
    real, short = Fastest(city).sample(o, d, None), Shortest(city).sample(o, d, None)
    both = best_of([score_pairs(short, real), score_pairs(real, real)])
    assert both.jaccard.min() == 1.0 and both.dtw_km.max() == 0.0


def test_route_shares(city) -> None:
    reference = {(1, 9): {(1, 2, 9): 0.5, (1, 3, 9): 0.3, (1, 4, 9): 0.2}, (2, 5): {(2, 5): 1.0}}
    trips = Trips.from_lists(city, [np.array(r) for r in ([1, 2, 9],) * 6 + ([1, 3, 9],) * 2 + ([1, 7, 9],) * 2])
    distance = share_distance(route_shares(trips), reference)
    assert distance[1, 9] == pytest.approx(0.5 * (0.1 + 0.1 + 0.2 + 0.2))
    assert distance[2, 5] == 1.0
    assert share_distance(reference, reference) == {(1, 9): 0.0, (2, 5): 0.0}
    assert uniform_shares(reference)[1, 9][1, 4, 9] == pytest.approx(1 / 3)
    lumped = {(1, 9): {(1, 2, 9): 0.5}}  # the reference lists half of the mass only
    assert share_distance(reference, lumped)[1, 9] == pytest.approx(0.0)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(50, [0.5, 0.3, 0.2], 4000) / 50
    expected = 0.25 * np.abs(drawn - [0.5, 0.3, 0.2]).sum(1).mean()  # the second pair contributes 0
    assert share_floor(reference, 50, repeats=4000) == pytest.approx(expected, rel=0.05)


def test_thousand_pairs_are_fast(city) -> None:
    rng = np.random.default_rng(0)
    walks = [rng.integers(0, city.n, 50) for _ in range(1000)]
    a, b = Trips.from_lists(city, walks), Trips.from_lists(city, walks[::-1])
    evaluate(a.select(slice(0, 3)), b.select(slice(0, 3)))
    start = time.process_time()
    evaluate(a, b)
    assert time.process_time() - start < 3.0


def test_reference_rows_on_porto(shared_data: Path) -> None:
    """The notes measured 955 trips; 762 are delivered. Ours: see the tolerance of each figure."""
    folder = shared_data / "trajectory" / "porto"
    network = from_osm(folder / "porto_drive.osm.gz")
    real = read_matched(folder / "porto_taxi_matched.csv.gz", network)
    expected = {
        Shortest: {"hausdorff_km": 0.631, "dtw_km": 22.60, "edr": 0.440, "exact": 0.209, "jaccard": 0.473},
        Fastest: {"hausdorff_km": 0.552, "dtw_km": 18.55, "edr": 0.380, "exact": 0.267, "jaccard": 0.546},
    }
    scores = {}
    for router, figures in expected.items():
        generated = router(network).sample(real.origin, real.destination, real.depart)
        scores[router] = score_pairs(generated, real)
        means = scores[router].means()
        for name, value in figures.items():
            assert means[name] == pytest.approx(value, rel=0.2 if name == "dtw_km" else 0.1), (router, name)
    for name in ("hausdorff_km", "dtw_km", "edr", "jaccard"):
        assert paired_bootstrap(getattr(scores[Fastest], name), getattr(scores[Shortest], name)).decided
