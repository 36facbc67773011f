"""Rules hold: random requests on the synthetic city, and exactly the right trips where all can be enumerated."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import shapely

from apps.trajectory.city import synthetic_city
from apps.trajectory.constraints import trip_law
from apps.trajectory.data import Trips
from apps.trajectory.export import track
from apps.trajectory.field import Fields
from apps.trajectory.generate import TripModel
from apps.trajectory.limits import Rules, limited
from apps.trajectory.model import DataConfig, ModelConfig, Recipe, SampleConfig, TripNet
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork
from apps.trajectory.places import closures, resolve
from apps.trajectory.requests import Request, departure, sample_all
from apps.trajectory.topology import assemble
from apps.trajectory.verbs import summary
from core.errors import DataError, InfeasibleError, UsageError

REQUESTS = 50
EACH = 4


def untrained(network: RoadNetwork, max_hops: int = 128, block: int = 8) -> TripModel:
    """Return a model that knows nothing: what holds for it holds for every weight."""
    config = ModelConfig(dim=16, depth=1, heads=2, road=8, rounds=1)
    recipe = Recipe(
        model=config, data=DataConfig(max_hops=max_hops), sample=SampleConfig(block=block, steps=3, detour=3.0)
    )
    return TripModel(TripNet(config), recipe, network)


@pytest.fixture(scope="module")
def city() -> RoadNetwork:
    return synthetic_city()


@pytest.fixture(scope="module")
def model(city: RoadNetwork) -> TripModel:
    return untrained(city)


def square(city: RoadNetwork, middle: int, metres: float) -> np.ndarray:
    """Return the corners in degrees of a square around a segment."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * metres
    return city.to_lonlat(city.middle[middle] + corners)


def wish(city: RoadNetwork, rng: np.random.Generator) -> Request:
    """Return a random request: segments, coordinates, junctions or zones; via points, closures and limits."""
    a, b, c, d = (int(x) for x in rng.integers(0, city.n, 4))
    kind = rng.integers(4, size=2)
    place = [
        (a, tuple(city.to_lonlat(city.middle[a])), f"node:{city.u[a]}", square(city, a, 250.0))[kind[0]],
        (b, tuple(city.to_lonlat(city.middle[b])), f"node:{city.v[b]}", square(city, b, 250.0))[kind[1]],
    ]
    more: dict = {}
    if rng.random() < 0.4:
        more["via"] = [c, d][: rng.integers(1, 3)]
    if rng.random() < 0.5:
        more["closed"] = [int(x) for x in rng.integers(0, city.n, 5)]
    if rng.random() < 0.3:
        more["closed"] = [*more.get("closed", []), square(city, int(rng.integers(city.n)), 150.0)]
    if rng.random() < 0.2:
        more["forbid"] = [str(rng.choice(["secondary", "living_street"]))]
    limits = ({"max_km": 4.0}, {"min_km": 3.0}, {"min_hops": 20, "max_hops": 60}, {"min_km": 1.5, "max_km": 5.0})
    if rng.random() < 0.2:
        more |= limits[rng.integers(4)]
    return Request(place[0], place[1], **more)


def kept(city: RoadNetwork, request: Request, trips: Trips) -> None:
    """Check every promise on the trips themselves, without the code that made them."""
    assert trips.check() == []
    closed = np.zeros(city.n, bool)
    for item in request.closed:
        if np.ndim(item) == 2:
            area = shapely.transform(shapely.Polygon(item), city.to_xy)
            closed |= np.array([line.intersects(area) for line in city.lines])
        else:
            closed[item] = True
    for name in request.forbid:
        closed |= city.road_class == ROAD_CLASSES.index(name)
    starts = resolve(city, request.origin, "leave", "origin")
    goals = resolve(city, request.destination, "enter", "destination")
    for walk, km in zip(trips.lists(), trips.kilometres(), strict=True):
        assert walk[0] in starts and walk[-1] in goals
        assert not closed[walk].any()
        at = 0
        for point in request.via:
            hits = np.flatnonzero(walk[at:] == point)
            assert len(hits)
            at += int(hits[0])
        assert request.min_hops <= len(walk) - 1 <= (request.max_hops or 128)
        assert request.min_km - 1e-6 <= km <= (request.max_km or np.inf) + 1e-6


@pytest.mark.parametrize("part", range(5))
def test_random_requests_are_kept_or_refused(city: RoadNetwork, model: TripModel, part: int) -> None:
    rng, met = np.random.default_rng(part), 0
    for number in range(REQUESTS):
        request = wish(city, rng)
        began = time.perf_counter()
        try:
            trips = request.sample(model, EACH, seed=number, timed=False)
        except InfeasibleError as refusal:
            assert refusal.field and "\n" not in str(refusal)
            assert time.perf_counter() - began < 2.0
            continue
        kept(city, request, trips)
        met += 1
    assert met > REQUESTS // 2


