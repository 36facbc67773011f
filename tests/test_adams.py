"""The coefficient engine against formulas written from the papers, exact flows and recorded peers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks._mixture import GOLDEN, Mixture, Oracle, exact_flow, slope, toy
from benchmarks._peers import recorded
from core.denoiser import GaussianPrediction
from core.errors import UsageError
from core.noise import Stream
from core.plan import Table
from core.process.gaussian import Cosine, Exploding, Gaussian, Preserving, Rectified
from core.sample import integrate, trace
from core.solvers import adams as A
from core.solvers import grid as G
from core.solvers import runge_kutta as R
from core.solvers import sde as S
from core.solvers.presets import SOLVERS, solver

D64 = torch.float64
VP, RF, VE = Gaussian(Preserving()), Gaussian(Rectified()), Gaussian(Exploding(80.0))
MIXTURE = toy()
TIMES = G.log_snr(VP, 7, 0.98, 0.02)
X = torch.randn(3, 4, dtype=D64, generator=torch.Generator().manual_seed(1))


def scalars(process: Gaussian, times: Tensor) -> tuple[list[float], list[float], list[float]]:
    path = process.schedule
    return path.alpha(times).tolist(), path.sigma(times).tolist(), path.log_snr(times).tolist()


def noise(oracle: Oracle, x: Tensor, t: Tensor) -> Tensor:
    path = oracle.process.schedule
    return (x - path.alpha(t) * oracle(x, t).mean) / path.sigma(t)


def paper_dpmpp_2m(oracle: Oracle, times: Tensor, x: Tensor) -> Tensor:
    """Lu et al., 2022, arXiv:2211.01095, algorithm 2."""
    alpha, sigma, lam = scalars(oracle.process, times)
    D: list[Tensor] = []
    for i in range(len(times) - 1):
        D.append(oracle(x, times[i]).mean)
        h = lam[i + 1] - lam[i]
        mixed = D[-1]
        if i:
            r = (lam[i] - lam[i - 1]) / h
            mixed = (1 + 1 / (2 * r)) * D[-1] - D[-2] / (2 * r)
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-h) * mixed
    return x


def paper_dpmpp_3m(oracle: Oracle, times: Tensor, x: Tensor) -> Tensor:
    """Taylor's expansion of order 3 with both divided differences (ibid., with the factor 2 of the second)."""
    alpha, sigma, lam = scalars(oracle.process, times)
    D: list[Tensor] = []
    for i in range(len(times) - 1):
        D.append(oracle(x, times[i]).mean)
        h = lam[i + 1] - lam[i]
        phi1, phi2 = math.expm1(-h), math.expm1(-h) / h + 1
        phi3 = phi2 / h - 0.5
        new = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * phi1 * D[-1]
        if i == 1:
            new = new + alpha[i + 1] * phi2 * (D[-1] - D[-2]) / ((lam[i] - lam[i - 1]) / h)
        elif i > 1:
            r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            d0, d1 = (D[-1] - D[-2]) / r0, (D[-2] - D[-3]) / r1
            first, second = d0 + r0 / (r0 + r1) * (d0 - d1), 2 * (d0 - d1) / (r0 + r1)
            new = new + alpha[i + 1] * phi2 * first - alpha[i + 1] * phi3 * second
        x = new
    return x


def paper_dpm_solver_3(oracle: Oracle, times: Tensor, x: Tensor) -> Tensor:
    """Lu et al., 2022, arXiv:2206.00927, algorithm 2 (r_1 = 1/3, r_2 = 2/3)."""
    path = oracle.process.schedule
    alpha, sigma, lam = scalars(oracle.process, times)
    for i in range(len(times) - 1):
        h, r1, r2 = lam[i + 1] - lam[i], 1 / 3, 2 / 3
        t1, t2 = path.inverse(lam[i] + r1 * h), path.inverse(lam[i] + r2 * h)
        a1, a2, s1, s2 = (float(v) for v in (path.alpha(t1), path.alpha(t2), path.sigma(t1), path.sigma(t2)))
        e = noise(oracle, x, times[i])
        u = a1 / alpha[i] * x - s1 * math.expm1(r1 * h) * e
        d1 = noise(oracle, u, t1) - e
        u = a2 / alpha[i] * x - s2 * math.expm1(r2 * h) * e - s2 * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
        d2 = noise(oracle, u, t2) - e
        x = alpha[i + 1] / alpha[i] * x - sigma[i + 1] * math.expm1(h) * e
        x = x - sigma[i + 1] / r2 * (math.expm1(h) / h - 1) * d2
    return x


