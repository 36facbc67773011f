"""What the commands do: load, ask, play, write. Results are returned, progress goes to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apps.music import audio, controls, data, stereo
from apps.music.attack import attacks, hear
from apps.music.codec import MelCodec
from apps.music.controls import key_number
from apps.music.corpus import told
from apps.music.generate import Music, MusicModel, restore
from apps.music.roll import RollCodec
from apps.music.score import Score, read_midi, write_midi
from apps.music.spectral import HOP
from apps.music.synth import RATE
from core.errors import DataError, UsageError
from core.run.report import Section

__all__ = [
    "bench", "checked", "codec", "demo", "evaluate", "go_on", "groups", "jam", "live", "sample", "sketch", "wishes",
]  # fmt: skip

MIDI = (".mid", ".midi")


def say(line: str) -> None:
    """Tell the user how far it is."""
    print(line, file=sys.stderr)


def load(name: str, steps: int | None = None) -> MusicModel:
    """Load a model; blocks are small, so one thread unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    model = restore(name)
    return model if steps is None else model.set(steps=steps)


def wishes(name: str, *, key: str = "", label: str = "") -> dict[str, Tensor]:
    """Return the controls that the words of the command line ask for.

    Raises:
        UsageError: no such key or style.
    """
    asked: dict[str, Tensor] = {}
    if key:
        asked["key"] = torch.eye(24)[key_number(key, "key")]
    if label:
        config = restore(name).recipe.data
        known = data.labels(config.kind, config.root) if config.kind not in data.SOUNDS else []
        if label not in known:
            raise UsageError("no such style in the training data", field="label", value=label, choices=known)
        asked["label"] = torch.eye(16)[known.index(label)]
    return asked


@dataclass(frozen=True)
class Form:
    """What is written: samples per second, and whether the notes of scores have their places in two channels."""

    rate: int = RATE
    stereo: bool = False


MONO = Form()


def checked(model: MusicModel, out: Path | None, form: Form = MONO) -> None:
    """Refuse a file that cannot be written before anything is made."""
    scores = isinstance(model.net.codec, RollCodec)
    if form.stereo and not scores:
        raise UsageError("a model of sound makes one channel; a stereo FILE keeps its own", field="stereo", value=True)
    if out is not None:
        audio.check_format(out, MIDI if scores else ())


def _level(sound: Tensor) -> float:
    return round(20 * float(torch.log10(sound.square().mean().sqrt().clamp(min=1e-6))), 2)


def sample(
    name: str, asked: Mapping[str, Tensor], *, n: int, seconds: float, seed: int, settings: Mapping[str, Any],
    out: Path | None, form: Form = MONO,
) -> dict[str, Any]:  # fmt: skip
    """Make pieces, write them and tell what they are."""
    model = load(name)
    checked(model, out, form)
    music = model.sample(n, seconds=seconds, asked=asked, seed=seed, **settings)
    written = music.write(out, form.rate, form.stereo) if out is not None else []
    sounds = list(music)
    result: dict[str, Any] = {"pieces": n, "seconds": round(len(sounds[0]) / RATE, 3)}
    result["level_db"] = [_level(s) for s in sounds]
    if isinstance(model.net.codec, RollCodec):
        scores = [music.score(k) for k in range(n)]
        result |= {"notes": [len(s.notes) for s in scores], "hits": [len(s.hits) for s in scores]}
    return result | ({"out": [str(p) for p in written]} if written else {})


def _score(file: Path) -> Score:
    """Read a score; refuse one in which nothing sounds."""
    score = read_midi(file)
    if not score.beats:
        raise DataError("holds no notes", field="midi", value=str(file))
    return score


