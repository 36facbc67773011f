"""What the commands do: load, ask, draw, write. Results are returned, progress goes to stderr."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.trajectory import export, places
from apps.trajectory.data import Trips
from apps.trajectory.requests import Request, read_requests, sample_all
from core.errors import UsageError

if TYPE_CHECKING:
    from apps.trajectory.generate import TripModel
    from apps.trajectory.scorecard import Scorecard
    from core.run.report import Section

__all__ = ["demand", "demo", "evaluate", "match", "sample", "whatif", "wishes"]

FRESH = 7919
"""Added to a recipe's seed: simulated trips that no training has seen."""


def say(line: str) -> None:
    """Tell the user how far it is."""
    print(line, file=sys.stderr)


def wishes(
    *, closed: Sequence[str] | None = None, close_polygon: Sequence[str] | None = None,
    via: Sequence[str] | None = None, forbid: Sequence[str] | None = None, origin: str = "", destination: str = "",
    **rest: Any,
) -> Request:  # fmt: skip
    """Return the request that the words of the command line make."""
    areas = [polygon(text) for text in close_polygon or ()]
    return Request(origin, destination, tuple(via or ()), (*(closed or ()), *areas), tuple(forbid or ()), **rest)


def polygon(text: str) -> places.Place:
    """Return the area that `FILE.geojson` or "lon,lat lon,lat lon,lat" stands for."""
    corners = [places.POINT.fullmatch(word) for word in text.split()]
    if len(corners) >= 3 and all(corners):
        return [(float(c[1]), float(c[2])) for c in corners if c]
    return text if text.startswith("zone:") else f"zone:{text}"


