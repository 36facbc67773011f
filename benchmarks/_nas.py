"""What the nas benchmarks share: models without training, searches from many seeds, the oracle table's limits."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from apps.nas.baselines import Field
from apps.nas.constraints import Constraint, Depth, Forbid, Limit, Listed, Require, everything
from apps.nas.generate import CellModel, untrained
from apps.nas.rewards import Queries, columns, load
from apps.nas.search import method
from apps.nas.space import Space
from apps.nas.space import load as load_space
from core.finetune.reward import Reward
from core.run.config import load_recipe

__all__ = ["COLUMNS", "NB201", "ORACLE", "Race", "Reached", "fresh", "hardware", "many", "single", "table"]

NB201 = load_space("nb201")
COLUMNS = {"c10": "c10_test_200", "c100": "c100_test_200", "in16": "in16_test_200"}
CONVS = ("nor_conv_1x1", "nor_conv_3x3")


def fresh(recipe: str = "toy", *changes: str) -> CellModel:
    """Return a model that knows nothing but the space: uniform over valid cells (pretraining on all adds no more)."""
    return untrained(load_recipe("nas", recipe, list(changes)))


def table(column: str) -> Any:
    """Return a column of the real table."""
    return load(f"nb201:{column}", NB201)


@dataclass(eq=False)
class Race(Queries):
    """Queries that end the search where `goal` is reached: what comes after is of no interest."""

    goal: float = math.inf

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """Return the values [B]."""
        out = super().score(x)
        if self.values().max() >= self.goal:
            raise Reached
        return out


class Reached(Exception):  # noqa: N818
    """The goal was met."""


def many(
    name: str, reward: Reward, space: Space, budget: int, seeds: Sequence[int], model: CellModel | None = None,
    limits: Sequence[Constraint] = (), goal: float = math.inf, scouts: int = 0,
) -> list[Queries]:  # fmt: skip
    """Run a search from several seeds, each until it reaches the goal; progress goes to stderr."""
    out: list[Queries] = []
    for seed in seeds:
        queries = Race(reward, goal=goal)
        with contextlib.suppress(Reached):
            method(name, model, scouts)(queries, Field(space, limits, seed), budget)
        out.append(queries)
        line = f"{name} on {queries.name}, seed {seed}: {queries.curve()[-1]:.3f}, {queries.unique} queries"
        print(line, file=sys.stderr, flush=True)
    return out


def hardware(column: str, most: float) -> Listed:
    """Return the limit that a measured cost (-1 where not measured) is at most so much."""
    rows, x = columns("hw"), everything(NB201)
    value = np.array([float(rows["".join(map(str, r))][column]) for r in x.tolist()])
    return Listed(x[(value >= 0) & (value <= most)], f"{column}<={most}")


def ORACLE() -> dict[str, list[Constraint]]:  # noqa: N802
    """Return the rows of the oracle table of our notes (limits of the real space with known optima)."""
    return {
        "none": [],
        "FLOPs <= 20 M": [Limit("flops", 20e6)],
        "params <= 0.4 M": [Limit("params", 0.4e6)],
        "edge GPU <= 4 ms": [hardware("c10_edgegpu_latency", 4)],
        "Raspi4 <= 20 ms": [hardware("c10_raspi4_latency", 20)],
        "FPGA <= 3 ms": [hardware("c10_fpga_latency", 3)],
        "no conv3x3": [Forbid("nor_conv_3x3")],
        "must contain avgpool": [Require("avg_pool_3x3")],
        "conv depth exactly 3": [Depth(3, 3, CONVS)],
        "FLOPs <= 40 M, edge GPU <= 5 ms, a pool": [
            Limit("flops", 40e6), hardware("c10_edgegpu_latency", 5), Require("avg_pool_3x3"),
        ],
    }  # fmt: skip


def single() -> None:
    """Compute on one thread."""
    torch.set_num_threads(1)
