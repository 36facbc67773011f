"""What a run tells: CSV files always, TensorBoard on request, progress on stderr.

`log.csv` has a row per logged step, `validation.csv` one per validation. A resumed run first drops the rows
after the step it resumes from, so a file never tells one step twice. On a terminal progress is a bar; elsewhere it
is one line every `log_every` steps. stdout stays free for results.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import UsageError

__all__ = ["Journal", "Table"]


class Table:
    """A CSV file whose first column is `step`; a new figure widens the table.

    Raises:
        UsageError: a file of this name holds something else, which would be lost.
    """

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                reader = csv.DictReader(file)
                if (reader.fieldnames or ["step"])[0] != "step":
                    raise UsageError("is no table of a run", field="out", value=str(path), hint="choose another --out")
                self.rows = [row for row in reader if (row.get("step") or "x").isdigit()]
            self.rows = [row for row in self.rows if int(row["step"]) <= first]
        self.columns = list(self.rows[0]) if self.rows else ["step"]
        if path.is_file():
            self.rewrite()

    def append(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a row."""
        row = {"step": step, **{k: f"{v:.9g}" for k, v in figures.items()}}
        self.rows.append(row)
        fresh = [name for name in row if name not in self.columns]
        self.columns += fresh
        if fresh:
            self.rewrite()
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def rewrite(self) -> None:
        """Write the whole table."""
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)


class Journal:
    """The figures and the progress of one run; silent unless `active` (the first process).

    Args:
        out: the run's folder.
        first: steps already done.
        last: steps to do in all.
        name: `csv` or `tensorboard`.
    """

    def __init__(self, out: Path, *, first: int, last: int, name: str, active: bool) -> None:
        self.active, self.first, self.last = active, first, last
        self.board: Any = None
        self.bar: Any = None
        if not active:
            return
        self.train, self.valid = Table(out / "log.csv", first), Table(out / "validation.csv", first)
        if name == "tensorboard":
            from lightning.fabric.loggers.tensorboard import TensorBoardLogger

            self.board = TensorBoardLogger(out, name="tensorboard", version="")
        if sys.stderr.isatty():
            self.open_bar()

    def open_bar(self) -> None:
        """Show a bar that also tells the last figures."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.bar.start()
        self.task = self.bar.add_task("", total=self.last, completed=self.first)

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures of training after `step` steps."""
        self.record(step, figures, "train")

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures of a validation after `step` steps."""
        self.record(step, figures, "valid")

    def record(self, step: int, figures: Mapping[str, float], kind: str) -> None:
        """Write to the table, to TensorBoard and to stderr."""
        if not self.active:
            return
        (self.train if kind == "train" else self.valid).append(step, figures)
        if self.board is not None:
            self.board.log_metrics({f"{kind}/{k}": v for k, v in figures.items()}, step)
        text = f"{kind} " + " ".join(f"{k} {v:.4g}" for k, v in figures.items())
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=text)
        else:
            print(f"step {step}/{self.last} {text}", file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """Tell the user one line."""
        if self.active:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar and flush TensorBoard."""
        if self.bar is not None:
            self.bar.stop()
        if self.board is not None:
            self.board.finalize("success")
