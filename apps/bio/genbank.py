"""Designs inside annotated records: the designed letters change, everything else stays.

A `Template` is a record and which of its letters are open. What is sampled is an *arc* of it: the open letters, what
lies between them, and on either side a flank of fixed letters, so that the model sees the neighbourhood and rules see
sites that would arise across the border. On a circular record the arc may run over the origin. Where it takes the whole
circle, its last letter meets its first (`closed`); kept letters there can stand at both ends (`around`), so that rules
see across them.

A design has as many letters as were open, so coordinates survive: features, annotations and untouched letters are
written as they were read. A coding sequence that overlaps the design gets its `/translation` anew; each design adds
`misc_feature`s that say what was designed, under which rules, and where motifs lie.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import DataError, UsageError

if TYPE_CHECKING:
    from Bio.SeqFeature import SeqFeature
    from Bio.SeqRecord import SeqRecord

    from apps.bio.records import Designs

__all__ = ["Template", "filled", "genbank", "inserted", "plain", "records", "spelt", "template"]


def plain(letters: str) -> str:
    """Return letters as those of DNA: capitals, U as T."""
    return letters.upper().replace("U", "T")


def records(text: str, name: str) -> list[SeqRecord]:
    """Return the records of GenBank text; what the parser warns of stands in `annotations["quintet_warnings"]`.

    Raises:
        DataError: malformed, or a record without letters.
    """
    from Bio import SeqIO

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = list(SeqIO.parse(StringIO(text), "genbank"))
        except Exception as error:  # Biopython raises many kinds for malformed records
            raise DataError(f"is not GenBank ({str(error).splitlines()[0] if str(error) else 'malformed'})",
                            field=name) from None  # fmt: skip
    if not found:
        raise DataError("holds no record", field=name)
    for record in found:
        if not getattr(record.seq, "defined", True) or not len(record.seq):
            raise DataError(f"record {record.id} has no letters", field=name)
        record.annotations["quintet_warnings"] = [str(w.message) for w in caught]
    return found


@dataclass(eq=False)
class Template:
    """A record with open letters, and the arc of it that is sampled.

    Args:
        record: as it was read.
        open: bool [N], the letters to design.
        start: first site of the arc, from 0.
        size: sites in the arc; on a circular record it may run over the origin.
    """

    record: SeqRecord
    open: np.ndarray
    start: int
    size: int

    @property
    def circular(self) -> bool:
        """Tell whether the record is a circle."""
        return self.record.annotations.get("topology") == "circular"

    @property
    def closed(self) -> bool:
        """Tell whether the arc is the whole circle, each letter once: its last letter meets its first."""
        return self.circular and self.size == len(self.open)

    @property
    def sites(self) -> np.ndarray:
        """Sites of the record along the arc, int64 [size]."""
        return (self.start + np.arange(self.size)) % len(self.open)

    @property
    def letters(self) -> str:
        """Letters along the arc, `?` where open."""
        text = plain(str(self.record.seq))
        return "".join("?" if self.open[i] else text[i] for i in self.sites)

    def place(self, position: int, size: int = 1) -> int:
        """Return where on the arc `size` sites from a position of the record (both from 1) begin.

        Raises:
            UsageError: not all of them lie on it.
        """
        at = (position - 1 - self.start) % len(self.open)
        if not 1 <= position <= len(self.open) or at + size > self.size:
            raise UsageError("lies outside the designed part of the template", field="position", value=position)
        return at + 1

    @property
    def hull(self) -> tuple[int, int]:
        """First and last open site on the arc, from 1."""
        where = np.flatnonzero(self.open[self.sites])
        return int(where[0]) + 1, int(where[-1]) + 1

    @property
    def margin(self) -> int:
        """Number of kept letters at the end of the arc that has fewer."""
        first, last = self.hull
        return min(first - 1, self.size - last)


def template(
    record: SeqRecord, opened: np.ndarray, flank: int = 60, around: bool = False,
    spans: Sequence[tuple[int, int]] = (), whole: Sequence[tuple[int, int]] = (),
) -> Template:  # fmt: skip
    """Return the template of a record with some open letters, and the shortest arc that holds them all.

    Args:
        record: as it was read.
        opened: bool [N], the letters to design.
        flank: most kept letters on either side, unless a span needs more.
        around: on a circle, the same kept letters may stand on both sides.
        spans: (first, size) from 1; a circle is cut, if it can be, where none of them is in two.
        whole: the spans of which all lies on the arc where one reaches the open letters.

    Raises:
        UsageError: nothing is open.
        DataError: a letter that is kept on the arc is not A, C, G or T.
    """
    where = np.flatnonzero(opened)
    if not len(where):
        raise UsageError("no letter is open", field="template", hint="keep fewer letters")
    n, circular = len(opened), record.annotations.get("topology") == "circular"
    first, size = int(where[0]), int(where[-1] - where[0]) + 1
    if circular:
        first, size = _cut(n, where, [*spans, *whole])
    text, gap = plain(str(record.seq)), n - size
    before, behind = _needed(n, first, size, whole)
    around = around or before + behind > gap
    spare = gap if around else gap - behind
    left = _clean(text, first - 1, -1, max(before, min(flank, spare if circular else first)), circular)
    room = gap - (0 if around else left) if circular else gap - first
    right = _clean(text, first + size, 1, min(max(flank, behind), room), circular)
    out = Template(record, opened, (first - left) % n, left + size + right)
    wrong = sorted(set(out.letters) - set("ACGT?"))
    if wrong:
        raise DataError("a kept letter between designed ones is not A, C, G or T", field="template", value=wrong[0])
    return out


def _cut(n: int, where: np.ndarray, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the first site from 0 and the size of the arc of a circle of n that holds some open letters.

    It leaves out the widest gap between them that no span bridges; where all are open, that before the first letter.
    """
    gaps, count = np.diff(np.append(where, where[0] + n)), len(where)
    crossed = np.zeros(count, int)
    for at, long in spans:
        crossed += (where - (at - 1)) % n + gaps < long
    order = np.roll(np.arange(count), 1) if gaps.max() == 1 else np.arange(count)
    last = int(min(order.tolist(), key=lambda i: (crossed[i], -gaps[i])))
    return int(where[(last + 1) % count]), n - int(gaps[last]) + 1


