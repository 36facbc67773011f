"""Steering by ear: the imagined sound is the heard one, and what is asked is followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from typer.testing import CliRunner

from apps import music
from apps.music import controls, tunes, verbs
from apps.music import steer as steer_module
from apps.music.attack import BANDS, PARTS, attacks, hear
from apps.music.cli import app
from apps.music.corpus import Corpus, when
from apps.music.follow import follow
from apps.music.forcing import ArcTask
from apps.music.generate import Music, MusicModel
from apps.music.model import MusicNet
from apps.music.pursuit import Search, pursue
from apps.music.roll import TICKS, RollCodec
from apps.music.score import Score, write_midi
from apps.music.steer import SPREAD, Steer, imagined, wishes
from apps.music.synth import RATE, render
from apps.music.task import FlowTask
from core.guide.posterior import descend
from core.nn.flow_context import FlowContext
from core.run.config import load_recipe
from core.run.launch import run

DRUMS = ["codec.low=60", "codec.high=60", "codec.ticks=1", "codec.dim=27", "model.block=16"]


def codec_of(*overrides: str) -> RollCodec:
    codec = RollCodec(27, 1, True, 60, 60, whiten=False) if not overrides else RollCodec(64, 2, False, 40, 80)
    codec.fit(tunes.collection(0, 14))
    return codec


def piece(beats: float = 8.0) -> Score:
    rng = np.random.default_rng(2)
    hits = [
        (t / 4, k, 0.4 + 0.6 * rng.random()) for t in range(int(4 * beats)) for k in range(9) if rng.random() < 0.09
    ]
    return Score(hits=np.array(hits), bpm=100.0, beats=beats)


def heard(score: Score, frames: int, ticks: int) -> dict[str, Tensor]:
    edges = torch.arange(frames + 1) * (60 / score.bpm * RATE * ticks / TICKS)
    return controls.pool(controls.listen(torch.from_numpy(render(score, float(edges[-1]) / RATE)).float()), edges)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a[:, 0].numpy(), b[:, 0].numpy())[0, 1])


def test_what_is_imagined_of_drums_is_what_is_heard() -> None:
    codec = codec_of()
    frames = codec.encode(piece())
    score = codec.score(frames, 100.0)
    real, mine = heard(score, len(frames), 1), imagined(codec, frames, 100.0)
    for name, least in (("loudness", 0.97), ("centroid", 0.9), ("onset", 0.9)):
        assert correlation(real[name], mine[name]) > least
    assert float(torch.cosine_similarity(real["chroma"], mine["chroma"], dim=1).mean()) > 0.9


def test_what_is_imagined_of_notes_is_what_is_heard() -> None:
    codec = codec_of("notes")
    score = codec.score(codec.encode(tunes.collection(0, 7)[0].part(0, 16.0)), 90.0)
    frames = codec.encode(score)
    score = codec.score(frames, 90.0)
    real, mine = heard(score, len(frames), 2), imagined(codec, frames, 90.0)
    assert correlation(real["loudness"], mine["loudness"]) > 0.8
    assert float(torch.cosine_similarity(real["chroma"], mine["chroma"], dim=1).mean()) > 0.9


def test_descent_lowers_the_misfit_of_each_row_by_itself() -> None:
    codec = codec_of("notes")
    frames = codec.encode(tunes.collection(0, 7)[0].part(0, 16.0))[:16]
    asked = {k: v for k, v in heard(codec.score(frames, 90.0), 16, 2).items() if k in ("loudness", "chroma")}
    steer = Steer(codec, asked, 90.0, None, 6, 0.1)
    start = torch.stack([0.3 * frames.roll(3, 0), 0.5 * frames])
    moved = steer(start)
    assert (steer.misfit(moved) < 0.9 * steer.misfit(start)).all()
    assert torch.equal(moved[1:], steer(start[1:]))
    assert torch.equal(descend(start, steer.misfit, 0, 0.1), start)


def test_the_search_finds_hits_that_sound_as_asked_and_keeps_what_the_model_is_sure_of() -> None:
    codec = codec_of()
    score = piece(4.0)
    wanted = codec.encode(score)
    asked = {k: v for k, v in heard(codec.score(wanted, 100.0), 16, 1).items() if k != "pitch"}
    open_ = codec.pca(torch.zeros(16, codec.width))[None]  # the model leaves everything open
    found = heard(codec.score(pursue(codec, open_, None, asked, 100.0, 0.1)[0], 100.0), 16, 1)
    assert correlation(found["loudness"], asked["loudness"]) > 0.9
    assert correlation(found["onset"], asked["onset"]) > 0.8
    kept = pursue(codec, wanted[None], None, {"loudness": torch.zeros(16, 1)}, 100.0, 1e6)
    before, after = (sorted(codec.score(z, 100.0).hits[:, :2].round(2).tolist()) for z in (wanted, kept[0]))
    assert before == after  # hits of one moment in any order


@pytest.fixture(scope="module")
def model() -> MusicModel:
    torch.manual_seed(0)
    recipe = load_recipe("music", "toy", ["data.count=14", "model.dim=16", "model.depth=1", *DRUMS])
    net = MusicNet(recipe)
    net.codec.fit(tunes.collection(0, 14))  # type: ignore[operator]
    for p in net.flow.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return MusicModel(net, recipe)


def test_steered_pieces_follow_what_unsteered_ones_do_not(model: MusicModel) -> None:
    codec = model.net.codec
    assert isinstance(codec, RollCodec)
    real = heard(codec.score(codec.encode(piece()), 100.0), 32, 1)
    asked = {k: v for k, v in real.items() if k != "pitch"}
    close = {}
    for weight in (0.0, 2.0):
        made = model.sample(1, frames=32, asked=asked, bpm=100.0, steps=2, steer=weight)
        close[weight] = correlation(heard(made.score(0), 32, 1)["loudness"], real["loudness"])
    assert close[2.0] > 0.8 > close[0.0]
    session = model.live(0, bpm=100.0, steps=2, steer=2.0)
    session.ask(**{k: v[:16] for k, v in asked.items()})
    first = session.block().frames
    again = model.sample(1, frames=32, asked=asked, bpm=100.0, steps=2, steer=2.0).frames[0, :16]
    assert torch.allclose(first, again, atol=1e-5)


@pytest.mark.parametrize("frames", [10, 26])
def test_a_piece_that_ends_within_a_block_is_steered_to_its_end(model: MusicModel, frames: int) -> None:
    codec = model.net.codec
    score = codec.score(codec.encode(piece()), 100.0).part(0, frames / TICKS)  # type: ignore[operator]
    asked = {k: v for k, v in heard(score, frames, 1).items() if k != "pitch"} | {"attack": when(score, codec)}
    away = {}
    for weight in (0.0, 2.0):
        made = model.sample(1, frames=frames, asked=asked, bpm=100.0, steps=2, steer=weight).score(0)
        away[weight] = float((heard(made, frames, 1)["loudness"] - asked["loudness"])[-10:].abs().mean())
    assert away[2.0] < away[0.0] / 3


def test_a_sketch_is_heard_in_the_frames_that_are_made(
    model: MusicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a recording that ends within a frame, whose frames would drift were they fitted to its length."""
    clicks, tick = torch.zeros(round(79.52 * RATE / 8)), RATE // 8
    clicks[4 * tick + 200 :: 8 * tick] = 1.0
    soundfile.write(str(tmp_path / "clicks.wav"), clicks.numpy(), RATE)
    asked: dict[str, Tensor] = {}

    def keep(_: MusicModel, n: int, **given: Any) -> Music:
        asked.update(given["asked"])
        return Music(torch.zeros(n, given["frames"], 27), model)

    monkeypatch.setattr(verbs, "load", lambda *_: model)
    monkeypatch.setattr(MusicModel, "sample", keep)
    verbs.sketch("m", tmp_path / "clicks.wav", 0, 1, None, None, None)
    assert len(asked["onset"]) == 80
    first = asked["attack"].unflatten(1, (PARTS, 2, BANDS))[:, 0, 0].mean(1) > 1  # in the first part of a frame
    assert first.nonzero().flatten().tolist() == list(range(4, 80, 8))


