"""Built-in rewards say what others' code says, and their soft values are theirs at one-hots."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from Bio.Seq import Seq
from Bio.SeqUtils import CodonAdaptationIndex, gc_fraction
from Bio.SeqUtils.MeltingTemp import Tm_NN
from Bio.SeqUtils.ProtParam import ProteinAnalysis
from torch.nn.functional import one_hot

from apps.bio import rewards as r
from apps.bio.dna.pwms import consensus, read_motifs
from apps.bio.expressions import BUILT_IN, compose, parse
from apps.bio.tokenizer import Tokenizer, reverse_complement
from core.errors import DataError, UsageError
from core.finetune.reward import soft

DNA, PROTEIN = Tokenizer("ACGT"), Tokenizer("ACDEFGHIKLMNPQRSTVWY")
REAL = Path(__file__).parents[2] / "../shared/data/bio/motifs"


def random_dna(n: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (n, length)))


def text(x: torch.Tensor) -> list[str]:
    return DNA.decode(x.numpy())


def test_melting_temperature_is_biopythons() -> None:
    x = random_dna(20, 33)
    expected = [Tm_NN(s, dnac1=25, dnac2=25) for s in text(x)]
    assert np.allclose(r.MeltingTemperature().score(x), expected, atol=1e-9)
    assert np.allclose(r.MeltingTemperature(60.0).score(x), [-abs(e - 60) for e in expected], atol=1e-9)


def test_gc_is_biopythons() -> None:
    x = random_dna(20, 41)
    share = np.array([gc_fraction(s) for s in text(x)])
    expected = -np.maximum(0.45 - share, 0) - np.maximum(share - 0.5, 0)
    assert np.allclose(r.Gc(0.45, 0.5).score(x), expected)


def test_codon_adaptation_is_biopythons(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    codons, law = ["GCT", "GCC", "AAA", "AAG", "CTG", "CTA", "GGT"], [0.4, 0.05, 0.2, 0.1, 0.1, 0.05, 0.1]
    genes = ["".join(rng.choice(codons, 60, p=law)) for _ in range(5)]
    (tmp_path / "genes.fasta").write_text("".join(f">g{i}\n{g}\n" for i, g in enumerate(genes)))
    index = CodonAdaptationIndex(genes)
    x = torch.from_numpy(DNA.encode([genes[0], genes[0][::-1].replace("TAA", "TAC")]))
    whole = [s for s in text(x) if "*" not in str(Seq(s).translate())]
    assert whole
    got = r.cai(str(tmp_path / "genes.fasta")).score(torch.from_numpy(DNA.encode(whole)))
    assert np.allclose(got, [index.calculate(s) for s in whole])
    (tmp_path / "rna.fasta").write_bytes(  # as an editor of Windows writes it
        b"\xef\xbb\xbf" + "".join(f">g\r\n{g.replace('T', 'U')}\r\n" for g in genes).encode())  # fmt: skip
    assert torch.equal(r.cai(str(tmp_path / "rna.fasta")).log_w, r.cai(str(tmp_path / "genes.fasta")).log_w)
    with pytest.raises(DataError, match="no such file"):
        r.cai("absent.fasta")
    (tmp_path / "rna.fasta").write_bytes(b"\xff\xfe>g")
    with pytest.raises(DataError, match="cannot be read as text"):
        r.cai(str(tmp_path / "rna.fasta"))


def test_hairpins_are_counted_by_hand() -> None:
    x = torch.from_numpy(DNA.encode(["GGGCCAAAAGGCCC", "AAAAAAAAAAAAAA"]))
    assert torch.allclose(r.Hairpin(5, 30).score(x), torch.tensor([-1 / 14, 0.0]).double())

    def brute(s: str, stem: int, reach: int) -> int:
        places = ((i, loop) for i in range(len(s)) for loop in range(3, reach + 1) if i + 2 * stem + loop <= len(s))
        return sum(s[i : i + stem] == reverse_complement(s[i + stem + loop :][:stem]) for i, loop in places)

    x = random_dna(30, 60)
    assert np.allclose(-r.Hairpin(3, 12).score(x) * 60, [brute(s, 3, 12) for s in text(x)])


def test_occupancy_is_a_sum_over_places_and_strands() -> None:
    x, odds = random_dna(10, 20), consensus("TGASTCA")
    total = np.zeros(10)
    for strand in (x.numpy(), 3 - x.numpy()[:, ::-1]):
        for i in range(14):
            total += np.exp(odds[np.arange(7), strand[:, i : i + 7]].sum(1))
    assert np.allclose(r.pwm("TGASTCA").score(x), np.log(total))
    assert np.allclose(np.exp(consensus("ANRB")).sum(1) * 0.25, 1)
    with pytest.raises(UsageError, match="IUPAC"):
        r.pwm("TGZ")


@pytest.mark.skipif(not REAL.is_dir(), reason="no real motifs here")
def test_real_collections_are_read() -> None:
    known = read_motifs(REAL / "hocomoco_v12_core.meme.gz")
    assert len(known) == 1443 and all(np.allclose(m.sum(1), 1, atol=1e-3) for m in known.values())
    assert r.pwm("C002:CREB_XBP1:bZIP", str(REAL / "jaspar_2024_consensus.meme")).odds.shape == (9, 4)
    with pytest.raises(UsageError, match="did you mean"):
        r.pwm("C002:CREB_XBP1:bZIPP", str(REAL / "jaspar_2024_consensus.meme"))


@pytest.mark.parametrize("reward", [r.Gc(0.6, 0.7), r.MeltingTemperature(), r.Hairpin(3, 9), r.pwm("CACGTG")])
def test_soft_values_and_gradients(reward: r.Gc) -> None:
    x = random_dna(4, 24)
    p = one_hot(x, 4).double()
    assert torch.allclose(reward.soft(p), reward.score(x))
    p = torch.from_numpy(np.random.default_rng(2).dirichlet(np.ones(4), (2, 24))).requires_grad_()
    assert torch.autograd.gradcheck(reward.soft, p, eps=1e-5, atol=1e-6)


def test_protein_properties() -> None:
    sequences = ["ACDEFGHIKLMNPQRSTVWY", "KRKRKRKRKRAAAAAWWWFF"]
    x = torch.from_numpy(PROTEIN.encode(sequences))
    for name, way in (("charge", lambda a: a.charge_at_pH(7.0)), ("instability", lambda a: a.instability_index())):
        expected = [way(ProteinAnalysis(s)) for s in sequences]
        assert np.allclose(parse(f"{name}()").score(x), expected)
    gravy = r.Gravy()
    assert torch.allclose(gravy.soft(one_hot(x, 20).double()), gravy.score(x))


def test_expressions(tmp_path: Path) -> None:
    x = random_dna(6, 30)
    gc, tm, motif = r.Gc(0.4, 0.6).score(x), r.MeltingTemperature().score(x), r.pwm("CACGTG").score(x)
    assert torch.allclose(parse("2 * gc(0.4, 0.6) + pwm(CACGTG) + -1 * tm()").score(x), 2 * gc + motif - tm)
    assert torch.allclose(compose(["gc(0.4,0.6)=3", "tm()"]).score(x), 3 * gc + tm)
    level = torch.sigmoid((tm - 60) / 2)
    together = parse("geometric(threshold(tm(), 60, 2), threshold(pwm(CACGTG), 0, 1))").score(x)
    assert torch.allclose(together, (level * torch.sigmoid(motif)).sqrt())
    (tmp_path / "t.tsv").write_text(f"sequence\tvalue\n{text(x)[0]}\t2.5\n")
    found = parse(f"table({tmp_path / 't.tsv'}, 0)").score(x)
    assert found.tolist() == [2.5, 0, 0, 0, 0, 0]
    assert math.isinf(float(r.table(str(tmp_path / "t.tsv")).score(x)[1]))


def test_arguments_that_count_are_whole_numbers() -> None:
    x = random_dna(6, 60)
    assert torch.equal(parse("hairpin(3, 12)").score(x), r.Hairpin(3, 12).score(x))
    assert torch.equal(parse("2 * hairpin(4)").score(x), 2 * r.Hairpin(4).score(x))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("gcc(0.4, 0.6)", "'gc'"), ("gc(1, 2, 3, 4, 5)", "takes other"), ("gc(0.4, 0.6, 3)", "takes other"),
     ("gc(", "closing"), ("gc() gc()", "read at"), ("", "read at"), ("nothing.here:Reward", "imported"),
     ("tn", "'tm'"), ("gravy(3)", "write gravy()"), ("charge(7)", "write charge()"), ("ddg", "write ddg.folder"),
     ("hairpin(4.5)", "stem is a whole number"), ("hairpin(0)", "stem is a whole number"),
     ("hairpin(4, gc)", "reach is a whole number"), ("gc(40, 60)", "no percents"), ("gc(0.6, 0.4)", "lo <= hi")],
)  # fmt: skip
def test_mistakes_are_named(wrong: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(wrong)


def test_every_reward_has_name_and_unit() -> None:
    made = [BUILT_IN[n]() for n in BUILT_IN if n not in {"oracle", "pwm", "cai", "table", "ddg"}]
    assert all(m.name and m.unit for m in made)  # type: ignore[attr-defined]


def test_files_that_say_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none.fasta").write_text(">a\nAT\n")
    with pytest.raises(DataError, match="no whole codon"):
        r.cai(str(tmp_path / "none.fasta"))
    for text, says in (
        ('"ACGT","2"\n', "no pair"),
        ("ACGT;2\n", "no pair"),
        ("", "no pair"),
        ("A,1\nC\n", ":2: is not"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(DataError, match=says):
            r.table(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as text"):
        r.table(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfacgt,2\n")
    assert r.table(str(tmp_path / "t.csv")).values == {"ACGT": 2}
    (tmp_path / "t.csv").write_text("ACGU,2\nAC,1\n")
    assert r.table(str(tmp_path / "t.csv")).values == {"ACGT": 2, "AC": 1}
    assert r.table(str(tmp_path / "t.csv")).letters == "ACGT"


OWN = """
import torch

