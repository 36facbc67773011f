"""Files in and out: nothing is lost, untouched letters and features survive, malformed files are refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.bio.genbank import inserted, template
from apps.bio.manifest import header, parse_header
from apps.bio.records import Designs, read, read_fasta, read_fastq, read_genbank
from core.errors import DataError, QuintetError, UsageError

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "bio" / "genbank"
FILES = ["pBAD30.gb", "addgene-plasmid-39296-sequence-49545.gbk", "cor6_6.gb", "iro.gb"]
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def real(name: str) -> Path:
    if not (REAL / name).is_file():
        pytest.skip("the real GenBank files are not here")
    return REAL / name


def made(n: int = 5) -> Designs:
    x = torch.randint(0, 4, (n, 90), generator=torch.Generator().manual_seed(0))
    letters = ["".join("ACGT"[v] for v in row) for row in x.tolist()]
    out = Designs.of(letters, x, {"model": "toy", "seed": 3, "rules": {"forbid": ["BsaI"]}, "note": "two words"})
    out.scores = {"gc": np.linspace(0, 1, n), "nats": -np.arange(n, dtype=float)}
    return out


@pytest.mark.parametrize("suffix", [".fasta", ".tsv", ".json"])
def test_designs_come_back(tmp_path: Path, suffix: str) -> None:
    designs = made()
    designs.write(tmp_path / f"x{suffix}")
    back = read(tmp_path / f"x{suffix}")
    assert [e.sequence for e in back] == designs.sequences and [e.name for e in back] == designs.names
    assert all(e.manifest == designs.manifest for e in back)
    assert [e.scores["gc"] for e in back] == pytest.approx(designs.scores["gc"].tolist())


def test_a_header_says_nothing_of_minus_nothing() -> None:
    assert header({"gc": -0.0}, {}) == "gc=0"


def test_json_says_null_where_a_score_is_no_number(tmp_path: Path) -> None:
    def refused(word: str) -> None:
        raise AssertionError(word)

    designs = made(2)
    designs.scores = {"table": np.array([-np.inf, 1.0])}
    designs.manifest["nats"] = {"forbid BsaI": np.inf}
    designs.write(tmp_path / "x.json")
    json.loads((tmp_path / "x.json").read_text(), parse_constant=refused)
    assert [e.scores for e in read(tmp_path / "x.json")] == [{}, {"table": 1}]


def test_genbank_of_designs_alone(tmp_path: Path) -> None:
    designs = made(2)
    designs.notes = [[(1, 10, "motif: TATAWAW")], []]
    designs.write(tmp_path / "x.gb")
    first, second = read_genbank(tmp_path / "x.gb")
    assert str(first.seq) == designs.sequences[0] and len(second.features) == 0
    assert "TATAWAW" in first.features[0].qualifiers["note"][0] and first.features[0].location.end == 10
    assert "manifest=" in first.annotations["comment"].replace("\n", "")


def test_genbank_gives_back_names_scores_and_manifest(tmp_path: Path) -> None:
    """In a template too, whose own comment stays and whose identity no design keeps."""
    from Bio.Seq import Seq
    from Bio.SeqRecord import SeqRecord

    designs = made(2)
    for place in (None, SeqRecord(Seq("A" * 90), id="X1.1", name="X1", annotations={"comment": "by k=3 hands"})):
        if place is not None:
            designs.template = template(place, np.ones(90, bool))
        designs.write(tmp_path / "x.gb")
        back = read(tmp_path / "x.gb")
        names = designs.names if place is None else [f"X1_{name}" for name in designs.names]
        assert [e.name for e in back] == names and all(e.manifest == designs.manifest for e in back)
        assert [e.scores for e in back] == [pytest.approx(designs.score_of(i), rel=1e-5) for i in range(2)]
    text = (tmp_path / "x.gb").read_text()
    (tmp_path / "x.gb").write_text(text.replace('{"model":', '{"mo\n            del":'))  # as other programs wrap it
    assert read(tmp_path / "x.gb")[1].manifest == designs.manifest and "by k=3 hands" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.fa", ">x\n\n>y\nACG\n"), ("a.tsv", "name\tsequence\nx\t\ny\tACG\n"), ("a.fastq", "@x\n\n+\n\n"),
     ("a.json", '{"records": [{"name": "x", "sequence": ""}]}')],
)  # fmt: skip
def test_a_record_without_letters_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name}: a record has no letters; got 'x'"):
        read(tmp_path / name)


def test_rows_of_a_table_may_have_numbers_for_names(tmp_path: Path) -> None:
    (path := tmp_path / "a.tsv").write_text('# {"seed": 3}\n# by hand\nname\tsequence\n#1\tACGT\nb\tTT\n')
    assert [(e.name, e.sequence, e.manifest) for e in read(path)] == [
        ("#1", "ACGT", {"seed": 3}),
        ("b", "TT", {"seed": 3}),
    ]


def test_a_table_may_hold_whole_genomes_and_loses_no_row(tmp_path: Path) -> None:
    """Python's own limit is 131072 letters; quotes that are not closed would take the rows below in."""
    (path := tmp_path / "a.tsv").write_text("name\tsequence\nbig\t" + "ACGT" * 40_000 + '\nd"\tACG\n')
    assert [(e.name, len(e.sequence)) for e in read(path)] == [("big", 160_000), ('d"', 3)]
    path.write_text('name\tsequence\n"odd\tACGT\nb"x\tAC\nc\tACGG\n')
    with pytest.raises(DataError, match="quotes are not closed"):
        read(path)