def _read(model: MusicModel, file: Path) -> Score | Tensor:
    """Read a score, or samples [m, 1] or [m, 2]: what the model's codec can encode, or refuse it."""
    if isinstance(model.net.codec, RollCodec):
        if file.suffix.lower() not in MIDI:
            raise UsageError("a model of scores reads MIDI", field="file", value=str(file))
        return _score(file)
    if file.suffix.lower() in MIDI:
        raise UsageError("a model of sound reads WAV, FLAC or Ogg", field="file", value=str(file))
    return audio.channels(file)


def _whole(model: MusicModel, frames: Tensor) -> Tensor:
    """Return the last whole blocks, no more than the window."""
    m = model.recipe.model
    count = min(len(frames) // m.block, m.window) * m.block
    if not count:
        raise UsageError("is shorter than a block", field="file", hint=f"{m.block} frames are needed")
    return frames[len(frames) - count :]


def go_on(
    name: str, file: Path, seconds: float, seed: int, steps: int | None, out: Path | None, form: Form = MONO
) -> dict[str, Any]:
    """Continue a file; what is written is the file's end, as the codec keeps it, and what follows.

    Frames of sound end where the file does: at its beginning, not at the join, a part of one is left out.
    What follows a stereo recording stays where the recording's last second was.
    """
    model = load(name, steps)
    checked(model, out, form)
    given, codec_ = _read(model, file), model.net.codec
    bpm = given.bpm if isinstance(given, Score) else 120.0
    if isinstance(given, Tensor) and len(given) > codec_.hop:
        given = given[len(given) % int(codec_.hop) :]
    frames = codec_.encode(given if isinstance(given, Score) else given.mean(1))  # type: ignore[arg-type]
    past = _whole(model, frames)
    made = model.sample(1, seconds=seconds, past=past, bpm=bpm, seed=seed)
    joined = type(made)(torch.cat([past[None], made.frames], 1), model, bpm)
    result = {"past_frames": len(past), "new_frames": made.frames.shape[1]}
    if out is None:
        return result | {"out": []}
    if isinstance(given, Tensor) and given.shape[1] == 2:
        places = stereo.picture(given[(len(frames) - len(past)) * int(codec_.hop) :])
        audio.write(out, stereo.spread(joined.sound(0), places), form.rate)
        return result | {"out": [str(out)], "channels": 2}
    return result | {"out": [str(p) for p in joined.write(out, form.rate, form.stereo)]}


def sketch(
    name: str, file: Path, seed: int, steps: int | None, guidance: float | None, steer: float | None, out: Path | None,
    form: Form = MONO, bpm: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make music that does what a sketch does; of a stereo sketch both channels' mean is heard.

    A recording is heard in frames as long as those that are made, the last of which silence completes. The tempo is
    `bpm`, else that of a MIDI file, else 120.
    """
    model = load(name, steps)
    checked(model, out, form)
    codec_ = model.net.codec
    if file.suffix.lower() in MIDI:
        score = _score(file)
        if not isinstance(codec_, RollCodec):
            raise UsageError("a model of sound takes its sketch as sound", field="file", value=str(file))
        _playable(score, codec_, file)
        bpm = bpm or score.bpm
        asked = groups(told(replace(score, bpm=bpm), codec_))
    else:
        bpm = bpm or 120.0
        sound, hop = audio.read(file), RATE / _rate(model, bpm)
        count = max(1, int(-((HOP / 2 - len(sound)) // hop)))  # what no row of the ear is nearest to is no frame
        edges = torch.arange(count + 1) * hop
        heard = hear(torch.nn.functional.pad(sound, (0, max(0, round(count * hop) - len(sound)))))
        rise = heard.pop("rise")
        asked = controls.pool(heard, edges) | {"attack": attacks(rise, edges)}
    frames = len(next(iter(asked.values())))
    made = model.sample(1, frames=frames, asked=asked, bpm=bpm, seed=seed, guidance=guidance, steer=steer)
    written = made.write(out, form.rate, form.stereo) if out is not None else []
    return {"asked": sorted(asked), "frames": frames, "bpm": bpm, "out": [str(p) for p in written]}


def _playable(score: Score, codec_: RollCodec, file: Path) -> None:
    """Refuse a sketch that asks for no note the model has; say how many are beyond its range."""
    if not len(score.notes):
        hint = "sketch with its sound: `quintet music codec MODEL FILE --out FILE.wav` plays it"
        raise DataError("holds hits only, and notes are what is asked for", field="midi", value=str(file), hint=hint)
    beyond = int(((score.notes[:, 2] < codec_.low) | (score.notes[:, 2] >= codec_.high)).sum())
    known = f"the model plays {codec_.low} to {codec_.high - 1}" if codec_.low < codec_.high else "it plays drums only"
    if beyond == len(score.notes):
        raise DataError("holds no pitch that the model plays", field="midi", value=str(file), hint=known)
    if beyond:
        say(f"{beyond} of {len(score.notes)} notes are not played: {known}")


def groups(told_: Tensor) -> dict[str, Tensor]:
    """Return the groups that a control [F, WIDTH] asks for."""
    flags = told_[0, -len(controls.GROUPS) :]
    return {name: told_[:, controls.AT[name]] for k, name in enumerate(controls.GROUPS) if flags[k]}


def _rate(model: MusicModel, bpm: float) -> float:
    codec_ = model.net.codec
    return bpm / 60 * 4 / codec_.ticks if isinstance(codec_, RollCodec) else codec_.frame_rate


def jam(
    name: str, file: Path, seed: int, steps: int | None, steer: float | None, out: Path | None, rate: int = RATE,
    bpm: float = 120.0,
) -> dict[str, Any]:  # fmt: skip
    """Accompany a recording at `bpm` block by block; write both together, the answer in the centre of a stereo one.

    Both keep their level; where their sum exceeds what is bent (`audio.limit`), it is bent.
    When the recording ends within a block, silence follows: the last answer is to what was heard of it. On a stage the
    answer is later by `compute_ms`, the median time that a block takes to make.
    """
    model = load(name, steps)
    if out is not None:
        audio.check_format(out)
    heard = audio.channels(file)
    session = model.live(seed, bpm=bpm, **({} if steer is None else {"steer": steer}))
    session.warmup()
    lasts = session.frames * session.hop
    blocks = max(1, -int(-len(heard) // lasts))
    cuts = [round(k * lasts) for k in range(blocks + 1)]
    given = torch.nn.functional.pad(heard, (0, 0, 0, max(0, cuts[-1] - len(heard))))
    made = []
    for a, b in zip(cuts[:-1], cuts[1:], strict=True):
        session.push_audio(given[a:b].mean(1))
        made.append(session.block())
    mine = torch.cat([*(block.audio for block in made), session.player.flush()])
    both = torch.zeros(max(len(given), len(mine) + cuts[1]), heard.shape[1])
    both[: len(given)] += given
    both[cuts[1] : cuts[1] + len(mine)] += mine[:, None]  # a block is heard after the one it answers
    if out is not None:
        audio.write(out, audio.limit(both).squeeze(1), rate)
    return {"blocks": len(made), "delay_s": round(lasts / RATE, 3), "late_blocks": session.late,
            "compute_ms": round(float(np.median([block.compute_ms for block in made])), 1),
            "channels": heard.shape[1], "level_db": _level(mine)} | ({"out": str(out)} if out else {})  # fmt: skip


def live(
    name: str, asked: Mapping[str, Tensor], blocks: int, seed: int, settings: Mapping[str, Any], sound: str, play: bool
) -> None:
    """Play to a pipe or to the sound device until the listener leaves; so many `blocks` are played to their end."""
    from apps.music.pipe import device, stream

    audio.pcm(torch.zeros(1), sound)  # refuses a wrong format before anything is loaded
    model = load(name)
    session = model.live(seed, risk=0.6, **{k: v for k, v in settings.items() if v is not None})
    session.ask(**asked)
    say(f"warm-up {session.warmup():.0f} ms")
    out = sys.stdout.buffer

    def write(part: Tensor) -> None:
        out.write(audio.pcm(part, sound))
        out.flush()

    sink = device(RATE) if play else write
    report = stream(session, sink, blocks=blocks)
    if 0 < blocks == report.blocks:
        rest = session.player.flush()
        report.samples += len(rest)
        with suppress(BrokenPipeError):
            sink(rest)
    say(f"{report.blocks} blocks, {report.samples / RATE:.1f} s, slowest {report.slowest_ms:.0f} ms, "
        f"late {session.late}, saved {session.saved}")  # fmt: skip


def codec(name: str, file: Path, out: Path | None, form: Form = MONO) -> dict[str, Any]:
    """Encode and decode a file; of a stereo one the picture is kept beside the frames."""
    from apps.music.metrics import log_spectral_distance, mel_distance

    model = load(name)
    checked(model, out, form)
    given, codec_ = _read(model, file), model.net.codec
    places = stereo.picture(given) if isinstance(given, Tensor) and given.shape[1] == 2 else None
    given = given if isinstance(given, Score) else given.mean(1)
    frames = codec_.encode(given)  # type: ignore[arg-type]
    figures: dict[str, Any] = {"frames": len(frames), "dim": codec_.dim, "latency_samples": codec_.latency_samples}
    if isinstance(given, Score) and isinstance(codec_, RollCodec):
        figures["latency_samples"] = codec_.latency(given.bpm)
        back = codec_.score(frames, given.bpm)
        figures |= {"notes": len(given.notes), "notes_back": len(back.notes), "hits": len(given.hits),
                    "hits_back": len(back.hits)}  # fmt: skip
        if out is not None and out.suffix.lower() in MIDI:
            write_midi(back, out)
            return figures | {"out": str(out)}
    if isinstance(given, Score):
        made = Music(frames[None], model, given.bpm)
        sound = made.stereo(0) if form.stereo else made.sound(0)
    else:
        sound = codec_.decode(frames)
    if isinstance(codec_, MelCodec) and isinstance(given, Tensor):
        cut = sound[: len(given)]
        figures |= {"mel_db": mel_distance(given, cut), "log_spectral_db": log_spectral_distance(given, cut)}
    if places is not None:
        sound, figures["channels"] = stereo.spread(sound, places), 2
    if out is not None:
        audio.write(out, sound, form.rate)
        figures["out"] = str(out)
    return figures


def bench(name: str, blocks: int, steps: int | None) -> dict[str, Any]:
    """Time the blocks of a session."""
    model = load(name, steps)
    session = model.live(0)
    session.warmup()
    made = list(islice(session, blocks))
    spent, lasts = np.array([b.compute_ms for b in made]), made[0].deadline_ms
    quantiles = {f"p{q}_ms": float(np.percentile(spent, q)) for q in (50, 95, 99)}
    return {"blocks": blocks, "steps": made[0].steps, "block_ms": lasts, "mean_ms": float(spent.mean()), **quantiles,
            "share_of_real_time": float(spent.mean() / lasts), "late": session.late}  # fmt: skip


def evaluate(name: str, n: int, seed: int, out: Path | None) -> dict[str, Any]:
    """Judge a model on held-out music."""
    from apps.music.judge import judge

    if out is not None and out.suffix != ".html":
        raise UsageError("the report is a page", field="out", value=str(out), hint="name it FILE.html")
    figures = judge(load(name), n, seed)
    if out is not None:
        from core.run.report import Section, Table, write

        write(out, name, [Section("Music", [Table(["figure", "value"], [[k, v] for k, v in figures.items()])])])
        say(f"wrote {out}")
    return figures


def demo(folder: Path) -> list[Section]:
    """Run the app's main job on embedded data."""
    from apps.music.demo import sections

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    return sections(folder)
