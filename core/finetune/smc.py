"""Sequential Monte Carlo for rewards: a population whose weighted law tends to `p_pre(x_0) exp(r(x_0) / alpha)`.

Particles move by a proposal q and carry the weight

    w_s = w_t  psi(x_s) / psi(x_t)  p(x_s | x_t) / q(x_s | x_t),        psi(x_1) = 1,  psi(x_0) = exp(r(x_0) / alpha).

The twists in between telescope away, so any positive psi is correct, also a random one, provided that its value stays
with the particle (where all draws say 0, a reward of -inf, it keeps the one that it had). The best one is
`E_pre[exp(r(x_0) / alpha) | x_t]`; here it is the mean of `exp(r / alpha)` over a few draws of x_0 from the prediction
at x_t, each an admissible sequence (`lookahead`). On the GB1 landscape it halves the excess error of the exponential of
the mean reward. At the end the reward is exact.

A population is drawn anew (systematically) only where its effective number 1 / sum w^2 falls below a share of it. Its
mean weight estimates the evidence `E_pre exp(r / alpha)` without bias; populations weighed by their evidence are exact
in their number too, whatever their size.

`tilt` changes the proposal's prediction: classifier guidance gives the twisted diffusion sampler. The ratio p / q is
that of the sites uncovered, from the restricted predictions: exact for independent sites, and under a law with one site
a step; where a law draws several sites of one step jointly it is an approximation (without a tilt p = q, and nothing is
approximated).

Since any twists will do, the reward may be asked at few steps only (`Asking`): weights change there, and in between the
proposal keeps the last gradient.

Where a site is uncovered is drawn afresh for every particle and step, so that copies of one particle part ways.

References: Del Moral, Doucet, Jasra, 2006, "Sequential Monte Carlo samplers"; Wu et al., 2023, arXiv:2306.17775 (TDS).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.constrain.law import Window
from core.denoiser import Prediction
from core.finetune.base import Around
from core.finetune.particles import resample
from core.finetune.reward import Reward
from core.noise import Stream
from core.sample import Step
from core.solvers.tokens import Confidence, Threshold

__all__ = ["Asking", "Population", "Tilt", "afresh", "gained", "lookahead", "tilted"]

Tilt = Callable[[Step], Tensor]  # from a step to log-weights [B, S, K] in the place of its prediction


@dataclass(frozen=True)
class Asking:
    """Which steps of a grid ask the reward: `count` of them, evenly spread from the first; 0: all.

    Args:
        steps: of the grid.
        count: at most how many ask.
    """

    steps: int
    count: int = 0

    def __call__(self, step: Step) -> bool:
        """Return whether a step asks."""
        k = self.steps - step.left
        return not self.count or k * self.count // self.steps != (k - 1) * self.count // self.steps


def gained(step: Step, log_p: Float[Tensor, "b s k"]) -> Float[Tensor, "b s k"]:
    """Return what a tilt adds to the logarithm of a step's prediction; 0 at known sites and where either is -inf."""
    gain = log_p - step.raw.log_p
    return torch.where(step.masked[..., None] & gain.isfinite(), gain, 0.0)


def lookahead(
    reward: Reward, alpha: float, window: Window, raw: Prediction, known: Int[Tensor, "b s"], stream: Stream, draws: int
) -> Float[Tensor, " b"]:
    """Return `log mean exp(r(x_0) / alpha)` [B] over draws of x_0 from a prediction.

    Args:
        reward: of whole sequences.
        alpha: reward units per nat.
        window: the law, over B rows.
        raw: the prediction at the state.
        known: the state's tokens [B, S], -1 where masked.
        stream: of B rows.
        draws: how many.
    """
    if not bool((known < 0).any()):
        return reward.score(known).double() / alpha
    values = []
    for n in range(draws):
        x_0 = window.admit(raw.log_p, known, known < 0, stream.fold(n).uniform(known.shape[1]))
        values.append(reward.score(x_0).double() / alpha)
    return torch.stack(values).logsumexp(0) - math.log(draws)


def tilted(step: Step, log_p: Tensor) -> Step:
    """Return the step with another prediction."""
    out = replace(step)
    out.__dict__["raw"] = replace(step.raw, log_p=log_p)
    return out


def afresh(step: Step) -> Step:
    """Return the step with new uncovering levels for the sites that are masked, given that they are."""
    alpha = float(step.process.schedule.alpha(step.t))
    out = replace(step, hit=alpha + (1 - alpha) * step.stream.fold(12).uniform(step.x_t.shape[1]))
    if "raw" in step.__dict__:
        out.__dict__["raw"] = step.raw
    return out


