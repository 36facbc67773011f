"""What the benchmarks of the pde app share: trained models and kept data, or nothing where they are not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apps.pde.data import Splits
    from apps.pde.generate import FieldModel
    from apps.pde.model import ModelConfig

__all__ = ["RUNS", "kept", "model", "told"]

RUNS = Path("runs/pde")


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


def told(config: ModelConfig) -> ModelConfig:
    """Return the model that is told the whole equation."""
    return replace(config, knowledge="full")
