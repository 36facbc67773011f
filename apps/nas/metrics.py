"""What is said about searches and samples.

solved        share of runs that reach the optimum within their budget
queries       median number of unique evaluations until they do; a run that does not counts one more than its budget
novelty       share of sampled classes (up to isomorphism) that training did not contain
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from apps.nas.cell import Cell
from apps.nas.rewards import Queries

__all__ = ["Efficiency", "efficiency", "novelty"]


@dataclass(frozen=True)
class Efficiency:
    """Median queries to the optimum, share of runs that got there, and mean best value after 50 and 100 queries."""

    queries: float
    solved: float
    at_50: float
    at_100: float


def efficiency(runs: Sequence[Queries], best: float, budget: int) -> Efficiency:
    """Return the figures of several runs of one search against the optimum `best`."""
    reached = np.array([q.reached(best) or budget + 1 for q in runs])
    at = [float(np.mean([q.curve()[min(n, q.unique) - 1] for q in runs])) for n in (50, 100)]
    return Efficiency(float(np.median(reached)), float(np.mean(reached <= budget)), *at)


def novelty(cells: Iterable[Cell], training: Iterable[Cell]) -> float:
    """Return the share of different sampled classes that are not among those of the training cells."""
    known, found = {c.key for c in training}, {c.key for c in cells}
    return len(found - known) / max(len(found), 1)
