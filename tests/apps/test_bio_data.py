"""Sources and splits: groups stay together, the grammar has the law that it states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.bio.data import element, read, read_ecoli, read_fasta, read_gosai, read_grammar, read_lentimpra
from apps.bio.dna.grammar import EBOX, GAPS, INITIATOR, PROMOTER, TATA, Grammar, weights
from apps.bio.model import DataConfig
from apps.bio.tokenizer import Tokenizer, reverse_complement
from core.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared/data/bio/dna"
present = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared DNA data are not here")


def test_grammar_places_its_motifs() -> None:
    x, places = Grammar(80).sample(2000, 0)
    share = (places[:, 0] >= 0).mean()
    assert abs(share - PROMOTER) < 0.04
    for row, (tata, start, box) in zip(x, places, strict=True):
        for motif, at in ((TATA, tata), (INITIATOR, start), (EBOX, box)):
            if at >= 0:
                assert (weights(motif)[np.arange(len(motif)), row[at : at + len(motif)]] > 0).all()
        if tata >= 0:
            assert start - tata - len(TATA) in GAPS and (box < 0 or box + len(EBOX) < tata)


def test_the_stated_law_is_the_sampled_one() -> None:
    """A Metropolis step with the stated law leaves the sampled law as it was: TATA boxes stay as many."""
    grammar, n = Grammar(80), 4000
    x, _ = grammar.sample(n, 1)
    rng = np.random.default_rng(2)
    changed = x.copy()
    site = rng.integers(0, 80, n)
    changed[np.arange(n), site] = rng.integers(0, 4, n)
    accept = np.log(rng.random(n)) < grammar.log_prob(changed) - grammar.log_prob(x)
    moved = np.where(accept[:, None], changed, x)
    tata = weights(TATA) > 0
    hits = [np.lib.stride_tricks.sliding_window_view(v, len(TATA), axis=1) for v in (x, moved)]
    counts = [tata[np.arange(len(TATA)), h].all(-1).sum() for h in hits]
    assert 0.2 < accept.mean() < 0.95
    assert abs(counts[0] - counts[1]) < 4 * counts[0] ** 0.5 * (1 - accept.mean() * 0.5)


def test_the_stated_law_sums_to_one_over_a_site() -> None:
    """E_x[p(x with site i redrawn uniformly)] is consistent: sum over a letter of p is the marginal without it."""
    grammar = Grammar(80)
    x, _ = grammar.sample(300, 3)
    ratio = []
    for site in (5, 30, 79):
        total = []
        for a in range(4):
            y = x.copy()
            y[:, site] = a
            total.append(grammar.log_prob(y))
        ratio.append(np.exp(grammar.log_prob(x) - np.logaddexp.reduce(total)))
    assert np.isfinite(ratio).all() and (np.array(ratio) <= 1 + 1e-12).all()
    conditional = -np.log(np.array(ratio)).mean(1)  # nats of a letter given all others, under the true law
    assert (conditional < np.log(4)).all() and (conditional > 0.6).all()


def test_the_toy_is_split() -> None:
    data = read(DataConfig(simulated=400, length=80), seed=5)
    assert [len(data.select(p)) for p in (0, 1, 2)] == [360, 40, 100]
    again = read_grammar(400, 5, 80)
    assert np.array_equal(data.tokens, again.tokens)


def test_fasta_is_cut_and_dealt(tmp_path: Path) -> None:
    path = tmp_path / "some.fa"
    path.write_text(">a\nACGTACGT\nAC\n>b\nACGNACGTAAAA\n")
    data = read_fasta(path, 4)
    assert Tokenizer("ACGT").decode(data.tokens) == ["ACGT", "ACGT", "ACGT", "AAAA"]
    path.write_text(
        "".join(f">r{i} A>G\n{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}{'AC'[i // 16]}AAACCCC\n" for i in range(20))
    )
    assert read_fasta(path, 4).group.tolist() == [i // 2 for i in range(40)]
    with pytest.raises(DataError, match="no sequence of 40"):
        read_fasta(path, 40)
    with pytest.raises(DataError, match="no such file"):
        read_fasta(tmp_path / "none.fa", 4)


def test_both_strands_of_a_record_stay_together(tmp_path: Path) -> None:
    """Records of an assay in both orientations, and copies; those too short for a piece do not count."""
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("ACGT"), 9)) for _ in range(40)]
    mates = [w for word in words for w in (word, "ACG", reverse_complement(word), word.lower())]
    (path := tmp_path / "both.fa").write_text("\ufeff" + "".join(f">r{i}\n{w}\n" for i, w in enumerate(mates)))
    data = read_fasta(path, 9)
    assert data.group.tolist() == [i // 3 for i in range(120)]
    assert np.bincount(data.part).tolist() == [108, 6, 6]


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    import gzip

    (cut := tmp_path / "cut.fa.gz").write_bytes(gzip.compress(b">a\n" + b"ACGT" * 99)[:30])
    (binary := tmp_path / "b.fa").write_bytes(b">a\n\xff\xfeACGT")
    for path in (cut, binary):
        with pytest.raises(DataError, match="cannot be read"):
            read_fasta(path, 4)
    for row, why in (("ACGT,NA", "row 2 has no number in hepg2; got 'NA'"), ("ACGT", "row 2 has no hepg2")):
        (table := tmp_path / "t.csv").write_text(f"\ufeffseq,hepg2\nACGA,1\n{row}\n")
        with pytest.raises(DataError, match=why):
            read_gosai(table, 4)
    table.write_text("seq,hepg2\nACGA,1\nACCC,-2e-1\n")
    assert read_gosai(table, 4).value.tolist() == [1, -0.2]


def test_one_long_record_trains_validates_and_tests(tmp_path: Path) -> None:
    """A genome of one chromosome, or two: neighbours stay together."""
    genome = "".join(np.random.default_rng(0).choice(list("ACGT"), 4000))
    for text in (f">chr\n{genome}\n", f">a\n{genome[:3000]}\n>b\n{genome[3000:]}\n", f">chr\n{genome[:100]}\n"):
        (path := tmp_path / "genome.fa").write_text(text)
        data = read_fasta(path, 4)
        share = np.bincount(data.part, minlength=3) / len(data)
        assert (share > 0.03).all() and share[0] > 0.8 and (np.diff(data.group) >= 0).all()


def test_tables_without_columns_are_refused(tmp_path: Path) -> None:
    for name in ("valid", "test"):
        (tmp_path / f"lentimpra_WTC11_{name}.tsv").write_text("sequence\tvalue\nACGT\t1\n")
    with pytest.raises(DataError, match="no column seq"):
        read_lentimpra(tmp_path)


@present
def test_orientations_of_an_element_stay_together() -> None:
    data = read_lentimpra(SHARED)
    assert len(data) > 7000 and data.tokens.shape[1] == 200  # 4,617 to learn from, those staged to judge
    letters = Tokenizer("ACGT").decode(data.tokens)
    part = dict(zip(letters, data.part.tolist(), strict=True))
    mates = [(part[s], part[reverse_complement(s)]) for s in letters if reverse_complement(s) in part]
    assert len(mates) > 7000 and all(a == b for a, b in mates)
    assert element(letters[0]) == element(reverse_complement(letters[0]))
    assert 0.07 < (data.part == 1).sum() / (data.part < 2).sum() < 0.13


@present
def test_blocks_of_the_genome_stay_together() -> None:
    data = read_ecoli(SHARED / "ecoli_tss_mpra.tsv.gz")
    assert data.tokens.shape == (17521, 150) and (data.part == 2).sum() == 4443
    groups = [set(data.group[data.part == p]) for p in (0, 1, 2)]
    assert not groups[0] & groups[1] and len(groups[0] & groups[2]) <= 2 and len(groups[1] & groups[2]) <= 1
