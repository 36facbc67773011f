"""Trips: walks over the segments of a road network, with the time at which each segment is entered.

A trip i is `segment[ptr[i]:ptr[i+1]]`, from the origin segment to the destination segment inclusive; `enter` are the
seconds after departure at which each segment is entered, `depart` the departure in unix seconds. Unknown times are
NaN. Trips of different lengths stay ragged: one array and one pointer, nothing is padded here.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from apps.trajectory.network import RoadNetwork
from core.errors import DataError, UsageError

SPUR = 200.0
"""Metres out and back below which a detour with an illegal U-turn counts as noise of the match."""

_T = TypeVar("_T")
_Run = tuple[list[int], list[int]]

__all__ = ["SPUR", "Trips", "cell", "distinct", "open_text", "read_matched", "split", "table"]


@dataclass(eq=False)
class Trips:
    """n trips over one network.

    Args:
        network: the roads.
        ptr: [n+1] int64 rows of `segment` and `enter`.
        segment: [T] int32 segments.
        enter: [T] float32 seconds after departure at which a segment is entered, NaN unknown.
        depart: [n] float64 departure in unix seconds, NaN unknown.
        id: [n] names.
        report: what reading or matching had to say (counts, reasons).
    """

    network: RoadNetwork
    ptr: np.ndarray
    segment: np.ndarray
    enter: np.ndarray
    depart: np.ndarray
    id: list[str]
    report: dict[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def __repr__(self) -> str:
        return f"Trips({len(self)} trips, {len(self.segment)} segments, {self.network.name!r})"

    @classmethod
    def from_lists(
        cls,
        network: RoadNetwork,
        lists: Sequence[np.ndarray],
        depart: np.ndarray | None = None,
        enter: Sequence[np.ndarray] | None = None,
        id: Sequence[str] | None = None,
    ) -> Trips:
        """Collect one array of segments per trip; missing times become NaN, missing names numbers.

        Raises:
            UsageError: the lists do not have the same lengths.
        """
        n = len(lists)
        sizes = np.array([len(s) for s in lists], dtype=np.int64)
        for name, given in (("depart", depart), ("enter", enter), ("id", id)):
            if given is not None and len(given) != n:
                raise UsageError(f"{len(given)} entries for {n} trips", field=name)
        if enter is not None and any(len(e) != k for e, k in zip(enter, sizes, strict=True)):
            raise UsageError("one time per segment is needed", field="enter")
        ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        flat = np.concatenate([np.asarray(s) for s in lists]) if n else np.empty(0)
        times = np.concatenate([np.asarray(e) for e in enter]) if enter is not None and n else np.full(ptr[-1], np.nan)
        return cls(
            network,
            ptr,
            flat.astype(np.int32),
            times.astype(np.float32),
            np.full(n, np.nan) if depart is None else np.asarray(depart, dtype=np.float64),
            [str(i) for i in range(n)] if id is None else [str(i) for i in id],
        )

    def lists(self) -> list[np.ndarray]:
        """Return one array of segments per trip (views)."""
        return [self.segment[a:b] for a, b in zip(self.ptr[:-1], self.ptr[1:], strict=True)]

    def times(self) -> list[np.ndarray]:
        """Return one array of enter times per trip (views)."""
        return [self.enter[a:b] for a, b in zip(self.ptr[:-1], self.ptr[1:], strict=True)]

    def hops(self) -> np.ndarray:
        """[n] number of segments of each trip."""
        return np.diff(self.ptr)

    def kilometres(self) -> np.ndarray:
        """[n] float64 length of each trip."""
        along = np.concatenate([[0.0], np.cumsum(self.network.length[self.segment].astype(np.float64))])
        return np.diff(along[self.ptr]) / 1000.0

    def seconds(self) -> np.ndarray:
        """[n] float64 seconds from the start of each trip to the end of its last segment, NaN unknown.

        The last segment is left after its free-flow time.
        """
        return self.enter[self.ptr[1:] - 1].astype(np.float64) + self.network.travel_time[self.destination]

    @property
    def origin(self) -> np.ndarray:
        """[n] first segment of each trip."""
        return self.segment[self.ptr[:-1]]

    @property
    def destination(self) -> np.ndarray:
        """[n] last segment of each trip."""
        return self.segment[self.ptr[1:] - 1]

    @cached_property
    def owner(self) -> np.ndarray:
        """[T] the trip that each entry of `segment` belongs to."""
        return np.repeat(np.arange(len(self)), self.hops())

    def select(self, index: np.ndarray | Sequence[int] | slice) -> Trips:
        """Return the trips of an index, a mask or a slice, in that order."""
        rows = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        sizes = self.hops()[rows]
        ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        at = np.repeat(self.ptr[:-1][rows] - ptr[:-1], sizes) + np.arange(ptr[-1])
        names = [self.id[i] for i in rows]
        return Trips(self.network, ptr, self.segment[at], self.enter[at], self.depart[rows], names)

    @classmethod
    def concat(cls, parts: Sequence[Trips]) -> Trips:
        """Join collections over the same network; names that repeat are counted, see `distinct`."""
        if not parts or any(p.network is not parts[0].network for p in parts):
            raise UsageError("only trips over one and the same network can be joined", field="trips")
        sizes = np.concatenate([p.hops() for p in parts])
        columns = ("segment", "enter", "depart")
        segment, enter, depart = (np.concatenate([getattr(p, k) for p in parts]) for k in columns)
        ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return cls(parts[0].network, ptr, segment, enter, depart, distinct([i for p in parts for i in p.id]))

    def legal(self) -> np.ndarray:
        """[n] bool: whether every step of each trip is a transition of the network."""
        illegal = (np.diff(self.owner) == 0) & (self.network.transition(self.segment[:-1], self.segment[1:]) < 0)
        return np.bincount(self.owner[:-1][illegal], minlength=len(self)) == 0

    def check(self) -> list[str]:
        """Return what is wrong: empty trips, unknown segments, steps that are no transition, times that run back."""
        wrong = [f"trip {self.id[i]}: empty" for i in np.flatnonzero(self.hops() == 0)]
        if len(self.segment) and (self.segment.min() < 0 or self.segment.max() >= self.network.n):
            at = np.flatnonzero((self.segment < 0) | (self.segment >= self.network.n))
            return wrong + [f"trip {self.id[self.owner[i]]}: no segment {self.segment[i]}" for i in at]
        a, k = self.segment[:-1], self.segment[1:]
        inner = self.owner[:-1] == self.owner[1:]
        for i in np.flatnonzero(inner & (self.network.transition(a, k) < 0)):
            wrong.append(f"trip {self.id[self.owner[i]]}: no transition {a[i]} -> {k[i]}")
        with np.errstate(invalid="ignore"):
            back = np.flatnonzero(inner & (np.diff(self.enter) < 0))
        return wrong + [f"trip {self.id[self.owner[i]]}: time runs back at segment {k[i]}" for i in back]

    def write(self, path: str | Path) -> None:
        """Write the trips to a file whose name says the format: see `export.FORMATS`."""
        from apps.trajectory import export

        export.write(self, path)

    def to_geojson(self, path: str | Path, geometry: str = "line") -> None:
        """Write GeoJSON; see `export.to_geojson`."""
        from apps.trajectory import export

        export.to_geojson(self, path, geometry)

    def to_hoser(self, folder: str | Path, name: str = "test") -> None:
        """Write HOSER files; see `export.to_hoser`."""
        from apps.trajectory import export

        export.to_hoser(self, folder, name)


def distinct(names: Sequence[str]) -> list[str]:
    """Return names that all differ: a, a, a.2, a becomes a, a.3, a.2, a.4 (a table tells trips apart by name only)."""
    taken, count, out = set(names), Counter[str](), []
    for name in names:
        count[name] += 1
        own = name
        while count[name] > 1 and own in taken:
            own = f"{name}.{count[name]}"
            count[name] += own in taken
        taken.add(own)
        out.append(own)
    return out


def split(
    trips: Trips, seed: int = 0, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1), turn: float = 0.0
) -> tuple[Trips, Trips, Trips]:
    """Split into training, validation and test trips by a hash of the trip's name, whatever the order of the file.

    Hashes lie on a circle that is turned by `turn` before it is cut: turns of 0, f, 2f ... with f the share of the test
    trips give test sets that do not overlap (cross-fitting).

    Raises:
        UsageError: the fractions are negative or do not add up to 1.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise UsageError("three fractions that add up to 1 are needed", field="fractions", value=fractions)
    digests = [hashlib.sha256(f"{seed}|{i}".encode()).digest()[:8] for i in trips.id]
    place = np.array([int.from_bytes(d, "big") / 2.0**64 for d in digests])
    part = np.searchsorted(np.cumsum(fractions)[:2], (place + turn) % 1.0, side="right")
    train, valid, test = (trips.select(part == k) for k in range(3))
    return train, valid, test


