"""What the benchmarks of the pde app share: models that are trained once and kept, and who is judged beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import ROOT

if TYPE_CHECKING:
    from apps.pde.generate import FieldModel
    from apps.pde.model import Recipe

__all__ = ["RUNS", "recipe", "trained"]

RUNS = ROOT / ".cache" / "pde" / "runs"


def recipe(name: str, words: Sequence[str] = (), seed: int = 0) -> Recipe:
    """Return a recipe with overrides; its data are those of seed 0 whatever the seed of the training."""
    from core.run.config import load_recipe

    return load_recipe("pde", name, [*words, f"seed={seed}", "data.seed=0"])


def trained(name: str, words: Sequence[str] = (), seed: int = 0) -> FieldModel:
    """Return the model of a recipe, trained here or, where that is done, read."""
    import hashlib

    from apps import pde
    from core.run.launch import run

    own = recipe(name, words, seed)
    key = hashlib.sha256(repr(sorted(words)).encode()).hexdigest()[:8]
    folder = RUNS / f"{name}-{key}-{seed}"
    done = folder / "done"
    if not done.exists():
        run("pde", own, folder, None)
        done.touch()
    return pde.load(Path(folder))
