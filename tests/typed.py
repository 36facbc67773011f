"""Every annotation of `core` and `apps` is checked at run time, while the suite runs: `pytest --typed`.

An import hook puts a checker around each function and method of a module, and around the constructor of each data
class: beartype for its types, jaxtyping for the shapes of its tensors, one binding of `b`, `l`, ... for a whole call.
What is refused is counted, and a test during which something was refused fails, even where the error was swallowed.

Not checked: what is defined inside a function, what numba compiles, what carries no annotation, processes that a test
starts. numpy's integers count as `int`; an `int` may stand for a `float`, as type checkers have it.

References: https://docs.kidger.site/jaxtyping, https://beartype.readthedocs.io.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import re
import sys
import typing
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

PACKAGES = ("core", "apps")
COMPILED = {"jit", "overload"}
checked: list[str] = []
"""The functions that are checked, as `module.name`."""
shaped: list[str] = []
"""Those of them that state the shape of an array."""
refused: list[str] = []
"""What was refused, in words."""


class Refused(TypeError):
    """A value is not of the type or shape that is written."""

    def __init__(self, *words: object) -> None:
        super().__init__(*words)
        refused.append(" ".join(str(word) for word in words))


class Annotated(ast.NodeTransformer):
    """Put `checked` around what a module defines, and let names that only type checkers import be found later."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Leave what is inside a function alone."""
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        compiled = any(ast.unparse(d).split("(")[0].split(".")[-1] in COMPILED for d in node.decorator_list)
        if not compiled and (node.returns or any(a and a.annotation for a in every)):
            node.decorator_list.append(named("check_function", node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        node.decorator_list.insert(0, named("check_class", node))
        for found in ast.walk(node):
            if isinstance(found, ast.Name) and found.id == "Self":
                found.id = node.name
        return node

    def visit_If(self, node: ast.If) -> ast.If:
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for found in node.body:
                if isinstance(found, ast.ImportFrom):
                    self.later |= {a.asname or a.name: (found.module or "", a.name) for a in found.names}
                elif isinstance(found, ast.Import):
                    self.later |= {a.asname or a.name: (a.name, "") for a in found.names}
            return node
        self.generic_visit(node)
        return node

    def visit_Module(self, node: ast.Module) -> ast.Module:
        self.later: dict[str, tuple[str, str]] = {}
        self.generic_visit(node)
        place = 0
        for place, line in enumerate(node.body):  # noqa: B007
            if not (isinstance(line, ast.ImportFrom) and line.module == "__future__") and not isinstance(
                line, ast.Expr
            ):
                break
        node.body.insert(place, ast.parse("import tests.typed as __typed__").body[0])
        if self.later:
            text = f"__getattr__ = __typed__.later(__name__, {self.later!r}, globals().get('__getattr__'))"
            node.body.append(ast.parse(text).body[0])
        return node


def named(name: str, place: ast.AST) -> ast.expr:
    """Return the decorator `__typed__.name`, at the place of what it decorates."""
    return ast.copy_location(ast.parse(f"__typed__.{name}", mode="eval").body, place)


def later(module: str, names: dict[str, tuple[str, str]], own: Callable[[str], Any] | None) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that imports what stands under TYPE_CHECKING when its name is first needed."""

    def found(name: str) -> Any:
        if name not in names and own is not None:
            return own(name)
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, attribute = names[name]
        held = importlib.import_module(place)
        return getattr(held, attribute) if attribute else held

    return found


def check_function(function: Any) -> Any:
    """Return `function`, or what a decorator made of it, checking its arguments and its result."""
    if not isinstance(function, FunctionType):
        return function
    import jaxtyping
    from beartype import beartype

    checked.append(f"{function.__module__}.{function.__qualname__}")
    sized = any(re.search(r"\[(Tensor|np\.ndarray|ndarray), ['\"]", str(a)) for a in function.__annotations__.values())
    if sized:
        shaped.append(checked[-1])
    sure = beartype(conf=conf())(function)
    if not sized:
        return sure

    @functools.wraps(function)
    def bound(*arguments: Any, **named: Any) -> Any:
        with jaxtyping.jaxtyped("context"):
            return sure(*arguments, **named)

    return bound


def check_class(kind: Any) -> Any:
    """Return the class, its constructor checked where a data class made it; a protocol can be asked for."""
    if getattr(kind, "_is_protocol", False):
        return typing.runtime_checkable(kind)
    if dataclasses.is_dataclass(kind) and "__init__" in vars(kind) and not hasattr(kind.__init__, "__wrapped__"):
        inherit(kind)
        kind.__init__ = check_function(kind.__init__)
    return kind


def inherit(kind: Any) -> None:
    """Read the annotations of inherited fields where they were written: only there are their names known."""
    for base in kind.__mro__[1:]:
        written = vars(base).get("__annotations__", {}) if dataclasses.is_dataclass(base) else {}
        for name in (
            written.keys() & kind.__init__.__annotations__.keys() - vars(kind).get("__annotations__", {}).keys()
        ):
            text = kind.__init__.__annotations__[name]
            if isinstance(text, str):
                names = vars(sys.modules[base.__module__])
                found = typing.get_type_hints(Field(text), names, include_extras=True)  # type: ignore[arg-type]
                kind.__init__.__annotations__[name] = found["x"]


def conf() -> Any:
    """Return the rules of the checker."""
    import numpy as np
    from beartype import BeartypeConf, BeartypeHintOverrides

    return BeartypeConf(
        is_pep484_tower=True,
        violation_type=Refused,
        hint_overrides=BeartypeHintOverrides({int: int | np.integer}),  # type: ignore[operator]
    )


class Field:
    """A class with the annotation of one field."""

    def __init__(self, text: str) -> None:
        self.__annotations__ = {"x": text}


class Loader(SourceFileLoader):
    """Compile a module with its checks; nothing of that is kept on disk."""

    def path_stats(self, path: str) -> Any:
        raise OSError("no compiled file")

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        node = Annotated().visit(ast.parse(data, path))
        return compile(ast.fix_missing_locations(node), path, "exec", dont_inherit=True, optimize=_optimize)


class Finder(MetaPathFinder):
    """Find the modules of `PACKAGES` and load them with their checks."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Check what is imported from now on; nothing of it may be imported already."""
    assert not any(name.partition(".")[0] in PACKAGES for name in sys.modules)
    sys.meta_path.insert(0, Finder())


def survey() -> dict[str, int]:
    """Import all of `PACKAGES` and return how many functions are checked, and how many of them state shapes."""
    install()
    root = Path(__file__).resolve().parent.parent
    for path in sorted(p for top in PACKAGES for p in (root / top).rglob("*.py") if p.stem != "__main__"):
        importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
    return {"functions": len(checked), "with shapes": len(shaped)}
