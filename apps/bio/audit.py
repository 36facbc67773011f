"""Check sequences against rules by other code than made them.

Nothing of the compiler is used: enzymes are searched by Bio.Restriction, frames translated by Bio.Seq, motifs, runs and
spacings found by regular expressions, letters counted. A rule is read from its public fields only.

A circle is judged as its letters followed by as many of its first ones as a rule looks at beyond the last, so that what
lies over the origin counts, once. A rule about a span speaks about these letters alone.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import DataError, UsageError
from core.run import outputs

__all__ = ["Finding", "audit", "check", "clean", "table"]

MOSTLY = 0.7
"""Least share of A, C, G, T, U, N among the letters of DNA and RNA; proteins have about a third."""

BASES = "ACGTRYSWKMBDHVN"
"""Codes of one or several bases (IUPAC)."""

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"

PROTEIN = {"X": ".", "B": "[DN]", "Z": "[EQ]", "J": "[IL]"}


@dataclass(frozen=True)
class Finding:
    """What became of one rule.

    Args:
        rule: in words.
        by: what judged it.
        sequences: how many were judged.
        violations: how many break the rule.
        first: number of the first one that does, or None.
    """

    rule: str
    by: str
    sequences: int
    violations: int
    first: int | None = None


@cache
def expression(pattern: str, dna: bool) -> str:
    """Return a motif as a regular expression: IUPAC codes, [..] one of, {..} none of."""
    from Bio.Data.IUPACData import ambiguous_dna_values

    codes = {k: f"[{v}]" for k, v in ambiguous_dna_values.items()} if dna else PROTEIN
    text = re.sub(r"\{([A-Z]+)\}", r"[^\1]", pattern.upper())
    parts = re.split(r"(\[\^?[A-Z]+\])", text)
    inside = str.maketrans({"[": None, "]": None, ".": "A-Z"})  # a code inside a class is the letters it stands for
    out = []
    for part in parts:
        spelt = "".join(codes.get(c, c) for c in part.strip("[^]"))
        head = re.match(r"\[\^?", part)
        out.append(f"{head[0]}{spelt.translate(inside)}]" if head else spelt)
    return "".join(out)


@cache
def reverse(pattern: str) -> str:
    """Return an IUPAC motif of the other strand, classes included."""
    from Bio.Seq import reverse_complement

    marks = str.maketrans("[]{}", "][}{")
    return "".join(c if c in "[]{}" else str(reverse_complement(c)) for c in pattern.upper()[::-1]).translate(marks)


def starts(sequence: str, pattern: str, both: bool, dna: bool) -> list[tuple[int, int]]:
    """Return (begin, end) of every match, overlapping ones too, from 0."""
    found = set()
    for one in {pattern, reverse(pattern)} if both and dna else {pattern}:
        for hit in re.finditer(f"(?=({expression(one, dna)}))", sequence):
            found.add((hit.start(), hit.end(1)))
    return sorted(found)


@cache
def enzyme(name: str) -> Any:
    """Return Biopython's enzyme.

    Raises:
        UsageError: it has none of this name.
    """
    from Bio import Restriction

    word = name.removesuffix("_site")
    known = {str(e) for e in Restriction.AllEnzymes}
    if word not in known:
        raise UsageError("no such enzyme", field="enzyme", value=word, choices=sorted(known))
    return getattr(Restriction, word)


def cuts(sequence: str, name: str) -> list[tuple[int, int]]:
    """Return where Biopython finds an enzyme's site on either strand, (begin, end) from 0."""
    found = enzyme(name)
    return [(hit.start(), hit.start() + found.size) for hit in re.finditer(found.compsite, sequence)]


def named(pattern: str) -> bool:
    """Tell an enzyme's name from a motif: names have small letters."""
    return any(c.islower() for c in pattern)


def spelling(pattern: str, dna: bool) -> str:
    """Return a motif, or the site of an enzyme that is named; residues may be small letters."""
    return str(enzyme(pattern).site) if dna and named(pattern) else pattern


def inside(rule: Any, length: int) -> tuple[int, int]:
    """Return the span that a rule speaks about, from 0, the end excluded."""
    first, last = rule.within or (1, length)
    return first - 1, last


