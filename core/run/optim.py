"""The optimiser and its rate.

The rate of step s is a pure function of s: lr (s + 1) / (w + 1) during w steps of warm-up, then constant, or

    lr (f + (1 - f) (1 + cos(pi (s - w) / (S - w))) / 2)            (half a cosine from lr down to f lr)

(Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts). A parameter with an attribute `pace` learns so many
times as fast: an adversary, a fresh head.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from core.run.config import OptimConfig

__all__ = ["learning_rate", "make_optimizer", "pace"]


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """Return the rate of step `step`: linear warm-up, then constant or half a cosine down to `final * lr`."""
    if step < optim.warmup:
        return optim.lr * (step + 1) / (optim.warmup + 1)
    if optim.schedule == "constant":
        return optim.lr
    done = (step - optim.warmup) / max(1, steps - optim.warmup)
    return optim.lr * (optim.final + (1 - optim.final) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def make_optimizer(module: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser; gains, biases and other vectors are not decayed, parameters of one `pace` are a group."""
    learns = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learns if pace(p) == rate and (p.ndim > 1) == decays],
         "weight_decay": optim.weight_decay if decays else 0.0}
        for rate in sorted({pace(p) for p in learns}) for decays in (True, False)
    ]  # fmt: skip
    groups = [group for group in groups if group["params"]]
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.betas[0])
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]), eps=optim.eps)


def pace(parameter: nn.Parameter) -> float:
    """Return by what a parameter's rate is multiplied: its attribute `pace`, 1 where it has none."""
    return float(getattr(parameter, "pace", 1.0))
