"""Music that streams live: block-wise flows over frames of sound or of scores, steered while they play.

from apps import music
model = music.load("toy")
model.sample(n=4, seconds=20, seed=0).write("out/toy.wav")
for block in model.live(bpm=110): play(block.audio)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from apps.music.generate import MusicModel

__all__ = ["load"]


def load(name: str | Path, device: str = "cpu") -> MusicModel:
    """Return a trained model.

    Args:
        name: a model that ships with the package, a run's folder or a checkpoint's.
        device: where the network runs.

    Raises:
        CheckpointError: no such model, damaged, or of another app.
    """
    from apps.music.generate import restore

    return restore(name, device)
