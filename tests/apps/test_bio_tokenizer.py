"""Letters and k-mers: nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.bio.tokenizer import Tokenizer, complement, reverse_complement
from core.errors import DataError


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.lists(st.text("ACGT", min_size=12, max_size=12), min_size=1, max_size=5))
def test_decoding_undoes_encoding(k: int, sequences: list[str]) -> None:
    size = 12 - 12 % k
    sequences = [s[:size] for s in sequences]
    tokenizer = Tokenizer("ACGT", k)
    tokens = tokenizer.encode(sequences)
    assert tokens.shape == (len(sequences), size // k) and tokens.max(initial=0) < tokenizer.tokens
    assert tokenizer.decode(tokens) == sequences


def test_first_letters_count_most() -> None:
    assert Tokenizer("ACGT", 2).encode(["CAGT"]).tolist() == [[4, 11]]


def test_small_letters_are_letters() -> None:
    assert Tokenizer("ACGT").encode(["acGt"]).tolist() == [[0, 1, 2, 3]]
    assert Tokenizer("ACGT").encode([]).shape == (0, 0)


def test_open_letters_are_the_mask() -> None:
    assert Tokenizer("ACGT").encode(["A?T"]).tolist() == [[0, 4, 3]]
    assert Tokenizer("ACGT").decode(np.array([[0, 4, 3]])) == ["A?T"]
    assert Tokenizer("ACGT", 2).encode(["A?GT"]).tolist() == [[16, 11]]
    assert Tokenizer("ACGT", 2).decode(np.array([[16, 11]])) == ["??GT"]


@pytest.mark.parametrize(
    ("sequences", "k", "message"),
    [
        (["ACN"], 1, "another letter at 3"),
        (["AC\u00e9"], 1, "another letter at 3 than ACGT; got '\u00e9'"),
        (["AC", "A\u0394"], 1, "sequence 1 has another letter at 2"),
        (["AC", "ACG"], 1, "different lengths"),
        (["ACG"], 2, "no multiple"),
    ],
)
def test_what_cannot_be_read_is_named(sequences: list[str], k: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Tokenizer("ACGT", k).encode(sequences)


@settings(max_examples=30, deadline=None)
@given(st.text("ACGT", min_size=1, max_size=30))
def test_strands_agree(sequence: str) -> None:
    tokens = Tokenizer("ACGT").encode([sequence])
    assert Tokenizer("ACGT").decode(complement(tokens)) == [reverse_complement(sequence)]
    assert reverse_complement(reverse_complement(sequence)) == sequence
