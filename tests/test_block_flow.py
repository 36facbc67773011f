"""Block-wise flows: what is trained is what is played, with or without a memory."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from core.blocks import vector_blocks
from core.nn.block_flow import MODES, BlockFlow, BlockFlowConfig, Layout, visible
from core.nn.flow_context import FlowContext
from core.nn.transformer import TransformerConfig
from core.noise import Stream
from core.objective.flow import Clocked, flow_loss, uniform
from core.solvers import grid, sde
from core.solvers.adams import adams

L, W, D, C = 3, 3, 5, 4
CACHED = [m for m in MODES if m != "full"]


def network(mode: str, dtype: torch.dtype = torch.float64) -> BlockFlow:
    torch.manual_seed(0)
    trunk = TransformerConfig(dim=32, depth=3, heads=2, mlp=2)
    net = BlockFlow(BlockFlowConfig(D, C, L, W, mode, trunk)).to(dtype).eval()
    for p in net.parameters():  # zero gates and a zero head would hide every mistake
        torch.nn.init.normal_(p, std=0.2)
    return net


@torch.no_grad()
def play(net: BlockFlow, count: int, *, cached: bool = True, guidance: float = 1.0, told: bool = True) -> Tensor:
    """Play blocks whose controls change from one to the next."""
    context = FlowContext(net, 2, guidance, cached)
    table = adams(net.process, grid.uniform(net.process, 3))
    wave = torch.sin(torch.arange(2 * count * L * C, dtype=torch.float64)).view(count, 2, L, C)
    pieces = []
    for n in range(count):
        context.control = wave[n] if told else None
        stream = Stream.of(0, 2)
        piece = next(vector_blocks(context, net.process, table, stream, (L, D), first=n, dtype=context.weight.dtype))
        context.commit(piece)
        pieces.append(piece)
    return torch.cat(pieces, 1)


@pytest.mark.parametrize("mode", CACHED)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_cached_equals_uncached(mode: str, guidance: float) -> None:
    """Against the window for two modes, against the whole history for the third."""
    net = network(mode)
    with_, without = (play(net, 10, cached=c, guidance=guidance) for c in (True, False))
    assert float((with_ - without).abs().max()) <= 1e-12
    single = network(mode, torch.float32)
    with_, without = (play(single, 10, cached=c, guidance=guidance) for c in (True, False))
    assert float((with_ - without).abs().max()) <= 1e-5


def test_a_truncated_window_is_not_the_history_of_the_block_causal_mode() -> None:
    net = network("block-causal")
    context = FlowContext(net, 2, cached=False)
    context.whole = False
    x = torch.zeros(2, 0, D)
    for piece in islice(vector_blocks(context, net.process, adams(net.process, grid.uniform(net.process, 3)),
                                      Stream.of(0, 2), (L, D), dtype=torch.float64), 10):  # fmt: skip
        x = torch.cat([x, piece.detach()], 1)
    assert float((play(net, 10, told=False) - x).abs().max()) > 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_what_is_trained_is_what_is_played(mode: str) -> None:
    """A prediction of the training pass, for each of its targets, is the streaming one after the same past."""
    net = network(mode)
    stream = Stream.of(1, 2)
    x_0, control = stream.fold(0).normal((W + 1) * L, D), stream.fold(1).normal((W + 1) * L, C)
    with torch.no_grad():
        denoiser, target = net.trainer(x_0, control)
        t = torch.tensor([0.3, 0.8], dtype=torch.float64)
        x_t = net.process.corrupt(target, t, stream.fold(2).normal(*target.shape[1:]))
        trained = denoiser(x_t, t).mean.split(L, 1)
        first = net.plan(W + 1)[1].start
        context = FlowContext(net, 2)
        for n in range(W + 1):
            context.control = control[:, n * L : n * L + L]
            if n >= first:
                here = x_t[:, (n - first) * L : (n - first + 1) * L]
                played = context.predict(here, t).mean
                assert float((played - trained[n - first]).abs().max()) <= 1e-12
            context.commit(x_0[:, n * L : n * L + L])


@torch.no_grad()
def test_a_copy_goes_on_alike_and_leaves_the_original_alone() -> None:
    for mode in CACHED:
        net = network(mode)
        context = FlowContext(net, 1)
        x = Stream.of(2, 1).normal(8, L, D)
        for n in range(5):
            context.commit(x[:, n])
        other = context.copy()
        a = context.predict(x[:, 7], torch.tensor(0.5)).mean
        other.commit(x[:, 6])
        b = other.predict(x[:, 7], torch.tensor(0.5)).mean
        assert torch.equal(context.predict(x[:, 7], torch.tensor(0.5)).mean, a)
        assert float((a - b).abs().max()) > 1e-6


def test_the_table_of_modes() -> None:
    """Window 2, blocks 0..2 clean, 3 noisy."""
    layout = Layout.of(range(3), range(3, 4), 1)
    seen = {m: visible(m, 2, layout.block, layout.clean, layout.block, layout.clean).int().tolist() for m in MODES}
    assert seen["diagonal"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]]
    assert seen["block-causal"] == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert seen["encoder-decoder"] == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert seen["full"] == [[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]


def test_it_learns_to_use_its_past() -> None:
    """Blocks repeat the one before them: a model that reads its past does better than one that cannot."""
    torch.manual_seed(0)
    trunk = TransformerConfig(dim=32, depth=2, heads=2, mlp=2)
    net = BlockFlow(BlockFlowConfig(2, 0, 2, 2, "diagonal", trunk))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    clock = Clocked(uniform())
    for step in range(200):
        stream = Stream.of(step, 64)
        x_0 = stream.fold(9).normal(2, 2).float().repeat(1, 3, 1)
        denoiser, target = net.trainer(x_0)
        loss, _ = flow_loss(denoiser, net.process, target, stream, kind="velocity", times=clock)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    context = FlowContext(net, 64)
    table = sde.ping_pong(net.process, grid.uniform(net.process, 4))
    with torch.no_grad():
        past = Stream.of(999, 64).normal(2, 2).float()
        context.commit(past)
        context.commit(past)
        made = next(vector_blocks(context, net.process, table, Stream.of(0, 64), (2, 2), first=2))
    assert float((made - past).square().mean()) < 0.35  # independent draws differ by 2
