"""The reverse loop: corrupt, predict, make admissible, step back; once, for every solver.

A `Step` is one move from time t to s < t. It holds the state, the window of the law and the address of its noise;
the network is asked only when a solver reads `step.prediction`, so steps that reveal nothing cost nothing.
A solver (`core/solvers/tokens.py`) maps a step to the next state. All randomness comes from counter-based streams:

    hit   one uniform per site, drawn once: the level at which the site is uncovered (`alpha_s > hit`), nested in time
    draw  one uniform per site and step: which value it takes

`integrate` and `trace` are the same loop over real vectors: the solver is a `Table` (`core/plan.py`), so a step is one
evaluation and a few scaled additions; the noise of row i comes from `stream.fold(i)`.

Sites that the law leaves a single value (a street without a junction) are filled before the network is asked: under
the restricted prediction they have probability one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.constrain.law import Window
from core.denoiser import GaussianPrediction, Prediction
from core.errors import UsageError
from core.noise import Stream
from core.plan import Plan, Table
from core.process.categorical import Categorical
from core.transition import GaussianTransition

__all__ = ["Estimate", "Move", "Noise", "Predict", "Solver", "Step", "denoise", "integrate", "rollout", "trace"]

Predict = Callable[[Tensor, Tensor], Prediction]
Estimate = Callable[[Tensor, Tensor], GaussianPrediction]


@dataclass(eq=False)
class Step:
    """One step of the reverse process.

    Args:
        process: the corruption; absorbing ones have their mask at K, the size of the window's alphabet.
        predict: the denoiser, from (x_t [B, L], t [B]) to a `Prediction`.
        window: what the law admits.
        x_t: tokens [B, L].
        t, s: times, s < t.
        left: steps left, this one included.
        hit: uncovering levels [B, L].
        stream: the streams of this step.
        greedy: take the most likely values.
    """

    process: Categorical
    predict: Predict
    window: Window
    x_t: Int[Tensor, "b l"]
    t: float
    s: float
    left: int
    hit: Float[Tensor, "b l"]
    stream: Stream
    greedy: bool = False

    @cached_property
    def masked(self) -> Bool[Tensor, "b l"]:
        """Which sites are still masked, bool [B, L]; a `UsageError` for noise without a mask."""
        if self.process.mask is None:
            raise UsageError("needs absorbing noise", field="solver", hint="ancestral serves every noise")
        return self.x_t == self.process.mask

    @cached_property
    def known(self) -> Int[Tensor, "b l"]:
        """Tokens, -1 where masked."""
        return torch.where(self.masked, -1, self.x_t)

    @cached_property
    def raw(self) -> Prediction:
        """The network's prediction at (x_t, t)."""
        return self.predict(self.x_t, torch.full(self.x_t.shape[:1], self.t, device=self.x_t.device))

    @cached_property
    def log_p(self) -> Float[Tensor, "b l k"]:
        """The posterior at masked sites, restricted to values with an admissible completion, [B, L, K]."""
        return self.window.restrict(self.raw.log_p, self.known)

    def admit(self, sites: Bool[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Return x_t with the masked `sites` [B, L] revealed by the law; no network call where there are none."""
        if not bool(sites.any()):
            return self.x_t
        u = torch.zeros(sites.shape) if self.greedy else self.stream.uniform(sites.shape[1])
        drawn = self.window.admit(self.raw.log_p, self.known, sites, u, self.greedy)
        return torch.where(sites, drawn, self.x_t)


class Noise(Protocol):
    """Standard normals that can be told apart by integers (`core.noise.Stream`)."""

    def fold(self, step: int, /) -> Noise:
        """Return the noise of a step."""
        ...

    def normal(self, *tail: int) -> Tensor:
        """Return normals; B samples put B in front of `tail`."""
        ...


class Solver(Protocol):
    """From a step to the next state."""

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s, tokens [B, L]."""
        ...


def rollout(
    predict: Predict,
    process: Categorical,
    plan: Plan,
    window: Window,
    solver: Solver,
    stream: Stream,
    x: Int[Tensor, "b l"],
    greedy: bool = False,
) -> Iterator[tuple[Step, Tensor]]:
    """Yield (step, x_s) from x at t = 1 down to t = 0; stops early once nothing is masked.

    Sites that x does not mask keep their tokens, whatever the solver covers.

    Args:
        predict: the denoiser on local tokens.
        process: corruption over the window's alphabet.
        plan: the time grid.
        window: the law over the L sites.
        solver: the token solver.
        stream: one stream per row.
        x: start tokens [B, L] (the prior, with known sites already in place).
        greedy: take the most likely values.
    """
    hit, start = stream.fold(0).uniform(x.shape[1]), x
    for index, (t, s) in enumerate(plan):
        if process.mask is not None:
            x = _settle(x, process.mask, window)
            if not bool((x == process.mask).any()) and not getattr(solver, "revises", False):
                return
        step = Step(process, predict, window, x, t, s, plan.steps - index, hit, stream.fold(1, index), greedy)
        x = solver(step)
        if process.mask is not None:
            x = torch.where(start == process.mask, x, start)
        yield step, x


def denoise(
    predict: Predict,
    process: Categorical,
    plan: Plan,
    window: Window,
    solver: Solver,
    stream: Stream,
    x: Int[Tensor, "b l"],
    greedy: bool = False,
) -> Int[Tensor, "b l"]:
    """Run the reverse loop and return x_0, tokens [B, L] (arguments as in `rollout`).

    Raises:
        RuntimeError: a site is still masked after the last step (a solver that does not finish its plan).
    """
    for _, x_s in rollout(predict, process, plan, window, solver, stream, x, greedy):
        x = x_s
    if process.mask is not None:
        x = _settle(x, process.mask, window)
        if bool((x == process.mask).any()):
            raise RuntimeError(f"{type(solver).__name__} left masked sites after {plan.steps} steps")
    return x


def _settle(x: Tensor, mask: int, window: Window) -> Tensor:
    known = window.settle(torch.where(x == mask, -1, x))
    return torch.where(known < 0, mask, known)


@dataclass(frozen=True, eq=False, slots=True)
class Move:
    """One row of a table, carried out: `x_s` was drawn from `N(mean, std^2)` after the prediction at `(x_t, t)`."""

    t: float
    s: float
    x_t: Float[Tensor, "*x"]
    prediction: GaussianPrediction
    mean: Float[Tensor, "*x"]
    std: float
    x_s: Float[Tensor, "*x"]

    @property
    def transition(self) -> GaussianTransition:
        """The law of the step, for rewards, distillation and policy gradients; a density where `std` > 0."""
        return GaussianTransition(self.mean, torch.as_tensor(self.std, dtype=self.mean.dtype, device=self.mean.device))


def trace(predict: Estimate, table: Table, x: Float[Tensor, "b ..."], stream: Noise | None = None) -> Iterator[Move]:
    """Yield every row of `table`, carried out from `x` at its first time.

    Args:
        predict: the denoiser, from (x_t [B, ...], t ()) to a `GaussianPrediction`.
        table: the solver.
        x: start [B, ...], in the precision in which the states are kept.
        stream: one stream per row of the batch; needed by tables with noise.

    Raises:
        UsageError: the table draws noise and there is no stream.
    """
    ends = table.times
    times = torch.tensor(ends, dtype=torch.float64, device=x.device).unbind()
    past: deque[Tensor] = deque(maxlen=table.depth)
    y = x
    for i, row in enumerate(table.rows):
        prediction = predict(x, times[i])
        D = prediction.mean
        past.appendleft(D if row.p == 0 and row.q == 1 else torch.mul(D, row.q).add_(x, alpha=row.p))
        y = x if row.anchor is None else _combine(y, *row.anchor, past)
        mean = x_s = _combine(y, row.a, row.b, past)
        if row.d:
            mean = x_s = mean.add(D, alpha=row.d)
        if row.c:
            if stream is None:
                raise UsageError("a solver that draws noise needs one", field="stream")
            x_s = mean.add(stream.fold(i).normal(*x.shape[1:]).to(mean), alpha=row.c)
        yield Move(row.t, ends[i + 1], x, prediction, mean, row.c, x_s)
        x = x_s


def integrate(
    predict: Estimate, table: Table, x: Float[Tensor, "*x"], stream: Noise | None = None
) -> Float[Tensor, "*x"]:
    """Run the solver `table` from `x` and return the state at its last time (arguments as in `trace`)."""
    for move in trace(predict, table, x, stream):
        x = move.x_s
    return x


def _combine(y: Tensor, a: float, b: tuple[float, ...], past: deque[Tensor]) -> Tensor:
    """Return `a y + sum_j b_j P_j`, newest first."""
    out = y if a == 1 and not b else y * a
    for weight, P in zip(b, past, strict=False):
        out = out.add_(P, alpha=weight)
    return out
