"""Reward without hacking: ten ways to raise a DNA model's reward, at equal reward calls, judged by other oracles.

All cells steer the lentiMPRA model with the tuning oracle (`benchmarks/_steering.py` says how each spends its calls).
Judged are: the tuning oracle itself, the evaluation oracle and the third judge (other loci, other architecture; medians
over sequences), nats per base under the pretrained model and their loss against its own samples, the correlation of
6-mer enrichments with the most active tenth of the real sequences, diversity, novelty, ancestors, calls and seconds.
Means over three seeds.

A point is dominated if another method's point is at least as good in evaluation and in nats, and better in one; a
front is dominated if all its points are. The hypervolume is the area that a method's points dominate above (the prior's
evaluation median, a loss of 0.2 nats per base).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.bio import dna
from apps.bio import oracle as o
from apps.bio.metrics import diversity, enrichment_correlation, novelty
from benchmarks._steering import CALLS, CELLS, DRAKES, GRID, SAMPLES, SEEDS, STEPS, Bench, Cell
from benchmarks.dna_oracles import oracles, sequences
from benchmarks.harness import Bar, Result
from core.errors import DataError
from core.finetune.reward import hypervolume

ROOT = Path(__file__).resolve().parent.parent
MODEL, CACHE = ROOT / "runs" / "bio" / "lentimpra", ROOT / ".cache" / "dna_rewards"
WORST = 0.2
"""Loss of nats per base at which the hypervolume ends."""


def bench() -> Bench:
    """Return what the cells share.

    Raises:
        DataError: the data or the model are not here.
    """
    if not MODEL.is_dir():
        raise DataError("the model is not trained", field=str(MODEL), hint="quintet bio train lentimpra")
    return Bench(dna.load(MODEL), oracles()["tuning"], sequences(), CACHE)


def judged(shared: Bench, judges: dict[str, o.Oracle], cell: Cell) -> dict[str, float]:
    """Return the figures of one cell."""
    x, counts = shared.fill(cell)
    train = shared.data.tokens[shared.data.part == 0]
    row = {role: float(judge.score(x).median()) for role, judge in judges.items()}
    return row | {
        "elbo": float(np.mean(counts["elbo"])), "enrichment_6mers": enrichment_correlation(x.numpy(), top(shared)),
        "diversity": diversity(x.numpy()), "novelty": float(novelty(x.numpy(), train).mean()),
        "distinct": len(x.unique(dim=0)) / len(x), "ancestors": counts["ancestors"] or len(x), "samples": len(x),
        "calls": counts["calls"], "network_calls": counts["network_calls"], "seconds": counts["seconds"],
    }  # fmt: skip


def top(shared: Bench) -> np.ndarray:
    """Return the most active tenth of the held-out real sequences, one orientation of each."""
    real = o.examples(shared.data, shared.data.part == 2)
    return real.tokens.numpy()[real.value >= np.quantile(real.value, 0.9)]


def rows(shared: Bench, judges: dict[str, o.Oracle]) -> dict[str, dict[str, float]]:
    """Return the table: means over the seeds of each method and strength, the spread of evaluation and nats."""
    table: dict[str, dict[str, float]] = {}
    for method, strengths in GRID.items():
        for strength in strengths:
            found = [judged(shared, judges, c) for c in CELLS if (c.method, c.strength) == (method, strength)]
            mean = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
            spread = {f"{k}_std": float(np.std([f[k] for f in found], ddof=1)) for k in ("evaluation", "elbo")}
            table[f"{method} {strength:g}" if strength else method] = mean | spread
    for row in table.values():
        row["elbo_loss"] = row["elbo"] - table["prior"]["elbo"]
    return table


def hacking(row: dict[str, float], prior: dict[str, float], judges: dict[str, o.Oracle]) -> dict[str, float]:
    """Return gains over the prior in each oracle's spread over real sequences, the gap, and the share retained."""
    gain = {r: (row[r] - prior[r]) / judge.metrics["real_std"] for r, judge in judges.items()}
    return {**{f"gain_{r}": g for r, g in gain.items()}, "gap": gain["tuning"] - gain["evaluation"],
            "retained": gain["evaluation"] / gain["tuning"] if gain["tuning"] else 0.0}  # fmt: skip


