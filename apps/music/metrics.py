"""How music is measured: distances of sound, distances of collections, joins, loops, copies, onsets.

Collections are compared by the Frechet distance of Gaussians fitted to features of blocks,

    F = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2}),

on features that are stated here and learned by nobody: it is not a FAD of some network. Beside it stands the floor, the
distance of two halves of real music.

References: Heusel et al., 2017, arXiv:1706.08500 (Frechet distance of features); Raffel et al., 2014 (onset F1).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apps.music.score import Score
from apps.music.spectral import HOP, Framer, log_mel, magnitude

__all__ = [
    "block_features", "entropy", "f1", "frechet", "joins", "log_spectral_distance", "loop", "mel_distance", "nearest",
    "sound_features",
]  # fmt: skip

DB = 20 / np.log(10)


def _spectrum(audio: Tensor) -> Tensor:
    """Return spectra of whole rows of a sound [m], one at least: what is missing of that is silence."""
    return magnitude(Framer().push(torch.nn.functional.pad(audio, (0, max(0, HOP - len(audio))))))


def mel_distance(real: Tensor, made: Tensor) -> float:
    """Return the mean absolute difference of log-mels of two sounds [m], in dB; silence is -80 dB."""
    return float((log_mel(_spectrum(real)) - log_mel(_spectrum(made))).abs().mean()) * DB


def log_spectral_distance(real: Tensor, made: Tensor) -> float:
    """Return the root mean square over bins, averaged over frames, of differences of log spectra, in dB (from -80)."""
    a, b = (_spectrum(v).clamp(min=1e-4).log() for v in (real, made))
    return float((a - b).square().mean(-1).sqrt().mean()) * DB


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Frechet distance of features [n, k] and [m, k]."""
    gap = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def block_features(score: Score, beats: float) -> np.ndarray:
    """Return features of consecutive stretches of a score [n, 17].

    Shares of the 12 pitch classes (by duration), onsets per beat, notes sounding at a time / 4, mean pitch / 12 about
    middle C, hits per beat / 4, mean velocity of hits.
    """
    rows = []
    for start in np.arange(0, score.beats - beats + 1e-9, beats):
        part = score.part(start, start + beats)
        long = part.notes[:, 1]
        classes = np.bincount(part.notes[:, 2].astype(int) % 12, long, 12)
        fresh = ((score.notes[:, 0] >= start) & (score.notes[:, 0] < start + beats)).sum()
        register = (np.average(part.notes[:, 2], weights=long) - 60) / 12 if len(long) else 0.0
        loud = part.hits[:, 2].mean() if len(part.hits) else 0.0
        rest = [fresh / beats, long.sum() / beats / 4, register, len(part.hits) / beats / 4, loud]
        rows.append([*(classes / max(classes.sum(), 1e-9)), *rest])
    return np.array(rows, float).reshape(-1, 17)


def sound_features(audio: Tensor, samples: int) -> np.ndarray:
    """Return features of consecutive stretches of sound [n, 41]: means and deviations of 20 bands, mean onset."""
    mel = log_mel(_spectrum(audio)).reshape(-1, 20, 5).mean(-1)
    flux = torch.cat([torch.zeros(1), (mel[1:] - mel[:-1]).clamp(min=0).mean(-1)])
    n = samples // HOP
    rows = [
        torch.cat([part.mean(0), part.std(0), f.mean()[None]])
        for part, f in zip(mel.split(n), flux.split(n), strict=True) if len(part) == n
    ]  # fmt: skip
    return torch.stack(rows).double().numpy() if rows else np.zeros((0, 41))


def entropy(score: Score) -> float:
    """Return the entropy of the pitch classes by duration, in bits."""
    p = np.bincount(score.notes[:, 2].astype(int) % 12, score.notes[:, 1], 12)
    p = p[p > 0] / max(p.sum(), 1e-9)
    return float(-(p * np.log2(p)).sum())


