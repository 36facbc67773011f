"""DNA Chisel's annotations in GenBank files, read where they mean a hard rule of ours.

Features of type `misc_feature` whose label (or else note) begins with `@`, as DNA Chisel's documentation spells them:

| annotation | also | becomes |
|---|---|---|
| `@no(BsmBI_site)`, `@no(CATG)`, `@no(9xA)` | `@AvoidPattern(...)` | `forbid` on the feature, both strands |
| `@cds`, `@cds(genetic_table=Bacterial)` | `@EnforceTranslation` | `frame` with its present or given translation |
| `@gc(40-60%)`, `@gc(40-60%/50bp)`, `@gc(mini=0.4, maxi=0.6, window=50)` | `@EnforceGCContent` | `gc` on the feature |
| `@keep` | `@AvoidChanges` | the letters stay |
| `@insert(AarI_site)` | `@EnforcePatternOccurence(...)` | `require`, so often on its strand (`both`: on either) |
| `@sequence(ATGNNN)` | `@EnforceSequence(...)` | `fix` |

One label may hold several, joined by `&`: `@cds & @no(BsaI_site)`.

Objectives (`~...`) and every other specification are refused by name: to leave one out silently would be to break it.

Reference: Zulkower, Rosser (2020), "DNA Chisel, a versatile sequence optimizer", Bioinformatics 36.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apps.bio.constraints import fix, forbid, frame, gc, require
from apps.bio.dna.enzymes import site
from apps.bio.genbank import spelt
from core.errors import UsageError

if TYPE_CHECKING:
    from Bio.SeqFeature import SeqFeature
    from Bio.SeqRecord import SeqRecord

__all__ = ["Annotation", "marks"]

NAMES = {
    "no": "no", "AvoidPattern": "no", "cds": "cds", "EnforceTranslation": "cds", "gc": "gc", "EnforceGCContent": "gc",
    "keep": "keep", "AvoidChanges": "keep", "insert": "insert", "EnforcePatternOccurence": "insert",
    "EnforcePatternOccurrence": "insert", "sequence": "sequence", "EnforceSequence": "sequence",
}  # fmt: skip


@dataclass(frozen=True)
class Annotation:
    """One hard rule of a file.

    Args:
        label: as it stands there.
        kind: `keep`, or which rule.
        first, size: where, from 1; on a circle it may run over the origin.
        make: from (first, last) of a span to the rule on it; None for `keep`.
        whole: the rule needs all of its span (`cds`, `sequence`).
    """

    label: str
    kind: str
    first: int
    size: int
    make: Callable[[int, int], Any] | None = None
    whole: bool = False


def marks(record: SeqRecord) -> list[Annotation]:
    """Return the rules that a record's features state.

    Raises:
        UsageError: an annotation that has no counterpart, by label and place.
    """
    return [_read(record, feature, label) for feature in record.features for label in _labels(feature)]


def _labels(feature: SeqFeature) -> list[str]:
    """Return the annotations of a feature; several in one label are joined by `&`."""
    if feature.type != "misc_feature":
        return []
    for name in ("label", "note"):
        text = str((feature.qualifiers.get(name) or [""])[0]).strip()
        if text[:1] in ("@", "~") and re.match(r"[@~]\w", text):
            return re.split(r"\s*&\s*(?=[@~])", text)
    return []


def _read(record: SeqRecord, feature: SeqFeature, label: str) -> Annotation:
    sites = sorted(int(i) for i in feature.location) if feature.location is not None else []
    n, first = len(record), sites[0] if sites else 0
    breaks = [b for a, b in zip(sites, sites[1:], strict=False) if b - a != 1]
    if breaks:  # over the origin of a circle: the run begins after the gap
        first, circular = breaks[0], record.annotations.get("topology") == "circular"
        if not circular or {i % n for i in range(first, first + len(sites))} != set(sites):
            _refuse(label, sites[0], "lies on several pieces")
    found = re.fullmatch(r"([@~])(\w+)\s*(?:\((.*)\))?", label)
    if found is None or found[1] == "~" or found[2] not in NAMES:
        why = "is an objective; say it as a reward" if label[0] == "~" else "has no counterpart here"
        _refuse(label, first, why)
        raise AssertionError("unreachable")
    kind, (given, named) = NAMES[found[2]], _arguments(found[3] or "")
    makers = {"no": _no, "cds": _cds, "gc": _gc, "insert": _insert, "sequence": _sequence}
    where = Annotation(label, kind, first + 1, len(sites))
    if kind == "keep":
        return where
    strand = int(feature.location.strand or 1) if feature.location is not None else 1
    letters = spelt(feature, str(record.seq)).upper()
    try:
        make = makers[kind](given, named, strand, letters)
    except (ValueError, KeyError, IndexError, TypeError):
        _refuse(label, first, "has arguments that do not map")
        raise AssertionError("unreachable") from None
    return Annotation(label, kind, where.first, where.size, make, kind in ("cds", "sequence"))


def _refuse(label: str, first: int, why: str) -> None:
    raise UsageError(f"the annotation at {first + 1} {why}", field="template", value=label,
                     hint="known: @no @cds @gc @keep @insert @sequence")  # fmt: skip


def _arguments(text: str) -> tuple[list[str], dict[str, str]]:
    """Return (positional, named) arguments; names are joined by `=` or `:`."""
    given, named = [], {}
    for word in filter(None, (w.strip() for w in text.split(","))):
        name, mark, value = re.match(r"(?:(\w+)\s*([:=])\s*)?(.*)", word).groups()  # type: ignore[union-attr]
        if mark:
            named[name] = value.strip("'\"")
        else:
            given.append(value.strip("'\""))
    return given, named


def _pattern(word: str) -> str:
    run = re.fullmatch(r"(\d+)x([ACGT])", word)
    if run:
        return run[2] * int(run[1])
    if re.search(r"[^A-Za-z0-9_]|\dx\d", word):
        raise ValueError(word)
    return word.removesuffix("_site") if any(c.islower() for c in word) else word


def _joined(word: str) -> str:
    """Return letters that lines of the file have broken."""
    return "".join(word.split())


def _only(named: dict[str, str], *names: str) -> None:
    if set(named) - set(names):
        raise KeyError(sorted(set(named) - set(names))[0])


def _no(given: list[str], named: dict[str, str], strand: int, letters: str) -> Callable[[int, int], Any]:
    _only(named, "pattern", "enzyme", "strand")
    pattern = _pattern(given[0] if given else named.get("pattern") or named["enzyme"])
    return lambda first, last: forbid(pattern, within=(first, last))


def _insert(given: list[str], named: dict[str, str], strand: int, letters: str) -> Callable[[int, int], Any]:
    from Bio.Seq import reverse_complement

    _only(named, "pattern", "enzyme", "occurences", "occurrences", "strand")
    pattern = _pattern(given[0] if given else named.get("pattern") or named["enzyme"])
    count = int(given[1] if len(given) > 1 else named.get("occurences", named.get("occurrences", "1")))
    read = named.get("strand", "from_location")
    side = strand if read == "from_location" else 0 if read == "both" else int(read)
    if side not in (-1, 0, 1):
        raise ValueError(read)
    if side == -1:
        pattern = str(reverse_complement(site(pattern) if any(c.islower() for c in pattern) else pattern))
    return lambda first, last: require(pattern, both_strands=not side, count=count, within=(first, last))


def _gc(given: list[str], named: dict[str, str], strand: int, letters: str) -> Callable[[int, int], Any]:
    _only(named, "mini", "maxi", "window")
    found = re.fullmatch(r"(\d+)-(\d+)%?(?:/(\d+)(?:bp)?)?", given[0]) if given else None
    if found:
        wide = found[3] or named.get("window")
        low, high, window = int(found[1]) / 100, int(found[2]) / 100, int(wide) if wide else None
    elif given and "%" in given[0]:
        raise ValueError(given[0])
    else:
        low, high = (float(named.get(k) or (given + [d] * 2)[i]) for i, (k, d) in
                     enumerate((("mini", "0"), ("maxi", "1"))))  # fmt: skip
        window = int(named["window"]) if "window" in named else int(given[2]) if len(given) > 2 else None
    return lambda first, last: gc(low, high, window, within=(first, last))


def _code(name: str) -> int:
    from Bio.Data.CodonTable import unambiguous_dna_by_name

    if name in ("default", "Standard"):
        return 1
    return int(name) if name.isdigit() else int(unambiguous_dna_by_name[name].id)


def _cds(given: list[str], named: dict[str, str], strand: int, letters: str) -> Callable[[int, int], Any]:
    from Bio.Seq import Seq

    _only(named, "genetic_table", "translation")
    code = _code(named.get("genetic_table", given[0] if given else "default"))
    if len(letters) % 3:
        raise ValueError(letters)
    protein = _joined(named.get("translation", "")) or str(Seq(letters).translate(table=str(code)))
    if 3 * len(protein) != len(letters):
        raise ValueError(protein)
    return lambda first, last: frame(first, protein, code, strand)


def _sequence(given: list[str], named: dict[str, str], strand: int, letters: str) -> Callable[[int, int], Any]:
    from Bio.Seq import reverse_complement

    _only(named, "sequence")
    text = _joined(given[0] if given else named["sequence"]).upper()
    if len(text) != len(letters):
        raise ValueError(text)
    return lambda first, last: fix(first, text if strand == 1 else str(reverse_complement(text)))
