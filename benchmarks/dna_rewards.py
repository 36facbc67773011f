"""Reward without hacking: twelve ways to raise a DNA model's reward, at equal reward calls, judged by other oracles.

All cells steer the lentiMPRA model with the tuning oracle (`benchmarks/_steering.py` says how each spends its calls).
Judged are: the tuning oracle itself, the evaluation oracle and the third judge (other loci, other architecture; medians
over sequences), nats per base under the pretrained model and their loss against its own samples, the correlation of
6-mer enrichments with the most active tenth of the real sequences, diversity, novelty, ancestors, calls and seconds.
Means over three seeds.

Two tables, the same calls in all: **few**, 64 sequences that may each be asked about 32 times, and **many**, the 640 of
Wang et al. 2024, about 3 times each, where methods that ask for each sample hold a gradient over several steps. What
was tuned is the same in both: its calls go into weights, and further sequences ask nothing.

From `many` follows what the same calls do for more sequences still (`library`, up to the 6,400 of an assay's
library): what is tuned draws all of them; a method that asks for each sample serves those that its calls pay for, the
rest are the prior's own, and copies of what was paid for do not count. `classifier-2` asks at two steps, and once for
all at the first, where all samples are alike: the cheapest guidance there is.

**Fewer nats are no merit.** Arrays of one word (GGGGCGGGG...) are likelier under the model than any promoter. Where
points are compared a gain in nats counts as none, and a point counts only if it is *typical*: nine in ten of its
sequences have nats within the middle 98 % of real held-out sequences. What composition alone earns is shown as
`shuffled`: the evaluation median of the same sequences with their letters shuffled, all pairs of neighbours kept;
`complexity` is the share of different words among a sequence's own words of six letters.

A point is dominated if another method's typical point is at least as good in evaluation and in loss of nats, and better
in one; a front is dominated if all its points are. The hypervolume is the area that a method's typical points dominate
above (the prior's evaluation median, a loss of 0.2 nats per base).

**Three rows are named drakes, and the same bars are asked of each.** What is asked for is DRAKES: `drakes`, the method
as published but for its KL, compared with all methods but the other two. `drakes-realigned` draws from its five
weights at an eighth of their prices (`core.guide.realign`, after Liu et al. 2024): tuning and calls are those of
DRAKES, the way of drawing is not. An eighth is the largest power of two at which draws from the weights of the two
largest alphas stayed typical on seed 101. So that not only DRAKES is drawn from in this way, there are
`sdpo-realigned` and `distill-realigned`. `drakes-warm` is a variant (`_steering`), with a start and a term that are not
DRAKES's own. Its alphas were fixed by tuning reward and nats before any judge was asked, and stay: they go far past the
point where the evaluation oracle still agrees, while nats stay typical and `complexity` falls. Both are compared with
all methods, `drakes` included. No bar stands for another. Published methods are those without `OURS`.

While realignment was tried, the evaluation oracle was asked twice beyond this table: about the draws of seed 101, and
about weights at alpha 0.07 with five factors on the seeds of the table (64 sequences 1.03 to 1.23, 640 sequences 0.72
to 0.74 at least loss). Neither moved the factor.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apps.bio import dna
from apps.bio import oracle as o
from apps.bio.baselines import shuffled
from apps.bio.metrics import complexity, diversity, enrichment_correlation, gc_content, novelty
from apps.bio.tune import checksum
from benchmarks._steering import FEW, MANY, REALIGNED, SEEDS, Bench, Cell, Regime
from benchmarks._weights import ALPHAS, CALLS, WEIGHTS
from benchmarks.dna_oracles import oracles, sequences
from benchmarks.harness import Bar, Result
from core.errors import DataError
from core.finetune.reward import hypervolume

ROOT = Path(__file__).resolve().parent.parent
MODEL, CACHE = ROOT / "runs" / "bio" / "lentimpra", ROOT / ".cache" / "dna_rewards"
WORST = 0.2
"""Loss of nats per base at which the hypervolume ends."""

LIBRARY = (640, 1280, 2560, 6400)
"""Sequences that the calls of `many` have to do for; the last is what is judged."""

ONCE = {"classifier-2": 1}
"""Calls that one more sequence asks, where steps at which all sequences are alike ask once for all."""

OURS = ("distill", "distill-full", "drakes-warm", *REALIGNED)
"""Methods that no paper has proposed for this."""

TUNED = ("prior", "cfg", *WEIGHTS, *REALIGNED)
"""Methods whose further samples ask the reward nothing."""

NAMES = {
    "drakes": "DRAKES", "drakes-warm": "Variant of DRAKES, warm start and held nats,",
    "drakes-realigned": "DRAKES realigned while it draws,",
}  # fmt: skip
"""What the bars call the methods of `ALPHAS`."""

REAL, TYPICAL = 512, 0.9
"""Held-out sequences whose nats say what is typical, and the share of a point's sequences that must be."""


