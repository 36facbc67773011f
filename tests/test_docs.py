"""The pages of docs/: they build offline without a warning, ask no other host for anything, and what they say works."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fences import ROOT, Fence, Shell, fences, parsed, play, unrun

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MARKS = {"tested", "fails", "slow", "file", "needs"}
SHOWN = [
    pytest.param(line, id=f"{page.relative_to(DOCS).as_posix()}: {line[:60]}")
    for page in PAGES
    for _, line in unrun(fences(page))
]


def short(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def here(page: Path) -> list[Fence]:
    """Return the blocks of a page; skip it where its app is not on the command line."""
    from apps import DOMAINS

    blocks = fences(page)
    if page.parent != DOCS and page.parent.name not in DOMAINS:
        pytest.skip(f"{page.parent.name} is not on the command line")
    return blocks


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    play(here(page), Shell(monkeypatch, capfd))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_page_runs_with_its_trainings(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    play(here(page), Shell(monkeypatch, capfd), slow=True)


@pytest.mark.parametrize("line", SHOWN)
def test_what_is_not_run_can_be_typed(line: str) -> None:
    parsed(line)


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_every_command_says_what_is_done_with_it(page: Path) -> None:
    wild = [f.line for f in fences(page) if f.shell and f.mark.split(" ")[0] not in MARKS]
    assert wild == []


def test_commands_of_the_demo_page_can_be_typed() -> None:
    from apps import DOMAINS

    for domain in DOMAINS:
        lines = importlib.import_module(f"apps.{domain}.demo").COMMANDS
        assert len(lines) >= 3
        for line in lines:
            parsed(line)


def test_the_tutorials_run_commands_of_every_app() -> None:
    text = "".join(f.text for p in PAGES for f in fences(p) if f.mark.startswith("tested"))
    from apps import DOMAINS

    assert [d for d in DOMAINS if text.count(f"quintet {d} ") < 5] == []


def test_names_of_the_reference_exist() -> None:
    wrong = []
    for dotted in re.findall(r"`((?:core|apps)(?:\.\w+)+)`", (DOCS / "api.md").read_text()):
        try:
            importlib.import_module(dotted)
        except ImportError:
            module, _, name = dotted.rpartition(".")
            if not hasattr(importlib.import_module(module), name):
                wrong.append(dotted)
    assert wrong == []


def test_figures_of_the_page_on_constraints_are_those_measured() -> None:
    found = json.loads((ROOT / "results" / "constraint_law.json").read_text())["figures"]
    rows = [row.split("|")[1:-1] for row in (DOCS / "constraints.md").read_text().splitlines() if row.startswith("|")]
    stated = {row[0].strip(): [re.findall(r"[\d.]+", cell) for cell in row[1:]] for row in rows}
    for toy, laws in found.items():
        names = ("independent", "product", "exists", "reference")
        assert stated[toy] == [[f"{laws[name][k]:.3f}" for k in (0, 1, 3)] for name in names], toy


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip('mkdocs is absent: pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    return folder


def test_the_site_builds_without_a_warning(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) >= len(PAGES)


def test_the_site_asks_no_other_host(site: Path) -> None:
    asks = re.compile(r"""<(?:script|img|iframe|audio|video|source)[^>]*\ssrc=["']?(?:https?:)?//|"""
                      r"""<link[^>]*\shref=["']?(?:https?:)?//""")  # fmt: skip
    found = [f"{p.name}: {m[0][:120]}" for p in site.rglob("*.html") for m in asks.finditer(p.read_text())]
    found += [p.name for p in site.rglob("*.css") if re.search(r"""url\(["']?(?:https?:)?//""", p.read_text())]
    assert found == []
