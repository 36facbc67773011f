"""Terms of an equation as text: `-u*dx(u) - v*dy(u) + nu*lap(u) + exp(-t)*sin(x)`.

A term knows the fields, the parameters, x, y, t and pi; the operators dx, dy, lap of any expression and
`div(D, u)` = div(D grad u); `part(cell, u)`, on the nodes of each boundary part whose name begins with `cell` the mean
of u over that part, elsewhere 0; sin, cos, tan, exp, log, sqrt, abs, tanh, min, max. The text is parsed into a tree of
these and nothing else: a recipe is untrusted input, and no part of it is ever executed as code.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.errors import UsageError

__all__ = ["Expression", "Scene"]

BINARY = {ast.Add: torch.add, ast.Sub: torch.sub, ast.Mult: torch.mul, ast.Div: torch.div, ast.Pow: torch.pow}
PLAIN = {"sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "exp": torch.exp, "log": torch.log,
         "sqrt": torch.sqrt, "abs": torch.abs, "tanh": torch.tanh}  # fmt: skip
PAIRS = {"min": torch.minimum, "max": torch.maximum}
SPATIAL = {"dx": 1, "dy": 1, "lap": 1, "div": 2}
DEEPEST = 400
RESERVED = ("x", "y", "t", "pi")
Derive = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""From fields [B, N, C] to their x and y derivatives and Laplacians: `operators.Operators`, or learned ones."""