def bench(regime: Regime = FEW) -> Bench:
    """Return what the cells of a regime share.

    Raises:
        DataError: the data or the model are not here.
    """
    if not MODEL.is_dir():
        raise DataError("the model is not trained", field=str(MODEL), hint="quintet bio train lentimpra")
    return Bench(dna.load(MODEL), oracles()["tuning"], sequences(), CACHE, regime)


def typical(shared: Bench) -> tuple[float, float]:
    """Return the nats per base between which the middle 98 % of real held-out sequences lie."""
    real = o.examples(shared.data, shared.data.part == 2).tokens
    some = real[torch.from_numpy(np.random.default_rng(0).permutation(len(real))[:REAL])]
    low, high = np.quantile(shared.model.nll(some, draws=8, seed=0) / some.shape[1], [0.01, 0.99])
    return float(low), float(high)


def judged(shared: Bench, judges: dict[str, o.Oracle], cell: Cell, between: tuple[float, float]) -> dict[str, Any]:
    """Return the figures of one cell (`figures`) and, under `each`, those of its sequences, kept beside them."""
    own = [inspect.getsource(figures), between, *(checksum(judge.body) for judge in judges.values())]
    kept = shared.path(cell, f"-judged-{hashlib.sha256(repr(own).encode()).hexdigest()[:8]}.json")
    if not kept.is_file():
        x, counts = shared.fill(cell)
        each = {role: judge.score(x).tolist() for role, judge in judges.items()} | {"elbo": counts["elbo"]}
        row = figures(shared, judges, cell, between, each)
        kept.write_text(json.dumps({**row, "each": each}))
    return json.loads(kept.read_text())


def figures(
    shared: Bench, judges: dict[str, o.Oracle], cell: Cell, between: tuple[float, float], each: dict[str, list[float]]
) -> dict[str, float]:
    """Return the figures of one cell; `between` are the nats per base that count as typical."""
    x, counts = shared.fill(cell)
    train, nats = shared.data.tokens[shared.data.part == 0], np.array(each["elbo"])
    row = {role: float(torch.tensor(each[role]).median()) for role in judges}
    control = judges["evaluation"].score(torch.from_numpy(shuffled(x.numpy(), cell.seed)))
    return row | {
        "elbo": float(nats.mean()), "typical": float(((nats >= between[0]) & (nats <= between[1])).mean()),
        "shuffled": float(control.median()), "gc": float(gc_content(x.numpy()).mean()),
        "complexity": float(complexity(x.numpy()).mean()),
        "enrichment_6mers": enrichment_correlation(x.numpy(), top(shared)),
        "diversity": diversity(x.numpy()), "novelty": float(novelty(x.numpy(), train).mean()),
        "distinct": len(x.unique(dim=0)) / len(x), "ancestors": counts["ancestors"] or len(x), "samples": len(x),
        "calls": counts["calls"], "network_calls": counts["network_calls"], "seconds": shared.seconds(cell),
    }  # fmt: skip


