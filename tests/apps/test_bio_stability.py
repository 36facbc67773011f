"""Stability as a reward by name: bound to a backbone in `design`, `finetune` and `score`; refused without one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from apps import bio
from apps.bio import tune
from apps.bio.expressions import Own, compose
from apps.bio.model import Recipe
from apps.bio.protein.data import AMINO
from apps.bio.protein.generate import InverseFolder
from apps.bio.protein.model import ProteinConfig
from apps.bio.protein.network import ProteinNet
from apps.bio.protein.potential import APP, bound, load
from apps.bio.protein.stability import FEATURES
from apps.bio.protein.structure import read_structure
from apps.bio.score import score
from core.errors import CheckpointError, UsageError
from core.run import checkpoint
from tests.apps.test_bio_protein import pdb_text

HEAD = {"app": APP, "config": {"model": "made", "penalty": 1.0}, "step": 0, "metrics": {}, "optimizer": None}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a backbone, a model and a potential; it is where we are."""
    monkeypatch.chdir(tmp_path)
    Path("made.pdb").write_text(pdb_text())
    torch.manual_seed(0)
    config = ProteinConfig(members=1, whole=1, dim=16, encoder=1, decoder=1, neighbours=6, dropout=0.3)
    head = {"app": "bio", "config": dataclasses.asdict(Recipe(kind="protein", protein=config)), "step": 0,
            "metrics": {}, "optimizer": None}  # fmt: skip
    checkpoint.write(Path("model"), {"weights.safetensors": ProteinNet(config).state_dict()}, head)
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=FEATURES) * 0.3)
    checkpoint.write(Path("stability"), {"weights.safetensors": {"weight": weight}}, HEAD)
    return tmp_path


def test_designs_are_steered_to_what_the_potential_says(place: Path) -> None:
    model, aim = bio.load("model"), compose(["0.5 * ddg(stability) + 0.1 * gravy()"])
    assert isinstance(model, InverseFolder)
    wild = read_structure("made.pdb")
    plain = load("stability").on(wild, model)
    assert float(plain.score(torch.from_numpy(wild.tokens)[None])) == 0.0, "against the native sequence"
    free = model.sample(8, wild, temperature=1.0, steps=6)
    found = model.sample(
        8, wild, temperature=1.0, steps=6, reward=compose(["ddg(stability)"]), steering="gilc-black-box"
    )
    assert found.scores["ddG"] == pytest.approx(plain.score(torch.from_numpy(found.tokens)).numpy())
    rows = [line.split("\t") for line in found.to_tsv().splitlines() if not line.startswith("#")]
    assert rows[0] == ["sample", "sequence", "score", "recovery", "ddG"] and len(rows) == 9
    assert rows[1][1].replace("/", "") == found.sequences[0] and float(rows[1][4]) == pytest.approx(
        float(found.scores["ddG"][0]), rel=1e-4
    )
    assert found.scores["ddG"].mean() > float(plain.score(torch.from_numpy(free.tokens)).mean()) + 1.0
    x = torch.from_numpy(free.tokens)
    parts = [plain.score(x), compose(["gravy()"]).score(x).double()]
    assert torch.allclose(bound(aim, wild, model).score(x).double(), 0.5 * parts[0] + 0.1 * parts[1])


def test_a_composition_of_the_user_s_knows_the_backbone_too(place: Path) -> None:
    wild, model = read_structure("made.pdb"), bio.load("model")
    own = Own(compose(["ddg(stability)=0.5", "gravy()=0.1"], AMINO), "mine:both")
    x = torch.from_numpy(model.sample(3, wild, steps=3).tokens)
    expected = bound(own.reward, wild, model).score(x)
    torch.testing.assert_close(bound(own, wild, model).score(x), expected)


def test_a_model_is_tuned_on_a_backbone_and_read_again(place: Path) -> None:
    wild, before = read_structure("made.pdb"), bio.load("model")
    reward = load("stability").on(wild, before)
    more = {"batch": 8, "steps": 6, "truncate": 6, "lr": 0.03, "alpha": 0.1, "updates": 12}
    done = tune.finetune(
        "model", reward=["ddg(stability)"], template=Path("made.pdb"), keep=["A1-3"], out=Path("run"), **more
    )
    assert done["template"] == "made.pdb" and done["keep"] == ["A1-3"]
    gains = []
    for name in ("model", "run/model"):
        found = bio.load(name).sample(32, wild, fix="A1-3", temperature=1.0, steps=6)
        gains.append(float(reward.score(torch.from_numpy(found.tokens)).mean()))
        assert {s[1:5] for s in found.sequences} == {wild.sequence[1:5]}, "the residues A1, A2, A2A, A2B stay"
    assert gains[1] > gains[0] + 0.5


def test_scores_on_a_backbone(place: Path) -> None:
    wild = read_structure("made.pdb").sequence
    other = "W" + wild[1:]
    Path("s.fasta").write_text(f">a\n{wild[:11]}/{wild[11:]}\n>b\n{other}\n")
    found = score(
        [Path("s.fasta")], reward=["ddg(stability)"], model="model", template=Path("made.pdb"), out=Path("s.tsv")
    )
    rows = [line.split("\t") for line in Path("s.tsv").read_text().splitlines()]
    assert rows[0] == ["name", "length", "ddG", "nats per residue"] and found is not None
    assert rows[1][:3] == ["a", "17", "0"] and float(rows[2][2]) != 0
    expected = bio.load("model").score(read_structure("made.pdb"), [wild, other])
    assert [float(r[3]) for r in rows[1:]] == pytest.approx(expected.tolist(), rel=1e-4)


def test_mistakes_are_one_line(place: Path) -> None:
    fasta, backbone = Path("s.fasta"), Path("made.pdb")
    fasta.write_text(">a\nACDEF\n")
    with pytest.raises(UsageError, match="backbone has 17"):
        score([fasta], reward=None, model="model", template=backbone)
    with pytest.raises(UsageError, match="reads sequences on a backbone"):
        score([fasta], reward=None, model="model")
    with pytest.raises(UsageError, match="speaks about a backbone"):
        score([fasta], reward=["ddg(stability)"])
    with pytest.raises(UsageError, match="tuned on a backbone"):
        tune.finetune("model", reward=["ddg(stability)"], out=Path("x"))
    with pytest.raises(UsageError, match="keep: no such residue"):
        tune.finetune("model", reward=["gravy()"], template=backbone, keep=["A99"], out=Path("x"))
    with pytest.raises(CheckpointError):
        compose(["ddg(model)"])
    checkpoint.write(Path("old"), {"weights.safetensors": {"weight": torch.zeros(3)}}, HEAD)
    with pytest.raises(CheckpointError, match="no potential of this version"):
        compose(["ddg(old)"])
    assert not Path("x").exists()
