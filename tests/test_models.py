"""Models by name: what ships goes first, what is wrong is one line, weights fit or are refused."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from core.errors import CheckpointError, UsageError
from core.run import checkpoint
from core.run.models import average, fill, find, shipped


def write(folder: Path, app: str) -> Path:
    """Save a checkpoint of a linear map."""
    return checkpoint.save(folder, app=app, config={}, step=1, module_state=nn.Linear(2, 3).state_dict())


def test_what_ships_is_found_by_name_and_goes_before_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "toy", "trajectory")
    assert "toy" in shipped("trajectory")
    assert find("toy", "trajectory").path == shipped("trajectory")["toy"]
    assert find(tmp_path / "toy", "trajectory").step == 1


@pytest.mark.parametrize("domain", ["trajectory", "bio", "nas", "music", "pde"])
def test_the_help_names_what_ships(domain: str) -> None:
    text = importlib.import_module(f"apps.{domain}.cli").Model.__metadata__[0].help
    assert f"({', '.join(shipped(domain))})" in text


def test_a_name_that_nobody_has_names_the_nearest() -> None:
    with pytest.raises(CheckpointError, match=r"no such model.*toy") as error:
        find("toyy", "nas")
    assert "quintet nas train" in str(error.value)


def test_the_model_of_another_application_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="bio"):
        find(write(tmp_path / "a", "bio"), "nas")


def test_weights_are_converted_or_refused() -> None:
    half = {k: v.half() for k, v in nn.Linear(2, 3).state_dict().items()}
    net = fill(nn.Linear(2, 3), half, "here")
    assert net.weight.dtype == torch.float32 and torch.equal(net.weight.half(), half["weight"])
    with pytest.raises(CheckpointError, match=r"here.*size mismatch"):
        fill(nn.Linear(2, 4), half, "here")
    with pytest.raises(CheckpointError, match="here"):
        fill(nn.Linear(2, 3), {}, "here")


def test_the_mean_of_models_is_a_model_with_the_recipe_of_the_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets, steps = [nn.BatchNorm1d(3) for _ in range(3)], (4, 9, 2)
    for k, (net, step) in enumerate(zip(nets, steps, strict=True)):
        net(torch.randn(5, 3) + k)  # moves the running statistics, counts one batch
        checkpoint.save(tmp_path / str(k), app="nas", config={"k": k}, step=step, module_state=net.state_dict())
    said = average([tmp_path / str(k) for k in range(3)], "nas", tmp_path / "mean")
    found = find(tmp_path / "mean", "nas")
    assert found.config == {"k": 0} and said["step"] == found.step == 9
    for name, value in nets[0].state_dict().items():
        known = torch.stack([n.state_dict()[name].double() for n in nets]).mean(0).to(value)
        assert torch.equal(found.inference[name], known) and found.inference[name].dtype == value.dtype


def test_what_cannot_be_averaged_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    one, out = write(tmp_path / "a", "bio"), tmp_path / "mean"
    wide = checkpoint.save(tmp_path / "b", app="bio", config={}, step=1, module_state=nn.Linear(2, 4).state_dict())
    with pytest.raises(CheckpointError, match=r"same shape \(bias is \(4,\) where .* has \(3,\)"):
        average([one, wide], "bio", out)
    with pytest.raises(UsageError, match="at least two"):
        average([one], "bio", out)
    with pytest.raises(UsageError, match="out: is needed"):
        average([one, one], "bio", None)
    with pytest.raises(CheckpointError, match="bio"):
        average([one, one], "nas", out)
    assert not out.exists()


def test_a_mean_takes_the_place_of_nothing_but_a_checkpoint(tmp_path: Path) -> None:
    models = [write(tmp_path / "runs" / k, "bio") for k in "ab"]
    (tmp_path / "thesis").mkdir()
    for mine in (tmp_path / "thesis" / "notes.txt", tmp_path / "file", tmp_path / "thesis" / "manifest.json"):
        mine.write_text("{}")
        for out in (mine.parent if mine.name != "file" else mine, tmp_path / "runs"):
            with pytest.raises(UsageError, match="out: holds what is no checkpoint"):
                average(models, "bio", out)
        assert mine.read_text() == "{}" and all(find(m, "bio").step for m in models)
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        assert find(average(models, "bio", tmp_path / "empty")["model"], "bio").app == "bio"


def test_the_recipe_of_a_mean_can_be_changed_as_one_that_is_trained(tmp_path: Path) -> None:
    shown = average(["toy", "toy"], "music", tmp_path / "mean", ["sample.steps=3"])
    first, found = find("toy", "music"), find(tmp_path / "mean", "music")
    assert shown["mean_of"] == ["toy", "toy"]
    assert found.config["sample"]["steps"] == 3 != first.config["sample"]["steps"]
    for part, settings in first.config.items():  # what was added since has its default
        if isinstance(settings, dict) and part != "sample":
            assert {k: found.config[part][k] for k in settings} == settings
    assert all(torch.equal(found.inference[k], v) for k, v in first.inference.items())
    with pytest.raises(UsageError, match=r"sample.stepps: no such setting.*steps"):
        average(["toy", "toy"], "music", tmp_path / "other", ["sample.stepps=3"])
    assert not (tmp_path / "other").exists()
