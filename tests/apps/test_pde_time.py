"""Time: a model keeps the step it was trained with, and a term that depends on t is told when each state was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.pde import data, shapes, spectral
from apps.pde.baselines import Operators, Sparse
from apps.pde.data import Trajectories
from apps.pde.formats import write_mesh
from apps.pde.generate import FieldModel, build
from apps.pde.mesh import Mesh
from apps.pde.model import DataConfig, ModelConfig, Recipe
from apps.pde.systems import system
from apps.pde.task import FieldTask, make
from core.errors import DataError

HOLE = shapes.make("hole", 60)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def measured(path: Path, times: np.ndarray) -> Path:
    """Write three decaying trajectories at some times."""
    start = np.stack([spectral.initial(HOLE.points, k, modes=1) for k in range(3)])
    states = (start[:, None] * np.exp(-times)[None, :, None, None]).astype(np.float32)
    return Trajectories(HOLE, ("u", "v"), times, states).save(path)


def recipe(file: Path, **changes: object) -> Recipe:
    own = DataConfig(shape="hole", file=str(file), dt=0.01, train=1, valid=1, test=1)
    shape = ModelConfig(width=8, operators="least_squares")
    return Recipe(model=shape, data=replace(own, **changes), window=3)  # type: ignore[arg-type]


def test_a_model_of_a_file_keeps_the_files_time_between_states(tmp_path: Path) -> None:
    file = measured(tmp_path / "slow.npz", np.arange(6) * 0.02)
    old = recipe(file)
    one = recipe(file)
    net = make(one).module()
    assert one.data.dt == net.dt == 0.02  # what a checkpoint keeps
    start = data.load(file).states[2, 0]
    for own in (one, old):  # `old` says 0.01, as recipes did that were saved without the file's step
        model = build(own, net.state_dict())
        assert model.net.dt == 0.02 and model.net.system.boundary == net.system.boundary
        assert model.rollout(start, 5).times[-1] == pytest.approx(0.1)
    assert np.array_equal(
        model.rollouts(start[None], 4)[0, 1:], net.eval()(torch.from_numpy(start)[None], 4)[0].detach()
    )
    assert np.array_equal(model.rollouts(start[None], 0), model.rollouts(start[None], 4)[:, :1])


def test_a_model_of_a_file_does_without_it_on_another_mesh(tmp_path: Path) -> None:
    file = measured(tmp_path / "slow.npz", np.arange(6) * 0.02)
    one = recipe(file)
    weights = make(one).module().state_dict()
    box = shapes.relaxed(shapes.Box(1, 1), 0.14, {}, rounds=4)
    sides = {"hole": np.concatenate(list(box.groups.values()))}
    other = write_mesh(tmp_path / "other.vtu", Mesh(box.points, box.triangles, sides))
    assert build(recipe(file), weights, str(other)).net.dt == 0.02
    file.unlink()
    found = build(one, weights, str(other))
    assert found.net.dt == 0.02 and len(found.mesh) == len(box)
    with pytest.raises(DataError, match="no such file"):
        build(one, weights)


def test_a_recipe_keeps_its_own_digits_where_they_are_the_files(tmp_path: Path) -> None:
    file = measured(tmp_path / "late.npz", 30 + np.arange(6) * 0.02)
    one = recipe(file, dt=0.02)
    assert data.load(file).dt != 0.02 and make(one).recipe.data.dt == 0.02
    plain = Recipe(data=DataConfig(nodes=60, steps=3, fine=24, modes=1, train=1, valid=1, test=1),
                   window=3)  # fmt: skip
    assert make(plain).recipe.data.dt == 1e-3


@pytest.mark.parametrize("times", [[0, 0.01, 0.03], [0.0, 0.0, 0.0], [0.02, 0.01, 0.0], [0.0, np.nan, 0.02]])
def test_states_at_unequal_times_are_refused(tmp_path: Path, times: list[float]) -> None:
    file = measured(tmp_path / "odd.npz", np.array(times))
    with pytest.raises(DataError, match=r"times: .*one positive time.*; interpolate"):
        data.load(file)


def test_times_that_are_equal_up_to_rounding_are_taken(tmp_path: Path) -> None:
    for times in (np.arange(2000, dtype=np.float32) * 0.025, 1e3 + np.arange(5) * 1e-3, np.arange(5)):
        few = measured(tmp_path / "a.npz", times[:5])
        assert len(data.load(few).times) == 5
        data._even(times, np.zeros((1, len(times), 1, 1)), few)
    with pytest.raises(DataError, match="two at least"):
        data.load(measured(tmp_path / "one.npz", np.zeros(1)))


TERM = {"u": "5*cos(5*t)", "v": "0"}


def driven(begin: float) -> Trajectories:
    """Return nearly uniform states u = a + sin 5t, v = b from a time on: the term above moves them and nothing else."""
    mesh, rng = shapes.jittered(8), np.random.default_rng(0)
    times = begin + np.arange(31) * 0.01
    states = np.zeros((3, 31, len(mesh), 2), np.float32)
    states[:] = rng.standard_normal((3, 1, 1, 2)) + 1e-3 * rng.standard_normal((3, 1, len(mesh), 2))
    states[..., 0] += np.sin(5 * times)[:, None]
    return Trajectories(mesh, ("u", "v"), times, states)


@pytest.mark.parametrize(("begin", "fine"), [(0.0, 0), (0.4, 0), (0.4, 1)])
def test_a_known_term_is_told_when_each_state_was(begin: float, fine: int) -> None:
    whole, own = driven(begin), system("burgers")
    config = ModelConfig(width=0, inputs=1, operators="least_squares", knowledge="none", terms=TERM, fine=fine)
    task = FieldTask(Recipe(model=config, window=3), data.Splits(own, whole, whole.select(slice(2)), whole))
    model = FieldModel(task.module(), task.recipe)
    sparse = Sparse(Operators(own, whole.mesh, whole.dt, config).net).fit(whole, whole)
    for make_ in (model.rollouts, sparse.rollout):
        out = make_(whole.states[:, 0], 30, None, begin)
        assert np.abs(out - whole.states).max() < 0.02
        assert np.abs(make_(whole.states[:, 0], 30, None, begin + 0.6) - whole.states).max() > 0.5


def test_baselines_and_analyses_begin_at_the_time_of_their_starts() -> None:
    whole, own = driven(0.4), system("burgers")
    config = ModelConfig(operators="least_squares", knowledge="none", terms=TERM, fine=1)
    told = Operators(own, whole.mesh, whole.dt, config)
    assert np.abs(told.rollout(whole.states[:, 0], 30, None, 0.4) - whole.states).max() < 1e-3
    u = torch.from_numpy(whole.states).double()
    gap = told.net.analysed(u, [30], t=0.4)[:, 0, told.net.n :] - u[:, 30].mean(1, keepdim=True)
    assert float(gap.abs().max()) < 0.02