@QUICK
@given(
    scores=st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.floats(-1e6, 1e6), max_size=3),
    entries=st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=20) | st.integers(), max_size=4),
)
def test_headers_come_back(scores: dict, entries: dict) -> None:
    text = header(scores, entries)
    assert "\n" not in text
    back, manifest = parse_header(text)
    assert manifest == entries and back == pytest.approx(scores, rel=1e-5)


@QUICK
@given(text=st.text(max_size=200) | st.text(alphabet='>@+ACGT!\n\t{}"', max_size=200))
def test_any_text_is_read_or_refused(tmp_path: Path, text: str) -> None:
    for suffix in (".fasta", ".fastq", ".gb", ".tsv", ".json"):
        path = tmp_path / f"x{suffix}"
        path.write_text(text, encoding="utf-8")
        try:
            read(path)
        except QuintetError as error:
            assert "\n" not in str(error)


def test_fasta_and_fastq(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">x score=1.5 other\nACGT\nACG\n>y\nTT\n")
    x, y = read_fasta(tmp_path / "a.fa")
    assert (x.name, x.sequence, x.scores, y.sequence) == ("x", "ACGTACG", {"score": 1.5}, "TT")
    (tmp_path / "tab.fa").write_text(">x\tscore=2 other\nAC\n> y z\nGT\n>\nTT\n")
    found = read_fasta(tmp_path / "tab.fa")
    assert [e.name for e in found] == ["x", "y", ""] and found[0].scores == {"score": 2}
    (tmp_path / "a.fastq").write_text("@r1\td\nACGT\n+\nIIII\n")
    (r,) = read_fastq(tmp_path / "a.fastq")
    assert (r.name, r.sequence, r.scores["quality"]) == ("r1", "ACGT", 40)
    with pytest.raises(DataError):
        read(tmp_path / "none.fasta")
    with pytest.raises(UsageError, match="did you mean|one of"):
        read(tmp_path / "a.fast")
    assert len(read(real("lupine.fasta"))) == 1


