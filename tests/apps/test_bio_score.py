"""What `score` and `report` say of files as users have them: RNA, names with tabs, rewards of one name, many runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from apps.bio.expressions import compose
from apps.bio.manifest import header
from apps.bio.records import read
from apps.bio.report import complexity, differences, report
from apps.bio.score import columns, score
from core.errors import DataError, UsageError
from tests.apps.test_bio_protein import folder, pdb_text


def scored(path: Path, text: str, *reward: str) -> list[list[str]]:
    path.write_text(text)
    score([path], reward=list(reward), out=path.with_suffix(".out"))
    return [line.split("\t") for line in path.with_suffix(".out").read_text().splitlines()]


def test_rewards_that_share_a_name_have_a_column_each(tmp_path: Path) -> None:
    head, row = scored(tmp_path / "a.fasta", ">x\nGGGGA\n", "gc(0.4, 0.6)", "gc(0.1,  0.2)", "tm()")
    assert head == ["name", "length", "gc(0.4, 0.6)", "gc(0.1, 0.2)", "tm"]
    assert [float(v) for v in row[2:4]] == pytest.approx([-0.2, -0.6])
    (twice,) = columns(["GGGGA"], ["gc(0.4, 0.6)"] * 2, "", 0).values()
    assert twice == pytest.approx([-0.2])


def test_rna_is_read_as_dna(tmp_path: Path) -> None:
    both = [scored(tmp_path / "a.fasta", f">x\n{s}\n", "tm()", "gc()")[1] for s in ("GAUUACAGC", "gattacagc")]
    assert both[0] == both[1]


def test_nothing_is_scored_below_nothing(tmp_path: Path) -> None:
    assert scored(tmp_path / "a.fasta", ">x\nACGT\n", "gc(0.4, 0.6)")[1][2] == "0"


def test_a_reference_of_rna_is_compared_as_dna(tmp_path: Path) -> None:
    letters = ["ACGTTGCATTACGGATTACA", "TTGACAGGCTAACGTTAGCC"]
    for name, words in (("a", letters), ("b", [x.replace("T", "U") for x in letters])):
        (tmp_path / f"{name}.fasta").write_text("".join(f">{i}\n{x}\n" for i, x in enumerate(words)))
    pages = []
    for of in ("a", "b"):
        report([tmp_path / "a.fasta"], reference=tmp_path / f"{of}.fasta", out=tmp_path / "r.html")
        pages.append(re.sub("<svg.*?</svg>|<[^>]*>", "", (tmp_path / "r.html").read_text(), flags=re.S))
    assert pages[0] == pages[1]


def test_sequences_of_several_lengths_are_compared_by_their_own() -> None:
    words = ["AAAA", "TTTT", "AATT", "ACGTACGT"]
    assert differences(words, words).tolist() == [[0, 1, 0.5, 1], [1, 0, 0.5, 1], [0.5, 0.5, 0, 1], [1, 1, 1, 0]]
    assert complexity(["ACGT"], 6) == 1 and complexity(["ACACACAC"], 3) == pytest.approx(1 / 3)


def test_peptides_that_are_spelt_like_dna_are_told_by_their_rewards(tmp_path: Path) -> None:
    text = ">x\nGAGATN\n>y\nCCC\n"
    head, *rows = scored(tmp_path / "a.fasta", text, "gravy()", "0.5 * charge() + gravy()")
    assert head[2] == "gravy" and [float(r[2]) for r in rows] == pytest.approx([-0.2333333, 2.5], abs=1e-4)
    with pytest.raises(UsageError, match="gravy"):  # both at once is a mistake
        scored(tmp_path / "a.fasta", text.replace("N", ""), "gravy()", "gc()")


def test_a_name_never_moves_the_columns(tmp_path: Path) -> None:
    rows = scored(tmp_path / "a.fasta", ">x\tone two\nACGT\n>y\nACGT\n", "gc()")
    assert [r[0] for r in rows] == ["name", "x", "y"] and {len(r) for r in rows} == {3}
    records = {"records": [{"name": "x\ty\nz", "sequence": "ACGT"}]}
    assert scored(tmp_path / "a.json", json.dumps(records), "gc()")[1][:2] == ["x y z", "4"]


@pytest.mark.parametrize(("letters", "wrong"), [("ACGNT", "N"), ("ACGUX", "U")])
def test_a_letter_that_cannot_be_scored_is_named(tmp_path: Path, letters: str, wrong: str) -> None:
    with pytest.raises(DataError, match=f"third holds a letter that is .*; got '{wrong}'"):
        scored(tmp_path / "a.fasta", f">first\nAC\n>second\nACGTA\n>third\n{letters}\n", "gc()")


def test_a_report_shows_every_manifest_and_price(tmp_path: Path) -> None:
    about = [{"model": "toy", "seed": 1, "nats": {"forbid BsaI": 0.25}}, {"model": "mine", "nats": {"gc 0-1": 1.5}}, {}]
    for i, entries in enumerate(about):
        (tmp_path / f"{i}.fasta").write_text("".join(f">x{i}{k} {header({}, entries)}\nACGTACGTAA\n" for k in "ab"))
    files = [tmp_path / f"{i}.fasta" for i in (2, 0, 1)]
    report(files, out=tmp_path / "r.html")
    page = re.sub("<[^>]*>|\\s+", " ", (tmp_path / "r.html").read_text())
    for words in ("model +toy", "model +mine", "Manifest: 2 from x0a on", "Manifest: 2 from x1a on", "gc 0-1 +1.5",
                  "it: 2 from x1a on"):  # fmt: skip
        assert re.search(words, page), words
    report(files[1:2], out=tmp_path / "r.html")
    assert " from x" not in (tmp_path / "r.html").read_text()


def test_designs_of_several_chains_are_scored_and_reported_as_they_were_steered(tmp_path: Path) -> None:
    (pdb := tmp_path / "made.pdb").write_text(pdb_text())
    path, aim = tmp_path / "x.fasta", compose(["gravy()"], "ACDEFGHIKLMNPQRSTVWY")
    folder().design(rules={}, template=pdb, n=3, steps=2, reward=aim, out=path)
    entries = read(path)
    assert all("/" in e.sequence for e in entries)
    score([path], reward=["gravy()"], out=tmp_path / "x.tsv")
    rows = [line.split("\t") for line in (tmp_path / "x.tsv").read_text().splitlines()[1:]]
    assert [(int(r[1]), round(float(r[2]), 3)) for r in rows] == [(17, round(e.scores["gravy"], 3)) for e in entries]
    report([path], reward=["gravy()"], out=tmp_path / "x.html")
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", (tmp_path / "x.html").read_text())
    assert cells[cells.index("designs") + 3] == "17"
