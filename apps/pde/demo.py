"""The app's main job on embedded data, as sections of a page: simulate, train, roll out, compare, say how sure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apps.pde import metrics, pictures, verbs
from apps.pde.data import splits
from core.run.report import Link, Picture, Section, Table, Text

__all__ = ["sections"]

MEMBERS = 8


def sections(folder: Path) -> list[Section]:
    """Write pictures and series into `folder` and return what the page shows of them."""
    from apps import pde
    from core.run.config import load_recipe
    from core.run.launch import run

    verbs.say("demo: training the toy recipe (under a minute)")
    found = run("pde", load_recipe("pde", "toy"), folder / "model", None)
    model = pde.load(found.folder)
    data = splits(model.recipe.data, model.recipe.seed)
    truth = data.test.states[0]
    mean, members = model.ensemble(truth[0], len(truth) - 1, MEMBERS)
    error = np.abs(mean.states - truth)
    panels = {"truth": truth[-1], "mean of the ensemble": mean.states[-1], "error": error[-1]}
    assert mean.spread is not None
    panels["spread of the ensemble"] = mean.spread[-1]
    picture = pictures.fields(model.mesh, {k: v[:, 0] for k, v in panels.items()}, folder / "fields.png")
    parts = {"truth": truth, "model": mean.states, "error": error}
    shown = {k: v[::2, :, 0] for k, v in parts.items()}
    moving = pictures.animate(model.mesh, mean.times[::2], shown, folder / "fields.gif")
    series = mean.write(folder / "fields.xdmf")
    judged = verbs.evaluate(str(found.folder), n=2)
    rows = [[name, judged[f"{name}_mse"], judged[f"{name}_correlation_end"], judged[f"{name}_seconds"]]
            for name in ("model", "known_operators", "sparse_regression")]  # fmt: skip
    held = model.mesh.nodes("hole")
    facts = [
        ["largest value on the hole (exact: 0)", float(np.abs(members[:, :, held]).max())],
        ["spread over error", metrics.spread_skill(members[:, -1], truth[-1])],
        ["correlation at the end", float(metrics.correlation(mean.states, truth)[-1])],
    ]
    return [
        Section("Fields: Burgers' equation around a hole", (
            Text(f"{model.mesh.quality().text()}. The model is told the diffusion and learns the rest from "
                 f"{len(data.train)} simulated trajectories; the state shown is from one that it did not see."),
            Picture(picture, "First velocity component at the end."),
            Table(["what", "figure"], facts),
            Table(["", "MSE", "correlation at the end", "seconds"], rows, "Two test trajectories."),
            Link(moving, "animation"), Link(series, "series for ParaView"),
        )),
    ]  # fmt: skip
