"""DNA: masked diffusion over bases, under hard rules.

from apps.bio import dna
designs = dna.load("toy").sample(64, constraints=[dna.forbid("BsaI", "BsmBI"), dna.gc(0.4, 0.6)], seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from apps.bio.generate import SequenceModel

SPECS = ("forbid", "require", "homopolymer", "gc", "fix", "keep", "frame", "alphabet", "spacing")
"""The words of `apps.bio.constraints` that this package offers too."""

__all__ = ["SPECS", "load"]


def load(name: str | Path, device: str = "cpu") -> SequenceModel:
    """Return a trained DNA model (arguments as in `apps.bio.load`).

    Raises:
        CheckpointError: absent, damaged, of another app, or not of DNA.
    """
    from apps import bio
    from core.errors import CheckpointError

    model = bio.load(name, device)
    if model.recipe.kind != "dna":
        raise CheckpointError("is not a model of DNA", field=str(name), value=model.recipe.kind)
    return model


def __getattr__(name: str) -> Any:
    """Return a word of the constraint vocabulary; it is imported only when used."""
    if name in SPECS:
        from apps.bio import constraints

        return getattr(constraints, name)
    raise AttributeError(name)
