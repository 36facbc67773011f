"""Peptides: molecules that RDKit certifies, properties that are sums, samples of any length."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from apps import bio
from apps.bio.constraints import forbid
from apps.bio.design import Order, designed
from apps.bio.model import Recipe
from apps.bio.peptide.chemistry import PROPERTIES, Peptide, from_helm, from_smiles, properties, write_sdf
from apps.bio.peptide.data import PARTS, read_peptides
from apps.bio.peptide.files import suited
from apps.bio.peptide.generate import PeptideModel, molecules
from apps.bio.peptide.model import PeptideConfig
from apps.bio.peptide.network import END, PeptideNet
from apps.bio.peptide.oracle import TunedClassifier, auc, fit_judge, fit_tuned
from apps.bio.peptide.properties import linear
from apps.bio.peptide.task import PeptideTask, padded
from apps.bio.protein.data import AMINO
from apps.bio.records import Designs
from core.errors import DataError, UsageError

CONFIG = PeptideConfig(dim=16, depth=1, heads=2, dropout=0.0, batch=16, longest=24)
REAL = Path(__file__).resolve().parents[3] / "shared/data/bio/peptide/AMPvsUniProt.csv"
real = pytest.mark.skipif(not REAL.is_file(), reason="needs the shared data")


def drawn(count: int, seed: int = 0) -> list[Peptide]:
    """Return random peptides: L and D, linear and cyclic, with and without disulfides."""
    rng, out = random.Random(seed), []
    for _ in range(count):
        word = [rng.choice(AMINO) for _ in range(rng.randint(4, 16))]
        bridges: tuple[tuple[int, int], ...] = ()
        if rng.random() < 0.4:
            word[0] = word[-2] = "C"
            bridges = ((0, len(word) - 2),)
        letters = "".join(a.lower() if rng.random() < 0.25 and a != "G" else a for a in word)
        out.append(Peptide(letters, rng.random() < 0.5, bridges))
    return out


def file(path: Path, seed: int = 0) -> Path:
    """Write a set whose label is whether lysine is common; every fifth line nearly repeats the one before."""
    rng, rows = random.Random(seed), []
    for i in range(150):
        letters = "KRWLIG" if i % 2 else "DESTGQ"
        word = "".join(rng.choice(letters) for _ in range(rng.randint(6, 22)))
        rows.append(f"{word}, {i % 2}")
        if i % 5 == 0:
            rows.append(f"{word[:-1]}A, {i % 2}")
    path.write_text("\n".join([f"{len(rows)},1,no,yes", *rows]) + "\n")
    return path


def test_smiles_and_helm_come_back() -> None:
    for peptide in drawn(40):
        again = from_smiles(peptide.smiles)
        assert again.standard == peptide.standard and again.smiles == peptide.smiles
        assert from_helm(peptide.helm) == peptide
        assert peptide.mol.GetNumHeavyAtoms() > 4 * len(peptide.residues)


def test_known_molecules() -> None:
    assert properties(Peptide("GIGKFLHSAKKFGKAFVGEIMNS"))["weight"] == pytest.approx(2466.94, abs=0.01)
    assert properties(Peptide("KRHDE"))["charge"] == 0 and properties(Peptide("KKK", cyclic=True))["charge"] == 3
    linear_, cyclic = Peptide("AGPFK"), Peptide("AGPFK", cyclic=True)
    water = properties(linear_)["weight"] - properties(cyclic)["weight"]
    assert water == pytest.approx(18.015, abs=1e-3)
    assert Peptide("AA").smiles != Peptide("Aa").smiles != Peptide("aa").smiles
    assert Peptide("FGAK", cyclic=True).standard == Peptide("AKFG", cyclic=True).standard
    assert from_smiles("C[C@H](N)C(=O)N[C@@H](CS)C(=O)O").residues == "AC"


@pytest.mark.parametrize(
    "wrong, why",
    [(("AXA",), "not one of the twenty"), (("AC", True), "too short"), (("ACCA", False, ((0, 1),)), "only cysteines"),
     (("CCCA", False, ((0, 1), (1, 2))), "twice"), (("CC", False, ((0, 5),)), "not there")],
)  # fmt: skip
def test_what_is_no_peptide_is_refused(wrong: tuple, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Peptide(*wrong)


def test_what_is_no_peptide_is_not_read() -> None:
    for text in ("PEPTIDE1{A.[Aib]}$$$$", "RNA1{A}$$$$", "PEPTIDE1{A.K.E}$PEPTIDE1,PEPTIDE1,2:R3-3:R3|x$$$"):
        with pytest.raises(DataError):
            from_helm(text)
    for text in ("CCO", "not a molecule", "CC(C)(N)C(=O)NCC(=O)O"):
        with pytest.raises(DataError):
            from_smiles(text)


def test_sums_over_residues_are_what_rdkit_says() -> None:
    for peptide in drawn(40, seed=1):
        if len(peptide.residues) < 6:
            continue
        truth = properties(peptide)
        x = torch.tensor([[AMINO.index(a) for a in peptide.residues.upper()]])
        for name in PROPERTIES:
            reward = linear(name, x.shape[1], peptide.cyclic, len(peptide.bridges))
            assert float(reward.score(x)) == pytest.approx(truth[name], abs=0.1 if name == "logp" else 1e-6), name
            hot = torch.nn.functional.one_hot(x, 20).double()
            assert torch.allclose(reward.soft(hot), reward.score(x))


def test_a_linear_reward_is_its_own_expectation() -> None:
    reward = linear("logp", 5).times(-2.0)
    p = torch.rand(1, 5, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    draws = torch.multinomial(p[0], 20000, replacement=True, generator=torch.Generator().manual_seed(1)).T
    scores = reward.score(draws)
    assert float(reward.soft(p)) == pytest.approx(float(scores.mean()), abs=4 * float(scores.std()) / 141)
    assert float(linear("gravy", 4).score(torch.tensor([[7, 7, 14, 14]]))) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(UsageError, match="did you mean 'charge'"):
        linear("charg", 9)


def test_families_stay_together(tmp_path: Path) -> None:
    data = read_peptides(file(tmp_path / "x.csv"), longest=22)
    parts = {name: data.part(name) for name in PARTS}
    assert sum(len(p.tokens) for p in parts.values()) == len(data.tokens)
    families = [set(p.family.tolist()) for p in parts.values()]
    assert all(not a & b for i, a in enumerate(families) for b in families[i + 1 :])
    words = data.strings()
    near = [(a, w[:-1] + "A") for a, w in zip(data.family, words, strict=True) if len(w) > 9 and w[:-1] + "A" in words]
    assert near and all(a == data.family[words.index(w)] for a, w in near)
    (tmp_path / "bad.csv").write_text("1,1\nAXBZ,1\n")
    with pytest.raises(DataError, match="none of the twenty"):
        read_peptides(tmp_path / "bad.csv")


def test_what_is_after_the_end_changes_nothing_and_laws_are_tokens() -> None:
    torch.manual_seed(0)
    net = PeptideNet(CONFIG).eval()
    short, long_ = np.array([1, 20, 3, 4]), np.array([5, 6, 20, 8, 9, 10, 20])
    both, alone = net(padded([short, long_])), net(padded([short]))
    assert torch.allclose(both[0, :4], alone[0], atol=1e-5)
    assert int(padded([short, long_])[0, 4]) == END
    hot = torch.nn.functional.one_hot(torch.from_numpy(long_)[None], 21).float()
    assert torch.allclose(net(hot)[0], both[1], atol=1e-5)


def test_training_and_drawing(tmp_path: Path) -> None:
    task = PeptideTask(CONFIG, 0, read_peptides(file(tmp_path / "x.csv"), longest=22))
    assert {int(v) for v in task.train.label} == {1} and len(task.held.tokens)
    torch.manual_seed(0)
    net = task.module()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    losses = []
    for step in range(40):
        assert torch.equal(task.batch(step, 0, 1)[0], task.batch(step, 0, 1)[0])
        loss, _ = task.loss(net, task.batch(step, 0, 1), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    model = PeptideModel(net, Recipe(kind="peptide", peptide=CONFIG))
    many = model.sample(12, seed=3, steps=6)
    known = {len(x) for x in task.train.tokens}
    assert {len(s) for s in many.sequences} <= known and len({len(s) for s in many.sequences}) > 2
    assert model.sample(2, seed=3, steps=6, index=np.array([5, 0])).sequences == [many.sequences[5], many.sequences[0]]
    held = model.sample(3, start="KK????C", steps=4)
    assert all(s.startswith("KK") and s.endswith("C") for s in held.sequences)
    assert model.usual in known and model.sample(1, length=model.usual, steps=4).sequences[0]
    ruled = designed(model, Order([forbid("WW")], "?" * model.usual), 2)[0].sequences
    assert {len(s) for s in ruled} == {model.usual} and not any("WW" in s for s in ruled)
    share = np.mean([a in "KRWLIG" for s in many.sequences for a in s])
    assert share > 0.8, "it draws what it saw"


def test_classifiers_agree_with_labels_and_laws(tmp_path: Path) -> None:
    data = read_peptides(file(tmp_path / "x.csv"), longest=22)
    tuned, judge = fit_tuned(data, steps=60), fit_judge(data)
    x = padded(data.tokens)
    assert auc(tuned.score(x).numpy(), data.label) > 0.95 and auc(judge.probability(data.strings()), data.label) > 0.95
    whole = torch.from_numpy(np.stack([t for t in data.tokens if len(t) == len(data.tokens[0])]))
    assert torch.allclose(
        tuned.soft(torch.nn.functional.one_hot(whole, 20).float()).double(), tuned.score(whole), atol=1e-5
    )
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    assert TunedClassifier(name="amp").name == "amp"


def test_molecules_are_written_for_chemists(tmp_path: Path) -> None:
    from rdkit import Chem

    made = molecules(["CAKWLC", "GKLW"], bridged=True) + molecules(["GKLWP"], cyclic=True)
    assert made[0].bridges == ((0, 5),) and made[1].bridges == () and made[2].cyclic
    write_sdf(made, tmp_path / "x.sdf")
    back = list(Chem.SDMolSupplier(str(tmp_path / "x.sdf")))
    assert [from_smiles(Chem.MolToSmiles(m)).standard for m in back] == [p.standard for p in made]
    assert back[2].GetProp("HELM") == made[2].helm and float(back[0].GetProp("charge")) == 1.0


@pytest.mark.parametrize("topology", ["", "cyclic", "disulfide"])
def test_designs_are_written_as_molecules(tmp_path: Path, topology: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rdkit import Chem

    about = {"seed": 3, **({"topology": topology} if topology else {})}
    found = Designs(["CAKWLC", "GKLW"], manifest=about, scores={"amp": np.array([0.5, 0.25])}, names=["one", "two"])
    for ending in (".sdf", ".smi", ".helm"):
        found.write(tmp_path / f"x{ending}")
    assert ("1 of 2 have no two cysteines" in capsys.readouterr().err) == (topology == "disulfide")
    wanted = molecules(found.sequences, cyclic=topology == "cyclic", bridged=topology == "disulfide")
    back = list(Chem.SDMolSupplier(str(tmp_path / "x.sdf")))
    assert [from_smiles(Chem.MolToSmiles(m)).standard for m in back] == [p.standard for p in wanted]
    assert [m.GetProp("_Name") for m in back] == ["one", "two"] and float(back[1].GetProp("reward_amp")) == 0.25
    assert json.loads(back[0].GetProp("manifest"))["seed"] == 3
    smiles = [line.split() for line in (tmp_path / "x.smi").read_text().splitlines()]
    assert [(from_smiles(a).standard, n) for a, n in smiles] == [(p.standard, n) for p, n in
                                                                 zip(wanted, ["one", "two"], strict=True)]  # fmt: skip
    helm = [line.split("\t") for line in (tmp_path / "x.helm").read_text().splitlines()]
    assert [from_helm(a) for a, _ in helm] == wanted


@pytest.mark.parametrize("topology", ["linear", "cyclic"])
def test_a_score_does_not_hide_what_rdkit_computes(topology: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A reward's value is that of the letters as a chain; mass and charge in the file are those of the molecule."""
    from io import BytesIO

    from rdkit import Chem
    from rdkit.Chem import Descriptors

    scores = {"weight": np.array([1.0]), "charge": np.array([9.0])}
    found = Designs(["GKLWAK"], manifest={"topology": topology}, scores=scores)
    (back,) = Chem.ForwardSDMolSupplier(BytesIO(found.molecules("sdf").encode()))
    weight = Descriptors.MolWt(back)  # type: ignore[attr-defined]
    assert float(back.GetProp("weight")) == pytest.approx(weight, abs=0.01) and float(back.GetProp("charge")) == 2
    assert float(back.GetProp("reward_weight")) == 1 and back.GetProp("topology") == topology
    assert ("linear chain" in capsys.readouterr().err) == (topology == "cyclic")


