"""What the READMEs say works: blocks under `<!-- tested -->` are run as they stand, in an empty folder; all other
commands are parsed: verbs, flags, recipes, benchmarks, targets and extras of such names exist (`tests/fences.py`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fences import ROOT, Fence, Shell, fences, indented, parsed, play, unrun

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "apps").glob("*/README.md")),
    *sorted((ROOT / "data").rglob("*.md")),
]
RUN = [
    pytest.param(fence, id=f"{page.relative_to(ROOT).as_posix()}:{fence.line}")
    for page in PAGES
    for fence in fences(page)
    if fence.mark.split(" ")[0] in {"tested", "fails"}
]
SHOWN = [
    pytest.param(line, id=f"{page.relative_to(ROOT).as_posix()}: {line[:60]}")
    for page in PAGES
    for line in [*(line for _, line in unrun(fences(page))), *indented(page)]
]


def needs(text: str) -> list[str]:
    """Return the shipped models that a block names and this copy lacks."""
    named = re.findall(r"quintet (\w+) (?:sample|evaluate|whatif|design|rollout|live|bench) (\w+)", text)
    named += [("bio" if d == "dna" else d, name) for d, name in re.findall(r'(\w+)\.load\("(\w+)"', text)]
    folders = [f"{domain}-{name}" for domain, name in named if "." not in name]
    return [f for f in folders if not (ROOT / "data" / "models" / f).is_dir()]


@pytest.mark.parametrize("fence", RUN)
def test_it_runs_as_it_stands(
    fence: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if lacking := needs(fence.text):
        pytest.skip(f"these weights do not ship with this copy: {', '.join(lacking)}")
    monkeypatch.chdir(tmp_path)
    assert play([fence], Shell(monkeypatch, capfd)) == 1


@pytest.mark.parametrize("line", SHOWN)
def test_what_is_not_run_can_be_typed(line: str) -> None:
    parsed(line)


def test_the_pages_have_tested_blocks() -> None:
    assert len(RUN) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("quintet trajectory smaple toy", "no verb smaple"),
        ("quintet bio design toy --forbidden BsaI", "forbidden"),
        ("quintet nas train tooy", "tooy"),
        ("quintet bio train toy optim.lrr=1", "lrr"),
        ("python -m benchmarks nothing", "no such benchmark"),
        ("make tea", "no such target"),
        ('pip install -e ".[nothing]"', "no such extra"),
        ("curl x", "nobody knows"),
    ],
)
def test_a_wrong_command_is_found(line: str, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint):
        parsed(line)
