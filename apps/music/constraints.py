"""What must never sound: rules on scores that hold by construction.

A rule names columns of the roll. Every prediction of x_0 is projected, the forbidden columns set to silence and the
frame encoded again, so that the model goes on from music that keeps the rule; what the components cannot say exactly is
silenced once more where frames become notes (`RollCodec.silent`), so that nothing forbidden is ever heard.

    model.sample(constraints=[scale("D", "minor"), silence("crash"), span(48, 72)])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apps.music.controls import KEYS, key_number
from apps.music.roll import RollCodec
from apps.music.score import DRUMS, Score
from core.errors import InfeasibleError, UsageError

__all__ = ["Rule", "columns", "project", "scale", "silence", "span", "violations"]

STEPS = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10), "pentatonic": (0, 2, 4, 7, 9)}


@dataclass(frozen=True)
class Rule:
    """What is allowed.

    Args:
        name: for messages.
        pitch: tells of a MIDI pitch whether it may sound.
        drum: tells of a class of `DRUMS` whether it may.
    """

    name: str
    pitch: Callable[[int], bool] = lambda pitch: True
    drum: Callable[[int], bool] = lambda kind: True


def scale(tonic: str, mode: str = "major") -> Rule:
    """Allow the notes of a scale only.

    Raises:
        UsageError: no such tonic or mode.
    """
    first = key_number(tonic, "scale", KEYS[:12])
    if mode not in STEPS:
        raise UsageError("no such mode", field="scale", value=mode, choices=STEPS)
    steps = STEPS[mode]
    return Rule(f"{tonic} {mode}", pitch=lambda p: (p - first) % 12 in steps)


def span(low: int, high: int) -> Rule:
    """Allow pitches low ... high."""
    return Rule(f"{low} to {high}", pitch=lambda p: low <= p <= high)


def silence(*drums: str) -> Rule:
    """Forbid classes of drums.

    Raises:
        UsageError: no such class.
    """
    for name in drums:
        if name not in DRUMS:
            raise UsageError("no such drum", field="silence", value=name, choices=DRUMS)
    return Rule("no " + ", ".join(drums), drum=lambda kind: DRUMS[kind] not in drums)


def columns(codec: RollCodec, rules: tuple[Rule, ...]) -> np.ndarray:
    """Return which columns of a roll must be silent, bool [width]: by the rules, and those that are silent already.

    Raises:
        InfeasibleError: nothing at all may sound.
    """
    out = np.zeros(codec.width, bool) if codec.silent is None else codec.silent.copy()
    for kind in range(codec.hits // 3):
        out[3 * kind] |= not all(r.drum(kind) for r in rules)
    for pitch in range(codec.low, codec.high):
        at = codec.hits + 2 * (pitch - codec.low)
        out[at : at + 2] |= not all(r.pitch(pitch) for r in rules)
    first = np.r_[0 : codec.hits : 3, codec.hits : codec.width : 2].astype(int)
    if len(first) and out[first].all():
        raise InfeasibleError("nothing may sound", field="constraints", value=[r.name for r in rules])
    return out


def project(codec: RollCodec, silent: np.ndarray, z: Tensor) -> Tensor:
    """Return frames [..., F, dim] with the forbidden columns silenced, as well as the components can say it."""
    rows = codec.pca.inverse(z).unflatten(-1, (codec.ticks, codec.width))
    quiet = torch.from_numpy(silent).to(z.device) & (rows > -1)
    return codec.pca(torch.where(quiet, -1.0, rows).flatten(-2))


def violations(score: Score, rules: tuple[Rule, ...]) -> list[str]:
    """Return what breaks a rule, in words."""
    out = []
    for rule in rules:
        out += [f"{rule.name}: pitch {int(n[2])} at beat {n[0]:g}" for n in score.notes if not rule.pitch(int(n[2]))]
        out += [f"{rule.name}: {DRUMS[int(h[1])]} at beat {h[0]:g}" for h in score.hits if not rule.drum(int(h[1]))]
    return out
