"""No mistake at the command line ends in a traceback: over all apps, in words, with a code of the contract."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from benchmarks import _mistakes
from benchmarks._mistakes import Outcome, commit, mistakes, prepare

ALL = {name: list(words) for name, words in groupby(sorted(mistakes()), key=lambda words: words[0])}


@pytest.mark.parametrize("first", ALL)
def test_mistakes_end_in_words(first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    bad = [(" ".join(o.words), o.code, o.traceback[-300:] or o.said[-300:])
           for o in map(commit, ALL[first]) if not o.good]  # fmt: skip
    assert bad == []


def test_there_are_enough() -> None:
    assert sum(map(len, ALL.values())) >= 100


def test_a_traceback_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.__main__.main", lambda: 1 / 0)
    assert "ZeroDivisionError" in commit(("x",)).traceback and not commit(("x",)).good
    assert not Outcome(("x",), 0, "fine", "").good and not Outcome(("x",), 2, "", "").good
    assert _mistakes.commit(("x",)).code == 0