@dataclass(eq=False)
class Population(Around):
    """A solver around a solver: populations of consecutive rows, weighed and drawn anew before each step.

    Args:
        solver: moves each particle.
        reward: what they are weighed by.
        alpha: reward units per nat.
        size: particles per population N; divides the rows.
        draws: draws of x_0 for each twist.
        share: draw anew when the effective number falls below this share of N.
        tilt: of the proposal; None: the prior proposes.
        asks: the steps before which the reward is asked; None: all.

    Attributes:
        log_w: log-weights [G, N].
        ancestor: the row at t = 1 that each row comes from [G N].
    """

    reward: Reward
    alpha: float
    size: int
    draws: int = 4
    share: float = 0.5
    tilt: Tilt | None = None
    asks: Asking | None = None
    log_w: Tensor = field(default_factory=lambda: torch.zeros(0))
    ancestor: Tensor = field(default_factory=lambda: torch.zeros(0))
    credit: Tensor = field(default_factory=lambda: torch.zeros(0))
    held: Tensor | None = None

    def begin(self, rows: int) -> None:
        """Give every particle weight one."""
        self.log_w = torch.zeros(rows // self.size, self.size, dtype=torch.float64)
        self.credit, self.ancestor = torch.zeros(rows, dtype=torch.float64), torch.arange(rows)

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s of all particles."""
        asked, proposal = self.asks is None or self.asks(step), None
        if step.t == 1.0:
            self.begin(len(step.x_t))
        if asked:
            proposal = None if self.tilt is None else self.tilt(step)
            if step.t < 1.0:
                step, proposal = self._weigh(step, self._twist(step), proposal)
            self.held = None if proposal is None else gained(step, proposal)
        elif self.held is not None:
            proposal = step.raw.log_p + torch.where(step.masked[..., None], self.held, 0.0)
        step = afresh(step)
        if proposal is None:
            return self.solver(step)
        x_s = self._propose(step, proposal)
        sites = step.masked & (x_s != step.process.mask)
        q = step.window.restrict(proposal, step.known)
        gap = (step.log_p - q).gather(-1, x_s.clamp(max=step.process.K - 1)[..., None])[..., 0]
        self.log_w = self.log_w + torch.where(sites, gap, 0.0).sum(-1).view_as(self.log_w)
        return x_s

    def _propose(self, step: Step, proposal: Tensor) -> Tensor:
        """Return x_s drawn by the tilted prediction, at the sites that the prior would uncover: the weights need it."""
        moved = tilted(step, proposal)
        if not isinstance(self.solver, Confidence | Threshold):  # these go by the prediction, the others by noise alone
            return self.solver(moved)
        return moved.admit(step.masked & (self.solver(step) != step.process.mask))

    def finish(
        self, x_0: Int[Tensor, "rows s"], stream: Stream
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " g"], Float[Tensor, " g"]]:
        """Weigh by the exact reward and draw all populations anew, to even weights.

        Args:
            x_0: final tokens [G N, S].
            stream: of all rows.

        Returns:
            Which rows are kept [G N], the log-evidence of each population [G], and its effective number before [G].
        """
        value = self.reward.score(x_0).double() / self.alpha
        self.log_w = self.log_w + (value - self.credit).view_as(self.log_w)
        ess = 1 / self.log_w.softmax(-1).square().sum(-1)
        rows = resample(self.log_w, stream.fold(14).uniform(1)[:: self.size, 0]).reshape(-1)
        self.ancestor = self.ancestor[rows]
        return rows, self.log_w.logsumexp(-1) - math.log(self.size), ess

    def _twist(self, step: Step) -> Tensor:
        """Return log psi of all particles [G N]."""
        stream = step.stream.fold(13)
        return lookahead(self.reward, self.alpha, step.window, step.raw, step.known, stream, self.draws)

    def _weigh(self, step: Step, log_psi: Tensor, proposal: Tensor | None) -> tuple[Step, Tensor | None]:
        """Multiply the weights by psi and draw poor populations anew."""
        log_psi = torch.where(log_psi > -torch.inf, log_psi, self.credit)
        self.log_w = self.log_w + (log_psi - self.credit).view_as(self.log_w)
        poor = 1 / self.log_w.softmax(-1).square().sum(-1) < self.share * self.size
        self.credit = log_psi
        if not bool(poor.any()):
            return step, proposal
        rows = resample(self.log_w, step.stream.fold(11).uniform(1)[:: self.size, 0])
        stay = torch.arange(rows.numel()).view_as(rows)
        rows = torch.where(poor[:, None], rows, stay).reshape(-1)
        even = self.log_w.logsumexp(-1, keepdim=True) - math.log(self.size)
        self.log_w = torch.where(poor[:, None], even, self.log_w)
        self.credit, self.ancestor = log_psi[rows], self.ancestor[rows]
        out = replace(step, x_t=step.x_t[rows])
        out.__dict__["raw"] = replace(step.raw, log_p=step.raw.log_p[rows])
        return out, None if proposal is None else proposal[rows]
