"""The cells of `dna_rewards`: one method at one strength and seed, drawn once and kept.

Every method steers the same model to the same reward with about `CALLS` evaluations of it (scores plus gradients) for
`SAMPLES` sequences (half as many by svdd and tds, which ask twice a step), over the same grid of `STEPS`.

| method | how `CALLS` are spent |
|---|---|
| prior, cfg | none; cfg leans on a copy tuned to the tenth of the training data that was measured most active |
| best-of-n | 32 draws for each result |
| classifier, gilc | one gradient a step |
| smc | one score a step of each of 64 particles |
| tds | a score and a gradient a step of each of 32 particles |
| svdd | two proposals a step |
| sdpo | 8 completions of each of 256 noisy states, scored once |
| drakes | at most 104 updates of 16 paths of 8 steps; alpha falls along the run, each starts from the one before |
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.bio.data import Sequences
from apps.bio.generate import SequenceModel
from apps.bio.oracle import Oracle
from apps.bio.tune import TuneTask, Tuning, checksum, straight
from core.finetune import offline
from core.finetune.base import Base
from core.finetune.steer import STEERINGS, Steered
from core.guide.classifier_free import mix
from core.noise import Stream
from core.plan import uniform_plan

__all__ = ["CELLS", "DRAKES", "SEEDS", "Bench", "Cell"]

SAMPLES, STEPS, CALLS = 64, 32, 2048
SEEDS = (0, 1, 2)
DRAKES = (0.2, 0.1, 0.05, 0.045, 0.04)
UPDATES = (32, 24, 24, 12, 12)
SHARED: dict[str, Any] = {"batch": 16, "steps": 16, "truncate": 4, "kl_steps": 2}
OWN: dict[str, dict[str, Any]] = {"drakes": {"steps": 8, "truncate": 8, "lr": 5e-3, "draws": 8}, "sdpo": {"lr": 1e-3}}
"""Settings of the two that tune; those of drakes were chosen by the tuning oracle on other seeds.

Its alphas fall until the draws of such a seed leave the range of the prior's own nats (0.04 does); at 0.035 and below
the optimum p_pre exp(r / alpha) itself is an array of GC boxes, as 0.02 and 0.01 showed: 0.97 nats, 93 % G + C.
"""

LEAN = 60
"""Updates that make the conditional copy of cfg, and those of sdpo."""


@dataclass(frozen=True)
class Cell:
    """One method at one strength (alpha in reward units per nat, the scale for cfg, 0 where there is none)."""

    method: str
    strength: float
    seed: int

    @property
    def name(self) -> str:
        """Return the name of its files."""
        return f"{self.method}-{self.strength:g}-{self.seed}"


GRID: dict[str, tuple[float, ...]] = {
    "prior": (0.0,), "best-of-n": (0.0,), "classifier": (0.2, 0.05), "smc": (0.2, 0.05), "tds": (0.2, 0.05),
    "cfg": (2.0, 5.0), "svdd": (0.2, 0.05), "gilc": (0.2, 0.05), "sdpo": (0.2, 0.05), "drakes": DRAKES,
}  # fmt: skip
CELLS = [Cell(m, s, seed) for seed in SEEDS for m, strengths in GRID.items() for s in strengths]


class Leaning(nn.Module):
    """Classifier-free guidance with two networks: logits of the mixture of their predictions."""

    def __init__(self, free: nn.Module, leaning: nn.Module, scale: float) -> None:
        super().__init__()
        self.free, self.leaning, self.scale = free, leaning, scale

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits [B, S, K]."""
        free, leaning = (net(x, t).double().log_softmax(-1) for net in (self.free, self.leaning))
        return mix(free, leaning, self.scale)


@dataclass(eq=False)
class Bench:
    """What all cells share.

    Args:
        model: the pretrained model.
        reward: the tuning oracle.
        data: the labelled sequences; only the training part is read here.
        cache: where cells are kept.
    """

    model: SequenceModel
    reward: Oracle
    data: Sequences
    cache: Path

    @cached_property
    def base(self) -> Base:
        """The sampler, its chain without gradients."""
        return replace(self.model.base(steps=STEPS), network=straight(self.model.net).eval().requires_grad_(False))

    @cached_property
    def weights(self) -> list[str]:
        """What all cells depend on: the checksums of model and reward."""
        return [checksum(self.model.net), checksum(self.reward.body)]

    def key(self, cell: Cell) -> str:
        """What a cell depends on; one of drakes on the larger alphas before it."""
        ran = DRAKES.index(cell.strength) + 1 if cell.method == "drakes" else 0
        more = {"drakes": [SHARED, OWN["drakes"], DRAKES[:ran], UPDATES[:ran]], "sdpo": [SHARED, OWN["sdpo"], LEAN],
                "cfg": [LEAN]}  # fmt: skip
        settings = [SAMPLES, STEPS, CALLS, *more.get(cell.method, []), *self.weights]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]

    def stream(self, seed: int) -> Stream:
        """Return the streams of a cell's samples."""
        return Stream.of(1000 + seed, SAMPLES)

    def path(self, cell: Cell, suffix: str) -> Path:
        """Return a file of a cell."""
        return self.cache / self.key(cell) / f"{cell.name}{suffix}"

    def fill(self, cell: Cell) -> tuple[Tensor, dict[str, Any]]:
        """Return a cell's sequences [n, L] and counts, drawn where they are not kept yet."""
        tokens, notes = self.path(cell, ".npy"), self.path(cell, ".json")
        if not notes.is_file():
            tokens.parent.mkdir(parents=True, exist_ok=True)
            began = time.perf_counter()
            found, trained = METHODS.get(cell.method, steered)(self, cell)
            seconds = time.perf_counter() - began
            nats = self.model.nll(found.x, draws=8, seed=cell.seed) / found.x.shape[1]
            counts = {"calls": found.calls + found.gradients + trained, "network_calls": found.network_calls,
                      "ancestors": found.ancestors, "seconds": seconds, "elbo": nats.tolist()}  # fmt: skip
            np.save(tokens, found.x.numpy())
            notes.write_text(json.dumps(counts))
        return torch.from_numpy(np.load(tokens)), json.loads(notes.read_text())

    def plain(self, network: Callable[[Tensor, Tensor], Tensor], seed: int) -> Steered:
        """Return draws of a network as it is."""
        with torch.no_grad():
            x = replace(self.base, network=network).sample(self.stream(seed))
        return Steered(x, 0, 0, SAMPLES * STEPS)


