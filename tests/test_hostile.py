"""Recipes and checkpoints are untrusted input: nothing that they name is called, and old ones still load."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from apps import DOMAINS
from benchmarks.resume import Toy
from core.errors import QuintetError
from core.run import checkpoint as store
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, load_recipe, locate
from core.run.train import train

GOLDEN = Path(__file__).parent / "golden"
TARGET = "_target_: os.system\n_args_: [touch exploded]\n"


@pytest.mark.parametrize("place", ["", "optim:\n  ", "trainer:\n  "])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_recipe_that_names_a_function_is_refused(
    domain: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.yaml"
    mine.write_text("defaults: [toy, _self_]\n" + place + TARGET.replace("\n_", "\n  _" if place else "\n_"))
    with pytest.raises(QuintetError, match="_target_|_args_|no such setting"):
        load_recipe(domain, str(mine))
    with pytest.raises(QuintetError):
        load_recipe(domain, "toy", ["+optim._target_=os.system"])
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("config", [
    {"optim": {"_target_": "os.system", "_args_": ["touch exploded"]}}, {"_target_": "os.system"},
    {"seed": "${oc.env:HOME}"}, {"seed": "${oc.decode:'__import__'}"}, {"model": [1, 2]}, {"model": None},
    {"seed": "many"},
])  # fmt: skip
def test_a_checkpoint_that_names_a_function_is_refused(
    domain: str, config: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store.export(tmp_path / "model", store.Checkpoint(domain, config, 1, {"w": torch.zeros(2)}))
    with pytest.raises(QuintetError) as caught:
        locate(f"apps.{domain}:load")(tmp_path / "model")
    assert "\n" not in str(caught.value) and not (tmp_path / "exploded").exists()


def twenty(out: Path) -> list[float]:
    trainer = TrainerConfig(steps=20, accelerator="cpu", log_every=1, threads=1)
    train(Toy(), app="toy", config={"kind": "golden"}, trainer=trainer, optim=OptimConfig(lr=1e-2, warmup=3),
          logger=LoggerConfig(), out=out)  # fmt: skip
    return [float(row["loss"]) for row in csv.DictReader((out / "log.csv").open())]


def test_twenty_losses_are_those_of_old(tmp_path: Path) -> None:
    old = json.loads((GOLDEN / "toy_losses.json").read_text())
    assert twenty(tmp_path) == pytest.approx(old, rel=1e-4)


def test_a_checkpoint_of_old_loads_and_answers_as_it_did() -> None:
    """Format 1 (0.1.0); its answers stand beside it."""
    saved = store.load(GOLDEN / "format-1", app="toy")
    net = Toy().module().eval()
    net.load_state_dict(saved.inference)
    old = json.loads((GOLDEN / "format-1.json").read_text())
    with torch.no_grad():
        answers = net(torch.tensor(old["inputs"]))[:, 0]
    assert answers.tolist() == pytest.approx(old["outputs"], rel=1e-5, abs=1e-6)
