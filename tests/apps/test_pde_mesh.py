"""Meshes: what is refused, named parts through files, periodic sides, series for ParaView."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from apps.pde import formats, shapes
from apps.pde.mesh import Mesh, fold
from core.errors import DataError, UsageError

SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
TWO = np.array([[0, 1, 2], [0, 2, 3]])
SIDES = {"wall": np.array([[0, 1], [1, 2], [2, 3]]), "open": np.array([[3, 0]])}

MSH = """$MeshFormat
2.2 0 8
$EndMeshFormat
$PhysicalNames
3
1 1 "wall"
1 2 "open"
2 3 "domain"
$EndPhysicalNames
$Nodes
4
1 0 0 0
2 1 0 0
3 1 1 0
4 0 1 0
$EndNodes
$Elements
6
1 1 2 1 1 1 2
2 1 2 1 1 2 3
3 1 2 1 1 3 4
4 1 2 2 2 4 1
5 2 2 3 1 1 2 3
6 2 2 3 1 1 3 4
$EndElements
"""


@pytest.mark.parametrize(
    ("points", "triangles", "groups", "line"),
    [
        (np.vstack([SQUARE, [[5, 5]]]), TWO, {}, "1 free nodes belong to no triangle, the first at (5.0, 5.0)"),
        (SQUARE, np.array([[0, 1, 2], [0, 3, 2]]), {}, "1 inverted triangles, the first at (0.0, 0.0)"),
        (np.vstack([SQUARE, [[0.5, 0.5]]]), np.vstack([TWO, [[0, 4, 2]]]), {}, "1 degenerate triangles"),
        (SQUARE, TWO, {"wall": SIDES["wall"]}, "1 boundary edges belong to no group, one at (0.0, 0.5)"),
        (SQUARE, TWO, {**SIDES, "odd": np.array([[0, 2]])}, "1 edges of the group are not on the boundary"),
        (SQUARE, np.array([[0, 1, 9]]), {}, "nodes that do not exist"),
    ],
)
def test_bad_meshes_are_refused_in_one_line(points, triangles, groups, line: str) -> None:  # noqa: ANN001
    with pytest.raises(DataError) as caught:
        Mesh(points, triangles, groups, tagged=True)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_areas_normals_and_quality() -> None:
    mesh = Mesh(SQUARE, TWO[:, ::-1], SIDES, tagged=True)  # clockwise: turned
    assert (mesh.signed_area > 0).all() and mesh.node_area.sum() == pytest.approx(1)
    assert np.allclose(mesh.normals[0], -np.sqrt(0.5)) and np.allclose(mesh.normals_of("open")[0], [-1, 0])
    assert mesh.quality().min_angle == pytest.approx(45) and mesh.quality().obtuse == 0
    with pytest.raises(UsageError, match="did you mean 'wall'"):
        mesh.nodes("walls")


def test_gmsh_groups_become_parts(tmp_path: Path) -> None:
    path = tmp_path / "square.msh"
    path.write_text(MSH)
    mesh = formats.read_mesh(path)
    assert {k: len(v) for k, v in mesh.groups.items()} == {"wall": 3, "open": 1}
    path.write_text(MSH.replace("4 1 2 2 2 4 1\n", "").replace("$Elements\n6", "$Elements\n5"))
    with pytest.raises(DataError, match="belong to no group"):
        formats.read_mesh(path)
    path.write_text("nothing")
    with pytest.raises(DataError, match="cannot be read|not a mesh"):
        formats.read_mesh(path)


MSH4 = """$MeshFormat
4.1 0 8
$EndMeshFormat
$PhysicalNames
3
1 1 "wall"
1 2 "open"
2 3 "domain"
$EndPhysicalNames
$Entities
0 2 1 0
1 0 0 0 1 1 0 TAGS 0
2 0 0 0 0 1 0 1 2 0
1 0 0 0 1 1 0 1 3 2 1 2
$EndEntities
$Nodes
1 4 1 4
2 1 0 4
1
2
3
4
0 0 0
1 0 0
1 1 0
0 1 0
$EndNodes
$Elements
3 6 1 6
1 1 1 3
1 1 2
2 2 3
3 3 4
1 2 1 1
4 4 1
2 1 2 2
5 1 2 3
6 1 3 4
$EndElements
"""


def test_curves_of_gmsh_that_run_the_other_way_or_have_several_groups_keep_them(tmp_path: Path) -> None:
    path = tmp_path / "square.msh"
    for tags, want in (("1 1", 1), ("1 -1", 1), ("2 1 2", 4), ("2 2 1", 4)):
        path.write_text(MSH4.replace("TAGS", tags))
        found = {k: len(v) for k, v in formats.read_mesh(path).groups.items()}
        assert found == {"wall": 3, "open": want}
    path.write_text(MSH4.replace("TAGS", "0"))
    with pytest.raises(DataError, match="some of its curves or surfaces have no physical group; .*give each one"):
        formats.read_mesh(path)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_places_and_flat_triangles_are_told_in_any_units(unit: float) -> None:
    with pytest.raises(DataError) as caught:
        Mesh(SQUARE * unit, TWO, {}, tagged=True)
    assert f"one at ({0.5 * unit}, 0.0)" in str(caught.value)
    points = np.concatenate([SQUARE, [[2e6, 0.5]]]) * unit  # a triangle of a mesh that is far larger elsewhere
    long = np.array([[0, 1, 2], [0, 2, 3], [1, 4, 2]])
    assert len(Mesh(points, long)) == 5
    with pytest.raises(DataError, match="1 degenerate triangles without area"):
        Mesh(np.concatenate([SQUARE, [[2, 1 + 1e-12]]]) * unit, np.array([[0, 1, 2], [0, 2, 3], [3, 4, 2]]))


@pytest.mark.parametrize("ending", [".vtu", ".msh"])
def test_names_survive_files(tmp_path: Path, ending: str) -> None:
    mesh = Mesh(SQUARE, TWO, SIDES, tagged=True)
    path = formats.write_mesh(tmp_path / f"m{ending}", mesh, {"T": np.arange(4.0)})
    twin = formats.read_mesh(path)
    assert np.allclose(twin.points, mesh.points) and np.array_equal(twin.triangles, mesh.triangles)
    assert {k: sorted(map(sorted, v.tolist())) for k, v in twin.groups.items()} == {
        k: sorted(map(sorted, v.tolist())) for k, v in mesh.groups.items()}  # fmt: skip


INP = """*HEADING
*NODE
1, 0, 0, 0
2, 1, 0, 0
3, 1, 1, 0
4, 0, 1, 0
*ELEMENT, TYPE=CPS3, ELSET=domain
1, 1, 2, 3
2, 1, 3, 4
*ELEMENT, TYPE=T3D2, ELSET=wall
3, 1, 2
4, 2, 3
5, 3, 4
*ELEMENT, TYPE=T3D2, ELSET=open
6, 4, 1
"""


def test_sets_of_edges_are_parts(tmp_path: Path) -> None:
    path = tmp_path / "square.inp"
    path.write_text(INP)
    mesh = formats.read_mesh(path)
    assert {k: len(v) for k, v in mesh.groups.items()} == {"wall": 3, "open": 1}
    path.write_text(INP.replace("*ELEMENT, TYPE=T3D2, ELSET=open\n6, 4, 1\n", ""))
    with pytest.raises(DataError, match=r"1 boundary edges belong to no group, one at .*; name them"):
        formats.read_mesh(path)


@pytest.mark.skipif(not find_spec("gmsh"), reason="gmsh is an extra")
def test_gmshs_own_files_are_read() -> None:
    from benchmarks._meshes import cavity, dfg, torus

    assert set(cavity(6).groups) == {"left", "right", "bottom", "top"}
    mesh = dfg(0.02, 0.06, 0.1)
    assert mesh.nodes("cylinder").size > 12 and set(mesh.groups) == {"left", "right", "bottom", "top", "cylinder"}
    assert all(np.allclose(mesh.points[mesh.locate(p)], p, atol=1e-12) for p in ((0.15, 0.2), (0.25, 0.2)))
    assert len(torus(120).boundary) == 0


def test_opposite_sides_become_one() -> None:
    n = 5
    x = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    at = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = at[:-1, :-1].ravel(), at[1:, :-1].ravel(), at[1:, 1:].ravel(), at[:-1, 1:].ravel()
    flat = Mesh(points, np.vstack([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]))
    mesh, index = fold(flat, (1.0, 1.0))
    assert len(mesh) == n * n and len(mesh.boundary) == 0 and mesh.node_area.sum() == pytest.approx(1)
    assert index[at[0, 2]] == index[at[n, 2]]
    shifted = points.copy()
    shifted[at[n, 2], 1] += 0.02
    with pytest.raises(DataError, match="have no partner"):
        fold(Mesh(shifted, flat.triangles), (1.0, 1.0))
    opened, triangles, back = formats.unfolded(mesh)
    assert np.allclose(mesh.points[back] % 1, opened % 1 % 1, atol=1e-9) and len(triangles) == len(mesh.triangles)


def test_series_are_read_back(tmp_path: Path) -> None:
    import meshio

    mesh = Mesh(SQUARE, TWO, SIDES)
    times = np.array([0.0, 0.5, 1.25])
    u = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    path = formats.write_series(tmp_path / "a" / "run.xdmf", mesh, times, {"u": u})
    assert path.with_suffix(".h5").is_file() and not list(tmp_path.rglob(".part*"))
    with meshio.xdmf.TimeSeriesReader(str(path)) as reader:
        # meshio looks for the mesh in a shared grid; ours stands in each time's, as ParaView reads it
        assert reader.num_steps == 3
    import h5py

    with h5py.File(path.with_suffix(".h5")) as store:
        assert np.array_equal(store["u/2"][:], u[2]) and np.array_equal(store["times"][:], times)
    path = formats.write_series(tmp_path / "run.pvd", mesh, times, {"u": u})
    assert np.allclose(meshio.read(tmp_path / "run" / "run_00001.vtu").point_data["u"], u[1])
    assert path.read_text().count("timestep") == 3
    with pytest.raises(UsageError, match="did you mean '.xdmf'"):
        formats.check_format(Path("x.xdm"))


def test_shapes_have_their_parts_and_areas() -> None:
    hole = shapes.make("hole", 120)
    assert set(hole.groups) == {"hole"} and hole.node_area.sum() == pytest.approx(1 - np.pi * 0.15**2, abs=0.02)
    on = hole.points[hole.nodes("hole")]
    assert np.allclose(np.hypot(*(on - 0.5).T), 0.15, atol=1e-6)
    assert hole.quality().min_angle > 8
    with pytest.raises(UsageError, match="did you mean 'square'"):
        shapes.make("sqare", 100)


def test_gmsh_files_hold_physical_groups(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import meshio

    mesh = shapes.make("channel", 120)
    path = formats.write_mesh(tmp_path / "channel.msh", mesh, {"T": mesh.points[:, 0]})
    found, twin = meshio.read(path), formats.read_mesh(path)
    assert {k: tuple(v.tolist()) for k, v in found.field_data.items()} == {
        **{name: (k, 1) for k, name in enumerate(mesh.groups, 1)}, "domain": (1, 2)}  # fmt: skip
    assert np.array_equal(twin.points, mesh.points) and np.array_equal(found.point_data["T"], mesh.points[:, 0])
    assert all(np.array_equal(twin.groups[k], v) for k, v in mesh.groups.items())
    torus = shapes.jittered(6)
    capfd.readouterr()
    formats.write_mesh(tmp_path / "torus.msh", torus)
    assert len(formats.read_mesh(tmp_path / "torus.msh", tagged=False).triangles) == len(torus.triangles)
    assert capfd.readouterr() == ("", "")  # meshio has nothing to add
    own = Mesh(SQUARE, TWO, {"domain": SIDES["wall"], "outer wall": SIDES["open"]})
    assert set(formats.read_mesh(formats.write_mesh(tmp_path / "own.msh", own)).groups) == {"domain", "outer wall"}


def test_names_that_a_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    for name, ending, able in (("outer wall", ".vtk", ".vtu"), ('"outer"', ".msh", ".vtk"), ("a<b", ".vtu", ".msh")):
        mesh = Mesh(SQUARE, TWO, {"in": SIDES["wall"], name: SIDES["open"]})
        with pytest.raises(UsageError, match=rf"name: \{ending} cannot hold a name with .*; write .*\{able}"):
            formats.write_mesh(tmp_path / f"m{ending}", mesh)
        twin = formats.read_mesh(formats.write_mesh(tmp_path / f"x{able}", mesh))
        assert set(twin.groups) == set(mesh.groups) and not list(tmp_path.glob("*m.*"))
    with pytest.raises(UsageError, match="cannot hold"):
        formats.write_mesh(tmp_path / "m.vtk", Mesh(SQUARE, TWO, SIDES), {"u std": np.zeros(4)})


@pytest.mark.parametrize(("out", "neighbour"), [
    ("fields.pvd", "fields"), ("fields.pvd", "fields/fields_00001.vtu"), ("keep.xdmf", "keep.h5"),
    ("folder.npz", "folder.npz/x"), ("file/run.npz", "file"),
])  # fmt: skip
def test_what_is_no_part_of_a_series_is_not_written_over(tmp_path: Path, out: str, neighbour: str) -> None:
    there = tmp_path / neighbour
    there.parent.mkdir(exist_ok=True)
    there.write_text("mine")
    with pytest.raises(UsageError, match=r"^out: ") as caught:
        formats.write_series(tmp_path / out, Mesh(SQUARE, TWO), np.zeros(1), {"u": np.zeros((1, 4))})
    assert "\n" not in str(caught.value) and there.read_text() == "mine"


@pytest.mark.parametrize("ending", [".xdmf", ".pvd", ".npz"])
def test_a_series_may_be_written_again(tmp_path: Path, ending: str) -> None:
    (tmp_path / "run").mkdir()  # a folder that holds nothing of that name is free
    for _ in range(2):
        path = formats.write_series(tmp_path / f"run{ending}", Mesh(SQUARE, TWO), np.zeros(1), {"u": np.ones((1, 4))})
    assert path.is_file()


def test_arrays_of_a_series_hold_its_whole_mesh(tmp_path: Path) -> None:
    hole = shapes.make("hole", 80)
    path = tmp_path / "own.npz"
    formats.write_series(path, hole, np.arange(2), {"u": np.zeros((2, len(hole)))})
    with np.load(path) as found:
        assert found["period"].tolist() == [1, 1] and np.array_equal(found["group:hole"], hole.groups["hole"])


@pytest.mark.parametrize("seed", range(4))
def test_a_seam_is_cut_without_cracks_wherever_nodes_are_rounded(seed: int) -> None:
    n, rng = 20, np.random.default_rng(seed)
    x = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(x, x, indexing="ij"), -1)
    points[1:-1, 1:-1] += 0.004 * rng.standard_normal((n - 1, n - 1, 2))
    points[1:-1, 1:-1] = points[1:-1, 1:-1].round(6) + 5e-7
    i = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = (k.ravel() for k in (i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]))
    cells = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    mesh = fold(Mesh(points.reshape(-1, 2), cells), (1.0, 0.0))[0]
    assert len(mesh) == n * (n + 1) and len(formats.unfolded(mesh)[0]) == (n + 1) ** 2
