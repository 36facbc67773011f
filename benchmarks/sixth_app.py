"""The core is general: a sixth app, `tests/toyhouse/brackets`, is added and passes the battery that all apps pass.

Its domain is text of brackets that close in order. Lines are counted over all its files, Python and YAML, docstrings
included and blank lines left out. It is added by one entry in the search path of `apps`; nothing in `core` or `apps`
knows its name. The battery is `tests/test_apps.py`, run in a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Bar, Result

__all__ = ["run"]

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "tests" / "toyhouse" / "brackets"


def battery(name: str) -> dict[str, int]:
    """Return how many tests of the battery ended in which way for one app."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_apps.py", "-k", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    found = {way: int(number) for number, way in re.findall(r"(\d+) (passed|failed|error|skipped)", last)}
    return {way: found.get(way, 0) for way in ("passed", "failed", "error", "skipped")}


def run(full: bool) -> Result:
    """Count the app's lines, look for its name in the house, and run the battery."""
    files = sorted(p for p in APP.rglob("*") if p.suffix in {".py", ".yaml"})
    lines = {p.relative_to(APP).as_posix(): p.read_text().splitlines() for p in files}
    written = sum(bool(line.strip()) for text in lines.values() for line in text)
    house = [p for top in ("core", "apps") for p in (ROOT / top).rglob("*") if p.suffix in {".py", ".yaml"}]
    known = [p.relative_to(ROOT).as_posix() for p in house if re.search(r"\bbrackets\.|/brackets", p.read_text())]
    found = battery(APP.name)
    bars = [
        Bar("Sixth app: lines of all its files, blank ones left out", written, "<=", 150),
        Bar("Sixth app: files of core and apps that know it", len(known), "==", 0),
        Bar("Sixth app: tests of the battery that fail", found["failed"] + found["error"], "==", 0),
        Bar("Sixth app: tests of the battery that pass", found["passed"], ">=", 13),
    ]
    figures = {
        "lines": {name: len(text) for name, text in lines.items()},
        "lines with blank ones": sum(map(len, lines.values())),
        "battery": found,
        "known by": known,
    }
    return Result(figures, bars, notes="`quintet` with this app: `python tests/toyhouse/quintet.py brackets train`.")
