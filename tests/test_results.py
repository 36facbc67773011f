"""What the pages claim is what `results/` holds: `python -m benchmarks table --check`, and that it can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import harness, reliability
from core.errors import UsageError

REPORT = {
    "bars": [{"claim": "a claim", "figure": 1.5, "op": "<=", "threshold": 2, "holds": True}],
    **{"command": "python -m benchmarks structure", "commit": "0", "seed": 0, "threads": 1, "seconds": 1},
}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A house with one result and the table that belongs to it."""
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    monkeypatch.setattr(harness, "names", lambda: ["structure"])
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "structure.json").write_text(json.dumps(REPORT))
    (tmp_path / "README.md").write_text(f"above\n{harness.OPEN}\n{harness.CLOSE}\nbelow")
    harness.table()
    return tmp_path


def rewrite(house: Path, **change: object) -> None:
    (house / "results" / "structure.json").write_text(json.dumps({**REPORT, **change}))


def test_readme_equals_results() -> None:
    assert harness.check() == []


def test_every_test_that_a_promise_rests_on_is_there() -> None:
    for name in {name for group in reliability.TESTS.values() for name in group}:
        file, _, function = name.partition("::")
        text = (harness.ROOT / "tests" / file).read_text()
        assert not function or f"def {function.split('[')[0]}(" in text, name


def test_the_table_is_written_and_agrees(house: Path) -> None:
    text = (house / "README.md").read_text()
    assert "| a claim | 1.5 | <= 2 | yes | `python -m benchmarks structure` |" in text
    assert text.startswith("above") and text.endswith("below") and harness.check() == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bars": [{**REPORT["bars"][0], "figure": 1.6}]}, "README.md lacks: | a claim | 1.6"),  # type: ignore[index]
        ({"bars": []}, "results/ has not: | a claim | 1.5"),
        ({"bars": [{**REPORT["bars"][0], "threshold": 1}]}, "that it holds"),  # type: ignore[index]
        ({"command": "python train.py"}, "of no benchmark"),
    ],
)
def test_a_difference_is_said(house: Path, change: dict[str, object], says: str) -> None:
    rewrite(house, **change)
    assert any(says in line for line in harness.check())


def test_a_result_must_tell_how_it_was_made(house: Path) -> None:
    poor = {k: v for k, v in REPORT.items() if k != "commit"}
    (house / "results" / "structure.json").write_text(json.dumps(poor))
    assert harness.check() == ["results/structure.json lacks commit"]


def test_a_page_may_name_only_benchmarks_that_are_there(house: Path) -> None:
    (house / "docs").mkdir()
    (house / "docs" / "page.md").write_text("run `python -m benchmarks sturcture`")
    assert harness.check() == ["docs/page.md names a benchmark that is not there: sturcture"]


def test_a_readme_without_a_place_for_the_table_is_refused(house: Path) -> None:
    (house / "README.md").write_text("nothing")
    with pytest.raises(UsageError, match="README.md: has no"):
        harness.table()