def lies(rule: Any, hits: Sequence[tuple[int, int]], letters: int, size: int) -> bool:
    """Tell whether one of the matches, (begin, end) from 0, is the rule's concern.

    Args:
        rule: within which span, and touching which.
        hits: matches.
        letters: read.
        size: letters of the sequence, less than those read on a circle.
    """
    low, high = inside(rule, letters)
    hits = [(a, b) for a, b in hits if a >= low and b <= high]
    if rule.touching is None:
        return bool(hits)
    first, last = rule.touching
    return any(b - turn >= first and a - turn < last for a, b in hits for turn in (0, size))


def forbidden(rule: Any, x: str, dna: bool, size: int | None = None) -> bool:
    """Tell whether none of the patterns occurs."""
    low, high = inside(rule, len(x))
    for pattern in rule.patterns:
        if named(pattern) and dna and rule.both_strands:
            hits = cuts(x, pattern)
            if not hits and low == 0 and high == len(x) and enzyme(pattern).search(_padded(x)):
                return False
        else:
            hits = starts(x, spelling(pattern, dna), rule.both_strands, dna)
        if lies(rule, hits, len(x), size or len(x)):
            return False
    return True


def _padded(x: str) -> Any:
    from Bio.Seq import Seq

    return Seq("N" * 40 + x + "N" * 40)  # enzymes that cut beside their site are dropped near an end


def required(rule: Any, x: str, dna: bool, size: int | None = None) -> bool:
    """Tell whether each motif occurs so often."""
    low, high = inside(rule, len(x))
    for pattern in rule.motifs:
        hits = starts(x, spelling(pattern, dna), rule.both_strands, dna)
        hits = [a for a, b in hits if low <= a < (size or len(x)) and b <= high]
        if len(hits) < rule.least or (rule.most is not None and len(hits) > rule.most):
            return False
    return True


def spaced(rule: Any, x: str, dna: bool, size: int | None = None) -> bool:
    """Tell whether the two motifs occur at the distance, on one strand."""
    low, high = inside(rule, len(x))
    gap = f".{{{rule.lo},{rule.hi}}}"
    a, b = (spelling(p, dna) for p in (rule.a, rule.b))
    forms = [expression(a, dna) + gap + expression(b, dna)]
    if rule.both_strands and dna:
        forms.append(expression(reverse(b), dna) + gap + expression(reverse(a), dna))
    return any(re.search(form, x[low:high]) for form in forms)


def short_runs(rule: Any, x: str, dna: bool, size: int | None = None) -> bool:
    """Tell whether no letter is repeated too often."""
    runs = re.finditer(rf"(?=(.)\1{{{rule.longest}}})", x)
    return not lies(rule, [(r.start(), r.start() + rule.longest + 1) for r in runs], len(x), size or len(x))


def fixed(rule: Any, x: str, dna: bool, size: int | None = None) -> bool:
    """Tell whether the fixed letters stand where they should."""
    form, at = expression(rule.letters.upper().replace("?", "."), dna), rule.position - 1
    return re.fullmatch(form, x[at : at + width(rule.letters.upper())]) is not None


def spelt(rule: Any, x: str, dna: bool, size: int | None = None) -> bool:
    """Tell whether the frame translates to the protein."""
    from Bio.Seq import Seq

    wanted = rule.protein.upper()
    codons = Seq(x[rule.start - 1 : rule.start - 1 + 3 * len(wanted)])
    if len(codons) < 3 * len(wanted):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of codons that some codes read in two ways
        found = str((codons if rule.strand == 1 else codons.reverse_complement()).translate(table=rule.code))
    return all(w == f or (w == "X" and f != "*") for w, f in zip(wanted, found))  # noqa: B905


def allowed(rule: Any, x: str, dna: bool, size: int | None = None) -> bool:
    """Tell whether only allowed letters occur."""
    low, high = inside(rule, len(x))
    return set(x[low:high]) <= set(rule.letters.upper())


