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
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from apps.nas.cell import Cell
from apps.nas.modules import Network, build

__all__ = ["EPOCHS", "SETTINGS", "Score", "train"]

EPOCHS, EARLY, NOISE, BATCH = 30, 10, 0.6, 100
SPLIT = (1000, 1400)
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
def images() -> tuple[Tensor, Tensor]:
    """Return the images [1797, 1, 8, 8] in [0, 1] and their classes, in the order of the split."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return x[order], torch.tensor(data.target)[order]


@lru_cache(maxsize=2)
def judges(part: int) -> tuple[Tensor, Tensor]:
    """Return the images and classes that judge, 0 validation and 1 test, under three draws of noise."""
    x, y = images()
    rows = slice(*SPLIT) if part == 0 else slice(SPLIT[1], None)
    noise = torch.Generator().manual_seed(1000 + part)
    drawn = [x[rows] + NOISE * torch.randn(x[rows].shape, generator=noise) for _ in range(3)]
    return (2 * torch.cat(drawn) - 1).contiguous(memory_format=torch.channels_last), y[rows].repeat(3)


def train(cell: Cell, seed: int, epochs: int = EPOCHS) -> Score:
    """Train the network of a cell from scratch and judge it."""
    began = time.process_time()
    x, y = images()
    digest = hashlib.sha256(f"{cell.key}|{seed}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "little"))
    net = build(cell.literal(), **SETTINGS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    draw = torch.Generator().manual_seed(seed)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, epochs * (SPLIT[0] // BATCH))
    early = (0.0, 0.0)
    for epoch in range(epochs):
        for rows in torch.randperm(SPLIT[0], generator=draw).split(BATCH):
            noisy = 2 * (x[rows] + NOISE * torch.randn(x[rows].shape, generator=draw)) - 1
            loss = cross_entropy(net(noisy.contiguous(memory_format=torch.channels_last)), y[rows])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            rate.step()
        if epoch == EARLY - 1:
            early = judge(net, 0)
    valid, test = judge(net, 0), judge(net, 1)
    return Score(*valid, *test, *early, time.process_time() - began)


@torch.no_grad()
def judge(net: Network, part: int) -> tuple[float, float]:
    """Return accuracy in percent and loss in nats."""
    x, y = judges(part)
    net.eval()
    logits = net(x)
    net.train()
    return 100 * float((logits.argmax(-1) == y).double().mean()), float(cross_entropy(logits, y))
