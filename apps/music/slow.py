"""Slow quantities: how busy a block is, and how much of its neighbour's harmony it keeps; whole blocks have them.

A flow and an adversary are taught frame by frame, and a quantity of which each frame holds a little is the last that
they learn: blocks all come out near the average. Here it is compared by itself. Of block b let `m_b` be the onsets per
beat that are marked, `r_b` those that rise (a pitch sounds that did not sound before), and `k_b` the cosine of its
pitch classes with those of block b - 1. The joint law of

    s_b = (m_{b-1}, m_b, r_{b-1}, r_b, k_b)

in the music that is made, G, and so the law of `h_b`, the shares of pitch classes, the mean pitch and how many notes
sound, for a piece that is free to be uneven must not wander off with it, are pulled towards those of the data, R, by
the energy distance

    E(G, R) = 2 E|g - r| - E|g - g'| - E|r - r'|  >=  0,    0 only where the laws are the same,

each coordinate in units of its deviation in the data, but `k_b` in half of them: harmony is one number, where busyness
has four. Nothing in it learns, and it is estimated without bias from few samples of G; of R many are kept. Decisions (a
note begins, sounds) are sigmoids, steep enough that what is not heard does not count: were onsets a linear function of
the frames, all of them could be lowered a little and none be gone.

Reference: Szekely and Rizzo, 2013, J. Statistical Planning and Inference 143 (energy distance).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apps.music.roll import REPEAT, TICKS, RollCodec
from core.errors import UsageError
from core.guide.stretch import Stretch

__all__ = ["begins", "energy", "misfit", "quantities", "stretched"]

HARMONY = 2.0
"""What the likeness of harmony counts beside each number of busyness."""
STEEP = 4.0
"""Slope of the sigmoids; rolls are -1 or 1."""


def begins(codec: RollCodec, x: Float[Tensor, "b f d"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many notes and hits are marked to begin, and how many rise, in each tick [B, T], and what sounds.

    Of clean rolls these are whole numbers, of blurred ones differentiable: a decision at v is `sigmoid(STEEP v)`.

    Args:
        codec: of the frames.
        x: frames [B, F, d] of pieces.
    """
    rows = codec.pca.inverse(x).reshape(len(x), -1, codec.width)
    notes = rows[..., codec.hits :]
    on, begin = torch.sigmoid(STEEP * notes[..., 0::2]), torch.sigmoid(STEEP * (notes[..., 1::2] - REPEAT))
    hits = torch.sigmoid(STEEP * rows[..., 0 : codec.hits : 3]).sum(-1)
    rise = torch.nn.functional.pad(on, (0, 0, 1, 0)).diff(dim=1).relu()
    return begin.sum(-1) + hits, rise.sum(-1) + hits, on


def quantities(codec: RollCodec, x: Float[Tensor, "b f d"], length: int) -> tuple[Tensor, Tensor]:
    """Return `s_b` [B, N - 1, 5] and `h_b` [B, N - 1, 14] of each of the N blocks but the first, differentiable.

    Args:
        codec: of the frames.
        x: frames [B, N length, d] of pieces.
        length: frames of a block.
    """
    *fresh, on = begins(codec, x)
    ticks = length * codec.ticks
    begin, rise = (v.unflatten(1, (-1, ticks)).sum(-1) * (TICKS / ticks) for v in fresh)
    octaves = torch.nn.functional.pad(on, (codec.low % 12, -(codec.low % 12 + on.shape[-1]) % 12)).unflatten(
        -1, (-1, 12)
    )
    classes = octaves.sum(-2).unflatten(1, (-1, ticks)).sum(2)
    kept = torch.cosine_similarity(classes[:, 1:], classes[:, :-1], -1, eps=1e-3)
    long = on.unflatten(1, (-1, ticks)).sum(2)
    total = long.sum(-1, keepdim=True).clamp(min=1e-3)
    register = (long * torch.arange(on.shape[-1], device=x.device)).sum(-1, keepdim=True) / total
    home = torch.cat([classes / total, register, total], -1)
    return torch.stack([begin[:, :-1], begin[:, 1:], rise[:, :-1], rise[:, 1:], kept], -1), home[:, 1:]


def stretched(codec: nn.Module, length: int, gain: float, since: float) -> Stretch | None:
    """Return the stretch of predictions of blocks [B, length, d] along their onsets, about the mean of the data.

    None where the gain is 1.

    Counted by decisions onsets are not linear in a block; `u . x` adds the columns of the roll that mark beginnings.

    Raises:
        UsageError: the codec knows no notes.
    """
    if gain == 1:
        return None
    if not isinstance(codec, RollCodec):
        raise UsageError("stretches scores, not sound", field="sample.stretch", value=gain, hint="1 stretches nothing")
    marks = torch.zeros(codec.ticks, codec.width)
    marks[:, codec.hits + 1 :: 2] = 1
    u = (codec.pca.basis * codec.pca.scale).T @ marks.reshape(-1).to(codec.pca.basis)
    return Stretch(u.expand(length, -1), gain, 0.0, since)


def misfit(made: Sequence[Tensor], known: Sequence[Tensor], home: float) -> Float[Tensor, ""]:
    """Return how far the law of slow quantities is from the data's: `E` of `s_b`, and `home` times that of `h_b`.

    Args:
        made: `quantities` of what was made, of at least two pieces.
        known: those of the data.
        home: what the place of a block counts beside its unevenness.
    """
    unit, place = (v.flatten(0, 1).std(0).clamp(min=1e-3) for v in known)
    unit = unit / unit.new_tensor([1.0, 1.0, 1.0, 1.0, HARMONY])
    return energy(made[0] / unit, known[0] / unit) + home * energy(made[1] / place, known[1] / place)


def energy(made: Float[Tensor, "p n k"], known: Float[Tensor, "q m k"]) -> Float[Tensor, ""]:
    """Return the energy distance of the blocks of two samples of pieces; made pieces are at least two.

    Blocks of one piece are alike, so only those of different pieces are compared: were neighbours counted among what is
    made, where many are, and hardly among what is known, music of the right law would seem too even, and be driven to
    wander. The estimate is without bias, so below 0 at times.
    """
    across = torch.cdist(made.flatten(0, 1), known.flatten(0, 1)).mean()
    return 2 * across - _apart(made) - _apart(known)


def _apart(x: Float[Tensor, "p n k"]) -> Float[Tensor, ""]:
    """Return the mean distance of two blocks of different pieces."""
    flat, (pieces, blocks) = x.flatten(0, 1), x.shape[:2]
    same = torch.cdist(x, x).sum()
    return (torch.cdist(flat, flat).sum() - same) / (pieces * (pieces - 1) * blocks**2)
