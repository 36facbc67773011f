"""Many samples in many files: `sample --shards N`, over processes, never more than a batch in memory.

Sample i is a function of (seed, i) alone, so [0, n) may be cut anywhere: shard k of N holds the numbers from k n / N to
(k + 1) n / N, process r of W makes the shards r, r + W, ..., and the files are the same for every W. A shard is written
row by row under a temporary name and renamed when it is whole. A run that was killed goes on with the shards that are
missing: the folder keeps the request beside them, and another request is refused.

An app joins with `apps/<domain>/stream.py`: `rows(model, n=..., seed=..., ...)` takes what its verb `sample` takes, and
returns the function (first, count) -> records of samples first ... first + count - 1.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core.errors import QuintetError, UsageError
from core.run.cli import finite

__all__ = ["Rows", "Shard", "WRITERS", "cut", "write", "write_shards"]

Row = Mapping[str, Any]
Rows = Callable[[int, int], Sequence[Row]]
BATCH = 256
PATIENCE = 32


class Writer(Protocol):
    """A file that grows row by row."""

    def __init__(self, path: Path) -> None: ...

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class Lines:
    """One JSON object for each row, with null for numbers that JSON cannot say."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8")

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        whole = ({name: plain(value) for name, value in row.items()} for row in rows)
        self.file.writelines(json.dumps(finite(row), default=plain, allow_nan=False) + "\n" for row in whole)

    def close(self) -> None:
        """Finish the file."""
        self.file.close()


class Fasta(Lines):
    """A header with the `id`, then the `sequence`."""

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        for row in rows:
            if "sequence" not in row:
                raise UsageError("these samples are no sequences", field="out", hint="write .jsonl or .parquet")
            self.file.write(f">{row['id']}\n{row['sequence']}\n")


class Table(Lines):
    """Comma-separated values with a header; lists are separated by blanks."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.rows = csv.writer(self.file, delimiter=self.separator, lineterminator="\n")
        self.header: list[str] = []

    separator = ","

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        if rows and not self.header:
            self.header = list(rows[0])
            self.rows.writerow(self.header)
        for row in rows:
            self.rows.writerow([cell(row[name]) for name in self.header])


class Tabs(Table):
    """Tab-separated values."""

    separator = "\t"


class Parquet:
    """Apache Parquet, one row group for each batch.

    Batches in which a column is empty throughout, so that it has no type, wait for one that gives it a type, at most
    `PATIENCE` of them.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.writer = path, None
        self.waiting: list[Any] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        import pyarrow
        import pyarrow.parquet

        columns = {name: [plain(row[name]) for row in rows] for name in rows[0]} if rows else {}
        self.waiting.append(pyarrow.table(columns))
        known = self.writer is not None or len(self.waiting) == PATIENCE
        if known or not any("null" in str(kind) for kind in self.schema().types):
            self.flush()

    def schema(self) -> Any:
        """Return the types of all that waits."""
        import pyarrow

        return pyarrow.unify_schemas([table.schema for table in self.waiting], promote_options="permissive")

    def flush(self) -> None:
        """Write what waits."""
        import pyarrow.parquet

        if self.writer is None:
            self.writer = pyarrow.parquet.ParquetWriter(self.path, self.schema())
        for table in self.waiting:
            self.writer.write_table(table.cast(self.writer.schema))
        self.waiting.clear()

    def close(self) -> None:
        """Finish the file."""
        if self.waiting:
            self.flush()
        if self.writer is not None:
            self.writer.close()


class Sounds:
    """A folder with a 16-bit WAV file for each row, from its `sound` in [-1, 1], [n] or [n, channels], and `rate`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def add(self, rows: Sequence[Row]) -> None:
        """Append files."""
        for row in rows:
            if "sound" not in row:
                raise UsageError("these samples are no sounds", field="out", hint="write .jsonl or .parquet")
            sound = np.atleast_2d(np.asarray(row["sound"], np.float64).T).T
            with wave.open(str(self.path / f"{row['id']}.wav"), "wb") as file:
                file.setnchannels(sound.shape[1])
                file.setsampwidth(2)
                file.setframerate(int(row["rate"]))
                file.writeframes((sound.clip(-1, 1) * 32767).round().astype("<i2").tobytes())

    def close(self) -> None:
        """Nothing is left to do."""


WRITERS: dict[str, type[Writer]] = {
    ".jsonl": Lines,
    ".parquet": Parquet,
    ".fasta": Fasta,
    ".csv": Table,
    ".tsv": Tabs,
    ".wav": Sounds,
}


@dataclass(frozen=True)
class Shard:
    """Samples `first` to `first + count - 1`, and their file."""

    first: int
    count: int
    path: Path


def silent(row: Row) -> Row:
    """Return a row without its sound, which only WAV files hold."""
    found = {name: value for name, value in row.items() if name not in {"sound", "rate"}}
    if set(found) <= {"id"}:
        raise UsageError("these samples are sounds", field="out", hint="write .wav")
    return found


def cut(n: int, shards: int, out: Path) -> list[Shard]:
    """Return the shards of n samples: `name.jsonl` becomes `name-00000-of-00004.jsonl` and so on."""
    ends = [k * n // shards for k in range(shards + 1)]
    return [
        Shard(a, b - a, out.with_name(f"{out.stem}-{k:05d}-of-{shards:05d}{out.suffix}"))
        for k, (a, b) in enumerate(zip(ends, ends[1:], strict=False))
    ]


def plain(value: Any) -> Any:
    """Return numpy and torch values as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def cell(value: Any) -> Any:
    """Return a value as a cell of a table."""
    value = plain(value)
    return " ".join(str(plain(v)) for v in value) if isinstance(value, list | tuple) else value


