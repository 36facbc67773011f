"""Whatever fails while a checkpoint is written, the last complete one loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.resume import Fault, Toy, injected, save
from core.errors import QuintetError
from core.run import checkpoint as store
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig
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


def test_out_of_memory_is_one_line_and_keeps_the_last(tmp_path: Path) -> None:
    class Hungry(Toy):
        def loss(self, module, batch, step):  # noqa: ANN001, ANN202
            if step == 7:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return super().loss(module, batch, step)

    trainer = TrainerConfig(steps=12, accelerator="cpu", checkpoint_every=4)
    with pytest.raises(QuintetError, match="out of memory at step 7 .*trainer.accumulate"):
        train(Hungry(), app="toy", config={}, trainer=trainer, optim=OptimConfig(), logger=LoggerConfig(), out=tmp_path)
    assert store.load(tmp_path).step == 4
