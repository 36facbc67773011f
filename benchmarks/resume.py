"""Nothing is lost: a run that is killed again and again ends with the bits of one that was left alone.

A real training run (dropout, AdamW, averaged weights, a checkpoint every few steps) goes on in a process of its own and
is ended at random moments by SIGKILL or SIGTERM, 20 times, each time resumed by the same command. The sha256 of the
final weights is compared with that of an uninterrupted run. Then a fault is injected at each stage of writing a
checkpoint, and the newest complete one must load.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Bar, Result
from core.errors import QuintetError
from core.run import checkpoint as store
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig
from core.run.data import indices

__all__ = ["Toy", "run"]

STAGES = ("mkdir", "flush 1", "flush 2", "flush 3", "flush 4", "before rename", "after rename", "prune")


class Toy:
    """A regression with dropout: the smallest task that draws random numbers in its loss.

    Args:
        seed: of the data and the order in which they are read.
        size: number of items.
        batch: items for each process and micro-batch.
        dropout: share of hidden units left out.
        pause: seconds that a step waits, so that a signal can find it.
    """

    def __init__(
        self, seed: int = 0, size: int = 256, batch: int = 16, dropout: float = 0.1, pause: float = 0.0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(size, 8, generator=generator, dtype=torch.float64).float()
        self.y = self.x.sum(1, keepdim=True).sin()
        self.seed, self.size, self.rows, self.dropout, self.pause = seed, size, batch, dropout, pause

    def module(self) -> nn.Module:
        """Return a small network."""
        return nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Dropout(self.dropout), nn.Linear(32, 1))

    def batch(self, step: int, rank: int, world: int) -> dict[str, Tensor]:
        """Return `batch` items [batch, 8] and their targets [batch, 1]."""
        chosen = torch.from_numpy(indices(self.seed, step, rank, world, size=self.size, batch=self.rows))
        return {"x": self.x[chosen], "y": self.y[chosen]}

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Any]]:
        """Return the mean squared error."""
        time.sleep(self.pause)
        return (module(batch["x"]) - batch["y"]).square().mean(), {}

    def validate(self, module: nn.Module, step: int) -> dict[str, float]:
        """Return the mean squared error over all items."""
        return {"loss": float((module(self.x) - self.y).square().mean())}


def worker(out: Path, steps: int, pause: float) -> None:
    """Train the toy; the body of the process that is killed."""
    from core.run.train import train

    torch.set_num_threads(1)
    sys.stderr = open(os.devnull, "w")
    trainer = TrainerConfig(steps=steps, accelerator="cpu", checkpoint_every=3, validate_every=20)
    try:
        train(
            Toy(pause=pause),
            app="toy",
            config={"toy": 1},
            trainer=trainer,
            optim=OptimConfig(lr=1e-2, warmup=5),
            logger=LoggerConfig(),
            out=out,
        )
    except QuintetError as error:
        sys.exit(error.exit_code)


def start(out: Path, steps: int, pause: float) -> BaseProcess:
    """Begin or resume the run in a process of its own, forked from a server that has imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["core.run.train", "benchmarks.resume"])
    process = context.Process(target=worker, args=(out, steps, pause))
    process.start()
    return process


def fingerprint(out: Path) -> str:
    """Return the sha256 of the final checkpoint's tensors."""
    newest = store.newest(out / "checkpoints")
    assert newest is not None
    names = sorted(p.name for p in newest.glob("*.safetensors"))
    return hashlib.sha256(b"".join((newest / name).read_bytes() for name in names)).hexdigest()


def interrupt(out: Path, steps: int, pause: float, draw: random.Random) -> str:
    """Let the run go on for a random while after it has begun, then end it; return how it ended."""
    process = start(out, steps, pause)
    before = newest_step(out)
    while process.is_alive() and newest_step(out) == before:
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 12 * pause))
    if process.is_alive():
        os.kill(process.pid or 0, draw.choice([signal.SIGKILL, signal.SIGTERM]))
    process.join()
    return {-signal.SIGKILL: "SIGKILL", 128 + signal.SIGTERM: "SIGTERM"}.get(process.exitcode or 0, "ended")


def newest_step(out: Path) -> str:
    """Return the name of the last checkpoint folder, without reading it."""
    return max((p.name for p in (out / "checkpoints").glob("step-*")), default="")


def killed(folder: Path, times: int, seed: int) -> dict[str, Any]:
    """Interrupt one run `times` times, leave another alone, and compare their bits."""
    steps, pause, draw = 12 * times, 0.02, random.Random(seed)
    ways = [interrupt(folder / "killed", steps, pause, draw) for _ in range(times)]
    for name, wait in {"killed": 0.0, "whole": 0.0}.items():
        last = start(folder / name, steps, wait)
        last.join()
        if last.exitcode != 0:
            raise QuintetError("the run did not finish", field=name)
    same = fingerprint(folder / "killed") == fingerprint(folder / "whole")
    signals = [way for way in ways if way.startswith("SIG")]
    return {"interruptions": len(signals), "identical": int(same), "SIGKILL": signals.count("SIGKILL")}


