"""A synthesiser whose every sample is a function of the score: no state but what is sounding.

A note of pitch p that began m seconds ago and was released r seconds ago (r <= 0 while it is held) sounds

    velocity sum_k k^-1.4 sin(2 pi k f m) e^{-k m / 1.2} (1 - e^{-m / 0.004}) e^{-max(r, 0) / 0.05}

over f = 440 2^{(p - 69) / 12} and its harmonics below 12 kHz, eight numbers k at most, until 0.3 s after its release; a
hit is a recorded or computed one-shot times its velocity. Since nothing else enters, the same score gives the same
samples, in whatever pieces it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from apps.music.score import DRUMS, Score

__all__ = ["RATE", "Synth", "kit", "render"]

RATE = 32000
"""Samples per second of everything in this app."""

RELEASE, GAIN, HARMONICS = 0.3, 0.16, 8
EDGE = 64
"""Samples in which a hit that began before the first one rises, so that it does not click."""


@lru_cache(maxsize=1)
def kit() -> tuple[np.ndarray, ...]:
    """Return a computed one-shot for each class of `DRUMS`, float64, none longer than a second."""
    rng = np.random.default_rng(20260)
    second = np.arange(RATE) / RATE
    noise = rng.standard_normal((len(DRUMS), RATE))
    bright = noise - np.roll(noise, 1, 1)
    bright = bright - np.roll(bright, 1, 1)
    fall = np.cumsum(45 + 110 * np.exp(-second / 0.03)) / RATE
    out = [0.9 * np.sin(2 * np.pi * fall) * np.exp(-second / 0.12)]
    out.append((0.3 * noise[1] + 0.4 * np.sin(2 * np.pi * 190 * second)) * np.exp(-second / 0.07))
    out += [0.10 * bright[k] * np.exp(-second / tail) for k, tail in ((2, 0.025), (3, 0.16))]
    for k, pitch in ((4, 95.0), (5, 130.0), (6, 175.0)):
        sweep = np.cumsum(pitch * (1 + 0.5 * np.exp(-second / 0.04))) / RATE
        out.append((0.7 * np.sin(2 * np.pi * sweep) + 0.03 * noise[k]) * np.exp(-second / 0.15))
    ring = np.sin(2 * np.pi * 5200 * second) + np.sin(2 * np.pi * 3713 * second)
    out.append(0.10 * bright[7] * np.exp(-second / 0.35))
    out.append((0.05 * bright[8] + 0.03 * ring) * np.exp(-second / 0.25))
    fade = np.minimum(1.0, (1 - second) / 0.02)
    return tuple(wave * fade for wave in out)


@dataclass(eq=False)
class Synth:
    """What sounds.

    Args:
        shots: one-shots by class.
    """

    shots: tuple[np.ndarray, ...] = field(default_factory=kit)
    now: int = 0
    notes: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Held notes: pitch to (first sample, velocity)."""
    released: list[tuple[int, int, float, int]] = field(default_factory=list)
    """(pitch, first sample, velocity, sample of the release)."""
    struck: list[tuple[int, int, float]] = field(default_factory=list)
    """(class, first sample, velocity)."""

    def press(self, pitch: int, velocity: float, at: int) -> None:
        """Begin a note at sample `at`; one that sounds at this pitch is released."""
        self.release(pitch, at)
        self.notes[pitch] = (at, velocity)

    def release(self, pitch: int, at: int) -> None:
        """End a note at sample `at`."""
        if pitch in self.notes:
            start, velocity = self.notes.pop(pitch)
            self.released.append((pitch, start, velocity, at))

    def strike(self, kind: int, velocity: float, at: int) -> None:
        """Hit a drum at sample `at`."""
        self.struck.append((kind, at, velocity))

    def until(self, stop: int) -> np.ndarray:
        """Return the samples from where the last call ended to `stop`, float64."""
        start, out = self.now, np.zeros(max(stop - self.now, 0))
        held = [(pitch, at, velocity, 1 << 60) for pitch, (at, velocity) in self.notes.items()]
        tail = int(RELEASE * RATE)
        for pitch, at, velocity, end in sorted(self.released + held):
            a, b = max(at, start), min(stop, end + tail)
            if a < b:
                whole = a == at and b == end + tail
                out[a - start : b - start] += (
                    _note(pitch, velocity, end - at)
                    if whole
                    else _tone(pitch, velocity, np.arange(a - at, b - at), end - at)
                )
        for kind, at, velocity in sorted(self.struck):
            shot = self.shots[kind]
            a, b = max(at, start), min(stop, at + len(shot))
            if a < b:
                rise = np.minimum(1.0, np.arange(a, b) / EDGE) if at < 0 else 1.0
                out[a - start : b - start] += velocity * shot[a - at : b - at] * rise
        self.released = [r for r in self.released if r[3] + tail > stop]
        self.struck = [s for s in self.struck if s[1] + len(self.shots[s[0]]) > stop]
        self.now = max(stop, start)
        return out


def _tone(pitch: int, velocity: float, n: np.ndarray, off: int) -> np.ndarray:
    m = n / RATE
    f = 440.0 * 2 ** ((pitch - 69) / 12)
    k = np.arange(1, max(2, min(HARMONICS, int(12000 / f)) + 1))[:, None]
    body = (k**-1.4 * np.sin(2 * np.pi * (k * f * m % 1.0)) * np.exp(-k * m / 1.2)).sum(0)
    end = np.exp(-np.maximum(n - off, 0) / RATE / 0.05) * np.clip((off + RELEASE * RATE - n) / (0.05 * RATE), 0, 1)
    return GAIN * velocity * body * -np.expm1(-m / 0.004) * end


@lru_cache(maxsize=512)
def _note(pitch: int, velocity: float, off: int) -> np.ndarray:
    """Return a whole tone; those of a score repeat, and are what rendering it costs."""
    return _tone(pitch, velocity, np.arange(off + int(RELEASE * RATE)), off)


def render(score: Score, seconds: float | None = None) -> np.ndarray:
    """Return a score as audio, float64 at `RATE`, with a second for it to die away unless `seconds` says otherwise."""
    synth, beat = Synth(), 60 / score.bpm * RATE
    stop = round(seconds * RATE) if seconds is not None else round(score.beats * beat) + RATE
    synth.struck = [(int(kind), round(start * beat), float(velocity)) for start, kind, velocity in score.hits]
    for start, length, pitch, velocity in score.notes:
        synth.released.append((int(pitch), round(start * beat), float(velocity), round((start + length) * beat)))
    return synth.until(stop)
