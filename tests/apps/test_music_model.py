"""The model: it learns, it goes on for ever in any portions, it can be steered, saved and driven from a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apps import music
from apps.music import controls, metrics, pipe, tunes
from apps.music.cli import app
from apps.music.corpus import corpus, moved, shifted, told
from apps.music.generate import MusicModel
from apps.music.model import MusicNet, Recipe
from apps.music.roll import RollCodec
from apps.music.score import Score, read_midi, write_midi
from apps.music.synth import RATE
from apps.music.task import make
from core.errors import UsageError
from core.run.config import load_recipe, recipes
from core.run.launch import run

SMALL = ["data.count=7", "data.batch=16", "model.dim=32", "model.depth=2", "codec.dim=8",
         "trainer.validate_every=0", "trainer.log_every=1", "trainer.threads=1"]  # fmt: skip

ALWAYS = ["data.each=0", "data.everything=0", "data.free=0"]  # all is asked for: few pieces are soon learnt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("music") / "run"
    run(
        "music",
        load_recipe("music", "toy", [*SMALL, "trainer.steps=30", "optim.warmup=3", "optim.lr=0.01", *ALWAYS]),
        out,
        None,
    )
    return out


@pytest.fixture(scope="module")
def model(folder: Path) -> MusicModel:
    return music.load(folder)


def test_it_learns(folder: Path) -> None:
    import csv

    loss = [float(row["loss"]) for row in csv.DictReader((folder / "log.csv").open())]
    assert np.mean(loss[-5:]) < 0.8 * np.mean(loss[:4])


def test_any_portions_give_the_same_samples(model: MusicModel) -> None:
    sessions = [model.live(3, bpm=133.0, steps=2) for _ in range(3)]
    whole = sessions[0].read(200_000)
    rng, parts, left = np.random.default_rng(0), [], 200_000
    while left:
        n = min(left, int(rng.integers(0, 30_000)))
        parts.append(sessions[1].read(n))
        left -= n
    assert torch.equal(torch.cat(parts), whole) and float(whole.abs().max()) > 0.01
    blocks = [b for b, _ in zip(sessions[2], range(4), strict=False)]
    assert [b.start_sample for b in blocks] == np.cumsum([0, *(len(b.audio) for b in blocks[:-1])]).tolist()
    sound = torch.cat([b.audio for b in blocks])[:200_000]
    assert torch.equal(sound, whole[: len(sound)])


def test_a_session_is_its_frames_played_at_once_when_the_tempo_changes(model: MusicModel) -> None:
    session, tempi = model.live(3, steps=1, bpm=120.0), (120.0, 60.0, 60.0, 133.0, 60.0)
    player, blocks, parts = model.net.codec.player(), [], []
    for bpm in tempi:
        session.ask(bpm=bpm)
        blocks.append(session.block())
        player.bpm = bpm  # type: ignore[union-attr]
        parts += [player.push(frame[None]) for frame in blocks[-1].frames]
    live = torch.cat([block.audio for block in blocks])
    assert [b.start_sample for b in blocks] == np.cumsum([0, *(len(b.audio) for b in blocks[:-1])]).tolist()
    assert torch.equal(torch.cat(parts), live) and len(live) == round(sum(960_000 / b * 8 for b in tempi)) - 4000


def test_a_snapshot_is_gone_back_to(model: MusicModel) -> None:
    session = model.live(1, steps=2)
    assert session.warmup() > 0 and session.number == 0
    session.block()
    state = session.snapshot()
    first = torch.cat([session.block().audio for _ in range(2)])
    session.ask(key=torch.eye(24)[5])
    session.block()
    session.restore(state)
    assert "key" not in session.asked
    assert torch.equal(torch.cat([session.block().audio for _ in range(2)]), first)


def test_a_snapshot_keeps_the_tempo(model: MusicModel) -> None:
    session = model.live(0, steps=1, bpm=110.0)
    state = session.snapshot()
    first = session.block()
    session.ask(bpm=200.0)
    session.block()
    session.restore(state)
    again = session.block()
    assert session.bpm == 110.0 and again.deadline_ms == first.deadline_ms
    assert torch.equal(again.audio, first.audio)


def test_what_is_asked_takes_effect_with_the_next_block(model: MusicModel) -> None:
    same, other = (model.live(1, steps=2) for _ in range(2))
    a, b = same.block(), other.block()
    other.ask(key=torch.eye(24)[7], loudness=[1.0])
    assert torch.equal(a.frames, b.frames) and "key" not in b.controls
    c, d = same.block(), other.block()
    assert "key" in d.controls and not torch.equal(c.frames, d.frames)
    other.ask(key=None)
    assert "key" not in other.block().controls
    with pytest.raises(UsageError, match="chroma"):
        other.ask(chrome=torch.zeros(12))
    with pytest.raises(UsageError):
        other.ask(bpm=7.0)
    other.ask(bpm=60.0)
    assert other.block().deadline_ms == 2 * a.deadline_ms


def test_what_cannot_be_asked_is_refused(model: MusicModel) -> None:
    session = model.live(0)
    for name, wrong in {"loudness": torch.zeros(3, 1), "key": "Dm", "centroid": [float("nan")], "bpm": None}.items():
        with pytest.raises(UsageError, match=f"^{name}: "):
            session.ask(**{name: wrong})
    assert set(session.asked) == {"tempo"}
    loud = np.zeros(1, np.float32)
    session.ask(loudness=loud)
    loud += 9
    assert float(session.asked["loudness"]) == 0
    with pytest.raises(UsageError, match="^asked: "):
        session.listen_to(torch.zeros(8, 8), torch.zeros(4, controls.WIDTH))
    with pytest.raises(UsageError, match="^past: takes 8 numbers a frame"):
        session.listen_to(torch.zeros(8, 9))


def test_a_glitch_of_the_sound_card_is_refused_and_not_remembered(model: MusicModel) -> None:
    session, glitch = model.live(0, steps=1), torch.zeros(2 * RATE)
    glitch[7] = torch.nan
    for wrong in (glitch, torch.zeros(2 * RATE, 2), torch.zeros(2 * RATE, dtype=torch.int16)):
        with pytest.raises(UsageError, match="^audio: "):
            session.push_audio(wrong)
    assert set(session.block().controls) == {"tempo", "beat"}
    session.push_audio(np.zeros(2 * RATE))
    assert "loudness" in session.block().controls


@pytest.mark.parametrize(
    "wrong", [{"bpm": 0.0}, {"bpm": float("nan")}, {"frames": -1}, {"seconds": float("inf")}, {"n": 0}, {"steps": 0},
              {"past": torch.zeros(5, 8)}, {"past": torch.zeros(8, 9)}, {"past": torch.full((8, 8), np.nan)},
              {"past": torch.zeros(8, 8), "past_control": torch.zeros(2, controls.WIDTH)},
              {"asked": {"loudness": torch.zeros(7, 1)}}]
)  # fmt: skip
def test_what_cannot_be_played_is_refused(model: MusicModel, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        model.sample(**{"frames": 8, **wrong})
    if "bpm" in wrong:
        with pytest.raises(UsageError, match="^bpm: "):
            model.live(**wrong)


def test_what_was_heard_before_a_warm_up_is_answered(model: MusicModel) -> None:
    sound = 0.3 * torch.sin(torch.arange(3 * RATE) / 9)
    cold, warm = model.live(0), model.live(0)
    for session in (cold, warm):
        session.push_audio(sound)
    warm.warmup()
    found = [session.block() for session in (cold, warm)]
    assert torch.equal(found[0].frames, found[1].frames) and {"loudness", "pitch"} <= set(found[1].controls)


def test_a_piece_does_not_depend_on_its_batch(model: MusicModel) -> None:
    many = model.sample(3, frames=12, seed=4, steps=2)
    one = model.sample(1, frames=12, seed=4, steps=2, index=torch.tensor([2]))
    assert float((many.frames[2] - one.frames[0]).abs().max()) <= 1e-4
    live = model.take(3, seed=4, steps=2)
    assert live.shape == (12, 8)
    assert float((live - model.sample(1, frames=12, seed=4, steps=2).frames[0]).abs().max()) <= 1e-4


class Clock:
    """Every block takes as long as it is told."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.now, self.odd = seconds, 0.0, False

    def __call__(self) -> float:
        if self.odd and self.seconds:
            self.now += self.seconds.pop(0)
        self.odd = not self.odd
        return self.now


