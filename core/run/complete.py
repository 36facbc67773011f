"""Words that may come next on the command line: domains, verbs, options, recipes, settings, models, data sets.

The shell hands over the line up to the cursor (`quintet --complete bash "quintet bio train to"`), and the answer is one
word per line. Nothing heavy is imported: verbs come from the app's typer group, settings from the syntax tree of its
`model.py`, not from the module. bash breaks words at `=`, so what stands before it is not repeated there.
"""

from __future__ import annotations

import ast
import importlib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from core.errors import UsageError

__all__ = ["SCRIPTS", "complete", "script", "settings"]

SCRIPTS = {
    "bash": """_quintet() {
    local IFS=$'\\n'
    COMPREPLY=( $(quintet --complete bash "${COMP_LINE:0:COMP_POINT}") )
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _quintet quintet
""",
    "zsh": """#compdef quintet
_quintet() {
    local -a found
    found=("${(@f)$(quintet --complete zsh "${(j: :)words[1,CURRENT]}")}")
    [[ -n ${found[1]} ]] && compadd -Q -S '' -- $found || _files
}
compdef _quintet quintet
""",
}
RECIPES = {"train", "check", "simulate"}
MODELS = {"recipes", "data"}


def script(shell: str) -> str:
    """Return what a shell has to read to complete `quintet`.

    Raises:
        UsageError: no such shell.
    """
    if shell not in SCRIPTS:
        raise UsageError("is not one that we know", field="shell", value=shell, choices=SCRIPTS)
    return SCRIPTS[shell]


def complete(line: str, domains: Iterable[str], own: Mapping[str, Iterable[str]], shell: str = "bash") -> list[str]:
    """Return the words that may stand at the end of a line.

    Args:
        line: from the command's name to the cursor.
        domains: the apps.
        own: words beside the domains, each with its options.
        shell: bash gets only what follows the last `=` of a word.
    """
    try:
        words = shlex.split(line)
    except ValueError:  # a quotation mark is open
        return []
    last = "" if not words or line.endswith(" ") else words.pop()
    before = words[1:]
    if not before:
        found = [*domains, *own]
    elif before[0] in own:
        found = list(own[before[0]])
    elif before[0] in domains:
        found = inside(before[0], before[1:], last)
    else:
        found = []
    found = sorted({word for word in found if word.startswith(last)})
    cut = last.rfind("=") + 1 if shell == "bash" else 0
    return [word[cut:] for word in found]


def inside(domain: str, before: list[str], last: str) -> list[str]:
    """Return what may stand after the name of an app."""
    import typer

    group = typer.main.get_command(importlib.import_module(f"apps.{domain}.cli").app)
    context = group.make_context("quintet", [], resilient_parsing=True)
    if not before:
        return [*group.list_commands(context), "--help"]  # type: ignore[attr-defined]
    verb = group.get_command(context, before[0])  # type: ignore[attr-defined]
    if verb is None:
        return []
    options = [word for parameter in verb.params for word in parameter.opts if word.startswith("--")]
    if last.startswith("-"):
        return [*options, "--help"]
    return arguments(domain, before[0], before[1:])


def arguments(domain: str, verb: str, given: list[str]) -> list[str]:
    """Return recipes and settings, data sets, or models, as the verb takes them."""
    from core.run.config import recipes
    from core.run.fetch import registry
    from core.run.models import shipped

    if verb == "data":
        return list(registry(domain))
    if verb in RECIPES:
        plain = [word for word in given if not word.startswith("-") and "=" not in word]
        return [*([] if plain else recipes(domain)), *settings(domain)]
    if verb in MODELS or any(not word.startswith("-") for word in given):
        return []
    return list(shipped(domain))


def settings(domain: str) -> list[str]:
    """Return `group.key=` for each setting of an app, and `group=choice` for the shared groups."""
    from core.run.config import SHARED, recipe_folder

    ours = classes(Path(__file__).with_name("config.py"))
    known = {**ours, **classes(recipe_folder(domain).parent / "model.py")}
    found = [f"{path.parent.name}={path.stem}" for path in sorted(SHARED.glob("*/*.yaml"))]
    for name, kind in known.get("Recipe", {}).items():
        inner = known.get(kind, {})
        found += [f"{name}.{key}=" for key in inner] or [f"{name}="]
    return found


def classes(path: Path) -> dict[str, dict[str, str]]:
    """Return the annotated fields of each class of a file, with their types, without importing it."""
    if not path.is_file():
        return {}
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
            found[node.name] = {ast.unparse(f.target): ast.unparse(f.annotation) for f in fields}
    return found
