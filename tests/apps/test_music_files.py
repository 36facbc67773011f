"""What leaves the app is whole: notes that overlap, rests at the end, ends and beginnings that do not click."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from apps.music import audio, pipe, tunes, verbs
from apps.music.generate import Music, MusicModel
from apps.music.model import MusicNet
from apps.music.roll import TICKS, RollCodec
from apps.music.score import Score, read_midi, write_midi
from apps.music.synth import RATE
from core.errors import DataError, UsageError
from core.run.config import load_recipe


@pytest.fixture
def model() -> MusicModel:
    torch.manual_seed(0)
    recipe = load_recipe("music", "toy", ["model.dim=16", "model.depth=1", "codec.dim=32"])
    net = MusicNet(recipe)
    net.codec.fit(tunes.collection(0, 7))  # type: ignore[operator, arg-type]
    return MusicModel(net, recipe)


def test_voices_in_unison_come_back(tmp_path: Path) -> None:
    """Write notes of one pitch that overlap, one inside the other, and at the same moment."""
    notes = [(0, 4, 60, 0.5), (1, 1, 60, 0.9), (1, 2, 60, 0.7), (2, 3, 60, 0.6), (5, 1, 60, 0.6), (0, 2, 64, 0.6)]
    score = Score(np.array(sorted(notes), float), np.array([[0, 0, 0.5], [0, 1, 0.5]]))
    write_midi(score, tmp_path / "a.mid")
    back = read_midi(tmp_path / "a.mid")
    assert np.abs(back.notes - score.notes).max() < 0.005 and np.abs(back.hits - score.hits).max() < 0.005


@pytest.mark.parametrize(("beats", "read"), [(4.0, 4.0), (7.0, 7.0), (8.0, 4.0), (300.0, 4.0)])
def test_a_rest_at_the_end_counts_up_to_a_bar(tmp_path: Path, beats: float, read: float) -> None:
    write_midi(Score(np.array([[0, 3.5, 60, 0.8]]), beats=beats), tmp_path / "a.mid")
    assert read_midi(tmp_path / "a.mid").beats == read
    write_midi(Score(beats=beats), tmp_path / "b.mid")
    assert read_midi(tmp_path / "b.mid").beats == 0  # a file without notes is none


@pytest.mark.parametrize(("channel", "start", "stop", "end", "read"), [
    (9, 15.77, 15.8, 16.0, 16), (0, 15.77, 15.8, 16.0, 16), (0, 12.0, 16.05, 16.05, 16), (0, 12.0, 16.05, 17.0, 17),
    (9, 15.9, 16.0, 16.0, 17), (0, 12.0, 16.2, 16.2, 17), (0, 0.0, 0.1, 0.1, 1),
])  # fmt: skip
def test_a_loop_lasts_as_long_as_its_track(
    tmp_path: Path, channel: int, start: float, stop: float, end: float, read: float
) -> None:
    """A late hit, or a key let go late, adds no empty beat; what the grid would lose does."""
    a, b, c = (round(480 * v) for v in (start, stop, end))
    on, off = bytes([0x90 | channel, 38, 90]), bytes([0x80 | channel, 38, 0])
    body = b"".join(
        (0x8000 | at // 128 << 8 | at % 128).to_bytes(2, "big") + event
        for at, event in ((a, on), (b - a, off), (c - b, b"\xff\x2f\0"))
    )
    head = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1, 1, 0xE0])
    (tmp_path / "a.mid").write_bytes(head + b"MTrk" + len(body).to_bytes(4, "big") + body)
    score = read_midi(tmp_path / "a.mid")
    assert score.beats == read
    rows = RollCodec(8, 1, True, 36, 84).roll(score)
    assert (rows[:, 27:][:, 1::2].max() > 0) == (channel == 0) and len(rows) == TICKS * read


EVENTS = {
    "a pitch of 200": bytes([0, 0x90, 200, 90]),
    "a velocity of 200": bytes([0, 0x99, 36, 200]),
    "data that nothing announced": bytes([0, 60, 90]),
    "a message that files have not": bytes([0, 0xF8, 0, 0]),
    "a tempo of many bytes": b"\x00\xff\x51\x04\1\1\1\1",
    "a time of many bytes": bytes([0xFF] * 200 + [0, 0x90, 60, 90]),
}


@pytest.mark.parametrize("name", EVENTS)
def test_damaged_midi_is_refused(tmp_path: Path, name: str) -> None:
    track = EVENTS[name] + b"\x00\xff\x2f\x00"
    head = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 0, 0, 1, 0, 96])
    (tmp_path / "a.mid").write_bytes(head + b"MTrk" + len(track).to_bytes(4, "big") + track)
    with pytest.raises(DataError, match="^midi: is damaged"):
        read_midi(tmp_path / "a.mid")


@pytest.mark.parametrize("shape", [(0,), (1,), (100,), (1000,), (1000, 2), (0, 2)])
def test_an_end_falls_to_silence(shape: tuple[int, ...]) -> None:
    sound = torch.ones(shape)
    found = audio.ended(sound)
    assert found.shape == sound.shape and torch.equal(found[: -audio.FALL], sound[: -audio.FALL])
    assert not found[-1:].any() and (len(found) < 2 or float(found.diff(dim=0).abs().max()) < 1.01 / (audio.FALL - 1))


def test_a_piece_does_not_click_where_it_ends(model: MusicModel) -> None:
    score = Score(np.array([[0, 1, 48, 0.7], [7, 1, 48, 0.7], [7, 1, 55, 0.7]]), beats=8)
    codec: RollCodec = model.net.codec  # type: ignore[assignment]
    codec.pca.fit(codec.roll(score).reshape(-1, codec.ticks * codec.width))
    z = codec.encode(score)
    music = Music(z[None], model, 120.0)
    for sound in (codec.decode(z), music.sound(0), music.stereo(0)):
        assert float(sound[-2 * audio.FALL : -audio.FALL].abs().max()) > 0.05
        assert not sound[-1:].any() and float(sound[-9:].abs().max()) < 0.01


def test_what_began_before_the_piece_does_not_click() -> None:
    score = Score(hits=np.array([[2 - 0.45 / TICKS, 4, 1.0]]), beats=4)
    codec = RollCodec(dim=16, ticks=8, low=36, high=36, whiten=False)
    codec.fit([score, tunes.arrange("joy", 1)])
    rows = codec.rows(codec.encode(score))[8:]  # the hit is 56 ms before the first beat
    player = codec.player()
    sound = torch.cat([player.push(codec.pca(torch.from_numpy(rows).float().reshape(1, -1))), player.flush()])
    assert len(sound) == 8 * RATE // 8 and float(sound.abs().max()) > 0.3
    assert float(sound[:1].abs()) == 0 and float(sound[:32].diff().abs().max()) < 0.05


def test_what_is_between_samples_is_bent_too() -> None:
    sound = audio.limit(2 * torch.sin(torch.arange(8000) * 2.1))  # at 44100 a peak of 1.2
    for rate in (44100, 48000):
        raw, found = audio.resampled(sound.numpy(), RATE, rate), audio.at_rate(sound, rate)
        assert np.abs(raw).max() > 1.02 and np.abs(found).max() <= 1
        assert (np.abs(found) >= 1).mean() < (np.abs(raw) >= 1).mean() / 4
    quiet = 0.5 * sound
    assert np.array_equal(audio.at_rate(quiet, 44100), audio.resampled(quiet.numpy(), RATE, 44100))
    assert np.array_equal(audio.at_rate(sound, RATE), sound.numpy())


@pytest.mark.parametrize("rate", [0, 7999, 384_000])
def test_rates_that_end_the_process_are_refused(tmp_path: Path, rate: int) -> None:
    with pytest.raises(UsageError, match=r"^rate: is no rate that is written; got \d+; 8000 to 192000"):
        audio.write(tmp_path / "a.ogg", torch.zeros(100), rate)


def test_a_stream_of_so_many_blocks_is_the_whole_piece(
    model: MusicModel, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(verbs, "restore", lambda name: model)
    verbs.live("m", {}, 2, 0, {"bpm": 100.0, "steps": 1, "guidance": None}, "f32", play=False)
    heard = np.frombuffer(capsysbinary.readouterr().out, "<f4")
    piece = model.sample(1, frames=2 * model.recipe.model.block, bpm=100.0, steps=1).sound(0)
    assert np.array_equal(heard, piece.numpy())


def test_a_machine_without_a_sound_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class PortAudioError(Exception):
        pass

    def absent(*args: Any, **options: Any) -> None:
        raise PortAudioError("Error querying device -1")

    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(OutputStream=absent, PortAudioError=PortAudioError))
    with pytest.raises(UsageError, match=r"^play: no sound device \(Error querying device -1\)"):
        pipe.device(RATE)
