"""Is the memory of a playing model exact, and does it pay? All context modes, with and without it.

40 blocks under changing controls, guidance on and off, with a snapshot restored in between; random weights, the same
noise. `diagonal` and `encoder-decoder` are compared with the window, `block-causal` with its whole history. The gain is
time per block without over with memory, medians in one run, one row, at windows of 4 and 8 blocks of 32 frames.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from benchmarks.harness import Bar, Result
from core.blocks import vector_blocks
from core.nn.block_flow import BlockFlow, BlockFlowConfig
from core.nn.flow_context import FlowContext
from core.nn.transformer import TransformerConfig
from core.noise import Stream
from core.solvers import grid
from core.solvers.adams import adams

__all__ = ["run"]

MODES = ("encoder-decoder", "block-causal", "diagonal")
BLOCKS, LATENT, CONTROL = 40, 16, 6


def network(mode: str, dim: int, depth: int, block: int, window: int, dtype: torch.dtype) -> BlockFlow:
    """Return a network with random weights, heads included."""
    torch.manual_seed(0)
    trunk = TransformerConfig(dim=dim, depth=depth, heads=4)
    net = BlockFlow(BlockFlowConfig(LATENT, CONTROL, block, window, mode, trunk))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.08)
    return net.to(dtype).eval()


@torch.inference_mode()
def play(net: BlockFlow, cached: bool, guidance: float, steps: int) -> Tensor:
    """Play 40 blocks, going back from block 23 to block 20 once."""
    length, table = net.config.block, adams(net.process, grid.angle(net.process, steps))
    context, out = FlowContext(net, 1, guidance, cached), []
    wave = torch.sin(torch.arange(BLOCKS * length * CONTROL, dtype=torch.float64)).view(BLOCKS, 1, length, CONTROL)
    kept, n, back = None, 0, False
    while n < BLOCKS:
        if n == 20 and kept is None:
            kept = context.copy()
        if n == 23 and not back and kept is not None:
            context, n, back, out = kept, 20, True, out[:20]
        context.control = wave[n]
        piece = next(vector_blocks(context, net.process, table, Stream.of(0, 1), (length, LATENT), first=n,
                                   dtype=context.weight.dtype))  # fmt: skip
        context.commit(piece)
        out.append(piece)
        n += 1
    return torch.cat(out, 1).double()


def exactness() -> dict[str, float]:
    """Return the largest difference for each precision, mode and guidance."""
    found = {}
    for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64")):
        for mode in MODES:
            net = network(mode, 48, 3, 4, 4, dtype)
            for guidance in (1.0, 3.0):
                a, b = (play(net, c, guidance, 4) for c in (True, False))
                found[f"{name} {mode} w={guidance:g}"] = float((a - b).abs().max())
    return found


@torch.inference_mode()
def gain(mode: str, window: int, steps: int, repeats: int, dim: int = 256, depth: int = 8) -> float:
    """Return time per block without memory over that with it."""
    net = network(mode, dim, depth, 32, window, torch.float32)
    table, seconds = adams(net.process, grid.angle(net.process, steps)), {True: [], False: []}
    contexts = {c: FlowContext(net, 1, 1.0, c) for c in (True, False)}
    for context in contexts.values():
        for _ in range(window):
            context.commit(torch.zeros(1, 32, LATENT))
    for n in range(repeats + 1):
        for cached, context in contexts.items():
            state = context.copy()
            began = time.process_time()
            piece = next(vector_blocks(context, net.process, table, Stream.of(n, 1), (32, LATENT)))
            context.commit(piece)
            seconds[cached].append(time.process_time() - began)
            contexts[cached] = state
    with_, without = (statistics.median(seconds[c][1:]) for c in (True, False))
    return without / with_


def run(full: bool) -> Result:
    """Measure; `full` repeats more often."""
    torch.set_num_threads(1)
    repeats = 7 if full else 3
    exact = exactness()
    gains = {f"W={w} K={k} {m}": gain(m, w, k, repeats) for w in (4, 8) for k in (8, 50) for m in MODES}
    bars = [
        Bar(f"cached - uncached, {name}", max(v for k, v in exact.items() if k.startswith(name)), "<=", limit)
        for name, limit in (("float32", 1e-5), ("float64", 1e-12))
    ]
    asked = {(4, 8): 1.8, (4, 50): 2.3, (8, 8): 2.7, (8, 50): 3.5}
    for (w, k), limit in asked.items():
        best = min(v for name, v in gains.items() if name.startswith(f"W={w} K={k} "))
        bars.append(Bar(f"gain of the cache, {w} blocks of 32, {k} steps, least of three modes", best, ">=", limit))
    notes = "d = 256, 8 layers for the gain (CPU time of one thread); d = 48, 3 layers, 4 steps for exactness."
    return Result({"difference": exact, "gain": gains}, bars, {"gain": "ratio of CPU time per block"}, notes=notes)