def steered(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Draw by a method of `core.finetune.steer`."""
    half = SAMPLES // 2
    options: dict[str, dict[str, Any]] = {
        "best-of-n": {"count": CALLS // SAMPLES}, "classifier": {"alpha": cell.strength},
        "smc": {"alpha": cell.strength, "particles": SAMPLES, "draws": 1},
        "tds": {"alpha": cell.strength, "particles": half, "draws": 1},
        "svdd": {"alpha": cell.strength, "proposals": 2}, "gilc": {"alpha": cell.strength, "draws": 1},
    }  # fmt: skip
    way = STEERINGS[cell.method](**options[cell.method])
    n = half if cell.method in {"svdd", "tds"} else SAMPLES
    return way(bench.base, bench.reward, n, bench.stream(cell.seed)), 0


def prior(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Draw from the pretrained model."""
    return bench.plain(bench.base.network, cell.seed), 0


def guided(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Draw by classifier-free guidance with a copy that leans to the best measured sequences."""
    kept = bench.path(Cell("cfg", 0.0, 0), ".pt.npz")
    leaning = copy.deepcopy(bench.base.network).requires_grad_(True)  # type: ignore[union-attr]
    if kept.is_file():
        restore(leaning, kept)
    else:
        train = bench.data.select(0)
        top = torch.from_numpy(train.tokens[train.value >= np.quantile(train.value, 0.9)])
        rng, optimizer = np.random.default_rng(0), torch.optim.Adam(leaning.parameters(), 1e-3)
        for step in range(LEAN):
            x = top[torch.from_numpy(rng.choice(len(top), 32))]
            x = torch.where(torch.from_numpy(rng.random(len(x)) < 0.5)[:, None], 3 - x.flip(1), x)
            loss, _ = offline.reward_weighted(leaning, bench.base, x, torch.ones(len(x)), Stream.of(step, len(x)))
            update(leaning, optimizer, loss)
        keep(leaning, kept)
    return bench.plain(Leaning(bench.base.network, leaning, cell.strength), cell.seed), 0  # type: ignore[arg-type]


def by_sdpo(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Tune by SDPO on completions scored once, then draw."""
    shared = {**SHARED, **OWN["sdpo"], "seed": cell.seed}
    task = TuneTask(bench.base, bench.reward, Tuning("sdpo", cell.strength, LEAN, pool=CALLS, **shared))
    module = task.module()
    optimizer = torch.optim.Adam(module.parameters(), task.tuning.lr)
    for step in range(LEAN):
        update(module, optimizer, task.loss(module, task.batch(step, 0, 1), step)[0])
    return bench.plain(module.eval(), cell.seed), CALLS


def by_drakes(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Tune by DRAKES from where the next larger alpha ended, then draw."""
    at = DRAKES.index(cell.strength)
    base = replace(bench.base, plan=uniform_plan(OWN["drakes"]["steps"]))
    options = {**SHARED, **OWN["drakes"], "seed": cell.seed}
    task = TuneTask(base, bench.reward, Tuning("drakes", cell.strength, UPDATES[at], **options))
    module = task.module()
    if at:
        before = replace(cell, strength=DRAKES[at - 1])
        bench.fill(before)
        restore(module, bench.path(before, ".pt.npz"))
    optimizer, first = torch.optim.Adam(module.parameters(), task.tuning.lr), sum(UPDATES[:at])
    for step in range(first, first + UPDATES[at]):
        loss, figures = task.loss(module, task.batch(step, 0, 1), step)
        update(module, optimizer, loss)
        print(f"{cell.name} {step}: {figures}", flush=True)
    keep(module, bench.path(cell, ".pt.npz"))
    return bench.plain(module.eval(), cell.seed), SHARED["batch"] * sum(UPDATES[: at + 1])


METHODS: dict[str, Callable[[Bench, Cell], tuple[Steered, int]]] = {
    "prior": prior, "cfg": guided, "sdpo": by_sdpo, "drakes": by_drakes,
}  # fmt: skip


def update(module: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Make one clipped gradient step."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


def keep(module: nn.Module, path: Path) -> None:
    """Write the trained parameters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{k: v.detach().numpy() for k, v in module.named_parameters()})  # type: ignore[arg-type]


def restore(module: nn.Module, path: Path) -> None:
    """Read trained parameters."""
    with np.load(path) as stored:
        module.load_state_dict({k: torch.from_numpy(stored[k]) for k in stored.files}, strict=False)
