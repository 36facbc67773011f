"""Rules of proteins: what contradicts is refused, and a file says alone which letters were allowed where."""

from __future__ import annotations

from pathlib import Path

import pytest

from apps.bio import audit
from apps.bio.protein.sites import choose
from apps.bio.protein.structure import read_structure
from core.errors import DataError, InfeasibleError
from tests.apps.test_bio_protein import folder, pdb_text


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