def test_steps_are_saved_before_a_deadline_is_missed(model: MusicModel) -> None:
    clock = Clock([0.1, 1.5, 0.9, 0.1, 0.1, 9.0])
    session = model.live(0, steps=4, bpm=480 / 4, risk=0.5, clock=clock)  # a block lasts 2 s
    steps = [session.block().steps for _ in range(6)]
    assert steps == [4, 4, 2, 2, 4, 4][:2] + steps[2:] and steps[2] == 2 and steps[4] == 4
    assert session.late == 1 and session.saved == sum(s < 4 for s in steps)


def test_a_slow_listener_holds_the_producer_back(model: MusicModel) -> None:
    import time

    session, heard, depth = model.live(0, steps=1), [], []

    def sink(sound: torch.Tensor) -> None:
        heard.append(sound)
        time.sleep(0.02)
        depth.append(session.number - len(heard))

    report = pipe.stream(session, sink, blocks=6, ahead=2)
    assert report.blocks == 6 and report.samples == sum(map(len, heard)) and max(depth) <= 4
    assert torch.equal(torch.cat(heard), torch.cat([b.audio for b, _ in zip(model.live(0, steps=1), range(6),
                                                                             strict=False)]))  # fmt: skip

    def leaves(sound: torch.Tensor) -> None:
        raise BrokenPipeError

    assert pipe.stream(model.live(0, steps=1), leaves).blocks == 1


