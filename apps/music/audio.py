"""Audio files in and out: WAV, FLAC, Ogg, any rate, mono or stereo; raw samples for pipes.

Inside, sound is mono, float32, `RATE` samples per second: `read` gives the mean of the channels. `channels` keeps two
of them for those who keep the picture beside the sound (`stereo.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apps.music.synth import RATE
from core.errors import DataError, UsageError
from core.run.outputs import replacing

__all__ = [
    "FORMATS", "Resampler", "at_rate", "channels", "check_format", "ended", "limit", "pcm", "read", "resampled",
    "write",
]  # fmt: skip

FORMATS = (".wav", ".flac", ".ogg")
KNEE = 0.9
PCM = ("s16", "f32")
FALL = RATE // 200
RATES = range(8000, 192_001)
"""Samples per second that are written; libsndfile's Ogg encoder ends the process above 200,000."""
PORTION = 1 << 16
"""Samples that are written at once: libsndfile's Ogg encoder keeps a portion on the stack, which minutes overflow."""


def limit(sound: Tensor) -> Tensor:
    """Return samples whose size stays below 1: what exceeds `KNEE` is bent, k + (1 - k) tanh((|x| - k) / (1 - k)).

    Smooth, and a function of each sample alone: it adds no delay, and pieces give what the whole gives.
    """
    over = (sound.abs() - KNEE).clamp(min=0) / (1 - KNEE)
    return torch.where(over > 0, sound.sign() * (KNEE + (1 - KNEE) * over.tanh()), sound)


def ended(sound: Tensor) -> Tensor:
    """Return samples [m] or [m, channels] whose last `FALL` fall to 0: what is cut off while it sounds clicks."""
    fall = torch.linspace(1, 0, FALL)[max(0, FALL - len(sound)) :]
    weight = torch.cat([torch.ones(len(sound) - len(fall)), fall])
    return (sound.transpose(0, -1) * weight).transpose(0, -1)


def check_format(path: Path, also: tuple[str, ...] = ()) -> None:
    """Refuse a name whose ending no writer knows; `also` are those of other writers."""
    if path.suffix.lower() not in (*FORMATS, *also):
        raise UsageError("unknown audio format", field="out", value=str(path), choices=(*FORMATS, *also))


def read(path: Path | str) -> Tensor:
    """Return a file as mono samples [m] at `RATE`, the mean of its channels.

    Raises:
        DataError: no such file, not audio, or without sound.
    """
    return torch.from_numpy(_loaded(path, mono=True)[:, 0])


def channels(path: Path | str) -> Tensor:
    """Return a file's samples at `RATE`: [m, 2] where it has two channels, else [m, 1], their mean.

    Raises:
        DataError: no such file, not audio, or without sound.
    """
    return torch.from_numpy(_loaded(path))


def _loaded(path: Path | str, mono: bool = False) -> np.ndarray:
    import soundfile

    if not Path(path).is_file():
        raise DataError("no such file", field="audio", value=str(path))
    try:
        audio, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"cannot be read as audio ({error})", field="audio", value=str(path)) from None
    if mono or audio.shape[1] != 2:
        audio = audio.mean(1, keepdims=True)
    if not np.isfinite(audio).all():
        raise DataError("holds values that are not finite", field="audio", value=str(path))
    audio = resampled(audio, rate, RATE)
    if not len(audio):
        raise DataError("holds no sound", field="audio", value=str(path))
    return np.ascontiguousarray(audio, dtype=np.float32)


def resampled(sound: np.ndarray, source: int, target: int) -> np.ndarray:
    """Return samples [m] or [m, channels] at another rate."""
    if source == target or not len(sound):
        return sound
    import soxr

    return soxr.resample(sound, source, target)


def at_rate(sound: Tensor, rate: int) -> np.ndarray:
    """Return samples [m] or [m, channels] of ours at `rate`, none above 1.

    What is between our samples may be; then all of the sound is bent (`limit`), where it would be cut off.
    """
    found = resampled(sound.detach().clamp(-1, 1).cpu().numpy(), RATE, rate)
    return limit(torch.from_numpy(found)).numpy() if np.abs(found).max(initial=0) > 1 else found


def write(path: Path, audio: Tensor, rate: int = RATE) -> None:
    """Write samples [m] or [m, 2] at `rate`; nothing half-written stays behind.

    Raises:
        UsageError: no such format or rate, or it cannot be written.
    """
    import soundfile

    check_format(path)
    if rate not in RATES:
        hint = f"{RATES[0]} to {RATES[-1]} samples a second"
        raise UsageError("is no rate that is written", field="rate", value=rate, hint=hint)
    sound = at_rate(audio, rate)
    with replacing(path) as part:
        try:
            with soundfile.SoundFile(str(part), "w", rate, 1 if sound.ndim == 1 else sound.shape[1]) as file:
                for at in range(0, len(sound), PORTION):
                    file.write(sound[at : at + PORTION])
        except soundfile.SoundFileError as error:
            raise UsageError(f"cannot be written ({error})", field="out", value=str(path)) from None


def pcm(audio: Tensor, kind: str) -> bytes:
    """Return samples as little-endian bytes: `s16` or `f32`."""
    if kind not in PCM:
        raise UsageError("unknown sample format", field="format", value=kind, choices=PCM)
    sound = audio.detach().clamp(-1, 1).cpu().numpy()
    return (sound * 32767).round().astype("<i2").tobytes() if kind == "s16" else sound.astype("<f4").tobytes()


class Resampler:
    """Changes the rate of a stream; pieces give what the whole gives."""

    def __init__(self, source: int, target: int) -> None:
        import soxr

        self.stream = soxr.ResampleStream(source, target, 1, dtype="float32")

    def push(self, audio: Tensor, last: bool = False) -> Tensor:
        """Return the samples that are complete."""
        return torch.from_numpy(self.stream.resample_chunk(audio.numpy().astype(np.float32), last)).float()
