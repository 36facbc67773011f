"""Fenced blocks of Markdown pages, and how to run them as they stand.

A comment above a block says what is done with it; blocks of one page share a folder and run in their order:

    <!-- tested -->      run it: every command ends well, and lines shown below `$ command` are what it prints
    <!-- tested KEY=VALUE ... -->   the same; without --slow these words are added, so that a training is short
    <!-- fails 3 -->     run it: every command ends with this exit code
    <!-- slow -->        run it with --slow only (it trains)
    <!-- file NAME -->   write it to NAME, for the blocks below
    <!-- needs WHAT -->  not run (data that do not ship, hours, an accelerator): its commands are parsed

`parsed` checks a command without running it: the verb exists, its flags exist and take such values, a recipe composes
with its overrides, a benchmark, a make target or an extra of that name exists.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"(?:^[ \t]*<!-- (?P<mark>[^\n]*?) -->\n)?^[ \t]*(?P<tick>```+)(?P<kind>\w*)[^\n]*\n(?P<text>.*?)"
                   r"^[ \t]*(?P=tick)[ \t]*$", re.S | re.M)  # fmt: skip
RECIPES = {"train", "check", "simulate"}


@dataclass(frozen=True)
class Fence:
    """A fenced block: what stands above it, its language, its text, the line where it begins."""

    mark: str
    kind: str
    text: str
    line: int

    @property
    def shell(self) -> bool:
        """Whether it holds commands."""
        return self.kind in {"sh", "console", ""}

    def commands(self) -> list[tuple[str, list[str]]]:
        """Return each command with the lines shown below it."""
        out: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if self.kind == "console" and not line.startswith("$ "):
                out[-1][1].append(line)
            elif line.strip() and not line.lstrip().startswith("#"):
                out.append((line.removeprefix("$ ").strip(), []))
        return out


def fences(page: Path) -> list[Fence]:
    """Return the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = FENCE.finditer(text)
    return [Fence(m["mark"] or "", m["kind"], m["text"], text.count("\n", 0, m.start()) + 1) for m in found]


@dataclass
class Shell:
    """Runs commands of the house in this process, so that heavy imports are paid for once."""

    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]

    def run(self, line: str) -> tuple[int, str, str]:
        """Run a command; `> FILE` takes its standard output. Returns exit code, standard output, standard error."""
        from apps.__main__ import main

        words = shlex.split(line, comments=True)
        out = Path(words.pop()) if len(words) > 2 and words[-2] == ">" else None
        words = words[:-1] if out else words
        assert words[0] == "quintet" and "|" not in words, f"only commands of quintet are run: {line}"
        self.capfd.readouterr()
        self.monkeypatch.setattr(sys, "argv", words)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said, told = self.capfd.readouterr()
        if out:
            out.write_text(said, encoding="utf-8")
        return code, said, told


def play(blocks: list[Fence], shell: Shell, slow: bool = False) -> int:
    """Run the blocks of a page in the current folder; return how many were run."""
    count = 0
    for fence in blocks:
        word, _, rest = fence.mark.partition(" ")
        if word == "file":
            Path(rest).parent.mkdir(parents=True, exist_ok=True)
            Path(rest).write_text(fence.text, encoding="utf-8")
        elif word in {"tested", "fails"} or (word == "slow" and slow):
            more = f" {rest}" if word == "tested" and not slow else ""
            _play(fence, shell, int(rest) if word == "fails" else 0, more)
            count += 1
    return count


def _play(fence: Fence, shell: Shell, wanted: int, more: str) -> None:
    if fence.kind == "python":
        exec(compile(fence.text, f"block at line {fence.line}", "exec"), {"__name__": "__main__"})
        return
    for line, shown in fence.commands():
        code, said, told = shell.run(line + more)
        assert code == wanted, (
            f"line {fence.line}: `{line}` ended with {code}, not {wanted}\n{said[-500:]}{told[-1500:]}"
        )
        printed = [" ".join(part.split()) for part in f"{said}\n{told}".splitlines()]
        for part in filter(str.strip, shown):
            pattern = re.escape(" ".join(part.split())).replace(r"\.\.\.", ".*")
            found = any(re.fullmatch(pattern, p) for p in printed)
            assert found, f"line {fence.line}: `{line}` does not print {part!r} but\n" + "\n".join(printed[-20:])
        words = shlex.split(line, comments=True)
        if "--out" in words and not wanted:
            out = Path(words[words.index("--out") + 1])
            assert out.exists() or [*out.parent.glob(f"{out.stem}-*")], f"`{line}` wrote nothing"


