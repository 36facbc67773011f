"""Real training of a cell on the handwritten digits that scikit-learn bundles: the protocol of our own benchmark.

Images of 8 x 8 pixels are scaled to [0, 1]; each time one is seen, fresh Gaussian noise of deviation 0.6 is added, and
the sum is stretched to [-1, 1] (without noise all cells are alike). 1,000 images train, 400 validate, 397 test, the
latter two under three fixed draws of noise. The network is that of `apps.nas.modules` with 8 channels, two stages of
one cell. SGD with Nesterov momentum 0.9, batches of 100, 30 epochs, learning rate 0.1 on a cosine, weight decay 5e-4.

Order and noise of the images depend on the seed alone, so that cells of one seed are compared on the same draws; the
initial weights depend on cell and seed. One thread: the figures of (cell, seed) are the same in every run on one
machine.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from apps.nas.cell import Cell
from apps.nas.lockstep import Lockstep
from apps.nas.modules import Network, build

__all__ = ["EPOCHS", "SETTINGS", "Score", "train", "train_all"]

EPOCHS, EARLY, NOISE, BATCH = 30, 10, 0.6, 100
SPLIT, SIZE = (1000, 1400), 8
SETTINGS = {"channels": 8, "cells": 1, "stages": 2, "classes": 10, "inputs": 1}


@dataclass(frozen=True)
class Score:
    """What one training gave: accuracies in percent and losses in nats; `early` after a third of the epochs."""

    valid: float
    valid_loss: float
    test: float
    test_loss: float
    early: float
    early_loss: float
    seconds: float


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def images() -> tuple[Tensor, Tensor]:
    """Return the images [1797, 1, 8, 8] in [0, 1] and their classes, in the order of the split."""
    from sklearn.datasets import load_digits

    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return (x.float().view(-1, 1, SIZE, SIZE) / 16)[order], y[order]


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def judges(part: int) -> tuple[Tensor, Tensor]:
    """Return the images and classes that judge, 0 validation and 1 test, under three draws of noise."""
    x, y = images()
    rows = slice(*SPLIT) if part == 0 else slice(SPLIT[1], None)
    noise = torch.Generator().manual_seed(1000 + part)
    drawn = [x[rows] + NOISE * torch.randn(x[rows].shape, generator=noise) for _ in range(3)]
    return (2 * torch.cat(drawn) - 1).contiguous(memory_format=torch.channels_last), y[rows].repeat(3)


def network(cell: Cell, seed: int) -> Network:
    """Return the untrained network of a cell; its weights depend on cell and seed alone."""
    digest = hashlib.sha256(f"{cell.key}|{seed}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "little"))
    return build(cell.literal(), **SETTINGS)


def train(cell: Cell, seed: int, epochs: int = EPOCHS) -> Score:
    """Train the network of a cell from scratch and judge it."""
    return train_all([cell], seed, epochs)[0]


def train_all(
    cells: Sequence[Cell], seed: int, epochs: int = EPOCHS, dtype: torch.dtype = torch.float32
) -> list[Score]:
    """Train the networks of several cells from scratch, side by side, and judge them; seconds are shared out evenly.

    A cell's score depends on its companions only through the rounding of sums in `dtype`.
    """
    began = time.process_time()
    x, y = images()
    x = x.to(dtype)
    group = Lockstep([network(cell, seed).to(dtype) for cell in cells], SIZE).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    draw = torch.Generator().manual_seed(seed)
    sgd = torch.optim.SGD(group.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, epochs * (SPLIT[0] // BATCH))
    early = [(0.0, 0.0)] * len(cells)
    for epoch in range(epochs):
        for rows in torch.randperm(SPLIT[0], generator=draw).split(BATCH):
            noise = torch.randn(x[rows].shape, generator=draw).to(dtype)
            logits = group((2 * (x[rows] + NOISE * noise) - 1).contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(logits.flatten(0, 1), y[rows].repeat(len(cells)), reduction="sum") / BATCH
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            rate.step()
        if epoch == EARLY - 1:
            early = judge(group, 0)
    valid, test = judge(group, 0), judge(group, 1)
    share = (time.process_time() - began) / len(cells)
    return [Score(*v, *t, *e, share) for v, t, e in zip(valid, test, early, strict=True)]


@torch.no_grad()
def judge(group: Lockstep, part: int) -> list[tuple[float, float]]:
    """Return accuracy in percent and loss in nats of each network."""
    x, y = judges(part)
    group.eval()
    parts = [group(rows.to(group.weight.dtype)) for rows in x.split(BATCH)]
    group.train()
    logits = torch.cat(parts, 1)
    right = 100 * (logits.argmax(-1) == y).double().mean(1)
    return [(float(r), float(cross_entropy(one, y))) for r, one in zip(right, logits, strict=True)]
