"""Sound: whatever the pieces it comes in, the same samples; scores survive files and codecs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from apps.music import audio, constraints, controls, data, tunes
from apps.music.codec import MelCodec
from apps.music.roll import TICKS, RollCodec
from apps.music.score import Score, read_midi, write_midi
from apps.music.spectral import HOP, SIZE, log_mel, magnitude
from apps.music.synth import RATE, Synth, render
from core.errors import DataError, UsageError


def cuts(n: int, seed: int, most: int) -> list[slice]:
    rng, at, out = np.random.default_rng(seed), 0, []
    while at < n:
        step = int(rng.integers(0, most))
        out.append(slice(at, min(at + step, n)))
        at += step
    return out


@pytest.fixture(scope="module")
def sound() -> Tensor:
    return torch.from_numpy(render(tunes.arrange("joy", 3), 2.3)).float()


@pytest.fixture(scope="module")
def mel(sound: Tensor) -> MelCodec:
    torch.manual_seed(0)
    codec = MelCodec(dim=16, width=16)
    assert 0.5 < codec.fit([sound]) <= 1
    for p in codec.vocoder.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return codec


def test_the_synthesiser_knows_only_the_score() -> None:
    score = tunes.arrange("jacques", 1)
    whole = render(score, 2.0)
    synth, pieces = Synth(), []
    beat = 60 / score.bpm * RATE
    for start, length, pitch, velocity in score.notes:
        synth.released.append((int(pitch), round(start * beat), velocity, round((start + length) * beat)))
    synth.struck = [(int(k), round(s * beat), v) for s, k, v in score.hits]
    for part in cuts(len(whole), 0, 9000):
        pieces.append(synth.until(part.stop))
    assert np.abs(np.concatenate(pieces) - whole).max() <= 1e-12 and np.abs(whole).max() > 0.1


@pytest.mark.parametrize("pitch", [60, 115, 120, 127])
def test_the_highest_notes_have_no_pitch_but_their_own(pitch: int) -> None:
    sound = render(Score(np.array([[0, 1, pitch, 1.0]])), 0.5)
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    hertz = np.fft.rfftfreq(len(sound), 1 / RATE)
    f = 440 * 2 ** ((pitch - 69) / 12)
    order = hertz / f
    own = (np.abs(order - order.round()) * f < 40) & (order > 0.5)
    assert power[~own].sum() < 1e-3 * power.sum()


def test_midi_comes_back(tmp_path: Path) -> None:
    score = tunes.arrange("saints", 5)
    write_midi(score, tmp_path / "a.mid")
    back = read_midi(tmp_path / "a.mid")
    assert abs(back.bpm - score.bpm) < 1e-3 and len(back.hits) == len(score.hits)
    assert np.abs(np.sort(back.hits[:, 0]) - np.sort(score.hits[:, 0])).max() <= 1 / 480
    assert {tuple(n) for n in back.notes[:, [0, 2]].round(3)} == {tuple(n) for n in score.notes[:, [0, 2]].round(3)}
    (tmp_path / "b.mid").write_bytes((tmp_path / "a.mid").read_bytes()[:100])
    for name in ("b.mid", "c.mid"):
        with pytest.raises(DataError):
            read_midi(tmp_path / name)


def midi(path: Path, *tracks: list[tuple[int, bytes]]) -> Path:
    """Write tracks of (ticks since the last event, event), 480 ticks a beat."""
    parts = [
        b"".join((0x8000 | at // 128 << 8 | at % 128).to_bytes(2, "big") + event for at, event in t) for t in tracks
    ]
    head = b"MThd" + (6).to_bytes(4, "big") + bytes([0, 1, 0, len(tracks), 1, 0xE0])
    path.write_bytes(head + b"".join(b"MTrk" + len(p).to_bytes(4, "big") + p for p in parts))
    return path


def tempo(microseconds: int) -> bytes:
    return b"\xff\x51\x03" + microseconds.to_bytes(3, "big")


NOTE = [(0, bytes([0x90, 60, 90])), (480, bytes([0x80, 60, 0]))]


def test_the_first_tempo_in_time_counts(tmp_path: Path) -> None:
    path = midi(tmp_path / "a.mid", [(1920, tempo(250_000))], [(0, tempo(600_000)), *NOTE, (1440, tempo(0))])
    assert read_midi(path).bpm == 100.0
    assert read_midi(midi(tmp_path / "b.mid", NOTE)).bpm == 120.0
    with pytest.raises(DataError, match=r"^midi: its first tempo is 0 microseconds a beat; got '.*c\.mid'; set"):
        read_midi(midi(tmp_path / "c.mid", [(0, tempo(0)), *NOTE, (0, tempo(600_000))]))


def test_files_of_other_programs_are_read(tmp_path: Path) -> None:
    """Read notes that nothing ends, running status after a text, and two tempi at one time, as players do."""
    open_ = midi(tmp_path / "a.mid", [(0, bytes([0x90, 60, 90])), (480, bytes([0x90, 64, 90])), (480, b"\xff\x2f\x00")])
    assert read_midi(open_).notes[:, :3].tolist() == [[0, 2, 60], [1, 1, 64]]
    text = midi(tmp_path / "b.mid", [NOTE[0], (0, b"\xff\x01\x02hi"), (480, bytes([60, 0]))])
    assert read_midi(text).notes[:, :3].tolist() == [[0, 1, 60]]
    assert read_midi(midi(tmp_path / "c.mid", [(0, tempo(500_000)), (0, tempo(600_000)), *NOTE])).bpm == 100.0
    patterns = text.read_bytes().replace(b"\x00\x01\x00\x01", b"\x00\x02\x00\x01", 1)
    (tmp_path / "d.mid").write_bytes(patterns)
    with pytest.raises(DataError, match="format 2"):
        read_midi(tmp_path / "d.mid")


def test_midi_that_says_something_else_is_not_written(tmp_path: Path) -> None:
    score, path = tunes.arrange("joy", 1), tmp_path / "a.mid"
    for wrong in (score.transpose(80), score.transpose(-80), replace(score, bpm=3.0), replace(score, bpm=0.0)):
        with pytest.raises(UsageError, match="^(pitch|bpm): is no"):
            write_midi(wrong, path)
    assert not path.exists()
    write_midi(Score(np.array([[0, 1, 60, 1.2]])), path)
    assert read_midi(path).notes.tolist() == [[0, 1, 60, 1]]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, sound: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    write_midi(Score(beats=1.0), tmp_path / "new" / "a.mid")
    assert read_midi(tmp_path / "new" / "a.mid").bpm == 120.0
    before = (tmp_path / "new" / "a.mid").read_bytes()
    for name in ("a.mid", "a.wav"):
        with pytest.raises(UsageError, match="^out: cannot be written"):
            kind = tmp_path / "new" / "a.mid" / name  # in a file
            write_midi(Score(), kind) if name == "a.mid" else audio.write(kind, sound)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left"):
        write_midi(tunes.arrange("joy", 1), tmp_path / "new" / "a.mid")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.mid"]
    assert (tmp_path / "new" / "a.mid").read_bytes() == before


def test_files_come_back(tmp_path: Path, sound: Tensor) -> None:
    for ending in audio.FORMATS:
        audio.write(tmp_path / f"a{ending}", sound)
        back = audio.read(tmp_path / f"a{ending}")
        assert len(back) == len(sound) and float((back - sound).abs().mean()) < 0.01
    with pytest.raises(UsageError):
        audio.write(tmp_path / "a.mp4", sound)
    with pytest.raises(DataError):
        audio.read(tmp_path / "none.wav")
    resampler = audio.Resampler(RATE, 48000)
    parts = [resampler.push(sound[s]) for s in cuts(len(sound), 3, 5000)] + [resampler.push(sound[:0], True)]
    whole = audio.Resampler(RATE, 48000).push(sound, True)
    assert torch.equal(torch.cat(parts), whole)


def test_minutes_of_ogg_are_written(tmp_path: Path) -> None:
    """Write them in a process of their own: the encoder ended it."""
    code = f"""
