"""What the commands do: simulate, roll out, judge, write. Results are returned, progress goes to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.pde import metrics
from apps.pde.formats import check_format, read_mesh
from core.errors import UsageError

if TYPE_CHECKING:
    from apps.pde.generate import FieldModel
    from core.run.report import Section

__all__ = ["assimilate", "calibrate", "demo", "evaluate", "mesh", "rollout", "sample", "simulate"]

MANY = 10_000  # nodes inside from which on baselines are solved on the given nodes


def say(line: str) -> None:
    """Tell the user how far it is."""
    print(line, file=sys.stderr)


def single() -> None:
    """Compute on one thread unless OMP_NUM_THREADS says otherwise."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def load(name: str, mesh_file: str = "") -> FieldModel:
    """Load a model and say what it is."""
    from apps import pde

    single()
    model = pde.load(name, mesh_file)
    say(f"{name}: {model.net.system.name} on {model.mesh.quality().text()}")
    return model


def mesh(path: str) -> dict[str, Any]:
    """Check a mesh file and return its quality and its parts."""
    found = read_mesh(path)
    parts = ", ".join(f"{k} ({len(v)} edges)" for k, v in found.groups.items())
    return {**vars(found.quality()), "parts": parts}


def simulate(words: Sequence[str], out: Path | None) -> dict[str, Any]:
    """Run the truth's solver for a recipe, as far as its cache lacks it, and write its trajectories."""
    from apps.pde.data import folder, joined, posed
    from apps.pde.data import simulate as run
    from core.run.config import load_recipe
    from core.run.launch import read

    order = read(words)
    recipe = load_recipe("pde", order.recipe, order.overrides)
    if recipe.data.file:
        raise UsageError("is read, not simulated", field="data.file", value=recipe.data.file)
    if out is not None:
        check_format(out)
    own, grid = posed(recipe.data)
    say(grid.quality().text())
    began = time.process_time()
    parts = run(recipe.data, own, grid, recipe.seed, say=say)
    first = parts["train"]
    result: dict[str, Any] = {k: len(v) for k, v in parts.items()}
    result |= {"states": first.states.shape[1], "nodes": len(first.mesh), "dt": first.dt,
               "processor_seconds": round(time.process_time() - began, 1)}  # fmt: skip
    if recipe.data.cache:
        result["cache"] = str(folder(recipe.data, recipe.seed))
    if out is not None and out.suffix == ".npz":
        result["out"] = str(joined(parts).save(out))
    elif out is not None:
        from apps.pde.generate import Fields

        result["out"] = str(Fields(first.mesh, first.fields, first.times, first.states[0]).write(out))
    return result


