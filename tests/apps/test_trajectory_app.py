"""The trajectory app as a user meets it: every verb, every output, every kind of bad input."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from apps.__main__ import main
from apps.trajectory import limits, load, stream, verbs
from apps.trajectory.calibrate import fit
from apps.trajectory.city import synthetic_city
from apps.trajectory.data import Trips
from apps.trajectory.export import to_csv, to_hoser
from apps.trajectory.gps import observe
from apps.trajectory.logit import simulate
from apps.trajectory.model import DataConfig, Recipe
from apps.trajectory.requests import sample_all
from apps.trajectory.scorecard import answerable
from apps.trajectory.sources import keep, kept, open_network, read_splits, read_trips
from apps.trajectory.task import corpus, make
from core.errors import DataError, InfeasibleError, UsageError

ENDS = ("--origin", "3", "--destination", "200")
SHORT = ["trainer.steps=6", "trainer.validate_every=0", "data.simulated=400", "model.dim=16", "model.depth=1"]


@dataclass
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Quintet = Callable[..., Done]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the toy for a few steps, once."""
    out = tmp_path_factory.mktemp("toy")
    words, sys.argv = sys.argv, ["quintet", "trajectory", "train", "toy", *SHORT, "--out", str(out)]
    try:
        main()
    except SystemExit as end:
        assert not end.code
    finally:
        sys.argv = words
    return out


@pytest.fixture(scope="module")
def trips() -> Trips:
    return simulate(synthetic_city(), 60, seed=5, max_hops=100)


@pytest.fixture
def quintet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Quintet:
    """Run a command in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["quintet", "trajectory", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capfd.readouterr())

    return run


def test_geojson_goes_to_stdout(quintet: Quintet, run_folder: Path) -> None:
    done = quintet("sample", run_folder, "-n", 3, *ENDS, "--via", 100, "--depart", "08:15")
    found = json.loads(done.out)
    assert done.code == 0 and "3 trips" in done.err
    for feature in found["features"]:
        walk = feature["properties"]["segments"]
        assert walk[0] == 3 and walk[-1] == 200 and 100 in walk
        assert feature["properties"]["depart"] == "2024-01-03T08:15:00.000Z"


@pytest.mark.parametrize("ending", [".geojson", ".gpx", ".csv", ".csv.gz", ".parquet", ".rou.xml", ".html"])
def test_every_format(quintet: Quintet, run_folder: Path, tmp_path: Path, ending: str) -> None:
    words = ["--origin", 3, "--destination", "node:100", "--depart", "08:15", "--closed", 50, "--json"]
    done = quintet("sample", run_folder, "-n", 4, *words, "--out", f"trips{ending}")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["trips"] == 4 and result["illegal_steps"] == 0
    assert [p.name for p in tmp_path.iterdir()] == [f"trips{ending}"] and (tmp_path / f"trips{ending}").stat().st_size


def test_the_same_seed_gives_the_same_trips(quintet: Quintet, run_folder: Path) -> None:
    words = ("sample", run_folder, "-n", 5, "--origin", 3, "--destination", 200)
    first, again, other = (quintet(*words, "--seed", s).out for s in (1, 1, 2))
    assert first == again != other


def test_a_table_of_requests(quintet: Quintet, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "od.csv").write_text("origin,destination,depart\n3,200,08:15\nnode:100,17,\n")
    zone = {"type": "Polygon", "coordinates": [[[-27.0, 45.0], [-26.995, 45.0], [-26.995, 45.004], [-27.0, 45.0]]]}
    (tmp_path / "zone.geojson").write_text(json.dumps(zone))
    done = quintet("sample", run_folder, "--od", "od.csv", "-n", 2, "--close-polygon", "zone.geojson")
    rows = [f["properties"] for f in json.loads(done.out)["features"]]
    assert [r["id"] for r in rows] == ["0-0", "0-1", "1-0", "1-1"]
    assert [r["destination"] for r in rows] == [200, 200, 17, 17] and rows[2]["depart"] is None


def test_shards_hold_the_trips_of_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trips wherever they are cut, under the names that the network's file gives its segments."""
    monkeypatch.setattr(limits, "STATES", 4000)  # coarse counters, whose unit follows from all origins of a request
    city = synthetic_city()
    city.label = np.array([f"e{city.n - i}" for i in range(city.n)])
    city.save(tmp_path / "named.npz")
    asked = {"origin": "node:5", "destination": f"e{city.n - 200}", "min_km": 2.5}
    draw = stream.rows("toy", n=12, od=None, seed=3, steps=None, block=None, guidance=None,
                       network=str(tmp_path / "named.npz"), **asked)  # fmt: skip
    rows = [row for first in range(0, 12, 6) for row in draw(first, 6)]
    found = sample_all(load("toy", city), [verbs.wishes(**asked)], 12, 3)
    assert [row["segments"] for row in rows] == [city.label[walk].tolist() for walk in found.lists()]
    assert len(set(found.origin.tolist())) > 1 and [row["id"] for row in rows] == list(range(12))


