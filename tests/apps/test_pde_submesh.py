"""A finer mesh inside: what refinement keeps, what interpolation is exact on, and what the analysis finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from apps.pde import baselines, shapes, spectral
from apps.pde.baselines import Operators
from apps.pde.data import Trajectories
from apps.pde.dynamics import Dynamics
from apps.pde.ensemble import Spread, members
from apps.pde.generate import FieldModel
from apps.pde.mesh import Mesh
from apps.pde.model import ModelConfig, Recipe
from apps.pde.network import Plus
from apps.pde.stencils import monomials
from apps.pde.submesh import DEGREE, interpolation, refined
from apps.pde.systems import system
from core.errors import UsageError

BURGERS = replace(system("burgers"), parameters={"nu": 0.01})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["square", "hole", "cuts"])
def test_refinement_keeps_area_nodes_and_named_parts(name: str) -> None:
    mesh = shapes.make(name, 150)
    fine = refined(mesh)
    assert len(fine) == len(mesh) + len(mesh.edges) and len(fine.triangles) == 4 * len(mesh.triangles)
    assert np.array_equal(fine.points[: len(mesh)], mesh.points)
    assert np.isclose(fine.signed_area.sum(), mesh.signed_area.sum(), rtol=1e-12) and (fine.signed_area > 0).all()
    assert np.allclose(np.sort(fine.signed_area), np.sort(np.repeat(mesh.signed_area / 4, 4)), rtol=1e-9)
    assert {g: 2 * len(e) for g, e in mesh.groups.items()} == {g: len(e) for g, e in fine.groups.items()}
    named = {tuple(sorted(e)) for part in fine.groups.values() for e in part.tolist()}
    assert named == {tuple(sorted(e)) for e in fine.boundary.tolist()}


def test_interpolation_keeps_the_nodes_and_is_exact_on_polynomials() -> None:
    mesh = shapes.make("channel", 200)
    fine, P = refined(mesh), interpolation(mesh)
    values = monomials(fine.points / 16, DEGREE)
    given = values[: len(mesh)]
    assert np.array_equal((P @ given)[: len(mesh)], given)
    assert np.allclose(P @ given, values, atol=1e-9)
    torus = shapes.make("square", 300)
    fine = refined(torus)
    wave = np.sin(2 * np.pi * (fine.points @ (1, 2)))  # it goes on across the seam
    assert np.abs(interpolation(torus) @ wave[: len(torus)] - wave).max() < 1e-3


def test_the_mesh_inside_meets_the_boundary_conditions_and_gives_back_the_data() -> None:
    mesh = shapes.make("hole", 200)
    net = Dynamics(ModelConfig(kind="operators", knowledge="full", fine=1), system("burgers", "hole"), mesh, 1e-3)
    u = torch.from_numpy(spectral.initial(mesh.points, 3, modes=2)).float()[None]
    u[:, mesh.nodes("hole")] = 0
    w = net.enter(u)
    assert torch.equal(net.leave(w), u)
    edge = refined(mesh).nodes("hole")
    assert len(edge) == 2 * len(mesh.nodes("hole"))
    assert not w[:, edge].any() and not net.step(w, 0.0)[:, edge].any()
    assert torch.equal(net.free, ~torch.isin(torch.arange(len(mesh)), torch.from_numpy(mesh.nodes("hole"))))
    assert net(u, 3).shape == (1, 3, *u.shape[1:])
    with pytest.raises(UsageError, match="finer mesh"):
        Dynamics(ModelConfig(fine=1, refine=2), system("burgers", "hole"), mesh, 1e-3)


@pytest.fixture(scope="module")
def steep() -> tuple[Mesh, np.ndarray]:
    """Burgers' equation with fronts narrower than the edges: two trajectories [2, T, N, C]."""
    mesh = shapes.make("square", 250)
    solver = spectral.Spectral("burgers", BURGERS.parameters, 64)
    starts = [np.moveaxis(spectral.initial(solver.grid(), k, modes=3), -1, 0) for k in (11, 12)]
    return mesh, np.stack([solver.run(s, 2e-3, 150, 1, mesh.points) for s in starts]).astype(np.float32)


def test_the_equation_is_solved_better_inside(steep: tuple[Mesh, np.ndarray]) -> None:
    mesh, truth = steep
    errors = []
    for fine in (0, 1):
        told = Operators(BURGERS, mesh, 2e-3, ModelConfig(knowledge="full", fine=fine))
        errors.append(np.square(told.rollout(truth[:, 0], 150) - truth).mean())
    assert errors[1] < 0.1 * errors[0]


