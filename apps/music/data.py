"""Music to learn from: recordings, chorales, drum performances, and what the package brings itself.

Splits: the drum performances keep their publishers' (train, valid, test), and so do the chorales; where their file has
no test part every second held-out piece is one (`valid` chooses, `test` judges). Recordings are cut in time, the first
80 % train and the last 20 % judge. Every reader names what is missing.

Data: Boulanger-Lewandowski et al., 2012, arXiv:1206.6392 (JSB chorales); Gillick et al., 2019, arXiv:1905.06118
(Groove); librosa's example recordings. Licences stand beside the files.
"""

from __future__ import annotations

import csv
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from apps.music.audio import read
from apps.music.score import Score, read_midi
from apps.music.tunes import STYLES, collection
from core.errors import DataError, UsageError

__all__ = ["KINDS", "SPLITS", "SOUNDS", "chorales", "groove", "labels", "loops", "recordings", "scores", "sounds"]

SPLITS = ("train", "valid", "test")
KINDS = ("tunes", "chorales", "groove", "recordings", "loops", "folder")
SOUNDS = KINDS[3:]
"""Kinds that are sound, without a score."""
TRAINS = 0.8
"""Share of each recording, from its beginning, that trains."""


def _folder(root: str, name: str) -> Path:
    folder = Path(root) / name
    if not folder.is_dir():
        raise DataError("no such folder", field="data.root", value=str(folder), hint="`quintet music data` lists sets")
    return folder


def chorales(root: str, split: str) -> list[Score]:
    """Return Bach's chorales, four voices on a grid of sixteenths; equal pitches in a row are one note."""
    path = _folder(root, "jsb") / "Jsb16thSeparated.json"
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({error})", field="chorales", value=str(path)) from None
    if not isinstance(table, dict):
        raise DataError("is no table of splits", field="chorales", value=str(path))
    if split == "test" and "test" not in table:
        pieces = table.get("valid", [])[1::2]
    elif split in table:
        pieces = table[split] if split == "train" or "test" in table else table[split][0::2]
    else:
        raise DataError(f"{path.name} has no such split", field="split", value=split, choices=table)
    try:
        return [voices(np.asarray(piece, float)) for piece in pieces]
    except (TypeError, ValueError) as error:
        raise DataError(f"holds what is no piece ({error})", field="chorales", value=str(path)) from None


def voices(pitch: np.ndarray, bpm: float = 90.0) -> Score:
    """Return the score of pitches [T, voices] per sixteenth, below 0 for silence.

    Raises:
        ValueError: they are no table of voices, or above 127.
    """
    if pitch.ndim != 2 or (pitch > 127).any():
        raise ValueError("pitches up to 127, one of each voice a sixteenth, are wanted")
    notes = []
    for voice in pitch.T:
        change = np.flatnonzero(np.diff(voice, prepend=np.nan, append=np.nan) != 0)
        for a, b in zip(change[:-1], change[1:], strict=True):
            if voice[a] >= 0:
                notes.append((a / 4, (b - a) / 4, voice[a], 0.7))
    return Score(np.array(sorted(notes), float).reshape(-1, 4), bpm=bpm, beats=len(pitch) / 4, label="chorale")


def groove(root: str, split: str) -> list[Score]:
    """Return drum performances with their tempo and style; `valid` is the publishers' `validation`."""
    folder = _folder(root, "groove")
    wanted, info = {"valid": "validation"}.get(split, split), folder / "info.csv"
    try:
        with info.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == wanted and row["time_signature"] == "4-4"]
        found = [(folder / row["midi_filename"], float(row["bpm"]), row["style"].split("/")[0]) for row in rows]
    except KeyError as error:
        raise DataError(f"has no column {error}", field="groove", value=str(info)) from None
    except (OSError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise DataError(f"cannot be read ({error})", field="groove", value=str(info)) from None
    if slow := [bpm for _, bpm, _ in found if not 0 < bpm < float("inf")]:
        raise DataError(f"has a performance at {slow[0]:g} beats per minute", field="groove", value=str(info))
    scores = [(read_midi(path), bpm, label) for path, bpm, label in found if path.is_file()]
    return [Score(score.notes, score.hits, bpm, label=label) for score, bpm, label in scores]


def loops(root: str, split: str) -> list[Tensor]:
    """Return short loops and phrases [m], one in five, by the order of their names, held out."""
    paths = sorted(_folder(root, "loops_cc0").glob("*.flac"))
    out = [read(p) for k, p in enumerate(paths) if (k % 5 == 4) == (split != "train")]
    if not out:
        raise DataError(f"holds {len(paths)} .flac files", field="data.root", value=root, hint="one in five judges")
    return out


def sounds(kind: str, root: str, split: str) -> list[Tensor]:
    """Return the sounds of a collection that fits into memory (`SOUNDS` but folder).

    Raises:
        UsageError: a collection of scores.
    """
    readers = {"recordings": recordings, "loops": loops}
    if kind not in readers:
        raise UsageError("has no sound", field="data.kind", value=kind, choices=SOUNDS)
    return readers[kind](root, split)


def recordings(root: str, split: str) -> list[Tensor]:
    """Return the parts [m] of each recording that train, or that judge (`valid` and `test` are the same)."""
    out = []
    for path in sorted(_folder(root, "recordings").glob("*.ogg")):
        audio = read(path)
        cut = int(TRAINS * len(audio))
        out.append(audio[:cut] if split == "train" else audio[cut:])
    if not out:
        raise DataError("holds no .ogg files", field="data.root", value=root)
    return out


@lru_cache(maxsize=8)
def _cached(kind: str, root: str, split: str, count: int, seed: int) -> tuple[Score, ...]:
    if kind == "tunes":
        return tuple(collection(seed, count if split == "train" else 21, split != "train"))
    readers = {"chorales": chorales, "groove": groove}
    if kind not in readers:
        raise UsageError("has no scores", field="data.kind", value=kind, choices=KINDS[:3])
    found = tuple(score for score in readers[kind](root, split) if score.beats)
    if not found:
        raise DataError(f"holds no {kind} for {split}", field="data.root", value=root)
    return found


def scores(kind: str, root: str, split: str, count: int = 84, seed: int = 0) -> list[Score]:
    """Return the scores of a collection.

    Args:
        kind: one of `KINDS` but `SOUNDS`.
        root: folder of the real data.
        split: one of `SPLITS`.
        count: how many arrangements of the embedded tunes.
        seed: of these.

    Raises:
        DataError: no such folder, a file that cannot be read, or nothing of the split in it.
        UsageError: a collection of sound.
    """
    return list(_cached(kind, root, split, count, seed))


def labels(kind: str, root: str) -> list[str]:
    """Return the styles of a collection, sorted; at most 16 are told apart."""
    if kind == "tunes":
        return list(STYLES)
    return sorted({s.label for s in scores(kind, root, "train")})[:16]
