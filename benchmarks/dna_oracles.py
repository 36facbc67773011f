"""Honest oracles of regulatory DNA: how well each predicts loci that it never saw, and how far tuning fools the first.

Held-out Pearson correlations over single measurements (rows, both orientations) of lentiMPRA in WTC11; the ceiling is
the correlation of the two orientations of one element. Baselines: ridge on 5-mer counts, trained on the same loci.

**Hacking.** Real sequences climb the tuning oracle by greedy substitutions, each the best of its gradient's
suggestions. The gain of each oracle is given in its own standard deviations over real sequences; the gap is tuning
minus evaluation, and `retained` the share of the tuning gain that evaluation confirms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot

from apps.bio import oracle as o
from apps.bio.data import Sequences
from apps.bio.dna.regressors import ridge
from benchmarks.harness import Bar, Result
from core.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "bio"
DATA, MOTIFS = ROOT.parent / "shared/data/bio/dna", ROOT.parent / "shared/data/bio/motifs/hocomoco_v12_core.meme.gz"
CEILING = 0.744
SEED, CLIMBERS, EDITS = 0, 128, 20


def oracles() -> dict[str, o.Oracle]:
    """Return the three oracles; those that `runs/bio` lacks are trained first."""
    found = {}
    for role in o.ROLES:
        folder = RUNS / f"oracle-{role}"
        if not folder.is_dir():
            o.train(o.OracleConfig(role, path=str(DATA), motifs=str(MOTIFS), seed=SEED), folder)
        found[role] = o.load(folder)
    return found


def sequences() -> Sequences:
    """Return the labelled sequences.

    Raises:
        DataError: the data are not here.
    """
    if not DATA.is_dir():
        raise DataError("the real data are not here", field="shared/data/bio", hint="see data/README.md")
    return o.read(o.OracleConfig("tuning", path=str(DATA)))


def replicate(data: Sequences, rows: np.ndarray) -> float:
    """Return the correlation between the two orientations of an element over some rows (bool [N])."""
    found = o.examples(data, rows)
    order = np.argsort(found.rows, kind="stable")
    twice = np.flatnonzero(np.bincount(found.rows) == 2)
    pairs = found.labels[order][np.isin(found.rows[order], twice)].reshape(-1, 2)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return o.pearson(both[:, 0], both[:, 1])


def interval(predicted: np.ndarray, held: o.Examples, draws: int = 500) -> list[float]:
    """Return the 95 % bootstrap interval of the held-out correlation, elements drawn anew."""
    rng, by = np.random.default_rng(SEED), [[] for _ in range(len(held))]
    for row, element in enumerate(held.rows):
        by[element].append(row)
    found = []
    for _ in range(draws):
        rows = np.concatenate([by[e] for e in rng.integers(len(held), size=len(held))]).astype(int)
        found.append(o.pearson(predicted[held.rows[rows]], held.labels[rows]))
    return [float(np.quantile(found, q)) for q in (0.025, 0.975)]


def kmers(data: Sequences, role: str, k: int = 5) -> float:
    """Return the held-out correlation of ridge on k-mer counts trained on an oracle's loci."""
    learn, _, held = (o.examples(data, rows) for rows in o.loci(data, role))

    def counts(x: torch.Tensor) -> np.ndarray:
        windows = torch.cat([x.unfold(1, k, 1), (3 - x.flip(1)).unfold(1, k, 1)], 1)
        words = (windows * 4 ** torch.arange(k).flip(0)).sum(-1).numpy()
        return np.stack([np.bincount(w, minlength=4**k) for w in words]).astype(float)

    a, b = counts(learn.tokens), counts(held.tokens)
    mean, scale = a.mean(0), float(((a - a.mean(0)) ** 2).sum(1).mean())
    folds = np.random.default_rng(SEED).permutation(len(a)) % 5
    weight, centre, _ = ridge((a - mean) @ (a - mean).T / scale, learn.value, folds, (0.3, 1.0, 3.0, 10.0))
    return o.pearson((centre + (b - mean) @ (a - mean).T @ weight / scale)[held.rows], held.labels)


def climb(judge: o.Oracle, x: torch.Tensor, edits: int) -> torch.Tensor:
    """Return tokens [B, L] after greedy substitutions that raise an oracle."""
    for _ in range(edits):
        p = one_hot(x, 4).float().requires_grad_()
        (slope,) = torch.autograd.grad(judge.soft(p).sum(), p)
        gain = (slope - slope.gather(-1, x[..., None])).flatten(1)
        tries = gain.topk(4, dim=1).indices
        options = [x]
        for j in range(tries.shape[1]):
            site, letter = tries[:, j] // 4, tries[:, j] % 4
            options.append(x.scatter(1, site[:, None], letter[:, None]))
        value = torch.stack([judge.score(v) for v in options])
        x = torch.stack(options)[value.argmax(0), torch.arange(len(x))]
    return x


def hacking(found: dict[str, o.Oracle], data: Sequences) -> dict[str, Any]:
    """Return the gains of each oracle under climbing the first, in its standard deviations over real sequences."""
    real = o.examples(data, data.part == 1).tokens[:CLIMBERS]
    after = climb(found["tuning"], real, EDITS)
    gains = {r: float((m.score(after) - m.score(real)).mean()) / m.metrics["real_std"] for r, m in found.items()}
    gap = gains["tuning"] - gains["evaluation"]
    return {"gain": gains, "gap": gap, "retained": gains["evaluation"] / gains["tuning"], "edits": EDITS,
            "gap_judge": gains["tuning"] - gains["judge"]}  # fmt: skip


def run(full: bool = False) -> Result:
    """Measure the oracles."""
    torch.set_num_threads(1)
    data, found = sequences(), oracles()
    figures: dict[str, Any] = {}
    for role, model in found.items():
        learn, choose, held = o.loci(data, role)
        test = o.examples(data, held)
        predicted = model.score(test.tokens).numpy()
        figures[role] = {
            "pearson": o.pearson(predicted[test.rows], test.labels), "interval": interval(predicted, test),
            "rows_train": int(learn.sum()), "rows_choose": int(choose.sum()), "rows_test": int(held.sum()),
            "kind": model.config.kind, "ridge_5mers": kmers(data, role), "ceiling": replicate(data, held),
        }  # fmt: skip
    figures["hacking"] = hacking(found, data)
    notes = (
        "Tuning learns from 90 % of the elements of file `valid` (10 % choose epochs) and is tested on file `test`; "
        "evaluation and judge learn from one half each of the elements of file `test` and are tested on all of file "
        "`valid`. Both orientations of an element stay together; each test set is disjoint from all loci of its oracle."
    )
    bars = [
        Bar("tuning oracle, held-out Pearson", figures["tuning"]["pearson"], ">=", 0.50),
        Bar("evaluation oracle, held-out Pearson", figures["evaluation"]["pearson"], ">=", 0.45),
    ]
    units = {"pearson": "correlation over rows", "hacking": "standard deviations of each oracle over real sequences"}
    return Result(figures, bars, units, {"orientation replicate (ceiling)": CEILING}, SEED, notes)
