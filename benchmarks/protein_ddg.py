"""Stability of mutations: predicted for proteins that the fit left out, with features of networks that did too.

Rows of S2648 and of the mega-scale subset count where a backbone has exactly the wild-type sequence. Each row is
predicted by a potential that was fitted without its protein and without all others of its cluster; the
inverse-folding features come from the member that did not see the cluster either. The baseline is a regression on
BLOSUM62, burial and their product, left out in the same way.

Antisymmetry is shown on Ssym: the way there on the wild type's structure, the way back on the mutant's own.

Tuning: designs steered to a potential fitted on half of the clusters, judged by one fitted on the other half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from apps.bio.protein.data import joined
from apps.bio.protein.sites import choose
from apps.bio.protein.stability import FEATURES, Potential, fit, oracle
from apps.bio.protein.structure import of_chain
from apps.bio.protein.variants import Variants, blosum, leave_out, read_variants
from benchmarks._proteins import SHARED, around, backbones, fold, interval, model, phi, single
from benchmarks.harness import Bar, Result
from core.finetune.steer import Gilc
from core.noise import Stream

__all__ = ["run"]

LOGS = 4
"""The first features are the networks'."""

ALPHA = 0.25
"""kcal/mol per nat, for the designs that are tuned."""


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return the linear correlation."""
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation."""
    return pearson(rankdata(a), rankdata(b))


def differences(v: Variants, chain: np.ndarray, back: bool = False) -> np.ndarray:
    """Return phi(to) - phi(wild) on the structures `chain` [n, FEATURES]; `back` swaps the letters."""
    a, b = (v.to, v.wild) if back else (v.wild, v.to)
    out = np.zeros((len(chain), FEATURES))
    for c in np.unique(chain):
        rows = np.flatnonzero(chain == c)
        found = phi(int(c), tuple(sorted({int(s) for s in v.site[rows]})))
        for r in rows:
            out[r] = found[int(v.site[r])][b[r]] - found[int(v.site[r])][a[r]]
    return out


def left_out(x: np.ndarray, v: Variants) -> np.ndarray:
    """Return each row's prediction by a potential fitted without its cluster."""
    cluster, out = backbones().cluster[v.chain], np.zeros(len(x))
    for g in np.unique(cluster):
        train = cluster != g
        out[~train] = fit(x[train], v.ddg[train], v.chain[train], cluster[train]).predict(x[~train])
    return out


def judged(guess: np.ndarray, v: Variants) -> dict[str, float]:
    """Return correlations: over all rows, by set, and the mean over proteins of ten rows and more."""
    each = [v.chain == c for c in np.unique(v.chain)]
    per = [spearman(guess[m], v.ddg[m]) for m in each if m.sum() >= 10 and np.ptp(guess[m]) > 0]
    out = {"spearman": spearman(guess, v.ddg), "pearson": pearson(guess, v.ddg)}
    out["rmse"] = float(np.sqrt(((guess - v.ddg) ** 2).mean()))
    out |= {f"spearman_{s}": spearman(guess[v.source == s], v.ddg[v.source == s]) for s in set(v.source)}
    return out | {"spearman_mean_of_proteins": float(np.mean(per)), "proteins_of_10": len(per)}


def buried(v: Variants) -> np.ndarray:
    """Return the burial of each mutated site."""
    return np.array([around(int(c))[s, 0] for c, s in zip(v.chain, v.site, strict=True)])


def external(v: Variants, x: np.ndarray) -> dict[str, float]:
    """Return how the potential does on s669, fitted on all rows of other clusters."""
    data, other = backbones(), read_variants(SHARED / "protein", backbones(), ("s669",))
    y, guess, base = differences(other, other.chain), np.zeros(len(other.ddg)), np.zeros(len(other.ddg))
    score, depth = (np.concatenate([f(v), f(other)]) for f in (lambda w: blosum(w.wild, w.to), buried))
    for g in np.unique(data.cluster[other.chain]):
        mine, train = data.cluster[other.chain] == g, data.cluster[v.chain] != g
        chosen = fit(x[train], v.ddg[train], v.chain[train], data.cluster[v.chain][train])
        guess[mine] = chosen.predict(y[mine])
        group = np.concatenate([np.where(train, 1, 2), np.where(mine, 0, 2)])
        rows = np.flatnonzero(group < 2)
        known = np.concatenate([v.ddg, np.zeros(len(y))])
        base[mine] = leave_out(score[rows], depth[rows], known[rows], group[rows])[group[rows] == 0]
    return {"rows": len(y), "spearman": spearman(guess, other.ddg),
            "baseline": spearman(base, other.ddg)}  # fmt: skip


