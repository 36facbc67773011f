"""Sets of backbones from structure files: what the inverse-folding recipes train on, made from a user's own files.

Each chain with enough complete residues becomes an entry; a sequence met before is left out. Chains are clustered as
they come. A chain joins the cluster of the chain of best local alignment (BLOSUM62, gaps 11 and 1) if so good a score
S is not expected by chance among as many residues,

    E = K m n exp(-lambda S) <= `expect`,      K = 0.041, lambda = 0.267, m residues against n in all

(Karlin and Altschul 1990; Altschul et al. 1997, Nucleic Acids Res. 25:3389), or if 40 % of the shorter chain is equal,
and else founds one. The first finds relatives of a quarter of equal residues in long chains, the second those of short
ones.

A set made `beside` another speaks of its clusters too: a chain that is like one of them takes its number, so that what
is held back there is held back here (`FoldingTask`).
"""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from apps.bio.protein.data import AMINO, Backbones, distinct, read_backbones
from apps.bio.protein.structure import Structure, read_structure
from core.errors import DataError, QuintetError
from core.run import outputs

__all__ = ["Collection", "backbones", "collect", "relative", "shared"]

SHORTEST, LONGEST, EXPECT, IDENTITY = 30, 500, 0.01, 0.4
K, LAMBDA = 0.041, 0.267
TOLD = 5


@dataclass(eq=False)
class Collection:
    """Chains with their clusters, ready to be written, and what was left out.

    Args:
        names: file and chain. sequences: native letters. coords: [L, 4, 3] each. number: [L] each.
        cluster: of each chain.
        left_out: name and reason.
    """

    names: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    coords: list[np.ndarray] = field(default_factory=list)
    number: list[np.ndarray] = field(default_factory=list)
    cluster: list[int] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write `backbones.npz` and `.csv`, both or none."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = [folder / f"backbones.{kind}.part" for kind in ("npz", "csv")]
        size = [len(s) for s in self.sequences]
        with parts[0].open("wb") as file:
            np.savez_compressed(file, offsets=np.concatenate([[0], np.cumsum(size)]),
                                coords=np.concatenate(self.coords), resnum=np.concatenate(self.number))  # fmt: skip
        with parts[1].open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["pdb", "chain", "length", "method", "resolution", "seq", "cluster"])
            for name, letters, cluster in zip(self.names, self.sequences, self.cluster, strict=True):
                table.writerow([*name.rsplit(":", 1), len(letters), "", "", letters, cluster])
        for part in parts:
            os.replace(part, part.with_suffix(""))


@cache
def _aligner(mode: str) -> Any:
    from Bio.Align import PairwiseAligner, substitution_matrices

    found: Any = PairwiseAligner(mode=mode)
    found.substitution_matrix = substitution_matrices.load("BLOSUM62")
    found.open_gap_score, found.extend_gap_score = -11, -1
    if mode == "global":
        found.end_gap_score = 0
    return found


def shared(a: str, b: str) -> float:
    """Return the equal residues of the best global alignment (free ends) over the length of the shorter, 0 to 1."""
    if a == b:
        return 1.0
    blocks = _aligner("global").align(a, b)[0].aligned
    x, y = np.frombuffer(a.encode(), np.uint8), np.frombuffer(b.encode(), np.uint8)
    equal = sum(int((x[i:j] == y[k:m]).sum()) for (i, j), (k, m) in zip(*blocks, strict=True))
    return equal / min(len(a), len(b))


def relative(word: str, known: Iterable[str], expect: float = EXPECT) -> str | None:
    """Return the known sequence whose cluster a sequence joins, or None (module docstring)."""
    score = {other: _aligner("local").score(word, other) for other in known}
    if not score:
        return None
    best = max(score, key=lambda other: score[other])
    chance = K * len(word) * sum(map(len, score)) * math.exp(-LAMBDA * score[best])
    return best if chance <= expect or shared(word, best) >= IDENTITY else None


