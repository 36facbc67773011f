"""The command line: the same verbs everywhere, cheap help, results on stdout, mistakes in one line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from apps import DOMAINS
from apps.__main__ import main
from core.run.cli import ORDER, emit
from core.run.launch import read

ROOT = Path(__file__).resolve().parent.parent
TOY = ROOT / "tests" / "toyhouse" / "quintet.py"
HELP = "import sys; sys.argv[0] = 'quintet'; from {module} import main\ntry: main()\nexcept SystemExit: pass\n"
SPY = "print([m for m in ('torch', 'hydra', 'numpy', 'osmnx') if m in sys.modules], file=sys.stderr)"
YARDSTICK = "import asyncio, http.client, email.mime.text, unittest, xml.dom.minidom, json, typer, typer.testing"
QUIET = 0.14  # CPU-seconds that the yardstick takes on the quiet machine of the results table (2 cores)


@dataclass
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Quintet = Callable[..., Done]


@pytest.fixture
def quintet(
    toy_app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Quintet:
    """Run a command of the house with the toy app, in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["quintet", *words])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capfd.readouterr())

    return run


def measured(code: str, *words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run code in another interpreter, which may keep what it compiles; return how it ended and its CPU-seconds."""
    settings = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code, *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spied(*words: str) -> tuple[str, float]:
    """Run a command of the real house; return what heavy modules it imported and its CPU-seconds."""
    done, seconds = measured(HELP.format(module="apps.__main__") + SPY, *words)
    assert "usage" in done.stdout.lower(), done.stdout
    return done.stderr.strip(), seconds


def slowness() -> float:
    """Return how many times slower than a quiet machine of the results table this one starts Python now (1 or more)."""
    return max(1.0, measured(YARDSTICK)[1] / QUIET)


VERBS = [(), *((domain, *verb) for domain in DOMAINS for verb in [(), *((v,) for v in ORDER)])]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help_is_cheap(words: tuple[str, ...]) -> None:
    if words and not (ROOT / "apps" / words[0] / "cli.py").is_file():
        pytest.skip(f"apps/{words[0]} has no command line yet")
    seconds = np.inf
    for _ in range(5):  # what else a machine does only adds to a time: the least of a few is the command's own
        heavy, took = spied(*words, "--help")
        assert heavy == "[]"
        if (seconds := min(seconds, took / slowness() if took >= 0.5 else took)) < 0.5:
            break
    assert seconds < 0.5


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["tooy", "train"], 2, "did you mean 'toy'"),
        (["toy", "train", "toyy"], 2, "recipe: not found"),
        (["toy", "train", "optim.lrr=1"], 2, "optim.lrr: no such setting"),
        (["toy", "train", "-m", "optim.lr=0.1,abc"], 2, "optim.lr:"),
        (["toy", "train", "toy", "toy"], 2, "neither an override"),
        (["toy", "train", "--config-name=x"], 2, "recipe by name"),
        (["toy", "train", "data.name=cosines"], 2, "data.name: no such data"),
        (["toy", "check", "data.batch=0"], 2, "data.batch: must be at least 1"),
        (["toy", "sample", "nowhere"], 3, "no complete checkpoint"),
        (["toy", "data", "nothing"], 2, "data: no such data set"),
        (["toy", "evaluate", "x"], 130, "interrupted"),
        (["toy", "sample"], 2, "Missing argument"),
        (["toy", "train", "model.diverge=true"], 1, "the loss of step 2 is not finite"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(quintet: Quintet, words: list[str], code: int, says: str) -> None:
    done = quintet(*words)
    assert done.code == code, done.err
    assert says in done.err and "Traceback" not in done.err and not done.out


def test_train_then_resume_then_sample(quintet: Quintet, tmp_path: Path) -> None:
    done = quintet("toy", "train", "trainer.steps=4", "--json")
    result = json.loads(done.out)
    assert done.code == 0 and result["step"] == 4 and "step 4/4" in done.err
    done = quintet("toy", "train", "trainer.steps=6")
    assert "resuming after step 4" in done.err and "step     6" in done.out
    done = quintet("toy", "sample", result["model"], "--n", "3", "--json")
    assert json.loads(done.out) == {"n": 3, "values": 321}
    done = quintet("toy", "check", result["model"], "--json")
    assert json.loads(done.out)["intact"] is True


def test_multirun_is_hydras(quintet: Quintet, tmp_path: Path) -> None:
    done = quintet("toy", "train", "toy", "-m", "trainer.steps=2", "optim.lr=0.1,0.2", "--out", "s", "--json")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 2
    assert sorted(p.name for p in (tmp_path / "s").iterdir() if p.is_dir()) == [
        "optim.lr=0.1,trainer.steps=2",
        "optim.lr=0.2,trainer.steps=2",
    ]


def test_hydras_flags_pass_through(quintet: Quintet, tmp_path: Path) -> None:
    done = quintet("toy", "train", "--cfg", "job", "model.dropout=0.25")
    assert done.code == 0 and "dropout: 0.25" in done.out and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_by_recipe(tmp_path: Path) -> None:
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.steps=3", "--json"]
    command = [sys.executable, str(TOY), "toy", "train", *words]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["step"] == 3


def test_check_and_recipes(quintet: Quintet, tmp_path: Path) -> None:
    found = json.loads(quintet("toy", "check", "--json").out)
    assert found["parameters"] == 321 and found["without_gradient"] == 0
    assert set(json.loads(quintet("toy", "recipes", "--json").out)) == {"bare", "toy"}


def test_json_is_json_even_without_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": np.float64("nan"), "e": Path("x")}}, True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": None,
        "b": [1.0, None],
        "c": {"d": None, "e": "x"},
    }


def test_words_are_sorted_wherever_the_flags_stand() -> None:
    order = read(["-m", "a=1", "--cfg", "job", "porto", "+b=2", "~c"])
    assert (order.recipe, order.overrides, order.flags) == ("porto", ("a=1", "+b=2", "~c"), ("-m", "--cfg", "job"))
    assert order.sweep and read([]).recipe == "toy"
