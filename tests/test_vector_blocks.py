"""Blocks of real vectors: exact conditionals chain to the exact law, whatever the batch, the cut or the restart."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from core.blocks import vector_blocks
from core.denoiser import GaussianPrediction
from core.noise import Stream
from core.plan import Table
from core.process.gaussian import Gaussian, Rectified
from core.solvers import adams as A
from core.solvers import grid as G
from core.solvers import sde as S

D64, RHO = torch.float64, 0.8
RF = Gaussian(Rectified())


class Chain:
    """The exact denoiser of the block after `last` in x_i = RHO x_{i-1} + (1 - RHO^2)^{1/2} e_i, e ~ N(0, 1)."""

    def __init__(self, last: Tensor, level: float = 0.0) -> None:
        self.last, self.level = last, level

    def predict(self, x_t: Tensor, t: Tensor) -> GaussianPrediction:
        n = x_t.shape[1]
        i = torch.arange(1, n + 1, dtype=D64)
        mean = self.level + (RHO**i)[None, :, None] * (self.last - self.level)[:, None]
        cov = RHO ** (i[:, None] - i).abs() - RHO ** (i[:, None] + i)
        alpha, sigma = RF.schedule.alpha(t), RF.schedule.sigma(t)
        gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(n, dtype=D64))
        return GaussianPrediction(mean + gain @ (x_t - alpha * mean))

    def commit(self, x_0: Tensor) -> None:
        self.last = x_0[:, -1]


def run(block: int, count: int, table: Table, rows: int = 4, first: int = 0, last: Tensor | None = None) -> Tensor:
    start = torch.zeros(rows, 1, dtype=D64) if last is None else last
    blocks = vector_blocks(Chain(start), RF, table, Stream.of(0, rows), (block, 1), first=first, dtype=D64)
    return torch.cat(list(islice(blocks, count)), 1)


TABLE = A.adams(RF, G.uniform(RF, 40))


@pytest.mark.parametrize("block", [1, 2, 6])
def test_blocks_of_any_size_have_the_law_of_the_whole(block: int) -> None:
    """The sampler is affine in its noise: unit noises give the covariance of six steps without sampling."""

    class Unit(Stream):
        def normal(self, *tail: int) -> Tensor:
            at = self.path[0] * block
            return torch.eye(7, 6, dtype=D64)[:, at : at + block, None]  # the last row is silence

    start = torch.zeros(7, 1, dtype=D64)
    blocks = vector_blocks(Chain(start), RF, TABLE, Unit(0, torch.arange(7)), (block, 1), dtype=D64)
    map_ = torch.cat(list(islice(blocks, 6 // block)), 1)[..., 0]
    assert float(map_[6].abs().max()) <= 1e-12
    i = torch.arange(1, 7, dtype=D64)
    law = RHO ** (i[:, None] - i).abs() - RHO ** (i[:, None] + i)
    assert torch.allclose(map_[:6].T @ map_[:6], law, atol=1e-4)


def test_a_row_does_not_notice_its_batch_nor_a_restart() -> None:
    for table in (TABLE, S.ancestral(RF, G.uniform(RF, 8))):
        whole = run(3, 5, table)
        assert torch.allclose(run(3, 5, table, rows=2), whole[:2], rtol=0, atol=1e-13)
        rest = run(3, 3, table, first=2, last=whole[:, 5])
        assert torch.equal(torch.cat([whole[:, :6], rest], 1), whole)
    assert float((whole[:, :3] - whole[:, 3:6]).abs().max()) > 0.1


def test_a_block_is_out_before_it_is_committed_and_controls_may_change() -> None:
    context = Chain(torch.zeros(2, 1, dtype=D64))
    blocks = vector_blocks(context, RF, TABLE, Stream.of(0, 2), (4, 1), dtype=D64)
    one = next(blocks)
    assert torch.equal(context.last, torch.zeros(2, 1, dtype=D64))
    context.level = 50.0
    two = next(blocks)
    assert torch.equal(context.last, one[:, -1]) and float(two[:, -1].min()) > 15
