"""Counter-based random streams: every draw is a pure function of its address.

A draw is addressed by (seed, folds..., sample, index): `Philox4x32-10(key, counter)` with
`key = mix(seed, folds)` and `counter = (index, sample)`. Nothing is consumed, so the noise of sample 7
in block 3 is the same whatever batch it is drawn in, whichever rows have finished, and however the calls
are split. That is what makes cached equal uncached and batches equal single runs, token by token.

Reference: Salmon, Moraes, Dror, Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float64, Int, Shaped, UInt64
from torch import Tensor

from core.jit import jit

__all__ = ["Stream", "philox"]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(
    key: int, high: UInt64[np.ndarray, "*n"], low: UInt64[np.ndarray, "*n"]
) -> tuple[UInt64[np.ndarray, "*n"], UInt64[np.ndarray, "*n"]]:
    """Return two uint64 words for each 128-bit counter (`high`, `low`) under a 64-bit `key`.

    Args:
        key: 64-bit key.
        high, low: uint64 arrays of one shape, the two halves of the counter.
    """
    first, second = _rounds(np.uint64(key), np.ascontiguousarray(high).ravel(), np.ascontiguousarray(low).ravel())
    return first.reshape(high.shape), second.reshape(low.shape)


@jit
def _rounds(key, high, low):  # noqa: ANN001, ANN202
    first, second = np.empty_like(low), np.empty_like(low)
    for i in range(len(low)):
        c0, c1, c2, c3 = low[i] & _LOW, low[i] >> _32, high[i] & _LOW, high[i] >> _32
        k0, k1 = key & _LOW, key >> _32
        for _ in range(10):
            p0, p1 = _M0 * c0, _M1 * c2
            c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
            k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
        first[i], second[i] = c0 | (c1 << _32), c2 | (c3 << _32)
    return first, second


@dataclass(frozen=True)
class Stream:
    """A batch of random streams, one for each sample.

    Args:
        seed: any integer.
        samples: sample numbers of shape [B]; the batch axis of all draws.
        path: the folds so far (block, step, purpose, ...).
        device: where draws are delivered.
        turn: float64 [B] in [0, 1), added to every uniform modulo one (`strata`), or None.
    """

    seed: int
    samples: Int[Tensor, " b"]
    path: tuple[int, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    turn: Float64[Tensor, " b"] | None = None

    @classmethod
    def of(cls, seed: int, n: int, first: int = 0) -> Stream:
        """Return the streams of samples `first ... first + n - 1`."""
        return cls(seed, torch.arange(first, first + n))

    @classmethod
    def strata(cls, seed: int, samples: Int[Tensor, " b"], count: int) -> Stream:
        """Return streams in groups of `count` consecutive samples that share their noise, turned by 0, 1/n, 2/n, ...

        Every draw of every sample keeps its law, and a sample's draws stay independent of each other; within a group
        they are spread evenly (a Cranley-Patterson rotation, 1976), so that few samples show the proportions of many.
        """
        if count == 1:
            return cls(seed, samples)
        return cls(seed, samples // count, turn=(samples % count).double() / count)

    def fold(self, *numbers: int) -> Stream:
        """Return the independent streams at a deeper address."""
        return replace(self, path=self.path + tuple(int(i) for i in numbers))

    def select(self, rows: Shaped[Tensor, " r"]) -> Stream:
        """Return the streams of some rows of the batch."""
        rows = rows.cpu()
        return replace(self, samples=self.samples[rows], turn=None if self.turn is None else self.turn[rows])

    def to(self, device: torch.device | str) -> Stream:
        """Return the same streams, delivering on `device`."""
        return replace(self, device=torch.device(device))

    def key(self) -> int:
        """Return the 64-bit key of this address."""
        text = ",".join(str(i) for i in (self.seed, *self.path)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def uniform(self, *tail: int) -> Float64[Tensor, "b ..."]:
        """Return float64 uniforms in [0, 1) of shape [B, *tail], on a grid of 2^-53."""
        count = math.prod(tail)
        words = self._words((count + 1) // 2)[:, :count]
        u = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        out = torch.from_numpy(u.reshape(len(self.samples), *tail))
        if self.turn is not None:
            out = (out + self.turn.reshape(-1, *[1] * len(tail))) % 1.0
        return out.to(self.device)

    def normal(self, *tail: int) -> Float64[Tensor, "b ..."]:
        """Return float64 standard normals of shape [B, *tail] (inverse distribution function)."""
        return torch.special.ndtri(self.uniform(*tail).clamp_min(2.0**-54))

    def permutation(self, n: int) -> Int[Tensor, "b n"]:
        """Return one permutation of 0..n-1 for each sample, shape [B, n]."""
        return self.uniform(n).argsort(-1)

    def _words(self, pairs: int) -> np.ndarray:
        low = np.broadcast_to(np.arange(pairs, dtype=np.uint64), (len(self.samples), pairs))
        samples: np.ndarray | Sequence[int] = self.samples.cpu().numpy().astype(np.uint64)
        high = np.broadcast_to(np.asarray(samples)[:, None], low.shape)
        first, second = philox(self.key(), high, low)
        return np.stack([first, second], -1).reshape(len(self.samples), 2 * pairs)
