"""A solver as data: the time grid and, for tokens, how many sites each step reveals.

`times` runs from 1 (noise) to 0 (data). Token solvers (`core/solvers/tokens.py`) read either the grid (ancestral:
which sites cross their hit time) or the number of steps left (confidence: an even share of the sites still open).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Plan", "uniform_plan"]


@dataclass(frozen=True)
class Plan:
    """A descending time grid of T steps.

    Args:
        times: float64 [T + 1], from 1 to 0.
    """

    times: Tensor

    def __post_init__(self) -> None:
        """Refuse grids that do not end in clean data: a leftover mask would become a token."""
        ends = self.times[0] == 1 and self.times[-1] == 0
        if len(self.times) < 2 or not ends or bool((self.times.diff() >= 0).any()):
            raise ValueError("a plan's times fall strictly from 1 to 0")

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return len(self.times) - 1

    def __iter__(self):  # noqa: ANN204
        """Yield (t, s) pairs."""
        return iter(zip(self.times[:-1].tolist(), self.times[1:].tolist(), strict=True))


def uniform_plan(steps: int) -> Plan:
    """Return the plan of `steps` equal time steps."""
    return Plan(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64))
