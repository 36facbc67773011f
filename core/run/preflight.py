"""Try a recipe without training it: compose, build, one batch, one gradient. Or verify a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import QuintetError
from core.run.config import load_recipe, locate
from core.run.launch import read

__all__ = ["preflight"]


def preflight(domain: str, schema: str, words: Sequence[str]) -> dict[str, Any]:
    """Return what was found out about a recipe (with overrides) or about a checkpoint folder.

    Raises:
        QuintetError: what is wrong, in one line.
    """
    if words and Path(words[0]).is_dir():
        return verify(domain, Path(words[0]))
    order = read(words)
    recipe = load_recipe(domain, order.recipe, order.overrides, schema)
    return {"recipe": order.recipe, **gradient(locate(f"apps.{domain}.task:make")(recipe), recipe.trainer.steps)}


def verify(domain: str, path: Path) -> dict[str, Any]:
    """Read a checkpoint, every byte against its checksum."""
    from core.run.checkpoint import load

    found = load(path, app=domain)
    size = sum(v.numel() for v in found.weights.values())
    return {"checkpoint": str(found.path), "step": found.step, "values": size, "intact": True, **found.metrics}


def gradient(task: Any, steps: int) -> dict[str, Any]:
    """Make one gradient of a task on the CPU and time it."""
    module = task.module().train()
    began = time.perf_counter()
    batch = task.batch(0, 0, 1)
    read_seconds = time.perf_counter() - began
    loss, _ = task.loss(module, batch, 0)
    loss.backward()
    seconds = time.perf_counter() - began
    value = float(loss.detach())
    if not math.isfinite(value):
        raise QuintetError("the first loss is not finite", field="check", value=value)
    idle = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "without_gradient": len(idle),
        "first_loss": value,
        "batch_seconds": round(read_seconds, 4),
        "step_seconds": round(seconds, 4),
        "estimated_minutes": round(seconds * steps / 60, 1),
    }
