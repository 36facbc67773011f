"""The loop: the same bits after any interruption, the same step for any split of the batch, and clear ends."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.resume import Toy, fingerprint, killed
from core.errors import CheckpointError, QuintetError, UsageError
from core.run import checkpoint as store
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig
from core.run.data import Prefetch, indices
from core.run.guard import Interrupted
from core.run.lane import lane, noise
from core.run.optim import learning_rate
from core.run.train import TrainResult, train

TRAINER = TrainerConfig(steps=12, accelerator="cpu", checkpoint_every=4, validate_every=6, log_every=4)
OPTIM = OptimConfig(lr=1e-2, warmup=3)


def go(
    out: Path, task: Any = None, optim: OptimConfig = OPTIM, initial: Path | None = None, **change: Any
) -> TrainResult:
    trainer = replace(TRAINER, **change)
    config = {"model": {"width": 32}, "optim": vars(optim), "trainer": vars(trainer)}
    return train(
        task or Toy(),
        app="toy",
        config=config,
        trainer=trainer,
        optim=optim,
        logger=LoggerConfig(),
        out=out,
        initial=initial,
    )


class Stopping(Toy):
    """Sends a signal to this very process during a step."""

    def __init__(self, at: int, number: int) -> None:
        super().__init__()
        self.at, self.number = at, number

    def loss(self, module: Any, batch: Any, step: int) -> tuple[Tensor, dict[str, Any]]:
        if step == self.at:
            os.kill(os.getpid(), self.number)
        return super().loss(module, batch, step)


class Broken(Toy):
    """Has a loss that is not a number at step 6."""

    def loss(self, module: Any, batch: Any, step: int) -> tuple[Tensor, dict[str, Any]]:
        loss, figures = super().loss(module, batch, step)
        return (loss * float("inf") if step == 6 else loss), figures


class Rising(Toy):
    """Never gets better."""

    def validate(self, module: Any, step: int) -> dict[str, float]:
        return {"loss": float(step)}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_and_the_rest_is_the_same_bits(tmp_path: Path, number: int, code: int) -> None:
    with pytest.raises(Interrupted, match="the same command resumes") as caught:
        go(tmp_path / "cut", Stopping(5, number))
    assert caught.value.exit_code == code
    assert store.load(tmp_path / "cut").step == 6
    assert go(tmp_path / "cut").step == 12
    go(tmp_path / "whole")
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    assert (tmp_path / "cut" / "model" / "weights.safetensors").read_bytes() == (
        tmp_path / "whole" / "model" / "weights.safetensors"
    ).read_bytes()


def test_killed_processes_lose_nothing(tmp_path: Path) -> None:
    figures = killed(tmp_path, times=3, seed=1)
    assert figures["identical"] == 1 and figures["interruptions"] >= 2


def test_another_seed_gives_other_bits(tmp_path: Path) -> None:
    go(tmp_path / "a")
    go(tmp_path / "b", seed=1)
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    go(tmp_path / "a")
    whole = fingerprint(tmp_path / "a")
    newest = tmp_path / "a" / "checkpoints" / "step-000000012" / "ema.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    go(tmp_path / "a")
    assert fingerprint(tmp_path / "a") == whole
    assert "sha256" in "".join(capfd.readouterr())


def test_a_damaged_checkpoint_of_a_later_step_does_not_cost_the_new_ones(tmp_path: Path) -> None:
    go(tmp_path, steps=12, keep=1)
    newest = tmp_path / "checkpoints" / "step-000000012" / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    go(tmp_path, steps=8, keep=1)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["damaged-step-000000012", "step-000000008"]


def test_an_average_that_is_turned_on_later_starts_from_the_weights(tmp_path: Path) -> None:
    go(tmp_path, steps=4, ema=0.0)
    trained = store.load(tmp_path)
    go(tmp_path, steps=5, ema=1.0)
    assert not trained.ema and store.load(tmp_path).step == 5
    average, old = store.load(tmp_path).ema, trained.weights
    new = store.load(tmp_path).weights
    for name in old:  # one step of d = 5/14 from the weights of step 4
        assert torch.allclose(average[name], old[name] + (1 - 5 / 14) * (new[name] - old[name]), atol=1e-6)


class Ten(Toy):
    """One weight that soon is 10; its average gets there in steps below the last digit of half precision."""

    def module(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1, bias=False)

    def loss(self, module: Any, batch: Any, step: int) -> tuple[Tensor, dict[str, Any]]:
        return (module(torch.ones(1, 1, dtype=next(module.parameters()).dtype)) - 10).square().mean(), {}

    def validate(self, module: Any, step: int) -> dict[str, float]:
        return {}


def test_the_average_of_half_precision_moves_and_resumes(tmp_path: Path) -> None:
    slow = OptimConfig(name="sgd", lr=0.5, warmup=0, weight_decay=0.0, schedule="constant")
    rare = {"validate_every": 0, "log_every": 0, "checkpoint_every": 0, "ema": 0.98}
    found = {}
    for precision in ("32-true", "bf16-true"):
        go(tmp_path / precision, Ten(), slow, steps=200, precision=precision, **rare)
        found[precision] = float(store.load(tmp_path / precision / "model").weights["weight"])
    assert found["32-true"] > 9.5 and found["bf16-true"] == pytest.approx(found["32-true"], rel=0.01)
    go(tmp_path / "cut", Ten(), slow, steps=100, precision="bf16-true", **rare)
    go(tmp_path / "cut", Ten(), slow, steps=200, precision="bf16-true", **rare)
    assert store.load(tmp_path / "cut").ema["weight"].dtype == torch.float32
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "bf16-true")


class Masked(Toy):
    """Keeps a mask of -inf among its weights."""

    def module(self) -> torch.nn.Module:
        net = super().module()
        net.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        return net


def test_a_network_that_could_not_be_read_again_is_refused_before_step_0(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"network:mask: .*persistent=False"):
        go(tmp_path, Masked())
    assert not list(tmp_path.glob("checkpoints/*"))


class Noisy(Toy):
    """Notes the noise of the items of each micro-batch."""

    seen: list[Tensor]

    def loss(self, module: Any, batch: Any, step: int) -> tuple[Tensor, dict[str, Any]]:
        self.seen.append(noise(3, len(batch["x"])).fold(step).uniform(2))
        return super().loss(module, batch, step)


def test_each_item_of_a_step_has_noise_of_its_own(tmp_path: Path) -> None:
    whole, parts = Noisy(batch=32), Noisy(batch=8)
    whole.seen, parts.seen = [], []
    go(tmp_path / "whole", whole, steps=2)
    go(tmp_path / "parts", parts, steps=2, accumulate=4)
    assert lane() == 0 and len(parts.seen) == 8
    assert torch.equal(torch.cat(parts.seen), torch.cat(whole.seen))
    assert len(torch.cat(parts.seen).unique()) == 128


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_equals_the_full_batch(tmp_path: Path, parts: int) -> None:
    go(tmp_path / "whole", Toy(batch=32, dropout=0.0), steps=5)
    go(tmp_path / "parts", Toy(batch=32 // parts, dropout=0.0), steps=5, accumulate=parts)
    assert distance(tmp_path / "whole", tmp_path / "parts") <= 1e-6


def distance(a: Path, b: Path) -> float:
    """Return the largest difference of two runs' final weights relative to the largest weight."""
    first, second = store.load(a).weights, store.load(b).weights
    scale = max(float(v.abs().max()) for v in first.values())
    return max(float((first[k] - second[k]).abs().max()) for k in first) / scale


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_equal_one_also_when_they_resume(tmp_path: Path, strategy: str) -> None:
    for steps in (3, 5):
        go(tmp_path / "one", Toy(batch=32, dropout=0.0), steps=steps)
    script = tmp_path / "two.py"
    script.write_text(
        "from pathlib import Path\n"
        "from benchmarks.resume import Toy\n"
        "from core.run.config import LoggerConfig, OptimConfig, TrainerConfig\n"
        "from core.run.train import train\n"
        "if __name__ == '__main__':\n"
        "    for steps in (3, 5):\n"
        f"        trainer = TrainerConfig(steps=steps, accelerator='cpu', devices=2, strategy={strategy!r})\n"
        "        train(Toy(batch=16, dropout=0.0), app='toy', config={}, trainer=trainer, logger=LoggerConfig(),\n"
        f"            optim=OptimConfig(lr=1e-2, warmup=3), out=Path({str(tmp_path / 'two')!r}))\n"
    )
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert distance(tmp_path / "one", tmp_path / "two") <= 1e-6


