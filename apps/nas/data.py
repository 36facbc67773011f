"""Exactly uniform draws from all valid cells of a space, and the law that keeps samples inside.

A layered automaton accepts the valid vectors, each by one path; drawing every token in proportion to the number of
completions gives each cell the same probability, however large the space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from apps.nas.constraints import Constraint, compile_
from apps.nas.space import Space
from core.constrain.layers import Layers
from core.constrain.shared import Mode, SharedLaw, SharedWindow
from core.noise import Stream

__all__ = ["uniform", "window"]


def window(layers: Layers, rows: int, mode: Mode = "product") -> SharedWindow:
    """Return what is admitted over whole cells."""
    return SharedLaw(layers, rows, mode).whole()


def uniform(space: Space, n: int, seed: int, constraints: Sequence[Constraint] = (), first: int = 0) -> Tensor:
    """Draw n valid cells, all equally likely, int64 [n, D]; row i depends on seed and first + i alone."""
    layers = compile_(space, constraints)
    flat = torch.zeros(n, space.D, space.K, dtype=torch.float64)
    unknown = torch.full((n, space.D), -1)
    u = Stream.of(seed, n, first).uniform(space.D)
    return window(layers, n).admit(flat, unknown, unknown < 0, u)
