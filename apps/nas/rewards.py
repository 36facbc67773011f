"""What a cell is worth, and an honest count of what was asked.

| name | value |
|---|---|
| `nb201:COLUMN` | a column of the real NAS-Bench-201 files (`c10_test_200`, `c10_val_12`, ...; accuracies in percent) |
| `hw:COLUMN` | a measured latency or energy of the same cells (less is better: ask for `-hw:...`) |
| `digits:COLUMN` | our own trained table: `valid`, `valid_loss`, `test`, ..., mean over seeds, one value per class |
| `params`, `flops` | closed forms, in millions: the controls that any proxy must beat |
| `train` | trains the cell on digits now; `train:10` for so many epochs; `train:DATA:10` on your images |
| `proxy:KIND` | a zero-cost proxy (`apps.nas.proxies`); `proxy:KIND:DATA` on your images |
| `module:callable` | a reward of the user (`core.finetune.reward`) |

A minus sign in front negates, `A=70` aims at a value, `0.7*A+0.3*B` is a weighted sum, and `A,B` asks the dearer B only
for what was good in A (`apps.nas.fidelity`). DATA is an .npz file or a folder of pictures (`apps.nas.images`).

`Queries` wraps any of them: each cell is asked for once (each class, where the reward is a table by class or a real
training), further questions are answered from memory and cost nothing, and everything that was ever evaluated,
evaluation samples included, is in its `history`. An answer that is no finite number counts like any other and stands
there as -inf: the worst to learn from, and never a result.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apps.nas import images
from apps.nas.cell import Cell, resources
from apps.nas.digits import SETTINGS
from apps.nas.fidelity import Ladder
from apps.nas.proxies import PROXIES, Proxy
from apps.nas.space import Space
from apps.nas.space import load as load_space
from apps.nas.tokenizer import from_string
from apps.nas.training import Training
from core.constrain.layers import Layers
from core.errors import DataError, UsageError
from core.finetune.reward import Reward, Weighted
from core.finetune.reward import load as load_reward

__all__ = ["Closed", "Negated", "Queries", "Table", "Target", "columns", "floored", "load"]

FOLDER = "../shared/data/nas"
FILES = {"nb201": ("nb201_main.csv.gz", "nb201_test200.csv.gz", "nb201_zc_cifar10.csv.gz"), "hw": ("nb201_hw.csv.gz",)}


@dataclass(frozen=True, eq=False)
class Table:
    """Values looked up by cell.

    Args:
        name: of the column.
        space: of the cells.
        values: from tokens to a number; a cell that is missing is refused.
        by_class: the keys are classes (`Cell.key`) instead.
        hint: what to do where a cell is missing.
    """

    name: str
    space: Space
    values: dict[tuple[int, ...] | str, float]
    by_class: bool = False
    hint: str = ""

    def score(self, x: Tensor) -> Tensor:
        """Return the values [B], float64.

        Raises:
            DataError: the table lacks a cell.
        """
        try:
            if self.by_class:
                found = [self.values[Cell.of(self.space, row).key] for row in x.tolist()]
            else:
                found = [self.values[tuple(row)] for row in x.tolist()]
        except KeyError as error:
            raise DataError(
                "has no value for this cell", field=self.name, value=str(error.args[0]), hint=self.hint or None
            ) from None
        return torch.tensor(found, dtype=torch.float64)

    def best(self) -> float:
        """Return the greatest finite value."""
        return max(filter(math.isfinite, self.values.values()))


@dataclass(frozen=True)
class Closed:
    """Parameters or FLOPs, in millions, of the network around a cell."""

    name: str
    space: Space

    def score(self, x: Tensor) -> Tensor:
        """Return the values [B]."""
        which = ("params", "flops").index(self.name)
        found = [resources(Cell.of(self.space, row))[which] / 1e6 for row in x.tolist()]
        return torch.tensor(found, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Negated:
    """Less is better."""

    reward: Reward

    @property
    def name(self) -> str:
        """Return the name with its sign."""
        return f"-{self.reward.name}"

    def score(self, x: Tensor) -> Tensor:
        """Return the negated values [B]."""
        return -self.reward.score(x)


@dataclass(frozen=True, eq=False)
class Target:
    """As near as possible to a value: -|r - value|."""

    reward: Reward
    value: float

    @property
    def name(self) -> str:
        """Return what is aimed at."""
        return f"{self.reward.name}={self.value:g}"

    def score(self, x: Tensor) -> Tensor:
        """Return the negated distances [B]."""
        return -(self.reward.score(x) - self.value).abs()


def classes(reward: Reward) -> Space | None:
    """Return the space where a reward has one value for all cells of a class, None where it tells them apart."""
    if isinstance(reward, Negated | Target):
        return classes(reward.reward)
    if isinstance(reward, Weighted | Ladder):
        found = [classes(r) for r in (reward.rewards if isinstance(reward, Weighted) else reward.rungs)]
        return found[0] if all(found) else None
    return getattr(reward, "space", None) if getattr(reward, "by_class", False) else None


@dataclass(eq=False)
class Queries:
    """A reward that is asked once for each cell, or for each class (`Cell.key`) where its cells have one value.

    Attributes:
        history: tokens and values in the order in which they were asked for; -inf for what is no finite number.
        asked: questions, repeated ones included.
        places: where in the history the answer for a cell or class stands.
        beyond: cells of the history that break the limits: asked for to learn from, never a result.
    """

    reward: Reward
    history: list[tuple[tuple[int, ...], float]] = field(default_factory=list)
    asked: int = 0
    places: dict[tuple[int, ...] | str, int] = field(default_factory=dict)
    beyond: set[tuple[int, ...]] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Return the reward's name."""
        return self.reward.name

    @property
    def unique(self) -> int:
        """Number of different cells that were evaluated."""
        return len(self.history)

    @property
    def failed(self) -> int:
        """Number of queries without a finite answer."""
        return sum(math.isinf(value) for _, value in self.history)

    @cached_property
    def identity(self) -> Callable[[tuple[int, ...]], tuple[int, ...] | str]:
        """What two cells share if an answer for one is an answer for the other."""
        space = classes(self.reward)
        return tuple if space is None else lru_cache(maxsize=None)(lambda row: Cell.of(space, row).key)

    def known(self, row: Sequence[int]) -> bool:
        """Whether a cell was evaluated, or one whose value is its own."""
        place = self.places.get(self.identity(tuple(row)))
        return place is not None and (tuple(row) in self.beyond or self.history[place][0] not in self.beyond)

    def score(self, x: Tensor) -> Tensor:
        """Return the values [B], -inf for what is no finite number; only cells never seen cost a query."""
        rows = [tuple(row) for row in x.tolist()]
        names = [self.identity(row) for row in rows]
        self.asked += len(rows)
        fresh: dict[tuple[int, ...] | str, tuple[int, ...]] = {}
        for name, row in zip(names, rows, strict=True):
            if name not in self.places:
                fresh.setdefault(name, row)
            elif not self.known(row):  # a scout's copy that obeys: its value may win now
                self.history[self.places[name]] = row, self.history[self.places[name]][1]
        if fresh:
            answers = self.reward.score(torch.tensor(list(fresh.values()))).tolist()
            self.places |= {name: len(self.history) + k for k, name in enumerate(fresh)}
            told = [value if math.isfinite(value) else -math.inf for value in answers]
            self.history += zip(fresh.values(), told, strict=True)
        return torch.tensor([self.history[self.places[name]][1] for name in names], dtype=torch.float64)

    def scout(self, x: Tensor, law: Layers) -> None:
        """Ask for cells that need not obey the limits `law`; those that do not are learnt from and no more."""
        outside = x[~torch.from_numpy(law.accepts(x.numpy()))]
        self.beyond |= {tuple(row) for row in outside.tolist()}
        self.score(x)

    def values(self) -> np.ndarray:
        """Return the value of each query, float64 [unique], -inf beyond the limits."""
        return np.array([-np.inf if row in self.beyond else v for row, v in self.history])

    def best(self) -> tuple[tuple[int, ...], float]:
        """Return the best cell within the limits and its value.

        Raises:
            UsageError: none has a finite value.
        """
        values = self.values()
        if not np.isfinite(values).any():
            cells = self.unique - len(self.beyond)
            raise UsageError(f"gave no finite number for any of {cells} cells within the limits", field=self.name)
        return self.history[int(values.argmax())]

    def curve(self) -> np.ndarray:
        """Return the best value after each query, float64 [unique]."""
        return np.maximum.accumulate(self.values()) if self.history else np.zeros(0)

    def reached(self, level: float) -> int | None:
        """Return the number of queries until a value of at least `level`, None where it never came."""
        found = np.flatnonzero(self.values() >= level)
        return int(found[0]) + 1 if len(found) else None