def parsed(line: str) -> None:
    """Check a command without running it; raises what is wrong with it."""
    for part in line.split(" ; "):
        _parsed(part.split(" | ")[0].split(" > ")[0])


def _parsed(line: str) -> None:
    words = shlex.split(line, comments=True)
    words = words[next((i for i, w in enumerate(words) if not re.match(r"[A-Z_]+=", w)), 0) :]  # VARIABLE=value before
    for name, check in CHECKS.items():
        if words and words[: len(name.split())] == name.split():
            check(words[len(name.split()) :])
            return
    assert words[0] in {"cd", "git", "eval", "sbatch", "srun", "ls"}, f"nobody knows this command: {line}"


def _quintet(words: list[str]) -> None:
    import typer.main

    from apps.__main__ import OPTIONS, house

    if words[0] in OPTIONS:
        typing.cast(typing.Any, typer.main.get_command(house)).commands[words[0]].make_context(words[0], words[1:])
        return
    if words[0] in {"--help", "--version"}:
        return
    domain, *rest = words
    assert (ROOT / "apps" / domain / "cli.py").is_file(), f"no app {domain}"
    group: typing.Any = typer.main.get_command(importlib.import_module(f"apps.{domain}.cli").app)
    if rest == ["--help"]:
        return
    verb = group.commands.get(rest[0])
    assert verb is not None, f"{domain} has no verb {rest[0]}"
    if "--help" in rest:
        return
    with verb.make_context(rest[0], [*rest[1:]]) as context:
        given = [*(context.params.get("words") or []), *context.args]
    if rest[0] in RECIPES:
        _composes(domain, given)


def _composes(domain: str, words: list[str]) -> None:
    from core.run.config import load_recipe, variants
    from core.run.launch import read

    if words and (words[0].isupper() or "/" in words[0]):  # a placeholder, or the folder of a checkpoint
        return
    order = read(words)
    plain = [o for o in order.overrides if not o.lstrip("+~").startswith("hydra")]
    for chosen in variants(plain) if order.sweep else [plain]:
        load_recipe(domain, order.recipe, chosen)


def _make(words: list[str]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert all(w in targets for w in words if "=" not in w), f"no such target: {words}"


def _benchmark(words: list[str]) -> None:
    known = {p.stem for p in (ROOT / "benchmarks").glob("[a-z]*.py")} | {"table", "list"}
    assert set(w for w in words if not w.startswith("-")) <= known, f"no such benchmark: {words}"


def _install(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        named = re.search(r"\[(.*)\]", word)
        assert named is None or set(named[1].split(",")) <= {*extras}, f"no such extra: {word}"


def _file(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file() or words[0] == "-m", f"no such file: {words[0]}"


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "quintet": _quintet,
    "python -m benchmarks": _benchmark,
    "python -m apps": _quintet,
    "make": _make,
    "pip install": _install,
    "mkdocs": lambda words: None,
    "python": _file,
}


def unrun(blocks: list[Fence]) -> Iterator[tuple[Fence, str]]:
    """Yield the commands that are shown but not run at all, not even with --slow."""
    for fence in blocks:
        if fence.shell and fence.mark.split(" ")[0] not in {"tested", "fails", "slow", "file"}:
            for line, _ in fence.commands():
                yield fence, line


def indented(page: Path) -> Iterator[str]:
    """Yield the commands of blocks that are indented by four blanks, without what stands behind two blanks."""
    for line in FENCE.sub("", page.read_text(encoding="utf-8")).splitlines():
        if line.startswith("    quintet "):
            yield re.split(r"\s{2,}", line.strip())[0]
