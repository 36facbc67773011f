"""Better than counting: the held-out evidence bound of masked diffusion on DNA, nats per letter, beside Markov chains.

lentiMPRA (200 letters between the adapters): file `valid` to learn from, a tenth of its elements to stop early, file
`test` to judge; both orientations of an element are in one part. E. coli (150 letters): three quarters of the genome to
learn from, a tenth of their 50,000-base blocks to stop early, the quarter of column `split` = test to judge. Chains
learn from all that the network saw or stopped on, so that they have more data, not less.

The bound is estimated with the reference chain as control variate (`apps/bio/likelihood.py`); its standard error is
that of the Monte Carlo masks, given the sequences. The toy's grammar has a known law, so the exact entropy stands
beside its bound. Models are read from `runs/bio/<recipe>/best` (train them with `quintet bio train <recipe>`), or from
$QUINTET_MODELS, or from those that ship.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps import bio
from apps.bio.baselines import interpolated, markov
from apps.bio.data import Sequences, read
from apps.bio.dna.grammar import Grammar
from apps.bio.generate import SequenceModel
from apps.bio.likelihood import nll
from apps.bio.tokenizer import complement
from benchmarks.harness import Bar, Result
from core.errors import DataError
from core.run.fetch import data_root

__all__ = ["model", "run"]

SEED = 0
BARS = {"lentimpra": 1.318, "ecoli": 1.350}
ROOT = Path(__file__).resolve().parents[1]


def model(name: str) -> SequenceModel:
    """Return a model of the bio app: one that ships, or the best of a run.

    Raises:
        DataError: there is none.
    """
    given = os.environ.get("QUINTET_MODELS")
    known = [Path(given) / f"bio-{name}"] if given else []
    known += [ROOT / "runs/bio" / name / "best", data_root() / "models" / f"bio-{name}"]
    folder = next((k for k in known if k.is_dir()), None)
    if folder is None:
        raise DataError("no such model", field=name, hint=f"run: quintet bio train {name}")
    return bio.load(folder)


def chains(data: Sequences) -> dict[str, float]:
    """Return nats per letter of Markov chains on the test part, learned from train and valid together."""
    seen, test = data.part < 2, data.select(2).tokens
    train, fold = data.tokens[seen], np.unique(data.group[seen], return_inverse=True)[1] % 5
    out = {f"markov {k}": markov(train, k).nll(test).mean() for k in range(8)}
    out |= {f"interpolated {k}, both strands": interpolated(train, k, fold).nll(test).mean() for k in (5, 6, 7, 8)}
    return {name: float(value / test.shape[1]) for name, value in out.items()}


def judge(name: str, draws: int, most: int) -> dict[str, Any]:
    """Return the figures of one model and its data."""
    ours = model(name)
    data = read(ours.recipe.data, ours.recipe.seed)
    test = data.select(2).tokens[:most]
    x, letters = torch.from_numpy(test), test.shape[1]
    found = nll(ours, x, draws=draws, seed=SEED)
    mean, error = found.per_letter(letters)
    spread = found.nats.std() / letters / len(test) ** 0.5
    out: dict[str, Any] = {
        "nelbo": mean, "monte_carlo_standard_error": error, "standard_error_over_sequences": float(spread),
        "sequences": len(test), "letters": letters, "draws": draws,
    }  # fmt: skip
    if found.chain is not None:
        gain = (found.chain - found.nats) / letters
        out["own_reference_chain"] = float(found.chain.mean() / letters)
        out["gain_over_own_chain"] = float(gain.mean())
        out["gain_standard_error_over_sequences"] = float(gain.std() / len(test) ** 0.5)
    few = test[:256]
    strands = [nll(ours, torch.from_numpy(v), draws=draws, seed=SEED).nats for v in (few, complement(few).copy())]
    out["strand_difference"] = float((strands[0] - strands[1]).abs().mean() / letters)
    return out | {"uniform": float(np.log(4)), "chains": chains(data)}


def run(full: bool) -> Result:
    """Judge the whole test parts with 4 draws (16 when full)."""
    torch.set_num_threads(1)
    draws = 16 if full else 4
    figures, peers = {}, {}
    for name in ("lentimpra", "ecoli", "toy"):
        found = judge(name, draws, 100_000 if full or name != "toy" else 1000)
        peers[name] = {k: found.pop(k) for k in ("uniform", "chains")}
        figures[name] = found
    toy = model("toy")
    test = read(toy.recipe.data, toy.recipe.seed).select(2).tokens[: figures["toy"]["sequences"]]
    peers["toy"]["exact law"] = float(-Grammar(test.shape[1]).log_prob(test).mean() / test.shape[1])
    titles = {"lentimpra": "lentiMPRA", "ecoli": "E. coli"}
    bars = [
        Bar(f"{titles[name]}: held-out NELBO, nats per base", figures[name]["nelbo"], "<=", limit)
        for name, limit in BARS.items()
    ]
    notes = (
        "split: lentiMPRA learns from file `valid` (a tenth of its elements stops training), judged by file `test`; "
        "E. coli learns from three quarters of the genome, judged by the quarter marked test; nothing was chosen on "
        "test parts; strand_difference is the mean |bound(x) - bound(reverse complement)| per letter, Monte Carlo "
        "noise included"
    )
    return Result(figures, bars, {"nelbo": "nats per letter"}, peers, SEED, notes)
