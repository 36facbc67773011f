r"""The evaluation of HOSER (AAAI 2025), reproduced with its oddities so that figures can be set beside published ones.

Points are segment centroids in (longitude, latitude). What differs from the strict protocol, on purpose:

- distance: great circles between successive centroids (sphere of 6,371.009 km), not metres driven;
- radius: MEAN distance to the mean of (longitude, latitude), not the root mean square;
- duration: minutes per SEGMENT, not per trip;
- JSD: 100 bins `linspace(0, max real, 100) ∪ {∞}`, natural logarithm (at most ln 2);
- pairs: trips whose first and last centroids lie in the same cells of a 200 m grid, the i-th real with the i-th
  generated; a generated trip whose cells no real trip has is dropped (we report how many are matched);
- Hausdorff and FastDTW (radius 1, a SUM in km) on a sphere of 6,378 km;
- EDR (100 m, sphere of 6,378,137 m) reads its points as (longitude, latitude) but receives (latitude, longitude): near
  Porto 100 m north count as 99 m and 100 m east as 133 m. Kept.

Reference: Cao et al., arXiv 2501.02737, `evaluation/main.ipynb` of the authors' repository (MIT).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyproj import Geod

from apps.trajectory.data import Trips
from apps.trajectory.network import RoadNetwork
from apps.trajectory.similarity import edr, fast_dtw, great_circle, hausdorff, haversine
from core.errors import UsageError

__all__ = ["BOXES", "Grid", "centroids", "evaluate_hoser", "halves_jsd", "histogram_jsd", "od_pairs", "same_cells"]

Array = NDArray[np.float64]
CELL = 200.0
EARTH = 6371.009
BINS = 100
# west, south, east, north of the cities of the paper
BOXES = {
    "Beijing": (116.25, 39.79, 116.51, 40.0),
    "Porto": (-8.6890, 41.1406, -8.5577, 41.1855),
    "San_Francisco": (-122.5123, 37.7083, -122.3617, 37.8309),
}
_GEOD = Geod(ellps="WGS84")
_LOCAL = great_circle(6378.0)
_SWAPPED = great_circle(6378137.0)


@dataclass(frozen=True)
class Grid:
    """Cells of 200 m counted from the south-west corner of a box (west, south, east, north) in degrees."""

    box: tuple[float, float, float, float]

    @classmethod
    def around(cls, lonlat: Array) -> Grid:
        """Return the grid of the bounding box of points `[n, 2]`: for cities that the paper does not have."""
        (west, south), (east, north) = lonlat.min(axis=0), lonlat.max(axis=0)
        return cls((float(west), float(south), float(east), float(north)))

    def cells(self, lonlat: Array) -> NDArray[np.int64]:
        """Return the cell (column, row) `[n, 2]` of each point; points outside the box get cells outside it."""
        west, south = self.box[:2]
        lon, lat = lonlat[:, 0], lonlat[:, 1]
        _, _, east = _GEOD.inv(np.full_like(lon, west), lat, lon, lat)
        _, _, north = _GEOD.inv(lon, np.full_like(lat, south), lon, lat)
        metres = np.stack([np.asarray(east) * np.sign(lon - west), np.asarray(north) * np.sign(lat - south)], axis=1)
        return np.floor(metres / CELL).astype(np.int64)


def centroids(network: RoadNetwork) -> Array:
    """Return the centroid (longitude, latitude) `[N, 2]` of each segment, computed in degrees as HOSER does."""
    points = network.to_lonlat(network.geom_xy)
    step = np.hypot(*np.diff(points, axis=0).T)
    middle = (points[1:] + points[:-1]) / 2.0
    step[network.geom_ptr[1:-1] - 1] = 0.0
    weighted = np.concatenate([np.zeros((1, 3)), np.cumsum(np.column_stack([middle * step[:, None], step]), axis=0)])
    total = weighted[network.geom_ptr[1:] - 1] - weighted[network.geom_ptr[:-1]]
    flat = total[:, 2] <= 0.0
    total[flat] = np.column_stack([points[network.geom_ptr[:-1]], np.ones(network.n)])[flat]
    return total[:, :2] / total[:, 2:]


def od_pairs(
    generated: Sequence[NDArray[np.integer]], real: Sequence[NDArray[np.integer]], cells: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Pair trips with equal first and last cells: the i-th generated of a key with its i-th real one.

    Args:
        generated: segments of each generated trip.
        real: segments of each real trip.
        cells: cell of each segment, `[N]` or `[N, c]`; segment numbers themselves pair by exact origin and destination.

    Returns:
        `[K, 2]` indices (generated, real).
    """
    reals = _by_ends(real, cells)
    groups = _by_ends(generated, cells).items()
    found = [pair for key, mine in groups for pair in zip(mine, reals.get(key, []), strict=False)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def same_cells(trips: Sequence[NDArray[np.integer]], cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs `[K, 2]` of different trips of ONE set whose first and last cells are equal, each with the next."""
    found = [pair for group in _by_ends(trips, cells).values() for pair in zip(group, group[1:], strict=False)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _by_ends(trips: Sequence[NDArray[np.integer]], cells: NDArray[np.int64]) -> dict[tuple[int, ...], list[int]]:
    cells = cells.reshape(len(cells), -1)
    table: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, trip in enumerate(trips):
        table[(*cells[trip[0]].tolist(), *cells[trip[-1]].tolist())].append(i)
    return table


def histogram_jsd(generated: Array, real: Array) -> float:
    """Return the Jensen-Shannon divergence (nats) of two samples over 100 bins up to the largest real value."""
    edges = np.append(np.linspace(0.0, real.max(), BINS), np.inf)
    p, q = np.histogram(real, edges)[0], np.histogram(generated, edges)[0]
    p, q = p / (p.sum() + 1e-14), q / (q.sum() + 1e-14)
    m = (p + q) / 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / m), 0.0) + np.where(q > 0, q * np.log(q / m), 0.0)
    return float(0.5 * terms.sum())


def halves_jsd(real: Array, seed: int = 0, repeats: int = 20) -> dict[str, float]:
    """Return mean and standard deviation of the divergence between random halves of one sample: the noise floor."""
    generator, half = np.random.default_rng(seed), len(real) // 2
    if not half:
        return {"_floor": float("nan"), "_floor_std": float("nan")}
    orders = (generator.permutation(len(real)) for _ in range(repeats))
    drawn = [histogram_jsd(real[o[:half]], real[o[half : 2 * half]]) for o in orders]
    return {"_floor": float(np.mean(drawn)), "_floor_std": float(np.std(drawn))}


def duration_minutes(trips: Trips) -> Array:
    """Return the known minutes on each segment but the last of each trip, from whole seconds as the files have them."""
    start = np.repeat(np.nan_to_num(trips.depart), np.diff(trips.ptr))
    gap = np.diff(np.floor(np.round(start + trips.enter, 3))) / 60.0
    inside = np.ones(len(gap), dtype=bool)
    inside[trips.ptr[1:-1] - 1] = False
    gap = gap[inside]
    return gap[np.isfinite(gap)]


def _distance(points: Array) -> float:
    return float(haversine(points[:-1], points[1:], EARTH).sum())


def _radius(points: Array) -> float:
    return float(haversine(points.mean(axis=0), points, EARTH).mean())


def evaluate_hoser(
    generated: Trips, real: Trips, box: str | tuple[float, float, float, float] | None = None, seed: int = 0
) -> dict:
    """Score generated trips as HOSER's notebook does, on the network that both share.

    Args:
        generated: trips to be judged.
        real: held-out real trips.
        box: a city of `BOXES`, or (west, south, east, north) in degrees; the network's own bounding box by default.
        seed: of the random halves of the noise floor.

    Returns:
        km averages, `jsd_distance`, `jsd_radius`, `jsd_duration` (only where both have times), `hausdorff_km`,
        `dtw_km`, `edr` over the matched `pairs` (NaN if there is none); `*_floor`: real trips against real trips.

    Raises:
        UsageError: an unknown city.
    """
    if isinstance(box, str) and box not in BOXES:
        raise UsageError("unknown city", field="box", value=box, choices=BOXES)
    lonlat = centroids(real.network)
    grid = Grid.around(lonlat) if box is None else Grid(BOXES[box] if isinstance(box, str) else box)
    mine, theirs = generated.lists(), real.lists()
    latlon = lonlat[:, ::-1]
    result: dict = {"protocol": "hoser", "generated": len(mine), "real": len(theirs)}
    for name, measure in (("distance", _distance), ("radius", _radius)):
        values, truth = (np.array([measure(latlon[t]) for t in trips]) for trips in (mine, theirs))
        result[f"{name}_km"], result[f"{name}_km_real"] = float(values.mean()), float(truth.mean())
        result[f"jsd_{name}"] = histogram_jsd(values, truth)
        result |= {f"jsd_{name}{k}": v for k, v in halves_jsd(truth, seed).items()}
    spent, truth = duration_minutes(generated), duration_minutes(real)
    if len(spent) and len(truth):
        result["jsd_duration"] = histogram_jsd(spent, truth)
    cells = grid.cells(lonlat)
    for end, pairs, ours in (("", od_pairs(mine, theirs, cells), mine), ("_floor", same_cells(theirs, cells), theirs)):
        scores = np.array([_local(latlon[theirs[j]], latlon[ours[i]]) for i, j in pairs]).reshape(-1, 3)
        mean = scores.mean(axis=0) if len(scores) else np.full(3, np.nan)
        result |= {f"pairs{end}": len(pairs)}
        result |= {f"{k}{end}": float(x) for k, x in zip(("hausdorff_km", "dtw_km", "edr"), mean, strict=True)}
    return result


def _local(real: Array, generated: Array) -> tuple[float, float, float]:
    # EDR reads column 0 as the longitude, that is as great_circle's column 1, but is given (lat, lon): swap once more.
    return (
        hausdorff(real, generated, _LOCAL),
        fast_dtw(real, generated, _LOCAL),
        edr(real[:, ::-1], generated[:, ::-1], 100.0, _SWAPPED),
    )
