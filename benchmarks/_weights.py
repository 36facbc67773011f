"""The tuned weights of `dna_rewards`: what each method that tunes does with its calls, once, for all regimes.

`drakes` has a run of its own for each alpha. `drakes-warm` goes through its alphas in one run, each from where the
next larger one ended (`CHAINED`). What is `REALIGNED` tunes nothing: it draws from weights of another method at lower
prices of a nat (`core.guide.realign`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.bio.tune import TuneTask, Tuning
from core.plan import uniform_plan

if TYPE_CHECKING:
    from benchmarks._steering import Bench, Cell

__all__ = [
    "ALPHAS", "CALLS", "LEAN", "REALIGNED", "WEIGHTS", "before", "depends", "keep", "restore", "source", "spent",
    "update",
]  # fmt: skip

CALLS = 2048
DRAKES = (0.2, 0.1, 0.07, 0.06, 0.05)
WARM = (0.04, 0.03, 0.02, 0.015, 0.0125)
UPDATES = {"drakes": (CALLS // 16,) * 5, "drakes-warm": (16, 16, 16, 24, 24)}
REALIGNED = {"drakes-realigned": ("drakes", 8), "sdpo-realigned": ("sdpo", 8), "distill-realigned": ("distill-full", 2)}
"""Whose weights are drawn from at lower prices, and the power of two that their prices are divided by."""

ALPHAS = {"drakes": DRAKES, "drakes-warm": WARM, "drakes-realigned": tuple(a / 8 for a in DRAKES)}
"""The alphas of drakes, falling; `UPDATES` are those at each."""

CHAINED = ("drakes-warm",)
"""Methods of which one run goes through all alphas at a constant rate; of others each alpha has a run of its own."""

SHARED: dict[str, Any] = {"batch": 16, "steps": 16, "truncate": 4, "kl_steps": 2}
OWN: dict[str, dict[str, Any]] = {
    "drakes": {"steps": 8, "truncate": 8, "lr": 5e-3, "draws": 8}, "sdpo": {"lr": 1e-3},
    "drakes-warm": {"steps": 8, "truncate": 8, "kl_steps": 4, "lr": 1e-3, "draws": 8, "warm": CALLS // 4, "fits": 120,
                    "guide": 0.0125, "hold": 0.01},
}  # fmt: skip
"""Settings of those that tune; those of drakes were chosen by the tuning oracle on other seeds.

Its alphas fall until the draws of such a seed leave the range of real sequences' nats (0.05 does); at 0.035 and below
the optimum p_pre exp(r / alpha) itself is an array of GC boxes, as 0.02 and 0.01 showed: 0.97 nats, 93 % G + C.
"""

LEAN = 60
"""Updates that make the conditional copy of cfg, and those of sdpo."""

AVERAGE = {"drakes": 0.9, "drakes-warm": 0.8}
"""Decay of the average over updates that is kept of the weights at each alpha."""

DISTIL: dict[str, Any] = {"updates": 120, "batch": 48, "steps": 16, "pool": CALLS // 2, "lr": 3e-3}
DISTILS = {"distill": DISTIL, "distill-full": {**DISTIL, "updates": 240, "pool": CALLS}}
"""How guidance is distilled; the rate rises for a tenth of the updates, then falls to 0."""


def depends(cell: Cell) -> list[Any]:
    """Return the settings that a cell's weights depend on; those of a chain on the larger alphas before it."""
    if cell.method in REALIGNED:
        return ["realigned", REALIGNED[cell.method], *depends(source(cell))]
    if cell.method in ALPHAS:
        ran = [[c.strength, updates(c)] for c in [*before(cell), cell]]
        return [SHARED, OWN[cell.method], ran, AVERAGE[cell.method]]
    more = {"sdpo": [SHARED, OWN["sdpo"], LEAN], "cfg": [LEAN]} | {method: [own] for method, own in DISTILS.items()}
    return more.get(cell.method, [])


def source(cell: Cell) -> Cell:
    """Return the cell whose weights a realigned one draws from."""
    method, times = REALIGNED[cell.method]
    return replace(cell, method=method, strength=cell.strength * times)


def before(cell: Cell) -> list[Cell]:
    """Return the cells at larger alphas that one of a chain goes on from."""
    alphas = ALPHAS[cell.method] if cell.method in CHAINED else (cell.strength,)
    return [replace(cell, strength=a) for a in alphas[: alphas.index(cell.strength)]]


def updates(cell: Cell) -> int:
    """Return the updates that one of drakes makes at its alpha."""
    return UPDATES[cell.method][ALPHAS[cell.method].index(cell.strength)]


