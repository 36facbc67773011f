"""Quick: pretraining, a search of 100 queries and the report, on the default recipe."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Bar, Result


def run(full: bool) -> Result:
    """Time the two commands as a user gives them."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run_, out = str(Path(folder, "run")), str(Path(folder, "found"))
        quintet = [sys.executable, "-m", "apps", "nas"]
        subprocess.run([*quintet, "train", "toy", "--out", run_], check=True, capture_output=True)
        trained = time.monotonic()
        words = [*quintet, "search", run_, "--reward", "nb201:c10_test_200", "--out", out, "--json"]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        seconds = time.monotonic() - began
    figures = {"seconds": seconds, "pretraining": trained - began, "queries": found["queries"], "best": found["best"]}
    notes = "Wall clock on whatever else the machine was doing."
    return Result(figures, [Bar("seconds for pretraining, 100 queries and report", seconds, "<", 180)], notes=notes)
