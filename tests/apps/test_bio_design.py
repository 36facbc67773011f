"""Designs from words to files: rules hold, templates keep what is theirs, annotations of DNA Chisel mean the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from Bio.Seq import Seq
from Bio.SeqFeature import SeqFeature, SimpleLocation
from Bio.SeqRecord import SeqRecord

from apps import bio
from apps.bio import audit, report
from apps.bio import constraints as c
from apps.bio.design import Order, design, designed, order
from apps.bio.dna.chisel import marks
from apps.bio.dna.network import build
from apps.bio.dna.words import parse
from apps.bio.generate import SequenceModel
from apps.bio.model import ModelConfig, Recipe
from apps.bio.price import prices
from apps.bio.records import read, read_genbank
from core.errors import DataError, InfeasibleError, UsageError

RULES = {"forbid": ["BsaI", "TTTT"], "require": ["TATAWAW"], "homopolymer": 4, "gc": ["0.4-0.6", "0.3-0.7/20"]}


@pytest.fixture(scope="module")
def model() -> SequenceModel:
    torch.manual_seed(0)
    config = ModelConfig(dim=8, depth=1, dilations=[1], order=0, strands=False)
    return SequenceModel(build(config, 4), Recipe(kind="dna", model=config), name="small")


@pytest.fixture
def loaded(model: SequenceModel, monkeypatch: pytest.MonkeyPatch) -> SequenceModel:
    monkeypatch.setattr(bio, "load", lambda *a, **k: model)
    return model


@pytest.mark.parametrize("suffix", [".fasta", ".gb", ".tsv", ".json"])
def test_namedto_files(loaded: SequenceModel, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"x{suffix}"
    found = design("x", rules=RULES, n=12, length=80, out=out, settings={"steps": 6}, seed=1)
    assert found is not None and found["violations"] == 0 and found["designs"] + found["given_up"] == 12
    assert found["nats"] > 0
    entries = read(out)
    assert len(entries) == found["designs"] and audit.clean(audit.check([e.sequence for e in entries], parse(RULES)))
    again = design("x", rules=RULES, n=12, length=80, out=tmp_path / f"y{suffix}", settings={"steps": 6}, seed=1)
    assert again == {**found, "out": again["out"]} if again else False
    assert (tmp_path / f"y{suffix}").read_bytes() == out.read_bytes() or suffix == ".gb"  # GenBank carries the date


def test_a_manifest_is_enough_to_audit(loaded: SequenceModel, tmp_path: Path) -> None:
    design("x", rules=RULES, n=3, length=80, out=tmp_path / "x.fasta", settings={"steps": 4})
    assert audit.audit([tmp_path / "x.fasta"], rules={}, out=tmp_path / "a.json")["violations"] == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["rules"]) == len(parse(RULES))
    with pytest.raises(DataError, match="violations of 1 rules"):
        audit.audit([tmp_path / "x.fasta"], rules={"forbid": ["TATAWAW"]})
    (tmp_path / "plain.fasta").write_text(">a\nACGT\n")
    with pytest.raises(UsageError, match="no rule"):
        audit.audit([tmp_path / "plain.fasta"], rules={})


def test_nothing_is_written_for_the_impossible(loaded: SequenceModel, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="forbid BsaI and require GGTCTC"):
        design("x", rules={"forbid": ["BsaI"], "require": ["GGTCTC"]}, length=50, out=tmp_path / "x.fasta")
    with pytest.raises(UsageError, match="no such format"):
        design("x", rules={}, out=tmp_path / "x.bam")
    with pytest.raises(UsageError, match="--template"):
        design("x", rules={"keep": ["1-5"]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [{"gc": ["high"]}, {"fix": ["ACGT"]}, {"frame": ["MSK"]}, {"spacing": ["A,C"]}, {"keep": ["9-2"]},
              {"require": ["=2"]}, {"forbid": ["EcoR1"]}],
    ids=str,
)  # fmt: skip
def test_namedthat_make_no_sense(words: dict) -> None:
    with pytest.raises(UsageError) as error:
        c.compile_(order(words, 60).specs, 60)
    assert "\n" not in str(error.value)


def test_the_cost_of_a_rule_is_its_log_probability(model: SequenceModel) -> None:
    """Independent letters of the first prediction keep the rule as often as exp(-nats) says."""
    wish = Order([c.forbid("GNC"), c.gc(0.4, 0.6)], "?" * 12)
    price = {k: v.nats for k, v in prices(model, wish.specs, model.open_sites(12, None)).items()}
    with torch.inference_mode():
        law = model.predict(model.open_sites(12, None)[None], torch.ones(1)).log_p[0].double().exp()
    u = torch.rand(20_000, 12, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    words = ["".join("ACGT"[v] for v in row) for row in (u > law.cumsum(-1)).sum(-1).clamp(max=3).tolist()]
    for name, spec in (("forbid GNC", wish.specs[0]), ("gc 0.4-0.6", wish.specs[1])):
        (finding,) = audit.check(words, [spec])
        assert 1 - finding.violations / len(words) == pytest.approx(np.exp(-price[name]), abs=0.015)
    assert price["all together"] >= max(price["forbid GNC"], price["gc 0.4-0.6"])


def test_the_full_price_is_that_of_the_samplers_own_law() -> None:
    """In a model of chains, where letters depend on each other, the first prediction guesses wrong."""
    torch.manual_seed(0)
    config = ModelConfig(dim=8, depth=1, kernel=3, dilations=[1], order=1, folds=2, classes=1, strands=False)
    net = build(config, 4)
    rng = np.random.default_rng(0)
    runs = np.repeat(rng.integers(0, 4, (200, 8)), 3, 1)[:, :20]  # letters come in runs of three
    net.background.fit(runs, np.arange(200) % 2)  # type: ignore[union-attr]
    chains = SequenceModel(net, Recipe(kind="dna", model=config), name="chains").set(steps=12)
    specs = [c.forbid("CAT"), c.homopolymer(3)]
    price = prices(chains, specs, chains.open_sites(12, None), particles=64)
    for name, spec in zip(price, specs, strict=False):
        (finding,) = audit.check(chains.sample(4000, length=12, seed=5).sequences, [spec])
        kept, error = 1 - finding.violations / 4000, (finding.violations / (4000 - finding.violations) / 4000) ** 0.5
        assert abs(price[name].full + np.log(kept)) < 4.5 * np.hypot(price[name].error, error), name
    assert price["homopolymer 3"].first < price["homopolymer 3"].full - 0.3
    assert prices(chains, [], chains.open_sites(12, None)) == {}


def test_a_steering_takes_its_strength_and_the_steps_that_ask(loaded: SequenceModel, tmp_path: Path) -> None:
    more = {
        "rules": {},
        "n": 8,
        "length": 20,
        "reward": ["gc(0.9, 1)"],
        "settings": {"steps": 6},
        "out": tmp_path / "x.tsv",
    }
    gains = []
    for alpha in (1e6, 0.005):
        found = design("x", steering="gilc", options={"alpha": alpha, "asks": 2}, **more)  # type: ignore[arg-type]
        assert found is not None
        gains.append(found["gc"])
    assert gains[1] > gains[0] + 0.1 and read(tmp_path / "x.tsv")[0].manifest["reward"] == ["gc(0.9, 1)"]
    with pytest.raises(UsageError, match="means nothing for best-of-n"):
        design("x", options={"alpha": 0.1}, **more)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a reward"):
        design("x", rules={}, options={"alpha": 0.1})


def test_windows_that_only_the_check_sees_are_drawn_again(model: SequenceModel) -> None:
    wish = Order([c.gc(0.4, 0.6, window=10)], "?" * 60)
    found, missed = designed(model, wish, 40, steps=6)
    drawn = model.sample(40, start=wish.start, constraints=wish.specs, steps=6)
    assert not audit.clean(audit.check(drawn.sequences, wish.specs))
    assert audit.clean(audit.check(found.sequences, wish.specs)) and missed + len(found) == 40 and missed < 20
    with pytest.raises(InfeasibleError, match="letters fixed at"):
        designed(model, Order(wish.specs, "?" * 5 + "G" * 10 + "?" * 45), 2)


def plasmid(circular: bool = True) -> SeqRecord:
    letters = "".join("ACGT"[v] for v in np.random.default_rng(3).integers(0, 4, 300))
    letters = letters[:290] + "GGTCT" + letters[295:]  # the beginning of BsaI, before the design
    topology = "circular" if circular else "linear"
    return SeqRecord(Seq(letters), id="p", name="p", annotations={"molecule_type": "DNA", "topology": topology})


def written(record: SeqRecord, path: Path) -> Path:
    from Bio import SeqIO

    SeqIO.write([record], path, "genbank")
    return path


def test_a_design_over_the_origin(loaded: SequenceModel, tmp_path: Path) -> None:
    """Sites that would arise across the border are forbidden; kept letters stay; the arc runs over the origin."""
    path = written(plasmid(), tmp_path / "p.gb")
    rules = {"forbid": ["BsaI"], "require": ["TGASTCA"], "keep": ["21-295"]}
    wish = order(rules, 0, path)
    assert wish.template is not None and wish.template.hull == (61, 85) and wish.start.count("?") == 25
    design("x", rules=rules, n=20, template=path, out=tmp_path / "d.gb", settings={"steps": 4})
    old = str(plasmid().seq)
    for record in read_genbank(tmp_path / "d.gb"):
        new = str(record.seq)
        assert new[20:295] == old[20:295] and record.annotations["topology"] == "circular"
        around = (new + new)[280:340]
        assert not audit.cuts(around, "BsaI") and audit.starts(around, "TGASTCA", False, True)
        notes = [f.qualifiers["note"][0] for f in record.features]
        assert any("rule: forbid BsaI" in n for n in notes) and any("motif: TGASTCA" in n for n in notes)
    assert audit.audit([tmp_path / "d.gb"], rules=rules, template=path)["violations"] == 0


def circle(letters: str, *labels: str) -> SeqRecord:
    about = {"molecule_type": "DNA", "topology": "circular"}
    record = SeqRecord(Seq(letters), id="c", name="c", annotations=about)
    for label in labels:
        place = SimpleLocation(0, len(letters), 1)
        record.features.append(SeqFeature(place, type="misc_feature", qualifiers={"label": [label]}))
    return record


@pytest.mark.parametrize(
    ("letters", "label", "rules", "twice"),
    [("GTCTC" + "N" * 30, "", {"forbid": ["BsaI"], "homopolymer": 3}, True),  # the kept letters stand at both ends
     ("GT" + "N" * 34, "", {"forbid": ["GTGTC", "CC"], "homopolymer": 2}, False),
     ("N" * 30, "@no(CC)", {"homopolymer": 2, "gc": ["0.4-0.6/10"], "require": ["GTG=1"]}, False)],
)  # fmt: skip
def test_nothing_forbidden_lies_over_the_origin(
    loaded: SequenceModel, tmp_path: Path, letters: str, label: str, rules: dict, twice: bool
) -> None:
    path = written(circle(letters, *filter(None, [label])), tmp_path / "c.gb")
    wish = order(rules, 0, path)
    assert wish.template is not None and wish.closed != twice and (wish.template.size > len(letters)) == twice
    plain = loaded.sample(60, start=wish.start, constraints=wish.specs, steps=4).sequences
    found, missed = designed(loaded, wish, 60, steps=4)
    words = [s[: len(letters)] for s in found.sequences]
    again = [s + s for s in words]  # every window of a circle
    banned = [
        audit.enzyme("BsaI").site if p == "BsaI" else p for p in [*rules.get("forbid", ()), *["CC"][: bool(label)]]
    ]
    both = [p for b in banned for p in (str(b), str(Seq(b).reverse_complement()))]
    runs = [a * (rules["homopolymer"] + 1) for a in "ACGT"]
    assert len(words) > 50 and missed + len(words) == 60
    assert not [w for w in again for p in [*both, *runs] if p in w]
    if label:
        assert all(4 <= sum(c in "GC" for c in w[i : i + 10]) <= 6 for w in again for i in range(30))
        assert all(len(audit.starts(w[:32], "GTG", False, True)) == 1 for w in again)
    kept = [s for s in plain if audit.clean(audit.check([s], wish.specs, circular=wish.closed))]
    assert kept and set(kept) <= set(found.sequences)  # what breaks nothing keeps its letters
    assert twice or len(kept) < 60
    design("x", rules=rules, n=3, template=path, out=tmp_path / "d.gb", settings={"steps": 4})
    assert audit.audit([tmp_path / "d.gb"], rules=rules, template=path)["violations"] == 0


def test_a_seam_that_the_kept_letters_forbid_is_refused(model: SequenceModel, tmp_path: Path) -> None:
    wish = order({"forbid": ["BsaI"], "fix": ["35:G"]}, 0, written(circle("GTCTC" + "N" * 30), tmp_path / "c.gb"))
    with pytest.raises(InfeasibleError, match="contradict each other"):
        designed(model, wish, 2)


@pytest.mark.parametrize(
    ("letters", "rules", "named"),
    [("N" * 30, {"homopolymer": 4, "fix": ["1:AAA", "29:AA"]}, "fix 29-30 AA and homopolymer 4 over the"),
     ("N" * 31, {"forbid": ["BsaI"], "fix": ["1:?CTC", "30:GG", "1:T"]}, "forbid BsaI over the origin"),
     ("GT" + "N" * 34, {"forbid": ["GTGTC"], "fix": ["3:C", "35:GT"]}, "forbid GTGTC over the origin"),
     ("N" * 30, {"gc": ["0.3-0.7/10"], "fix": ["1:GCGC", "27:GCGC"]}, "fixed at")],
)  # fmt: skip
def test_rules_that_only_the_origin_breaks_are_refused(
    model: SequenceModel, tmp_path: Path, letters: str, rules: dict, named: str
) -> None:
    wish = order(rules, 0, written(circle(letters), tmp_path / "c.gb"))
    assert wish.closed
    with pytest.raises(InfeasibleError, match=named):
        designed(model, wish, 2)
    met = order({**rules, "fix": rules["fix"][:1]}, 0, tmp_path / "c.gb")
    assert len(designed(model, met, 4, steps=4)[0])


def test_an_open_circle_begins_at_its_first_letter(model: SequenceModel, tmp_path: Path) -> None:
    wish = order({"fix": ["1:ATG", "28:TTA"]}, 0, written(circle("N" * 30), tmp_path / "c.gb"))
    found, missed = designed(model, wish, 3, steps=3)
    assert missed == 0 and all(s[:3] == "ATG" and s[27:] == "TTA" for s in found.whole)


def test_a_circle_is_refused_only_where_no_circle_keeps_the_rules() -> None:
    """Against all circles of six letters, some sites fixed: is there one without anything forbidden at its seam?"""
    from itertools import product

    words, rng = np.array(list(product(range(4), repeat=6))), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        motif = "".join(rng.choice(list("ACGTWS"), rng.integers(2, 5)))
        rules = [c.forbid(motif), c.homopolymer(int(rng.integers(1, 4)))]
        known = np.where(rng.random(6) < 0.6, rng.integers(0, 4, 6), -1)
        rows = words[((words == known) | (known < 0)).all(1)]
        sites = [c.fix(i + 1, "ACGT"[v]) for i, v in enumerate(known) if v >= 0]
        opened = (known < 0) | (rng.random(6) < 0.7)  # letters that a rule fixes are open all the same
        (seam,) = c.seams(rules, opened)
        lives = not seam.broken(rows).any(1).all()
        try:
            c.refuse_origin([*rules, *sites], opened)
            assert lives
        except InfeasibleError:
            refused += 1
            assert not lives
    assert refused > 10


@pytest.mark.parametrize("ending", [".fasta", ".tsv", ".json"])
def test_every_format_keeps_the_template(loaded: SequenceModel, tmp_path: Path, ending: str) -> None:
    """Untouched flanks are part of a design in plain formats too, and other code can audit the file."""
    path, out = written(plasmid(), tmp_path / "p.gb"), tmp_path / f"d{ending}"
    rules = {"forbid": ["BsaI"], "keep": ["21-295"]}
    design("x", rules=rules, n=3, template=path, out=out, settings={"steps": 4})
    old = str(plasmid().seq)
    for entry in read(out):
        assert len(entry.sequence) == len(old) and entry.sequence[20:295] == old[20:295]
        assert entry.sequence[:20] != old[:20]
    assert audit.audit([out], rules=rules, template=path)["violations"] == 0


def marked(*labels: tuple[str, int, int, int]) -> SeqRecord:
    record = plasmid(circular=False)
    for label, first, last, strand in labels:
        place = SimpleLocation(first, last, strand)
        record.features.append(SeqFeature(place, type="misc_feature", qualifiers={"label": [label]}))
    return record


def test_annotations_of_dna_chisel(loaded: SequenceModel, tmp_path: Path) -> None:
    record = marked(
        ("@no(BsmBI_site)", 0, 300, 1), ("@no(5xA)", 0, 300, 1), ("@cds", 90, 150, -1),
        ("@gc(40-60%/50bp)", 60, 240, 1), ("@keep", 0, 60, 1), ("@keep", 250, 300, 1),
        ("@insert(AarI_site)", 160, 240, 1), ("@sequence(ACGTN)", 62, 67, 1),
        ("plain label", 1, 4, 1),
    )  # fmt: skip
    path = written(record, tmp_path / "c.gb")
    wish = order({}, 0, path)
    assert len(wish.specs) == 6 and wish.start.count("?") == 190
    design("x", rules={}, n=4, template=path, out=tmp_path / "d.gb", settings={"steps": 4})
    protein = record.seq[90:150].reverse_complement().translate()
    for made in read_genbank(tmp_path / "d.gb"):
        new = made.seq
        assert new[:60] == record.seq[:60] and new[250:] == record.seq[250:] and new[62:66] == "ACGT"
        assert new[90:150].reverse_complement().translate() == protein
        assert len(audit.starts(str(new[160:240]), "CACCTGC", True, True)) == 1
        windows = [new[i : i + 50] for i in range(60, 191)]
        assert all(20 <= w.count("G") + w.count("C") <= 30 for w in windows)


@pytest.mark.parametrize(
    ("label", "why"),
    [("~gc(40-60%)", "objective"), ("@UniquifyAllKmers(10)", "no counterpart"), ("@no(4x3mer)", "do not map"),
     ("@cds(start_codon=ATG)", "do not map"), ("@gc(50%)", "do not map"), ("@no([AT]{4})", "do not map"),
     ("@primer", "no counterpart")],
)  # fmt: skip
def test_annotations_that_do_not_map_are_refused(label: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        marks(marked((label, 0, 60, 1)))


def test_one_label_holds_several_annotations() -> None:
    found = marks(marked(("@cds & @no(BsaI_site) &@gc(40-60%)", 0, 60, 1)))
    assert [m.kind for m in found] == ["cds", "no", "gc"] and {(m.first, m.size) for m in found} == {(1, 60)}
    with pytest.raises(UsageError, match="objective"):
        marks(marked(("@cds & ~optimise(e_coli)", 0, 60, 1)))


def test_a_report_says_what_it_must(loaded: SequenceModel, tmp_path: Path) -> None:
    design("x", rules=RULES, n=10, length=80, out=tmp_path / "x.fasta", settings={"steps": 4})
    design("x", rules={}, n=10, length=80, out=tmp_path / "real.fasta", settings={"steps": 4}, seed=9)
    found = report.report([tmp_path / "x.fasta"], reference=tmp_path / "real.fasta", reward=["gc(0.5,0.6)"],
                          out=tmp_path / "r.html")  # fmt: skip
    page = (tmp_path / "r.html").read_text()
    for word in (
        "K-mers",
        "control",
        "complexity",
        "novelty",
        "TATAWAW",
        "forbid BsaI",
        "exact copies",
        "95 % interval",
        "nats",
    ):
        assert word in page, word
    assert found["sequences"] == 10


def test_a_report_judges_each_file_by_its_own_rules(tmp_path: Path) -> None:
    for name, motif, letters in (("a", "GGG", "ACGTACGTAA"), ("b", "CCCC", "AGGGACGTAA"), ("c", "", "GGGGCCCCAA")):
        about = f' manifest={{"rules":{{"forbid":["{motif}"]}}}}' if motif else ""
        (tmp_path / f"{name}.fasta").write_text(f">{name}{about}\n{letters}\n")
    report.report([tmp_path / f"{n}.fasta" for n in "cab"], out=tmp_path / "r.html")
    page = re.sub("<[^>]*>|\\s+", " ", (tmp_path / "r.html").read_text())
    for motif in ("GGG", "CCCC"):
        assert re.search(rf"forbid {motif} +Bio.Restriction, regular expression +1 +0 ", page)


@pytest.mark.parametrize("letters", ["ACGUACGUGGUCUCAA", "ACGTRCGTGGTCTCAA"])
def test_a_report_takes_rna_and_ambiguous_letters_for_dna(tmp_path: Path, letters: str) -> None:
    (tmp_path / "a.fasta").write_text(f'>a manifest={{"rules":{{"forbid":["BsaI"],"gc":["0-1"]}}}}\n{letters}\n')
    report.report([tmp_path / "a.fasta"], out=tmp_path / "r.html")
    page = re.sub("<[^>]*>|\\s+", " ", (tmp_path / "r.html").read_text())
    assert "K-mers" in page and re.search("forbid BsaI +Bio.Restriction, regular expression +1 +1 ", page)


def test_the_control_keeps_every_pair_of_neighbours() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 10, 60, 200):
        s = "".join("ACGT"[v] for v in rng.choice(4, n, p=[0.5, 0.2, 0.2, 0.1]))
        t = report.shuffled(s, 1)
        assert report.composition([t], 2) == report.composition([s], 2) and len(t) == n and t == report.shuffled(s, 1)
    s = "".join("ACGT"[v] for v in rng.integers(0, 4, 200))
    assert report.shuffled(s, 1) != s and report.shuffled(s, 2) != report.shuffled(s, 1)


def test_shuffles_are_even() -> None:
    """AACACA-like words: every arrangement with the same pairs comes up equally often."""
    word, n = "ACABAACBA", 4000
    seen = {}
    for i in range(n):
        t = report.shuffled(word, i)
        seen[t] = seen.get(t, 0) + 1
    expected = n / len(seen)
    assert len(seen) > 10 and sum((v - expected) ** 2 / expected for v in seen.values()) < 3 * len(seen)
