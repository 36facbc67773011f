"""The app's main job on embedded data, as sections of a page: simulate, train, roll out, compare, say how sure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apps.pde import metrics, pictures, verbs
from apps.pde.data import splits
from apps.pde.generate import FieldModel
from core.run.report import Commands, Link, Picture, Section, Table, Text

__all__ = ["sections"]

MEMBERS = 16
COMMANDS = (
    "quintet pde train toy",
    f"quintet pde rollout toy --steps 60 --members {MEMBERS} --out fields.xdmf",
    "quintet pde evaluate toy",
)


def sections(folder: Path) -> list[Section]:
    """Write pictures and series into `folder` and return what the page shows of them."""
    from apps import pde

    return [_hole(pde.load("toy"), folder), Section("Make it again", [Commands(COMMANDS)])]


def _hole(model: FieldModel, folder: Path) -> Section:
    """Roll the shipped model out around the hole, beside what one would use instead."""
    data = splits(model.recipe.data, model.recipe.seed)
    truth = data.test.states[0]
    mean, members = model.ensemble(truth[0], len(truth) - 1, MEMBERS)
    assert mean.spread is not None
    middle = len(truth) // 3
    panels = {"truth": truth, "mean of the ensemble": mean.states, "error": np.abs(mean.states - truth),
              "spread": mean.spread}  # fmt: skip
    picture = pictures.fields(model.mesh, {k: v[middle, :, 0] for k, v in panels.items()}, folder / "fields.png")
    moving = pictures.animate(model.mesh, mean.times[::4], {k: v[::4, :, 0] for k, v in panels.items()},
                              folder / "fields.gif")  # fmt: skip
    series = mean.write(folder / "fields.xdmf")
    judged = verbs.evaluate("toy", n=len(data.test))
    rows = [[name, judged[f"{name}_mse"], judged[f"{name}_correlation_end"], judged[f"{name}_seconds"]]
            for name in ("model", "known_operators", "sparse_regression")]  # fmt: skip
    held = model.mesh.nodes("hole")
    facts = [
        ["largest value on the hole (exact: 0)", float(np.abs(members[:, :, held]).max())],
        ["90 % intervals hold the truth", metrics.coverage(members[:, 1:], truth[1:])],
        ["spread over error", metrics.spread_skill(members[:, 1:], truth[1:])],
    ]
    return Section("Fields: Burgers' equation around a hole", (
        Text(f"{model.mesh.quality().text()}. The shipped model is told the diffusion and learned the rest from "
             f"{len(data.train)} simulated trajectories; the state shown is from one that it did not see."),
        Picture(picture, f"First velocity component at t = {mean.times[middle]:.2f}."),
        Table(["what", "figure"], facts),
        Table(["", "MSE", "correlation at the end", "seconds"], rows, f"{len(data.test)} test trajectories."),
        Picture(moving, "The same over time."), Link(series, "series for ParaView"),
    ), f"Largest value on the hole {facts[0][1]:.0e} (exact: 0); mean square error {rows[0][1]:.1e}, known operators "
       f"alone {rows[1][1]:.1e}, sparse regression {rows[2][1]:.1e}")  # fmt: skip
