"""DNA, proteins and peptides: masked diffusion under hard rules, tuned to rewards that are judged by others.

from apps import bio
model = bio.load("toy")
designs = model.sample(64, constraints=[bio.dna.forbid("BsaI")], seed=0)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("dna", "protein", "peptide")

__all__ = ["KINDS", "load"]


def __getattr__(name: str) -> Any:
    """Return the package of one kind of molecule, imported when it is first asked for."""
    if name in KINDS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(name: str | Path, device: str = "cpu") -> Any:
    """Return a trained model: a `SequenceModel`, or what the recipe's kind (protein, peptide) makes of the checkpoint.

    Args:
        name: a model that ships with the package (`toy`), a run's folder or a checkpoint's.
        device: where the network runs.

    Raises:
        CheckpointError: absent, damaged, or of another app.
    """
    from apps.bio.generate import restore

    return restore(name, device)
