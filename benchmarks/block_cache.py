"""Does the cache pay? One model sampled with and without its key-value cache, and the cost of each block.

16 blocks of 16 tokens (the bar) and 32 (shown beside: attention grows with what it attends to), 4 steps a block,
d = 128, 4 layers. Both runs draw the same tokens, which is checked.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from benchmarks.harness import Bar, Result
from core.blocks import blocks
from core.constrain.law import Free
from core.nn.tokens import TokenConfig, TokenNet
from core.nn.transformer import TransformerConfig
from core.noise import Stream
from core.plan import uniform_plan
from core.solvers.tokens import Confidence

__all__ = ["run"]

TOKENS, BLOCK, STEPS, ROWS = 64, 16, 4, 4


@torch.inference_mode()
def sample(net: TokenNet, count: int, seed: int) -> tuple[Tensor, list[float]]:
    """Return tokens [B, L] and the seconds of each block."""
    pieces, clock, began = [], [], time.perf_counter()
    stream = Stream.of(seed, ROWS)
    for piece in blocks(net, uniform_plan(STEPS), Confidence(), constraint=Free(ROWS, TOKENS),
                        length=BLOCK * count, block=BLOCK, stream=stream):  # fmt: skip
        pieces.append(piece.tokens)
        clock.append(time.perf_counter() - began)
        began = time.perf_counter()
    return torch.cat(pieces, 1), clock


def figures(net: TokenNet, count: int, repeats: int) -> dict[str, float]:
    """Return the speed-up and the flatness of `count` blocks, medians over repeats."""
    ratios, flats, different = [], [], 0.0
    for repeat in range(repeats):
        net.cached = True
        (tokens, once), (_, again) = sample(net, count, repeat), sample(net, count, repeat)
        net.cached = False
        other, uncached = sample(net, count, repeat)
        different = max(different, float((tokens != other).double().mean()))
        best = torch.tensor([once, again]).amin(0)
        ratios.append(sum(uncached) / float(best.sum()))
        flats.append(float(best[-(count // 4) :].median() / best[: count // 4].median()))
    speedup, flat = (float(torch.tensor(v).median()) for v in (ratios, flats))
    return {"speedup": speedup, "last_over_first_quarter": flat, "tokens_that_differ": different}


def run(full: bool) -> Result:
    """Measure; `full` repeats more often."""
    torch.manual_seed(0)
    net = TokenNet(TokenConfig(TOKENS, TransformerConfig(dim=128, depth=4, heads=4))).eval()
    sample(net, 4, 0)
    short, long = figures(net, 16, 9 if full else 5), figures(net, 32, 5 if full else 1)
    bars = [
        Bar("cached over uncached sampling, 16 blocks", short["speedup"], ">=", 3.0),
        Bar("cost per block, last quarter over first, 16 blocks", short["last_over_first_quarter"], "<=", 1.3),
    ]
    units = {"speedup": "ratio of seconds, median", "last_over_first_quarter": "ratio of median seconds per block"}
    notes = f"{ROWS} rows, blocks of {BLOCK} tokens, {STEPS} steps each; random weights."
    return Result({"16 blocks": short, "32 blocks": long}, bars, units, notes=notes)
