"""Where between left and right things sound: models and codecs hear one channel, the picture is kept beside it.

A source at place q in [-1, 1] sounds L = (1 - q) x, R = (1 + q) x, so the mean of both channels is the mono sound.

*Scores*: every class of drums and every pitch has its place (`PLACES`, `place`).
*Recordings*: at each time and in each of `BANDS` bands of the mel scale, with l, r the roots of the channels' energies,

    q = (r - l) / (r + l),

exact for one source; `spread` puts a mono sound there, bin by bin of its short-time spectrum. Differences of phase and
time between the channels, and so width and reverberation, are no part of the picture.

Reference: Breebaart et al., 2005, EURASIP J. Appl. Signal Process. 2005(9) (level differences of parametric stereo).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from apps.music.audio import limit
from apps.music.score import Score
from apps.music.spectral import HOP, SIZE, mel_filters, window
from apps.music.synth import render

__all__ = ["BANDS", "PLACES", "both", "panned", "picture", "place", "spread"]

BANDS = 20
PLACES = (0.0, 0.0, 0.35, 0.35, -0.35, -0.1, 0.15, -0.4, 0.4)
"""Of `score.DRUMS`, as they stand about a drummer who is heard from the front."""
QUIET = 1e-6
"""Root energies below have no place of their own: the centre."""


def place(pitch: float) -> float:
    """Return where a pitch sounds: low ones left, as on a keyboard, no farther than 0.4."""
    return float(np.clip((pitch - 60) / 60, -0.4, 0.4))


def panned(score: Score, seconds: float | None = None) -> Tensor:
    """Return a score as stereo [m, 2]; without the limit of full scale its mean is `synth.render`."""
    groups: dict[float, list[Score]] = {}
    for kind, q in enumerate(PLACES):
        part = replace(score, notes=score.notes[:0], hits=score.hits[score.hits[:, 1] == kind])
        groups.setdefault(q, []).append(part)
    for pitch in np.unique(score.notes[:, 2]):
        part = replace(score, notes=score.notes[score.notes[:, 2] == pitch], hits=score.hits[:0])
        groups.setdefault(place(pitch), []).append(part)
    out = torch.zeros(len(render(replace(score, notes=score.notes[:0], hits=score.hits[:0]), seconds)), 2)
    for q, parts in groups.items():
        for part in parts:
            if len(part.notes) + len(part.hits):
                out += torch.from_numpy(render(part, seconds)).float()[:, None] * torch.tensor([1 - q, 1 + q])
    return limit(out)


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _bands() -> Tensor:
    """Return the share [BANDS, bins] of each bin that belongs to each band; every bin's sum to 1."""
    weight = mel_filters().reshape(BANDS, -1, SIZE // 2 + 1).mean(1)
    empty, low = weight.sum(0) == 0, torch.arange(SIZE // 2 + 1) < SIZE // 4  # below and above all filters
    weight[0, empty & low], weight[-1, empty & ~low] = 1.0, 1.0
    return weight / weight.sum(0)


def _spectrum(mono: Tensor) -> Tensor:
    return torch.stft(mono, SIZE, HOP, window=window(), center=True, pad_mode="constant", return_complex=True)


def picture(sound: Tensor) -> Tensor:
    """Return the places [n, BANDS] of stereo samples [m, 2], a row every HOP samples about which it is centred."""
    left, right = ((_bands() @ _spectrum(x).abs().square()).sqrt().T for x in sound.T)
    return torch.where(left + right > QUIET, (right - left) / (left + right).clamp(min=QUIET), 0.0)


def spread(mono: Tensor, places: Tensor) -> Tensor:
    """Return mono samples [m] as stereo [m, 2], put where `places` [n, BANDS] say.

    After their last row sound stays where it was on average over the last second of them. A channel has up to twice the
    mono sound; where that exceeds what is bent (`audio.limit`), it is bent.
    """
    spectrum = _spectrum(mono)
    missing = spectrum.shape[1] - len(places)
    if missing > 0:
        places = torch.cat([places, places[-60:].mean(0, keepdim=True).expand(missing, -1)])
    side = torch.istft(
        spectrum * (places[: spectrum.shape[1]] @ _bands()).T, SIZE, HOP, window=window(), center=True, length=len(mono)
    )
    return limit(torch.stack([mono - side, mono + side], 1))


def both(mono: Tensor) -> Tensor:
    """Return mono samples [m] in the centre, [m, 2]."""
    return mono[:, None].expand(-1, 2)
