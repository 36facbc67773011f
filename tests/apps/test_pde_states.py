"""The state sampler: a cycle is learned as one, boundaries stay, sensors find the state, and ensembles are honest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.pde import ensemble, metrics, shapes, states
from apps.pde.baselines import gappy_pod, pod, rbf_field
from apps.pde.data import Trajectories
from apps.pde.dynamics import Dynamics
from apps.pde.generate import FieldModel
from apps.pde.model import ModelConfig, Recipe
from apps.pde.systems import system
from core.errors import CheckpointError, QuintetError, UsageError

MESH = shapes.make("hole", 120)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def cycle(speeds: tuple[float, ...] = (1.0, 2.0), T: int = 120) -> Trajectories:
    """Return four turns of a limit cycle of four modes, of an amplitude that a parameter sets, zero on the hole."""
    rng, N = np.random.default_rng(0), len(MESH)
    shape = rng.standard_normal((5, N, 2))
    shape[:, MESH.nodes("hole")] = 0
    t = 8.13 * np.pi * np.arange(T) / T
    waves = np.stack([np.ones(T), np.cos(t), np.sin(t), np.cos(2 * t), np.sin(2 * t)], 1)
    all_ = np.stack([np.einsum("tk,knc->tnc", waves * [1, a, a, a / 2, a / 2], shape) for a in speeds])
    return Trajectories(MESH, ("u", "v"), np.arange(T) * 0.1, all_.astype(np.float32), {"Re": np.array(speeds)})


@pytest.fixture(scope="module")
def sampler() -> states.StateSampler:
    torch.set_num_threads(1)
    return states.fit(cycle(), rank=8)


def test_modes_lose_only_what_they_say() -> None:
    flat = cycle().states.reshape(-1, len(MESH), 2).astype(np.float64)
    whole, few = states.Modes.of(flat, 8), states.Modes.of(flat, 2)
    assert np.allclose(whole.decode(whole.encode(flat)), flat, atol=1e-5) and whole.rest < 1e-5
    lost = np.sqrt(np.square(few.decode(few.encode(flat)) - flat).mean())
    assert lost == pytest.approx(few.rest, rel=1e-6)


def test_exact_readings_and_few_sensors_are_used_as_they_are(sampler: states.StateSampler) -> None:
    line = states.Modes(np.zeros((9, 1)), np.eye(9)[:2, :, None], np.array([2.0, 1.0]), 0.0)  # leaves nothing out
    alone = states.StateSampler(line, torch.zeros(1, 2, dtype=torch.float64), {}, 1.0)
    drawn = alone.assimilate(np.array([0]), np.array([[1.5]]), 0.0, 400)
    assert np.abs(drawn[:, 0] - 1.5).max() < 1e-6  # what was read is certain, what was not is the prior, N(0, 1)
    assert drawn[:, 1].mean() == pytest.approx(0, abs=0.2) and drawn[:, 1].std() == pytest.approx(1, abs=0.15)
    flat = cycle().states.reshape(-1, len(MESH), 2).astype(np.float64)
    few, truth = np.array([7, 30]), flat[50]
    found = gappy_pod(pod(flat), few, truth[few], 8, 0.0)  # 8 modes, 4 readings
    assert np.allclose(found[few], truth[few], atol=1e-6)
    assert np.allclose(found, gappy_pod(pod(flat), few, truth[few], 8, 1e-6), atol=1e-3)
    left = np.flatnonzero(np.abs(MESH.points[:, 0] - MESH.points[few[0], 0]) < 1e-12)
    for nodes in (few[:1], few, left):
        assert np.allclose(rbf_field(MESH, nodes, truth[nodes], 0.05), truth[nodes].mean(0))
    nodes = np.array([7, 30, 60, 80])
    assert np.allclose(rbf_field(MESH, nodes, truth[nodes], 0.0)[nodes], truth[nodes])


def test_samples_lie_on_the_cycle_and_keep_the_boundary(sampler: states.StateSampler) -> None:
    drawn = sampler.sample(64, {"Re": 2.0}, seed=1)
    assert np.abs(drawn[:, MESH.nodes("hole")]).max() < 1e-6
    truth = cycle().states[1]

    def away(u: np.ndarray) -> float:
        """Return the median distance from the cycle."""
        return float(np.median(np.square(u[:, None] - truth[None]).sum((2, 3)).min(1) ** 0.5))

    own = states.Modes.of(truth.astype(np.float64), 8)
    ellipsoid = own.decode(np.random.default_rng(0).standard_normal((64, len(own.scale))))
    assert away(drawn) < 0.4 * away(ellipsoid)
    assert np.linalg.norm(drawn.mean(0) - truth.mean(0)) / np.linalg.norm(truth.mean(0)) < 0.4
    assert np.array_equal(sampler.sample(64, {"Re": 2.0}, seed=1)[:5], drawn[:5])
    with pytest.raises(UsageError, match="does not vary"):
        sampler.sample(1, {"Ra": 1.0})


def test_sensors_find_the_state(sampler: states.StateSampler) -> None:
    truth, rng = cycle().states[1, 17].astype(np.float64), np.random.default_rng(2)
    nodes = rng.choice(np.setdiff1d(np.arange(len(MESH)), MESH.nodes("hole")), 3, replace=False)
    noise = 0.3
    values = truth[nodes] + noise * rng.standard_normal((3, 2))
    free, found = (f(16) for f in (sampler.sample, lambda n: sampler.assimilate(nodes, values, noise, n, {"Re": 2.0})))
    error = [np.linalg.norm(e.mean(0) - truth) / np.linalg.norm(truth) for e in (free, found)]
    assert error[1] < 0.5 * error[0]
    flat = cycle().states.reshape(-1, len(MESH), 2).astype(np.float64)
    assert error[1] < np.linalg.norm(gappy_pod(pod(flat), nodes, values, 8, noise) - truth) / np.linalg.norm(truth)
    with pytest.raises(UsageError, match="different nodes"):
        sampler.assimilate(np.array([3, 3]), np.zeros((2, 2)), 0.1)
    with pytest.raises(UsageError, match="2 values for each of 3 sensors"):
        sampler.assimilate(nodes, values[:, :1], 0.1)


def test_members_keep_the_boundary_and_spread_as_told() -> None:
    net = Dynamics(ModelConfig(width=0), system("burgers", "hole"), MESH, 0.01)
    start = torch.from_numpy(cycle().states[:, 0]) * 0.1
    none, some, more = (ensemble.members(net, start, 6, ensemble.Spread(tendency=s), 4, every=2)
                        for s in (0.0, 0.1, 0.2))  # fmt: skip
    assert some.shape == (2, 4, 4, len(MESH), 2) and not none.std(1).any()
    assert not some[:, :, :, MESH.nodes("hole")].any()
    assert more[:, :, -1].std(1).mean() == pytest.approx(2 * some[:, :, -1].std(1).mean(), rel=0.2)
    alone = ensemble.members(net, start[:1], 6, ensemble.Spread(tendency=0.1), 4, every=2)
    assert np.allclose(alone[0], some[0], atol=1e-6)


def test_calibrated_ensembles_cover() -> None:
    net = Dynamics(ModelConfig(width=0), system("burgers", "hole"), MESH, 0.01)
    wrong = Dynamics(ModelConfig(width=0), system("burgers", "hole"), MESH, 0.0115)
    start = torch.from_numpy(cycle((1.0, 1.3, 0.7, 1.1), 60).states[:, 0]) * 0.05
    with torch.inference_mode():
        truth = torch.cat([wrong.pad(start)[:, None], wrong(start, 12)], 1).numpy()
    data = Trajectories(MESH, ("u", "v"), np.arange(13) * 0.01, truth, {})
    tried = (ensemble.Spread(0.0, 0.05, 0.0, 1), ensemble.Spread(0.0, 0.05, 0.5, 1))
    spread = ensemble.calibrate(net, data.select(slice(0, 2)), n=8, tried=tried)
    own = ensemble.members(net, torch.from_numpy(truth[2:, 0]), 12, spread, 24)[:, :, 1:].swapaxes(0, 1)
    assert 0.6 < metrics.spread_skill(own, truth[2:, 1:]) < 1.6


def test_conformal_scale_covers_and_travels(tmp_path: Path) -> None:
    net = Dynamics(ModelConfig(width=0), system("burgers", "hole"), MESH, 0.01)
    wrong = Dynamics(ModelConfig(width=0), system("burgers", "hole"), MESH, 0.0115)
    rng = np.random.default_rng(3)
    start = torch.from_numpy(cycle(tuple(rng.uniform(0.5, 1.5, 8)), 60).states[:, rng.integers(60)]) * 0.05
    with torch.inference_mode():
        truth = torch.cat([wrong.pad(start)[:, None], wrong(start, 12)], 1).numpy()
    data = Trajectories(MESH, ("u", "v"), np.arange(13) * 0.01, truth, {})
    narrow = ensemble.Spread(0.0, 0.02, 0.5, 1)
    wide = ensemble.conform(net, data.select(slice(0, 4)), narrow, n=24)
    assert len(wide.times) == len(wide.scale) == 5 and wide.times[-1] < 0.12
    free = np.setdiff1d(np.arange(len(MESH)), MESH.nodes("hole"))
    own = {k: ensemble.members(net, torch.from_numpy(truth[4:, 0]), 12, s, 24)[:, :, 1:].swapaxes(0, 1)
           for k, s in (("narrow", narrow), ("wide", wide))}  # fmt: skip
    covered = {k: metrics.coverage(v[..., free, :], truth[4:, 1:, free]) for k, v in own.items()}
    assert 0.8 < covered["wide"] < 0.97 and covered["narrow"] < covered["wide"] - 0.05
    assert not own["wide"][..., MESH.nodes("hole"), :].any()
    plain = ensemble.members(net, torch.from_numpy(truth[4:5, 0]), 12, narrow, 8)
    least = replace(narrow, least=1.0, times=(0.1,), scale=(2.0,))
    dressed = ensemble.members(net, torch.from_numpy(truth[4:5, 0]), 12, least, 8)
    assert np.allclose(dressed.mean(1), plain.mean(1), atol=1e-5)  # dressing moves no mean
    assert dressed[:, :, 1:, free].std(1).min() > 0 and not dressed[..., MESH.nodes("hole"), :].any()

    assert ensemble.read(tmp_path) is None
    assert ensemble.read(ensemble.save(wide, tmp_path).parent) == wide
    (tmp_path / "spread.json").write_text('{"start": 0}')
    with pytest.raises(CheckpointError, match="damaged"):
        ensemble.read(tmp_path)


def test_members_that_leave_what_is_finite_are_refused() -> None:
    net = Dynamics(ModelConfig(kind="operators", knowledge="full"), system("burgers", "hole"), MESH, 0.01)
    model, start = FieldModel(net, Recipe()), cycle().states[0, 0] * 0.1
    with pytest.raises(QuintetError, match=r"3 of 3 members are not finite from t = 0\.\d+ on; .*noise"):
        model.ensemble(start, 30, 3, ensemble.Spread(start=800.0))
    assert np.isfinite(model.ensemble(start, 30, 3, ensemble.Spread(start=0.01))[1]).all()
    for state, n, words in ((start, 1, "members: needs two at least"), (start[1:], 3, "must have one row a node")):
        with pytest.raises(UsageError, match=words):
            model.ensemble(state, 2, n, ensemble.Spread(start=0.01))
    truth = np.repeat(cycle().states[:, :1] * 800, 8, 1)  # from here each member of any spread blows up
    data = Trajectories(MESH, ("u", "v"), np.arange(8) * 0.01, truth, {})
    with pytest.raises(QuintetError, match="members are not finite on 2 of 2 validation trajectories"):
        ensemble.conform(net, data, ensemble.Spread(tendency=0.1), n=2)
