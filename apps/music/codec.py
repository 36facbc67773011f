"""Codecs: from what is heard to frames of a few numbers and back, in one piece or as it comes.

A `Codec` has `dim` numbers per frame and `hop` samples per frame. `encode` and `decode` take wholes; `reader()` and
`player()` take pieces and give what they complete: `push(a), push(b), ..., flush()` is the whole, for any cut.

**MelPCA.** Log-mel magnitudes of `STACK` consecutive causal frames are projected on their principal components and
whitened: z = (m - mean) V / sqrt(lambda). There is nothing to train in the encoder. The decoder (`vocoder.py`) is a
causal network from the mels that z stands for to spectra; its frames overlap, so the player is SIZE - HOP samples late.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apps.music.audio import limit
from apps.music.spectral import FLOOR, HOP, MELS, SIZE, Framer, log_mel, magnitude
from apps.music.synth import RATE
from apps.music.vocoder import Vocoder, VocoderStream
from core.errors import UsageError

__all__ = ["STACK", "Codec", "MelCodec", "Pca", "Player", "Reader"]

STACK = 4


class Reader(Protocol):
    """Encodes what arrives."""

    def push(self, audio: Tensor) -> Tensor:
        """Return the frames [n, dim] that samples [m] complete."""
        ...

    def flush(self) -> Tensor:
        """Return the last frames, silence filling up what is missing."""
        ...


class Player(Protocol):
    """Decodes what arrives."""

    def push(self, z: Tensor) -> Tensor:
        """Return the samples that frames [n, dim] complete."""
        ...

    def flush(self) -> Tensor:
        """Return the samples that are still to come."""
        ...


class Codec(Protocol):
    """What models need to know of a representation of sound."""

    dim: int
    hop: int
    """Samples per frame."""
    latency_samples: int
    """By how much a player's sound is late."""

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        ...

    def encode(self, whole: Any) -> Tensor:
        """Return frames [F, dim]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Return F hop samples."""
        ...

    def player(self) -> Player:
        """Return a decoder of a stream."""
        ...


class Pca(nn.Module):
    """Principal components, as buffers, so that they travel with a checkpoint.

    Args:
        width: numbers that go in.
        dim: components that come out.
        whiten: give each unit variance; else all are divided by one number, their root mean square, and distances
            between components are distances between rows.

    Raises:
        UsageError: more come out than go in.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, width: int, dim: int, whiten: bool = True) -> None:
        if dim > width:
            hint = f"{width} at most, what a frame is made of"
            raise UsageError("is more than there is", field="codec.dim", value=dim, hint=hint)
        super().__init__()
        self.whiten = whiten
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("basis", torch.eye(width)[:, :dim].clone())
        self.register_buffer("scale", torch.ones(dim))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> float:
        """Fit to rows [n, width]; return the share of variance that is kept."""
        x = rows.double()
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        dim = len(self.scale)
        kept, basis = values.flip(0)[:dim].clamp(min=1e-8), vectors.flip(1)[:, :dim]
        sign = torch.where(basis.sum(0) < 0, -1.0, 1.0)  # eigenvectors have none of their own
        scale = kept.sqrt() if self.whiten else kept.mean().sqrt().expand(dim)
        for old, new in ((self.mean, mean), (self.basis, basis * sign), (self.scale, scale)):
            old.copy_(new)
        return float(kept.sum() / values.sum().clamp(min=1e-12))

    def forward(self, rows: Tensor) -> Tensor:
        """Return components [..., dim] of rows [..., width]; summed in float64 (see `log_mel`)."""
        return ((rows.double() - self.mean) @ self.basis.double() / self.scale).to(rows.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        """Return the rows [..., width] that components stand for."""
        return (z * self.scale) @ self.basis.T + self.mean


class MelCodec(nn.Module):
    """The log-mel PCA codec with a learned causal decoder.

    Args:
        dim: components per frame.
        width: channels of the decoder.
    """

    def __init__(self, dim: int = 64, width: int = 256) -> None:
        super().__init__()
        self.dim, self.hop, self.latency_samples = dim, STACK * HOP, SIZE - HOP
        self.pca = Pca(STACK * MELS, dim)
        self.vocoder = Vocoder(width)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return RATE / self.hop

    def fit(self, recordings: Iterable[Tensor]) -> float:
        """Fit the components to recordings [m] each; return the share of variance kept."""
        rows = [log_mel(magnitude(_frames(audio))).reshape(-1, STACK * MELS) for audio in recordings]
        return self.pca.fit(torch.cat(rows))

    @torch.no_grad()
    def encode(self, whole: Tensor) -> Tensor:
        """Return frames [F, dim] of samples [m], F = ceil(m / hop)."""
        return self.pca(log_mel(magnitude(_frames(whole))).reshape(-1, STACK * MELS))

    def mels(self, z: Tensor) -> Tensor:
        """Return the log-mels [..., F STACK, MELS] that frames [..., F, dim] stand for."""
        return self.pca.inverse(z).unflatten(-1, (STACK, MELS)).flatten(-3, -2).clamp(min=torch.tensor(FLOOR).log())

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return F hop samples of frames [F, dim]."""
        player = self.player()
        return torch.cat([player.push(z), player.flush()])

    def reader(self) -> MelReader:
        """Return an encoder of a stream."""
        return MelReader(self)

    def player(self) -> MelPlayer:
        """Return a decoder of a stream."""
        return MelPlayer(self)


def _frames(audio: Tensor) -> Tensor:
    return Framer().push(F.pad(audio, (0, -len(audio) % (STACK * HOP))))


class MelReader:
    """Encodes a stream of samples."""

    def __init__(self, codec: MelCodec) -> None:
        self.codec, self.framer, self.rows = codec, Framer(), torch.zeros(0, MELS)

    def push(self, audio: Tensor) -> Tensor:
        """Return the frames [n, dim] that samples [m] complete."""
        return self._take(self.framer.push(audio))

    def flush(self) -> Tensor:
        """Return the last frames; the stream begins anew."""
        waiting = len(self.framer.rest) - (SIZE - HOP) + len(self.rows) * HOP
        last = self._take(self.framer.push(torch.zeros(-waiting % self.codec.hop)))
        self.__init__(self.codec)
        return last

    @torch.no_grad()
    def _take(self, frames: Tensor) -> Tensor:
        rows = torch.cat([self.rows, log_mel(magnitude(frames))])
        n = len(rows) // STACK
        self.rows = rows[n * STACK :]
        return self.codec.pca(rows[: n * STACK].reshape(n, STACK * MELS))


class MelPlayer:
    """Decodes a stream of frames; its sound is `latency_samples` late, which the first push leaves out."""

    def __init__(self, codec: MelCodec) -> None:
        self.codec, self.stream, self.skip = codec, VocoderStream(codec.vocoder), codec.latency_samples

    @torch.no_grad()
    def push(self, z: Tensor) -> Tensor:
        """Return the samples that frames [n, dim] complete."""
        return self._give(self.stream.push(self.codec.mels(z)))

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Return the samples that are still to come; the stream begins anew."""
        last = self._give(self.stream.flush())
        self.__init__(self.codec)
        return last

    def copy(self) -> MelPlayer:
        """Return an independent copy."""
        out = MelPlayer(self.codec)
        out.stream, out.skip = self.stream.copy(), self.skip
        return out

    def _give(self, audio: Tensor) -> Tensor:
        cut = min(self.skip, len(audio))
        self.skip -= cut
        return limit(audio[cut:])
