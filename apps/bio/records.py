"""Sequences in and out: FASTA, FASTQ, GenBank, TSV, JSON; peptides out as SDF, SMILES, HELM.

`Designs` are sequences with their scores and the manifest of how they came about. Files that carry annotations keep
them: see `apps.bio.genbank` for designs inside a record.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from apps.bio.manifest import header, parse_comment, parse_header
from core.errors import DataError, UsageError
from core.run import outputs

if TYPE_CHECKING:
    from Bio.SeqRecord import SeqRecord

    from apps.bio.genbank import Template

__all__ = ["CHEMICAL", "Designs", "Entry", "check_format", "read", "read_fasta",
           "read_fastq", "read_genbank"]  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One sequence of a file.

    Args:
        name: its identifier.
        sequence: letters as they stand in the file.
        scores: numbers that its header or row gives.
        manifest: how it was made, where the file says so.
        circular: whether the file says that its last letter meets its first.
    """

    name: str
    sequence: str
    scores: dict[str, float] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    circular: bool = False


@dataclass(eq=False)
class Designs:
    """A set of sequences.

    Args:
        sequences: letters.
        tokens: int64 [n, S], or None where they have different lengths or another alphabet.
        manifest: how they came about.
        scores: by name, float64 [n].
        names: identifiers.
        template: the record that they were designed in; None where they stand alone.
        notes: for each sequence what GenBank is to note: (first, last, text), from 1.
        molecule: `DNA` or `protein`; where it is not said, files go by the letters of all sequences.
    """

    sequences: list[str]
    tokens: Tensor | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    template: Template | None = None
    notes: list[list[tuple[int, int, str]]] = field(default_factory=list)
    molecule: str = ""

    @classmethod
    def of(cls, sequences: Sequence[str], tokens: Tensor, manifest: dict[str, Any], molecule: str = "") -> Designs:
        """Return sequences with their tokens and manifest."""
        return cls(list(sequences), tokens, manifest, molecule=molecule)

    def __post_init__(self) -> None:
        """Number what has no name."""
        if not self.names:
            self.names = [f"design_{i}" for i in range(len(self.sequences))]

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.sequences)

    def score_of(self, i: int) -> dict[str, float]:
        """Return the scores of one sequence."""
        return {name: float(values[i]) for name, values in self.scores.items()}

    @property
    def whole(self) -> list[str]:
        """Return the sequences with the letters of their template around them, as files hold them."""
        from apps.bio.genbank import filled

        return self.sequences if self.template is None else [filled(self.template, s) for s in self.sequences]

    def select(self, rows: Sequence[int]) -> Designs:
        """Return some of the sequences."""
        rows = [int(i) for i in rows]
        return Designs(
            [self.sequences[i] for i in rows], None if self.tokens is None else self.tokens[torch.tensor(rows).long()],
            self.manifest, {k: v[rows] for k, v in self.scores.items()}, [self.names[i] for i in rows], self.template,
            [self.notes[i] for i in rows] if self.notes else [], self.molecule,
        )  # fmt: skip

    def fasta(self) -> str:
        """Return FASTA text; every header has the scores and the manifest."""
        lines = []
        for i, (name, sequence) in enumerate(zip(self.names, self.whole, strict=True)):
            about = header(self.score_of(i), self.manifest)
            lines.append(f">{name} {about}".rstrip())
            lines += [sequence[a : a + 80] for a in range(0, len(sequence), 80)]
        return "\n".join(lines) + "\n"

    def tsv(self) -> str:
        """Return a table: name, sequence, scores; the manifest in a first comment line."""
        out = StringIO()
        out.write(f"# {json.dumps(self.manifest, default=str)}\n")
        table = csv.writer(out, delimiter="\t", lineterminator="\n")
        table.writerow(["name", "sequence", *self.scores])
        for i, (name, sequence) in enumerate(zip(self.names, self.whole, strict=True)):
            table.writerow([name, sequence, *(f"{v:.9g}" for v in self.score_of(i).values())])
        return out.getvalue()

    def json(self) -> str:
        """Return one JSON object: manifest, records; a score that is no finite number is null."""
        from core.run.cli import finite

        rows = [{"name": n, "sequence": s, "scores": self.score_of(i)}
                for i, (n, s) in enumerate(zip(self.names, self.whole, strict=True))]  # fmt: skip
        return json.dumps(finite({"manifest": self.manifest, "records": rows}), indent=1, default=str) + "\n"

    def genbank(self) -> str:
        """Return GenBank text; inside the template's record where there is one."""
        from apps.bio.genbank import genbank

        return genbank(self)

    def molecules(self, form: str) -> str:
        """Return peptides as text of molecules: `sdf`, `smiles` or `helm`."""
        from apps.bio.peptide import files

        return {"sdf": files.sdf, "smiles": files.smiles, "helm": files.helm}[form](self)

    def to_fasta(self, path: Path | str) -> None:
        """Write FASTA."""
        outputs.save(path, self.fasta())

    def to_genbank(self, path: Path | str) -> None:
        """Write GenBank."""
        outputs.save(path, self.genbank())

    def to_tsv(self, path: Path | str) -> None:
        """Write a table."""
        outputs.save(path, self.tsv())

    def to_json(self, path: Path | str) -> None:
        """Write JSON."""
        outputs.save(path, self.json())

    def write(self, path: Path | str) -> None:
        """Write in the format that the file's name ends in."""
        check_format(path)
        outputs.save(path, FORMATS[Path(path).suffix.lower()](self))


