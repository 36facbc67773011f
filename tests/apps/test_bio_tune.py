"""Tuning raises the reward, can be resumed bit by bit, names its parent; scoring writes what rewards say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from apps import bio
from apps.bio import tune, tuned
from apps.bio.dna.network import build
from apps.bio.generate import SequenceModel
from apps.bio.model import DataConfig, ModelConfig, Recipe, SampleConfig
from apps.bio.rewards import Gc
from apps.bio.score import score
from apps.bio.stream import rows
from core.errors import CheckpointError, UsageError
from core.finetune import drakes
from core.finetune.reward import Counted
from core.finetune.steer import STEERINGS
from core.noise import Stream
from core.run import checkpoint


def tiny() -> SequenceModel:
    torch.manual_seed(0)
    shape = ModelConfig(dim=8, depth=2, kernel=5, dilations=[1, 2], order=2, folds=2, dropout=0.5)
    net = build(shape)
    letters = np.random.default_rng(0).integers(0, 4, (40, 20))
    net.background.fit(letters, np.arange(40) % 2)  # type: ignore[union-attr]
    return SequenceModel(net, Recipe(model=shape, data=DataConfig(length=20), sample=SampleConfig(steps=8)))


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    import dataclasses

    model = tiny()
    head = {"app": "bio", "config": dataclasses.asdict(model.recipe), "step": 0, "metrics": {}, "optimizer": None}
    checkpoint.write(tmp_path / "parent", {"weights.safetensors": model.net.state_dict()}, head)
    return tmp_path / "parent"


def gc(model: SequenceModel, n: int = 128) -> float:
    x = model.base(steps=8).sample(Stream.of(5, n))
    return float(((x == 1) | (x == 2)).double().mean())


@pytest.mark.parametrize("method", list(tune.METHODS))
def test_each_method_raises_the_reward(parent: Path, tmp_path: Path, method: str) -> None:
    out, more = tmp_path / "run", {"updates": 40, "batch": 16, "lr": 0.01, "steps": 8, "truncate": 4, "pool": 256}
    found = tune.finetune(str(parent), reward=["gc(0.9, 1)"], method=method, alpha=0.02, out=out, **more)
    before, after = gc(bio.load(parent)), gc(bio.load(out / "model"))
    assert found["step"] == 40 and after > before + 0.04
    manifest = json.loads((out / "model" / "manifest.json").read_text())
    assert manifest["tuning"]["parent"] == str(parent) and manifest["tuning"]["method"] == method
    assert manifest["tuning"]["parent_sha256"] == tune.checksum(bio.load(parent).net)


def test_a_stopped_run_ends_with_the_same_bits(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"reward": ["gc(0.9, 1)"], "updates": 24, "batch": 4, "steps": 4, "alpha": 0.05}
    tune.finetune(str(parent), out=tmp_path / "whole", **more)
    loss, left = tune.TuneTask.loss, [22]

    def broken(self, module, batch, step):  # noqa: ANN001, ANN202
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return loss(self, module, batch, step)

    monkeypatch.setattr(tune.TuneTask, "loss", broken)
    with pytest.raises(KeyboardInterrupt):
        tune.finetune(str(parent), out=tmp_path / "parts", **more)
    left[0] = 4  # from the checkpoint after 20 updates
    tune.finetune(str(parent), out=tmp_path / "parts", **more)
    whole, parts = (checkpoint.load(tmp_path / n / "model").weights for n in ("whole", "parts"))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    with pytest.raises(UsageError, match="other settings"):
        tune.finetune(str(parent), out=tmp_path / "parts", **{**more, "alpha": 0.1})


def test_a_tuned_model_draws_at_other_prices(parent: Path, tmp_path: Path) -> None:
    options = {"updates": 30, "batch": 16, "lr": 0.01, "steps": 8, "alpha": 0.5}
    tune.finetune(str(parent), reward=["gc(0.9, 1)"], out=tmp_path / "run", **options)  # type: ignore[arg-type]
    folder = tmp_path / "run" / "model"
    before, after = bio.load(parent), bio.load(folder)
    none, same, more = (tuned.realigned(folder, s) for s in (0.0, 1.0, 6.0))
    x, t = torch.from_numpy(np.random.default_rng(1).integers(0, 5, (3, 20))), torch.ones(3)
    for mixed, alone in ((none, before), (same, after)):
        assert torch.allclose(mixed.predict(x, t).log_p, alone.predict(x, t).log_p.double(), atol=1e-5)
    assert gc(more) > gc(after) + 0.04 and gc(same) == gc(after) and gc(none) == gc(before)
    drawn = more.sample(6, constraints=[bio.dna.forbid("BsaI")], reward=Gc(0.9, 1.0), steering="classifier", seed=0)
    assert drawn.manifest["strength"] == 6.0 and "strength" not in after.sample(1).manifest
    letters = after.sample(64, seed=3).tokens
    a, b, c = (m.nll(letters, draws=4, seed=1).mean() for m in (same, after, more))
    assert abs(float(a - b)) < 0.5 and float(c) > float(a)  # two estimates of one bound


def test_strength_is_of_tuned_models_whose_parent_is_there(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="strength.*unlike"):
        tuned.realigned(parent, 2.0)
    with pytest.raises(UsageError, match="protein"):
        tuned.realigned("protein", 2.0)
    tune.finetune(str(parent), reward=["gc(0.9, 1)"], updates=1, batch=2, steps=2, kl_steps=2, out=tmp_path / "run")
    folder = tmp_path / "run" / "model"
    with pytest.raises(UsageError, match="strength"):
        tuned.realigned(folder, -1.0)
    model = tiny()
    torch.nn.init.normal_(model.net.head.weight)  # type: ignore[union-attr, arg-type]
    shutil.rmtree(parent)
    with pytest.raises(CheckpointError, match="no such model"):
        tuned.realigned(folder, 2.0)
    head = json.loads((folder / "manifest.json").read_text())
    head = {k: head[k] for k in ("app", "config", "step", "metrics", "optimizer")}
    checkpoint.write(parent, {"weights.safetensors": model.net.state_dict()}, head)
    with pytest.raises(CheckpointError, match="changed"):
        tuned.realigned(folder, 2.0)


def test_the_parent_is_found_from_elsewhere(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by a relative path, asked for in another directory, both folders moved together."""
    monkeypatch.chdir(tmp_path)
    tune.finetune("parent", reward=["gc(0.9, 1)"], updates=1, batch=2, steps=2, kl_steps=2, out=Path("runs/mine"))
    first = tuned.realigned("runs/mine/model", 2.0).sample(2).sequences
    (tmp_path / "there").mkdir()
    for name in ("parent", "runs"):
        shutil.move(tmp_path / name, tmp_path / "there" / name)
    assert tuned.realigned("there/runs/mine/model", 2.0).sample(2).sequences == first
    with pytest.raises(CheckpointError, match="give there/runs/mine/model"):
        bio.load("there/runs/mine")


