"""Another mesh: what linear elements carry over, and roll-outs that do not depend on how nodes are numbered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps import pde
from apps.pde import data, shapes, verbs
from apps.pde.data import Splits, Trajectories
from apps.pde.dynamics import Dynamics
from apps.pde.formats import read_mesh, write_mesh
from apps.pde.generate import FieldModel, build
from apps.pde.mesh import Mesh
from apps.pde.model import DataConfig, ModelConfig, Recipe
from apps.pde.systems import system
from apps.pde.transfer import carried, transfer
from core.errors import DataError, UsageError

BOX = shapes.Box(1, 1)
COARSE, FINE = (shapes.relaxed(BOX, h, {}, rounds=8) for h in (0.16, 0.12))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def renumbered(mesh: Mesh) -> tuple[Mesh, np.ndarray]:
    order = np.random.default_rng(1).permutation(len(mesh))
    back = np.argsort(order)
    groups = {k: back[v] for k, v in mesh.groups.items()}
    return Mesh(mesh.points[order], back[mesh.triangles], groups, mesh.period), order


def test_linear_elements_are_exact_on_linear_fields_and_at_nodes() -> None:
    plane = 1 + COARSE.points @ np.array([[2.0, 0.5], [-1.0, 3.0]])
    there = 1 + FINE.points @ np.array([[2.0, 0.5], [-1.0, 3.0]])
    assert np.allclose(carried(COARSE, np.stack([plane, 2 * plane]), FINE), np.stack([there, 2 * there]), atol=1e-12)
    twin, order = renumbered(COARSE)
    assert np.array_equal(carried(COARSE, plane, twin), plane[order]) and carried(COARSE, plane, COARSE) is plane
    P = transfer(COARSE, FINE.points)
    assert P.min() >= 0 and np.allclose(P.sum(1), 1)


def test_triangles_go_on_across_a_periodic_seam() -> None:
    torus, finer = shapes.jittered(24), shapes.jittered(9)
    wave = np.sin(2 * np.pi * torus.points @ np.array([[1.0], [1.0]]))
    error = carried(torus, wave, finer) - np.sin(2 * np.pi * finer.points @ np.array([[1.0], [1.0]]))
    assert np.abs(error).max() < 0.03


def test_what_lies_a_little_outside_takes_the_boundarys_value() -> None:
    values = COARSE.points[:, 0]
    assert transfer(COARSE, np.array([[1.01, 0.5], [-0.01, -0.01]])) @ values == pytest.approx([1, 0], abs=1e-12)
    with pytest.raises(UsageError, match=r"mesh: reaches 1 beyond the mesh of the trajectories.*same domain"):
        transfer(COARSE, np.array([[2.0, 0.5]]))


def test_rollouts_on_another_mesh_are_those_of_the_same_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = replace(system("burgers"), boundary=dict.fromkeys(COARSE.groups, "free"))
    config = ModelConfig(kind="operators", knowledge="full", operators="least_squares")
    wave = np.sin(2 * COARSE.points)[None, None] * np.exp(-np.arange(5) * 0.01)[None, :, None, None]
    test = Trajectories(COARSE, ("u", "v"), np.arange(5) * 1e-3, wave.astype(np.float32))

    def load(name: str, file: str = "") -> FieldModel:
        return FieldModel(Dynamics(config, own, read_mesh(file) if file else COARSE, test.dt), Recipe())

    monkeypatch.setattr(pde, "load", load)
    monkeypatch.setattr(data, "splits", lambda config, seed: Splits(own, test, test, test))
    files = [write_mesh(tmp_path / f"{k}.vtu", m) for k, m in enumerate((renumbered(COARSE)[0], FINE))]
    plan = {"steps": 4, "row": 0, "every": 1, "out": None, "members": 1, "noise": 0.0, "seed": 0}
    plain, same, new = (verbs.rollout("x", mesh_file=str(m), **plan) for m in ("", *files))  # type: ignore[arg-type]
    assert same["mse"] == pytest.approx(plain["mse"], rel=1e-3) and same["correlation_end"] > 0.999
    assert new["states"] == 5 and new["correlation_end"] > 0.99


def test_ensembles_are_calibrated_on_the_models_own_nodes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own, (twin, _) = system("burgers"), renumbered(COARSE)
    valid = Trajectories(COARSE, ("u", "v"), np.arange(3) * 1e-3, np.zeros((1, 3, len(COARSE), 2), np.float32))
    monkeypatch.setattr(data, "splits", lambda config, seed: Splits(own, valid, valid, valid))
    free = replace(own, boundary=dict.fromkeys(COARSE.groups, "free"))
    net = Dynamics(ModelConfig(kind="operators", operators="least_squares"), free, twin, 1e-3)
    with pytest.raises(UsageError, match="calibrated on the mesh of the recipe"):
        FieldModel(net, Recipe()).calibrate(0)


@pytest.mark.parametrize("unit", [1.0, 2 * np.pi])
def test_a_model_of_a_torus_stays_on_one_on_another_mesh(tmp_path: Path, unit: float) -> None:
    points = np.stack(np.meshgrid(*[np.linspace(0, unit, 13)] * 2, indexing="ij"), -1).reshape(-1, 2)
    i = np.arange(169).reshape(13, 13)
    a, b, c, d = (k.ravel() for k in (i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]))
    cells = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    used, cells = np.unique(cells[np.abs(points[cells].mean(1) / unit - 0.5).max(1) > 0.2], return_inverse=True)
    bare = Mesh(points[used], cells.reshape(-1, 3))
    middle = bare.points[bare.boundary].mean(1) / unit
    sides = (np.minimum(middle, 1 - middle).min(1) < 1e-9).astype(int)
    parts = {n: bare.boundary[sides == k] for k, n in enumerate(("hole", "sides"))}
    file = write_mesh(tmp_path / "cut.msh", Mesh(bare.points, bare.triangles, parts))
    recipe = Recipe(model=ModelConfig(kind="operators", operators="least_squares"), data=DataConfig(shape="hole"))
    if unit != 1:
        own = shapes.make("hole", 100)
        own = Mesh(own.points * unit, own.triangles, own.groups, (unit, unit))
        whole = Trajectories(own, ("u", "v"), np.arange(3) * 1e-3, np.zeros((3, 3, len(own), 2), np.float32))
        recipe.data.file = str(whole.save(tmp_path / "own.npz"))
    found = build(recipe, {}, str(file)).mesh
    assert found.period == (unit, unit) and set(found.groups) == {"hole"}
    with pytest.raises(DataError, match="boundary part 'sides' has no condition"):
        build(replace(recipe, data=replace(recipe.data, file="", mesh=str(file))), {})
