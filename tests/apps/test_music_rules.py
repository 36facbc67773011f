"""Rules that always hold, rolls that lose nothing, and what one would do instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apps.music import constraints, tokenizer, tunes
from apps.music.baselines import Concatenative, Patchwork, Repeat
from apps.music.corpus import corpus
from apps.music.generate import MusicModel
from apps.music.model import MusicNet
from apps.music.roll import RollCodec
from core.errors import InfeasibleError, UsageError
from core.run.config import load_recipe

RULES = (constraints.scale("D", "minor"), constraints.silence("kick", "crash"), constraints.span(48, 72))


@pytest.fixture(scope="module")
def model() -> MusicModel:
    torch.manual_seed(0)
    recipe = load_recipe("music", "toy", ["data.count=14", "model.dim=16", "model.depth=1", "codec.dim=24"])
    net = MusicNet(recipe)
    net.codec.fit(tunes.collection(0, 14))  # type: ignore[operator]
    for p in net.flow.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return MusicModel(net, recipe)


def test_rules_hold_whatever_the_network_says(model: MusicModel) -> None:
    free = model.sample(4, frames=16, seed=1, steps=2)
    bound = model.sample(4, frames=16, seed=1, steps=2, constraints=RULES)
    assert any(constraints.violations(free.score(k), RULES) for k in range(4))
    for k in range(4):
        score = bound.score(k)
        assert constraints.violations(score, RULES) == [] and len(score.notes) + len(score.hits) > 0
    session = model.obeying(*RULES).live(1, steps=2)
    frames = torch.cat([session.block().frames for _ in range(3)])
    assert constraints.violations(session.codec.score(frames), RULES) == []  # type: ignore[operator]
    assert any(constraints.violations(model.sample(1, frames=16, seed=k, steps=2).score(0), RULES) for k in range(3))


def test_rules_add_up(model: MusicModel) -> None:
    calm = model.obeying(RULES[1])
    together = calm.obeying(RULES[0]).sample(4, frames=16, seed=1, steps=2, constraints=RULES[2:])
    assert all(constraints.violations(together.score(k), RULES) == [] for k in range(4))
    assert torch.equal(together.frames, model.sample(4, frames=16, seed=1, steps=2, constraints=RULES).frames)
    with pytest.raises(InfeasibleError):
        calm.obeying(constraints.silence(*tunes_drums())).obeying(constraints.span(90, 100))


def test_impossible_and_unknown_rules_are_refused(model: MusicModel) -> None:
    none = (constraints.span(90, 100), constraints.silence(*tunes_drums()))
    with pytest.raises(InfeasibleError):
        model.sample(1, frames=4, constraints=none)
    for wrong in (lambda: constraints.scale("H"), lambda: constraints.scale("C", "blues"),
                  lambda: constraints.silence("gong")):  # fmt: skip
        with pytest.raises(UsageError):
            wrong()


def tunes_drums() -> tuple[str, ...]:
    from apps.music.score import DRUMS

    return DRUMS


def test_a_projection_keeps_what_is_allowed() -> None:
    codec = RollCodec(dim=123, ticks=1)
    silent = constraints.columns(codec, RULES)
    z = torch.randn(5, 123)
    once = constraints.project(codec, silent, z)
    assert torch.allclose(constraints.project(codec, silent, once), once, atol=1e-5)
    rows = codec.pca.inverse(once)
    assert float(rows[:, torch.from_numpy(silent)].max()) <= -1 + 1e-5
    kept = torch.from_numpy(~silent)
    assert torch.allclose(rows[:, kept], codec.pca.inverse(z)[:, kept], atol=1e-5)


def test_rolls_lose_nothing() -> None:
    scores = [tokenizer.on_grid(s) for s in tunes.collection(0, 14)]
    back = tokenizer.decode(tokenizer.encode(scores), [s.bpm for s in scores])
    assert all(tokenizer.same(a, b) for a, b in zip(scores, back, strict=True))
    assert not tokenizer.same(scores[0], scores[0].transpose(1))
    assert all(len(s.notes) > 30 and len(s.hits) > 20 for s in scores)


def test_baselines_do_what_they_say(model: MusicModel) -> None:
    data = corpus(model.net.codec, model.recipe, "train")
    length = model.recipe.model.block
    same = Repeat(model, data).sample(2, frames=3 * length, seed=1).frames.reshape(2, 3, -1)
    assert torch.equal(same[:, 0], same[:, 2]) and not torch.equal(same[0], same[1])
    known = np.stack([f.numpy() for p in data.pieces for f in model.net.codec.pca(p.rows)])  # type: ignore[operator]
    for kind in (Patchwork(model, data), Concatenative(model, data, pool=64)):
        made = kind.sample(2, frames=3 * length, seed=1).frames.reshape(-1, known.shape[1])
        assert float(torch.cdist(made, torch.from_numpy(known)).amin(1).max()) < 1e-2
