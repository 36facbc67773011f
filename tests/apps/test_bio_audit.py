"""The judge finds what is planted, wherever it is planted, and nothing else; it shares no code with the compiler."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from apps.bio import audit
from apps.bio import constraints as c
from apps.bio.report import report
from core.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[2]


def background(n: int = 120) -> str:
    """Return letters without any site, run or motif of interest."""
    return ("ACAGATCTGT" * 40)[:n]


def test_it_imports_nothing_of_the_compiler() -> None:
    tree = ast.parse((ROOT / "apps" / "bio" / "audit.py").read_text())
    judging = [n for n in tree.body if not (isinstance(n, ast.FunctionDef) and n.name == "audit")]
    names = {str(a.module if isinstance(a, ast.ImportFrom) else a.names[0].name)
             for top in judging for a in ast.walk(top) if isinstance(a, ast.Import | ast.ImportFrom)}  # fmt: skip
    assert not [n for n in names if n.startswith(("core.constrain", "apps.bio"))]


@pytest.mark.parametrize("enzyme", ["BsaI", "BsmBI", "EcoRI", "BamHI", "XhoI", "NotI", "BstXI", "SapI", "AarI"])
@pytest.mark.parametrize("at", [0, 1, 57, -1])
@pytest.mark.parametrize("strand", [1, -1])
def test_a_planted_site_is_found(enzyme: str, at: int, strand: int) -> None:
    from Bio.Seq import reverse_complement

    site = str(audit.enzyme(enzyme).site).replace("N", "A")
    site = site if strand == 1 else str(reverse_complement(site))
    x = background()
    place = at if at >= 0 else len(x) - len(site)
    planted = x[:place] + site + x[place + len(site) :]
    rule = c.forbid(enzyme)
    assert [f.violations for f in audit.check([x, planted], [rule])] == [1]
    assert audit.check([x, planted], [rule])[0].first == 1


CASES = [
    (c.forbid("TATAWAW"), 40, "TTTATATA"),
    (c.homopolymer(5), 100, "GGGGGG"),
    (c.fix(11, "ACAGA"), 12, "T"),
    (c.frame(4, "DLYRSVQIC"), 5, "A"),
    (c.gc(0.3, 0.7, window=20), 30, "GCGCGCGCGCGCGCGCGCGC"),
    (c.alphabet("ACGT"), 0, "N"),
    (c.forbid("AAAA", within=(50, 60)), 54, "AAAA"),
    (c.forbid("AAAA", touching=(50, 60)), 46, "AAAA"),
]


@pytest.mark.parametrize(("rule", "at", "letters"), CASES, ids=lambda v: str(v))
def test_each_rule_can_fail_and_hold(rule: c.Spec, at: int, letters: str) -> None:
    from Bio.Seq import Seq

    x = background()
    if isinstance(rule, type(CASES[3][0])):
        rule = c.frame(4, str(Seq(x[3:30]).translate()))
    assert audit.clean(audit.check([x], [rule]))
    assert not audit.clean(audit.check([x[:at] + letters + x[at + len(letters) :]], [rule]))


def test_a_place_may_leave_a_choice() -> None:
    rule = c.fix(2, "M[DE]{CW}?K")
    assert rule.size == 5 and audit.width(rule.letters) == 5
    words = {"AMDAGKA": True, "AMEAGK": True, "AMKAGK": False, "AMDCGK": False, "AMDAG": False}
    assert {w: audit.holds(rule, w, dna=False) for w in words} == words
    law = c.compile_([rule], 6, "ACDEGKMW").layers
    tokens = np.array([["ACDEGKMW".index(a) for a in w[:6]] for w in words if len(w) > 5])
    assert law.accepts(tokens).tolist() == [v for w, v in words.items() if len(w) > 5]


def test_what_lies_outside_a_span_is_not_judged() -> None:
    x = background()
    outside = x[:10] + "AAAA" + x[14:]
    rules = [c.forbid("AAAA", within=(50, 60)), c.forbid("AAAA", touching=(20, 60))]
    assert audit.clean(audit.check([outside], rules))


def test_required_motifs_are_counted() -> None:
    x = background(40)
    three = x[:5] + "TATAAAA" + x[12:20] + "TATATAT" + x[27:]
    counts = {n: audit.clean(audit.check([three], [c.require("TATAWAW", count=n)])) for n in range(4)}
    assert counts == {0: False, 1: False, 2: True, 3: False}
    assert audit.clean(audit.check([three], [c.spacing("TATAAAA", "TATATAT", 8, 8)]))
    assert not audit.clean(audit.check([three], [c.spacing("TATAAAA", "TATATAT", 9, 12)]))


def test_the_table_names_the_first_offender() -> None:
    letters = np.array(["ACGT" * 5, "A" * 20])
    text = audit.table(audit.check(list(letters), [c.homopolymer(3), c.gc(0, 1)]))
    assert "FAIL" in text.splitlines()[0] and "sequence 1" in text and text.splitlines()[1].startswith("ok")


CIRCLE = [
    (c.forbid("BsaI"), "GGTCTC"), (c.forbid("GG{C}"), "GGA"), (c.homopolymer(5), "CCCCCC"),
    (c.gc(0.3, 0.7, window=10), "GCGCGCGCGC"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "letters"), CIRCLE, ids=lambda v: str(v))
def test_a_circle_has_no_end(rule: c.Spec, letters: str) -> None:
    """Wherever a circle is cut, the same breaks the rule; a line that is cut there does not."""
    x = background(100)[: 100 - len(letters)] + letters
    turned = [x[i:] + x[:i] for i in range(100)]
    assert audit.check(turned, [rule], circular=True)[0].violations == 100
    cut = audit.check(turned, [rule], circular=False)[0].violations
    assert 100 - len(letters) < cut < 100 and audit.clean(audit.check([background(90)], [rule], circular=[True]))


def test_on_a_circle_motifs_frames_and_fixed_letters_run_over_the_origin() -> None:
    x = background(40)
    turned = x[3:] + x[:3]  # the first motif lies over the origin
    for rule in (c.require("ACAGAT", count=4), c.fix(38, "ACAGAT"), c.frame(38, "TD")):
        assert audit.holds(rule, turned, circular=True) and not audit.holds(rule, turned, circular=False)
    apart = c.spacing("GGG", "CCC", 2, 2)
    assert audit.holds(apart, "ATCCCAAAAAGGG", circular=True) and not audit.holds(apart, "ATCCCAAAAAGGG")
    touching = c.forbid("GTACAG", touching=(1, 2))
    assert not audit.holds(touching, turned, circular=True) and audit.holds(touching, turned, circular=False)


def test_a_file_s_circle_is_audited_over_its_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from Bio import SeqIO
    from Bio.Seq import Seq
    from Bio.SeqRecord import SeqRecord

    for topology, violations in (("linear", 0), ("circular", 1)):
        about = {"molecule_type": "DNA", "topology": topology}
        record = SeqRecord(Seq("TCTC" + background(40) + "GG"), id="p", name="p", annotations=about)
        SeqIO.write([record], tmp_path / "p.gb", "genbank")
        try:
            audit.audit([tmp_path / "p.gb"], rules={"forbid": ["BsaI"]})
        except DataError:
            assert violations
        assert capsys.readouterr().err.startswith("FAIL" if violations else "ok")


def test_one_ambiguous_letter_does_not_turn_dna_into_protein(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {
        "r": ">a\nACGTACGTGAGACCACGTACGT\n>b\nACGTRACGTACGT\n", "rna": ">a\nACGUGAGACCACGU\n", "gap": ">a\nACGT-ACGT\n",
        "protein": ">a\nMKTAYIAKQRGAGACC\n",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.fa").write_text(text)
    for name in ("r", "rna"):
        for pattern in ("BsaI", "GGTCTC"):
            with pytest.raises(DataError, match="1 violations"):
                audit.audit([tmp_path / f"{name}.fa"], rules={"forbid": [pattern]})
    assert "1 of 2 sequences hold ambiguous letters" in capsys.readouterr().err
    with pytest.raises(DataError, match="no nucleotide"):
        audit.audit([tmp_path / "gap.fa"], rules={"forbid": ["GGTCTC"]})
    assert audit.audit([tmp_path / "protein.fa"], rules={"forbid": ["GGTCTC"]})["violations"] == 0
    assert "judged as proteins" in capsys.readouterr().err


def test_each_file_is_judged_by_its_own_manifest(tmp_path: Path) -> None:
    letters = {"a": "ACGT" * 5, "b": "A" * 20}
    for name, word in letters.items():
        about = '{"rules":{"forbid":["' + ("GGGG" if name == "a" else "AAAA") + '"]}}'
        (tmp_path / f"{name}.fa").write_text(f">{name} manifest={about}\n{word}\n")
    files = [tmp_path / f"{name}.fa" for name in letters]
    with pytest.raises(DataError, match="1 violations of 1 rules"):
        audit.audit(files, rules={}, out=tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())["rules"]
    assert [(r["rule"], r["sequences"], r["first"]) for r in rows] == [("forbid GGGG", 1, None), ("forbid AAAA", 1, 1)]
    (tmp_path / "c.fa").write_text(">c\nACGT\n")
    with pytest.raises(UsageError, match="c names none"):
        audit.audit([*files, tmp_path / "c.fa"], rules={})


@pytest.mark.parametrize(
    ("rules", "why"),
    [({"forbid": ["TTTTT,GGGG"]}, "letter 6 is none"), ({"forbid": ["GGUCUC"]}, "letter 3 is none"),
     ({"frame": ["1:M*:99"]}, "no such genetic code"), ({"frame": ["0:M"]}, "count from 1"),
     ({"frame": ["1:B"]}, "has no codon"), ({"spacing": ["TTGACA,TATAAT,19-15"]}, "lo <= hi"),
     ({"require": ["TATA=2-1"]}, "low <= high"), ({"gc": ["40-60"]}, "lo <= hi"), ({"gc": ["0.4-0.6/0"]}, "window"),
     ({"fix": ["0:ACG"]}, "count from 1"), ({"fix": ["1:[AG"]}, "is none of")],
)  # fmt: skip
def test_rules_that_say_nothing_are_refused(tmp_path: Path, rules: dict, why: str) -> None:
    """A word that is no motif is never found: it would be kept by every sequence."""
    (tmp_path / "a.fasta").write_text(">a\nACGTACGTTTTTGGGGACGT\n")
    with pytest.raises(UsageError, match=why):
        audit.audit([tmp_path / "a.fasta"], rules=rules)


@pytest.mark.parametrize("rules", ['["x"]', '{"homopolymer":"x"}', '{"forbid":[3]}', "7"])
def test_a_manifest_that_is_not_ours_is_one_clear_line(tmp_path: Path, rules: str) -> None:
    (tmp_path / "a.fasta").write_text(f'>a manifest={{"rules":{rules},"nats":3}}\nACGT\n')
    with pytest.raises(UsageError):
        audit.audit([tmp_path / "a.fasta"], rules={})
    with pytest.raises(UsageError):
        report([tmp_path / "a.fasta"], out=tmp_path / "r.html")
    (tmp_path / "a.fasta").write_text('>a manifest={"rules":{"forbid":"GG"},"nats":3}\nACGT\n')
    assert audit.audit([tmp_path / "a.fasta"], rules={})["violations"] == 0
    assert report([tmp_path / "a.fasta"], out=tmp_path / "r.html")["sections"] == 3


def test_what_lies_beyond_a_sequence_is_no_mistake(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Of sequences of several lengths some may hold a place and some not."""
    (tmp_path / "a.fasta").write_text(">a\nACGTACGTATG\n>b\nACGTACGTAT\n")
    with pytest.raises(DataError, match="2 violations of 2 rules"):
        audit.audit([tmp_path / "a.fasta"], rules={"frame": ["9:M"], "fix": ["11:G"]})
    assert not recwarn.list
