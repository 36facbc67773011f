"""The cells of `dna_rewards`: one method at one strength and seed, drawn once and kept.

Every method steers the same model to the same reward with about `CALLS` evaluations of it (scores plus gradients) in
all, in two regimes (`Regime`): few sequences, 64 in 32 steps, so that each may be asked about 32 times; and the 640 of
Wang et al. 2024, in 8 steps, each asked about 3 times. svdd and tds, which ask twice, give half as many sequences.

| method | how `CALLS` are spent on few | on many |
|---|---|---|
| prior, cfg | none; cfg leans on a copy tuned to the tenth of the training data measured most active | the same |
| best-of-n | 32 draws for each result | 3 draws |
| best-of-all | | the best 640 of those 1,920 draws |
| classifier, gilc | one gradient a step | at 3 steps; in between the last gradient is held |
| classifier-2 | | at 2 steps, so with fewer calls |
| smc | one score a step of each particle, one population | at 2 steps and the end |
| tds | a score and a gradient a step of each particle, one population | at 3 steps, gradients held |
| svdd | two proposals a step | two proposals at 3 steps |
| sdpo | 8 completions of each of 256 noisy states, scored once | the same weights, 640 draws |
| distill | 64 guided paths of 16 steps, whose gradients go into weights | the same weights, 640 draws |
| distill-full | 128 guided paths, hence all calls, and twice the updates | the same weights, 640 draws |
| drakes | 128 updates of 16 paths of 8 steps, a run for each alpha | the same weights, 640 draws |
| drakes-realigned | those of drakes, drawn from at an eighth of their prices | the same |
| sdpo-realigned, distill-realigned | at an eighth, at half of theirs: those of sdpo, distill-full | the same |
| drakes-warm | 64 guided paths of 8 steps, distilled, then at most 96 updates; alpha falls | the same weights |

**What the rows named drakes are.** `drakes` is the method of Wang et al. with the exact path KL, from the pretrained
weights. `drakes-warm` is a variant of ours (`apps.bio.tune`: `warm` and `hold`): 512 of its 2,048 calls buy guided
paths whose predictions are fitted first, and its paths keep the nats of the pretrained model's own
(`core.finetune.drakes`), which asks the reward nothing. Its path KL, too, is to the pretrained model. Its settings
were chosen by the reward and the nats of paths on seeds 101 and 102, which no table uses. On them the warm start alone
ended at 1.04 nats per base and in no typical sequence, as the law that it aims at does.
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
from torch import Tensor

from apps.bio.data import Sequences
from apps.bio.generate import SequenceModel
from apps.bio.oracle import Oracle
from apps.bio.tune import checksum, straight
from benchmarks._weights import (
    ALPHAS,
    CALLS,
    LEAN,
    REALIGNED,
    WEIGHTS,
    before,
    depends,
    keep,
    restore,
    source,
    spent,
    update,
)
from core.finetune import offline
from core.finetune.base import Base
from core.finetune.steer import STEERINGS, Steered
from core.guide.realign import Realigned
from core.noise import Stream

__all__ = ["ALPHAS", "CALLS", "FEW", "MANY", "REALIGNED", "SEEDS", "WEIGHTS", "Bench", "Cell", "Regime", "spent"]

SEEDS = (0, 1, 2)


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


@dataclass(frozen=True)
class Regime:
    """How many sequences share the calls.

    Args:
        samples: sequences of a cell.
        steps: of the grid.
        asks: steps at which a sequence is asked about; 0: all.
        draws: of the evidence bound of each sequence.
        grid: the strengths of each method; those of `MANY` were chosen by tuning reward and nats on another seed.
    """

    samples: int
    steps: int
    asks: int
    draws: int
    grid: dict[str, tuple[float, ...]]

    @property
    def cells(self) -> list[Cell]:
        """All cells, seed after seed."""
        return [Cell(m, s, seed) for seed in SEEDS for m, strengths in self.grid.items() for s in strengths]


def lower(grid: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """Return a grid with a row for each method that is realigned: the strengths of its weights, divided."""
    return grid | {name: tuple(a / times for a in grid[of]) for name, (of, times) in REALIGNED.items()}


FEW = Regime(64, 32, 0, 8, lower({
    "prior": (0.0,), "best-of-n": (0.0,), "classifier": (0.2, 0.05, 0.0125), "smc": (0.2, 0.05),
    "tds": (0.2, 0.05, 0.0125), "cfg": (2.0, 5.0), "svdd": (0.2, 0.05), "gilc": (0.2, 0.05, 0.0125),
    "sdpo": (0.2, 0.05), "distill": (0.0125,), "distill-full": (0.02, 0.0125), **ALPHAS,
}))  # fmt: skip
MANY = Regime(640, 8, 3, 2, lower({
    "prior": (0.0,), "classifier": (0.05, 0.00625), "classifier-2": (0.05, 0.00625), "smc": (0.05,),
    "best-of-n": (0.0,), "best-of-all": (0.0,), "svdd": (0.05,), "tds": (0.0125,), "distill": (0.0125,),
    "gilc": (0.0125,), "sdpo": (0.05,), "cfg": (5.0,), "distill-full": (0.02, 0.0125), **ALPHAS,
}))  # fmt: skip


@dataclass(eq=False)
class Bench:
    """What all cells share.

    Args:
        model: the pretrained model.
        reward: the tuning oracle.
        data: the labelled sequences; only the training part is read here.
        cache: where cells are kept.
        regime: how many sequences share the calls.
    """

    model: SequenceModel
    reward: Oracle
    data: Sequences
    cache: Path
    regime: Regime = FEW

    @cached_property
    def few(self) -> Bench:
        """The bench whose tuned weights all regimes share."""
        return replace(self, regime=FEW)

    @cached_property
    def base(self) -> Base:
        """The sampler, its chain without gradients."""
        base = self.model.base(steps=self.regime.steps)
        return replace(base, network=straight(self.model.net).eval().requires_grad_(False))

    @cached_property
    def weights(self) -> list[str]:
        """What all cells depend on: the checksums of model and reward."""
        return [checksum(self.model.net), checksum(self.reward.body)]

    def key(self, cell: Cell) -> str:
        """What a cell depends on."""
        size = [self.regime.samples, self.regime.steps, CALLS]
        size += [self.regime.asks, self.regime.draws] if self.regime.asks else []
        settings = [*size, *depends(cell), *self.weights]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]

    def stream(self, seed: int) -> Stream:
        """Return the streams of a cell's samples."""
        return Stream.of(1000 + seed, self.regime.samples)

    def path(self, cell: Cell, suffix: str) -> Path:
        """Return a file of a cell."""
        return self.cache / self.key(cell) / f"{cell.name}{suffix}"

    def fill(self, cell: Cell) -> tuple[Tensor, dict[str, Any]]:
        """Return a cell's sequences [n, L] and counts, drawn where they are not kept yet."""
        tokens, notes = self.path(cell, ".npy"), self.path(cell, ".json")
        if not notes.is_file():
            tokens.parent.mkdir(parents=True, exist_ok=True)
            if self.regime is not FEW and cell.method in WEIGHTS:
                WEIGHTS[cell.method](self, cell)  # their seconds are those of the few (`seconds`)
            began = time.perf_counter()
            found, trained = METHODS.get(cell.method, steered)(self, cell)
            seconds = time.perf_counter() - began
            nats = self.model.nll(found.x, draws=self.regime.draws, seed=cell.seed) / found.x.shape[1]
            counts = {"calls": found.calls + found.gradients + trained, "network_calls": found.network_calls,
                      "ancestors": found.ancestors, "seconds": seconds, "elbo": nats.tolist()}  # fmt: skip
            np.save(tokens, found.x.numpy())
            notes.write_text(json.dumps(counts))
        return torch.from_numpy(np.load(tokens)), json.loads(notes.read_text())

    def seconds(self, cell: Cell) -> float:
        """Return the seconds of a cell, all tuning that it stands on included."""
        own, stages = self.fill(cell)[1]["seconds"], []
        if cell.method in REALIGNED:
            return own + self.seconds(source(cell))
        if cell.method in ALPHAS:
            stages = before(cell)
        if self.regime is not FEW and cell.method in WEIGHTS:
            stages.append(cell)
        return own + sum(self.few.fill(c)[1]["seconds"] for c in stages)

    def plain(self, network: Callable[[Tensor, Tensor], Tensor], seed: int) -> Steered:
        """Return draws of a network as it is."""
        with torch.no_grad():
            x = replace(self.base, network=network).sample(self.stream(seed))
        return Steered(x, 0, 0, self.regime.samples * self.regime.steps)