def top(shared: Bench) -> np.ndarray:
    """Return the most active tenth of the held-out real sequences, one orientation of each."""
    real = o.examples(shared.data, shared.data.part == 2)
    return real.tokens.numpy()[real.value >= np.quantile(real.value, 0.9)]


def rows(shared: Bench, judges: dict[str, o.Oracle], between: tuple[float, float]) -> dict[str, dict[str, float]]:
    """Return the table: means over the seeds of each method and strength, the spread of evaluation and nats."""
    table: dict[str, dict[str, float]] = {}
    for method, strengths in shared.regime.grid.items():
        for strength in strengths:
            cells = [c for c in shared.regime.cells if (c.method, c.strength) == (method, strength)]
            found = [judged(shared, judges, c, between) for c in cells]
            mean = {k: float(np.mean([f[k] for f in found])) for k in found[0] if k != "each"}
            spread = {f"{k}_std": float(np.std([f[k] for f in found], ddof=1)) for k in ("evaluation", "elbo")}
            table[f"{method} {strength:g}" if strength else method] = mean | spread
    for name, row in table.items():
        row["elbo_loss"] = row["elbo"] - table["prior"]["elbo"]
        row["calls_of_the_next"] = 0.0 if name.split()[0] in TUNED else row["calls"] / row["samples"]
    return table


def hacking(row: dict[str, float], prior: dict[str, float], judges: dict[str, o.Oracle]) -> dict[str, float]:
    """Return gains over the prior in each oracle's spread over real sequences, the gap, and the share retained."""
    gain = {r: (row[r] - prior[r]) / judge.metrics["real_std"] for r, judge in judges.items()}
    return {**{f"gain_{r}": g for r, g in gain.items()}, "gap": gain["tuning"] - gain["evaluation"],
            "retained": gain["evaluation"] / gain["tuning"] if gain["tuning"] else 0.0}  # fmt: skip


def library(shared: Bench, judges: dict[str, o.Oracle], between: tuple[float, float], size: int) -> dict[str, Any]:
    """Return the table of `size` sequences for the calls of `many`: those that a point's calls pay for, and the prior.

    Its columns are what points are compared by (`values`) and `share`, how many of the sequences were paid for.
    """
    table: dict[str, dict[str, float]] = {}
    prior = {c.seed: judged(shared, judges, c, between)["each"] for c in shared.regime.cells if c.method == "prior"}
    for cell in shared.regime.cells:
        row = judged(shared, judges, cell, between)
        asked = 0.0 if cell.method in TUNED else ONCE.get(cell.method, row["calls"] / row["samples"])
        share = min(1.0, CALLS / (asked * size)) if asked else 1.0
        found = mixture(row["each"], prior[cell.seed], share, between) | {"share": share}
        rows = table.setdefault(f"{cell.method} {cell.strength:g}" if cell.strength else cell.method, {})
        for name, value in found.items():
            rows[name] = rows.get(name, 0.0) + value / len(SEEDS)
    for row in table.values():
        row["elbo_loss"] = row["elbo"] - table["prior"]["elbo"]
    return table


def mixture(
    own: dict[str, list[float]], rest: dict[str, list[float]], share: float, between: tuple[float, float]
) -> dict[str, float]:
    """Return medians and means of sequences of which a share is like `own` and the rest like `rest`."""
    weight = np.concatenate([np.full(len(v["elbo"]), w / len(v["elbo"])) for v, w in ((own, share), (rest, 1 - share))])
    both = {k: np.concatenate([own[k], rest[k]]) for k in own}
    nats = both["elbo"]
    typical = ((nats >= between[0]) & (nats <= between[1])) @ weight
    middle = {k: float(np.quantile(v, 0.5, weights=weight, method="inverted_cdf")) for k, v in both.items()}
    return middle | {"elbo": float(nats @ weight), "typical": float(typical)}