def tiny() -> RoadNetwork:
    """Return 8 segments: a small town with a loop, a short cut and a dead end."""
    ends = [(1, 2), (2, 3), (3, 4), (2, 4), (4, 2), (3, 2), (4, 5), (3, 5)]
    place = {1: (0, 0), 2: (100, 0), 3: (150, 80), 4: (230, 0), 5: (330, 60)}
    xy = np.array([place[x] for pair in ends for x in pair], float) + [500000.0, 5000000.0]
    u, v = np.array(ends).T
    length = np.linalg.norm(xy[1::2] - xy[::2], axis=1)
    joins = np.array([(a, k) for a, k in itertools.product(range(8), repeat=2) if v[a] == u[k]]).T
    return assemble(
        "tiny", "EPSG:32626", u=u, v=v, key=np.zeros(8, int), osm_way=np.arange(8), length=length,
        speed=np.full(8, 30.0), road_class=np.full(8, 11), geom_ptr=np.arange(0, 17, 2), geom_xy=xy,
        pairs=(joins[0], joins[1]), connected=False,
    )  # fmt: skip


def stage_of(walk: tuple[int, ...], rules: Rules) -> int:
    """Return how many via sets a walk has visited in order, greedily."""
    stage = 0
    for s in walk:
        while stage < len(rules.via) and s in rules.via[stage]:
            stage += 1
    return stage


def admitted(net: RoadNetwork, origin: int, target: tuple[int, ...], rules: Rules, budget: int) -> set[tuple[int, ...]]:
    """Return by enumeration all trips that the rules admit: walks that end when everything is first fulfilled."""
    most = min(budget, rules.max_hops or budget)
    closed = np.zeros(net.n, bool) if rules.closed is None else rules.closed
    metres = net.length.astype(np.float64)

    def done(walk: tuple[int, ...]) -> bool:
        km, hops = metres[list(walk)].sum() / 1000, len(walk) - 1
        return (
            walk[-1] in target and stage_of(walk, rules) == len(rules.via) and hops >= rules.min_hops
            and km >= rules.min_km - 1e-9
        )  # fmt: skip

    found, open_ = set(), [(origin,)] if not closed[origin] else []
    while open_:
        walk = open_.pop()
        if done(walk):
            if not rules.max_km or metres[list(walk)].sum() / 1000 <= rules.max_km + 1e-9:
                found.add(walk)
            continue
        if len(walk) <= most:
            onward = net.succ[net.succ_ptr[walk[-1]] : net.succ_ptr[walk[-1] + 1]]
            open_ += [(*walk, int(k)) for k in onward if not closed[k]]
    return found


def shut(*segments: int) -> np.ndarray:
    mask = np.zeros(8, bool)
    mask[list(segments)] = True
    return mask


@pytest.mark.parametrize(
    ("target", "rules"),
    [
        ((6,), Rules()),
        ((6, 7), Rules()),
        ((6,), Rules(closed=shut(3))),
        ((6,), Rules(via=((5,),))),
        ((7,), Rules(via=((3, 2), (5,)))),
        ((6,), Rules(max_hops=4)),
        ((6,), Rules(min_hops=4)),
        ((6, 7), Rules(min_hops=3, max_hops=6)),
        ((6,), Rules(max_km=0.55)),
        ((6,), Rules(min_km=0.7, max_km=1.05)),
        ((7,), Rules(via=((4,),), max_km=1.2, closed=shut(2))),
        ((6,), Rules(via=((1,),), min_hops=5, max_km=1.1)),
    ],
)
def test_exactly_the_right_trips(target: tuple[int, ...], rules: Rules) -> None:
    net, budget = tiny(), 9
    wanted = admitted(net, 0, target, rules, budget)
    assert wanted, "the case would test nothing"
    fields = Fields(net)
    law = trip_law(fields, np.array([0]), [target], rules, budget=budget)
    graph, togo = law.law.graph, law.law.togo[0]
    most = law.budget
    found, open_ = set(), [((0,), int(law.law.start[0]))]
    while open_:
        walk, state = open_.pop()
        if togo[state] == 0:
            found.add(walk)
            continue
        for s in graph.succ[graph.succ_ptr[state] : graph.succ_ptr[state + 1]]:
            if togo[s] <= most - len(walk):
                open_.append(((*walk, int(graph.labels[s])), int(s)))
    assert found <= wanted
    assert all(close_to_a_limit(net, walk, rules) for walk in wanted - found)


def close_to_a_limit(net: RoadNetwork, walk: tuple[int, ...], rules: Rules) -> bool:
    """Tell whether a trip keeps a limit by less than a metre a segment: kilometres are rounded against it."""
    km = net.length[list(walk)].astype(np.float64).sum() / 1000
    margin = 0.001 * len(walk)
    return bool((rules.max_km and rules.max_km - km < margin) or (rules.min_km and km - rules.min_km < margin))


