"""What the benchmarks of the pde app share: trained models and kept data, or nothing where they are not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apps.pde.data import Splits, Trajectories
    from apps.pde.generate import FieldModel
    from apps.pde.model import ModelConfig

__all__ = ["RUNS", "fast_wakes", "kept", "model", "remembered", "told", "wakes"]

RUNS = Path("runs/pde")
FAST = {600: 2.5e-3, 800: 2.5e-3, 1000: 1.25e-3}  # Reynolds number: the truth's time step
UNRELATED = ("cli", "cycle", "demo", "ensemble", "pictures", "reports", "verbs", "pde_ablation", "pde_assimilation",
             "pde_constraints", "pde_cost", "pde_resolution", "pde_solver", "pde_stability",
             "pde_uncertainty")  # fmt: skip


def model(name: str) -> FieldModel | None:
    """Return the model of a finished run `runs/pde/NAME`, or None."""
    from apps import pde

    folder = RUNS / name
    return pde.load(folder / "model") if (folder / "model").is_dir() else None


def kept(recipe: str, changes: Sequence[str] = ()) -> Splits | None:
    """Return a recipe's trajectories: as many tests as are kept; None where training or validation lacks any.

    Args:
        recipe: its name.
        changes: settings, `data.shape=hole`.
    """
    from apps.pde.data import folder, splits
    from apps.pde.truth import labels
    from core.run.config import load_recipe

    own = load_recipe("pde", recipe, list(changes))
    store = folder(own.data, own.seed)
    there = {part: [(store / f"{one.name}.npz").exists() for one in rows] for part, rows in labels(own.data).items()}
    if not (all(there["train"]) and all(there["valid"]) and any(there["test"])):
        return None
    numbers = [r for r, has in zip(own.data.reynolds_test, there["test"], strict=False) if has]
    tests = there["test"].index(False) if False in there["test"] and not numbers else len(there["test"])
    return splits(replace(own.data, test=tests, reynolds_test=numbers), own.seed)


def wakes() -> tuple[Splits | None, str]:
    """Return the cylinder's trajectories and a remark on their tests.

    Where none of the tests is kept, the validation trajectory (Re 260) is the test: models of wakes choose nothing
    on it.
    """
    if (data := kept("cylinder")) is not None:
        return data, "Tests at Re " + ", ".join(f"{n:g}" for n in data.test.parameters["Re"]) + "."
    data = kept("cylinder", ["data.reynolds_test=[260]"])
    if data is None:
        return None, "The cylinder's trajectories are not there."
    return (
        data,
        "One test, Re 260: the recipe's validation trajectory, on which no model of wakes chose anything; its \
other tests were not simulated.",
    )


def fast_wakes() -> list[Trajectories]:
    """Return the kept test trajectories at Re 600 to 1000, 12.5 D/U long, whose truth is on the mesh refined once."""
    out = []
    for number, dt in FAST.items():
        own = [f"data.{part}=[{number}]" for part in ("reynolds", "reynolds_valid", "reynolds_test")]
        data = kept("cylinder", ["data.fine=1", f"data.truth_dt={dt}", "data.steps=500", *own])
        out += [] if data is None else [data.test]
    return out


def remembered(own: Sequence[str], models: Sequence[FieldModel], data: Splits, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, a JSON value, made once for the same names, weights, data and code of the models.

    So that a benchmark of many systems goes on where it was interrupted.
    """
    code = hashlib.sha256()
    for path in sorted([*Path("apps/pde").glob("*.py"), *Path("benchmarks").glob("*pde*.py")]):
        if path.stem not in UNRELATED:
            code.update(path.read_bytes())
    for m in models:
        for name, value in sorted(m.net.state_dict().items()):
            code.update(name.encode() + value.numpy().tobytes())
    code.update(repr(own).encode() + data.test.states[:, -1].tobytes() + data.train.states[:, -1].tobytes())
    file = Path(".cache/pde/judged") / f"{code.hexdigest()[:16]}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(make())
        part = file.with_suffix(f".part-{os.getpid()}")
        part.write_text(text)
        os.replace(part, file)
    return json.loads(file.read_text())


def told(config: ModelConfig) -> ModelConfig:
    """Return the model that is told the whole equation."""
    return replace(config, knowledge="full")
