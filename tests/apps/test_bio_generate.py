"""The model that a user holds: samples, infilling, blocks, likelihoods, refusals."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps import bio
from apps.bio.dna.network import build
from apps.bio.generate import SequenceModel
from apps.bio.likelihood import nll
from apps.bio.model import DataConfig, ModelConfig, Recipe, SampleConfig
from apps.bio.score import keys
from core.errors import CheckpointError, UsageError
from core.run.config import load_recipe
from core.run.launch import run

CONV = ModelConfig(dim=8, depth=2, kernel=3, dilations=[1, 2], dropout=0.0, order=2, folds=2, strands=False)
LONG = ModelConfig("transformer", dim=16, depth=2, heads=2, dropout=0.0, order=0)


def made(config: ModelConfig, length: int = 12) -> SequenceModel:
    torch.manual_seed(0)
    net = build(config)
    x = np.random.default_rng(0).choice(4, (30, 12), p=[0.4, 0.1, 0.2, 0.3])
    if getattr(net, "background", None) is not None:
        net.background.fit(x, np.arange(30) % 2)  # type: ignore[union-attr]
    torch.nn.init.normal_(net.head.weight, std=0.5)
    recipe = Recipe(model=config, data=DataConfig(length=length), sample=SampleConfig(steps=length))
    return SequenceModel(net, recipe)


@pytest.mark.parametrize("config", [CONV, LONG], ids=["conv", "transformer"])
@pytest.mark.parametrize("block", [0, 4])
def test_a_sample_is_a_function_of_its_stream(config: ModelConfig, block: int) -> None:
    model = made(config)
    whole = model.sample(9, seed=3, block=block)
    some = model.sample(3, seed=3, block=block, index=np.array([7, 0, 4]))
    assert [whole.sequences[i] for i in (7, 0, 4)] == some.sequences
    assert whole.sequences != model.sample(9, seed=4, block=block).sequences
    assert all(set(s) <= set("ACGT") and len(s) == 12 for s in whole.sequences)


@pytest.mark.parametrize("block", [0, 5])
def test_infilling_keeps_the_letters(block: int) -> None:
    start = "ACG?????T?GG"
    for sequence in made(CONV).sample(20, start=start, seed=0, block=block).sequences:
        assert all(a in ("?", b) for a, b in zip(start, sequence, strict=True))


def test_any_length() -> None:
    assert {len(s) for s in made(CONV).sample(3, length=31, seed=0, steps=4).sequences} == {31}
    assert made(CONV).sample(0).sequences == []


def test_kmers() -> None:
    model = made(replace(CONV, kmer=2, order=1), 12)
    assert {len(s) for s in model.sample(4, seed=0).sequences} == {12}
    with pytest.raises(UsageError, match="multiple of 2"):
        model.sample(1, length=11)
    with pytest.raises(UsageError, match="single-letter"):
        model.sample(1, constraints=[object()])


def test_the_manifest_of_a_sample_says_what_was_filled_in() -> None:
    model = made(CONV)
    first = model.sample(2, start="AC??GT", seed=4)
    about = {k: first.manifest[k] for k in ("start", "seed", "steps", "block", "solver", "temperature")}
    assert model.sample(2, **about).sequences == first.sequences
    assert "start" not in model.sample(1, length=4).manifest


def test_what_is_wrong_is_said() -> None:
    model = made(CONV)
    with pytest.raises(UsageError, match="solver"):
        model.sample(1, solver="confidance")
    for name, value in {"solver": "confidence", "block": 4, "temperature": 0.5}.items():
        with pytest.raises(UsageError, match="steered draws") as caught:
            model.sample(1, reward=object(), **{name: value})
        assert caught.value.field == name
    with pytest.raises(UsageError, match="differs from the length"):
        model.sample(1, start="AC??", length=5)
    with pytest.raises(UsageError, match="does not divide"):
        model.nll(torch.zeros(1, 12, dtype=torch.long), block=5)


def exact_bound(model: SequenceModel, x: torch.Tensor) -> torch.Tensor:
    """The count form by enumeration of all masks."""
    length, total = x.shape[1], torch.zeros(len(x), dtype=torch.float64)
    for n in range(1, length + 1):
        masks = list(itertools.combinations(range(length), n))
        for chosen in masks:
            x_t = x.clone()
            x_t[:, list(chosen)] = 4
            log_p = model.predict(x_t, torch.full((len(x),), n / length)).log_p.gather(-1, x[..., None])[..., 0]
            total -= log_p[:, list(chosen)].double().sum(1).detach() / n / len(masks)
    return total


@pytest.mark.parametrize("config", [CONV, replace(CONV, order=0)], ids=["chain", "plain"])
def test_the_estimate_is_unbiased_and_the_chain_lowers_its_noise(config: ModelConfig) -> None:
    model = made(config, 6)
    x = torch.randint(0, 4, (6, 6), generator=torch.Generator().manual_seed(1))
    wanted = exact_bound(model, x)
    found = nll(model, x, draws=1200, seed=0)
    assert bool(((found.nats - wanted).abs() < 4.5 * found.variance.sqrt() + 1e-3).all())
    assert found.per_letter(6)[0] == pytest.approx(float(wanted.mean() / 6), abs=0.02)


def test_an_untrained_network_has_the_bound_of_its_chain_without_any_noise() -> None:
    model = made(CONV)
    torch.nn.init.zeros_(model.net.head.weight)  # type: ignore[union-attr]
    x = torch.randint(0, 4, (5, 12), generator=torch.Generator().manual_seed(2))
    found = nll(model, x, draws=2)
    assert found.chain is not None
    torch.testing.assert_close(found.nats, found.chain, atol=1e-5, rtol=0)


def test_with_streams_of_their_own_sequences_do_not_see_each_other() -> None:
    """The estimate of a sequence is the same alone, last or first; its mean is the bound by enumeration."""
    model = made(CONV, 6)
    x = torch.randint(0, 4, (9, 6), generator=torch.Generator().manual_seed(2))
    whole, turned = (model.nll(v, index=keys(v)) for v in (x, x.flip(0)))
    torch.testing.assert_close(turned.flip(0), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.nll(x[4:5], index=keys(x[4:5])), whole[4:5], atol=1e-5, rtol=0)
    assert len(set(keys(x).tolist())) == 9 and not torch.allclose(whole, model.nll(x), atol=1e-5)
    many = nll(model, x[:1].expand(2000, -1), index=torch.arange(2000), draws=4).nats
    assert abs(float(many.mean() - exact_bound(model, x[:1])[0])) < 4 * float(many.std()) / 2000**0.5


@pytest.mark.parametrize("config", [CONV, LONG], ids=["conv", "transformer"])
def test_at_block_one_probabilities_sum_to_one(config: ModelConfig) -> None:
    model = made(config, 4)
    x = torch.tensor(list(itertools.product(range(4), repeat=4)))
    p = (-model.nll(x, block=1)).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-4)


def test_block_one_sampling_has_the_law_of_block_one_likelihoods() -> None:
    model = made(CONV, 3)
    x = torch.tensor(list(itertools.product(range(4), repeat=3)))
    p = (-model.nll(x, block=1)).exp()
    drawn = model.sample(4000, seed=0, block=1, steps=1).tokens
    code = drawn @ torch.tensor([16, 4, 1])
    shares = torch.bincount(code, minlength=64) / 4000
    assert float((shares - p).abs().sum() / 2) < 0.07


def test_the_base_samples_what_the_model_samples() -> None:
    from core.noise import Stream

    model = made(CONV)
    base = model.base(steps=12)
    drawn = base.sample(Stream.of(5, 8))
    assert model.tokenizer.decode(drawn.numpy()) == model.sample(8, seed=5).sequences
    assert base.network(torch.nn.functional.one_hot(drawn, 5).float(), torch.zeros(8)).shape == (8, 12, 4)


def test_training_and_loading(tmp_path: Path) -> None:
    short = ["trainer.steps=4", "data.simulated=200", "data.length=80", "model.dim=8", "model.depth=1", "data.batch=8",
             "trainer.validate_every=2", "optim.warmup=1"]  # fmt: skip
    run("bio", load_recipe("bio", "toy", short), tmp_path, None)
    model = bio.load(tmp_path / "model")
    assert isinstance(model, SequenceModel) and len(model.sample(2, steps=4).sequences[0]) == 80
    long = ["model.backbone=transformer", "model.order=0", "blocks=[0,8]", "model.dim=16", "model.heads=2",
            "model.kmer=2"]  # fmt: skip
    run("bio", load_recipe("bio", "toy", [*short[:3], *short[4:], *long]), tmp_path / "long", None)
    assert len(bio.dna.load(tmp_path / "long").sample(2, steps=4, block=16).sequences[0]) == 80
    with pytest.raises(CheckpointError, match="no such model"):
        bio.load("toi")
