"""Reading frames: the codons that spell a protein under a genetic code of NCBI's list, by Biopython's tables."""

from __future__ import annotations

from functools import cache

from apps.bio.dna.motifs import DNA
from core.errors import UsageError

__all__ = ["Triple", "codes", "synonyms"]

Triple = tuple[int, int, int]


@cache
def codes(code: int) -> dict[str, frozenset[Triple]]:
    """Return the codons of each amino acid, of `*` (stop) and of `X` (any amino acid).

    A codon that some readings end at and others read through (codes 27, 28, 31) stands for neither.

    Raises:
        UsageError: no such genetic code.
    """
    from Bio.Data.CodonTable import unambiguous_dna_by_id

    if code not in unambiguous_dna_by_id:
        choices = sorted(unambiguous_dna_by_id)
        raise UsageError("no such genetic code", field="code", value=code, choices=choices)
    table = unambiguous_dna_by_id[code]
    ends = {_triple(c) for c in table.stop_codons if c not in table.forward_table}
    out: dict[str, set[Triple]] = {"*": ends, "X": set()}
    for codon, residue in table.forward_table.items():
        if codon in table.stop_codons:
            continue
        out.setdefault(residue, set()).add(_triple(codon))
        out["X"].add(_triple(codon))
    return {k: frozenset(v) for k, v in out.items()}


def _triple(codon: str) -> Triple:
    a, b, c = (DNA.index(letter) for letter in codon)
    return a, b, c


def synonyms(protein: str, code: int = 1, strand: int = 1) -> list[frozenset[Triple]]:
    """Return the codons allowed at each triple, in the order of the given strand's sites.

    Args:
        protein: residues, `*` for stop, `X` for any amino acid.
        code: number of the genetic code.
        strand: -1 for a frame that reads on the other strand; the triples then stand in reverse.

    Raises:
        UsageError: a letter that the code has no codon for.
    """
    table = codes(code)
    for place, letter in enumerate(protein.upper()):
        if not table.get(letter):
            raise UsageError(f"residue {place + 1} has no codon in code {code}", field="frame", value=letter,
                             choices=sorted(table))  # fmt: skip
    forward = [table[letter] for letter in protein.upper()]
    if strand == 1:
        return forward
    return [frozenset((3 - c, 3 - b, 3 - a) for a, b, c in s) for s in reversed(forward)]