def test_a_run_does_not_go_on_with_another_reward_of_the_same_name(parent: Path, tmp_path: Path) -> None:
    more = {"method": "sdpo", "updates": 1, "batch": 2, "steps": 2, "pool": 16, "out": tmp_path / "run"}
    tune.finetune(str(parent), reward=["gc(0.9, 1)"], **more)  # type: ignore[arg-type]
    assert tune.finetune(str(parent), reward=["gc(0.9,  1)"], **more)["step"] == 1  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"other settings.*gc\(0.9, 1\)'\] -> \['gc\(0, 0.1\)"):
        tune.finetune(str(parent), reward=["gc(0, 0.1)"], **more)  # type: ignore[arg-type]


def test_peptides_at_other_prices(tmp_path: Path) -> None:
    options = {"method": "sdpo", "updates": 1, "batch": 2, "steps": 2, "pool": 16}
    tune.finetune("peptide", reward=["charge()"], out=tmp_path / "run", **options)  # type: ignore[arg-type]
    found = tuned.realigned(tmp_path / "run" / "model", 3.0).sample(4, seed=0)
    assert len(found) == 4 and found.manifest["strength"] == 3.0
    source = rows(str(tmp_path / "run" / "model"), n=4, length=None, start="", seed=0, strength=3.0)
    assert [row["sequence"] for row in source(2, 2)] == found.sequences[2:]