def open_text(path: str | Path) -> io.TextIOBase:
    """Open a text file, compressed (.gz) or not.

    Raises:
        DataError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", field=str(path))
    if path.suffix.lower() == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def table(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a CSV file that must have `columns`.

    Raises:
        DataError: the file is missing, damaged or not a table, a column is missing, or a row is too short.
    """
    where = str(path)
    with open_text(path) as stream:
        try:
            csv.field_size_limit(1 << 27)
            rows = csv.DictReader(stream, skipinitialspace=True)
            rows.fieldnames = header = [name.strip() for name in rows.fieldnames or []]
            for name in columns:
                if name not in header:
                    raise DataError(f"no column {name!r}", field=where, choices=header or ["(the file is empty)"])
            for row in rows:
                if any(row[c] is None for c in columns):
                    raise DataError(f"line {rows.line_num} has fewer columns than the header", field=where)
                yield rows.line_num, row
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"damaged table ({type(error).__name__}: {error})", field=where) from None


def cell(path: str | Path, line: int, column: str, text: str, read: Callable[[str], _T]) -> _T:
    """Convert one cell of a table.

    Raises:
        DataError: it cannot be converted; names file, line and column.
    """
    try:
        return read(text)
    except (ValueError, OverflowError):
        kind = {"float": "a number", "int": "a whole number"}.get(getattr(read, "__name__", ""), "readable")
        raise DataError(f"line {line}, column {column!r} is not {kind}", field=str(path), value=text[:60]) from None


