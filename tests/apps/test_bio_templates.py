"""Records as users have them: names with blanks, exceptions to the code, annotations in unusual places and words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from Bio import SeqIO
from Bio.Seq import Seq
from Bio.SeqFeature import CompoundLocation, SeqFeature, SimpleLocation
from Bio.SeqRecord import SeqRecord

from apps import bio
from apps.bio import audit
from apps.bio import design as design_module
from apps.bio.constraints import alphabet, compile_, fix, forbid, require, spacing
from apps.bio.design import Order, noted, order
from apps.bio.dna.chisel import marks
from apps.bio.dna.network import build
from apps.bio.dna.rules import Gc
from apps.bio.genbank import filled, inserted, template
from apps.bio.generate import SequenceModel
from apps.bio.model import ModelConfig, Recipe
from apps.bio.price import prices
from apps.bio.records import Designs, read, read_genbank
from core.errors import DataError, InfeasibleError, UsageError


def record(letters: str, label: str, *pieces: tuple[int, int], circular: bool = False) -> SeqRecord:
    """Return a record with one annotation on some pieces."""
    parts = [SimpleLocation(a, b, 1) for a, b in pieces]
    place = parts[0] if len(parts) == 1 else CompoundLocation(parts)
    about: dict = {"molecule_type": "DNA", "topology": "circular" if circular else "linear"}
    feature = SeqFeature(place, type="misc_feature", qualifiers={"label": [label]})
    return SeqRecord(Seq(letters), id="p", name="p", annotations=about, features=[feature])


@pytest.mark.parametrize(
    ("label", "window"),
    [("@gc(40-60%)", None), ("@gc(40-60%/20bp)", 20), ("@gc(40-60%, window=20)", 20), ("@gc(mini=.4, window=20)", 20)],
)
def test_a_gc_annotation_keeps_its_window(label: str, window: int | None) -> None:
    (mark,) = marks(record("N" * 60, label, (0, 60)))
    assert mark.make is not None
    spec = mark.make(1, 60)
    assert isinstance(spec, Gc) and spec.window == window and spec.lo == 0.4


@pytest.mark.parametrize(
    ("pieces", "circular", "fine"),
    [([(0, 12), (50, 60)], False, False), ([(50, 60), (0, 12)], True, True), ([(0, 12), (11, 20)], False, False),
     ([(0, 12), (12, 20)], False, True), ([(0, 12), (20, 30), (50, 60)], True, False)],
)  # fmt: skip
def test_an_annotation_lies_in_one_piece(pieces: list[tuple[int, int]], circular: bool, fine: bool) -> None:
    """Two pieces meet only over the origin of a circle; pieces that overlap (a slippery site) are refused too."""
    held = record("N" * 60, "@no(BsaI_site)", *pieces, circular=circular)
    if not fine:
        with pytest.raises(UsageError, match="lies on several pieces"):
            marks(held)
        return
    (mark,) = marks(held)
    assert (mark.first, mark.size) == ((51, 22) if circular else (1, 20))


@pytest.mark.parametrize(
    ("words", "strand", "found"),
    [("", 1, [1, 0]), ("", -1, [0, 1]), (", strand=both", -1, [1, 1]), (", strand=1", -1, [1, 0]),
     (", strand=-1", 1, [0, 1])],
)  # fmt: skip
def test_an_insert_is_counted_on_the_strand_of_its_feature(words: str, strand: int, found: list[int]) -> None:
    held = record("N" * 20, f"@insert(BsaI_site{words})", (0, 20))
    held.features[0].location = SimpleLocation(0, 20, strand)
    (mark,) = marks(held)
    assert mark.make is not None
    spec = mark.make(1, 20)
    assert [audit.required(spec, f"ACACA{site}ACACACACA", True) for site in ("GGTCTC", "GAGACC")] == found
    assert not audit.required(spec, "ACGGTCTCACACGAGACCAC", True) or found != [1, 1]
    with pytest.raises(UsageError, match="do not map"):
        marks(record("N" * 20, "@insert(AarI_site, strand=2)", (0, 20)))


def letters_with(holes: list[tuple[int, int]], size: int, planted: str = "", at: int = 0) -> str:
    """Return letters without BsaI sites but for a planted one, N where they are open."""
    text = "".join("ACT"[i] for i in np.random.default_rng(1).integers(0, 3, size))
    text = text[:at] + planted + text[at + len(planted) :]
    for a, b in holes:
        text = text[:a] + "N" * (b - a) + text[b:]
    return text


def drawn(wish: Order, n: int = 4) -> list[str]:
    """Return whole records that obey an order, letters even."""
    law, size = compile_([*wish.specs, *wish.kept], len(wish.start)), len(wish.start)
    none, every = torch.full((n, size), -1), torch.ones(n, size, dtype=torch.bool)
    u = torch.rand(n, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = law.whole(n).admit(torch.zeros(n, size, 4, dtype=torch.float64), none, every, u)
    return Designs(["".join("ACGT"[v] for v in row) for row in rows.tolist()], template=wish.template).whole


def test_annotations_count_kept_letters_far_from_the_design(tmp_path: Path) -> None:
    """One site that stands is enough, and the share of G and C is that of the whole feature."""
    text = letters_with([(300, 330)], 400, "GGTCTC", 20)
    SeqIO.write(record(text, "@insert(BsaI_site) & @gc(34-38%)", (0, 400)), tmp_path / "t.gb", "genbank")
    for word in drawn(order({}, 0, tmp_path / "t.gb")):
        assert word.count("GGTCTC") == 1 and 136 <= word.count("G") + word.count("C") <= 152


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("rules", [{}, {"frame": ["1:" + "T" * 300]}])
def test_a_frame_is_longer_than_the_neighbourhood_of_a_design(tmp_path: Path, circular: bool, rules: dict) -> None:
    text = "ACA" * 110 + "N" * 9 + "ACA" * 187 + "ACGTACGTAC"
    label = f"@cds(translation={'T' * 300})" if not rules else "plain"
    SeqIO.write(record(text, label, (0, 900), circular=circular), tmp_path / "t.gb", "genbank")
    wish = order(rules, 0, tmp_path / "t.gb")
    for word in drawn(wish):
        assert str(Seq(word[:900]).translate()) == "T" * 300
    assert [str(s) for s in wish.specs] == ["frame 1 TTTTTTTTT..."]


def test_a_circle_is_not_cut_within_an_annotation(tmp_path: Path) -> None:
    """The widest stretch that is kept lies in it; and what it does not cover may hold the site."""
    text = letters_with([(10, 40), (160, 190)], 200, "GGTCTC", 2)
    SeqIO.write(record(text, "@insert(BsaI_site)", (8, 195), circular=True), tmp_path / "t.gb", "genbank")
    for word in drawn(order({}, 0, tmp_path / "t.gb")):
        assert word[8:195].count("GGTCTC") == 1 and word[2:8] == "GGTCTC"
    away = record(letters_with([(10, 40), (560, 590)], 600, "GGTCTC", 598 % 600 - 4), "", (0, 1), circular=True)
    away.features[0].location = SimpleLocation(5, 592, 1)
    away.features[0].qualifiers["label"] = ["@no(BsaI_site)"]
    SeqIO.write(away, tmp_path / "n.gb", "genbank")
    for word in drawn(order({}, 0, tmp_path / "n.gb")):
        assert "GGTCTC" not in word[5:592] and "GGTCTC" in word


def test_messages_name_places_of_the_template(tmp_path: Path) -> None:
    (tmp_path / "t.fasta").write_text(f">t\n{letters_with([(600, 660)], 1000)}\n")
    wish = order({"fix": ["610:GGATCC"], "frame": ["620:MA*"]}, 0, tmp_path / "t.fasta")
    assert [str(s) for s in wish.specs] == ["fix 610-615 GGATCC", "frame 620 MA*"]
    assert [(a, b) for a, b, text in noted(wish, "A" * 180) if text == "designed"] == [(61, 120)]
    clash = order({"fix": ["590:GGGG"]}, 0, tmp_path / "t.fasta")
    with pytest.raises(InfeasibleError, match="fix 590-593 GGGG and fix 541-600 "):
        compile_([*clash.specs, *clash.kept], len(clash.start))
    windows = order({"gc": ["0.9-1/10"], "fix": ["605:AATATATTAA"]}, 0, tmp_path / "t.fasta")
    with pytest.raises(InfeasibleError, match="letters fixed at 601-610 contradict"):
        design_module._known_contradictions(windows, "ACGT")


def test_only_what_was_open_is_noted_as_designed(tmp_path: Path) -> None:
    (tmp_path / "t.fasta").write_text(">t\nACGTNNNNACGTACNNGT\n")
    wish = order({"homopolymer": 4}, 0, tmp_path / "t.fasta")
    held = Designs(["ACGTGGCCACGTACATGT"], template=wish.template)
    held.notes = [noted(wish, held.sequences[0])]
    held.to_genbank(tmp_path / "d.gb")
    (back,) = read_genbank(tmp_path / "d.gb")
    spots: list[Any] = [f.location for f in back.features]
    words = [f.qualifiers["note"][0].split(": ")[1] for f in back.features]
    places = [(word, int(at.start), int(at.end)) for word, at in zip(words, spots, strict=True)]
    assert places == [("designed", 4, 8), ("designed", 14, 16), ("rule", 4, 16)]


def test_rules_of_one_name_have_a_price_each() -> None:
    specs = [Gc(0.4, 0.6, within=(1, 10)), Gc(0.4, 0.6, within=(11, 20)), Gc(0.4, 0.6)]
    model = SequenceModel(build(ModelConfig("transformer", dim=16, depth=1, heads=2, order=0)), Recipe())
    found = prices(model, specs, torch.full((20,), 4))
    assert list(found) == ["gc 0.4-0.6", "gc 0.4-0.6 (2)", "gc 0.4-0.6 (3)", "all together"]


def test_a_codon_that_stays_is_read_as_it_was() -> None:
    """Selenocysteine is TGA, and so written elsewhere in the record; a stop that the design makes is told."""
    letters = "ATGGCTTGAGGTNNNNNNGCTTAA"
    about = {"translation": ["MAUGXXA"], "codon_start": ["1"], "transl_except": ["(pos:7..9,aa:Sec)"]}
    held = record(letters, "", (0, 24))
    held.features = [SeqFeature(SimpleLocation(0, 24, 1), type="CDS", qualifiers=about)]
    place = template(held, np.array([c == "N" for c in letters]))
    for codons, read_as in (("AAACGT", "MAUGKRA"), ("TGACGT", "MAUG*RA")):
        (cds,) = inserted(place, place.letters.replace("??????", codons), "d", []).features
        assert cds.qualifiers["translation"] == [read_as]


@pytest.mark.parametrize("name", ["my enhancer", "my\tenhancer 2"])
def test_a_template_s_name_may_hold_blanks(tmp_path: Path, name: str) -> None:
    plain = SeqRecord(Seq("ACGTNNNNACGT"), id=name, name=name, annotations={"topology": "linear"})
    held = template(plain, np.arange(12) // 4 == 1)
    Designs([held.letters.replace("????", "GGCC")], template=held).to_genbank(tmp_path / "d.gb")
    (back,) = read_genbank(tmp_path / "d.gb")
    assert back.id == "_".join([*name.split(), "design", "0"]) and str(back.seq) == "ACGTGGCCACGT"


def test_short_peptides_are_no_dna_in_genbank(tmp_path: Path) -> None:
    """A set is of one molecule, however few letters one of them has."""
    for molecule, sequences in (("protein", ["GAG", "TAC"]), ("", ["GAG", "KAC"])):
        Designs(sequences, molecule=molecule).to_genbank(tmp_path / "d.gb")
        assert {r.annotations["molecule_type"] for r in read_genbank(tmp_path / "d.gb")} == {"protein"}
        assert [e.sequence for e in read(tmp_path / "d.gb")] == sequences
    Designs(["ACGT", "NNAC"]).select([1]).to_genbank(tmp_path / "d.gb")
    assert read_genbank(tmp_path / "d.gb")[0].annotations["molecule_type"] == "DNA"
    assert Designs(["GAG", "TAC"], molecule="protein").select([1]).molecule == "protein"


def test_the_audit_compares_what_a_design_leaves_alone(tmp_path: Path) -> None:
    """Letters far from the design too, which no rule looks at."""
    letters = "".join("ACGT"[i] for i in np.random.default_rng(0).integers(0, 4, 300))
    (tmp_path / "t.fasta").write_text(f">t\n{letters[:150]}NNNNNN{letters[156:]}\n")
    for at, broken in ((None, 0), (2, 1), (100, 1), (299, 1)):
        mine = letters.replace("T", "U")
        if at is not None:
            mine = mine[:at] + ("A" if mine[at] != "A" else "C") + mine[at + 1 :]
        (tmp_path / "d.fasta").write_text(f">a\n{letters}\n>b\n{mine}\n")
        wish: dict = {"rules": {"homopolymer": 9}, "template": tmp_path / "t.fasta", "out": tmp_path / "a.json"}
        if not broken:
            assert audit.audit([tmp_path / "d.fasta"], **wish)["rules"] == 3
            continue
        with pytest.raises(DataError, match="1 violations of 1 rules"):
            audit.audit([tmp_path / "d.fasta"], **wish)
        assert '"first": 1' in (tmp_path / "a.json").read_text()


def test_motifs_of_residues_may_be_small_letters() -> None:
    """To other code they are no enzymes, and codes of bases are residues in them."""
    rules = [forbid("ngs"), require("kxk"), spacing("kk", "ac", 1, 2)]
    assert [audit.holds(r, "ANGSKAKKTAC", dna=False) for r in rules] == [False, True, True]
    assert not audit.nucleic(["MKWVTF"], rules) and audit.nucleic(["MKWVTF"], [forbid("BsaI")])
    wish = Order([require("KXK"), require("nb")], "?" * 6)
    assert [n for n in noted(wish, "GCKTKG", dna=False) if "motif" in n[2]] == [(3, 5, "motif: KXK")]


def test_peptides_of_the_letters_of_bases_are_told_by_their_rules_or_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GGAACC may be either; an alphabet or a site of residues, or the ending `.faa`, says which."""
    for rules in ([alphabet("ACDEFGHIKLMNPQRSTVWY")], [fix(1, "[GE]")], [fix(1, "{L}G")]):
        assert not audit.nucleic(["GGAACC"], rules)
    for rules in ([], [alphabet("ACGU")], [fix(1, "[GA]R")], [fix(2, "?N{T}")]):
        assert audit.nucleic(["GGAACC"], rules)
    for ending, judged in ((".faa", "as proteins"), (".fna", "")):
        (file := tmp_path / f"x{ending}").write_text(">a\nGATNACAGATNACA\n")
        audit.audit([file], rules={"homopolymer": 2})
        said = capsys.readouterr().err
        assert ("judged as proteins" in said) == bool(judged) and ("ambiguous" in said) == (not judged)


