"""What the figures of the trajectory app share: where networks, trips and models are, requests, clocks and tables.

The toy ships with the package. The Porto models derive from trips whose licence is open and do not ship: train them
with `quintet trajectory train porto` and `porto_ar`, and they are read from `runs/trajectory/<recipe>`. A folder in
$QUINTET_MODELS with `trajectory-<name>` in it goes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse.csgraph as csgraph
import torch

from apps import trajectory
from apps.trajectory.calibrate import fit
from apps.trajectory.data import Trips, read_matched, split
from apps.trajectory.generate import TripModel
from apps.trajectory.logit import Parameters
from apps.trajectory.metrics import PairScores, paired_bootstrap
from apps.trajectory.network import RoadNetwork
from apps.trajectory.osm import cache_folder, from_osm
from apps.trajectory.task import SPLIT
from apps.trajectory.tokenizer import trim
from apps.trajectory.traffic import Traffic
from core.errors import DataError
from core.run.fetch import data_root

__all__ = [
    "LOCAL", "cut", "fitted", "gain", "legal", "model", "open_component", "parts", "porto", "random_requests", "roads",
    "rounded", "seconds_each", "single",
]  # fmt: skip

SHARED = Path(__file__).resolve().parents[2] / "shared/data/trajectory"
LOCAL = {"hausdorff_km": -1, "dtw_km": -1, "edr": -1, "jaccard": 1}
"""The four local metrics and the sign of an improvement."""


def _present(path: Path) -> Path:
    if not path.exists():
        raise DataError("missing: this figure needs it", field="/".join(path.parts[-3:]), hint="see data/README.md")
    return path


def single() -> None:
    """Use one thread, so that timings are per core."""
    torch.set_num_threads(1)


@cache
def roads(name: str, simplify: bool = True) -> RoadNetwork:
    """Return a road network by its file under the shared data, such as `porto/porto_drive`."""
    return from_osm(_present(SHARED / f"{name}.osm.gz"), simplify=simplify)


def porto() -> RoadNetwork:
    """Return the road network of Porto."""
    return roads("porto/porto_drive")


@cache
def model(name: str, turn: float = 0.0) -> TripModel:
    """Return the model `toy`, `porto` or `porto-ar`, trained on the trips that a turn of the split leaves it."""
    recipe = name.replace("-", "_")
    words = recipe
    if turn:
        words = f"{recipe} data.turn={turn} --out runs/trajectory/{recipe}_turn{100 * turn:.0f}"
        recipe, name = f"{recipe}_turn{100 * turn:.0f}", f"{name}-turn{100 * turn:.0f}"
    known = [Path(os.environ.get("QUINTET_MODELS") or data_root() / "models") / f"trajectory-{name}"]
    known.append(Path(__file__).resolve().parents[1] / "runs/trajectory" / recipe / "model")
    folder = next((k for k in known if k.is_dir()), None)
    if folder is None:
        raise DataError("no such model", field=name, hint=f"run: quintet trajectory train {words}")
    return trajectory.load(folder, network=None if name == "toy" else porto())


@cache
def parts(turn: float = 0.0) -> tuple[Trips, Trips, Trips]:
    """Return the real trips of Porto that train, choose and judge, split by their identity."""
    trips = read_matched(_present(SHARED / "porto/porto_taxi_matched.csv.gz"), porto())
    return split(trips, fractions=SPLIT, turn=turn)


def cut(trips: Trips) -> tuple[Trips, int]:
    """Return trips cut at their first arrival (those that never move are dropped), and how many were changed."""
    walks = [trim(w) for w in trips.lists()]
    moves = np.array([len(w) > 1 and w[0] != w[-1] for w in walks])
    changed = int((np.array([len(w) for w in walks]) != trips.hops())[moves].sum())
    kept = np.flatnonzero(moves)
    names = [trips.id[i] for i in kept]
    return Trips.from_lists(trips.network, [walks[i] for i in kept], trips.depart[kept], None, names), changed


def fitted(trips: Trips) -> Parameters:
    """Return the recursive logit of maximum likelihood on training trips; kept beside the prepared networks."""
    key = hashlib.sha256("|".join([trips.network.name, str(trips.network.n), *trips.id]).encode()).hexdigest()[:24]
    kept = cache_folder() / f"logit-{key}.json"
    if not kept.is_file():
        found = fit(trips).parameters
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(asdict(found)))
        part.replace(kept)
    stored = json.loads(kept.read_text())
    return Parameters(**{**stored, "traffic": Traffic(**stored["traffic"])})


def open_component(network: RoadNetwork, closed: np.ndarray | None = None) -> np.ndarray:
    """Return the segments of the largest part of the open network in which every segment reaches every other."""
    count, part = csgraph.connected_components(network.adjacency(closed), directed=True, connection="strong")
    inside = np.bincount(part, minlength=count)
    if closed is not None:
        inside -= np.bincount(part[closed], minlength=count)
    return np.flatnonzero((part == inside.argmax()) & (True if closed is None else ~closed))


def random_requests(
    network: RoadNetwork, n: int, rng: np.random.Generator, closed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return n random origins and other destinations, int64 [n] each, among segments that reach each other."""
    inside = open_component(network, closed)
    pairs = np.stack([rng.permutation(inside)[:2] for _ in range(n)]) if n < 64 else rng.choice(inside, (n, 2))
    same = pairs[:, 0] == pairs[:, 1]
    pairs[same, 1] = inside[(np.searchsorted(inside, pairs[same, 0]) + 1) % len(inside)]
    return pairs[:, 0], pairs[:, 1]


def legal(trips: Trips) -> int:
    """Return how many trips break no transition of the network, counted without the model's own machinery."""
    step = trips.network.transition(trips.segment[:-1], trips.segment[1:])
    inner = np.ones(len(step), bool)
    inner[trips.ptr[1:-1] - 1] = False
    broken = np.unique(trips.owner[:-1][inner & (step < 0)])
    return len(trips) - len(broken)


def gain(ours: PairScores, theirs: PairScores) -> dict[str, dict[str, float]]:
    """Return for each local metric the paired improvement over another router, positive in our favour."""
    out = {}
    for name, sign in LOCAL.items():
        found = paired_bootstrap(sign * getattr(ours, name), sign * getattr(theirs, name))
        out[name] = {"mean": found.mean, "low": found.low, "high": found.high}
    return out


def seconds_each(task: Callable[[], Any], repeats: int = 3) -> float:
    """Return the median seconds of a task over several runs (after none: warm it up first)."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        task()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def rounded(table: Any, digits: int = 4) -> Any:
    """Return a nested table with its numbers rounded to significant digits."""
    if isinstance(table, dict):
        return {k: rounded(v, digits) for k, v in table.items()}
    if isinstance(table, list | tuple):
        return [rounded(v, digits) for v in table]
    if isinstance(table, float | np.floating):
        return float(f"{float(table):.{digits}g}")
    return table
