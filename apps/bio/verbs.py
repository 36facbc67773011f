"""What the shared commands do: load, draw, write, judge. Results are returned, progress goes to stderr."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import UsageError
from core.run import outputs

if TYPE_CHECKING:
    from apps.bio.generate import SequenceModel
    from core.run.report import Section

__all__ = ["demo", "evaluate", "load", "sample", "say", "single"]


def say(line: str) -> None:
    """Tell the user how far it is."""
    print(line, file=sys.stderr)


def single() -> None:
    """Compute on one thread unless OMP_NUM_THREADS says otherwise: on small networks, threads that wait cost more."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def load(name: str, strength: float | None = None) -> Any:
    """Load a model, a tuned one maybe at another strength, and say what it is."""
    from apps import bio

    began = time.perf_counter()
    single()
    if strength is None:
        model = bio.load(name)
    else:
        from apps.bio.tuned import realigned

        model = realigned(name, strength)
    say(f"{name}: a model of {model.recipe.kind}, {time.perf_counter() - began:.1f} s")
    return model


def sample(
    name: str, *, n: int, length: int | None, start: str, seed: int, settings: dict[str, Any], out: Path | None,
    topology: str = "", strength: float | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Draw sequences; write them to `out` and return a summary, or print FASTA and return None."""
    from apps.bio.peptide.files import suited
    from apps.bio.records import check_format

    if out is not None:
        check_format(out)
    model = sequences(load(name, strength), "sample", "use `design` with a template")
    suited(topology, out.suffix.lower() if out is not None else "", model.alphabet)
    began = time.perf_counter()
    designs = model.sample(n, length=length, start=start or None, seed=seed, **settings)
    say(f"{len(designs)} sequences in {time.perf_counter() - began:.2f} s")
    if out is None:
        sys.stdout.write(designs.fasta())
        return None
    if topology:
        designs.manifest = {**designs.manifest, "topology": topology}
    designs.write(out)
    return {"out": str(out), "sequences": len(designs), "different": len(set(designs.sequences))}


def sequences(model: Any, verb: str, hint: str) -> SequenceModel:
    """Return the model if it generates sequences without further input.

    Raises:
        UsageError: it does not.
    """
    from apps.bio.generate import SequenceModel

    if not isinstance(model, SequenceModel):
        raise UsageError(f"cannot {verb} with a model of {model.recipe.kind}", field="model", hint=hint)
    return model


def evaluate(name: str, *, n: int, draws: int, seed: int, out: Path | None) -> dict[str, Any]:
    """Judge a model on sequences that it was not trained on, beside Markov chains; maybe write the figures as JSON."""
    import json

    from core.run.cli import finite

    if out is not None:
        outputs.file(out)
    loaded = load(name)
    if hasattr(loaded, "evaluate"):
        found = loaded.evaluate(n=n, seed=seed)
    else:
        found = judge(sequences(loaded, "evaluate", "see its own verbs"), n, draws, seed)
    if out is not None:
        outputs.save(out, json.dumps(finite(found), indent=1, allow_nan=False) + "\n")
    return found


def judge(model: SequenceModel, n: int, draws: int, seed: int) -> dict[str, Any]:
    """Return likelihoods of held-out sequences and figures of as many samples, each with its floor."""
    import torch

    from apps.bio import metrics
    from apps.bio.baselines import interpolated, markov
    from apps.bio.data import read
    from apps.bio.likelihood import nll

    data = read(model.recipe.data, model.recipe.seed)
    train, test = data.select(0).tokens, data.select(2).tokens
    chosen, others = apart(len(test), n, seed)
    held, other = test[chosen], test[others]
    letters = held.shape[1]
    say(f"the bound of {len(held)} held-out sequences")
    x = torch.from_numpy(model.tokenizer.encode(words(model, held)))
    mean, error = nll(model, x, draws=draws, seed=seed).per_letter(letters)
    found: dict[str, Any] = {"nats_per_letter": mean, "standard_error": error}
    order = max(model.recipe.model.order, 3)
    folds = np.arange(len(train)) % 5
    found[f"interpolated_chain_{order}"] = float(interpolated(train, order, folds).nll(held).mean() / letters)
    found["markov_1"] = float(markov(train, 1).nll(held).mean() / letters)
    say(f"{len(held)} samples")
    drawn = model.sample(len(held), length=letters, seed=seed)
    y = model.tokenizer.decode(drawn.tokens.numpy()) if drawn.tokens is not None else drawn.sequences
    ours = single_letters(y)
    near, few = held[: len(other)], ours[: len(other)]  # sets of one size: distances shrink with it
    for k in (3, 6):
        counts = [metrics.kmer_counts(v, k) for v in (near, few, other)]
        found[f"{k}mer_tv"] = metrics.total_variation(counts[0], counts[1])
        found[f"{k}mer_tv_floor"] = metrics.total_variation(counts[0], counts[2])
    found["6mer_enrichment_correlation"] = metrics.enrichment_correlation(near, few)
    found["6mer_enrichment_correlation_floor"] = metrics.enrichment_correlation(near, other)
    found |= {"gc": float(metrics.gc_content(ours).mean()), "gc_real": float(metrics.gc_content(held).mean())}
    found |= {"diversity": metrics.diversity(ours), "diversity_real": metrics.diversity(held)}
    found["copies"] = metrics.copies(y, words(model, train))
    return found


def apart(count: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of at most `n` of `count` sequences, and of others that real is compared with real by.

    The others are as many, at most half of all, and none of the first so many; of a single sequence it is that one.
    """
    order = np.random.default_rng(seed).permutation(count)
    return order[:n], order[count - max(min(n, count // 2), 1) :]


def words(model: SequenceModel, tokens: np.ndarray) -> list[str]:
    """Return single-letter tokens [B, L] as letters."""
    from apps.bio.tokenizer import Tokenizer

    return Tokenizer(model.alphabet).decode(tokens)


def single_letters(sequences: list[str]) -> np.ndarray:
    """Return DNA letters as single-letter tokens, int64 [B, L]."""
    from apps.bio.tokenizer import Tokenizer

    return Tokenizer("ACGT").encode(sequences)


def demo(folder: Path) -> list[Section]:
    """Run the app's main job on embedded data."""
    from apps.bio.demo import sections

    single()
    return sections(folder)
