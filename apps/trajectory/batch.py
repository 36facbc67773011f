"""Training batches: trips cut into blocks, each with its cone, its masks and what the known sites leave possible.

For each block that has not yet arrived, a count n ~ U{1 ... L'} of sites is masked (stratified over the batch) and the
loss carries the weight L' / n: the count form of the exact bound,

    -log p(x^b | x^{<b}) <= L' E_n E_{|masked| = n}  (1/n) sum_{masked} -log D(x_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from apps.trajectory import tokenizer
from apps.trajectory.chains import Chains
from apps.trajectory.field import Fields, Goals, alone, view
from apps.trajectory.model import clock
from apps.trajectory.traffic import period
from core.constrain.trellis import Trellis, unroll

__all__ = ["Batch", "Collator"]


@dataclass(eq=False)
class Batch:
    """B trips of T sites after the origin, R active blocks of L' sites, C candidates (the origins first).

    Args:
        segment, level, view, trip: per candidate [C]: segment, hops from its window's start, view, trip.
        clean: int64 [B, 1 + T], candidate of each token.
        noisy: bool [B, T], masked sites of the noisy copy.
        place, block: int64 [1 + T], place in the block and block number (the origin is block 0).
        row_trip, row_block: int64 [R], trip and block (from 0) of each active block.
        candidates: int64 [R, K] into C (padding repeats a valid one); allowed: bool [R, L', K].
        chains: float [R, L', K, chains], log-marginals of the reference chains given the known sites.
        target: int64 [R, L']; masked: bool [R, L']; weight: float [R].
        clock: float [B, 7]; informed: float [B], 0 for the unconditional branch.
        pace: float [B, 1 + T], log of (seconds / free-flow seconds), NaN unknown.
    """

    segment: Tensor
    level: Tensor
    view: Tensor
    trip: Tensor
    clean: Tensor
    noisy: Tensor
    place: Tensor
    block: Tensor
    row_trip: Tensor
    row_block: Tensor
    candidates: Tensor
    allowed: Tensor
    chains: Tensor
    target: Tensor
    masked: Tensor
    weight: Tensor
    clock: Tensor
    informed: Tensor
    pace: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(eq=False)
class Collator:
    """Make batches of trips on one network.

    Args:
        fields: to-go fields of the network.
        max_hops: budget of segments after the origin.
        restrict: let the known sites of a block restrict the others (as in sampling).
    """

    fields: Fields
    max_hops: int = 320
    restrict: bool = True

    def __call__(
        self,
        trips: Sequence[np.ndarray],
        block: int,
        rng: np.random.Generator,
        *,
        depart: np.ndarray | None = None,
        enter: Sequence[np.ndarray] | None = None,
        unconditional: float = 0.0,
        masks: np.ndarray | None = None,
    ) -> Batch:
        """Return a batch.

        Args:
            trips: walks, each trimmed at its first arrival.
            block: block length L'.
            rng: source of masks.
            depart: unix seconds [B], NaN unknown.
            enter: seconds at which each segment is entered, per trip.
            unconditional: probability that a trip's goal and departure are withheld.
            masks: bool [R, L'], masks to use instead of random ones (with weight one).
        """
        tokens = tokenizer.encode(trips, block)
        goals = Goals([self.fields.to(int(t[-1])) for t in trips])
        rows, trellis, target = self._windows(trips, tokens, goals, block)
        masked, weight = self._mask(len(target), block, rng) if masks is None else (masks, np.ones(len(target)))
        parts = self._candidates(tokens, goals, rows, trellis)
        parts |= self._tokens(tokens, rows, parts["candidates"], target, masked)
        known = np.where(masked if self.restrict else np.ones_like(masked), -1, target)
        when = np.full(len(trips), np.nan) if depart is None else np.asarray(depart)
        chains = Chains.of(self.fields, trellis, self.fields.roads.labels, goals, rows[0], period(when)[rows[0]])
        parts |= {
            "allowed": trellis.feasible(known), "chains": chains.marginals(known), "weight": weight.astype(np.float32),
            "informed": (rng.random(len(trips)) >= unconditional).astype(np.float32),
            "pace": self._pace(trips, enter, tokens.shape[1]),
        }  # fmt: skip
        tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in parts.items()}
        return Batch(clock=clock(torch.from_numpy(when)), **tensors)

    def _windows(
        self, trips: Sequence[np.ndarray], tokens: np.ndarray, goals: Goals, block: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], Trellis, np.ndarray]:
        """Return trip and block of each active block [R], their windows, and the local tokens [R, L']."""
        last = np.array([len(t) - 1 for t in trips])
        row_trip, row_block = np.nonzero(np.arange((tokens.shape[1] - 1) // block)[None, :] * block < last[:, None])
        sites = tokens[:, 1:].reshape(len(trips), -1, block)[row_trip, row_block]
        remaining = (-(-self.max_hops // block) - 1 - row_block) * block
        hops = goals.hops
        trellis = unroll(self.fields.roads, tokens[row_trip, row_block * block], block, remaining, hops, row_trip)
        target = (trellis.alphabet[:, None, :] == sites[..., None]).argmax(-1)
        return (row_trip, row_block), trellis, target

    def _candidates(
        self, tokens: np.ndarray, goals: Goals, rows: tuple[np.ndarray, np.ndarray], trellis: Trellis
    ) -> dict[str, np.ndarray]:
        """Describe the candidates of all windows, the origins first."""
        row_trip, row_block = rows
        block, labels, every = trellis.length, self.fields.roads.labels, np.arange(len(tokens))
        start = tokens[row_trip, row_block * block]
        level, seen = view(self.fields, trellis, labels, start, goals, row_trip)
        valid = trellis.alphabet >= 0
        return {
            "segment": np.concatenate([tokens[:, 0], trellis.alphabet[valid]]),
            "level": np.concatenate([np.zeros(len(tokens), np.int64), level[valid]]),
            "view": np.concatenate([alone(self.fields, labels, tokens[:, 0], goals, every), seen[valid]]),
            "trip": np.concatenate([every, row_trip[np.nonzero(valid)[0]]]),
            "candidates": np.where(valid, np.cumsum(valid).reshape(valid.shape) - 1 + len(tokens), 0),
        }

    @staticmethod
    def _tokens(
        tokens: np.ndarray,
        rows: tuple[np.ndarray, np.ndarray],
        index: np.ndarray,
        target: np.ndarray,
        masked: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Lay out the clean and noisy copies: which candidate stands where, in which block, masked or not."""
        (row_trip, row_block), block = rows, target.shape[1]
        blocks = (tokens.shape[1] - 1) // block
        clean = np.repeat(np.arange(len(tokens))[:, None], tokens.shape[1], 1)
        noisy = np.ones((len(tokens), tokens.shape[1] - 1), bool)
        at = 1 + row_block[:, None] * block + np.arange(block)
        clean[row_trip[:, None], at] = np.take_along_axis(index, target, 1)
        noisy[row_trip[:, None], at - 1] = masked
        return {
            "clean": clean, "noisy": noisy, "row_trip": row_trip, "row_block": row_block, "target": target,
            "masked": masked, "place": np.concatenate([[0], np.tile(np.arange(block), blocks) + 1]),
            "block": np.concatenate([[0], np.repeat(np.arange(blocks), block) + 1]),
        }  # fmt: skip

    @staticmethod
    def _mask(rows: int, block: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Masks with stratified counts n in 1 ... L', and the weights L' / n."""
        strata = (rng.permutation(rows) + rng.random()) / rows
        count = 1 + np.minimum((strata * block).astype(np.int64), block - 1)
        rank = rng.random((rows, block)).argsort(1).argsort(1)
        return rank < count[:, None], block / count

    def _pace(self, trips: Sequence[np.ndarray], enter: Sequence[np.ndarray] | None, width: int) -> np.ndarray:
        out = np.full((len(trips), width), np.nan, np.float32)
        if enter is not None:
            free = self.fields.network.travel_time
            for row, trip, times in zip(out, trips, enter, strict=True):
                seconds = np.diff(times[: len(trip)])
                row[: len(seconds)] = np.log(np.maximum(seconds, 0.2) / np.maximum(free[trip[: len(seconds)]], 0.2))
        return np.clip(out, -3, 4)
