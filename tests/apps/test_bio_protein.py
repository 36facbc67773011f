"""Inverse folding: files, selectors, features, hard rules, training; on backbones that this file builds."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from apps.bio.expressions import compose
from apps.bio.protein import geometry, rotamers
from apps.bio.protein.data import AMINO, Backbones, distinct, folds, joined, places, read_backbones
from apps.bio.protein.designs import superposed
from apps.bio.protein.generate import Conditioned, InverseFolder
from apps.bio.protein.model import ProteinConfig
from apps.bio.protein.network import ProteinNet, graph, join
from apps.bio.protein.sites import choose, select
from apps.bio.protein.structure import read_structure
from apps.bio.protein.task import FoldingTask, chain_graph
from apps.bio.tokenizer import Tokenizer
from core.errors import DataError, InfeasibleError, QuintetError, UsageError

REAL = Path(__file__).resolve().parents[3] / "shared/data/bio/protein"
real = pytest.mark.skipif(not REAL.is_dir(), reason="needs the shared data")
THREE = "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR".split()
NAMES = dict(zip(AMINO, THREE, strict=True))
CONFIG = ProteinConfig(members=2, dim=16, encoder=1, decoder=1, neighbours=6, residues=60, dropout=0.0, smoothing=0.05)


def place(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, torsion: float) -> np.ndarray:
    """Return the atom bonded to c at an angle with b and a torsion with a."""
    u = (c - b) / np.linalg.norm(c - b)
    n = np.cross(b - a, u)
    n /= np.linalg.norm(n)
    m = np.cross(n, u)
    t, w = np.deg2rad(180 - angle), np.deg2rad(torsion)
    return c + length * (np.cos(t) * u + np.sin(t) * (np.cos(w) * m + np.sin(w) * n))


def chain(size: int, phi: float = -57.0, psi: float = -47.0, shift: float = 0.0) -> np.ndarray:
    """Return N, CA, C, O of a regular chain, float32 [size, 4, 3]."""
    n, ca, c = np.zeros(3), np.array([1.458, 0, 0]), np.array([2.0, 1.42, 0])
    out = []
    for _ in range(size):
        following = place(n, ca, c, 1.329, 116.6, psi)
        out.append([n, ca, c, place(n, ca, c, 1.231, 120.4, psi + 180)])
        alpha = place(ca, c, following, 1.458, 121.7, 180.0)
        n, ca, c = following, alpha, place(c, following, alpha, 1.525, 111.0, phi)
    return np.array(out, np.float32) + shift


def pdb_line(
    serial: int, atom: str, alt: str, name: str, chain_: str, number: str, xyz: np.ndarray, occ: float = 1.0
) -> str:
    kind = "HETATM" if name in {"MSE", "HOH"} else "ATOM  "
    number = number if number[-1].isalpha() else number + " "
    at = "".join(f"{v:8.3f}" for v in xyz)
    head = f"{kind}{serial:5d}  {atom:<3s}{alt}{name} {chain_}{number:>5s}   "
    return f"{head}{at}{occ:6.2f}{20.0:6.2f}          {atom[0]:>2s}\n"


def pdb_text() -> str:
    """Return two chains: insertion codes, an alternative location, a gap, MSE, a CA-only residue, water."""
    a, b = chain(12), chain(6, -120, 130, shift=9.0)
    numbers = ["-1", "1", "2", "2A", "2B", "3", "4", "7", "8", "9", "10", "11"]
    text, serial = "", 1
    for i, (number, letter) in enumerate(zip(numbers, "ACDEFGHIKLMN", strict=True)):
        shift = 30.0 if i >= 7 else 0.0  # far away: two residues are missing between 4 and 7
        for j, atom in enumerate(("N", "CA", "C", "O")):
            if i == 11 and atom != "CA":
                continue
            name = "MSE" if letter == "M" else NAMES[letter]
            for alt, occ in (("A", 0.3), ("B", 0.7)) if i == 3 else ((" ", 1.0),):
                xyz = a[i, j] + shift + (5.0 if alt == "A" else 0.0)
                text += pdb_line(serial, atom, alt, name, "A", number, xyz, occ)
                serial += 1
    for i, letter in enumerate("WYVTSR"):
        for j, atom in enumerate(("N", "CA", "C", "O")):
            text += pdb_line(serial, atom, " ", NAMES[letter], "B", str(20 + i), b[i, j])
            serial += 1
    return text + pdb_line(serial, "O", " ", "HOH", "A", "90", np.zeros(3)) + "END\n"


@pytest.fixture
def pdb(tmp_path: Path) -> Path:
    path = tmp_path / "made.pdb"
    path.write_text(pdb_text())
    return path


def folder(seed: int = 0) -> InverseFolder:
    torch.manual_seed(seed)
    return InverseFolder(ProteinNet(CONFIG), SimpleNamespace(protein=CONFIG), name="made")


def made(count: int = 12) -> Backbones:
    """Return chains of two kinds whose letters follow from the kind, in clusters of two."""
    rng = np.random.default_rng(0)
    coords = [chain(20, *((-57, -47) if i % 2 else (-120, 130))) for i in range(count)]
    tokens = [np.where(rng.random(20) < 0.9, 9 if i % 2 else 17, 0) for i in range(count)]
    return Backbones([f"x{i}A" for i in range(count)], coords, [np.arange(20)] * count, tokens,
                     np.arange(count) // 2, np.full(count, 2.0))  # fmt: skip


def test_the_file_is_read_as_it_is(pdb: Path) -> None:
    s = read_structure(pdb)
    assert s.sequence == "ACDEFGHIKLM" + "WYVTSR"
    assert [r.label for r in s.residues][:6] == ["A-1", "A1", "A2", "A2A", "A2B", "A3"]
    assert s.left_out == (("A11", "ASN lacks N, C"),) and s.gaps == [("A4", "A7")]
    assert np.allclose(s.coords[3], chain(12)[3], atol=2e-3), "the likelier location"
    assert s.place[:11].tolist() == [0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12] and s.chain[-1] == 1
    assert read_structure(pdb, ["B"]).sequence == "WYVTSR"


def test_what_cannot_be_read_is_said(tmp_path: Path, pdb: Path) -> None:
    with pytest.raises(UsageError, match="no such chain"):
        read_structure(pdb, ["C"])
    with pytest.raises(DataError, match="neither PDB nor mmCIF"):
        read_structure(tmp_path / "x.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_structure(tmp_path / "absent.pdb")
    (tmp_path / "empty.pdb").write_text("HEADER\nEND\n")
    with pytest.raises(DataError):
        read_structure(tmp_path / "empty.pdb")


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_designs_come_back_renamed_and_in_place(pdb: Path, tmp_path: Path, suffix: str) -> None:
    s = read_structure(pdb)
    letters = "G" + s.sequence[1:]
    s.write(tmp_path / f"out{suffix}", letters, [0.25] * len(letters))
    back = read_structure(tmp_path / f"out{suffix}")
    assert back.sequence == letters and [r.label for r in back.residues] == [r.label for r in s.residues]
    assert np.allclose(back.coords, s.coords, atol=2e-3) and back.left_out == s.left_out
    atom = back.model["A"][(" ", 1, " ")]["CA"]
    assert atom.get_bfactor() == 25.0
    with pytest.raises(UsageError):
        s.write(tmp_path / "out.txt", letters, [1.0] * len(letters))


def test_selectors(pdb: Path) -> None:
    s = read_structure(pdb)
    names = [r.label for r in s.residues]
    assert [names[i] for i in select(s, "A1-3, B22,A-1")] == ["A-1", "A1", "A2", "A2A", "A2B", "A3", "B22"]
    assert len(select(s, "B")) == 6 and select(s, "A:2B").tolist() == [4]
    for wrong, why in [("A5", "no such residue"), ("C1", "no such chain"), ("1-3", "cannot be read"),
                       ("A3-1", "backwards"), ("A11", "lacks N, C"), ("A1-5", "nearest: A4")]:  # fmt: skip
        with pytest.raises(UsageError, match=why):
            select(s, wrong)


def test_the_table_and_the_rules(pdb: Path) -> None:
    s = read_structure(pdb)
    sites = choose(s, fix="A1-2B", letters={"B": "DE"}, exclude="CW")
    text = sites.table()
    assert "A1-2B" in text and "one of DE" in text and "none of CW" in text and "gap" in text and "left out" in text
    assert text.endswith("13 designed, 4 fixed, 1 left out")
    assert sites.allowed[1].sum() == 1, "a fixed cysteine stays although C is excluded"
    with pytest.raises(UsageError, match="both fixed and designed"):
        choose(s, fix="A1", design="A1-3")
    with pytest.raises(InfeasibleError, match="no letter is left"):
        choose(s, letters={"A3": "C"}, exclude="C")
    with pytest.raises(InfeasibleError, match="nothing is left"):
        choose(s, fix="A,B")
    with pytest.raises(UsageError, match="not one of the twenty"):
        choose(s, exclude="Z")


def test_designs_keep_the_rules_whatever_the_batch(pdb: Path) -> None:
    model = folder()
    rules = {"fix": "A1-2B", "letters": {"B": "DE"}, "exclude": "CW", "temperature": 1.0, "steps": 5}
    many = model.sample(6, pdb, **rules)
    assert many.violations() == [] and len(set(many.sequences)) == 6
    assert all(x[1:5] == "CDEF" and set(x[11:]) <= set("DE") for x in many.sequences)
    few = model.sample(2, pdb, **rules, index=np.array([4, 1]))
    assert few.sequences == [many.sequences[4], many.sequences[1]]
    broken = many.tokens.copy()
    broken[0, 1] = 0
    assert len(type(many)(many.sites, broken, many.confidence, {}, many.index).violations()) == 1


def test_designs_are_written(pdb: Path, tmp_path: Path) -> None:
    found = folder().sample(2, pdb, fix="A", steps=3, seed=7)
    lines = found.to_fasta(tmp_path / "x.fasta").splitlines()
    assert "seed=7" in lines[0] and "recovery=" in lines[0] and "/" in lines[1]
    paths = found.to_structures(tmp_path / "out")
    assert read_structure(paths[1]).sequence == found.sequences[1]
    same = f"{sys.executable} -c \"import sys, shutil; shutil.copy(r'{paths[0]}', sys.argv[2])\" {{fasta}} {{out}}"
    assert found.refold(same).max() < 1e-5
    with pytest.raises(UsageError, match="needs {out}"):
        found.refold("fold {fasta}")
    with pytest.raises(QuintetError, match="failed"):
        found.refold(f"{sys.executable} -c 'raise SystemExit(3)' {{fasta}} {{out}}")


def test_features_know_a_helix_and_no_direction() -> None:
    x = torch.from_numpy(chain(16))
    bonded = torch.from_numpy(joined(x.numpy()))
    node, bonds = geometry.node_features(x, bonded)
    phi = torch.rad2deg(torch.atan2(node[1:, 0], node[1:, 1]))
    psi = torch.rad2deg(torch.atan2(node[:-1, 2], node[:-1, 3]))
    assert torch.allclose(phi, torch.tensor(-57.0), atol=0.5) and torch.allclose(psi, torch.tensor(-47.0), atol=0.5)
    assert bonds[6].argmin() == 2 and bonds[6, 2] < -1.0, "i -> i - 4"
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turn = turn * torch.det(turn)
    zero = torch.zeros(16, dtype=torch.long)
    x = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))  # no ties among neighbours
    ours, moved = (graph(v, bonded, torch.arange(16), zero, 6) for v in (x, x @ turn.T + 3.0))
    assert torch.allclose(ours.node, moved.node, atol=1e-3) and torch.allclose(ours.edge, moved.edge, atol=1e-3)
    mirror = graph(x * torch.tensor([-1.0, 1, 1]), bonded, torch.arange(16), zero, 6)
    assert not torch.allclose(ours.node, mirror.node, atol=0.1)


def test_side_chains_have_the_shape_of_amino_acids() -> None:
    """Lengths, handedness of branches, flat and closed rings."""
    five = geometry.atoms(torch.from_numpy(chain(6)))
    n, ca, cb = five[:, 0], five[:, 1], five[:, 4]
    made = {kind: rotamers.built(kind, n, ca, cb) for kind in rotamers.KINDS}
    assert all(v.shape[1] == len(rotamers.TURNED[k]) and bool(v.isfinite().all()) for k, v in made.items())

    def chi(atom: torch.Tensor) -> torch.Tensor:
        return torch.rad2deg(torch.atan2(*geometry.dihedral(n, ca, cb, atom).unbind(-1)))

    for kind, shift in (("V", 122.0), ("T", -120.0), ("I", -122.0)):
        for r, (first, *_) in enumerate(rotamers.TURNED[kind]):
            atoms = made[kind][:, r]
            turn = (chi(atoms[:, 1]) - chi(atoms[:, 0]) - shift + 180) % 360 - 180
            off = (chi(atoms[:, 0]) - first + 180) % 360 - 180
            assert float(turn.abs().max()) < 0.5 and float(off.abs().max()) < 0.5
    ring = made["F"][:, :, [0, 1, 3, 5, 4, 2]]  # CG CD1 CE1 CZ CE2 CD2
    sides = (ring - ring.roll(1, 2)).norm(dim=-1)
    assert float((sides - 1.39).abs().max()) < 0.05
    flat = torch.linalg.svdvals(ring - ring.mean(2, keepdim=True))[..., 2]
    assert float(flat.max()) < 0.05
    assert float(((made["W"][:, :, 7] - made["W"][:, :, 8]).norm(dim=-1) - 1.4).abs().max()) < 0.1


def test_what_stands_in_the_way_is_felt() -> None:
    x = torch.from_numpy(chain(12))
    alone = rotamers.fits(x).view(12, len(rotamers.KINDS), 5)
    middle = geometry.atoms(x)[5, 4] - x[5, 1]
    crowded = rotamers.fits(torch.cat([x, x + 5.5 * middle / middle.norm()]))[:12].view(12, len(rotamers.KINDS), 5)
    large, small = rotamers.KINDS.index("W"), rotamers.KINDS.index("S")
    assert crowded[5, large, 0] > alone[5, large, 0] + 1.0, "it clashes"
    assert crowded[5, large, 0] > crowded[5, small, 0] and crowded[5, small, 3] > alone[5, small, 3]
    assert rotamers.fits(x[:1]).shape == (1, rotamers.ROTAMERS)


def test_only_known_letters_are_told() -> None:
    net, g = ProteinNet(CONFIG).eval().members[0], chain_graph(made(), 1, 4)
    h, e = net.encode(g)  # type: ignore[operator]
    blank = torch.full((20,), 20)
    assert not bool(net.told(h, e, g.index, blank).any())  # type: ignore[operator]
    one = blank.clone()
    one[7] = 3
    heard = net.told(h, e, g.index, one).abs().sum(-1) > 0  # type: ignore[operator]
    assert set(heard.nonzero()[:, 0].tolist()) == set(g.index[1][g.index[0] == 7].tolist())


def test_near_copies_are_left_out() -> None:
    data = made(4)
    assert distinct(data).sum() <= 4 and distinct(data)[[0, 2]].all()
    twins = dataclasses.replace(data, tokens=[data.tokens[0]] * 4, resolution=np.array([2.0, 1.0, np.nan, 3.0]))
    assert distinct(twins).tolist() == [False, True, False, True]


def test_laws_at_corners_are_tokens_and_graphs_do_not_mix() -> None:
    data, net = made(), ProteinNet(CONFIG).eval()
    first, second = (chain_graph(data, i, 6) for i in (0, 1))
    model = Conditioned([net.members[0]], first)  # type: ignore[list-item]
    x = torch.randint(0, 21, (3, 20), generator=torch.Generator().manual_seed(1))
    hot = torch.nn.functional.one_hot(x, 21).float().requires_grad_()
    assert torch.allclose(model(x), model(hot), atol=1e-5)
    model(hot).sum().backward()
    assert hot.grad is not None and hot.grad.abs().sum() > 0
    both = net(join([first, second]), torch.cat([x[0], x[1]]), 0)
    assert torch.allclose(both[:20], net(first, x[0], 0), atol=1e-5)


def test_folds_keep_clusters_and_members_are_blind() -> None:
    data = made()
    task = FoldingTask(CONFIG, 0, data)
    which = folds(data, 3)
    assert all(len(set(which[data.cluster == c])) == 1 for c in set(data.cluster)) and set(which) == {0, 1, 2}
    for member in (0, 1):
        assert {int(which[i]) for rows in task.chains(member).values() for i in rows} == {2 - member}
    more = FoldingTask(dataclasses.replace(CONFIG, whole=1), 0, data)
    assert {int(which[i]) for rows in more.chains(2).values() for i in rows} == {1, 2}, "all but the test fold"
    assert [more.batch(step, 0, 1).member for step in range(4)] == [0, 1, 2, 0] and len(more.module().members) == 3
    one, two = task.batch(3, 0, 1), task.batch(3, 0, 1)
    assert one.member == 1 and torch.equal(one.x_t, two.x_t) and torch.equal(one.graph.edge, two.graph.edge)
    assert torch.equal((one.weight > 0), one.x_t == 20) and one.weight.sum() == pytest.approx(1.0, abs=1e-5)


def test_training_learns_what_follows_from_the_backbone() -> None:
    task = FoldingTask(CONFIG, 0, made())
    torch.manual_seed(0)
    net = task.module()
    with torch.no_grad():
        before = task.validate(net.eval(), 0)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    for step in range(80):
        loss, _ = task.loss(net.train(), task.batch(step, 0, 1), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = task.validate(net.eval(), 0)
    assert after["recovery"] > 0.7 > before["recovery"] and after["loss"] < 1.0 < before["loss"]


def test_scores_prefer_what_was_learned_and_refuse_other_lengths(pdb: Path) -> None:
    model, s = folder(), read_structure(pdb)
    assert model.score(s, [s.sequence, "A" * 17]).shape == (2,)
    with pytest.raises(UsageError, match="differs"):
        model.score(s, ["AAA"])


def test_superposition_and_places() -> None:
    a = chain(10)[:, 1]
    assert superposed(a + 4.0, a) < 1e-4 and superposed(a * 1.5, a) > 0.5
    assert places(np.array([5, 6, 9, 9]), np.array([False, True, False, False])).tolist() == [0, 1, 4, 5]


@real
def test_real_files_round_trip(tmp_path: Path) -> None:
    for path in sorted((REAL / "pdb").iterdir())[::4]:
        try:
            s = read_structure(path)
        except DataError:
            assert path.name == "1LRP.pdb", "CA only"
            continue
        s.write(tmp_path / "x.pdb", s.sequence, [1.0] * len(s.residues))
        back = read_structure(tmp_path / "x.pdb")
        assert [r.label for r in back.residues] == [r.label for r in s.residues] and back.sequence == s.sequence
        assert np.abs(back.coords - s.coords).max() < 2e-3


@real
def test_pdb_and_mmcif_agree() -> None:
    a, b = (read_structure(REAL / "pdb" / f"1A8O.{kind}") for kind in ("pdb", "cif"))
    assert a.sequence == b.sequence and [r.label for r in a.residues] == [r.label for r in b.residues]
    assert read_structure(REAL / "pdb/1LVE.pdb").residues[32].label == "A27F"


@real
def test_real_backbones_are_split_by_cluster() -> None:
    data = read_backbones(REAL)
    which = folds(data, 6)
    assert len(data) == len(which) > 600
    assert all(len(set(which[data.cluster == c])) == 1 for c in set(data.cluster))
    with pytest.raises(DataError, match="cannot be read"):
        read_backbones(REAL / "absent")


@pytest.mark.parametrize("way", ["", "smc", "svdd"])
def test_designs_on_a_backbone_are_steered(pdb: Path, tmp_path: Path, way: str) -> None:
    reward, out = compose(["gravy()"], AMINO), tmp_path / "x.json"
    words: dict[str, Any] = {"rules": {"keep": ["A1-2B"]}, "template": pdb, "n": 8, "steps": 4, "temperature": 1.0}

    def values() -> np.ndarray:
        letters = [d["sequence"] for d in json.loads(out.read_text())["designs"]]
        return reward.score(torch.from_numpy(Tokenizer(AMINO).encode(letters))).double().numpy()

    folder().design(**words, out=out)
    free = values().mean()
    done = folder().design(**words, out=out, reward=reward, steering=way)
    assert done is not None and done["violations"] == 0
    assert done["gravy"] == pytest.approx(values().mean()) and done["gravy"] > free
    assert [d["gravy"] for d in json.loads(out.read_text())["designs"]] == pytest.approx(values().tolist())
    assert folder().design(**words, out=out, reward=reward, steering="gilc")  # asks for gradients
    with pytest.raises(UsageError, match="no such steering"):
        folder().design(**words, reward=reward, steering="smq")


def test_a_folding_program_is_asked_on_the_command_line(pdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = f'{sys.executable} -c "import shutil,sys;shutil.copy(sys.argv[1],sys.argv[3])" {pdb} {{fasta}} {{out}}'
    folder().design(rules={}, template=pdb, n=2, steps=2, fold=copy)
    out = capsys.readouterr().out
    assert out.count(" ca_rmsd=0.0000") == 2  # the program gives back the very backbone


def test_the_command_line_prints_the_table_first(pdb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = {"keep": ["A1-2B"], "fix": ["B:DE"], "alphabet": "ADEKLS"}
    done = folder().design(rules=rules, template=pdb, n=2, out=tmp_path / "out", steps=3)
    assert done is not None and done["designs"] == 2 and "13 designed, 4 fixed" in capsys.readouterr().err
    assert set(read_structure(tmp_path / "out/made_0001.pdb").sequence[11:]) <= set("DE")
    assert folder().design(rules={}, template=pdb, n=1, steps=2) is None and capsys.readouterr().out.startswith(">made")
    words = {"means nothing": {"gc": ["0.4-0.6"]}, "fix: cannot be read": {"fix": ["5"]}, "keep: ": {"keep": ["1-2"]}}
    for why, wrong in words.items():
        with pytest.raises(UsageError, match=why):
            folder().design(rules=wrong, template=pdb)
    with pytest.raises(UsageError, match="on a structure"):
        folder().design(rules={}, template=None)
