"""Constraints find optima: each limit of the oracle table, 300 queries, against the best cell that obeys."""

from __future__ import annotations

import numpy as np

from apps.nas.constraints import admissible
from benchmarks._nas import NB201, ORACLE, fresh, many, single, table
from benchmarks.harness import Bar, Result

QUERIES = 300


def run(full: bool) -> Result:
    """Search under each limit; the gap is the median over seeds."""
    single()
    model, reward, figures, bars = fresh(), table("c10_test_200"), {}, []
    for name, limits in ORACLE().items():
        cells = admissible(NB201, limits)
        best = max(reward.values[tuple(row)] for row in cells.tolist())
        runs = many("guided", reward, NB201, QUERIES, range(10 if full else 3), model, limits, best)
        gap = float(np.median([best - q.curve()[-1] for q in runs]))
        figures[name] = {"cells": len(cells), "optimum": best, "gap": gap}
        bars.append(Bar(f"{name}: points below the constrained optimum after {QUERIES} queries", gap, "<=", 0.3))
    notes = "CIFAR-10 test accuracy; only cells that connect input and output count. 3 seeds, 10 with --full."
    return Result(figures, bars, notes=notes)