FORMATS: dict[str, Callable[[Designs], str]] = {
    ".fasta": Designs.fasta, ".fa": Designs.fasta, ".gb": Designs.genbank, ".gbk": Designs.genbank,
    ".tsv": Designs.tsv, ".json": Designs.json, ".sdf": lambda d: d.molecules("sdf"),
    ".smi": lambda d: d.molecules("smiles"), ".helm": lambda d: d.molecules("helm"),
}  # fmt: skip

CHEMICAL = (".sdf", ".smi", ".helm")
"""Formats of molecules: peptides only."""


def check_format(path: Path | str) -> None:
    """Refuse a file name whose format is not known, or that cannot be written.

    Raises:
        UsageError: names the nearest format.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise UsageError("no such format", field="out", value=Path(path).suffix or str(path), choices=FORMATS)
    outputs.file(Path(path))


LONGEST = 2**31 - 1
"""Letters of a field of a table; Python's own limit is 131072."""


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # editors of Windows put a mark in front
    except FileNotFoundError:
        raise DataError("no such file", field="file", value=str(path)) from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"cannot be read as text ({type(error).__name__})", field=str(path)) from None


def read_fasta(path: Path | str) -> list[Entry]:
    """Return the sequences of a FASTA file, with what their headers say.

    Raises:
        DataError: no file, no sequence, or text before the first header.
    """
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    text = _text(path)
    if not text.lstrip().startswith(">"):
        raise DataError("does not begin with >", field=str(path))
    found = []
    for title, sequence in SimpleFastaParser(StringIO(text.lstrip())):
        name, about = (*title.split(None, 1), "", "")[:2]
        found.append(Entry(name, "".join(sequence.split()), *parse_header(about)))
    return found


def read_fastq(path: Path | str) -> list[Entry]:
    """Return the sequences of a FASTQ file; the score `quality` is the mean Phred quality.

    Raises:
        DataError: malformed.
    """
    from Bio.SeqIO.QualityIO import FastqGeneralIterator

    found = []
    try:
        for title, sequence, quality in FastqGeneralIterator(StringIO(_text(path))):
            mean = sum(map(ord, quality)) / max(len(quality), 1) - 33
            found.append(Entry((title.split() or [""])[0], sequence, {"quality": mean}))
    except ValueError as error:
        raise DataError(str(error), field=str(path)) from None
    return found


def read_genbank(path: Path | str) -> list[SeqRecord]:
    """Return the records of a GenBank file with all annotations; warnings of the parser are kept, not raised.

    Raises:
        DataError: malformed, or without a sequence.
    """
    from apps.bio.genbank import records

    return records(_text(path), str(path))


def _read_tsv(path: Path | str) -> list[Entry]:
    lines = _text(path).splitlines()
    try:
        about = json.loads(lines[0][1:]) if lines and lines[0].startswith("# {") else {}
    except ValueError:
        raise DataError("its first line is no JSON object", field=str(path)) from None
    table = (line for line in lines if "\t" in line or not line.startswith("#"))  # a name may be #1
    csv.field_size_limit(LONGEST)
    try:
        rows = list(csv.DictReader(table, delimiter="\t", strict=True))
    except csv.Error:
        hint = 'a field that begins with " ends with one'
        raise DataError("a field's quotes are not closed", field=str(path), hint=hint) from None
    column = next((c for c in ("sequence", "seq") if rows and c in rows[0]), None)
    if column is None:
        raise DataError("has no column `sequence` or `seq`", field=str(path))
    found = []
    for i, row in enumerate(rows):
        scores = {}
        for key, value in row.items():
            try:
                scores[str(key)] = float(value)
            except (TypeError, ValueError):
                continue
        found.append(Entry(row.get("name") or row.get("id") or f"row_{i}", row[column] or "", scores, about))
    return found


def _read_json(path: Path | str) -> list[Entry]:
    try:
        data = json.loads(_text(path))
        about, rows = data.get("manifest", {}), data["records" if "records" in data else "designs"]
        names = [str(r["name"] if "name" in r else r["sample"]) for r in rows]
        scores = [{k: v for k, v in dict(r.get("scores", {})).items() if v is not None} for r in rows]
        return [Entry(name, str(r["sequence"]), known, about)
                for name, r, known in zip(names, rows, scores, strict=True)]  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError('is not {"manifest": ..., "records": [{"name", "sequence"}]}', field=str(path)) from None


def _read_genbank(path: Path | str) -> list[Entry]:
    return [
        Entry(str(r.id), str(r.seq), *parse_comment(str(r.annotations.get("comment", ""))),
              r.annotations.get("topology") == "circular")
        for r in read_genbank(path)
    ]  # fmt: skip


READERS: dict[str, Callable[[Path | str], list[Entry]]] = {
    ".fasta": read_fasta, ".fa": read_fasta, ".fna": read_fasta, ".faa": read_fasta, ".fastq": read_fastq,
    ".fq": read_fastq, ".gb": _read_genbank, ".gbk": _read_genbank, ".tsv": _read_tsv, ".json": _read_json,
}  # fmt: skip


def read(path: Path | str) -> list[Entry]:
    """Return the sequences of a file of any known format.

    Raises:
        UsageError: the file's name ends in no known format.
        DataError: missing, empty or malformed, or a record without letters.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise UsageError("no such format", field="file", value=suffix or str(path), choices=READERS)
    found = READERS[suffix](path)
    if not found:
        raise DataError("holds no sequence", field=str(path))
    if empty := [entry.name for entry in found if not entry.sequence]:
        raise DataError("a record has no letters", field=str(path), value=empty[0])
    return found
