"""Files: meshes in (gmsh, VTU, XDMF, Abaqus, Nastran, ... through meshio), meshes and time series out (ParaView).

Named boundary parts are gmsh's physical groups, sets of edges (Abaqus), or, in any format with cell data, arrays called
`group:NAME` that are 1 on the edges of the part; this is how they are written, because names do not survive conversions
otherwise, but for gmsh's own format, which gets physical groups.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apps.pde.mesh import Mesh, fold
from core.errors import DataError, UsageError

__all__ = ["check_format", "check_place", "read_mesh", "write_mesh", "write_series"]

SERIES = (".xdmf", ".pvd", ".npz")
MARK = "group:"
UNSAID = {".vtu": '"<&\t\r\n', ".vtk": " \t\r\n\f\v", ".msh": '"\r\n'}  # what names cannot hold there


def check_format(path: Path) -> None:
    """Refuse what `write_series` cannot write, or could only over files that are no part of a series of that name.

    Raises:
        UsageError: the ending is unknown, the file is a folder or cannot stand where it is to be, or what lies beside
            it (`.h5`, the folder of `.vtu`) has its name but belongs to no series.
    """
    if path.suffix not in SERIES:
        raise UsageError("cannot write this format", field="out", value=str(path), choices=SERIES)
    check_place(path.parent)
    if path.is_dir():
        raise UsageError("is a folder", field="out", value=str(path))
    store, folder = path.with_suffix(".h5"), path.with_suffix("")
    taken: Path | None = None
    if path.suffix == ".xdmf" and (store.is_dir() or (store.exists() and not _names(path, f"{store.name}:/"))):
        taken = store
    if path.suffix == ".pvd" and folder.exists():
        own = next((f for f in folder.glob(f"{glob.escape(path.stem)}_*.vtu")), None) if folder.is_dir() else folder
        taken = own if own is not None and (own is folder or not _names(path, f"{folder.name}/")) else None
    if taken is not None:
        message = f"would be written over {str(taken)!r}, which is no part of a series of that name"
        raise UsageError(message, field="out", value=str(path), hint="choose another name")


def check_place(folder: Path) -> None:
    """Refuse a folder that cannot be made because it, or one above it, is a file."""
    wrong = next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None)
    if wrong is not None:
        raise UsageError("is a file, not a folder", field="out", value=str(wrong))


def _names(path: Path, text: str) -> bool:
    """Tell whether a file is there and its text holds another."""
    return path.is_file() and text.encode() in path.read_bytes()


def read_mesh(path: Path | str, period: tuple[float, float] = (0.0, 0.0), tagged: bool = True) -> Mesh:
    """Read a triangle mesh with its named boundary parts.

    Args:
        path: a file of any format that meshio reads.
        period: lengths over which opposite sides are one, 0 for none.
        tagged: refuse boundary edges without a name.

    Raises:
        DataError: missing, unreadable, not flat, not made of triangles, or malformed.
    """
    import meshio

    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", field="mesh", value=str(path))
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # meshio talks
            found = meshio.read(path)
    except SystemExit:  # meshio's way of saying that it knows no reader
        raise DataError("not a mesh file that can be read", field="mesh", value=path.name) from None
    except Exception as error:  # each reader fails in its own way on a damaged file
        if "Incompatible cell data 'gmsh:physical'" in str(error):
            hint = "give each one, or have gmsh save those that have one alone (Mesh.SaveAll=0)"
            raise DataError("some of its curves or surfaces have no physical group", field="mesh", value=path.name,
                            hint=hint) from None  # fmt: skip
        message = f"cannot be read ({type(error).__name__})"
        raise DataError(message, field="mesh", value=path.name) from None
    kinds = {b.type for b in found.cells}
    if wrong := kinds - {"triangle", "line", "vertex"}:
        raise DataError("holds other cells than straight triangles", field="mesh", value=", ".join(sorted(wrong)))
    points = np.asarray(found.points, np.float64)
    if points.ndim != 2:
        raise DataError("holds no points", field="mesh", value=path.name)
    if points.shape[1] > 2 and np.ptp(points[:, 2]) > 1e-9 * np.ptp(points):
        raise DataError("is not flat: z varies", field="mesh", value=path.name)
    triangles = [b.data for b in found.cells if b.type == "triangle"]
    if not triangles:
        raise DataError("holds no triangles", field="mesh", value=path.name)
    mesh = Mesh(points[:, :2], np.concatenate(triangles), _groups(found), tagged=tagged and not any(period))
    if any(period):
        mesh = fold(Mesh(mesh.points, mesh.triangles, _groups(found)), period)[0]
        return Mesh(mesh.points, mesh.triangles, mesh.groups, mesh.period, tagged)
    return mesh


def _groups(found: Any) -> dict[str, np.ndarray]:
    """Return the named edges: arrays `group:NAME`, else gmsh's physical groups of dimension 1, else sets of edges."""
    lines = [k for k, block in enumerate(found.cells) if block.type == "line"]
    out: dict[str, list[np.ndarray]] = {}
    for key, blocks in found.cell_data.items():
        if key.startswith(MARK):
            for k in lines:
                out.setdefault(key[len(MARK) :], []).append(found.cells[k].data[np.asarray(blocks[k]) > 0])
    if not out and "gmsh:physical" in found.cell_data:
        for k in lines:
            for name, own in _tagged(found, k).items():
                out.setdefault(name, []).append(own)
    if not out:
        for name, blocks in found.cell_sets.items():
            own = [found.cells[k].data[np.asarray(blocks[k], np.int64)] for k in lines if blocks[k] is not None]
            if not name.startswith("gmsh:") and own:  # gmsh's own sets name no physical group
                out[name] = own
    joined = {name: np.concatenate(parts) for name, parts in out.items()}
    return {name: edges for name, edges in joined.items() if len(edges)}


