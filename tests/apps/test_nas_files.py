"""Where results go: refused before anything is computed, made where missing, written whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.nas import cli, table, verbs
from apps.nas.generate import untrained
from core.errors import UsageError
from core.run import outputs
from core.run.config import load_recipe


def pareto(out: Path) -> dict[str, Any]:
    return verbs.pareto("toy", [], reward="params", cost="flops", budget=3, seed=0, folder="", out=out)


def sample(out: Path) -> dict[str, Any] | None:
    return verbs.sample("toy", [], n=2, seed=0, settings={}, out=out)


def search(out: Path) -> dict[str, Any]:
    return verbs.search("toy", [], reward="params", method="random", budget=3, seed=0, out=out, folder="")


def untouched(name: str) -> None:
    raise AssertionError("a model was loaded before the place was seen to")


@pytest.mark.parametrize("verb, name", [(pareto, "f.json"), (sample, "x.txt"), (sample, "x.jsonl")])
def test_a_missing_folder_is_made(
    verb: Callable[[Path], Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "load", lambda _: untrained(load_recipe("nas", "toy")))
    out = tmp_path / "no" / "dir" / name
    assert verb(out)["out"] == str(out) and out.read_text().endswith("\n")
    assert [p.name for p in out.parent.iterdir()] == [name]


@pytest.mark.parametrize("verb, name", [(pareto, "f.json"), (sample, "x.txt"), (search, "found")])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_computed(
    verb: Callable[[Path], Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "load", untouched)
    (tmp_path / "taken").write_text("old")
    (tmp_path / "folder" / name).mkdir(parents=True)
    wrong = tmp_path / "taken" if verb is search else tmp_path / "folder" / name
    for out in (wrong, tmp_path / "taken" / "below" / name):
        with pytest.raises(UsageError, match="is a f"):
            verb(out)
    assert (tmp_path / "taken").read_text() == "old"


def test_a_front_is_one_json_object_where_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verbs, "load", lambda _: untrained(load_recipe("nas", "toy")))
    cli.pareto("toy", reward="params", cost="flops", budget=3, tables="", json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["front"] == len(found["cells"]) and {"cell", "params", "flops"} == set(found["cells"][0])
    cli.pareto("toy", reward="params", cost="flops", budget=3, tables="")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == [*(c["cell"] for c in found["cells"]), str(found["front"]), "3"]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "sub" / "a.txt"
    outputs.save(out, "first")
    with pytest.raises(ZeroDivisionError), outputs.replacing(out) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert out.read_text() == "first" and [p.name for p in out.parent.iterdir()] == ["a.txt"]


def test_a_table_is_joined_into_a_folder_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    row = ["nb201", "|none~0|", "0", *["1.0"] * (len(table.COLUMNS) - 3)]
    (tmp_path / "parts" / "part-0.csv").write_text(",".join(table.COLUMNS) + "\n" + ",".join(row) + "\n")
    out = tmp_path / "no" / "t.csv.gz"
    assert verbs.table(tmp_path / "parts", "0/1", 0, out)["rows"] == len(table.read(out)) == 1
    with pytest.raises(UsageError, match="is a folder"):
        verbs.table(tmp_path / "parts", "0/1", 0, tmp_path / "no")
    with pytest.raises(UsageError, match="is a file"):
        table.compute(out)


def test_a_search_writes_a_folder_of_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "load", lambda _: untrained(load_recipe("nas", "toy")))
    out = tmp_path / "no" / "found"
    assert search(out)["queries"] == 3 == len((out / "queries.jsonl").read_text().splitlines())
    assert json.loads((out / "search.json").read_text())["queries"] == 3
    names = {"queries.jsonl", "search.json", "cell.py", "cell.dot", "cell.png", "cell.txt"}
    assert {p.name for p in out.iterdir()} == names
