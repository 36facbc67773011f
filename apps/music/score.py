"""What is written down of music: notes, drum hits, tempo; and standard MIDI files in and out.

Time is counted in beats (quarter notes), so that a score has no tempo of its own but the one it is played at. Micro-
timing is kept: a hit at beat 1.02 is late by a fiftieth of a beat.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

import numpy as np

from core.errors import DataError, UsageError
from core.run.outputs import replacing

__all__ = ["DRUMS", "Score", "read_midi", "write_midi"]

DRUMS = ("kick", "snare", "closed hat", "open hat", "low tom", "mid tom", "high tom", "crash", "ride")
"""Classes of hits, as in the Groove MIDI Dataset (Gillick et al., 2019, arXiv:1905.06118)."""

CLASSES: dict[int, int] = {
    36: 0, 35: 0, 38: 1, 40: 1, 37: 1, 42: 2, 22: 2, 44: 2, 46: 3, 26: 3, 43: 4, 58: 4, 41: 4, 47: 5, 45: 5,
    48: 6, 50: 6, 49: 7, 55: 7, 57: 7, 52: 7, 51: 8, 53: 8, 59: 8, 39: 1, 54: 2, 56: 8,
}  # fmt: skip
"""General MIDI percussion (and Roland's additions) by class."""

MIDI_OF = (36, 38, 42, 46, 43, 47, 50, 49, 51)
DRUM_CHANNEL = 9
CHANNELS = [*range(DRUM_CHANNEL), *range(DRUM_CHANNEL + 1, 16)]
"""Of notes."""
BAR = 4.0
"""Beats of silence, and more, after the last note that are no part of the music: programs end tracks anywhere."""
NEAR = 0.125
"""Half a sixteenth, in beats."""


def _empty(width: int) -> np.ndarray:
    return np.zeros((0, width))


@dataclass(frozen=True, eq=False)
class Score:
    """Notes and hits.

    Args:
        notes: [n, 4]: start, length (beats), MIDI pitch, velocity in (0, 1].
        hits: [m, 3]: start (beats), class of `DRUMS`, velocity in (0, 1].
        bpm: beats per minute.
        beats: how long it is; the last end by default.
        label: style or origin.
    """

    notes: np.ndarray = field(default_factory=lambda: _empty(4))
    hits: np.ndarray = field(default_factory=lambda: _empty(3))
    bpm: float = 120.0
    beats: float = 0.0
    label: str = ""

    def __post_init__(self) -> None:
        """Work out the length where it was not given."""
        if not self.beats:
            ends = [0.0, *(self.notes[:, 0] + self.notes[:, 1]), *(self.hits[:, 0] + 0.25)]
            object.__setattr__(self, "beats", float(np.ceil(max(ends))))

    def transpose(self, semitones: int) -> Score:
        """Return the score with its notes moved."""
        notes = self.notes.copy()
        notes[:, 2] += semitones
        return replace(self, notes=notes)

    def part(self, start: float, stop: float) -> Score:
        """Return the beats [start, stop), counted from 0; notes are cut at its ends."""
        notes, hits = self.notes.copy(), self.hits[(self.hits[:, 0] >= start) & (self.hits[:, 0] < stop)].copy()
        end = np.minimum(notes[:, 0] + notes[:, 1], stop)
        notes[:, 0] = np.maximum(notes[:, 0], start)
        notes[:, 1] = end - notes[:, 0]
        notes = notes[notes[:, 1] > 1e-9]
        notes[:, 0] -= start
        hits[:, 0] -= start
        return replace(self, notes=notes, hits=hits, beats=stop - start)


def read_midi(path: Path | str) -> Score:
    """Read a standard MIDI file of format 0 or 1; channel 10 is drums, the first tempo in time counts.

    Of several tempi at that time the last one does. A note that nothing ends lasts until the end of its track; a rest
    at the end, of less than a bar of four beats, counts, and what sounds on past the last track by less than `NEAR` is
    no beat of its own. Percussion that is none of `DRUMS` is a ride. Pedals, bends, programs and meters are not read.

    Raises:
        DataError: no such file, not a MIDI file of these formats, damaged, or a tempo that gives a beat no time.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", field="midi", value=str(path)) from None
    if data[:4] != b"MThd" or len(data) < 14:
        raise DataError("is not a standard MIDI file", field="midi", value=str(path))
    if data[9] > 1:
        raise DataError(f"is a MIDI file of format {data[9]}, not 0 or 1", field="midi", value=str(path))
    ppq = int.from_bytes(data[12:14], "big")
    if ppq & 0x8000 or ppq == 0:
        raise DataError("counts time in frames, not in beats", field="midi", value=str(path))
    notes: list[tuple[float, ...]] = []
    hits: list[tuple[float, ...]] = []
    tempo: list[tuple[int, int]] = []
    end = 0
    try:
        at = 8 + int.from_bytes(data[4:8], "big")
        while at + 8 <= len(data):
            size = int.from_bytes(data[at + 4 : at + 8], "big")
            if at + 8 + size > len(data):
                raise IndexError
            if data[at : at + 4] == b"MTrk":
                end = max(end, _track(data[at + 8 : at + 8 + size], ppq, notes, hits, tempo))
            at += 8 + size
    except IndexError:
        raise DataError("ends in the middle of an event", field="midi", value=str(path)) from None
    except ValueError:
        raise DataError("is damaged: it holds what is no event", field="midi", value=str(path)) from None
    beat = min(reversed(tempo), key=itemgetter(0), default=(0, 500_000))[1]
    if not beat:
        hint = "set a tempo in the program that wrote it"
        raise DataError("its first tempo is 0 microseconds a beat", field="midi", value=str(path), hint=hint)
    found = np.array(sorted(notes)).reshape(-1, 4), np.array(sorted(hits)).reshape(-1, 3)
    score = Score(*found, bpm=6e7 / beat, label=Path(path).stem)
    return replace(score, beats=_lasts(score, round(end / ppq))) if score.beats else score


def _lasts(score: Score, end: int) -> float:
    """Return how many beats a score lasts whose tracks end nearest to beat `end`."""
    starts = np.concatenate([score.notes[:, 0], score.hits[:, 0]])
    over = score.notes[:, :2].sum(1).max(initial=0) > end + NEAR or starts.max() >= end - NEAR
    return float(end) if end - BAR < score.beats and not over else score.beats


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of one to four bytes at `at`, and where it ends.

    Raises:
        IndexError: the data end before it.
        ValueError: it has more bytes.
    """
    value = 0
    for place in range(at, at + 4):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    raise ValueError


def _track(data: bytes, ppq: int, notes: list, hits: list, tempo: list) -> int:
    """Read a track's events into the lists and return when it ends; a tempo is its time and microseconds of a beat.

    Raises:
        IndexError: it ends in the middle of an event.
        ValueError: it holds what is no event.
    """
    at, time, running = 0, 0, 0
    sounding: dict[tuple[int, int], tuple[float, float]] = {}
    while at < len(data):
        delta, at = _number(data, at)
        time += delta
        status = running
        if data[at] >= 0x80:
            status, at = data[at], at + 1
        if status in (0xFF, 0xF0, 0xF7):
            kind = data[at] if status == 0xFF else -1
            size, at = _number(data, at + (status == 0xFF))
            if kind == 0x51:
                if size != 3:
                    raise ValueError
                tempo.append((time, int.from_bytes(data[at : at + size], "big")))
            at += size
            continue
        running = status
        kind, channel = status & 0xF0, status & 0x0F
        first, second = data[at], data[at + 1] if kind not in (0xC0, 0xD0) else 0
        if not 0x80 <= status < 0xF0 or max(first, second) >= 0x80:
            raise ValueError
        at += 1 if kind in (0xC0, 0xD0) else 2
        beat = time / ppq
        if kind in (0x80, 0x90) and channel != DRUM_CHANNEL and (channel, first) in sounding:
            start, velocity = sounding.pop((channel, first))
            notes.append((start, max(beat - start, 1 / ppq), float(first), velocity))
        if kind == 0x90 and second:
            if channel == DRUM_CHANNEL:
                hits.append((beat, float(CLASSES.get(first, 8)), second / 127))
            else:
                sounding[channel, first] = (beat, second / 127)
    for (_, pitch), (start, velocity) in sounding.items():
        notes.append((start, max(time / ppq - start, 1 / ppq), float(pitch), velocity))
    return time


def write_midi(score: Score, path: Path | str, ppq: int = 480) -> None:
    """Write a standard MIDI file of format 0, whole or not at all; its folder is made.

    Of notes of one pitch that sound together each has a channel of its own, or one would end the other.

    Raises:
        UsageError: it cannot be written, or MIDI has no number for a pitch or for the tempo.
    """
    for pitch in score.notes[:, 2]:
        if not 0 <= pitch < 128:
            raise UsageError("is not a MIDI pitch", field="pitch", value=float(pitch), hint="0 to 127")
    if not 6e7 / 0xFFFFFF <= score.bpm <= 6e7:
        raise UsageError("is no tempo that MIDI has", field="bpm", value=score.bpm, hint="3.58 to 60,000,000")
    events: list[tuple[int, int, bytes]] = []
    busy: dict[tuple[int, int], int] = {}
    for start, length, height, velocity in sorted(score.notes.tolist()):
        on, pitch = round(start * ppq), int(height)
        off = max(round((start + length) * ppq), on + 1)
        channel = next((c for c in CHANNELS if busy.get((c, pitch), on) <= on), 0)
        busy[channel, pitch] = off
        events.append((on, 1, bytes([0x90 | channel, pitch, _loud(velocity)])))
        events.append((off, 0, bytes([0x80 | channel, pitch, 0])))
    for start, kind, velocity in score.hits:
        on, pitch = round(start * ppq), MIDI_OF[int(kind)]
        events.append((on, 1, bytes([0x99, pitch, _loud(velocity)])))
        events.append((on + ppq // 8, 0, bytes([0x89, pitch, 0])))
    body, now = b"\x00\xff\x51\x03" + round(6e7 / score.bpm).to_bytes(3, "big"), 0
    for time, _, message in sorted(events):
        body, now = body + _length(max(time, 0) - now) + message, max(time, 0)
    body += _length(max(round(score.beats * ppq) - now, 0)) + b"\xff\x2f\x00"
    head = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1]) + ppq.to_bytes(2, "big")
    with replacing(path) as part:
        part.write_bytes(head + b"MTrk" + len(body).to_bytes(4, "big") + body)


def _loud(velocity: float) -> int:
    return min(127, max(1, round(velocity * 127)))


def _length(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    return bytes(reversed(out))