def rollout(name: str, *, steps: int, row: int, every: int, out: Path | None, mesh_file: str, members: int,
            noise: float, seed: int) -> dict[str, Any]:  # fmt: skip
    """Roll a test trajectory's start out and compare with the truth as far as that goes.

    On another mesh start and truth are those of the trajectory's mesh, carried over by linear elements (`transfer.py`).
    """
    from apps.pde.data import splits
    from apps.pde.transfer import carried

    if out is not None:
        check_format(out)
    if every > steps:
        raise UsageError(f"must be at most the {steps} steps", field="every", value=every)
    model = load(name, mesh_file)
    test = splits(model.recipe.data, model.recipe.seed).test
    if not 0 <= row < len(test):
        raise UsageError(f"the test part has {len(test)} trajectories", field="row", value=row)
    given = {k: float(v[row]) for k, v in test.parameters.items() if k in model.net.system.parameters}
    states = carried(test.mesh, test.states[row], model.mesh) if mesh_file else test.states[row]
    began, t = time.perf_counter(), float(test.times[0])
    if members > 1:
        spread = replace(model.spread, start=noise)
        fields, _ = model.ensemble(states[0], steps, members, spread, seed, t, given, every)
    else:
        fields = model.rollout(states[0], steps, t, given, every)
    seconds = time.perf_counter() - began
    shared = min(len(fields.times), (len(states) - 1) // every + 1)
    truth = states[::every][:shared]
    result: dict[str, Any] = {"states": len(fields.times), "end": float(fields.times[-1]), "seconds": round(seconds, 3)}
    result["mse"] = metrics.mse(fields.states[:shared], truth)
    result["correlation_end"] = float(metrics.correlation(fields.states[:shared], truth)[-1])
    if out is not None:
        result["out"] = str(fields.write(out))
    return result


def calibrate(name: str, *, further: int) -> dict[str, Any]:
    """Calibrate a model's ensembles on validation trajectories and keep the result beside its weights."""
    from apps.pde.ensemble import save

    model = load(name)
    began = time.process_time()
    found = model.calibrate(further)
    assert model.path is not None
    result: dict[str, Any] = {"sigma": found.tendency, "rings": found.rings, "memory": found.memory}
    result |= {"floor": found.floor, "least": found.least, "scale": " ".join(f"{s:.3f}" for s in found.scale)}
    result |= {"at": " ".join(f"{t:.3g}" for t in found.times), "out": str(save(found, model.path))}
    return result | {"processor_seconds": round(time.process_time() - began, 1)}


def sample(name: str, *, n: int, steps: int, seed: int, out: Path | None) -> dict[str, Any]:
    """Draw states and maybe write them as a series."""
    from apps.pde.generate import Fields

    if out is not None:
        check_format(out)
    model = load(name)
    drawn = np.stack(model.sample(n, steps=steps, seed=seed))
    result: dict[str, Any] = {"samples": n, "mean": float(drawn.mean()), "std": float(drawn.std())}
    if out is not None:
        fields = Fields(model.mesh, model.net.system.fields, np.arange(n, dtype=float), drawn)
        result["out"] = str(fields.write(out))
    return result


def evaluate(name: str, *, n: int) -> dict[str, Any]:
    """Judge a model on test trajectories beside the baselines that know as much."""
    from apps.pde.baselines import Operators, Sparse
    from apps.pde.data import splits

    model = load(name)
    data = splits(model.recipe.data, model.recipe.seed)
    test = data.test.select(slice(0, n))
    steps = test.states.shape[1] - 1
    shape, nodes = model.recipe.model, len(model.net.points)
    if many := nodes > MANY and shape.fine > 0:
        shape, nodes = replace(shape, fine=0), len(model.mesh)
    known = Operators(data.system, model.mesh, test.dt, shape, model.recipe.data.substeps)
    sparse = Sparse(known.net).fit(data.train, data.valid)
    result: dict[str, Any] = {"split": "test trajectories, other initial states than those of training",
                              "trajectories": len(test), "states": steps + 1}  # fmt: skip
    if many:
        result["baselines_solved_on"] = f"the {nodes} given nodes (inside, hours)"
    makers = {"model": model.rollouts, "known_operators": known.rollout, "sparse_regression": sparse.rollout}
    for label, make in makers.items():
        began = time.process_time()
        out = make(test.states[:, 0], steps, test.parameters, float(test.times[0]))
        result[f"{label}_mse"] = metrics.mse(out, test.states)
        result[f"{label}_correlation_end"] = float(metrics.correlation(out, test.states)[:, -1].mean())
        result[f"{label}_seconds"] = round((time.process_time() - began) / len(test), 3)
    return result


def assimilate(words: Sequence[str], *, sensors: int, noise: float, row: int, frame: int, members: int, seed: int,
               out: Path | None) -> dict[str, Any]:  # fmt: skip
    """Find a test state of a recipe from noisy sensors, beside gappy POD and interpolation."""
    from apps.pde.assimilate import compare, read
    from apps.pde.data import splits
    from apps.pde.generate import Fields
    from core.run.config import load_recipe
    from core.run.launch import read as order

    if out is not None:
        check_format(out)
    single()
    asked = order(words)
    recipe = load_recipe("pde", asked.recipe, asked.overrides)
    data = splits(recipe.data, recipe.seed)
    readings = read(data.test, row, frame, sensors, noise, seed)
    found, drawn, _ = compare(data, [readings], members, seed)
    result: dict[str, Any] = {"sensors": sensors, "nodes": len(data.test.mesh)}
    result |= {f"{k}_error" if k != "gappy_pod_rank" else k: v for k, v in found.items()}
    result["coverage_of_90_percent"] = metrics.coverage(drawn[0], readings.truth)
    if out is not None:
        mean, spread = drawn[0].mean(0)[None], drawn[0].std(0, ddof=1)[None]
        fields = Fields(data.test.mesh, data.test.fields, data.test.times[[frame]], mean, spread)
        result["out"] = str(fields.write(out))
    return result


def demo(folder: Path) -> list[Section]:
    """Run the app's main job on embedded data."""
    from apps.pde.demo import sections

    single()
    return sections(folder)