def _needed(n: int, first: int, size: int, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return how many of n letters before and behind `size` sites from `first` on (from 0) some spans reach over."""
    before = behind = 0
    for at, long in spans:
        begin = (at - 1 - first) % n
        if begin >= size and begin + long > n:  # begins before them
            before, begin = max(before, n - begin), begin - n
        if begin < size:
            behind = max(behind, min(begin + long, n) - size)
    return before, behind


def _clean(text: str, at: int, step: int, most: int, circular: bool) -> int:
    """Return how many plain letters lie in a row from `at` on, at most so many."""
    for n in range(most):
        if (not circular and not 0 <= at < len(text)) or text[at % len(text)] not in "ACGT":
            return n
        at += step
    return most


def filled(held: Template, letters: str) -> str:
    """Return the letters of the whole record with those of the arc in place; what is not open stays as it was.

    In a record of RNA the new letters are those of RNA too.
    """
    text = list(str(held.record.seq))
    rna = "U" in (seen := set(str(held.record.seq).upper())) and "T" not in seen
    for site, letter in zip(held.sites.tolist(), letters, strict=True):
        if held.open[site]:
            text[site] = letter.replace("T", "U") if rna else letter
        elif plain(text[site]) != letter:
            raise ValueError(f"letter {site + 1} was to be kept")
    return "".join(text)


def inserted(held: Template, letters: str, name: str, notes: list[tuple[int, int, str]]) -> SeqRecord:
    """Return the record with the arc's letters in place.

    Args:
        held: the template.
        letters: of the whole arc; where it is not open they must be the record's.
        name: of the design.
        notes: (first, last, text), first and last on the arc, from 1.
    """
    from Bio.Seq import Seq

    out = deepcopy(held.record)
    out.seq = Seq(filled(held, letters))
    out.annotations.pop("quintet_warnings", None)
    for feature in out.features:
        _retranslate(feature, held, out)
    out.features += [_feature(held, a, b, f"{name}: {line}") for a, b, line in notes]
    return out


def _retranslate(feature: SeqFeature, held: Template, out: SeqRecord) -> None:
    """Write a coding sequence's /translation anew where the design has changed its letters."""
    old = feature.qualifiers.get("translation")
    if feature.type != "CDS" or not old or feature.location is None:
        return
    if not any(held.open[int(i) % len(held.open)] for i in feature.location):
        return
    from Bio.Data.CodonTable import unambiguous_dna_by_id
    from Bio.Seq import Seq

    table = str(feature.qualifiers.get("transl_table", ["1"])[0])
    begin = int(feature.qualifiers.get("codon_start", ["1"])[0]) - 1
    letters, before = (plain(spelt(feature, str(r.seq)))[begin:] for r in (out, held.record))
    new = str(Seq(letters[: len(letters) // 3 * 3]).translate(table=table))
    if 0 <= len(new) - len(old[0]) <= 1:  # a codon that stayed is read as it was: selenocysteine and its kin
        stayed = [letters[k : k + 3] == before[k : k + 3] for k in range(0, 3 * len(old[0]), 3)]
        new = "".join(a if same else b for a, b, same in zip(old[0], new, stayed, strict=False)) + new[len(old[0]) :]
    new = new.removesuffix("*")
    known = unambiguous_dna_by_id.get(int(table)) if table.isdigit() else None
    if old[0][:1] == "M" and known is not None and letters[:3] in known.start_codons:
        new = "M" + new[1:]  # a codon that begins a protein is read as methionine there
    if new != old[0]:
        feature.qualifiers["translation"] = [new]
        feature.qualifiers.setdefault("note", []).append("translation changed by design")


def spelt(feature: SeqFeature, letters: str) -> str:
    """Return the letters of a feature, its pieces in their order and each on its strand."""
    from Bio.Seq import reverse_complement

    parts: Any = feature.location.parts if feature.location is not None else []
    texts = [(letters[int(p.start) : int(p.end)], p.strand) for p in parts]
    return "".join(str(reverse_complement(t)) if strand == -1 else t for t, strand in texts)


def _feature(held: Template, first: int, last: int, note: str) -> SeqFeature:
    from Bio.SeqFeature import CompoundLocation, SeqFeature, SimpleLocation

    n = len(held.open)
    begin, size = (held.start + first - 1) % n, last - first + 1
    if begin + size <= n:
        where = SimpleLocation(begin, begin + size, 1)
    else:
        where = CompoundLocation([SimpleLocation(begin, n, 1), SimpleLocation(0, begin + size - n, 1)])
    return SeqFeature(where, type="misc_feature", qualifiers={"note": [note]})


def genbank(designs: Designs) -> str:
    """Return designs as GenBank text, one record each."""
    from Bio import SeqIO
    from Bio.Seq import Seq
    from Bio.SeqRecord import SeqRecord

    from apps.bio.manifest import header

    found, bases = [], designs.template is not None or set("".join(designs.sequences)) <= set("ACGTN")
    kind = designs.molecule or ("DNA" if bases else "protein")
    for i, (name, sequence) in enumerate(zip(designs.names, designs.sequences, strict=True)):
        notes = designs.notes[i] if designs.notes else []
        if designs.template is not None:
            record = inserted(designs.template, sequence, name, notes)
            record.id = record.name = f"{record.name}_{name}"
            record.annotations.pop("gi", None)  # the number of another sequence
        else:
            alone = SeqRecord(Seq(sequence), id=name, name=name, annotations={"topology": "linear"})
            record = inserted(Template(alone, np.zeros(len(sequence), bool), 0, len(sequence)), sequence, name, notes)
        record.id, record.name = ("_".join(str(v).split()) for v in (record.id, record.name))  # LOCUS holds no blank
        record.annotations.setdefault("molecule_type", kind)
        about = header(designs.score_of(i), designs.manifest)
        comment = str(record.annotations.get("comment", ""))
        record.annotations["comment"] = f"{comment}\n{about}".strip()
        found.append(record)
    out = StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SeqIO.write(found, out, "genbank")
    return out.getvalue()