def single() -> None:
    """Compute on one thread unless OMP_NUM_THREADS says otherwise: on small windows, threads that wait cost more."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def load(name: str, network: str, settings: Mapping[str, Any] | None = None) -> TripModel:
    """Load a model and change those sampling settings that are given."""
    from apps import trajectory

    began = time.perf_counter()
    single()
    model = trajectory.load(name, network or None)
    given = {k: v for k, v in (settings or {}).items() if v is not None}
    say(f"{name}: {model.network!r}, {time.perf_counter() - began:.1f} s")
    return model.set(**given) if given else model


def sample(
    name: str, request: Request, *, n: int, od: Path | None, seed: int, settings: Mapping[str, Any], network: str,
    out: Path | None,
) -> dict[str, Any] | None:  # fmt: skip
    """Draw trips; write them to `out` and return a summary, or print GeoJSON and return None."""
    if od is None and not (request.origin and request.destination):
        missing = "destination" if request.origin else "origin"
        raise UsageError("is needed, or --od FILE", field=missing, hint=f"write {places.FORMS}")
    if od is not None and (request.origin or request.destination):
        raise UsageError("stands in the table already", field="od", hint="give either --od or --origin, --destination")
    if out is not None:
        export.check_format(out)
    asked = [request] if od is None else read_requests(od, request)
    model = load(name, network, settings)
    began = time.perf_counter()
    trips = sample_all(model, asked, n, seed)
    say(f"{len(trips)} trips in {time.perf_counter() - began:.2f} s")
    if out is None:
        json.dump({"type": "FeatureCollection", "features": list(export.features(trips))}, sys.stdout)
        print()
        return None
    trips.write(out)
    return {"out": str(out), **summary(trips)}


def summary(trips: Trips) -> dict[str, Any]:
    """Return what is to be said of a set of trips in a few figures."""
    km, seconds = trips.kilometres(), trips.seconds()
    routes = len({t.tobytes() for t in trips.lists()})
    minutes = float(np.nanmean(seconds)) / 60 if np.isfinite(seconds).any() else None
    return {
        "trips": len(trips), "different_routes": routes, "illegal_steps": len(trips.check()),
        "km_mean": round(float(km.mean()), 3), "km_least": round(float(km.min()), 3),
        "km_most": round(float(km.max()), 3), "minutes_mean": minutes if minutes is None else round(minutes, 2),
    }  # fmt: skip


def demand(model: TripModel, trips: str, most: int, seed: int = 0) -> tuple[Trips, Trips]:
    """Return (trips that the model was not trained on, trips that it was trained on).

    From the file `trips`; else the test split of the recipe's file; else fresh simulated trips of the same law.
    """
    from apps.trajectory.logit import simulate
    from apps.trajectory.scorecard import answerable
    from apps.trajectory.sources import open_network, read_splits, read_trips
    from apps.trajectory.task import SPLIT, corpus

    config, network = model.recipe.data, model.network
    mine = config.trips or config.network == "city"
    here = mine and np.array_equal(open_network(config.network, config.cache).succ, network.succ)
    nothing, parts = Trips.from_lists(network, []), (config.trips, network, SPLIT, config.cache, config.turn)
    if trips:
        train = read_splits(*parts)[0] if config.trips and here else nothing
        return answerable(read_trips(trips, network), most, config.max_hops), train
    if config.trips and here:
        say(f"reading {config.trips}")
        train, _, test = read_splits(*parts)
        return answerable(test, most, config.max_hops), train
    say("simulating trips of known law")
    fresh = simulate(network, 2 * most, seed=model.recipe.seed + FRESH + seed, max_hops=config.max_hops)
    trained = corpus(config, model.recipe.seed).simulated if config.network == "city" and here else nothing
    if len(trained):
        trained = Trips(network, trained.ptr, trained.segment, trained.enter, trained.depart, trained.id)
    return answerable(fresh, most, config.max_hops), trained


def evaluate(name: str, *, trips: str, n: int, seed: int, network: str, out: Path | None) -> Scorecard:
    """Judge a model beside the baselines and maybe write the report."""
    from apps.trajectory.scorecard import judge
    from core.run.report import write

    if out is not None and out.suffix != ".html":
        raise UsageError("the report is a page", field="out", value=str(out), hint="name it FILE.html")
    model = load(name, network)
    real, training = demand(model, trips, n, seed)
    card = judge(model, real, training, seed)
    if out is not None:
        with export.replacing(out) as part:
            write(part, f"{name} on {model.network.name}", card.sections())
        say(f"wrote {out}")
    return card


def match(network: str, traces: Path, out: Path | None, report: Path | None) -> dict[str, Any]:
    """Match raw GPS and write trips and report."""
    from apps.trajectory import matching
    from apps.trajectory.gps import read_gps
    from apps.trajectory.sources import open_network

    if out is not None:
        export.check_format(out)
    fixes = read_gps(traces)
    roads = open_network(network)
    say(f"{len(fixes)} traces to {roads!r}")
    result = matching.match(roads, fixes)
    if report is not None:
        with export.writing(report) as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("id", "fixes", "matched", "off_road", "trips", "median_metres", "breaks"))
            for r in result.report:
                metres = "" if np.isnan(r.median_metres) else round(r.median_metres, 2)
                rows.writerow((r.id, r.fixes, r.matched, r.off_road, r.trips, metres, "; ".join(r.breaks)))
    if out is not None:
        result.trips.write(out)
    written = {k: str(v) for k, v in (("out", out), ("report", report)) if v is not None}
    return {**written, **{k.replace(" ", "_"): v for k, v in result.summary().items()}}


def whatif(
    name: str, closure: Request, busiest: int, *, od: Path | None, n: int, trips: str, most: int, seed: int,
    network: str, out: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Close roads, regenerate, and write maps and tables into the folder `out`."""
    from apps.trajectory.whatif import close, close_busiest

    if busiest and (len(closure.closed) or closure.forbid):
        raise UsageError("cannot be combined with other closures", field="busiest", value=busiest)
    if not busiest and not len(closure.closed) and not closure.forbid:
        hint = "give --closed, --close-polygon, --forbid or --busiest"
        raise UsageError("nothing to close", field="closed", hint=hint)
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError("is a file, not a folder", field="out", value=str(out))
    asked = [] if od is None else read_requests(od, Request("", ""))
    model = load(name, network)
    mask = places.closures(model.network, closure.closed, closure.forbid)
    if asked:
        before = sample_all(model, asked, n, seed)
    else:
        real, _ = demand(model, trips, most, seed)
        rows = np.repeat(np.arange(len(real)), n)
        before = model.sample(real.origin[rows], real.destination[rows], real.depart[rows], seed)
    found = close(model, before, close_busiest(before, busiest) if mask is None else mask, seed)
    say(f"{len(found.affected)} of {len(before)} trips drawn again, {len(found.stranded)} stranded")
    files = {} if out is None else {"out": str(out), "files": " ".join(p.name for p in sorted(found.write(out)))}
    return {**files, **found.summary()}


def demo(folder: Path) -> list[Section]:
    """Run the app's main job on embedded data."""
    from apps.trajectory.demo import sections

    single()
    return sections(folder)