def test_an_untrained_model_draws_every_admitted_trip_and_no_other() -> None:
    net = tiny()
    model = untrained(net, max_hops=8, block=3)
    rules = Rules(via=((5,),), closed=shut(4))
    wanted = admitted(net, 0, (6, 7), rules, 8)
    trips = model.obeying(rules).sample(np.zeros(1500, int), [(6, 7)] * 1500, seed=1, timed=False)
    assert {tuple(t.tolist()) for t in trips.lists()} == wanted and len(wanted) > 1


def test_nothing_is_admitted_is_refused() -> None:
    net, fields = tiny(), Fields(tiny())
    for target, rules in [((6,), Rules(closed=shut(6))), ((6,), Rules(max_hops=1)), ((0,), Rules(via=((6,),)))]:
        assert not admitted(net, 0, target, rules, 9)
        with pytest.raises(InfeasibleError):
            trip_law(fields, np.array([0]), [target], rules, budget=9)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"origin": 99999}, "origin"),
        ({"origin": "1-999"}, "origin"),
        ({"origin": "nowhere"}, "origin"),
        ({"origin": "0.5,45.0"}, "origin"),
        ({"origin": "200,145"}, "origin"),
        ({"origin": "node:77777"}, "origin"),
        ({"origin": "way:x"}, "origin"),
        ({"destination": 3}, "destination"),
        ({"destination": [(0, 0), (1, 0), (1, 1)]}, "destination"),
        ({"destination": [(0, 0), (1, 1)]}, "destination"),
        ({"destination": None}, "destination"),
        ({"closed": [3]}, "origin"),
        ({"closed": [200]}, "destination"),
        ({"closed": [100], "via": [100]}, "via[0]"),
        ({"via": [7, 99999]}, "via[1]"),
        ({"closed": ["9-9"]}, "closed"),
        ({"forbid": ["primry"]}, "forbid"),
        ({"forbid": ["primary", "trunk", "residential"]}, "origin"),
        ({"max_km": 1.0}, "max_km"),
        ({"max_hops": 5}, "max_hops"),
        ({"min_hops": 500}, "min_hops"),
        ({"min_km": 5.0, "max_km": 4.0}, "min_km"),
        ({"min_hops": 9, "max_hops": 8}, "min_hops"),
        ({"max_km": -1.0}, "max_km"),
        ({"min_km": float("nan")}, "min_km"),
        ({"depart": "25:00"}, "depart"),
        ({"depart": "8.25"}, "depart"),
        ({"depart": "yesterday"}, "depart"),
        ({"depart": "1700000000000"}, "depart"),
        ({"depart": "9999-12-31"}, "depart"),
    ],
    ids=str,
)
def test_a_wrong_request_names_its_field(model: TripModel, change: dict, field: str) -> None:
    began = time.perf_counter()
    with pytest.raises(UsageError) as caught:
        Request(**{"origin": 3, "destination": 200, **change}).sample(model, 2)
    assert caught.value.field == field and caught.value.exit_code == 2
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert time.perf_counter() - began < 1.0


def test_a_coordinate_outside_says_how_far(model: TripModel) -> None:
    with pytest.raises(UsageError, match=r"lies \d+ m outside the network 'synthetic'"):
        Request("-27.2,45.0", 200).sample(model, 1)


def test_the_call_of_the_design(model: TripModel) -> None:
    trips = model.sample(n=5, origin=3, destination=200, via=[100], closed=[50], depart="08:15", seed=0)
    assert len(trips) == 5 and (trips.depart == departure("wed 08:15")).all()
    kept(model.network, Request(3, 200, via=[100], closed=[50]), trips)


def test_a_trip_does_not_depend_on_how_many_are_drawn(city: RoadNetwork, model: TripModel) -> None:
    ask = {"origin": square(city, 3, 300.0), "destination": "node:100", "seed": 4}
    many, few = model.sample(n=70, **ask), model.sample(n=3, **ask)
    assert [t.tolist() for t in many.lists()[:3]] == [t.tolist() for t in few.lists()]
    assert len({int(o) for o in many.origin}) > 3
    two = sample_all(model, [Request(3, 200), Request(3, 150)], 2, 4)
    assert two.id == ["0-0", "0-1", "1-0", "1-1"] and two.destination.tolist() == [200, 200, 150, 150]


