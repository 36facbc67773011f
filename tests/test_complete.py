"""Words are completed as the shell asks, without importing what is heavy; each verb shows an example that parses."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from apps import DOMAINS
from apps.__main__ import OPTIONS
from core.errors import UsageError
from core.run.complete import complete, script
from core.run.config import load_recipe

ROOT = Path(__file__).resolve().parent.parent


def asked(line: str, shell: str = "zsh") -> list[str]:
    return complete(line, DOMAINS, OPTIONS, shell)


def group(domain: str) -> tuple[Any, Any]:
    import importlib

    found: Any = typer.main.get_command(importlib.import_module(f"apps.{domain}.cli").app)
    return found, found.make_context("quintet", [], resilient_parsing=True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("quintet tra", ["trajectory"]),
        ("quintet doctor --q", ["--quick"]),
        ("quintet completion ", ["bash", "zsh"]),
        ("quintet bio fine", ["finetune"]),
        ("quintet bio design toy --homo", ["--homopolymer"]),
        ("quintet bio train to", ["toy"]),
        ("quintet bio train toy optim.l", ["optim.lr="]),
        ("quintet bio train trainer=f", ["trainer=fsdp"]),
        ("quintet nas sample t", ["toy"]),
        ("quintet trajectory data mona", ["monaco"]),
        ("quintet nothing ", []),
        ("quintet bio nothing ", []),
        ("quintet bio 'open", []),
    ],
)
def test_what_may_come_next(line: str, words: list[str]) -> None:
    assert asked(line) == words


def test_bash_gets_what_follows_the_equals_sign() -> None:
    assert asked("quintet bio train trainer=c", "bash") == ["cpu"]


def test_settings_are_those_of_the_recipe() -> None:
    for domain in DOMAINS:
        offered = [word for word in asked(f"quintet {domain} train toy ") if word.endswith("=")]
        recipe = load_recipe(domain, "toy")
        for word in offered:
            value: Any = recipe
            for name in word[:-1].split("."):
                value = getattr(value, name)
        assert {"seed=", "trainer.steps=", "optim.lr="} <= set(offered)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; sys.argv = ['quintet', '--complete', 'bash', 'quintet bio train toy optim.']\n"
        "from apps.__main__ import main\nmain()\n"
        "print([m for m in ('torch', 'hydra', 'numpy', 'omegaconf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "optim.lr=" in done.stdout and done.stdout.splitlines()[-1] == "[]"


def test_bash_itself_completes() -> None:
    program = f'quintet() {{ {shlex.quote(sys.executable)} -m apps "$@"; }}\n{script("bash")}\n'
    program += 'COMP_LINE="quintet nas sample --max-p"; COMP_POINT=${#COMP_LINE}; _quintet; echo "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--max-params"]
    with pytest.raises(UsageError, match="shell: is not one that we know"):
        script("csh")


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_verb_shows_an_example_that_parses(domain: str) -> None:
    verbs, context = group(domain)
    for name in verbs.list_commands(context):
        verb = verbs.get_command(context, name)
        words = shlex.split((verb.epilog or "").partition("|")[0])
        assert words[:4] == ["Example:", "quintet", domain, name], f"{domain} {name} has no example"
        verb.make_context(name, words[4:], parent=context)


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_verb_that_returns_takes_json(domain: str) -> None:
    verbs, context = group(domain)
    without = {name for name in verbs.list_commands(context)
               if "--json" not in [o for p in verbs.get_command(context, name).params for o in p.opts]}  # fmt: skip
    assert without <= {"live", "stream"}  # which writes sound to stdout
