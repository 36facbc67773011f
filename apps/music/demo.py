"""The app's main job on the embedded songs, as sections of a page: a sketch becomes sound, a stream goes on and on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from apps.music import audio, tunes, verbs
from apps.music.corpus import told
from apps.music.generate import MusicModel
from apps.music.metrics import f1, joins
from apps.music.roll import RollCodec
from apps.music.score import Score, write_midi
from apps.music.spectral import Framer, log_mel, magnitude
from apps.music.synth import RATE, render
from core.run.report import Frame, Link, Picture, Section, Table, Text

__all__ = ["obtain", "sections"]

SECONDS, BLOCKS = 16.0, 24


def sections(folder: Path) -> list[Section]:
    """Write sounds, pictures and scores into `folder` and return what the page shows of them."""
    folder.mkdir(parents=True, exist_ok=True)
    model = obtain(folder)
    verbs.say("demo: a sketch becomes music")
    return [_sketch(model, folder), _stream(model, folder)]


def obtain(folder: Path) -> MusicModel:
    """Train the toy recipe and return its model; a run that stands is taken up."""
    from apps import music
    from core.run.config import load_recipe
    from core.run.launch import run

    verbs.say("demo: training the toy recipe (about a minute)")
    return music.load(run("music", load_recipe("music", "toy"), folder / "model", None).folder)


def _codec(model: MusicModel) -> RollCodec:
    codec = model.net.codec
    assert isinstance(codec, RollCodec)
    return codec


def _sketch(model: MusicModel, folder: Path) -> Section:
    """Ask for the melody of a song in a key that is not its own; the rest is the model's."""
    codec = _codec(model)
    whole = tunes.arrange("joy", 77)
    melody = Score(whole.notes[whole.notes[:, 2] >= 55], bpm=whole.bpm, beats=whole.beats)
    asked = {k: v for k, v in verbs.groups(told(melody, codec)).items() if k in {"notes", "key", "tempo", "beat"}}
    asked["notes"][:, :55] = 0  # below, and of the drums, the model decides
    frames = len(asked["notes"])
    made = {"asked": model.sample(1, frames=frames, asked=asked, bpm=melody.bpm, seed=1, guidance=1.5),
            "not asked": model.sample(1, frames=frames, bpm=melody.bpm, seed=1)}  # fmt: skip
    rows, shown = [], [_play("the sketch", torch.from_numpy(render(melody)).float(), folder)]
    for name, music in made.items():
        score, sound = music.score(0), music.sound(0)
        high = score.notes[score.notes[:, 2] >= 55]
        rows.append([name, len(score.notes), len(score.hits), _notes_f1(high, melody.notes)])
        shown += [_play(name, sound, folder), _picture(name, sound, folder)]
        write_midi(score, folder / f"{name.replace(' ', '-')}.mid")
    text = (
        "A melody is asked for note by note; bass, chords and drums are left to the model. The same seed without the "
        "melody stands beside it."
    )
    table = Table(["", "notes", "hits", "F1 with the melody"], rows, "right pitch, begun within a sixteenth")
    return Section("A sketch becomes music", [Text(text), table, *shown, Link(folder / "asked.mid", "as MIDI")])


def _notes_f1(found: np.ndarray, real: np.ndarray) -> float:
    """Return the F1 of notes: a pitch is made part of the time axis."""
    return f1(*(n[:, 0] + 1000 * n[:, 2] for n in (found, real)), within=0.26)


def _stream(model: MusicModel, folder: Path) -> Section:
    """Play on, turn the tempo half way, and look at the joins."""
    verbs.say("demo: a stream")
    session = model.live(3, bpm=100.0)
    session.warmup()
    blocks = list(islice(session, BLOCKS // 2))
    hop, length = round(session.hop), session.frames
    at = np.array([b.start_sample for b in blocks[1:]])
    found = joins(torch.cat([b.audio for b in blocks]), at, hop)
    session.ask(bpm=132.0)
    blocks += list(islice(session, BLOCKS - len(blocks)))
    sound = torch.cat([b.audio for b in blocks])
    spent = [b.compute_ms for b in blocks]
    rows = [["blocks", len(blocks)], ["frames in a block (beats)", length], ["seconds", len(sound) / RATE],
            ["milliseconds to make a block, median", float(np.median(spent))], ["and the slowest", max(spent)],
            ["a block lasts, at 100 and 132 bpm", f"{blocks[0].deadline_ms:.0f}, {blocks[-1].deadline_ms:.0f} ms"],
            ["spectral flux at joins, z", found["flux_z"]], ["sample step at joins, z", found["step_z"]]]  # fmt: skip
    text = "Blocks are made one after the other while the music plays; half way the tempo is turned up."
    return Section("A stream without end", [
        Text(text), Table(["figure", "value"], rows), _play("stream", sound, folder),
        _picture("stream", sound, folder),
    ])  # fmt: skip


def _play(name: str, sound: Tensor, folder: Path) -> Frame:
    """Write a sound and a page with its player."""
    stem = name.replace(" ", "-")
    audio.write(folder / f"{stem}.ogg", sound * 0.8)
    page = folder / f"{stem}.html"
    page.write_text(f'<!doctype html><title>{name}</title><p>{name}</p><audio controls src="{stem}.ogg"></audio>\n')
    return Frame(page, name)


def _picture(name: str, sound: Tensor, folder: Path) -> Picture:
    """Draw a spectrogram."""
    mel = log_mel(magnitude(Framer().push(sound[: int(SECONDS * RATE)]))).numpy().T
    chart = Figure(figsize=(9, 2.6), layout="constrained")
    axes = chart.subplots()
    axes.imshow(mel, origin="lower", aspect="auto", extent=(0, mel.shape[1] / 62.5, 0, len(mel)), cmap="magma")
    axes.set(title=name, xlabel="seconds", ylabel="mel band")
    path = folder / f"{name.replace(' ', '-')}.png"
    chart.savefig(path, dpi=110)
    return Picture(path, f"{name}: what is heard, low to high.")
