"""What a benchmark returns, and what is written about it.

A file `benchmarks/<name>.py` defines `run(full: bool) -> Result`. The harness adds whether each bar holds, the seed,
the number of threads, the commit, the command and the seconds, and writes `results/<name>.json`.
A timing is a ratio within one run, the median of several; peers run in the same process on the same input.
"""

from __future__ import annotations

import importlib
import json
import math
import operator
import os
import pkgutil
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core.errors import UsageError

__all__ = ["Bar", "Result", "check", "measure", "names", "reports", "table"]

ROOT = Path(__file__).resolve().parent.parent
OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
OPEN, CLOSE = "<!-- results -->", "<!-- /results -->"
OWN = {"harness"}


@dataclass(frozen=True)
class Bar:
    """One number that was asked for: `figure op threshold`."""

    claim: str
    figure: float
    op: Literal["<=", ">=", "<", ">", "=="]
    threshold: float

    @property
    def holds(self) -> bool:
        """Whether the figure meets the threshold; a figure that is not a number never does."""
        return not math.isnan(self.figure) and bool(OPERATORS[self.op](self.figure, self.threshold))


@dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        figures: the measured numbers by name.
        units: the unit or meaning of each.
        bars: the numbers that were asked for, with their thresholds.
        peers: the same figures for others' systems or for noise floors.
        seed: of all randomness.
        notes: what a reader must know to judge: split, sizes, what fell short and why.
    """

    figures: dict[str, Any]
    bars: list[Bar]
    units: dict[str, str] = field(default_factory=dict)
    peers: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    notes: str = ""


def names() -> list[str]:
    """Return the names of all benchmarks."""
    found = [m.name for m in pkgutil.iter_modules([str(ROOT / "benchmarks")]) if not m.name.startswith("_")]
    return sorted(set(found) - OWN)


def measure(name: str, full: bool = False) -> dict[str, Any]:
    """Run a benchmark, write `results/<name>.json` and return what was written."""
    if name not in names():
        raise UsageError("no such benchmark", field="name", value=name, choices=names())
    began = time.monotonic()
    result: Result = importlib.import_module(f"benchmarks.{name}").run(full)
    report = {
        "name": name,
        "figures": plain(result.figures),
        "units": result.units,
        "peers": plain(result.peers),
        "bars": [plain({**vars(bar), "holds": bar.holds}) for bar in result.bars],
        "notes": result.notes,
        "seed": result.seed,
        "threads": threads(),
        "commit": commit(),
        "command": f"python -m benchmarks {name}" + (" --full" if full else ""),
        "seconds": round(time.monotonic() - began, 1),
    }
    target = ROOT / "results" / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n")
    return report


def plain(value: Any) -> Any:
    """Turn numpy and torch scalars and arrays into JSON values; what is not finite becomes text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def threads() -> int:
    """Return the number of threads that torch uses, or OpenMP is told to use."""
    import sys

    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def commit() -> str:
    """Return the commit that was measured, with a plus sign where files differ from it."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def rows() -> str:
    """Return the results table as `results/` has it."""
    lines = ["| claim | figure | bar | holds | command |", "|---|---|---|---|---|"]
    for report in reports().values():
        for bar in report["bars"]:
            figure = f"{bar['figure']:.4g}" if isinstance(bar["figure"], int | float) else bar["figure"]
            mark = "yes" if bar["holds"] else "**no**"
            limit = f"{bar['op']} {bar['threshold']:g}"
            lines.append(f"| {bar['claim']} | {figure} | {limit} | {mark} | `{report['command']}` |")
    return "\n".join(lines)


def reports() -> dict[str, dict[str, Any]]:
    """Return what `results/` holds, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))}


def split(readme: str) -> tuple[str, str, str]:
    """Return what stands before, in and after the place of the results table."""
    head, opened, rest = readme.partition(OPEN)
    inside, closed, tail = rest.partition(CLOSE)
    if not (opened and closed):
        raise UsageError(f"has no {OPEN} ... {CLOSE}", field="README.md")
    return head, inside.strip(), tail


def table() -> str:
    """Write README's results table from `results/` and return it."""
    readme, text = ROOT / "README.md", rows()
    head, _, tail = split(readme.read_text())
    readme.write_text(f"{head}{OPEN}\n{text}\n{CLOSE}{tail}")
    return text


def check() -> list[str]:
    """Return in what the pages and `results/` differ: a row, a figure, a command, a result that tells too little."""
    wanted, shown = rows().splitlines(), split((ROOT / "README.md").read_text())[1].splitlines()
    wrong = [f"README.md lacks: {row}" for row in wanted if row not in shown]
    wrong += [f"README.md has, results/ has not: {row}" for row in shown if row not in wanted]
    known = names()
    for name, report in reports().items():
        lacking = [key for key in ("command", "commit", "seed", "threads", "seconds", "bars") if key not in report]
        wrong += [f"results/{name}.json lacks {key}" for key in lacking]
        if name not in known or not re.fullmatch(rf"python -m benchmarks {name}( --full)?", report.get("command", "")):
            wrong.append(f"results/{name}.json is of no benchmark: {report.get('command')}")
        for bar in report["bars"]:
            figure = float(bar["figure"])
            if Bar(bar["claim"], figure, bar["op"], bar["threshold"]).holds != bar["holds"]:
                wrong.append(f"results/{name}.json says of {bar['claim']!r} that it holds: {bar['holds']}")
    for page in [ROOT / "README.md", *ROOT.glob("apps/*/README.md"), *ROOT.glob("docs/**/*.md")]:
        named = set(re.findall(r"python -m benchmarks (\w+)", page.read_text(encoding="utf-8")))
        unknown = sorted(named - {*known, "list", "table", "NAME"})
        wrong += [f"{page.relative_to(ROOT)} names a benchmark that is not there: {name}" for name in unknown]
    return wrong
