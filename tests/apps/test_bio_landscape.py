"""The GB1 landscape: what the table says, that a damaged one is refused, and that only low variants are trained on."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from torch.nn.functional import one_hot

from apps.bio.protein.landscape import FILE, LETTERS, WILD_TYPE, code, load, variants
from benchmarks._gb1 import Network, fit, split
from core.errors import DataError


def tokens(variant: str) -> torch.Tensor:
    return torch.tensor([[LETTERS.index(v) for v in variant]])


def test_the_table_is_read_by_tokens(shared_data: Path) -> None:
    land = load(shared_data / "bio")
    assert int(land.measured.sum()) == 149_361
    assert float(land.score(tokens(WILD_TYPE))) == 1
    assert float(land.score(tokens("FWAA"))) == pytest.approx(8.76, abs=0.01)
    assert torch.equal(code(variants()), torch.arange(160_000)) and land.name


def test_nothing_above_the_wild_type_is_trained_on(shared_data: Path) -> None:
    land = load(shared_data / "bio")
    parts = split(land, 0)
    used = [parts.fit, parts.validate, parts.learn, parts.held]
    assert [len(v) for v in used[:2]] == [1000, 3000] and len(parts.held) == 2000
    assert all(float(land.fitness[v].max()) <= 1 for v in used)
    assert len(torch.cat(used[1:]).unique()) == sum(len(v) for v in used[1:])
    assert not set(parts.fit.tolist()) & set(parts.validate.tolist())


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        load(tmp_path)
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    head = "variant,fitness\n"
    for text, message in [("a,b\n", "columns"), (f"{head}VDG,1\n", "line 2"), (f"{head}VDGV,x\n", "line 2")]:
        path.write_bytes(gzip.compress(text.encode()))
        with pytest.raises(DataError, match=message):
            load(tmp_path)


def test_surrogate_at_one_hots_and_network_at_states(shared_data: Path) -> None:
    land = load(shared_data / "bio")
    parts, x, log_f = split(land, 0), variants(), land.fitness.clamp_min(0.01).log()
    model = fit(0.5, 1.0, x[parts.fit], log_f[parts.fit], 0.1)
    error = (model.score(x[parts.validate]) - log_f[parts.validate]).square().mean().sqrt()
    assert float(error) < 0.7 * float(log_f[parts.validate].std())
    x = x[::997]
    assert torch.allclose(model.soft(one_hot(x, 20).double()), model.score(x))
    network, states = Network(), torch.cat([x, torch.full((3, 4), 20)])
    assert torch.equal(network(states, states), network(one_hot(states, 21).float(), states))
