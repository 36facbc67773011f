"""Slow quantities of music: what is counted, the distance of laws, and what its gradient does."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from apps import music
from apps.music import data, slow
from apps.music.codec import MelCodec
from apps.music.forcing import ArcTask
from apps.music.metrics import block_features
from apps.music.roll import REPEAT, TICKS, RollCodec
from core.errors import UsageError
from core.noise import Stream
from core.run.config import load_recipe
from core.run.launch import run


def folded(gap: float, scale: float) -> float:
    """Return E|Z| of Z ~ N(gap, scale^2)."""
    tail = math.erfc(gap / scale / math.sqrt(2)) / 2
    return scale * math.sqrt(2 / math.pi) * math.exp(-((gap / scale) ** 2) / 2) + gap * (1 - 2 * tail)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), (0.0, 0.6), (1.0, 0.7)])
def test_energy_of_gaussians_in_closed_form(mean: float, std: float) -> None:
    known = torch.special.ndtri((torch.arange(1500, dtype=torch.float64) + 0.5) / 1500)[:, None]
    made = mean + std * known
    exact = 2 * folded(mean, math.hypot(1, std)) - folded(0, math.sqrt(2) * std) - folded(0, math.sqrt(2))
    assert float(slow.energy(made[:, None], known[:, None])) == pytest.approx(exact, abs=0.003)


def test_energy_is_without_bias_in_small_batches() -> None:
    g = torch.Generator().manual_seed(1)
    known = torch.randn(400, 1, 3, generator=g, dtype=torch.float64)
    found = [float(slow.energy(known[torch.randperm(400, generator=g)[:12]], known)) for _ in range(225)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 15


def test_energy_is_without_bias_where_the_blocks_of_a_piece_are_alike() -> None:
    g = torch.Generator().manual_seed(4)

    def pieces(count: int) -> torch.Tensor:
        shared, own = (torch.randn(count, n, 2, generator=g, dtype=torch.float64) for n in (1, 4))
        return 0.9 * shared + math.sqrt(1 - 0.81) * own

    known, found, mixed = pieces(400), [], []
    for _ in range(225):
        made = pieces(6)
        found.append(float(slow.energy(made, known)))
        mixed.append(float(slow.energy(made.reshape(24, 1, 2), known)))
    assert abs(np.mean(found)) < 4 * np.std(found) / 15
    assert np.mean(mixed) > 8 * np.std(mixed) / 15


def test_misfit_is_in_units_of_the_data_and_counts_harmony_twice() -> None:
    g = torch.Generator().manual_seed(5)
    scale = torch.tensor([3.0, 1.0, 0.5, 2.0, 0.1], dtype=torch.float64)
    known = [torch.randn(300, 2, 5, generator=g).double() * scale, torch.randn(300, 2, 14, generator=g).double()]
    moved = {k: [known[0] + scale * torch.eye(5)[k], known[1]] for k in range(5)}
    far = {k: float(slow.misfit(v, known, 0.5)) for k, v in moved.items()}
    assert abs(float(slow.misfit(known, known, 0.5))) < 0.05
    assert max(far[k] for k in range(4)) == pytest.approx(min(far[k] for k in range(4)), rel=0.1)
    assert far[4] > 2 * far[0]
    place = [known[0], known[1] + 1]
    halves = [float(slow.misfit(place, known, home)) for home in (0.0, 0.5, 1.0)]
    assert halves[2] - halves[0] == pytest.approx(2 * (halves[1] - halves[0])) and halves[1] > halves[0] + 0.5


def test_descent_restores_a_shrunken_law() -> None:
    g = torch.Generator().manual_seed(2)
    known = torch.special.ndtri((torch.arange(200, dtype=torch.float64) + 0.5) / 200)[:, None]
    law = torch.tensor([0.4, 0.5], dtype=torch.float64, requires_grad=True)  # mean and deviation; those of data: 0, 1
    optimiser = torch.optim.Adam([law], lr=0.03)
    for _ in range(150):
        made = law[0] + law[1] * torch.randn(100, 1, generator=g, dtype=torch.float64)
        optimiser.zero_grad()
        slow.energy(made[:, None], known[:, None]).backward()
        optimiser.step()
    assert law.tolist() == pytest.approx([0.0, 1.0], abs=0.12)


@pytest.fixture(scope="module")
def heard() -> tuple[RollCodec, torch.Tensor]:
    """Return a codec of notes without loss, and blurred pieces [3, 32, dim]."""
    scores = [s for s in data.scores("tunes", "", "train", 7) if s.beats >= 32][:3]
    codec = RollCodec(384, drums=False)
    codec.fit(scores)
    z = torch.stack([codec.encode(s)[:32] for s in scores])
    return codec, z + 0.1 * torch.randn(z.shape, generator=torch.Generator().manual_seed(3))


def test_what_is_counted_is_what_is_heard(heard: tuple[RollCodec, torch.Tensor]) -> None:
    codec, z = heard
    z = codec.settle(z)
    found, home = slow.quantities(codec, z, 8)
    assert found.shape == (3, 3, 5) and home.shape == (3, 3, 14)
    places = TICKS * (codec.high - codec.low)  # where a note could begin in a beat: what each of them counts
    low, high = (1 / (1 + math.exp(-slow.STEEP * (v - REPEAT))) for v in (-1, 1))
    for row, place, frames in zip(found, home, z, strict=True):
        real = block_features(codec.score(frames), 8 * codec.ticks / 4)
        count = (row[:, :2] - places * low) / (high - low)
        assert count[:, 0].numpy() == pytest.approx(real[:-1, 12], abs=0.02)
        assert count[:, 1].numpy() == pytest.approx(real[1:, 12], abs=0.02)
        a, b = real[:-1, :12], real[1:, :12]
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).clip(1e-9)
        assert row[:, 4].numpy() == pytest.approx(cosine, abs=0.1)
        each = np.bincount(np.arange(codec.low, codec.high) % 12, minlength=12)
        sure, sounding = 1 / (1 + math.exp(-slow.STEEP)), 4 * real[1:, 13:14]
        known = b * sounding * sure + (each - b * sounding) * (1 - sure)
        whole = known.sum(1, keepdims=True)
        assert place[:, :12].numpy() == pytest.approx(known / whole, abs=2e-3)
        assert place[:, 13:].numpy() == pytest.approx(8 * codec.ticks * whole, abs=0.2)
        heights, n = sounding[:, 0] * (12 * real[1:, 14] + 60 - codec.low), codec.high - codec.low
        register = (heights * sure + (n * (n - 1) / 2 - heights) * (1 - sure)) / whole[:, 0]
        assert place[:, 12].numpy() == pytest.approx(register, abs=0.02)


def test_descent_thins_out_what_is_heard(heard: tuple[RollCodec, torch.Tensor]) -> None:
    codec, z = heard
    x, onsets = z.clone().requires_grad_(), lambda v: sum(len(codec.score(f.detach()).notes) for f in v)
    first = onsets(x)
    for _ in range(60):
        (slope,) = torch.autograd.grad(slow.quantities(codec, x, 8)[0][..., :4].mean(), x)
        x = (x - 0.5 * slope / slope.abs().amax()).detach().requires_grad_()
    assert onsets(x) < 0.8 * first


def test_post_training_counts_slow_quantities_and_goes_on(tmp_path: Path) -> None:
    small = ["data.count=7", "data.batch=4", "model.dim=16", "model.depth=1", "codec.dim=8", "trainer.steps=1",
             "trainer.validate_every=0", "trainer.threads=1"]  # fmt: skip
    run("music", load_recipe("music", "toy", small), tmp_path / "a", None)
    arc = ["task=arc", "arc.blocks=2", "arc.burn=1", "arc.depth=1", "arc.alone=1", "data.batch=2"]
    losses = {}
    for weight in (0, 2):
        more = [*small, *arc, f"start={tmp_path / 'a'}", f"arc.slow={weight}"]
        task = ArcTask(load_recipe("music", "toy", more))
        torch.manual_seed(0)
        net = task.module()
        losses[weight], figures = task.loss(net, task.batch(1, 0, 1), 1)
        assert ("slow" in figures) == bool(weight)
    assert torch.allclose(losses[2] - losses[0], 2 * figures["slow"], atol=1e-3)
    rolled = {}
    for gain in (1, 3):
        task = ArcTask(load_recipe("music", "toy", [*small, *arc, f"start={tmp_path / 'a'}", f"sample.stretch={gain}"]))
        net, batch = task.module(), task.batch(1, 0, 1)
        rolled[gain] = task._roll(net, batch | {"cold": torch.tensor(True)}, Stream.of(0, 2)).detach()
    assert not torch.allclose(rolled[1], rolled[3])
    with pytest.raises(UsageError, match="two pieces"):
        ArcTask(load_recipe("music", "toy", [*more, "arc.alone=0.5"])).module()
    run("music", load_recipe("music", "toy", [*small, *arc, f"start={tmp_path / 'a'}"]), tmp_path / "b", None)
    task = ArcTask(load_recipe("music", "toy", [*small, *arc, f"start={tmp_path / 'b'}"]))
    net = task.module()
    assert torch.equal(net.state_dict()["critic.last.weight"], task.state["critic.last.weight"])
    assert torch.equal(net.chains, task.state["chains"])


@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_play_is_stretched_the_same_in_a_piece_and_live(gain: float) -> None:
    plain = music.load("toy")
    model = plain.set(stretch=gain)
    piece = model.sample(1, frames=3 * model.recipe.model.block, bpm=110, seed=4).frames
    live = model.take(3, seed=4, bpm=110)
    assert torch.allclose(piece[0], live, atol=1e-5)
    same = torch.equal(piece, plain.sample(1, frames=3 * model.recipe.model.block, bpm=110, seed=4).frames)
    assert same == (gain == 1)


def test_only_scores_are_stretched() -> None:
    with pytest.raises(UsageError, match="stretches scores"):
        slow.stretched(MelCodec(8, 16), 8, 2.0, 0.0)


def test_what_is_stretched_is_how_many_notes_are_marked(heard: tuple[RollCodec, torch.Tensor]) -> None:
    codec, z = heard
    stretch = slow.stretched(codec, 8, 2.0, 0.0)
    assert stretch is not None and slow.stretched(codec, 8, 1.0, 0.0) is None
    u = stretch.direction
    marks = codec.roll(data.scores("tunes", "", "train", 7)[0])[:, codec.hits + 1 :: 2]
    whole = codec.encode(data.scores("tunes", "", "train", 7)[0])[:8]
    rest = codec.pca.mean.reshape(codec.ticks, codec.width)[:, codec.hits + 1 :: 2].sum() * 8
    assert float((whole * u).sum() + rest) == pytest.approx(float(marks[: 8 * codec.ticks].sum()), abs=0.5)