def test_a_loss_that_is_not_finite_ends_the_run_and_overwrites_nothing(tmp_path: Path) -> None:
    with pytest.raises(QuintetError, match="the loss of step 6 is not finite") as caught:
        go(tmp_path, Broken())
    assert caught.value.exit_code == 1
    assert store.load(tmp_path).step == 4
    report = json.loads((tmp_path / "not-finite-000000006" / "report.json").read_text())
    assert report["step"] == 6 and report["loss"] in {"inf", "nan"} and report["config"]["model"] == {"width": 32}
    assert not (tmp_path / "model").exists()


def test_early_stop_survives_a_resume(tmp_path: Path) -> None:
    result = go(tmp_path, Rising(), validate_every=1, patience=5)
    assert (result.stopped, result.step) == ("early", 6)
    with pytest.raises(Interrupted):
        go(tmp_path / "cut", type("Both", (Rising, Stopping), {})(2, signal.SIGTERM), validate_every=1, patience=5)
    for _ in range(2):  # and another call changes nothing
        assert go(tmp_path / "cut", Rising(), validate_every=1, patience=5).step == 6
    assert store.load(tmp_path / "cut" / "best").step == 1


def test_other_settings_need_another_folder_but_more_steps_do_not(tmp_path: Path) -> None:
    go(tmp_path)
    with pytest.raises(UsageError, match=r"optim.lr: 0.01 -> 0.5\)"):
        go(tmp_path, optim=replace(OPTIM, lr=0.5))
    assert go(tmp_path, steps=14).step == 14


