"""What the benchmarks of the pde app share: trained models and kept data, or nothing where they are not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import QuintetError

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


def kept(recipe: str) -> Splits | None:
    """Return a recipe's trajectories as far as they are kept: as many tests as there are; or None."""
    from apps.pde.data import folder, splits
    from core.run.config import load_recipe

    own = load_recipe("pde", recipe)
    store = folder(own.data, own.seed)
    tests = len(list(store.glob("test-*.npz")))
    whole = all(len(list(store.glob(f"{part}-*.npz"))) >= n
                for part, n in (("train", own.data.train), ("valid", own.data.valid)))  # fmt: skip
    if not whole or not tests:
        return None
    try:
        return splits(replace(own.data, test=min(own.data.test, tests)), own.seed)
    except QuintetError:
        return None


def told(config: ModelConfig) -> ModelConfig:
    """Return the model that is told the whole equation."""
    return replace(config, knowledge="full")
