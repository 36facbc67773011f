"""Do the operators converge? Scattered nodes, obtuse meshes, every boundary row, variable coefficients, and the test of
the paper's table 1 (band-limited random functions at about 983 nodes), beside the cotangent operators.

`relaxed` meshes are what a mesher makes (few obtuse triangles), `jittered` ones are lattices moved by a quarter of
their spacing (about a quarter of the triangles obtuse).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from apps.pde import shapes, stencils
from apps.pde.boundary import Padding, read_conditions
from apps.pde.laplacian import cotangent
from apps.pde.mesh import Mesh
from apps.pde.operators import Operators
from benchmarks.harness import Bar, Result

__all__ = ["run"]

TAU = 2 * np.pi
KINDS = ("dirichlet", "neumann", "robin")


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Return |a - b| / |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def order(meshes: list[Mesh], errors: list[float]) -> float:
    """Return the order of the last refinement, in the mean spacing 1 / sqrt N."""
    ratio = np.sqrt(len(meshes[-1]) / len(meshes[-2]))
    return float(np.log(errors[-2] / errors[-1]) / np.log(ratio))


def smooth(mesh: Mesh, build: Callable[[Mesh], object]) -> float:
    """Return the relative error of a Laplacian on a smooth periodic function."""
    x, y = TAU * mesh.points.T
    u = np.sin(x) * np.cos(2 * y) + np.cos(x + y)
    lap = -(TAU**2) * (5 * np.sin(x) * np.cos(2 * y) + 2 * np.cos(x + y))
    return relative(build(mesh) @ u, lap)  # type: ignore[operator]


BUILD = {
    "least_squares": lambda m: stencils.least_squares(m, names=("lap",)).matrix("lap"),
    "rbf": lambda m: stencils.rbf(m, names=("lap",)).matrix("lap"),
    "cotangent_mixed": lambda m: cotangent(m),
    "released": lambda m: cotangent(m, "released"),
}


def table_one() -> dict[str, float]:
    """Return relative errors in the paper's setting: 12 waves each way, 40 test functions, 700 others to fit on."""
    mesh = shapes.square(983, seed=1)
    rng = np.random.default_rng(0)
    k = np.arange(13) - 6
    k = np.stack(np.meshgrid(k, k, indexing="ij"), -1).reshape(-1, 2)
    wave = np.exp(1j * TAU * mesh.points @ k.T)
    a = rng.standard_normal((740, len(k))) - 1j * rng.standard_normal((740, len(k)))
    u, lap = (a @ wave.T).real, -((a * TAU**2 * (k**2).sum(1)) @ wave.T).real
    test, fit = slice(0, 40), slice(40, None)

    def error(L) -> float:  # noqa: ANN001
        return relative((L @ u[test].T).T, lap[test])

    base = stencils.rbf(mesh, 31, 4, 5, ("lap",))
    fitted = stencils.fitted(mesh, base, "lap", u[fit], lap[fit])
    return {
        "nodes": len(mesh), "cotangent": error(cotangent(mesh)), "released": error(cotangent(mesh, "released")),
        "rbf_31": error(stencils.rbf(mesh, 31, 4, 5, ("lap",)).matrix("lap")),
        "rbf_45": error(stencils.rbf(mesh, 45, 6, 7, ("lap",)).matrix("lap")), "fitted_31": error(fitted.matrix("lap")),
    }  # fmt: skip


