"""What a newcomer meets: a fresh clone, `make test` and `make demo`, nothing in between.

The last commit is cloned into an empty folder. With `--full` the clone makes its own environment first, as `make` does
for everyone (packages come from the index; their time is told apart); without it, the commands behind `make test` and
`make demo` run in the clone with the environment that runs this. The clock is that of the wall: measure it with
nothing beside.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Bar, Result

__all__ = ["run"]

ROOT = Path(__file__).resolve().parent.parent
FRESH = {"packages": ["make", ".venv/.ready"], "tests": ["make", "test"], "demo": ["make", "demo"]}
HERE = {
    "tests": [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"],
    "demo": [sys.executable, "-m", "apps", "demo"],
}


def step(command: list[str], place: Path) -> dict[str, float | str]:
    """Run a command in the clone; return its exit code, minutes, CPU-seconds and last line."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(place)}
    done = subprocess.run(command, cwd=place, env=settings, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return {
        "exit code": done.returncode,
        "minutes": round((time.monotonic() - began) / 60, 2),
        "CPU-seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "said": lines[-1] if lines else "",
    }


def run(full: bool) -> Result:
    """Clone, test, show."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "quintet"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(place)], check=True)
        figures = {name: step(command, place) for name, command in (FRESH if full else HERE).items()}
        page = place / "out" / "demo" / "index.html"
        size = page.stat().st_size if page.is_file() else 0
    bars = [
        Bar("Newcomer: exit code of the tests in a fresh clone", float(figures["tests"]["exit code"]), "==", 0),
        Bar("Newcomer: minutes of the tests, after the packages", float(figures["tests"]["minutes"]), "<=", 15),
        Bar("Newcomer: exit code of the demo", float(figures["demo"]["exit code"]), "==", 0),
        Bar("Newcomer: minutes of the demo", float(figures["demo"]["minutes"]), "<=", 12),
        Bar("Newcomer: bytes of the demo's page", size, ">", 0),
    ]
    kind = "an environment of its own" if full else "the environment that stood"
    return Result(figures, bars, notes=f"With {kind}, {os.cpu_count()} cores.")