def paper_lms(oracle: Oracle, times: Tensor, x: Tensor) -> Tensor:
    """Adams-Bashforth of order 2 in rho with unequal steps."""
    alpha, sigma, _ = scalars(oracle.process, times)
    rho, e = [s / a for s, a in zip(sigma, alpha, strict=True)], []
    for i in range(len(times) - 1):
        e.append(noise(oracle, x, times[i]))
        d = rho[i + 1] - rho[i]
        w = d / (2 * (rho[i] - rho[i - 1])) if i else 0.0
        x = alpha[i + 1] * (x / alpha[i] + d * ((1 + w) * e[-1] - w * e[-2 if i else -1]))
    return x


def paper_unipc_2(oracle: Oracle, times: Tensor, x: Tensor) -> Tensor:
    """Zhao et al., 2023, arXiv:2302.04867, algorithm 1 with p = 2, data prediction, B_2(h) = e^h - 1."""
    alpha, sigma, lam = scalars(oracle.process, times)
    m = [oracle(x, times[0]).mean]
    for i in range(len(times) - 1):
        h = lam[i + 1] - lam[i]
        base, B = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-h) * m[i], math.expm1(-h)
        rs, ds, predicted = [], [], base
        if i:
            rs, ds = [(lam[i - 1] - lam[i]) / h], [(m[i - 1] - m[i]) / ((lam[i - 1] - lam[i]) / h)]
            predicted = base - alpha[i + 1] * B * 0.5 * ds[0]
        if i == len(times) - 2:
            return predicted
        m.append(oracle(predicted, times[i + 1]).mean)
        rs, ds = [*rs, 1.0], [*ds, m[i + 1] - m[i]]
        phi = [math.expm1(-h) / -h - 1]
        phi.append(phi[0] / -h - 0.5)
        b = torch.tensor([phi[0] / B, 2 * phi[1] / B], dtype=D64)[: len(rs)]
        power = torch.tensor([[r**k for r in rs] for k in range(len(rs))], dtype=D64)
        c = torch.linalg.solve(power, b) if len(rs) > 1 else torch.tensor([0.5], dtype=D64)
        x = base - alpha[i + 1] * B * sum(w * d for w, d in zip(c.tolist(), ds, strict=True))
    raise AssertionError


def paper_ghvb_2(oracle: Oracle, times: Tensor, x: Tensor) -> Tensor:
    """Wizadwongsa and Suwajanakorn, 2023, arXiv:2307.11106, (2 ± beta) / 2 beta."""
    alpha, sigma, _ = scalars(oracle.process, times)
    rho, beta, V = [s / a for s, a in zip(sigma, alpha, strict=True)], 0.8, []
    for i in range(len(times) - 1):
        e = noise(oracle, x, times[i])
        V.append(e if not i else (1 - beta) * V[-1] + beta * e)
        mixed = V[-1]
        if i:
            mixed = (2 + beta) / (2 * beta) * V[-1] - (2 - beta) / (2 * beta) * V[-2]
        x = alpha[i + 1] * (x / alpha[i] + (rho[i + 1] - rho[i]) * mixed)
    return x


def paper_velocity(oracle: Oracle, times: Tensor, x: Tensor) -> Tensor:
    """Predict by Adams-Bashforth 2, correct by Adams-Moulton 3 in the angle, both written for unequal steps."""
    process = oracle.process
    phi, r = process.angle(times).tolist(), process.radius(times).tolist()
    alpha, sigma, _ = scalars(process, times)

    def v(x: Tensor, i: int) -> Tensor:
        D = oracle(x, times[i]).mean
        return (alpha[i] * (x - alpha[i] * D) / sigma[i] - sigma[i] * D) / r[i]

    seen, guess = [], x
    for i in range(len(times) - 1):
        seen.append(v(guess, i))
        if i:
            h, k = phi[i] - phi[i - 1], phi[i - 1] - phi[i - 2]
            new, now = 0.5, 0.5
            old = 0.0
            if i > 1:
                new, old = (2 * h + 3 * k) / (6 * (h + k)), -h * h / (6 * k * (h + k))
                now = 1 - new - old
            x = r[i] * (x / r[i - 1] + h * (new * seen[i] + now * seen[i - 1] + old * seen[max(i - 2, 0)]))
        h, k = phi[i + 1] - phi[i], phi[i] - phi[max(i - 1, 0)]
        w = h / (2 * k) if i else 0.0
        guess = r[i + 1] * (x / r[i] + h * ((1 + w) * seen[i] - w * seen[max(i - 1, 0)]))
    return guess


