"""An HTML page about a set of sequences: what they are made of, how varied and how new, and beside what.

Every figure of the sequences stands beside two others: real sequences where a reference is given, and a *composition-
matched control*, the same sequences with their letters shuffled so that each keeps its pairs of neighbours (an Euler
walk through its own dinucleotides; Altschul, Erickson 1985; Kandel et al. 1996). What the control has too comes from
composition alone: duplex energy and GC-rich motifs are the classic traps.

    k-mers      Pearson correlation of log enrichments log((n + 1) / (n_control + 1)) with those of the reference
    diversity   mean share of letters in which pairs differ;   novelty   least such share to any reference sequence
    complexity  share of different words among a sequence's 6-mers (3-mers of residues): arrays of one motif, which
                models find likely and oracles active, have little
    motifs      sequences that hold it / those that the control would, per rule of the manifest and per named motif
    tuning      where two rewards or more are given: the first is taken as tuned for, the others as judges
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.bio import audit
from apps.bio.baselines import euler
from apps.bio.records import Entry, read
from core.errors import UsageError
from core.run import outputs

if TYPE_CHECKING:
    from core.run.report import Section, Table

__all__ = ["complexity", "composition", "differences", "enrichment", "interval", "report", "sections", "shuffled"]

MOST = 400
"""Sequences, evenly taken, between which all pairs are compared, and each of them with all of the reference."""


def shuffled(sequence: str, seed: int) -> str:
    """Return a sequence with exactly the same pairs of neighbours, drawn evenly among all such."""
    word = sequence.encode()
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.blake2b(word, digest_size=6).digest())])
    return bytes(euler(np.frombuffer(word, np.uint8).astype(np.int64), rng).tolist()).decode()


def composition(sequences: Sequence[str], k: int) -> Counter[str]:
    """Return the k-mers of some sequences."""
    return Counter(s[i : i + k] for s in sequences for i in range(len(s) - k + 1))


def enrichment(sequences: Sequence[str], control: Sequence[str], words: Sequence[str], k: int) -> np.ndarray:
    """Return log enrichments of k-mers against a control, float64 [words]."""
    a, b = composition(sequences, k), composition(control, k)
    scale = (sum(b.values()) + len(words)) / (sum(a.values()) + len(words))
    return np.array([np.log((a[w] + 1) / (b[w] + 1) * scale) for w in words])


def differences(a: Sequence[str], b: Sequence[str]) -> np.ndarray:
    """Return the share of letters in which each of `a` differs from each of `b`, [a, b]; 1 where lengths differ."""
    width = max(map(len, [*a, *b]), default=0)
    x, y = (
        np.frombuffer("".join(s.ljust(width) for s in part).encode("ascii", "replace"), np.uint8).reshape(
            len(part), width
        )
        for part in (a, b)
    )
    out = np.stack([(y != row).sum(1) for row in x]) if len(x) and len(y) else np.zeros((len(a), len(b)))
    first, second = (np.array([len(s) for s in part], int) for part in (a, b))
    return np.where(first[:, None] == second, out / np.maximum(second, 1), 1.0)


def complexity(sequences: Sequence[str], k: int) -> float:
    """Return the mean share of different words among the words of k letters of a sequence."""
    return float(np.mean([len(composition([s], min(k, len(s)))) / max(len(s) - k + 1, 1) for s in sequences]))


def interval(values: np.ndarray, seed: int = 0, draws: int = 1000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean."""
    rng = np.random.default_rng(seed)
    means = rng.choice(values, (draws, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _some(sequences: Sequence[str]) -> list[str]:
    step = max(len(sequences) / MOST, 1)
    return [sequences[int(i * step)] for i in range(min(len(sequences), MOST))]


def basics(name: str, sequences: Sequence[str], real: Sequence[str], dna: bool) -> list[Any]:
    """Return a row of the first table."""
    few = _some(sequences)
    pairs = differences(few, few)[np.triu_indices(len(few), 1)]
    share = np.array([sum(c in "GC" for c in s) / max(len(s), 1) for s in sequences]) if dna else np.array([np.nan])
    known = set(real)
    near = float(differences(few, real).min(1).mean()) if real else "-"
    return [name, len(sequences), len(set(sequences)), float(np.mean([len(s) for s in sequences])), float(share.mean()),
            float(share.std()), complexity(sequences, 6 if dna else 3),
            float(pairs.mean()) if len(pairs) else 0.0, near,
            sum(s in known for s in sequences) if real else "-"]  # fmt: skip


def _shown(value: Any) -> str:
    """Return an entry of a manifest as the command line would say it."""
    if isinstance(value, dict):
        return "; ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def motif_rows(
    groups: dict[str, Sequence[str]], rules: Sequence[Any], motifs: Sequence[str], dna: bool
) -> list[list[Any]]:
    """Return for each motif the share of sequences of each group that hold it."""
    words = list(dict.fromkeys([*motifs, *(m for r in rules for m in getattr(r, "motifs", ()))]))
    rows = []
    for word in words:
        form = audit.spelling(word, dna)
        held = {n: np.mean([bool(audit.starts(s, form, True, dna)) for s in g]) for n, g in groups.items()}
        lift = np.log2((held["designs"] + 1e-3) / (held["control"] + 1e-3))
        rows.append([word, *(float(v) for v in held.values()), float(lift)])
    return rows


def reward_rows(groups: dict[str, Sequence[str]], rewards: Sequence[str], model: str, seed: int) -> list[list[Any]]:
    """Return for each reward (and the model's nats) the mean in each group, with its interval for the designs."""
    from apps.bio.score import columns

    values = {name: columns(list(group), list(rewards), model, seed) for name, group in groups.items()}
    rows = []
    for column in values["designs"]:
        found = {name: np.array(v[column], float) for name, v in values.items()}
        low, high = interval(found["designs"], seed)
        rows.append([column, *(float(v.mean()) for v in found.values()), f"{low:.4g} to {high:.4g}",
                     float(np.median(found["designs"]))])  # fmt: skip
    return rows


def letters(entry: Entry) -> str:
    """Return the letters of a record in capitals, the chains of one design one after the other."""
    return entry.sequence.upper().replace("/", "")


def sections(
    entries: Sequence[Entry], real: Sequence[str], *, folder: Path, model: str = "", rewards: Sequence[str] = (),
    motifs: Sequence[str] = (), seed: int = 0,
) -> list[Section]:  # fmt: skip
    """Return the sections of the page; pictures are written to `folder`."""
    from core.run.report import Section, Table, Text

    sequences, judged = [letters(e) for e in entries], asked(entries)
    dna = audit.nucleic(sequences, [rule for rules, _ in judged for rule in rules])
    sequences = [s.replace("U", "T") for s in sequences] if dna else sequences
    control = [shuffled(s, seed) for s in sequences]
    groups: dict[str, Sequence[str]] = {"designs": sequences, "control": control}
    if real:
        real = groups["reference"] = [s.upper().replace("U", "T") if dna else s.upper() for s in real]
    head = ["set", "sequences", "distinct", "letters", "G + C", "its deviation", "complexity", "diversity", "novelty",
            "exact copies"]  # fmt: skip
    out = [Section("What they are", [
        Text("The control is each sequence with its letters shuffled, dinucleotides kept: what it shows too is a "
             "matter of composition. Scores by a model or an oracle are predictions, not measurements."),
        Table(head, [basics(n, g, [] if n == "reference" else real, dna) for n, g in groups.items()],
              "Complexity: share of different words among a sequence's own; arrays of one motif have little. "
              "Diversity: mean share of letters in which pairs differ. Novelty: least such share to the reference."),
        *origins(entries)])]  # fmt: skip
    if dna:
        out.append(kmers(groups, folder))
    rows = motif_rows(groups, [rule for rules, _ in judged for rule in rules], motifs, dna)
    if rows:
        caption = "Share of sequences that hold the motif on either strand; log2 of designs over control."
        out.append(Section("Motifs", [Table(["motif", *groups, "log2 lift"], rows, caption)]))
    out += rule_sections(judged, entries, dna)
    if rewards or model:
        caption = "Means; bootstrapped 95 % interval and median of the designs. The first reward is taken as the one "
        caption += "tuned for; a gain that the others do not share is not one."
        head = ["score", *groups, "95 % interval", "median"]
        out.append(Section("Rewards", [Table(head, reward_rows(groups, rewards, model, seed), caption)]))
    return out


def asked(entries: Sequence[Entry]) -> list[tuple[list[Any], list[Entry]]]:
    """Return the rules of the manifests, and whose they are; designs in a template need it, and are left to `audit`."""
    from apps.bio.dna.words import alike, parse

    some = [e for e in entries if e.manifest.get("rules") and not e.manifest.get("template")]
    groups = [[some[i] for i in numbers] for numbers in alike({}, some)]
    return [(parse(group[0].manifest["rules"]), group) for group in groups]


def made_alike(entries: Sequence[Entry]) -> list[tuple[dict[str, Any], str]]:
    """Return each different manifest, and whose it is where there are several."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(json.dumps(entry.manifest, sort_keys=True, default=str), []).append(entry)
    alone = len(found) == 1
    return [(group[0].manifest, "" if alone else f": {len(group)} from {group[0].name} on") for group in found.values()]


def origins(entries: Sequence[Entry]) -> list[Table]:
    """Return how the sequences came about, a table for each different manifest."""
    from core.run.report import Table

    return [
        Table(["entry", "value"], [[k, _shown(v)] for k, v in about.items() if k != "nats"], f"Manifest{whose}")
        for about, whose in made_alike(entries)
        if about or not whose
    ]


def rule_sections(
    judged: Sequence[tuple[list[Any], list[Entry]]], entries: Sequence[Entry], dna: bool
) -> list[Section]:  # fmt: skip
    """Return the audit of each file by the rules of its manifest, and what they cost."""
    from core.run.report import Section, Table

    out, lines = [], []
    for rules, group in judged:
        circles = [e.circular or bool(e.manifest.get("circular")) for e in group]
        texts = [e.sequence.upper().replace("U", "T") if dna else e.sequence.replace("/", "") for e in group]
        found = audit.check(texts, rules, dna, circles)
        lines += [[f.rule, f.by, f.sequences, f.violations] for f in found]
    if lines:
        out.append(Section("Rules", [Table(["rule", "judged by", "sequences", "violations"], lines)]))
    caption = "-log P(rule) under the model, as `design` estimated it"
    paid = [(about["nats"], whose) for about, whose in made_alike(entries) if isinstance(about.get("nats"), dict)]
    prices = [Table(["rule", "nats"], [[k, v] for k, v in nats.items()], f"{caption}{whose or '.'}")
              for nats, whose in paid if nats]  # fmt: skip
    return [*out, *([Section("What the rules cost", prices)] if prices else [])]


def kmers(groups: dict[str, Sequence[str]], folder: Path) -> Section:
    """Return the section on k-mers: what is enriched over the control, and whether the reference agrees."""
    from itertools import product

    from core.run.report import Picture, Section, Table

    rows, tops = [], []
    for k in (3, 4, 6):
        words = ["".join(w) for w in product("ACGT", repeat=k)]
        held = enrichment(groups["designs"], groups["control"], words, k)
        ours = composition(groups["designs"], k)
        row = [k, len(ours) / len(words), float("nan")]
        if "reference" in groups:
            other = enrichment(groups["reference"], groups["control"], words, k)
            row[2] = float(np.corrcoef(held, other)[0, 1])
        rows.append(row)
        if k == 6:
            best = np.argsort(-held)[:10]
            tops = [[words[i], ours[words[i]], float(held[i])] for i in best]
    caption = "Correlation of log enrichments over the control."
    blocks: list[Any] = [
        Table(["k", "share of words seen", "correlation with the reference"], rows, caption),
        Table(["6-mer", "times", "log enrichment"], tops, "The most enriched over the control"),
        Picture(picture(groups, folder / "gc.svg"), "Share of G and C"),
    ]  # fmt: skip
    return Section("K-mers", blocks)


def picture(groups: dict[str, Sequence[str]], path: Path) -> Path:
    """Draw the distribution of GC content."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    for name, group in groups.items():
        share = [sum(c in "GC" for c in s) / max(len(s), 1) for s in group]
        axes.hist(share, bins=[i / 40 for i in range(41)], histtype="step", density=True, label=name)
    axes.set(xlabel="G + C", ylabel="density")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def report(
    files: Sequence[Path], *, reference: Path | None = None, model: str = "", reward: Sequence[str] | None = None,
    seed: int = 0, out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the page of some files and return where it is.

    Raises:
        UsageError: `out` is no page, or a name is not known.
        DataError: a file is missing or malformed.
    """
    import tempfile

    from core.run.report import write

    target = out or Path("report.html")
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError("the report is a page", field="out", value=str(target), hint="name it FILE.html")
    outputs.file(Path(target))
    entries = [entry for path in files for entry in read(path)]
    real = [letters(e) for e in read(reference)] if reference is not None else []
    with tempfile.TemporaryDirectory() as folder:
        parts = sections(entries, real, folder=Path(folder), model=model, rewards=reward or (), seed=seed)
        page = write(Path(folder) / "report.html", "Designed sequences", parts).read_text(encoding="utf-8")
    outputs.save(target, page)
    return {"out": str(target), "sequences": len(entries), "sections": len(parts)}
