"""What does a DRAKES update cost in memory as more steps are back-propagated?

A convolutional network of 6 layers and 64 channels reads 16 sequences of 200 bases; the plan has 64 steps, and the path
KL is taken at all of them. Each update runs in a process of its own; its cost is the process's peak resident size above
that before the update. `stored` keeps every step's activations, as without checkpoints.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

from benchmarks.harness import ROOT, Bar, Result

__all__ = ["child", "run"]

STEPS, BATCH, LENGTH, WIDTH = 64, 16, 200, 64


def child(truncate: int, stored: bool) -> None:
    """Run one update and print its cost in bytes and its seconds."""
    import time

    import torch

    from core.finetune import drakes
    from core.finetune.base import Base
    from core.noise import Stream
    from core.plan import uniform_plan
    from core.process.categorical import Categorical

    torch.set_num_threads(1)
    torch.manual_seed(0)
    policy = network()
    prior, reward = drakes.frozen(policy), Share()
    base = Base(policy, Categorical.absorbing(4), uniform_plan(STEPS), LENGTH)
    if stored:
        drakes._again = lambda step, z, k: step(z, k)
    drakes.record(base, Stream.of(0, BATCH))  # what sampling needs is there before
    before, began = resident(), time.monotonic()
    loss, _ = drakes.loss(policy, prior, base, reward, 0.1, truncate, 1.0, BATCH, Stream.of(0, 1))
    loss.backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"bytes": peak - before, "seconds": time.monotonic() - began}))


class Share:
    """A differentiable reward: the share of one base."""

    name = "share"

    def score(self, x):  # noqa: ANN001, ANN201
        """Return the rewards [B]."""
        return (x == 0).double().mean(-1)

    def soft(self, p):  # noqa: ANN001, ANN201
        """Return the rewards [B] of laws."""
        return p[..., 0].mean(-1)


def network():  # noqa: ANN201
    """Return the network, from tokens or one-hot laws to logits."""
    import torch
    from torch import nn

    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Conv1d(5, WIDTH, 9, padding=4)]
            layers += [nn.Conv1d(WIDTH, WIDTH, 9, padding=4) for _ in range(5)]
            self.layers, self.head = nn.ModuleList(layers), nn.Conv1d(WIDTH, 4, 1)

        def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            z = x_t if x_t.is_floating_point() else nn.functional.one_hot(x_t, 5).float()
            h = z.transpose(1, 2)
            for layer in self.layers:
                h = nn.functional.silu(layer(h))
            return self.head(h).transpose(1, 2)

    return Convolutions()


def resident() -> int:
    """Return the resident size of this process in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(row for row in file if row.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def measure(truncate: int, stored: bool) -> dict[str, float]:
    """Run an update in a process of its own."""
    code = f"from benchmarks.drakes_memory import child; child({truncate}, {stored})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run(full: bool) -> Result:
    """Measure at 8, 16, 32 and 64 back-propagated steps; `full` repeats three times and takes medians."""
    figures: dict[str, dict[str, float]] = {"checkpointed, MiB": {}, "stored, MiB": {}, "checkpointed, seconds": {}}
    for truncate in (8, 16, 32, 64):
        runs = sorted((measure(truncate, False) for _ in range(3 if full else 1)), key=lambda r: r["bytes"])
        middle = runs[len(runs) // 2]
        figures["checkpointed, MiB"][str(truncate)] = middle["bytes"] / 2**20
        figures["checkpointed, seconds"][str(truncate)] = middle["seconds"]
    for truncate in (8, 16):
        figures["stored, MiB"][str(truncate)] = measure(truncate, True)["bytes"] / 2**20
    cost = figures["checkpointed, MiB"]
    bars = [Bar("peak memory at 64 back-propagated steps over that at 8", cost["64"] / cost["8"], "<=", 2.0)]
    notes = f"{STEPS} steps, {BATCH} sequences of {LENGTH} bases; peak resident size above that before, one thread."
    return Result(figures, bars, {"*, MiB": "MiB by back-propagated steps"}, notes=notes)
