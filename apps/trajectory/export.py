r"""Trips in the files that other people's tools read.

| writer | file | one record is |
|---|---|---|
| `to_geojson` | GeoJSON (RFC 7946) | a trip as a line, or a segment of a trip as a point |
| `to_gpx` | GPX 1.1 | a trip as a track; its points are the vertices of the road |
| `to_csv`, `to_parquet` | long table, GeoParquet | a segment of a trip: the columns `COLUMNS` |
| `to_sumo` | SUMO routes | a vehicle with its edges, sorted by departure |
| `to_sumo_network` | SUMO plain XML | the roads under the same edge names, for `netconvert` |
| `to_hoser` | HOSER / LibCity | roadmap.geo, roadmap.rel and one table of trips |

Coordinates are degrees (WGS 84) with 7 decimals (1 cm); times are UTC. A trip is at the start of segment k at
`depart + enter_k`, of the first one at `depart` even if no other time is known; on the way along a segment time grows
with the distance, and the last segment is left after its free-flow time. `speed` (km/h) is length over time spent,
unknown on the last segment. Unknown times stay empty.

Every file is written under a temporary name and renamed when it is whole.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from apps.trajectory.data import Trips
from apps.trajectory.network import ROAD_CLASSES, RoadNetwork
from core.errors import UsageError

__all__ = [
    "COLUMNS",
    "FORMATS",
    "check_format",
    "collection",
    "edge_names",
    "features",
    "long_table",
    "replacing",
    "to_csv",
    "to_geojson",
    "to_gpx",
    "to_hoser",
    "to_map",
    "to_parquet",
    "to_sumo",
    "to_sumo_network",
    "track",
    "write",
]

Array = NDArray[np.float64]
COLUMNS = ("traj_id", "t", "lon", "lat", "segment_id", "u", "v", "key", "speed")
DAY = 86400.0
SAME = 0.01
"""Metres below which the end of a segment and the start of the next are one vertex; SUMO's junctions have a width."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it takes the place of `path`, else it is removed.

    Raises:
        UsageError: the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", field=str(path)) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: str | Path) -> Iterator[TextIO]:
    """Open `path` for text under a temporary name, compressed if it ends in .gz."""
    with replacing(path) as temporary, ExitStack() as stack:
        raw = stack.enter_context(temporary.open("wb"))
        if str(path).lower().endswith(".gz"):
            raw = stack.enter_context(gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0))
        yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))  # type: ignore[arg-type]


def track(trips: Trips, i: int) -> tuple[Array, Array]:
    """Return the vertices `[P, 2]` (degrees) of trip i and the seconds after departure `[P]` at each (or NaN)."""
    network, rows = trips.network, slice(trips.ptr[i], trips.ptr[i + 1])
    segments, enter = trips.segment[rows], trips.enter[rows].astype(np.float64)
    leave = np.append(enter[1:], enter[-1] + network.travel_time[segments[-1]])
    xy, seconds = [], []
    for s, start, stop in zip(segments, enter, leave, strict=True):
        line = network.geom_xy[network.geom_ptr[s] : network.geom_ptr[s + 1]]
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
        part = along / along[-1] if along[-1] > 0 else np.linspace(0.0, 1.0, len(line))
        first = int(bool(xy) and np.hypot(*(line[0] - xy[-1][-1])) < SAME)
        xy.append(line[first:])
        seconds.append((start + part * (stop - start))[first:])
    return network.to_lonlat(np.concatenate(xy)), np.concatenate(seconds)


