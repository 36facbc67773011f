"""Checkpoints are atomic, checksummed, free of pickle, and of one app."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest
import torch

from benchmarks.resume import STAGES, Fault
from core.errors import CheckpointError, QuintetError
from core.run import checkpoint as store


def save(folder: Path, step: int, keep: int = 2) -> Path:
    state = {"w": torch.arange(12, dtype=torch.float32).reshape(3, 4) + step, "n": torch.tensor([step])}
    slots = {"w": {"step": torch.tensor(float(step)), "exp_avg": torch.ones(3, 4)}, "b": {"foreach": None}}
    optimizer = {"state": slots, "param_groups": [{"lr": 0.1, "params": ["w"]}]}
    ema = {"w": state["w"] / 2, "n": state["n"]}
    return store.save(
        folder,
        app="toy",
        config={"model": {"width": 3}},
        step=step,
        module_state=state,
        ema_state=ema,
        optimizer_state=optimizer,
        metrics={"loss": 0.5},
        keep=keep,
    )


def test_round_trip(tmp_path: Path) -> None:
    found = store.load(save(tmp_path, 7), app="toy")
    assert (found.app, found.step, found.config, found.metrics) == ("toy", 7, {"model": {"width": 3}}, {"loss": 0.5})
    assert torch.equal(found.weights["w"], torch.arange(12.0).reshape(3, 4) + 7)
    assert torch.equal(found.inference["w"], found.weights["w"] / 2)
    assert found.optimizer is not None and found.optimizer["param_groups"] == [{"lr": 0.1, "params": ["w"]}]
    assert torch.equal(found.optimizer["state"]["w"]["exp_avg"], torch.ones(3, 4))
    assert found.optimizer["state"]["b"] == {"foreach": None}


def test_newest_is_loaded_and_older_are_pruned(tmp_path: Path) -> None:
    for step in (1, 2, 30):
        save(tmp_path, step)
    (tmp_path / ".tmp-step-9-1").mkdir()
    save(tmp_path, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000004", "step-000000030"]
    assert store.load(tmp_path).step == 30


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 3)
    assert store.load(save(tmp_path, 3)).step == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_export_holds_the_average_only(tmp_path: Path) -> None:
    source = store.load(save(tmp_path / "run", 2))
    small = store.load(store.export(tmp_path / "model", source, dtype="float16"), app="toy")
    assert small.optimizer is None and not small.ema
    assert small.weights["w"].dtype == torch.float16 and small.weights["n"].dtype == torch.int64
    large = store.Checkpoint("toy", {}, 1, {"w": torch.tensor([1e6])})  # inf in half precision, which no load takes
    with pytest.raises(CheckpointError, match="weights as float16:w: holds values that are not finite"):
        store.export(tmp_path / "model", large, dtype="float16")
    assert torch.equal(store.load(tmp_path / "model").weights["w"], small.weights["w"])
    assert torch.allclose(small.weights["w"].float(), source.ema["w"], rtol=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_a_crash_at_any_stage_leaves_a_complete_checkpoint(tmp_path: Path, stage: str) -> None:
    save(tmp_path, 1, keep=1)
    with pytest.raises(Fault.Crash), Fault(stage):
        save(tmp_path, 2, keep=1)
    assert store.load(tmp_path).step == (2 if stage in {"after rename", "prune"} else 1)
    save(tmp_path, 3, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000003"]


@pytest.mark.parametrize("name", ["manifest.json", *store.FILES])
def test_every_truncation_is_noticed(tmp_path: Path, name: str) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    blob, lines = (bad / name).read_bytes(), []
    for share in range(0, 100, 4):
        (bad / name).write_bytes(blob[: len(blob) * share // 100])
        assert store.newest(tmp_path, complain=lines.append) == good
    assert len(lines) == 25 and all(str(bad) in line for line in lines)


@pytest.mark.parametrize("name", store.FILES)
def test_every_flipped_bit_is_noticed(tmp_path: Path, name: str) -> None:
    bad, draw = save(tmp_path, 2), random.Random(0)
    blob = (bad / name).read_bytes()
    for _ in range(70):
        flipped = bytearray(blob)
        flipped[draw.randrange(len(blob))] ^= 1 << draw.randrange(8)
        (bad / name).write_bytes(flipped)
        with pytest.raises(CheckpointError, match="sha256"):
            store.load(bad)


def forge(folder: Path, **change: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 99}, "unknown format; got 99"),
        ({"sha256": {"../../secret": "0"}}, "other files"),
        ({"sha256": {}}, "other files"),
        ({"step": "many"}, "lacks a field"),
        ({"config": None}, "lacks a field"),
    ],
)
def test_a_forged_manifest_is_refused(tmp_path: Path, change: dict[str, object], says: str) -> None:
    forge(save(tmp_path, 1), **change)
    with pytest.raises(CheckpointError, match=says):
        store.load(tmp_path / "step-000000001")


def test_another_app_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="belongs to app 'toy', not 'music'") as caught:
        store.load(tmp_path, app="music")
    assert caught.value.exit_code == 3


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def plant(folder: Path, blob: bytes) -> None:
    """Put bytes in the place of the weights, with the right checksum."""
    import hashlib

    (folder / "weights.safetensors").write_bytes(blob)
    manifest = json.loads((folder / "manifest.json").read_text())
    forge(folder, sha256={**manifest["sha256"], "weights.safetensors": hashlib.sha256(blob).hexdigest()})


@pytest.mark.parametrize("blob", [pickle.dumps(Bomb()), b"\xff" * 64, b"", (1 << 62).to_bytes(8, "little") + b"{}"])
def test_a_file_that_is_not_safetensors_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blob: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    plant(folder := save(tmp_path / "run", 1), blob)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        store.load(folder)
    assert not Path("exploded").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save as dump

    plant(folder := save(tmp_path, 1), dump({"w": torch.tensor([1.0, float("nan")])}))
    with pytest.raises(CheckpointError, match="not finite"):
        store.load(folder)


def test_a_value_that_could_not_be_read_again_is_refused_at_once(tmp_path: Path) -> None:
    save(tmp_path, 1)
    mask = {"mask": torch.tensor([0.0, -torch.inf])}
    with pytest.raises(CheckpointError, match=r"weights:mask: .*persistent=False"):
        store.save(tmp_path, app="toy", config={}, step=2, module_state=mask)
    assert store.load(tmp_path).step == 1


def test_damaged_ones_do_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    (save(tmp_path, 20) / "weights.safetensors").write_bytes(b"spoilt")
    assert save(tmp_path, 15, keep=1).is_dir()  # never prunes what it has just written
    assert store.newest(tmp_path, aside=True) == tmp_path / "step-000000015"
    save(tmp_path, 16, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged-step-000000020", "step-000000016"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        store.load(tmp_path / "nowhere")


def test_a_full_disk_is_one_line_and_keeps_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(path: Path, blob: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "flush", full)
    with pytest.raises(QuintetError, match="No space left on device") as caught:
        save(tmp_path, 2)
    assert "step-000000002" in str(caught.value) and caught.value.exit_code == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]