def same(a: object, b: object) -> bool:
    """Compare features by type, place and qualifiers."""
    return repr((a.type, str(a.location), dict(a.qualifiers))) == repr((b.type, str(b.location), dict(b.qualifiers)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FILES)
@QUICK
@given(data=st.data())
def test_untouched_bases_and_features_survive(name: str, data: st.DataObject) -> None:
    """Any open span of any real record, over the origin of circular ones: the rest is written as it was read."""
    from io import StringIO

    from Bio import SeqIO

    (record, *_) = read_genbank(real(name))
    n = len(record.seq)
    circle = record.annotations.get("topology") == "circular"
    size = data.draw(st.integers(1, min(200, n - 1)))
    first = data.draw(st.integers(0, n - 1 if circle else n - size))
    opened = np.zeros(n, bool)
    opened[(first + np.arange(size)) % n] = True
    held = template(record, opened)
    assert held.size <= size + 120 and opened[held.sites].sum() == size
    letters = "".join("ACGT"[data.draw(st.integers(0, 3))] if c == "?" else c for c in held.letters)
    out = inserted(held, letters, "d", [(*held.hull, "designed")])
    text = StringIO()
    SeqIO.write([out], text, "genbank")
    from apps.bio.genbank import records

    (back, *_) = records(text.getvalue(), "x")
    old, new = str(record.seq).upper(), str(back.seq).upper()
    assert len(old) == len(new) and all(o == w for o, w, free in zip(old, new, opened, strict=True) if not free)
    assert "".join(new[i] for i in held.sites) == letters
    assert back.annotations.get("topology") == record.annotations.get("topology")
    touched = [f for f in record.features if f.type == "CDS" and any(opened[int(i) % n] for i in f.location)]
    kept = [(f, g) for f, g in zip(record.features, back.features, strict=False) if f not in touched]
    assert len(back.features) == len(record.features) + 1 and all(same(f, g) for f, g in kept)
    assert back.features[-1].qualifiers["note"] == ["d: designed"] and len(back.features[-1].location) >= size


def test_a_translation_follows_its_letters() -> None:
    record = read_genbank(real("cor6_6.gb"))[0]
    cds = next(f for f in record.features if f.type == "CDS" and "translation" in f.qualifiers)
    site = int(list(cds.location)[4])
    opened = np.zeros(len(record.seq), bool)
    opened[site] = True
    held, old = template(record, opened), str(record.seq)[site].upper()
    for letter in "ACGT":
        out = inserted(held, held.letters.replace("?", letter), "d", [])
        again = next(f for f in out.features if f.type == "CDS" and "translation" in f.qualifiers)
        spelt = str(again.location.extract(out.seq).translate(to_stop=True))
        changed = spelt != str(cds.location.extract(record.seq).translate(to_stop=True))
        assert (again.qualifiers["translation"] != cds.qualifiers["translation"]) == changed
        assert letter != old or not changed


@pytest.mark.parametrize(("table", "starts"), [("1", ["ATG", "TTG", "CTG"]), ("11", ["ATG", "GTG", "ATA"])])
def test_a_start_codon_stays_one_or_is_noted(table: str, starts: list[str]) -> None:
    """Codons that begin a protein under the record's code spell M there; others are retranslated."""
    from Bio.Seq import Seq
    from Bio.SeqFeature import SeqFeature, SimpleLocation
    from Bio.SeqRecord import SeqRecord

    about = {"transl_table": [table], "translation": ["MKR"], "codon_start": ["1"]}
    record = SeqRecord(Seq("ATGAAACGTTAA"), annotations={"topology": "linear"})
    record.features = [SeqFeature(SimpleLocation(0, 12, 1), type="CDS", qualifiers=about)]
    held = template(record, np.arange(12) < 3)
    for codon in [*starts, "ACC", "TGA", "CTT"]:
        (cds,) = inserted(held, codon + held.letters[3:], "d", []).features
        kept = codon in starts
        assert (cds.qualifiers["translation"] == ["MKR"]) == kept == ("note" not in cds.qualifiers), codon
        assert kept or cds.qualifiers["translation"] == [str(Seq(codon).translate()) + "KR"]


def test_the_parser_s_warnings_are_kept_and_circles_found() -> None:
    record = read_genbank(real("addgene-plasmid-39296-sequence-49545.gbk"))[0]
    assert record.annotations["quintet_warnings"] and record.annotations["topology"] == "circular"
    opened = np.zeros(len(record.seq), bool)
    opened[:20] = opened[-20:] = True
    held = template(record, opened, flank=30)
    assert held.circular and held.hull == (31, 70) and held.place(1) == 51 and held.start == len(opened) - 50
    with pytest.raises(UsageError, match="outside"):
        held.place(1000)
    with pytest.raises(UsageError, match="no letter is open"):
        template(record, np.zeros(len(opened), bool))
