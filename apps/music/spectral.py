"""Causal frames: frame i is the N samples that end at sample (i + 1) H, so nothing is waited for.

All features of this app are functions of such frames (and of the frame before). Audio that arrives in pieces passes
through a `Framer`; reading a whole file is one push and a flush, so pieces and whole agree by construction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from apps.music.synth import RATE

__all__ = ["FLOOR", "HOP", "MELS", "SIZE", "Framer", "bins", "log_mel", "magnitude", "mel_filters", "window"]

SIZE, HOP, MELS = 2048, 512, 100
FLOOR = 1e-4
"""Mel magnitudes below are silence (-80 dB)."""


@dataclass(eq=False)
class Framer:
    """Cuts a stream of samples into overlapping frames.

    Args:
        size, hop: N and H.
    """

    size: int = SIZE
    hop: int = HOP
    rest: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        """Begin after silence."""
        self.rest = torch.zeros(self.size - self.hop)

    def push(self, audio: Tensor) -> Tensor:
        """Return the frames [n, N] that the samples [m] complete."""
        self.rest = torch.cat([self.rest, audio.to(self.rest.dtype)])
        n = max(0, (len(self.rest) - self.size) // self.hop + 1)
        frames = self.rest.unfold(0, self.size, self.hop)[:n] if n else self.rest.new_zeros(0, self.size)
        frames, self.rest = frames.clone(), self.rest[n * self.hop :].clone()
        return frames

    def flush(self) -> Tensor:
        """Return the last frames [n, N], the missing samples being silence; the stream begins anew."""
        waiting = len(self.rest) - (self.size - self.hop)
        frames = self.push(torch.zeros(-waiting % self.hop))
        self.__post_init__()
        return frames


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def window(size: int = SIZE) -> Tensor:
    """Return the periodic Hann window, float32."""
    return torch.hann_window(size)


def magnitude(frames: Tensor) -> Tensor:
    """Return spectra's magnitudes [n, N / 2 + 1]; a sine of amplitude 1 reaches 1."""
    if not len(frames):  # an empty transform is an error
        return frames.new_zeros(0, frames.shape[-1] // 2 + 1)
    return torch.fft.rfft(frames * window(frames.shape[-1])).abs() * (4 / frames.shape[-1])


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def bins(size: int = SIZE) -> Tensor:
    """Return the frequency of each bin in Hz."""
    return torch.arange(size // 2 + 1) * (RATE / size)


def _mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def mel_filters(count: int = MELS, size: int = SIZE) -> Tensor:
    """Return triangular filters [count, N / 2 + 1] between 30 Hz and half the rate, each of weight 1 in sum.

    Low filters are narrower than a bin; each takes in its neighbours so that none is empty.
    """
    hertz = np.arange(size // 2 + 1) * RATE / size
    edges = 700 * (10 ** (np.linspace(_mel(30.0), _mel(RATE / 2), count + 2) / 2595) - 1)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    low, high = np.minimum(low, mid - RATE / size), np.maximum(high, mid + RATE / size)
    weight = np.clip(np.minimum((hertz - low) / (mid - low), (high - hertz) / (high - mid)), 0, None)
    return torch.from_numpy(weight / weight.sum(1, keepdims=True)).float()


def log_mel(spectrum: Tensor) -> Tensor:
    """Return natural logarithms of mel magnitudes [n, MELS] of magnitudes [n, N / 2 + 1].

    Summed in float64, so that the result does not depend on how many frames come together.
    """
    return (spectrum.double() @ mel_filters().T.double()).clamp(min=FLOOR).log().to(spectrum.dtype)