def floored(values: Tensor) -> Tensor:
    """Return values [B] with the least finite one in place of -inf, so that means exist; none finite: unchanged."""
    told = values[values.isfinite()]
    return values.clamp_min(float(told.min())) if len(told) else values


@lru_cache(maxsize=8)
def columns(source: str, folder: str = FOLDER) -> dict[str, dict[str, str]]:
    """Return the real files of a source: {code: {column: text}}.

    Raises:
        DataError: they are not there.
    """
    rows: dict[str, dict[str, str]] = {}
    codes: dict[str, str] = {}
    files = FILES[source] if source == "nb201" else (FILES["nb201"][0], *FILES[source])
    for name in files:
        path = Path(folder) / name
        if not path.is_file():
            raise DataError("no such file", field=str(path), hint="the real tables are fetched apart, see README")
        with gzip.open(path, "rt") as file:
            for row in csv.DictReader(file):
                codes.setdefault(row["idx"], row.get("code", ""))
                rows.setdefault(codes[row["idx"]], {}).update(row)
    return rows


def _shipped(space: Space, name: str, reward: str) -> None:
    """Refuse a space whose tokens stand for other cells than those of the space that ships."""
    own = load_space(name)
    if space.name != name or (space.variables, space.merge) != (own.variables, own.merge):
        hint = f"{space.name} has other operations or edges" if space.name == name else None
        raise UsageError(f"is about the space {name}", field="reward", value=reward, hint=hint)


