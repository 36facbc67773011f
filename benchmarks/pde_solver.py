"""Is the truth true? Burgers against spectral accuracy, flow past a cylinder against the DFG benchmarks.

* Burgers: quadratic elements at about 13,000 unknowns against the Fourier solver on a fine grid, relative L2.
* DFG 2D-3 (Schaefer and Turek, 1996): largest drag and lift, pressure difference at t = 8, against the grid-converged
  values of John (2004, Int. J. Numer. Meth. Fluids 44): 2.950921575, 0.47795, -0.1116.
* DFG 2D-2 (`--full`): inside the four published intervals.
"""

from __future__ import annotations

import time

import numpy as np

from apps.pde import fem, shapes, spectral
from apps.pde.flow import Flow, Run
from apps.pde.mesh import Mesh
from apps.pde.metrics import strouhal
from benchmarks.harness import Bar, Result

__all__ = ["run"]

DRAG, LIFT, PRESSURE = 2.950921575, 0.47795, -0.1116
INTERVALS = {"drag": (3.22, 3.24), "lift": (0.99, 1.01), "strouhal": (0.295, 0.305), "pressure": (2.46, 2.50)}
PROBES = ((0.15, 0.2), (0.25, 0.2))


def channel(h: float, seed: int = 0) -> Mesh:
    """Return the DFG channel, 2.2 x 0.41 with a cylinder of diameter 0.1 at (0.2, 0.2)."""

    def size(p: np.ndarray) -> np.ndarray:
        around = np.hypot(p[:, 0] - 0.2, p[:, 1] - 0.2) - 0.05
        wake = np.where(p[:, 0] > 0.2, np.abs(p[:, 1] - 0.2) + 0.05 * np.maximum(p[:, 0] - 0.3, 0), around)
        return 1 + np.clip(np.minimum(around, np.maximum(wake - 0.05, 0.35 * around)) / 0.035, 0, 3.5)

    hole = shapes.disc(0.2, 0.2, 0.05)
    return shapes.relaxed(shapes.Box(2.2, 0.41), h, {"cylinder": hole}, seed=seed, rounds=60, size=size)


def dfg(mesh: Mesh, end: float, dt: float, steady: bool) -> Run:
    """Simulate 2D-2 (`steady` inflow, mean velocity 1) or 2D-3 (sin(pi t / 8))."""

    def inflow(p: np.ndarray, t: float) -> np.ndarray:
        level = 1.5 * (1.0 if steady else np.sin(np.pi * t / 8))
        return np.stack([4 * level * p[:, 1] * (0.41 - p[:, 1]) / 0.41**2, np.zeros(len(p))], 1)

    flow = Flow(mesh, 1e-3, inflow, walls=("bottom", "top", "cylinder"), slip=())
    return flow.run(end, dt, probes=PROBES)


def burgers(refine: int, dt: float, end: float = 0.4) -> tuple[float, int, float]:
    """Return (relative error at the end, unknowns, seconds) of quadratic elements on a periodic square."""
    mesh = shapes.square(205)

    def start(p: np.ndarray) -> np.ndarray:
        return spectral.initial(p, 0, modes=3)

    solver = spectral.Spectral("burgers", {"nu": 5e-3}, 160)
    steps = round(end / 2e-3)
    truth = solver.run(np.moveaxis(start(solver.grid()), -1, 0), 2e-3, steps, steps, mesh.points)[-1]
    began = time.perf_counter()
    found = fem.burgers(mesh, start, 5e-3, dt, round(end / dt), round(end / dt), refine=refine)[-1]
    seconds = time.perf_counter() - began
    unknowns = len(fem.spaces(mesh, (2,), refine)[0][0])
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth)), unknowns, seconds


