"""Oracles: soft equals hard, both strands alike, loci apart, and files that come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from apps.bio import oracle as o
from apps.bio.data import Sequences
from apps.bio.dna import regressors as kinds
from apps.bio.dna.train_conv import ConvTraining, shifted, train_conv
from core.errors import CheckpointError, DataError, UsageError
from core.finetune.reward import Reward, soft

MEME = """MEME version 4

MOTIF one
letter-probability matrix: alength= 4 w= 4 nsites= 1
 0.97 0.01 0.01 0.01
 0.01 0.97 0.01 0.01
 0.01 0.01 0.97 0.01
 0.01 0.97 0.01 0.01

MOTIF two
letter-probability matrix: alength= 4 w= 3 nsites= 1
 0.01 0.01 0.01 0.97
 0.97 0.01 0.01 0.01
 0.97 0.01 0.01 0.01
"""


def table(n: int = 240, length: int = 40, seed: int = 0) -> Sequences:
    """Pairs of orientations whose activity is the number of ACGC and its reverse complement."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (n, length))
    for row in x[: n // 2]:
        at = int(rng.integers(length - 4))
        row[at : at + 4] = [0, 1, 2, 1]
    both = np.concatenate([x, 3 - x[:, ::-1]])
    hits = np.array([sum(tuple(s[i : i + 4]) == (0, 1, 2, 1) for s in (r, 3 - r[::-1]) for i in range(length - 3))
                     for r in x], float)  # fmt: skip
    value = np.concatenate([hits, hits]) + 0.3 * rng.standard_normal(2 * n)
    part = np.where(np.arange(n) % 5 < 3, 0, np.where(np.arange(n) % 5 == 3, 1, 2))
    return Sequences(both, np.tile(part, 2), np.tile(np.arange(n), 2), value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(o, "read", lambda config: table())
    (tmp_path / "m.meme").write_text(MEME)
    return tmp_path


@pytest.mark.parametrize("role", o.ROLES)
def test_training_saving_and_loading(folder: Path, role: str) -> None:
    config = o.OracleConfig(role, motifs=str(folder / "m.meme"), members=2, epochs=8)
    found = o.train(config, folder / role, say=lambda line: None)
    assert found["pearson"] > 0.3 and found["rows"] == {"tuning": 96, "evaluation": 384, "judge": 384}[role]
    model = o.load(folder / role)
    x = torch.from_numpy(table(seed=9).tokens[:20])
    assert isinstance(model, Reward) and model.score(x).dtype == torch.float64
    assert torch.allclose(model.score(x), model.score(3 - x.flip(1)), atol=1e-5)
    assert model.metrics["pearson"] == pytest.approx(found["pearson"])
    again = o.train(config, folder / "again", say=lambda line: None)
    assert again["pearson"] == found["pearson"]


@pytest.mark.parametrize("role", ["tuning", "evaluation"])
def test_soft_is_score_at_letters_and_has_a_gradient(folder: Path, role: str) -> None:
    config = o.OracleConfig(role, motifs=str(folder / "m.meme"), members=1, epochs=2)
    o.train(config, folder / role, say=lambda line: None)
    model = o.load(folder / role)
    x = torch.from_numpy(table(seed=3).tokens[:6])
    p = one_hot(x, 4).float().requires_grad_()
    assert torch.allclose(soft(model).soft(p).double(), model.score(x), atol=1e-5)
    (g,) = torch.autograd.grad(model.soft(p).sum(), p)
    assert bool(torch.isfinite(g).all()) and float(g.abs().max()) > 0
    body, laws = model.body.double(), torch.full((2, 12, 4), 0.25, dtype=torch.float64)
    laws = (laws + 0.1 * torch.rand(laws.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    assert torch.autograd.gradcheck(body, laws, eps=1e-6, atol=1e-4)


def test_the_judge_gives_no_gradient(folder: Path) -> None:
    o.train(o.OracleConfig("judge"), folder / "judge", say=lambda line: None)
    with pytest.raises(UsageError, match="no gradients"):
        soft(o.load(folder / "judge"))


def test_loci_are_disjoint_and_orientations_stay_together() -> None:
    data = table()
    learn = {role: o.loci(data, role) for role in o.ROLES}
    groups = {role: set(data.group[train | choose]) for role, (train, choose, _) in learn.items()}
    assert not groups["tuning"] & groups["evaluation"] and not groups["tuning"] & groups["judge"]
    assert not groups["evaluation"] & groups["judge"]
    for role, (_, _, held) in learn.items():
        assert held.any() and not groups[role] & set(data.group[held])
    found = o.examples(data, learn["tuning"][0])
    assert len(found) * 2 == len(found.labels) and np.allclose(
        found.value[found.rows[0]], data.value[learn["tuning"][0]][[0, len(found)]].mean()
    )


def test_gapped_words_by_hand() -> None:
    x = torch.tensor([[0, 1, 2, 3, 0, 0, 1, 2]])
    words = set(kinds.gapped(x, 2)[0].tolist())
    first = 4**3 * (0 * 16 + 1 * 4 + 2) + (3 * 16 + 0 + 0)  # ACG TAA without a gap
    apart = 4**6 + 4**3 * (0 * 16 + 1 * 4 + 2) + (0 + 0 * 4 + 1)  # ACG . AAC
    assert {first, apart} <= words and kinds.gapped(x, 2).shape == (1, 2 * (3 + 2))


def test_words_by_hand() -> None:
    body = kinds.Words(3)
    body.weight.copy_(torch.randn(64, generator=torch.Generator().manual_seed(0)))
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (6, 11)))
    by_number = body.weight[kinds.words(x, 3)].sum(1)
    assert torch.allclose(body(one_hot(x, 4).float()), by_number, atol=1e-5)
    assert kinds.words(torch.tensor([[0, 1, 2, 3]]), 3).tolist() == [[6, 27, 6, 27]]  # ACG CGT, twice: a palindrome
    law = one_hot(x[:1], 4).float()  # one site undecided between two letters: the mean of both
    law[0, 4] = 0.5 * law[0, 4] + 0.5 * one_hot(x[1, 4], 4)
    both = [torch.cat([x[:1, :4], x[i : i + 1, 4:5], x[:1, 5:]], 1) for i in (0, 1)]
    mean = sum(body(one_hot(b, 4).float()) for b in both) / 2
    assert torch.allclose(body(law), mean, atol=1e-5)


def test_too_few_letters_are_refused() -> None:
    body = kinds.ConvWords(kinds.ConvEnsemble(1, kinds.ConvShape(filters=2)), kinds.Words(6))
    model = o.Oracle(o.OracleConfig("tuning"), body, {}, "mine")
    assert model.score(torch.zeros(2, 6, dtype=torch.long)).shape == (2,)
    for ask in (model.score, lambda x: model.soft(one_hot(x, 4).double())):
        with pytest.raises(UsageError, match="mine: reads at least 6 letters; got 5"):
            ask(torch.zeros(2, 5, dtype=torch.long))


def test_motif_occupancy_by_brute_force() -> None:
    matrix = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.2, 0.3, 0.4, 0.1]])
    body = kinds.MotifKernel(1, 3, 1)
    body.filters.copy_(kinds.bank([matrix]))
    x = np.random.default_rng(0).integers(0, 4, (5, 12))
    odds = np.log((matrix + 0.01) / (matrix + 0.01).sum(1, keepdims=True) / 0.25)
    f = body.features(one_hot(torch.from_numpy(x), 4).float())
    for row, (top, total) in zip(x, f.tolist(), strict=True):
        # sites that hang over an end count the letters that are there
        scores = [sum(odds[j, s[i + j - 1]] for j in range(3) if 0 <= i + j - 1 < 12)
                  for s in (row, 3 - row[::-1]) for i in range(12)]  # fmt: skip
        assert top == pytest.approx(max(scores), abs=1e-5)
        assert total == pytest.approx(np.log(np.exp(scores).sum()), abs=1e-5)


