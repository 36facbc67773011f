"""A reward that trains: the validation accuracy of a cell's network on images of the user, after so many epochs.

On `digits` it is the protocol of our own table (`apps.nas.digits`). On other images: SGD with Nesterov momentum 0.9,
batches of 64, learning rate 0.1 on a cosine, weight decay 5e-4, label-preserving shifts by one pixel; a network of 16
channels with one cell for each resolution. Order and shifts depend on the seed, weights on cell and seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from apps.nas import images
from apps.nas.cell import Cell
from apps.nas.modules import Network, build
from apps.nas.space import Space

__all__ = ["Training", "accuracy", "fit", "settings"]

BATCH, RATE, DECAY, CHANNELS = 64, 0.1, 5e-4, 16


def settings(data: images.Images) -> dict[str, int]:
    """Return the settings of `Network` for images."""
    shape = {"inputs": data.x.shape[1], "classes": data.classes, "stages": data.stages}
    return {"channels": CHANNELS, "cells": 1, **shape}


def fit(net: Network, data: images.Images, epochs: int, seed: int) -> Network:
    """Train a network on the training part."""
    x, y = data.part("train")
    draw = torch.Generator().manual_seed(seed)
    sgd = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY)
    steps = max(1, epochs * -(-len(x) // BATCH))
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draw).split(BATCH):
            if len(rows) > 1:
                loss = cross_entropy(net(_shifted(x[rows], draw)), y[rows])
                sgd.zero_grad()
                loss.backward()
                sgd.step()
            rate.step()
    return net.eval()


def _shifted(x: Tensor, draw: torch.Generator) -> Tensor:
    """Return images moved together by at most one pixel."""
    i, j = torch.randint(3, (2,), generator=draw).tolist()
    return pad(x, (1, 1, 1, 1))[:, :, i : i + x.shape[2], j : j + x.shape[3]]


@torch.no_grad()
def accuracy(net: Network, x: Tensor, y: Tensor) -> float:
    """Return the accuracy in percent."""
    right = torch.cat([net(rows).argmax(1) for rows in x.split(4 * BATCH)]) == y
    return 100 * float(right.double().mean())


@dataclass(frozen=True)
class Training:
    """Validation accuracy in percent after training each cell for some epochs.

    Args:
        space: of the cells.
        epochs: the fidelity.
        data: see `apps.nas.images`.
        seed: of weights, order and shifts.
    """

    space: Space
    epochs: int = 30
    data: str = "digits"
    seed: int = 0
    by_class: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Return data and fidelity."""
        return f"train:{self.epochs}" if self.data == "digits" else f"train:{self.data}:{self.epochs}"

    def score(self, x: Tensor) -> Tensor:
        """Train each cell, and return the accuracies [B], float64."""
        found = [self._digits(row) if self.data == "digits" else self._images(row) for row in x.tolist()]
        return torch.tensor(found, dtype=torch.float64)

    def _digits(self, row: list[int]) -> float:
        from apps.nas.digits import train

        return train(Cell.of(self.space, row), self.seed, self.epochs).valid

    def _images(self, row: list[int]) -> float:
        data = images.load(self.data)
        torch.manual_seed(self.seed)
        net = build(Cell.of(self.space, row).literal(), **settings(data))
        return accuracy(fit(net, data, self.epochs, self.seed), *data.part("valid"))
