"""What the protein figures share: backbones, the model, who was trained on what, and bootstrapped intervals.

A model is `bio-<name>` of the shipped ones, or the run `runs/bio/<name>`: `protein`, or `protein_more`, which trained
on further backbones too. Fold 0 of the clusters was seen by no member; a chain of fold k >= 1 is read by member k - 1,
which did not see its cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch

from apps.bio import protein
from apps.bio.protein.data import Backbones, folds, joined, read_backbones
from apps.bio.protein.generate import InverseFolder
from apps.bio.protein.stability import features, surroundings
from apps.bio.protein.structure import of_chain
from core.errors import DataError
from core.run.fetch import data_root

__all__ = ["SHARED", "around", "backbones", "fold", "interval", "member", "model", "phi", "single"]

SHARED = Path(__file__).resolve().parents[2] / "shared/data/bio"


def single() -> None:
    """Use one thread."""
    torch.set_num_threads(1)


@cache
def backbones() -> Backbones:
    """Return the backbones."""
    return read_backbones(SHARED / "protein")


@cache
def model(name: str = "protein") -> InverseFolder:
    """Return an inverse-folding model."""
    known = [data_root() / f"models/bio-{name}", Path(__file__).resolve().parents[1] / f"runs/bio/{name}/model"]
    folder = next((k for k in known if k.is_dir()), None)
    if folder is None:
        raise DataError("no such model", field=name, hint=f"run: quintet bio train {name}")
    return protein.load(folder)


@cache
def fold() -> np.ndarray:
    """Return the fold of each chain."""
    return folds(backbones(), model().net.config.members + 1)


def member(i: int) -> int | None:
    """Return which member may read chain `i`; None for the mean of all."""
    return int(fold()[i]) - 1 if fold()[i] else None


@cache
def around(i: int) -> np.ndarray:
    """Return what surrounds each residue of chain `i` (`stability.surroundings`)."""
    return surroundings(backbones().coords[i], joined(backbones().coords[i]))


@cache
def phi(i: int, sites: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Return the features of some sites of chain `i`, by networks that did not see its cluster, [20, FEATURES] each."""
    data = backbones()
    network = model().condition(model().graph(of_chain(data, i)), member(i))
    return dict(zip(sites, features(network, data.tokens[i], around(i), np.array(sites)), strict=True))


def interval(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray, seed: int = 0, draws: int = 1000
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic of rows, whole groups being drawn again."""
    rng, names = np.random.default_rng(seed), np.unique(groups)
    rows = {g: np.flatnonzero(groups == g) for g in names}
    found = [statistic(np.concatenate([rows[g] for g in rng.choice(names, len(names))])) for _ in range(draws)]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)