def test_kilometre_limits_are_those_of_the_whole_trip(city: RoadNetwork, model: TripModel) -> None:
    """The shortest trip is allowed exactly from its reported length on, and the summary shows no other figure."""
    with pytest.raises(InfeasibleError, match="the shortest admissible trip is") as refusal:
        model.sample(n=1, origin=3, destination=200, max_km=0.5)
    shortest = float(str(refusal.value).split(" is ")[1].split(" km")[0])
    trips = model.sample(n=4, origin=3, destination=200, max_km=shortest + 0.006)
    assert trips.kilometres() == pytest.approx(shortest, abs=0.0061)
    with pytest.raises(InfeasibleError):
        model.sample(n=1, origin=3, destination=200, max_km=shortest - 0.006)
    said = summary(trips)
    assert said["km_most"] <= shortest + 0.006
    assert said["minutes_mean"] == pytest.approx(np.mean([track(trips, i)[1][-1] for i in range(4)]) / 60, abs=0.006)


@pytest.mark.parametrize("limits", [{"min_km": 3.0, "max_km": 4.0}, {"min_km": 3.0}, {"max_km": 4.0}], ids=str)
def test_limits_do_not_depend_on_how_many_are_drawn(
    model: TripModel, monkeypatch: pytest.MonkeyPatch, limits: dict
) -> None:
    monkeypatch.setattr("apps.trajectory.limits.STATES", 20_000)  # coarse counters: their unit shows
    zone = Request(square(model.network, 3, 650.0), 200, **limits)
    rules = zone.rules(model.network)
    every = resolve(model.network, zone.origin, "leave", "origin")
    batches = [limited(model.fields, np.array([o]), (200,), replace(rules, origins=every)) for o in every[::9]]
    assert len({(b.graph.states, *(c.unit for c in b.counters)) for b in batches}) == 1
    few, many = (zone.sample(model, n, 1, timed=False) for n in (2, 12))
    assert [t.tolist() for t in many.lists()[:2]] == [t.tolist() for t in few.lists()]
    assert len({int(o) for o in many.origin}) > 3
    table = sample_all(model, [zone, replace(zone, origin=8)], 2, 1, timed=False)
    assert [t.tolist() for t in table.lists()[:2]] == [t.tolist() for t in few.lists()]
    bound, start = model.obeying(rules), many.origin[:4].astype(np.int64)
    together = bound.sample(start, [(200,)] * 4, seed=2, timed=False)
    apart = bound.sample(start[3:], [(200,)], seed=2, index=np.array([3]), timed=False)
    assert together.lists()[3].tolist() == apart.lists()[0].tolist()


def test_closed_segments_of_an_origin_zone_are_not_driven(model: TripModel) -> None:
    zone = square(model.network, 200, 300.0)
    inside = resolve(model.network, zone, "leave", "origin")
    request = Request(zone, 200, closed=[s for s in inside[1::2] if s != 200], max_km=2.0)
    kept(model.network, request, request.sample(model, 12, timed=False))


def test_a_round_trip_must_be_asked_for(model: TripModel) -> None:
    with pytest.raises(InfeasibleError, match="round trip"):
        model.sample(n=1, origin=3, destination=3)
    trip = model.sample(n=1, origin=3, destination=3, min_hops=6)
    assert trip.check() == [] and trip.hops()[0] > 6
    assert model.sample([3], [3]).lists()[0].tolist() == [3]


def test_places(city: RoadNetwork) -> None:
    a = 17
    assert resolve(city, f"{city.u[a]}-{city.v[a]}", "enter", "x") == (a,)
    twin = resolve(city, tuple(city.to_lonlat(city.middle[a])), "enter", "x")
    assert a in twin and all({city.u[s], city.v[s]} == {city.u[a], city.v[a]} for s in twin)
    leave, enter = (resolve(city, f"node:{city.u[a]}", role, "x") for role in ("leave", "enter"))
    assert set(city.u[list(leave)]) == {city.u[a]} == set(city.v[list(enter)])
    assert set(resolve(city, f"node:{city.u[a]}", "touch", "x")) == {*leave, *enter}
    way = resolve(city, f"way:{city.osm_way[a]}", "touch", "x")
    assert set(city.osm_way[list(way)]) == {city.osm_way[a]}
    thin = square(city, a, 3.0)  # crosses the street without holding one of its points
    assert closures(city, [thin], ())[a]


@pytest.mark.parametrize("text", ["", "[1, 2", '{"type": "Polygon"}', '{"type":"Point","coordinates":[0,1]}', "[]"])
def test_a_malformed_zone_is_one_line(city: RoadNetwork, tmp_path, text: str) -> None:
    path = tmp_path / "zone.geojson"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        resolve(city, f"zone:{path}", "enter", "destination")
    assert "zone.geojson" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1372636800", 1372636800.0), ("2013-07-01T00:00:00Z", 1372636800.0), ("2013-07-01", 1372636800.0),
     ("mon 00:00", 1704067200.0), ("Saturday 01:00:30", 1704067200.0 + 5 * 86400 + 3630)],
)  # fmt: skip
def test_departures(text: str, expected: float) -> None:
    assert departure(text) == expected
