"""Many samples in many files: each once, the same however they are cut, whole or not there at all."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import QuintetError, UsageError
from core.run import shards
from core.run.shards import WRITERS, cut, write_shards

ASKED: list[tuple[int, int]] = []


def rows(first: int, count: int) -> Sequence[dict[str, Any]]:
    """Return records of samples that are a function of their numbers."""
    ASKED.append((first, count))
    draws = [np.random.default_rng(i).integers(4, size=5) for i in range(first, first + count)]
    numbers = range(first, first + count)
    return [
        {"id": f"s{i}", "sequence": "".join("ACGT"[v] for v in x), "tokens": x, "sound": x / 4 - 0.5, "rate": 8000}
        for i, x in zip(numbers, draws, strict=True)
    ]


def go(
    out: Path, n: int = 23, parts: int = 4, source: Callable[[], Any] = lambda: rows, **request: Any
) -> dict[str, Any]:
    ASKED.clear()
    return write_shards(source, request, n, out, shards=parts, batch=3)


def test_a_cut_holds_each_sample_once() -> None:
    for n, parts in [(23, 4), (4, 4), (1000, 7)]:
        found = cut(n, parts, Path("x.jsonl"))
        assert [i for s in found for i in range(s.first, s.first + s.count)] == list(range(n))
        assert len({s.path for s in found}) == parts and max(s.count for s in found) - min(s.count for s in found) <= 1


@pytest.mark.parametrize("suffix", [".jsonl", ".fasta", ".csv", ".tsv"])
def test_the_cut_does_not_matter(tmp_path: Path, suffix: str) -> None:
    texts = []
    for parts in (1, 4):
        done = go(tmp_path / f"{parts}" / f"x{suffix}", parts=parts)
        files = sorted((tmp_path / f"{parts}").glob(f"x-*{suffix}"))
        assert (done["samples"], done["files"], len(files)) == (23, parts, parts)
        lines = [line for f in files for line in f.read_text().splitlines()]
        texts.append([line for line in lines if not line.startswith("id")])
        assert not list(tmp_path.rglob("*.part"))
    assert texts[0] == texts[1] and len(texts[0]) == (46 if suffix == ".fasta" else 23)


def test_parquet_and_lists_in_tables(tmp_path: Path) -> None:
    import pyarrow.parquet

    go(tmp_path / "x.parquet", parts=2)
    tables = [pyarrow.parquet.read_table(p).to_pylist() for p in sorted(tmp_path.glob("*.parquet"))]
    assert [row["id"] for t in tables for row in t] == [f"s{i}" for i in range(23)]
    assert tables[0][3]["tokens"] == rows(3, 1)[0]["tokens"].tolist()
    go(tmp_path / "t" / "x.csv", parts=1)
    first = next(csv.DictReader((tmp_path / "t" / "x-00000-of-00001.csv").open()))
    assert first["tokens"] == " ".join(map(str, rows(0, 1)[0]["tokens"]))


def test_a_column_may_be_empty_at_first(tmp_path: Path) -> None:
    import pyarrow.parquet

    rows = [{"id": i, "hits": [] if i < 7 else [0.5], "name": None if i < 4 else "x", "void": []} for i in range(12)]
    go(tmp_path / "x.parquet", 12, 1, lambda: lambda first, count: rows[first : first + count])
    assert pyarrow.parquet.read_table(tmp_path / "x-00000-of-00001.parquet").to_pylist() == rows


def test_lines_are_json_whatever_the_numbers_are(tmp_path: Path) -> None:
    rows = [{"id": 0, "enter": [0.5, float("nan")]}, {"id": 1, "enter": np.array([[np.inf, 2]]), "speed": np.nan}]
    go(tmp_path / "trips.jsonl", 2, 1, lambda: lambda first, count: rows[first : first + count])

    def refuse(text: str) -> None:
        raise AssertionError(text)

    lines = (tmp_path / "trips-00000-of-00001.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=refuse) for line in lines]
    assert found == [{"id": 0, "enter": [0.5, None]}, {"id": 1, "enter": [[None, 2.0]], "speed": None}]


def test_sounds_are_files(tmp_path: Path) -> None:
    go(tmp_path / "x.wav", n=3, parts=1)
    with wave.open(str(tmp_path / "x-00000-of-00001.wav" / "s2.wav"), "rb") as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, 8000, 5)
        heard = np.frombuffer(file.readframes(5), "<i2") / 32767
    assert np.abs(heard - rows(2, 1)[0]["sound"]).max() < 1e-4


def test_never_more_than_a_batch_in_memory(tmp_path: Path) -> None:
    go(tmp_path / "x.jsonl", n=100, parts=2)
    assert max(count for _, count in ASKED) == 3 and sum(count for _, count in ASKED) == 100


def test_a_killed_run_goes_on_with_the_missing_shards(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def dying(first: int, count: int) -> Sequence[dict[str, Any]]:
        if first >= 8:
            raise Killed
        return rows(first, count)

    with pytest.raises(Killed):
        go(tmp_path / "x.jsonl", source=lambda: dying, seed=1)
    assert len(list(tmp_path.glob("x-*.jsonl"))) == 1
    go(tmp_path / "x.jsonl", seed=1)
    assert min(first for first, _ in ASKED) == 5  # the first shard, samples 0 to 4, stood
    go(tmp_path / "y.jsonl", seed=1)
    for path in tmp_path.glob("x-*.jsonl"):
        assert path.read_bytes() == (tmp_path / path.name.replace("x-", "y-")).read_bytes()
    manifest = json.loads((tmp_path / "x.json").read_text())
    assert len(manifest["sha256"]) == 4 and manifest["request"] == {"seed": 1, "n": 23, "shards": 4}


def test_another_request_is_refused(tmp_path: Path) -> None:
    go(tmp_path / "x.jsonl", seed=1)
    with pytest.raises(UsageError, match=r"another request \(seed\)"):
        go(tmp_path / "x.jsonl", seed=2)


def test_a_request_that_began_nothing_holds_no_name(tmp_path: Path) -> None:
    def absent() -> Any:
        raise UsageError("no such model", field="model", value="tyo")

    with pytest.raises(UsageError, match="no such model"):
        go(tmp_path / "x.jsonl", source=absent, model="tyo")
    assert go(tmp_path / "x.jsonl", model="toy")["samples"] == 23
    (tmp_path / "y.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="holds something else"):
        go(tmp_path / "y.jsonl")
    assert (tmp_path / "y.json").read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    ("out", "parts", "says"),
    [("x.xyz", 2, "no such format"), ("x.jsonl", 99, "only 23 samples"), ("file/x.jsonl", 2, "cannot be used")],
)
def test_mistakes_are_one_line(tmp_path: Path, out: str, parts: int, says: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=says):
        go(tmp_path / out, parts=parts)


def test_samples_that_are_no_sequences_are_refused(tmp_path: Path) -> None:
    for suffix in (".fasta", ".wav"):
        with pytest.raises(UsageError, match="these samples are no"):
            go(tmp_path / f"x{suffix}", source=lambda: lambda first, count: [{"id": 1, "cell": "x"}])


def test_sounds_go_to_wav_only(tmp_path: Path) -> None:
    go(tmp_path / "x.jsonl", n=3, parts=1)
    assert set(json.loads((tmp_path / "x-00000-of-00001.jsonl").read_text().splitlines()[0])) == {
        "id", "sequence", "tokens"}  # fmt: skip
    with pytest.raises(UsageError, match="these samples are sounds"):
        go(tmp_path / "y.jsonl", source=lambda: lambda first, count: [{"id": 1, "sound": [0.0], "rate": 8000}])


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, rows: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WRITERS[".jsonl"], "add", full)
    with pytest.raises(QuintetError, match="No space left on device"):
        go(tmp_path / "x.jsonl")
    assert not list(tmp_path.glob("x-*.jsonl"))


def test_an_output_is_needed() -> None:
    with pytest.raises(UsageError, match="out: is needed with --shards"):
        shards.write("nas", {"n": 4}, None, shards=2, processes=1)