def _clock(unix: float) -> str | None:
    """Return an ISO 8601 time in UTC with milliseconds, None if unknown."""
    if not np.isfinite(unix):
        return None
    return datetime.fromtimestamp(round(float(unix), 3), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def long_table(trips: Trips) -> dict[str, NDArray]:
    """Return the long table as columns `[T]`, one row per segment; `t` in unix seconds, `speed` in km/h (or NaN)."""
    network, segment = trips.network, trips.segment
    size = np.diff(trips.ptr)
    lonlat = network.to_lonlat(network.start)[segment]
    spent = np.full(len(segment), np.nan)
    spent[:-1] = np.diff(trips.enter.astype(np.float64))
    spent[trips.ptr[1:] - 1] = np.nan
    moment = np.repeat(trips.depart, size) + trips.enter
    moment[trips.ptr[:-1]] = np.where(np.isnan(moment[trips.ptr[:-1]]), trips.depart, moment[trips.ptr[:-1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.where(spent > 0, network.length[segment] / spent * 3.6, np.nan)
    return {
        "traj_id": np.repeat(np.array(trips.id, dtype=object), size),
        "t": moment,
        "lon": lonlat[:, 0].round(7),
        "lat": lonlat[:, 1].round(7),
        "segment_id": network.ids(segment),
        "u": network.junctions(network.u[segment]),
        "v": network.junctions(network.v[segment]),
        "key": network.key[segment],
        "speed": speed.round(3),
    }


def to_csv(trips: Trips, path: str | Path) -> None:
    """Write the long table as CSV (compressed if the name ends in .gz); `t` in ISO 8601, unknown values empty."""
    table = long_table(trips)
    columns = [table[c].tolist() for c in COLUMNS]
    columns[1] = [_clock(t) for t in columns[1]]
    columns[8] = [v if np.isfinite(v) else None for v in columns[8]]
    with writing(path) as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        out.writerows(zip(*columns, strict=True))


def to_parquet(trips: Trips, path: str | Path) -> None:
    """Write the long table as GeoParquet: a point (the start of the segment) per row, `t` as a UTC timestamp."""
    import geopandas
    import pandas

    table = long_table(trips)
    frame = pandas.DataFrame(table)
    frame["t"] = pandas.to_datetime((frame["t"] * 1e3).round(), unit="ms", utc=True)
    points = geopandas.points_from_xy(table["lon"], table["lat"])
    with replacing(path) as temporary:
        geopandas.GeoDataFrame(frame, geometry=points, crs="EPSG:4326").to_parquet(temporary, index=False)


def collection(features: Iterator[dict] | Sequence[dict], path: str | Path) -> None:
    """Write GeoJSON features, one a line."""
    with writing(path) as file:
        file.write('{"type":"FeatureCollection","features":[')
        for k, feature in enumerate(features):
            file.write(",\n" if k else "\n")
            json.dump(feature, file, separators=(",", ":"), allow_nan=False)
        file.write("\n]}\n")


def to_geojson(trips: Trips, path: str | Path, geometry: str = "line") -> None:
    """Write GeoJSON: one LineString per trip ("line") or one Point per row of the long table ("point").

    Raises:
        UsageError: another geometry.
    """
    if geometry not in ("line", "point"):
        raise UsageError("unknown geometry", field="geometry", value=geometry, choices=("line", "point"))
    collection(features(trips) if geometry == "line" else _points(trips), path)


def features(trips: Trips) -> Iterator[dict]:
    """Yield a GeoJSON LineString for each trip."""
    kilometres = trips.kilometres()
    for i, segments in enumerate(trips.lists()):
        lonlat, seconds = track(trips, i)
        line = lonlat if len(lonlat) > 1 else np.repeat(lonlat, 2, axis=0)
        known = bool(np.isfinite(seconds[-1]))
        names = trips.network.ids(segments).tolist()
        yield {
            "type": "Feature",
            "properties": {
                "id": trips.id[i],
                "origin": names[0],
                "destination": names[-1],
                "depart": _clock(trips.depart[i]),
                "km": round(float(kilometres[i]), 4),
                "seconds": round(float(seconds[-1]), 1) if known else None,
                "segments": names,
            },
            "geometry": {"type": "LineString", "coordinates": line.round(7).tolist()},
        }


def _points(trips: Trips) -> Iterator[dict]:
    table = long_table(trips)
    for row in zip(*(table[c].tolist() for c in COLUMNS), strict=True):
        values = dict(zip(COLUMNS, row, strict=True))
        values["t"], speed = _clock(values["t"]), values["speed"]
        values["speed"] = speed if np.isfinite(speed) else None
        place = {"type": "Point", "coordinates": [values.pop("lon"), values.pop("lat")]}
        yield {"type": "Feature", "properties": values, "geometry": place}


def to_gpx(trips: Trips, path: str | Path) -> None:
    """Write GPX 1.1, one track per trip; points without a known time have none."""
    with writing(path) as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n')
        file.write('<gpx version="1.1" creator="quintet" xmlns="http://www.topografix.com/GPX/1/1">\n')
        for i, name in enumerate(trips.id):
            lonlat, seconds = track(trips, i)
            file.write(f"<trk><name>{escape(name)}</name><trkseg>\n")
            for (lon, lat), s in zip(lonlat, seconds, strict=True):
                clock = _clock(trips.depart[i] + s)
                time = f"<time>{clock}</time>" if clock else ""
                file.write(f'<trkpt lat="{lat:.7f}" lon="{lon:.7f}">{time}</trkpt>\n')
            file.write("</trkseg></trk>\n")
        file.write("</gpx>\n")


def edge_names(network: RoadNetwork) -> list[str]:
    """Return the name `[N]` of each segment elsewhere: its label if the network has them, else "u-v-key"."""
    if len(network.label):
        return [str(name) for name in network.label]
    return [f"{u}-{v}-{key}" for u, v, key in zip(network.u, network.v, network.key, strict=True)]


def to_sumo(trips: Trips, path: str | Path) -> None:
    """Write SUMO routes: one vehicle per trip, sorted by departure, in seconds after the midnight (UTC) before.

    Raises:
        UsageError: a departure is unknown.
    """
    _need_departures(trips, "SUMO")
    names, lists = _sumo_names(trips.network), trips.lists()
    midnight = np.floor(trips.depart.min() / DAY) * DAY if len(trips) else 0.0
    with writing(path) as file:
        file.write(f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- time 0 is {_clock(midnight)} -->\n<routes>\n')
        for i in np.argsort(trips.depart, kind="stable"):
            edges = " ".join(names[s] for s in lists[i])
            start = f"{trips.depart[i] - midnight:.2f}"
            file.write(f'  <vehicle id={quoteattr(trips.id[i])} depart="{start}">')
            file.write(f"<route edges={quoteattr(edges)}/></vehicle>\n")
        file.write("</routes>\n")


def _sumo_names(network: RoadNetwork) -> list[str]:
    """Return the SUMO edges `[N]` of each segment, separated by a blank: one, or two for a loop."""
    loop = (network.u == network.v) & (len(network.label) == 0)
    return [f"{name} {name}.2" if twice else name for name, twice in zip(edge_names(network), loop, strict=True)]


def to_sumo_network(network: RoadNetwork, stem: str | Path) -> None:
    """Write `stem`.nod.xml, .edg.xml and .con.xml, which netconvert turns into a SUMO network.

    The edges bear the names that `to_sumo` uses and join exactly as the network's transitions say. SUMO has no edge
    from a junction to itself: such a segment becomes two, the second named with ".2". Coordinates are degrees:
    `netconvert --proj.utm -n stem.nod.xml -e stem.edg.xml -x stem.con.xml -o stem.net.xml`.
    """
    lonlat = network.to_lonlat(network.geom_xy)
    names = [name.split() for name in _sumo_names(network)]
    place = dict(zip(network.v.tolist(), network.to_lonlat(network.end), strict=True))
    place |= dict(zip(network.u.tolist(), network.to_lonlat(network.start), strict=True))
    with ExitStack() as stack:
        node, edge, link = (stack.enter_context(writing(f"{stem}.{kind}.xml")) for kind in ("nod", "edg", "con"))
        edge.write("<edges>\n")
        for i, own in enumerate(names):
            shape = lonlat[network.geom_ptr[i] : network.geom_ptr[i + 1]]
            half = [0, len(shape) // 2, len(shape) - 1] if len(own) > 1 else [0, len(shape) - 1]
            stops = [str(network.u[i]), *own[1:], str(network.v[i])]
            place |= {name: shape[h] for name, h in zip(own[1:], half[1:], strict=False)}
            for k, name in enumerate(own):
                line = " ".join(f"{x:.7f},{y:.7f}" for x, y in shape[half[k] : half[k + 1] + 1])
                drive = f'speed="{network.speed[i] / 3.6:.2f}" length="{network.length[i] / len(own):.2f}"'
                ends = f"from={quoteattr(stops[k])} to={quoteattr(stops[k + 1])}"
                edge.write(f'  <edge id={quoteattr(name)} {ends} numLanes="1" {drive} shape="{line}"/>\n')
        edge.write("</edges>\n")
        node.write("<nodes>\n")
        node.writelines(f'  <node id={quoteattr(str(k))} x="{x:.7f}" y="{y:.7f}"/>\n' for k, (x, y) in place.items())
        node.write("</nodes>\n")
        link.write("<connections>\n")
        moves = [(names[a][-1], names[b][0]) for a, b in zip(network.source, network.succ, strict=True)]
        moves += [(first, second) for own in names for first, second in zip(own, own[1:], strict=False)]
        for first, second in moves:
            ends = f"from={quoteattr(first)} to={quoteattr(second)}"
            link.write(f'  <connection {ends} fromLane="0" toLane="0"/>\n')
        link.write("</connections>\n")


def to_hoser(trips: Trips, folder: str | Path, name: str = "test") -> None:
    """Write HOSER / LibCity files: roadmap.geo, roadmap.rel and `name`.csv.

    The table has both HOSER's training columns (rid_list, time_list) and those of its generated trips
    (gene_trace_road_id, gene_trace_datetime); unknown times on the way are filled in at free speed.

    Raises:
        UsageError: a departure is unknown.
    """
    _need_departures(trips, "HOSER")
    network, folder = trips.network, Path(folder)
    with ExitStack() as stack:
        files = (stack.enter_context(writing(folder / n)) for n in ("roadmap.geo", "roadmap.rel", f"{name}.csv"))
        geo, rel, table = (csv.writer(f, lineterminator="\n") for f in files)
        _roadmap(network, geo, rel)
        table.writerow(("mm_id", "entity_id", "traj_id", "rid_list", "time_list", "gene_trace_road_id",
                        "gene_trace_datetime"))  # fmt: skip
        for i, segments in enumerate(trips.lists()):
            enter = trips.enter[trips.ptr[i] : trips.ptr[i + 1]].astype(np.float64)
            if not np.isfinite(enter).all():
                enter = np.concatenate([[0.0], np.cumsum(network.travel_time[segments[:-1]], dtype=np.float64)])
            clock = [(_clock(t) or "")[:19] + "Z" for t in trips.depart[i] + enter]
            ids = json.dumps(segments.tolist())
            table.writerow((i, trips.id[i], i, ids, ",".join(clock), ids, json.dumps(clock)))


def _roadmap(network: RoadNetwork, geo, rel) -> None:  # type: ignore[no-untyped-def]
    lonlat = network.to_lonlat(network.geom_xy).round(7)
    geo.writerow(("geo_id", "type", "coordinates", "highway", "length", "maxspeed", "u", "v", "key", "osm_id"))
    for i in range(network.n):
        line = json.dumps(lonlat[network.geom_ptr[i] : network.geom_ptr[i + 1]].tolist())
        geo.writerow((i, "LineString", line, ROAD_CLASSES[network.road_class[i]], round(float(network.length[i]), 3),
                      round(float(network.speed[i]), 2), network.u[i], network.v[i], network.key[i],
                      network.osm_way[i]))  # fmt: skip
    rel.writerow(("rel_id", "type", "origin_id", "destination_id"))
    rel.writerows((k, "geo", a, b) for k, (a, b) in enumerate(zip(network.source, network.succ, strict=True)))


def _need_departures(trips: Trips, target: str) -> None:
    unknown = np.flatnonzero(~np.isfinite(trips.depart))
    if len(unknown):
        message = f"{target} needs a departure time, {len(unknown)} of {len(trips)} trips have none"
        hint = "sample with depart=, match GPS with times"
        raise UsageError(message, field="depart", value=trips.id[unknown[0]], hint=hint)


def to_map(trips: Trips, path: str | Path) -> None:
    """Write an HTML map of the trips."""
    from apps.trajectory.maps import trips_map

    trips_map({"trips": trips}, path)


FORMATS: dict[str, Callable[[Trips, Path], None]] = {
    ".geojson": to_geojson, ".json": to_geojson, ".gpx": to_gpx, ".csv": to_csv, ".parquet": to_parquet,
    ".rou.xml": to_sumo, ".html": to_map,
}  # fmt: skip
"""Endings of file names and what writes them; the text formats also compressed, with ".gz" behind."""


def check_format(path: str | Path) -> str:
    """Return the ending of a file name that says its format.

    Raises:
        UsageError: unknown.
    """
    name = Path(path).name.lower()
    plain = name.removesuffix(".gz")
    for ending in FORMATS:
        if plain.endswith(ending) and (plain == name or ending not in (".parquet", ".html")):
            return ending
    raise UsageError("the ending of the name says the format", field="out", value=str(path), choices=FORMATS)


def write(trips: Trips, path: str | Path) -> None:
    """Write trips in the format that the ending of the name says, whole or not at all."""
    FORMATS[check_format(path)](trips, Path(path))
