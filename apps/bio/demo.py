"""The app's main job on the embedded grammar, as sections of a page: design, audit, compare with the law, tune."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from apps import bio
from apps.bio import audit, constraints, design, metrics, pictures, tune, verbs
from apps.bio.baselines import markov
from apps.bio.dna.grammar import EBOX, GAPS, INITIATOR, TATA, Grammar
from apps.bio.dna.words import parse
from apps.bio.expressions import compose
from apps.bio.generate import SequenceModel
from apps.bio.manifest import manifest
from apps.bio.price import prices
from apps.bio.records import Designs
from apps.bio.report import report
from core.finetune import drakes
from core.finetune.reward import Counted
from core.noise import Stream
from core.run.report import Commands, Frame, Link, Picture, Section, Table, Text

__all__ = ["obtain", "sections"]

SEED, DESIGNS, DRAWN, STEERED = 0, 200, 400, 48
PRIMERS = {"primer": (1, "GGATCCTGCAGC"), "tail": (89, "AAGCTTGGCACC")}
READING = (62, "MSKGEEL*")
RULES: dict[str, Any] = {
    "forbid": ["BsaI", "BsmBI", "EcoRI"], "require": [TATA], "homopolymer": 5, "gc": ["0.4-0.6"],
    "fix": [f"{at}:{letters}" for at, letters in PRIMERS.values()], "frame": [f"{READING[0]}:{READING[1]}"],
}  # fmt: skip
REWARD, BEST = "tm()", 16
TUNING = {"alpha": 1.0, "updates": 30, "batch": 16, "lr": 0.01, "steps": 16, "truncate": 4, "kl_steps": 4}
COMMANDS = (
    "quintet bio train toy",
    f"quintet bio design toy -n {DESIGNS} --forbid BsaI --forbid BsmBI --forbid EcoRI --require {TATA} --homopolymer 5 "
    f"--gc 0.4-0.6 --fix 1:GGATCCTGCAGC --fix 89:AAGCTTGGCACC --frame {READING[0]}:{READING[1]} --out designs.fasta",
    "quintet bio audit designs.fasta",
    f'quintet bio finetune toy --reward "{REWARD}" --alpha 1 --updates 30 --batch 16 --out runs/bio/tuned',
    f'quintet bio score designs.fasta --reward "{REWARD}" --model toy --out scores.tsv',
    "quintet bio report designs.fasta --out report.html",
)
Draw = Callable[[Any], Designs]


def sections(folder: Path) -> list[Section]:
    """Write pictures, sequences and a report into `folder` and return what the page shows of them."""
    model, source = obtain(folder)
    parts = [_designs(model, source, folder), _law(model, folder), _reward(model, folder)]
    return [*parts, Section("Make it again", [Commands(COMMANDS)])]


def obtain(folder: Path) -> tuple[SequenceModel, str]:
    """Return the toy model that ships, or train it where it does not, with a word on where it comes from."""
    from core.run.config import load_recipe
    from core.run.fetch import data_root
    from core.run.launch import run

    if (data_root() / "models" / "bio-toy").is_dir():
        return bio.load("toy"), "the toy model that ships, trained by `quintet bio train toy`"
    verbs.say("demo: training the toy recipe (under a minute)")
    found = run("bio", load_recipe("bio", "toy"), folder / "model", None)
    return bio.load(found.folder), f"the toy recipe, {found.step} steps, trained by this very command"


def _designs(model: SequenceModel, source: str, folder: Path) -> Section:
    verbs.say("demo: designing under hard rules")
    wish = design.Order(parse(RULES), "?" * model.recipe.data.length)
    began = time.perf_counter()
    free = model.sample(DESIGNS, seed=SEED)
    between = time.perf_counter()
    ours, missed = design.designed(model, wish, DESIGNS, seed=SEED)
    seconds = (between - began, time.perf_counter() - between)
    start = model.open_sites(None, wish.start)
    price = {k: v.first for k, v in prices(model, wish.specs, start).items()}
    nats = {k: round(v, 4) for k, v in price.items()}
    ours.manifest = manifest(model=model.name, seed=SEED, n=DESIGNS, rules=RULES, nats=nats)
    ours.notes = [design.noted(wish, s) for s in ours.sequences]
    rows = _audited(wish.specs, free, ours, price)
    paths = [folder / f"designs{ending}" for ending in (".fasta", ".gb", ".tsv", ".json")]
    for path in paths:
        ours.write(path)
    page = report(paths[:1], reference=_natural(folder), model="", reward=[REWARD], out=folder / "report.html")
    verbs.say(f"demo: wrote {page['out']}")
    text = (
        f"{len(ours)} promoters of {model.recipe.data.length} letters by {source}, under six kinds of rules: three "
        f"restriction enzymes forbidden on both strands, a TATA box required, short runs, a range of G + C, a primer "
        f"at either end, and a reading frame that spells {READING[1]}. Beside them {len(free)} samples without rules. "
        f"The audit is other code than made them. {missed} designs were given up, {len(set(ours.sequences))} are "
        f"different; {seconds[1]:.1f} s, without rules {seconds[0]:.1f} s."
    )
    parts = {k: (at, at + len(letters) - 1) for k, (at, letters) in PRIMERS.items()}
    parts["reading frame"] = (READING[0], READING[0] + 3 * len(READING[1]) - 1)
    chart = pictures.letters_picture(_tokens(free, ours), parts, "Each row is a sequence")
    caption = "Violations, and the price of each rule: -log of the chance that letters drawn by the model's first "
    caption += "prediction keep it. e to that number is how many samples one would throw away for each that is kept."
    return Section("DNA under hard rules", [
        Text(text), Table(["rule", "judged by", "free samples that break it", "designs that break it", "price, nats"],
                          rows, caption),
        _picture(chart, folder / "designs.png", "The primers and the codons stand; the rest varies as the model does."),
        Frame(folder / "report.html", "The report that `quintet bio report` makes of the designs."),
        *[Link(p, f"The designs as {p.name}") for p in paths],
    ], f"{rows[-1][3]} of {len(ours)} designs break a rule, {rows[-1][2]} of {len(free)} free samples do; price "
       f"{rows[-1][4]:.1f} nats")  # fmt: skip


def _audited(specs: list[Any], free: Designs, ours: Designs, price: dict[str, float]) -> list[list[Any]]:
    """Return a row for each rule: who judges, how many break it, what it costs."""
    atoms = constraints.atoms(specs, len(ours.sequences[0]), "ACGT")
    names = [a.name for a in atoms]
    rows = []
    for spec in specs:
        mine = [n for n in names if n == str(spec) or n.startswith(f"{spec} ")]
        before, after = (audit.check(some.sequences, [spec])[0] for some in (free, ours))
        rows.append([str(spec), after.by, before.violations, after.violations, sum(price.get(n, 0.0) for n in mine)])
    broken = sum(not audit.clean(audit.check([s], specs)) for s in free.sequences)
    left = sum(not audit.clean(audit.check([s], specs)) for s in ours.sequences)
    return [*rows, ["all together", "", broken, left, price["all together"]]]


def _natural(folder: Path) -> Path:
    """Write fresh sequences of the grammar, the report's reference."""
    x, _ = Grammar().sample(DESIGNS, SEED + 1)
    path = folder / "natural.fasta"
    Designs.of(_letters(x), torch.from_numpy(x), {"law": "motif grammar", "seed": SEED + 1}).write(path)
    return path


