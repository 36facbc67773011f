"""The recipe's part that is only about peptides."""

from __future__ import annotations

from dataclasses import dataclass

from core.run.config import setting

__all__ = ["PeptideConfig"]


@dataclass
class PeptideConfig:
    """Peptides: a sequence model over twenty residues, each peptide at its own length.

    `data` is a file with a header line and `sequence,label` lines; only sequences of `label` train the generator.
    Sequences longer than `longest` are left out. `dim`, `depth`, `heads`, `dropout` are the network's, `batch` the
    peptides of a step.
    """

    data: str = setting("../shared/data/bio/peptide/AMPvsUniProt.csv")
    label: int = setting(1, low=0, high=1)
    longest: int = setting(40, low=4)
    dim: int = setting(96, low=8)
    depth: int = setting(3, low=1)
    heads: int = setting(4, low=1)
    dropout: float = setting(0.1, low=0, high=0.9)
    batch: int = setting(64, low=1)
