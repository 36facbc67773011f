"""Other people's neural codecs as frames of this app: EnCodec and DAC at 24 kHz, their weights fetched by the user.

Both turn 320 samples at 24 kHz into a vector (before their quantiser, which is not used); three of them are a frame of
40 ms, 1280 samples of ours, of which whitened principal components are kept. The weights stay where they lie: a
checkpoint of a model keeps the components and the place, nothing of the codec.

The player decodes stretches of `STRETCH` frames at fixed places, each after `PAST` frames and, as DAC looks ahead,
before `AHEAD`; so its samples do not depend on how frames arrive, and `decode` is one push and a flush. A stretch that
has less past than the network remembers (EnCodec's recurrent layers) is close to, not equal to, decoding all at once.

References: Defossez et al., 2022, arXiv:2210.13438 (EnCodec); Kumar et al., 2023, arXiv:2306.06546 (DAC).
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.music.audio import limit
from apps.music.codec import Pca
from apps.music.synth import RATE
from core.errors import CheckpointError, UsageError

__all__ = ["KINDS", "ForeignCodec", "ForeignPlayer"]

KINDS = {"encodec": 128, "dac": 1024}
"""Width of a vector."""
SAMPLES, GROUP = 24000, 3
HOP = 320 * GROUP
STRETCH, PAST, AHEAD = 5, 25, 5


def _open(kind: str, weights: str) -> nn.Module:
    """Return the network.

    Raises:
        UsageError: its package is not installed.
        CheckpointError: no weights there, or not its own.
    """
    try:
        package = import_module(kind)
    except ImportError:
        name = {"encodec": "encodec", "dac": "descript-audio-codec"}[kind]
        hint = f"pip install {name}"
        raise UsageError("its package is not installed", field="codec.kind", value=kind, hint=hint) from None
    if not Path(weights).exists() or not weights:
        what = {"encodec": "the folder of encodec_24khz-*.th", "dac": "the file weights_24khz.pth"}[kind]
        raise CheckpointError("no weights there", field="codec.weights", value=weights, hint=f"fetch them; give {what}")
    try:
        if kind == "encodec":
            return package.EncodecModel.encodec_model_24khz(repository=Path(weights)).eval()
        return package.DAC.load(weights).eval()
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"cannot be read ({error})", field="codec.weights", value=weights) from None


class ForeignCodec(nn.Module):
    """Frames of another codec.

    Args:
        kind: one of `KINDS`.
        dim: components per frame.
        weights: where its weights lie; opened when sound is first encoded or decoded.
    """

    def __init__(self, kind: str, dim: int, weights: str) -> None:
        super().__init__()
        self.kind, self.dim, self.weights = kind, dim, weights
        self.hop = HOP * RATE // SAMPLES
        self.latency_samples = (STRETCH + AHEAD) * self.hop
        self.pca = Pca(GROUP * KINDS[kind], dim)
        self._open: list[nn.Module] = []  # a list: no part of the state that is saved

    @property
    def network(self) -> Any:
        """The codec's own network."""
        if not self._open:
            self._open.append(_open(self.kind, self.weights).requires_grad_(False))
        return self._open[0]

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return RATE / self.hop

    @torch.no_grad()
    def rows(self, whole: Tensor) -> Tensor:
        """Return vectors by frame [F, 3 width] of samples [m], F = ceil(m / hop)."""
        import soxr

        padded = torch.nn.functional.pad(whole, (0, -len(whole) % self.hop))
        sound = torch.from_numpy(soxr.resample(padded.numpy(), RATE, SAMPLES)).float()
        found = self.network.encoder(sound[None, None])[0].T
        count = len(padded) // self.hop
        return found[: count * GROUP].reshape(count, -1)

    def fit(self, recordings: Iterable[Tensor]) -> float:
        """Fit the components to recordings [m] each; return the share of variance kept."""
        return self.pca.fit(torch.cat([self.rows(audio) for audio in recordings]))

    def encode(self, whole: Tensor) -> Tensor:
        """Return frames [F, dim] of samples [m]."""
        return self.pca(self.rows(whole))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return F hop samples of frames [F, dim]."""
        player = self.player()
        return torch.cat([player.push(z), player.flush()])

    def player(self) -> ForeignPlayer:
        """Return a decoder of a stream."""
        return ForeignPlayer(self)


class ForeignPlayer:
    """Decodes a stream of frames; its sound is up to `latency_samples` late."""

    def __init__(self, codec: ForeignCodec) -> None:
        self.codec, self.frames, self.done, self.first = codec, torch.zeros(0, codec.dim), 0, 0

    def push(self, z: Tensor) -> Tensor:
        """Return the samples that frames [n, dim] complete."""
        self.frames = torch.cat([self.frames, z])
        parts = []
        while self.first + len(self.frames) >= self.done + STRETCH + AHEAD:
            parts.append(self._stretch(STRETCH))
        return torch.cat(parts) if parts else torch.zeros(0)

    def flush(self) -> Tensor:
        """Return the samples that are still to come; the stream begins anew."""
        parts = [torch.zeros(0)]
        while (left := self.first + len(self.frames) - self.done) > 0:
            parts.append(self._stretch(min(left, STRETCH)))
        self.__init__(self.codec)
        return torch.cat(parts)

    def copy(self) -> ForeignPlayer:
        """Return an independent copy."""
        out = ForeignPlayer(self.codec)
        out.__dict__.update(self.__dict__)
        return out

    @torch.no_grad()
    def _stretch(self, count: int) -> Tensor:
        """Decode and resample the next `count` frames with what is around them."""
        import soxr

        begin = max(0, self.done - PAST)
        part = self.frames[begin - self.first : self.done + count + AHEAD - self.first]
        codec = self.codec
        rows = codec.pca.inverse(part).reshape(len(part) * GROUP, -1)
        sound = codec.network.decoder(rows.T[None].float())[0, 0]
        again = torch.from_numpy(soxr.resample(sound.numpy(), SAMPLES, RATE)).float()
        start = (self.done - begin) * codec.hop
        out = torch.nn.functional.pad(again, (0, max(0, start + count * codec.hop - len(again))))
        self.done += count
        keep = max(0, self.done - PAST)
        self.frames, self.first = self.frames[keep - self.first :], keep
        return limit(out[start : start + count * codec.hop])
