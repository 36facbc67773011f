"""Plan search and parallel directions, on a mixture whose flow is known; what was searched on does not judge."""

from __future__ import annotations

import pytest
import torch

from benchmarks._mixture import Oracle, exact_flow, slope, toy
from core.errors import UsageError
from core.plan import Table
from core.process.gaussian import Exploding, Gaussian, Rectified
from core.sample import integrate
from core.solvers import grid as G
from core.solvers.adams import adams
from core.solvers.parallel import Parallel, fit
from core.solvers.search import plain, search

RF, VE = Gaussian(Rectified()), Gaussian(Exploding(80.0))
ORACLE = Oracle(toy(), RF)


def noise(seed: int, rows: int = 64) -> torch.Tensor:
    return torch.randn(rows, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fine(x: torch.Tensor) -> torch.Tensor:
    return integrate(ORACLE, adams(RF, G.uniform(RF, 50), 3), x)


def test_each_step_has_its_own_order() -> None:
    times = G.uniform(RF, 5)
    assert adams(RF, times, (3, 3, 3, 3, 3)) == adams(RF, times, 3)
    mixed = adams(RF, times, (1, 2, 1, 3, 1), corrector=False)
    assert [len(row.b) for row in mixed.rows] == [1, 2, 1, 3, 1]
    assert mixed.rows[2].b == adams(RF, times, 1, corrector=False).rows[2].b
    for wrong in (0, (1, 2), (1, 1, 0, 1, 1)):
        with pytest.raises(UsageError, match="order"):
            adams(RF, times, wrong)


def test_a_search_is_better_than_where_it_began_also_on_other_noise() -> None:
    x, other = noise(0), noise(1)
    right, judge = fine(x), fine(other)

    def loss(table: Table) -> float:
        return float((integrate(ORACLE, table, x) - right).square().mean().sqrt())

    found = search(RF, 5, loss, rounds=80, seed=0)
    assert found == search(RF, 5, loss, rounds=80, seed=0)  # a function of the seed
    assert found.loss < 0.8 * found.plain and found.tried > 80
    table = found.candidate.table(RF)
    assert table.steps == 5
    mine = float((integrate(ORACLE, table, other) - judge).square().mean().sqrt())
    usual = float((integrate(ORACLE, adams(RF, G.uniform(RF, 5), 3), other) - judge).square().mean().sqrt())
    assert mine < usual
    with pytest.raises(UsageError, match="rules every"):
        search(RF, 3, lambda table: float("nan"))
    assert {c.space for c in plain(VE, 4, 1.0, 0.01)} == {"velocity", "flow", "data", "noise"}


def test_one_parallel_direction_is_of_order_two() -> None:
    oracle = Oracle(toy(), VE)
    start, stop = 0.5, 0.005
    rho = [float(torch.exp(-VE.schedule.log_snr(t))) for t in (start, stop)]
    x = noise(2) * rho[0]
    right = torch.from_numpy(exact_flow(toy(), x.numpy(), rho[0], rho[1]))
    steps, errors = [40, 80, 160], []
    for n in steps:
        solver = Parallel(VE, G.karras(VE, n, start, stop), 1)
        with torch.no_grad():
            errors.append(float((solver(oracle, x) - right).square().mean().sqrt()))
        assert solver.calls == 2 * n
    assert slope(steps, errors) == pytest.approx(2.0, abs=0.15)


def test_parallel_directions_learn_where_to_look() -> None:
    solver = Parallel(RF, G.uniform(RF, 4), 2)
    other = noise(9)
    judge = fine(other)

    def error() -> float:
        with torch.no_grad():
            return float((solver(ORACLE, other) - judge).square().mean().sqrt())

    before = error()
    losses = fit(solver, ORACLE, lambda n: noise(100 + n, 32), fine, rounds=30)
    assert error() < 0.6 * before and losses[-1] < losses[0]
    assert solver.calls == 4 + 2 * 2  # pure noise and clean data have no points between
    with pytest.raises(UsageError, match="directions"):
        Parallel(RF, G.uniform(RF, 4), 0)
