"""The command line of the music app: `quintet music VERB`."""

from pathlib import Path
from typing import Annotated

import typer

from core.run.cli import Json, Out, build, emit

Model = Annotated[str, typer.Argument(help="A model that ships (toy), or the folder of a run.")]
Pieces = Annotated[int, typer.Option("-n", help="Pieces.", min=1)]
Seconds = Annotated[float, typer.Option("--seconds", help="Length of each.", min=0.1, max=86_400)]
Bpm = Annotated[float, typer.Option("--bpm", help="Beats per minute.", min=20, max=400)]
Tempo = Annotated[
    float | None,
    typer.Option("--bpm", help="Beats per minute; that of a MIDI file, or 120, by default.", min=20, max=400),
]
Key = Annotated[str, typer.Option("--key", help="C, C#, Db, ... or Cm, Bbm, ...; empty lets the model decide.")]
Label = Annotated[str, typer.Option("--label", help="A style of the training data.")]
Seed = Annotated[int, typer.Option("--seed", help="All randomness.", min=0)]
Steps = Annotated[int | None, typer.Option("--steps", help="Solver steps per block.", min=1)]
Guidance = Annotated[float | None, typer.Option("--guidance", help="Weight of what is asked; 1 obeys.", min=0)]
Steer = Annotated[
    float | None, typer.Option("--steer", help="Weight of how it is to sound against what the model would play.", min=0)
]
Rate = Annotated[int, typer.Option("--rate", help="Samples per second of --out.", min=8000, max=192_000)]
Stereo = Annotated[bool, typer.Option("--stereo", help="Two channels in --out: notes and drums have their places.")]
File = Annotated[Path, typer.Argument(help="WAV, FLAC, Ogg or MIDI.")]
Blocks = Annotated[int, typer.Option("--blocks", help="Stop after so many blocks; 0 goes on for ever.", min=0)]

EXAMPLES = {
    "generate": "generate toy --seconds 20 --bpm 110 --key D --out toy.wav",
    "sample": "sample toy --seconds 20 --out toy.wav",
    "continue": "continue toy opening.mid --seconds 20 --out whole.wav",
    "sketch": "sketch toy melody.mid --out arranged.wav",
    "jam": "jam toy solo.wav --bpm 95 --out duet.wav",
    "stream": "stream toy --bpm 120 | aplay -r 32000 -f S16_LE",
    "live": "live toy --bpm 120 | aplay -r 32000 -f S16_LE",
    "codec": "codec toy melody.mid --out again.wav",
    "bench": "bench toy --blocks 50 --json",
}

app = build(
    "music",
    summary="Music that streams live: starts at once, follows controls, goes on for ever.",
    examples=EXAMPLES,
)


@app.command("sample", hidden=True)
@app.command()
def generate(
    model: Model, n: Pieces = 1, seconds: Seconds = 10.0, bpm: Bpm = 120.0, key: Key = "", label: Label = "",
    seed: Seed = 0, steps: Steps = None, guidance: Guidance = None, out: Out = None, rate: Rate = 32_000,
    stereo: Stereo = False, json: Json = False,
) -> None:  # fmt: skip
    """Make pieces; --out FILE writes .wav, .flac, .ogg or .mid."""
    from apps.music import verbs

    wishes = verbs.wishes(model, key=key, label=label)
    settings = {"bpm": bpm, "steps": steps, "guidance": guidance}
    form = verbs.Form(rate, stereo)
    emit(verbs.sample(model, wishes, n=n, seconds=seconds, seed=seed, settings=settings, out=out, form=form), json)


@app.command("continue")
def continue_(
    model: Model, file: File, seconds: Seconds = 10.0, seed: Seed = 0, steps: Steps = None, out: Out = None,
    rate: Rate = 32_000, stereo: Stereo = False, json: Json = False,
) -> None:  # fmt: skip
    """Go on from a file: MIDI for models of scores, sound for models of sound."""
    from apps.music import verbs

    emit(verbs.go_on(model, file, seconds, seed, steps, out, verbs.Form(rate, stereo)), json)


@app.command()
def sketch(
    model: Model, file: File, seed: Seed = 0, steps: Steps = None, guidance: Guidance = None, steer: Steer = None,
    bpm: Tempo = None, out: Out = None, rate: Rate = 32_000, stereo: Stereo = False, json: Json = False,
) -> None:  # fmt: skip
    """Turn a sketch into music: the notes of a MIDI file, or what a recording does, are asked for."""
    from apps.music import verbs

    emit(verbs.sketch(model, file, seed, steps, guidance, steer, out, verbs.Form(rate, stereo), bpm), json)


@app.command()
def jam(
    model: Model, file: File, bpm: Bpm = 120.0, seed: Seed = 0, steps: Steps = None, steer: Steer = None,
    out: Out = None, rate: Rate = 32_000, json: Json = False,
) -> None:  # fmt: skip
    """Accompany a recording, hearing it as it comes in: the answer is one block late."""
    from apps.music import verbs

    emit(verbs.jam(model, file, seed, steps, steer, out, rate, bpm), json)


@app.command("live", hidden=True)
@app.command()
def stream(
    model: Model, blocks: Blocks = 0, bpm: Bpm = 120.0, key: Key = "", label: Label = "", seed: Seed = 0,
    steps: Steps = None, guidance: Guidance = None,
    sound: Annotated[str, typer.Option("--format", help="s16 or f32: raw mono samples on stdout.")] = "s16",
    play: Annotated[bool, typer.Option("--play", help="Play on the sound device instead.")] = False,
) -> None:  # fmt: skip
    """Play without end to a pipe: quintet music stream toy | aplay -r 32000 -f S16_LE."""
    from apps.music import verbs

    settings = {"bpm": bpm, "steps": steps, "guidance": guidance}
    verbs.live(model, verbs.wishes(model, key=key, label=label), blocks, seed, settings, sound, play)


@app.command()
def codec(
    model: Model, file: File, out: Out = None, rate: Rate = 32_000, stereo: Stereo = False, json: Json = False
) -> None:
    """Encode a file and decode it again: what the codec keeps of it."""
    from apps.music import verbs

    emit(verbs.codec(model, file, out, verbs.Form(rate, stereo)), json)


@app.command()
def bench(model: Model, blocks: Annotated[int, typer.Option("--blocks", min=2)] = 50, steps: Steps = None,
          json: Json = False) -> None:  # fmt: skip
    """Measure how long blocks take: mean, median, 95th and 99th percentile, and share of real time."""
    from apps.music import verbs

    emit(verbs.bench(model, blocks, steps), json)


@app.command()
def evaluate(model: Model, n: Annotated[int, typer.Option("-n", min=2)] = 16, seed: Seed = 0, out: Out = None,
             json: Json = False) -> None:  # fmt: skip
    """Judge a model on held-out music: distance beside its floor, drift, context, copies (--out FILE.html)."""
    from apps.music import verbs

    emit(verbs.evaluate(model, n, seed, out), json)