def _law(model: SequenceModel, folder: Path) -> Section:
    """Compare samples with the law that the training sequences came from."""
    verbs.say("demo: samples beside the known law")
    grammar = Grammar(model.recipe.data.length)
    real, again = (grammar.sample(DRAWN, SEED + k)[0] for k in (2, 3))
    chain = markov(grammar.sample(4000, SEED + 4)[0], 3).sample(DRAWN, grammar.length, SEED)
    drawn = model.sample(DRAWN, seed=SEED + 5).tokens
    assert drawn is not None
    sets = {"the law": real, "model": drawn.numpy(), "chain of order 3": chain}
    rows, shares = [], {}
    for name, x in sets.items():
        against = again if name == "the law" else real
        apart = [metrics.total_variation(metrics.kmer_counts(x, k), metrics.kmer_counts(against, k)) for k in (3, 6)]
        shares[name] = _gaps(x)
        good = float(shares[name][[g - SPAN[0] for g in GAPS]].sum())
        rows.append([name, *apart, _share(x, TATA), _share(x, EBOX), good, float(-grammar.log_prob(x).mean())])
    header = ["sequences", "3-mers apart", "6-mers apart", f"hold {TATA}", f"hold {EBOX}", "promoters", "nats"]
    text = (
        "The toy's sequences come from a grammar: a TATA box, 18 to 26 letters later an initiator, sometimes an E-box, "
        f"over a chain. {DRAWN} samples of the model beside as many fresh ones of the law and of a counted Markov "
        "chain. In the first row stand two draws of the law. The distance of box and initiator is the hardest part: "
        "what the picture shows below the plateau of the law is what the model has still to learn."
    )
    caption = "Apart: total variation. Promoters: mean number of box and initiator at a distance the grammar allows. "
    caption += "Nats: -log of the exact probability under the grammar, mean per sequence; the first row is its entropy."
    chart = pictures.gaps_picture(list(SPAN), shares, "TATA box and initiator, by distance")
    return Section("Beside the known law", [
        Text(text), Table(header, rows, caption),
        _picture(chart, folder / "gaps.png", "The grammar sets the initiator 18 to 26 letters after the box."),
    ], f"Nats under the exact law: model {rows[1][-1]:.1f}, chain of order 3 {rows[2][-1]:.1f}, the law itself "
       f"{rows[0][-1]:.1f}")  # fmt: skip


SPAN = range(10, 36)


