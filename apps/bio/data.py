"""Sequences to learn from: files and the embedded grammar, and their splits.

Every source gives tokens of one length with the part (train, valid, test) and the group of each sequence. A group is
what must not be torn apart: the two orientations of an element, sites that overlap on a genome. Splits and the folds
of cross-fitting go by group.

| source | train | valid | test | group |
|---|---|---|---|---|
| grammar | 90 % of the simulated | 10 % | fresh ones of another seed | each |
| lentimpra | 90 % of the elements of file `valid` | 10 % | file `test` | element, both orientations |
| ecoli | 90 % of 50,000-base blocks of three quarters of the genome | 10 % | column `split` = test | block |
| gosai, fasta | 90 % of the sequences | 5 % | 5 % | both strands; of few long ones a fortieth of all pieces, in a row |

The lentiMPRA adapters (15 + 15 letters, the same in all) are cut off: 200 letters remain.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from apps.bio.dna.grammar import Grammar
from apps.bio.model import LETTERS, DataConfig
from apps.bio.tokenizer import Tokenizer, reverse_complement
from core.errors import DataError

__all__ = ["SOURCES", "Sequences", "element", "read", "read_ecoli", "read_lentimpra"]

ADAPTERS = ("AGGACCGGATCAACT", "CATTGCGTGAACCGA")
FRESH = 7919
"""Added to a recipe's seed: test sequences of the grammar that no training has seen."""

DEALT = 20
"""One group of so many validates and one tests."""


@dataclass(eq=False)
class Sequences:
    """Sequences of one length.

    Args:
        tokens: int64 [N, L].
        part: 0 train, 1 valid, 2 test; int64 [N].
        group: int64 [N], what must stay together.
        value: float64 [N], the measured activity, NaN where none.
    """

    tokens: np.ndarray
    part: np.ndarray
    group: np.ndarray
    value: np.ndarray

    def select(self, part: int) -> Sequences:
        """Return one part."""
        rows = self.part == part
        return Sequences(self.tokens[rows], self.part[rows], self.group[rows], self.value[rows])

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.tokens)


def element(sequence: str) -> int:
    """Return a number that both strands of a sequence share."""
    return zlib.crc32(min(sequence, reverse_complement(sequence)).encode())


