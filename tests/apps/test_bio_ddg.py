"""Stability: antisymmetric by construction, linear in letters, left out by cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apps.bio.protein.data import AMINO, Backbones, read_backbones
from apps.bio.protein.stability import FEATURES, SCALES, Potential, features, fit, oracle, surroundings
from apps.bio.protein.variants import blosum, leave_out, read_variants
from core.errors import DataError

REAL = Path(__file__).resolve().parents[3] / "shared/data/bio/protein"
real = pytest.mark.skipif(not REAL.is_dir(), reason="needs the shared data")


def network(x: torch.Tensor) -> torch.Tensor:
    """Prefer, at every site, the letter after the one on its left (masks count as 20)."""
    left = torch.roll(x, 1, -1)
    return torch.nn.functional.one_hot((left + 1) % 20, 20).float() * 2


def coords(size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    ca = np.cumsum(rng.normal(0, 2.2, (size, 3)), 0)
    return (ca[:, None] + np.array([[-1.2, 0.5, 0], [0, 0, 0], [1.0, 1.0, 0.3], [0.8, 2.1, 0.6]])).astype(np.float32)


def test_features_hide_the_site_itself() -> None:
    tokens, around = np.arange(12) % 20, surroundings(coords(12), np.zeros(12, bool))
    phi = features(network, tokens, around, batch=5)
    assert phi.shape == (12, 20, FEATURES)
    expected = torch.zeros(20).index_put((torch.tensor(6),), torch.tensor(2.0)).log_softmax(-1)
    assert np.allclose(phi[6, :, 1], expected), "given the others"
    changed = tokens.copy()
    changed[6] = 19
    other = features(network, changed, around, batch=5)
    assert np.allclose(other[6], phi[6]) and not np.allclose(other[7], phi[7])


def test_the_way_back_is_the_opposite() -> None:
    tokens, xyz = np.arange(12), coords(12)
    weight = np.random.default_rng(1).normal(size=FEATURES)
    phi = features(network, tokens, surroundings(xyz, np.zeros(12, bool)))
    potential = Potential(weight, 1.0)
    there = potential.predict((phi[3, 9] - phi[3, 3])[None])
    assert there == pytest.approx(-potential.predict((phi[3, 3] - phi[3, 9])[None])) and abs(there[0]) > 1e-3
    reward = oracle(potential, network, tokens, xyz, np.zeros(12, bool))
    x = torch.from_numpy(tokens).repeat(3, 1)
    x[1, 3], x[2, 3], x[2, 5] = 9, 9, 0
    score = reward.score(x)
    assert score[0] == 0 and float(score[1]) == pytest.approx(there[0])
    assert float(score[2] - score[1]) == pytest.approx(potential.predict((phi[5, 0] - phi[5, 5])[None])[0])
    hot = torch.nn.functional.one_hot(x, 20).double().requires_grad_()
    assert torch.allclose(reward.soft(hot), score)
    reward.soft(hot).sum().backward()
    assert hot.grad is not None and torch.allclose(hot.grad[0], reward.table)


def test_the_fit_finds_what_is_there_and_swaps_change_nothing() -> None:
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=(400, 12)), rng.normal(size=12)
    y, protein = x @ weight + rng.normal(0, 0.1, 400), rng.integers(0, 20, 400)
    found = fit(x, y, protein, protein // 2)
    assert np.abs(found.weight - weight).max() < 0.2 and found.penalty == 30.0
    sign = np.where(rng.random(400) < 0.5, 1, -1)
    assert np.allclose(fit(x * sign[:, None], y * sign, protein, protein // 2).weight, found.weight)
    noise = fit(x, rng.normal(size=400), protein, protein // 2)
    assert noise.penalty == 3000.0, "nothing to learn: the strongest penalty"


def test_what_is_left_out_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    score, depth, ddg, group = rng.normal(size=60), rng.normal(size=60), rng.normal(size=60), np.arange(60) % 6
    changed = np.where(group == 2, 50.0, ddg)
    a, b = (leave_out(score, depth, y, group) for y in (ddg, changed))
    assert np.allclose(a[group == 2], b[group == 2]) and not np.allclose(a, b)
    assert blosum(np.array([0]), np.array([0])) == [4] and blosum(np.array([18]), np.array([2])) == [-4]


def test_scales_have_a_value_for_each_letter() -> None:
    table = {k: [float(v) for v in row.split()] for k, row in SCALES.items()}
    assert all(len(row) == 20 for row in table.values())
    assert table["hydropathy"][AMINO.index("R")] == -4.5 and table["volume"][AMINO.index("G")] == 60
    assert table["helix"][AMINO.index("P")] == max(table["helix"])


def test_rows_that_contradict_their_sequence_are_refused(tmp_path: Path) -> None:
    data = Backbones(["xA"], [coords(4)], [np.arange(4)], [np.arange(4)], np.zeros(1, int), np.ones(1))
    (tmp_path / "stability").mkdir()
    path = tmp_path / "stability/S2648.csv"
    path.write_text("wt_seq,mut_seq,ddg,pdb_id,mut_info,pos\nACDE,ACKE,-1.5,x,D3K,2\nWWWW,WWWA,0,y,W4A,3\n")
    found = read_variants(tmp_path, data, ("S2648",))
    assert len(found.ddg) == 1 and (found.site[0], found.wild[0], found.to[0], found.mutant[0]) == (2, 2, 8, -1)
    path.write_text("wt_seq,mut_seq,ddg,pdb_id,mut_info,pos\nACDE,ACKE,-1.5,x,D3K,1\n")
    with pytest.raises(DataError, match="not where the row says"):
        read_variants(tmp_path, data, ("S2648",))
    with pytest.raises(DataError, match="cannot be read"):
        read_variants(tmp_path, data, ("ssym",))
    with pytest.raises(DataError, match="no measured mutation is of one of the backbones"):
        read_variants(tmp_path, data.first(0), ("S2648",))


@real
def test_real_rows_have_backbones_and_signs() -> None:
    data = read_backbones(REAL)
    v = read_variants(REAL, data, ("megascale", "S2648"))
    assert len(v.ddg) > 2500 and v.ddg.mean() < -0.5, "positive = stabilising"
    assert all(data.tokens[c][s] == w for c, s, w in zip(v.chain, v.site, v.wild, strict=True))
    pairs = read_variants(REAL, data, ("ssym",))
    assert (pairs.mutant >= 0).sum() > 200
