"""What a reward steers: a pretrained sampler of absorbing diffusion, and its hard paths.

A `Base` is network, corruption, time grid, start tokens and law, together the sampler whose law of `x_0` is the prior
`p_pre`. A hard path of it is a pair: the final tokens, and the step in which each site was uncovered, since nothing is
ever covered again. Its states are

    x_t(k) = where(when <= 2k, x_0, mask),

so that any step of a path can be visited again at no cost in memory, and in any order.

**Which sites are uncovered** does not depend on the network (`Ancestral`, `FirstHitting`): the solver decides it from
noise. The path therefore has the probability (where) x prod over uncovered sites of p(x_0^i | x_t), the first factor
being the same for every network. This is what makes path likelihood ratios and path KLs exact (`core.finetune.drakes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from core.constrain.law import Free, Window
from core.denoiser import Prediction, subs
from core.noise import Stream
from core.plan import Plan
from core.process.categorical import Categorical
from core.sample import Solver, Step, denoise
from core.solvers.tokens import Ancestral, FirstHitting

__all__ = ["Around", "Base", "Path", "Tally", "address", "precision", "record", "uncovering"]


@dataclass(eq=False)
class Base:
    """A pretrained sampler over fixed length.

    Args:
        network: from tokens int64 [B, S], or one-hot laws [B, S, K + 1] whose last column is the mask, and times [B]
            to logits [B, S, K].
        process: absorbing noise over K tokens; the mask is K.
        plan: the time grid.
        length: sites S.
        start: tokens [S] at t = 1, fixed sites in place and the mask elsewhere; None: all masked.
        window: from a number of rows to what is admitted, over global tokens; None: everything.
        solver: which sites are uncovered when; of one that covers them again the samples are right, paths are not.
    """

    network: Callable[[Tensor, Tensor], Tensor]
    process: Categorical
    plan: Plan
    length: int
    start: Int[Tensor, " s"] | None = None
    window: Callable[[int], Window] | None = None
    solver: Solver = field(default_factory=Ancestral)

    @property
    def mask(self) -> int:
        """Return the mask's token K."""
        return self.process.K

    def begin(self, rows: int) -> Int[Tensor, "b s"]:
        """Return the tokens at t = 1, int64 [rows, S]."""
        start = torch.full((self.length,), self.mask) if self.start is None else self.start
        return start.expand(rows, -1).clone()

    def law(self, rows: int) -> Window:
        """Return what is admitted over `rows` rows."""
        if self.window is not None:
            return self.window(rows)
        return Free(rows, self.mask).window(np.zeros(rows, np.int64), np.arange(rows), self.length, 0)

    def predict(self, x_t: Int[Tensor, "b s"], t: Float[Tensor, " b"]) -> Prediction:
        """Return the posterior of every site, float64 [B, S, K]."""
        return subs(self.network(x_t, t).double(), x_t, self.mask)

    def sample(self, stream: Stream) -> Int[Tensor, "b s"]:
        """Return one draw of `x_0` per row of the stream, tokens [B, S]; without gradients."""
        return record(self, stream).x_0


@dataclass(eq=False)
class Tally:
    """A network that counts the sequences it has read."""

    network: Callable[[Tensor, Tensor], Tensor]
    calls: int = 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the logits."""
        self.calls += len(x_t)
        return self.network(x_t, t)


@dataclass(frozen=True, eq=False)
class Path:
    """A hard path.

    Args:
        x_0: final tokens [B, S].
        when: int64 [B, S]: 2k + 1 if uncovered in step k, 2k if the law left one value before it, -1 if given.
        mask: the mask's token.
    """

    x_0: Int[Tensor, "b s"]
    when: Int[Tensor, "b s"]
    mask: int

    def state(self, k: int | Tensor) -> Int[Tensor, "b s"]:
        """Return the tokens that step k, () or [B], sees."""
        return torch.where(self.when <= 2 * _column(k), self.x_0, self.mask)

    def uncovered(self, k: int | Tensor) -> Bool[Tensor, "b s"]:
        """Return which sites step k uncovers, bool [B, S]."""
        return self.when == 2 * _column(k) + 1


@torch.no_grad()
def record(base: Base, stream: Stream) -> Path:
    """Sample one hard path per row of the stream."""
    x, steps = base.begin(len(stream.samples)), base.plan.steps
    notes = _Notes(base.solver, steps, torch.where(x == base.mask, 2 * steps, -1))
    x_0 = denoise(base.predict, base.process, base.plan, base.law(len(x)), notes, stream, x)
    return Path(x_0, notes.when, base.mask)


def uncovering(base: Base, path: Path, k: Int[Tensor, " b"]) -> Float64[Tensor, "b s"]:
    """Return how likely each site is to be uncovered in step k [B], given the state before it: float64 [B, S].

    For `Ancestral` it is (alpha_s - alpha_t) / sigma_t, for `FirstHitting` the count over the number of masked sites;
    other solvers give whether the path did uncover the site, which has the same mean and more variance.
    """
    masked = path.state(k) == base.mask
    if isinstance(base.solver, Ancestral):
        t, s = (base.plan.times.to(k.device)[k + n] for n in (0, 1))
        alpha_t, alpha_s = base.process.schedule.alpha(t), base.process.schedule.alpha(s)
        share = (alpha_s - alpha_t) / base.process.schedule.sigma(t)
        return masked * share[:, None]
    if isinstance(base.solver, FirstHitting):
        share = (base.solver.count / masked.sum(-1).clamp_min(1).double()).clamp(max=1.0)
        share = torch.where(k == base.plan.steps - 1, 1.0, share)
        return masked * share[:, None]
    return path.uncovered(k).double()


@dataclass(eq=False)
class Around:
    """What a solver around a solver has to tell of it."""

    solver: Solver

    @property
    def revises(self) -> bool:
        """Whether the solver covers sites again: then no step is the last because nothing is masked."""
        return getattr(self.solver, "revises", False)


@dataclass(eq=False)
class _Notes(Around):
    """A solver around a solver that notes in `when` what `Path` needs."""

    steps: int
    when: Tensor

    def __call__(self, step: Step) -> Tensor:
        """Return x_s."""
        k = self.steps - step.left
        x_s = self.solver(step)
        self.when = torch.where((self.when > 2 * k) & ~step.masked, 2 * k, self.when)
        self.when = torch.where(step.masked & (x_s != step.process.mask), 2 * k + 1, self.when)
        return x_s


def address(stream: Stream, rows: int) -> Stream:
    """Return the streams of some rows: those given, if they are as many, else consecutive ones from the first."""
    if len(stream.samples) == rows:
        return stream
    first = int(stream.samples[0]) if len(stream.samples) else 0
    return replace(stream, samples=torch.arange(first, first + rows), turn=None)


def precision(network: object) -> torch.dtype:
    """Return the floating type of a network's parameters or buffers, float32 if it has none."""
    if isinstance(network, Tally):
        return precision(network.network)
    if not isinstance(network, nn.Module):
        return torch.float32
    found = (v.dtype for v in (*network.parameters(), *network.buffers()) if v.is_floating_point())
    return next(found, torch.float32)


def _column(k: int | Tensor) -> int | Tensor:
    return k[:, None] if isinstance(k, Tensor) and k.ndim else k
