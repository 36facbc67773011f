"""Neural architectures: graph diffusion steered to better cells in few queries; every sample is a valid cell.

from apps import nas
model = nas.load("toy")
cells = model.sample(8, seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from apps.nas.generate import CellModel

__all__ = ["load"]


def load(name: str | Path, device: str = "cpu") -> CellModel:
    """Return a trained model.

    Args:
        name: a recipe that trains in seconds (`toy`), a run's folder or a checkpoint's.
        device: where the network runs.

    Raises:
        CheckpointError: damaged, or of another app.
    """
    from apps.nas.generate import restore

    return restore(name, device)
