"""Every recipe composes and validates, with each trainer; every recipe makes two steps (slow)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from apps import DOMAINS
from core.errors import DataError, UsageError
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
        result = run(domain, load_recipe(domain, name, SMALL), tmp_path, None)
    except (DataError, UsageError) as error:
        pytest.skip(f"its data are not here: {error}")
    assert result.step == 2 and all(math.isfinite(v) for v in result.metrics.values())
    assert (tmp_path / "model" / "weights.safetensors").stat().st_size > 0
