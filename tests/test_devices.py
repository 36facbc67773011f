"""Networks run on an accelerator while tokens, laws and noise stay on the host; the samples are those of the host."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from apps import bio, music, nas, pde, trajectory
from apps.bio import dna, tune
from apps.bio.dna.network import build
from apps.bio.generate import SequenceModel
from apps.bio.model import DataConfig, ModelConfig, Recipe
from apps.bio.rewards import Gc
from apps.music.forcing import ArcTask
from apps.nas.baselines import Field
from apps.nas.model import TuneConfig
from apps.nas.pareto import Compromise
from apps.nas.search import Tuner
from core.draw import inverse_cdf
from core.finetune.steer import STEERINGS
from core.nn.hosted import Hosted, hosted
from core.noise import Stream
from core.run.config import TrainerConfig, load_recipe
from core.run.fabric import launch
from core.run.lane import within
from core.run.launch import run
from tests.elsewhere import NAME, accelerator


def test_the_pretended_device_refuses_what_a_real_one_does() -> None:
    with accelerator() as device:
        x = torch.arange(3.0, device=device)
        assert x.device.type == NAME and (x * 2 + 1).tolist() == [1, 3, 5] and x.sum().item() == 3
        for mixed in (lambda: x + torch.ones(3), lambda: torch.cat([x, torch.ones(1)]), lambda: torch.ones(3) @ x):
            with pytest.raises(RuntimeError, match="here"):
                mixed()
        with pytest.raises(RuntimeError, match="numpy"):
            x.numpy()
        assert (x + torch.tensor(1.0))[torch.tensor([0])].cpu().equal(torch.ones(1))
        net = nn.Linear(3, 2).to(device)
        net(x).sum().backward()
        assert net.weight.grad is not None and net.weight.grad.cpu().equal(torch.arange(3.0).expand(2, -1))


def test_a_hosted_network_answers_where_it_is_asked() -> None:
    net, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    assert hosted(net) is net and hosted(nn.Identity()) is not None
    net(x).square().sum().backward()
    want, x.grad = x.grad, None
    net.zero_grad()
    with accelerator() as device:
        away = hosted(net.to(device))
        assert isinstance(away, Hosted) and away(x).device.type == "cpu"
        away(x).square().sum().backward()
        assert x.grad is not None and want is not None and x.grad.equal(want)


def test_parallel_scans_that_are_not_monotone_are_mended_on_every_device() -> None:
    p, u = torch.rand(5, 7), torch.rand(5, 3)
    with accelerator() as device:
        assert inverse_cdf(p.to(device), u.to(device)).cpu().equal(inverse_cdf(p, u))


def transformer(device: str) -> SequenceModel:
    torch.manual_seed(0)
    shape = ModelConfig(backbone="transformer", dim=16, depth=2, heads=2, order=0)
    return SequenceModel(build(shape).to(device), Recipe(model=shape, data=DataConfig(length=20)))


def played(model: Any) -> Tensor:
    return torch.cat([block.audio for block in itertools.islice(model.live(bpm=110), 3)])


def trips(model: Any) -> np.ndarray:
    found = model.time(model.sample([3] * 4, [200] * 4, seed=0))
    return np.concatenate([found.segment, found.ptr, found.enter])


RULES = [dna.forbid("BsaI")]
WAYS: dict[str, tuple[Callable[[str], Any], Callable[[Any], Any]]] = {
    "trajectory": (lambda d: trajectory.load("toy", device=d), trips),
    "trajectory-nll": (lambda d: trajectory.load("toy", device=d), lambda m: m.nll(m.sample([3], [200], seed=0))),
    "dna": (lambda d: dna.load("toy", d), lambda m: m.sample(4, seed=0, steps=4, constraints=RULES).tokens),
    "dna-blocks": (lambda d: dna.load("toy", d), lambda m: m.sample(4, seed=0, steps=4, block=20).tokens),
    "dna-nll": (lambda d: dna.load("toy", d), lambda m: m.nll(m.sample(4, steps=2).tokens, draws=2)),
    "cache": (transformer, lambda m: m.sample(4, steps=4, block=5, constraints=RULES, temperature=0.7).tokens),
    "cache-nll": (transformer, lambda m: m.nll(m.sample(4, steps=2).tokens, block=5, draws=2)),
    "peptide": (lambda d: bio.load("peptide", d), lambda m: m.sample(4, seed=0, steps=4).sequences),
    "nas": (lambda d: nas.load("toy", d), lambda m: m.sample(8, seed=0).x),
    "nas-steered": (lambda d: nas.load("toy", d), lambda m: m.base().sample(Stream.of(0, 6))),
    "music": (lambda d: music.load("toy", d), lambda m: m.sample(n=2, seconds=4, seed=0).sound(1)),
    "music-guided": (lambda d: music.load("toy", d), lambda m: m.sample(seconds=4, guidance=2.0, steer=0.0).frames),
    "music-live": (lambda d: music.load("toy", d), played),
    "pde": (lambda d: pde.load("toy", device=d), lambda m: np.stack(m.sample(2, seed=0, steps=3))),
}


def values(found: Any) -> np.ndarray:
    if isinstance(found, Tensor):
        assert found.device.type == "cpu"
        return found.double().numpy()
    return np.asarray(found)


@pytest.mark.parametrize("way", list(WAYS))
def test_an_accelerator_gives_the_samples_of_the_host(way: str) -> None:
    load, ask = WAYS[way]
    want = values(ask(load("cpu")))
    with accelerator() as device:
        found = values(ask(load(device)))
    assert found.shape == want.shape
    if want.dtype.kind in "US" or not way.endswith("nll"):
        assert (found == want).all()
    else:  # on the host the reference chain has a faster way of its own
        np.testing.assert_allclose(found, want, rtol=1e-6)


def test_backbones_are_read_where_the_network_is(shared_data: Path) -> None:
    def drawn(device: str) -> list[str]:
        model = bio.protein.load("protein", device)
        return model.sample(2, shared_data / "bio" / "protein" / "pdb" / "1A43.pdb", steps=6, seed=0).sequences

    want = drawn("cpu")
    with accelerator() as device:
        assert drawn(device) == want


@pytest.mark.parametrize("steering", list(STEERINGS))
def test_every_steering_leaves_the_network_where_it_is(steering: str) -> None:
    def drawn(device: str) -> Tensor:
        return dna.load("toy", device).sample(4, seed=0, steps=4, reward=Gc(0.9, 1.0), steering=steering).tokens

    want = drawn("cpu")
    with accelerator() as device:
        assert drawn(device).equal(want)


@pytest.mark.parametrize("method", list(tune.METHODS))
def test_tuning_runs_where_its_network_is(method: str) -> None:
    hold = 0.01 if method == "drakes" else 0.0
    settings = tune.Tuning(method, updates=2, batch=4, steps=4, kl_steps=2, hold=hold)

    def gradient(device: str) -> Tensor:
        task = tune.TuneTask(dna.load("toy").base(steps=4), Gc(0.9, 1.0), settings)
        module = task.module().to(device)
        batch = move_data_to_device(task.batch(0, 0, 1), torch.device(device))
        task.loss(module, batch, 0)[0].backward()
        return torch.cat([p.grad.cpu().flatten() for p in module.parameters() if p.grad is not None])

    want = gradient("cpu")
    with accelerator() as device:
        torch.testing.assert_close(gradient(device), want, rtol=1e-3, atol=1e-6 * float(want.abs().max()))


def test_searches_learn_where_the_network_is() -> None:
    def learnt(device: str) -> list[Tensor]:
        torch.manual_seed(0)
        model = nas.load("toy", device)
        x, field = model.sample(8, seed=0).x, Field(model.space, seed=0)
        plain, wished = Tuner(model, TuneConfig(), field), Compromise(model, field)
        plain.raise_(x, torch.ones(8, dtype=torch.float64))
        wished.learn(x, np.random.default_rng(0).random((8, 2)), 1)
        assert len(wished.sample(torch.rand(3))) == 3
        return [p.detach().cpu() for tuner in (plain, wished.tuner) for p in tuner.model.net.parameters()]

    want = learnt("cpu")
    with accelerator() as device:
        for found, own in zip(learnt(device), want, strict=True):
            torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)


def test_players_train_each_other_where_they_are(tmp_path: Path) -> None:
    small = ["data.count=7", "data.batch=2", "model.dim=16", "model.depth=1", "codec.dim=8", "trainer.steps=1"]
    kept = tmp_path / "kept"
    run("music", load_recipe("music", "toy", [*small, "trainer.threads=1", "trainer.validate_every=0"]), kept, None)
    arc = ["task=arc", "arc.blocks=2", "arc.burn=1", "arc.depth=1", "arc.alone=1", "arc.slow=2", f"start={kept}"]

    def stepped(device: str) -> dict[str, float]:
        task = ArcTask(load_recipe("music", "toy", [*small, *arc]))
        torch.manual_seed(0)
        net, batch = task.module().to(device), move_data_to_device(task.batch(1, 0, 1), torch.device(device))
        with within(0):
            loss, figures = task.loss(net, batch, 1)
        loss.backward()
        found = {"total": loss.detach(), **figures, **task.validate(net.eval(), 1)}
        return {k: float(v) for k, v in found.items()}

    want = stepped("cpu")
    with accelerator() as device:
        assert stepped(device) == pytest.approx(want, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("app", ["trajectory", "bio", "nas", "music", "pde"])
def test_mixed_precision_keeps_the_loss(app: str) -> None:
    task = importlib.import_module(f"apps.{app}.task").make(load_recipe(app, "toy"))
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        fabric = launch(TrainerConfig(accelerator="cpu", precision=precision, threads=0))
        torch.manual_seed(1)
        module = fabric.setup_module(task.module())
        with within(0):
            torch.manual_seed(0)
            loss, _ = task.loss(module, task.batch(0, 0, 1), 0)
        fabric.backward(loss)
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in module.parameters())
        found[precision] = float(loss.detach())
    assert found["bf16-mixed"] == pytest.approx(found["32-true"], rel=1e-2)
    if app in ("pde", "trajectory"):  # where derivatives are taken nothing is rounded, elsewhere something is
        assert (found["bf16-mixed"] == found["32-true"]) == (app == "pde")


@pytest.mark.parametrize(("app", "recipe"), [
    ("trajectory", "toy"), ("bio", "toy"), ("bio", "peptide"), ("nas", "toy"), ("music", "toy"),
    ("pde", "toy"),
])  # fmt: skip
def test_training_runs_on_an_accelerator(app: str, recipe: str, request: pytest.FixtureRequest) -> None:
    if recipe == "peptide":
        request.getfixturevalue("shared_data")
    make = importlib.import_module(f"apps.{app}.task").make

    def stepped(device: str) -> tuple[Tensor, list[Tensor], dict[str, float]]:
        torch.manual_seed(1)
        task = make(load_recipe(app, recipe))
        module = task.module().to(device)
        batch = move_data_to_device(task.batch(0, 0, 1), torch.device(device))
        with within(0):
            torch.manual_seed(0)
            loss, _ = task.loss(module, batch, 0)
            loss.backward()
        with torch.no_grad():
            figures = {k: float(v) for k, v in task.validate(module.eval(), 0).items()}
        return loss.detach().cpu(), [p.grad.cpu() for p in module.parameters() if p.grad is not None], figures

    want, gradients, figures = stepped("cpu")
    with accelerator() as device:
        found, same, again = stepped(device)
    torch.testing.assert_close(found, want)
    for a, b in zip(same, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max() + 1e-6))
    assert again == pytest.approx(figures, rel=1e-5)