def _tagged(found: Any, k: int) -> dict[str, np.ndarray]:
    """Return the edges of block k by gmsh's physical groups.

    A tag is negative where the curve runs the other way. A curve of several groups has the tag of the first; in the
    form 4.1 its edges are in the sets of all of them.
    """
    names = {int(v[0]): n for n, v in found.field_data.items() if int(v[1]) == 1}
    edges, tags = found.cells[k].data, np.abs(np.asarray(found.cell_data["gmsh:physical"][k]))
    own = {names.get(int(tag), str(tag)): edges[tags == tag] for tag in np.unique(tags[tags > 0])}
    sets = {n: found.cell_sets[n][k] for n in names.values() if n in found.cell_sets}
    return own | {n: edges[rows] for n, rows in sets.items() if n not in own and rows is not None and len(rows)}


def unfolded(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (points, triangles, node numbers) of a periodic mesh with its seam cut open, for pictures and files."""
    if not any(mesh.period):
        return mesh.points, mesh.triangles, np.arange(len(mesh))
    corner = mesh.points[mesh.triangles[:, 0]][:, None]
    placed = corner + mesh.shortest(mesh.points[mesh.triangles] - corner)
    flat = placed.reshape(-1, 2)
    made = []
    for shift in (0.0, 0.29, 0.37):  # corners of one node may stand on both sides of where numbers are rounded up
        key = np.round(flat / (1e-6 * np.ptp(mesh.points)) + shift).astype(np.int64)
        made.append(np.unique(key, axis=0, return_index=True, return_inverse=True)[1:])
    first, index = min(made, key=lambda found: len(found[0]))
    return flat[first], index.reshape(-1, 3), mesh.triangles.ravel()[first]


Blocks = list[tuple[str, np.ndarray]]


def _cells(mesh: Mesh) -> Blocks:
    """Return the triangles, and the edges of all groups one after the other."""
    lines = np.concatenate([np.zeros((0, 2), np.int64), *mesh.groups.values()])
    return [("triangle", mesh.triangles), *([("line", lines)] if len(lines) else [])]


def _physical(triangles: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return gmsh's physical groups: each part is one of dimension 1, the domain one of dimension 2."""
    domain = "domain"
    while domain in groups:
        domain += "_"
    names = {name: np.array([k, 1]) for k, name in enumerate(groups, 1)} | {domain: np.array([1, 2])}
    sizes = [len(own) for own in groups.values()]
    tags = [np.ones(len(triangles), np.int32)]
    tags += [np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes)] if sum(sizes) else []
    return {"field_data": names, "cell_data": {"gmsh:physical": tags, "gmsh:geometrical": tags}}


def _flags(mesh: Mesh) -> dict[str, list[np.ndarray]]:
    """Return the arrays `group:NAME` of the parts."""
    lines, data, start = sum(map(len, mesh.groups.values())), {}, 0
    for name, own in mesh.groups.items():
        flag = np.zeros(lines, np.int32)
        flag[start : start + len(own)] = 1
        start += len(own)
        data[MARK + name] = [np.zeros(len(mesh.triangles), np.int32), *([flag] if lines else [])]
    return data


def write_mesh(path: Path, mesh: Mesh, fields: Mapping[str, np.ndarray] | None = None) -> Path:
    """Write a mesh with its boundary parts and fields on nodes; a periodic one is cut open, its parts unnamed.

    The parts are physical groups in `.msh` and arrays of cell data in `.vtu` and `.vtk`.

    Raises:
        UsageError: the ending is unknown, or a name cannot be written in that format.
    """
    import meshio

    kind, points, triangles, index = _format(path), *unfolded(mesh)
    values = {k: v[index] for k, v in (fields or {}).items()}
    for name in (*mesh.groups, *values):
        if bad := [c for c in name if c in UNSAID[path.suffix]]:
            able = [ending for ending, not_there in UNSAID.items() if not set(name) & set(not_there)]
            hint = "write " + " or ".join(able) if able else "rename it"
            raise UsageError(f"{path.suffix} cannot hold a name with {bad[0]!r}", field="name", value=name, hint=hint)
    closed = any(mesh.period)
    cells = [("triangle", triangles)] if closed else _cells(mesh)
    data: dict[str, Any] = {} if closed else {"cell_data": _flags(mesh)}
    if kind == "gmsh22":
        data = _physical(triangles, {} if closed else mesh.groups)
    flat = np.column_stack([points, np.zeros(len(points))])
    part = path.with_name(f".part-{path.name}")
    try:
        made: Any = meshio.Mesh(flat, cells, point_data=values, **data)  # type: ignore[arg-type]
        made.write(part, file_format=kind)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _format(path: Path) -> str:
    known = {".vtu": "vtu", ".vtk": "vtk", ".msh": "gmsh22"}
    if path.suffix not in known:
        raise UsageError("cannot write a mesh of this format", field="out", value=str(path), choices=known)
    return known[path.suffix]


