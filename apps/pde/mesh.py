"""Triangle meshes: points, the given triangles, named boundary parts, and opposite sides that are one.

A mesh is (points [N, 2], triangles [T, 3] counter-clockwise, groups: name -> boundary edges [E, 2]). Where it is
periodic, the copies of a node are one node and `period` = (L_x, L_y) (0: not periodic) says so; then every displacement
is the shortest one, `d - L round(d / L)`. The triangulation is used as given and never made again.

A mesh that cannot carry a computation is refused in one line: free nodes, degenerate or inverted triangles, an edge of
three triangles, boundary edges that no group names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from core.errors import DataError, UsageError

__all__ = ["Mesh", "Quality", "fold", "place"]


@dataclass(frozen=True)
class Quality:
    """What a mesh is worth: sizes, smallest angle (degrees), share of obtuse triangles, longest over shortest edge."""

    nodes: int
    triangles: int
    boundary_nodes: int
    h_mean: float
    h_min: float
    h_ratio: float
    min_angle: float
    obtuse: float

    def text(self) -> str:
        """Return one line."""
        return (
            f"{self.nodes} nodes, {self.triangles} triangles, {self.boundary_nodes} on the boundary; edges "
            f"{self.h_min:.3g} to {self.h_min * self.h_ratio:.3g}, mean {self.h_mean:.3g}; smallest angle "
            f"{self.min_angle:.1f} degrees, {100 * self.obtuse:.1f} % obtuse"
        )


@dataclass(frozen=True, eq=False)
class Mesh:
    """A checked mesh.

    Args:
        points: float64 [N, 2].
        triangles: int64 [T, 3]; turned counter-clockwise where all of them are clockwise.
        groups: name -> boundary edges, int64 [E, 2].
        period: (L_x, L_y), 0 where it is not periodic.
        tagged: refuse boundary edges that no group names.

    Raises:
        DataError: the mesh is malformed; the line says where.
    """

    points: np.ndarray
    triangles: np.ndarray
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)
    period: tuple[float, float] = (0.0, 0.0)
    tagged: bool = False

    def __post_init__(self) -> None:
        """Check what was given."""
        object.__setattr__(self, "points", np.ascontiguousarray(self.points, np.float64))
        object.__setattr__(self, "triangles", np.ascontiguousarray(self.triangles, np.int64))
        groups = {k: np.asarray(v, np.int64).reshape(-1, 2) for k, v in self.groups.items()}
        object.__setattr__(self, "groups", groups)
        self._check_nodes()
        self._check_triangles()
        self._check_edges()

    def _check_nodes(self) -> None:
        points, triangles = self.points, self.triangles
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise DataError("needs finite points [N, 2]", field="mesh", value=points.shape)
        if not len(triangles) or triangles.min() < 0 or triangles.max() >= len(points):
            raise DataError("has no triangles, or they name nodes that do not exist", field="mesh")
        free = np.setdiff1d(np.arange(len(points)), triangles)
        if len(free):
            where = place(points[free[0]])
            raise DataError(f"{len(free)} free nodes belong to no triangle, the first at {where}", field="mesh")

    def _check_triangles(self) -> None:
        area = self.signed_area
        scale = (self.edge_vectors**2).sum(-1).max(1)
        flat = np.flatnonzero(np.abs(area) <= 1e-10 * scale)
        if len(flat):
            where = place(self.points[self.triangles[flat[0], 0]])
            raise DataError(f"{len(flat)} degenerate triangles without area, the first at {where}", field="mesh")
        if (area < 0).all():
            object.__setattr__(self, "triangles", self.triangles[:, ::-1].copy())
            for name in ("signed_area", "edge_vectors"):
                self.__dict__.pop(name)
        elif (area < 0).any():
            first = int(np.flatnonzero(area < 0)[0])
            where = place(self.points[self.triangles[first, 0]])
            raise DataError(f"{int((area < 0).sum())} inverted triangles, the first at {where}", field="mesh")

    def _check_edges(self) -> None:
        if self._sides.max() > 2:
            raise DataError("an edge belongs to more than two triangles", field="mesh")
        outside = {tuple(sorted(e)) for e in self.boundary.tolist()}
        named: set[tuple[int, ...]] = set()
        for name, edges in self.groups.items():
            inner = [e for e in map(tuple, np.sort(edges, 1).tolist()) if e not in outside]
            if inner:
                raise DataError(f"{len(inner)} edges of the group are not on the boundary", field=name)
            named |= set(map(tuple, np.sort(edges, 1).tolist()))
        loose = outside - named
        if self.tagged and loose:
            a, b = min(loose)
            where = place((self.points[a] + self.points[b]) / 2)
            hint = f"name them (a physical group, or group:NAME); there are {sorted(self.groups) or 'none'}"
            raise DataError(f"{len(loose)} boundary edges belong to no group, one at {where}", field="mesh", hint=hint)

    def __len__(self) -> int:
        return len(self.points)

    def shortest(self, delta: np.ndarray) -> np.ndarray:
        """Return displacements [..., 2] as the shortest of their periodic images."""
        period = np.asarray(self.period)
        return delta - np.where(period > 0, period * np.round(delta / np.where(period > 0, period, 1)), 0)

    @cached_property
    def edge_vectors(self) -> np.ndarray:
        """The sides opposite to each corner, as vectors [T, 3, 2]: side k runs from corner k+1 to corner k+2."""
        p = self.points[self.triangles]
        return self.shortest(p[:, [2, 0, 1]] - p[:, [1, 2, 0]])

    @cached_property
    def signed_area(self) -> np.ndarray:
        """Signed areas [T]."""
        e = self.edge_vectors
        return 0.5 * (e[:, 0, 0] * e[:, 1, 1] - e[:, 0, 1] * e[:, 1, 0])

    @cached_property
    def node_area(self) -> np.ndarray:
        """A third of the area of the triangles around each node [N]: weights of integrals over the domain."""
        return np.bincount(self.triangles.ravel(), np.repeat(self.signed_area / 3, 3), len(self))

    @cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        directed = self.triangles[:, [[1, 2], [2, 0], [0, 1]]].reshape(-1, 2)
        return (directed, *np.unique(np.sort(directed, 1), axis=0, return_inverse=True)[:2])

    @property
    def edges(self) -> np.ndarray:
        """Every edge once, int64 [E, 2]."""
        return self._edges[1]

    @cached_property
    def _sides(self) -> np.ndarray:
        """How many triangles each edge has."""
        return np.bincount(self._edges[2].ravel())

    @cached_property
    def boundary(self) -> np.ndarray:
        """Boundary edges [E, 2], the domain on their left."""
        directed, _, index = self._edges
        return directed[self._sides[index.ravel()] == 1]

    @cached_property
    def boundary_nodes(self) -> np.ndarray:
        """Nodes on the boundary, ascending."""
        return np.unique(self.boundary)

    @cached_property
    def normals(self) -> np.ndarray:
        """Outward unit normals at nodes [N, 2]: means of the edges' by length; zero inside."""
        return self._normals(self.boundary)

    def normals_of(self, group: str) -> np.ndarray:
        """Return the normals [N, 2] of one boundary part alone: at a corner they are this part's, not the mean."""
        if group not in self.groups:
            raise UsageError("no such boundary part in the mesh", field="boundary", value=group, choices=self.groups)
        own = {tuple(e) for e in np.sort(self.groups[group], 1).tolist()}
        return self._normals(self.boundary[[tuple(e) in own for e in np.sort(self.boundary, 1).tolist()]])

    def _normals(self, edges: np.ndarray) -> np.ndarray:
        out = np.zeros_like(self.points)
        a, b = edges.T
        along = self.shortest(self.points[b] - self.points[a])
        for end in (a, b):
            np.add.at(out, end, np.stack([along[:, 1], -along[:, 0]], -1))
        length = np.linalg.norm(out, axis=1, keepdims=True)
        return np.divide(out, length, out=np.zeros_like(out), where=length > 0)

    @cached_property
    def adjacency(self) -> csr_matrix:
        """Which nodes share an edge, [N, N] of ones, without the diagonal."""
        a, b = self.edges.T
        ones = np.ones(2 * len(a), np.int32)
        return csr_matrix((ones, (np.r_[a, b], np.r_[b, a])), shape=(len(self), len(self)))

    def graph(self) -> np.ndarray:
        """Return every edge in both directions as (receiver i, sender j), int64 [2, 2E]."""
        a, b = self.edges.T
        return np.stack([np.r_[a, b], np.r_[b, a]])

    def nodes(self, group: str) -> np.ndarray:
        """Return the nodes of a boundary part.

        Raises:
            UsageError: there is no such part.
        """
        if group not in self.groups:
            raise UsageError("no such boundary part in the mesh", field="boundary", value=group, choices=self.groups)
        return np.unique(self.groups[group])

    def locate(self, point: tuple[float, float]) -> int:
        """Return the node nearest to a point."""
        return int((self.shortest(self.points - np.asarray(point)) ** 2).sum(1).argmin())

    def quality(self) -> Quality:
        """Measure the mesh."""
        sides = np.linalg.norm(self.edge_vectors, axis=-1)
        a, b, c = sides.T
        cosines = np.stack([(b * b + c * c - a * a) / (2 * b * c), (a * a + c * c - b * b) / (2 * a * c),
                            (a * a + b * b - c * c) / (2 * a * b)], 1)  # fmt: skip
        angles = np.degrees(np.arccos(cosines.clip(-1, 1)))
        return Quality(
            len(self), len(self.triangles), len(self.boundary_nodes), float(sides.mean()), float(sides.min()),
            float(sides.max() / sides.min()), float(angles.min()), float((angles.max(1) > 90 + 1e-9).mean()),
        )  # fmt: skip


