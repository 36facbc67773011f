"""What a musician asks of each frame, and how it is heard in audio.

| group    | numbers | meaning, scaled to about one                                        |
|----------|---------|---------------------------------------------------------------------|
| loudness | 1       | dB of the frame's root mean square                                  |
| centroid | 1       | pitch of the spectrum's centre of mass                              |
| onset    | 1       | rise of the log-mels since the frame before, summed                 |
| chroma   | 12      | share of the energy in each pitch class                             |
| pitch    | 2       | fundamental (YIN) and whether there is one                          |
| notes    | 128     | for each pitch: 1 begins, 0.5 sounds, -1 silent, 0 the model decides |
| tempo    | 1       | log2 of bpm / 120                                                   |
| beat     | 2       | sine and cosine of the phase in the beat                            |
| key      | 24      | one of 12 major and 12 minor                                        |
| label    | 16      | style, where the data have one                                      |

A group that is not asked for is 0, and so is its presence bit, so "nothing asked" is the zero vector. In training each
group is dropped by itself and the first three are smoothed by a median filter of random length, so that a rough sketch
is understood (Garcia et al., 2024, arXiv:2412.08550). `Ear` hears the first five as the sound comes in, on causal
frames: heard in pieces or whole is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from apps.music.score import Score
from apps.music.spectral import HOP, SIZE, Framer, bins, log_mel, magnitude
from apps.music.synth import RATE
from core.errors import UsageError

__all__ = ["GROUPS", "WIDTH", "Ear", "describe", "drop", "listen", "pool", "smooth", "vector"]

GROUPS: dict[str, int] = {
    "loudness": 1, "centroid": 1, "onset": 1, "chroma": 12, "pitch": 2, "notes": 128, "tempo": 1, "beat": 2,
    "key": 24, "label": 16,
}  # fmt: skip
WIDTH = sum(GROUPS.values()) + len(GROUPS)
HEARD = ("loudness", "centroid", "onset", "chroma", "pitch")
KEYS = [f"{n}{m}" for m in ("", "m") for n in ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")]
SHARP = {"Cb": "B", "Db": "C#", "Eb": "D#", "E#": "F", "Fb": "E", "Gb": "F#", "Ab": "G#", "Bb": "A#", "B#": "C"}
"""Tonics by the names that `KEYS` has for them."""

VOICED = 0.15


def key_number(text: str, field: str, known: Sequence[str] = KEYS) -> int:
    """Return the number of a key, or tonic, by any of its names: A#, Bb, Ebm.

    Raises:
        UsageError: no such key.
    """
    minor = "m" if text.endswith("m") else ""
    name = SHARP.get(text.removesuffix("m"), text.removesuffix("m")) + minor
    if name not in known:
        raise UsageError("no such key", field=field, value=text, choices=known)
    return KEYS.index(name)


def _slices() -> dict[str, slice]:
    out, at = {}, 0
    for name, width in GROUPS.items():
        out[name], at = slice(at, at + width), at + width
    return out


AT = _slices()
FLAGS = WIDTH - len(GROUPS)


def vector(asked: Mapping[str, Tensor], frames: int) -> Tensor:
    """Return the control [frames, WIDTH] of the groups asked for, each [frames, width] or [width].

    Raises:
        UsageError: no such group, another width or number of rows, or no finite numbers.
    """
    out = torch.zeros(frames, WIDTH)
    for name, value in asked.items():
        if name not in GROUPS:
            raise UsageError("no such control", field="control", value=name, choices=GROUPS)
        value, wide = numbers(name, value), GROUPS[name]
        if tuple(value.shape) not in {(wide,), (1, wide), (frames, wide)}:
            hint = f"give ({wide},) for all frames, or ({frames}, {wide})"
            raise UsageError(f"takes {wide} numbers a frame", field=name, value=tuple(value.shape), hint=hint)
        if not value.isfinite().all():
            raise UsageError("holds values that are not finite", field=name, value=value.tolist()[:3])
        out[:, AT[name]] = value
        out[:, FLAGS + list(GROUPS).index(name)] = 1
    return out


def numbers(name: str, value: object) -> Tensor:
    """Return what is asked of a group as numbers of its own, float32.

    Raises:
        UsageError: they are no numbers.
    """
    try:
        return torch.as_tensor(value, dtype=torch.float32).clone()
    except (TypeError, ValueError, RuntimeError):
        raise UsageError("takes numbers", field=name, value=str(value), hint=f"{GROUPS.get(name, 1)} a frame") from None


def drop(
    control: Tensor, rng: np.random.Generator, each: float, everything: float, length: int, free: float = 0.0
) -> Tensor:
    """Return controls [B, N length, WIDTH] with groups dropped: what may be asked for when the model plays.

    A group is dropped from a block with probability `each`, from a whole row with the same, and all groups from a block
    with `everything`. A share `free` of the rows is asked nothing from beginning to end, or, half of them, the tempo
    and the beat, as in playing without a wish.
    """
    rows, blocks = len(control), control.shape[1] // length
    keep = rng.random((rows, blocks, len(GROUPS))) >= each
    keep &= (rng.random((rows, blocks, 1)) >= everything) & (rng.random((rows, 1, len(GROUPS))) >= each)
    u = rng.random((rows, 1, 1))
    timed = np.isin([*GROUPS], ("tempo", "beat")) & (u < free / 2)
    keep = np.where(u < free, timed, keep)
    widths = torch.tensor([*GROUPS.values()])
    columns = torch.cat([torch.arange(len(GROUPS)).repeat_interleave(widths), torch.arange(len(GROUPS))])
    mask = torch.from_numpy(keep).float()[..., columns]
    return control * mask.repeat_interleave(length, 1)


def smooth(control: Tensor, rng: np.random.Generator, most: int = 3) -> Tensor:
    """Return controls [B, F, WIDTH] whose loudness, centroid and onset pass a median filter of a random length."""
    half = int(rng.integers(most + 1))
    if not half:
        return control
    out = control.clone()
    part = out[..., :3].transpose(1, 2)
    padded = torch.nn.functional.pad(part, (half, half), mode="replicate")
    out[..., :3] = padded.unfold(2, 2 * half + 1, 1).median(-1).values.transpose(1, 2)
    return out


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _chroma() -> Tensor:
    """Return the weights [12, bins] of pitch classes; C first."""
    hertz = bins().double().clamp(min=1.0)
    pitch = 69 + 12 * torch.log2(hertz / 440)
    away = (pitch - torch.arange(12)[:, None] + 6) % 12 - 6
    weight = torch.exp(-0.5 * (away / 0.7) ** 2)
    return (weight * ((hertz > 100) & (hertz < 5000))).float()


@dataclass(eq=False)
class Ear:
    """Hears the features of a stream of samples, one row for every HOP samples."""

    framer: Framer = field(default_factory=Framer)
    last: Tensor | None = None

    def push(self, audio: Tensor) -> dict[str, Tensor]:
        """Return the features [n, width] that samples [m] complete."""
        return self._hear(self.framer.push(audio))

    def flush(self) -> dict[str, Tensor]:
        """Return the last features; the stream begins anew."""
        found = self._hear(self.framer.flush())
        self.last = None
        return found

    def _hear(self, frames: Tensor) -> dict[str, Tensor]:
        spectrum = magnitude(frames)
        power = spectrum.square()
        mel = log_mel(spectrum)
        before = torch.cat([mel[:1] if self.last is None else self.last, mel])[: len(mel)]
        self.last = mel[-1:] if len(mel) else self.last
        loud = 20 * torch.log10(frames.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-4))
        centre = (spectrum * bins()).sum(-1, keepdim=True) / spectrum.sum(-1, keepdim=True).clamp(min=1e-6)
        chroma = power @ _chroma().T
        return {
            "loudness": (loud + 40) / 20,
            "centroid": torch.log2(centre.clamp(min=20.0) / 1000),
            "onset": (mel - before).clamp(min=0).mean(-1, keepdim=True),
            "chroma": chroma / chroma.sum(-1, keepdim=True).clamp(min=1e-8) * 3,
            "pitch": yin(frames),
        }


def yin(frames: Tensor) -> Tensor:
    """Return (octaves above 220 Hz, 1) of the fundamental of frames [n, SIZE], or (0, 0) where there is none.

    From 32 Hz to 1.5 kHz; what is higher is heard an octave or more too low.

    Reference: de Cheveigne and Kawahara, 2002, J. Acoust. Soc. Am. 111(4), steps 1 to 5.
    """
    half = SIZE // 2
    if not len(frames):
        return frames.new_zeros(0, 2)
    x = frames.double()
    spectrum, head = torch.fft.rfft(x, 2 * SIZE), torch.fft.rfft(x[:, :half], 2 * SIZE)
    product = torch.fft.irfft(spectrum * head.conj(), 2 * SIZE)[:, :half]
    energy = torch.nn.functional.pad(x.square().cumsum(1), (1, 0))
    shifted = energy[:, half : half + half] - energy[:, :half]
    difference = (shifted[:, :1] + shifted - 2 * product).clamp(min=0)
    lag = torch.arange(1, half)
    ratio = difference[:, 1:] * lag / difference[:, 1:].cumsum(1).clamp(min=1e-12)
    ratio[:, :20] = 1  # above 1.5 kHz
    dip = (ratio[:, 1:-1] < VOICED) & (ratio[:, 1:-1] <= ratio[:, 2:]) & (ratio[:, 1:-1] <= ratio[:, :-2])
    voiced = dip.any(1) & (energy[:, -1] > 1e-6 * SIZE)
    at = dip.float().argmax(1) + 1
    row = torch.arange(len(at))
    a, b, c = (ratio[row, at + k] for k in (-1, 0, 1))
    shift = torch.where((bend := a - 2 * b + c) > 1e-12, (a - c) / (2 * bend.clamp(min=1e-12)), torch.zeros_like(a))
    octave = torch.log2(RATE / (at + 1 + shift.clamp(-1, 1)) / 220)
    return torch.stack([torch.where(voiced, octave, 0.0), voiced.double()], 1).float()


def listen(audio: Tensor) -> dict[str, Tensor]:
    """Return the features of a whole recording [m], one row for every HOP samples."""
    ear = Ear()
    parts = [ear.push(audio), ear.flush()]
    return {name: torch.cat([p[name] for p in parts]) for name in HEARD}


def pool(heard: Mapping[str, Tensor], edges: Tensor) -> dict[str, Tensor]:
    """Return features by frame [F, width]: means over the rows that end in (edges_f, edges_{f+1}], onsets the most.

    Edges are moved to the nearest end of a row; of a frame that none is left to, the row after its beginning counts.

    Args:
        heard: rows for every HOP samples.
        edges: samples at which frames begin and end, [F + 1], rising.
    """
    out = {}
    for name, rows in heard.items():
        cut = ((edges.double() + HOP / 2) // HOP).long().clamp(0, len(rows))
        parts = [rows[a : max(b, a + 1)] for a, b in zip(cut[:-1].tolist(), cut[1:].tolist(), strict=True)]
        take = (lambda p: p.amax(0)) if name == "onset" else (lambda p: p.mean(0))
        out[name] = torch.stack([take(p) if len(p) else rows.new_zeros(rows.shape[1]) for p in parts])
    return out


def describe(score: Score, starts: np.ndarray, length: float, label: int | None = None) -> dict[str, Tensor]:
    """Return what a score says of frames.

    Args:
        score: the notes.
        starts: beat at which each frame begins, [F].
        length: beats in a frame.
        label: number of its style.
    """
    count = len(starts)
    notes = -torch.ones(count, 128)
    for start, long, pitch, _ in score.notes:
        notes[(starts < start + long - 1e-9) & (starts + length > start + 1e-9), int(pitch)] = 0.5
    for start, _, pitch, _ in score.notes:
        notes[(starts <= start + 1e-9) & (start + 1e-9 < starts + length), int(pitch)] = 1.0
    phase = torch.from_numpy(2 * np.pi * (starts % 1.0)).float()
    out = {"tempo": torch.full((count, 1), float(np.log2(score.bpm / 120))),
           "beat": torch.stack([phase.sin(), phase.cos()], 1)}  # fmt: skip
    if len(score.notes):
        out["notes"] = notes
        out["key"] = torch.nn.functional.one_hot(torch.tensor(key_of(score)), 24).float().expand(count, 24)
    if label is not None:
        out["label"] = torch.nn.functional.one_hot(torch.tensor(label % 16), 16).float().expand(count, 16)
    return out


MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


def key_of(score: Score) -> int:
    """Return the key of `KEYS` whose profile fits the durations of the pitch classes best.

    Reference: Krumhansl, 1990, Cognitive Foundations of Musical Pitch, chapter 4.
    """
    weight = np.bincount(score.notes[:, 2].astype(int) % 12, score.notes[:, 1], 12)
    profiles = np.stack([np.roll(p, k) for p in (MAJOR, MINOR) for k in range(12)])
    profiles = profiles - profiles.mean(1, keepdims=True)
    return int(np.argmax(profiles @ (weight - weight.mean()) / np.linalg.norm(profiles, axis=1)))