def _real(source: str, column: str, space: Space, folder: str) -> Table:
    rows = columns(source, folder)
    known = [c for c in next(iter(rows.values())) if c not in ("idx", "code")]
    if column not in known:
        raise UsageError(
            "no such column", field="reward", value=f"{source}:{column}", choices=[f"{source}:{k}" for k in known]
        )
    _shipped(space, "nb201", f"{source}:{column}")
    found = {tuple(int(c) for c in code): float(r[column]) for code, r in rows.items() if r.get(column)}
    if source == "hw":  # -1 where it was not measured
        found = {cell: value if value >= 0 else math.nan for cell, value in found.items()}
    return Table(f"{source}:{column}", space, found)  # type: ignore[arg-type]


def digits_table() -> Path:
    """Return the file or folder of our own table: the one that ships, else what a run of `table` left so far."""
    from core.run.fetch import data_root

    shipped = data_root() / "nas" / "digits.csv.gz"
    return shipped if shipped.is_file() else data_root() / "nas-digits"


def _digits(column: str, space: Space) -> Table:
    from apps.nas.table import COLUMNS, SPACES, read

    if column not in COLUMNS[3:]:
        raise UsageError(
            "no such column", field="reward", value=f"digits:{column}", choices=[f"digits:{k}" for k in COLUMNS[3:]]
        )
    if space.name in SPACES:
        _shipped(space, space.name, f"digits:{column}")
    path = digits_table()
    parts = [path] if path.is_file() else sorted(path.glob("part-*.csv"))
    grouped: dict[str, list[float]] = defaultdict(list)
    for row in (r for part in parts for r in read(part) if r.space == space.name):
        grouped[from_string(space, row.cell).key].append(getattr(row, column))
    if not grouped:
        raise DataError("has no row of this space", field=str(path), value=space.name, hint="run quintet nas table")
    means: dict[tuple[int, ...] | str, float] = {k: float(np.mean(v)) for k, v in grouped.items()}
    hint = "`quintet nas table` goes on with the trainings"
    return Table(f"digits:{column}", space, means, by_class=True, hint=hint)


def load(name: str, space: Space, folder: str = FOLDER) -> Reward:
    """Return a reward by name (see the table above).

    Raises:
        UsageError: the name means nothing.
        DataError: its file is missing.
    """
    if "," in name:
        return Ladder([load(part.strip(), space, folder) for part in name.split(",")])
    if "*" in name:
        return _weighted(name, space, folder)
    if "=" in name:
        return _target(name, space, folder)
    if name.startswith("-"):
        return Negated(load(name[1:], space, folder))
    source, _, rest = name.partition(":")
    if source in FILES:
        return _real(source, rest, space, folder)
    if source == "digits":
        return _digits(rest or "valid", space)
    if name in ("params", "flops"):
        return Closed(name, space)
    if source == "train":
        return _training(name, rest, space)
    if source == "proxy":
        kind, _, data = rest.partition(":")
        if kind not in PROXIES:
            raise UsageError("no such proxy", field="reward", value=name, choices=[f"proxy:{k}" for k in PROXIES])
        return Proxy(kind, space, images.load(data or "digits").name)
    if ":" not in name:
        choices = ["nb201:c10_test_200", "digits:valid", "params", "flops", "train", "proxy:nwot", "module:callable"]
        raise UsageError("no such reward", field="reward", value=name, choices=choices)
    return load_reward(name)


def _target(name: str, space: Space, folder: str) -> Target:
    base, _, value = name.rpartition("=")
    try:
        return Target(load(base, space, folder), float(value))
    except ValueError:
        raise UsageError("must be REWARD=NUMBER", field="reward", value=name) from None


def _training(name: str, rest: str, space: Space) -> Training:
    data, colon, epochs = rest.rpartition(":")
    if not (epochs.isdigit() or colon and epochs[-1:].isdigit()):  # a folder, whose name may end in a digit
        data, epochs = rest, ""
    if epochs and not (epochs.isdigit() and int(epochs)):
        raise UsageError("needs a number of epochs", field="reward", value=name, hint="train:10, or train:FILE.npz:10")
    made = Training(space, int(epochs or 30), images.load(data or "digits").name)
    if made.data == "digits" and space.widest > SETTINGS["channels"]:
        hint = "train:DATA:EPOCHS on images of yours has 16"
        raise UsageError(f"shares {SETTINGS['channels']} channels among up to {space.widest} nodes", field="reward",
                         value=name, hint=hint)  # fmt: skip
    return made


def _weighted(name: str, space: Space, folder: str) -> Reward:
    terms = [term.partition("*") for term in name.split("+")]
    try:
        weights = [float(weight) for weight, _, _ in terms]
    except ValueError:
        raise UsageError("must be a sum of WEIGHT*REWARD", field="reward", value=name) from None
    return Weighted([load(rest.strip(), space, folder) for _, _, rest in terms], weights)
