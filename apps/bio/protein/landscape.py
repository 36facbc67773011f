"""The GB1 landscape: four sites of protein G's domain B1, with the measured binding of 149,361 of 160,000 variants.

Sites V39, D40, G41 and V54; fitness is binding to IgG-Fc relative to the wild type VDGV, whose fitness is 1. It is a
true reward: whether steering worked can be judged by measurement, without a surrogate.

Reference: Wu, Dai, Olson, Lloyd-Smith, Sun, 2016, "Adaptation in protein fitness landscapes is facilitated by indirect
paths", eLife 5:e16965.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import DataError

__all__ = ["LETTERS", "WILD_TYPE", "Landscape", "load"]

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
WILD_TYPE = "VDGV"
FILE = "protein/stability/gb1_four_site_fitness.csv.gz"
SITES, K = 4, 20


@dataclass(frozen=True, eq=False)
class Landscape:
    """Measured fitness of every variant.

    Args:
        fitness: float64 [160000] in lexicographic order of tokens, NaN where it was not measured.
    """

    fitness: Tensor
    name: str = "GB1 fitness"

    @property
    def measured(self) -> Tensor:
        """Return which variants were measured, bool [160000]."""
        return ~self.fitness.isnan()

    def score(self, x: Tensor) -> Tensor:
        """Return the fitness [B] of tokens [B, 4], NaN where it was not measured."""
        return self.fitness[code(x)]


def code(x: Tensor) -> Tensor:
    """Return the place of tokens [B, 4] among all variants, int64 [B]."""
    return (x * K ** torch.arange(SITES - 1, -1, -1)).sum(-1)


def variants() -> Tensor:
    """Return the tokens of all variants in order, int64 [160000, 4]."""
    return torch.cartesian_prod(*[torch.arange(K)] * SITES)


def load(folder: Path) -> Landscape:
    """Read the table below a folder of biological data.

    Raises:
        DataError: it is absent, or a row is no variant with a finite fitness.
    """
    path = folder / FILE
    if not path.is_file():
        raise DataError("is absent", field="GB1 table", value=str(path))
    fitness = np.full(K**SITES, np.nan)
    place = {letter: n for n, letter in enumerate(LETTERS)}
    with gzip.open(path, "rt", encoding="ascii") as file:
        if next(file).strip() != "variant,fitness":
            raise DataError("needs the columns variant,fitness", field=path.name)
        for number, line in enumerate(file, 2):
            variant, _, value = line.strip().partition(",")
            try:
                a, b, c, d = (place[letter] for letter in variant)
                fitness[((a * K + b) * K + c) * K + d] = float(value)
            except (KeyError, ValueError) as error:
                raise DataError(f"line {number} is no variant with its fitness", field=path.name, value=line) from error
    return Landscape(torch.from_numpy(fitness))
