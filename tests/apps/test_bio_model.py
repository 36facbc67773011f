"""The DNA network: exact chain marginals, the bound that equals the chain's entropy, strands, laws, gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from apps.bio.dna.background import chain_nll, count, fit_strengths, interpolate
from apps.bio.dna.network import ConvNet, SequenceTransformer, build
from apps.bio.dna.task import make
from apps.bio.generate import SequenceModel
from apps.bio.model import DataConfig, ModelConfig, Recipe
from apps.bio.rewards import Gc
from core.denoiser import subs
from core.errors import UsageError
from core.nn.conv import ConvConfig, ConvTrunk
from core.run.config import load_recipe

LENGTH = 5


def trained(order: int = 2, **changes: object) -> ConvNet:
    """A small network whose chain has been counted and whose correction is not zero."""
    torch.manual_seed(0)
    net = build(ModelConfig(dim=8, depth=2, kernel=3, dilations=[1, 2], dropout=0.0, order=order, folds=2, **changes))  # type: ignore[arg-type]
    assert isinstance(net, ConvNet)
    x = np.random.default_rng(0).choice(4, (30, 12), p=[0.4, 0.1, 0.2, 0.3])
    if net.background is not None:
        net.background.fit(x, np.arange(30) % 2)
    torch.nn.init.normal_(net.head.weight, std=0.3)
    return net.eval()


def everything() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(4), repeat=LENGTH)))


@pytest.mark.parametrize(("order", "classes"), [(1, 1), (2, 3), (3, 2)])
def test_marginals_are_those_of_enumeration(order: int, classes: int) -> None:
    background = trained(order, classes=classes).background
    assert background is not None
    x, rng = everything(), np.random.default_rng(order)
    p = (-background.nll(x)).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    for _ in range(12):
        x_t = torch.from_numpy(np.where(rng.random(LENGTH) < 0.6, 4, rng.integers(0, 4, LENGTH)))[None]
        weight = p * ((x_t == 4) | (x == x_t)).all(1)
        exact = torch.stack([torch.bincount(x[:, i], weight, 4) for i in range(LENGTH)]) / weight.sum()
        masked = x_t[0] == 4
        for found in (background(x_t), background(one_hot(x_t, 5).double())):
            torch.testing.assert_close(found[0][masked].double().exp(), exact[masked], atol=1e-5, rtol=0)
            assert bool((found[0][~masked] == 0).all())


def test_the_bound_of_exact_marginals_is_the_entropy_of_the_chain() -> None:
    """sum over n and masks of size n of (L / n) sum -log m / (L C(L, n)) = -log chain(x), for every x."""
    background = trained(2, classes=2).background
    assert background is not None
    x = everything()[::37]
    total = torch.zeros(len(x), dtype=torch.float64)
    for n in range(1, LENGTH + 1):
        masks = list(itertools.combinations(range(LENGTH), n))
        for chosen in masks:
            x_t = x.clone()
            x_t[:, list(chosen)] = 4
            log_m = background(x_t).double().gather(-1, x[..., None])[..., 0]
            total -= log_m[:, list(chosen)].sum(1) / n / len(masks)
    torch.testing.assert_close(total, background.nll(x), atol=1e-4, rtol=0)


def test_folds_do_not_see_themselves() -> None:
    background = trained(2).background
    assert background is not None
    x = np.random.default_rng(0).choice(4, (30, 12), p=[0.4, 0.1, 0.2, 0.3])
    others = count(x[1::2], 2)
    parts = [count(x[0::2], 2), others]
    expected = interpolate(others, fit_strengths(parts))[-1]
    np.testing.assert_allclose(background.table[1, 0].numpy(), expected, atol=1e-6)
    x_t = torch.full((3, 6), 4)
    mixed = background(x_t, torch.tensor([0, 1, 0]))
    torch.testing.assert_close(mixed[1], background(x_t[:1], torch.tensor([1]))[0])
    assert not torch.equal(mixed[0], mixed[1])
    dense = background(one_hot(x_t, 5).double(), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(dense.float(), mixed, atol=1e-5, rtol=0)


def test_interpolation_generalises_better_than_raw_counts() -> None:
    x = np.random.default_rng(1).integers(0, 4, (60, 40))
    raw = count(x[:30], 4) + 0.5
    laws = interpolate(count(x[:30], 4), fit_strengths([count(x[:15], 4), count(x[15:30], 4)]))
    table = interpolate(count(x[:30], 4), [0, 0, 0, 0, 0])
    assert chain_nll(x[30:], laws).mean() < chain_nll(x[30:], table).mean()
    assert chain_nll(x[30:], laws).mean() / 40 < 1.40 and raw.shape == (256, 4)
    np.testing.assert_allclose([law.sum(1).max() for law in laws], 1)


def test_an_untrained_network_is_its_chain() -> None:
    net = trained()
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.zeros_(net.head.bias)
    x_t = torch.randint(0, 5, (4, 9), generator=torch.Generator().manual_seed(0))
    assert net.background is not None
    torch.testing.assert_close(net(x_t), net.background(x_t))


@pytest.mark.parametrize("order", [0, 2])
def test_both_strands_are_one(order: int) -> None:
    net = trained(order, strands=True)
    x_t = torch.randint(0, 5, (6, 11), generator=torch.Generator().manual_seed(1))
    other = torch.where(x_t < 4, 3 - x_t, x_t).flip(1)
    log_p, mirrored = (subs(net(v), v, 4).log_p for v in (x_t, other))
    masked = x_t == 4
    difference = log_p[masked].exp() - mirrored.flip(1, 2)[masked].exp()
    assert float(difference.abs().max()) < (1e-5 if order == 0 else 0.05)  # a chain's edges are not symmetric


def test_laws_at_the_corners_are_tokens_and_carry_gradients() -> None:
    for net in (trained(), trained(0), build(ModelConfig("transformer", dim=16, depth=1, heads=2, order=0)).eval()):
        x_t = torch.randint(0, 5, (3, 8), generator=torch.Generator().manual_seed(2))
        t = torch.full((3,), 0.5)
        law = one_hot(x_t, 5).float().requires_grad_()
        torch.testing.assert_close(net(law, t), net(x_t, t), atol=1e-4, rtol=1e-4)
        net(law, t).square().sum().backward()
        assert law.grad is not None and float(law.grad.abs().sum()) > 0


def test_gradients_in_laws_are_finite_differences() -> None:
    net = trained().double()
    law = torch.rand(1, 6, 5, dtype=torch.float64).softmax(-1)
    assert torch.autograd.gradcheck(lambda v: net(v), (law.requires_grad_(),), atol=1e-5)


def test_a_transformer_reads_whole_sequences_as_one_noisy_block() -> None:
    torch.manual_seed(0)
    net = build(ModelConfig("transformer", dim=16, depth=2, heads=2, order=0, dropout=0.0)).eval()
    assert isinstance(net, SequenceTransformer)
    x = torch.randint(0, 4, (2, 6))
    x_t = torch.where(torch.rand(2, 6) < 0.5, 4, x)
    beside = net.beside(x, 6)(x_t, torch.zeros(2)).log_p
    torch.testing.assert_close(subs(net(x_t, torch.zeros(2)), x_t, 4).log_p, beside)


def test_convolutions_see_what_they_should() -> None:
    trunk = ConvTrunk(ConvConfig(4, 2, 3, (1, 4))).eval()
    h = torch.zeros(1, 4, 41)
    other = h.clone()
    other[0, 0, 20] = 1
    seen = ((trunk(h) - trunk(other)).abs().sum((0, 1)) > 1e-9).nonzero()[:, 0] - 20
    assert seen.tolist() == [-5, -4, -3, -1, 0, 1, 3, 4, 5]
    with pytest.raises(ValueError, match="odd"):
        ConvTrunk(ConvConfig(4, 1, 4))


def test_recipes_name_their_mistakes() -> None:
    assert isinstance(load_recipe("bio", "gosai"), Recipe)
    with pytest.raises(UsageError, match="data.source"):
        load_recipe("bio", "toy", ["data.source=lentimpa"])
    with pytest.raises(UsageError, match="model.order"):
        load_recipe("bio", "toy", ["model.order=-1"])


@pytest.mark.parametrize("length", [1, 2])
def test_a_sequence_may_be_shorter_than_a_context(length: int) -> None:
    """What may follow is summed out: the probabilities of all short words are those of all that begin so."""
    background = trained(3, classes=2).background
    assert background is not None
    short = torch.tensor(list(itertools.product(range(4), repeat=length)))
    whole = (-background.nll(everything())).exp().reshape(len(short), -1).sum(1)
    torch.testing.assert_close((-background.nll(short)).exp(), whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "length", "says"),
    [({"kmer": 3}, 100, "no multiple of the 3 letters"), ({"kmer": 2}, 100, "of single letters; got 2"),
     ({"kmer": 2, "order": 0, "strands": True}, 100, "of single letters"),
     ({"kmer": 2, "order": 0, "strands": False}, 100, "")],
)  # fmt: skip
def test_tokens_of_several_letters_have_no_chain(changes: dict, length: int, says: str) -> None:
    """A chain counted on letters, and letters of the other strand, would say something else about words."""
    shape = {"dim": 8, "depth": 1, "dilations": [1], "order": 2, "strands": False, **changes}
    recipe = Recipe(model=ModelConfig(**shape), data=DataConfig(length=length, simulated=40))
    if says:
        with pytest.raises(UsageError, match=says):
            make(recipe)
        return
    model = SequenceModel(make(recipe).module(), recipe)
    with pytest.raises(UsageError, match="rewards read single letters; got 'kmer 2'"):
        model.sample(1, length=10, reward=Gc())
    assert len(model.sample(1, length=10, steps=2).sequences[0]) == 10
