"""Do constraints hold? Boundary values and sides through roll-outs, totals and divergence through projections."""

from __future__ import annotations

import numpy as np
import torch

from apps.pde import constraints, shapes, spectral
from apps.pde.dynamics import Dynamics
from apps.pde.flow import Flow
from apps.pde.mesh import Mesh
from apps.pde.model import ModelConfig
from apps.pde.systems import system
from benchmarks.harness import Bar, Result

__all__ = ["run"]


def boundaries() -> tuple[float, float]:
    """Return the largest value on a zero boundary after a roll-out, and how much moving the periodic seam changes."""
    torch.manual_seed(0)
    hole = shapes.make("hole", 300)
    config = ModelConfig(kind="phympgn", operators="cotangent", width=16, rounds=2)
    net = Dynamics(config, system("burgers", "hole"), hole, 1e-3)
    u = torch.from_numpy(spectral.initial(hole.points, 0, modes=2)).float()[None]
    a = shapes.jittered(12)
    b = Mesh((a.points + 0.31) % 1.0, a.triangles, period=a.period)
    wave = torch.from_numpy(spectral.initial(a.points, 1, modes=2))[None]
    known = ModelConfig(kind="operators", knowledge="full")
    with torch.no_grad():
        largest = float(net(u, 20)[:, :, hole.nodes("hole")].abs().max())
        ends = [Dynamics(known, system("burgers"), m, 0.01).double()(wave, 10)[0, -1] for m in (a, b)]
    return largest, float((ends[0] - ends[1]).abs().max() / ends[0].abs().max())


def total() -> float:
    """Return how far a projected total is from what it must be."""
    hole = shapes.make("hole", 300)
    u = torch.from_numpy(spectral.initial(hole.points, 0, modes=2)).flatten()[None]
    kept = constraints.totals(hole, 2, 0, 0.125).project(u).reshape(-1, 2)[:, 0].numpy()
    return abs(float((kept * hole.node_area).sum()) - 0.125)


def divergence(nodes: int) -> dict[str, float]:
    """Return weak divergences of a simulated velocity, of the same with noise, and of its projection."""
    mesh = shapes.make("channel", nodes)
    flow = Flow(mesh, 0.01, lambda p, t: np.stack([np.full(len(p), min(1.0, t)), 0 * p[:, 0]], 1))
    truth = flow.run(3.0, every=3.0).velocity[-1]
    inside = np.setdiff1d(np.arange(len(mesh)), mesh.boundary_nodes)
    B = constraints.weak_divergence(mesh)[inside]
    noisy = torch.from_numpy(truth + 0.05 * np.random.default_rng(0).standard_normal(truth.shape)).flatten()[None]
    both = constraints.no_divergence(mesh, constraints.boundary_values(mesh, 2, {"left": (1, 0), "cylinder": (0, 0)}))
    clean = both.project(noisy)
    return {
        "nodes": len(mesh),
        "fem_weak_divergence": float(np.linalg.norm(B @ truth.ravel())),
        "noisy_weak_divergence": float(np.linalg.norm(B @ noisy[0].numpy())),
        "projected_weak_divergence": float(np.linalg.norm(B @ clean[0].numpy())),
        "noise": 0.05,
        "projected_error": float((clean[0].reshape(-1, 2).numpy() - truth).std()),
        "boundary_off": float(both.violations(clean).max()),
    }


def run(full: bool) -> Result:
    """Run the benchmark."""
    largest, seam = boundaries()
    flow, off = divergence(500 if full else 220), total()
    ratio = flow["projected_weak_divergence"] / flow["fem_weak_divergence"]
    figures = {"dirichlet_largest": largest, "seam_change": seam, "total_off": off, **flow}
    bars = [
        Bar("Dirichlet values after 20 steps of an untrained network, largest deviation", largest, "==", 0),
        Bar("Periodic sides: change of a state when the seam moves, relative", seam, "<=", 1e-10),
        Bar("Weak divergence, projected over the FEM's own", ratio, "<=", 1.2),
        Bar("Conserved total after projection, absolute deviation", off, "<=", 1e-6),
    ]
    notes = (
        "Divergence is tested with linear hat functions at inner nodes; the FEM's velocity is read at the vertices, "
        "where it is not free of that divergence itself: the projection moves the true field too."
    )
    return Result(figures, bars, {"projected_error": "standard deviation from the unperturbed field"}, notes=notes)