def _gaps(x: np.ndarray) -> np.ndarray:
    """Return how often, per sequence, an initiator follows a TATA box at each distance of `SPAN`."""
    out = np.zeros(len(SPAN))
    for letters in _letters(x):
        boxes = [b for _, b in audit.starts(letters, TATA, False, True)]
        starts = {a for a, _ in audit.starts(letters, INITIATOR, False, True)}
        out += [sum(b + gap in starts for b in boxes) for gap in SPAN]
    return out / len(x)


def _share(x: np.ndarray, motif: str) -> float:
    return float(np.mean([bool(audit.starts(s, motif, False, True)) for s in _letters(x)]))


def _reward(model: SequenceModel, folder: Path) -> Section:
    """Steer and tune to a melting temperature; the exact law, which no method sees, is the judge."""
    verbs.say("demo: tuning to a reward by DRAKES")
    began = time.perf_counter()
    tune.finetune(model.name, reward=[REWARD], seed=SEED, out=folder / "tuned", **TUNING)
    tuned, seconds = bio.load(folder / "tuned" / "model"), time.perf_counter() - began
    verbs.say("demo: steering at inference")
    walked = drakes.path_kl(tune.straight(tuned.net), tune.straight(model.net), model.base(), 64,
                            Stream.of(SEED, 64), 8)  # fmt: skip
    kl = {"free": "0", f"best of {BEST}": f"at most {math.log(BEST) - 1 + 1 / BEST:.2f}",
          "DRAKES": f"{walked.value:.2f} ± {walked.error:.2f}"}  # fmt: skip
    rows, points = [], {}
    for name, draw in _ways(model, tuned).items():
        row = _steered(name, draw, kl.get(name, ""), seconds if name == "DRAKES" else 0.0)
        rows.append(row)
        points[name] = (row[2], row[1])
    trained = int(TUNING["updates"] * TUNING["batch"])
    text = (
        f"The reward is the melting temperature ({REWARD}, degrees Celsius). It can be had by choosing among samples, "
        "by steering each sample, or by tuning the weights (DRAKES), whose samples then cost no more than free ones; "
        f"tuning took {trained} paths and as many gradients. The judge, the exact law, is seen by no method: what a "
        "reward costs in nats is how unnatural the sequences become."
    )
    header = ["samples", "melts at, °C", "nats under the law", "path KL", "different",
              "reward calls", "seconds"]  # fmt: skip
    caption = "Path KL: from the model it started from; of best of n its bound log n - 1 + 1/n. SMC and TDS give "
    caption += "weighted populations, whose path KL is not known. Seconds of DRAKES are those of its tuning."
    chart = pictures.price_picture(points, "Reward against its price", "nats per sequence under the exact law",
                                   "melting temperature, °C")  # fmt: skip
    return Section("Tuned to a reward", [
        Text(text), Table(header, rows, caption),
        _picture(chart, folder / "reward.png", "Up is more reward, right is less natural."),
        Link(folder / "tuned" / "model" / "manifest.json", "The manifest of the tuned weights: parent and reward"),
    ])  # fmt: skip


def _ways(model: SequenceModel, tuned: SequenceModel) -> dict[str, Draw]:
    """Return the ways to gain reward, each a function of the reward."""
    return {
        "free": lambda r: model.sample(STEERED, seed=SEED),
        f"best of {BEST}": lambda r: model.sample(STEERED, seed=SEED, reward=r, steering="best-of-n"),
        "SMC": lambda r: model.sample(STEERED, seed=SEED, reward=r, steering="smc"),
        "TDS": lambda r: model.sample(STEERED, seed=SEED, reward=r, steering="tds"),
        "DRAKES": lambda r: tuned.sample(STEERED, seed=SEED),
    }  # fmt: skip


def _steered(name: str, draw: Draw, kl: str, spent: float) -> list[Any]:
    """Return the row of one way to gain reward."""
    reward = compose([REWARD])
    asked = Counted(reward)
    began = time.perf_counter()
    found = draw(asked)
    seconds = spent or time.perf_counter() - began
    assert found.tokens is not None
    x = found.tokens.numpy()
    calls = int(TUNING["updates"] * TUNING["batch"]) if name == "DRAKES" else asked.calls + asked.gradients
    price = float(-Grammar(x.shape[1]).log_prob(x).mean())
    different = len(set(found.sequences))
    return [name, float(reward.score(found.tokens).mean()), price, kl, different, calls,
            round(seconds, 1)]  # fmt: skip


def _tokens(free: Designs, ours: Designs) -> dict[str, np.ndarray]:
    assert free.tokens is not None and ours.tokens is not None
    return {"free": free.tokens.numpy(), "under the rules": ours.tokens.numpy()}


def _letters(x: np.ndarray) -> list[str]:
    return ["".join("ACGT"[v] for v in row) for row in x]


def _picture(chart: Figure, path: Path, caption: str) -> Picture:
    chart.savefig(path, dpi=110)
    return Picture(path, caption)