import torch
from pathlib import Path
from apps.music import audio
audio.write(Path({str(tmp_path)!r}) / "long.ogg", 0.1 * torch.randn(4_000_000).clamp(-3, 3))
print(len(audio.read({str(tmp_path)!r} + "/long.ogg")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["4000000"] and done.returncode == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_ear_hears_the_same_in_pieces(sound: Tensor, seed: int) -> None:
    whole, ear = controls.listen(sound), controls.Ear()
    parts = [ear.push(sound[s]) for s in cuts(len(sound), seed, 4000)] + [ear.flush()]
    for name, rows in whole.items():
        assert float((torch.cat([p[name] for p in parts]) - rows).abs().max()) <= 1e-5, name


@pytest.mark.parametrize("seed", range(3))
def test_the_codec_gives_the_same_in_pieces(sound: Tensor, mel: MelCodec, seed: int) -> None:
    z, reader = mel.encode(sound), mel.reader()
    parts = [reader.push(sound[s]) for s in cuts(len(sound), seed, 9000)] + [reader.flush()]
    assert len(z) == -(-len(sound) // mel.hop) and float((torch.cat(parts) - z).abs().max()) <= 1e-4
    whole, player = mel.decode(z), mel.player()
    pieces = [player.push(z[s]) for s in cuts(len(z), seed, 9)] + [player.flush()]
    assert len(whole) == len(z) * mel.hop
    assert float((torch.cat(pieces) - whole).abs().max()) <= 1e-6 and float(whole.abs().max()) > 1e-3
    assert float((mel.vocoder(mel.mels(z)[None])[0] - whole).detach().abs().max()) <= 1e-6


def test_the_codec_looks_only_back(mel: MelCodec) -> None:
    z = torch.randn(12, 16)
    other = z.clone()
    other[8:] += 1
    a, b = mel.decode(z), mel.decode(other)
    assert float((a - b)[: 8 * mel.hop - mel.latency_samples].abs().max()) <= 1e-7
    assert float((a - b)[8 * mel.hop :].abs().max()) > 1e-4
    assert mel.latency_samples == SIZE - HOP


@pytest.mark.parametrize("bpm", [97.0, 120.0])
def test_a_roll_keeps_the_score(bpm: float) -> None:
    pieces = tunes.collection(0, 7)
    codec = RollCodec(dim=246, ticks=2, bpm=bpm)
    assert codec.fit(pieces) > 0.999
    score = pieces[2]
    z = codec.encode(score)
    back = codec.score(z)
    assert len(back.hits) == len(score.hits) and np.abs(back.hits - score.hits)[:, [0, 2]].max() < 0.02
    assert torch.equal(codec.roll(back)[:, codec.hits :], codec.roll(score)[:, codec.hits :])
    whole, player = codec.decode(z), codec.player()
    parts = [player.push(z[s]) for s in cuts(len(z), 1, 5)] + [player.flush()]
    assert abs(len(whole) - len(z) * codec.hop) <= len(z)
    assert float((torch.cat(parts) - whole).abs().max()) <= 1e-6
    due = Score(score.notes, score.hits, bpm, beats=score.beats)
    truth = render(due, len(whole) / RATE)
    assert np.corrcoef(whole.numpy()[:60000], truth[:60000])[0, 1] > 0.6


@pytest.mark.parametrize("tempi", [(60.0,), (120.0,), (60.0, 120.0, 60.0), (200.0, 20.0, 400.0)])
def test_early_hits_sound_the_same_in_pieces(tempi: tuple[float, ...]) -> None:
    score = Score(hits=np.array([[k - 0.45 / TICKS, 1, 0.8] for k in range(1, 12)]), beats=12)
    codec = RollCodec(dim=16, low=36, high=36, whiten=False)
    codec.fit([score, tunes.arrange("joy", 1)])
    z, count = codec.encode(score), 12 // len(tempi)
    assert codec.score(z).hits[5, 0] * TICKS % 1 == pytest.approx(0.55, abs=0.02)

    def played(size: int) -> Tensor:
        player, parts, fewer = codec.player(), [], 0
        for bpm, section in zip(tempi, z.split(count), strict=True):
            player.bpm = bpm
            parts += [player.push(part) for part in (section[:0], *section.split(size))]
            fewer = round(player.tick) - sum(map(len, parts))
            assert fewer == codec.latency(bpm)
        return torch.cat([*parts, player.flush()])

    whole, ticks = played(count), np.repeat([60 / b / TICKS * RATE for b in tempi], count * TICKS)
    assert all(torch.equal(played(size), whole) for size in (1, 2, 3)) and len(whole) == round(ticks.sum())
    hits, due = codec.score(z).hits, np.concatenate([[0], ticks.cumsum()])
    times = np.interp(hits[:, 0] * TICKS, np.arange(len(due)), due)
    truth = Synth(struck=[(int(k), round(t), v) for t, k, v in zip(times, *hits[:, 1:].T, strict=True)])
    due_sound = audio.ended(audio.limit(torch.from_numpy(truth.until(len(whole))).float()))
    assert float((whole - due_sound).abs().max()) <= 1e-6


def test_notes_alone_are_late_by_the_same_at_any_tempo() -> None:
    codec, drums = RollCodec(drums=False), RollCodec()
    assert [codec.latency(bpm) for bpm in (60.0, 120.0, 200.0)] == [2000, 2000, 2000]
    assert [drums.latency(bpm) for bpm in (60.0, 120.0, 200.0)] == [4000, 2000, 2000]


def test_a_player_copy_goes_on_alike() -> None:
    codec = RollCodec(dim=32)
    codec.fit(tunes.collection(0, 7))
    z = codec.encode(tunes.arrange("joy", 1))
    player = codec.player()
    player.push(z[:3])
    other = player.copy()
    assert torch.equal(player.push(z[3:6]), other.push(z[3:6]))


def test_features_mean_what_they_say() -> None:
    time = torch.arange(RATE) / RATE
    heard = controls.listen(0.5 * torch.sin(2 * torch.pi * 440 * time))
    steady = {k: v[10:-5].mean(0) for k, v in heard.items()}
    assert abs(float(steady["loudness"]) - (20 * np.log10(0.5 / np.sqrt(2)) + 40) / 20) < 0.01
    assert abs(float(steady["pitch"][0]) - 1) < 0.01 and float(steady["pitch"][1]) == 1
    assert int(steady["chroma"].argmax()) == 9 and float(steady["onset"]) < 0.02
    assert float(heard["onset"].max()) > 20 * float(steady["onset"])
    quiet = controls.listen(torch.zeros(RATE))
    assert float(quiet["pitch"].abs().max()) == 0 and float(quiet["loudness"].max()) == -2
    assert float((log_mel(magnitude(torch.zeros(1, SIZE))) - np.log(1e-4)).abs().max()) < 1e-5


def test_controls_say_nothing_where_nothing_is_asked() -> None:
    score = tunes.arrange("twinkle", 2)
    asked = controls.describe(score, np.arange(8.0), 1.0, 3)
    full = controls.vector(asked, 8)
    assert float(controls.vector({}, 8).abs().max()) == 0
    assert full.shape == (8, controls.WIDTH) and int((full[0, -len(controls.GROUPS) :]).sum()) == len(asked)
    note = full[:, controls.AT["notes"]]
    assert set(note.unique().tolist()) <= {-1.0, 0.5, 1.0} and float(note[0].max()) == 1.0
    rng = np.random.default_rng(0)
    some = controls.drop(full.repeat(64, 1, 1), rng, 0.5, 0.2, 4)
    flags, kept = some[..., -len(controls.GROUPS) :], some[..., controls.AT["notes"]].abs().sum(-1) > 0
    assert torch.equal(kept, flags[..., list(controls.GROUPS).index("notes")] > 0)
    assert torch.equal(flags[:, 0], flags[:, 3]) and 0.1 < float(kept.float().mean()) < 0.4
    assert torch.equal(controls.smooth(full[None], np.random.default_rng(1))[..., 3:], full[None][..., 3:])
    with pytest.raises(UsageError, match="chroma"):
        controls.vector({"croma": torch.zeros(12)}, 1)


def test_a_key_is_found() -> None:
    for name, key in (("joy", 0), ("twinkle", 0)):
        notes = tunes.read_tune(tunes.TUNES[name])
        score = Score(np.c_[notes[:, :2], notes[:, 2] + 60, np.ones(len(notes))])
        assert controls.key_of(score) == key and controls.key_of(score.transpose(3)) == 3


@pytest.mark.parametrize(("name", "number"), [("C", 0), ("Bb", 10), ("Ebm", 15), ("Cb", 11), ("B#m", 12), ("F#", 6)])
def test_keys_have_flats_too(name: str, number: int) -> None:
    assert controls.key_number(name, "key") == number
    if number < 12:
        allowed = constraints.scale(name).pitch
        assert {p for p in range(12) if allowed(p)} == {(number + step) % 12 for step in (0, 2, 4, 5, 7, 9, 11)}


@pytest.mark.parametrize("name", ["H", "b", "", "Bbb", "m", "A#mm"])
def test_what_is_no_key_is_said(name: str) -> None:
    with pytest.raises(UsageError, match="no such key"):
        controls.key_number(name, "key")


def test_real_scores(shared_data: Path) -> None:
    root = str(shared_data / "music")
    pieces = {split: data.chorales(root, split) for split in data.SPLITS}
    assert [len(pieces[s]) for s in data.SPLITS] == [229, 38, 38] and all(p.beats > 8 for p in pieces["test"])
    seen = {p.notes.tobytes() for p in pieces["valid"]}
    assert len(seen) == 38 and not any(p.notes.tobytes() in seen for p in pieces["test"])
    with pytest.raises(DataError):
        data.chorales("nowhere", "test")
