"""Operators: orders of convergence, boundary rows, exact moments, parameters of the paper's blocks, text terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from apps.pde import shapes, stencils
from apps.pde.boundary import Padding, read_conditions
from apps.pde.dynamics import Dynamics
from apps.pde.expressions import Expression, Scene
from apps.pde.laplacian import LaplaceBlock, cotangent, voronoi
from apps.pde.mesh import Mesh
from apps.pde.model import ModelConfig
from apps.pde.operators import FAMILIES, Correction, Operators, SparseMap
from apps.pde.systems import system
from core.errors import DataError, UsageError

TAU = 2 * np.pi


def field(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A periodic function, its Laplacian and its x-derivative."""
    x, y = TAU * p.T
    value = np.sin(x) * np.cos(2 * y) + np.cos(x + y)
    return value, -(TAU**2) * (5 * np.sin(x) * np.cos(2 * y) + 2 * np.cos(x + y)), TAU * (
        np.cos(x) * np.cos(2 * y) - np.sin(x + y))  # fmt: skip


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize(("family", "least"), [("least_squares", 1.9), ("rbf", 2.7)])
def test_order_on_obtuse_meshes(family: str, least: float) -> None:
    errors = []
    for n in (20, 40) if family == "least_squares" else (14, 28):
        mesh = shapes.jittered(n)
        assert mesh.quality().obtuse > 0.15
        u, lap, dx = field(mesh.points)
        made = stencils.rbf(mesh) if family == "rbf" else stencils.least_squares(mesh)
        errors.append((relative(made.matrix("lap") @ u, lap), relative(made.matrix("dx") @ u, dx)))
    orders = np.log2(np.array(errors[0]) / errors[1])
    assert orders[0] >= least and orders[1] >= least


def test_the_cotangent_operator_is_the_weak_laplacian() -> None:
    mesh = shapes.jittered(12)
    L, area = cotangent(mesh), voronoi(mesh)
    assert area.sum() == pytest.approx(1) and voronoi(mesh, "released").sum() > 1.01
    u, _, _ = field(mesh.points)
    assert np.abs(L @ np.ones(len(mesh))).max() < 1e-9
    K = np.diag(area) @ L.toarray()
    assert np.allclose(K, K.T) and u @ K @ u < 0


def test_polynomials_are_exact_also_at_boundaries() -> None:
    mesh = shapes.relaxed(shapes.Box(1, 1), 0.16, {}, rounds=10)
    x, y = mesh.points.T
    made = stencils.rbf(mesh, names=("dx", "dy", "lap", "dxx", "dxy", "dyy"))
    u = x**3 * y - 2 * x * y**2 + y**4
    exact = {"dx": 3 * x**2 * y - 2 * y**2, "dy": x**3 - 4 * x * y + 4 * y**3, "dxx": 6 * x * y,
             "dxy": 3 * x**2 - 4 * y, "dyy": -4 * x + 12 * y**2}  # fmt: skip
    exact["lap"] = exact["dxx"] + exact["dyy"]
    for name, value in exact.items():
        assert np.abs(made.matrix(name) @ u - value).max() < 1e-6, name


def test_a_correction_keeps_every_moment() -> None:
    mesh = shapes.jittered(9)
    made = stencils.least_squares(mesh)
    more = Correction(mesh, made, ("dx", "lap"), degree=2)
    for p in more.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    delta = more.delta().detach().numpy()
    assert np.abs(delta).max() > 1
    offset = mesh.shortest(mesh.points[made.index] - mesh.points[made.index[:, :1]])
    for a, b in stencils.exponents(2):
        moment = np.einsum("nk,nko->no", offset[..., 0] ** a * offset[..., 1] ** b, delta)
        assert np.abs(moment).max() < 1e-10 * np.abs(delta).max()


def test_fitted_stencils_beat_their_start_on_new_functions() -> None:
    mesh, rng = shapes.jittered(12), np.random.default_rng(0)
    k = np.array([(i, j) for i in range(-3, 4) for j in range(-3, 4)])
    wave = np.exp(1j * TAU * mesh.points @ k.T)
    a = rng.standard_normal((400, len(k)))
    u, lap = (a @ wave.T).real, -((a * TAU**2 * (k**2).sum(1)) @ wave.T).real
    base = stencils.rbf(mesh, 19, 3, 3)
    made = stencils.fitted(mesh, base, "lap", u[:300], lap[:300])
    before, after = (relative((s.matrix("lap") @ u[300:].T).T, lap[300:]) for s in (base, made))
    assert after < 0.5 * before
    assert np.abs(made.matrix("lap") @ np.ones(len(mesh))).max() < 1e-6