def test_the_straight_network_has_the_same_values() -> None:
    net = tiny().net.eval()
    torch.nn.init.normal_(net.head.weight)  # type: ignore[union-attr, arg-type]
    copy, x = tune.straight(net), torch.from_numpy(np.random.default_rng(1).integers(0, 5, (3, 20)))
    t = torch.ones(3)
    assert torch.allclose(copy(x, t), net(x, t), atol=1e-5)
    z = one_hot(x, 5).float().requires_grad_()
    assert torch.allclose(copy(z, t), net(z, t), atol=1e-4)
    (g,) = torch.autograd.grad(copy(z, t).sum(), z)
    assert float(g.abs().sum()) > 0 and copy.train()(x, t).equal(copy(x, t))
    assert set(copy.state_dict()) == set(net.state_dict())


def run(settings: tune.Tuning, updates: int) -> tuple[torch.nn.Module, Counted, list[dict[str, float]]]:
    counted, model = Counted(Gc(0.9, 1.0)), tiny()
    task = tune.TuneTask(model.base(steps=4), counted, settings)
    module, told = task.module(), []
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for step in range(updates):
        loss, figures = task.loss(module, task.batch(step, 0, 1), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append({k: float(v) for k, v in figures.items()})
    return module, counted, told


def test_a_warm_start_of_nothing_is_plain_drakes_bit_for_bit() -> None:
    plain = {"updates": 4, "batch": 4, "steps": 4, "kl_steps": 2}
    a, counted, said = run(tune.Tuning(**plain), 4)  # type: ignore[arg-type]
    b, again, told = run(tune.Tuning(warm=0, fits=9, guide=0.1, hold=0.0, **plain), 4)  # type: ignore[arg-type]
    assert said == told and counted.gradients == again.gradients == 16
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    task = tune.TuneTask(tiny().base(steps=4), Gc(0.9, 1.0), tune.Tuning(**plain))  # type: ignore[arg-type]
    module = task.module()
    mine, _ = task.loss(module, task.batch(3, 0, 1), 3)
    stream = Stream.of(0, 4).fold(3, 0)
    want, _ = drakes.loss(module, task.prior, task.base, Gc(0.9, 1.0), 0.05, 4, 1.0, 4, stream, 2, 8)
    assert torch.equal(mine, want)


def test_a_warm_start_asks_what_it_says_and_leads() -> None:
    shape = {"updates": 3, "batch": 4, "steps": 4, "kl_steps": 4, "alpha": 0.05}
    module, counted, told = run(tune.Tuning(warm=42, fits=20, **shape), 23)  # type: ignore[arg-type]
    assert (counted.calls, counted.gradients) == (0, 40 + 12)  # ten guided paths of four steps, three updates of four
    assert told[19].keys() == {"kl"} and told[20]["reward"] > run(tune.Tuning(**shape), 1)[2][0]["reward"] + 0.02  # type: ignore[arg-type]
    base = tiny().base(steps=4)
    assert told[20]["kl"] == pytest.approx(  # of the first update: still to the parent, and exact
        drakes.path_kl(run(tune.Tuning(warm=42, fits=20, **shape), 20)[0], tune.straight(tiny().net), base, 400,  # type: ignore[arg-type]
                       Stream.of(3, 1)).value, rel=0.25)  # fmt: skip
    assert tune.TuneTask(base, Gc(), tune.Tuning(warm=8, alpha=0.2)).strength == 0.05


def test_nats_are_held_at_the_parents_own() -> None:
    task = tune.TuneTask(tiny().base(steps=4), Gc(0.9, 1.0), tune.Tuning(batch=4, steps=4, hold=3.0))
    assert 0.9 < task.level / (20 * np.log(4)) < 1.01  # a mean of 64 paths
    module = task.module()
    mine, _ = task.loss(module, task.batch(0, 0, 1), 0)
    reward, stream = Gc(0.9, 1.0), Stream.of(0, 4).fold(0, 0)
    want, _ = drakes.loss(module, task.prior, task.base, reward, 0.05, 4, 1.0, 4, stream, 4, 8, 3.0, task.level)
    assert torch.equal(mine, want)


def test_scores_of_files(parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.fasta").write_text(">a\nACGTACGTACGGACGTACGT\n>b\nTTTT\n")
    out = tmp_path / "s.tsv"
    found = score([tmp_path / "s.fasta"], reward=["gc(0.5, 0.5)", "hairpin()"], out=out)
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert rows[0] == ["name", "length", "gc", "hairpin"] and found is not None
    assert [r[:3] for r in rows[1:]] == [["a", "20", "-0.05"], ["b", "4", "-0.5"]]
    (tmp_path / "one.fasta").write_text(">a\nACGTACGTACGGACGTACGT\n")
    assert score([tmp_path / "one.fasta"], reward=None, model=str(parent)) is None
    line = capsys.readouterr().out.splitlines()[1].split("\t")
    assert line[:2] == ["a", "20"] and 1.0 < float(line[2]) < 1.7


def test_mistakes(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="out"):
        tune.finetune(str(parent), reward=["gc()"])
    with pytest.raises(UsageError, match="drakes"):
        tune.finetune(str(parent), reward=["gc()"], method="drake", out=tmp_path / "x")
    free = [({"method": m, "alpha": 0.0}, "alpha: must be positive") for m in tune.METHODS if m != "drakes"]
    mixed = [({"method": "sdpo", "warm": 64}, "option of drakes"), ({"warm": 3, "steps": 4}, "no path")]
    for wrong, says in [*free, *mixed, ({"alpha": 0.0, "warm": 64}, "alpha: must be positive")]:
        with pytest.raises(UsageError, match=says):
            tune.finetune(str(parent), reward=["gc()"], out=tmp_path / "x", **wrong)  # type: ignore[arg-type]
    (tmp_path / "t.tsv").write_text("ACGTACGTACGTACGTACGT\t1\n")
    with pytest.raises(UsageError, match="no gradients"):
        tune.finetune(str(parent), reward=[f"table({tmp_path / 't.tsv'}, 0)"], out=tmp_path / "x")
    for method in ("sdpo", "reward-weighted"):
        with pytest.raises(UsageError, match="reward: is -inf or no number for all of .* draws"):
            tune.finetune(str(parent), reward=[f"table({tmp_path / 't.tsv'})"], method=method, out=tmp_path / "y")
    with pytest.raises(UsageError, match="reward"):
        score([], reward=None)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("method", ["sdpo", "reward-weighted"])
def test_draws_that_the_reward_rules_out_spoil_no_others(method: str) -> None:
    class Sparse:
        name = "sparse"

        def score(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x[:, 0] == 0, x.double().mean(1), torch.where(x[:, 0] == 1, torch.nan, -torch.inf))

    tuning = tune.Tuning(method=method, updates=4, batch=16, steps=4, pool=512)
    task = tune.TuneTask(tiny().base(steps=4), Sparse(), tuning)
    module = task.module()
    loss, _ = task.loss(module, task.batch(0, 0, 1), 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    if method == "sdpo":
        assert len(task.groups.t) < 64 and (task.groups.reward > -torch.inf).any(1).all()


def test_the_reward_is_not_asked_more_often_than_said() -> None:
    for method, calls, gradients in (("drakes", 0, 12), ("sdpo", 24, 0), ("reward-weighted", 24, 0)):
        counted = Counted(Gc(0.9, 1.0))
        task = tune.TuneTask(
            tiny().base(steps=4), counted, tune.Tuning(method, updates=6, batch=4, steps=4, kl_steps=2)
        )
        module = task.module()
        for step in range(3):
            loss, _ = task.loss(module, task.batch(step, 0, 1), step)
            loss.backward()
        assert (counted.calls, counted.gradients) == (calls, gradients)


@pytest.mark.parametrize("steering", list(STEERINGS))
def test_every_steering_works_from_the_model(steering: str) -> None:
    model = tiny()
    x = model.sample(6, reward=Gc(0.9, 1.0), steering=steering, seed=0).tokens
    assert x.shape == (6, 20) and int(x.max()) < 4
    same = model.sample(6, reward=Gc(0.9, 1.0), steering=steering, seed=0).tokens
    assert x.equal(same)
