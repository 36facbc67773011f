"""Plan search: the solver that suits a model, found by trying.

A multistep solver is a choice for each step: how many predictions are interpolated there, and where the next one is
asked for; and for all steps what is interpolated, in which clock, and whether each step is corrected. All of this is
a table of scalars (`core.solvers.adams`), so a candidate costs nothing but its evaluation by the caller's `loss`
(distance to a fine solution of the same noise, or of samples to data; on a part that does not judge).

`search` first tries the plain solvers on the plain grids and then improves the best by mutations that are kept when
they are better: one time moves between its neighbours, one step changes its order, the space or the clock changes, the
corrector goes or comes. Times move in the angle, which is finite at both ends.

References: Liu et al., 2023, arXiv:2312.07243 (USF: what can be chosen for a step); the search here is a plain one, by
evolution strategy (1 + 1) with restarts from the best plain solvers, without a learned predictor of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from core.errors import UsageError
from core.plan import Table
from core.process.gaussian import Gaussian
from core.solvers import grid
from core.solvers.adams import Clock, Space, adams

__all__ = ["Candidate", "Found", "plain", "search"]

PAIRS: tuple[tuple[Space, Clock], ...] = (
    ("velocity", "angle"), ("flow", "time"), ("data", "log_snr"), ("noise", "log_snr"), ("noise", "rho"),
)  # fmt: skip
MOST = 4
"""Highest order that is tried."""


@dataclass(frozen=True)
class Candidate:
    """A multistep solver.

    Args:
        times: where it asks, and its end, falling.
        orders: predictions that each step interpolates.
        space, clock: what, and in which variable.
        corrector: whether steps are corrected.
    """

    times: tuple[float, ...]
    orders: tuple[int, ...]
    space: Space
    clock: Clock
    corrector: bool

    def table(self, process: Gaussian) -> Table:
        """Return its coefficients."""
        return adams(process, self.times, self.orders, self.space, self.clock, self.corrector)


@dataclass(frozen=True)
class Found:
    """The best candidate, its loss, and the loss of the best plain solver."""

    candidate: Candidate
    loss: float
    plain: float
    tried: int


def plain(process: Gaussian, steps: int, start: float = 1.0, stop: float = 0.0) -> Iterator[Candidate]:
    """Yield the solvers of one order on the grids that exist between `start` and `stop`."""
    for name, make in grid.GRIDS.items():
        try:
            times = tuple(make(process, steps, start=start, stop=stop).tolist())
        except UsageError:  # this grid has an infinite end here
            continue
        if any(s >= t for t, s in zip(times, times[1:], strict=False)):
            raise UsageError("does not fall", field="grid", value=name)
        for (space, clock), order, corrector in product(PAIRS, (1, 2, 3), (False, True)):
            yield Candidate(times, (order,) * steps, space, clock, corrector)


def mutate(candidate: Candidate, process: Gaussian, rng: np.random.Generator) -> Candidate:
    """Return the candidate with one thing changed."""
    steps, kind = len(candidate.orders), rng.random()
    if kind < 0.6 and steps > 1:
        k = int(rng.integers(1, steps))
        low, here, high = (float(process.angle(candidate.times[j])) for j in (k + 1, k, k - 1))
        gap = min(high - here, here - low)
        place = np.clip(here + 0.4 * gap * rng.standard_normal(), low + gap / 8, high - gap / 8)
        moved = float(process.at_angle(place))
        return replace(candidate, times=(*candidate.times[:k], moved, *candidate.times[k + 1 :]))
    if kind < 0.85:
        k = int(rng.integers(steps))
        orders = list(candidate.orders)
        orders[k] = int(np.clip(orders[k] + rng.choice([-1, 1]), 1, MOST))
        return replace(candidate, orders=tuple(orders))
    if kind < 0.95:
        space, clock = PAIRS[int(rng.integers(len(PAIRS)))]
        return replace(candidate, space=space, clock=clock)
    return replace(candidate, corrector=not candidate.corrector)


def search(
    process: Gaussian, steps: int, loss: Callable[[Table], float], *, rounds: int = 100, seed: int = 0,
    start: float = 1.0, stop: float = 0.0, keep: int = 3,
) -> Found:  # fmt: skip
    """Return the best solver of `steps` evaluations that was found.

    Args:
        process: the corruption.
        steps: evaluations of the network.
        loss: of a table, lower is better; a loss that is not finite rules a candidate out.
        rounds: mutations that are tried.
        seed: of the mutations.
        start, stop: times between which is solved.
        keep: plain solvers from which is searched.

    Raises:
        UsageError: every plain solver was ruled out.
    """
    rng, tried = np.random.default_rng(seed), 0
    scored: list[tuple[float, Candidate]] = []
    for candidate in plain(process, steps, start, stop):
        value = loss(candidate.table(process))
        tried += 1
        if np.isfinite(value):
            scored.append((value, candidate))
    if not scored:
        raise UsageError("rules every solver out", field="loss")
    best = sorted(scored, key=lambda pair: pair[0])[:keep]
    first = best[0][0]
    for n in range(rounds):
        k = n % len(best)
        candidate = mutate(best[k][1], process, rng)
        value = loss(candidate.table(process))
        tried += 1
        if value < best[k][0]:
            best[k] = value, candidate
    value, candidate = min(best, key=lambda pair: pair[0])
    return Found(candidate, value, first, tried)