def test_playing_along_is_one_block_late(model: MusicModel) -> None:
    session = model.live(0, steps=1, bpm=133.0)  # a block is no whole number of hops
    lasts = round(session.frames * session.hop)
    sound = torch.sin(torch.arange(lasts) * (2 * torch.pi * 330 / RATE)) * 0.5
    assert "chroma" not in session.block().controls
    session.push_audio(sound)
    heard = session.block().controls
    assert heard["chroma"].shape == (session.frames, 12) and int(heard["chroma"][-1].argmax()) == 4
    for k in range(5):
        session.push_audio(sound * (0.5 if k == 4 else 1.0))
        loud = session.block().controls["loudness"][1:].mean()
        assert abs(float(loud) - (20 * np.log10(0.5 / 2**0.5 * (0.5 if k == 4 else 1)) + 40) / 20) < 0.03


def test_of_what_was_heard_the_newest_block_is_answered(model: MusicModel) -> None:
    session = model.live(0, steps=1, bpm=133.0)
    lasts = session.frames * session.hop
    tones = [torch.sin(torch.arange(round(lasts)) * (2 * torch.pi * f / RATE)) * 0.5 for f in (330, 392, 440)]
    session.push_audio(torch.cat([tones[0], tones[1], tones[2][: round(lasts / 2)]]))
    assert int(session.block().controls["chroma"][-1].argmax()) == 7  # G: what came before is late, A is half heard
    assert int(session.block().controls["chroma"][-1].argmax()) == 7
    session.push_audio(tones[2][round(lasts / 2) :])
    assert int(session.block().controls["chroma"][-1].argmax()) == 9


def test_a_key_moves_with_its_notes() -> None:
    codec = RollCodec(dim=12)
    score = tunes.arrange("joy", 1)
    score = Score(score.notes, score.hits, 120.0)
    up = told(score.transpose(2), codec)
    assert float((moved(told(score, codec), 2) - up).abs().max()) < 1e-6
    narrow = RollCodec(dim=12, low=60, high=64)
    rows = narrow.roll(score).reshape(-1, narrow.ticks * narrow.width)
    for shift in (4, -11):
        lost = shifted(rows, shift, narrow).reshape(-1, narrow.width)
        assert bool((lost[:, narrow.hits :] == -1).all())
        assert torch.equal(lost[:, : narrow.hits], narrow.roll(score)[:, : narrow.hits])


