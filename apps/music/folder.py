"""A folder of recordings that is never in memory: windows are read from the files where they are needed.

Only the headers of the files are read at the beginning. A window of a random file (each second of the folder equally
likely) is sought, read at the file's own rate with a margin for the codec's frames and the resampler, and encoded; a
batch is a pure function of the generator it is given, so runs can be resumed and shared out as with any other data.
One file in `EVERY`, by a hash of its name, is held out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apps.music import controls
from apps.music.codec import MelCodec
from apps.music.foreign import ForeignCodec
from apps.music.spectral import HOP, SIZE
from apps.music.synth import RATE
from core.errors import DataError

__all__ = ["Library", "StreamCorpus"]

EVERY = 50
ENDINGS = {".wav", ".flac", ".ogg", ".mp3"}
MARGIN = 64
"""Samples that the resampler may need beyond a window."""


@dataclass(eq=False)
class Library:
    """The recordings below a folder, of one split.

    Args:
        root: the folder.
        split: `train`, or another name for what is held out.

    Raises:
        DataError: no such folder, or no recording in it.
    """

    root: str
    split: str = "train"
    files: list[Path] = field(default_factory=list)
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        """Read the headers."""
        import soundfile

        folder = Path(self.root)
        if not folder.is_dir():
            raise DataError("no such folder", field="data.root", value=self.root)
        lengths = []
        for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS):
            number = int.from_bytes(hashlib.sha256(str(path.relative_to(folder)).encode()).digest()[:4])
            if (number % EVERY == 0) == (self.split == "train"):
                continue
            try:
                info = soundfile.info(str(path))
            except soundfile.SoundFileError:
                continue  # one damaged file of thousands must not end a run
            self.files.append(path)
            lengths.append(info.frames / info.samplerate)
        if not self.files:
            raise DataError(f"holds no recordings for {self.split}", field="data.root", value=self.root,
                            hint=f"one in {EVERY} is held out; endings {', '.join(sorted(ENDINGS))}")  # fmt: skip
        self.seconds = np.array(lengths)

    def window(self, rng: np.random.Generator, samples: int) -> Tensor:
        """Return `samples` samples of a random place.

        Raises:
            DataError: no recording is as long, or ten places in a row cannot be read.
        """
        room = (self.seconds - (samples + 2 * MARGIN) / RATE).clip(0)
        if not room.any():
            raise DataError(f"holds no recording of {samples / RATE:.1f} s", field="data.root", value=self.root)
        for _ in range(10):
            k = int(rng.choice(len(room), p=room / room.sum()))
            found = self.read(k, float(rng.uniform(0, room[k])), samples)
            if found is not None:
                return found
        raise DataError("ten places in a row cannot be read", field="data.root", value=str(self.files[k]))

    def read(self, k: int, start: float, samples: int) -> Tensor | None:
        """Return `samples` mono samples at `RATE` of file k from `start` seconds, None where it cannot be decoded."""
        import soundfile
        import soxr

        try:
            with soundfile.SoundFile(str(self.files[k])) as file:
                rate = file.samplerate
                file.seek(int(start * rate))
                part = file.read(-(-(samples + MARGIN) * rate // RATE), dtype="float32", always_2d=True).mean(1)
        except (soundfile.SoundFileError, OSError):
            return None
        if rate != RATE:
            part = soxr.resample(part, rate, RATE)
        return torch.from_numpy(np.ascontiguousarray(part[:samples])).float() if len(part) >= samples else None

    def some(self, count: int, samples: int, seed: int = 0) -> list[Tensor]:
        """Return windows, always the same ones: to fit components to, or to judge by."""
        rng = np.random.default_rng([seed, 17])
        return [self.window(rng, samples) for _ in range(count)]


@dataclass(eq=False)
class StreamCorpus:
    """Frames and controls of random places of a library; the interface of `corpus.Corpus`.

    Args:
        codec: of sound, fitted.
        library: where from.
    """

    codec: MelCodec | ForeignCodec
    library: Library

    def cut(
        self, count: int, length: int, rng: np.random.Generator, transpose: int | np.ndarray = 0, step: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return frames [count, length, dim] and controls [count, length, WIDTH]; sound is not moved to other keys."""
        hop = self.codec.hop
        before = -(-(SIZE - HOP) // hop)  # frames that see the silence before the window
        edges, x, c = torch.arange(length + before + 1) * hop, [], []
        for _ in range(count):
            sound = self.library.window(rng, (length + before) * hop)
            x.append(self.codec.encode(sound)[before:])
            c.append(controls.vector(controls.pool(controls.listen(sound), edges), length + before)[before:])
        return torch.stack(x), torch.stack(c)
