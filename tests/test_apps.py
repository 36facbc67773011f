"""One battery over all apps: what every app promises, whatever its domain.

An app joins with a `Case` of its own: how to train a few steps, how to draw n objects, what they obey.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apps
from apps import DOMAINS
from benchmarks.resume import fingerprint
from core.errors import CheckpointError
from core.run import checkpoint
from core.run.config import load_recipe, locate
from core.run.guard import Interrupted
from core.run.launch import run
from core.run.train import train

ROOT = Path(__file__).resolve().parent.parent
TOYHOUSE = ROOT / "tests" / "toyhouse"
if str(TOYHOUSE) not in apps.__path__:
    apps.__path__.append(str(TOYHOUSE))


@dataclass(frozen=True)
class Case:
    """What the battery needs to know about an app.

    Args:
        short: overrides of the recipe `toy` that make a run of a few seconds.
        objects: domain objects to encode, from the task of the recipe.
        encode: objects -> tokens. decode: tokens -> objects.
        draw: (model, stream numbers, seed) -> one object per number, constrained.
        obeys: (model, object) -> whether it keeps its constraint.
        same: whether two objects are equal.
    """

    short: Sequence[str]
    objects: Callable[[Any], Sequence[Any]]
    encode: Callable[[Sequence[Any]], Any]
    decode: Callable[[Any], Sequence[Any]]
    draw: Callable[[Any, np.ndarray, int], Sequence[Any]]
    obeys: Callable[[Any, Any], bool]
    same: Callable[[Any, Any], bool]


def _trajectory() -> Case:
    from apps.trajectory import tokenizer
    from apps.trajectory.limits import Rules

    closed = [50, 51]

    def rules(model: Any) -> Rules:
        mask = np.zeros(model.network.n, bool)
        mask[closed] = True
        return Rules(via=((100,),), closed=mask)

    def draw(model: Any, index: np.ndarray, seed: int) -> Sequence[np.ndarray]:
        ends = np.where(index % 2 == 0, 200, 150)
        return model.obeying(rules(model)).sample(np.full(len(index), 3), ends, None, seed, index).lists()

    def obeys(model: Any, trip: np.ndarray) -> bool:
        ends = trip[0] == 3 and trip[-1] in (150, 200) and 100 in trip
        return bool(model.network.is_walk(trip) and ends and not np.isin(trip, closed).any())

    return Case(
        short=["trainer.steps=60", "data.simulated=600", "model.dim=32", "model.depth=1", "optim.warmup=5"],
        objects=lambda task: task.data.simulated.lists()[:200],
        encode=lambda trips: tokenizer.encode([tokenizer.trim(t) for t in trips], 8),
        decode=tokenizer.decode,
        draw=draw,
        obeys=obeys,
        same=lambda a, b: np.array_equal(tokenizer.trim(np.asarray(a)), np.asarray(b)),
    )


def _bio() -> Case:
    from apps.bio import audit, dna
    from apps.bio.tokenizer import Tokenizer

    letters = Tokenizer("ACGT")
    rules = [dna.forbid("BsaI", "GAATTC"), dna.require("TATAWAW"), dna.homopolymer(4), dna.frame(60, "MSKGE*")]

    def draw(model: Any, index: np.ndarray, seed: int) -> Sequence[str]:
        return model.sample(len(index), constraints=rules, seed=seed, steps=8, index=index).sequences

    few = ["data.simulated=32", "model.order=0", "model.dim=32", "model.depth=2"]  # few enough to be learned by heart
    return Case(
        short=["trainer.steps=60", "optim.warmup=5", "optim.lr=0.01", *few],
        objects=lambda task: letters.decode(task.data.tokens[:200]),
        encode=letters.encode,
        decode=letters.decode,
        draw=draw,
        obeys=lambda model, one: len(one) == 100 and audit.clean(audit.check([one], rules)),
        same=lambda a, b: a == b,
    )


def _nas() -> Case:
    import torch

    from apps.nas.cell import Cell
    from apps.nas.constraints import Limit, Require, compile_, violations
    from apps.nas.space import load
    from apps.nas.tokenizer import from_string
    from core.noise import Stream

    space, rules = load("nb201"), (Require("skip_connect"), Limit("params", high=500_000))

    def draw(model: Any, index: np.ndarray, seed: int) -> Sequence[np.ndarray]:
        return list(model.draw(compile_(space, rules), Stream(seed, torch.from_numpy(index.astype(np.int64)))).numpy())

    few = ["data.reward=params", "data.below=0.08", "data.batch=64"]  # the smallest cells alone: few, so learned soon
    return Case(
        short=["trainer.steps=60", "optim.warmup=5", "optim.lr=0.01", "model.dim=16", "model.layers=1", *few],
        objects=lambda task: [Cell.of(space, row) for row in task.cells[:200].tolist()],
        encode=lambda cells: [cell.to_string() for cell in cells],
        decode=lambda texts: [from_string(space, text) for text in texts],
        draw=draw,
        obeys=lambda model, one: not violations(Cell.of(space, one.tolist()), rules),
        same=lambda a, b: a.x == b.x,
    )


def _music() -> Case:
    from apps.music import constraints, data, tokenizer
    from apps.music.score import Score

    rules = (constraints.scale("D", "minor"), constraints.silence("kick", "crash"), constraints.span(40, 76))

    def draw(model: Any, index: np.ndarray, seed: int) -> Sequence[np.ndarray]:
        made = model.sample(len(index), frames=8, seed=seed, index=index, steps=2, constraints=rules)
        scores = [made.score(k) for k in range(len(made))]
        rows = [(np.insert(s.notes[:, :3], 0, 0, 1), np.insert(s.hits, 0, 1, 1)) for s in scores]
        return [np.concatenate(pair).round(2) for pair in rows]

    def obeys(model: Any, one: np.ndarray) -> bool:
        notes, hits = (one[one[:, 0] == k, 1:] for k in (0, 1))
        return constraints.violations(Score(np.insert(notes, 3, 1, 1), hits, beats=9), rules) == []

    small = ["codec.dim=8", "model.dim=32", "model.depth=2"]
    few = ["data.count=7", "data.each=0", "data.everything=0", "data.batch=16"]  # few enough to be learned by heart
    return Case(
        short=["trainer.steps=50", "optim.warmup=5", "optim.lr=0.01", *few, *small],
        objects=lambda task: [tokenizer.on_grid(s) for s in data.scores("tunes", "", "train", 14)],
        encode=tokenizer.encode,
        decode=tokenizer.decode,
        draw=draw,
        obeys=obeys,
        same=tokenizer.same,
    )


def _brackets() -> Case:
    """The sixth app: it lies in the tests and is added to the apps, without a change of the core."""
    from apps.brackets import constraints, tokenizer

    rules = [constraints.without("[]"), constraints.without("()(")]

    def obeys(model: Any, text: str) -> bool:
        bare, deepest = text, 0
        while (less := bare.replace("()", "").replace("[]", "")) != bare:
            bare, deepest = less, deepest + 1
        return not bare and deepest <= model.recipe.depth and "[]" not in text and "()(" not in text

    return Case(
        short=["trainer.steps=40", "optim.lr=0.01", "optim.warmup=5"],
        objects=lambda task: tokenizer.decode(task.batch(0, 0, 1)),
        encode=tokenizer.encode,
        decode=tokenizer.decode,
        draw=lambda model, index, seed: model.sample(len(index), rules=rules, seed=seed, index=index),
        obeys=obeys,
        same=lambda a, b: a == b,
    )


def _pde() -> Case:
    from apps.pde import tokenizer

    def draw(model: Any, index: np.ndarray, seed: int) -> Sequence[np.ndarray]:
        return model.sample(len(index), steps=5, seed=seed, index=index)

    few = ["data.nodes=120", "data.train=2", "data.valid=1", "data.test=1", "data.steps=40", "model.width=16"]
    return Case(
        short=["trainer.steps=50", "optim.warmup=5", "optim.lr=0.003", "window=8", *few],
        objects=lambda task: list(task.data.train.states[0]),
        encode=tokenizer.encode,
        decode=tokenizer.decode,
        draw=draw,
        obeys=lambda model, one: bool(np.isfinite(one).all()) and not one[model.mesh.nodes("hole")].any(),
        same=np.array_equal,
    )


CASES: dict[str, Callable[[], Case]] = {"trajectory": _trajectory, "bio": _bio, "nas": _nas, "music": _music,
                                    "pde": _pde}  # fmt: skip
CASES["brackets"] = _brackets
FOLDERS = {name: TOYHOUSE / name if name == "brackets" else ROOT / "apps" / name for name in CASES}
DONE = {name: make for name, make in CASES.items() if (FOLDERS[name] / "task.py").is_file()}


@dataclass(frozen=True)
class House:
    """An app with a model that was trained for a moment."""

    name: str
    case: Case
    recipe: Any
    task: Any
    folder: Path
    model: Any


@pytest.fixture(scope="module", params=list(DONE))
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> House:
    import torch

    torch.set_num_threads(1)
    name, case = request.param, DONE[request.param]()
    short = [*case.short, "trainer.validate_every=0", "trainer.log_every=1"]
    recipe = load_recipe(name, "toy", short)
    folder = tmp_path_factory.mktemp(name)
    run(name, recipe, folder, None)
    task = locate(f"apps.{name}.task:make")(recipe)
    return House(name, case, recipe, task, folder, locate(f"apps.{name}:load")(folder))


def test_every_app_joins() -> None:
    assert set(DOMAINS) <= set(CASES)


def test_the_tokenizer_loses_nothing(house: House) -> None:
    objects = house.case.objects(house.task)
    back = house.case.decode(house.case.encode(objects))
    assert len(back) == len(objects) > 0
    assert all(house.case.same(a, b) for a, b in zip(objects, back, strict=True))


def test_the_loss_falls(house: House) -> None:
    import csv

    loss = [float(row["loss"]) for row in csv.DictReader((house.folder / "log.csv").open())]
    assert np.isfinite(loss).all() and np.mean(loss[-15:]) < 0.9 * np.mean(loss[:5])


def test_a_batch_is_a_function_of_its_step(house: House) -> None:
    import torch

    def leaves(value: Any) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        inside = value if isinstance(value, dict) else getattr(value, "__dict__", {})
        return [leaf for part in inside.values() for leaf in leaves(part)]

    first, again, next_ = (leaves(house.task.batch(step, 0, 1)) for step in (3, 3, 4))
    assert first and all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, again, strict=True))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, next_, strict=True))


def test_samples_obey(house: House) -> None:
    drawn = house.case.draw(house.model, np.arange(48), 0)
    assert len(drawn) == 48 and all(house.case.obeys(house.model, one) for one in drawn)


def test_samples_are_determined_by_their_seed(house: House) -> None:
    first, again, other = (house.case.draw(house.model, np.arange(12), seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_sample_does_not_depend_on_its_batch(house: House) -> None:
    whole = house.case.draw(house.model, np.arange(20), 3)
    order = np.random.default_rng(0).permutation(20)
    for part in np.array_split(order, 6):
        some = house.case.draw(house.model, part, 3)
        assert all(np.array_equal(whole[i], one) for i, one in zip(part, some, strict=True))


class Cancelled:
    """A task during whose third step the user gives up."""

    def __init__(self, task: Any) -> None:
        self.task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def loss(self, module: Any, batch: Any, step: int) -> Any:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.task.loss(module, batch, step)


def go(house: House, task: Any, out: Path) -> str:
    """Train five steps of an app's task, or those that are left, and return the fingerprint of the weights."""
    trainer = replace(house.recipe.trainer, steps=5, checkpoint_every=4)
    config = {**asdict(house.recipe), "trainer": asdict(trainer)}
    train(task, app=house.name, config=config, trainer=trainer, optim=house.recipe.optim, out=out,
          logger=house.recipe.logger)  # fmt: skip
    return fingerprint(out)