def symmetric(v: Variants, x: np.ndarray) -> dict[str, float]:
    """Return direct against reverse predictions on Ssym, each on its own structure."""
    data = backbones()
    pairs = read_variants(SHARED / "protein", data, ("ssym",))
    pairs = pairs.select(np.flatnonzero(pairs.mutant >= 0))
    there, again = differences(pairs, pairs.chain), differences(pairs, pairs.mutant, back=True)
    same = differences(pairs, pairs.chain, back=True)
    direct, reverse, flat = (np.zeros(len(pairs.ddg)) for _ in range(3))
    for g in np.unique(data.cluster[pairs.chain]):
        mine, train = data.cluster[pairs.chain] == g, data.cluster[v.chain] != g
        chosen = fit(x[train], v.ddg[train], v.chain[train], data.cluster[v.chain][train])
        direct[mine], reverse[mine] = chosen.predict(there[mine]), chosen.predict(again[mine])
        flat[mine] = chosen.predict(same[mine])
    return {
        "pairs": len(direct), "correlation_direct_reverse": pearson(direct, reverse),
        "bias": float((direct + reverse).mean() / 2), "spearman_direct": spearman(direct, pairs.ddg),
        "spearman_reverse": spearman(reverse, -pairs.ddg),
        "largest_sum_same_structure": float(np.abs(direct + flat).max()),
    }  # fmt: skip


def tuned(v: Variants, x: np.ndarray, names: tuple[str, ...], n: int) -> dict[str, Any]:
    """Return gains of designs steered to one half's potential, as it and the other half's see them."""
    data, ours, out = backbones(), model(), {}
    for name in names:
        i = data.names.index(name)
        other = data.cluster[v.chain] != data.cluster[i]
        halves = [_half(v, x, other & (data.cluster[v.chain] % 2 == k)) for k in (0, 1)]
        network = ours.condition(ours.graph(of_chain(data, i)), int(fold()[i]) - 1 if fold()[i] else None)
        rewards = [oracle(h, network, data.tokens[i], data.coords[i], joined(data.coords[i])) for h in halves]
        base = ours.base(choose(of_chain(data, i)), temperature=0.5)
        drawn = {"untuned": base.sample(Stream.of(0, n)),
                 "steered": Gilc(alpha=ALPHA)(base, rewards[0], n, Stream.of(0, n)).x}  # fmt: skip
        native = torch.from_numpy(data.tokens[i])
        out[name] = {
            key: {"tuning_kcal": float(rewards[0].score(y).median()),
                  "judging_kcal": float(rewards[1].score(y).median()),
                  "recovery": float((y == native).double().mean()), "distinct": len({tuple(r) for r in y.tolist()})}
            for key, y in drawn.items()
        }  # fmt: skip
    return out


def _half(v: Variants, x: np.ndarray, rows: np.ndarray) -> Potential:
    return fit(x[rows], v.ddg[rows], v.chain[rows], backbones().cluster[v.chain][rows])


def run(full: bool) -> Result:
    """Predict all rows; 64 designs of each tuned backbone (256 when full)."""
    single()
    data = backbones()
    v = read_variants(SHARED / "protein", data, ("megascale", "S2648"))
    x, cluster = differences(v, v.chain), data.cluster[v.chain]
    ours = left_out(x, v)
    base = leave_out(blosum(v.wild, v.to), buried(v), v.ddg, cluster)
    blind = left_out(x[:, LOGS:], v)
    figures: dict[str, Any] = {
        **judged(ours, v), "rows": len(v.ddg), "proteins": len(set(v.chain)), "clusters": len(set(cluster)),
        "s669": external(v, x), "ssym": symmetric(v, x),
        "tuned": tuned(v, x, ("1VIIA", "1PGAA"), 256 if full else 64),
    }  # fmt: skip
    figures["interval"] = interval(lambda r: spearman(ours[r], v.ddg[r]), cluster, draws=200)
    gain = interval(lambda r: spearman(ours[r], v.ddg[r]) - spearman(base[r], v.ddg[r]), cluster, draws=200)
    figures["gain_interval"] = gain
    raw = (x[:, 0] + x[:, 1]) / 2
    peers = {
        "blosum_burial": judged(base, v), "without_networks": judged(blind, v),
        "log_odds_alone": {"spearman": spearman(raw, v.ddg)},
    }  # fmt: skip
    ssym, rho, below = figures["ssym"], figures["spearman"], peers["blosum_burial"]["spearman"]
    bars = [
        Bar("ddG: Spearman, protein and its cluster left out", rho, ">=", 0.35),
        Bar("ddG: Spearman above BLOSUM62 + burial", rho - below, ">", 0.0),
        Bar("ddG: largest |direct + reverse| on one structure", ssym["largest_sum_same_structure"], "<=", 1e-9),
    ]
    notes = (
        "ddG in kcal/mol, positive = stabilising. Rows: S2648 and mega-scale (1VII only) whose wild-type sequence has "
        "a backbone; left out by cluster, which holds the protein; features by the member that did not see the cluster "
        "(the mean of all for test clusters). The potential is antisymmetric on one structure by construction; the "
        "Ssym correlation compares two crystal structures. tuned: temperature 0.5, GILC with "
        f"alpha {ALPHA} kcal/mol per nat; medians against the native sequence. A potential is not a measurement, and "
        "nothing was folded."
    )
    return Result(figures, bars, {"*_kcal": "kcal/mol", "bias": "kcal/mol"}, peers, 0, notes)