def values(row: dict[str, float], more: tuple[str, ...] = (), by: str = "evaluation") -> np.ndarray:
    """Return what points are compared by, more is better; nats below the prior's own gain nothing."""
    return np.array([row[by], -max(row["elbo_loss"], 0.0), *(row[k] for k in more)])


def rivals(method: str, name: str) -> bool:
    """Return whether one of `ALPHAS` is compared with a point: that of any other method; `drakes` with none of them."""
    other = name.split()[0]
    return other != method and not (method == "drakes" and other in ALPHAS)


def dominated(
    table: dict[str, dict[str, float]], method: str = "drakes", more: tuple[str, ...] = (), by: str = "evaluation",
    but: tuple[str, ...] = (),
) -> dict[str, list[str]]:  # fmt: skip
    """Return for each typical point of a method of `ALPHAS` the typical points of its rivals that dominate it.

    Args:
        table: points by name.
        method: whose.
        more: further columns that count, more is better.
        by: the oracle that counts.
        but: methods that do not count.
    """
    points = {k: values(row, more, by) for k, row in table.items() if row["typical"] >= TYPICAL}
    others = {k: v for k, v in points.items() if rivals(method, k) and k.split()[0] not in but}
    return {
        name: [k for k, v in others.items() if (v >= own).all() and (v > own).any()]
        for name, own in points.items() if name.split()[0] == method
    }  # fmt: skip


