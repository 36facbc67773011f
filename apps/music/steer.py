"""Controls by posterior sampling: a block is steered to sound as asked while it is made.

What the ear hears of a score (loudness, centroid, onsets, chroma) is a function of its roll. Sounds add in amplitude;
on average over phases they add in power, and then every feature is a differentiable function of the frames:

    E_r = sum_{t, k} e_{tk} T_k[r - r_t],        e_{tk} = p_{tk} v_{tk}^2  (hits),
                                                 e_{tk} = s_{tk} max(b_{tk}, d_k e_{t-1,k})  (pitches)

where row r is one HOP, t a tick that begins at row r_t, k a class of drums or a pitch, p, s, b the softened hit, sound
and begin of the roll, v the velocity, d_k the decay of a tick, and T_k [rows, 1 + MELS + 12] what the ear's own frames
measure of one stroke of k: power, squared mel magnitudes, and power by pitch class. Features follow from E as in
`controls.Ear`; the sums of magnitudes that the centroid needs are linear in the mels (least squares).

Each prediction of x_0 then descends the misfit to what is asked (`core.guide.posterior.descend`), the network being
left alone: the mechanism that infills, with an ear for an observation.

References: Chung et al., 2022, arXiv:2209.14687 (posterior sampling); He et al., 2023, arXiv:2311.16424 (descent on
the predicted x_0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from apps.music import controls
from apps.music.attack import rises
from apps.music.roll import TICKS, VELOCITY, RollCodec
from apps.music.score import DRUMS
from apps.music.spectral import FLOOR, HOP, MELS, Framer, bins, log_mel, magnitude, mel_filters
from apps.music.synth import RATE, Synth
from core.guide.posterior import descend

__all__ = ["Steer", "apart", "features", "imagined", "strokes", "wishes"]

SPREAD = {"loudness": 0.1, "centroid": 0.3, "onset": 0.2, "chroma": 0.15, "attack": 0.07}
"""What counts as a misfit of one; attacks (`attack.py`) are asked of the search only."""
SILENT = -4.0
"""Centroids below are those of silence, which has none."""
SOFT = 6.0
"""Slope of the softened decisions."""


@lru_cache(maxsize=256)
@torch.inference_mode(mode=False)
def _stroke(kind: int, pitch: int, rows: int, held: int, at: int = HOP // 2) -> Tensor:
    """Return T_k [rows, 1 + MELS + 12] of a class of drums, or of a pitch (>= 0) held for `held` samples, from `at`."""
    synth = Synth()
    if pitch >= 0:
        synth.press(pitch, 1.0, at)
        synth.release(pitch, at + held)
    else:
        synth.strike(kind, 1.0, at)
    frames = Framer().push(torch.from_numpy(synth.until(rows * HOP)).float())
    spectrum = magnitude(frames)
    power = frames.square().mean(1, keepdim=True)
    mels = log_mel(spectrum).exp().square() - FLOOR**2
    return torch.cat([power, mels, spectrum.square() @ controls._chroma().T], 1)


@lru_cache(maxsize=1)
@torch.inference_mode(mode=False)
def _sums() -> Tensor:
    """Return the weights [MELS, 2] that turn mels into the sums of magnitudes and of magnitudes times Hz / 1000."""
    aim = torch.stack([torch.ones(len(bins())), bins() / 1000], 1).double()
    filters = mel_filters().double()
    ridge = 1e-4 * torch.eye(MELS, dtype=torch.float64) * float((filters @ filters.T).diagonal().mean())
    return torch.linalg.solve(filters @ filters.T + ridge, filters @ aim).float()


@dataclass(frozen=True, eq=False)
class Steer:
    """Steers blocks of a roll.

    Args:
        codec: of the frames.
        asked: what is to be heard, [L, width] by group of `SPREAD`.
        bpm: tempo at which the block is played.
        before: the frames of the block before, [B, L, dim], or None.
        rounds: steps of descent at every prediction.
        rate: length of a step, in units of the frames' numbers.
    """

    codec: RollCodec
    asked: Mapping[str, Tensor]
    bpm: float
    before: Tensor | None
    rounds: int = 4
    rate: float = 0.1

    def __call__(self, x_0: Tensor) -> Tensor:
        """Return predictions [B, L, dim] moved towards what is asked; each row by itself."""
        return descend(x_0, self.misfit, self.rounds, self.rate)

    def misfit(self, x_0: Tensor) -> Tensor:
        """Return the misfit [B] of blocks [B, L, dim]."""
        out = []
        for k, block in enumerate(x_0):
            past = None if self.before is None else self.before[k]
            whole = block if past is None else torch.cat([past, block])
            heard = imagined(self.codec, whole, self.bpm)
            total = block.new_zeros(())
            for name, aim in self.asked.items():
                total = total + apart(name, heard[name][-len(block) :], aim).mean()
            out.append(total)
        return torch.stack(out)


def apart(name: str, mine: Tensor, aim: Tensor) -> Tensor:
    """Return the squared difference [...] of a feature [..., width] from what is asked, in units of its spread."""
    away = ((mine - aim) / SPREAD[name]).square().mean(-1)
    return away * (aim[..., 0] > SILENT) if name == "centroid" else away


def strokes(kinds: int, rows: int, at: int = HOP // 2) -> Tensor:
    """Return T_k [kinds, rows, 1 + MELS + 12] of the classes of drums, struck at sample `at`."""
    return torch.stack([_stroke(k, -1, rows, 0, at) for k in range(kinds)])


def wishes(control: Tensor) -> dict[str, Tensor]:
    """Return what of controls [L, WIDTH] can be steered by: groups asked of every frame of which anything is asked.

    Where nothing is asked from a frame on (a piece ends within its last block), the last that was is asked on.
    """
    asked = control[control[:, controls.FLAGS :].any(1)]
    if not len(asked):
        return {}
    flags, rest = asked[:, controls.FLAGS :].amin(0), asked[-1:].expand(len(control) - len(asked), -1)
    asked = torch.cat([asked, rest])
    return {n: asked[:, controls.AT[n]] for k, n in enumerate(controls.GROUPS) if n in SPREAD and flags[k] > 0}


def imagined(codec: RollCodec, frames: Tensor, bpm: float) -> dict[str, Tensor]:
    """Return the features [F, width] that frames [F, dim] are heard to have, differentiable in them."""
    rows = codec.pca.inverse(frames).reshape(-1, codec.width)
    tick = 60 / bpm / TICKS * RATE
    edges = torch.arange(len(frames) + 1) * (tick * codec.ticks)
    energy = frames.new_zeros(round(float(edges[-1]) // HOP) + 1, 1 + MELS + 12)
    if codec.hits:
        energy = energy + _drums(codec, rows, tick, len(energy))
    if codec.high > codec.low:
        energy = energy + _notes(codec, rows, tick, len(energy))
    return controls.pool(features(energy), edges)


def _placed(heard: Tensor, at: np.ndarray, count: int) -> Tensor:
    """Return the sum [count, c] of events' rows [n, i, c] that begin at rows `at` [n]."""
    place = torch.from_numpy(at)[:, None] + torch.arange(heard.shape[1])
    inside = (place >= 0) & (place < count)
    return heard.new_zeros(count, heard.shape[2]).index_add(0, place[inside], heard[inside])


