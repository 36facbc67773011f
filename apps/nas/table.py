"""Our own measured benchmark: every unique cell of two spaces, really trained on digits (`apps.nas.digits`), twice.

`compute` trains in groups of `GROUP` cells (`apps.nas.lockstep`), appends a line for each (cell, seed) of a group and
waits until they are on the disk; a line that a crash cut off is dropped at the next start, and what is there already is
not trained again. Who is in a group depends on neither part nor interruption, so that a row is the same however it came
about. Within a space and a seed cells come in an order that is random but fixed, so that what a stopped run leaves is a
fair sample. Several processes share the groups by `part` of `parts`, each with a file of its own; `merge` joins them.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apps.nas.cell import Cell, enumerate_classes, resources
from apps.nas.space import ABSENT, Space, load
from apps.nas.tokenizer import from_string
from core.errors import DataError, UsageError
from core.run import outputs

if TYPE_CHECKING:
    from apps.nas.digits import Score

__all__ = ["COLUMNS", "GROUP", "SEEDS", "SPACES", "Row", "compute", "merge", "read", "unique", "work"]

SPACES, SEEDS, GROUP = ("nb201", "nb101-5"), (0, 1), 8
COLUMNS = ("space", "cell", "seed", "valid", "valid_loss", "test", "test_loss", "early", "early_loss", "seconds")


@dataclass(frozen=True)
class Row:
    """One training: accuracies in percent, losses in nats, seconds of one core."""

    space: str
    cell: str
    seed: int
    valid: float
    valid_loss: float
    test: float
    test_loss: float
    early: float
    early_loss: float
    seconds: float


def unique(space: Space) -> dict[str, Cell]:
    """Return the smallest cell of each class of a space by key: all cells for edges, connected ones for nodes."""
    return enumerate_classes(c for c in _cells(space) if space.place == "edges" or whole(c))


def _cells(space: Space) -> Iterator[Cell]:
    return (Cell(space, x) for x in itertools.product(*(space.choices(v) for v in space.variables)))


def whole(cell: Cell) -> bool:
    """Whether absent nodes come last, every present one lies on a path, and there are few enough edges."""
    present = [op != ABSENT for op in cell.ops]
    nodes = {0, cell.space.nodes - 1, *(j for j, p in enumerate(present, 1) if p)}
    few = not cell.space.max_edges or len(cell.edges) <= cell.space.max_edges
    ends = {v for i, j, _ in cell.edges for v in (i, j)}
    return few and present == sorted(present, reverse=True) and ends <= nodes and cell.live == nodes


def work() -> list[tuple[list[Cell], int]]:
    """Return all trainings in their order: groups of cells of one space, with their seed."""
    out = []
    for seed, name in itertools.product(SEEDS, SPACES):
        cells = list(unique(load(name)).values())
        cells.sort(key=lambda c: hashlib.sha256(f"{c.space.name} {c}".encode()).digest())
        out += [(cells[a : a + GROUP], seed) for a in range(0, len(cells), GROUP)]
    return out


def read(path: Path) -> list[Row]:
    """Return the rows of a table, plain or gzipped; a last line without its end is ignored.

    Raises:
        DataError: the file is missing or holds something else.
    """
    try:
        blob = path.read_bytes()
        text = (gzip.decompress(blob) if path.suffix == ".gz" else blob).decode()
        whole_lines = text[: text.rfind("\n") + 1]
        rows = csv.DictReader(io.StringIO(whole_lines))
        if whole_lines and tuple(rows.fieldnames or ()) != COLUMNS:
            raise DataError("has other columns than a table of trainings", field=str(path), value=rows.fieldnames)
        return [Row(r["space"], r["cell"], int(r["seed"]), *(float(r[c]) for c in COLUMNS[3:])) for r in rows]
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise DataError(f"cannot be read ({error})", field=str(path)) from None


def compute(folder: Path, part: int = 0, parts: int = 1, limit: int = 0) -> dict[str, int | float]:
    """Train what is missing, and return how far the table is.

    Args:
        folder: of the table; `part` of `parts` (0 <= part < parts) writes `part-<part>.csv`.
        limit: stop as soon as so many trainings are done, 0 for all.
    """
    import torch

    from apps.nas import digits

    if not 0 <= part < parts:
        raise UsageError(f"must lie between 0 and {parts - 1}", field="part", value=part)
    torch.set_num_threads(1)
    outputs.folder(folder).mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{part}.csv"
    _repair(path)
    done = {(r.space, r.cell, r.seed) for p in folder.glob("part-*.csv") for r in read(p)}
    left = [(cells, s, [(c.space.name, str(c), s) not in done for c in cells]) for cells, s in work()[part::parts]]
    left = [group for group in left if any(group[2])]
    began, spent, fresh, total = time.monotonic(), 0.0, 0, sum(sum(missing) for _, _, missing in left)
    for cells, seed, missing in left:
        scores = digits.train_all(cells, seed)
        spent += sum(score.seconds for score in scores)
        fresh += sum(missing)
        _append(path, [(c, seed, s) for c, s, m in zip(cells, scores, missing, strict=True) if m])
        hours = (time.monotonic() - began) / fresh * (total - fresh) / 3600
        line = f"{fresh} of {total} trained, {spent / fresh:.2f} CPU s each, {hours:.1f} h left"
        print(line, file=sys.stderr, flush=True)
        if limit and fresh >= limit:
            break
    return {"trained": fresh, "left": total - fresh, "cpu_seconds": spent}


def _append(path: Path, found: Sequence[tuple[Cell, int, Score]]) -> None:
    """Add rows and wait until they are on the disk."""
    with path.open("a", newline="") as file:
        for cell, seed, score in found:
            values = [round(v, 5) for v in asdict(score).values()]
            csv.writer(file, lineterminator="\n").writerow([cell.space.name, str(cell), seed, *values])
        file.flush()
        os.fsync(file.fileno())


def _repair(path: Path) -> None:
    """Write the header, and cut off what a crash left of the last line."""
    if path.exists() and (blob := path.read_bytes()):
        keep = blob.rfind(b"\n") + 1
        if keep < len(blob):
            os.truncate(path, keep)
        if keep:
            return
    path.write_text(",".join(COLUMNS) + "\n")


def merge(folder: Path, out: Path) -> dict[str, int]:
    """Join the parts into one sorted, gzipped table, the same bytes for the same rows."""
    rows = {(r.space, r.cell, r.seed): r for p in sorted(folder.glob("part-*.csv")) for r in read(p)}
    if not rows:
        raise DataError("holds no finished training", field=str(folder), hint="run quintet nas table first")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key in sorted(rows):
        writer.writerow([getattr(rows[key], c) for c in COLUMNS])
    with outputs.replacing(out) as part:
        part.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
    return {"rows": len(rows), "bytes": out.stat().st_size}


def costs(row: Row) -> tuple[int, int]:
    """Return parameters and FLOPs of the network that a row trained."""
    from apps.nas.digits import SETTINGS

    return resources(from_string(load(row.space), row.cell), size=8, **SETTINGS)
