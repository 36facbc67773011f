"""A mistake in a recipe is one line that names the field and the nearest valid choice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from core.errors import UsageError
from core.run.config import load_recipe, recipes, summaries, variants

MISTAKES = [
    ("misspelt key", "toy", ["optim.lrr=1"], "optim.lrr", "optim.lr"),
    ("misspelt group key", "toy", ["trianer.steps=3"], "trianer.steps", "trainer.steps"),
    ("misspelt choice of a group", "toy", ["trainer=gppu"], "trainer", "gpu"),
    ("misspelt recipe", "toyy", [], "recipe", "toy"),
    ("wrong type", "toy", ["data.batch=abc"], "data.batch", "abc"),
    ("text for a truth value", "toy", ["model.diverge=perhaps"], "model.diverge", "perhaps"),
    ("below range", "toy", ["trainer.steps=-5"], "trainer.steps", "at least 1"),
    ("above range", "toy", ["data.batch=100000"], "data.batch", "at most 256"),
    ("above range in a list", "toy", ["optim.betas=[0.9,1.0]"], "optim.betas", "below 1"),
    ("too short a list", "toy", ["optim.betas=[0.9]"], "optim.betas", "needs 2 entries"),
    ("not a choice", "toy", ["optim.schedule=cosin"], "optim.schedule", "cosine"),
    ("unknown device", "toy", ["trainer.accelerator=gppu"], "trainer.accelerator", "gpu"),
    ("missing value", "bare", [], "data.name", "add data.name=VALUE"),
    ("smuggled key", "toy", ["+model.widht=3"], "model.widht", "model."),
    ("smuggled group", "toy", ["+modle.dropout=0"], "modle", "model"),
    ("bad syntax", "toy", ["optim.betas=[0.9,"], "optim.betas", "key=value"),
    ("text without its marks", "toy", ["data.name=f(x)"], "data.name", "quotation marks"),
    ("no such file", "mine.yaml", [], "recipe", "mine.yaml"),
    ("not a number", "toy", ["optim.lr=nan"], "optim.lr", "at least 0"),
    ("key removed", "toy", ["~optim.lrr"], "optim.lrr", "optim.lr"),
]


@pytest.mark.parametrize(
    ("recipe", "overrides", "field", "says"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES]
)
def test_mistake_names_field_and_choice(toy_app: str, recipe: str, overrides: list[str], field: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(toy_app, recipe, overrides)
    line = str(caught.value)
    assert line.startswith(field), line
    assert says in line, line
    assert "\n" not in line and caught.value.exit_code == 2


def test_recipe_is_a_plain_dataclass_with_overrides(toy_app: str) -> None:
    recipe = load_recipe(toy_app, "toy", ["trainer.steps=7", "optim=sgd", "seed=3", "model.dropout=0"])
    assert (recipe.trainer.steps, recipe.optim.name, recipe.model.dropout) == (7, "sgd", 0.0)
    assert recipe.trainer.seed == recipe.seed == 3
    assert type(recipe.optim.betas) is list and dataclasses.asdict(recipe)["data"] == {"batch": 16, "name": "sines"}


@pytest.mark.parametrize("plus", ["", "+", "++"])
def test_a_mapping_takes_entries_with_and_without_a_plus(plus: str) -> None:
    recipe = load_recipe("pde", "toy", [f"{plus}data.boundary={{wall: free}}", f"{plus}model.terms.u='lap(u)'"])
    assert recipe.data.boundary == {"wall": "free"} and recipe.model.terms == {"u": "lap(u)"}
    with pytest.raises(UsageError, match=r"^data.boundary: cannot be read"):
        load_recipe("pde", "toy", [f"{plus}data.boundary={{wall"])


def test_recipes_are_listed_with_their_first_comment(toy_app: str) -> None:
    assert recipes(toy_app) == ["bare", "toy"]
    assert summaries(toy_app)["toy"] == "embedded data, a second on one core"


def test_recipe_of_the_user(toy_app: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("defaults: [toy, _self_]\nmodel: {dropout: 0.5}\n")
    recipe = load_recipe(toy_app, str(mine))
    assert recipe.model.dropout == 0.5 and recipe.data.name == "sines"


def test_variants_are_the_product_of_the_sweeps() -> None:
    found = list(variants(["a=1,2", "b=x", "c=3,4"]))
    assert found == [[f"a={a}", "b=x", f"c={c}"] for a in (1, 2) for c in (3, 4)]