def poisson(mesh: Mesh, kind: str) -> float:
    """Return the error, boundary rows included, of lap u = f on the unit square with u = sin(2 x) e^y."""
    g, gx = "sin(2*x)*exp(y)", "2*cos(2*x)*exp(y)"
    sides = ("left", "right", "bottom", "top")
    rows = {
        "dirichlet": dict.fromkeys(sides, f"dirichlet({g})"),
        "neumann": {"left": f"dirichlet({g})", "right": f"neumann({gx})", "bottom": f"neumann(-{g})",
                    "top": f"neumann({g})"},
        "robin": dict(zip(sides, (f"robin(1, 0.5, {g} - 0.5*{gx})", f"robin(2, 1, 2*{g} + {gx})", "robin(1, 1, 0)",
                                  f"robin(1, 1, 2*{g})"), strict=True)),
    }[kind]  # fmt: skip
    operators = Operators(mesh, "least_squares")
    pad = Padding(mesh, read_conditions(mesh, rows, ["u"], []), ["u"], operators.stencils).double()
    n, L = len(mesh), operators.matrices["lap"]
    zero = pad(torch.zeros(1, n, 1).double())[0, :, 0].numpy()
    P = pad(torch.eye(n).double()[..., None])[..., 0].numpy().T - zero[:, None]
    inside = np.setdiff1d(np.arange(n), mesh.boundary_nodes)
    exact = np.sin(2 * mesh.points[:, 0]) * np.exp(mesh.points[:, 1])
    u = np.zeros(n)
    u[inside] = np.linalg.solve((L @ P)[np.ix_(inside, inside)], (-3 * exact - L @ zero)[inside])
    return relative(P @ u + zero, exact)


def flux(mesh: Mesh) -> float:
    """Return the error of div(D grad u) with D = 1 + 4 x + 5 y, boundary rows included."""
    x, y = torch.from_numpy(mesh.points).T
    u, D = torch.sin(2 * x) * torch.exp(y), 1 + 4 * x + 5 * y
    got = Operators(mesh, "least_squares").diffuse(D[None, :, None], u[None, :, None])[0, :, 0]
    return relative(got.numpy(), (D * -3 * u + 8 * torch.cos(2 * x) * torch.exp(y) + 5 * u).numpy())


def box(n: int) -> Mesh:
    """Return a relaxed mesh of the unit square with about n nodes along a side."""
    return shapes.relaxed(shapes.Box(1, 1), 1 / n, {}, rounds=15, scatter=0.4)


def run(full: bool) -> Result:
    """Run the benchmark."""
    obtuse = [shapes.jittered(n) for n in (41, 83)]
    even = [shapes.square(n) for n in (500, 2000)]
    boxes = [box(n) for n in (10, 17, 28)]
    figures: dict[str, object] = {
        "obtuse_share": obtuse[-1].quality().obtuse,
        "jittered_nodes": len(obtuse[-1]),
        "relaxed_nodes": len(even[-1]),
        "relaxed_obtuse": even[-1].quality().obtuse,
    }
    for name, build in BUILD.items():
        if name == "rbf" and not full:
            continue
        for kind, meshes in (("jittered", obtuse), ("relaxed", even)):
            errors = [smooth(m, build) for m in meshes]
            figures |= {f"{kind}_{name}_error": errors[-1], f"{kind}_{name}_order": order(meshes, errors)}
    table = table_one()
    figures |= {f"table1_{k}": v for k, v in table.items()}
    for kind in KINDS:
        figures[f"order_{kind}"] = order(boxes, [poisson(m, kind) for m in boxes])
    figures["order_flux"] = order(boxes, [flux(m) for m in boxes])
    worst = min(float(figures[f"order_{k}"]) for k in (*KINDS, "flux"))  # type: ignore[arg-type]
    bars = [
        Bar("Laplacian's order on relaxed meshes", figures["relaxed_least_squares_order"], ">=", 1.9),  # type: ignore[arg-type]
        Bar("Laplacian's order on obtuse meshes", figures["jittered_least_squares_order"], ">=", 1.9),  # type: ignore[arg-type]
        Bar("Laplacian's error at 6.9k jittered nodes", figures["jittered_least_squares_error"], "<=", 1.1e-2),  # type: ignore[arg-type]
        Bar("Table-1 setting, without parameters", table["rbf_45"], "<=", 0.015),
        Bar("Table-1 setting, fitted stencils", table["fitted_31"], "<=", 0.005),
        Bar("Worst order of Dirichlet, Neumann, Robin rows and div(D grad u)", worst, ">=", 1.8),
    ]
    peers = {"paper_table1": {"laplace_block": 0.033, "mesh_laplacian": 0.138}}
    notes = "Periodic rows are those of the torus meshes. Meshes are made here, none by gmsh."
    return Result(figures, bars, {"*_error": "relative L2"}, peers, notes=notes)
