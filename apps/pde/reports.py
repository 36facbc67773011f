"""Validation against the solver: a test trajectory is solved again, rolled out, and the two are compared over time.

Energies and totals are integrals with the mesh's weights. A flow past a body also has its Strouhal number read from the
transverse velocity at the node two diameters behind the body. `break_even_solves_training_not_counted` is the number of
solves after which making the training data and rolling out cost less than so many runs of this very solver, which may
be far more accurate than the model; the seconds of training come on top. `benchmarks/pde_cost.py` compares at equal
accuracy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.pde import metrics, truth
from apps.pde.formats import check_format, check_place
from apps.pde.verbs import load, say
from core.errors import UsageError

if TYPE_CHECKING:
    from apps.pde.generate import FieldModel, Fields

__all__ = ["Validation", "compare", "report", "validate"]

MOMENTS, FRAMES = 8, 24


@dataclass(eq=False)
class Validation:
    """What was compared: the model, its roll-out, the solver's states [T, N, C], and the seconds of both."""

    model: FieldModel
    fields: Fields
    orbit: truth.Orbit
    solver_seconds: float
    model_seconds: float

    def table(self) -> list[list[Any]]:
        """Return rows (t, relative error, correlation, energy over the truth's) at a few times."""
        u, v, area = self.fields.states, self.orbit.states, self.model.mesh.node_area
        rows = np.unique(np.linspace(0, len(v) - 1, MOMENTS).round().astype(int))
        error, corr = metrics.relative(u, v), metrics.correlation(u, v)
        ratio = metrics.energy(u, area) / metrics.energy(v, area).clip(1e-300)
        return [[float(self.fields.times[k]), *(float(s[k]) for s in (error, corr, ratio))] for k in rows]

    def figures(self) -> dict[str, Any]:
        """Return the figures of the whole trajectory."""
        u, v, mesh = self.fields.states, self.orbit.states, self.model.mesh
        held = self.model.net.boundary.dirichlet[: len(mesh)].cpu().numpy()
        off = np.abs(u - v)[:, held].max() if held.any() else 0.0
        out: dict[str, Any] = {
            "states": len(v), "mse": metrics.mse(u, v), "relative_error_end": float(metrics.relative(u, v)[-1]),
            "correlation_end": float(metrics.correlation(u, v)[-1]),
            "correlation_time_0.9": float(metrics.correlation_time(u, v, self.fields.times)),
            "boundary_error": float(off),
            "energy_ratio_end": float(metrics.energy(u[-1], mesh.node_area) / metrics.energy(v[-1], mesh.node_area)),
        }  # fmt: skip
        for k, name in enumerate(self.fields.fields):
            total = [float((s[-1, :, k] * mesh.node_area).sum()) for s in (u, v)]
            out[f"total_{name}_end"], out[f"total_{name}_end_truth"] = total
        out |= self._shedding()
        rows = len(truth.labels(self.model.recipe.data)["train"])
        out |= {"solver_seconds": self.solver_seconds, "model_seconds": self.model_seconds}
        even = metrics.break_even(rows * self.solver_seconds, self.model_seconds, self.solver_seconds)
        return out | {"break_even_solves_training_not_counted": "never" if np.isinf(even) else int(np.ceil(even))}

    def _shedding(self) -> dict[str, float]:
        """Return Strouhal numbers of both, and the solver's drag and lift, where there is a wake that sheds."""
        if self.model.net.system.name != "cylinder":
            return {}
        dt = float(self.fields.times[1] - self.fields.times[0])
        mesh = self.model.mesh
        body = mesh.points[mesh.nodes("cylinder")].mean(0)
        node = mesh.locate((float(body[0]) + 2, float(body[1])))
        out = {}
        for name, states in (("strouhal", self.fields.states), ("strouhal_truth", self.orbit.states)):
            try:
                out[name] = metrics.strouhal(states[:, node, 1], dt)
            except UsageError:
                out[name] = float("nan")
        if "force" in self.orbit.extra:
            drag, lift = np.asarray(self.orbit.extra["force"]).T
            out |= {"drag_mean_truth": float(drag.mean()), "lift_max_truth": float(np.abs(lift).max())}
        return out


def compare(model: FieldModel, row: int) -> Validation:
    """Solve test trajectory `row` again and roll the model out from its start.

    Raises:
        UsageError: there is no such test trajectory, or the recipe reads its data from a file.
    """
    from apps.pde.data import posed

    d = model.recipe.data
    if d.file:
        raise UsageError("only simulated data can be solved again", field="data.file", value=d.file)
    tests = truth.labels(d)["test"]
    if not 0 <= row < len(tests):
        raise UsageError(f"the test part has {len(tests)} trajectories", field="row", value=row)
    own, mesh = posed(d)
    began = time.process_time()
    orbit = truth.solve(d, own, mesh, model.recipe.seed, tests[row], say)
    solved = time.process_time()
    fields = model.rollout(orbit.states[0], len(orbit.states) - 1, 0.0, dict(orbit.parameters))
    return Validation(model, fields, orbit, solved - began, time.process_time() - solved)


def validate(name: str, *, row: int) -> dict[str, Any]:
    """Return the figures of one test trajectory, and its errors over time as text."""
    found = compare(load(name), row)
    lines = [
        f"t = {t:.4g}: relative error {e:.3g}, correlation {c:.4f}, energy ratio {r:.4f}"
        for t, e, c, r in found.table()
    ]
    for line in lines:
        say(line)
    return found.figures()


def report(name: str, *, row: int, out: Path) -> dict[str, Any]:
    """Write a page about one test trajectory, with its series and pictures beside it in the folder `out`."""
    from apps.pde import pictures
    from core.run.report import Commands, Link, Picture, Section, Table, Text, write

    if out.suffix:
        raise UsageError("is a folder, not a file", field="out", value=str(out), hint="--out report")
    check_place(out)
    check_format(out / "fields.xdmf")
    found = compare(load(name), row)
    out.mkdir(parents=True, exist_ok=True)
    mesh, u, v = found.model.mesh, found.fields.states, found.orbit.states
    panels = {"truth": v, "model": u, "error": np.abs(u - v)}
    first = found.fields.fields[0]
    still = pictures.fields(mesh, {k: s[-1, :, 0] for k, s in panels.items()}, out / "fields.png")
    each = max(1, len(v) // FRAMES)
    moving = pictures.animate(mesh, found.fields.times[::each], {k: s[::each, :, 0] for k, s in panels.items()},
                              out / "fields.gif")  # fmt: skip
    series = found.fields.write(out / "fields.xdmf")
    figures = found.figures()
    given = ", ".join(f"{k} = {value:g}" for k, value in found.orbit.parameters.items())
    parts = ", ".join(f"{k} ({len(e)} edges)" for k, e in mesh.groups.items()) or "none, it is periodic"
    section = Section(f"{found.model.net.system.name}, test trajectory {row}", (
        Text(f"{mesh.quality().text()}. Boundary parts: {parts}. {given}."),
        Table(["t", "relative error", "correlation", "energy, model over truth"], found.table()),
        Table(["figure", "value"], [[k, value] for k, value in figures.items()]),
        Picture(still, f"{first} at t = {found.fields.times[-1]:.3g}."), Picture(moving, "The same over time."),
        Link(series, "series for ParaView"), Commands([f"quintet pde report {name} --row {row} --out {out}"]),
    ))  # fmt: skip
    return {**figures, "page": str(write(out / "index.html", f"Validation of {name}", [section]))}
