"""Backbones with their native sequences, and the folds of clusters.

A file of backbones holds the atoms N, CA, C, O of many chains end to end; a table beside it gives each chain's
sequence and its cluster of 40 % identity. Whole clusters go to a fold: fold 0 judges and nothing else, fold k >= 1 is
what member k - 1 does not see. Clusters are dealt out by descending number of chains, so that folds are of like size,
and in an order that a hash of their first chain's name decides: nobody chose.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from core.errors import DataError

__all__ = ["AMINO", "Backbones", "distinct", "folds", "joined", "places", "read_backbones", "together"]

AMINO = "ACDEFGHIKLMNPQRSTVWY"
"""The alphabet: token k is letter k, the mask is token 20."""

BOND = 2.0
"""Longest C-N distance, angstrom, at which two residues count as joined."""


@dataclass(frozen=True, eq=False)
class Backbones:
    """Chains with known structure and sequence.

    Args:
        names: `1ABCA`, entry and chain.
        coords: N, CA, C, O of each chain, float32 [L, 4, 3].
        number: author residue numbers, int [L].
        tokens: native sequences, int64 [L].
        cluster: int [n].
        resolution: angstrom, NaN where there is none.
    """

    names: list[str]
    coords: list[np.ndarray]
    number: list[np.ndarray]
    tokens: list[np.ndarray]
    cluster: np.ndarray
    resolution: np.ndarray

    def __len__(self) -> int:
        """Number of chains."""
        return len(self.names)

    def first(self, n: int) -> Backbones:
        """Return the first n chains."""
        return Backbones(self.names[:n], self.coords[:n], self.number[:n], self.tokens[:n], self.cluster[:n],
                         self.resolution[:n])  # fmt: skip

    @cached_property
    def by_sequence(self) -> dict[str, int]:
        """The first chain of each sequence."""
        found: dict[str, int] = {}
        for i, x in enumerate(self.tokens):
            found.setdefault("".join(AMINO[v] for v in x), i)
        return found


def read_backbones(folder: str | Path) -> Backbones:
    """Read `backbones.npz` and `.csv` of a folder (`collect`), or `backbones_30_300aa` of the measured set.

    Raises:
        DataError: a file is missing, or the two do not fit.
    """
    stem = Path(folder) / "backbones"
    if not stem.with_suffix(".npz").is_file():
        stem = Path(folder) / "backbones_30_300aa"
    try:
        with np.load(stem.with_suffix(".npz")) as held:
            offsets, coords, number = held["offsets"], held["coords"], held["resnum"]
        with stem.with_suffix(".csv").open() as file:
            rows = list(csv.DictReader(file))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"cannot be read ({error})", field="protein.data", value=str(folder)) from None
    tokens = [np.array([AMINO.index(a) for a in row["seq"]], np.int64) for row in rows]
    if len(rows) != len(offsets) - 1 or any(
        len(x) != b - a for x, a, b in zip(tokens, offsets, offsets[1:], strict=False)
    ):
        raise DataError("sequences and coordinates differ in number", field=str(stem))
    parts = [slice(a, b) for a, b in zip(offsets, offsets[1:], strict=False)]
    return Backbones(
        [row["pdb"] + row["chain"] for row in rows], [coords[p] for p in parts], [number[p] for p in parts], tokens,
        np.array([int(row["cluster"]) for row in rows]), np.array([float(row["resolution"] or "nan") for row in rows]),
    )  # fmt: skip


def together(data: Backbones, more: Backbones) -> Backbones:
    """Return two sets as one, the first in front; equal numbers of clusters mean one cluster (`collect`, beside)."""
    return Backbones(
        data.names + more.names, data.coords + more.coords, data.number + more.number, data.tokens + more.tokens,
        np.concatenate([data.cluster, more.cluster]), np.concatenate([data.resolution, more.resolution]),
    )  # fmt: skip


def folds(data: Backbones, count: int) -> np.ndarray:
    """Return the fold 0 .. count - 1 of each chain, int64 [n]; a cluster is never split."""
    first = {int(c): data.names[i] for i, c in reversed(list(enumerate(data.cluster)))}
    size = {c: int((data.cluster == c).sum()) for c in first}
    key = {c: hashlib.sha256(name.encode()).hexdigest() for c, name in first.items()}
    order = sorted(first, key=lambda c: (-min(size[c], 8), key[c]))
    fold = {c: (i % count if (i // count) % 2 == 0 else count - 1 - i % count) for i, c in enumerate(order)}
    return np.array([fold[int(c)] for c in data.cluster])


def distinct(data: Backbones, share: float = 0.8) -> np.ndarray:
    """Return which chains are not near copies of one before them in their cluster, bool [n].

    A near copy has `share` of its triples of letters, or of the other's. The chains of best resolution come first.
    """
    out = np.zeros(len(data), bool)
    for c in np.unique(data.cluster):
        kept: list[set[bytes]] = []
        rows = np.flatnonzero(data.cluster == c)
        for i in rows[np.argsort(np.nan_to_num(data.resolution[rows], nan=9.0), kind="stable")]:
            word = data.tokens[i].astype(np.uint8).tobytes()
            triples = {word[k : k + 3] for k in range(len(word) - 2)}
            if all(len(triples & other) < share * min(len(triples), len(other)) for other in kept):
                kept.append(triples)
                out[i] = True
    return out


def joined(coords: np.ndarray) -> np.ndarray:
    """Return which residues are bonded to the one before them, bool [L]."""
    gap = np.linalg.norm(coords[1:, 0] - coords[:-1, 2], axis=-1)
    return np.concatenate([[False], gap < BOND])


def places(number: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """Return positions along the chain, int64 [L]: +1 where bonded, else as the author's numbers jump (at least 1)."""
    jump = np.maximum(np.diff(number), 1)
    return np.concatenate([[0], np.cumsum(np.where(bonded[1:], 1, np.minimum(jump, 100)))]).astype(np.int64)