def share(rule: Any, x: str, dna: bool, size: int | None = None) -> bool:
    """Tell whether the share of G and C holds over the span, or in every window of it."""
    low, high = inside(rule, len(x))
    part = x[low:high]
    wide = min(rule.window or len(part), len(part))
    least, most = math.ceil(rule.lo * wide - 1e-9), math.floor(rule.hi * wide + 1e-9)
    count = part[:wide].count("G") + part[:wide].count("C")
    for i in range(len(part) - wide + 1):
        if i:
            count += (part[i + wide - 1] in "GC") - (part[i - 1] in "GC")
        if not least <= count <= most:
            return False
    return True


Judge = Callable[..., bool]
"""(rule, letters, whether they are DNA, how many of them are the sequence's own) -> whether it holds."""

JUDGES: dict[str, tuple[Judge, str]] = {
    "Forbid": (forbidden, "Bio.Restriction, regular expression"), "Require": (required, "regular expression"),
    "Spacing": (spaced, "regular expression"), "Homopolymer": (short_runs, "regular expression"),
    "Fix": (fixed, "regular expression"), "Frame": (spelt, "Bio.Seq.translate"), "Alphabet": (allowed, "letters"),
    "Gc": (share, "letters counted, every window"),
}  # fmt: skip


def width(*patterns: str) -> int:
    """Return the letters of the widest of some motifs and enzymes' sites."""
    sites = [str(enzyme(p).site) if named(p) else p for p in patterns]
    return max((len(re.sub(r"[\[{][A-Za-z]+[\]}]", "N", site)) for site in sites), default=1)


BEYOND: dict[str, Callable[[Any], int]] = {
    "Forbid": lambda r: width(*r.patterns) - 1, "Require": lambda r: width(*r.motifs) - 1,
    "Spacing": lambda r: width(r.a) + r.hi + width(r.b) - 1, "Homopolymer": lambda r: r.longest,
    "Fix": lambda r: width(r.letters.upper()) - 1, "Frame": lambda r: 3 * len(r.protein) - 1, "Alphabet": lambda r: 0,
    "Gc": lambda r: (r.window or 1) - 1,
}  # fmt: skip
"""How many letters beyond the last one of a circle a rule looks at."""


def holds(rule: Any, x: str, dna: bool = True, circular: bool = False) -> bool:
    """Tell whether a sequence keeps a rule, over the origin too where it is a circle."""
    judge, _ = JUDGES[type(rule).__name__]
    if not circular or getattr(rule, "within", None) not in (None, (1, len(x))):
        return judge(rule, x, dna, len(x))
    whole = replace(rule, within=None) if hasattr(rule, "within") else rule
    more = BEYOND[type(rule).__name__](rule)
    return judge(whole, x + x[:more] if more < len(x) else x, dna, len(x))


def check(
    sequences: Sequence[str], rules: Sequence[Any], dna: bool = True, circular: bool | Sequence[bool] = False
) -> list[Finding]:
    """Judge sequences by rules of `apps.bio.constraints`, one after the other.

    Args:
        sequences: letters.
        rules: the rules.
        dna: motifs are also looked for on the other strand.
        circular: which sequences are circles, or whether all are.

    Raises:
        UsageError: a rule that says nothing: a word that is no motif would never be found, and so be kept.
    """
    for rule in rules:
        rule.sound("ACGT" if dna else RESIDUES)
    found, circles = [], [circular] * len(sequences) if isinstance(circular, bool) else circular
    for rule in rules:
        held = [holds(rule, x.upper(), dna, circle) for x, circle in zip(sequences, circles, strict=True)]
        first = next((i for i, ok in enumerate(held) if not ok), None)
        by = JUDGES[type(rule).__name__][1]
        found.append(Finding(str(rule), by, len(held), held.count(False), first))
    return found