PAPERS: dict[str, tuple[Callable[..., Tensor], Callable[..., Table]]] = {
    "DPM-Solver++ 2M": (paper_dpmpp_2m, A.dpmpp),
    "DPM-Solver++ 3M": (paper_dpmpp_3m, lambda p, t: A.dpmpp(p, t, 3, "exact")),
    "DPM-Solver-3": (paper_dpm_solver_3, lambda p, t: R.dpm_solver(p, t, 3)),
    "LMS 2": (paper_lms, lambda p, t: A.lms(p, t, 2)),
    "UniPC 2": (paper_unipc_2, lambda p, t: A.unipc(p, t, 2)),
    "GHVB 2": (paper_ghvb_2, A.ghvb),
    "velocity, corrected": (paper_velocity, lambda p, t: A.adams(p, t, 2)),
}


@pytest.mark.parametrize("process", [VP, Gaussian(Cosine())], ids=["preserving", "cosine"])
@pytest.mark.parametrize("name", PAPERS)
def test_presets_equal_the_papers_formulas(name: str, process: Gaussian) -> None:
    paper, preset = PAPERS[name]
    oracle = Oracle(MIXTURE, process)
    expected = paper(oracle, TIMES, X)
    assert torch.allclose(integrate(oracle, preset(process, TIMES), X), expected, rtol=1e-12, atol=1e-12)


def test_recorded_outputs_of_two_public_libraries() -> None:
    if not GOLDEN.is_file():
        pytest.skip("real data absent: ../shared/data/core")
    for name, error in recorded().items():
        assert error <= (2e-6 if "float32" in name else 1e-12), name