def test_a_run_made_before_a_setting_goes_on_with_its_default(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def again(width: int, gate: str, **more: str) -> TrainResult:
        config = {"model": {"width": width, "gate": gate}, "trainer": {}, **more}
        trainer = replace(TRAINER, steps=13)
        return train(Toy(), app="toy", config=config, trainer=trainer, optim=OPTIM, logger=LoggerConfig(),
                     out=tmp_path, defaults={"model": {"width": 16, "gate": "none"}, "data": "all"})  # fmt: skip

    train(Toy(), app="toy", config={"model": {"width": 32}, "data": "all"}, trainer=TRAINER, optim=OPTIM,
          logger=LoggerConfig(), out=tmp_path)  # fmt: skip
    with pytest.raises(UsageError, match=r"model.gate: 'none' -> 'tanh'\)"):
        again(32, "tanh", data="all")
    with pytest.raises(UsageError, match=r"model.width: 32 -> 16\)"):
        again(16, "none", data="all")
    with pytest.raises(UsageError, match=r"data: 'all' -> None\)"):
        again(32, "none")
    assert again(32, "none", data="all").step == 13
    assert "made before these settings were; their defaults are taken: model.gate=none" in capfd.readouterr().err


def test_fine_tuning_starts_from_the_averaged_weights(tmp_path: Path) -> None:
    go(tmp_path / "first")
    start = store.load(tmp_path / "first" / "model").weights
    go(tmp_path / "second", initial=tmp_path / "first", steps=1, optim=replace(OPTIM, lr=0.0))
    assert all(torch.equal(start[k], v) for k, v in store.load(tmp_path / "second").weights.items())


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    state = Toy().module().state_dict()
    store.save(tmp_path / "x", app="toy", config={}, step=1, module_state={**state, "0.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match=r"0.weight: does not fit .* shape \(2, 2\), the network has \(32, 8\)"):
        go(tmp_path / "run", initial=tmp_path / "x")


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run is using this folder"):
            go(tmp_path)


@pytest.mark.parametrize("name", ["best", "model"])
def test_a_folder_that_is_no_model_is_told_before_step_0_and_stays(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UsageError, match=f"{name}.*choose another --out"):
        go(tmp_path)
    assert mine.read_text() == "mine" and not list((tmp_path / "checkpoints").iterdir())


def test_a_table_of_something_else_is_told_before_step_0_and_stays(tmp_path: Path) -> None:
    mine = tmp_path / "log.csv"
    mine.write_text("day,km\n1,7\n")
    with pytest.raises(UsageError, match=r"log\.csv.*choose another --out"):
        go(tmp_path)
    assert mine.read_text() == "day,km\n1,7\n"
    mine.write_text("")
    assert go(tmp_path).step == 12


def test_a_folder_that_cannot_be_written_is_refused_before_step_0(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="out: cannot be written") as caught:
        go(tmp_path / "file" / "run", Broken())
    assert caught.value.exit_code == 2


def test_the_log_tells_each_step_once(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        go(tmp_path, Stopping(9, signal.SIGTERM))
    (tmp_path / "log.csv").open("a").write("12,0,0,0,0\n")  # as if a killed run had got further than its checkpoint
    go(tmp_path)
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["step"] for row in rows] == ["4", "8", "12"] and float(rows[-1]["loss"]) > 0
    assert [row["step"] for row in csv.DictReader((tmp_path / "validation.csv").open())] == ["6", "12"]


def test_the_clock_ends_a_run(tmp_path: Path) -> None:
    result = go(tmp_path, Toy(pause=0.02), max_minutes=1e-6)
    assert result.stopped == "time" and store.load(tmp_path).step == result.step < 12


def test_tensorboard_by_recipe(tmp_path: Path) -> None:
    train(Toy(), app="toy", config={}, trainer=TRAINER, optim=OPTIM, logger=LoggerConfig("tensorboard"), out=tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.*")) and (tmp_path / "log.csv").is_file()


def test_indices_are_permutations_whatever_the_split() -> None:
    whole = [indices(3, s, 0, 1, size=24, batch=8) for s in range(6)]
    assert sorted(int(i) for part in whole[:3] for i in part) == list(range(24))
    assert [list(w) for w in whole[:3]] != [list(w) for w in whole[3:]]
    for step, expected in enumerate(whole):
        parts = [indices(3, step, rank, 4, size=24, batch=2) for rank in range(4)]
        assert [int(i) for part in parts for i in part] == expected.tolist()


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_prefetch_changes_nothing(ahead: int) -> None:
    asked: list[int] = []
    prefetch = Prefetch(lambda n: (asked.append(n), n * n)[1], ahead)
    assert [prefetch.get(n, 9) for n in range(4, 9)] == [n * n for n in range(4, 9)]
    prefetch.close()
    assert asked == list(range(4, 9))


def test_learning_rate_is_warm_up_then_half_a_cosine() -> None:
    optim = OptimConfig(lr=1.0, warmup=4, final=0.1)
    rates = [learning_rate(optim, s, 104) for s in range(105)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8]) and rates[4] == 1.0
    assert rates[54] == pytest.approx(0.55) and rates[104] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[4:], rates[5:], strict=False))