def dominated(table: dict[str, dict[str, float]], more: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return for each DRAKES point the points of other methods that dominate it."""

    def values(row: dict[str, float]) -> np.ndarray:
        return np.array([row["evaluation"], -row["elbo"], *(row[k] for k in more)])

    found = {}
    for name, row in table.items():
        if name.startswith("drakes"):
            others = [k for k in table if not k.startswith("drakes")]
            better = [k for k in others if (values(table[k]) >= values(row)).all() and (table[k] != row)]
            found[name] = [k for k in better if (values(table[k]) > values(row)).any()]
    return found


def volumes(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the hypervolume of each method's points: log2 units times nats per base."""
    reference = torch.tensor([table["prior"]["evaluation"], -WORST]).double()
    points = {m: [r for k, r in table.items() if k.split()[0] == m] for m in GRID}
    return {
        m: hypervolume(torch.tensor([[r["evaluation"], -r["elbo_loss"]] for r in p]).double(), reference)
        for m, p in points.items()
    }


def run(full: bool = False) -> Result:
    """Fill the table."""
    torch.set_num_threads(1)
    shared, judges = bench(), oracles()
    table = rows(shared, judges)
    real = o.examples(shared.data, shared.data.part != 2)  # what evaluation and judge never learned from
    predicted = judges["evaluation"].score(real.tokens).numpy()
    level, measured = float(np.quantile(predicted, 0.95)), float(np.quantile(real.labels, 0.95))
    kept = [f"drakes {a:g}" for a in DRAKES if table[f"drakes {a:g}"]["elbo_loss"] <= 0.01]
    best = max(kept, key=lambda k: table[k]["evaluation"], default=None)
    beaten, volume = dominated(table), volumes(table)
    best_other = max(v for m, v in volume.items() if m != "drakes")
    figures: dict[str, Any] = {
        "table": table, "hypervolume": volume, "dominated": beaten,
        "dominated_with_diversity": dominated(table, ("diversity",)), "chosen": best,
        "real_95_predicted": level, "real_95_measured": measured,
        "hacking": {k: hacking(r, table["prior"], judges) for k, r in table.items() if k != "prior"},
    }  # fmt: skip
    bars = [
        Bar("DRAKES at 5 alphas: points that no other method dominates", float(sum(not v for v in beaten.values())),
            ">=", 1),
        Bar("DRAKES hypervolume over the best of the others", volume["drakes"] / max(best_other, 1e-9), ">=", 1),
        Bar("DRAKES evaluation median at <= 0.01 nats per base, against the 95th percentile of predictions for real "
            "sequences", table[best]["evaluation"] if best else float("nan"), ">=", level),
        Bar("DRAKES evaluation median at <= 0.01 nats per base, against the 95th percentile of measured activity",
            table[best]["evaluation"] if best else float("nan"), ">=", measured),
    ]  # fmt: skip
    notes = (
        f"{SAMPLES} samples, {STEPS} steps, about {CALLS} reward calls (scores and gradients), {len(SEEDS)} seeds. The "
        "percentile is of the evaluation oracle's predictions for real sequences that it never learned from: a "
        "regression predicts less spread than it is measured (real_95_measured). alpha is chosen by evaluation and "
        "nats; the judge chose nothing. The DRAKES points of one seed are one run with falling alpha. The reference "
        "chain carries no gradient in classifier, tds and drakes. cfg uses measured labels and no reward call."
    )
    units = {"tuning, evaluation, judge": "log2 RNA/DNA, medians", "elbo": "nats per base under the pretrained model"}
    best_real = top(shared)
    floor = enrichment_correlation(best_real[0::2], best_real[1::2])
    peers = {"enrichment_6mers, one half of the most active real sequences against the other": floor}
    return Result(figures, bars, units, peers, 0, notes)
