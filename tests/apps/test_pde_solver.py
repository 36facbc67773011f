"""Solvers of truth: curved elements, resumed flows, cells against their limit, values coupled through boundary rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apps.pde import fem, flow, shapes
from apps.pde.boundary import Padding, read_conditions
from apps.pde.cells import Cells, limit, random_start
from apps.pde.expressions import Expression, Scene
from apps.pde.mesh import Mesh, fold
from apps.pde.operators import Operators
from apps.pde.systems import system
from apps.pde.truth import _onto
from benchmarks import pde_solver
from core.errors import DataError, UsageError

CURVE = {f"cell_{k + 1}": _onto(c, shapes.CELL) for k, c in enumerate(shapes.CENTRES)}


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return shapes.make("cells", 220)


def test_bent_edges_make_round_holes_round(mesh: Mesh) -> None:
    exact = 1 - 4 * np.pi * shapes.CELL**2
    straight, bent = (fem.spaces(mesh, (2,), 0, c)[0][0].mass.sum() for c in ({}, CURVE))
    assert abs(bent - exact) < 0.02 * abs(straight - exact)


def test_a_flow_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = flow.Flow(shapes.make("channel", 120), 0.02, lambda p, t: np.stack([np.full(len(p), t), 0 * p[:, 0]], 1),
                    curve={"cylinder": _onto((5, 4), 1.0)})  # fmt: skip
    whole = own.run(0.4, 0.02, every=0.1)
    advance, state = flow.Flow._advance, tmp_path / "state.npz"

    def failing(self, s, n, dt, solvers):  # noqa: ANN001, ANN202
        if n == 13 and not failing.done:  # type: ignore[attr-defined]
            failing.done = True  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return advance(self, s, n, dt, solvers)

    failing.done = False  # type: ignore[attr-defined]
    monkeypatch.setattr(flow, "REST", 0.0)
    monkeypatch.setattr(flow.Flow, "_advance", failing)
    with pytest.raises(KeyboardInterrupt):
        own.run(0.4, 0.02, every=0.1, state=state)
    twin = own.run(0.4, 0.02, every=0.1, state=state)
    for name in ("times", "velocity", "pressure", "clock", "force"):
        assert np.array_equal(getattr(twin, name), getattr(whole, name)), name
    with pytest.raises(DataError, match="is of another run"):
        own.run(0.5, 0.02, every=0.1, state=state)
    state.write_bytes(b"nothing")
    with pytest.raises(DataError, match="is damaged"):
        own.run(0.4, 0.02, every=0.1, state=state)


def test_cells_reach_the_limit_of_fast_diffusion(mesh: Mesh) -> None:
    start, times, errors = random_start(4, 0), np.arange(6.0), []
    for D in (2.0, 20.0, 2000.0):
        cells = Cells(mesh, {**system("cells").parameters, "D": D}, 0, CURVE)
        got = cells.run(start, 0.01, 500, 100)
        want = limit(cells, start, times)
        values = np.stack([got[:, mesh.nodes(name)[0], 1] for name in cells.names], 1)
        errors.append(np.abs(values - want[:, 1:5]).max())
    assert errors[0] > 4 * errors[1] and errors[2] < 0.015 and np.ptp(want[:, 1:5]) > 0.5
    assert np.abs(got[1:, :, 0] - want[1:, :1]).max() < 0.01  # u is one number


def test_cells_converge_in_time(mesh: Mesh) -> None:
    cells, p = Cells(mesh, system("cells").parameters, 0, CURVE), system("cells").parameters
    start = np.tile([1.0, 0.5], (4, 1))  # with a level at which no flux jumps at the start
    ends = [cells.run(start, 2.0 / n, n, n, level=p["d2"] / p["d1"])[-1] for n in (50, 100, 200)]
    first, second = (np.abs(a - b).max() for a, b in zip(ends, ends[1:], strict=False))
    assert first / second > 2.4  # 4 for order 2, less what the first step, of order 1, leaves


def test_a_row_reads_another_field_and_terms_know_parts(mesh: Mesh) -> None:
    own = system("cells")
    conditions = read_conditions(mesh, own.boundary, own.fields, tuple(own.parameters))
    operators = Operators(mesh, "least_squares")
    pad = Padding(mesh, conditions, own.fields, operators.stencils, own.parameters).double()
    u = torch.rand(1, len(mesh), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = {k: torch.tensor(v) for k, v in own.parameters.items()}
    out = pad(u, 0.0, given)
    dx, dy, _ = operators.double()(out)
    for name in ("cell_1", "cell_3"):
        at, p = mesh.nodes(name), own.parameters
        n = torch.from_numpy(mesh.normals_of(name)[at])
        slope = n[:, 0] * dx[0, at, 0] + n[:, 1] * dy[0, at, 0]
        left = p["d1"] * out[0, at, 0] + p["eps"] * p["D"] * slope
        assert torch.allclose(left, p["d2"] * out[0, at, 1], atol=1e-9)
    scene = Scene.of(own.fields, u, torch.from_numpy(mesh.points), 0.0, given, operators)
    mean = Expression("part(cell, u)", own.fields)(scene)[0]
    at = mesh.nodes("cell_2")
    assert float(mean[at].std()) < 1e-12 and u[0, at, 0].min() < mean[at[0]] < u[0, at, 0].max()
    assert not mean[
        np.setdiff1d(np.arange(len(mesh)), np.concatenate([mesh.nodes(f"cell_{k}") for k in range(1, 5)]))
    ].any()
    with pytest.raises(UsageError, match="no boundary part begins so"):
        Expression("part(sell, u)", own.fields)(scene)
    with pytest.raises(UsageError, match="unknown name"):  # coefficients must not depend on the state
        read_conditions(mesh, {**own.boundary, "left": "robin(v, 1, 0); free; free"}, own.fields, tuple(own.parameters))


def test_a_model_is_validated_against_a_new_solve() -> None:
    from apps import pde
    from apps.pde.data import splits
    from apps.pde.reports import compare

    found = compare(pde.load("toy"), 1)
    d = found.model.recipe
    assert np.array_equal(found.orbit.states, splits(d.data, d.seed).test.states[1])
    figures = found.figures()
    assert figures["boundary_error"] == 0 and figures["mse"] < 1e-4 and figures["model_seconds"] > 0
    assert found.table()[0][1:] == [0.0, pytest.approx(1.0), pytest.approx(1.0)]
    with pytest.raises(UsageError, match="the test part has"):
        compare(found.model, 99)


def test_three_meshes_give_order_and_limit() -> None:
    sizes = [1.0, 0.75, 0.5]
    found = pde_solver.limit(sizes, [2 + 3 * h**3.3 for h in sizes])
    assert found["order"] == pytest.approx(3.3) and found["value"] == pytest.approx(2.0)
    assert np.isnan(pde_solver.limit(sizes, [1.0, 2.0, 1.0])["value"])


def test_unknowns_of_a_seam_are_one_wherever_they_are_rounded() -> None:
    rng, n = np.random.default_rng(32), 20
    y = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(y, y, indexing="ij"), -1)
    points[1:-1, 1:-1] += 0.004 * rng.standard_normal((n - 1, n - 1, 2))
    y[1:-1] += 0.004 * rng.standard_normal(n - 1)
    y[1:-1] = np.round(y[1:-1] / 2e-6) * 2e-6 + 0.9e-6  # where the key of the unknowns turns
    points[[0, -1], :, 1] = y
    points[:, [0, -1], 0] = y[:, None]
    i = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = (k.ravel() for k in (i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]))
    cells = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    mesh = fold(Mesh(points.reshape(-1, 2).round(7), cells), (1.0, 1.0))[0]
    for degree, count in ((1, len(mesh)), (2, len(mesh) + len(mesh.edges))):
        assert len(fem.spaces(mesh, (degree,))[0][0]) == count
