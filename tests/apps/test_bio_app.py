"""The bio app as a user meets it: every verb, every output, every kind of bad input."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from apps.__main__ import main
from apps.bio.records import read

SHORT = ["trainer.steps=6", "trainer.validate_every=0", "data.simulated=400", "model.dim=8", "model.depth=1"]
RULES = ["--forbid", "BsaI", "--forbid", "GGGG", "--require", "TATAWAW=1-2", "--gc", "0.3-0.7/25", "--gc", "0.4-0.6",
         "--homopolymer", "4", "--fix", "1:GGATCC", "--frame", "62:MSKGE*", "--spacing", "TTGACA,TATAAT,15-17",
         "--steps", "6"]  # fmt: skip
PLASMID = """LOCUS       pTEST                     90 bp    DNA     circular SYN 01-JAN-2025
FEATURES             Location/Qualifiers
     misc_feature    31..60
                     /label="@no(BsaI)"
     promoter        1..30
                     /label="kept"
ORIGIN
        1 ggatcctgca gcaagcttgg caccatgaaa nnnnnnnnnn nnnnnnnnnn nnnnnnnnnn
       61 ttgacatata atgctagcat cgatcgtacg
//
"""


@dataclass
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Quintet = Callable[..., Done]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the toy for a few steps, once."""
    out = tmp_path_factory.mktemp("toy")
    words, sys.argv = sys.argv, ["quintet", "bio", "train", "toy", *SHORT, "--out", str(out)]
    try:
        main()
    except SystemExit as end:
        assert not end.code
    finally:
        sys.argv = words
    return out