def steered(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Draw by a method of `core.finetune.steer`."""
    samples, asks = bench.regime.samples, bench.regime.asks
    half, often = samples // 2, {"alpha": cell.strength, "asks": asks}
    options: dict[str, dict[str, Any]] = {
        "classifier": often, "classifier-2": {**often, "asks": 2}, "smc": {**often, "particles": samples},
        "tds": {**often, "particles": half}, "svdd": {**often, "proposals": 2}, "gilc": often,
    }  # fmt: skip
    one = {"draws": 1} if cell.method in {"smc", "tds", "gilc"} else {}
    way = STEERINGS[cell.method.removesuffix("-2")](**options[cell.method], **one)
    n = half if cell.method in {"svdd", "tds"} else samples
    return way(bench.base, bench.reward, n, bench.stream(cell.seed)), 0


def best(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Keep the best of each group of draws (those of `core.finetune.steer.BestOf`), or the best of all of them."""
    n, stream, kept = bench.regime.samples, bench.stream(cell.seed), bench.path(Cell("draws", 0.0, cell.seed), ".npy")
    if not kept.is_file():
        drawn = [bench.base.sample(stream.fold(20, k)) for k in range(CALLS // n)]
        np.save(kept, torch.stack(drawn).numpy())
    x = torch.from_numpy(np.load(kept))
    score = bench.reward.score(x.flatten(0, 1)).view(x.shape[:2])
    first = x[score.argmax(0), torch.arange(n)]
    chosen = first if cell.method == "best-of-n" else x.flatten(0, 1)[score.flatten().argsort(descending=True)[:n]]
    return Steered(chosen, score.numel(), 0, score.numel() * bench.regime.steps), 0


def prior(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Draw from the pretrained model."""
    return bench.plain(bench.base.network, cell.seed), 0


def guided(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Draw by classifier-free guidance with a copy that leans to the best measured sequences."""
    kept = bench.few.path(Cell("cfg", 0.0, 0), ".pt.npz")
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
    both = Realigned(bench.base.network, leaning, cell.strength, bench.base.mask)
    return bench.plain(both, cell.seed), 0


def tuned(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Draw from tuned weights."""
    module = copy.deepcopy(bench.base.network)
    restore(module, WEIGHTS[cell.method](bench, cell))  # type: ignore[arg-type]
    return bench.plain(module.eval(), cell.seed), spent(cell)  # type: ignore[union-attr]


def realigned(bench: Bench, cell: Cell) -> tuple[Steered, int]:
    """Draw from tuned weights at a lower price of a nat than they were tuned at."""
    origin, module = source(cell), copy.deepcopy(bench.base.network)
    restore(module, WEIGHTS[origin.method](bench, origin))  # type: ignore[arg-type]
    both = Realigned(bench.base.network, module.eval(), REALIGNED[cell.method][1], bench.base.mask)  # type: ignore[union-attr]
    found = bench.plain(both, cell.seed)
    return replace(found, network_calls=2 * found.network_calls), spent(cell)


METHODS: dict[str, Callable[[Bench, Cell], tuple[Steered, int]]] = {
    "prior": prior, "cfg": guided, "best-of-n": best, "best-of-all": best, **dict.fromkeys(WEIGHTS, tuned),
    **dict.fromkeys(REALIGNED, realigned),
}  # fmt: skip
