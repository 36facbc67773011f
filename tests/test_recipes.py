"""Every recipe composes and validates, with each trainer; every recipe makes two steps (slow)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from apps import DOMAINS
from core.errors import DataError
from core.run.config import load_recipe, recipes
from core.run.launch import run

RECIPES = [(domain, name) for domain in DOMAINS for name in recipes(domain)]
SMALL = [
    "trainer=cpu",
    "trainer.steps=2",
    "trainer.validate_every=0",
    "trainer.checkpoint_every=0",
    "trainer.threads=1",
]
FEW = ["data.train=1", "data.valid=1", "data.test=1", "data.cache="]
WAKE = ["data.nodes=400", "data.steps=40", "data.warmup=0.1", "data.cache=", "data.reynolds=[200]",
        "data.reynolds_valid=[260]", "data.reynolds_test=[280]", "window=6"]  # fmt: skip
LESS = {
    ("pde", "burgers"): [*FEW, "data.steps=100", "data.nodes=200"],
    ("pde", "cells"): [*FEW, "data.steps=40", "data.nodes=200"],
    ("pde", "cylinder"): WAKE,
    ("pde", "fhn"): [*FEW, "data.steps=100", "data.nodes=200", "data.warmup=0.5"],
    ("pde", "gray_scott"): [*FEW, "data.steps=40", "data.nodes=400"],
    ("pde", "phympgn"): [*WAKE, "batch=2"],
    ("pde", "toy"): [*FEW, "data.steps=20", "data.nodes=120"],
}
"""Less of the data where a solver makes them first, which takes minutes at full size."""
ABSENT = ("no such file", "no complete checkpoint here")


def absent(error: DataError) -> bool:
    """Tell whether what a recipe reads is not on this machine; any other error is the recipe's."""
    return any(f": {words}" in f": {error}" for words in ABSENT)


def test_only_what_is_not_here_counts_as_absent() -> None:
    assert absent(DataError("no such file", field="data.path", value="x.csv", hint="see data/README.md"))
    assert not absent(DataError("the file has no column 'seq'", field="data.path", value="x.csv"))


@pytest.mark.parametrize(("domain", "name"), RECIPES)
def test_every_recipe_composes_with_every_trainer(domain: str, name: str) -> None:
    for trainer, strategy in {"cpu": "auto", "gpu": "auto", "ddp": "ddp", "fsdp": "fsdp"}.items():
        recipe = load_recipe(domain, name, [f"trainer={trainer}", "trainer.devices=4", "optim=sgd", "seed=3"])
        assert (recipe.trainer.strategy, recipe.trainer.devices, recipe.trainer.seed) == (strategy, 4, 3)
        assert recipe.optim.name == "sgd" and recipe.trainer.steps >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "name"), RECIPES)
def test_every_recipe_makes_two_steps(domain: str, name: str, tmp_path: Path, shared_data: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(Path(__file__).parents[1])
    try:
        result = run(domain, load_recipe(domain, name, [*SMALL, *LESS.get((domain, name), [])]), tmp_path, None)
    except DataError as error:
        if not absent(error):
            raise
        pytest.skip(f"its data are not here: {error}")
    assert result.step == 2 and all(math.isfinite(v) for v in result.metrics.values())
    assert (tmp_path / "model" / "weights.safetensors").stat().st_size > 0
