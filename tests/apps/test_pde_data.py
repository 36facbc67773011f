"""Data sets: what an interruption leaves, what a test trajectory depends on, and truth against an independent run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apps.pde import data, shapes, spectral, truth, verbs
from apps.pde.generate import build
from apps.pde.model import DataConfig, ModelConfig, Recipe
from apps.pde.task import make
from core.errors import DataError, UsageError

FIXTURE = Path(__file__).resolve().parents[3] / "shared" / "data" / "pde" / "burgers_A_510nodes.npz"


def small(folder: Path, **changes: object) -> DataConfig:
    config = DataConfig(nodes=60, steps=3, dt=0.01, fine=24, modes=1, train=2, valid=1, test=1, cache=str(folder))
    return replace(config, **changes)  # type: ignore[arg-type]


def test_an_interrupted_set_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, solve, seen = small(tmp_path), truth.solve, []

    def failing(*args, **kwargs):  # noqa: ANN002, ANN003, ANN202
        seen.append(args[4].name)
        if seen.count("valid-000") == 1 and args[4].name == "valid-000":
            raise KeyboardInterrupt
        return solve(*args, **kwargs)

    monkeypatch.setattr(truth, "solve", failing)
    with pytest.raises(KeyboardInterrupt):
        data.splits(config, 0)
    folder = data.folder(config, 0)
    assert sorted(p.name for p in folder.iterdir()) == ["mesh.npz", "train-000.npz", "train-001.npz"]
    found = data.splits(config, 0)
    assert seen == ["train-000", "train-001", "valid-000", "valid-000", "test-000"]
    plain = data.splits(replace(config, cache=""), 0)
    assert np.array_equal(found.train.states, plain.train.states)
    assert np.array_equal(found.test.states, plain.test.states)
    assert found.train.states.shape == (2, 4, len(found.train.mesh), 2)


def test_more_training_trajectories_leave_the_test_alone(tmp_path: Path) -> None:
    few, more = (data.splits(small(tmp_path, train=n), 0) for n in (1, 3))
    assert np.array_equal(few.test.states, more.test.states) and len(more.train) == 3
    starts = np.concatenate([p.states[:, 0] for p in (more.train, more.valid, more.test)])
    assert len(np.unique(starts.round(6), axis=0)) == 5
    assert len(list(tmp_path.iterdir())) == 1  # how many there are is not among what names the folder
    other = data.splits(small(tmp_path, train=1), 1)
    assert not np.array_equal(other.train.states, few.train.states)


def test_damage_is_one_line(tmp_path: Path) -> None:
    config = small(tmp_path)
    data.splits(config, 0)
    file = data.folder(config, 0) / "train-001.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="not a data set"):
        data.splits(config, 0)
    with pytest.raises(UsageError, match="needs Reynolds numbers"):
        data.splits(DataConfig(system="cylinder"), 0)
    with pytest.raises(DataError, match=r"data.valid: needs one trajectory"):
        data.splits(DataConfig(system="cylinder", reynolds=[200.0]), 0)
    with pytest.raises(UsageError, match="no such parameter; one of nu"):
        data.splits(DataConfig(parameters={"nuu": 1.0}), 0)


@pytest.mark.skipif(not FIXTURE.is_file(), reason="shared data are absent")
def test_spectral_truth_is_an_independent_runs() -> None:
    with np.load(FIXTURE) as found:
        points, states = found["pos"].astype(float), found["U"][0].astype(float)
    k = np.stack(np.meshgrid(np.arange(-6, 7), np.arange(-6, 7), indexing="ij"), -1).reshape(-1, 2)

    def basis(p: np.ndarray) -> np.ndarray:
        wave = np.exp(2j * np.pi * p @ k.T)
        return np.concatenate([wave.real, wave.imag], 1)

    # the state at t = 0 is a sum of 13 x 13 waves, which 510 nodes determine
    weights = np.linalg.lstsq(basis(points), states[0], rcond=1e-10)[0]
    solver = spectral.Spectral("burgers", {"nu": 5e-3}, 128)
    start = (basis(solver.grid().reshape(-1, 2)) @ weights).reshape(128, 128, 2)
    got = solver.run(np.moveaxis(start, -1, 0), 1e-3, 100, 10, points)
    error = np.linalg.norm(got - states[:11], axis=(1, 2)) / np.linalg.norm(states[:11], axis=(1, 2))
    assert error.max() < 1.5e-4  # of the grid of 128, where fronts are steepest; 3e-8 on the run's own grid of 160


def test_starts_vanish_where_the_boundary_wants_it() -> None:
    mesh = shapes.make("dolphin", 300)
    factor = truth.tapered(mesh.points, mesh, ("dolphin",))
    assert np.abs(factor[mesh.nodes("dolphin")]).max() < 1e-12 and factor.max() > 0.999
    assert set(mesh.groups) == {"dolphin"} and mesh.quality().min_angle > 8
    assert np.array_equal(truth.tapered(mesh.points, mesh, ()), np.ones(len(mesh)))


def changed(folder: Path, **changes: np.ndarray) -> Path:
    """Write a data set of three trajectories with some arrays of another kind."""
    mesh, rng = shapes.make("hole", 60), np.random.default_rng(0)
    whole = data.Trajectories(mesh, ("u", "v"), np.arange(4) * 0.01, rng.normal(size=(3, 4, len(mesh), 2)))
    path = whole.save(folder / "own.npz")
    np.savez(path, **{**dict(np.load(path)), **changes})
    return path


def test_states_of_any_kind_of_number_train(tmp_path: Path) -> None:
    for kind in (np.float64, np.float16, np.int64):
        config = DataConfig(shape="hole", file=str(changed(tmp_path)), train=1, valid=1, test=1)
        states = np.load(config.file)["states"].astype(kind)
        changed(tmp_path, states=states)
        recipe = Recipe(model=ModelConfig(width=4, operators="least_squares"), data=config, window=3)
        task = make(recipe)
        loss, _ = task.loss(task.module(), task.batch(0, 0, 1), 0)
        assert loss.isfinite() and np.array_equal(data.load(config.file).states, states.astype(np.float32))


@pytest.mark.parametrize(("cut", "words"), [
    (np.s_[:, :, :-1], "N, C = .*its nodes and fields"), (np.s_[..., :1], "N, C = .*its nodes and fields"),
    (None, "2 states are not finite, the first at step 1 of trajectory 0"),
])  # fmt: skip
def test_states_that_are_not_those_of_the_file_are_one_line(tmp_path: Path, cut: object, words: str) -> None:
    states = np.load(changed(tmp_path))["states"]
    states[0, 1, 3, 0] = states[2, 0, 5, 1] = np.nan
    with pytest.raises(DataError, match=words):
        data.load(changed(tmp_path, states=states if cut is None else states[cut]))  # type: ignore[index]


@pytest.mark.parametrize("value", [np.array(0.05), np.ones(2), np.ones((3, 2))])
def test_a_parameter_has_a_value_for_each_trajectory(tmp_path: Path, value: np.ndarray) -> None:
    with pytest.raises(DataError, match="parameter:nu: needs a value for each of 3 trajectories"):
        data.load(changed(tmp_path, **{"parameter:nu": value}))


def test_parts_without_trajectories_join() -> None:
    config = DataConfig(nodes=60, steps=2, dt=0.01, fine=24, modes=1, train=1, valid=1, test=1)
    own, mesh = data.posed(config)
    made = data.simulate(config, own, mesh, 0)
    bare = data.Trajectories.of(mesh, own.fields, made["train"].times, [])
    found = data.joined({"train": made["train"], "valid": bare, "test": bare})
    assert np.array_equal(found.states, made["train"].states) and found.parameters["nu"].tolist() == [5e-3]


@pytest.mark.parametrize(("name", "value", "words"), [
    ("period", np.array(0.0), r"period: needs two lengths, 0 for none; got 0\.0"),
    ("period", np.array([0.0, -1.0]), "period: needs two lengths"),
    ("points", np.full((61, 2), "a"), "points: must be numbers"),
    ("times", np.array(["0", "1", "2", "3"]), "times: must be numbers"),
    ("group:hole", np.arange(7), r"group:hole: needs the nodes of its edges, \[E, 2\]; got \(7,\)"),
    ("group:hole", np.zeros((0, 2), int), "boundary edges belong to no group.*group:NAME.*'hole'"),
    ("parameter:nu", np.array([0.1, np.nan, 0.1]), "parameter:nu: must be finite numbers"),
    ("parameter:nu", np.array(["a", "b", "c"]), "parameter:nu: must be finite numbers"),
    ("parameter:u", np.ones(3), "parameter:u: is a name of something else; .*rename it"),
    ("parameter:t", np.ones(3), "parameter:t: is a name of something else"),
])  # fmt: skip
def test_arrays_of_another_kind_are_one_line(tmp_path: Path, name: str, value: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        data.load(changed(tmp_path, **{name: value}))


def test_numbers_of_any_machine_train(tmp_path: Path) -> None:
    plain = data.load(changed(tmp_path, **{"parameter:nu": np.array([0.1, 0.2, 0.3])}))
    turned = {k: v.astype(v.dtype.newbyteorder(">")) for k, v in np.load(tmp_path / "own.npz").items()
              if v.dtype.kind in "if"}  # fmt: skip
    config = DataConfig(shape="hole", file=str(changed(tmp_path, **turned)), train=1, valid=1, test=1)
    found = data.load(config.file)
    assert np.array_equal(found.states, plain.states) and found.dt == plain.dt
    recipe = Recipe(model=ModelConfig(width=4, operators="least_squares"), data=config, window=3)
    task = make(recipe)
    assert task.loss(task.module(), task.batch(0, 0, 1), 0)[0].isfinite()


def test_the_time_between_states_has_the_digits_of_all_times(tmp_path: Path) -> None:
    late = (9000 + np.arange(4) * 1e-2).astype(np.float32)
    assert data.load(changed(tmp_path, times=late)).dt == pytest.approx(1e-2, rel=0.01)  # the first two: 9.77e-3
    assert data.load(changed(tmp_path)).dt == 0.01


def test_a_parameter_of_ones_own_does_not_stop_a_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = changed(tmp_path, **{"parameter:angle": np.arange(3.0)})
    config = DataConfig(shape="hole", file=str(file), train=1, valid=1, test=1)
    recipe = Recipe(model=ModelConfig(kind="operators", operators="least_squares"), data=config)
    monkeypatch.setattr(verbs, "load", lambda name, mesh: build(recipe, {}))
    found = verbs.rollout("x", steps=1, row=0, every=1, out=None, mesh_file="", members=1, noise=0.0, seed=0)
    assert found["states"] == 2


def test_rates_want_three_states() -> None:
    config = DataConfig(nodes=60, steps=1, dt=0.01, fine=24, modes=1, train=1, valid=1, test=1)
    recipe = Recipe(model=ModelConfig(width=4, operators="least_squares"), data=config, window=2)
    with pytest.raises(DataError, match="states: needs three at least, of which rates are measured; got 2"):
        make(recipe).module()
