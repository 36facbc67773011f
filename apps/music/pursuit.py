"""Hits that sound as asked: a search over the hits of a block, near what the model played.

A hit is there or not, so descent stops at the nearest of many valleys. Here the energies of `apps.music.steer` are
exact sums over hits, and the search goes through the ticks in order, as in matching pursuit: of a tick's nine classes
one begins, ends or changes at a time, then its strength, its class, its lateness, to what minimises

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

from apps.music.attack import PARTS
from apps.music.roll import TICKS, RollCodec
from apps.music.spectral import HOP
from apps.music.steer import apart, features, strokes
from apps.music.synth import RATE

__all__ = ["Search", "pursue"]

LEVELS = (0.0, 0.12, 0.2, 0.3, 0.4, 0.5, 0.62, 0.8, 1.0)
MORE = 3
"""Hits that may begin in a tick in one sweep."""
ROUGH = (0.2, 0.45, 0.8)
"""Strengths at which a hit may begin."""
LATE = (-0.6, -0.5, -0.4, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Lateness in ticks, from the model's own on, that is tried."""
NEAR = (-0.12, -0.06, -0.03, 0.03, 0.06, 0.12)
"""Changes of lateness."""
REACH = 4
"""Ticks from a change on that are listened to; in the first sweep, whose future is still the model's, the own only."""
LONG = 64
"""Rows of a stroke."""
MOST = 20.0
"""Misfit of attacks from which on more hardly counts: a roll has no two hits of a class in one tick, music does."""
FINE = 4
"""Places in a row at which strokes are told apart."""

Hit = tuple[int, float, float]
"""Class, strength (0: none), lateness in ticks."""


