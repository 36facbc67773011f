"""Rules of designs equal their meaning by enumeration; reasons are short; other code agrees on what is legal."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from apps.bio import audit
from apps.bio import constraints as c
from core.errors import InfeasibleError, UsageError

L = 6
WORDS = ["".join(w) for w in itertools.product("ACGT", repeat=L)]
TOKENS = np.array([["ACGT".index(b) for b in w] for w in WORDS])

SPECS = {
    "forbid": c.forbid("GAW", "TTT"),
    "forbid one strand": c.forbid("GAW", both_strands=False),
    "forbid class": c.forbid("A{A}A[CG]"),
    "forbid codes in classes": c.forbid("[RA]{S}A"),
    "fix codes in classes": c.fix(2, "[YA]{R}?{CG}"),
    "forbid within": c.forbid("AC", within=(2, 4)),
    "forbid touching": c.forbid("AC", touching=(2, 3)),
    "require": c.require("GAW"),
    "require both": c.require("GAW", both_strands=True),
    "count": c.require("AN", count=2),
    "range": c.require("WA", count=(1, 2), both_strands=True),
    "within": c.require("ACG", within=(3, 6)),
    "homopolymer": c.homopolymer(2),
    "gc": c.gc(0.3, 0.5),
    "gc span": c.gc(0.5, 1.0, within=(2, 3)),
    "fix": c.fix(2, "RA?C"),
    "frame": c.frame(2, "L"),
    "frame other strand": c.frame(1, "SX", strand=-1),
    "frame code": c.frame(1, "M*", code=2),
    "alphabet": c.alphabet("ACG", within=(2, 5)),
    "spacing": c.spacing("AC", "G", 0, 1),
    "spacing both": c.spacing("AC", "GA", 1, 2, both_strands=True),
    "enzyme": c.forbid("MspI", "AluI"),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_rule_means_what_the_audit_finds(name: str) -> None:
    """The automaton and the independent judge agree on all 4,096 words, and the rule decides something."""
    spec = SPECS[name]
    accepted = c.compile_([spec], L).layers.accepts(TOKENS)
    judge, _ = audit.JUDGES[type(spec).__name__]
    held = np.array([judge(spec, w, True) for w in WORDS])
    assert (accepted == held).all()
    assert 0 < held.sum() < len(held)


def test_a_rule_says_how_often() -> None:
    counts = {None: "require GAW", (2, None): "require GAW 2 to any times", (0, 0): "require GAW 0 to 0 times"}
    assert {count: str(c.require("GAW", count=count)) for count in counts} == counts


def test_rules_together_are_their_intersection() -> None:
    names = ["forbid class", "require both", "homopolymer", "gc", "alphabet"]
    whole = c.compile_([SPECS[n] for n in names], L).layers.accepts(TOKENS)
    each = [c.compile_([SPECS[n]], L).layers.accepts(TOKENS) for n in names]
    assert (whole == np.logical_and.reduce(each)).all() and whole.any()


def test_designs_follow_the_law_given_the_rules() -> None:
    """Total variation to the product law conditioned by enumeration, 100,000 draws (notes/bio.md, C2)."""
    law = c.compile_([SPECS["forbid class"], SPECS["require both"], SPECS["gc"]], L)
    n, generator = 100_000, torch.Generator().manual_seed(0)
    log_p = torch.randn(1, L, 4, generator=generator, dtype=torch.float64).log_softmax(-1)
    u = torch.rand(n, L, generator=generator, dtype=torch.float64)
    everything = torch.ones(n, L, dtype=torch.bool)
    x = law.whole(n).admit(log_p.expand(n, -1, -1), torch.full((n, L), -1), everything, u).numpy()
    weight = np.where(law.layers.accepts(TOKENS), np.exp(log_p[0].numpy()[np.arange(L), TOKENS].sum(1)), 0.0)
    seen = np.bincount(x @ 4 ** np.arange(L)[::-1], minlength=4**L) / n
    assert np.abs(seen - weight / weight.sum()).sum() / 2 <= 0.02


def test_proteins_have_rules_too() -> None:
    letters = "ACDEFGHIKLMNPQRSTVWY"
    law = c.compile_([c.forbid("N{P}[ST]"), c.require("KXK"), c.alphabet("ANKSTP")], 5, letters)
    x = torch.rand(500, 5, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log()
    none, everything = torch.full((500, 5), -1), torch.ones(500, 5, dtype=torch.bool)
    drawn = law.whole(500).admit(x, none, everything, torch.rand(500, 5, dtype=torch.float64))
    words = ["".join(letters[v] for v in row) for row in drawn.tolist()]
    assert audit.clean(audit.check(words, [c.forbid("N{P}[ST]"), c.require("KXK"), c.alphabet("ANKSTP")], dna=False))


@pytest.mark.parametrize("word", ["[BA]{Z}", "[JX]K", "X{J}"])
def test_codes_in_classes_of_residues_mean_the_same_to_both(word: str) -> None:
    letters = "ACDEFGHIKLMNPQRSTVWY"
    pairs = np.array(list(itertools.product(range(20), repeat=2)))
    accepted = c.compile_([c.forbid(word)], 2, letters).layers.accepts(pairs)
    words = ["".join(letters[v] for v in row) for row in pairs]
    assert [audit.holds(c.forbid(word), w, dna=False) for w in words] == accepted.tolist()


FULL = [
    c.forbid("BsaI", "BsmBI", "EcoRI", "BamHI", "XhoI", "NotI"), c.homopolymer(5), c.fix(1, "ACGTTGCAATGCCTAGCATG"),
    c.fix(181, "TGACCTGAAGTCATCGGATT"), c.require("TATAWAW", "TGASTCA"), c.frame(101, "MSKGEELFTGVVPILVELD*"),
    c.gc(0.4, 0.6),
]  # fmt: skip


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ([c.require("GGTCTC")], ["forbid BsaI", "require GGTCTC"]),
        ([c.fix(50, "GAATTC")], ["forbid EcoRI", "fix 50-55 GAATTC"]),
        ([c.gc(0.65, 0.8)], ["gc 0.4-0.6", "gc 0.65-0.8"]),
        ([c.fix(103, "C")], ["fix 103 C", "frame 101"]),
        ([c.require("TGASTCA", count=40)], ["require TGASTCA 40 to 40 times"]),
        ([c.spacing("TTGACA", "TATAAT", 15, 19, within=(24, 49))], ["spacing"]),
        ([c.alphabet("AT", within=(21, 100)), c.gc(0.5, 1, within=(21, 60))], ["alphabet AT", "gc 0.5-1"]),
    ],
)  # fmt: skip
def test_infeasible_rules_are_refused_with_the_shortest_reason(extra: list, named: list[str]) -> None:
    c.compile_(FULL, 200)
    began = time.process_time()
    with pytest.raises(InfeasibleError) as error:
        c.compile_([*FULL, *extra], 200)
    assert time.process_time() - began < 1
    text = str(error.value)
    assert all(name in text for name in named), text
    others = {"forbid BamHI", "homopolymer", "require TATAWAW", "181-200"}
    assert not [o for o in others if o in text], text


def test_neighbouring_fixed_letters_are_named_as_one() -> None:
    single = [c.fix(10 + i, letter) for i, letter in enumerate("GAATTC")]
    with pytest.raises(InfeasibleError, match=r"forbid EcoRI and fix 10-15 GAATTC"):
        c.compile_([c.forbid("EcoRI"), *single], 40)


def test_sliding_windows_are_checked() -> None:
    specs = [c.gc(0.25, 0.75, window=8)]
    law, (window,) = c.compile_(specs, 24), c.sliding(specs, 24)
    flat, none = torch.zeros(400, 24, 4), torch.full((400, 24), -1)
    u = torch.rand(400, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = law.whole(400).admit(flat, none, none < 0, u).numpy()
    high = ((x == 1) | (x == 2)).astype(int)
    tiles = high.reshape(400, 3, 8).sum(2)
    assert ((tiles >= 2) & (tiles <= 6)).all()
    broken = np.zeros_like(high, bool)
    for row in range(400):
        for i in range(17):
            if not 2 <= high[row, i : i + 8].sum() <= 6:
                broken[row, i : i + 8] = True
    assert (window.broken(x) == broken).all() and broken.any()


@pytest.mark.parametrize(
    "spec",
    [c.forbid("BsaX"), c.require("AJ"), c.gc(0.7, 0.3), c.fix(39, "ACG"), c.frame(1, "MB"), c.frame(1, "M", code=7),
     c.homopolymer(0), c.alphabet("ACU"), c.spacing("A", "C", 3, 1), c.require("A", within=(5, 60)), c.gc(0.41, 0.42)],
    ids=str,
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused(spec: c.Spec) -> None:
    with pytest.raises(UsageError) as error:
        c.compile_([spec], 40)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::Bio.BiopythonWarning")
def test_every_genetic_code_spells_its_proteins() -> None:
    """Each residue of each code has codons, and Bio.Seq reads them back."""
    from Bio.Data.CodonTable import unambiguous_dna_by_id

    for code in unambiguous_dna_by_id:
        law = c.compile_([c.frame(2, "MX", code)], 8)
        flat, none = torch.zeros(20, 8, 4), torch.full((20, 8), -1)
        u = torch.rand(20, 8, generator=torch.Generator().manual_seed(code), dtype=torch.float64)
        drawn = law.whole(20).admit(flat, none, none < 0, u).tolist()
        words = ["".join("ACGT"[v] for v in row) for row in drawn]
        assert audit.clean(audit.check(words, [c.frame(2, "MX", code)])), code