def sdpo_weights(bench: Bench, cell: Cell) -> Path:
    """Return the weights tuned by SDPO on completions scored once, tuned where they are not kept yet."""
    path = bench.few.path(cell, ".pt.npz")
    if not path.is_file():
        shared = {**SHARED, **OWN["sdpo"], "seed": cell.seed}
        task = TuneTask(bench.few.base, bench.reward, Tuning("sdpo", cell.strength, LEAN, pool=CALLS, **shared))
        module = task.module()
        optimizer = torch.optim.Adam(module.parameters(), task.tuning.lr)
        for step in range(LEAN):
            update(module, optimizer, task.loss(module, task.batch(step, 0, 1), step)[0])
        keep(module, path)
    return path


def distilled_weights(bench: Bench, cell: Cell) -> Path:
    """Return the weights into which guidance was distilled, tuned where they are not kept yet."""
    path, settings = bench.few.path(cell, ".pt.npz"), DISTILS[cell.method]
    if not path.is_file():
        base = replace(bench.few.base, plan=uniform_plan(settings["steps"]))
        task = TuneTask(base, bench.reward, Tuning("distill", cell.strength, **settings, seed=cell.seed))
        module = task.module()
        fit(task, module, settings["updates"])
        keep(module, path)
    return path


def falling(step: int, total: int) -> float:
    """Return the share of the learning rate at a step: it rises for a tenth of them, then falls to 0."""
    return min(1.0, 10 * (step + 1) / total) * (1 - step / total)


def fit(task: TuneTask, module: nn.Module, total: int) -> None:
    """Distill guidance into a network by the first `total` updates of a task."""
    optimizer = torch.optim.Adam(module.parameters(), DISTIL["lr"])
    for step in range(total):
        optimizer.param_groups[0]["lr"] = DISTIL["lr"] * falling(step, total)
        update(module, optimizer, task.loss(module, task.batch(step, 0, 1), step)[0])


def drakes_weights(bench: Bench, cell: Cell) -> Path:
    """Return the weights tuned by DRAKES, in a chain from where the next larger alpha ended, tuned where not kept."""
    path, earlier, total = bench.few.path(cell, ".pt.npz"), before(cell), updates(cell)
    if not path.is_file():
        base = replace(bench.few.base, plan=uniform_plan(OWN[cell.method]["steps"]))
        options = {**SHARED, **OWN[cell.method], "seed": cell.seed}
        task = TuneTask(base, bench.reward, Tuning("drakes", cell.strength, total, **options))
        module = task.module()
        if earlier:
            restore(module, drakes_weights(bench, earlier[-1]))
        else:
            fit(task, module, task.tuning.fitting)
        optimizer, mean = torch.optim.Adam(module.parameters(), task.tuning.lr), copy.deepcopy(module)
        first = task.tuning.fitting + sum(map(updates, earlier))
        for step in range(total):
            if cell.method not in CHAINED:
                optimizer.param_groups[0]["lr"] = task.tuning.lr * falling(step, total)
            loss, figures = task.loss(module, task.batch(first + step, 0, 1), first + step)
            update(module, optimizer, loss)
            for average, value in zip(mean.parameters(), module.parameters(), strict=True):
                average.data.lerp_(value.data, 1 - AVERAGE[cell.method])
            print(f"{cell.name} {step}: {figures}", flush=True)
        keep(mean, path)
    return path


WEIGHTS: dict[str, Callable[[Bench, Cell], Path]] = {
    "sdpo": sdpo_weights, **dict.fromkeys(DISTILS, distilled_weights), **dict.fromkeys(UPDATES, drakes_weights)
}  # fmt: skip


def spent(cell: Cell) -> int:
    """Return the reward calls that went into a cell's weights, those of a warm start included."""
    if cell.method in REALIGNED:
        return spent(source(cell))
    if cell.method not in ALPHAS:
        return {"sdpo": CALLS}.get(cell.method) or DISTILS[cell.method]["pool"]
    own, ran = OWN[cell.method], sum(map(updates, [*before(cell), cell]))
    return own.get("warm", 0) // own["steps"] * own["steps"] + SHARED["batch"] * ran


def update(module: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Make one clipped gradient step."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def keep(module: nn.Module, path: Path) -> None:
    """Write the trained parameters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{k: v.detach().numpy() for k, v in module.named_parameters()})  # type: ignore[arg-type]


def restore(module: nn.Module, path: Path) -> None:
    """Read trained parameters."""
    with np.load(path) as stored:
        module.load_state_dict({k: torch.from_numpy(stored[k]) for k in stored.files}, strict=False)
