"""Rewards: what a generated sequence is worth, and how several of them are put together.

A reward maps tokens `x` [B, L] to numbers [B]; higher is better. Where it also speaks about laws `p` [B, L, K] (one
distribution per site), differentiably and with `soft(one_hot(x)) = score(x)`, gradients can be taken: for
multilinear rewards `soft` is then the expectation under independent sites.

| composition | value |
|---|---|
| `Weighted` | `sum_i w_i r_i` |
| `GeometricMean` | `prod_i max(r_i, 0)^(w_i / sum w)`: nothing makes up for a part that is zero |
| `Threshold` | `sigmoid((r - level) / width)`: good enough is enough |

Of points with several rewards, the Pareto front holds those that no other point beats in one and equals in all; the
hypervolume is the volume between front and a reference point.

References: Zitzler and Thiele, 1999, "Multiobjective evolutionary algorithms", for the hypervolume.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from core.errors import UsageError

__all__ = [
    "Counted", "GeometricMean", "Reward", "SoftReward", "Threshold", "Weighted", "hypervolume", "load", "pareto",
    "soft",
]  # fmt: skip

GROUP = "quintet.rewards"


@runtime_checkable
class Reward(Protocol):
    """What a sequence is worth; higher is better."""

    @property
    def name(self) -> str:
        """Return what it is called in tables."""
        ...

    def score(self, x: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Return the rewards [B], float64, of tokens `x`, int64 [B, L]."""
        ...


@runtime_checkable
class SoftReward(Reward, Protocol):
    """A reward that can be differentiated."""

    def soft(self, p: Float[Tensor, "b l k"]) -> Float[Tensor, " b"]:
        """Return the rewards [B] of laws `p` [B, L, K]; at one-hot laws those of `score`."""
        ...


def soft(reward: Reward) -> SoftReward:
    """Return the reward as one that can be differentiated.

    Raises:
        UsageError: it has no `soft`.
    """
    if not callable(getattr(reward, "soft", None)):
        raise UsageError("gives no gradients", field="reward", value=reward.name, hint="choose a black-box method")
    return cast(SoftReward, reward)


