"""Peptides: certified molecules, properties that are exact sums, and designs that beat the samples they start from.

Designs are steered (GILC) to weighted sums of three rewards, as many designs as samples of the pretrained model, over
a grid of weights: the log-odds of a classifier trained on the families of part `tune`, charge at pH 7, and GRAVY.
Judged are: the probability of another classifier, trained on the families of part `judge`; charge by RDKit; GRAVY by
Biopython. The front of the designs dominates that of the samples if each point of the latter has a design that is at
least as good in all three and better in one.
"""

from __future__ import annotations

import itertools
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps import bio
from apps.bio.peptide.chemistry import PROPERTIES, Peptide, from_helm, from_smiles, properties
from apps.bio.peptide.data import Peptides, read_peptides
from apps.bio.peptide.generate import PeptideModel
from apps.bio.peptide.oracle import TunedClassifier, auc, fit_judge, fit_tuned
from apps.bio.peptide.properties import linear
from apps.bio.peptide.task import padded
from apps.bio.protein.data import AMINO
from benchmarks.harness import Bar, Result
from core.errors import DataError, QuintetError
from core.finetune.reward import Weighted, hypervolume, pareto
from core.finetune.steer import Gilc
from core.noise import Stream
from core.run.fetch import data_root

__all__ = ["run"]

SHARED = Path(__file__).resolve().parents[2] / "shared/data/bio/peptide"
LENGTH, SEED = 20, 11
WEIGHTS = [w for w in itertools.product((0.0, 0.5, 1.0), repeat=3) if sum(w) >= 1]
"""Of log-odds, charge and GRAVY, in units of their spread among samples."""

ALPHA = 0.025
"""Spreads per nat."""


@cache
def model() -> PeptideModel:
    """Return the shipped model, or the run's."""
    known = [data_root() / "models/bio-peptide", Path(__file__).resolve().parents[1] / "runs/bio/peptide/model"]
    folder = next((k for k in known if k.is_dir()), None)
    if folder is None:
        raise DataError("no such model", field="peptide", hint="run: quintet bio train peptide")
    return bio.load(folder)


def words(x: torch.Tensor) -> list[str]:
    """Return tokens as sequences."""
    return ["".join(AMINO[v] for v in row) for row in x.tolist()]


def judged(sequences: list[str], judge: Any) -> torch.Tensor:
    """Return what the designs are judged by: probability, charge (RDKit), GRAVY (Biopython), float64 [n, 3]."""
    from Bio.SeqUtils.ProtParam import ProteinAnalysis

    charge = [properties(Peptide(s))["charge"] for s in sequences]
    gravy = [ProteinAnalysis(s).gravy() for s in sequences]
    return torch.tensor(np.stack([judge.probability(sequences), charge, gravy], 1))


def steered(tuned: TunedClassifier, spread: torch.Tensor, each: int, alpha: float) -> torch.Tensor:
    """Return `each` designs for each setting of the weights, tokens [n, LENGTH]."""
    rewards = [tuned, linear("charge", LENGTH), linear("gravy", LENGTH)]
    base, found = model().base(LENGTH), []
    for k, weights in enumerate(WEIGHTS):
        aim = Weighted(rewards, [w / float(s) for w, s in zip(weights, spread, strict=True)])
        found.append(Gilc(alpha=alpha, scale=4.0)(base, aim, each, Stream.of(SEED, each, k * each)).x)
    return torch.cat(found)


def dominated(points: torch.Tensor, by: torch.Tensor) -> float:
    """Return the share of `points` that some row of `by` dominates."""
    beaten = [bool(((by >= p).all(-1) & (by > p).any(-1)).any()) for p in points]
    return float(np.mean(beaten))


def variants(sequences: list[str], seed: int = 0) -> list[Peptide]:
    """Return each sequence linear, cyclic, with D residues, and with a disulfide; half of the last two cyclic."""
    rng, out = random.Random(seed), []
    for word in sequences:
        mixed = "".join(a.lower() if rng.random() < 0.25 and a != "G" else a for a in word)
        tied = "C" + word[1:-2] + "C" + word[-1]
        out += [Peptide(word), Peptide(word, True), Peptide(mixed, rng.random() < 0.5)]
        out.append(Peptide(tied, rng.random() < 0.5, ((0, len(tied) - 2),)))
    return out


