"""Flow matching, reflow, consistency and mean flow against closed forms on Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmarks._mixture import Oracle, toy
from core.denoiser import GaussianPrediction, Preconditioned
from core.errors import UsageError
from core.noise import Stream
from core.objective.flow import Clocked, couple, flow_loss, log_normal, logit_normal, straightness, u_shape, uniform
from core.objective.flow_map import Consistent, along, consistency_loss, draw_pairs, mean_flow_loss
from core.process.gaussian import KINDS, Cosine, Exploding, Gaussian, Rectified
from core.sample import integrate
from core.solvers import adams as A
from core.solvers import grid as G

D64 = torch.float64
RF, VP = Gaussian(Rectified()), Gaussian(Cosine())
MEAN, STD = 0.7, 0.4


def line(process: Gaussian):  # noqa: ANN201
    """The exact denoiser of N(MEAN, STD^2) in every coordinate."""

    def predict(x: Tensor, t: Tensor, context: object = None) -> GaussianPrediction:
        time = torch.as_tensor(t, dtype=D64).reshape(-1, *[1] * (x.ndim - 1)) if torch.as_tensor(t).ndim else t
        alpha, sigma = process.schedule.alpha(time), process.schedule.sigma(time)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        return GaussianPrediction(MEAN + gain * (x - alpha * MEAN))

    return predict


def jump(process: Gaussian, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
    """The exact flow of N(MEAN, STD^2) from t to s."""
    path = process.schedule
    spread = [torch.hypot(path.alpha(v) * STD, path.sigma(v)) for v in (t, s)]
    return path.alpha(s) * MEAN + spread[1] / spread[0] * (x - path.alpha(t) * MEAN)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_differ_by_the_gain_only(kind: str) -> None:
    mixture = toy()
    x_0, t = mixture.sample(7, 1), torch.linspace(0.1, 0.9, 7, dtype=D64)
    wrong = lambda x, t, context=None: GaussianPrediction(torch.tanh(x))  # noqa: E731
    for i in range(7):
        row, stream = x_0[i : i + 1], Stream.of(0, 1, first=i)
        plain = flow_loss(wrong, VP, row, stream, kind="data", times=t[i : i + 1])[0]
        found = flow_loss(wrong, VP, row, stream, kind=kind, times=t[i : i + 1])[0]  # type: ignore[arg-type]
        assert float(found) == pytest.approx(float(plain * VP.gain(kind, t[i]) ** 2), rel=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["data", "flow", "velocity"])
def test_the_exact_denoiser_is_the_minimiser(kind: str) -> None:
    """The derivative of the expected loss in any direction vanishes there: here 1, x and x^2."""
    x_0 = MEAN + STD * Stream.of(1, 20_000).normal(1)
    for t in (0.3, 0.8):
        time = torch.full((20_000,), t, dtype=D64)

        def loss(step: Tensor, time: Tensor = time) -> Tensor:
            def moved(x: Tensor, at: Tensor, context: object = None) -> GaussianPrediction:
                return GaussianPrediction(line(RF)(x, at).mean + step[0] + step[1] * x + step[2] * x**2)

            return flow_loss(moved, RF, x_0, Stream.of(2, 20_000), kind=kind, times=time)[0]  # type: ignore[arg-type]

        zero = torch.zeros(3, dtype=D64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(zero), zero)
        curve = float(RF.gain(kind, t) ** 2)  # type: ignore[arg-type]
        assert float(slope.abs().max()) < 0.02 * curve


def test_gradients_are_finite_differences_and_per_site_times_are_read() -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 3).double()
    denoiser = Preconditioned(lambda x, c, context: net(x), RF)
    x_0, t = torch.randn(4, 5, 3, dtype=D64), torch.rand(4, 5, dtype=D64) * 0.8 + 0.1
    value = lambda: flow_loss(denoiser, RF, x_0, Stream.of(0, 4), times=t)[0]  # noqa: E731
    (slope,) = torch.autograd.grad(value(), [net.bias])
    with torch.no_grad():
        net.bias[1] += 1e-6
        up = value()
        net.bias[1] -= 2e-6
        assert float(slope[1]) == pytest.approx(float(up - value()) / 2e-6, rel=1e-6)


def test_huber_approaches_the_distance_and_the_square() -> None:
    x_0 = torch.randn(6, 4, dtype=D64)
    wrong = lambda x, t, context=None: GaussianPrediction(torch.zeros_like(x))  # noqa: E731
    options = {"kind": "data", "times": torch.full((6,), 0.5, dtype=D64)}
    small, large = (flow_loss(wrong, RF, x_0, Stream.of(0, 6), huber=c, **options)[0] for c in (1e-9, 1e4))
    assert float(small) == pytest.approx(float(x_0.norm(dim=-1).mean()), rel=1e-6)
    assert float(large) == pytest.approx(float(x_0.square().sum(-1).mean() / 2e4), rel=1e-4)


def test_times_have_their_stated_laws() -> None:
    u = (torch.arange(100_000, dtype=D64) + 0.5) / 100_000
    t = logit_normal(0.3, 0.8)(u)
    assert (t / (1 - t)).log().mean() == pytest.approx(0.3, abs=1e-3)
    assert (t / (1 - t)).log().std() == pytest.approx(0.8, abs=1e-3)
    process = Gaussian(Exploding(80.0))
    rho = process.schedule.sigma(log_normal(process, -1.2, 1.2)(u))
    assert rho.log().mean() == pytest.approx(-1.2, abs=1e-3) and rho.log().std() == pytest.approx(1.2, abs=1e-3)
    t = u_shape(4.0)(u)
    slope = (u[1:] - u[:-1]) / (t[1:] - t[:-1])  # the density
    expected = 4 * torch.cosh(4 * (t[1:] + t[:-1] - 1)) / math.sinh(4)
    assert torch.allclose(slope, expected, rtol=1e-4)
    drawn = Clocked(uniform(), 0.01, 0.99)(Stream.of(0, 50))
    assert drawn.min() >= 0.01 and drawn.max() <= 0.99
    assert torch.equal((drawn * 50).long().sort().values[1:-1], torch.arange(1, 49))


def test_reflow_straightens_the_paths_of_a_gaussian() -> None:
    noise = torch.randn(9, 2, dtype=D64)
    pairs = couple(line(RF), RF, A.adams(RF, G.uniform(RF, 60)), noise)
    assert torch.allclose(pairs, MEAN + STD * noise, atol=1e-5)

    def coupled(x: Tensor, t: Tensor, context: object = None) -> GaussianPrediction:
        t = t.reshape(-1, 1) if torch.as_tensor(t).ndim else t
        eps = (x - (1 - t) * MEAN) / ((1 - t) * STD + t)
        return GaussianPrediction(MEAN + STD * eps)

    times = torch.linspace(0.05, 0.95, 10, dtype=D64)
    assert float(straightness(coupled, RF, pairs, noise, times).max()) <= 1e-8
    assert float(straightness(line(RF), RF, MEAN + STD * noise.flip(0), noise, times).mean()) > 0.1
    assert float(flow_loss(coupled, RF, pairs, Stream.of(0, 9), noise=noise)[0]) <= 1e-8
    one = integrate(coupled, A.adams(RF, [1.0, 0.0], 1, "flow", "time"), noise)
    assert torch.allclose(one, pairs, atol=1e-5)


@pytest.mark.parametrize("process", [RF, Gaussian(Exploding(80.0), 0.5)], ids=["rectified", "exploding"])
def test_consistency_functions_are_the_identity_on_data(process: Gaussian) -> None:
    f = Consistent(lambda x, c, context: torch.tanh(x) + 3, process, 1e-2)
    x = torch.randn(4, 3)
    assert torch.allclose(f(x, 1e-2).mean, x / process.schedule.alpha(1e-2).float(), atol=1e-6)
    assert float((f(x, 0.9).mean - x).abs().max()) > 0.1


def test_the_exact_map_has_no_consistency_loss_under_an_exact_teacher() -> None:
    x_0, t_min = MEAN + STD * torch.randn(64, 2, dtype=D64), 1e-3
    exact = lambda x, t, context=None: GaussianPrediction(  # noqa: E731
        jump(VP, x, t.reshape(-1, 1), t_min)
    )
    losses = []
    for n in (16, 32, 64):
        grid = G.uniform(VP, n, 0.99, t_min)
        loss, metrics = consistency_loss(exact, exact, VP, x_0, Stream.of(0, 64), grid, teacher=line(VP), huber=0.0)
        assert float(metrics["distance"]) > 0
        losses.append(float(loss))
    assert losses[1] < losses[0] / 3 and losses[2] < losses[1] / 3  # the teacher's step is of order 1
    without = consistency_loss(exact, exact, VP, x_0, Stream.of(0, 64), G.uniform(VP, 64, 0.99, t_min), huber=0.0)[0]
    assert float(without) > losses[2]


def test_only_the_student_learns_from_the_consistency_loss() -> None:
    torch.manual_seed(0)
    student, target = (nn.Linear(2, 2).double() for _ in range(2))
    maps = [Consistent(lambda x, c, context, net=net: net(x), RF) for net in (student, target)]
    x_0, grid = torch.randn(8, 2, dtype=D64), G.uniform(RF, 10, 0.99, 1e-3)
    loss, _ = consistency_loss(maps[0], maps[1], RF, x_0, Stream.of(0, 8), grid)
    loss.backward()
    assert student.weight.grad is not None and target.weight.grad is None
    t, s = draw_pairs(grid, Stream.of(0, 8))
    assert bool((t > s).all()) and bool(torch.isin(t, grid).all())


def average(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """The exact average velocity of N(MEAN, STD^2) on the rectified flow."""
    r, t = r.reshape(-1, 1), t.reshape(-1, 1)
    gap = torch.where(t == r, 1.0, t - r)
    return torch.where(t == r, line(RF)(x, t[:, 0]).output("flow", x, t, RF), (x - jump(RF, x, t, r)) / gap)


def test_the_mean_flow_identity_holds_on_gaussian_data() -> None:
    x, r, t = torch.randn(5, 2, dtype=D64), torch.rand(5, dtype=D64) * 0.4, torch.rand(5, dtype=D64) * 0.4 + 0.5
    v = line(RF)(x, t).output("flow", x, t, RF)
    for derivative, bar in (("jvp", 1e-12), ("central", 1e-3)):
        change = along(average, x, r, t, v, derivative, 5e-3)
        assert float((average(x, r, t) - v + (t - r)[:, None] * change).abs().max()) <= bar
    u = (t + r) / 2  # jumps compose
    through = jump(RF, jump(RF, x, t[:, None], u[:, None]), u[:, None], r[:, None])
    assert torch.allclose(x - (t - r)[:, None] * average(x, r, t), through, rtol=1e-12)


@pytest.mark.parametrize("derivative", ["jvp", "central"])
def test_mean_flow_loss_is_least_at_the_average_velocity(derivative: str) -> None:
    x_0 = MEAN + STD * Stream.of(1, 20_000).normal(1)
    options = {"derivative": derivative}

    def loss(shift: float) -> float:
        moved = lambda x, r, t: average(x, r, t) + shift  # noqa: E731
        return float(mean_flow_loss(moved, RF, x_0, Stream.of(2, 20_000), **options)[0])  # type: ignore[arg-type]

    assert loss(0.0) < loss(0.1) and loss(0.0) < loss(-0.1)
    with pytest.raises(UsageError, match="rectified"):
        mean_flow_loss(average, VP, x_0, Stream.of(0, 20_000))


def test_a_small_network_learns_a_mixture() -> None:
    """Flow matching for two seconds, judged by the exact denoiser."""
    torch.manual_seed(0)
    mixture = toy(d=2, components=3)
    net = nn.Sequential(nn.Linear(3, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 2))

    def network(x: Tensor, c: Tensor, context: object) -> Tensor:
        return net(torch.cat([x, c.reshape(-1, 1).expand(len(x), 1)], -1))

    denoiser, x_0 = Preconditioned(network, RF), mixture.sample(4096, 0).float()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(250):
        rows = torch.arange(512) + 512 * (step % 8)
        loss, _ = flow_loss(denoiser, RF, x_0[rows], Stream(0, rows).fold(step), kind="velocity")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    oracle, t = Oracle(mixture, RF), torch.tensor(0.5, dtype=D64)
    x = RF.corrupt(mixture.sample(500, 1), t, torch.randn(500, 2, dtype=D64))
    with torch.no_grad():
        error = (denoiser(x.float(), t).mean - oracle(x, t).mean).square().mean()
        prior = (x_0.double().mean(0) - oracle(x, t).mean).square().mean()
    assert float(error) < 0.1 * float(prior)
