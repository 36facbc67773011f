"""The training task of a recipe: each kind of molecule has its own, found by its dotted path."""

from __future__ import annotations

from typing import Any

from apps.bio.model import KINDS, Recipe
from core.run.config import locate

__all__ = ["make"]


def make(recipe: Recipe) -> Any:
    """Return the task of a recipe (`core.run.train.Task`)."""
    return locate(f"{KINDS[recipe.kind]}.task:make")(recipe)
