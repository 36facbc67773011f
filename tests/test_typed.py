"""The checks of types and shapes at run time can fail, and see what they ought to see."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests import typed

BASE = """
from __future__ import annotations
from dataclasses import dataclass
from jaxtyping import Float
from torch import Tensor

@dataclass
class Base:
    x: Float[Tensor, "b l"]
"""
TEXT = """
from __future__ import annotations
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self
import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor
import typed_base

if TYPE_CHECKING:
    from typed_base import Base

def __getattr__(name: str) -> str:
    if name != "lazy":
        raise AttributeError(name)
    return name

class Named(Protocol):
    def name(self) -> str: ...

@dataclass
class Pair(typed_base.Base):
    y: Float[Tensor, " b"]
    def twin(self) -> Self:
        return self if len(self.x) else None

def mean(x: Float[Tensor, "b l"], weight: Float[Tensor, " b"], turn: bool = False) -> Float[Tensor, " l"]:
    out = (x * weight[:, None]).sum(0)
    return out[None] if turn else out

def count(n: int, share: float = 0.5) -> int:
    return n

def say(it: Named) -> str:
    return it.name()

def first(base: Base) -> Tensor:
    return base.x[0]

def rows(x: Float[Tensor, "b l"]) -> Iterator[Tensor]:
    yield from x
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    """Return a module whose annotations are checked; what it refuses is meant."""
    made = [loaded(tmp_path, "typed_base", BASE), loaded(tmp_path, "typed_text", TEXT)]
    before = len(typed.refused)
    yield made[1]
    del typed.refused[before:]
    for name in ("typed_base", "typed_text"):
        del sys.modules[name]


def loaded(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path, loader=typed.Loader(name, str(path)))
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


X, W = torch.zeros(3, 5), torch.zeros(3)


class Anna:
    def name(self) -> str:
        return "Anna"


def test_what_fits_passes(module: Any) -> None:
    import numpy as np

    assert module.mean(X, W).shape == (5,) and module.count(np.int64(3), 1) == 3
    assert module.say(Anna()) == "Anna" and len(list(module.rows(X))) == 3
    pair = module.Pair(X, W)
    assert module.lazy == "lazy" and not hasattr(module, "other")
    assert pair.twin() is pair and module.first(pair).shape == (5,)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.mean(X[0], W), "mean.*x"),  # axes
        (lambda m: m.mean(X, torch.zeros(4)), "mean.*weight"),  # one b
        (lambda m: m.mean(X, W.long()), "mean.*weight"),  # dtype
        (lambda m: m.mean(X, W, turn=True), "mean.*return"),
        (lambda m: m.count("3"), "count.*n="),
        (lambda m: m.say("Anna"), "say.*it="),
        (lambda m: m.Pair(X, torch.zeros(4)), "Pair.*y="),  # one b in fields of two classes
        (lambda m: m.Pair(X[0], W), "Pair.*x="),
        (lambda m: m.Pair(X[:0], W[:0]).twin(), "twin.*return"),
        (lambda m: m.first(Anna()), "first.*base="),  # a name that only type checkers import
    ],
    ids=range(10),
)
def test_what_does_not_fit_is_refused_and_counted(module: Any, call: Any, says: str) -> None:
    before = len(typed.refused)
    with pytest.raises(typed.Refused, match=f"(?s){says}"):
        call(module)
    assert len(typed.refused) > before


def test_the_core_is_checked(pytestconfig: pytest.Config) -> None:
    from core.draw import categorical

    if not pytestconfig.getoption("--typed"):
        pytest.skip("types are not checked in this run")
    before = len(typed.refused)
    with pytest.raises(typed.Refused, match="categorical"):
        categorical(torch.zeros(2, 3), torch.zeros(3))
    del typed.refused[before:]
    assert any(name == "core.draw.categorical" for name in typed.checked)
