"""One core: no arrow runs back, nothing is written twice, every file can be read at a sitting.

An arrow is an import, wherever in a file it stands. apps -> core -> third party is allowed; core -> app, app -> another
app and theory -> `core/run` (the workshop) are not. A block is `BLOCK` or more successive lines of code, blank lines,
comments, docstrings and imports left out and indentation ignored; it is duplicated if the same lines stand in a second
place that does not overlap the first. Only the standard library is used.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

from apps import DOMAINS
from benchmarks.harness import Bar, Result

__all__ = ["BLOCK", "allowed", "code_lines", "duplicates", "imports", "run", "short", "sources", "tree"]

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 12
MOST = 400


def sources() -> list[Path]:
    """Return the files of the product and of its benchmarks."""
    return sorted(p for top in ("core", "apps", "benchmarks") for p in (ROOT / top).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def short(path: Path) -> str:
    """Return a path from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Yield the absolute dotted names that a file imports, wherever it does so."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def allowed(source: str, target: str) -> bool:
    """Tell whether a file may import a name: apps -> core -> third party, theory never the workshop."""
    room, aim = source.split("/"), target.split(".")
    if room[0] == "core":
        inside = room[1] in {"run", "run.py"}
        return aim[0] not in {"apps", "benchmarks", "tests"} and (inside or aim[:2] != ["core", "run"])
    if room[0] == "apps":
        other = aim[0] == "apps" and len(aim) > 1 and aim[1] in DOMAINS and len(room) > 2 and aim[1] != room[1]
        return aim[0] not in {"benchmarks", "tests"} and not other
    return aim[0] != "tests"


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number, text) of the lines of code, without indentation, comments, docstrings and imports."""
    source = path.read_text(encoding="utf-8")
    dropped: set[int] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.stmt) and not speaks(node):
            dropped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return [(n, line.strip()) for n, line in enumerate(lines, 1) if n not in dropped and line.strip()]


def speaks(node: ast.stmt) -> bool:
    """Tell whether a statement is code: neither an import nor text that stands alone."""
    if isinstance(node, ast.Expr):
        return not (isinstance(node.value, ast.Constant) and isinstance(node.value.value, str))
    return not isinstance(node, ast.Import | ast.ImportFrom)


def duplicates(paths: list[Path], block: int = BLOCK) -> list[str]:
    """Return `file:line = file:line (lines)` for each maximal block that stands in two places."""
    lines = {path: code_lines(path) for path in paths}
    places: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path, found in lines.items():
        texts = [text for _, text in found]
        for start in range(len(texts) - block + 1):
            places[tuple(texts[start : start + block])].append((path, start))
    covered: set[tuple[Path, int, Path, int]] = set()
    said = []
    for path, start, other, second in sorted(pairs(places, block), key=lambda p: (p[0], p[1], p[2], p[3])):
        if (path, start - 1, other, second - 1) not in covered:
            size = extent(lines[path], start, lines[other], second)
            here, there = (f"{short(p)}:{lines[p][k][0]}" for p, k in ((path, start), (other, second)))
            said.append(f"{here} = {there} ({size})")
        covered.add((path, start, other, second))
    return said


def pairs(places: dict[tuple[str, ...], list[tuple[Path, int]]], block: int) -> Iterator[tuple[Path, int, Path, int]]:
    """Yield each two places of one block that do not overlap."""
    for found in places.values():
        for k, (path, start) in enumerate(found):
            for other, second in found[k + 1 :]:
                if other != path or second - start >= block:
                    yield path, start, other, second


def extent(first: list[tuple[int, str]], start: int, other: list[tuple[int, str]], second: int) -> int:
    """Return how many lines from two places on are equal."""
    size = 0
    rest = zip(first[start:], other[second:], strict=False)
    for (_, a), (_, b) in rest:
        if a != b:
            break
        size += 1
    return size


def run(full: bool) -> Result:
    """Count the arrows that run back, the duplicated blocks and the longest file."""
    paths = sources()
    arrows = [f"{short(p)} -> {name}" for p in paths for name in imports(p) if not allowed(short(p), name)]
    kinds = {"from core to apps": "core/", "from app to app": "apps/", "from theory to workshop": "core/"}
    counted = {
        name: sum(a.startswith(top) and ((" -> core.run" in a) == ("workshop" in name)) for a in arrows)
        for name, top in kinds.items()
    }
    twice = duplicates(paths)
    sizes = {short(p): len(p.read_text(encoding="utf-8").splitlines()) for p in paths}
    bars = [Bar(f"Structure: arrows {name}", count, "==", 0) for name, count in counted.items()]
    bars.append(Bar(f"Structure: duplicated blocks of {BLOCK} lines or more", len(twice), "==", 0))
    bars.append(Bar("Structure: lines of the longest file", max(sizes.values()), "<=", MOST))
    figures = {
        "files": len(paths),
        "lines": sum(sizes.values()),
        "median lines": median(sizes.values()),
        "longest": max(sizes, key=lambda name: sizes[name]),
        "apps": len(DOMAINS),
        "arrows": arrows,
        "duplicates": twice,
    }
    return Result(figures, bars, notes="Blocks leave out blank lines, comments, docstrings and imports.")
