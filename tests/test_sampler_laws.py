"""Every token solver against the law it should follow, enumerated: a chi-square of what it draws, nothing looser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks._laws import corrected_law, definitions, exact, expected, observed, observed_blocks
from benchmarks._oracle import chi_square, index
from core.constrain.law import Free
from core.errors import UsageError
from core.noise import Stream
from core.plan import uniform_plan
from core.sample import Solver, denoise, rollout
from core.solvers.tokens import Ancestral, Confidence, Corrected, FirstHitting, InOrder, Remask

DRAWS = 60_000


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["ancestral", "confidence", "in_order", "threshold", "first_hitting", "remask"])
def test_masked_solvers_follow_their_enumerated_law(name: str, steps: int) -> None:
    net = exact("absorbing")
    solver, kernel = definitions(net)[name]
    law = expected(net, steps, kernel)
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert chi_square(observed(net, solver, steps, DRAWS), law) > 1e-3


@pytest.mark.parametrize("solver", [FirstHitting(), Confidence(), InOrder()], ids=lambda s: type(s).__name__)
def test_one_site_at_a_time_draws_the_data_law(solver: Solver) -> None:
    net = exact("absorbing")
    assert chi_square(observed(net, solver, 3, DRAWS), net.oracle.law) > 1e-3


@pytest.mark.parametrize(("block", "steps"), [(1, 1), (1, 4), (2, 2), (4, 4)])
def test_block_sampler_with_one_site_per_step_draws_the_data_law(block: int, steps: int) -> None:
    net = exact("absorbing", 4)
    assert chi_square(observed_blocks(net, FirstHitting(), steps, block, DRAWS), net.oracle.law) > 1e-3


def test_blocks_of_two_drawn_at_once_lose_exactly_what_is_inside_them() -> None:
    net = exact("absorbing", 4)
    x, law = net.oracle.x, net.oracle.law
    start = net.all(1.0)[index(torch.full_like(x, 3), 4)]
    later = net.all(1.0)[index(torch.where(torch.arange(4) < 2, x, 3), 4)]
    log_p = torch.cat([start[:, :2], later[:, 2:]], 1).gather(-1, x[..., None])[..., 0].sum(-1)
    counts = observed_blocks(net, Ancestral(), 1, 2, DRAWS)
    assert chi_square(counts, log_p.exp()) > 1e-3 and chi_square(counts, law) < 1e-6


@pytest.mark.parametrize("noise", ["uniform", "absorbing"])
def test_the_test_can_tell_a_coarse_law_from_the_data(noise: str) -> None:
    net = exact(noise)
    assert chi_square(observed(net, Ancestral(), 2, DRAWS), net.oracle.law) < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_ancestral_uniform_follows_the_reverse_kernel(steps: int) -> None:
    net = exact("uniform")
    solver, kernel = definitions(net)["ancestral"]
    assert chi_square(observed(net, solver, steps, DRAWS), expected(net, steps, kernel)) > 1e-3


def test_gibbs_corrections_follow_their_kernel() -> None:
    net = exact("uniform")
    assert chi_square(observed(net, Corrected(Ancestral(), 2), 3, DRAWS), corrected_law(net, 3, 2)) > 1e-3


@pytest.mark.parametrize("solver", [Ancestral(), Remask(0.5)], ids=lambda s: type(s).__name__)
def test_every_step_leaves_sigma_of_the_sites_masked(solver: Solver) -> None:
    net, steps = exact("absorbing"), 4
    window = Free(DRAWS, 3).window(np.zeros(DRAWS, np.int64), np.arange(DRAWS), 3, 0)
    x = torch.full((DRAWS, 3), 3)
    walk = rollout(net, net.oracle.process, uniform_plan(steps), window, solver, Stream.of(0, DRAWS), x)
    shares = [float((x_s == 3).double().mean()) for _, x_s in walk]
    assert shares == pytest.approx([0.75, 0.5, 0.25, 0.0], abs=4 * 0.5 / (3 * DRAWS) ** 0.5)


@pytest.mark.parametrize("solver", [FirstHitting(), Remask(0.2)], ids=lambda s: type(s).__name__)
def test_what_is_given_stays_and_the_rest_has_the_law_of_the_data_given_it(solver: Solver) -> None:
    net, given = exact("absorbing"), torch.tensor([3, 1, 3])
    window = Free(DRAWS, 3).window(np.zeros(DRAWS, np.int64), np.arange(DRAWS), 3, 0)
    x = given.expand(DRAWS, -1)
    x_0 = denoise(net, net.oracle.process, uniform_plan(48), window, solver, Stream.of(0, DRAWS), x)
    assert bool((x_0[:, 1] == 1).all())
    law = net.oracle.law * (net.oracle.x[:, 1] == 1)
    assert chi_square(torch.bincount(index(x_0, 3), minlength=27), law / law.sum()) > 1e-3


def test_noise_without_a_mask_has_no_order_of_uncovering() -> None:
    net, x = exact("uniform"), torch.zeros(2, 3).long()
    window = Free(2, 3).window(np.zeros(2, np.int64), np.arange(2), 3, 0)
    for solver in (Confidence(), InOrder(), FirstHitting(), Remask()):
        with pytest.raises(UsageError, match="solver: needs absorbing noise"):
            denoise(net, net.oracle.process, uniform_plan(4), window, solver, Stream.of(0, 2), x)


def test_a_draw_does_not_depend_on_the_size_of_its_batch() -> None:
    net = exact("absorbing")

    def run(n: int, start: int) -> Tensor:
        window = Free(n, 3).window(np.zeros(n, np.int64), np.arange(n), 3, 0)
        x, stream = torch.full((n, 3), 3), Stream.of(4, n, first=start)
        return denoise(net, net.oracle.process, uniform_plan(3), window, Ancestral(), stream, x)

    assert torch.equal(run(40, 0)[10:15], run(5, 10))