@dataclass(eq=False)
class Search:
    """The hits of one block and the energies of what is heard of them.

    Args:
        model: hits as the model left them, [L, classes, 3] of a roll.
        before: those of the block before, [P, classes, 3].
        asked: what is to be heard, [L, width] by group; `attack` says when in a tick and where (`attack.py`).
        bpm: tempo.
        prior: price of a change.
        phase: samples from the beginning of the ear's row to that of the block.
    """

    model: Tensor
    before: Tensor
    asked: Mapping[str, Tensor]
    bpm: float
    prior: float
    phase: float = 0.0

    def __post_init__(self) -> None:
        """Sum up the energies of what is there."""
        self.tick, self.first = 60 / self.bpm / TICKS * RATE, len(self.before)
        table = torch.cat([self.before, self.model])
        self.sure = table[..., 0].clamp(-1.5, 1.5)
        self.firm = ((table[..., 1] + 1) / 2).clamp(0.05, 1)
        self.due = (table[..., 2] / 2).clamp(-0.499, 0.499)
        self.level = torch.where(self.sure > 0, self.firm, 0.0)
        self.late = self.due.clone()
        self.strokes = [strokes(self.model.shape[1], LONG, (2 * f + 1) * HOP // (2 * FINE)) for f in range(FINE)]
        self.reach = REACH
        self.shift = (self.phase - self.first * self.tick) % HOP
        edges = (torch.arange(len(table) + REACH + 2).double() * self.tick + self.shift + HOP / 2) // HOP
        self.cut = edges.long().tolist()
        parts = (torch.arange(len(edges) * PARTS).double() * (self.tick / PARTS) + self.shift + HOP / 2) // HOP
        self.fine = parts.long().tolist()
        self.energy = torch.zeros(self.cut[-1] + 2 * LONG, self.strokes[0].shape[2])
        for t, k in torch.nonzero(self.level).tolist():
            self._add(t, k, float(self.level[t, k]) ** 2, float(self.late[t, k]))

    def _row(self, t: int, late: float) -> tuple[int, Tensor]:
        """Return the row in which a stroke begins, and the strokes [classes, LONG, c] of its place there."""
        place = max(0, int(np.floor(((t + late) * self.tick + self.shift) / HOP * FINE)))
        return place // FINE, self.strokes[place % FINE]

    def _add(self, t: int, k: int, power: float, late: float) -> None:
        at, heard = self._row(t, late)
        self.energy[at : at + LONG] += power * heard[k]
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
        for sweep in range(sweeps):
            self.reach = REACH if sweep else 1
            before = self.level.clone(), self.late.clone()
            for t in range(self.first, len(self.level)):
                for _ in range(MORE):
                    if not self._begin(t):
                        break
                self._alter(t)
            if torch.equal(before[0], self.level) and torch.equal(before[1], self.late):
                break
        return self.hits()

    def _begin(self, t: int) -> bool:
        """Let one class begin, end, or come at another strength and moment together; return whether one did."""
        low, high, _ = self._window(t)
        base, options, heard, cost = self.energy[low:high], [], [], []
        power = torch.tensor(ROUGH).square()[:, None, None, None]
        for k, own in enumerate(self.due[t].tolist()):
            level, late = float(self.level[t, k]), float(self.late[t, k])
            without = base.clone()
            if level:
                self._place(without, t, k, -(level**2), late, low)
            lates = [own + d for d in LATE if abs(own + d) < 0.5]
            strokes_ = base.new_zeros(len(lates), *base.shape)
            for n, other in enumerate(lates):
                self._place(strokes_[n], t, k, 1.0, other, low)
            heard += [without[None], (without + power * strokes_).flatten(0, 1)]
            hits = [(k, 0.0, own), *((k, v, other) for v in ROUGH for other in lates)]
            options += [[hit] for hit in hits]
            now = self.price(t, k, level, late)
            cost += [self.price(t, *hit) - now for hit in hits]
        return self._take(t, options, torch.cat(heard), cost)

    def _alter(self, t: int) -> None:
        """Change the strength of a hit, then its class, then its moment."""
        there = self._there(t)
        self._change(t, [[(k, v, late)] for k, _, late in there for v in LEVELS])
        swaps = [(hit, j) for hit in self._there(t) for j in range(self.level.shape[1]) if j != hit[0]]
        self._change(t, [[(k, 0.0, late), (j, v, late)] for (k, v, late), j in swaps])
        self._change(t, [[(k, v, late + d)] for k, v, late in self._there(t) for d in NEAR if abs(late + d) < 0.5])

    def _there(self, t: int) -> list[Hit]:
        """Return the hits of a tick."""
        return [(k, v, float(self.late[t, k])) for k, v in enumerate(self.level[t].tolist()) if v]

    def _window(self, t: int) -> tuple[int, int, int]:
        """Return the rows that a change at tick t is heard in, from and to, and the tick that they end with."""
        last = min(t + self.reach, len(self.level))
        return max(0, self.cut[max(t - 1, 0)] - 1), self.cut[last], last

    def _change(self, t: int, options: list[list[Hit]]) -> bool:
        """Take the best of the options at tick t, each one or two hits that become others, or none: return whether."""
        if not options:
            return False
        low, high, _ = self._window(t)
        heard, cost = self.energy[low:high].repeat(len(options), 1, 1), [0.0] * len(options)
        for n, hits in enumerate(options):
            for k, level, late in hits:
                now = float(self.level[t, k]), float(self.late[t, k])
                for power, moment in ((-(now[0] ** 2), now[1]), (level**2, late)):
                    if power:
                        self._place(heard[n], t, k, power, moment, low)
                cost[n] += self.price(t, k, level, late) - self.price(t, k, *now)
        return self._take(t, options, heard, cost)

    def _take(self, t: int, options: list[list[Hit]], heard: Tensor, cost: list[float]) -> bool:
        """Take the best of the options, heard as energies [C, rows, c], or none; return whether."""
        low, high, last = self._window(t)
        heard = torch.cat([heard, self.energy[None, low:high]]).clamp_(min=0)
        total = self._misfit(heard, low, max(t - 1, self.first), last) + self.prior * torch.tensor([*cost, 0.0])
        best = int(total.argmin())
        for k, level, late in options[best] if best < len(options) else ():
            self._add(t, k, -(float(self.level[t, k]) ** 2), float(self.late[t, k]))
            self._add(t, k, level**2, late)
            self.level[t, k], self.late[t, k] = level, late
        return best < len(options)

    def _place(self, rows: Tensor, t: int, k: int, power: float, late: float, low: int) -> None:
        """Add a hit to the energies of rows that begin at row `low`."""
        at, stroke = self._row(t, late)
        at -= low
        a, b = max(at, 0), min(at + LONG, len(rows))
        if a < b:
            rows[a:b] += power * stroke[k, a - at : b - at]

    def _misfit(self, energy: Tensor, low: int, first: int, last: int) -> Tensor:
        """Return the misfits [C] of energies [C, rows, c] that begin at row `low`, over ticks first ... last - 1."""
        found, total = features(energy), torch.zeros(len(energy))
        for t in range(first, last):
            a = self.cut[t] - low
            part = slice(a, max(self.cut[t + 1] - low, a + 1))
            for name, aim in self.asked.items():
                if name == "attack":
                    mine = self._attacks(found["rise"], t, low)
                else:
                    rows = found[name][:, part]
                    mine = rows.amax(1) if name == "onset" else rows.mean(1)
                away = apart(name, mine, aim[t - self.first])
                total += MOST * (away / MOST).log1p() if name == "attack" else away
        return total

    def _attacks(self, rise: Tensor, t: int, low: int) -> Tensor:
        """Return the attacks at tick t, [C, 2 PARTS BANDS], of rows [C, R, 2 BANDS] that begin at row `low`."""
        cut = [c - low for c in self.fine[t * PARTS : (t + 1) * PARTS + 1]]
        ends = [min(max(b, a + 1), rise.shape[1]) for a, b in zip(cut[:-1], cut[1:], strict=True)]
        return torch.cat([rise[:, min(a, b - 1) : b].amax(1) for a, b in zip(cut[:-1], ends, strict=True)], 1)

    def hits(self) -> Tensor:
        """Return the hits [L, classes, 3] as a roll has them."""
        level, late = self.level[self.first :], self.late[self.first :]
        on = level > 0
        sure = torch.where(on, self.model[..., 0].clamp(min=1), self.model[..., 0].clamp(max=-1))
        return torch.stack([sure, torch.where(on, 2 * level - 1, 0.0), torch.where(on, 2 * late, 0.0)], -1)


def pursue(
    codec: RollCodec, x_0: Tensor, before: Tensor | None, asked: Mapping[str, Tensor], bpm: float, prior: float,
    sweeps: int = 2, phase: float = 0.0,
) -> Tensor:  # fmt: skip
    """Return blocks [B, L, dim] whose hits sound more like what is asked (arguments as in `Search`, by frames)."""
    out = []
    for n, block in enumerate(x_0):
        rows = codec.pca.inverse(block).reshape(len(block), -1, 3)
        past = rows[:0] if before is None else codec.pca.inverse(before[n]).reshape(len(before[n]), -1, 3)
        out.append(codec.pca(Search(rows, past, asked, bpm, prior, phase).run(sweeps).flatten(1)))
    return torch.stack(out)