@pytest.mark.parametrize("name", [r for r in recipes("music")])
def test_recipes_fit_the_network(name: str) -> None:
    recipe: Recipe = load_recipe("music", name)
    with torch.device("meta"):
        net = MusicNet(recipe)
    size = sum(p.numel() for p in net.flow.parameters())
    if name == "jamendo":
        assert 3.2e8 < size < 3.7e8
    if name == "recordings":
        assert size > 9e6


def test_arc_starts_from_a_flow_and_teaches_both_from_one_roll_out(folder: Path, tmp_path: Path) -> None:
    short = [*SMALL, "task=arc", "arc.blocks=2", "arc.most=2", "arc.least=1", "arc.depth=1", "arc.width=8",
             "arc.chains=6", "arc.lead=1", "trainer.steps=2"]  # fmt: skip
    with pytest.raises(UsageError, match="start"):
        make(load_recipe("music", "toy", short)).module()
    recipe = load_recipe("music", "toy", [*short, f"start={folder}"])
    task = make(recipe)
    net = task.module()
    flow = music.load(folder).net.flow
    assert all(torch.equal(a, b) for a, b in zip(net.flow.parameters(), flow.parameters(), strict=True))
    for step, keep, players in ((0, 0.0, {"critic"}), (0, 1.0, {"critic", "flow"}), (1, 0.0, {"critic", "flow"})):
        net.zero_grad(set_to_none=True)
        recipe.arc.keep = keep
        task.loss(net, task.batch(step, 0, 1), step)[0].backward()
        learns = {n for n, p in net.named_parameters() if p.requires_grad and n.split(".")[0] in players}
        assert {n for n, p in net.named_parameters() if p.grad is not None} <= learns
        assert {n.split(".")[0] for n, p in net.named_parameters() if p.grad is not None} == players
    run("music", recipe, tmp_path / "arc", None)
    assert music.load(tmp_path / "arc").sample(1, frames=4, steps=1).frames.isfinite().all()


def test_chains_go_on_and_begin_anew(folder: Path) -> None:
    extra = ["task=arc", "arc.blocks=1", "arc.depth=1", "arc.width=8", "arc.chains=20", "arc.alone=0.25", "arc.lead=9"]
    task = make(load_recipe("music", "toy", [*SMALL, *extra, f"start={folder}"]))
    net = task.module()
    real, whole = task.batch(0, 0, 1), net.chains.clone()  # type: ignore[attr-defined]
    length, rows = task.recipe.model.block, real["rows"]
    assert rows.tolist() == [0, 1, 2, 3] and task.batch(3, 0, 1)["rows"].tolist() == [12, 13, 14, 15]
    task.loss(net, real | {"cold": torch.tensor(False)}, 0)
    assert torch.equal(net.chains[:4, :-length], whole[:4, length:]) and torch.equal(net.chains[4:], whole[4:])
    task.loss(net, real | {"cold": torch.tensor(True)}, 0)
    assert not bool((net.chains[:4] == whole[:4]).all(-1).any()) and torch.equal(net.chains[4:], whole[4:])
    asked = real["control"][:4]  # of chains nothing but a beat
    assert int((asked.abs().amax((0, 1)) > 0).sum()) <= 5 < int((real["control"][4:].abs().amax((0, 1)) > 0).sum())


def test_a_memory_of_scores_holds_what_is_heard() -> None:
    codec = RollCodec(dim=24, ticks=2, drums=True, low=48, high=72, whiten=False)
    pieces = [tunes.arrange(name, k) for k, name in enumerate(list(tunes.TUNES)[:4])]
    codec.fit(pieces)
    z = torch.stack([codec.encode(p)[:16] for p in pieces])
    rough = z + 0.25 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    kept = torch.cat([codec.settle(rough[:, :8]), codec.settle(rough[:, 8:], codec.settle(rough[:, :8]))], 1)
    assert float((codec.settle(rough) - kept).abs().max()) < 0.2  # lossy components: nearly the same
    wide = RollCodec(dim=codec.ticks * codec.width, ticks=2, drums=True, low=48, high=72, whiten=False)
    wide.pca.basis.copy_(torch.eye(wide.ticks * wide.width))
    exact = torch.stack([wide.encode(p)[:16] for p in pieces])
    rough = exact + 0.2 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)
    for k, piece in enumerate(wide.settle(rough)):
        heard, kept = wide.score(rough[k]), wide.score(piece)
        assert np.array_equal(heard.notes, kept.notes) and np.allclose(heard.hits, kept.hits, atol=1e-6)
        assert torch.allclose(wide.encode(heard)[1:], piece[1:], atol=1e-5)  # nothing is early at the beginning


