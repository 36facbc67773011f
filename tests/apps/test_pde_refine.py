"""The refiner, functions of the state, what a model may be told of small states, and sides without flux."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from apps.pde import fem, hermite, shapes, stencils, task
from apps.pde.boundary import insulated, read_conditions
from apps.pde.dynamics import Dynamics
from apps.pde.lift import Lift
from apps.pde.model import ModelConfig
from apps.pde.operators import Operators
from apps.pde.refine import Refiner, levels
from apps.pde.systems import system
from core.denoiser import GaussianPrediction
from core.errors import UsageError
from core.noise import Stream
from core.process.gaussian import Cosine, Gaussian
from tests.apps.test_pde_model import MESH, tiny

BURGERS, SPAN = system("burgers"), 0.01


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def states(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, len(MESH), 2, generator=torch.Generator().manual_seed(seed))


def test_levels_of_noise_fall_geometrically_to_none() -> None:
    process = Gaussian(Cosine())
    sigma = process.schedule.sigma(levels(process, 3))
    assert torch.allclose(sigma, torch.tensor([1.0, 0.1**0.5, 0.1, 0.0]).double(), atol=1e-12)
    assert levels(process, 1).tolist() == [1.0, 0.0]


def test_an_untrained_refiner_of_one_call_is_the_physics_step_and_a_perfect_one_the_truth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after, truth = states(2), states(2, 1), states(2, 2)
    assert torch.allclose(Refiner(MESH, 2, 1)(before, after, SPAN, 0.0), after, atol=1e-7)
    net = Refiner(MESH, 2, 3)
    net.measure(before, after, truth, SPAN)
    r = (truth - after) / (SPAN * net.scale[2])
    assert torch.allclose(r.square().mean((0, 1)), torch.ones(2), atol=1e-5)
    monkeypatch.setattr(net, "denoiser", lambda: lambda x, t, seen: GaussianPrediction(r))
    assert torch.allclose(net(before, after, SPAN, 0.0), truth, atol=1e-5)


def test_refined_steps_depend_on_time_and_stream_and_not_on_the_batch() -> None:
    net, before, after = Refiner(MESH, 2, 3).double(), states(3).double(), states(3, 1).double()
    for p in net.decoder.parameters():
        torch.nn.init.normal_(p)
    whole = net(before, after, SPAN, 0.5)
    assert torch.allclose(net(before[1:2], after[1:2], SPAN, 0.5), whole[1:2], atol=1e-6)
    own = net(before, after, SPAN, 0.5, Stream.of(4, 3))
    assert torch.allclose(own[1:2], net(before[1:2], after[1:2], SPAN, 0.5, Stream.of(4, 1, 1)), atol=1e-6)
    for other in (net(before, after, SPAN, 0.51), own):
        assert float((other - whole).abs().max()) > 1e-3


def test_a_refiner_learns_what_the_step_leaves() -> None:
    net, losses = Refiner(MESH, 2, 3, width=16, rounds=1), []
    optim = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(60):
        before = states(4, step)
        after = before + 0.1 * SPAN * before.flip(-1)
        truth = after + 0.05 * SPAN * before
        if step == 0:
            net.measure(before, after, truth, SPAN)
        loss = net.loss(before, after, truth, SPAN, Stream.of(0, 4).fold(step))
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    with torch.no_grad():
        missed = [float((v - truth).square().mean()) for v in (after, net(before, after, SPAN, 0.0))]
    assert missed[1] < 0.3 * missed[0]


def test_the_refiner_does_not_pull_at_the_physics_and_may_be_trained_on_a_kept_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tiny(refine=2)
    net = own.module()
    own._refining(net, own.batch(0, 0, 1), 0).backward()
    pulled = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
    assert pulled == {"refiner"}
    kept = {k: v for k, v in tiny().module().state_dict().items()}
    kept["net.polynomial.bias"] = kept["net.polynomial.bias"] + 1
    monkeypatch.setattr(task.checkpoint, "load", lambda path, app: SimpleNamespace(inference=kept))
    later = replace(own, recipe=replace(own.recipe, base="somewhere"))
    net = later.module()
    assert torch.equal(net.net.polynomial.bias, kept["net.polynomial.bias"])  # type: ignore[union-attr]
    assert {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad} == {"refiner"}
    assert set(later.loss(net, later.batch(0, 0, 1), 0)[1]) == {"refiner"}
    wide = replace(own.recipe, base="somewhere", model=replace(own.recipe.model, width=9))
    with pytest.raises(UsageError, match="another shape"):
        replace(own, recipe=wide).module()


def test_functions_of_the_state_obey_the_chain_rule_and_may_start_at_second_order() -> None:
    mesh = shapes.jittered(40)
    x, y = torch.from_numpy(2 * np.pi * mesh.points).T
    u = torch.stack([torch.sin(x) * torch.cos(y), torch.cos(x)], -1)[None]
    operators, lift = Operators(mesh).double(), Lift(2, 3).double()
    lift.map.weight.data[:, 1] = 0
    lap, square = lift.raw(operators(lift(u)))
    dx, dy, flat = (d[..., :1] for d in operators(u))
    w, phi = lift.map.weight[:, 0], lift(u)
    slope = dx**2 + dy**2
    exact = (1 - phi**2) * (w * flat - 2 * phi * w**2 * slope), ((1 - phi**2) * w) ** 2 * slope
    for got, want in zip((lap, square), exact, strict=True):
        assert float((got - want).norm() / want.norm()) < 0.01
    curved = Lift(2, 3, nonlinear=True).double()
    curved.mean.fill_(0.4)
    big, small = (float(curved(h * u).abs().max()) for h in (1e-2, 1e-3))
    assert big / small == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("lift", [0, 3])
def test_a_model_told_so_has_no_linear_rest(lift: int) -> None:
    u = states(1) * 0.1
    for told in (True, False):
        net = Dynamics(ModelConfig(width=8, lift=lift, nonlinear=told), BURGERS, MESH, 0.01).double()
        for p in net.net.parameters():  # type: ignore[union-attr]
            torch.nn.init.normal_(p, std=0.3)
        h = 1e-4
        rest = [net.parts(h * s * u.double(), 0.0)[1] for s in (1, 2)]
        assert (float(rest[1].norm() / rest[0].norm()) == pytest.approx(4, rel=0.01)) is told


def test_sides_without_flux_are_in_the_stencils() -> None:
    errors = []
    for n in (10, 20):
        mesh = shapes.relaxed(shapes.Box(1, 1), 1 / n, {}, rounds=10, scatter=0.2)
        made = hermite.insulated(mesh, stencils.rbf(mesh), list(mesh.groups), 4, 5)
        x, y = np.pi * mesh.points.T
        u = np.cos(x) * np.cos(2 * y)
        exact = {"lap": -5 * np.pi**2 * u, "dx": -np.pi * np.sin(x) * np.cos(2 * y)}
        errors.append([np.linalg.norm(made.matrix(k) @ u - v) / np.linalg.norm(v) for k, v in exact.items()])
        assert np.abs(made.matrix("lap") @ np.ones(len(mesh))).max() < 1e-6 * n**2
    assert (np.log2(np.divide(*errors)) > 2.4).all()


def test_cut_sides_without_flux_keep_diffusion_stable() -> None:
    own = system("burgers", "cuts")
    mesh = shapes.make("cuts", 300)
    conditions = read_conditions(mesh, own.boundary, own.fields, ("nu",))
    sides = insulated(conditions)
    assert sides == list(mesh.groups)
    assert np.linalg.eigvals(Operators(mesh, "rbf", 0, 0, sides).matrices["lap"].toarray()).real.max() < 1e-6
    net = Dynamics(ModelConfig(kind="operators"), own, mesh, 1e-3)
    assert not any(net.boundary.solved)
    flux = {**own.boundary, "left": "neumann(1)"}
    assert "left" not in insulated(read_conditions(mesh, flux, own.fields, ("nu",)))


def test_a_start_is_projected_onto_elements() -> None:
    box = shapes.relaxed(shapes.Box(1, 1), 0.3, {}, rounds=5)
    (space,), _ = fem.spaces(box, (2,), 0)
    assert np.allclose(space.project(square), square(space.points))
    (space,), _ = fem.spaces(shapes.jittered(8), (2,), 0)
    wave = np.cos(6 * np.pi * space.points[:, :1])
    drawn = space.project(lambda p: np.cos(6 * np.pi * p[:, :1]))
    made, interpolated = (abs((space.mass @ v).sum()) for v in (drawn, wave))  # the integral is 0
    assert made < 0.3 * interpolated


def square(p: np.ndarray) -> np.ndarray:
    return np.stack([p[:, 0] ** 2 - p[:, 0] * p[:, 1], 1 + p[:, 1]], 1)
