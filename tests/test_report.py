"""A page is one file that shows what it was given; a benchmark's bars say what holds."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from benchmarks import harness
from core.errors import UsageError
from core.run.report import Chapter, Commands, Frame, Link, Picture, Section, Sound, Table, Text, write


def test_a_page_embeds_pictures_and_escapes_text(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_text("<svg/>")
    (tmp_path / "maps").mkdir()
    blocks = [
        Text("1 < 2 & <script>"),
        Table(["route", "share"], [["a", 0.123456], ["b", 2]], "shares"),
        Picture(tmp_path / "a.svg", "a picture"),
        Frame(tmp_path / "maps" / "m.html", "a map"),
        Link(tmp_path / "maps" / "m.geojson", "the data"),
    ]
    page = write(tmp_path / "out" / "index.html", "demo", [Section("Trips", blocks)]).read_text()
    assert "1 &lt; 2 &amp; &lt;script&gt;" in page and "<td>0.1235</td>" in page and "<h2>Trips</h2>" in page
    assert base64.b64encode(b"<svg/>").decode() in page
    (tmp_path / "a.jpeg").write_bytes(b"jpeg")
    blocks = [Picture(tmp_path / "a.jpeg"), Link(tmp_path / "50 % of #1?.csv", "names as they come")]
    odd = write(tmp_path / "odd.html", "demo", [Section("Names", blocks)]).read_text()
    assert "data:image/jpeg;base64," in odd and 'href="50%20%25%20of%20%231%3F.csv"' in odd
    assert 'src="../maps/m.html"' in page and 'href="../maps/m.geojson"' in page


def test_chapters_open_the_page_with_what_they_found(tmp_path: Path) -> None:
    (tmp_path / "a.ogg").write_bytes(b"OggS")
    blocks = [Sound(tmp_path / "a.ogg", "a tune"), Commands(["quintet music train toy > log"])]
    chapters = [
        Chapter("music", "live", [Section("Tunes", blocks, "0 of 9 notes & hits break a rule")]),
        Chapter("nas", "cells", [Section("Cells")]),
    ]
    page = write(tmp_path / "index.html", "demo", chapters, "Five rooms.").read_text()
    assert "<p>Five rooms.</p><nav" in page and page.index("0 of 9 notes &amp; hits") < page.index(
        '<article id="music"'
    )
    assert '<a href="#nas">' in page and "<h2>music</h2>" in page and "<h3>Tunes</h3>" in page
    assert f"data:audio/ogg;base64,{base64.b64encode(b'OggS').decode()}" in page and "toy &gt; log" in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)


def test_a_bar_holds_or_not() -> None:
    assert harness.Bar("c", 0.5, "<=", 0.5).holds and not harness.Bar("c", 0.5, "<", 0.5).holds
    assert not any(harness.Bar("c", float("nan"), op, 0.0).holds for op in harness.OPERATORS)


def test_every_benchmark_is_written_and_tabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    bars = [harness.Bar("legal trips", 1.0, "==", 1), harness.Bar("faster", 9.5, ">=", 10)]
    toy = types.SimpleNamespace(run=lambda full: harness.Result({"x": float("inf")}, bars, {"x": "s"}, seed=4))
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    monkeypatch.setattr(harness, "names", lambda: ["toy"])
    monkeypatch.setattr(harness.importlib, "import_module", lambda name: toy)
    (tmp_path / "README.md").write_text(f"before\n{harness.OPEN}\nstale\n{harness.CLOSE}\nafter\n")
    report = harness.measure("toy", full=True)
    assert json.loads((tmp_path / "results" / "toy.json").read_text()) == report
    assert [bar["holds"] for bar in report["bars"]] == [True, False]
    assert report["command"] == "python -m benchmarks toy --full" and report["seed"] == 4
    assert {"figures", "units", "peers", "threads", "commit", "seconds"} <= set(report)
    harness.table()
    text = (tmp_path / "README.md").read_text()
    assert "| faster | 9.5 | >= 10 | **no** |" in text and "stale" not in text
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    with pytest.raises(UsageError, match="did you mean 'toy'"):
        harness.measure("toi")