def test_evaluate(quintet: Quintet, run_folder: Path, tmp_path: Path) -> None:
    done = quintet("evaluate", run_folder, "-n", 12, "--out", "card.html", "--json")
    card = json.loads(done.out)
    assert done.code == 0 and card["requests"] == 12
    assert card["strict"]["model, most likely"]["illegal"] == 0 and "fastest path" in card["hoser"]
    assert 0 <= card["privacy"]["figures"]["membership_auc"] <= 1 and "jaccard_floor" in card["floor"]
    assert "Privacy card" in (tmp_path / "card.html").read_text()
    assert "nats per trip" in quintet("evaluate", run_folder, "-n", 12).out


def test_evaluate_on_other_roads(quintet: Quintet, run_folder: Path, tmp_path: Path) -> None:
    """What the model was trained on lies in another city: nothing of it may be laid over these roads."""
    synthetic_city(1).save(tmp_path / "other.npz")
    done = quintet("evaluate", run_folder, "--network", "other.npz", "-n", 2, "--json")
    assert done.code == 0, done.err
    card = json.loads(done.out)
    assert "Markov chain" not in card["strict"] and "membership_auc" not in card["privacy"]["figures"]
    assert card["privacy"]["warnings"][0].startswith("the training trips are not known here")


def test_whatif(quintet: Quintet, run_folder: Path, tmp_path: Path) -> None:
    done = quintet("whatif", run_folder, "--busiest", 2, "--most", 40, "--out", "closed", "--json")
    result = json.loads(done.out)
    assert done.code == 0, done.err
    assert result["closed_segments"] == 2 and result["affected"] > 0 and result["uses_of_closed_after"] == 0
    names = {"fastest_difference.html", "flow_difference.csv", "flow_difference.geojson", "flow_difference.html"}
    assert {p.name for p in (tmp_path / "closed").iterdir()} == names