@pytest.mark.parametrize("kind", ["dirichlet", "neumann", "robin"])
def test_boundary_rows_have_full_order(kind: str) -> None:
    errors = [poisson(1 / n, kind) for n in (8, 20)]
    assert np.log(errors[0] / errors[1]) / np.log(2.5) >= 1.8


def poisson(h: float, kind: str) -> float:
    """Return the relative error, boundary rows included, of lap u = f with u = sin(2x) e^y known at the boundary."""
    mesh = shapes.relaxed(shapes.Box(1, 1), h, {}, rounds=10, scatter=0.2)
    g, gx = "sin(2*x)*exp(y)", "2*cos(2*x)*exp(y)"
    rows = {
        "dirichlet": dict.fromkeys(("left", "right", "bottom", "top"), f"dirichlet({g})"),
        "neumann": {"left": f"dirichlet({g})", "right": f"neumann({gx})", "bottom": f"neumann(-{g})",
                    "top": f"neumann({g})"},
        "robin": {"left": f"robin(1, 0.5, {g} - 0.5*{gx})", "right": f"robin(2, 1, 2*{g} + {gx})",
                  "bottom": "robin(1, 1, 0)", "top": f"robin(1, 1, 2*{g})"},
    }[kind]  # fmt: skip
    operators = Operators(mesh, "least_squares")
    pad = Padding(mesh, read_conditions(mesh, rows, ["u"], []), ["u"], operators.stencils).double()
    n = len(mesh)
    zero = pad(torch.zeros(1, n, 1).double())[0, :, 0].numpy()
    P = pad(torch.eye(n).double()[..., None])[..., 0].numpy().T - zero[:, None]
    inside = np.setdiff1d(np.arange(n), mesh.boundary_nodes)
    L = operators.matrices["lap"]
    x, y = mesh.points.T
    exact = np.sin(2 * x) * np.exp(y)
    right = (-3 * exact - L @ zero)[inside]
    u = np.zeros(n)
    u[inside] = np.linalg.solve((L @ P)[np.ix_(inside, inside)], right)
    return relative(P @ u + zero, exact)


def test_variable_coefficients() -> None:
    errors = []
    for n in (12, 24):
        mesh = shapes.relaxed(shapes.Box(1, 1), 1 / n, {}, rounds=8)
        x, y = torch.from_numpy(mesh.points).T
        u, D = torch.sin(2 * x) * torch.exp(y), 1 + 4 * x + 5 * y
        got = Operators(mesh, "least_squares").diffuse(D[None, :, None], u[None, :, None])[0, :, 0]
        exact = D * -3 * u + 4 * 2 * torch.cos(2 * x) * torch.exp(y) + 5 * u
        errors.append(relative(got.numpy(), exact.numpy()))
    assert np.log2(errors[0] / errors[1]) >= 1.8


def test_sparse_maps_have_the_transposed_gradient() -> None:
    from scipy.sparse import random as scatter

    A = scatter(7, 5, 0.4, random_state=0)
    u = torch.randn(2, 5, 3, dtype=torch.float64).requires_grad_()
    own = SparseMap(A)
    assert torch.allclose(own(u), torch.einsum("mn,bnc->bmc", torch.from_numpy(A.toarray()), u))
    assert torch.autograd.gradcheck(own, (u,))


def test_the_laplace_block_has_the_papers_size() -> None:
    mesh = shapes.jittered(6)
    for width, count in ((16, 5602), (24, 12242)):
        block = LaplaceBlock(mesh, 2, width)
        assert sum(p.numel() for p in block.parameters()) == count
        u = torch.randn(1, len(mesh), 2)
        plain = torch.from_numpy(cotangent(mesh) @ u[0].double().numpy()).float()
        assert torch.allclose(block(u)[0], plain, rtol=1e-4, atol=1e-2)  # its correction starts at zero