def make(shard: Shard, rows: Rows, batch: int) -> None:
    """Write one shard, batch by batch, and put it in place when it is whole."""
    import shutil

    part = shard.path.with_name(shard.path.name + ".part")
    try:
        if part.is_dir():  # of a run that was killed
            shutil.rmtree(part)
        writer = WRITERS[shard.path.suffix](part)
        try:
            for first in range(shard.first, shard.first + shard.count, batch):
                made = rows(first, min(batch, shard.first + shard.count - first))
                writer.add(made if shard.path.suffix == ".wav" else [silent(row) for row in made])
        finally:
            writer.close()
        os.replace(part, shard.path)
    except OSError as error:
        raise QuintetError(f"cannot write ({error.strerror or error})", field=str(shard.path)) from None


def write_shards(
    rows: Callable[[], Rows], request: Mapping[str, Any], n: int, out: Path, *, shards: int, processes: int = 1,
    batch: int = BATCH,
) -> dict[str, Any]:  # fmt: skip
    """Write n samples into files, over processes, and return what was written (on the first process).

    Args:
        rows: makes the source of samples; called in each process that has something to do.
        request: what was asked for, kept beside the files as `name.json`.
        n: how many samples.
        out: names the files and, by its suffix, their format.
        shards: how many files.
        processes: how many processes share the work.
        batch: samples in memory at a time.

    Raises:
        UsageError: an unknown format, fewer samples than shards, or a folder with the samples of another request.
        QuintetError: the disk refused.
    """
    if out.suffix not in WRITERS:
        raise UsageError("no such format for shards", field="out", value=str(out), choices=WRITERS)
    if n < shards:
        raise UsageError(f"there are only {n} samples", field="shards", value=shards)
    claim(out, {**request, "n": n, "shards": shards})
    fabric = launched(processes)
    mine = cut(n, shards, out)[fabric.global_rank :: fabric.world_size]
    missing = [shard for shard in mine if not shard.path.exists()]
    source = rows() if missing else None
    for shard in missing:
        make(shard, source, batch)  # type: ignore[arg-type]
    fabric.barrier()
    every = cut(n, shards, out)
    if fabric.is_global_zero:
        sums = {shard.path.name: checksum(shard.path) for shard in every}
        manifest = {"request": {**request, "n": n, "shards": shards}, "sha256": sums}
        out.with_suffix(".json").write_text(json.dumps(manifest, indent=1) + "\n")
    size = sum(p.stat().st_size for s in every for p in ([s.path] if s.path.is_file() else s.path.iterdir()))
    return {"out": str(out.with_suffix(".json")), "samples": n, "files": shards, "bytes": size}


def begun(out: Path) -> Iterator[Path]:
    """Yield what there is of the samples themselves, whole shards and parts."""
    return out.parent.glob(f"{glob.escape(out.stem)}-?????-of-?????{glob.escape(out.suffix)}*")


def launched(processes: int) -> Any:
    """Return Fabric on so many processes of the CPU."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto")
    fabric.launch()
    return fabric


def claim(out: Path, request: Mapping[str, Any]) -> None:
    """Make the folder and write the request, or see that the samples there are of the same request."""
    asked = json.loads(json.dumps(request, default=str))
    note = out.with_suffix(".json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        held = json.loads(note.read_text())["request"] if note.is_file() else None
        if held is None or (held != asked and not any(begun(out))):
            note.write_text(json.dumps({"request": asked}, indent=1) + "\n")
            held = asked
    except (OSError, ValueError, TypeError, KeyError) as error:
        detail = "it holds something else" if isinstance(error, TypeError | KeyError) else error
        raise UsageError(f"cannot be used ({detail})", field="out", value=str(note)) from None
    if held != asked:
        different = next(k for k in {**held, **asked} if held.get(k) != asked.get(k))
        hint = "choose another --out"
        raise UsageError(f"holds the samples of another request ({different})", field="out", value=str(out), hint=hint)


def checksum(path: Path) -> str:
    """Return the sha256 of a file, or of the files of a folder one after the other."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        with file.open("rb") as source:
            while block := source.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write(domain: str, asked: Mapping[str, Any], out: Path | None, *, shards: int, processes: int) -> dict[str, Any]:
    """Write what an app's verb `sample` was asked for (see `write_shards`)."""
    from core.run.config import locate

    if out is None:
        raise UsageError("is needed with --shards", field="out", hint=f"name a file: {', '.join(WRITERS)}")
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"  # the processes share the processors
    request = {"app": domain, **{k: v for k, v in asked.items() if k != "n"}}
    source = locate(f"apps.{domain}.stream:rows")
    return write_shards(lambda: source(**asked), request, asked["n"], out, shards=shards, processes=processes)