def test_ridge_chooses_by_left_out_folds() -> None:
    rng = np.random.default_rng(0)
    f = rng.standard_normal((60, 5))
    f -= f.mean(0)
    y = f @ [1.0, -1, 0, 0, 2] + 3
    weight, mean, error = kinds.ridge(f @ f.T, y, np.arange(60) % 5, (1e3, 1e-3))
    assert error < 0.1 and np.allclose(mean + f @ f.T @ weight, y, atol=0.01)


def test_shifts_lose_letters_and_leave_zeros() -> None:
    p = one_hot(torch.tensor([[0, 1, 2, 3]]), 4).float()
    assert shifted(p, 1)[0, 1:].equal(p[0, :3]) and not shifted(p, 1)[0, 0].any()
    assert shifted(p, -2)[0, :2].equal(p[0, 2:]) and shifted(p, 0) is p


def test_members_keep_their_best_epoch() -> None:
    data = table(60, 20)
    x, y = torch.from_numpy(data.tokens), data.value
    said: list[str] = []
    body, found = train_conv(ConvTraining(members=1, epochs=3, batch=16), (x, y), (x, y), said.append)
    assert len(said) == 1 and f"{found:.3f}" in said[0] and not body.training


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tuning"):
        o.train(o.OracleConfig("tunning"), tmp_path / "x")
    with pytest.raises(DataError):
        o.train(o.OracleConfig("judge", path=str(tmp_path)), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(CheckpointError):
        o.load(tmp_path)


def test_a_folder_of_other_things_is_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    from apps.bio.protein import potential

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no checkpoint"):
        o.train(o.OracleConfig("judge", path="nowhere"), tmp_path)
    with pytest.raises(UsageError, match="no checkpoint"):
        potential.fit_verb(path="nowhere", out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