@dataclass(eq=False)
class Counted:
    """A reward that counts: `calls` sequences scored, `gradients` laws evaluated for their gradient."""

    reward: Reward
    calls: int = 0
    gradients: int = 0

    @property
    def name(self) -> str:
        """Return the name of what is counted."""
        return self.reward.name

    def score(self, x: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Score and count; what is no number is -inf: it rules its own sequence out, and spoils no other's weight."""
        self.calls += len(x)
        value = self.reward.score(x).double()
        return torch.where(value.isnan(), -torch.inf, value)

    def soft(self, p: Float[Tensor, "b l k"]) -> Float[Tensor, " b"]:
        """Evaluate laws and count."""
        self.gradients += len(p)
        return soft(self.reward).soft(p)


@dataclass(frozen=True)
class Weighted:
    """The weighted sum of rewards; what has no weight counts for nothing, -inf under any other weight is -inf."""

    rewards: Sequence[Reward]
    weights: Sequence[float]
    name: str = "weighted"

    def __post_init__(self) -> None:
        """Refuse weights that do not belong to the rewards."""
        _check(self.rewards, self.weights)

    def score(self, x: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Return the sum."""
        return self._sum([r.score(x) for r in self.rewards])

    def soft(self, p: Float[Tensor, "b l k"]) -> Float[Tensor, " b"]:
        """Return the sum at laws."""
        return self._sum([soft(r).soft(p) for r in self.rewards])

    def _sum(self, values: list[Tensor]) -> Tensor:
        parts = [w * v if w else torch.zeros_like(v) for v, w in zip(values, self.weights, strict=True)]
        out = [torch.isneginf(v) for v, w in zip(values, self.weights, strict=True) if w < 0]
        total = torch.stack(parts).sum(0)
        return torch.where(torch.stack(out).any(0), -torch.inf, total) if out else total


@dataclass(frozen=True)
class GeometricMean:
    """The weighted geometric mean of rewards, of which negative values count as zero."""

    rewards: Sequence[Reward]
    weights: Sequence[float]
    name: str = "geometric"

    def __post_init__(self) -> None:
        """Refuse weights that do not belong to the rewards, or whose sum is not positive."""
        _check(self.rewards, self.weights)
        if not min(self.weights) >= 0 or not sum(self.weights) > 0:
            raise UsageError("must not be negative nor all zero", field="weights", value=list(self.weights))

    def score(self, x: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Return the mean."""
        return self._mean([r.score(x) for r in self.rewards])

    def soft(self, p: Float[Tensor, "b l k"]) -> Float[Tensor, " b"]:
        """Return the mean at laws."""
        return self._mean([soft(r).soft(p) for r in self.rewards])

    def _mean(self, values: list[Tensor]) -> Tensor:
        total = sum(self.weights)
        floor = torch.finfo(values[0].dtype).tiny
        logs = [w / total * v.clamp_min(floor).log() for v, w in zip(values, self.weights, strict=True) if w]
        zero = torch.stack([v <= 0 for v, w in zip(values, self.weights, strict=True) if w]).any(0)
        return torch.where(zero, 0.0, torch.stack(logs).sum(0).exp())


@dataclass(frozen=True)
class Threshold:
    """Whether a reward reaches a level, smoothed over `width` (in the reward's unit)."""

    reward: Reward
    level: float
    width: float
    name: str = "threshold"

    def __post_init__(self) -> None:
        """Refuse a width that is none, and a level that is no number."""
        if not (self.width > 0 and math.isfinite(self.width) and math.isfinite(self.level)):
            raise UsageError("needs a level and a positive width", field="threshold", value=(self.level, self.width))

    def score(self, x: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Return a number in (0, 1)."""
        return torch.sigmoid((self.reward.score(x) - self.level) / self.width)

    def soft(self, p: Float[Tensor, "b l k"]) -> Float[Tensor, " b"]:
        """Return a number in (0, 1) at laws."""
        return torch.sigmoid((soft(self.reward).soft(p) - self.level) / self.width)


def pareto(values: Real[Tensor, "b m"]) -> Bool[Tensor, " b"]:
    """Return which rows of `values` [B, M] no other row dominates, bool [B]."""
    beaten = [bool(((values >= v).all(-1) & (values > v).any(-1)).any()) for v in values]
    return ~torch.tensor(beaten, dtype=torch.bool)


def hypervolume(values: Real[Tensor, "b m"], reference: Real[Tensor, " m"]) -> float:
    """Return the volume that `values` [B, M] dominate above `reference` [M], by slicing the last axis."""
    above = values[(values > reference).all(-1)].double()
    if not len(above):
        return 0.0
    if values.shape[1] == 1:
        return float(above.max() - reference[0])
    levels = above[:, -1].unique().flip(0)  # from the best level down
    below = torch.cat([levels[1:], reference[-1:].double()])
    slabs = zip(levels, below, strict=True)
    return math.fsum(
        float(top - low) * hypervolume(above[above[:, -1] >= top][:, :-1], reference[:-1]) for top, low in slabs
    )


def load(name: str) -> Reward:
    """Return a reward of the user: `module:callable`, or the name of an entry point of the group `quintet.rewards`.

    A module may be installed or lie in the working directory. What is named must be a reward or, when called without
    arguments, return one.

    Raises:
        UsageError: it cannot be imported, is not there, or is not a reward.
    """
    plugins = {e.name: e for e in entry_points(group=GROUP)}
    module, colon, attribute = name.partition(":")
    try:
        if name in plugins:
            found = plugins[name].load()
        elif colon:
            if str(Path.cwd()) not in sys.path:  # last, so that it hides nothing
                sys.path.append(str(Path.cwd()))
            found = getattr(importlib.import_module(module), attribute)
        else:
            choices = plugins or ["module:callable"]
            raise UsageError("no such reward", field="reward", value=name, choices=choices)
    except UsageError:
        raise
    except Exception as error:  # a module of the user's may raise anything
        raise UsageError(f"cannot be imported ({error})", field="reward", value=name) from error
    try:
        made = found if isinstance(found, Reward) and not isinstance(found, type) else found()
    except TypeError as error:
        raise UsageError(f"cannot be made without arguments ({error})", field="reward", value=name) from error
    if not isinstance(made, Reward):
        raise UsageError("has no `name` and `score`", field="reward", value=name)
    return made


def _check(rewards: Sequence[Reward], weights: Sequence[float]) -> None:
    if not rewards or len(rewards) != len(weights) or not all(math.isfinite(w) for w in weights):
        raise UsageError("needs one finite weight for each reward", field="weights", value=list(weights))
