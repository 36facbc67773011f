"""Models: the paper's sizes, the exact splitting, orders of time steps, exact solutions, windows, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apps.pde import constraints, fem, metrics, shapes, spectral
from apps.pde.data import Splits, Trajectories, load
from apps.pde.dynamics import Dynamics
from apps.pde.ensemble import Spread
from apps.pde.flow import Flow
from apps.pde.generate import FieldModel
from apps.pde.model import DataConfig, ModelConfig, Recipe
from apps.pde.network import Plus
from apps.pde.stepping import Imex, chebyshev, explicit
from apps.pde.systems import system
from apps.pde.task import FieldTask
from core.errors import DataError, UsageError
from core.run.config import OptimConfig
from core.run.optim import make_optimizer

MESH = shapes.jittered(10)
BURGERS = system("burgers")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_the_faithful_preset_has_the_papers_size_and_splits_exactly() -> None:
    mesh = shapes.make("channel", 130)
    config = ModelConfig(kind="phympgn", operators="cotangent", width=128, rounds=5, block=24)
    net = Dynamics(config, system("cylinder"), mesh, 0.05)
    assert parameters(net) == 950_228
    torch.manual_seed(0)
    u = torch.randn(1, len(mesh), 2)
    split = net.rate(u, 0.0)
    for layer in net.net.layers:  # type: ignore[union-attr]
        layer.split = False
    assert torch.allclose(split, net.rate(u, 0.0), atol=1e-5)
    padded = net.step(u, 0.0)
    assert torch.equal(padded[0, mesh.nodes("left")], torch.tensor([[1.0, 0.0]]).expand(len(mesh.nodes("left")), 2))
    assert not padded[0, mesh.nodes("cylinder")].any() and not padded[0, mesh.nodes("top"), 1].any()


def test_what_is_padded_in_the_latent_state_does_not_move() -> None:
    mesh = shapes.make("hole", 100)
    net = Dynamics(
        ModelConfig(kind="phympgn", operators="cotangent", width=16, rounds=3), system("burgers", "hole"), mesh, 0.1
    )
    assert bool(net.net.fixed[mesh.nodes("hole")].all()) and int(net.net.fixed.sum()) == len(mesh.nodes("hole"))  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("rk4", 4), ("chebyshev", 2), ("imex", 2)])
def test_steps_have_their_order(name: str, order: int) -> None:
    from scipy.sparse import csr_matrix

    A = csr_matrix(np.array([[-2.0, 1.0], [1.0, -2.0]]))
    u0 = torch.tensor([[[1.0], [0.3]]], dtype=torch.float64)

    def rest(u: torch.Tensor, t: float) -> torch.Tensor:
        return torch.sin(u) + torch.cos(torch.as_tensor(3.0 * t, dtype=torch.float64))

    def full(u: torch.Tensor, t: float) -> torch.Tensor:
        return rest(u, t) + torch.einsum("ij,bjc->bic", torch.from_numpy(A.toarray()), u)

    def solve(n: int, method: str) -> torch.Tensor:
        u, dt = u0, 1.0 / n
        imex = Imex(A, [1.0], dt) if method == "imex" else None
        for k in range(n):
            if imex:
                u = imex(rest, lambda v, s: v, u, k * dt)
            elif method == "chebyshev":
                u = chebyshev(full, lambda v, s: v, u, k * dt, dt, 5)
            else:
                u = explicit(full, lambda v, s: v, u, k * dt, dt, method)
        return u

    truth = solve(400, "rk4")
    errors = [float((solve(n, name) - truth).abs().max()) for n in (10, 20)]
    assert np.log2(errors[0] / errors[1]) > order - 0.25


def test_chebyshev_steps_are_stable_as_far_as_the_square_of_their_stages() -> None:
    for stages in (2, 4, 7):
        rates = torch.linspace(0, -0.65 * (stages**2 - 1), 400)[None, :, None]
        one = torch.ones(1, 400, 1)
        after = chebyshev(lambda v, t, own=rates: own * v, lambda v, t: v, one, 0.0, 1.0, stages)
        assert after.abs().max() <= 1 + 1e-6 and after[0, 60:].abs().max() < 0.97
        beyond = chebyshev(lambda v, t, s=stages: -0.75 * (s**2 - 1) * v, lambda v, t: v, one, 0.0, 1.0, stages)
        assert beyond.abs().max() > 1
        line = chebyshev(lambda v, t: torch.full_like(v, 2 * t), lambda v, t: v, one, 0.0, 1.0, stages)
        assert torch.allclose(line, torch.tensor(2.0))  # the stages' own times
    with pytest.raises(UsageError, match="two"):
        chebyshev(lambda v, t: v, lambda v, t: v, one, 0.0, 1.0, 1)


@pytest.mark.parametrize("shape", ["square", "hole"])
def test_a_polynomial_of_the_state_alone_asks_for_laplacians_alone(shape: str) -> None:
    own = BURGERS.on(shape)
    mesh, rng = shapes.make(shape, 150), torch.Generator().manual_seed(0)
    for nonlinear in (False, True):
        config = ModelConfig(width=0, inputs=0, nonlinear=nonlinear, k=25, degree=3)
        net = Dynamics(config, own, mesh, 0.01)
        plus, u = net.net, torch.randn(2, len(mesh), 2, generator=rng)
        assert isinstance(plus, Plus) and net.alone is not None
        net.calibrate(torch.randn(1, 40, len(mesh), 2, generator=rng))
        torch.nn.init.normal_(plus.polynomial.weight, generator=rng)
        powers = torch.nn.functional.linear(plus.powers(u, net.operators(u)), plus.polynomial.weight)
        whole = plus.out * (powers if nonlinear else powers + plus.polynomial.bias)
        assert torch.allclose(plus(u), whole, rtol=1e-4, atol=1e-4 * float(whole.detach().abs().max()))
        fast, net.alone = net.rate(u, 0.0), None
        assert torch.allclose(fast, net.rate(u, 0.0), rtol=1e-5, atol=1e-4)
    assert Dynamics(ModelConfig(width=0, inputs=1), own, mesh, 0.01).alone is None
    assert Dynamics(ModelConfig(kind="operators", knowledge="full"), own, mesh, 0.01).alone is None


def test_operators_alone_solve_burgers() -> None:
    mesh = shapes.jittered(18)
    nu, a = 5e-3, 1.5

    def exact(p: np.ndarray, t: float) -> np.ndarray:
        e, (x, y) = np.exp(-8 * np.pi**2 * nu * t), 2 * np.pi * p.T
        phi = a + e * np.cos(x) * np.cos(y)
        return 4 * np.pi * nu * e / phi * np.stack([np.sin(x) * np.cos(y), np.cos(x) * np.sin(y)])

    for integrator in ("heun", "imex"):
        config = ModelConfig(kind="operators", knowledge="full", integrator=integrator)
        net = Dynamics(config, BURGERS, mesh, 0.02).double()
        u = torch.from_numpy(exact(mesh.points, 0.0).T.copy())[None]
        got = net(u, 25)[0, -1].numpy()
        want = exact(mesh.points, 0.5).T
        assert np.linalg.norm(got - want) / np.linalg.norm(want) < 4e-3


def test_spectral_truth_is_exact_and_elements_converge_to_it() -> None:
    mesh = shapes.jittered(10)

    def start(p: np.ndarray) -> np.ndarray:
        return spectral.initial(p, 0, modes=1)

    solver = spectral.Spectral("burgers", {"nu": 0.02}, 48)
    truth = solver.run(np.moveaxis(start(solver.grid()), -1, 0), 0.01, 20, 20, mesh.points)
    assert np.allclose(truth[0], start(mesh.points), atol=1e-12)
    found = [fem.burgers(mesh, start, 0.02, 0.01 / 2**r, 20 * 2**r, 20 * 2**r, refine=r)[-1] for r in (0, 1)]
    errors = [np.linalg.norm(f - truth[-1]) / np.linalg.norm(truth[-1]) for f in found]
    assert errors[1] < 0.01 and errors[0] / errors[1] > 3
    with pytest.raises(DataError, match="beyond stability"):
        spectral.Spectral("burgers", {"nu": 1e-4}, 32).run(30 * truth_like(32), 0.1, 200, 200)


def truth_like(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, n, n))


def test_poiseuille_flow_is_exact_and_the_time_step_is_guarded() -> None:
    mesh = shapes.relaxed(shapes.Box(2, 1), 0.3, {}, rounds=8)
    flow = Flow(mesh, 0.2, lambda p, t: np.stack([4 * p[:, 1] * (1 - p[:, 1]), 0 * p[:, 0]], 1),
                walls=("bottom", "top"), slip=(), body=("bottom", "top"))  # fmt: skip
    got = flow.run(4.0, 0.02)
    y = mesh.points[:, 1]
    assert np.abs(got.velocity[-1][:, 0] - 4 * y * (1 - y)).max() < 1e-6
    assert got.pressure[-1][mesh.nodes("left")].mean() == pytest.approx(8 * 0.2 * 2, rel=1e-5)
    fast = Flow(mesh, 1e-3, lambda p, t: np.stack([np.ones(len(p)), 0 * p[:, 0]], 1), walls=("bottom", "top"), slip=(),
                body=())  # fmt: skip
    with pytest.raises(DataError, match="beyond stability at t = .*; .*take dt <= "):
        fast.run(20.0, 0.5)


def fake(n: int = 4, T: int = 9) -> Trajectories:
    rng = np.random.default_rng(0)
    start = np.stack([spectral.initial(MESH.points, i, modes=1) for i in range(n)])
    states = start[:, None] * np.exp(-np.arange(T) * 0.05)[None, :, None, None] + 0 * rng.standard_normal()
    return Trajectories(MESH, ("u", "v"), np.arange(T) * 0.01, states.astype(np.float32), {"nu": np.full(n, 5e-3)})


def tiny(**settings: object) -> FieldTask:
    whole = fake()
    config = ModelConfig(width=8, **settings)  # type: ignore[arg-type]
    recipe = Recipe(model=config, data=DataConfig(dt=0.01), batch=2, window=4)
    return FieldTask(
        recipe, Splits(BURGERS, whole.select(slice(0, 2)), whole.select(slice(2, 3)), whole.select(slice(3, 4)))
    )


def test_recomputed_gradients_are_the_kept_ones() -> None:
    grads = []
    for again in (True, False):
        task = tiny(checkpoint=again, correct=True)
        net = task.module()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        loss, _ = task.loss(net, task.batch(3, 0, 1), 3)
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-6) and float(grads[0].abs().max()) > 0


def test_noise_is_fresh_at_each_step_and_a_function_of_it() -> None:
    task = tiny()
    a, b, c = task.batch(0, 0, 1), task.batch(0, 0, 1), task.batch(1, 0, 1)
    assert torch.equal(a.start, b.start) and not torch.equal(a.start, c.start)
    assert np.isfinite(task.validate(task.module(), 0)["loss"])


def test_regression_then_training_learn_what_is_not_told() -> None:
    task = tiny()
    net, known = task.module(), tiny(kind="operators").module()
    alone = task.validate(known, 0)["loss"]
    assert task.validate(net, 0)["loss"] < 0.05 * alone
    with torch.no_grad():
        net.net.polynomial.weight.zero_()  # type: ignore[union-attr]
        net.net.polynomial.bias.zero_()  # type: ignore[union-attr]
    optim = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for step in range(25):
        loss, _ = task.loss(net, task.batch(step, 0, 1), step)
        optim.zero_grad()
        loss.backward()
        optim.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])


def test_the_loss_weighs_the_totals() -> None:
    plain, heavy = tiny(kind="operators"), tiny(kind="operators", totals=50.0)
    net, batch = plain.module(), plain.batch(0, 0, 1)
    without, weighed = (float(t.loss(net, batch, 0)[0]) for t in (plain, heavy))
    out = net(batch.start, 3, batch.time, batch.parameters)
    off = ((out - batch.target) / plain.std).numpy()
    mean = np.einsum("btnc,n->btc", off.astype(np.float64), MESH.node_area / MESH.node_area.sum())
    assert weighed - without == pytest.approx(50 * np.square(mean).mean(), rel=1e-3) and weighed > without


def test_gradients_below_eps_teach_nothing_and_a_smaller_eps_lets_them() -> None:
    moved = []
    for eps in (1e-8, 1e-16):
        weight = torch.nn.Linear(1, 1, bias=False)
        before = weight.weight.item()
        optim = make_optimizer(weight, OptimConfig(lr=1e-2, weight_decay=0.0, eps=eps))
        for _ in range(10):
            optim.zero_grad()
            (1e-11 * weight.weight.sum()).backward()
            optim.step()
        moved.append(abs(weight.weight.item() - before))
    assert moved[0] < 1e-3 and moved[1] > 0.09


def test_samples_do_not_depend_on_their_batch_and_keep_the_boundary(tmp_path) -> None:  # noqa: ANN001
    mesh = shapes.make("hole", 120)
    net = Dynamics(ModelConfig(width=8), system("burgers", "hole"), mesh, 0.01)
    model = FieldModel(net, Recipe(data=DataConfig(modes=2)))
    whole = model.sample(3, steps=3, seed=1)
    assert np.array_equal(model.sample(1, steps=3, seed=1, index=np.array([2]))[0], whole[2])
    assert not any(u[mesh.nodes("hole")].any() for u in whole)
    mean, members = model.ensemble(whole[0], 2, 3, Spread(tendency=0.1))
    assert members.shape == (3, 3, len(mesh), 2) and mean.write(tmp_path / "m.xdmf").is_file()
    with pytest.raises(UsageError, match="one row a node"):
        model.rollout(whole[0][:5], 1)


def test_trajectories_survive_a_file(tmp_path) -> None:  # noqa: ANN001
    whole = fake()
    twin = load(whole.save(tmp_path / "a" / "x.npz"))
    assert np.array_equal(twin.states, whole.states) and twin.mesh.period == MESH.period and twin.fields == whole.fields
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a data set"):
        load(tmp_path / "bad.npz")


def test_projections_of_fields() -> None:
    mesh = shapes.make("hole", 150)
    B, p = constraints.weak_divergence(mesh), mesh.points
    assert np.abs(B @ np.stack([p[:, 1] * 0 + 1, p[:, 0] * 0 + 2], 1).ravel()).max() < 1e-12
    hold = constraints.boundary_values(mesh, 2, {"hole": (0.0, 0.0)})
    both = constraints.no_divergence(mesh, hold)
    u = torch.from_numpy(spectral.initial(p, 0, modes=2)).flatten()[None]
    v = both.project(u)
    assert float(both.violations(v).max()) < 1e-10 and float((v - u).norm() / u.norm()) < 1
    assert not v.reshape(-1, 2)[mesh.nodes("hole")].any()
    total = constraints.totals(mesh, 2, 1, 0.25)
    w = total.project(u).reshape(-1, 2).numpy()
    assert (w[:, 1] * mesh.node_area).sum() == pytest.approx(0.25, abs=1e-12)
    assert np.allclose(w[:, 0], u.reshape(-1, 2)[:, 0])


def test_metrics_by_hand() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((2000,))
    ensemble = rng.standard_normal((20, 2000)) + 0.0
    assert metrics.spread_skill(ensemble, truth) == pytest.approx(1, abs=0.05)
    assert metrics.coverage(ensemble, truth, 0.9) == pytest.approx(0.9, abs=0.04)
    x = rng.standard_normal((4, 3))
    by_hand = np.mean([np.abs(x[:, i] - truth[i]).mean() - sum(
        abs(x[a, i] - x[b, i]) for a in range(4) for b in range(4)) / (2 * 12) for i in range(3)])  # fmt: skip
    assert metrics.crps(x, truth[:3]) == pytest.approx(by_hand)
    t = np.arange(0, 30, 0.05)
    assert metrics.strouhal(np.sin(2 * np.pi * 0.21 * t), 0.05) == pytest.approx(0.21, rel=1e-3)
    assert metrics.break_even(100, 2, 1) == np.inf and metrics.break_even(100, 1, 2) == 100
    mesh = shapes.jittered(20)
    wave = np.stack([np.cos(2 * np.pi * 3 * mesh.points[:, 0]), 0 * mesh.points[:, 0]], 1)
    power = metrics.spectrum(wave, mesh.points, mesh.node_area, 1.0, 6)
    assert power.argmax() == 2 and power[2] == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("mean", "size"), [(0.0, 1e-22), (0.0, 1e12), (300.0, 1e-2)])
def test_metrics_are_those_of_float64_in_any_units(mean: float, size: float) -> None:
    rng = np.random.default_rng(0)
    truth = (mean + size * rng.standard_normal((3, 4000, 2))).astype(np.float32)
    u = (truth + 0.5 * size * rng.standard_normal(truth.shape)).astype(np.float32)
    a, b = (s.astype(np.float64) for s in (u, truth))
    by_hand = [np.corrcoef(*(np.ravel(s[0] - s[0].mean(0)) for s in (a, b)))[0, 1],
               np.linalg.norm(a[0] - b[0]) / np.linalg.norm(b[0])]  # fmt: skip
    assert [metrics.correlation(u, truth)[0], metrics.relative(u, truth)[0]] == pytest.approx(by_hand, rel=1e-9)
    both = np.stack([u, u[::-1]])
    wide = both.astype(np.float64)
    skill = np.sqrt(1.5 * wide.var(0, ddof=1).mean() / np.square(wide.mean(0) - b).mean())
    assert metrics.spread_skill(both, truth) == pytest.approx(skill, rel=1e-9)


def test_a_still_network_leaves_uniform_states_alone() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    states = torch.from_numpy(rng.standard_normal((2, 12, len(MESH), 2)).astype(np.float32))
    uniform = torch.tensor([0.3, -0.2]).expand(1, len(MESH), 2)
    for still in (True, False):
        net = Dynamics(ModelConfig(width=8, operators="least_squares", still=still), BURGERS, MESH, 0.01)
        net.calibrate(states)
        torch.nn.init.normal_(net.net.head[-1].weight)  # type: ignore[union-attr]
        assert bool(net.rate(uniform, 0.0).abs().max() < 1e-3) is still
        assert net.rate(states[:, 0], 0.0).abs().max() > 1