def injected(folder: Path) -> tuple[int, int]:
    """Return (faults injected, checkpoints lost): each stage, kind of failure, number kept, step made anew or again.

    Lost means that afterwards no complete checkpoint loads, or an older one than the last that had been complete.
    """
    kinds = (None, OSError(28, "No space left on device"), OSError(13, "Permission denied"), KeyboardInterrupt())
    tried = lost = 0
    for stage in (*STAGES, "between renames"):
        for number, kind in enumerate(kinds):
            for keep in (1, 3):
                for again in (False, True):
                    place = folder / f"{stage}-{number}-{keep}-{again}".replace(" ", "-")
                    save(place, 1, keep)
                    save(place, 2, keep)
                    with contextlib.suppress(QuintetError, OSError, KeyboardInterrupt, Fault.Crash), Fault(stage, kind):
                        save(place, 2 if again else 3, keep)
                    tried += 1
                    try:
                        lost += store.load(place).step < 2
                    except QuintetError:
                        lost += 1
    return tried, lost


def faults(folder: Path) -> int:
    """Fail at each stage of a write; return at how many of them the newest complete checkpoint still loads."""
    held = 0
    for stage in STAGES:
        place = folder / stage.replace(" ", "-")
        save(place, 1)
        try:
            with Fault(stage):
                save(place, 2)
        except (QuintetError, Fault.Crash):
            pass
        found = store.load(place)
        expected = 2 if stage in {"after rename", "prune"} else 1
        held += found.step == expected and float(found.weights["w"][0]) == expected
    return held


def save(place: Path, step: int, keep: int = 1) -> None:
    """Write a checkpoint whose weights tell its step."""
    state = {"w": torch.full((4,), float(step))}
    optimizer = {"state": {"w": {"m": torch.zeros(4)}}, "param_groups": []}
    store.save(
        place,
        app="toy",
        config={},
        step=step,
        module_state=state,
        ema_state=state,
        optimizer_state=optimizer,
        keep=keep,
    )


class Fault:
    """Replaces the functions that write a checkpoint by ones that crash at a stage."""

    class Crash(Exception):
        """A crash that no code expects."""

    def __init__(self, stage: str, error: BaseException | None = None) -> None:
        self.stage, self.error, self.count, self.renames = stage, error, 0, 0
        self.saved = {"flush": store.flush, "replace": store.replace, "prune": store.prune}
        self.mkdir, self.rename = Path.mkdir, os.rename

    def __enter__(self) -> None:
        for name in self.saved:
            setattr(store, name, getattr(self, name))
        if self.stage == "mkdir":
            Path.mkdir = self.crash  # type: ignore[method-assign,assignment]
        if self.stage == "between renames":
            os.rename = self.second  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        for name, function in self.saved.items():
            setattr(store, name, function)
        Path.mkdir = self.mkdir  # type: ignore[method-assign]
        os.rename = self.rename

    def second(self, *places: Any) -> None:
        """Move aside what stands there, and crash before the new folder takes its place."""
        self.renames += 1
        if self.renames == 2:
            self.crash()
        self.rename(*places)

    def crash(self, *_: object, **__: object) -> None:
        """Fail."""
        raise self.error or Fault.Crash(self.stage)

    def flush(self, path: Path, blob: bytes) -> None:
        """Write half of the n-th file and crash."""
        self.count += 1
        if self.stage == f"flush {self.count}":
            path.write_bytes(blob[: len(blob) // 2])
            self.crash()
        self.saved["flush"](path, blob)

    def replace(self, scratch: Path, target: Path) -> None:
        """Crash before or after the rename."""
        if self.stage == "before rename":
            self.crash()
        self.saved["replace"](scratch, target)
        if self.stage == "after rename":
            self.crash()

    def prune(self, folder: Path, keep: int, last: Path) -> None:
        """Crash instead of removing older checkpoints."""
        if self.stage == "prune":
            self.crash()
        self.saved["prune"](folder, keep, last)


def run(full: bool) -> Result:
    """Measure both claims; 20 interruptions, 60 with `--full`."""
    times = 60 if full else 20
    with tempfile.TemporaryDirectory() as folder:
        figures = killed(Path(folder), times, seed=0) | {"stages": len(STAGES), "stages_held": faults(Path(folder))}
    return Result(
        figures=figures,
        units={"interruptions": "signals", "identical": "1 = same sha256", "stages_held": "of `stages`"},
        bars=[
            Bar("interrupted by SIGKILL or SIGTERM", figures["interruptions"], ">=", 20),
            Bar("final weights bit-identical", figures["identical"], "==", 1),
            Bar("stages of a write that lose nothing", figures["stages_held"], "==", len(STAGES)),
        ],
    )