def test_recordings_and_sketches_are_played_at_the_tempo_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = MusicNet(load_recipe("music", "toy", ["data.count=7", "model.dim=16", "model.depth=1", "codec.dim=8"]))
    net.codec.fit(tunes.collection(0, 7))  # type: ignore[operator]
    played = MusicModel(net, load_recipe("music", "toy"))
    monkeypatch.setattr(verbs, "restore", lambda name: played)
    soundfile.write(str(tmp_path / "solo.wav"), torch.sin(torch.arange(6 * RATE) / 20).numpy(), RATE)
    write_midi(Score(np.array([[0, 8, 60, 0.7]]), bpm=80.0), tmp_path / "line.mid")

    def call(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, [words[0], "m", str(tmp_path / words[1]), *words[2:], "--steps", "1", "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.output.splitlines()[-1])

    jams = [call("jam", "solo.wav", *words)["delay_s"] for words in ((), ("--bpm", "80"))]
    assert jams == [2.0, 3.0]  # four beats
    assert [call("sketch", "solo.wav", *words)["frames"] for words in ((), ("--bpm", "80"))] == [12, 8]
    for words, bpm in (((), 80.0), (("--bpm", "100"), 100.0)):
        found = call("sketch", "line.mid", *words, "--out", str(tmp_path / "made.wav"))
        assert (found["bpm"], found["frames"]) == (pytest.approx(bpm), 8)
        assert soundfile.info(str(tmp_path / "made.wav")).duration == pytest.approx(8 * 60 / bpm, abs=0.01)


def test_attacks_tell_what_frames_do_not() -> None:
    """Hits late and early in turn, against the same on the grid: parts of frames tell them apart better than frames."""
    codec, late = codec_of(), np.tile([0.0, 0.3, -0.3, 0.3], 4) / 4
    aim, plain = (
        Score(np.zeros((0, 4)), np.c_[1 + np.arange(16) / 2 + shift, np.zeros(16), np.full(16, 0.8)], 90.0, beats=10.0)
        for shift in (late, 0 * late)
    )
    asked, x = {k: v for k, v in heard(aim, 40, 1).items() if k in SPREAD}, codec.encode(plain)[None]
    fine = when(aim, codec)
    rises = fine.reshape(40, PARTS, -1)[..., :BANDS].amax(1).mean(1, keepdim=True)
    assert bool((rises >= asked["onset"] - 1e-6).all()) and correlation(rises, asked["onset"]) > 0.95
    rows = {s: codec.pca.inverse(codec.encode(p)).reshape(40, -1, 3) for s, p in (("aim", aim), ("plain", plain))}
    misfit = {}
    for name, told in (("onset", asked["onset"]), ("attack", fine)):
        for piece, table in rows.items():
            search = Search(table, table[:0], {name: told}, 90.0, 1.0)
            misfit[name, piece] = float(search._misfit(search.energy[None].clamp(min=0), 0, 0, 40)[0])
    assert misfit["attack", "plain"] > 4 * misfit["attack", "aim"]
    pull = {name: misfit[name, "plain"] - misfit[name, "aim"] for name in ("attack", "onset")}
    assert pull["attack"] > 2 * pull["onset"] > 0
    found = codec.score(pursue(codec, x, None, asked | {"attack": fine}, 90.0, 1.4, 2)[0], 90.0).hits[:, 0]
    assert np.abs(np.subtract.outer(aim.hits[:, 0], found)).min(1).mean() * 60 / 90 < 0.02


def test_the_search_knows_where_in_a_row_the_block_begins() -> None:
    codec, phase = codec_of(), 300
    score = codec.score(codec.encode(piece(4.0)), 97.0)
    table = codec.pca.inverse(codec.encode(score)).reshape(16, -1, 3)
    edges = phase + torch.arange(17) * (60 / 97 / TICKS * RATE)
    sound = torch.cat([torch.zeros(phase), torch.from_numpy(render(score, 4 * 60 / 97)).float()])
    asked = {"attack": attacks(hear(sound)["rise"], edges)}

    def misfit(at: float, before: Tensor) -> float:
        search = Search(table, before, asked, 97.0, 1.0, at)
        return float(search._misfit(search.energy[None].clamp(min=0), 0, search.first, search.first + 16)[0])

    right, silent = misfit(phase, table[:0]), -torch.ones_like(table[:7])
    assert misfit(phase, silent) == pytest.approx(right, rel=0.2)  # what was before does not move the rows
    assert all(misfit((phase + k) % 512, table[:0]) > 1.5 * right for k in (128, 256, 384))


def test_models_of_notes_are_steered_by_descent() -> None:
    torch.manual_seed(0)
    small = ["data.count=14", "model.dim=16", "model.depth=1", "codec.dim=24", "codec.drums=false", "codec.ticks=2"]
    recipe = load_recipe("music", "toy", small)
    net = MusicNet(recipe)
    net.codec.fit(tunes.collection(0, 14))  # type: ignore[operator]
    for p in net.flow.parameters():
        torch.nn.init.normal_(p, std=0.1)
    for cached in (steer_module._stroke, steer_module._sums):
        cached.cache_clear()  # as in a fresh process, whose first call is made while sampling
    asked = {"loudness": torch.full((8, 1), 0.8), "chroma": 3 * torch.eye(12)[[0, 0, 0, 0, 7, 7, 7, 7]]}
    cosines = []
    for weight in (0.0, 1.0):
        made = MusicModel(net, recipe).sample(1, frames=8, asked=asked, bpm=100.0, steps=2, steer=weight)
        mine = heard(made.score(0), 8, 2)["chroma"]
        cosines.append(float(torch.cosine_similarity(mine, asked["chroma"], dim=1).mean()))
    assert cosines[1] > cosines[0] + 0.1


def test_nothing_asked_by_ear_steers_nothing(model: MusicModel) -> None:
    context = FlowContext(model.net.flow, 1)
    context.control = controls.vector({"tempo": torch.zeros(1)}, 16)[None]
    settle = follow(model.net.codec, context, 100.0, 1.0, None)
    x = torch.randn(1, 16, 27)
    assert context.project is None and torch.equal(settle(x), model.net.codec.settle(x))  # type: ignore[operator]
    assert wishes(context.control[0]) == {}
    assert set(wishes(controls.vector({"loudness": torch.ones(1)}, 16))) == {"loudness"}


def test_at_home_only_what_is_asked_for_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["data.count=7", "data.batch=64", "data.transpose=5", "data.free=0.5", "codec.dim=8", "model.dim=16"]
    cut, bounds = Corpus.cut, []

    def watched(
        self: Corpus, n: int, length: int, rng: np.random.Generator, bound: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        bounds.append(bound)
        return cut(self, n, length, rng, bound)

    monkeypatch.setattr(Corpus, "cut", watched)
    for home in (False, True):
        task = FlowTask(load_recipe("music", "toy", [*overrides, f"data.home={str(home).lower()}"]))
        control = task.batch(0, 0, 1)["control"]
        asked = control[..., controls.FLAGS :].any(1)
        asked[:, [k for k, n in enumerate(controls.GROUPS) if n in ("tempo", "beat")]] = False
        moves = bounds[-1] > 0
        assert (moves == asked.any(1).numpy()).mean() > 0.95 and 0.2 < moves.mean() < 0.8 if home else moves.all()


def test_training_goes_on_from_a_flow(tmp_path: Path) -> None:
    small = ["data.count=7", "data.batch=4", "model.dim=16", "model.depth=1", "codec.dim=8", "trainer.steps=1",
             "trainer.validate_every=0", "trainer.threads=1"]  # fmt: skip
    run("music", load_recipe("music", "toy", small), tmp_path / "a", None)
    net = FlowTask(load_recipe("music", "toy", [*small, f"start={tmp_path / 'a'}"])).module()
    first = music.load(tmp_path / "a").net
    assert all(torch.equal(a, b) for a, b in zip(net.flow.parameters(), first.flow.parameters(), strict=True))


def test_the_generator_is_held_near_its_flow(tmp_path: Path) -> None:
    small = ["data.count=7", "data.batch=4", "model.dim=16", "model.depth=1", "codec.dim=8", "trainer.steps=1",
             "trainer.validate_every=0", "trainer.threads=1"]  # fmt: skip
    run("music", load_recipe("music", "toy", small), tmp_path / "a", None)
    losses = {}
    for keep in (0, 2):
        arc = ["task=arc", f"start={tmp_path / 'a'}", "arc.blocks=2", "arc.burn=1", "arc.depth=1"]
        task = ArcTask(load_recipe("music", "toy", [*small, *arc, f"arc.keep={keep}"]))
        torch.manual_seed(0)
        net = task.module()
        losses[keep], figures = task.loss(net, task.batch(1, 0, 1), 1)
        assert ("flow" in figures) == bool(keep)
    assert torch.allclose(losses[2] - losses[0], 2 * figures["flow"], atol=1e-4)
