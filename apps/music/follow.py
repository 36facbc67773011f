"""What is asked by ear is followed while a block is made: hits by search, everything else by descent.

Of scores the memory then holds what was heard (`RollCodec.settle`), as it did in training: decisions, no half-notes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from apps.music.model import AnyCodec
from apps.music.pursuit import pursue
from apps.music.roll import RollCodec
from apps.music.steer import Steer, wishes
from core.nn.flow_context import FlowContext

__all__ = ["STEER", "follow"]

Move = Callable[[Tensor], Tensor]
STEER = 0.5
"""A weight that follows a sketch; chosen on training performances, the spread of attacks on validation ones."""
SWEEPS, ROUNDS, RATE = 2, 6, 0.2


def follow(
    codec: AnyCodec, context: FlowContext, bpm: float, weight: float, rule: Move | None, attack: Tensor | None = None,
    phase: float = 0.0,
) -> Move:  # fmt: skip
    """Prepare a context for its next block and return what is to be done with the block [B, L, dim] once it is made.

    Args:
        codec: of the frames; only what scores are heard to do can be steered.
        context: its control is that of the next block, the same for all rows.
        bpm: tempo of the block.
        weight: of what is heard against what the model would play; 0 leaves all to the model.
        rule: projection that every prediction has to pass.
        attack: when in each frame sounds are to begin, and in which bands, [L, 2 PARTS BANDS] (`attack.py`).
        phase: samples from the beginning of the ear's row to that of the block.
    """
    context.project = rule
    if not isinstance(codec, RollCodec):
        return lambda made: made
    before = context.past[-1].cpu() if context.past else None
    asked = wishes(context.control[0]) if weight and context.control is not None else {}
    if "onset" in asked and attack is not None:
        asked["attack"] = attack
    if asked and codec.hits and codec.high == codec.low and codec.ticks == 1:
        return lambda made: codec.settle(
            _ruled(pursue(codec, made, before, asked, bpm, 0.5 / weight, SWEEPS, phase), rule), before
        )
    if asked:
        steer = Steer(codec, {k: v for k, v in asked.items() if k != "attack"}, bpm, before, ROUNDS, RATE * weight)
        context.project = lambda x_0: _ruled(steer(x_0), rule)
    return lambda made: codec.settle(made, before)


def _ruled(x_0: Tensor, rule: Move | None) -> Tensor:
    return x_0 if rule is None else rule(x_0)
