"""Scores as a codec: piano rolls and drum rolls on a grid of sixteenths, played by the synthesiser.

A tick (sixteenth) is a row: for each of the nine drum classes (hit +-1, velocity, lateness), as in Gillick et al.
(2019, arXiv:1905.06118), and for each pitch (sounds +-1, begins +-1). `ticks` rows make a frame, whitened principal
components its numbers. Decoding takes signs, so that small errors of a model are not heard, and what is heard is a
score: notes can be counted exactly. Frames last a fraction of a bar: blocks are whole beats at any tempo, and the
tempo may change from frame to frame. A hit may be early by half a tick, of the tick that it sounds in: so a player of
drums is late by half a tick of its tempo, or of the codec's where that is longer.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from apps.music.audio import ended, limit
from apps.music.codec import Pca
from apps.music.score import DRUMS, Score
from apps.music.synth import RATE, Synth

__all__ = ["TICKS", "RollCodec", "RollPlayer"]

TICKS = 4
"""Ticks per beat."""


class RollCodec(nn.Module):
    """Frames of a score.

    Args:
        dim: numbers per frame.
        ticks: sixteenths per frame.
        drums: whether there are drums.
        low, high: pitches low ... high - 1 (none where they are equal).
        bpm: tempo at which `decode` plays.
        whiten: see `Pca`.
    """

    def __init__(
        self, dim: int = 48, ticks: int = 4, drums: bool = True, low: int = 36, high: int = 84, bpm: float = 120.0,
        whiten: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim, self.ticks, self.low, self.high, self.bpm = dim, ticks, low, high, bpm
        self.hits = 3 * len(DRUMS) if drums else 0
        self.width = self.hits + 2 * (high - low)
        self.pca = Pca(self.width * ticks, dim, whiten)
        self.silent: np.ndarray | None = None
        """Columns that must not sound, bool [width]; decoding keeps them silent (`constraints.py`)."""

    @property
    def hop(self) -> int:
        """Samples per frame at the tempo `bpm`."""
        return round(60 / self.bpm / TICKS * self.ticks * RATE)

    @property
    def latency_samples(self) -> int:
        """Half a tick at the tempo `bpm`."""
        return self.latency(self.bpm)

    def latency(self, bpm: float) -> int:
        """Return by how many samples a player is late at a tempo: half a tick, at least that of `self.bpm`.

        Without drums nothing is early, and it is that of `self.bpm` at any tempo.
        """
        slowest = min(bpm, self.bpm) if self.hits else self.bpm
        return round(30 / slowest / TICKS * RATE)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.bpm / 60 * TICKS / self.ticks

    def roll(self, score: Score) -> Tensor:
        """Return the rows [T, width] of a score, whole frames."""
        count = -(-round(score.beats * TICKS) // self.ticks) * self.ticks
        rows = np.zeros((count, self.width))
        rows[:, 0 : self.hits : 3] = -1
        rows[:, self.hits :] = -1
        for start, kind, velocity in score.hits if self.hits else ():
            tick = round(start * TICKS)
            column = 3 * int(kind)
            if tick < count and (rows[tick, column] < 0 or velocity * 2 - 1 > rows[tick, column + 1]):
                rows[tick, column : column + 3] = 1, velocity * 2 - 1, 2 * (start * TICKS - tick)
        for start, length, pitch, _ in score.notes:
            first, last = round(start * TICKS), round((start + length) * TICKS)
            if self.low <= pitch < self.high and first < count:
                column = self.hits + 2 * (int(pitch) - self.low)
                rows[first : max(last, first + 1), column] = 1
                rows[first, column + 1] = 1
        return torch.from_numpy(rows).float()

    def fit(self, scores: Iterable[Score]) -> float:
        """Fit the components; return the share of variance kept."""
        return self.pca.fit(torch.cat([self._stack(self.roll(s)) for s in scores]))

    def _stack(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, self.ticks * self.width)

    @torch.no_grad()
    def encode(self, whole: Score) -> Tensor:
        """Return frames [F, dim] of a score."""
        return self.pca(self._stack(self.roll(whole)))

    @torch.no_grad()
    def rows(self, z: Tensor) -> np.ndarray:
        """Return the rows [F ticks, width] that frames [F, dim] stand for."""
        pca = self.pca  # in float64: what is heard must not depend on how many frames are multiplied together
        whole = (z.double() * pca.scale.double()) @ pca.basis.double().T + pca.mean.double()
        rows = whole.reshape(-1, self.width).cpu().numpy()
        if self.silent is not None:
            rows[:, self.silent] = -1.0
        return rows

    @torch.no_grad()
    def settle(self, z: Tensor, before: Tensor | None = None) -> Tensor:
        """Return the frames [B, F, dim] of what frames are heard to say, after those [B, P, dim] before them.

        A memory that holds these holds what was played, and what it learned from: no errors pile up between the signs.
        """
        rows = self.pca.inverse(z).reshape(len(z), -1, self.width)
        hits = rows[..., : self.hits].unflatten(-1, (-1, 3))
        struck = hits[..., :1] > 0
        kept = torch.cat([hits[..., 1:2].clamp(-0.9, 1), hits[..., 2:].clamp(-0.998, 0.998)], -1) * struck
        notes = rows[..., self.hits :].unflatten(-1, (-1, 2))
        on = notes[..., 0] > 0
        last = torch.zeros_like(on[:, :1])
        if before is not None:
            last = self.pca.inverse(before[:, -1:]).reshape(len(z), -1, self.width)[:, -1:, self.hits :: 2] > 0
        begin = on & ((notes[..., 1] > REPEAT) | ~torch.cat([last, on[:, :-1]], 1))
        heard = torch.stack([on, begin], -1) * 2.0 - 1
        rows = torch.cat([torch.cat([struck * 2.0 - 1, kept], -1).flatten(2), heard.flatten(2)], -1).to(z)
        return self.pca(rows.reshape(len(z), -1, self.ticks * self.width))

    def score(self, z: Tensor, bpm: float | None = None) -> Score:
        """Return the score that frames [F, dim] stand for."""
        return self.read(self.rows(z), bpm)

    def read(self, rows: np.ndarray, bpm: float | None = None) -> Score:
        """Return the score of rows [T, width]."""
        hits = [(max(t / TICKS + o / TICKS, 0.0), k, v) for t, row in enumerate(rows) for k, v, o in _hits(row, self)]
        notes: list[tuple[float, float, int, float]] = []
        open_: dict[int, int] = {}
        for t, row in enumerate([*rows, -np.ones(self.width)]):
            sounding, begin = _pitches(row, self)
            for pitch in [p for p in open_ if p not in sounding or p in begin]:
                start = open_.pop(pitch)
                notes.append((start / TICKS, (t - start) / TICKS, pitch, VELOCITY))
            for pitch in sorted(sounding - set(open_)):
                open_[pitch] = t
        found = np.array(sorted(notes), float).reshape(-1, 4), np.array(sorted(hits), float).reshape(-1, 3)
        return Score(*found, bpm=bpm or self.bpm, beats=len(rows) / TICKS)

    def decode(self, z: Tensor) -> Tensor:
        """Return the sound of frames [F, dim] at the tempo `bpm`."""
        player = self.player()
        return torch.cat([player.push(z), player.flush()])

    def player(self) -> RollPlayer:
        """Return a decoder of a stream."""
        return RollPlayer(self)


VELOCITY = 0.7
"""Of decoded notes; rolls do not keep it."""
REPEAT = 0.4
"""A note that sounds begins again where its begin exceeds this: best on training chorales whose frames were blurred."""


def _hits(row: np.ndarray, codec: RollCodec) -> list[tuple[int, float, float]]:
    """Return (class, velocity, lateness in ticks) of a row."""
    if not codec.hits:
        return []
    table = row[: codec.hits].reshape(-1, 3)
    return [
        (k, float(np.clip((v + 1) / 2, 0.05, 1)), float(np.clip(o / 2, -0.499, 0.499)))
        for k, (hit, v, o) in enumerate(table) if hit > 0
    ]  # fmt: skip


def _pitches(row: np.ndarray, codec: RollCodec) -> tuple[set[int], set[int]]:
    """Return the pitches that sound in a row, and those of them that begin in it."""
    table = row[codec.hits :].reshape(-1, 2)
    sounding = set((np.flatnonzero(table[:, 0] > 0) + codec.low).tolist())
    return sounding, sounding & set((np.flatnonzero(table[:, 1] > REPEAT) + codec.low).tolist())


class RollPlayer:
    """Plays a stream of frames; its sound is late (`RollCodec.latency`), which the first push leaves out.

    Time is a sum of ticks, each as long as the tempo `bpm` of its push says; what is early lies in the tick before. So
    no sample depends on how frames are cut, and where the tempo falls a push gives less, by what the latency grows.

    Args:
        codec: the frames' meaning.
    """

    def __init__(self, codec: RollCodec) -> None:
        self.codec, self.bpm, self.synth = codec, codec.bpm, Synth()
        self.sounding = set[int]()
        self.tick, self.past = 0.0, 0.0
        """Samples played, and those of the last tick."""
        self.late = codec.latency_samples

    def push(self, z: Tensor) -> Tensor:
        """Return the samples that frames [n, dim] complete."""
        length = 60 / self.bpm / TICKS * RATE
        for row in self.codec.rows(z):
            at, before = round(self.tick), self.past or length
            sounding, begin = _pitches(row, self.codec)
            for pitch in sorted(self.sounding - sounding):
                self.synth.release(pitch, at)
            for pitch in sorted((sounding - self.sounding) | begin):
                self.synth.press(pitch, VELOCITY, at)
            for kind, velocity, late in _hits(row, self.codec):
                self.synth.strike(kind, velocity, round(self.tick + late * (before if late < 0 else length)))
            self.sounding, self.late = sounding, self.codec.latency(self.bpm)
            self.tick, self.past = self.tick + length, length
        return self._give(round(self.tick) - self.late)

    def flush(self) -> Tensor:
        """Return the samples that are still to come, all notes released, fading at the end; the stream begins anew."""
        end = round(self.tick)
        for pitch in sorted(self.sounding):
            self.synth.release(pitch, end)
        last = ended(self._give(end))
        self.__init__(self.codec)
        return last

    def copy(self) -> RollPlayer:
        """Return an independent copy."""
        out = RollPlayer(self.codec)
        synth = Synth(self.synth.shots, self.synth.now, dict(self.synth.notes), list(self.synth.released),
                      list(self.synth.struck))  # fmt: skip
        out.__dict__.update(self.__dict__, synth=synth, sounding=set(self.sounding))
        return out

    def _give(self, stop: int) -> Tensor:
        return limit(torch.from_numpy(self.synth.until(stop)).float())