def test_terms_are_read_and_mistakes_are_named() -> None:
    mesh = shapes.jittered(20)
    operators = Operators(mesh).double()
    p = torch.from_numpy(mesh.points)
    u = torch.stack([torch.sin(TAU * p[:, 0]), torch.cos(TAU * p[:, 1])], -1)[None]
    scene = Scene.of(("u", "v"), u, p, 0.5, {"nu": 0.1}, operators)
    text = "-u*dx(u) - v*dy(v)**2 + nu*lap(u) + exp(-t)*x + div(1 + 0*u, v) - lap(v)"
    got = Expression(text, ("u", "v", "nu"))(scene)
    ux, uv = TAU * torch.cos(TAU * p[:, 0]), u[0, :, 1]
    exact = (-u[0, :, 0] * ux - uv * (TAU * torch.sin(TAU * p[:, 1])) ** 2 - 0.1 * TAU**2 * u[0, :, 0]
             + np.exp(-0.5) * p[:, 0])  # fmt: skip
    assert relative(got[0].numpy(), exact.numpy()) < 2e-3
    for text, line in {
        "nu*lap(w)": "unknown name in 'nu*lap(w)'", "u**": "is not an expression", "().__class__": "cannot stand",
        "__import__('os')": "cannot stand", "lap(u, v)": "lap takes 1", "open(u)": "unknown function",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=line.replace("(", r"\(").replace(")", r"\)").replace("*", r"\*")):
            Expression(text, ("u", "v", "nu"))
    for text in ("-" * 3000 + "u", "+".join(["u"] * 5000)):
        with pytest.raises(UsageError, match="is not an expression .*nested"):
            Expression(text, ("u", "v", "nu"))
    long = Expression("+".join(["u"] * 300), ("u", "v", "nu"))
    assert torch.allclose(long(scene), 300 * u[..., 0])


def test_wrong_boundaries_are_one_line() -> None:
    mesh = shapes.make("hole", 80)
    for boundary, line in (
        ({}, "boundary part 'hole' has no condition"), ({"hole": "dirichlt(0)"}, "did you mean 'dirichlet'"),
        ({"hole": "dirichlet(0)", "inlet": "free"}, "no such boundary part"), ({"hole": "slip"}, "walls along x or y"),
        ({"hole": "robin(1, 2)"}, "robin takes 3"), ({"hole": "dirichlet(q)"}, "unknown name"),
    ):  # fmt: skip
        with pytest.raises((UsageError, DataError), match=line):
            read_conditions(mesh, boundary, ("u", "v"), ("nu",))


def test_stencils_that_determine_no_derivatives_are_refused() -> None:
    with pytest.raises(UsageError, match="degree 3 needs at least 10 neighbours; got 6"):
        Operators(shapes.jittered(8), "least_squares", k=6)
    x = np.arange(41.0)
    points = np.stack(np.meshgrid(x, x[:2], indexing="ij"), -1).reshape(-1, 2)  # two rows: no y^2
    a = 2 * np.arange(40)
    strip = Mesh(points, np.concatenate([np.stack([a, a + 2, a + 3], 1), np.stack([a, a + 3, a + 1], 1)]))
    for family in FAMILIES[:2]:
        with pytest.raises(DataError, match="has a stencil on which derivatives are not determined"):
            Operators(strip, family)
    slope = Operators(strip, "least_squares", degree=1)(torch.from_numpy(points)[None])
    assert np.allclose(slope[0][0], [1, 0]) and np.allclose(slope[1][0], [0, 1])


@pytest.mark.parametrize(("term", "want"), [
    ("dx(x*u)", lambda x, u, ux: u + x * ux), ("dx(dx(u))", lambda x, u, ux: -np.pi**2 * u),
    ("lap(u)", lambda x, u, ux: -np.pi**2 * u),
])  # fmt: skip
def test_terms_are_right_at_sides_without_flux(term: str, want: Callable[..., np.ndarray]) -> None:
    mesh = shapes.relaxed(shapes.Box(1, 1), 0.07, {}, rounds=20)
    own = replace(system("burgers"), boundary=dict.fromkeys(mesh.groups, "neumann(0)"))
    config = ModelConfig(kind="operators", knowledge="none", terms={"u": term, "v": "0"})
    x = mesh.points[:, 0]
    u, ux = np.cos(np.pi * x), -np.pi * np.sin(np.pi * x)
    rate = Dynamics(config, own, mesh, 0.01).rate(torch.from_numpy(np.stack([u, u], -1))[None], 0.0)
    assert relative(rate[0, :, 0].numpy(), want(x, u, ux)) < 0.01