def write_series(path: Path, mesh: Mesh, times: np.ndarray, fields: Mapping[str, np.ndarray]) -> Path:
    """Write a time series: `.xdmf` (with `.h5` beside it), `.pvd` (with a folder of `.vtu`) or `.npz`.

    Args:
        path: the file; its ending is the format.
        mesh: the mesh.
        times: [T].
        fields: name -> [T, N], or [T, N, 2] for vectors.
    """
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    {".xdmf": _xdmf, ".pvd": _pvd, ".npz": _npz}[path.suffix](path, mesh, np.asarray(times), fields)
    return path


def _npz(path: Path, mesh: Mesh, times: np.ndarray, fields: Mapping[str, np.ndarray]) -> None:
    part = path.with_name(f".part-{path.name}")
    with part.open("wb") as file:
        own = {"points": mesh.points, "triangles": mesh.triangles, "period": np.array(mesh.period), "times": times}
        own |= {f"{MARK}{k}": v for k, v in mesh.groups.items()} | dict(fields)
        np.savez_compressed(file, **own)  # type: ignore[arg-type]
    os.replace(part, path)


def _pvd(path: Path, mesh: Mesh, times: np.ndarray, fields: Mapping[str, np.ndarray]) -> None:
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    root = ET.Element("VTKFile", type="Collection", version="0.1")
    collection = ET.SubElement(root, "Collection")
    for k, t in enumerate(times):
        name = f"{path.stem}_{k:05d}.vtu"
        write_mesh(folder / name, mesh, {n: _spatial(v[k]) for n, v in fields.items()})
        ET.SubElement(collection, "DataSet", timestep=repr(float(t)), file=f"{folder.name}/{name}")
    ET.ElementTree(root).write(path, xml_declaration=True)


def _spatial(values: np.ndarray) -> np.ndarray:
    """Give vectors their third component, which ParaView wants."""
    return np.column_stack([values, np.zeros(len(values))]) if values.ndim == 2 and values.shape[1] == 2 else values


def _xdmf(path: Path, mesh: Mesh, times: np.ndarray, fields: Mapping[str, np.ndarray]) -> None:
    """Write XDMF 3 with one grid for each time; the arrays lie in HDF5 beside it."""
    import h5py

    points, triangles, index = unfolded(mesh)
    store = path.with_suffix(".h5")
    root = ET.Element("Xdmf", Version="3.0")
    series = ET.SubElement(ET.SubElement(root, "Domain"), "Grid", Name="series", GridType="Collection",
                           CollectionType="Temporal")  # fmt: skip
    part = store.with_name(f".part-{store.name}")
    with h5py.File(part, "w") as file:
        file["points"], file["triangles"], file["times"] = points, triangles, times
        for k, t in enumerate(times):
            grid = ET.SubElement(series, "Grid", Name="mesh", GridType="Uniform")
            ET.SubElement(grid, "Time", Value=repr(float(t)))
            shape = ET.SubElement(grid, "Topology", TopologyType="Triangle", NumberOfElements=str(len(triangles)))
            _item(shape, store, "triangles", triangles)
            _item(ET.SubElement(grid, "Geometry", GeometryType="XY"), store, "points", points)
            for name, values in fields.items():
                value = _spatial(np.asarray(values[k])[index]).astype(np.float32)
                file[f"{name}/{k}"] = value
                kind = "Scalar" if value.ndim == 1 else "Vector"
                own = ET.SubElement(grid, "Attribute", Name=name, AttributeType=kind, Center="Node")
                _item(own, store, f"{name}/{k}", value)
    os.replace(part, store)
    ET.ElementTree(root).write(path, xml_declaration=True)


def _item(parent: ET.Element, store: Path, name: str, value: np.ndarray) -> None:
    kind = "Int" if value.dtype.kind in "iu" else "Float"
    item = ET.SubElement(parent, "DataItem", Dimensions=" ".join(map(str, value.shape)), NumberType=kind,
                         Precision=str(value.dtype.itemsize), Format="HDF")  # fmt: skip
    item.text = f"{store.name}:/{name}"