def test_held_out_music_is_other_music(model: MusicModel) -> None:
    train, held = (corpus(model.net.codec, model.recipe, s) for s in ("train", "valid"))
    known = {p.rows.numpy().tobytes() for p in train.pieces}
    assert held.pieces and not any(p.rows.numpy().tobytes() in known for p in held.pieces)


def test_distances() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4000, 3)), rng.standard_normal((4000, 3)) * 2 + 1
    assert abs(metrics.frechet(a, b) - (3 + 3 * (1 - 2) ** 2)) < 0.4 and metrics.frechet(a, a) < 1e-9
    assert metrics.f1(np.array([0.0, 1.0, 2.0]), np.array([0.02, 1.2, 2.04])) == pytest.approx(2 / 3)
    noise = torch.randn(64, 4)
    assert metrics.loop(noise[:8].repeat(8, 1), 8) > 0.99 > 0.5 > metrics.loop(noise, 8)
    sound = torch.randn(RATE) * 0.1
    assert metrics.mel_distance(sound, sound) == 0
    assert metrics.mel_distance(sound, sound / 2) == pytest.approx(6.02, abs=0.05)


def test_joins_are_heard_where_there_are_some() -> None:
    time = torch.arange(8 * RATE) / RATE
    smooth = 0.3 * torch.sin(2 * torch.pi * 221.7 * time) * (1 + 0.1 * torch.sin(time * 3)) + 0.01 * torch.randn(
        8 * RATE
    )
    at = np.arange(8000, 8 * RATE - 8000, 8000)
    good = metrics.joins(smooth, at, 1000)
    broken = smooth.clone()
    for k, a in enumerate(at):
        broken[a:] = broken[a:] * (0.5 if k % 2 else 2.0)
    bad = metrics.joins(broken, at, 1000)
    assert abs(good["step_z"]) < 0.5 and abs(good["flux_z"]) < 0.7
    assert bad["step_z"] > 2 and bad["loudness_p95_db"] > 2


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    def call(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*words], standalone_mode=True)
        assert done.exit_code == code, done.output
        return done.output

    name = str(folder)
    found = json.loads(call("sample", name, "--seconds", "4", "--key", "C", "--steps", "1", "--out",
                            str(tmp_path / "a.wav"), "--json"))  # fmt: skip
    assert found["seconds"] >= 4 and (tmp_path / "a.wav").is_file()
    call("sample", name, "--seconds", "4", "--steps", "1", "--out", str(tmp_path / "a.mp3"), code=2)
    call("sample", name, "--key", "H", code=2)
    write_midi(tunes.arrange("joy", 2), tmp_path / "joy.mid")
    call("sketch", name, str(tmp_path / "joy.mid"), "--steps", "1", "--out", str(tmp_path / "b.mid"))
    assert read_midi(tmp_path / "b.mid").beats > 0
    call("continue", name, str(tmp_path / "joy.mid"), "--seconds", "2", "--steps", "1", "--out",
         str(tmp_path / "c.flac"))  # fmt: skip
    assert json.loads(call("jam", name, str(tmp_path / "a.wav"), "--steps", "1", "--json"))["blocks"] >= 2
    assert json.loads(call("codec", name, str(tmp_path / "joy.mid"), "--json"))["dim"] == 8
    assert json.loads(call("bench", name, "--blocks", "3", "--steps", "1", "--json"))["late"] == 0
    call("continue", name, str(tmp_path / "a.wav"), code=2)
