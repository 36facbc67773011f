"""Rules of proteins: what contradicts is refused, and a file says alone which letters were allowed where."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from apps.bio import audit
from apps.bio.design import design
from apps.bio.expressions import compose
from apps.bio.protein.sites import choose, select
from apps.bio.protein.structure import read_structure
from apps.bio.records import read
from core.errors import DataError, InfeasibleError, UsageError
from tests.apps.test_bio_protein import NAMES, chain, folder, pdb_line, pdb_text


@pytest.fixture
def pdb(tmp_path: Path) -> Path:
    (path := tmp_path / "made.pdb").write_text(pdb_text())
    return path


def test_letters_that_a_kept_residue_contradicts_are_refused(pdb: Path) -> None:
    structure = read_structure(pdb)
    native = structure.residues[0]
    assert choose(structure, fix=native.label, letters={native.label: native.letter}).fixed.sum() == 1
    with pytest.raises(InfeasibleError, match=f"{native.label} keeps {native.letter}.*contradict"):
        choose(structure, fix=native.label, letters={native.label: "W"})


@pytest.mark.parametrize("form", ["fasta", "tsv", "json"])
def test_a_file_of_proteins_is_audited_alone(pdb: Path, tmp_path: Path, form: str) -> None:
    """Both chains, kept letters, and classes of letters."""
    found = folder().sample(2, pdb, fix="A", letters={"B20": "DE"}, exclude="CMW", steps=3, seed=7)
    path = tmp_path / f"x.{form}"
    text = getattr(found, f"to_{form}")()
    path.write_text(text)
    assert audit.audit([path], rules={})["violations"] == 0
    words = ["/".join(found.sites.structure.by_chain(s).values()) for s in found.sequences]
    for word in words if form != "json" else found.sequences:
        text = text.replace(word, "W" + word[1:])
    path.write_text(text)
    with pytest.raises(DataError, match="2 violations of 1 rules"):
        audit.audit([path], rules={})


def twins(first: str, second: str, apart: bool) -> str:
    """Return five residues as PDB; at 3 two stand, the second the likelier, their atoms in turn unless `apart`."""
    text, xyz = "", chain(5)
    for i, letter in enumerate("ACDEF"):
        here = ((first, "A", 0.3), (second, "B", 0.7)) if i == 2 else ((NAMES[letter], " ", 1.0),)
        rows = [(atom, one) for atom in range(4) for one in here]
        for j, (name, alt, share) in sorted(rows, key=lambda row: here.index(row[1])) if apart else rows:
            atom = ("N", "CA", "C", "O")[j]
            text += pdb_line(len(text) // 80 + 1, atom, alt, name, "A", str(i + 1), xyz[i, j], share)
    return text + "END\n"


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(("first", "second"), [("MET", "MSE"), ("MSE", "MET"), ("ARG", "VAL")])
def test_of_two_residues_at_one_place_the_likelier_is_read_and_written(
    tmp_path: Path, first: str, second: str, apart: bool, suffix: str
) -> None:
    (path := tmp_path / "twins.pdb").write_text(twins(first, second, apart))
    found = read_structure(path)
    assert found.sequence == "AC" + {"VAL": "V"}.get(second, "M") + "EF" and found.residues[2].name == second
    found.write(tmp_path / f"out{suffix}", "AAAAA", [0.5] * 5)
    back = read_structure(tmp_path / f"out{suffix}")
    assert back.sequence == "AAAAA" and back.left_out == () and [r.number for r in back.residues] == [1, 2, 3, 4, 5]


def test_prolines_have_no_amide_hydrogen_and_glycines_two_at_alpha(tmp_path: Path) -> None:
    atoms = ("N", "CA", "C", "O", "CB", "H", "HA")
    text = "".join(
        pdb_line(7 * i + j, a, " ", "ALA", "A", str(i + 1), chain(3)[i, j % 4] + j // 4)
        for i in range(3) for j, a in enumerate(atoms)
    )  # fmt: skip
    (path := tmp_path / "h.pdb").write_text(text + "END\n")
    read_structure(path).write(tmp_path / "out.pdb", "PGS", [1.0] * 3)
    held = [{a.id for a in r} for r in read_structure(tmp_path / "out.pdb").model["A"]]
    assert held == [set(atoms) - {"H"}, set(atoms) - {"CB", "HA"}, set(atoms)]


def test_rules_about_the_same_residues_all_hold(pdb: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.fasta"
    folder().design(rules={"fix": ["B20:DEK", "B20:KE", "B20:ew"]}, template=pdb, n=6, steps=2, out=out)
    assert {line.split("/")[1][0] for line in out.read_text().splitlines()[1::2]} == {"E"}
    with pytest.raises(InfeasibleError, match="no letter is left"):
        folder().design(rules={"fix": ["B20:DE", "B20:K"]}, template=pdb, n=1, steps=2)
    with pytest.raises(UsageError, match="not one of the twenty"):
        folder().design(rules={"fix": ["B20:Z"]}, template=pdb, n=1, steps=2)


def test_a_folder_of_structures_holds_long_names_of_chains(pdb: Path, tmp_path: Path) -> None:
    structure = read_structure(pdb)
    text = structure.render(".cif", structure.sequence, [1.0] * len(structure.residues))
    (path := tmp_path / "long.cif").write_text(text.replace(" A 1 \n", " AA 1 \n"))
    folder().design(rules={"keep": ["AA:1-3"]}, template=path, n=1, steps=2, out=tmp_path / "out")
    assert read_structure(tmp_path / "out/long_0000.cif").residues[0].chain == "AA"


def test_files_with_blanks_in_their_names_keep_designs_apart(pdb: Path, tmp_path: Path) -> None:
    (path := tmp_path / "my protein.pdb").write_text(pdb.read_text())
    folder().design(rules={"keep": ["A1, B20"]}, template=path, n=2, steps=2, out=(out := tmp_path / "x.fasta"))
    entries = read(out)
    assert [e.name for e in entries] == ["my_protein.pdb_0", "my_protein.pdb_1"]
    assert all("score" in e.scores and e.manifest["structure"] == "my protein.pdb" for e in entries)


def test_a_file_in_the_place_of_a_folder_is_refused_before_anything_is_drawn(
    pdb: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UsageError, match="out: is a file"):
        folder().design(rules={}, template=pdb, n=1, steps=2, out=tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine" and capsys.readouterr().err == ""


def test_a_chain_without_a_name_is_selected_too(pdb: Path, tmp_path: Path) -> None:
    """As programs that simulate write it."""
    lines = [f"{line[:21]} {line[22:]}" if line[21:22] == "B" else line for line in pdb.read_text().splitlines()]
    (path := tmp_path / "bare.pdb").write_text("\n".join(lines) + "\n")
    structure = read_structure(path)
    mine = [i for i, r in enumerate(structure.residues) if r.chain == " "]
    assert structure.residues[mine[0]].label == ":20" and len(mine) == 6
    for text, rows in ((":", mine), (":20-22", mine[:3]), (":20-:22, :25", [*mine[:3], mine[5]])):
        assert select(structure, text).tolist() == rows
    assert select(structure, "A1").tolist() == select(read_structure(pdb), "A1").tolist()
    with pytest.raises(UsageError, match="no such residue in bare.pdb; got ':29'; nearest: :25, :24, :23"):
        select(structure, ":29")
    out = tmp_path / "out"
    folder().design(rules={"keep": [":20-21"]}, template=path, n=1, steps=2, out=out)
    made = read_structure(out / "bare_0000.pdb")
    assert [made.residues[i].letter for i in mine[:2]] == [structure.residues[i].letter for i in mine[:2]]


def hetero(name: str, chain_: str, number: str, atoms: tuple[str, ...] = ("N", "CA", "C", "O")) -> str:
    """Return a molecule far away as HETATM lines."""
    rows = [pdb_line(90 + j, a, " ", name, chain_, number, chain(1)[0, j] + 40) for j, a in enumerate(atoms)]
    return "".join("HETATM" + row[6:] for row in rows)


def test_amino_acids_that_are_ligands_are_no_residues(pdb: Path, tmp_path: Path) -> None:
    """Glutamate in the pocket of its receptor."""
    (path := tmp_path / "lig.pdb").write_text(pdb.read_text().replace("END\n", hetero("GLU", "B", "301") + "END\n"))
    found = read_structure(path)
    assert found.sequence == read_structure(pdb).sequence
    assert ("B301", "GLU is bonded to no residue: a ligand") in found.left_out
    found.write(tmp_path / "out.pdb", found.sequence, [1.0] * len(found.residues))
    assert " GLU B 301 " in (tmp_path / "out.pdb").read_text()


@pytest.mark.parametrize(("old", "new"), [(" L 1 \n", " LIG 1 \n"), (" XYZ ", " A1AAB "), (" 301 ", " 10301 "),
                                          (" 40.000 ", " -1040.000 "), ("HETATM ", "HETATM 1000")])  # fmt: skip
def test_what_pdb_cannot_hold_is_written_as_mmcif(pdb: Path, tmp_path: Path, old: str, new: str) -> None:
    """Names and numbers of a ligand too: its columns would shift."""
    ligand = hetero("XYZ", "L", "301", ("C1", "C2"))
    (path := tmp_path / "lig.pdb").write_text(pdb.read_text().replace("END\n", ligand + "END\n"))
    structure = read_structure(path)
    assert structure.unfit == ""
    text = structure.render(".cif", structure.sequence, [1.0] * len(structure.residues))
    rows = [row.replace(old, new) if " XYZ " in row else row for row in text.splitlines(keepends=True)]
    (cif := tmp_path / "odd.cif").write_text("".join(rows))
    folder().design(rules={}, template=cif, n=1, steps=2, out=tmp_path / "out")
    assert len(read_structure(tmp_path / "out/odd_0000.cif").residues) == len(structure.residues)
    with pytest.raises(UsageError, match="PDB has .*write .cif"):
        read_structure(cif).render(".pdb", structure.sequence, [1.0] * len(structure.residues))


def test_of_two_residues_at_one_place_the_whole_one_is_renamed_alone(tmp_path: Path) -> None:
    """Of the MET beside MSE the file has a side chain only; a water of the same number stays."""
    xyz, text = chain(5), ""
    for i, letter in enumerate("ACMEF"):
        name = "MSE" if letter == "M" else NAMES[letter]
        for j, a in enumerate(("N", "CA", "C", "O")):
            text += pdb_line(4 * i + j + 1, a, "A" if letter == "M" else " ", name, "A", str(i + 1), xyz[i, j], 0.6)
    text += pdb_line(30, "CB", "B", "MET", "A", "3", xyz[2, 1] + 1.5, 0.4) + pdb_line(
        31, "O", " ", "HOH", "A", "3", xyz[0, 0] + 9
    )
    (path := tmp_path / "twins.pdb").write_text(text + "END\n")
    found = read_structure(path)
    found.write(tmp_path / "out.pdb", "WWWWW", [0.5] * 5)
    back = read_structure(tmp_path / "out.pdb")
    assert back.sequence == "WWWWW" and back.left_out == () and "HOH A   3" in (tmp_path / "out.pdb").read_text()


def test_insertion_codes_may_be_small_letters(pdb: Path, tmp_path: Path) -> None:
    (path := tmp_path / "small.pdb").write_text(pdb.read_text().replace("A   2B", "A   2b"))
    structure = read_structure(path)
    assert select(structure, "A2a-2b").tolist() == [3, 4] and select(structure, "A2b").tolist() == [4]


def test_a_file_tells_the_reward_that_it_was_steered_to(pdb: Path, tmp_path: Path) -> None:
    """With its arguments, for a name does not have them."""
    reward, out = ["gravy() = 0.5", "charge()"], tmp_path / "x.fasta"
    more: Any = {"rules": {}, "template": pdb, "n": 1, "settings": {"steps": 2}, "out": out}
    design("protein", reward=reward, steering="svdd", options={"alpha": 0.3, "asks": 1}, **more)
    told = read(out)[0].manifest
    assert {k: told[k] for k in ("reward", "steering", "alpha", "asks")} == {
        "reward": ["gravy() = 0.5", "charge()"], "steering": "svdd", "alpha": 0.3, "asks": 1
    }  # fmt: skip
    design("toy", rules={}, n=1, reward=["gc(0.8, 0.9)"], settings={"steps": 2}, out=out)
    assert read(out)[0].manifest["reward"] == ["gc(0.8, 0.9)"]
    model, aim = folder(), compose(["gravy()"])
    assert model.sample(1, pdb, steps=2, reward=aim).manifest["steering"] == "best-of-n"
    assert "reward" not in model.sample(1, pdb, steps=2).manifest


def test_a_trace_of_alpha_carbons_is_no_backbone(tmp_path: Path) -> None:
    text = "".join(pdb_line(i + 1, "CA", " ", "ALA", "A", str(i + 1), chain(5)[i, 1]) for i in range(5))
    (path := tmp_path / "trace.pdb").write_text(text + "END\n")
    with pytest.raises(DataError, match="holds no residue with N, CA and C"):
        read_structure(path)


@pytest.mark.parametrize("name", ["A-2", "_", "A.b", "12"])
def test_chains_of_assemblies_are_selected(pdb: Path, tmp_path: Path, name: str) -> None:
    """As they are named where a file holds copies of a chain; what the table says can be asked for."""
    structure = read_structure(pdb)
    text = structure.render(".cif", structure.sequence, [1.0] * len(structure.residues))
    (path := tmp_path / "copies.cif").write_text(text.replace(" B 1 \n", f" {name} 1 \n"))
    found = read_structure(path)
    assert select(found, f"{name}:20-22,A1").tolist() == select(structure, "B20-22,A1").tolist()
    assert select(found, f"{name}:").tolist() == select(structure, "B").tolist()
    assert select(found, f"{name}:20-{name}:21").tolist() == select(structure, "B20-21").tolist()
    assert all(select(found, r.label).tolist() == [i] for i, r in enumerate(found.residues))


def test_files_of_other_programs_are_read(pdb: Path, tmp_path: Path) -> None:
    """Letters of other codes in remarks, names in capitals."""
    text = b"REMARK   1 AUTHOR  M\xfcller\r\n" + pdb.read_bytes().replace(b"\n", b"\r\n")
    (plain := tmp_path / "X.PDB").write_bytes(text)
    (packed := tmp_path / "X.PDB.GZ").write_bytes(gzip.compress(text))
    assert read_structure(plain).sequence == read_structure(packed).sequence == read_structure(pdb).sequence
