"""Measured mutations on backbones that are known, and two predictors to compare with.

Rows come from curated sets of single mutations (S2648, s669, Ssym) and from the mega-scale proteolysis experiment
(Tsuboyama et al. 2023); they count where a backbone has exactly the wild-type sequence. ddG is in kcal/mol, positive =
stabilising. The baseline is a linear regression on BLOSUM62, burial and their product.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.bio.protein.data import AMINO, Backbones
from core.errors import DataError

__all__ = ["SETS", "Variants", "blosum", "leave_out", "read_variants"]

SETS = {"megascale": "megascale_subset", "S2648": "S2648", "s669": "s669", "ssym": "ssym"}


@dataclass(frozen=True, eq=False)
class Variants:
    """Single mutations with a backbone.

    Args:
        chain: number of the chain in the backbones, int [n].
        mutant: number of a chain with the mutant sequence, -1 where there is none.
        site, wild, to: position in the chain and tokens, int [n].
        ddg: kcal/mol, positive = stabilising.
        source: the set of each row.
    """

    chain: np.ndarray
    mutant: np.ndarray
    site: np.ndarray
    wild: np.ndarray
    to: np.ndarray
    ddg: np.ndarray
    source: np.ndarray

    def select(self, rows: np.ndarray) -> Variants:
        """Return some rows."""
        return Variants(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def read_variants(folder: str | Path, data: Backbones, names: tuple[str, ...]) -> Variants:
    """Read sets of mutations of the folder `stability`; rows without a backbone are left out.

    Raises:
        DataError: a file is missing, a row contradicts its sequence, or none has a backbone.
    """
    rows = []
    for name in names:
        path = Path(folder) / "stability" / f"{SETS[name]}.csv"
        try:
            with path.open() as file:
                table = list(csv.DictReader(file))
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", field=str(path)) from None
        for row in table:
            chain = data.by_sequence.get(row["wt_seq"])
            if chain is None:
                continue
            site, wild, to = int(float(row["pos"])), row["mut_info"][0], row["mut_info"][-1]
            if row["wt_seq"][site] != wild or row["mut_seq"][site] != to:
                raise DataError("the mutation is not where the row says", field=str(path), value=row["mut_info"])
            mutant = data.by_sequence.get(row["mut_seq"], -1)
            rows.append((chain, mutant, site, AMINO.index(wild), AMINO.index(to), float(row["ddg"]), name))
    if not rows:
        raise DataError("no measured mutation is of one of the backbones", field=str(Path(folder) / "stability"))
    columns = list(zip(*rows, strict=True))
    return Variants(*(np.array(c) for c in columns))


def blosum(wild: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Return BLOSUM62 scores of substitutions, float64 [n]."""
    from Bio.Align import substitution_matrices

    table: Any = substitution_matrices.load("BLOSUM62")
    return np.array([float(table[AMINO[a], AMINO[b]]) for a, b in zip(wild, to, strict=True)])


def leave_out(score: np.ndarray, burial: np.ndarray, ddg: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the baseline's predictions, each group (cluster) predicted from all others, float64 [n]."""
    x = np.stack([np.ones_like(score), score, burial, score * burial], 1)
    out = np.zeros(len(ddg))
    for g in np.unique(group):
        train = group != g
        out[~train] = x[~train] @ np.linalg.lstsq(x[train], ddg[train], rcond=None)[0]
    return out