def test_the_analysis_keeps_to_the_data_and_makes_the_regression_better(
    steep: tuple[Mesh, np.ndarray],
) -> None:
    mesh, truth = steep
    u, errors = torch.from_numpy(truth), []
    for sweeps in (0, 2):
        torch.manual_seed(0)
        net = Dynamics(ModelConfig(width=0, fine=1, sweeps=sweeps), BURGERS, mesh, 2e-3)
        net.calibrate(u[:1])
        with torch.inference_mode():
            errors.append(float((net(u[1:, 0], 150) - u[1:, 1:]).square().mean()))
    assert errors[1] < 0.2 * errors[0]
    kept = net.analysed(u, [0, 7, 30])
    assert torch.allclose(net.leave(kept.flatten(0, 1)), u[:, [0, 7, 30]].flatten(0, 1), atol=1e-6)
    assert torch.allclose(net.analysed(u[1:], [30])[0, 0], kept[1, 2], atol=1e-5)


def test_a_sparse_regression_inside_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    own, mesh = system("gray_scott"), shapes.make("square", 300)
    solver = spectral.Spectral(own.name, own.parameters, 48)
    states = np.stack([solver.run(spectral.spots(48, k), 0.5, 30, 1, mesh.points) for k in (1, 2)]).astype(np.float32)
    data = Trajectories(mesh, own.fields, np.arange(31) * 0.5, states, {}, {})
    shape = ModelConfig(fine=1, k=25, degree=3, integrator="chebyshev", stages=3)
    found = []
    for held in (1_000_000, 7 * len(refined(mesh))):
        monkeypatch.setattr(baselines, "HELD", held)
        found.append(baselines.Sparse(Operators(own, mesh, 0.5, shape).net).fit(data))
    assert found[0].weights is not None and found[1].weights is not None
    assert np.allclose(found[0].weights, found[1].weights, atol=1e-5)
    error = np.square(found[0].rollout(states[:, 0], 30) - states).mean()
    known = np.square(Operators(own, mesh, 0.5, shape).rollout(states[:, 0], 30) - states).mean()
    assert error < 0.2 * known


def test_roll_outs_and_members_go_on_inside_and_are_given_at_the_nodes() -> None:
    mesh = shapes.make("cuts", 150)
    net = Dynamics(ModelConfig(kind="operators", knowledge="full", fine=1), system("burgers", "cuts"), mesh, 2e-3)
    model = FieldModel(net, Recipe())
    start = spectral.initial(mesh.points, 5, modes=2).astype(np.float32)
    alone = model.rollout(start, 6).states
    assert alone.shape == (7, len(mesh), 2) and np.array_equal(alone[0], start)
    assert np.allclose(model.rollouts(start[None], 6)[0], alone, atol=1e-6)
    again = model.rollout(alone[3], 3).states[-1]  # a start anew forgets what lay between the nodes
    assert not np.allclose(again, alone[6], atol=1e-6) and np.allclose(again, alone[6], atol=0.05)
    own = members(net, torch.from_numpy(start)[None], 6, Spread(tendency=0.1), 3)
    assert own.shape == (1, 3, 7, len(mesh), 2) and np.allclose(own[0, :, 0], start)
    assert 0 < own.std(1)[0, -1].max() < 0.5


def test_a_relative_regression_hears_small_states_beside_large_ones() -> None:
    mesh, rng = shapes.make("square", 100), torch.Generator().manual_seed(0)
    n = len(mesh)
    size = torch.tensor([1.0] * 20 + [1e-2] * 20)[:, None, None]  # the large ones err
    u = size * torch.randn(40, n, 2, generator=rng)
    rest = u + 0.3 * size**3 * torch.sign(u)
    found = []
    for relative in (False, True):
        net = Dynamics(ModelConfig(width=0, inputs=0), BURGERS, mesh, 2e-3).net
        assert isinstance(net, Plus)
        net.fit([(u.repeat(3, 1, 1), None, rest)], torch.ones(n, dtype=torch.bool), torch.ones(n, 1), relative=relative)
        small = u[20:]
        found.append(float((net(small) / small - 1).detach().abs().median()))
    assert found[1] < 0.5 * found[0]
