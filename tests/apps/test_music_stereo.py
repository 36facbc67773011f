"""Stereo: what sounds has its place, the mean of both channels is the mono sound, files keep their channels."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from apps.music import audio, spectral, stereo, tunes, verbs
from apps.music.cli import app, generate
from apps.music.codec import MelCodec
from apps.music.generate import MusicModel
from apps.music.model import MusicNet
from apps.music.score import DRUMS, Score, read_midi, write_midi
from apps.music.stream import rows
from apps.music.synth import RATE, render
from apps.music.vocoder import spectral_loss
from core.errors import DataError, UsageError
from core.run.config import load_recipe

INSIDE = slice(4096, -4096)


def source(q: float, seed: int = 0) -> torch.Tensor:
    """Return a second of noise at place q, [m, 2]."""
    x = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(seed))
    return x[:, None] * torch.tensor([1 - q, 1 + q])


def tilt(sound: torch.Tensor) -> float:
    left, right = sound.square().mean(0).sqrt()
    return float((right - left) / (right + left))


@pytest.mark.parametrize("q", [-1.0, -0.4, 0.0, 0.7])
def test_one_source_is_found_and_put_back(q: float) -> None:
    sound = source(q)
    places = stereo.picture(sound)
    assert float((places - q).abs().max()) < 1e-4
    back = stereo.spread(sound.mean(1), places)
    assert float((back - sound)[INSIDE].abs().max()) < 1e-5
    assert float((back.mean(1) - sound.mean(1)).abs().max()) < 1e-6


def test_what_is_put_aside_stays_below_full_scale() -> None:
    mono = 0.95 * torch.sin(torch.arange(RATE) / 5)
    one_side = stereo.spread(mono, torch.ones(64, stereo.BANDS))
    assert 0.95 < float(one_side.abs().max()) <= 1 and float(one_side[:, 0].abs().max()) < 1e-5
    quiet = stereo.spread(0.4 * mono, torch.ones(64, stereo.BANDS))
    assert float((quiet[:, 1] - 0.8 * mono).abs().max()) < 1e-5


def test_bands_have_their_own_places() -> None:
    t = torch.arange(RATE) / RATE
    low, high = 0.3 * torch.sin(2 * torch.pi * 200 * t), 0.2 * torch.sin(2 * torch.pi * 6000 * t)
    sound = torch.stack([1.5 * low + 0.6 * high, 0.5 * low + 1.4 * high], 1)
    assert float((stereo.spread(sound.mean(1), stereo.picture(sound)) - sound)[INSIDE].abs().max()) < 2e-3
    silent = stereo.picture(torch.zeros(RATE, 2))
    assert float(silent.abs().max()) == 0.0
    longer = torch.cat([low + high, low + high])  # stays where it was
    assert abs(tilt(stereo.spread(longer, stereo.picture(sound))[-RATE // 2 :]) - tilt(sound)) < 0.02


def test_notes_and_drums_have_their_places() -> None:
    assert len(stereo.PLACES) == len(DRUMS)
    score = tunes.arrange("joy", 3).part(0, 8.0)
    quiet = Score(score.notes * [1, 1, 1, 0.3], score.hits * [1, 1, 0.3], score.bpm, beats=8.0)
    both = stereo.panned(quiet)
    assert float((both.mean(1) - torch.from_numpy(render(quiet)).float()).abs().max()) < 1e-5
    for kind, q in ((0, 0.0), (2, 0.35), (7, -0.4)):
        assert tilt(stereo.panned(Score(hits=np.array([[0.5, kind, 0.3]]), beats=4.0))) == pytest.approx(q, abs=1e-3)
    pitches = [tilt(stereo.panned(Score(np.array([[0.5, 1.0, p, 0.3]]), beats=4.0))) for p in (40, 60, 80)]
    assert pitches[0] < -0.2 and abs(pitches[1]) < 1e-3 and pitches[2] > 0.2
    assert len(stereo.panned(Score(beats=2.0, bpm=120.0))) == 2 * RATE


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_any_rate_and_any_channels_are_read(tmp_path: Path, rate: int, count: int) -> None:
    t = np.arange(rate) / rate
    sound = np.stack([(k + 1) / 10 * np.sin(2 * np.pi * 440 * t) for k in range(count)], 1)
    soundfile.write(str(tmp_path / "a.wav"), sound, rate, subtype="FLOAT")
    mono, kept = audio.read(tmp_path / "a.wav"), audio.channels(tmp_path / "a.wav")
    assert len(mono) == RATE and kept.shape == (RATE, 2 if count == 2 else 1)
    assert torch.allclose(kept.mean(1), mono, atol=1e-6)
    level = float(mono[INSIDE].abs().max())
    assert level == pytest.approx(np.mean([(k + 1) / 10 for k in range(count)]), rel=0.01)


def test_what_is_kept_while_sampling_serves_training_too() -> None:
    spectral.window.cache_clear()
    with torch.inference_mode():
        spectral.window(512)
    made = torch.zeros(1, 8192, requires_grad=True)
    spectral_loss(made, torch.randn(1, 8192)).backward()
    assert made.grad is not None


def test_a_missing_recording_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        audio.read(tmp_path / "nosuch.wav")


@pytest.mark.parametrize("ending", audio.FORMATS)
def test_two_channels_are_written_at_any_rate(tmp_path: Path, ending: str) -> None:
    audio.write(tmp_path / f"a{ending}", source(0.5), 48000)
    found, rate = soundfile.read(str(tmp_path / f"a{ending}"))
    assert rate == 48000 and found.shape == (48000, 2)
    assert tilt(torch.from_numpy(found)) == pytest.approx(0.5, abs=0.02)


def made(*overrides: str) -> MusicModel:
    torch.manual_seed(0)
    recipe = load_recipe("music", "toy", ["data.count=7", "model.dim=16", "model.depth=1", "codec.dim=8", *overrides])
    net = MusicNet(recipe)
    if isinstance(net.codec, MelCodec):
        net.codec.fit([source(0.0).mean(1)])
    else:
        net.codec.fit(tunes.collection(0, 7))  # type: ignore[operator]
    return MusicModel(net, recipe)


def call(*words: str, code: int = 0) -> dict[str, object]:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.output.splitlines()[-1]) if not code else {}


def test_scores_are_written_in_stereo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "restore", lambda name: made())
    write_midi(replace(tunes.arrange("joy", 2), bpm=80.0), tmp_path / "joy.mid")
    soundfile.write(str(tmp_path / "solo.wav"), source(-0.6).numpy(), 44100)
    calls = {
        "generate": ["m", "--seconds", "3"],
        "sketch": ["m", str(tmp_path / "joy.mid")],
        "continue": ["m", str(tmp_path / "joy.mid"), "--seconds", "2"],
    }
    for verb, words in calls.items():
        out = tmp_path / f"{verb}.wav"
        call(verb, *words, "--steps", "1", "--rate", "44100", "--stereo", "--out", str(out))
        sound, rate = soundfile.read(str(out))
        assert rate == 44100 and sound.shape[1] == 2
        call(verb, *words, "--steps", "1", "--rate", "44100", "--out", str(out))
        assert len(soundfile.read(str(out))[0]) == len(sound)
    call("codec", "m", str(tmp_path / "joy.mid"), "--stereo", "--out", str(tmp_path / "codec.flac"))
    sound = audio.channels(tmp_path / "codec.flac")
    call("codec", "m", str(tmp_path / "joy.mid"), "--out", str(tmp_path / "mono.flac"))
    score = read_midi(tmp_path / "joy.mid")
    for name in ("codec", "mono"):  # at the tempo of the file
        lasts = soundfile.info(str(tmp_path / f"{name}.flac")).duration
        assert lasts == pytest.approx(score.beats * 60 / score.bpm, abs=0.1)
    assert sound.shape[1] == 2 and float((sound[:, 0] - sound[:, 1]).abs().max()) > 0.01
    found = call("jam", "m", str(tmp_path / "solo.wav"), "--steps", "1", "--out", str(tmp_path / "duet.wav"))
    duet = audio.channels(tmp_path / "duet.wav")
    assert found["channels"] == 2 and tilt(duet[:20000]) == pytest.approx(-0.6, abs=0.02)  # the musician alone


@pytest.mark.parametrize("level", [0.5, 1.0])
def test_a_jam_keeps_the_recordings_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: float) -> None:
    model = made()
    monkeypatch.setattr(verbs, "restore", lambda name: model)
    solo = (level * torch.sin(torch.arange(3 * RATE) / 20)).numpy()
    soundfile.write(str(tmp_path / "solo.wav"), solo, RATE, subtype="FLOAT")
    verbs.jam("m", tmp_path / "solo.wav", 0, 1, 0.0, tmp_path / "duet.wav")
    duet = audio.read(tmp_path / "duet.wav")
    alone = 2 * RATE  # a block is heard first
    assert len(duet) == 3 * alone  # of the answers nothing is missing, a block late
    assert float((duet[:alone] - audio.limit(torch.from_numpy(solo))[:alone]).abs().max()) < 1e-4
    assert float(duet.abs().max()) <= 1 and float(duet[3 * RATE :].abs().max()) > 0.01
    if level < audio.KNEE:
        assert float((duet[:alone] - torch.from_numpy(solo)[:alone]).abs().max()) < 1e-4


def test_a_recordings_picture_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("codec.kind=mel", "codec.width=8")
    monkeypatch.setattr(verbs, "restore", lambda name: model)
    soundfile.write(str(tmp_path / "a.wav"), source(0.5).repeat(4, 1).numpy(), RATE)
    call("codec", "m", str(tmp_path / "a.wav"), "--out", str(tmp_path / "b.wav"))
    call("continue", "m", str(tmp_path / "a.wav"), "--seconds", "2", "--steps", "1", "--out", str(tmp_path / "c.wav"))
    for name in "bc":
        sound = audio.channels(tmp_path / f"{name}.wav")
        assert sound.shape[1] == 2 and tilt(sound[-RATE:]) == pytest.approx(0.5, abs=0.02)
    with pytest.raises(UsageError):
        verbs.sample("m", {}, n=1, seconds=1.0, seed=0, settings={}, out=None, form=verbs.Form(stereo=True))


def test_shards_take_every_option_of_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "restore", lambda name: made())
    options = inspect.signature(generate).parameters
    assert set(inspect.signature(rows).parameters) == {*options} - {"out", "json"}
    asked = {k: v.default for k, v in options.items() if k not in {"model", "out", "json"}}
    draw = rows("m", **{**asked, "seconds": 1.0, "steps": 1, "rate": 44100, "stereo": True})
    (record,) = draw(3, 1)
    assert record["id"] == "piece_3" and record["rate"] == 44100 and record["sound"].shape == (88200, 2)
    monkeypatch.setattr(verbs, "restore", lambda name: made("codec.kind=mel", "codec.width=8"))
    with pytest.raises(UsageError, match="^stereo: "):
        rows("m", **{**asked, "stereo": True})


def test_what_follows_joins_the_end_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, heard = made("codec.kind=mel", "codec.width=8"), []
    monkeypatch.setattr(verbs, "restore", lambda name: model)
    sample = MusicModel.sample
    monkeypatch.setattr(MusicModel, "sample", lambda self, n, **k: heard.append(k["past"]) or sample(self, n, **k))
    tone = 0.5 * torch.sin(torch.arange(10 * 2048 + 700) / 20)
    soundfile.write(str(tmp_path / "a.wav"), tone.numpy(), RATE, subtype="FLOAT")
    call("continue", "m", str(tmp_path / "a.wav"), "--seconds", "1", "--steps", "1", "--out", str(tmp_path / "b.wav"))
    assert torch.allclose(heard[0], model.net.codec.encode(tone[700:])[-len(heard[0]) :], atol=1e-4)  # type: ignore[operator]


@pytest.mark.parametrize(("samples", "rate"), [(1, 8000), (300, RATE), (1, 192_000)])
def test_a_moment_of_sound_has_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, rate: int
) -> None:
    model = made("codec.kind=mel", "codec.width=8")
    monkeypatch.setattr(verbs, "restore", lambda name: model)
    soundfile.write(str(tmp_path / "a.wav"), np.full(samples, 0.5), rate)
    if rate > RATE:  # nothing of it is left
        with pytest.raises(DataError, match="holds no sound"):
            verbs.codec("m", tmp_path / "a.wav", None)
    else:
        found = verbs.codec("m", tmp_path / "a.wav", None)
        assert np.isfinite([found["mel_db"], found["log_spectral_db"]]).all()


def test_a_score_without_notes_to_play_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made()
    monkeypatch.setattr(verbs, "restore", lambda name: model)
    write_midi(Score(), tmp_path / "empty.mid")
    write_midi(Score(hits=np.array([[0, 0, 0.8]])), tmp_path / "hits.mid")
    with pytest.raises(DataError, match="^midi: holds hits only"):
        verbs.sketch("m", tmp_path / "hits.mid", 0, 1, None, None, None)
    write_midi(Score(np.array([[0, 1, 96, 0.8], [1, 1, 84, 0.8]])), tmp_path / "high.mid")
    with pytest.raises(DataError, match="^midi: holds no pitch that the model plays.*36 to 83"):
        verbs.sketch("m", tmp_path / "high.mid", 0, 1, None, None, None)
    write_midi(Score(np.array([[0, 1, 96, 0.8], [1, 1, 83, 0.8]])), tmp_path / "half.mid")
    verbs.sketch("m", tmp_path / "half.mid", 0, 1, None, None, None)
    assert "1 of 2 notes are not played: the model plays 36 to 83" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"one of \.wav, \.flac, \.ogg, \.mid"):
        verbs.checked(model, tmp_path / "a.mp3")
    for verb in ("sketch", "continue", "codec"):
        words = [verb, "m", str(tmp_path / "empty.mid"), "--out", str(tmp_path / "a.wav")]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 3 and "midi: holds no notes; got " in done.output, done.output
    assert not (tmp_path / "a.wav").exists()
