"""Hits that sound as asked: a search over the hits of a block, near what the model played.

A hit is there or not, so descent stops at the nearest of many valleys. Here the energies of `apps.music.steer` are
exact sums over hits, and the search goes through the ticks in order, as in matching pursuit: of a tick's nine classes
one changes at a time, its strength first, then its class, then its lateness, to what minimises

    misfit(heard, asked) + prior (h - h_model)^2 + ...

over the ticks that the change is heard in. The price of a change is how sure the model was: what it left open is free,
what it was sure of is kept. The memory then holds what is played.

Reference: Mallat and Zhang, 1993, IEEE Trans. Signal Processing 41(12) (matching pursuit).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apps.music.roll import TICKS, RollCodec
from apps.music.spectral import HOP
from apps.music.steer import PARTS, apart, features, strokes
from apps.music.synth import RATE

__all__ = ["Search", "pursue"]

LEVELS = (0.0, 0.12, 0.2, 0.3, 0.4, 0.5, 0.62, 0.8, 1.0)
LATE = (-0.4, -0.25, -0.1, 0.0, 0.1, 0.25, 0.4)
"""Lateness in ticks that is tried beside the model's own."""
REACH = 4
"""Ticks after a change that are listened to."""
LONG = 64
"""Rows of a stroke."""

Hit = tuple[int, float, float]
"""Class, strength (0: none), lateness in ticks."""