def exact_burgers() -> float:
    """Return the largest error of the spectral solver on an irrotational exact solution, relative to its maximum."""
    nu, amplitude = 5e-3, 1.5
    solver = spectral.Spectral("burgers", {"nu": nu}, 64)

    def exact(p: np.ndarray, t: float) -> np.ndarray:
        e, (x, y) = np.exp(-8 * np.pi**2 * nu * t), (2 * np.pi * p[..., 0], 2 * np.pi * p[..., 1])
        phi = amplitude + e * np.cos(x) * np.cos(y)
        return 4 * np.pi * nu * e / phi * np.stack([np.sin(x) * np.cos(y), np.cos(x) * np.sin(y)])

    found = solver.run(exact(solver.grid(), 0.0), 2e-3, 500, 500)[-1]
    return float(np.abs(found - exact(solver.grid(), 1.0)).max() / np.abs(found).max())


def run(full: bool) -> Result:
    """Run the benchmark."""
    error, unknowns, seconds = burgers(2, 5e-4)
    mesh = channel(0.005 if full else 0.007)
    began = time.perf_counter()
    got = dfg(mesh, 8.0, 4e-4, steady=False)
    drag, lift = (20 * got.force).T  # 2 F / (rho mean(u)^2 D), D = 0.1
    drop = got.probes[-1, 0] - got.probes[-1, 1]
    figures = {
        "burgers_error": error, "burgers_unknowns": unknowns, "burgers_seconds": seconds,
        "spectral_exact_error": exact_burgers(), "dfg3_nodes": len(mesh), "dfg3_unknowns": len(Flow(
            mesh, 1e-3, lambda p, t: np.zeros((len(p), 2)), walls=("bottom", "top", "cylinder"), slip=()).V),
        "dfg3_drag": float(drag.max()), "dfg3_drag_time": float(got.clock[drag.argmax()]),
        "dfg3_lift": float(lift.max()), "dfg3_lift_time": float(got.clock[lift.argmax()]),
        "dfg3_pressure": float(drop), "dfg3_seconds": time.perf_counter() - began, "dfg3_courant": got.courant,
    }  # fmt: skip
    bars = [
        Bar("Burgers, quadratic elements against spectral: relative error", error, "<=", 2e-4),
        Bar("DFG 2D-3 drag, relative error", abs(drag.max() / DRAG - 1), "<=", 0.005),
        Bar("DFG 2D-3 lift, relative error", abs(lift.max() / LIFT - 1), "<=", 0.015),
        Bar("DFG 2D-3 pressure difference, relative error", abs(drop / PRESSURE - 1), "<=", 0.005),
    ]
    if full:
        figures |= shedding(channel(0.006))
        inside = [low <= figures[f"dfg2_{k}"] <= high for k, (low, high) in INTERVALS.items()]
        bars.append(Bar("DFG 2D-2 published intervals that hold it (of 4)", float(sum(inside)), "==", 4))
    units = {"burgers_error": "relative L2 at t = 0.4", "dfg3_drag": "largest c_D", "dfg3_pressure": "at t = 8"}
    peers = {"john_2004": {"drag": DRAG, "lift": LIFT, "pressure": PRESSURE}, "intervals_2D2": INTERVALS}
    return Result(figures, bars, units, peers, notes="" if full else "2D-2 runs with --full")


def shedding(mesh: Mesh) -> dict[str, float]:
    """Return drag, lift, Strouhal number and pressure difference of 2D-2 once it sheds."""
    got = dfg(mesh, 6.0, 4e-4, steady=True)
    late = got.clock > 4.5
    drag, lift = (20 * got.force[late]).T
    dt = float(got.clock[1] - got.clock[0])
    number = strouhal(lift, dt, 1.0, 0.1)
    peak = int(lift.argmax())
    half = peak + round(0.5 * 0.1 / number / dt)  # the pressure is read half a period after the largest lift
    drop = got.probes[late][half % late.sum()]
    return {"dfg2_drag": float(drag.max()), "dfg2_lift": float(lift.max()), "dfg2_strouhal": number,
            "dfg2_pressure": float(drop[0] - drop[1])}  # fmt: skip