def nucleic(sequences: Sequence[str], rules: Sequence[Any]) -> bool:
    """Tell whether sequences are DNA or RNA: a rule that only one kind knows says so, or most of their letters do."""
    words = [w for r in rules for name in ("patterns", "motifs") for w in getattr(r, name, ())]
    words += [w for r in rules for w in (getattr(r, "a", ""), getattr(r, "b", ""))]
    if any(type(r).__name__ in ("Gc", "Frame") for r in rules) or any(re.match("[A-Z][a-z]", w) for w in words):
        return True
    if any(set("".join(re.findall("[A-Z]", getattr(r, "letters", "").upper()))) - set(BASES + "U") for r in rules):
        return False  # an alphabet or a fixed site of residues
    text = "".join(sequences).upper()
    return sum(text.count(c) for c in "ACGTUN") >= MOSTLY * len(text)


def lettered(
    names: Sequence[str], sequences: Sequence[str], rules: Sequence[Any], residues: bool = False
) -> tuple[list[str], bool]:
    """Return sequences as they are judged, U as T, and whether they are DNA; what the letters leave open is said.

    Args:
        names: what messages call the sequences.
        sequences: letters as they stand in the file.
        rules: what they are judged by.
        residues: the file's name says that they are proteins.

    Raises:
        DataError: a letter that is neither base nor residue.
    """
    import sys

    dna = not residues and nucleic(sequences, rules)
    known = set(BASES if dna else "ABCDEFGHIJKLMNOPQRSTUVWXYZ*")
    texts = [x.upper().replace("U", "T") if dna else x.upper().replace("/", "") for x in sequences]
    for name, text in zip(names, texts, strict=True):
        if wrong := sorted(set(text) - known):
            what = "nucleotide" if dna else "residue"
            raise DataError(f"{name} holds a letter that is no {what}", field="audit", value=wrong[0])
    if not dna:
        print(f"{len(texts)} sequences are judged as proteins: one strand, one-letter residues", file=sys.stderr)
    elif doubtful := sum(bool(set(text) - set("ACGT")) for text in texts):
        print(f"{doubtful} of {len(texts)} sequences hold ambiguous letters; a site that they might spell "
              "is not counted", file=sys.stderr)  # fmt: skip
    return texts, dna


def clean(findings: Sequence[Finding]) -> bool:
    """Tell whether no rule is broken."""
    return all(f.violations == 0 for f in findings)


def table(findings: Sequence[Finding]) -> str:
    """Return the findings as lines of text."""
    return "\n".join(
        f"{'ok  ' if f.violations == 0 else 'FAIL'}  {f.violations:>6} of {f.sequences:<6} {f.rule}   ({f.by})"
        + ("" if f.first is None else f"; first: sequence {f.first}")
        for f in findings
    )


def audit(
    files: Sequence[Path], *, rules: Mapping[str, Any], template: Path | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Judge the sequences of some files; the rules are the command line's words, by default those of each file.

    Raises:
        DataError: rules are broken (the table stands on stderr), or a letter is neither base nor residue.
        UsageError: there is no rule.
    """
    import json
    import sys

    from apps.bio.dna.words import alike, altered, specs_of
    from apps.bio.records import read

    residues = all(path.suffix.lower() == ".faa" for path in files)  # NCBI's ending for amino acids
    entries, found, given = [entry for path in files for entry in read(path)], [], {k: v for k, v in rules.items() if v}
    for numbers in alike(given, entries, template):
        mine = [entries[i] for i in numbers]
        specs, sequences, circles = specs_of(given, template, mine)
        sequences, dna = lettered([e.name for e in mine], sequences, specs, residues)
        judged = check(sequences, specs, dna, circles)
        if template is not None and (wrong := altered(given, template, mine)):
            first = wrong.index(True) if any(wrong) else None
            judged.append(Finding("keep the rest of the template", "letters", len(mine), sum(wrong), first))
        found += [f if f.first is None else replace(f, first=numbers[f.first]) for f in judged]
    rows = [vars(f) for f in found]
    if out is not None:
        outputs.save(out, json.dumps({"sequences": len(entries), "rules": rows}, indent=1) + "\n")
    print(table(found), file=sys.stderr)
    broken = [f for f in found if f.violations]
    if broken:
        raise DataError(f"{sum(f.violations for f in broken)} violations of {len(broken)} rules", field="audit",
                        value=broken[0].rule)  # fmt: skip
    return {"sequences": len(entries), "rules": len(found), "violations": 0}