@dataclass(eq=False)
class Search:
    """The hits of one block and the energies of what is heard of them.

    Args:
        model: hits as the model left them, [L, classes, 3] of a roll.
        before: those of the block before, [P, classes, 3].
        asked: what is to be heard, [L, width] by group; `moment` says when in a tick (`steer.moments`).
        bpm: tempo.
        prior: price of a change.
    """

    model: Tensor
    before: Tensor
    asked: Mapping[str, Tensor]
    bpm: float
    prior: float

    def __post_init__(self) -> None:
        """Sum up the energies of what is there."""
        self.tick, self.first = 60 / self.bpm / TICKS * RATE, len(self.before)
        table = torch.cat([self.before, self.model])
        self.sure = table[..., 0].clamp(-1.5, 1.5)
        self.firm = ((table[..., 1] + 1) / 2).clamp(0.05, 1)
        self.due = (table[..., 2] / 2).clamp(-0.499, 0.499)
        self.level = torch.where(self.sure > 0, self.firm, 0.0)
        self.late = self.due.clone()
        self.strokes = strokes(self.model.shape[1], LONG)
        edges = (torch.arange(len(table) + REACH + 2).double() * self.tick + HOP / 2) // HOP
        self.cut = edges.long().tolist()
        parts = (torch.arange(len(edges) * PARTS).double() * (self.tick / PARTS) + HOP / 2) // HOP
        self.fine = parts.long().tolist()
        self.energy = torch.zeros(self.cut[-1] + 2 * LONG, self.strokes.shape[2])
        for t, k in torch.nonzero(self.level).tolist():
            self._add(t, k, float(self.level[t, k]) ** 2, float(self.late[t, k]))

    def _row(self, t: int, late: float) -> int:
        return max(0, int(np.floor((t + late) * self.tick / HOP)))

    def _add(self, t: int, k: int, power: float, late: float) -> None:
        at = self._row(t, late)
        self.energy[at : at + LONG] += power * self.strokes[k]
        self.energy[at : at + LONG].clamp_(min=0)

    def price(self, t: int, k: int, level: float, late: float) -> float:
        """Return what it costs that a hit has this strength and lateness, given what the model meant."""
        sure = float(self.sure[t, k])
        on = level > 0
        cost = (sure - (1 if on else -1)) ** 2 if on != (sure > 0) else 0.0
        if on:
            cost += (late - float(self.due[t, k])) ** 2
            cost += 4 * (level - float(self.firm[t, k])) ** 2 if sure > 0 else 0.0
        return cost

    def run(self, sweeps: int) -> Tensor:
        """Return the hits [L, classes, 3] after so many sweeps, or fewer when one changes nothing."""
        for _ in range(sweeps):
            before = self.level.clone(), self.late.clone()
            for t in range(self.first, len(self.level)):
                own, kinds = self.late[t].tolist(), range(self.level.shape[1])
                self._change(t, [[(k, v, own[k])] for k in kinds for v in LEVELS])
                there = [(k, v) for k, v in enumerate(self.level[t].tolist()) if v]
                self._change(t, [[(k, 0.0, own[k]), (j, v, own[j])] for k, v in there for j in kinds if j != k])
                there = [(k, v) for k, v in enumerate(self.level[t].tolist()) if v]
                self._change(t, [[(k, v, late)] for k, v in there for late in LATE])
            if torch.equal(before[0], self.level) and torch.equal(before[1], self.late):
                break
        return self.hits()

    def _change(self, t: int, options: list[list[Hit]]) -> None:
        """Take the best of the options at tick t, each one or two hits that become others, or none."""
        if not options:
            return
        low, high = self.cut[max(t - 1, 0)], self.cut[min(t + REACH, len(self.level))]
        low = max(0, low - 1)
        base = self.energy[low:high]
        heard, cost = base.repeat(len(options) + 1, 1, 1), torch.zeros(len(options) + 1)
        for n, hits in enumerate(options):
            for k, level, late in hits:
                now = float(self.level[t, k]), float(self.late[t, k])
                for power, moment in ((-(now[0] ** 2), now[1]), (level**2, late)):
                    if power:
                        self._place(heard[n], self._row(t, moment) - low, power, k)
                cost[n] += self.price(t, k, level, late) - self.price(t, k, *now)
        total = self._misfit(heard.clamp(min=0), low, max(t - 1, self.first), min(t + REACH, len(self.level)))
        best = int((total + self.prior * cost).argmin())
        for k, level, late in options[best] if best < len(options) else ():
            self._add(t, k, -(float(self.level[t, k]) ** 2), float(self.late[t, k]))
            self._add(t, k, level**2, late)
            self.level[t, k], self.late[t, k] = level, late

    def _place(self, rows: Tensor, at: int, power: float, k: int) -> None:
        a, b = max(at, 0), min(at + LONG, len(rows))
        if a < b:
            rows[a:b] += power * self.strokes[k, a - at : b - at]

    def _misfit(self, energy: Tensor, low: int, first: int, last: int) -> Tensor:
        """Return the misfits [C] of energies [C, rows, c] that begin at row `low`, over ticks first ... last - 1."""
        found, total = features(energy), torch.zeros(len(energy))
        for t in range(first, last):
            a = self.cut[t] - low
            part = slice(a, max(self.cut[t + 1] - low, a + 1))
            for name, aim in self.asked.items():
                if name == "moment":
                    mine = self._moments(found["onset"][..., 0], t, low)
                else:
                    rows = found[name][:, part]
                    mine = rows.amax(1) if name == "onset" else rows.mean(1)
                total += apart(name, mine, aim[t - self.first])
        return total

    def _moments(self, onset: Tensor, t: int, low: int) -> Tensor:
        """Return the largest onset in each part of tick t, [C, PARTS], of rows [C, R] that begin at row `low`."""
        cut = [c - low for c in self.fine[t * PARTS : (t + 1) * PARTS + 1]]
        ends = [min(max(b, a + 1), onset.shape[1]) for a, b in zip(cut[:-1], cut[1:], strict=True)]
        return torch.stack([onset[:, min(a, b - 1) : b].amax(1) for a, b in zip(cut[:-1], ends, strict=True)], 1)

    def hits(self) -> Tensor:
        """Return the hits [L, classes, 3] as a roll has them."""
        level, late = self.level[self.first :], self.late[self.first :]
        on = level > 0
        sure = torch.where(on, self.model[..., 0].clamp(min=1), self.model[..., 0].clamp(max=-1))
        return torch.stack([sure, torch.where(on, 2 * level - 1, 0.0), torch.where(on, 2 * late, 0.0)], -1)


def pursue(
    codec: RollCodec, x_0: Tensor, before: Tensor | None, asked: Mapping[str, Tensor], bpm: float, prior: float,
    sweeps: int = 2,
) -> Tensor:  # fmt: skip
    """Return blocks [B, L, dim] whose hits sound more like what is asked (arguments as in `Search`, by frames)."""
    out = []
    for n, block in enumerate(x_0):
        rows = codec.pca.inverse(block).reshape(len(block), -1, 3)
        past = rows[:0] if before is None else codec.pca.inverse(before[n]).reshape(len(before[n]), -1, 3)
        out.append(codec.pca(Search(rows, past, asked, bpm, prior).run(sweeps).flatten(1)))
    return torch.stack(out)
