"""Protein design for a backbone: inverse folding by masked diffusion, and the stability of mutations.

from apps.bio import protein
model = protein.load("protein")
designs = model.design("1PGA.pdb", fix="A1-6,A23", n=8, seed=0)
designs.to_pdb("out")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from apps.bio.protein.generate import InverseFolder

__all__ = ["load"]


def load(name: str | Path, device: str = "cpu") -> InverseFolder:
    """Return a trained inverse-folding model (a model that ships, a run's folder or a checkpoint's).

    Raises:
        CheckpointError: absent, damaged, or of another kind.
    """
    from apps.bio.protein.generate import restore

    return restore(name, device)
