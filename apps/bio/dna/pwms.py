"""Motifs as matrices: MEME files, and IUPAC consensus words.

The matrices are read as they stand: Biopython's reader turns probabilities into rounded counts of `nsites`, which
leaves nothing of collections whose files say `nsites= 1`.
"""

from __future__ import annotations

import gzip
import itertools
import re
from pathlib import Path

import numpy as np

from core.errors import DataError, UsageError

__all__ = ["consensus", "read_motifs"]

NUMBER = re.compile(r"[0-9.]+(?:[eE][-+]?[0-9]+)?")
IUPAC = {"A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
         "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"}  # fmt: skip


def read_motifs(path: Path) -> dict[str, np.ndarray]:
    """Return the probability matrices [w, 4] of a MEME file (maybe gzipped) by motif name.

    Raises:
        DataError: absent, or not a MEME file.
    """
    if not path.is_file():
        raise DataError("no such file", field="motifs", value=str(path))
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            text = file.read()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({type(error).__name__})", field="motifs", value=str(path)) from None
    found = {}
    for part in re.split(r"^MOTIF\s+", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("letter-probability matrix")
        rows = [line.split() for line in body.splitlines()[1:]]
        numbers = list(itertools.takewhile(lambda r: len(r) == 4 and all(map(NUMBER.fullmatch, r)), rows))
        if not head.split() or not numbers:
            raise DataError("is not a MEME file of DNA motifs", field="motifs", value=str(path))
        matrix = np.array(numbers, float)
        found[head.split()[0]] = matrix / matrix.sum(1, keepdims=True)
    if not found:
        raise DataError("holds no motif", field="motifs", value=str(path))
    return found


def consensus(word: str, mismatch: float = 0.01) -> np.ndarray:
    """Return log-odds [w, 4] against even letters of an IUPAC word; letters it excludes share `mismatch`.

    Raises:
        UsageError: a letter that is not IUPAC.
    """
    rows = []
    for letter in word.upper():
        if letter not in IUPAC:
            raise UsageError("is not an IUPAC letter", field="motif", value=letter, choices=IUPAC)
        allowed = np.array([a in IUPAC[letter] for a in "ACGT"])
        out = max(4 - allowed.sum(), 1)
        rows.append(np.where(allowed, (1 - mismatch * (out > 0) * (allowed.sum() < 4)) / allowed.sum(), mismatch / out))
    if not rows:
        raise UsageError("is empty", field="motif", value=word)
    return np.log(np.array(rows) / 0.25)
