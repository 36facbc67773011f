"""Does it play in time? A session of the recipe `recordings` (over 9 M parameters), random weights, one process.

Compute over audio and the slowest blocks at 8 steps, first sound after the warm-up, control to sound at 4 steps, and
memory over a soak. Weights do not change what a step costs. Figures are wall-clock: run it on an idle machine.
"""

from __future__ import annotations

import resource
import time
from itertools import islice

import numpy as np

from benchmarks.harness import Bar, Result
from benchmarks.music_stream import untrained

__all__ = ["run"]


def memory() -> float:
    """Return the memory in use in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def run(full: bool) -> Result:
    """Measure; `full` soaks for ten minutes of music instead of one."""
    model = untrained([], mel=True)
    size = sum(p.numel() for p in model.net.flow.parameters())
    session = model.live(0, steps=8)
    session.warmup()
    began = time.perf_counter()
    first = session.block()
    first_audio = time.perf_counter() - began
    before, count = memory(), round((600 if full else 60) / (first.deadline_ms / 1000))
    made = [(b.compute_ms, b.deadline_ms) for b in islice(session, count)]
    spent, lasts = np.array(made).T
    quick = model.live(1, steps=4)
    quick.warmup()
    answer = float(np.median([b.compute_ms for b in islice(quick, 20)])) / 1000
    control = answer + first.deadline_ms / 1000 + model.net.codec.latency_samples / 32000  # type: ignore[operator]
    figures = {
        "parameters": size, "compute_over_audio": spent.sum() / lasts.sum(),
        "p99_over_block": float(np.percentile(spent, 99)) / lasts[0], "late_blocks": session.late,
        "memory_growth_mb": memory() - before, "first_audio_s": first_audio, "control_to_sound_s": control,
        "soak_minutes": lasts.sum() / 60000,
    }  # fmt: skip
    limits = {"parameters": (">=", 9e6), "compute_over_audio": ("<=", 0.35), "p99_over_block": ("<=", 0.60),
              "late_blocks": ("==", 0), "memory_growth_mb": ("<", 20), "first_audio_s": ("<=", 0.4),
              "control_to_sound_s": ("<=", 1.0)}  # fmt: skip
    names = {"late_blocks": "underruns", "memory_growth_mb": "memory growth, MB"}
    bars = [Bar(names.get(k, k.replace("_", " ")), figures[k], op, v) for k, (op, v) in limits.items()]  # type: ignore[arg-type]
    notes = (
        "8 frames of 64 ms a block, window 8, 8 steps; control to sound: a block that has just begun, computing the "
        "next, the codec's delay."
    )
    return Result(figures, bars, {"first_audio_s": "s after warm-up"}, notes=notes)
