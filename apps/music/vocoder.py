"""From log-mels to sound, frame by frame, looking only back.

    log |S| = M m + a(h),     phase = (b(h), c(h)) / |(b, c)|,     h = causal convolutions of the mels m,
    y = sum_i  hann * irfft(S_i)  shifted to its place, / 1.5

`M` spreads mels over bins (fixed), so that the network corrects a spectrum that is nearly right. A frame covers the
SIZE samples that end with it; with Hann windows twice and a hop of SIZE / 4 the overlapped squares sum to 1.5.
Each convolution keeps the inputs it will need again, so a stream costs no more than a whole and gives the same.

References: Siuzdak, 2023, arXiv:2306.00814 (spectra instead of samples); Liu et al., 2022, arXiv:2201.03545 (blocks).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.music.spectral import HOP, MELS, SIZE, mel_filters, window

__all__ = ["Vocoder", "VocoderStream", "spectral_loss"]

DILATIONS, KERNEL = (1, 2, 4, 1, 2, 4), 5
State = list[Tensor]


class _Past(nn.Module):
    """A convolution over the past."""

    def __init__(self, inside: int, outside: int, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.reach, self.inside = (KERNEL - 1) * dilation, inside
        self.conv = nn.Conv1d(inside, outside, KERNEL, dilation=dilation, groups=groups)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([past, x], 2)
        return self.conv(x), x[:, :, x.shape[2] - self.reach :]


class _Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.past = _Past(width, width, dilation, width)
        self.norm = nn.LayerNorm(width)
        last = nn.Linear(2 * width, width)
        nn.init.zeros_(last.weight)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), last)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        h, past = self.past(x, past)
        return x + self.mix(self.norm(h.transpose(1, 2))).transpose(1, 2), past


class Vocoder(nn.Module):
    """The network.

    Args:
        width: its channels.
    """

    spread: Tensor

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.first = _Past(MELS, width)
        self.blocks = nn.ModuleList(_Block(width, d) for d in DILATIONS)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3 * (SIZE // 2 + 1))
        self.head.weight.data *= 0.1
        filters = mel_filters().double()
        peak = torch.cumsum(filters, 1)
        nearest = F.one_hot((peak < 0.5).sum(0).clamp(max=MELS - 1), MELS).double()
        weight = torch.where(filters.sum(0)[:, None] > 1e-9, filters.T, nearest)
        self.register_buffer("spread", (weight / weight.sum(1, keepdim=True)).float(), persistent=False)

    def begin(self, rows: int) -> State:
        """Return the state before the first frame."""
        own = self.head.weight
        parts = [self.first, *(b.past for b in self.blocks)]
        return [own.new_zeros(rows, p.inside, p.reach) for p in parts]  # type: ignore[misc, arg-type]

    def spectra(self, mels: Tensor, state: State) -> tuple[Tensor, State]:
        """Return spectra [B, T, SIZE / 2 + 1], complex, of log-mels [B, T, MELS], and the next state."""
        x, past = self.first((mels * 0.25 + 1).transpose(1, 2), state[0])
        after = [past]
        for block, past in zip(self.blocks, state[1:], strict=True):
            x, past = block(x, past)
            after.append(past)
        a, b, c = self.head(self.norm(x.transpose(1, 2))).chunk(3, -1)
        size = (mels @ self.spread.T + a).clamp(max=3.0).exp() * (SIZE / 4)
        length = (b * b + c * c + 1e-12).sqrt()
        return torch.complex(size * b / length, size * c / length), after

    def forward(self, mels: Tensor) -> Tensor:
        """Return the sound [B, T HOP] of log-mels [B, T, MELS]: that of a stream, moved to where it belongs."""
        spectra, _ = self.spectra(mels, self.begin(len(mels)))
        return overlap(spectra)[:, SIZE - HOP :]


def overlap(spectra: Tensor) -> Tensor:
    """Return the sum of frames [B, T, SIZE / 2 + 1] at their places, [B, T HOP + SIZE - HOP]."""
    frames = torch.fft.irfft(spectra, SIZE) * (window().to(spectra.device) / 1.5)
    columns = frames.transpose(1, 2)
    total = (frames.shape[1] - 1) * HOP + SIZE
    return F.fold(columns, (1, total), (1, SIZE), stride=(1, HOP))[:, 0, 0]


class VocoderStream:
    """A vocoder over a stream: each frame gives HOP samples, SIZE - HOP late."""

    def __init__(self, net: Vocoder) -> None:
        self.net, self.state, self.tail = net, net.begin(1), net.head.weight.new_zeros(SIZE - HOP)

    def push(self, mels: Tensor) -> Tensor:
        """Return T HOP samples for log-mels [T, MELS]."""
        if not len(mels):
            return self.tail.new_zeros(0)
        spectra, self.state = self.net.spectra(mels[None], self.state)
        sound = overlap(spectra)[0]
        sound[: SIZE - HOP] += self.tail
        done = len(mels) * HOP
        self.tail = sound[done:].clone()
        return sound[:done]

    def flush(self) -> Tensor:
        """Return the last SIZE - HOP samples."""
        return self.tail

    def copy(self) -> VocoderStream:
        """Return an independent copy (states are never written in place)."""
        out = VocoderStream(self.net)
        out.state, out.tail = list(self.state), self.tail.clone()
        return out


def spectral_loss(made: Tensor, real: Tensor) -> Tensor:
    """Return the distance of sounds [B, n] over spectra of three sizes: logarithms, and convergence.

    Reference: Yamamoto et al., 2020, arXiv:1910.11480.
    """
    loss = made.new_zeros(())
    for size in (512, 1024, 2048):
        hann = window(size).to(made.device)
        options = {"n_fft": size, "hop_length": size // 4, "window": hann, "return_complex": True}
        m, r = (torch.stft(v, **options).abs().clamp(min=1e-4) for v in (made, real))  # type: ignore[arg-type]
        loss = loss + (m.log() - r.log()).abs().mean() + (m - r).norm() / r.norm().clamp(min=1e-3)
    return loss / 3
