"""Closures: never used afterwards, nothing else touched, the same law as conditioning, files that agree."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest

from apps.trajectory.baselines import Fastest, KShortest, MarkovChain, reachable
from apps.trajectory.city import synthetic_city
from apps.trajectory.pictures import uses
from apps.trajectory.whatif import close, close_busiest, closures, inside
from core.errors import QuintetError, UsageError


@pytest.fixture(scope="module")
def city():
    return synthetic_city()


@pytest.fixture(scope="module")
def requests(city):
    rng = np.random.default_rng(0)
    return rng.integers(0, city.n, 120), rng.integers(0, city.n, 120)


@pytest.fixture(scope="module")
def chain(city, requests):
    return MarkovChain.fit(Fastest(city).sample(*requests, None))


def test_zero_uses_and_the_rest_untouched(city, requests, chain) -> None:
    for router in (Fastest(city), KShortest(city), chain):
        before = router.sample(*requests, None, 4)
        closed = close_busiest(before, 8)
        result = close(router, before, closed, seed=4)
        summary = result.summary()
        assert summary["uses_of_closed_before"] > 0 and summary["uses_of_closed_after"] == 0
        assert result.after.check() == []
        hit = {i for i, t in enumerate(before.lists()) if closed[t].any()}
        assert set(result.affected) | set(result.stranded) == hit and not set(result.affected) & set(result.stranded)
        again = router.closing(closed).sample(*(r[result.affected] for r in requests), None, 4, index=result.affected)
        assert all(np.array_equal(a, b) for a, b in zip(again.lists(), result.after.lists(), strict=True))
        assert result.after.id == [before.id[i] for i in result.affected]
        flow_before, flow_after, _ = result.flows
        kept = before.select([i for i in range(len(before)) if i not in hit])
        np.testing.assert_array_equal(flow_after, uses(kept) + uses(result.after))
        np.testing.assert_array_equal(flow_before, uses(before))


def test_stranded_trips_are_listed(city, requests) -> None:
    before = Fastest(city).sample(*requests, None)
    end = int(before.destination[5])
    result = close(Fastest(city), before, [end])
    assert 5 in result.stranded and result.summary()["stranded"] == len(result.stranded)
    mask = closures(city, [end])
    assert not reachable(city, before.origin[result.stranded], before.destination[result.stranded], mask).any()


def test_fastest_against_itself_is_no_difference(city, requests) -> None:
    before = Fastest(city).sample(*requests, None)
    summary = close(Fastest(city), before, close_busiest(before, 5)).summary()
    assert summary["flow_unlike_fastest"] == 0
    assert summary["detour_km_mean"] == summary["detour_fastest_km_mean"]


def test_rerouting_draws_from_the_conditioned_law(city, chain) -> None:
    """Trips after the closure follow the chain conditioned on avoiding it, kept and redrawn ones together."""
    short = replace(chain, factor=1.0, slack=6)
    origin, n = 10, 6000
    destination = int(city.succ[city.succ_ptr[int(city.succ[city.succ_ptr[origin]])]])
    request = (np.full(n, origin), np.full(n, destination), None)
    before = short.sample(*request, 1)
    middle = Counter(s for t in before.lists() for s in set(t[1:-1].tolist()) - {origin, destination})
    share = {s: c / n for s, c in middle.items()}
    street = max(share, key=lambda s: min(share[s], 1 - share[s]))
    result = close(short, before, [street], seed=1)
    if len(result.affected) == 0 or len(result.affected) == n:
        pytest.skip("the only way is through")
    after = Counter(t.tobytes() for t in result.after.lists())
    kept = before.select(np.setdiff1d(np.arange(n), result.affected))
    after.update(t.tobytes() for t in kept.lists())
    fresh = short.closing(result.closed).sample(*request, 2)
    direct = Counter(t.tobytes() for t in fresh.lists())
    distance = 0.5 * sum(abs(after[k] - direct[k]) / n for k in set(after) | set(direct))
    once = Counter(t.tobytes() for t in short.closing(result.closed).sample(*request, 3).lists())
    floor = 0.5 * sum(abs(once[k] - direct[k]) / n for k in set(once) | set(direct))
    assert distance < 1.5 * floor + 0.01


def test_closures_from_ids_names_masks_and_polygons(city) -> None:
    name = f"{city.u[7]}-{city.v[7]}-{city.key[7]}"
    assert np.flatnonzero(closures(city, [3, name])).tolist() == [3, 7]
    assert np.flatnonzero(closures(city, 3)).tolist() == [3]
    mask = np.arange(city.n) == 5
    assert (closures(city, mask) == mask).all()
    corner = city.middle[9] + np.array([[-9.0, -9], [9, -9], [9, 9], [-9, 9]])
    polygon = inside(city, city.to_lonlat(corner))
    assert polygon[9] and polygon.sum() < 20
    assert (closures(city, city.to_lonlat(corner).tolist()) == polygon).all()
    far = city.to_lonlat(city.geom_xy.max(axis=0) + np.array([[900.0, 900], [950, 900], [950, 950]]))
    for wrong, words in ((far, "m away"), ([[1, 2]], "three"), ([city.n], "segment"), (~(mask | ~mask), "no segment")):
        with pytest.raises(UsageError, match=words):
            closures(city, wrong)


def test_a_router_that_cheats_is_caught(city, requests) -> None:
    @dataclass(frozen=True)
    class Stubborn(Fastest):
        def closing(self, closed):  # type: ignore[no-untyped-def]
            return self

    before = Fastest(city).sample(*requests, None)
    with pytest.raises(QuintetError, match="closed segment"):
        close(Stubborn(city), before, close_busiest(before, 5))
    with pytest.raises(UsageError, match="no trips"):
        close(Fastest(city), before.select(slice(0, 0)), [1])


def test_files_agree(city, requests, tmp_path) -> None:
    before = KShortest(city).sample(*requests, None, 2)
    result = close(KShortest(city), before, close_busiest(before, 6), seed=2)
    table, geojson, page, other = result.write(tmp_path)
    rows = list(csv.DictReader(table.open(newline="")))
    features = json.loads(geojson.read_text())["features"]
    assert [int(r["segment"]) for r in rows] == [f["properties"]["segment"] for f in features]
    flow_before, flow_after, fastest = result.flows
    for row, feature in zip(rows, features, strict=True):
        i = int(row["segment"])
        assert int(row["change"]) == feature["properties"]["change"] == flow_after[i] - flow_before[i]
        assert int(row["fastest_after"]) == feature["properties"]["fastest_after"] == fastest[i]
        assert row["closed"] == str(bool(result.closed[i]))
    assert sum(int(r["change"]) for r in rows) == (flow_after - flow_before).sum()
    assert "data:image/png" in page.read_text() and "fastest path" in other.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in (table, geojson, page, other))


def test_files_call_segments_as_their_network_does(city, requests, tmp_path) -> None:
    """Roads of SUMO or HOSER: a segment of the table can be closed again under the name that stands there."""
    other = replace(city, label=np.array([str(city.n - i) for i in range(city.n)]))
    before = Fastest(other).sample(*requests, None)
    closed = close_busiest(before, 3)
    table, geojson, *_ = close(Fastest(other), before, closed).write(tmp_path)
    rows = list(csv.DictReader(table.open(newline="")))
    assert [f["properties"]["segment"] for f in json.loads(geojson.read_text())["features"]] == [
        r["segment"] for r in rows
    ]
    named = [other.segment(r["segment"]) for r in rows if r["closed"] == "True"]
    assert sorted(named) == np.flatnonzero(closed).tolist()


def test_a_closure_that_nobody_uses(city, requests, tmp_path) -> None:
    before = Fastest(city).sample(*(r[:3] for r in requests), None)
    idle = int(np.flatnonzero(uses(before) == 0)[0])
    result = close(Fastest(city), before, [idle])
    assert result.summary()["affected"] == 0 and result.table() == []
    assert all(p.exists() for p in result.write(tmp_path))
