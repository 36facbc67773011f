"""The app's main job on the embedded songs, as sections of a page: a sketch becomes sound, a stream goes on and on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from apps.music import audio, constraints, tunes, verbs
from apps.music.corpus import told
from apps.music.generate import MusicModel
from apps.music.metrics import f1, joins
from apps.music.roll import RollCodec
from apps.music.score import DRUMS, Score, write_midi
from apps.music.spectral import Framer, log_mel, magnitude
from apps.music.synth import RATE, render
from core.run.report import Commands, Link, Picture, Section, Sound, Table, Text

__all__ = ["obtain", "sections"]

SECONDS, BLOCKS = 16.0, 24
RULED = 12
COMMANDS = (
    "quintet music train toy --out out/demo/music/model",
    "quintet music sketch runs/music/toy out/demo/music/sketch.mid --guidance 1.5 --seed 1 --out asked.ogg",
    f"quintet music generate runs/music/toy -n {RULED} --seconds 12 --key Dm --out pieces.mid",
    "quintet music bench runs/music/toy --blocks 50",
    "quintet music stream runs/music/toy --bpm 100 --play",
    "quintet music evaluate runs/music/toy --out card.html",
)


def sections(folder: Path) -> list[Section]:
    """Write sounds, pictures and scores into `folder` and return what the page shows of them."""
    folder.mkdir(parents=True, exist_ok=True)
    model = obtain(folder)
    verbs.say("demo: a sketch becomes music")
    parts = [_sketch(model, folder), _rules(model), _stream(model, folder)]
    return [*parts, Section("Make it again", [Commands(COMMANDS)])]


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
    write_midi(melody, folder / "sketch.mid")
    finding = f"F1 of the melody's notes: {rows[0][3]:.2f} asked for, {rows[1][3]:.2f} not asked for"
    links = [Link(folder / "asked.mid", "The music as MIDI"), Link(folder / "sketch.mid", "The sketch as MIDI")]
    return Section("A sketch becomes music", [Text(text), table, *shown, *links], finding)


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
    ], f"A block of {blocks[0].deadline_ms:.0f} ms takes {float(np.median(spent)):.0f} ms to make here, the slowest "
       f"{max(spent):.0f}")  # fmt: skip


def _rules(model: MusicModel) -> Section:
    """Forbid notes and a drum; count what free pieces do with them."""
    verbs.say("demo: rules that always hold")
    rules = (constraints.scale("D", "minor"), constraints.silence("crash"), constraints.span(40, 76))
    sets = {"free": model.sample(RULED, seconds=12.0, seed=2),
            "under rules": model.sample(RULED, seconds=12.0, seed=2, constraints=rules)}  # fmt: skip
    rows = []
    for name, music in sets.items():
        scores = [music.score(k) for k in range(RULED)]
        pitch = np.concatenate([s.notes[:, 2] for s in scores]).astype(int)
        crash = sum(int((s.hits[:, 1] == DRUMS.index("crash")).sum()) for s in scores)
        outside = int((~np.isin((pitch - 2) % 12, constraints.STEPS["minor"])).sum())
        rows.append([name, len(pitch), outside, int(((pitch < 40) | (pitch > 76)).sum()), crash])
    header = ["pieces", "notes", "outside D minor", "outside 40 to 76", "crash cymbals"]
    text = (
        f"{RULED} pieces of 12 seconds, free and under three rules: D minor only, pitches 40 to 76, no crash cymbal. "
        "What is counted are notes and hits of the scores, as they sound."
    )
    finding = f"{sum(rows[1][2:])} notes or hits break a rule, {sum(rows[0][2:])} in free pieces do"
    return Section("Rules that always hold", [Text(text), Table(header, rows)], finding)


def _play(name: str, sound: Tensor, folder: Path) -> Sound:
    """Write a sound."""
    path = folder / f"{name.replace(' ', '-')}.ogg"
    audio.write(path, sound * 0.8)
    return Sound(path, name)


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
