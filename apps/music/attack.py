"""When in a frame, and where in the spectrum, sounds begin: what a frame's own features do not tell apart.

A frame of scores is a sixteenth, eight rows of the ear; a kick and a hat of one sixteenth are one onset there. In each
of `PARTS` parts of a frame and `BANDS` bands of the mel scale the attack is the largest rise and the largest level of
the log-mels M,

    a_pb = max_{rows r of part p}  ( mean_{m in band b} (M_r - M_{r-1})_m^+ ,  max(mean_{m in band b} M_rm, QUIET) ).

The network is not told of it: the search for hits is (`pursuit.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from apps.music import controls
from apps.music.controls import HEARD, Ear
from apps.music.spectral import log_mel, magnitude

__all__ = ["BANDS", "PARTS", "FineEar", "attacks", "hear", "rises"]

PARTS, BANDS = 4, 5
QUIET = -6.0
"""Levels below, -52 dB, are alike."""


def rises(mel: Tensor, before: Tensor) -> Tensor:
    """Return rises over the row before and levels of bands, [..., R, 2 BANDS], of log-mels [..., R, MELS]."""
    rise = (mel - before).clamp(min=0).unflatten(-1, (BANDS, -1)).mean(-1)
    level = mel.unflatten(-1, (BANDS, -1)).mean(-1).clamp(min=QUIET)
    return torch.cat([rise, level], -1)


@dataclass(eq=False)
class FineEar(Ear):
    """An ear that hears the bands in which sounds begin too, as `rise` [n, 2 BANDS]."""

    past: Tensor | None = None

    def flush(self) -> dict[str, Tensor]:
        """Return the last features; the stream begins anew."""
        found = super().flush()
        self.past = None
        return found

    def _hear(self, frames: Tensor) -> dict[str, Tensor]:
        mel = log_mel(magnitude(frames))
        before = torch.cat([mel[:1] if self.past is None else self.past, mel])[: len(mel)]
        self.past = mel[-1:] if len(mel) else self.past
        return super()._hear(frames) | {"rise": rises(mel, before)}


def hear(audio: Tensor) -> dict[str, Tensor]:
    """Return the features of a whole recording [m] and its `rise`, one row for every HOP samples."""
    ear = FineEar()
    parts = [ear.push(audio), ear.flush()]
    return {name: torch.cat([p[name] for p in parts]) for name in (*HEARD, "rise")}


def attacks(rise: Tensor, edges: Tensor) -> Tensor:
    """Return the attacks of frames, [F, 2 PARTS BANDS].

    Args:
        rise: rows [n, 2 BANDS] for every HOP samples, as `FineEar` hears them.
        edges: samples at which frames begin and end, [F + 1].
    """
    long = edges.double().diff()[:, None] * (torch.arange(PARTS) / PARTS)
    fine = torch.cat([(edges[:-1, None].double() + long).flatten(), edges[-1:].double()])
    return controls.pool({"onset": rise}, fine)["onset"].reshape(len(edges) - 1, -1)
