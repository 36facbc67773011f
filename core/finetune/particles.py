"""Particles that carry the reverse process to a tilted law, exactly in the limit.

Wanted is the model's own law p(x_0) times a factor psi_0(x_0): an imposed constraint (psi_0 = 1 where it holds, else
0), or exp(reward / temperature). A **twist** psi(x_t) guesses at every step what the factor will be. Sequential Monte
Carlo moves N particles by a proposal r and weighs them by

    w_s = w_t  psi(x_s) / psi(x_t)  p(x_s | x_t) / r(x_s | x_t).

The factors telescope: whatever psi and r, weighted particles follow p psi_0 as N grows; a good psi keeps the weights
even. When the effective number 1 / sum w^2 falls below a share of N, the particles of one sample are drawn anew by
their weights (systematic resampling), with counter-based noise, so that a sample does not depend on its batch.

**An imposed law** has the natural twist psi(x_t) = Z(x_t; D_t): the probability that independent draws from the current
prediction obey the law, its log-partition. Proposing from the product law conditioned on the law, the joint draw of
`LawWindow(mode="product")`, leaves one ratio of partitions, both known:

    w_s = w_t  Z(x_s; D_s) / Z(x_s; D_t),

how much more likely the law has become by asking the network again. It corrects precisely the double counting that the
product law is guilty of (`core.constrain.law`).

Rewards are steered by `core.finetune.smc`.

References: Del Moral, Doucet, Jasra (2006), "Sequential Monte Carlo samplers"; Wu et al. (2023), arXiv:2306.17775, for
twists in diffusion; Zhao et al. (2024), arXiv:2404.17546, for language models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.constrain.law import LawWindow, Window
from core.errors import UsageError
from core.noise import Stream
from core.plan import Plan
from core.process.categorical import Categorical
from core.sample import Predict, Solver, Step, denoise

__all__ = ["LawTwist", "Particles", "Patient", "Twist", "Weighing", "choose", "impose", "resample"]


class Twist(Protocol):
    """A guess of the factor to come, and what the proposal has already paid of it."""

    def value(self, step: Step) -> Float[Tensor, " rows"]:
        """Return log psi(x_t) under the prediction at x_t, [rows]."""
        ...

    def paid(self, step: Step, x_s: Int[Tensor, "rows s"]) -> Float[Tensor, " rows"]:
        """Return log psi(x_t) + log r(x_s | x_t) - log p(x_s | x_t), [rows]."""
        ...


@dataclass(frozen=True)
class LawTwist:
    """The twist of an imposed law whose windows draw by the `product` law."""

    def value(self, step: Step) -> Float[Tensor, " rows"]:
        """Return log Z(x_t; D_t)."""
        return _window(step).log_partition(step.raw.log_p, step.known)

    def paid(self, step: Step, x_s: Int[Tensor, "rows s"]) -> Float[Tensor, " rows"]:
        """Return log Z(x_s; D_t): the sum over completions of x_s under the prediction that proposed it."""
        return _window(step).log_partition(step.raw.log_p, torch.where(x_s == step.process.mask, -1, x_s))


@dataclass(eq=False)
class Particles:
    """A solver around a solver: N particles per sample, consecutive rows, weighed and drawn anew before each step.

    Args:
        solver: moves each particle.
        twist: weighs them.
        count: particles per sample N.
        share: resample when the effective number falls below this share of N.

    Raises:
        UsageError: the solver covers sites again.
    """

    solver: Solver
    twist: Twist
    count: int
    share: float = 0.5
    log_w: Tensor = field(default_factory=lambda: torch.zeros(0))
    hit: Tensor = field(default_factory=lambda: torch.zeros(0))
    credit: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        """Refuse solvers that cover sites again: a state that the law forbids could still come to obey it."""
        if getattr(self.solver, "revises", False):
            name = type(self.solver).__name__.lower()
            raise UsageError("covers sites again, where particles have no weight", field="solver", value=name)

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s of all particles."""
        if step.t == 1.0:
            self.log_w, self.credit = torch.zeros(len(step.x_t) // self.count, self.count).double(), torch.zeros(())
            self.hit = step.hit
        gain = (self.twist.value(step) - self.credit).view_as(self.log_w)
        self.log_w = torch.where(self.log_w == -torch.inf, self.log_w, self.log_w + gain)  # what is dead stays dead
        step = self._renew(replace(step, hit=self.hit), step)
        x_s = self.solver(step)
        self.credit = self.twist.paid(step, x_s)
        return x_s

    def _renew(self, step: Step, asked: Step) -> Step:
        """Return the step with the particles of poor samples drawn anew; its prediction is that of the step `asked`."""
        weight = self.log_w.softmax(-1)
        poor = 1 / weight.square().sum(-1) < self.share * self.count
        rows = resample(self.log_w, asked.stream.fold(11).uniform(1)[:: self.count, 0])
        stay = torch.arange(rows.numel()).view_as(rows)
        rows = torch.where(poor[:, None], rows, stay).reshape(-1)
        even = self.log_w.logsumexp(-1, keepdim=True) - math.log(self.count)
        self.log_w = torch.where(poor[:, None], even, self.log_w)
        self.hit = self.hit[rows]
        out = replace(step, x_t=step.x_t[rows], hit=self.hit)
        out.__dict__["raw"] = replace(asked.raw, log_p=asked.raw.log_p[rows])
        return out


def choose(x_0: Int[Tensor, "rows l"], log_w: Float[Tensor, "b n"], u: Float[Tensor, " b"]) -> Int[Tensor, "b l"]:
    """Return one particle of each sample, drawn by weight: tokens [B, L].

    Args:
        x_0: particles [B N, L].
        log_w: their log-weights [B, N].
        u: one uniform per sample [B].
    """
    cdf = log_w.softmax(-1).nan_to_num(1 / log_w.shape[1]).cumsum(-1)
    which = torch.searchsorted(cdf, (u[:, None].to(cdf) * cdf[:, -1:]), right=True)[:, 0].clamp(max=cdf.shape[1] - 1)
    return x_0.view(*log_w.shape, -1)[torch.arange(len(log_w)), which]


def resample(log_w: Float[Tensor, "b n"], u: Float[Tensor, " b"]) -> Int[Tensor, "b n"]:
    """Return the rows that systematic resampling keeps, int64 [B, N] into B N rows: particle n about N w_n times.

    Args:
        log_w: log-weights [B, N].
        u: one uniform per sample [B].
    """
    batch, n = log_w.shape
    cdf = log_w.softmax(-1).nan_to_num(1 / n).cumsum(-1)
    place = (torch.arange(n, dtype=cdf.dtype) + u[:, None].to(cdf)) / n * cdf[:, -1:]
    return torch.searchsorted(cdf, place, right=True).clamp(max=n - 1) + n * torch.arange(batch)[:, None]


def impose(
    predict: Predict, process: Categorical, plan: Plan, window: LawWindow, solver: Solver, stream: Stream,
    x: Int[Tensor, "rows s"], count: int, share: float = 0.5,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run N particles per sample to the model's law conditioned on an imposed one.

    Every site is revealed by the solver, also those that the law leaves a single value: their probability under the
    prediction is part of the weight.

    Args:
        predict, process, plan, solver: as in `core.sample.denoise`; one site a step is the model's finest law.
        window: the imposed law over B N rows.
        stream: one stream per particle.
        x: start tokens [B N, L].
        count: particles per sample N.
        share: resample below this share of effective particles.

    Returns:
        All particles [B N, L] and their log-weights [B, N]; `-inf` in all of a row: the model rules the law out.
    """
    particles = Particles(solver, LawTwist(), count, share)
    patient = Patient(replace(window, mode="product"))
    x_0 = denoise(predict, process, plan, patient, particles, stream, x)
    return x_0, particles.log_w


@runtime_checkable
class Weighing(Window, Protocol):
    """A window that knows how probable its law is."""

    def log_partition(self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Return the log-probability [B] that independent draws of the unknown sites obey the law."""
        ...


@dataclass(eq=False)
class Patient:
    """A window that fills nothing by itself: what a law leaves a single value is drawn, and its probability paid.

    Args:
        window: decides all else.
    """

    window: Weighing

    @property
    def alphabet(self) -> Int[Tensor, "b k"]:
        """That of the window."""
        return self.window.alphabet

    def settle(self, known: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Return `known`."""
        return known

    def restrict(self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"]) -> Float[Tensor, "b l k"]:
        """Return the window's prediction."""
        return self.window.restrict(log_p, known)

    def admit(
        self,
        log_p: Float[Tensor, "b l k"],
        known: Int[Tensor, "b l"],
        reveal: Bool[Tensor, "b l"],
        u: Float[Tensor, "b l"],
        greedy: bool = False,
    ) -> Int[Tensor, "b l"]:
        """Return the window's draw."""
        return self.window.admit(log_p, known, reveal, u, greedy)

    def log_partition(self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Return the window's log-partition."""
        return self.window.log_partition(log_p, known)


def _window(step: Step) -> Weighing:
    assert isinstance(step.window, Weighing), "an imposed law has a log-partition"
    return step.window
