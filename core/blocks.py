"""Block after block: the same reverse loop over a key-value cache, as a generator.

    p(x) = prod_b  p(x^b | x^{<b}),        each factor a diffusion over the L' sites of block b.

Block size 1 is autoregression, block size L is full diffusion (Arriola et al. 2025, arXiv 2503.09573). The committed
block and the next noisy one share one forward pass, so committing costs no pass of its own. Rows that have arrived
leave the batch; since noise is addressed by (seed, sample, block, step), the others do not notice.

`vector_blocks` is the same over real vectors, without end: prior, solver table, yield, commit. A block is committed
when the next one is asked for, so it is heard before the memory is written, and what the context is told (controls)
may change in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.constrain.law import Constraint, Window
from core.denoiser import GaussianPrediction, Prediction
from core.errors import UsageError
from core.noise import Stream
from core.plan import Plan, Table
from core.process.categorical import Categorical
from core.process.gaussian import Gaussian
from core.process.schedule import Linear, Schedule
from core.sample import Solver, denoise, integrate

__all__ = ["Block", "BlockContext", "BlockDenoiser", "VectorContext", "blocks", "generate", "vector_blocks"]


class BlockContext(Protocol):
    """What a network remembers of the clean tokens so far, row by row."""

    def enter(self, window: Window, state: np.ndarray) -> None:
        """Prepare for a window whose rows are in the law's `state`."""
        ...

    def predict(self, x_t: Int[Tensor, "b l"], t: Float[Tensor, " ..."]) -> Prediction:
        """Predict x_0 of the window's sites from local tokens [B, L], the mask being K."""
        ...

    def commit(self, x_0: Int[Tensor, "b l"]) -> None:
        """Append the window's clean local tokens [B, L] to the memory."""
        ...

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep only some rows."""
        ...


class BlockDenoiser(Protocol):
    """A network that predicts block by block."""

    def open(self, rows: int, length: int) -> BlockContext:
        """Return the context of `rows` empty sequences of at most `length` tokens."""
        ...


@dataclass(frozen=True)
class Block:
    """One committed block.

    Args:
        number: its place in the sequence of blocks.
        rows: rows of the original batch that it belongs to, int64 [R].
        tokens: global tokens, int64 [R, L].
        final: which of these rows are finished with it, bool [R].
    """

    number: int
    rows: Int[Tensor, " r"]
    tokens: Int[Tensor, "r l"]
    final: Bool[Tensor, " r"]


def blocks(
    model: BlockDenoiser,
    plan: Plan,
    solver: Solver,
    *,
    constraint: Constraint,
    length: int,
    block: int,
    stream: Stream,
    greedy: bool = False,
    schedule: Schedule | None = None,
    process: Any = None,
) -> Iterator[Block]:
    """Yield the blocks of B sequences as they are committed.

    Args:
        model: the network.
        plan: steps per block.
        solver: the token solver.
        constraint: the law over whole sequences (`Free` for none).
        length: total tokens of a sequence.
        block: tokens per block, 1 ... length.
        stream: one stream per row.
        greedy: take the most likely values.
        schedule: clock of the absorbing process; linear by default.
        process: another `Categorical` process over the (fixed) alphabet.

    Raises:
        UsageError: a block without tokens.
    """
    if block < 1:
        raise UsageError("must be 1 or more", field="block", value=block)
    state = constraint.begin()
    rows = np.arange(len(state))
    context = model.open(len(rows), length)
    number, done = 0, 0
    while done < length and len(rows):
        size = min(block, length - done)
        window = constraint.window(state, rows, size, length - done - size)
        context.enter(window, state)
        law = process or Categorical.absorbing(window.alphabet.shape[1], schedule or Linear())
        here = stream.select(torch.from_numpy(rows)).fold(number)
        start = torch.full((len(rows), size), law.K) if law.mask is not None else law.prior((size,), here.fold(2))
        x_0 = denoise(context.predict, law, plan, window, solver, here, start.to(window.alphabet.device), greedy)
        state = constraint.advance(window, x_0)
        final = constraint.finished(state, rows)
        tokens = window.alphabet.gather(1, x_0)
        yield Block(number, torch.from_numpy(rows), tokens, torch.from_numpy(final))
        number, done = number + 1, done + size
        if done < length and not final.all():
            context.commit(x_0)
            if final.any():
                keep = np.flatnonzero(~final)
                context.select(torch.from_numpy(keep))
                state, rows = state[keep], rows[keep]
        elif final.all():
            return


def generate(model: BlockDenoiser, plan: Plan, solver: Solver, **arguments: Any) -> Int[Tensor, "b l"]:
    """Return whole sequences, int64 [B, L]; -1 after a row has finished (arguments as in `blocks`)."""
    rows, length, done = len(arguments["constraint"].begin()), arguments["length"], 0
    out = torch.full((rows, length), -1, dtype=torch.long)
    for piece in blocks(model, plan, solver, **arguments):
        size = piece.tokens.shape[1]
        out[piece.rows, done : done + size] = piece.tokens.cpu()
        done += size
    return out


class VectorContext(Protocol):
    """What a network remembers of the clean vectors so far."""

    def predict(self, x_t: Float[Tensor, "b l d"], t: Float[Tensor, " ..."]) -> GaussianPrediction:
        """Predict the clean block from the noisy one [B, L, d]."""
        ...

    def commit(self, x_0: Float[Tensor, "b l d"]) -> None:
        """Append the clean block [B, L, d] to the memory."""
        ...


def vector_blocks(
    context: VectorContext, process: Gaussian, table: Table, stream: Stream, shape: tuple[int, ...], *,
    first: int = 0, dtype: torch.dtype = torch.float32,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield clean blocks [B, *shape] without end.

    Args:
        context: the network and its memory, with what has been played so far.
        process: the corruption.
        table: the solver, from its first time, where the prior is drawn, to its last.
        stream: one stream per row.
        shape: of a block, (L, d).
        first: number of the first block; one restored at block n goes on as if it had never stopped.
        dtype: of the states.
    """
    number = first
    while True:
        here = stream.fold(number)
        x = process.prior(shape, here.fold(0), table.times[0]).to(dtype)
        x_0 = integrate(context.predict, table, x, here.fold(1))
        yield x_0
        context.commit(x_0)
        number += 1