def fold(mesh: Mesh, period: tuple[float, float]) -> tuple[Mesh, np.ndarray]:
    """Make opposite sides one: return the periodic mesh and, for each old node, its new number.

    Args:
        mesh: an unfolded mesh whose opposite sides carry matching nodes.
        period: (L_x, L_y), 0 for a direction that is not periodic.

    Raises:
        DataError: a node on one side has no partner on the other.
    """
    span = np.where(np.asarray(period) > 0, period, np.inf)
    low, tolerance = mesh.points.min(0), 1e-6 * float(np.ptp(mesh.points, axis=0).max())
    offset = mesh.points - low
    high = np.abs(offset - span) < tolerance
    wrapped = np.where(high, 0.0, offset) + low
    for shift in (0.0, 0.29, 0.37):  # partners may stand on both sides of where numbers are rounded up
        cell = np.round((wrapped - low) / tolerance + shift).astype(np.int64)
        _, first, index = np.unique(cell, axis=0, return_index=True, return_inverse=True)
        index = index.ravel()
        alone = high.any(1) & (np.bincount(index)[index] < 2)
        if not alone.any():
            break
    else:
        where = place(mesh.points[alone][0])
        raise DataError(f"{int(alone.sum())} nodes on a periodic side have no partner, one at {where}", field="mesh")
    groups = {}
    kept = {tuple(e) for e in _loose(index[mesh.triangles])}
    for name, edges in mesh.groups.items():
        inside = [e for e in np.sort(index[edges], 1).tolist() if tuple(e) in kept]
        if inside:
            groups[name] = np.asarray(inside)
    return Mesh(wrapped[first], index[mesh.triangles], groups, period), index


def place(point: np.ndarray) -> tuple[float, ...]:
    """Return a point as it is printed, six digits in any units."""
    return tuple(float(f"{x:.6g}") for x in point)


def _loose(triangles: np.ndarray) -> list[list[int]]:
    """Return the edges of one triangle only."""
    edges, count = np.unique(np.sort(triangles[:, [[1, 2], [2, 0], [0, 1]]].reshape(-1, 2), 1), axis=0,
                             return_counts=True)  # fmt: skip
    return edges[count == 1].tolist()
