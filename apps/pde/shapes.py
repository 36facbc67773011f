"""Meshes made here: jittered lattices on the torus, and relaxed meshes of domains given by a signed distance.

`relaxed` moves the nodes of a triangulation like a truss whose bars push until each has its wanted length, and puts
those that leave the domain back along the gradient of the distance (DistMesh; Persson and Strang, 2004, SIAM Review
46(2)). It serves embedded data and tests. Meshes of real parts come from a mesher as files (`formats.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import Delaunay, KDTree

from apps.pde.mesh import Mesh
from core.errors import UsageError

__all__ = ["CELL", "CENTRES", "SHAPES", "Box", "channel", "jittered", "make", "relaxed", "square", "with_cells",
           "with_cuts", "with_dolphin", "with_hole"]  # fmt: skip

Distance = Callable[[np.ndarray], np.ndarray]
CELL, CENTRES = 0.05, ((0.27, 0.3), (0.7, 0.22), (0.33, 0.74), (0.76, 0.7))
DOLPHIN = ((200, 500), (250, 545), (300, 565), (330, 600), (400, 635), (470, 650), (500, 720), (545, 735), (560, 640),
           (630, 600), (700, 530), (750, 460), (820, 455), (855, 420), (800, 400), (765, 355), (775, 300), (720, 320),
           (695, 400), (640, 455), (560, 490), (520, 430), (470, 370), (435, 385), (450, 475), (380, 490), (310, 495),
           (250, 475))  # fmt: skip


@dataclass(frozen=True)
class Box:
    """The rectangle [0, width] x [0, height]; `periodic` in x and in y."""

    width: float = 1.0
    height: float = 1.0
    periodic: tuple[bool, bool] = (False, False)

    @property
    def period(self) -> tuple[float, float]:
        """The periods, 0 where there is none."""
        return (self.width * self.periodic[0], self.height * self.periodic[1])


def jittered(n: int, seed: int = 0, amount: float = 0.25, size: float = 1.0) -> Mesh:
    """Return a periodic square of n x n lattice nodes moved by `amount` of their spacing, Delaunay-triangulated."""
    rng, h = np.random.default_rng(seed), size / n
    lattice = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2) * h
    points = (lattice + h * amount * rng.uniform(-1, 1, lattice.shape)) % size
    return Mesh(points, _torus(points, Box(size, size, (True, True)), 4 * h), period=(size, size))


def _torus(points: np.ndarray, box: Box, margin: float, distance: Distance | None = None) -> np.ndarray:
    """Return the Delaunay triangles of points with their periodic images, each once."""
    shifts = [np.arange(-1, 2) * L if L else np.zeros(1) for L in box.period]
    parts, origin = [], []
    for sx in shifts[0]:
        for sy in shifts[1]:
            moved = points + (sx, sy)
            near = ((moved > -margin) & (moved < np.array([box.width, box.height]) + margin)).all(1)
            parts.append(moved[near])
            origin.append(np.flatnonzero(near))
    everything, index = np.concatenate(parts), np.concatenate(origin)
    simplices = Delaunay(everything).simplices
    centre = everything[simplices].mean(1)
    inside = np.ones(len(centre), bool)
    for axis, length in enumerate(box.period):
        if length:
            inside &= (centre[:, axis] >= 0) & (centre[:, axis] < length)
    p = everything[simplices]
    (ax, ay), (bx, by) = (p[:, 1] - p[:, 0]).T, (p[:, 2] - p[:, 0]).T
    area = 0.5 * (ax * by - ay * bx)
    spacing = np.sqrt(np.median(np.abs(area)))
    inside &= np.abs(area) > 1e-3 * spacing**2
    if distance is not None:
        wrapped = centre % np.where(np.asarray(box.period) > 0, box.period, np.inf)
        inside &= distance(wrapped) < -1e-3 * spacing
    keep = index[simplices[inside]]
    keep[area[inside] < 0] = keep[area[inside] < 0][:, ::-1]
    return keep


def relaxed(
    box: Box, h: float, parts: dict[str, Distance], *, seed: int = 0, rounds: int = 40,
    size: Callable[[np.ndarray], np.ndarray] | None = None, scatter: float = 0.2,
) -> Mesh:  # fmt: skip
    """Return a mesh of the box less its holes, with edges of about `h`.

    Args:
        box: the rectangle around.
        h: wanted length of edges (where `size` is 1).
        parts: name -> signed distance (negative inside the domain) of each boundary part; the box's open sides are
            those named `left`, `right`, `bottom`, `top` and need none.
        seed: of the start.
        rounds: of relaxation.
        size: relative wanted length at points [n, 2], at least 1.
        scatter: how far, in edges, nodes start from a lattice; at 1 the mesh keeps the defects of a random start.
    """
    distance, rng = _domain(box, parts), np.random.default_rng(seed)
    scale = size or (lambda p: np.ones(len(p)))
    corners = [(x, y) for x in (0.0, box.width) for y in (0.0, box.height)] if not any(box.periodic) else []
    fixed = np.array([c for c in corners if abs(distance(np.array([c]))[0]) < 1e-9]).reshape(-1, 2)
    x, y = np.arange(h / 2, box.width, h), np.arange(h / 2, box.height, h * np.sqrt(3) / 2)
    grid = np.stack(np.meshgrid(x, y), -1)
    grid[1::2, :, 0] += h / 2
    points = grid.reshape(-1, 2)
    points = points[distance(points) < -0.1 * h] + 0.0
    points = points[rng.uniform(size=len(points)) < scale(points) ** -2.0]
    points = np.concatenate([fixed, points + scatter * h * rng.standard_normal(points.shape)])
    wrap = np.where(np.asarray(box.period) > 0, box.period, np.inf)
    for _ in range(rounds):
        points = np.where(np.isfinite(wrap), points % wrap, points)
        points = _push(points, _torus(points, box, 6 * h, distance), box, scale, distance, len(fixed), h)
    points = np.where(np.isfinite(wrap), points % wrap, points)
    return _cleaned(points, box, h, distance, parts)


def _domain(box: Box, parts: dict[str, Distance]) -> Distance:
    """Return the signed distance of the box, less its holes."""

    def distance(p: np.ndarray) -> np.ndarray:
        out = np.full(len(p), -np.inf)
        for axis, length in enumerate((box.width, box.height)):
            if not box.periodic[axis]:
                out = np.maximum(out, np.maximum(-p[:, axis], p[:, axis] - length))
        for part in parts.values():
            out = np.maximum(out, part(p))
        return out

    return distance


def _push(
    points: np.ndarray, triangles: np.ndarray, box: Box, scale: Callable[[np.ndarray], np.ndarray],
    distance: Distance, fixed: int, h: float,
) -> np.ndarray:  # fmt: skip
    """Move the nodes one step: bars that are too short push, and what left the domain returns to its boundary."""
    i, j = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1), axis=0).T
    period = np.asarray(box.period)
    bar = points[i] - points[j]
    bar -= np.where(period > 0, period * np.round(bar / np.where(period > 0, period, 1)), 0)
    length = np.linalg.norm(bar, axis=1)
    wanted = scale(points[j] + bar / 2)
    wanted *= 1.2 * np.sqrt((length**2).sum() / (wanted**2).sum())
    force = np.maximum(wanted - length, 0)[:, None] * bar / length[:, None].clip(1e-12)
    step = np.zeros_like(points)
    np.add.at(step, i, force)
    np.add.at(step, j, -force)
    step[:fixed] = 0
    return _returned(points + 0.2 * step, distance, h, fixed)


def _returned(points: np.ndarray, distance: Distance, h: float, fixed: int = 0) -> np.ndarray:
    d, eps = distance(points), 1e-7 * h
    out = d > 0
    out[:fixed] = False
    if not out.any():
        return points
    slope = np.stack([(distance(points[out] + s * eps) - d[out]) / eps for s in np.eye(2)], 1)
    points = points.copy()
    points[out] -= d[out, None] * slope / (slope**2).sum(1, keepdims=True).clip(1e-9)
    return points


def _cleaned(points: np.ndarray, box: Box, h: float, distance: Distance, parts: dict[str, Distance]) -> Mesh:
    """Put near-boundary nodes exactly on it, drop crowded and free ones, and name the boundary edges."""
    d = distance(points)
    near = np.abs(d) < 0.15 * h
    slope = np.stack([(distance(points[near] + s * 1e-6 * h) - d[near]) / (1e-6 * h) for s in np.eye(2)], 1)
    points[near] -= d[near, None] * slope
    alone = np.ones(len(points), bool)
    for a, b in KDTree(points).query_pairs(0.2 * h):
        alone[b if alone[a] else a] = False
    points = points[alone]
    triangles = _torus(points, box, 6 * h, distance)
    triangles = _without_slivers(points, triangles, box)
    used, index = np.unique(triangles, return_inverse=True)
    bare = Mesh(points[used], index.reshape(-1, 3), period=box.period)
    outer, moved = bare.boundary_nodes, bare.points.copy()
    for _ in range(3 * bool(len(outer))):  # a node that ended on the boundary belongs on it
        d, eps = distance(moved[outer]), 1e-6 * h
        slope = np.stack([(distance(moved[outer] + s * eps) - d) / eps for s in np.eye(2)], 1)
        moved[outer] -= d[:, None] * slope / (slope**2).sum(1, keepdims=True).clip(1e-9)
    bare = Mesh(moved, bare.triangles, period=box.period)
    middle = bare.points[bare.boundary[:, 0]] + bare.shortest(
        bare.points[bare.boundary[:, 1]] - bare.points[bare.boundary[:, 0]]) / 2  # fmt: skip
    names, sides = _sides(box, parts)
    nearest = np.argmin([np.abs(f(middle)) for f in sides], 0) if sides else np.zeros(0, int)
    groups = {n: bare.boundary[nearest == k] for k, n in enumerate(names) if (nearest == k).any()}
    return Mesh(bare.points, bare.triangles, groups, box.period, tagged=True)


def _without_slivers(points: np.ndarray, triangles: np.ndarray, box: Box) -> np.ndarray:
    """Drop flat triangles that lie on the boundary."""
    bare = Mesh(points[np.unique(triangles)], np.unique(triangles, return_inverse=True)[1].reshape(-1, 3),
                period=box.period)  # fmt: skip
    sides = np.linalg.norm(bare.edge_vectors, axis=-1)
    return triangles[bare.signed_area > 0.02 * sides.max(1) ** 2]


def _sides(box: Box, parts: dict[str, Distance]) -> tuple[list[str], list[Distance]]:
    ends: dict[str, Distance] = {}
    if not box.periodic[0]:
        ends |= {"left": lambda p: p[:, 0], "right": lambda p: p[:, 0] - box.width}
    if not box.periodic[1]:
        ends |= {"bottom": lambda p: p[:, 1], "top": lambda p: p[:, 1] - box.height}
    both = ends | parts
    return list(both), list(both.values())


def disc(x: float, y: float, radius: float) -> Distance:
    """Return the distance of a domain with a round hole."""
    return lambda p: radius - np.hypot(p[:, 0] - x, p[:, 1] - y)


def polygon(corners: np.ndarray) -> Distance:
    """Return the distance of a domain with a polygonal hole of corners [M, 2]."""
    a, b = corners, np.roll(corners, -1, 0) - corners
    low, high, flat = a[:, 1], a[:, 1] + b[:, 1], np.where(b[:, 1] == 0, 1e-300, b[:, 1])

    def distance(p: np.ndarray) -> np.ndarray:
        offset = p[:, None] - a
        along = ((offset * b).sum(-1) / (b**2).sum(-1)).clip(0, 1)
        d = np.sqrt(((offset - along[..., None] * b) ** 2).sum(-1)).min(1)
        y = p[:, 1:]
        crossed = ((low <= y) != (high <= y)) & (p[:, :1] < a[:, 0] + (y - low) * b[:, 0] / flat)
        return np.where(crossed.sum(1) % 2 == 1, d, -d)

    return distance


def smooth_polygon(points: np.ndarray, each: int = 4) -> np.ndarray:
    """Return the corners of a closed Catmull-Rom curve through points [M, 2], `each` for every one of them."""
    a, b, c, d = (np.roll(points, k, 0) for k in (1, 0, -1, -2))
    t = (np.arange(each) / each)[:, None, None]
    out = b + 0.5 * ((c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return out.transpose(1, 0, 2).reshape(-1, 2)


def square(nodes: int, seed: int = 0) -> Mesh:
    """Return a periodic unit square (Burgers A, FitzHugh-Nagumo, Gray-Scott)."""
    return relaxed(Box(1, 1, (True, True)), np.sqrt(2 / np.sqrt(3) / nodes), {}, seed=seed, rounds=20, scatter=1.0)


def with_hole(nodes: int, seed: int = 0, radius: float = 0.15) -> Mesh:
    """Return a periodic unit square with a round hole, `hole` (Burgers B)."""
    h = np.sqrt(2 / np.sqrt(3) * (1 - np.pi * radius**2) / nodes)
    return relaxed(Box(1, 1, (True, True)), h, {"hole": disc(0.5, 0.5, radius)}, seed=seed)


def with_cuts(nodes: int, seed: int = 0, radius: float = 0.2) -> Mesh:
    """Return a square, periodic in y, whose left and right sides have round cuts (Burgers D)."""
    h = np.sqrt(2 / np.sqrt(3) * (1 - np.pi * radius**2) / nodes)
    cuts = {"cut_left": disc(0, 0.5, radius), "cut_right": disc(1, 0.5, radius)}
    return relaxed(Box(1, 1, (False, True)), h, cuts, seed=seed)


def with_dolphin(nodes: int, seed: int = 0) -> Mesh:
    """Return a periodic unit square with a hole in the shape of a dolphin, `dolphin` (Burgers C)."""
    outline = smooth_polygon(np.array(DOLPHIN) / 1000)
    h = np.sqrt(2 / np.sqrt(3) * 0.909 / nodes)
    return relaxed(Box(1, 1, (True, True)), h, {"dolphin": polygon(outline)}, seed=seed, rounds=60)


def with_cells(nodes: int, seed: int = 0) -> Mesh:
    """Return a unit square with four small round cells, `cell_1` to `cell_4`, of radius `CELL`."""

    def size(p: np.ndarray) -> np.ndarray:
        away = np.min([np.hypot(p[:, 0] - x, p[:, 1] - y) for x, y in CENTRES], 0) - CELL
        return 1 + np.clip(6 * away, 0, 1.6)

    h = np.sqrt(2 / np.sqrt(3) / nodes) * 0.56
    parts = {f"cell_{k + 1}": disc(x, y, CELL) for k, (x, y) in enumerate(CENTRES)}
    return relaxed(Box(1, 1), h, parts, seed=seed, rounds=150, size=size, scatter=0.1)


def channel(nodes: int, seed: int = 0) -> Mesh:
    """Return [0, 16] x [0, 8] with a cylinder of diameter 2 at (5, 4): parts left, right, bottom, top, cylinder."""
    h = np.sqrt(2 / np.sqrt(3) * 125 / nodes) * 0.66

    def size(p: np.ndarray) -> np.ndarray:
        around = np.hypot(p[:, 0] - 5, p[:, 1] - 4) - 1
        wake = np.where(p[:, 0] > 5, np.abs(p[:, 1] - 4) - 1, around)
        return 1 + np.clip(0.28 * np.minimum(around, np.maximum(wake, 0.3 * around)), 0, 1.2)

    return relaxed(Box(16, 8), h, {"cylinder": disc(5, 4, 1)}, seed=seed, size=size, rounds=150, scatter=0.1)


SHAPES: dict[str, Callable[..., Mesh]] = {
    "square": square, "hole": with_hole, "dolphin": with_dolphin, "cuts": with_cuts, "channel": channel,
    "cells": with_cells,
}  # fmt: skip


def make(name: str, nodes: int, seed: int = 0, choices: Sequence[str] = tuple(SHAPES)) -> Mesh:
    """Return a shape by its name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in choices:
        raise UsageError("no such shape", field="shape", value=name, choices=choices)
    return SHAPES[name](nodes, seed)
