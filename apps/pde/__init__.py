"""Fields on irregular meshes: physics through accurate operators, the unknown rest through a network.

from apps import pde
model = pde.load("runs/pde/toy")
fields = model.rollout(u, steps=200)
fields.write("wake.xdmf")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from apps.pde.generate import FieldModel

__all__ = ["load"]


def load(name: str | Path, mesh: str = "", device: str = "cpu") -> FieldModel:
    """Return a trained model.

    Args:
        name: a model that ships with the package (`toy`), a run's folder or a checkpoint's.
        mesh: another mesh than that of the training, a file.
        device: where it runs.

    Raises:
        CheckpointError: damaged, or of another app.
        DataError: the mesh is missing or malformed.
    """
    from apps.pde.generate import restore

    return restore(name, mesh, device)
