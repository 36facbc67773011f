"""Rewards of several fidelities: ask the cheap one first, the dear one only for what was good at the cheap one.

Successive halving without rounds (Li et al. 2020, arXiv:1810.05934): a cell goes on from fidelity k to k + 1 if its
value there is among the best `keep` of all that fidelity k has seen so far. Its score is the value at the last fidelity
it came to, so that scores are comparable,

    score(x) = v_k(x)                            at the dearest fidelity
    score(x) = least_{k+1} - (cut_k - v_k(x))    where it stopped at k, with value below the cut of that moment

with `least` the least score that any cell that went on has (cut_k until there is one): what stopped stands below what
went on, in its order. A value that is no finite number ends the climb with the score -inf, and moves neither cut nor
`least`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.finetune.reward import Reward

__all__ = ["Ladder"]


@dataclass(eq=False)
class Ladder:
    """Fidelities from cheap to dear as one reward.

    Args:
        rungs: of equal meaning; at least one.
        keep: share that goes on from each.

    Attributes:
        seen: values of each rung, in the order in which they were asked for.
        least: the least score of those that went on from each rung.
    """

    rungs: Sequence[Reward]
    keep: float = 1 / 3
    seen: list[list[float]] = field(default_factory=list)
    least: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with nothing seen."""
        self.seen = [[] for _ in self.rungs]
        self.least = [math.inf for _ in self.rungs]

    @property
    def name(self) -> str:
        """Return the rungs' names from cheap to dear."""
        return ",".join(r.name for r in self.rungs)

    def score(self, x: Tensor) -> Tensor:
        """Return the scores [B], float64; one row after the other, since each moves the cuts."""
        return torch.tensor([self._one(row[None], 0) for row in x], dtype=torch.float64)

    def _one(self, row: Tensor, k: int) -> float:
        value = float(self.rungs[k].score(row)[0])
        value = value if math.isfinite(value) else -math.inf
        self.seen[k].append(value)
        if k == len(self.rungs) - 1 or math.isinf(value):
            return value
        kept = sorted(self.seen[k], reverse=True)[: max(1, math.floor(self.keep * len(self.seen[k])))]
        if value >= kept[-1]:
            out = self._one(row, k + 1)
            self.least[k] = min(self.least[k], math.inf if math.isinf(out) else out)
            return out
        return (kept[-1] if math.isinf(self.least[k]) else self.least[k]) - (kept[-1] - value)

    def spent(self) -> dict[str, int]:
        """Return how often each fidelity was asked."""
        return {r.name: len(values) for r, values in zip(self.rungs, self.seen, strict=True)}