START = torch.randn(6, 4, dtype=D64, generator=torch.Generator().manual_seed(2))
EXACT = torch.from_numpy(exact_flow(MIXTURE, (80 * START).numpy(), 80.0, 0.002))
ORDERS: dict[str, tuple[Callable[..., Table], float, float, int]] = {
    "ddim": (A.ddim, 0.95, 1.05, 1),
    "2M": (A.dpmpp, 1.9, 2.1, 1),
    "3M": (lambda p, t: A.dpmpp(p, t, 3, "exact"), 2.8, 3.3, 1),
    "3M as shipped": (lambda p, t: A.dpmpp(p, t, 3, "exact", 0.5), 1.6, 2.2, 1),
    "deis2": (lambda p, t: A.deis(p, t, 2), 1.9, 2.1, 1),
    "deis3": (A.deis, 2.75, 3.2, 1),
    "dpm-solver 2M": (A.dpm_multistep, 1.9, 2.2, 1),
    "lms4": (A.lms, 3.5, 4.3, 1),
    "unipc2": (lambda p, t: A.unipc(p, t, 2), 2.9, 3.2, 1),
    "unipc3": (A.unipc, 3.7, 4.3, 1),
    "ghvb2": (A.ghvb, 1.9, 2.1, 1),
    "adams3": (A.adams, 3.5, 4.4, 1),
    "adams3 without corrector": (lambda p, t: A.adams(p, t, corrector=False), 2.7, 3.2, 1),
    "heun": (R.heun, 1.9, 2.1, 2),
    "dpm-solver-2": (R.dpm_solver, 1.9, 2.1, 2),
    "dpm-solver-3": (lambda p, t: R.dpm_solver(p, t, 3), 2.8, 3.3, 3),
    "2S": (R.dpmpp_single, 1.9, 2.1, 2),
    "3S": (lambda p, t: R.dpmpp_single(p, t, 3), 2.7, 3.2, 3),
    "rk4": (lambda p, t: R.runge_kutta(p, t, "rk4"), 3.7, 4.6, 4),
}


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name: str) -> None:
    preset, low, high, cost = ORDERS[name]
    steps = [60, 84, 120, 168, 240]
    oracle, errors = Oracle(MIXTURE, VE), []
    for n in steps:
        table = preset(VE, G.karras(VE, n // cost, 1.0, 0.002 / 80))
        errors.append(float((integrate(oracle, table, 80 * START) - EXACT).square().mean().sqrt()))
    assert low <= slope(steps, errors) <= high, errors


PRESETS: dict[str, Callable[..., Table]] = SOLVERS | {
    "flow": lambda p, t: A.adams(p, t, 2, "flow", "time"),
    "data in angle": lambda p, t: A.adams(p, t, 2, "data", "angle"),
    "velocity in lambda": lambda p, t: A.adams(p, t, 3, "velocity", "log_snr"),
    "noise in angle": lambda p, t: A.adams(p, t, 3, "noise", "angle", corrector=False),
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_from_pure_noise_to_clean_data(name: str) -> None:
    """alpha = 0 at the start, sigma = 0 at the end, from a single step on, and without a floor of accuracy."""
    for steps in (1, 2, 5):
        table = PRESETS[name](RF, G.uniform(RF, steps))
        end = integrate(Oracle(MIXTURE, RF), table, START, Stream.of(0, 6))
        assert bool(end.isfinite().all()) and table.stop == 0
    one = integrate(Oracle(MIXTURE, RF), PRESETS[name](RF, G.uniform(RF, 1)), START, Stream.of(0, 6))
    if not name.startswith(("adams", "velocity")):  # whose one step is exact for unit Gaussian data instead
        assert torch.allclose(one, (MIXTURE.log_w.exp()[:, None] * MIXTURE.mean).sum(0).expand(6, 4), atol=1e-9)


def test_rectified_flow_has_no_floor() -> None:
    exact = torch.from_numpy(exact_flow(MIXTURE, START.numpy() * 1e9, 1e9, 1e-12))
    for preset in (A.adams, lambda p, t: A.adams(p, t, 4), lambda p, t: A.adams(p, t, 3, "flow", "time")):
        end = integrate(Oracle(MIXTURE, RF), preset(RF, G.uniform(RF, 160)), START)
        assert float((end - exact).abs().max()) < 1e-6


def test_a_change_of_path_with_the_same_log_snr_changes_nothing() -> None:
    """The solution scales with r: the same table in other words."""
    lam = torch.linspace(-3, 5, 9, dtype=D64)
    for preset in (A.adams, A.dpmpp, A.unipc, A.deis, R.heun):
        ends = []
        for process in (VP, RF, VE, Gaussian(Cosine())):
            times = process.schedule.inverse(lam)
            x = START * float(process.radius(times[0]))
            end = integrate(Oracle(MIXTURE, process), preset(process, times), x)
            ends.append(end / process.radius(times[-1]))
        assert all(torch.allclose(end, ends[0], rtol=1e-10, atol=1e-10) for end in ends[1:])


def test_one_gaussian_is_solved_exactly_by_order_one_in_velocity() -> None:
    """For N(0, sigma_d^2) data the velocity vanishes, so any step is exact: x shrinks with r."""
    process = Gaussian(Rectified(), 0.5)
    lone = Mixture(torch.zeros(1, dtype=D64), torch.zeros(1, 4, dtype=D64), torch.full((1, 4), 0.25, dtype=D64))
    end = integrate(Oracle(lone, process), A.adams(process, [1.0, 0.3, 0.0], 1), START)
    assert torch.allclose(end, START * 0.5, rtol=1e-13)


def test_second_moments_of_stochastic_solvers_are_exact() -> None:
    """Gaussian data make a step affine: push impulses through and compare variances, without sampling."""

    class Impulses:
        def __init__(self, i: int = 0) -> None:
            self.i = i

        def fold(self, i: int) -> Impulses:
            return Impulses(i)

        def normal(self, *shape: int) -> Tensor:
            return torch.eye(1, shape[0], dtype=D64).roll(self.i + 2, -1)

    mean, var = 0.7, 0.25

    def predict(x: Tensor, t: Tensor) -> GaussianPrediction:
        alpha, sigma = VE.schedule.alpha(t), VE.schedule.sigma(t)
        gain = alpha * var / (alpha**2 * var + sigma**2)
        D = gain * x
        D[:, 0] += mean - gain * alpha * mean
        return GaussianPrediction(D)

    def error(preset: Callable[..., Table], n: int) -> tuple[float, float]:
        x = torch.zeros(1, n + 2, dtype=D64)
        x[0, 0], x[0, 1] = mean, math.sqrt(var + 20**2)
        end = integrate(predict, preset(VE, G.log_snr(VE, n, 20 / 80, 0.02 / 80)), x, Impulses())  # type: ignore
        return float(end[0, 0]) - mean, float(end[0, 1:].square().sum()) / (var + 0.02**2) - 1

    two, three = A.dpmpp_sde, lambda p, t: A.dpmpp_sde(p, t, 3, rule="exact")  # noise keeps both at order 2
    for preset, low, high in ((S.ancestral, 0.9, 1.1), (two, 1.9, 2.1), (three, 1.9, 2.1)):
        found = [error(preset, n) for n in (80, 120, 160, 240)]
        assert low <= slope([80, 120, 160, 240], [abs(v) for _, v in found]) <= high
        assert max(abs(m) for m, _ in found) <= 1e-12
    assert abs(error(two, 40)[1]) == pytest.approx(9.6e-3, rel=0.1)


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    oracle, table = Oracle(MIXTURE, RF), A.dpmpp_sde(RF, G.uniform(RF, 6), 2)
    whole = integrate(oracle, table, START, Stream.of(3, 6))
    for i in range(6):
        alone = integrate(oracle, table, START[i : i + 1], Stream.of(3, 1, first=i))
        assert torch.allclose(alone[0], whole[i], rtol=0, atol=1e-13)
    with pytest.raises(UsageError, match="stream"):
        integrate(oracle, table, START)


def test_trace_tells_the_law_of_each_step() -> None:
    oracle, table = Oracle(MIXTURE, RF), S.ancestral(RF, G.uniform(RF, 4))
    moves = list(trace(oracle, table, START, Stream.of(0, 6)))
    assert [(m.t, m.s) for m in moves] == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]
    for move in moves[:-1]:
        z = (move.x_s - move.mean) / move.std
        expected = torch.distributions.Normal(0, 1).log_prob(z).sum(-1) - 4 * math.log(move.std)
        assert torch.allclose(move.transition.log_prob(move.x_s), expected)
    assert moves[-1].std == 0 and torch.equal(moves[-1].x_s, moves[-1].prediction.mean)


def test_gradients_flow_through_the_loop() -> None:
    x = START.clone().requires_grad_()
    end = integrate(Oracle(MIXTURE, RF), A.adams(RF, G.uniform(RF, 4)), x)
    (found,) = torch.autograd.grad(end[0, 0], x)
    h = torch.zeros_like(START)
    h[0, 1] = 1e-5
    run = [integrate(Oracle(MIXTURE, RF), A.adams(RF, G.uniform(RF, 4)), START + s * h)[0, 0] for s in (1, -1)]
    assert float(found[0, 1]) == pytest.approx(float(run[0] - run[1]) / 2e-5, rel=1e-6)


def test_tables_are_data() -> None:
    table = A.adams(RF, G.uniform(RF, 5))
    assert Table.from_json(table.to_json()) == table and table.steps == 5 and table.depth == 4
    assert A.adams(RF, G.uniform(RF, 5)) is table
    assert R.runge_kutta(RF, G.uniform(RF, 3), "midpoint", "flow").steps == 5  # the first step, from alpha = 0, is one


@pytest.mark.parametrize("name", ["uniform", "shifted", "angle", "log_snr", "karras"])
def test_grids_fall_between_their_ends(name: str) -> None:
    process = VE if name == "karras" else VP
    times = G.grid(name, process, 9, start=0.9, stop=0.1)
    assert times[0] == 0.9 and times[-1] == 0.1 and len(times) == 10 and bool((times.diff() < 0).all())
    clocks = {
        "uniform": times,
        "shifted": times / (3 - 2 * times),
        "angle": process.angle(times),
        "log_snr": process.schedule.log_snr(times),
        "karras": torch.exp(-process.schedule.log_snr(times) / 7),
    }
    gaps = clocks[name].diff()
    assert torch.allclose(gaps, gaps.mean().expand(9), rtol=1e-11)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="space.*velocity"):
        A.adams(RF, [1.0, 0.0], space="veloctiy")
    for times in ([0.0, 1.0], [1.0, math.nan, 0.0]):
        with pytest.raises(UsageError, match="times"):
            A.adams(RF, times)
    with pytest.raises(UsageError, match="shift: must be positive"):
        G.shifted(RF, 4, shift=0.0)
    with pytest.raises(UsageError, match="eta"):
        A.adams(RF, [1.0, 0.0], eta=1.0)
    for space, clock in (("velocity", "angle"), ("data", "rho"), ("flow", "log_snr")):
        with pytest.raises(UsageError, match="rule: needs space 'data' or 'noise' and clock 'log_snr'"):
            A.adams(RF, G.uniform(RF, 4), 2, space, clock, rule="midpoint")
    for single in (R.dpm_solver, R.dpmpp_single):
        with pytest.raises(UsageError, match="order: no singlestep method.*1, 2, 3"):
            single(RF, G.uniform(RF, 4), 4)
    with pytest.raises(UsageError, match="infinite"):
        G.log_snr(RF, 5, 1.0, 0.1)
    with pytest.raises(UsageError, match="did you mean 'karras'"):
        G.grid("karas", RF, 5)
    with pytest.raises(UsageError, match="tableau"):
        R.runge_kutta(RF, [1.0, 0.0], "rk5")
    with pytest.raises(UsageError, match="did you mean 'unipc'"):
        solver("unipcc", RF, [1.0, 0.0])