def test_match_then_train_on_it(quintet: Quintet, trips: Trips, tmp_path: Path) -> None:
    trips.network.save(tmp_path / "city.npz")
    with (tmp_path / "gps.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "t", "lat", "lon"))
        for trace in observe(trips, sigma=5.0, seed=1):
            rows.writerows((trace.id, t, lat, lon) for t, (lon, lat) in zip(trace.t, trace.lonlat, strict=True))
    done = quintet("match", "city.npz", "gps.csv", "--out", "trips.csv", "--report", "report.csv", "--json")
    result = json.loads(done.out)
    assert done.code == 0 and result["matched"] >= 55, result
    assert len(list(csv.DictReader((tmp_path / "report.csv").open()))) == result["traces"]
    data = ("data.network=city.npz", "data.trips=trips.csv", "data.simulated=0", "data.real=1", "data.batch=8")
    done = quintet("check", "toy", *data, "--json")
    assert done.code == 0 and json.loads(done.out)["first_loss"] > 0, done.err


def test_sources_read_what_tools_write(trips: Trips, tmp_path: Path) -> None:
    network = trips.network
    to_csv(trips, tmp_path / "long.csv")
    back = read_trips(tmp_path / "long.csv", network)
    assert [t.tolist() for t in back.lists()] == [t.tolist() for t in trips.lists()] and back.id == trips.id
    assert np.allclose(back.enter, trips.enter, atol=2e-3)
    for name, rows in (("train", slice(0, 40)), ("val", slice(40, 50)), ("test", slice(50, 60))):
        to_hoser(trips.select(rows), tmp_path / "hoser", name)
    roads = open_network(str(tmp_path / "hoser"))
    parts = read_splits(str(tmp_path / "hoser"), roads, (0.8, 0.1, 0.1))
    assert [len(p) for p in parts] == [40, 10, 10] and all(p.check() == [] for p in parts)
    assert parts[2].lists()[0].tolist() == trips.lists()[50].tolist()
    keep(tmp_path / "kept.npz", trips)
    assert kept(tmp_path / "kept.npz", network).id == trips.id
    (tmp_path / "kept.npz").write_bytes((tmp_path / "kept.npz").read_bytes()[:500])
    with pytest.raises(DataError, match="damaged trips"):
        kept(tmp_path / "kept.npz", network)


def test_whole_trains_on_what_validated(trips: Trips, tmp_path: Path) -> None:
    """No trip is lost or repeated, and those that judge stay apart."""
    trips.network.save(tmp_path / "city.npz")
    to_csv(trips, tmp_path / "trips.csv")
    config = DataConfig(network=str(tmp_path / "city.npz"), trips=str(tmp_path / "trips.csv"), simulated=0, turn=0.5)
    parts, whole = corpus(config, 0), corpus(dataclasses.replace(config, whole=True), 0)
    assert len(parts.valid) > 0 and len(whole.valid) == 0
    assert sorted(whole.train.id) == sorted([*parts.train.id, *parts.valid.id])
    assert whole.test.id == parts.test.id and not set(whole.train.id) & set(whole.test.id)


def test_trips_simulated_like_others_are_not_taken_from_the_cache(trips: Trips, tmp_path: Path) -> None:
    """A turned split has other training trips, whose ends must not come from those that it judges."""
    trips.network.save(tmp_path / "city.npz")
    to_csv(trips, tmp_path / "trips.csv")
    config = DataConfig(network=str(tmp_path / "city.npz"), trips=str(tmp_path / "trips.csv"), simulated=30,
                        cache=str(tmp_path / "cache"))  # fmt: skip
    turned = dataclasses.replace(config, turn=0.5)
    first, second = corpus(config, 0), corpus(turned, 0)
    fresh = corpus(dataclasses.replace(turned, cache=""), 0)
    assert second.simulated.lists()[0].tolist() == fresh.simulated.lists()[0].tolist()
    assert [w.tolist() for w in second.simulated.lists()] != [w.tolist() for w in first.simulated.lists()]
    assert (corpus(config, 0).simulated.segment == first.simulated.segment).all()


def test_trips_over_steps_that_are_none_train_and_judge_nobody(
    trips: Trips, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HOSER's tables state segments only: one left out makes a step that the roads do not have."""
    walks = [np.delete(w, 2) if i % 3 == 0 and len(w) > 5 else w for i, w in enumerate(trips.lists())]
    broken = Trips.from_lists(trips.network, walks, trips.depart)
    legal = broken.legal()
    assert 5 < (~legal).sum() == len(broken.check()) and legal.sum() > 30
    for part in ("train", "val", "test"):
        to_hoser(broken, tmp_path, part)
    found = corpus(DataConfig(network=str(tmp_path), trips=str(tmp_path), simulated=0), 0)
    assert found.train.id == found.test.id == [i for i, ok in zip(broken.id, legal, strict=True) if ok]
    assert f"train.csv: {(~legal).sum()} of {len(trips)} trips take a step" in capsys.readouterr().err
    assert len(read_trips(tmp_path / "test.csv", found.network)) == len(trips), "generated trips are judged as they are"
    assert answerable(broken, len(trips), 99).legal().all()
    assert fit(broken, steps=1).used == fit(broken.select(np.flatnonzero(legal)), steps=1).used


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"simulated": 0, "real": 0.5}, "data.simulated"),
        ({"simulated": 0}, "data.simulated"),
        ({"simulated": 0, "real": 1.0, "whole": True}, "data.trips"),
        ({"simulated": 0, "real": 1.0, "max_hops": 2}, "data.trips"),
        ({"simulated": 30, "trips": ""}, "data.trips"),
    ],
    ids=str,
)
def test_a_recipe_without_trips_is_refused(trips: Trips, tmp_path: Path, change: dict, field: str) -> None:
    to_csv(trips, tmp_path / "trips.csv")
    recipe = Recipe(data=DataConfig(**{"trips": str(tmp_path / "trips.csv"), **change}))
    with pytest.raises(UsageError) as caught:
        make(recipe)
    assert caught.value.field == field and "\n" not in str(caught.value)


