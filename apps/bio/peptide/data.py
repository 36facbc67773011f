"""Sets of short peptides, and parts that share no family.

A file has a line of counts and then `sequence,label`. Doubles are dropped (label 1 wins). Peptides that share a third
of their 4-mers with another belong to one family (single linkage); families, never peptides, are dealt to parts by a
hash of their first member, so that a near copy of what is judged was not trained on.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.bio.protein.data import AMINO
from core.errors import DataError

__all__ = ["PARTS", "Peptides", "read_peptides"]

PARTS = ("train", "tune", "judge", "test")
"""What the generator trains on; what the tuned classifier and the judging one train on; what tests them."""

SHARES = (0.5, 0.7, 0.9)
WORD, SHARED = 4, 0.34


@dataclass(frozen=True, eq=False)
class Peptides:
    """Peptides with labels: tokens, label and family of each."""

    tokens: list[np.ndarray]
    label: np.ndarray
    family: np.ndarray

    def part(self, name: str) -> Peptides:
        """Return one of the four parts."""
        first: dict[int, str] = {}
        for x, f in zip(self.tokens, self.family, strict=True):
            first.setdefault(int(f), "".join(AMINO[v] for v in x))
        share = {f: int(hashlib.sha256(s.encode()).hexdigest()[:8], 16) / 16**8 for f, s in first.items()}
        which = np.searchsorted(SHARES, [share[int(f)] for f in self.family], side="right")
        return self.select(np.flatnonzero(which == PARTS.index(name)))

    def select(self, rows: np.ndarray) -> Peptides:
        """Return some peptides."""
        return Peptides([self.tokens[i] for i in rows], self.label[rows], self.family[rows])

    def strings(self) -> list[str]:
        """Return the sequences."""
        return ["".join(AMINO[v] for v in x) for x in self.tokens]


def read_peptides(path: str | Path, longest: int = 40, shortest: int = 4) -> Peptides:
    """Read a file of peptides.

    Raises:
        DataError: missing, or a line is no peptide of the twenty residues with a label.
    """
    found: dict[str, int] = {}
    try:
        with Path(path).open() as file:
            next(file)
            for row in filter(any, csv.reader(file)):  # no blank lines
                word, label = row[0].strip().upper(), int(row[1])
                if set(word) - set(AMINO):
                    raise DataError("holds a letter that is none of the twenty residues", field=str(path), value=word)
                if shortest <= len(word) <= longest:
                    found[word] = max(found.get(word, 0), label)
    except (OSError, StopIteration, IndexError, ValueError) as error:
        raise DataError(f"is not a table of peptides ({error})", field="peptide.data", value=str(path)) from None
    words = sorted(found)
    tokens = [np.array([AMINO.index(a) for a in w], np.int64) for w in words]
    return Peptides(tokens, np.array([found[w] for w in words]), _families(words))


def _families(words: list[str]) -> np.ndarray:
    """Return the family of each word, int64 [n]: the smallest index in it."""
    pieces = [{w[i : i + WORD] for i in range(len(w) - WORD + 1)} for w in words]
    holders: dict[str, list[int]] = defaultdict(list)
    parent = list(range(len(words)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, mine in enumerate(pieces):
        shared: dict[int, int] = defaultdict(int)
        for piece in mine:
            for j in holders[piece]:
                shared[j] += 1
            holders[piece].append(i)
        for j, count in shared.items():
            if count >= SHARED * min(len(mine), len(pieces[j])):
                a, b = sorted((root(i), root(j)))
                parent[b] = a
    return np.array([root(i) for i in range(len(words))])
