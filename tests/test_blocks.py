"""Blocks: one network, one pass, one law, however it is cut, cached or batched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks._laws import exact
from benchmarks._oracle import index
from core.blocks import generate
from core.constrain.law import Free
from core.denoiser import Prediction
from core.errors import UsageError
from core.nn.tokens import TokenConfig, TokenNet
from core.nn.transformer import BlockTransformer, TransformerConfig
from core.noise import Stream
from core.objective.block import Interval, block_loss, clipped_loss, draw_block, search
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.solvers.tokens import Confidence, FirstHitting

K, LENGTH = 5, 12


def net(dtype: torch.dtype = torch.float64, time: bool = False) -> TokenNet:
    torch.manual_seed(0)
    model = TokenNet(TokenConfig(K, TransformerConfig(dim=32, depth=2, heads=2, time=time))).to(dtype).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def draw(model: TokenNet, block: int, rows: int = 6, first: int = 0) -> Tensor:
    arguments = {"constraint": Free(rows, K), "length": LENGTH, "block": block, "stream": Stream.of(1, rows, first)}
    with torch.no_grad():
        return generate(model, uniform_plan(2), Confidence(), **arguments)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("time", [False, True])
@torch.no_grad()
def test_training_streaming_and_uncached_passes_agree(dtype: torch.dtype, limit: float, time: bool) -> None:
    model, size = net(dtype, time), 3
    x_0 = torch.randint(0, K, (2, LENGTH))
    x_t = torch.where(torch.rand(2, LENGTH) < 0.6, K, x_0)
    t = torch.rand(2, LENGTH // size).repeat_interleave(size, -1).double()
    whole = model.beside(x_0, size)(x_t, t).log_p
    window = Free(2, K).window(np.zeros(2, int), np.arange(2), size, 0)
    for cached in (True, False):
        model.cached = cached
        context = model.open(2, LENGTH)
        for b in range(LENGTH // size):
            here = slice(b * size, (b + 1) * size)
            context.enter(window, np.zeros(2, int))
            for _ in range(2):  # the second pass finds the cache already filled
                log_p = context.predict(x_t[:, here], t[:, b * size]).log_p
                gap = (log_p.exp() - whole[:, here].exp()).abs().max()
                assert float(gap) <= limit
            context.commit(x_0[:, here])


@pytest.mark.parametrize("block", [1, 4, 5, 12])
def test_cached_and_uncached_draw_the_same_tokens(block: int) -> None:
    model = net()
    cached = draw(model, block)
    model.cached = False
    assert torch.equal(cached, draw(model, block))
    assert int(cached.min()) >= 0 and int(cached.max()) < K


def test_a_row_does_not_depend_on_its_batch() -> None:
    assert torch.equal(draw(net(), 4)[2:5], draw(net(), 4, rows=3, first=2))


def test_sizes_may_be_nothing_but_blocks_may_not() -> None:
    for length, block, rows in ((0, 4, 6), (7, 3, 1), (7, 9, 2), (5, 2, 0)):
        arguments = {"constraint": Free(rows, K), "length": length, "stream": Stream.of(1, rows)}
        with torch.no_grad():
            assert generate(net(), uniform_plan(2), Confidence(), block=block, **arguments).shape == (rows, length)
            with pytest.raises(UsageError, match="block: must be 1 or more"):
                generate(net(), uniform_plan(2), Confidence(), block=0, **arguments)


@torch.no_grad()
def test_later_blocks_and_own_clean_tokens_are_never_seen() -> None:
    model = net()
    x_0, x_t = torch.randint(0, K, (1, LENGTH)), torch.full((1, LENGTH), K)
    before = model.beside(x_0, 4)(x_t, torch.ones(1)).log_p
    x_0[:, 4:] = (x_0[:, 4:] + 1) % K
    after = model.beside(x_0, 4)(x_t, torch.ones(1)).log_p
    assert torch.equal(before[:, :8], after[:, :8]) and not torch.equal(before[:, 8:], after[:, 8:])


@torch.no_grad()
def test_block_size_one_is_autoregression() -> None:
    model, x_0 = net(), torch.randint(0, K, (4, LENGTH))
    loss, _ = block_loss(model, Categorical.absorbing(K), x_0, Stream.of(0, 4), 1)
    log_p = model.beside(x_0, 1)(torch.full_like(x_0, K), torch.ones(4)).log_p
    exact = -log_p.gather(-1, x_0[..., None]).mean()
    assert float(loss) == pytest.approx(float(exact), abs=1e-12)
    draws = generate(model, uniform_plan(1), FirstHitting(), constraint=Free(3, K), length=LENGTH, block=1,
                     stream=Stream.of(0, 3))  # fmt: skip
    assert draws.shape == (3, LENGTH)


@torch.no_grad()
def test_times_on_the_whole_interval_and_counts_bound_the_same() -> None:
    model, process = net(), Categorical.absorbing(K)
    x_0 = torch.randint(0, K, (1, LENGTH)).expand(6000, -1)
    counts = float(block_loss(model, process, x_0, Stream.of(0, 6000), 4)[0])
    times = float(clipped_loss(model, process, x_0, Stream.of(0, 6000), 4, Interval())[0])
    assert times == pytest.approx(counts, rel=0.03)


class OracleNet:
    """The exact denoiser beside clean blocks: earlier blocks are known, later ones masked."""

    lookup = exact("absorbing", 4)

    def beside(self, x_0: Tensor, block: int) -> Callable[..., Prediction]:
        number = torch.arange(4) // block

        def denoise(x_t: Tensor, t: Tensor, context: object = None) -> Prediction:
            out = []
            for b in range(4 // block):
                seen = torch.where(number < b, x_0, torch.where(number == b, x_t, 3))
                out.append(self.lookup.all(0.5)[index(seen, 4)][:, number == b])
            return Prediction(torch.cat(out, 1))

        return denoise


@pytest.mark.parametrize("block", [1, 2, 4])
def test_the_block_loss_of_the_exact_denoiser_is_the_entropy(block: int) -> None:
    net, rows = OracleNet(), 40_000
    x_0 = net.lookup.oracle.x[torch.multinomial(net.lookup.oracle.law, rows, replacement=True)]
    loss = float(block_loss(net, net.lookup.oracle.process, x_0, Stream.of(0, rows), block)[0])
    assert loss * 4 == pytest.approx(net.lookup.oracle.entropy, rel=0.01)


def test_the_search_takes_the_interval_of_least_variance() -> None:
    model, x_0 = net(), torch.randint(0, K, (64, LENGTH))
    grid = [Interval(0.001, 1.0), Interval(0.3, 0.8), Interval(0.0, 0.5)]
    best, variance = search(model, Categorical.absorbing(K), x_0, Stream.of(0, 64), 4, grid)
    assert best == grid[int(np.argmin(variance))] == Interval(0.3, 0.8) and min(variance) > 0


def test_block_sizes_come_by_their_weights() -> None:
    u = (np.arange(1000) + 0.5) / 1000
    drawn = [draw_block([1, 4, 16], float(v), [1, 2, 1]) for v in u]
    assert [drawn.count(b) for b in (1, 4, 16)] == [250, 500, 250]


def test_gradients_reach_every_parameter() -> None:
    model = net(time=True)
    block_loss(model, Categorical.absorbing(K), torch.randint(0, K, (4, LENGTH)), Stream.of(0, 4), 3)[0].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


def test_heads_that_do_not_divide_the_width_are_one_line() -> None:
    with pytest.raises(UsageError, match="heads.*got 3.*divide dim / 2 = 8"):
        BlockTransformer(TransformerConfig(dim=16, depth=1, heads=3))