def test_a_template_of_rna_stays_rna(tmp_path: Path) -> None:
    """Its letters are read as those of DNA, so that rules see across the border; new ones are written as RNA."""
    (path := tmp_path / "t.fasta").write_text(">t\nacguggNNNNNNccuacgu\n")
    wish = order({"fix": ["7:TTTGGT"]}, 0, path)
    assert wish.start == "ACGTGG??????CCTACGT" and wish.template is not None
    held = Designs([wish.start.replace("??????", "TTTGGT")], template=wish.template)
    assert held.whole == ["acguggUUUGGUccuacgu"]
    with pytest.raises(ValueError, match="letter 1 was to be kept"):
        filled(wish.template, "C" + wish.start[1:].replace("?", "A"))
    held.to_fasta(tmp_path / "d.fasta")
    assert audit.audit([tmp_path / "d.fasta"], rules={"fix": ["7:TTTGGT"]}, template=path)["violations"] == 0
    with pytest.raises(DataError, match="violations"):
        audit.audit([tmp_path / "d.fasta"], rules={"forbid": ["GGTTTG"]}, template=path)


@pytest.mark.parametrize(
    ("rules", "start"),
    [({"frame": ["28:MSK"]}, 6), ({"fix": ["29:GGATG"], "frame": ["1:MS"]}, 6), ({"frame": ["1:MSKMSKMSKM"]}, 0),
     ({"frame": ["30:MSKMSKMSKM"]}, 29), ({"fix": ["30:A", "1:C"]}, 0)],
)  # fmt: skip
def test_frames_and_letters_run_over_the_origin_of_an_open_circle(tmp_path: Path, rules: dict, start: int) -> None:
    path = tmp_path / "c.gb"
    SeqIO.write(record("N" * 30, "plain", (0, 2), circular=True), path, "genbank")
    wish = order(rules, 0, path)
    assert wish.template is not None and wish.template.closed and wish.template.start == start
    law = compile_(wish.specs, 30)
    none, every = torch.full((4, 30), -1), torch.ones(4, 30, dtype=torch.bool)
    u = torch.rand(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = law.whole(4).admit(torch.zeros(4, 30, 4, dtype=torch.float64), none, every, u)
    arcs = ["".join("ACGT"[v] for v in row) for row in drawn.tolist()]
    for word in Designs(arcs, template=wish.template).whole:
        for rule in rules.get("frame", ()):
            place, protein = rule.split(":")
            assert str(Seq((word * 2)[int(place) - 1 :][: 3 * len(protein)]).translate()) == protein
        for rule in rules.get("fix", ()):
            place, letters = rule.split(":")
            assert (word * 2)[int(place) - 1 :].startswith(letters)
    Designs(arcs, template=wish.template).to_fasta(tmp_path / "d.fasta")
    assert audit.audit([tmp_path / "d.fasta"], rules=rules, template=path)["violations"] == 0


def test_annotations_of_a_template_are_rules_enough_to_audit(tmp_path: Path) -> None:
    path = tmp_path / "t.gb"
    SeqIO.write(record("GG" + "N" * 26 + "CC", "@no(BsaI_site)", (0, 30)), path, "genbank")
    for middle, fine in (("A" * 26, True), ("TCTC" + "A" * 22, False)):
        (tmp_path / "d.fasta").write_text(f">d\nGG{middle}CC\n")
        if fine:
            assert audit.audit([tmp_path / "d.fasta"], rules={}, template=path)["rules"] == 2
        else:
            with pytest.raises(DataError, match="1 violations of 1 rules; got 'forbid BsaI'"):
                audit.audit([tmp_path / "d.fasta"], rules={}, template=path)


def test_an_order_that_nothing_met_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TATAWAW leaves three letters of a window of ten for the four G or C: no draw can hold every window."""
    torch.manual_seed(0)
    config = ModelConfig(dim=8, depth=1, dilations=[1], order=0, strands=False)
    model = SequenceModel(build(config, 4), Recipe(kind="dna", model=config))
    monkeypatch.setattr(bio, "load", lambda *a, **k: model)
    monkeypatch.setattr(design_module, "ROUNDS", 2)
    rules = {"require": ["TATAWAW"], "gc": ["0.4-0.6/10"]}
    with pytest.raises(InfeasibleError, match="none of 2 draws met every GC window.*nothing was written"):
        design_module.design("x", rules=rules, n=2, length=40, out=tmp_path / "x.fasta", settings={"steps": 2})
    assert list(tmp_path.iterdir()) == []
