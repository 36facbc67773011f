"""More processes, the same numbers: training and sampling over two gloo processes, and samples that do not fill memory.

Training: five steps of a small regression from one process with batches of 32 against two with 16 each, replicated
(DDP) and sharded (FSDP2) by the strategies of the recipes `trainer=ddp` and `trainer=fsdp`, on the processor. Sampling:
the command `quintet nas sample` in one file by one process against several files by two; then a million tokens of DNA
by `quintet bio sample --shards`, with the peak resident memory of the process that made them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, Result
from benchmarks.resume import Toy
from core.run import checkpoint as store
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, load_recipe
from core.run.train import train

__all__ = ["run"]

ROOT = Path(__file__).resolve().parent.parent
PEAK = (
    "import resource, sys; from apps.__main__ import main\n"
    "try: main()\nexcept SystemExit as end: assert not end.code\n"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
)


def environment() -> dict[str, str]:
    """Return the environment of child processes: this repository, one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def steps(out: Path, devices: int, strategy: str) -> None:
    """Train five steps; run by `python -m benchmarks.distributed OUT DEVICES STRATEGY` where there are several."""
    trainer: Any = TrainerConfig(steps=5, accelerator="cpu", devices=devices, strategy=strategy)
    train(Toy(batch=32 // devices, dropout=0.0), app="toy", config={}, trainer=trainer, out=out,
          optim=OptimConfig(lr=1e-2, warmup=3), logger=LoggerConfig())  # fmt: skip


def weights_differ(folder: Path, strategy: str) -> float:
    """Return the largest difference of weights, two processes against one, relative to the largest weight."""
    one, two = folder / "one", folder / strategy
    if not one.exists():
        steps(one, 1, "auto")
    command = [sys.executable, "-m", "benchmarks.distributed", str(two), "2", strategy]
    subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=True, timeout=400)
    first, second = store.load(one).weights, store.load(two).weights
    scale = max(float(v.abs().max()) for v in first.values())
    return max(float((first[k] - second[k]).abs().max()) for k in first) / scale


def sampled(folder: Path, words: list[str], shards: int, processes: int) -> str:
    """Return the sha256 of all samples of a command, in order."""
    out = folder / f"{shards}-{processes}" / "x.jsonl"
    more = ["--shards", str(shards), "--processes", str(processes), "--out", str(out)]
    command = [sys.executable, "-m", "apps", *words, *more]
    subprocess.run(command, cwd=folder, env=environment(), capture_output=True, check=True, timeout=400)
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(out.parent.glob("x-*.jsonl")))).hexdigest()


def million(folder: Path, tokens: int, length: int = 100) -> dict[str, float]:
    """Write so many tokens of DNA in shards and return tokens, seconds and the peak of memory in GB."""
    n, out = tokens // length, folder / "dna.parquet"
    words = [
        "bio",
        "sample",
        "toy",
        "-n",
        str(n),
        "--length",
        str(length),
        "--steps",
        "8",
        "--shards",
        "8",
        "--out",
        str(out),
    ]
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PEAK, *words, "--json"], cwd=folder, env=environment(), text=True,
                          capture_output=True, check=True, timeout=1100)  # fmt: skip
    import pyarrow.parquet

    written = sum(
        len(row)
        for p in sorted(folder.glob("dna-*.parquet"))
        for row in pyarrow.parquet.read_table(p)["sequence"].to_pylist()
    )
    peak = int(done.stderr.split()[-1]) / 2**20
    return {
        "tokens": written,
        "seconds": time.monotonic() - began,
        "peak_gb": peak,
        "files": json.loads(done.stdout)["files"],
    }


def run(full: bool) -> Result:
    """Compare one process with two and write a million tokens."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        differences = {strategy: weights_differ(folder, strategy) for strategy in ("ddp", "fsdp")}
        words = ["nas", "sample", "toy", "-n", "64", "--max-params", "0.4", "--seed", "5"]
        same = sampled(folder, words, 1, 1) == sampled(folder, words, 5, 2)
        written = million(folder, 1_000_000)
    recipes = {name: load_recipe("nas", "toy", [f"trainer={name}"]).trainer for name in ("ddp", "fsdp")}
    shown = {name: f"{t.strategy}, {t.devices} devices, {t.precision}" for name, t in recipes.items()}
    bars = [
        Bar(
            "Two gloo processes, DDP: weights after 5 steps, relative difference from one",
            differences["ddp"],
            "<=",
            1e-6,
        ),
        Bar(
            "Two gloo processes, FSDP2: weights after 5 steps, relative difference from one",
            differences["fsdp"],
            "<=",
            1e-6,
        ),
        Bar("Samples of two processes in 5 files are those of one in 1", float(same), "==", 1),
        Bar("Tokens of samples written in shards", written["tokens"], ">=", 1_000_000),
        Bar("Peak memory while they were written, GB", written["peak_gb"], "<", 1),
    ]
    figures = {"weights": differences, "same samples": same, "million tokens": written, "recipes": shown}
    return Result(figures, bars, notes="On the processor over gloo; no run on several accelerators has been made.")


if __name__ == "__main__":
    steps(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