class Mine:
    name = "mine"
    def __init__(self, way=lambda x: (x == 1).double().mean(1)):
        self.score = way
        self.soft = lambda p: p[..., 1].mean(1, keepdim=True)

fine = Mine()
listed = Mine(lambda x: [float(v) for v in fine.score(x)])
array = Mine(lambda x: fine.score(x).numpy())
column = Mine(lambda x: fine.score(x)[:, None])
single = Mine(lambda x: fine.score(x).mean())
few = Mine(lambda x: fine.score(x)[1:])

def fails(x):
    return {}["oops"]

failing = Mine(fails)
"""


def test_a_reward_of_the_user_s_says_one_number_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column would be taken for a table of all pairs; a mistake in it is told by its line."""
    (tmp_path / "own_numbers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    x = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1]])
    for name in ("fine", "listed", "array"):
        reward = compose([f"own_numbers:{name}=2"])
        assert reward.score(x).tolist() == [1.0, 0.5] and reward.score(x).dtype == torch.float64
    for name, says in (("column", r"returns \(2, 1\) for 2"), ("single", "returns Tensor for 2"), ("few", r"\(1,\)")):
        with pytest.raises(UsageError, match=f"{says}.*own_numbers:{name}"):
            compose([f"own_numbers:{name}"]).score(x)
    with pytest.raises(UsageError, match="KeyError at own_numbers.py:18: 'oops'"):
        compose(["own_numbers:failing"]).score(x)
    with pytest.raises(UsageError, match=r"returns \(2, 1\)"):
        soft(compose(["own_numbers:fine"])).soft(torch.nn.functional.one_hot(x, 4).double())
