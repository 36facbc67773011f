"""A small synthetic city, so that everything runs and every law is known without a single download.

The plan, in the order in which it is drawn: a bent grid of junctions; a river between two rows that only three
bridges cross; arterials on every fourth row and column and on the rim; local streets, of which whole rows and columns
are one-way in alternating directions, some missing; a diagonal avenue; a roundabout in place of one central crossing;
dead ends. All of it is a pure function of the seed. The city lies in the Atlantic (45 N, 27 W), where no map has one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyproj

from apps.trajectory.network import ROAD_CLASSES, RoadNetwork
from apps.trajectory.topology import assemble

__all__ = ["synthetic_city"]

_CENTRE = (-27.0, 45.0)
_CRS = "EPSG:32626"
_SPEED = {"trunk": 70.0, "primary": 50.0, "secondary": 45.0, "residential": 30.0, "living_street": 20.0}
_EVERY = 4


@dataclass
class _Plan:
    """Streets as they are drawn: two junctions, a road class, one-way or not, points on the way."""

    point: dict[int, np.ndarray]
    streets: list[tuple[int, int, str, bool, np.ndarray]] = field(default_factory=list)

    def add(self, a: int, b: int, road: str, one_way: bool = False, via: np.ndarray | None = None) -> None:
        self.streets.append((a, b, road, one_way, np.empty((0, 2)) if via is None else via))


def synthetic_city(seed: int = 0, blocks: tuple[int, int] = (12, 10), spacing: float = 120.0) -> RoadNetwork:
    """Return a city of about `blocks` (columns, rows) blocks of `spacing` metres (400 to 500 segments by default)."""
    rng = np.random.default_rng(seed)
    columns, rows = blocks[0] + 1, blocks[1] + 1
    river = rows // 2 - 1
    plan = _Plan(_junctions(rng, columns, rows, river, spacing))
    bridges = sorted({0, (columns // 2) // _EVERY * _EVERY, columns - 1})
    _grid(plan, rng, (columns, rows), river, bridges)
    _avenue(plan, columns, river, rows)
    _roundabout(plan, _EVERY * columns + _EVERY, spacing)
    _dead_ends(plan, rng, spacing, count=max(2, columns * rows // 14))
    return _network(plan, f"synthetic-{seed}" if seed else "synthetic")


def _junctions(rng: np.random.Generator, columns: int, rows: int, river: int, spacing: float) -> dict[int, np.ndarray]:
    x, y = np.meshgrid(np.arange(columns) * spacing, np.arange(rows) * spacing)
    y = y + np.where(np.arange(rows)[:, None] > river, 0.9 * spacing, 0.0)
    y = y + 0.5 * spacing * np.sin(np.pi * x / x.max())
    points = np.stack([x, y], axis=-1).reshape(-1, 2) + rng.normal(0.0, 0.07 * spacing, (columns * rows, 2))
    points -= points.mean(axis=0)
    angle = np.deg2rad(11.0)
    turned = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return dict(enumerate(turned))


def _grid(plan: _Plan, rng: np.random.Generator, size: tuple[int, int], river: int, bridges: list[int]) -> None:
    columns, rows = size
    for across, lines, cells in ((False, rows, columns), (True, columns, rows)):
        for line in range(lines):
            rim = line in (0, lines - 1)
            road = "trunk" if rim and across else "primary" if rim or line % _EVERY == 0 else ""
            local = rng.choice(["residential", "living_street"], p=[0.8, 0.2])
            one_way, reverse = not road and rng.random() < 0.55, (line // 2) % 2 == 1
            for cell in range(cells - 1):
                a = cell * columns + line if across else line * columns + cell
                b = a + (columns if across else 1)
                bridge = across and cell == river
                if (bridge and line not in bridges) or (not road and not bridge and rng.random() < 0.07):
                    continue
                ends = (b, a) if reverse else (a, b)
                plan.add(*ends, "primary" if bridge else road or str(local), one_way and not bridge)


def _avenue(plan: _Plan, columns: int, river: int, rows: int) -> None:
    """Draw a diagonal across the blocks north of the river, gently bent."""
    first = (river + 1) * columns + _EVERY
    for step in range(min(rows - river - 2, columns - _EVERY - 2)):
        a, b = first + step * (columns + 1), first + (step + 1) * (columns + 1)
        p, q = plan.point[a], plan.point[b]
        bend = 0.06 * (q - p) @ np.array([[0.0, 1.0], [-1.0, 0.0]])
        plan.add(a, b, "secondary", via=((p + q) / 2 + bend)[None])


def _roundabout(plan: _Plan, centre: int, spacing: float) -> None:
    """Replace a crossing by a ring that is driven anticlockwise."""
    middle = plan.point[centre]
    arms = [s for s in plan.streets if centre in s[:2]]
    others = [s[1] if s[0] == centre else s[0] for s in arms]
    bearing = [np.arctan2(*(plan.point[o] - middle)[::-1]) for o in others]
    order = np.argsort(bearing)
    radius, ring = 0.2 * spacing, {}
    for i in order:
        ring[others[i]] = len(plan.point)
        plan.point[len(plan.point)] = middle + radius * np.array([np.cos(bearing[i]), np.sin(bearing[i])])
    plan.streets = [s for s in plan.streets if centre not in s[:2]]
    for a, b, road, one_way, via in arms:
        plan.add(ring[b] if a == centre else a, ring[a] if b == centre else b, road, one_way, via)
    for i, j in zip(order, np.roll(order, -1), strict=True):
        half = bearing[i] + ((bearing[j] - bearing[i]) % (2 * np.pi)) * np.array([[0.25], [0.5], [0.75]])
        arc = middle + radius * np.concatenate([np.cos(half), np.sin(half)], axis=1)
        plan.add(ring[others[i]], ring[others[j]], "primary", True, arc)


def _dead_ends(plan: _Plan, rng: np.random.Generator, spacing: float, count: int) -> None:
    local = [s for s in plan.streets if s[2] in ("residential", "living_street") and not s[3]]
    for at in rng.permutation(len(local))[:count]:
        a, b, road, _, _ = local[at]
        along = plan.point[b] - plan.point[a]
        aside = along @ np.array([[0.0, 1.0], [-1.0, 0.0]]) * rng.choice([-1.0, 1.0])
        new = len(plan.point)
        plan.point[new] = plan.point[b] + 0.32 * aside + 0.32 * along * rng.uniform(-1, 0) + rng.normal(0, 4.0, 2)
        if np.linalg.norm(plan.point[new] - plan.point[b]) < 0.7 * spacing:
            plan.add(b, new, str(road))


def _network(plan: _Plan, name: str) -> RoadNetwork:
    offset = np.array(pyproj.Transformer.from_crs("EPSG:4326", _CRS, always_xy=True).transform(*_CENTRE))
    rows, lines = [], []
    for way, (a, b, road, one_way, via) in enumerate(plan.streets, start=1):
        line = np.vstack([plan.point[a], via, plan.point[b]]) + offset
        length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
        for u, v, points in ((a, b, line),) if one_way else ((a, b, line), (b, a, line[::-1])):
            rows.append((u + 1, v + 1, 0, way, length, _SPEED[road], ROAD_CLASSES.index(road)))
            lines.append(points)
    names = ("u", "v", "key", "osm_way", "length", "speed", "road_class")
    ptr = np.concatenate([[0], np.cumsum([len(p) for p in lines])])
    arrays: dict[str, Any] = {k: np.asarray(a) for k, a in zip(names, zip(*rows, strict=True), strict=True)}
    return assemble(name, _CRS, **arrays, geom_ptr=ptr, geom_xy=np.concatenate(lines))