@dataclass(eq=False)
class Scene:
    """What an expression is evaluated on: named values that broadcast to [B, N], and the operators.

    Derivatives of the fields themselves are computed together, once; where Laplacians are all that anyone asks for, by
    `alone`, a third of the work.
    """

    values: dict[str, Tensor]
    operators: Derive | None = None
    fields: tuple[str, ...] = ()
    known: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    alone: Callable[[Tensor], Tensor] | None = None
    curved: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, fields: Sequence[str], u: Tensor, points: Tensor, t: float | Tensor,
        parameters: Mapping[str, Tensor | float],
        operators: Derive | None = None, alone: Callable[[Tensor], Tensor] | None = None,
    ) -> Scene:  # fmt: skip
        """Return the scene of a state u [B, N, C] at time t, (), or [B, 1]; parameters are (), or [B, 1]."""
        values = {name: u[..., k] for k, name in enumerate(fields)}
        values |= {"x": points[:, 0], "y": points[:, 1], "t": torch.as_tensor(t, dtype=u.dtype, device=u.device)}
        values |= {k: torch.as_tensor(v, dtype=u.dtype, device=u.device) for k, v in parameters.items()}
        values["pi"] = torch.tensor(math.pi, dtype=u.dtype, device=u.device)
        scene = cls(values, operators, tuple(fields), alone=alone)
        scene.state = u
        return scene

    state: Tensor | None = None

    def derivatives(self, key: str, value: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
        """Return (dx, dy, lap) of an expression, remembered under its text."""
        if self.operators is None:
            raise UsageError("dx, dy, lap and div cannot stand here", field="expression", value=key)
        if key in self.fields and self.state is not None and key not in self.known:
            parts = self.operators(self.state)
            for k, name in enumerate(self.fields):
                self.known[name] = (parts[0][..., k], parts[1][..., k], parts[2][..., k])
        if key not in self.known:
            a, b, c = self.operators(value.expand(shape)[..., None])
            self.known[key] = (a[..., 0], b[..., 0], c[..., 0])
        return self.known[key]

    def laplacian(self, key: str, value: Tensor, shape: torch.Size) -> Tensor:
        """Return the Laplacian of an expression, remembered under its text."""
        if self.alone is None:
            return self.derivatives(key, value, shape)[2]
        if key in self.fields and self.state is not None and key not in self.curved:
            both = self.alone(self.state)
            self.curved |= {name: both[..., k] for k, name in enumerate(self.fields)}
        if key not in self.curved:
            self.curved[key] = self.alone(value.expand(shape)[..., None])[..., 0]
        return self.curved[key]


class Expression:
    """A parsed term.

    Args:
        text: the term.
        names: fields and parameters that it may use.
        spatial: whether derivatives are allowed.

    Raises:
        UsageError: a syntax error or an unknown name, with the nearest known one.
    """

    def __init__(self, text: str | float, names: Sequence[str], *, spatial: bool = True) -> None:
        self.text = str(text)
        self.names = (*names, *RESERVED)
        self.spatial = spatial
        self.used: set[str] = set()
        self.asked: set[str] = set()  # of dx, dy, lap, div
        self.sloped = False  # whether these are asked of places or slopes, which have a flux where the fields have none
        try:
            self._value = self._read(_shallow(ast.parse(self.text.strip(), mode="eval").body))
        except (SyntaxError, ValueError) as error:
            reason = getattr(error, "msg", str(error))
            raise UsageError(f"is not an expression ({reason})", field="expression", value=self.text) from None
        except (RecursionError, MemoryError):
            short = f"{self.text[:60]}..."
            raise UsageError("is not an expression (nested too deeply)", field="expression", value=short) from None

    def __call__(self, scene: Scene) -> Tensor:
        """Return the value, which broadcasts to [B, N]."""
        return self._value(scene)

    @property
    def number(self) -> float | None:
        """The value of a text that is a number, None of any other."""
        try:
            return float(self.text)
        except ValueError:
            return None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def _wrong(self, node: ast.AST, message: str, choices: Sequence[str] | None = None) -> UsageError:
        part = ast.unparse(node)
        return UsageError(f"{message} in {self.text!r}", field="expression", value=part, choices=choices)

    def _read(self, node: ast.AST) -> Callable[[Scene], Tensor]:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
            number = torch.tensor(float(node.value), dtype=torch.float64)
            return lambda scene: number
        if isinstance(node, ast.Name):
            if node.id not in self.names:
                raise self._wrong(node, "unknown name", self.names)
            self.used.add(node.id)
            return lambda scene, name=node.id: scene.values[name]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            inner = self._read(node.operand)
            return (lambda scene: -inner(scene)) if isinstance(node.op, ast.USub) else inner
        if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            left, right, combine = self._read(node.left), self._read(node.right), BINARY[type(node.op)]
            return lambda scene: combine(left(scene), right(scene))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self._call(node, node.func.id)
        raise self._wrong(node, "cannot stand in an expression")

    def _call(self, node: ast.Call, name: str) -> Callable[[Scene], Tensor]:
        if name == "part":
            return self._part(node)
        arguments = [self._read(a) for a in node.args]
        wanted = 1 if name in PLAIN else 2 if name in PAIRS else SPATIAL.get(name, 0)
        if not wanted:
            raise self._wrong(node.func, "unknown function", [*PLAIN, *PAIRS, *SPATIAL, "part"])
        if len(arguments) != wanted:
            raise self._wrong(node, f"{name} takes {wanted} arguments")
        if name in PLAIN:
            return lambda scene: PLAIN[name](arguments[0](scene))
        if name in PAIRS:
            return lambda scene: PAIRS[name](arguments[0](scene), arguments[1](scene))
        if not self.spatial:
            raise self._wrong(node, "derivatives cannot stand here")
        self.asked.add(name)
        self.sloped |= any(getattr(n, "id", "") in ("x", "y", "dx", "dy") for a in node.args for n in ast.walk(a))
        keys = [ast.unparse(a) for a in node.args]
        if name == "div":
            return lambda scene: _flux(scene, keys, [a(scene) for a in arguments])
        if name == "lap":
            return lambda scene: scene.laplacian(keys[0], arguments[0](scene), _shape(scene))
        part = ("dx", "dy").index(name)
        return lambda scene: scene.derivatives(keys[0], arguments[0](scene), _shape(scene))[part]

    def _part(self, node: ast.Call) -> Callable[[Scene], Tensor]:
        if len(node.args) != 2 or not isinstance(node.args[0], ast.Name):
            raise self._wrong(node, "part takes the beginning of the parts' names and an expression")
        if not self.spatial:
            raise self._wrong(node, "cannot stand here")
        prefix, inner = node.args[0].id, self._read(node.args[1])
        return lambda scene: _mean(scene, prefix, inner(scene))


def _shallow(tree: ast.expr) -> ast.expr:
    """Return a tree that is not too deep to be evaluated within a stack of calls.

    Raises:
        RecursionError: it is.
    """
    level, depth = [tree], 0
    while level:
        level, depth = [inner for node in level for inner in ast.iter_child_nodes(node)], depth + 1
        if depth > DEEPEST:
            raise RecursionError
    return tree


def _mean(scene: Scene, prefix: str, value: Tensor) -> Tensor:
    """Return the means over boundary parts (`Operators.part`)."""
    own: Any = getattr(scene.operators, "base", scene.operators)  # learned operators wrap the plain ones
    assert own is not None and scene.state is not None
    return own.part(prefix)(value.to(scene.state).expand(_shape(scene))[..., None])[..., 0]


def _shape(scene: Scene) -> torch.Size:
    assert scene.state is not None
    return scene.state.shape[:2]


def _flux(scene: Scene, keys: Sequence[str], values: Sequence[Tensor]) -> Tensor:
    """Return div(D grad u) = D lap u + grad D . grad u."""
    shape, like = _shape(scene), scene.state
    assert like is not None
    D = values[0].to(like)
    ux, uy, lap = scene.derivatives(keys[1], values[1].to(like), shape)
    if D.ndim == 0:
        return D * lap
    Dx, Dy, _ = scene.derivatives(keys[0], D, shape)
    return D * lap + Dx * ux + Dy * uy