@pytest.fixture
def quintet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Quintet:
    """Run a command in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["quintet", "bio", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capfd.readouterr())

    return run


def test_fasta_goes_to_stdout(quintet: Quintet, run_folder: Path, tmp_path: Path) -> None:
    done = quintet("sample", run_folder, "-n", 3, "--start", "GGATCC????ACGT", "--steps", 4)
    assert done.code == 0 and "3 sequences" in done.err
    (tmp_path / "x.fasta").write_text(done.out)
    for entry in read(tmp_path / "x.fasta"):
        assert entry.sequence[:6] == "GGATCC" and entry.sequence[10:] == "ACGT" and entry.manifest["steps"] == 4


@pytest.mark.parametrize("ending", [".fasta", ".gb", ".tsv", ".json"])
def test_design_audit_score_report(quintet: Quintet, run_folder: Path, tmp_path: Path, ending: str) -> None:
    done = quintet("design", run_folder, "-n", 6, *RULES, "--json", "--out", f"d{ending}")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["violations"] == 0 and result["designs"] + result["given_up"] == 6 and "all together" in done.err
    assert [p.name for p in tmp_path.iterdir()] == [f"d{ending}"]
    given = [] if ending != ".gb" else RULES[:-2]
    done = quintet("audit", f"d{ending}", *given, "--json")
    assert done.code == 0 and json.loads(done.out)["violations"] == 0, done.err
    done = quintet("audit", f"d{ending}", "--forbid", "TATAWAW")
    assert done.code == 3 and "6 of 6" in done.err and "audit: 6 violations" in done.err
    done = quintet("score", f"d{ending}", "--reward", "gc(0.4, 0.6)", "--model", run_folder)
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert rows[0] == ["name", "length", "gc", "nats per letter"] and len(rows) == 7 and float(rows[1][2]) == 0
    done = quintet("report", f"d{ending}", "--reward", "tm()", "--out", "r.html", "--json")
    assert done.code == 0 and "Motifs" in (tmp_path / "r.html").read_text() or ending == ".gb"


def test_the_same_seed_gives_the_same_sequences(quintet: Quintet, run_folder: Path) -> None:
    words = ("sample", run_folder, "-n", 4, "--steps", 4)
    first, again, other = (quintet(*words, "--seed", s).out for s in (1, 1, 2))
    assert first == again != other


def test_a_template_keeps_its_features(quintet: Quintet, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.gb").write_text(PLASMID)
    done = quintet("design", run_folder, "--template", "p.gb", "-n", 3, "--forbid", "EcoRI", "--out", "o.gb", "--json")
    assert done.code == 0 and json.loads(done.out)["designs"] == 3, done.err
    from apps.bio.records import read_genbank

    old = read_genbank(tmp_path / "p.gb")[0]
    for new in read_genbank(tmp_path / "o.gb"):
        assert (
            new.annotations["topology"] == "circular" and new.seq[:30] == old.seq[:30] and new.seq[60:] == old.seq[60:]
        )
        assert [f.qualifiers.get("label") for f in new.features[:2]] == [["@no(BsaI)"], ["kept"]]
        assert "N" not in new.seq.upper()
    done = quintet("audit", "o.gb", "--template", "p.gb", "--forbid", "EcoRI")
    assert done.code == 0, done.err


def test_steering_and_tuning(quintet: Quintet, run_folder: Path, tmp_path: Path) -> None:
    words = ("design", run_folder, "-n", 4, "--reward", "gc(0.9, 1)", "--steps", 6, "--json", "--out", "a.tsv")
    for way in ("best-of-n", "smc", "gilc-black-box"):
        done = quintet(*words, "--steering", way)
        assert done.code == 0 and "gc" in json.loads(done.out), done.err
    done = quintet(
        "finetune", run_folder, "--reward", "gc(0.9, 1)", "--updates", 2, "--batch", 4, "--lr", 0.01, "--steps", 5,
        "--truncate", 2, "--out", "t", "--json",
    )  # fmt: skip
    result = json.loads(done.out)
    assert done.code == 0 and [result[k] for k in ("step", "lr", "steps", "truncate")] == [2, 0.01, 5, 2], done.err
    assert quintet("sample", "t/model", "-n", 2, "--steps", 4).code == 0
    assert json.loads(quintet("check", "t/model", "--json").out)["intact"] is True


def test_a_reward_of_ones_own(
    quintet: Quintet, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "class Cytosines:\n    name = 'cytosines'\n    def score(self, x):\n        return (x == 1).double().mean(1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    done = quintet(
        "design", run_folder, "-n", 4, "--reward", "mine:Cytosines", "--steps", 4, "--out", "c.json", "--json"
    )
    assert done.code == 0 and json.loads(done.out)["cytosines"] > 0.25, done.err
    done = quintet("finetune", run_folder, "--reward", "mine:Cytosines", "--out", "t")
    assert done.code == 2 and "gradient" in done.err and not (tmp_path / "t").exists()


def test_evaluate(quintet: Quintet, run_folder: Path, tmp_path: Path) -> None:
    done = quintet("evaluate", run_folder, "-n", 20, "--draws", 2, "--json", "--out", "card.json")
    card = json.loads(done.out)
    assert done.code == 0 and 1.0 < card["nats_per_letter"] < 1.6 and card["6mer_tv_floor"] > 0, done.err
    assert json.loads((tmp_path / "card.json").read_text()) == card


def damaged(run_folder: Path, folder: Path) -> Path:
    """Copy a checkpoint and change one byte of its weights."""
    folder.mkdir()
    for path in (run_folder / "model").iterdir():
        blob = bytearray(path.read_bytes())
        if path.suffix == ".safetensors":
            blob[-1] ^= 1
        (folder / path.name).write_bytes(blob)
    return folder


def foreign(run_folder: Path, folder: Path) -> Path:
    """Copy a checkpoint and let it belong to another app."""
    folder.mkdir()
    for path in (run_folder / "model").iterdir():
        (folder / path.name).write_bytes(path.read_bytes().replace(b'"app": "bio"', b'"app": "music"'))
    return folder


BAD = {
    "bad.fasta": "ACGT\n>a\nACGT\n",
    "empty.fasta": "",
    "letters.fasta": ">a\nACGTJACGT\n",
    "short.fasta": ">a\nACGT\n",
    "good.fasta": ">a\nACGTACGTACGTACGTACGT\n",
    "bad.gb": "LOCUS broken\n  nothing\n",
    "mark.gb": PLASMID.replace("@no(BsaI)", "@optimise(e_coli)"),
    "bad.pdb": "ATOM  what is this\n",
    "bad.json": '{"records": [',
    "bad.tsv": "name\tletters\na\tACGT\n",
    "typo.yaml": "defaults: [base, _self_]\nmodel: {dimm: 3}\n",
}
OUT = ["--out", "x.fasta"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["sample", "{model}", "--out", "x.docx"], 2, "out: no such format"),
        (["sample", "{model}", "--out", "good.fasta/x.fasta"], 2, "is a file"),
        (["sample", "{model}", "--start", "ACGB??"], 2, "start: "),
        (["sample", "{model}", "--start", "ACG??", "--length", "9"], 2, "length: differs"),
        (["sample", "{model}", "--solver", "euler"], 2, "solver: no such solver"),
        (["sample", "{damaged}"], 3, "damaged: sha256"),
        (["sample", "{foreign}"], 3, "belongs to app 'music'"),
        (["sample", "toyy"], 3, "model: no such model"),
        (["design", "{damaged}", *OUT], 3, "damaged: sha256"),
        (["design", "{model}", "--forbid", "BsmBII", *OUT], 2, "did you mean 'BsmBI'"),
        (["design", "{model}", "--forbid", "ACGJ", *OUT], 2, "motif: letter 4"),
        (["design", "{model}", "--require", "GAATTC", "--forbid", "EcoRI", *OUT], 2,
         "forbid EcoRI and require GAATTC contradict each other"),
        (["design", "{model}", "--fix", "1:AAAAAA", "--homopolymer", "5", *OUT], 2, "contradict each other"),
        (["design", "{model}", "--frame", "1:MSKGEEL", "--fix", "1:C", "--gc", "0.4-0.6", *OUT], 2,
         "fix 1 C and frame 1 MSKGEEL contradict each other"),
        (["design", "{model}", "--gc", "0.9-1/20", "--alphabet", "AT", *OUT], 2, "contradict each other"),
        (["design", "{model}", "--frame", "90:MSKGEEL", *OUT], 2, "do not fit into 100 letters"),
        (["design", "{model}", "--frame", "1:MSKGEEL:99", *OUT], 2, "code: no such genetic code"),
        (["design", "{model}", "--frame", "MSKGEEL", *OUT], 2, "frame: is not written like"),
        (["design", "{model}", "--gc", "forty", *OUT], 2, "gc: is not written like"),
        (["design", "{model}", "--gc", "0.4.1-0.6", *OUT], 2, "gc: is not written like"),
        (["design", "{model}", "--template", "good.fasta", "--length", "8", *OUT], 2, "length: is that of the templ"),
        (["design", "{model}", "--fix", "101:A", *OUT], 2, "fix: must lie within 1 ... 100"),
        (["design", "{model}", "--keep", "1-5", *OUT], 2, "keep: needs --template"),
        (["design", "{model}", "--template", "none.gb", *OUT], 3, "none.gb"),
        (["design", "{model}", "--template", "bad.gb", *OUT], 3, "bad.gb: "),
        (["design", "{model}", "--template", "mark.gb", *OUT], 2, "template: the annotation at 31"),
        (["design", "{model}", "--template", "bad.pdb", *OUT], 2, "file: no such format"),
        (["design", "{model}", "--template", "letters.fasta", "--keep", "1-2,5-6", *OUT], 3, "no nucleotide"),
        (["design", "{model}", "--reward", "gcc(0.4)", *OUT], 2, "reward: no such reward"),
        (["design", "{model}", "--reward", "gc(0.4", *OUT], 2, "lacks a closing parenthesis"),
        (["design", "{model}", "--reward", "gc()", "--steering", "smcc", *OUT], 2, "did you mean 'smc'"),
        (["design", "{model}", "--reward", "oracle(nowhere)", *OUT], 3, "nowhere"),
        (["design", "{model}", "--steering", "smc", *OUT], 2, "steering: needs a reward"),
        (["finetune", "{model}", "--reward", "gc()"], 2, "out: is needed"),
        (["design", "{model}", "--out", "x.sdf"], 2, "out: holds peptides"),
        (["sample", "{model}", "--topology", "cyclic"], 2, "topology: needs --out"),
        (["finetune", "{model}", "--out", "t"], 2, "reward: needs at least one"),
        (["finetune", "{model}", "--reward", "gc()", "--method", "drake", "--out", "t"], 2, "did you mean 'drakes'"),
        (["score", "good.fasta"], 2, "reward: is needed"),
        (["score", "none.fasta", "--reward", "gc()"], 3, "none.fasta"),
        (["score", "bad.fasta", "--reward", "gc()"], 3, "bad.fasta: does not begin with >"),
        (["score", "letters.fasta", "--reward", "gc()"], 3, "letters.fasta"),
        (["score", "letters.fasta", "--model", "{model}"], 3, "letters.fasta"),
        (["score", "short.fasta", "--reward", "pwm(TGASTCA)"], 2, "longer than the sequence"),
        (["score", "good.fasta", "--reward", "gc()", "--out", "bad.gb/x.tsv"], 2, "is a file"),
        (["audit", "good.fasta"], 2, "rules: no rule is given"),
        (["audit", "good.fasta", "--forbid", "BsmBII"], 2, "did you mean 'BsmBI'"),
        (["audit", "bad.json", "--forbid", "BsaI"], 3, "bad.json: is not"),
        (["audit", "bad.tsv", "--forbid", "BsaI"], 3, "bad.tsv: has no column"),
        (["audit", "empty.fasta", "--forbid", "BsaI"], 3, "empty.fasta: "),
        (["audit", "good.docx", "--forbid", "BsaI"], 2, "file: no such format"),
        (["report", "bad.gb"], 3, "bad.gb: "),
        (["report", "good.fasta", "--reward", "gcc()"], 2, "no such reward"),
        (["report", "good.fasta", "--out", "r.pdf"], 2, "out: the report is a page"),
        (["evaluate", "{model}", "--out", "bad.gb/x.json"], 2, "is a file"),
        (["oracle", "judges", "--path", "nowhere"], 2, "did you mean 'judge'"),
        (["oracle", "judge", "--path", "nowhere"], 3, "nowhere"),
        (["check", "{damaged}"], 3, "damaged: sha256"),
        (["check", "toy", "model.dimm=3"], 2, "model.dimm: no such setting; got '3'; one of model.dim"),
        (["check", "./typo.yaml"], 2, "model.dimm: no such setting; one of model.dim"),
        (["check", "tooy"], 2, "did you mean 'toy'"),
        (["check", "gosai"], 3, "gosai_all.csv"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)  # fmt: skip
def test_bad_input_is_one_line(
    quintet: Quintet, run_folder: Path, tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    for name, text in BAD.items():
        (tmp_path / name).write_text(text)
    places = {"{model}": str(run_folder)}
    if "{damaged}" in words:
        places["{damaged}"] = str(damaged(run_folder, tmp_path / "damaged"))
    if "{foreign}" in words:
        places["{foreign}"] = str(foreign(run_folder, tmp_path / "foreign"))
    before = {p.name for p in tmp_path.iterdir()}
    done = quintet(*(places.get(w, w) for w in words))
    assert done.code == code, done.err
    last = [line for line in done.err.splitlines() if line.strip()][-1]
    assert says in last and "Traceback" not in done.err and not done.out
    assert {p.name for p in tmp_path.iterdir()} == before


def test_a_protein_needs_its_structure(quintet: Quintet, tmp_path: Path) -> None:
    from apps.bio.protein.structure import read_structure
    from core.errors import DataError

    for name, text in (("bad.pdb", BAD["bad.pdb"]), ("bad.cif", "data_x\nloop_\n_atom_site.id\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=name):
            read_structure(tmp_path / name)


def test_the_infeasible_is_refused_within_a_second(quintet: Quintet, run_folder: Path) -> None:
    from apps.bio import dna
    from core.errors import InfeasibleError

    model = dna.load(run_folder)
    rules = [dna.forbid("EcoRI", "BsaI", "BsmBI"), dna.homopolymer(5), dna.gc(0.4, 0.6), dna.require("GAATTC")]
    began = time.perf_counter()
    with pytest.raises(InfeasibleError, match="forbid EcoRI and require GAATTC"):
        model.sample(10, constraints=rules)
    assert time.perf_counter() - began < 1.0