def collect(
    files: Iterable[Path], *, beside: Backbones | None = None, shortest: int = SHORTEST, longest: int = LONGEST,
    expect: float = EXPECT, tell: Callable[[int, Collection], None] | None = None,
) -> Collection:  # fmt: skip
    """Return the chains of structure files, clustered.

    Args:
        files: PDB or mmCIF files; a file that cannot be read is left out with its reason.
        beside: backbones whose clusters are known already; their own sequences are not taken again.
        shortest, longest: residues of a chain that is taken.
        expect: chance matches as good that a relative may have.
        tell: called after each file with how many were read.

    Raises:
        DataError: no chain was left.
    """
    found, known = Collection(), _known(beside)
    seen = set(known) | (set(beside.by_sequence) if beside is not None else set())
    fresh = 1 + max([int(c) for c in beside.cluster] if beside is not None else [-1])
    for count, path in enumerate(files, 1):
        try:
            structure = read_structure(path)
        except QuintetError as error:
            found.left_out.append((Path(path).name, str(error)))
            continue
        for name, letters, rows in _chains(structure):
            why = "" if shortest <= len(letters) <= longest else f"{len(letters)} residues"
            why = why or ("its sequence is there already" if letters in seen else "")
            if why:
                found.left_out.append((name, why))
                continue
            like = relative(letters, known, expect)
            known[letters] = cluster = fresh if like is None else known[like]
            fresh += like is None
            seen.add(letters)
            found.names.append(name)
            found.sequences.append(letters)
            found.coords.append(structure.coords[rows])
            found.number.append(np.array([structure.residues[i].number for i in rows]))
            found.cluster.append(cluster)
        if tell is not None:
            tell(count, found)
    if not found.names:
        why = f"; the first: {': '.join(found.left_out[0])}" if found.left_out else ""
        raise DataError(f"hold no new chain of {shortest} to {longest} residues{why}", field="files")
    return found


def backbones(
    files: list[Path], *, beside: Path | None, shortest: int, longest: int, expect: float, out: Path
) -> dict[str, Any]:
    """Write the set of the files' chains to the folder `out`; return what is in it (the verb of the command line)."""
    outputs.folder(out)
    held = read_backbones(beside) if beside is not None else None

    def tell(count: int, found: Collection) -> None:
        if count % 50 == 0 or count == len(files):
            print(f"{count} of {len(files)} files: {len(found.names)} chains", file=sys.stderr)

    found = collect(files, beside=held, shortest=shortest, longest=longest, expect=expect, tell=tell)
    found.write(out)
    for name, why in found.left_out[:TOLD]:
        print(f"left out: {name}: {why}", file=sys.stderr)
    if len(found.left_out) > TOLD:
        print(f"left out: {len(found.left_out) - TOLD} more", file=sys.stderr)
    old = set(held.cluster.tolist()) if held is not None else set()
    return {
        "out": str(out), "chains": len(found.names), "residues": sum(map(len, found.sequences)),
        "clusters": len(set(found.cluster)), "chains_in_known_clusters": sum(c in old for c in found.cluster),
        "left_out": len(found.left_out),
    }  # fmt: skip


def _known(beside: Backbones | None) -> dict[str, int]:
    """Return the sequences that new chains are compared with, and their clusters."""
    if beside is None:
        return {}
    rows = np.flatnonzero(distinct(beside))
    return {"".join(AMINO[v] for v in beside.tokens[i]): int(beside.cluster[i]) for i in rows}


def _chains(structure: Structure) -> Iterable[tuple[str, str, list[int]]]:
    """Yield name, letters and rows of each chain."""
    stem = structure.name.split(".")[0]
    for chain in dict.fromkeys(r.chain for r in structure.residues):
        rows = [i for i, r in enumerate(structure.residues) if r.chain == chain]
        yield f"{stem}:{chain}", "".join(structure.residues[i].letter for i in rows), rows
