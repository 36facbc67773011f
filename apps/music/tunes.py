"""The embedded music: old songs that belong to everyone, written down here, and arranged by rule.

A tune is text: `pitch` (letter, maybe # or b, maybe ' for an octave up or , for one down) and its length in eighths;
`_` is a rest. `arrange` gives it a key, a bass, a drum pattern and a tempo, all functions of one seed, so that there is
as much of it as a toy needs. Songs: Beethoven, Ode to Joy (1824); Frere Jacques, Twinkle (Ah vous dirai-je), London
Bridge, Au clair de la lune (traditional, 18th century); Bach, Musette in D (before 1725); Oh When the Saints.
"""

from __future__ import annotations

import numpy as np

from apps.music.score import Score

__all__ = ["STYLES", "TUNES", "arrange", "collection", "read_tune"]

TUNES: dict[str, str] = {
    "joy": "e2 e2 f2 g2 g2 f2 e2 d2 c2 c2 d2 e2 e3 d1 d4 e2 e2 f2 g2 g2 f2 e2 d2 c2 c2 d2 e2 d3 c1 c4",
    "jacques": "c2 d2 e2 c2 c2 d2 e2 c2 e2 f2 g4 e2 f2 g4 g1 a1 g1 f1 e2 c2 g1 a1 g1 f1 e2 c2 c2 g,2 c4 c2 g,2 c4",
    "twinkle": "c2 c2 g2 g2 a2 a2 g4 f2 f2 e2 e2 d2 d2 c4 g2 g2 f2 f2 e2 e2 d4 g2 g2 f2 f2 e2 e2 d4",
    "bridge": "g3 a1 g2 f2 e2 f2 g4 d2 e2 f4 e2 f2 g4 g3 a1 g2 f2 e2 f2 g4 d4 g4 e2 c6",
    "moon": "c2 c2 c2 d2 e4 d4 c2 e2 d2 d2 c8 d2 d2 d2 d2 a,4 a,4 d2 c2 b,2 a,2 g,8",
    "musette": "g2 f1 e1 d1 e1 f1 d1 e2 d1 c1 b,1 c1 d2 g2 f1 e1 d1 e1 f1 d1 e1 c1 d1 b,1 c4",
    "saints": "_2 c2 e2 f2 g8 _2 c2 e2 f2 g8 _2 c2 e2 f2 g4 e4 c4 e4 d8 e2 e2 d2 c6 c2 e4 g4 g2 f8",
}
STYLES = ("march", "rock", "waltz-free", "quiet")

PITCH = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
CHORDS = {0: 0, 2: 7, 4: 0, 5: 5, 7: 0, 9: 5, 11: 7}
"""Root under a degree of the scale: tonic, subdominant or dominant."""

PATTERNS: dict[str, tuple[tuple[int, str], ...]] = {
    "march": ((0, "x...x..."), (1, "..x...x."), (2, "x.x.x.x.")),
    "rock": ((0, "x..x.x.."), (1, "..x...x."), (2, "xxxxxxxx"), (7, "x.......")),
    "waltz-free": ((0, "x.....x."), (8, "x.xxx.xx"), (1, "....x...")),
    "quiet": ((2, "..x...x."), (0, "x.......")),
}
"""For each style, eighths of a bar of four beats by drum class."""


def read_tune(text: str) -> np.ndarray:
    """Return the notes [n, 3] of a tune: start and length in beats, semitones above C."""
    out, at = [], 0.0
    for word in text.split():
        long = float(word[-1]) / 2
        if word[0] != "_":
            shift = 12 * word.count("'") - 12 * word.count(",") + word.count("#") - word[1:].count("b")
            out.append((at, long, PITCH[word[0]] + shift))
        at += long
    return np.array(out, float)


def arrange(name: str, seed: int) -> Score:
    """Return a tune with bass and drums; key, style, tempo and touch follow from the seed."""
    rng = np.random.default_rng([seed, len(name), sum(map(ord, name))])
    style = STYLES[int(rng.integers(len(STYLES)))]
    key, bpm = int(rng.integers(-5, 7)), float(rng.integers(88, 141))
    tune = read_tune(TUNES[name])
    beats = float(np.ceil(tune[:, :2].sum(1).max() / 4) * 4)
    notes = [(start, long, 60 + key + pitch, 0.7) for start, long, pitch in tune]
    for beat in np.arange(0, beats, 2.0):
        under = tune[tune[:, 0] <= beat + 1e-9]
        root = CHORDS[int(under[-1, 2]) % 12] if len(under) else 0
        low = 36 + (key + root) % 12
        notes += [(beat, 1.0, low, 0.7), (beat + 1.0, 1.0, low + (7 if rng.random() < 0.3 else 0), 0.7)]
        if rng.random() < 0.6:
            third = 52 + (key + root + 4 - 52) % 12
            notes.append((beat, 2.0, third, 0.7))
    hits = []
    for kind, pattern in PATTERNS[style]:
        for step, mark in enumerate(pattern):
            for bar in np.arange(0, beats, 4.0):
                if mark == "x" and rng.random() < 0.96:
                    late = 0.02 * float(rng.standard_normal())
                    loud = float(np.clip(0.55 + 0.2 * (step % 4 == 0) + 0.08 * rng.standard_normal(), 0.1, 1))
                    hits.append((max(0.0, bar + step / 2 + np.clip(late, -0.1, 0.1)), kind, loud))
    found = np.array(sorted(set(notes)), float), np.array(sorted(hits), float).reshape(-1, 3)
    return Score(*found, bpm=bpm, beats=beats, label=style)


def collection(seed: int, count: int, held: bool = False) -> list[Score]:
    """Return `count` arrangements; those held out come from other seeds."""
    names, first = list(TUNES), 1_000_000 if held else 0
    return [arrange(names[k % len(names)], first + 1000 * seed + k) for k in range(count)]
