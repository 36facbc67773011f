"""A solver as data: the time grid and, for real vectors, a table of scalars.

`times` runs from 1 (noise) to 0 (data). Token solvers (`core/solvers/tokens.py`) read either the grid (ancestral:
which sites cross their hit time) or the number of steps left (confidence: an even share of the sites still open).

For real vectors a solver is a `Table`: one row for each evaluation of the network, and nothing in it depends on the
state. Row i is evaluated at `(x_i, t_i)` and turns the predictions so far, newest first, into the next state:

    P_i = p x_i + q D_i                                what is interpolated: data, noise, velocity or flow
    y  <- x_i                                          the anchor: where the step starts from, or, if the row has one,
    y  <- anchor.a y + sum_j anchor.b_j P_{i-j}        the start corrected by what was just seen; (1, ()) keeps it
    x_{i+1} = a y + sum_j b_j P_{i-j} + d D_i + c z

Multistep predictors have no anchor (Adams-Bashforth, DDIM, DPM-Solver++, DEIS); correctors move it by the prediction
at the new point, at no evaluation of their own (Adams-Moulton, UniPC); stages of a Runge-Kutta step keep it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

__all__ = ["Plan", "Row", "Table", "uniform_plan"]


@dataclass(frozen=True)
class Plan:
    """A descending time grid of T steps.

    Args:
        times: float64 [T + 1], from 1 to 0.
    """

    times: Float64[Tensor, " ends"]

    def __post_init__(self) -> None:
        """Refuse grids that do not end in clean data: a leftover mask would become a token."""
        ends = self.times[0] == 1 and self.times[-1] == 0
        if len(self.times) < 2 or not ends or bool((self.times.diff() >= 0).any()):
            raise ValueError("a plan's times fall strictly from 1 to 0")

    @property
    def steps(self) -> int:
        """Number of steps T."""
        return len(self.times) - 1

    def __iter__(self):  # noqa: ANN204
        """Yield (t, s) pairs."""
        return iter(zip(self.times[:-1].tolist(), self.times[1:].tolist(), strict=True))


def uniform_plan(steps: int) -> Plan:
    """Return the plan of `steps` equal time steps."""
    return Plan(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64))


@dataclass(frozen=True, slots=True)
class Row:
    """One evaluation of the network and the state after it (symbols as above)."""

    t: float
    p: float
    q: float
    a: float
    b: tuple[float, ...] = ()
    d: float = 0.0
    c: float = 0.0
    anchor: tuple[float, tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Table:
    """A solver of real vectors: its rows, and the time that it ends at."""

    rows: tuple[Row, ...]
    stop: float

    @property
    def steps(self) -> int:
        """Number of evaluations of the network."""
        return len(self.rows)

    @property
    def depth(self) -> int:
        """Number of predictions that a row may read."""
        return max(1, *(max(len(row.b), len(row.anchor[1]) if row.anchor else 0) for row in self.rows))

    @property
    def times(self) -> tuple[float, ...]:
        """Times of the evaluations, and the last."""
        return (*(row.t for row in self.rows), self.stop)

    def to_json(self) -> str:
        """Return the table as text that `from_json` reads back exactly."""
        return json.dumps({"stop": self.stop, "rows": [asdict(row) for row in self.rows]})

    @classmethod
    def from_json(cls, text: str) -> Table:
        """Read what `to_json` wrote."""
        found = json.loads(text)
        rows = []
        for row in found["rows"]:
            anchor = row.pop("anchor")
            kept = None if anchor is None else (anchor[0], tuple(anchor[1]))
            rows.append(Row(**{**row, "b": tuple(row["b"])}, anchor=kept))
        return cls(tuple(rows), found["stop"])