def volumes(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the hypervolume of each method's typical points: log2 units times nats per base."""
    reference = torch.tensor([table["prior"]["evaluation"], -WORST]).double()
    found = {}
    for method in {k.split()[0]: None for k in table}:
        mine = [r for k, r in table.items() if k.split()[0] == method and r["typical"] >= TYPICAL]
        points = torch.tensor(np.array([values(r) for r in mine])).double().reshape(-1, 2)
        found[method] = hypervolume(points, reference) if mine else 0.0
    return found


def shown(regime: Regime, judges: dict[str, o.Oracle], between: tuple[float, float]) -> dict[str, Any]:
    """Return the figures of a regime: its table, and of each method of `ALPHAS` its standing."""
    shared = bench(regime)
    table = rows(shared, judges, between)
    volume = volumes(table)
    return {
        "table": table, "hypervolume": volume, **{method: standing(table, volume, method) for method in ALPHAS},
        "hacking": {k: hacking(r, table["prior"], judges) for k, r in table.items() if k != "prior"},
    }  # fmt: skip


def standing(table: dict[str, dict[str, float]], volume: dict[str, float], method: str) -> dict[str, Any]:
    """Return who dominates whom, and the point that a user would choose: of those that are typical and lose at most
    0.01 nats per base the one of most tuning reward; of the warm one that of the smallest alpha, which asks nothing.
    """
    points = [f"{method} {a:g}" for a in ALPHAS[method]]
    kept = [k for k in points if table[k]["elbo_loss"] <= 0.01 and table[k]["typical"] >= TYPICAL]
    best = max(v for m, v in volume.items() if rivals(method, m))
    order = points.index if method == "drakes-warm" else lambda k: table[k]["tuning"]
    return {
        "dominated": dominated(table, method), "dominated_by_published": dominated(table, method, but=OURS),
        "dominated_with_diversity": dominated(table, method, ("diversity",)),
        "dominated_by_judge": dominated(table, method, by="judge"),
        "hypervolume_over_others": volume[method] / best,
        "chosen": max(kept, key=order, default=None),
    }  # fmt: skip


def bars(part: dict[str, Any], method: str, regime: Regime, level: float, measured: float) -> list[Bar]:
    """Return what is asked of a method of `ALPHAS` in a regime whose figures are `part`."""
    found, name, of = part[method], NAMES[method], f"{regime.samples} sequences"
    median = part["table"][found["chosen"]]["evaluation"] if found["chosen"] else float("nan")
    counts = {"published": found["dominated_by_published"], "other": found["dominated"]}
    return [
        *undominated(f"{name} at 5 alphas, {of}", counts),
        Bar(f"{name} hypervolume over the best of the others, {of}", found["hypervolume_over_others"], ">=", 1),
        Bar(f"{name} evaluation median at <= 0.01 nats per base, {of}, against the 95th percentile of predictions for "
            "real sequences", median, ">=", level),
        Bar(f"{name} evaluation median at <= 0.01 nats per base, {of}, against the 95th percentile of measured "
            "activity", median, ">=", measured),
    ]  # fmt: skip


def library_bars(tables: dict[str, dict[str, Any]], method: str) -> list[Bar]:
    """Return what is asked of a method of `ALPHAS` in the largest library."""
    size, table = list(tables.items())[-1]
    counts = {"published": dominated(table, method, but=OURS), "other": dominated(table, method)}
    return undominated(f"{NAMES[method]} at 5 alphas, library of {size}", counts)


def undominated(what: str, counts: dict[str, dict[str, list[str]]]) -> list[Bar]:
    """Return a bar for each kind of rivals: that one typical point has none that dominates it."""
    return [
        Bar(f"{what}: typical points that no {kind} method dominates", float(sum(not v for v in by.values())), ">=", 1)
        for kind, by in counts.items()
    ]


def run(full: bool = False) -> Result:
    """Fill the two tables."""
    torch.set_num_threads(1)
    shared, judges = bench(), oracles()
    between = typical(shared)
    real = o.examples(shared.data, shared.data.part != 2)  # what evaluation and judge never learned from
    predicted = judges["evaluation"].score(real.tokens).numpy()
    level, measured = float(np.quantile(predicted, 0.95)), float(np.quantile(real.labels, 0.95))
    few, many = (shown(regime, judges, between) for regime in (FEW, MANY))
    libraries = {str(size): library(bench(MANY), judges, between, size) for size in LIBRARY}
    found: dict[str, Any] = {
        "few": few, "many": many, "library": libraries, "typical_between": between, "real_95_predicted": level,
        "real_95_measured": measured,
    }  # fmt: skip
    notes = (
        f"few: {FEW.samples} samples in {FEW.steps} steps; many: {MANY.samples} in {MANY.steps}; about {CALLS} reward "
        f"calls (scores and gradients) in all for every method of either, {len(SEEDS)} seeds. The "
        "percentile is of the evaluation oracle's predictions for real sequences that it never learned from: a "
        "regression predicts less spread than it is measured (real_95_measured). alpha is chosen by tuning reward "
        "and nats; the two judges chose nothing. Each DRAKES point spends all calls in a run of its own, those of the "
        "variant are one run with falling alpha; the same weights in both tables, seconds with all tuning before. The "
        "reference chain carries no gradient in classifier, tds and drakes. cfg uses measured labels, no reward call. "
        "calls_of_the_next is what one more sample would ask. best-of-all shares the draws of best-of-n: its seconds "
        "are those of choosing. The points that tds and smc dominate with are copies of one ancestor (diversity). "
        "drakes is the method that the issue names; drakes-warm is a variant with a start and a term of its own: "
        "guided paths are distilled into the weights first (512 of the calls), and its paths are held at the nats of "
        "the pretrained model's; its alpha is chosen by nats alone, which asks for no call. What is realigned draws "
        "from weights of another row at a lower price of a nat, two networks a step. No bar of one stands for another."
    )
    units = {"tuning, evaluation, judge": "log2 RNA/DNA, medians", "elbo": "nats per base under the pretrained model"}
    floor = enrichment_correlation(top(shared)[0::2], top(shared)[1::2])
    peers = {"enrichment_6mers, one half of the most active real sequences against the other": floor}
    asked = [
        bar for method in ALPHAS for regime, part in ((FEW, few), (MANY, many))
        for bar in bars(part, method, regime, level, measured)
    ] + [bar for method in ALPHAS for bar in library_bars(libraries, method)]  # fmt: skip
    return Result(found, asked, units, peers, 0, notes)