def _drums(codec: RollCodec, rows: Tensor, tick: float, count: int) -> Tensor:
    table = rows[:, : codec.hits].reshape(len(rows), -1, 3)
    size = ((table[..., 1] + 1) / 2).clamp(0.05, 1)
    e = torch.sigmoid(SOFT * table[..., 0]) * size.square()
    late = (table[..., 2].detach() / 2).clamp(-0.499, 0.499).double().numpy()
    at = np.floor((np.arange(len(rows))[:, None] + late) * tick / HOP).astype(int)
    return _placed((e[..., None, None] * strokes(len(DRUMS), 64)).flatten(0, 1), at.reshape(-1), count)


def _notes(codec: RollCodec, rows: Tensor, tick: float, count: int) -> Tensor:
    table = torch.sigmoid(SOFT * rows[:, codec.hits :].reshape(len(rows), -1, 2))
    on, begin = table[..., 0], table[..., 1]
    decay = float(np.exp(-2 * tick / RATE / 1.2))
    last, out = torch.zeros_like(on[0]), []
    for s, b in zip(on, begin, strict=True):
        last = s * torch.maximum(b, torch.maximum(decay * last, s * (last < 0.05)))
        out.append(last)
    long = int(np.ceil((tick + 0.1 * RATE) / HOP)) + 4
    tones = torch.stack([_stroke(-1, p, long, round(tick)) for p in range(codec.low, codec.high)])
    heard = torch.einsum("tk,kic->tic", VELOCITY**2 * torch.stack(out), tones)
    return _placed(heard, np.floor(np.arange(len(rows)) * tick / HOP).astype(int), count)


def features(energy: Tensor) -> dict[str, Tensor]:
    """Return what is heard of energies [..., R, 1 + MELS + 12], as `controls.Ear` says it."""
    loud = 10 * torch.log10(energy[..., :1].clamp(min=0) + 1e-8)
    square = energy[..., 1 : 1 + MELS].clamp(min=0)
    sums = ((square + 1e-12).sqrt() @ _sums().to(square)).clamp(min=1e-5)
    mel = (square + FLOOR**2).log() / 2
    before = torch.cat([mel[..., :1, :], mel[..., :-1, :]], -2)
    chroma = energy[..., 1 + MELS :]
    return {
        "loudness": (loud + 40) / 20,
        "centroid": torch.log2((sums[..., 1:] / sums[..., :1]).clamp(min=0.02, max=16)),
        "onset": (mel - before).clamp(min=0).mean(-1, keepdim=True),
        "chroma": chroma / (chroma.sum(-1, keepdim=True) + 1e-8) * 3,
        "rise": rises(mel, before),
    }