@pytest.mark.parametrize("name", ["toy", "peptide", "protein"])
def test_a_loaded_model_knows_its_name(name: str) -> None:
    assert bio.load(name).name == name  # manifests say it


def test_a_width_that_heads_do_not_share_is_refused() -> None:
    with pytest.raises(UsageError, match=r"peptide.dim: must be a multiple of peptide.heads; got \(30, 4\)"):
        PeptideNet(PeptideConfig(dim=30, heads=4))


def test_molecules_that_make_no_sense_are_refused() -> None:
    suited("", ".fasta", "ACGT")
    suited("cyclic", ".sdf", AMINO)
    for wrong, why in ((("round", ".sdf", AMINO), "no such topology"), (("cyclic", ".fasta", AMINO), "molecule file"),
                       (("", ".sdf", "ACGT"), "writes DNA")):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            suited(*wrong)


@real
def test_the_real_set_is_read() -> None:
    data = read_peptides(REAL)
    assert len(data.tokens) > 3000 and set(data.label) == {0, 1}
    assert all(len(data.part(name).tokens) > 200 for name in PARTS)


def test_own_sets_may_end_in_a_blank_line_and_may_be_too_small(tmp_path: Path) -> None:
    path = file(tmp_path / "x.csv")
    whole = read_peptides(path)
    path.write_text(path.read_text().replace("\n", "\n\n", 3) + "\n\n")
    assert read_peptides(path).strings() == whole.strings()
    with pytest.raises(DataError, match="peptide.data: too few peptides of label 1 to train and to validate; got 0"):
        PeptideTask(CONFIG, 0, whole.select(np.flatnonzero(whole.label == 0)))
