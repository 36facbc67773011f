"""From polylines between junctions to a road network: headings, transitions, and who may turn around.

A transition a -> k exists where segment k starts at the junction at which a ends. A U-turn (k drives a's own line
back, or doubles back by more than 150 degrees to the junction a came from) is removed, except

* at a dead end, where it is the only way on, and
* where a segment would otherwise be cut off: U-turns that touch a segment outside the largest strongly connected
  component are put back. Every removed U-turn then joins two segments of that component, so that the result is as
  strongly connected as the network with all U-turns, and no street is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from apps.trajectory.network import RoadNetwork
from core.errors import DataError

__all__ = ["assemble", "components"]

_KINDS = {
    "u": np.int64, "v": np.int64, "key": np.int16, "osm_way": np.int64, "length": np.float32, "speed": np.float32,
    "road_class": np.int8,
}  # fmt: skip
_DOUBLE_BACK = np.deg2rad(150.0)


def components(n: int, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return [n] bool: the largest strongly connected component of the relation source -> target."""
    relation = sp.csr_matrix((np.ones(len(source), dtype=bool), (source, target)), shape=(n, n))
    _, label = connected_components(relation, directed=True, connection="strong")
    return label == np.bincount(label).argmax()


def _joins(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(u, kind="stable")
    first = np.searchsorted(u[order], v, side="left")
    count = np.searchsorted(u[order], v, side="right") - first
    source = np.repeat(np.arange(len(u)), count)
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return source, order[np.repeat(first, count) + offset]


def _wrap(angle: np.ndarray) -> np.ndarray:
    return np.pi - np.mod(np.pi - angle, 2 * np.pi)


def _shape(ptr: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return heading at the start, heading at the end and the point halfway of each polyline."""
    step = np.diff(xy, axis=0)
    away = np.hypot(step[:, 0], step[:, 1])
    away[ptr[1:-1] - 1] = 0.0  # the jump from one polyline to the next is not part of either
    along = np.concatenate([[0.0], np.cumsum(away)])
    half = (along[ptr[:-1]] + along[ptr[1:] - 1]) / 2
    real = np.flatnonzero(away > 0)
    at = np.clip(np.searchsorted(along, half, side="right") - 1, ptr[:-1], ptr[1:] - 2)
    part = np.divide(half - along[at], away[at], out=np.zeros(len(half)), where=away[at] > 0)
    first = real[np.minimum(np.searchsorted(real, ptr[:-1]), len(real) - 1)]
    last = real[np.maximum(np.searchsorted(real, ptr[1:] - 1) - 1, 0)]
    angle = np.arctan2(step[:, 1], step[:, 0])
    return angle[first], angle[last], xy[at] + part[:, None] * step[at]


def _allowed(net: dict[str, np.ndarray], source: np.ndarray, target: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Return which of the joins are transitions, by the law in the module's docstring."""
    u, v, length = net["u"], net["v"], net["length"]
    back = v[target] == u[source]
    own = (net["osm_way"][source] == net["osm_way"][target]) & (abs(length[source] - length[target]) < 0.01)
    keep = ~(back & (own | (abs(turn) > _DOUBLE_BACK)))
    stuck = np.bincount(source[keep], minlength=len(u)) == 0
    keep |= stuck[source]
    inside = components(len(u), source[keep], target[keep])
    return keep | ~(inside[source] & inside[target])


def _relation(
    rows: dict[str, np.ndarray],
    heading_in: np.ndarray,
    heading_out: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return source, target and turn of the transitions, sorted by source, then target."""
    source, target = _joins(rows["u"], rows["v"]) if pairs is None else pairs
    turn = _wrap(heading_in[target] - heading_out[source])
    keep = _allowed(rows, source, target, turn) if pairs is None else np.ones(len(source), dtype=bool)
    order = np.flatnonzero(keep)[np.lexsort((target[keep], source[keep]))]
    return source[order], target[order], turn[order]


def assemble(
    name: str, crs: str, *, u: np.ndarray, v: np.ndarray, key: np.ndarray, osm_way: np.ndarray, length: np.ndarray,
    speed: np.ndarray, road_class: np.ndarray, geom_ptr: np.ndarray, geom_xy: np.ndarray,
    label: np.ndarray | None = None, junction: Sequence[str] = (), ways: Sequence[Sequence[int]] = (),
    classes: np.ndarray | None = None,
    pairs: tuple[np.ndarray, np.ndarray] | None = None, connected: bool = True,
) -> RoadNetwork:  # fmt: skip
    """Build a network from segments given as polylines between junctions.

    Args:
        junction: the names of junctions 0, 1, ... in u and v, where those are not ids already.
        ways: all OpenStreetMap ways of each segment, where they are known.
        classes: all road classes that a segment has parts of, as bits, where they are known.
        pairs: the transitions (source, target), where the input states them; otherwise they follow from the
            junctions and the law on U-turns.
        connected: keep the largest strongly connected component only.
        (the others as in `RoadNetwork`)

    Raises:
        DataError: nothing drivable is left, or the arrays contradict each other (`RoadNetwork.problem`).
    """
    if len(u) == 0 or (np.diff(geom_ptr) < 2).any():
        raise DataError("no drivable segment in it, or one without a line", field=name)
    columns = (u, v, key, osm_way, np.maximum(length, 0.1), speed, road_class)
    rows = {k: np.asarray(a, dtype=d) for (k, d), a in zip(_KINDS.items(), columns, strict=True)}
    heading_in, heading_out, middle = _shape(geom_ptr, geom_xy)
    source, target, turn = _relation(rows, heading_in, heading_out, pairs)
    network = RoadNetwork(
        name=name,
        crs=crs,
        **rows,
        heading_in=heading_in.astype(np.float32),
        heading_out=heading_out.astype(np.float32),
        start=geom_xy[geom_ptr[:-1]],
        middle=middle,
        end=geom_xy[geom_ptr[1:] - 1],
        geom_ptr=np.asarray(geom_ptr, dtype=np.int64),
        geom_xy=geom_xy,
        succ_ptr=np.concatenate([[0], np.cumsum(np.bincount(source, minlength=len(u)))]).astype(np.int64),
        succ=target.astype(np.int32),
        turn=turn.astype(np.float32),
        label=np.empty(0, dtype="U1") if label is None else np.asarray(label, dtype=str),
        junction=np.array(junction, dtype=str),
        way_ptr=np.cumsum([0, *map(len, ways)]).astype(np.int64) if len(ways) else np.empty(0, np.int64),
        way_id=np.array([w for own in ways for w in own], dtype=np.int64),
        classes=np.empty(0, np.int32) if classes is None else np.asarray(classes, dtype=np.int32),
    )
    network = network.subset(components(network.n, source, target)) if connected else network
    problem = network.problem()
    if problem:
        raise DataError(f"inconsistent road network: {problem}", field=name)
    return network