def loop(frames: Tensor, block: int, most: int = 8) -> float:
    """Return the largest cosine similarity of a block with the one 1 ... `most` blocks before, averaged over a piece.

    A piece that has fallen into a loop reaches 1.

    Args:
        frames: [F, dim].
        block: frames in a block.
        most: longest lag.
    """
    blocks = frames[: len(frames) // block * block].reshape(-1, block * frames.shape[1]).double()
    unit = blocks / blocks.norm(dim=1, keepdim=True).clamp(min=1e-9)
    lags = range(1, min(most, len(unit) - 1) + 1)
    return max((float((unit[k:] * unit[:-k]).sum(1).mean()) for k in lags), default=0.0)


def nearest(made: Tensor, known: Tensor) -> Tensor:
    """Return the distance of each row [n, k] to the nearest of [m, k]."""
    return torch.cdist(made.double(), known.double()).amin(1)


def f1(found: np.ndarray, real: np.ndarray, within: float = 0.05) -> float:
    """Return the F1 of onset times in seconds, each matched at most once, by the smallest difference first."""
    if not len(found) or not len(real):
        return float(len(found) == len(real))
    away = np.abs(np.subtract.outer(found, real))
    pairs = np.argwhere(away <= within)
    pairs = pairs[np.argsort(away[pairs[:, 0], pairs[:, 1]], kind="stable")]
    left, right = set[int](), set[int]()
    for i, j in pairs.tolist():
        if i not in left and j not in right:
            left.add(i)
            right.add(j)
    return 2 * len(left) / (len(found) + len(real))


def joins(
    audio: Tensor | list[Tensor], at: np.ndarray | list[np.ndarray], hop: float, seed: int = 0
) -> dict[str, float]:
    """Compare what happens where blocks meet with what happens at other places of the same grid.

    Args:
        audio: samples [m], or those of several sessions, whose places are taken together.
        at: samples where a block begins, [n], for each session.
        hop: samples, a fraction too, between the places where blocks can begin, counted from the first that is given;
            the others are compared with.
        seed: of the choice of four times as many inner places as there are joins.

    Returns:
        z-scores of spectral flux and of the largest step between samples within 2 ms, and how many dB the 95th
        percentile of the change of loudness over 50 ms is above that inside.
    """
    rng, here, there = np.random.default_rng(seed), [], []
    sessions = [(audio, at)] if isinstance(audio, Tensor) else zip(audio, at, strict=True)
    for sound, places in sessions:
        last = len(sound) - 4096
        edge = np.asarray([a for a in places if 4096 <= a < last], int)  # type: ignore[union-attr]
        first = float(edge.min()) % hop
        grid = np.round(first + hop * np.arange(int((last - first) // hop) + 1)).astype(int)
        inner = grid[(grid >= 4096) & (grid < last) & (np.abs(grid[:, None] - edge).min(1) > 2)]
        inner = rng.choice(inner, min(len(inner), 4 * len(edge)), replace=False)
        here += [_change(sound.double(), int(p)) for p in edge]
        there += [_change(sound.double(), int(p)) for p in inner]
    a, b = np.array(here), np.array(there)
    z = (a.mean(0) - b.mean(0)) / b.std(0).clip(1e-9)
    rise = np.percentile(a[:, 2], 95) - np.percentile(b[:, 2], 95)
    return {"flux_z": float(z[0]), "step_z": float(z[1]), "loudness_p95_db": float(rise), "joins": len(a)}


def _change(x: Tensor, place: int) -> tuple[float, float, float]:
    """Return spectral flux, largest step and change of loudness in dB of samples about a place."""
    before, after = x[place - 1024 : place], x[place : place + 1024]
    a, b = (magnitude(v[None].float())[0].clamp(min=1e-4).log() for v in (before, after))
    step = (x[place - 64 : place + 64].diff()).abs().max() / x[place - 1024 : place + 1024].std().clamp(min=1e-4)
    loud = [20 * torch.log10(v.square().mean().sqrt().clamp(min=1e-4)) for v in
            (x[place - 1600 : place], x[place : place + 1600])]  # fmt: skip
    return float((b - a).clamp(min=0).mean()), float(step), float((loud[1] - loud[0]).abs())