def test_a_cancelled_run_saves_its_step_and_ends_with_the_same_bits(house: House, tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        go(house, Cancelled(house.task), tmp_path / "cut")
    assert caught.value.exit_code == 143 and checkpoint.load(tmp_path / "cut").step == 3
    assert go(house, house.task, tmp_path / "cut") == go(house, house.task, tmp_path / "whole")


def test_an_export_holds_the_averaged_weights(house: House) -> None:
    import torch

    full, model = checkpoint.load(house.folder), checkpoint.load(house.folder / "model")
    assert model.optimizer is None and not model.ema and model.app == house.name
    assert all(torch.equal(model.weights[k], v) for k, v in full.inference.items())


def test_loading_gives_the_same_model(house: House) -> None:
    import torch

    twin = locate(f"apps.{house.name}:load")(house.folder / "model")
    for a, b in zip(house.model.net.state_dict().values(), twin.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_checkpoint_of_another_app_is_refused(house: House, tmp_path: Path) -> None:
    found = checkpoint.load(house.folder)
    found.app = "another"
    with pytest.raises(CheckpointError, match="belongs to app 'another'"):
        locate(f"apps.{house.name}:load")(checkpoint.export(tmp_path / "model", found))


def test_a_damaged_checkpoint_is_refused(house: House, tmp_path: Path) -> None:
    path = checkpoint.export(tmp_path / "model", checkpoint.load(house.folder)) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match="sha256"):
        locate(f"apps.{house.name}:load")(tmp_path / "model")


@pytest.mark.parametrize("name", list(DONE))
def test_importing_an_app_is_cheap(name: str) -> None:
    code = f"import sys, apps; apps.__path__.append({str(TOYHOUSE)!r}); import apps.{name}, apps.{name}.cli\n"
    code += "print('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", list(DONE))
def test_every_recipe_fits_the_schema(name: str) -> None:
    from core.run.config import recipes

    for recipe in recipes(name):
        found = load_recipe(name, recipe)
        assert found.trainer.steps > 0
        first = (FOLDERS[name] / "recipes" / f"{recipe}.yaml").read_text().splitlines()[0]
        assert first.startswith(f"# quintet {name} train {recipe}")
