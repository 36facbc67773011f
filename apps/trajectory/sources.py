"""Sources: a network or trips by the name of a file or folder, whatever tool wrote it.

| a network is | trips are |
|---|---|
| `city`, the synthetic one | a HOSER folder (train.csv, val.csv, test.csv) or one of its tables |
| a HOSER / LibCity folder (roadmap.geo, roadmap.rel) | a table of OSM junctions (`data.read_matched`) |
| `.npz`, as `RoadNetwork.save` wrote it | our own long table (`export.to_csv`) |
| `.net.xml`, SUMO | `.rou.xml`, SUMO routes |
| `.osm`, `.graphml`, ... | raw GPS (.gpx, .csv, Porto polylines), matched to the network |
"""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from apps.trajectory.data import Trips, cell, open_text, read_matched, split, table
from apps.trajectory.network import RoadNetwork
from core.errors import DataError

__all__ = ["Splits", "keep", "kept", "open_network", "read_splits", "read_trips"]

Splits = tuple[Trips, Trips, Trips]
HOSER = ("train", "val", "test")


def open_network(name: str, cache: str = "") -> RoadNetwork:
    """Return the network that a name, a file or a folder stands for (see the table above).

    Raises:
        DataError: missing or malformed.
    """
    path = Path(name)
    if name == "city":
        from apps.trajectory.city import synthetic_city

        return synthetic_city()
    if path.is_dir():
        from apps.trajectory.formats import read_roadmap

        return read_roadmap(path)
    if name.endswith(".npz"):
        return RoadNetwork.load(path)
    if name.endswith((".net.xml", ".net.xml.gz")):
        from apps.trajectory.formats import read_sumo_network

        return read_sumo_network(path)
    if not path.exists():
        hint = '"city" is the synthetic one; `quintet trajectory data` lists public ones'
        raise DataError("no such file or folder", field=name, hint=hint)
    from apps.trajectory.osm import from_osm

    return from_osm(name, cache=cache or None)


def read_splits(
    name: str, network: RoadNetwork, fractions: tuple[float, float, float], cache: str = "", turn: float = 0.0
) -> Splits:
    """Return training, validation and test trips: those of a HOSER folder, or a file split by the hash of the names.

    Trips with a step that the network does not have are left out, and a note says how many.

    Raises:
        DataError: missing or malformed.
    """
    if not Path(name).is_dir():
        return split(_drivable(name, read_trips(name, network, cache)), fractions=fractions, turn=turn)
    from apps.trajectory.formats import read_hoser

    tables = [Path(name) / f"{part}.csv" for part in HOSER]
    train, valid, test = (_drivable(str(table), read_hoser(table, network)) for table in tables)
    return train, valid, test


def _drivable(name: str, trips: Trips) -> Trips:
    legal = trips.legal()
    if legal.all():
        return trips
    print(f"note: {name}: {(~legal).sum()} of {len(trips)} trips take a step that the roads do not have; left out",
          file=sys.stderr)  # fmt: skip
    return trips.select(legal.nonzero()[0])


def read_trips(name: str | Path, network: RoadNetwork, cache: str = "") -> Trips:
    """Read trips of any known format; raw GPS is matched (and kept in `cache`, where one is given).

    Raises:
        DataError: missing, malformed, of an unknown kind, or not on this network.
    """
    from apps.trajectory import formats

    path = Path(name)
    plain = path.name.lower().removesuffix(".gz")
    if path.is_dir():
        return Trips.concat([formats.read_hoser(path / f"{part}.csv", network) for part in HOSER])
    if plain.endswith(".rou.xml"):
        return formats.read_sumo(path, network)
    header = set(_header(path)) if plain.endswith(".csv") else set()
    if "osm_nodes" in header:
        return read_matched(path, network)
    if header & {"rid_list", "gene_trace_road_id"}:
        return formats.read_hoser(path, network)
    if {"traj_id", "segment_id"} <= header:
        return _read_long(path, network)
    return _match(path, network, cache)


def _header(path: Path) -> list[str]:
    with open_text(path) as stream:
        try:
            return [c.strip().strip('"') for c in stream.readline().split(",")]
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise DataError(f"cannot be read ({error})", field=str(path)) from None


def _read_long(path: Path, network: RoadNetwork) -> Trips:
    """Read the long table that `export.to_csv` writes."""
    walks: dict[str, list[tuple[int, float]]] = {}
    number = {str(name): i for i, name in enumerate(network.ids(np.arange(network.n)).tolist())}
    ends = [[str(name) for name in network.junctions(end).tolist()] for end in (network.u, network.v)]
    for line, row in table(path, ("traj_id", "t", "segment_id", "u", "v")):
        segment = number.get(row["segment_id"].strip(), -1)
        if segment < 0 or (ends[0][segment], ends[1][segment]) != (row["u"], row["v"]):
            where = f"line {line}, column 'segment_id': not this segment of {network.name!r}"
            raise DataError(where, field=str(path), value=row["segment_id"])
        walks.setdefault(row["traj_id"], []).append((segment, cell(path, line, "t", row["t"], _unix)))
    if not walks:
        raise DataError("no trip in it", field=str(path))
    segments = [np.array([s for s, _ in walk]) for walk in walks.values()]
    times = [np.array([t for _, t in walk]) for walk in walks.values()]
    trips = Trips.from_lists(network, segments, np.array([t[0] for t in times]), [t - t[0] for t in times], list(walks))
    wrong = trips.check()
    if wrong:
        raise DataError(f"{wrong[0]} ({len(wrong)} such)", field=str(path))
    return trips


def _unix(text: str) -> float:
    """Return unix seconds of an ISO 8601 time (UTC where no zone is given), NaN of nothing."""
    moment = datetime.fromisoformat(text) if text else None
    return float("nan") if moment is None else (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _match(path: Path, network: RoadNetwork, cache: str) -> Trips:
    from apps.trajectory.gps import read_gps
    from apps.trajectory.matching import match

    store = None
    if cache and path.exists():
        size, changed = os.stat(path).st_size, os.stat(path).st_mtime_ns
        facts = f"{path.name} {size} {changed} {network.name} {network.n} {network.m}"
        store = Path(cache) / f"matched-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
        if store.exists():
            return kept(store, network)
    traces = read_gps(path)
    print(f"matching {len(traces)} traces to {network.name}", file=sys.stderr)
    result = match(network, traces)
    if not len(result.trips):
        raise DataError("no trace could be matched", field=str(path), hint=f"is {network.name!r} the right network?")
    result.trips.report = dict(result.summary())
    if store is not None:
        keep(store, result.trips)
    return result.trips


def keep(path: Path, trips: Trips) -> None:
    """Write trips as .npz, whole or not at all."""
    from apps.trajectory.export import replacing

    columns: dict[str, np.ndarray | Sequence[str]] = {
        k: getattr(trips, k) for k in ("ptr", "segment", "enter", "depart")
    }
    with replacing(path) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **columns, id=np.array(trips.id, dtype=str))  # type: ignore[arg-type]


def kept(path: Path, network: RoadNetwork) -> Trips:
    """Read what `keep` wrote.

    Raises:
        DataError: damaged, or of another network.
    """
    try:
        with np.load(path, allow_pickle=False) as z:
            names = [str(i) for i in z["id"]]
            trips = Trips(network, z["ptr"], z["segment"], z["enter"], z["depart"], names)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"damaged trips ({type(error).__name__}); remove the file", field=str(path)) from None
    if len(trips.segment) and trips.segment.max() >= network.n:
        raise DataError(f"trips of another network than {network.name!r}; remove the file", field=str(path))
    return trips
