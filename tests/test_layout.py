"""The house holds together: the import rule, the sizes, the names, and what is never written."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from apps import DOMAINS
from benchmarks.structure import BLOCK, allowed, code_lines, duplicates, imports, short, sources, tree

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sources()
EVERYTHING = SOURCES + sorted((ROOT / "tests").rglob("*.py"))
SAME = ["__init__", "data", "tokenizer", "constraints", "model", "task", "verbs", "metrics", "baselines", "cli"]
BANNED_NAMES = {"utils", "helpers", "common", "misc"}


def test_no_arrow_runs_back() -> None:
    wrong = [f"{short(p)} -> {name}" for p in SOURCES for name in imports(p) if not allowed(short(p), name)]
    assert wrong == []


def test_the_rule_itself_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DOMAINS, "music", "")
    assert not allowed("core/plan.py", "apps.trajectory")
    assert not allowed("core/plan.py", "core.run.train")
    assert not allowed("apps/trajectory/model.py", "apps.music.codec")
    assert allowed("apps/trajectory/model.py", "core.run.config") and allowed("core/run/cli.py", "core.run.fetch")
    assert allowed("apps/trajectory/cli.py", "apps.trajectory.verbs") and allowed("apps/__main__.py", "apps")


def test_nothing_is_written_twice() -> None:
    assert duplicates(SOURCES) == []


def test_a_block_written_twice_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.structure.ROOT", tmp_path)
    block = [f"        x_{n} = {n}  # why {n}" for n in range(BLOCK)]
    (first := tmp_path / "a.py").write_text("\n".join(["def f():", *block]))
    (second := tmp_path / "b.py").write_text(
        "\n".join(["import os", "", "class A:", "    def g():", *block, "        y = 1"])
    )
    assert duplicates([first, second]) == ["a.py:2 = b.py:5 (12)"]
    assert duplicates([first]) == [] and len(code_lines(second)) == BLOCK + 3
    second.write_text("\n".join(["def g():", *block[1:]]))
    assert duplicates([first, second]) == []


def test_third_parties_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name(d) for d in project["dependencies"]}
    extras = {name(d) for group in project["optional-dependencies"].values() for d in group}  # benchmarks may use them
    known = packages_distributions()
    missing = {
        f"{short(p)}: {top}"
        for p in SOURCES
        for top in {n.split(".")[0] for n in imports(p)} - {"core", "apps", "benchmarks", *sys.stdlib_module_names}
        if top
        and not {d.lower().replace("_", "-") for d in known.get(top, [top])}
        & (declared | (extras if short(p).startswith("benchmarks/") else set()))
    }
    assert missing == set()


def name(requirement: str) -> str:
    """Return the normalised name of a requirement."""
    return "".join(c if c.isalnum() or c in "-_." else " " for c in requirement).split()[0].lower().replace("_", "-")


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    wanted = {name(d) for d in project["dependencies"] + project["optional-dependencies"]["test"]}
    assert wanted - {name(p) for p in pinned} == set()
    assert pinned["torch"] == "2.13.0"


@pytest.mark.parametrize("path", EVERYTHING, ids=short)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    functions = [n for n in ast.walk(tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: span(f) - (span(f.body[0]) if ast.get_docstring(f) else 0) for f in functions}
    # tables of verbs and of definitions: each function inside is measured by itself
    tables = {("core/run/cli.py", "build"), ("benchmarks/_laws.py", "definitions")}
    assert {n: size for n, size in long.items() if size > 40 and (short(path), n) not in tables} == {}


def span(node: ast.stmt) -> int:
    """Return the number of lines of a statement."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_modules_say_what_they_are() -> None:
    assert [short(p) for p in SOURCES if p.read_text().strip() and not ast.get_docstring(tree(p))] == []


def test_names() -> None:
    assert [short(p) for p in EVERYTHING if BANNED_NAMES & {*p.with_suffix("").parts}] == []
    deep = [short(p) for p in SOURCES if len(p.relative_to(ROOT).parts) > 4]
    assert deep == []


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_app_has_the_same_files(domain: str) -> None:
    folder = ROOT / "apps" / domain
    wanted = [f"{stem}.py" for stem in SAME] + ["README.md", "recipes/base.yaml", "recipes/toy.yaml"]
    assert [name for name in wanted if not (folder / name).is_file()] == []


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_app_joins_the_demo(domain: str) -> None:
    named = [n.name for n in tree(ROOT / "apps" / domain / "verbs.py").body if isinstance(n, ast.FunctionDef)]
    assert "demo" in named


def calls(path: Path) -> Iterator[str]:
    """Yield what a file does that it must not."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            words = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in {"eval", "exec", "os.system", "torch.load", "yaml.load", "yaml.unsafe_load", "joblib.load"}:
                yield called
            if called.endswith((".extractall", ".extract")) and called != "fetch.extract":
                yield called
            if words.get("shell") == "True" or words.get("allow_pickle") == "True":
                yield f"{called}({words})"


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_nothing_dangerous_is_written(path: Path) -> None:
    pickles = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    assert {n.split(".")[0] for n in imports(path)} & pickles == set()
    assert list(calls(path)) == []


def test_nothing_listens() -> None:
    """There is no service: what R28 asks of one is asked of nobody."""
    doors = {"socket", "socketserver", "http.server", "xmlrpc", "wsgiref", "flask", "fastapi", "uvicorn", "aiohttp"}
    heard = {f"{short(p)}: {n}" for p in SOURCES for n in imports(p) if {n, n.split(".")[0]} & doors}
    assert {line for line in heard if line.startswith(("core", "apps"))} == set()


def test_importing_the_rooms_is_cheap() -> None:
    import subprocess

    code = "import sys, apps, core, core.errors, core.run.cli; print('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_shared_recipes_fit_the_schema() -> None:
    import yaml

    from core.run.config import LoggerConfig, OptimConfig, TrainerConfig

    kinds = {"trainer": TrainerConfig, "optim": OptimConfig, "logger": LoggerConfig}
    for group, kind in kinds.items():
        for path in (ROOT / "core" / "run" / "recipes" / group).glob("*.yaml"):
            text = yaml.safe_load(path.read_text())
            assert path.read_text().startswith("# ") and set(text) <= set(kind.__dataclass_fields__), path
