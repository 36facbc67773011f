"""Text to tokens and back: one token for each bracket."""

import torch

from core.errors import UsageError

LETTERS = "()[]"


def encode(texts):
    """Return the tokens of texts of one length, int64 [n, L]."""
    for wrong in set("".join(texts)) - set(LETTERS):
        raise UsageError("no bracket", field="text", value=wrong, choices=LETTERS)
    return torch.tensor([[LETTERS.index(letter) for letter in text] for text in texts])


def decode(tokens):
    """Return the texts of tokens [n, L]."""
    return ["".join(LETTERS[v] for v in row) for row in tokens.tolist()]
