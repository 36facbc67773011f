"""Motifs as lists of letter sets: IUPAC codes, classes and wildcards, either strand.

TATAWAW: W is A or T (IUPAC). [CT]ATA: C or T. N{P}[ST]: {P} is anything but P, as in PROSITE. N in DNA and X in
proteins are any letter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from Bio.Data.IUPACData import ambiguous_dna_values

from core.errors import UsageError

__all__ = ["DNA", "Motif", "complement", "parse", "strands", "text"]

DNA = "ACGT"
Motif = tuple[frozenset[int], ...]
TOKEN = re.compile(r"\[([A-Z]+)\]|\{([A-Z]+)\}|([A-Z])")
RESIDUES = {"X": "ACDEFGHIKLMNPQRSTVWY", "B": "DN", "Z": "EQ", "J": "IL"}


def parse(pattern: str, alphabet: str = DNA) -> Motif:
    """Return the letter sets of a motif, as token numbers.

    Raises:
        UsageError: a letter that is neither in the alphabet nor a code of several.
    """
    codes = ambiguous_dna_values if alphabet == DNA else RESIDUES
    word, motif, at = pattern.upper(), [], 0
    while at < len(word):
        found = TOKEN.match(word, at)
        letters = "".join(codes.get(c, c) for c in (found[1] or found[2] or found[3])) if found else ""
        wrong = [c for c in letters if c not in alphabet]
        if found is None or wrong:
            raise UsageError(f"letter {at + 1} is none of {alphabet} or a code", field="motif", value=pattern)
        chosen = {alphabet.index(c) for c in letters}
        motif.append(frozenset(set(range(len(alphabet))) - chosen if found[2] else chosen))
        at = found.end()
    if not motif or not all(motif):
        raise UsageError("is empty or has a place where no letter fits", field="motif", value=pattern)
    return tuple(motif)


def complement(motif: Motif) -> Motif:
    """Return a DNA motif as it reads on the other strand."""
    return tuple(frozenset(3 - v for v in place) for place in reversed(motif))


def strands(motif: Motif, both: bool) -> list[Motif]:
    """Return the motif, with its reverse complement if asked for and different."""
    return [motif, complement(motif)] if both and complement(motif) != motif else [motif]


def text(tokens: Sequence[int], alphabet: str) -> str:
    """Return tokens as letters."""
    return "".join(alphabet[v] for v in tokens)
