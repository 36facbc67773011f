"""The app's main job as sections of a page: a search on the digits table beside the baselines, and what was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from apps.nas import verbs
from apps.nas.baselines import Field
from apps.nas.cell import Cell
from apps.nas.export import write
from apps.nas.generate import CellModel, untrained
from apps.nas.rewards import Queries, load
from apps.nas.search import METHODS, method
from apps.nas.training import Training
from core.errors import DataError
from core.finetune.reward import Reward
from core.run.report import Commands, Link, Picture, Section, Table, Text

__all__ = ["sections"]

BUDGET, SEED, DRAWN = 60, 0, 200
COMMANDS = (
    f"quintet nas sample toy -n {DRAWN} --max-params 0.4 --max-flops 60 --require avg_pool_3x3 --fix 0-3=skip_connect",
    f"quintet nas search toy --budget {BUDGET} --out out/search",
    f"quintet nas evaluate toy --budget {BUDGET} --seeds 1",
    "quintet nas export 333132 --out cell.py",
)


def sections(folder: Path) -> list[Section]:
    """Search, draw the curve and the cell, and train the exported module for real."""
    from core.run.config import load_recipe

    model = untrained(load_recipe("nas", "digits201"))
    reward, source = _reward(model)
    verbs.say(f"demo: {len(METHODS)} searches, {BUDGET} queries of {reward.name} each")
    runs = {name: Queries(reward) for name in METHODS}
    for name, queries in runs.items():
        method(name, model)(queries, Field(model.space, seed=SEED), BUDGET)
    _curves(runs, folder / "curves.png")
    best, value = runs["guided"].best()
    cell = Cell.of(model.space, best)
    for file in ("cell.png", "cell.py", "cell.dot"):
        write(cell, folder / file)
    trained = float(Training(model.space, 5).score(_row(best))[0])
    rows = [[name, len(q.history), float(q.curve()[-1])] for name, q in runs.items()]
    return [
        _limits(),
        Section("Architectures: the best of few queries", [
            Text(source), Picture(folder / "curves.png", "Best value after each query; one seed."),
            Table(["search", "queries", "best"], rows, "every cell that was ever evaluated is counted, once"),
        ], f"Best {reward.name} after {BUDGET} queries: guided {dict(runs)['guided'].curve()[-1]:.3f}, random "
           f"{runs['random'].curve()[-1]:.3f}; one seed"),
        Section("Architectures: what was found", [
            Text(f"{cell}: {reward.name} {value:.3f}. Its stand-alone module (cell.py) trained for five epochs on "
                 f"digits now reaches {trained:.1f} % on noisy validation images."),
            Picture(folder / "cell.png", "The cell: its operations on the edges from input to output."),
            Link(folder / "cell.py", "The stand-alone module"), Link(folder / "cell.dot", "The graph"),
        ]),
        Section("Make it again", [Commands(COMMANDS)]),
    ]  # fmt: skip


def _limits() -> Section:
    """Draw cells within hard limits, and count what free ones break."""
    from apps import nas

    verbs.say("demo: cells within hard limits")
    model = nas.load("toy")
    asked = verbs.wishes(max_params=0.4, max_flops=60, require=["avg_pool_3x3"], fix=["0-3=skip_connect"])
    names = ["at most 0.4 M parameters", "at most 60 M FLOPs", "an average pooling", "edge 0-3 is skip_connect"]
    given = dict(zip(names, [asked[2], asked[3], asked[0], asked[1]], strict=True))
    sets = {"free": model.sample(DRAWN, seed=SEED), "ours": model.sample(DRAWN, seed=SEED, constraints=asked)}
    broken = {k: {name: sum(map(bool, some.check([rule]))) for name, rule in given.items()} for k, some in sets.items()}
    rows = [[name, *(broken[k][name] for k in sets)] for name in given]
    rows.append(["all together", *(sum(map(bool, some.check(asked))) for some in sets.values())])
    rows.append(["different networks", *(some.unique() for some in sets.values())])
    text = (
        f"{DRAWN} cells of NAS-Bench-201 within four limits, beside {DRAWN} without. The weights know which cells are "
        "valid and nothing about quality; each drawn cell is rebuilt as a graph and its costs are counted anew."
    )
    return Section("Architectures: hard limits", [
        Text(text), Table(["limit", "free cells that break it", "cells under limits that do"], rows),
    ], f"{rows[-2][2]} of {DRAWN} cells break a limit, {rows[-2][1]} of {DRAWN} free ones do")  # fmt: skip


def _reward(model: CellModel) -> tuple[Reward, str]:
    """Return the digits table where it is complete, else a control."""
    from apps.nas.table import unique

    try:
        table = load("digits:valid", model.space)
        if len(table.values) == len(unique(model.space)):  # type: ignore[attr-defined]
            return table, "Our own table: every unique cell really trained on digits."
    except DataError:
        pass
    return load("params", model.space), "The digits table is not complete here; the searches look for most parameters."


def _row(x: tuple[int, ...]):  # noqa: ANN202
    import torch

    return torch.tensor([x])


def _curves(runs: dict[str, Queries], path: Path) -> None:
    figure = Figure(figsize=(7, 4))
    axes = figure.add_subplot()
    for name, queries in runs.items():
        curve = queries.curve()
        axes.step(np.arange(1, len(curve) + 1), curve, label=name, where="post")
    axes.set_xlabel("unique queries")
    axes.set_ylabel("best so far")
    axes.legend(fontsize=8)
    figure.savefig(path, bbox_inches="tight", dpi=130)
