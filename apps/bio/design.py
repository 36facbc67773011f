"""Design sequences: a model, hard rules, maybe a reward and a template; out come files that say how they were made.

    rules      words of the command line, and DNA Chisel's annotations of the template
    refuse     rules that no sequence obeys, before anything is sampled
    draw       `SequenceModel.sample`; rules hold by construction
    redraw     letters in GC windows, or at a circle's seam, that only the check can see are masked and drawn again (at
               most `ROUNDS` times)
    audit      other code judges the result; a violation is an error of ours and nothing is written
    write      FASTA, GenBank, TSV or JSON, with a manifest

What a rule costs is printed in nats (`apps.bio.price`).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.bio import audit, constraints
from apps.bio.dna.chisel import marks as chisel_marks
from apps.bio.dna.rules import Fix, Forbid, Frame, Homopolymer
from apps.bio.dna.words import parse, spans
from apps.bio.genbank import Template, template
from apps.bio.manifest import manifest
from apps.bio.peptide.files import suited
from apps.bio.price import Price, prices
from apps.bio.records import Designs, check_format, read, read_genbank
from apps.bio.verbs import load, say
from core.errors import DataError, InfeasibleError, UsageError

if TYPE_CHECKING:
    from Bio.SeqRecord import SeqRecord
    from torch import Tensor

    from apps.bio.generate import SequenceModel

__all__ = ["Order", "design", "designed", "order"]

ROUNDS = 20
COUNTED = ("gc", "insert")
"""Annotations that speak about all of their letters at once, kept ones too."""


@dataclass(eq=False)
class Order:
    """What is asked for, on the letters that are sampled.

    Args:
        specs: the rules.
        start: letters, `?` where open.
        template: the record they belong to, if any.
    """

    specs: list[Any]
    start: str
    template: Template | None = None

    @property
    def closed(self) -> bool:
        """Tell whether the last letter meets the first."""
        return self.template is not None and self.template.closed

    @property
    def sites(self) -> np.ndarray:
        """Return where the letters stand in the record, from 1, int64 [L]."""
        return np.arange(len(self.start)) + 1 if self.template is None else self.template.sites + 1

    @property
    def kept(self) -> list[Fix]:
        """Return the letters that stay as rules."""
        places = self.sites.tolist()
        return [Fix(i + 1, c, places[i]) for i, c in enumerate(self.start) if c != "?"]

    @property
    def seams(self) -> list[constraints.Seam]:
        """Return what may not lie where they meet."""
        held = self.template
        return constraints.seams(self.specs, held.open[held.sites]) if held is not None and held.closed else []


def order(rules: Mapping[str, Any], length: int, path: Path | None = None) -> Order:
    """Return the order that the words of the command line and a template make.

    Raises:
        UsageError, DataError: words or a file that make no sense.
    """
    specs, kept = parse(rules), spans(rules.get("keep") or [])
    if path is None:
        if kept:
            raise UsageError("needs --template, whose letters are kept", field="keep")
        return Order(specs, "?" * length)
    record, marks = _record(path)
    text = str(record.seq).upper()
    if wrong := sorted(set(text) - set("ACGTURYSWKMBDHVN?")):
        raise DataError("holds a letter that is no nucleotide", field="template", value=wrong[0])
    opened = np.ones(len(text), bool)
    if any(c in "?N" for c in text) and not kept:
        opened = np.array([c in "?N" for c in text])
    for first, last in kept:
        if last > len(text):
            raise UsageError(f"the template has {len(text)} letters", field="keep", value=f"{first}-{last}")
        opened[first - 1 : last] = False
    for mark in marks:
        if mark.kind == "keep":
            opened[(mark.first - 1 + np.arange(mark.size)) % len(text)] = False
    return _fitted(specs, marks, record, opened)


def _fitted(specs: Sequence[Any], marks: Sequence[Any], record: SeqRecord, opened: np.ndarray) -> Order:
    """Return the order on the arc of a record; kept letters stand at both its ends where rules look across the seam."""
    spans = [(m.first, m.size) for m in marks if m.kind == "no" and m.size < len(opened)]
    whole = [(m.first, m.size) for m in marks if m.whole or m.kind in COUNTED]
    whole += [(s.position, s.size) for s in specs if isinstance(s, Fix)]
    whole += [(s.start, 3 * len(s.protein)) for s in specs if isinstance(s, Frame)]
    held = template(record, opened, spans=spans, whole=whole)
    wish = Order(_placed(specs, marks, held), held.letters, held)
    reach = max((len(p) - 1 for seam in wish.seams for p in seam.patterns), default=0)
    if reach > held.margin:
        twice = template(record, opened, around=True, spans=spans, whole=whole)
        if reach <= twice.margin:
            return Order(_placed(specs, marks, twice), twice.letters, twice)
    return wish


def _placed(specs: Sequence[Any], marks: Sequence[Any], held: Template) -> list[Any]:
    """Return rules and annotations of a record as rules on the arc."""
    return [*(moved(spec, held) for spec in specs), *(rule for mark in marks for rule in _marked(mark, held))]


def _record(path: Path) -> tuple[SeqRecord, list[Any]]:
    from Bio.Seq import Seq
    from Bio.SeqRecord import SeqRecord

    if path.suffix.lower() in (".gb", ".gbk"):
        records = read_genbank(path)
        _one_of(path, len(records))
        record = records[0]
        warned: Any = record.annotations.get("quintet_warnings", [])
        for line in warned:
            say(f"{path}: {line}")
        return record, chisel_marks(record)
    entries = read(path)
    _one_of(path, len(entries))
    entry = entries[0]
    return SeqRecord(Seq(entry.sequence), id=entry.name, name=entry.name[:16], description=""), []


def _one_of(path: Path, records: int) -> None:
    """Say which record of a file with several is meant."""
    if records > 1:
        say(f"{path}: the first of {records} records is the template")


def moved(spec: Any, held: Template) -> Any:
    """Return a rule on the record as one on the arc; rules without a place speak about the designed part."""
    if isinstance(spec, Fix):
        return replace(spec, position=held.place(spec.position, spec.size), of=spec.position)
    if isinstance(spec, Frame):
        return replace(spec, start=held.place(spec.start, 3 * len(spec.protein)), of=spec.start)
    if isinstance(spec, Forbid | Homopolymer):
        return replace(spec, touching=held.hull)
    return replace(spec, within=held.hull) if hasattr(spec, "within") else spec


def _marked(mark: Any, held: Template) -> list[Any]:
    """Return the rules of an annotation on the parts of the arc that it covers.

    Raises:
        UsageError: it needs or counts letters that do not lie there.
    """
    if mark.make is None:
        return []
    covered = (held.sites - (mark.first - 1)) % len(held.open) < mark.size
    if not (covered & held.open[held.sites]).any():
        return []
    if mark.whole:
        first = held.place(mark.first, mark.size)
        return [replace(mark.make(first, first + mark.size - 1), of=mark.first)]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], covered, [False]]).astype(int)))
    runs = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    if mark.kind in COUNTED:
        if not (fits := [a for a, b in runs if b - a >= mark.size]):
            raise UsageError("counts letters beyond the designed part that are not A, C, G or T",
                             field="template", value=mark.label)  # fmt: skip
        return [mark.make(fits[0] + 1, fits[0] + mark.size)]
    if held.closed and covered[0] and covered[-1]:
        runs = [(0, held.size)]  # it runs over the seam
    specs = [mark.make(a + 1, b) for a, b in runs if held.open[held.sites[a:b]].any()]
    return [replace(spec, touching=held.hull) for spec in specs]


def designed(
    model: SequenceModel, wish: Order, n: int, *, seed: int = 0, reward: Any = None, steering: Any = None,
    steps: int | None = None, temperature: float | None = None,
) -> tuple[Designs, int]:  # fmt: skip
    """Return designs that obey every rule, and how many were given up: a GC window, or a seam, would not be met.

    Raises:
        InfeasibleError: no sequence obeys the rules.
    """
    length = len(wish.start)
    _known_contradictions(wish, model.alphabet)
    found = model.sample(n, start=wish.start, constraints=wish.specs, seed=seed, reward=reward,
                         steering=steering or None, steps=steps, temperature=temperature)  # fmt: skip
    windows = [*constraints.sliding(wish.specs, length, wish.closed), *wish.seams]
    tokens = found.tokens
    if windows and tokens is not None:
        settled = model.set(steps=steps, temperature=temperature)
        tokens, good = _redrawn(settled, wish, windows, tokens, seed)
        kept = np.flatnonzero(good)
        letters = model.tokenizer.decode(tokens[kept].numpy())
        found = Designs.of(letters, tokens[kept], found.manifest, found.molecule)
    found.template = wish.template
    return found, n - len(found)


def _known_contradictions(wish: Order, letters: str) -> None:
    """Refuse what the law does not see: GC windows that the fixed letters alone break, and rules where a circle closes.

    Raises:
        InfeasibleError: names what contradicts.
    """
    fixed, n = wish.kept, len(wish.start)
    some = [a.sites for a in constraints.atoms([*wish.specs, *fixed], n, letters) if a.sites is not None]
    allowed = np.logical_and.reduce([np.ones((n, len(letters)), bool), *some])
    must, may = ~allowed[:, [0, 3]].any(1), allowed[:, 1:3].any(1)  # G or C in a GC window
    for window in constraints.sliding(wish.specs, n, wish.closed):
        for at in range(window.first - 1, window.last if window.circle else window.last - window.window + 1):
            part = (at + np.arange(window.window)) % n
            if must[part].sum() > window.high or may[part].sum() < window.low:
                where = f"{wish.sites[at]}-{wish.sites[part[-1]]}"
                raise InfeasibleError(f"{window.name} and the letters fixed at {where} contradict each other",
                                      field="constraints")  # fmt: skip
    if wish.closed:
        constraints.refuse_origin([*wish.specs, *fixed], np.array([c == "?" for c in wish.start]), letters)


def _redrawn(
    model: SequenceModel, wish: Order, windows: Sequence[Any], tokens: Tensor, seed: int
) -> tuple[Tensor, np.ndarray]:
    """Return tokens [n, L] with the letters of broken windows drawn again, and which rows are good, bool [n]."""
    import torch

    from core.noise import Stream
    from core.plan import uniform_plan
    from core.sample import denoise
    from core.solvers.tokens import SOLVERS

    start = model.open_sites(None, wish.start)
    law = model.compiled(wish.specs, start)
    mask, plan = model.tokenizer.tokens, uniform_plan(max(model.recipe.sample.steps // 2, 1))
    tokens = tokens.clone()
    for turn in range(ROUNDS + 1):
        broken = np.logical_or.reduce([w.broken(tokens.numpy()) for w in windows])
        rows = np.flatnonzero(broken.any(1))
        if not len(rows) or turn == ROUNDS:
            break
        for part in np.array_split(rows, -(-len(rows) // model.batch)):
            again = torch.from_numpy(broken[part]) & (start == mask)
            x = torch.where(again, mask, tokens[part])
            stream = Stream(seed, torch.from_numpy(part)).fold(7919, turn)
            window = model.window(law, len(part), len(start))
            with torch.inference_mode():
                solver = SOLVERS[model.recipe.sample.solver]()
                tokens[part] = denoise(model.predict, model.process, plan, window, solver, stream, x)
    return tokens, ~broken.any(1)


def noted(wish: Order, sequence: str, dna: bool = True) -> list[tuple[int, int, str]]:
    """Return what GenBank is to say about a design: what was designed, its rules, where its motifs lie."""
    first, last = wish.template.hull if wish.template else (1, len(sequence))
    out = [(run.start() + 1, run.end(), "designed") for run in re.finditer(r"\?+", wish.start)]
    out += [(first, last, f"rule: {spec}") for spec in wish.specs]
    for spec in wish.specs:
        for motif in getattr(spec, "motifs", ()):
            hits = audit.starts(sequence, audit.spelling(motif, dna), spec.both_strands, dna)
            out += [(a + 1, b, f"motif: {motif}") for a, b in hits]
    return out


def way(steering: str, options: Mapping[str, Any]) -> Any:
    """Return a steering by name with options other than its own; without any, the name.

    Raises:
        UsageError: no such steering, or it has no such option.
    """
    from core.finetune.steer import STEERINGS

    given, name = {k: v for k, v in options.items() if v is not None}, steering or "best-of-n"
    if not given:
        return steering
    if name not in STEERINGS:
        raise UsageError("no such steering", field="steering", value=steering, choices=STEERINGS)
    for word, value in given.items():
        if word not in inspect.signature(STEERINGS[name]).parameters:
            raise UsageError(f"means nothing for {name}", field=word, value=value)
    return STEERINGS[name](**given)


def design(
    model: str, *, rules: Mapping[str, Any], n: int = 8, length: int | None = None, template: Path | None = None,
    reward: Sequence[str] | None = None, steering: str = "", seed: int = 0,
    settings: Mapping[str, Any] | None = None, out: Path | None = None, topology: str = "",
    fold: str = "", price: int = 0, options: Mapping[str, Any] | None = None, strength: float | None = None,
) -> dict[str, Any] | None:  # fmt: skip
    """Design sequences and write them to `out` (returns a summary), or print FASTA (returns None)."""
    from apps.bio.expressions import compose
    from apps.bio.model import LETTERS

    for word, value in {"steering": steering, **(options or {})}.items():
        if value and not reward:
            raise UsageError("needs a reward", field=word, value=value, hint="--reward 'gc(0.4, 0.6)', ...")
    if length is not None and template is not None:
        raise UsageError("is that of the template", field="length", value=length, hint="leave one of them out")
    steer, asked = way(steering, options or {}), [" ".join(text.split()) for text in reward or ()]
    loaded, given = load(model, strength), {k: v for k, v in (settings or {}).items() if v is not None}
    kind = loaded.recipe.kind
    for word, value, only in (("fold", fold, "protein"), ("topology", topology, "peptide")):
        if value and kind != only:
            raise UsageError(f"means nothing for a model of {kind}", field=word, value=value)
    if kind == "protein":
        aim = compose(reward, LETTERS["protein"]) if reward else None
        told = {"reward": asked, "steering": steering, **(options or {})} if aim else {}
        return loaded.design(rules=rules, n=n, template=template, seed=seed, out=out, fold=fold, reward=aim,
                             steering=steer, told=told, **given)  # fmt: skip
    if out is not None:
        check_format(out)
    suited(topology, out.suffix.lower() if out is not None else "", loaded.alphabet)
    wish = order(rules, length or loaded.usual, template)
    constraints.compile_([*wish.specs, *wish.kept], len(wish.start), loaded.alphabet)
    aim = compose(reward, loaded.alphabet) if reward else None
    found, missed = designed(loaded, wish, n, seed=seed, reward=aim, steering=steer, **given)
    how = {"reward": asked, "steering": steering, "topology": topology, "strength": strength, **given}
    how |= {k: v for k, v in (options or {}).items() if v}
    paid = prices(loaded.set(**given), wish.specs, loaded.open_sites(None, wish.start), price, seed)
    return finish(loaded, wish, found, missed, aim=aim, rules=rules, seed=seed, how=how, out=out, paid=paid)


def finish(
    model: SequenceModel, wish: Order, found: Designs, missed: int, *, aim: Any, rules: Mapping[str, Any],
    seed: int, how: Mapping[str, Any], out: Path | None, paid: Mapping[str, Price],
) -> dict[str, Any] | None:  # fmt: skip
    """Judge, score and write designs; returns a summary, or prints FASTA and returns None."""
    findings = audit.check(found.sequences, wish.specs, model.alphabet == "ACGT", wish.closed)
    if paid:
        say("price of each rule, -log of the chance that the model's first prediction keeps it (and its sampler does):")
    for name, cost in paid.items():
        full = "" if np.isnan(cost.full) else f" ({cost.full:.3f} +- {cost.error:.3f})"
        say(f"{cost.first:10.3f}{full} nats  {name}")
    if findings:
        say(f"audit of {len(found)} designs by other code:\n{audit.table(findings)}")
    if not audit.clean(findings):
        raise RuntimeError("a design breaks a rule; nothing was written: please report this")
    if missed and not len(found):
        raise InfeasibleError(f"none of {missed} draws met every GC window and a circle's seam in {ROUNDS} rounds: "
                              "nothing was written", field="constraints", hint="relax the windows")  # fmt: skip
    if missed:
        say(f"{missed} designs given up: a GC window or a circle's seam was not met in {ROUNDS} rounds")
    if aim is not None and found.tokens is not None and len(found):
        found.scores[re.sub(r"\W+", "_", aim.name)] = aim.score(found.tokens).double().numpy()
    found.manifest = manifest(
        model=model.name, seed=seed, n=len(found) + missed, rules={k: v for k, v in rules.items() if v},
        **how, template=wish.template.record.id if wish.template else None,
        circular=True if wish.template and wish.template.circular else None,
        nats={k: round(v.nats, 4) for k, v in paid.items()},
    )  # fmt: skip
    found.notes = [noted(wish, s, model.alphabet == "ACGT") for s in found.sequences]
    if out is None:
        sys.stdout.write(found.fasta())
        return None
    found.write(out)
    whole = paid.get("all together")
    summary = {"out": str(out), "designs": len(found), "distinct": len(set(found.sequences)), "given_up": missed,
               "rules": len(findings), "violations": sum(f.violations for f in findings)}  # fmt: skip
    return {**summary, **{k: float(v.mean()) for k, v in found.scores.items()},
            "nats": round(whole.nats if whole else sum(p.nats for p in paid.values()), 4)}  # fmt: skip
