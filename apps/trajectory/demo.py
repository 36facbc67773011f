"""The app's main job on the embedded city, as sections of a page: train, sample, judge, ask what if."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from apps.trajectory import pictures, verbs
from apps.trajectory.data import Trips
from apps.trajectory.generate import TripModel
from apps.trajectory.logit import RecursiveLogit
from apps.trajectory.maps import trips_map
from apps.trajectory.metrics import route_shares, share_distance, share_floor, uniform_shares
from apps.trajectory.network import RoadNetwork
from apps.trajectory.requests import departure
from apps.trajectory.scorecard import judge
from apps.trajectory.whatif import close
from core.run.report import Commands, Link, Picture, Section, Table, Text

__all__ = ["obtain", "sections"]

TRIPS, REQUESTS, FLEET, DRAWS = 100, 120, 400, 1000
MORNING = "08:15"
COMMANDS = (
    "quintet trajectory train toy --out out/demo/trajectory/model",
    f"quintet trajectory sample toy -n {TRIPS} --origin 3 --destination 200 --via 100 --depart {MORNING} --out via.gpx",
    f"quintet trajectory sample toy -n {TRIPS} --origin 3 --destination 200 --closed 50 --min-km 4 --out trips.geojson",
    f"quintet trajectory evaluate toy -n {REQUESTS} --out card.html",
    f"quintet trajectory whatif toy --busiest 2 --most {FLEET} --out whatif",
)


def sections(folder: Path) -> list[Section]:
    """Write pictures, maps and tables into `folder` and return what the page shows of them."""
    model, source = obtain(folder)
    bridges = crossings(model.network)
    parts = [_constraints(model, source, bridges, folder), _proportions(model, folder)]
    verbs.say("demo: judging beside the baselines")
    real, training = verbs.demand(model, "", REQUESTS)
    parts += judge(model, real, training).sections("Trips: beside the baselines")
    return [*parts, _whatif(model, bridges, folder), Section("Make it again", [Commands(COMMANDS)])]


def obtain(folder: Path) -> tuple[TripModel, str]:
    """Train the toy recipe and return its model with a word on where it comes from; a run that stands is taken up."""
    from apps import trajectory
    from core.run.config import load_recipe
    from core.run.launch import run

    verbs.say("demo: training the toy recipe (under a minute)")
    found = run("trajectory", load_recipe("trajectory", "toy"), folder / "model", None)
    return trajectory.load(found.folder), f"the toy recipe, {found.step} steps, trained by this very command"


def crossings(network: RoadNetwork) -> list[np.ndarray]:
    """Return the bridges of the synthetic city from west to east, each with both directions.

    The river runs between two rows of junctions: segments that cross it are the longest of the city's north-south ones.
    """
    along = np.abs(np.sin(network.heading_in)) > 0.8
    typical = float(np.median(network.length[along]))
    long = np.flatnonzero(along & (network.length > 1.7 * typical))
    middle = network.middle[long]
    level = np.median(middle[:, 1])
    long = long[np.abs(middle[:, 1] - level) < 4 * typical]
    order = long[np.argsort(network.middle[long, 0])]
    cuts = np.flatnonzero(np.diff(network.middle[order, 0]) > typical) + 1
    return np.split(order, cuts)


def _constraints(model: TripModel, source: str, bridges: list[np.ndarray], folder: Path) -> Section:
    network = model.network
    verbs.say("demo: sampling under constraints")
    origin, goal, via = (_near(network, *xy) for xy in ((-450.0, -380.0), (380.0, 520.0), (-250.0, 450.0)))
    middle = bridges[len(bridges) // 2].tolist()
    ask = {"n": TRIPS, "origin": origin, "destination": goal, "depart": MORNING, "seed": 0}
    sets = {
        "free": model.sample(**ask),  # type: ignore[arg-type]
        "via a point": model.sample(**ask, via=[via]),  # type: ignore[arg-type]
        "middle bridge closed": model.sample(**ask, closed=middle),  # type: ignore[arg-type]
        "at least 4 km": model.sample(**ask, min_km=4.0),  # type: ignore[arg-type]
    }
    mask = np.zeros(network.n, bool)
    mask[middle] = True
    rows = [[name, len(t), *_checks(t, origin, goal, via, mask)] for name, t in sets.items()]
    header = ["request", "trips", "illegal steps", "arrived", "pass the via point", "use the closed bridge",
              "different routes", "km mean", "km least", "minutes mean"]  # fmt: skip
    shown = {k: sets[k] for k in ("free", "via a point", "middle bridge closed")}
    charts = [
        _beside(sets, "via a point", None, folder / "via.png", "Every red trip passes the via point."),
        _beside(sets, "middle bridge closed", mask, folder / "closed.png", "No red trip uses the bridge at the cross."),
    ]
    trips_map(shown, folder / "trips.html", "Trips under constraints")
    for ending in (".geojson", ".gpx", ".csv", ".rou.xml"):
        sets["middle bridge closed"].write(folder / f"trips{ending}")
    text = (
        f"The model ({source}) draws trips on a synthetic city of {network.n} segments with "
        f"{len(bridges)} bridges, from segment {origin} to segment {goal} at {MORNING}. Each trip is legal, arrives, "
        "and keeps what was asked: not usually, always."
    )
    return Section("Trips under constraints", [
        Text(text), Table(header, rows, "every column is checked on the trips themselves"),
        *charts,
        Link(folder / "trips.html", "The same on a map with layers (its tiles and scripts come from the web)"),
        Link(folder / "trips.geojson", "The trips with the bridge closed, also .gpx, .csv and .rou.xml beside it"),
    ], f"{sum(row[1] for row in rows)} trips under rules: {sum(row[2] for row in rows)} illegal steps, "
       f"{sum(row[1] - row[3] for row in rows)} that do not arrive, {rows[1][1] - rows[1][4]} that miss the via point, "
       f"{rows[2][5]} over the closed bridge (free: {rows[0][5]})")  # fmt: skip


def _near(network: RoadNetwork, east: float, north: float) -> int:
    """Return the segment nearest to a point given in metres from the middle of the network."""
    away = network.middle - network.geom_xy.mean(0) - np.array([east, north])
    return int(np.argmin(np.abs(away).sum(1)))


def _beside(sets: dict[str, Trips], other: str, closed: np.ndarray | None, path: Path, note: str) -> Picture:
    title = f"{TRIPS} trips each: free, and {other}"
    return _picture(pictures.trips_picture({k: sets[k] for k in ("free", other)}, closed, title), path, note)


def _checks(trips: Trips, origin: int, goal: int, via: int, closed: np.ndarray) -> list[float | int | str]:
    lists, km = trips.lists(), trips.kilometres()
    arrived = sum(int(t[0] == origin and t[-1] == goal) for t in lists)
    last = trips.enter[trips.ptr[1:] - 1]
    return [
        len(trips.check()), arrived, sum(int(via in t) for t in lists), sum(int(closed[t].any()) for t in lists),
        len({t.tobytes() for t in lists}), float(km.mean()), float(km.min()), float(last.mean()) / 60,
    ]  # fmt: skip


def _proportions(model: TripModel, folder: Path) -> Section:
    """Route shares of a few pairs beside their known law."""
    verbs.say("demo: route shares beside the known law")
    real, _ = verbs.demand(model, "", 40)
    when = departure(MORNING)
    rows = np.flatnonzero((real.kilometres() > 1.2) & (real.hops() < 30))[:6]
    law = RecursiveLogit(model.network)
    pairs = [(int(real.origin[i]), int(real.destination[i])) for i in rows]
    truth = {od: Counter(tuple(w.tolist()) for w in law.sample(*od, DRAWS, 1, when)) for od in pairs}
    shares = {od: {r: c / DRAWS for r, c in found.items()} for od, found in truth.items()}
    n = DRAWS // 2
    o, d = (np.repeat([od[k] for od in pairs], n) for k in range(2))
    mine = route_shares(model.sample(o, d, np.full(len(o), when), 3, timed=False))
    ours, even = share_distance(mine, shares), share_distance(uniform_shares(shares), shares)
    floor = share_floor(shares, n)
    table = [[f"{o} to {d}", len(shares[o, d]), ours[o, d], even[o, d]] for o, d in pairs]
    table.append(["mean", "", float(np.mean(list(ours.values()))), float(np.mean(list(even.values())))])
    show = max(pairs, key=lambda od: -max(shares[od].values()))
    routes = [(np.array(r), s) for r, s in mine[show].items()]
    chart = pictures.routes_picture(model.network, routes, f"The model's routes, segment {show[0]} to {show[1]}")
    text = (
        "Route choice is a distribution. The city's trips have a known law (a recursive logit), so that the shares of "
        f"routes can be compared: total variation between the model's ({n} trips a pair) and the law's ({DRAWS} "
        f"draws); about {floor:.3f} is the error of counting alone."
    )
    header = ["pair", "routes of the law", "model", "all routes alike"]
    return Section("Right proportions", [
        Text(text), Table(header, table, "total variation of route shares, 0 is perfect, 1 is disjoint"),
        _picture(chart, folder / "routes.png", "The main routes of one pair with the model's shares."),
    ], f"Route shares: total variation {table[-1][2]:.3f} to the known law, {table[-1][3]:.3f} with all routes alike, "
       f"{floor:.3f} of counting alone")  # fmt: skip


def _whatif(model: TripModel, bridges: list[np.ndarray], folder: Path) -> Section:
    verbs.say("demo: closing the middle bridge")
    real, _ = verbs.demand(model, "", FLEET, seed=1)
    before = model.sample(real.origin, real.destination, real.depart, 5)
    mask = np.zeros(model.network.n, bool)
    mask[bridges[len(bridges) // 2]] = True
    found = close(model, before, mask, 5)
    paths = found.write(folder / "whatif")
    old, new, fast = found.flows
    charts = [
        (pictures.difference_picture(model.network, new - old, mask, "Where the trips go: the model"), "model.png"),
        (pictures.difference_picture(model.network, fast - old, mask, "Where the fastest paths go"), "fastest.png"),
    ]
    text = (
        f"{len(before)} trips; the middle bridge is closed. {len(found.affected)} trips used it and are drawn again "
        "with the same seeds, all others stay as they were. Beside it: rerouted by the fastest path."
    )
    figures = [[k.replace("_", " "), v] for k, v in found.summary().items()]
    shots = [_picture(c, folder / n, "Red: more trips, blue: fewer; crosses: closed.") for c, n in charts]
    links = [Link(p, p.name) for p in sorted(paths) if p.suffix != ".html"]
    return Section("What if the bridge is closed?", [
        Text(text), Table(["figure", "value"], figures), *shots,
        Link(folder / "whatif" / "flow_difference.html", "Change of trips per segment, as a map from the web"), *links,
    ])  # fmt: skip


def _picture(chart: Figure, path: Path, caption: str) -> Picture:
    chart.savefig(path, dpi=110)
    return Picture(path, caption)
