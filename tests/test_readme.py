"""What the READMEs say works: the fenced blocks under `<!-- tested -->` are run as they stand, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "apps").glob("*/README.md"))]
BLOCK = re.compile(r"<!-- tested -->\n```(sh|python)\n(.*?)```", re.S)
BLOCKS = [
    pytest.param(page, kind, text, id=f"{page.relative_to(ROOT).as_posix()}:{number}")
    for page in PAGES
    for number, (kind, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]


def needs(text: str) -> list[str]:
    """Return the shipped models that a block names and this copy lacks."""
    named = re.findall(r"quintet (\w+) (?:sample|evaluate|whatif|design) (\w+)", text)
    named += [("trajectory", name) for name in re.findall(r'trajectory\.load\("(\w+)"', text)]
    named += [("bio", name) for name in re.findall(r'(?:bio|dna)\.load\("(\w+)"', text)]
    folders = [f"{domain}-{name}" for domain, name in named]
    return [f for f in folders if not (ROOT / "data" / "models" / f).is_dir()]


@pytest.mark.parametrize(("page", "kind", "text"), BLOCKS)
def test_it_runs_as_it_stands(page: Path, kind: str, text: str, tmp_path: Path) -> None:
    if lacking := needs(text):
        pytest.skip(f"these weights do not ship with this copy: {', '.join(lacking)}")
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    lines = [line for line in text.splitlines() if line.strip()] if kind == "sh" else [text]
    for line in lines:
        words = shlex.split(line, comments=True)
        command = [sys.executable, "-m", "apps", *words[1:]] if kind == "sh" else [sys.executable, "-c", line]
        assert kind != "sh" or words[0] == "quintet"
        done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
        if "--out" in words:
            assert (tmp_path / words[words.index("--out") + 1]).stat().st_size > 0


def test_the_pages_have_tested_blocks() -> None:
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []
