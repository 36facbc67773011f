"""Sequences as tokens: single letters, or non-overlapping k-mers (D3LM, arXiv:2603.01780).

A k-mer token is the number of its letters in base K, the first letter most significant: over ACGT, k = 2, "CA" is
1 · 4 + 0 = 4. `decode(encode(s)) == s` for every sequence over the alphabet whose length is a multiple of k. The mask
is one more letter, written `?`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import DataError

__all__ = ["Tokenizer", "complement", "reverse_complement"]

MASK = "?"
_COMPLEMENT = str.maketrans("ACGTRYSWKMBDHVNacgt", "TGCAYRSWMKVHDBNtgca")


def complement(tokens: np.ndarray) -> np.ndarray:
    """Return DNA tokens of the other strand, read backwards: int64 [..., L]; the mask (4) stays."""
    return np.where(tokens < 4, 3 - tokens, tokens)[..., ::-1]


def reverse_complement(sequence: str) -> str:
    """Return the other strand of DNA letters, IUPAC codes included."""
    return sequence.translate(_COMPLEMENT)[::-1]


@dataclass(frozen=True)
class Tokenizer:
    """Letters to tokens and back.

    Args:
        letters: the alphabet; letter i is digit i.
        k: letters per token.
    """

    letters: str = "ACGT"
    k: int = 1

    @property
    def tokens(self) -> int:
        """Return the number of tokens K; the mask is token K."""
        return len(self.letters) ** self.k

    def encode(self, sequences: Sequence[str]) -> np.ndarray:
        """Return tokens int64 [B, L / k] of sequences of one length L; `?` or a k-mer with one is the mask.

        Raises:
            DataError: another letter, different lengths, or a length that is no multiple of k.
        """
        lengths = {len(s) for s in sequences}
        if len(lengths) > 1:
            raise DataError("have different lengths", field="sequences", value=sorted(lengths)[:4])
        length = next(iter(lengths), 0)
        if length % self.k:
            raise DataError(f"is no multiple of the {self.k} letters of a token", field="length", value=length)
        text = np.frombuffer("".join(sequences).encode("utf-32-le", "surrogatepass"), "<u4")
        table = np.full(256, -1, np.int64)
        for case in (self.letters, self.letters.lower()):
            table[[ord(c) for c in case]] = np.arange(len(self.letters))
        digits = table[np.minimum(text, 255)]
        masked = text == ord(MASK)
        if (wrong := (digits < 0) & ~masked).any():
            at = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"sequence {at // length} has another letter at {at % length + 1} than {self.letters}",
                field="sequences", value=chr(text[at]),
            )  # fmt: skip
        digits = digits.reshape(len(sequences), length // self.k, self.k)
        weight = len(self.letters) ** np.arange(self.k)[::-1]
        return np.where((digits < 0).any(-1), self.tokens, digits @ weight)

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Return the sequences of tokens [B, L / k]; the mask becomes `?`s."""
        tokens = np.asarray(tokens)
        base = len(self.letters)
        digits = tokens[..., None] // base ** np.arange(self.k)[::-1] % base
        digits = np.where(tokens[..., None] == self.tokens, base, digits).reshape(len(tokens), tokens.shape[1] * self.k)
        alphabet = np.frombuffer((self.letters + MASK).encode(), np.uint8)
        return [row.tobytes().decode() for row in alphabet[digits]]
