"""Recordings that stay on the disk, and loops: the same windows as from memory, and the paper's recipe on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from apps.music import audio, data, folder
from apps.music import task as tasks
from apps.music.codec import MelCodec
from apps.music.folder import Library, StreamCorpus
from apps.music.model import MusicNet
from apps.music.spectral import HOP
from apps.music.synth import RATE
from apps.music.task import make
from core.errors import DataError, UsageError
from core.run.config import load_recipe


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, rng = tmp_path_factory.mktemp("library"), np.random.default_rng(0)
    for k, rate in enumerate((RATE, 44100, 22050, 48000)):
        t = np.arange(4 * rate) / rate
        tone = 0.3 * np.sin(2 * np.pi * 220 * (k + 1) * t) + 0.02 * rng.standard_normal(len(t))
        (out / f"{k}").mkdir()
        soundfile.write(out / f"{k}" / "a.wav", np.stack([tone, 0.5 * tone], 1), rate)
    (out / "broken.ogg").write_bytes(b"not audio")
    return out


@pytest.fixture(autouse=True)
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "EVERY", 2)


def test_windows_are_what_the_files_hold(root: Path) -> None:
    train, held = Library(str(root)), Library(str(root), "valid")
    assert len(train.files) + len(held.files) == 4 and not set(train.files) & set(held.files)
    for library in (train, held):
        for k, path in enumerate(library.files):
            whole, part = audio.read(path), library.read(k, 1.5, 8000)
            assert part is not None and part.shape == (8000,)
            there = whole[round(1.5 * RATE) :][:8000]
            assert float((part - there)[200:-200].abs().max()) < 0.02  # the resampler hears no past
    a, b = (train.window(np.random.default_rng(3), 5000) for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, train.window(np.random.default_rng(4), 5000))
    with pytest.raises(DataError, match=r"of 60.0 s"):
        train.window(np.random.default_rng(0), 60 * RATE)
    with pytest.raises(DataError):
        Library(str(root / "nowhere"))
    (root / "empty").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="recordings"):
        Library(str(root / "empty"))


def test_frames_of_a_window_are_those_of_the_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(str(root))
    codec = MelCodec(dim=8, width=16)
    codec.fit(library.some(2, RATE))
    sound = library.some(1, 12 * codec.hop)[0]
    monkeypatch.setattr(library, "window", lambda rng, samples: sound[4 * codec.hop :][:samples])
    x, control = StreamCorpus(codec, library).cut(1, 6, np.random.default_rng(0))
    assert x.shape == (1, 6, 8) and control.shape[:2] == (1, 6)
    assert float((x[0] - codec.encode(sound)[5:11]).abs().max()) <= 1e-4
    assert codec.hop == 4 * HOP


@pytest.mark.parametrize("task", ["flow", "codec"])
def test_the_papers_recipe_runs_on_a_folder(root: Path, task: str) -> None:
    small = ["start=", "model.dim=32", "model.depth=2", "model.heads=2", "model.block=2", "model.window=2",
             "codec.width=16", "codec.dim=8", "data.batch=2", "trainer=cpu"]  # fmt: skip
    monkey = pytest.MonkeyPatch()
    monkey.setattr(Library, "some", lambda self, count, samples, seed=0: [self.window(np.random.default_rng(0), RATE)])
    found = make(load_recipe("music", "jamendo", [*small, f"task={task}", f"data.root={root}"]))
    net = found.module()
    loss, _ = found.loss(net, found.batch(0, 0, 1), 0)
    loss.backward()
    monkey.undo()
    assert bool(loss.isfinite())


def test_recordings_that_are_too_short_are_refused(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    soundfile.write(tmp_path / "recordings" / "a.ogg", 0.1 * np.sin(np.arange(RATE) / 9), RATE)
    small = ["codec.width=16", "codec.dim=8", "data.batch=2", f"data.root={tmp_path}"]
    task = make(load_recipe("music", "codec", small))
    with pytest.raises(DataError, match=r"^data.root: holds no recording longer than 1.0 s"):
        task.batch(0, 0, 1)


HEAD = "midi_filename,split,time_signature,bpm,style"
NONE = {
    "info.csv": ("groove", r"^groove: cannot be read \(.*No such file"),
    "x,y\n1,2\n": ("groove", r"^groove: has no column 'split'"),
    f"{HEAD}\na.mid,train,4-4,fast,rock\n": ("groove", r"^groove: cannot be read \(could not convert"),
    f"{HEAD}\na.mid,train,4-4,0,rock\n": ("groove", r"^groove: has a performance at 0 beats per minute"),
    f"{HEAD}\na.mid,train,4-4,90,rock\n": ("groove", r"^data.root: holds no groove for train"),
    f"{HEAD}\na.mid,train,4-4\n": ("groove", r"^groove: cannot be read"),
    "[1, 2]": ("chorales", r"^chorales: is no table of splits"),
    '{"train": [], "valid": []}': ("chorales", r"^data.root: holds no chorales for train"),
    '{"train": [[[60, 64], [60]]]}': ("chorales", r"^chorales: holds what is no piece"),
    '{"train": [[[60, 640]]]}': ("chorales", r"^chorales: holds what is no piece \(pitches up to 127"),
}


@pytest.mark.parametrize("text", NONE)
def test_scores_that_are_not_there_are_named(tmp_path: Path, text: str) -> None:
    kind, message = NONE[text]
    for name in ("groove", "jsb"):
        (tmp_path / name).mkdir()
    if text != "info.csv":
        (tmp_path / {"groove": "groove/info.csv", "chorales": "jsb/Jsb16thSeparated.json"}[kind]).write_text(text)
    with pytest.raises(DataError, match=message):
        data.scores(kind, str(tmp_path), "train")


def test_what_does_not_fit_together_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    small, here = ["data.count=7", "data.batch=4", "model.dim=16", "model.depth=1", "codec.dim=8"], "start=there"
    there = MusicNet(load_recipe("music", "toy", small)).state_dict()
    monkeypatch.setattr(tasks, "_started", lambda r: (dict(there), ("codec", "flow")) if r.start else ({}, ()))
    wrong = {
        ("toy", "codec.kind=mel"): "^data.kind: has no sound; got 'tunes'",
        ("toy", "codec.low=90"): "^codec.high: is below the lowest pitch; got 84; codec.low is 90",
        ("toy", "codec.dim=500"): "^codec.dim: is more than there is; got 500; 492 at most",
        ("toy", "codec.dim=9", here): r"^start: is a run with another codec \(pca.basis: \(492, 8\), not \(492, 9\)\)",
        ("toy", "codec.kind=mel", here): "^start: is a run with another codec",
        ("toy", "model.dim=32", here): "^start: is a run with another flow .*; set codec and model as that run did",
    }
    for (name, *words), message in wrong.items():
        with pytest.raises(UsageError, match=message):
            make(load_recipe("music", name, [*small, *words])).module()
    task = make(load_recipe("music", "toy", [*small, here, "task=arc", "arc.depth=1", "arc.chains=4"]))
    task.state |= {"chains": torch.zeros(5, 16, 8)}  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="^start: is a run with another critic or other chains .chains: .5, 16, 8.,"):
        task.module()
    task.recipe.arc.alone = 0.0  # no chains: all rows are asked
    batch = task.batch(0, 0, 1)
    assert len(batch["x"]) == 4 and batch["rows"].shape == (0,)
    task.recipe.arc.most = 2
    with pytest.raises(UsageError, match="^arc.most: is below arc.least, 4; got 2; set arc.least=2 too"):
        task.module()
    task.recipe.arc.most, task.codec = 4, MelCodec(8, 8)  # type: ignore[union-attr]
    task.recipe.arc.slow = 1.0
    with pytest.raises(UsageError, match="^arc.slow: counts notes"):
        task.module()


def test_loops_are_split_and_short() -> None:
    place = Path("../shared/data/music")
    if not (place / "loops_cc0").is_dir():
        pytest.skip("no loops here")
    train, held = (data.loops(str(place), part) for part in ("train", "valid"))
    assert len(train) == 25 and len(held) == 6 and all(len(x) > RATE // 4 for x in train + held)
