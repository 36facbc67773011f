"""Rewards by name, and the expression of the command line that puts them together.

    0.7 * runs/bio/oracle-tuning + 0.3 * gc(0.4, 0.6)          a weighted sum
    geometric(pwm(TGASTCA), threshold(tm(), 80, 2))            of parts that must all be good

A name followed by arguments in parentheses is built in (`apps.bio.rewards`); a folder is an oracle's; `module:callable`
and names of the entry-point group `quintet.rewards` are the user's own. Several expressions, each with an optional
`=WEIGHT`, are added.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from apps.bio.rewards import PROTEIN, Gc, Gravy, Hairpin, MeltingTemperature, ProtParam, cai, pwm, table
from core.errors import QuintetError, UsageError
from core.finetune.reward import GeometricMean, Reward, Threshold, Weighted
from core.finetune.reward import load as load_reward

__all__ = ["BUILT_IN", "compose", "molecules", "parse"]


def oracle(folder: str) -> Reward:
    """Return a trained oracle."""
    from apps.bio.oracle import load

    return load(folder)


def ddg(folder: str) -> Reward:
    """Return a fitted potential of stability, which waits for its backbone (`apps.bio.protein.potential`)."""
    from apps.bio.protein.potential import load

    return load(folder)


BUILT_IN: dict[str, Callable[..., Reward]] = {
    "oracle": oracle, "pwm": pwm, "gc": Gc, "tm": MeltingTemperature, "cai": cai, "hairpin": Hairpin, "gravy": Gravy,
    "table": table, "ddg": ddg, **{k: partial(ProtParam, k, k, u) for k, u in PROTEIN.items()},
}  # fmt: skip
"""Built-in rewards by name."""

OWN = {"what", "name", "unit"}
"""Fields that a reward sets itself."""

WORD = re.compile(r"\s*(?:([()+*,])|([^\s()+*,]+))")


def parse(expression: str) -> Reward:
    """Return the reward of an expression (see the module).

    Raises:
        UsageError: names the word that cannot be read, and the nearest name.
    """
    words = [a or b for a, b in WORD.findall(expression)]
    reader = _Reader(words, expression)
    found = reader.total()
    if reader.at < len(words) or not isinstance(found, Reward):
        raise UsageError(f"cannot be read at {reader.peek()!r}", field="reward", value=expression)
    return found


def compose(expressions: Sequence[str], letters: str = "") -> Reward:
    """Return the sum of several expressions, each `EXPRESSION` or `EXPRESSION=WEIGHT`.

    Args:
        expressions: see the module.
        letters: the alphabet of what is to be scored; "" checks nothing.

    Raises:
        UsageError: an expression that cannot be read, or a reward of other molecules.
    """
    rewards, weights = [], []
    for text in expressions:
        head, equals, tail = text.rpartition("=")
        weighted = bool(equals) and _number(tail) is not None
        rewards.append(parse(head if weighted else text))
        weights.append(cast(float, _number(tail)) if weighted else 1.0)
    if not rewards:
        raise UsageError("needs at least one", field="reward", choices=BUILT_IN)
    for reward in rewards if letters else ():
        _fits(reward, letters)
    return rewards[0] if len(rewards) == 1 and weights == [1.0] else _sum(rewards, weights)


def molecules(reward: Any) -> set[str]:
    """Return the alphabets that a reward and its parts ask for."""
    parts = (*getattr(reward, "rewards", ()), *filter(None, [getattr(reward, "reward", None)]))
    own = {reward.letters} if hasattr(reward, "letters") else set()
    return own.union(*(molecules(part) for part in parts))


def _fits(reward: Any, letters: str) -> None:
    """Refuse a reward that reads tokens as other letters."""
    for part in (*getattr(reward, "rewards", ()), *filter(None, [getattr(reward, "reward", None)])):
        _fits(part, letters)
    asks = getattr(reward, "letters", letters)
    if asks != letters:
        molecule = "DNA" if asks == "ACGT" else "proteins"
        raise UsageError(f"is a reward of {molecule}", field="reward", value=reward.name)


def _sum(rewards: Sequence[Reward], weights: Sequence[float]) -> Weighted:
    name = " + ".join(f"{w:g} * {r.name}" for r, w in zip(rewards, weights, strict=True))
    return Weighted(tuple(rewards), tuple(weights), name)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, eq=False)
class Own:
    """A reward of the user's, whose mistakes are told in one line; all else is the reward's.

    Args:
        reward: that of the user.
        word: what it was asked for as.
    """

    reward: Reward
    word: str

    @property
    def name(self) -> str:
        """Return what the reward is called."""
        return str(self.reward.name)

    def __getattr__(self, name: str) -> Any:
        """Return what the reward has; its `soft` is checked as `score` is."""
        found = getattr(object.__getattribute__(self, "reward"), name)
        return (lambda p: self._checked(found, p)) if name == "soft" and callable(found) else found

    def score(self, x: Tensor) -> Tensor:
        """Return the values of tokens [B, L], float64 [B]; numbers in a list or array will do."""
        return torch.as_tensor(self._checked(lambda x: torch.as_tensor(self.reward.score(x)), x)).double()

    def _checked(self, way: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        """Return what the user's code says of B sequences, a number for each.

        Raises:
            UsageError: it fails, or returns something else.
        """
        try:
            found = way(x)
        except QuintetError:
            raise
        except Exception as error:  # a module of the user's may raise anything
            at = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename][-1]
            reason = f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {error}"
            raise UsageError(f"fails ({reason})", field="reward", value=self.word) from error
        if not isinstance(found, Tensor) or found.shape != x.shape[:1]:
            shape = tuple(getattr(found, "shape", ())) or type(found).__name__
            raise UsageError(f"returns {shape} for {len(x)} sequences, not one number for each", field="reward",
                             value=self.word)  # fmt: skip
        return found


@dataclass
class _Reader:
    """A reader of `total := term (+ term)*`, `term := [number *] atom`, `atom := name [( total , ... )]`."""

    words: list[str]
    text: str
    at: int = 0

    def peek(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def take(self) -> str:
        self.at += 1
        return self.words[self.at - 1]

    def total(self) -> Any:
        terms = [self.term()]
        while self.peek() == "+":
            self.take()
            terms.append(self.term())
        if len(terms) == 1 and terms[0][0] == 1.0:
            return terms[0][1]
        for _, part in terms:
            if not isinstance(part, Reward):
                raise UsageError(f"{part!r} is no reward", field="reward", value=self.text)
        return _sum([t[1] for t in terms], [t[0] for t in terms])

    def term(self) -> tuple[float, Any]:
        weight = _number(self.peek())
        if weight is not None and self.words[self.at + 1 : self.at + 2] == ["*"]:
            self.at += 2
            return weight, self.atom()
        return 1.0, self.atom()

    def atom(self) -> Any:
        if self.peek() in {"", "(", ")", "+", "*", ","}:
            raise UsageError(f"cannot be read at {self.peek()!r}", field="reward", value=self.text)
        word = self.take()
        called = self.peek() == "("
        arguments = self.arguments() if called else []
        number = _number(word)
        if number is not None and not called:
            return number
        return made(word, arguments, called)

    def arguments(self) -> list[Any]:
        self.take()
        found = []
        while self.peek() not in {")", ""}:
            # an argument that is one plain word stays text: a motif, a file
            single = self.words[self.at + 1 : self.at + 2] in ([","], [")"])
            word = self.peek()
            bare = single and word not in BUILT_IN and _number(word) is None
            found.append(_Bare(self.take()) if bare else self.total())
            if self.peek() == ",":
                self.take()
        if self.peek() != ")":
            raise UsageError("lacks a closing parenthesis", field="reward", value=self.text)
        self.take()
        return found


class _Bare(str):
    """A word of an expression that is no built-in name."""


def made(word: str, arguments: list[Any], called: bool) -> Reward:
    """Return the reward of a word and its arguments."""
    joined: dict[str, Callable[..., Reward]] = {
        "geometric": lambda *parts: GeometricMean(parts, [1.0] * len(parts)),
        "threshold": Threshold,
    }
    if word in joined:
        parts = [made(a, [], False) if isinstance(a, _Bare) else a for a in arguments]
        return _called(word, joined[word], parts)
    if word in BUILT_IN:
        return _called(word, BUILT_IN[word], [str(a) if isinstance(a, _Bare) else a for a in arguments])
    if not called and (Path(word).is_dir() or "/" in word):
        return oracle(word)
    if called:
        raise UsageError("no such reward", field="reward", value=word, choices=[*BUILT_IN, *joined])
    try:
        return Own(load_reward(word), word)
    except UsageError as error:
        if ":" in word:
            raise
        raise UsageError("no such reward", field="reward", value=word, choices=[*BUILT_IN, *joined]) from error


def _count(word: str, name: str, value: Any) -> int:
    """Return an argument that counts something: numbers of an expression are read as floats."""
    if not isinstance(value, float) or value < 1 or not value.is_integer():
        raise UsageError(f"{name} is a whole number from 1 on", field="reward", value=f"{word}(... {value} ...)")
    return int(value)


def _called(word: str, way: Callable[..., Reward], arguments: list[Any]) -> Reward:
    try:
        known = inspect.signature(way)
        given = known.bind(*arguments).arguments
        if inspect.isclass(way) and OWN & given.keys():
            raise TypeError("too many")
        counts = {k: _count(word, k, v) for k, v in given.items() if known.parameters[k].annotation == "int"}
        return way(**given | counts) if counts else way(*arguments)
    except TypeError as error:
        wanted = ", ".join(k for k in inspect.signature(way).parameters if k not in OWN)
        raise UsageError(
            f"takes other arguments ({error})", field="reward", value=word, hint=f"write {word}({wanted})"
        ) from None
