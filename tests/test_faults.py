"""Whatever fails while a checkpoint is written, the last complete one loads."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apps import DOMAINS
from benchmarks.resume import Fault, Toy, injected, save
from core.errors import QuintetError
from core.run import checkpoint as store
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, load_recipe
from core.run.memory import batches, divided, divisors
from core.run.train import train


def test_no_fault_loses_a_checkpoint(tmp_path: Path) -> None:
    tried, lost = injected(tmp_path)
    assert tried >= 100 and lost == 0


def test_the_count_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "recover", lambda folder: None)
    save(tmp_path, 1)
    with pytest.raises(Fault.Crash), Fault("between renames"):
        save(tmp_path, 1)
    with pytest.raises(QuintetError, match="no complete checkpoint"):
        store.load(tmp_path)


def test_what_was_moved_aside_comes_back_unless_its_writer_lives(tmp_path: Path) -> None:
    path = save(tmp_path, 1) or tmp_path / "step-000000001"
    path.rename(tmp_path / ".tmp-old-step-000000001-1")  # process 1 lives
    assert store.newest(tmp_path) is None
    (tmp_path / ".tmp-old-step-000000001-1").rename(tmp_path / ".tmp-old-step-000000001-99999999")
    assert store.load(tmp_path).step == 1


def test_a_dead_writer_of_a_model_loses_nothing(tmp_path: Path) -> None:
    found = store.Checkpoint("toy", {}, 1, {"w": torch.ones(3)})
    store.export(tmp_path / "model", found)
    with pytest.raises(Fault.Crash), Fault("between renames"):
        store.export(tmp_path / "model", found)
    assert store.load(tmp_path / "model").step == 1


class Hungry(Toy):
    """Needs more memory than there is for a step of more than `most` items, from step `last` on for any.

    Dropout is off, so that steps compare.
    """

    def __init__(
        self, batch: int = 32, most: int = 32, first: int = 0, error: Exception | None = None, last: int = 99
    ) -> None:
        super().__init__(batch=batch, dropout=0.0)
        self.most, self.first, self.last = most, first, last
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Any]]:
        found = super().loss(module, batch, step)
        if step >= self.last or (step >= self.first and len(batch["x"]) > self.most):
            raise self.error
        return found


def hungry(out: Path, most: int, smaller: bool = True, **change: Any) -> list[dict[str, str]]:
    """Train in steps of 32 items and return the log."""
    less = {n: partial(Hungry, 32 // n, most, **change) for n in (2, 4, 8, 16, 32)} if smaller else {}
    trainer = TrainerConfig(steps=12, accelerator="cpu", checkpoint_every=4, log_every=1)
    train(
        Hungry(32, most, **change),
        app="toy",
        config={},
        trainer=trainer,
        optim=OptimConfig(lr=1e-2, warmup=3),
        logger=LoggerConfig(),
        out=out,
        smaller=less,
    )
    return list(csv.DictReader((out / "log.csv").open()))


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_step_without_memory_is_made_again_in_halves(
    tmp_path: Path, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = hungry(tmp_path / "whole", 32)
    parts = hungry(tmp_path / "parts", 8, first=5, error=error)
    assert "out of memory at step 5: it is made again in 4 smaller batches" in capfd.readouterr().err
    assert len(parts) == 12
    assert max(abs(float(a["loss"]) - float(b["loss"])) for a, b in zip(whole, parts, strict=True)) <= 1e-6
    first, second = (store.load(tmp_path / name).weights for name in ("whole", "parts"))
    assert max(float((first[k] - second[k]).abs().max()) for k in first) <= 1e-6
    assert any(not torch.equal(first[k], second[k]) for k in first)  # four sums are not one, to the last bit


def test_a_run_that_was_cut_goes_on_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hungry(tmp_path / "whole", 8, first=5)
    with pytest.raises(QuintetError, match="out of memory at step 9"):
        hungry(tmp_path / "broken", 8, first=5, last=9)
    saved = store.load(tmp_path / "broken")
    assert (saved.step, saved.metrics["parts"]) == (8, 4)
    capfd.readouterr()
    hungry(tmp_path / "broken", 8, first=5)
    assert "out of memory" not in capfd.readouterr().err
    first, second = (store.load(tmp_path / name).weights for name in ("whole", "broken"))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert "parts" not in store.load(tmp_path / "broken" / "model").metrics


def test_out_of_memory_with_one_item_is_one_line_and_keeps_the_last(tmp_path: Path) -> None:
    for name, smaller in (("none", False), ("all", True)):
        with pytest.raises(QuintetError, match="out of memory at step 7 .*trainer.accumulate"):
            hungry(tmp_path / name, 0, smaller, first=7)
        assert store.load(tmp_path / name).step == 4


def test_another_error_is_not_taken_for_hunger(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        hungry(tmp_path, 8, error=RuntimeError("shapes do not fit"))


def test_a_recipe_is_cut_wherever_it_says_batch(toy_app: str) -> None:
    recipe = load_recipe(toy_app, "toy", ["data.batch=12"])
    assert divisors(recipe) == [2, 3, 4, 6, 12]
    assert divided(recipe, 4).data.batch == 3 and recipe.data.batch == 12


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_app_can_be_cut(domain: str) -> None:
    recipe = load_recipe(domain, "toy")
    parts = divisors(recipe)
    assert parts[0] == 2 and set(batches(divided(recipe, 2))) == {size // 2 for size in batches(recipe)}