def lines(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table with a header, tab- or comma-separated, gzipped or not.

    Raises:
        DataError: absent or not a table.
    """
    if not path.is_file():
        raise DataError("no such file", field="data.path", value=str(path), hint="see data/README.md")
    try:
        text = unzipped(path)
        return list(csv.DictReader(StringIO(text), delimiter="\t" if "\t" in text.partition("\n")[0] else ","))
    except csv.Error as error:
        raise DataError(f"cannot be read ({type(error).__name__})", field=str(path)) from None


def unzipped(path: Path) -> str:
    """Return the text of a file, gzipped or not.

    Raises:
        DataError: it cannot be read.
    """
    way: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with way(path, "rt", encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"cannot be read ({type(error).__name__})", field=str(path)) from None


def column(rows: list[dict[str, str]], path: Path, *names: str) -> list[str]:
    """Return the first of some columns that a table has.

    Raises:
        DataError: it has none of them, or a row ends before it.
    """
    for name in names:
        if rows and name in rows[0]:
            if short := [i for i, row in enumerate(rows, 1) if row[name] is None]:
                raise DataError(f"row {short[0]} has no {name}", field=str(path))
            return [row[name] for row in rows]
    raise DataError(f"has no column {' or '.join(names)}", field=str(path), choices=rows[0] if rows else None)


def numbers(rows: list[dict[str, str]], path: Path, *names: str) -> np.ndarray:
    """Return a column as numbers, float64 [N].

    Raises:
        DataError: as of `column`, or a cell is none.
    """
    out = []
    for i, cell in enumerate(column(rows, path, *names), 1):
        try:
            out.append(float(cell))
        except ValueError:
            raise DataError(f"row {i} has no number in {names[0]}", field=str(path), value=cell) from None
    return np.array(out)


def read_lentimpra(folder: Path, length: int = 200) -> Sequences:
    """Return the lentiMPRA of WTC11: file `valid` to learn from, file `test` to judge, adapters cut off."""
    letters: list[str] = []
    values, part = [], []
    for name, number in (("valid", 0), ("test", 2)):
        path = folder / f"lentimpra_WTC11_{name}.tsv"
        rows = lines(path)
        found = [s.upper().removeprefix(ADAPTERS[0]).removesuffix(ADAPTERS[1]) for s in column(rows, path, "seq")]
        letters += found
        values += numbers(rows, path, "mean_value").tolist()
        part += [number] * len(found)
    group = np.array([element(s) for s in letters])
    parts = np.array(part)
    parts[(parts == 0) & (group % 10 == 0)] = 1
    return _made(letters, parts, group, np.array(values), length)


def read_ecoli(path: Path, length: int = 150) -> Sequences:
    """Return the E. coli promoters: 50,000-base blocks of three quarters of the genome to learn from."""
    rows = lines(path)
    letters = [s.upper() for s in column(rows, path, "seq")]
    group = numbers(rows, path, "start").astype(np.int64) // 50_000
    test = np.array([s == "test" for s in column(rows, path, "split")])
    parts = np.where(test, 2, np.where(group % 10 == 3, 1, 0))
    return _made(letters, parts, group, numbers(rows, path, "expr"), length)


def read_gosai(path: Path, length: int = 200) -> Sequences:
    """Return the table of Gosai et al. as the paper's authors prepared it: column `seq`, activity `hepg2`."""
    rows = lines(path)
    values = numbers(rows, path, "hepg2", "HepG2")
    return _dealt(column(rows, path, "seq", "sequence"), values, length)


def read_fasta(path: Path, length: int) -> Sequences:
    """Return the sequences of a FASTA file, cut into consecutive pieces of `length` letters without N.

    Pieces of a record stay together, and with those of its copies and of its other strand. Of fewer than `DEALT`
    records with pieces, such as chromosomes, no part could have its share: pieces then stay together with those beside
    them, `2 * DEALT` groups in all.
    """
    if not path.is_file():
        raise DataError("no such file", field="data.path", value=str(path), hint="give data.path=FILE")
    whole, group = [], []
    known: dict[int, int] = {}
    for record in re.split("^>", unzipped(path), flags=re.MULTILINE)[1:]:
        text = "".join(record.split("\n")[1:]).replace("\r", "").upper()
        pieces = [text[a : a + length] for a in range(0, len(text) - length + 1, length)]
        pieces = [p for p in pieces if set(p) <= set("ACGT")]
        whole += pieces
        group += [known.setdefault(element(text), len(known))] * len(pieces) if pieces else []
    if len(known) < DEALT:
        size = max(-(-len(whole) // (2 * DEALT)), 1)
        group = [i // size for i in range(len(whole))]
    return _dealt(whole, np.full(len(whole), np.nan), length, np.array(group))


def read_grammar(simulated: int, seed: int, length: int) -> Sequences:
    """Return sequences of the embedded grammar; a quarter as many more of another seed judge."""
    grammar = Grammar(length)
    seen, fresh = grammar.sample(simulated, seed)[0], grammar.sample(simulated // 4, seed + FRESH)[0]
    part = np.concatenate([np.where(np.arange(len(seen)) % 10 == 0, 1, 0), np.full(len(fresh), 2)])
    n = len(part)
    return Sequences(np.concatenate([seen, fresh]), part, np.arange(n), np.full(n, np.nan))


def _dealt(letters: list[str], values: np.ndarray, length: int, group: np.ndarray | None = None) -> Sequences:
    group = np.array([element(s) for s in letters]) if group is None else group
    return _made(letters, np.select([group % DEALT == 0, group % DEALT == 1], [1, 2], 0), group, values, length)


def _made(letters: list[str], part: np.ndarray, group: np.ndarray, value: np.ndarray, length: int) -> Sequences:
    fits = np.array([len(s) == length and set(s) <= set("ACGT") for s in letters], bool)
    if not fits.any():
        raise DataError(f"has no sequence of {length} letters ACGT", field="data.length", value=length)
    tokens = Tokenizer(LETTERS["dna"]).encode([s for s, ok in zip(letters, fits, strict=True) if ok])
    return Sequences(tokens, part[fits], group[fits], value[fits])


SOURCES: dict[str, Callable[[DataConfig, int], Sequences]] = {
    "grammar": lambda c, seed: read_grammar(c.simulated, seed, c.length),
    "lentimpra": lambda c, seed: read_lentimpra(Path(c.path), c.length),
    "ecoli": lambda c, seed: read_ecoli(Path(c.path), c.length),
    "gosai": lambda c, seed: read_gosai(Path(c.path), c.length),
    "fasta": lambda c, seed: read_fasta(Path(c.path), c.length),
}
"""From a recipe's data and its seed to sequences."""


def read(config: DataConfig, seed: int = 0) -> Sequences:
    """Return the sequences of a recipe."""
    return SOURCES[config.source](config, seed)
