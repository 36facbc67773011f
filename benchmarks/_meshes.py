"""Meshes of gmsh for benchmarks, read back from files with their physical groups as a user's would be."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apps.pde.formats import read_mesh
from apps.pde.mesh import Mesh
from core.errors import DataError

__all__ = ["cavity", "dfg", "torus"]


def _gmsh() -> Any:
    try:
        import gmsh
    except (ImportError, OSError) as error:
        hint = f"install quintet[mesh] ({error})"
        raise DataError("this benchmark meshes with gmsh", field="gmsh", hint=hint) from None
    return gmsh


def _built(draw: Callable[[Any], Mapping[str, Sequence[int]]], period: tuple[float, float] = (0.0, 0.0)) -> Mesh:
    """Draw a plane domain, mesh it, write it and read it back; `draw` returns the curves of each boundary part."""
    gmsh = _gmsh()
    gmsh.initialize(interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        parts = draw(gmsh)
        for name, curves in parts.items():
            gmsh.model.addPhysicalGroup(1, list(curves), name=name)
        gmsh.model.addPhysicalGroup(2, [tag for _, tag in gmsh.model.getEntities(2)], name="domain")
        gmsh.option.setNumber("Mesh.Algorithm", 6)
        gmsh.model.mesh.generate(2)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mesh.msh"
            gmsh.write(str(path))
            return read_mesh(path, period)
    finally:
        gmsh.finalize()


def _sized(gmsh: Any, fields: Sequence[int]) -> None:
    """Let the least of some size fields rule alone."""
    least = gmsh.model.mesh.field.add("Min")
    gmsh.model.mesh.field.setNumbers(least, "FieldsList", list(fields))
    gmsh.model.mesh.field.setAsBackgroundMesh(least)
    for option in ("MeshSizeExtendFromBoundary", "MeshSizeFromPoints", "MeshSizeFromCurvature"):
        gmsh.option.setNumber(f"Mesh.{option}", 0)


def dfg(near: float, wake: float, far: float) -> Mesh:
    """Return the DFG channel, 2.2 x 0.41 with a cylinder of diameter 0.1 at (0.2, 0.2).

    Args:
        near: edges at the cylinder. wake: edges behind it as far as x = 1. far: largest edges.
    """

    def draw(gmsh: Any) -> Mapping[str, Sequence[int]]:
        kernel = gmsh.model.occ
        half = [kernel.addCircle(0.2, 0.2, 0, 0.05, angle1=k * np.pi, angle2=(k + 1) * np.pi) for k in range(2)]
        disc = kernel.addPlaneSurface([kernel.addCurveLoop(half)])  # of two arcs: the pressure's probes are nodes
        kernel.cut([(2, kernel.addRectangle(0, 0, 0, 2.2, 0.41))], [(2, disc)])
        kernel.synchronize()
        used = {curve for _, curve in gmsh.model.getBoundary(gmsh.model.getEntities(2), oriented=False)}
        kernel.remove([(1, c) for _, c in gmsh.model.getEntities(1) if c not in used], recursive=True)
        kernel.synchronize()
        parts: dict[str, list[int]] = {k: [] for k in ("left", "right", "bottom", "top", "cylinder")}
        for _, curve in gmsh.model.getEntities(1):
            x, y, _ = kernel.getCenterOfMass(1, curve)
            side = [abs(x), abs(x - 2.2), abs(y), abs(y - 0.41), 1e-6]
            parts[list(parts)[side.index(min(side))]].append(curve)
        field = gmsh.model.mesh.field
        away, grow, box = field.add("Distance"), field.add("MathEval"), field.add("Box")
        field.setNumbers(away, "CurvesList", parts["cylinder"])
        field.setNumber(away, "Sampling", 400)
        field.setString(grow, "F", f"{near} + 0.12*F{away}")
        for name, value in {"VIn": wake, "VOut": far, "XMin": 0.2, "XMax": 1.0, "YMin": 0.1, "YMax": 0.31,
                            "Thickness": 0.5}.items():  # fmt: skip
            field.setNumber(box, name, value)
        _sized(gmsh, [grow, box])
        return parts

    return _built(draw)


def _square(gmsh: Any, h: float) -> list[int]:
    points = [gmsh.model.geo.addPoint(x, y, 0, h) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    lines = [gmsh.model.geo.addLine(points[k], points[(k + 1) % 4]) for k in range(4)]
    gmsh.model.geo.addPlaneSurface([gmsh.model.geo.addCurveLoop(lines)])
    gmsh.model.geo.synchronize()
    return lines


def torus(nodes: int) -> Mesh:
    """Return a periodic unit square of about so many nodes."""

    def draw(gmsh: Any) -> Mapping[str, Sequence[int]]:
        lines = _square(gmsh, (1.1547 / nodes) ** 0.5)
        for to, of, shift in ((1, 3, (1, 0)), (2, 0, (0, 1))):
            move = np.eye(4)
            move[:2, 3] = shift
            gmsh.model.mesh.setPeriodic(1, [lines[to]], [lines[of]], move.ravel().tolist())
        return {}

    return _built(draw, (1.0, 1.0))


def cavity(n: int) -> Mesh:
    """Return the unit square with about n nodes along a side: parts left, right, bottom, top."""

    def draw(gmsh: Any) -> Mapping[str, Sequence[int]]:
        bottom, right, top, left = _square(gmsh, 1 / n)
        return {"left": [left], "right": [right], "bottom": [bottom], "top": [top]}

    return _built(draw)