def read_matched(path: str | Path, network: RoadNetwork) -> Trips:
    """Read matched trips given as OSM junction ids (columns trip_id, start_unix, osm_nodes, enter_s).

    Points that are no junctions of the network are passed over (a street that only others may enter ended there, and
    what it parted is one segment). Where a trip takes a step that the network does not have (a U-turn in mid-street,
    a street that is closed to cars), a spur of at most `SPUR` metres out and back is dropped as noise of the match;
    otherwise the trip is cut there and its longest part kept. Trips of which less than two segments remain are left
    out. `report` counts each case.

    Raises:
        DataError: the file is malformed, or not one of its trips lies on the network.
    """
    between, known = _segments_between(network), {*network.u.tolist(), *network.v.tolist()}
    lists, times, departs, names, counts = [], [], [], [], Counter()
    for line, row in table(path, ("trip_id", "start_unix", "osm_nodes", "enter_s")):
        nodes = cell(path, line, "osm_nodes", row["osm_nodes"], lambda t: [int(x) for x in t.split()])
        enter = np.array(cell(path, line, "enter_s", row["enter_s"], lambda t: [float(x) for x in t.split()]))
        start = cell(path, line, "start_unix", row["start_unix"], float)
        if len(enter) != len(nodes) - 1:
            raise DataError(f"line {line}: {len(enter)} times for {len(nodes)} junctions", field=str(path))
        met = [i for i, node in enumerate(nodes) if node in known]
        steps = [between.get((nodes[i], nodes[j]), []) for i, j in pairwise(met)]
        enter = enter[met[:-1]]
        runs = _runs(network, steps)
        joined = _join(network, runs)
        walk, at = max(joined, key=lambda run: len(run[0]), default=([], []))
        case = _case(runs, joined, all(steps) and met[:1] + met[-1:] == [0, len(nodes) - 1])
        counts[case if len(walk) > 1 else "left out"] += 1
        if len(walk) > 1:
            lists.append(np.array(walk))
            times.append(enter[at] - enter[at[0]])
            departs.append(start + enter[at[0]])
            names.append(row["trip_id"])
    if not lists:
        raise DataError(f"none of its {sum(counts.values())} trips lies on {network.name!r}", field=str(path))
    trips = Trips.from_lists(network, lists, np.array(departs), times, names)
    trips.report = {"read": sum(counts.values()), "mapped": len(lists), **counts}
    return trips


def _case(runs: list[_Run], joined: list[_Run], complete: bool) -> str:
    if complete and len(joined) == 1:
        return "whole" if len(runs) == 1 else "spur dropped"
    return "longest part kept"


def _segments_between(network: RoadNetwork) -> dict[tuple[int, int], list[int]]:
    between: dict[tuple[int, int], list[int]] = {}
    for i in np.argsort(network.length, kind="stable"):
        between.setdefault((int(network.u[i]), int(network.v[i])), []).append(int(i))
    return between


def _runs(network: RoadNetwork, steps: list[list[int]]) -> list[_Run]:
    """Return the legal walks, as long as possible, along options for each step; of parallel segments the shorter."""
    runs, first = [], 0
    while first < len(steps):
        if not steps[first]:
            first += 1
            continue
        cost = {s: float(network.length[s]) for s in steps[first]}
        back: list[dict[int, int]] = []
        for options in steps[first + 1 :]:
            best = {}
            for k in options:
                legal = [a for a in cost if network.transition(a, k) >= 0]
                if legal:
                    best[k] = min(legal, key=cost.__getitem__)
            if not best:
                break
            back.append(best)
            cost = {k: cost[a] + float(network.length[k]) for k, a in best.items()}
        walk = [min(cost, key=cost.__getitem__)]
        for best in reversed(back):
            walk.append(best[walk[-1]])
        runs.append((walk[::-1], list(range(first, first + len(walk)))))
        first += len(walk)
    return runs


def _join(network: RoadNetwork, runs: list[_Run]) -> list[_Run]:
    """Join neighbouring runs where what lies between them is a short way out and back."""
    joined: list[_Run] = []
    for walk, at in runs:
        while joined:
            before, when = joined[-1]
            spur = 0
            while spur < min(len(before), len(walk)) - 1 and network.u[before[-1 - spur]] == network.v[walk[spur]]:
                spur += 1
                if network.transition(before[-1 - spur], walk[spur]) >= 0:
                    break
            legal = spur > 0 and network.transition(before[-1 - spur], walk[spur]) >= 0
            if not legal or max(network.length[part].sum() for part in (before[-spur:], walk[:spur])) > SPUR:
                break
            walk, at = before[:-spur] + walk[spur:], when[:-spur] + at[spur:]
            joined.pop()
        joined.append((walk, at))
    return joined