def chemistry(peptides: list[Peptide]) -> dict[str, float]:
    """Return shares of valid molecules and round trips, and the largest error of each linear reward."""
    from rdkit import Chem

    valid, smiles, helm, cyclic = 0, [], [], [p.cyclic for p in peptides]
    error = dict.fromkeys(PROPERTIES, 0.0)
    for p in peptides:
        try:
            valid += Chem.MolFromSmiles(p.smiles) is not None
            back = from_smiles(p.smiles)
            smiles.append(back.standard == p.standard and back.smiles == p.smiles)
            read = from_helm(p.helm)
            helm.append(read == p and read.smiles == p.smiles)
        except QuintetError:
            smiles.append(False)
            helm.append(False)
            continue
        truth, x = properties(p), torch.tensor([[AMINO.index(a) for a in p.residues.upper()]])
        for name in PROPERTIES:
            reward = linear(name, x.shape[1], p.cyclic, len(p.bridges))
            at_law = float(reward.soft(torch.nn.functional.one_hot(x, 20).double()))
            error[name] = max(error[name], abs(float(reward.score(x)) - truth[name]), abs(at_law - truth[name]))
    ring = [s and h for s, h, c in zip(smiles, helm, cyclic, strict=True) if c]
    figures = {"molecules": len(peptides), "valid": valid / len(peptides), "smiles_back": float(np.mean(smiles)),
               "helm_back": float(np.mean(helm)), "cyclic": len(ring), "cyclic_back": float(np.mean(ring))}  # fmt: skip
    return figures | {f"error_{name}": value for name, value in error.items()}


def classifiers(data: Peptides) -> tuple[TunedClassifier, Any, dict[str, float]]:
    """Return the tuned classifier, the judge, and their areas under the curve on the families of part `test`."""
    tuned, judge, test = fit_tuned(data.part("tune")), fit_judge(data.part("judge")), data.part("test")
    areas = {"tuned_auc": auc(tuned.score(padded(test.tokens)).numpy(), test.label),
             "judge_auc": auc(judge.probability(test.strings()), test.label), "tested": len(test.tokens)}  # fmt: skip
    return tuned, judge, areas


def cohort(x: torch.Tensor, values: torch.Tensor, tuned: TunedClassifier, known: set[str]) -> dict[str, float]:
    """Return what a set of sequences is like."""
    found = words(x)
    return {
        "median_judged_probability": float(values[:, 0].median()),
        "median_tuned_log_odds": float(tuned.score(x).median()),
        "median_charge": float(values[:, 1].median()), "median_gravy": float(values[:, 2].median()),
        "nats_per_residue": float(model().nll(x, draws=8).mean()) / x.shape[1],
        "identity_of_pairs": float((x == x.roll(len(x) // 2 + 1, 0)).double().mean()),
        "distinct": len(set(found)) / len(found), "training_copies": len(set(found) & known), "n": len(found),
    }  # fmt: skip


def run(full: bool) -> Result:
    """Compare as many samples as designs: 12 for each of the weights (48 when full)."""
    torch.set_num_threads(1)
    each = 48 if full else 12
    data = read_peptides(SHARED / "AMPvsUniProt.csv")
    tuned, judge, areas = classifiers(data)
    cancer = classifiers(read_peptides(SHARED / "ACP_CancPPD_vs_TM.csv"))[2]
    n = each * len(WEIGHTS)
    plain = model().base(LENGTH).sample(Stream.of(SEED + 1, n))
    before = judged(words(plain), judge)
    spread = torch.stack([tuned.score(plain).std(), before[:, 1].std(), before[:, 2].std()])
    designs = steered(tuned, spread, each, ALPHA)
    after = judged(words(designs), judge)
    fronts = [v[pareto(v)] for v in (before, after)]
    corner = torch.minimum(before.amin(0), after.amin(0)) - 1e-6
    volume = [hypervolume(f, corner) for f in fronts]
    known = set(data.part("train").strings())
    certified = chemistry(variants(words(designs)[:: 4 if not full else 1]))
    figures: dict[str, Any] = {
        "front_dominated": dominated(fronts[0], after), "front_dominated_back": dominated(fronts[1], before),
        "front_sizes": [len(f) for f in fronts], "hypervolume_ratio": volume[1] / volume[0],
        "designs": cohort(designs, after, tuned, known), "samples": cohort(plain, before, tuned, known),
        "classifiers": {"antimicrobial": areas, "anticancer": cancer}, **certified,
    }  # fmt: skip
    bars = [
        Bar("Peptides: molecules that RDKit accepts", certified["valid"], "==", 1.0),
        *(Bar(f"Peptides: linear reward against RDKit, {k}", certified[f"error_{k}"], "<=", 1e-6)
          for k in ("charge", "weight", "donors")),
        Bar("Peptides: linear reward against RDKit, logP", certified["error_logp"], "<=", 0.1),
        Bar("Peptides: share of the samples' front that designs dominate", figures["front_dominated"], "==", 1.0),
        Bar("Peptides: cyclic SMILES and HELM that come back", certified["cyclic_back"], "==", 1.0),
    ]  # fmt: skip
    notes = (
        f"Peptides of {LENGTH} residues; GILC, {len(WEIGHTS)} settings of the weights, alpha {ALPHA} spreads per nat, "
        "chosen by the tuned classifier's front alone. Parts by family (a third of 4-mers shared). The judge was never "
        "tuned on; both classifiers learned a data set's label, which is not activity. Every fourth design becomes "
        "four molecules: linear, cyclic, with D residues, bridged."
    )
    return Result(figures, bars, {"error_*": "largest absolute difference"}, {}, SEED, notes)