def test_three_trips_train(trips: Trips, tmp_path: Path) -> None:
    """Fewer trips than folds: those that there are serve."""
    to_csv(trips.select(range(3)), tmp_path / "trips.csv")
    recipe = Recipe(data=DataConfig(trips=str(tmp_path / "trips.csv"), simulated=60, real=1.0, batch=4), blocks=[1])
    assert all(len(make(recipe).batch(step, 0, 1).row_trip) for step in range(3))


def damaged(run_folder: Path, folder: Path) -> Path:
    """Copy a checkpoint and change one byte of its weights."""
    folder.mkdir()
    for path in (run_folder / "model").iterdir():
        blob = bytearray(path.read_bytes())
        if path.suffix == ".safetensors":
            blob[-1] ^= 1
        (folder / path.name).write_bytes(blob)
    return folder


def foreign(run_folder: Path, folder: Path) -> Path:
    """Copy a checkpoint and let it belong to another app."""
    folder.mkdir()
    for path in (run_folder / "model").iterdir():
        (folder / path.name).write_bytes(path.read_bytes().replace(b'"trajectory"', b'"music"'))
    return folder


BAD = {
    "bad.osm": "<osm><node id='1'",
    "bad.gpx": "<gpx><trk></gpx>",
    "bad.csv": "id,t,lat,lon\na,0,41.1,x\n",
    "latlon.csv": "id,t,lat,lon\na,0,141.1,-8\n",
    "far.csv": "id,t,lat,lon\na,0,41.1,-8.0\na,15,41.1,-8.001\n",
    "od.csv": "origin,target\n3,200\n",
    "when.csv": "origin,destination,depart\n3,200,late\n",
    "long.csv": "traj_id,t,segment_id,u,v\n0,,99999,1,2\n",
    "bad.geojson": '{"type": "Polygon", "coordinates": [[',
    "roadmap.geo": "geo_id,coordinates\n0,[[1,2]\n",
    "typo.yaml": "defaults: [base, _self_]\nmodel: {dimm: 3}\n",
}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["sample", "{model}"], 2, "origin: is needed"),
        (["sample", "{model}", "--origin", "3"], 2, "destination: is needed"),
        (["sample", "{model}", *ENDS, "--out", "trips.shp"], 2, "out: the ending"),
        (["sample", "{model}", *ENDS, "--out", "trips.rou.xml"], 2, "depart: SUMO needs a departure"),
        (["sample", "{model}", *ENDS, "--out", "bad.csv/trips.csv"], 2, "is a file"),
        (["sample", "{model}", *ENDS, "-n", "0"], 2, "'-n': Input should be greater than or equal to 1"),
        (["evaluate", "{model}", "-n", "-5"], 2, "'-n': Input should be greater than or equal to 1"),
        (["whatif", "{model}", "--busiest", "1", "-n", "-1"], 2, "'-n': Input should be greater than or equal to 1"),
        (["sample", "{model}", *ENDS, "--depart", "1700000000000"], 2, "if these are milliseconds write 1700000000"),
        (["sample", "{model}", *ENDS, "--block", "999"], 2, "block: is too long; got 999"),
        (["sample", "{model}", *ENDS, "--closed", "200"], 2, "destination: the segment is closed"),
        (["sample", "{model}", *ENDS, "--max-km", "0.5"], 2, "max_km: the shortest"),
        (["sample", "{model}", *ENDS, "--forbid", "primry"], 2, "did you mean 'primary'"),
        (["sample", "{model}", *ENDS, "--depart", "noon"], 2, "depart: not a time"),
        (["sample", "{model}", *ENDS, "--via", "9-9"], 2, "via[0]: unknown segment"),
        (["sample", "{model}", *ENDS, "--close-polygon", "bad.geojson"], 3, "bad.geojson: malformed GeoJSON"),
        (["sample", "{model}", "--origin", "-8.6,41.1", "--destination", "3"], 2, "outside the network"),
        (["sample", "{model}", "--od", "od.csv"], 3, "od.csv: no column 'destination'"),
        (["sample", "{model}", "--od", "when.csv"], 3, "line 2, column 'depart'"),
        (["sample", "{model}", "--od", "none.csv"], 3, "none.csv: no such file"),
        (["sample", "{model}", *ENDS, "--network", "bad.osm"], 3, "bad.osm"),
        (["sample", "{model}", *ENDS, "--network", "none.osm"], 3, "none.osm: no such file"),
        (["sample", "{damaged}", *ENDS], 3, "damaged: sha256"),
        (["sample", "{foreign}", *ENDS], 3, "belongs to app 'music'"),
        (["sample", "prto", *ENDS], 3, "model: no such model"),
        (["check", "{damaged}"], 3, "damaged: sha256"),
        (["evaluate", "{model}", "--out", "card.pdf"], 2, "out: the report is a page"),
        (["evaluate", "{model}", "--trips", "long.csv"], 3, "line 2, column 'segment_id'"),
        (["whatif", "{model}"], 2, "closed: nothing to close"),
        (["whatif", "{model}", "--busiest", "2", "--closed", "3"], 2, "busiest: cannot be combined"),
        (["match", "city", "bad.gpx"], 3, "bad.gpx: malformed XML"),
        (["match", "city", "bad.csv"], 3, "line 2, column 'lon' is not a number"),
        (["match", "city", "latlon.csv"], 3, "latitude beyond 90"),
        (["match", "city", "far.csv"], 2, "outside the network"),
        (["match", "bad.osm", "far.csv"], 3, "bad.osm"),
        (["match", ".", "far.csv"], 3, "roadmap.geo: line 2, column 'coordinates'"),
        (["check", "toy", "model.dimm=3"], 2, "model.dimm: no such setting; got '3'; one of model.dim"),
        (["check", "./typo.yaml"], 2, "model.dimm: no such setting; one of model.dim"),
        (["check", "tooy"], 2, "did you mean 'toy'"),
        (["check", "porto_full"], 3, "data/hoser/Porto: no such file"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_bad_input_is_one_line(
    quintet: Quintet, run_folder: Path, tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    for name, text in BAD.items():
        (tmp_path / name).write_text(text)
    places = {"{model}": str(run_folder)}
    if "{damaged}" in words:
        places["{damaged}"] = str(damaged(run_folder, tmp_path / "damaged"))
    if "{foreign}" in words:
        places["{foreign}"] = str(foreign(run_folder, tmp_path / "foreign"))
    before = {p.name for p in tmp_path.iterdir()}
    done = quintet(*(places.get(w, w) for w in words))
    assert done.code == code, done.err
    last = [line for line in done.err.splitlines() if line.strip()][-1]
    assert says in last and "Traceback" not in done.err and not done.out
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("more", [{"closed": [200]}, {"max_km": 0.5}, {"max_hops": 3}, {"via": [100], "closed": [100]}])
def test_an_infeasible_request_is_refused_within_a_second(run_folder: Path, more: dict) -> None:
    model = load(run_folder)
    began = time.perf_counter()
    with pytest.raises(InfeasibleError):
        model.sample(n=10, origin=3, destination=200, **more)
    assert time.perf_counter() - began < 1.0


def test_porto_refuses_within_a_second(run_folder: Path, shared_data: Path) -> None:
    folder = shared_data / "trajectory" / "porto"
    model = load(run_folder, str(folder / "porto_center.osm.gz"))
    rng = np.random.default_rng(0)
    some = rng.integers(0, model.network.n, (12, 2))
    for origin, destination in some.tolist():
        for more in ({"max_km": 0.01}, {"max_hops": 1}, {"closed": [destination]}):
            began = time.perf_counter()
            with pytest.raises(InfeasibleError):
                model.sample(n=5, origin=origin, destination=destination, **more)
            assert time.perf_counter() - began < 1.0
    trips = model.sample(n=5, origin=int(some[0, 0]), destination=int(some[0, 1]))
    assert trips.check() == []
