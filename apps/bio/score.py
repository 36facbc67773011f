"""Scores of sequences in files: rewards, and a model's nats; a line for each sequence.

Sequences are DNA or protein by their letters, and where these leave it open by the rewards. With a template they are
read on a backbone: nats per residue are those of the inverse-folding model, each residue given the others of other
groups (`apps.bio.protein.generate`).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.bio.tokenizer import Tokenizer
from core.errors import DataError, UsageError
from core.run import outputs

__all__ = ["by_length", "columns", "folded", "keys", "score"]


def score(
    files: Sequence[Path], *, reward: Sequence[str] | None, model: str = "", seed: int = 0, out: Path | None = None,
    template: Path | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Score the sequences of files; a TSV to `out` and a summary, or the TSV to stdout.

    Args:
        files: FASTA, GenBank, TSV or JSON.
        reward: expressions, one column each.
        model: a model whose nats per letter make a column.
        seed: of the evidence bound's masks.
        out: where to write.
        template: the backbone on which a model of proteins, and `ddg`, read the sequences.

    Raises:
        UsageError: neither a reward nor a model is given.
        DataError: a file is missing, or holds letters that the alphabet lacks.
    """
    from apps.bio import records
    from apps.bio.model import LETTERS

    if not reward and not model:
        raise UsageError("is needed, or --model", field="reward", hint="name an oracle's folder or a built-in reward")
    if out is not None:
        outputs.file(out)
    entries, words = [], []
    for path in files:
        found = records.read(path)
        for entry in found:
            word = entry.sequence.replace("/", "")  # chains of one design, one after the other as rewards see them
            wrong = sorted(set(word.upper()) - set(LETTERS["protein"] + ("U" if nucleic(word) else "")))
            if wrong:
                raise DataError(f"{entry.name} holds a letter that is neither base nor residue", field=str(path),
                                value=wrong[0])  # fmt: skip
            words.append(word)
        entries += found
    aims = list(reward or ())
    on = None if template is None else folded(words, aims, model or "protein", template)
    table = columns(words, aims, model, seed, [e.name for e in entries]) if on is None else on
    lines = ["\t".join(["name", "length", *table])]
    for i, entry in enumerate(entries):
        values = [f"{v[i] + 0.0:.6g}" for v in table.values()]  # no -0
        lines.append("\t".join([" ".join(entry.name.split()), str(len(words[i])), *values]))
    text = "\n".join(lines) + "\n"
    if out is None:
        sys.stdout.write(text)
        return None
    outputs.save(out, text)
    means = {f"mean {k}": sum(v) / max(len(v), 1) for k, v in table.items()}
    return {"out": str(out), "sequences": len(entries), **means}


def nucleic(word: str) -> bool:
    """Tell whether letters can be those of DNA or RNA."""
    return set(word.upper()) <= set("ACGTUN")


def columns(
    sequences: Sequence[str], reward: Sequence[str], model: str, seed: int, names: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Return one column of values for each reward and for the model, by name; where two share one, by expression.

    Raises:
        DataError: a letter that the alphabet lacks; says by `names` where.
    """
    from apps import bio
    from apps.bio.expressions import compose, molecules
    from apps.bio.model import LETTERS

    ways: dict[str, tuple[Tokenizer, Callable[[Tensor], Tensor]]] = {}
    loaded = bio.load(model) if model else None
    if loaded is not None and not callable(getattr(loaded, "nll", None)):
        hint = "use `score` with --template FILE.pdb"
        raise UsageError("reads sequences on a backbone", field="model", value=model, hint=hint)
    plain = all(nucleic(word) for word in sequences)
    if plain and loaded is None:  # short peptides may be spelt like DNA: the rewards know
        plain = set().union(*(molecules(compose([text])) for text in reward)) != {LETTERS["protein"]}
    letters = loaded.alphabet if loaded is not None else LETTERS["dna" if plain else "protein"]
    if letters == LETTERS["dna"]:
        sequences = [word.upper().replace("U", "T") for word in sequences]
    for i, word in enumerate(sequences):
        if wrong := sorted(set(word.upper()) - set(letters)):
            who = names[i] if names else f"sequence {i}"
            raise DataError(f"{who} holds a letter that is none of {letters}", field="sequences", value=wrong[0])
    for name, found in _headed(reward, [compose([text], letters) for text in reward]):
        ways[name] = Tokenizer(letters), found.score
    if loaded is not None:
        k = loaded.tokenizer.k
        ways["nats per letter"] = loaded.tokenizer, lambda x: loaded.nll(x, seed=seed, index=keys(x)) / (x.shape[1] * k)
    return {name: by_length(sequences, *way) for name, way in ways.items()}


def _headed(expressions: Sequence[str], rewards: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return rewards with the heads of their columns: their names, or where two share one their expressions."""
    shared = {r.name for i, r in enumerate(rewards) if r.name in [other.name for other in rewards[:i]]}
    pairs = zip(expressions, rewards, strict=True)
    return [(" ".join(text.split()) if r.name in shared else r.name, r) for text, r in pairs]


def keys(x: Tensor) -> Tensor:
    """Return a number for each sequence of tokens [B, S] that its letters alone say, int64 [B]."""
    found = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in x.numpy()]
    return torch.tensor([int.from_bytes(d, "little") >> 1 for d in found])


def folded(sequences: Sequence[str], reward: Sequence[str], model: str, template: Path) -> dict[str, list[float]]:
    """Return the columns of sequences on a backbone: rewards, and nats per residue under the inverse-folding model.

    Raises:
        UsageError: the model is of another kind, or a sequence differs from the backbone in length.
        DataError: a letter that is no residue.
    """
    from apps import bio
    from apps.bio.expressions import compose
    from apps.bio.model import LETTERS
    from apps.bio.protein.potential import bound
    from apps.bio.protein.structure import read_structure

    loaded: Any = bio.load(model)
    if loaded.recipe.kind != "protein":
        raise UsageError(f"means nothing for a model of {loaded.recipe.kind}", field="template", value=str(template))
    structure, letters = read_structure(template), LETTERS["protein"]
    for word in sequences:
        if len(word) != len(structure.residues):
            raise UsageError(f"the backbone has {len(structure.residues)} residues", field="sequence", value=len(word))
    x, out = torch.from_numpy(Tokenizer(letters).encode([s.upper() for s in sequences])), {}
    for name, found in _headed(reward, [bound(compose([text], letters), structure, loaded) for text in reward]):
        out[name] = found.score(x).tolist()
    return {**out, "nats per residue": loaded.score(structure, [s.upper() for s in sequences]).tolist()}


def by_length(sequences: Sequence[str], tokenizer: Any, value: Callable[[Tensor], Tensor]) -> list[float]:
    """Return the value of each sequence; those of one length are asked for together."""
    out = [float("nan")] * len(sequences)
    for length in sorted({len(s) for s in sequences}):
        rows = [i for i, s in enumerate(sequences) if len(s) == length]
        x = torch.from_numpy(tokenizer.encode([sequences[i] for i in rows]))
        for i, v in zip(rows, value(x).tolist(), strict=True):
            out[i] = v
    return out
