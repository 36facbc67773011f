"""Steering at inference: rewards without training, behind one interface.

All methods tilt the same sampler towards `p_pre(x_0) exp(r(x_0) / alpha)`, draw through its law (so that hard
constraints always hold), and count what they ask of the reward and of the network.

| name | rule | limit law |
|---|---|---|
| `best-of-n` | the best of `count` draws | none: the mode as count grows |
| `classifier` | predictions tilted by the reward's gradient through the denoiser (`core.guide.classifier`) | none |
| `smc` | weighted population, the prior proposes (`core.finetune.smc`) | exact |
| `tds` | the same, proposing by `classifier` | exact |
| `svdd` | each step picks one of `proposals` by the mean exp(reward / alpha) of draws of x_0 | none |
| `gilc` | logits corrected by the reward's gradient at straight-through draws of x_0 | none |
| `gilc-black-box` | the same gradient from scores of draws: no differentiable reward is needed | none |

`svdd` picks in proportion to a guess of the value, hence exact with infinitely many proposals and an exact value.
`gilc` skips the denoiser's Jacobian: with eta = log p(x_0 | x_t) and y^1..y^n drawn from it,

    eta' = eta + scale g / alpha,     g = mean_j d r(y^j) / d eta    or    mean_j A_j (one_hot(y^j) - p),

the latter with A_j the reward minus the mean reward of the other draws, an unbiased estimate of d E r / d eta in the
unit of the reward; it is not divided by the spread of the group, which would take alpha its meaning. A reward of -inf
counts as one nat, alpha, below the least other of the group.
With `asks` = n they ask the reward (and its gradient) at n evenly spread steps only, holding the last gradient in
between: fewer calls for each sample, so that a given number of calls serves more samples.
As alpha grows, every method but `best-of-n` returns the prior.

References: Wang et al., 2024, arXiv:2410.13643 (baselines); Li et al., 2024, arXiv:2408.08252 (SVDD); Wu et al., 2023,
arXiv:2306.17775 (TDS); arXiv:2606.06303 (GILC).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from core.draw import straight_through
from core.errors import UsageError
from core.finetune.base import Around, Base, Tally, address, precision
from core.finetune.reward import Counted, Reward, soft
from core.finetune.smc import Asking, Population, Tilt, afresh, gained, lookahead, tilted
from core.guide.classifier import Classifier
from core.noise import Stream
from core.sample import Solver, Step, denoise

__all__ = [
    "STEERINGS", "BestOf", "ByClassifier", "Gilc", "GilcBlackBox", "Smc", "Steered", "Steering", "Svdd", "Tds",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Steered:
    """What a method returns.

    Attributes:
        x: tokens [n, S].
        calls: sequences scored.
        gradients: laws at which the reward was differentiated.
        network_calls: sequences that the network has read.
        ancestors: distinct particles at t = 1 that the results descend from; None without a population.
        ess: effective number of particles before the last drawing, summed over populations; None without one.
        log_weight: log-evidence of each row's population [n]; None without one.
    """

    x: Int[Tensor, "n s"]
    calls: int
    gradients: int
    network_calls: int
    ancestors: int | None = None
    ess: float | None = None
    log_weight: Float[Tensor, " n"] | None = None


class Steering(Protocol):
    """A method."""

    def __call__(self, base: Base, reward: Reward, n: int, stream: Stream) -> Steered:
        """Return n samples; a stream of other than n rows gives consecutive ones from its first."""
        ...


@dataclass(eq=False)
class _Run:
    """One run: the sampler and the reward, counted, and the streams of its rows."""

    base: Base
    reward: Counted
    network: Tally
    stream: Stream

    @classmethod
    def of(cls, base: Base, reward: Reward, rows: int, stream: Stream) -> _Run:
        """Prepare a run of some rows."""
        network = Tally(base.network)
        return cls(replace(base, network=network), Counted(reward), network, address(stream, rows))

    def denoise(self, solver: Solver) -> Tensor:
        """Run the reverse loop."""
        rows = len(self.stream.samples)
        base, x = self.base, self.base.begin(rows)
        return denoise(base.predict, base.process, base.plan, base.law(rows), solver, self.stream, x)

    def asking(self, count: int) -> Asking:
        """Return which steps ask the reward.

        Raises:
            UsageError: the count is negative.
        """
        if count < 0:
            raise UsageError("must not be negative", field="asks", value=count)
        return Asking(self.base.plan.steps, count)

    def steered(self, x: Tensor, ancestors: int | None = None, ess: float | None = None,
                log_weight: Tensor | None = None) -> Steered:  # fmt: skip
        """Return the result with its counts."""
        calls, gradients = self.reward.calls, self.reward.gradients
        return Steered(x, calls, gradients, self.network.calls, ancestors, ess, log_weight)


@dataclass(frozen=True)
class BestOf:
    """Draw `count` sequences for each result and keep the best."""

    count: int = 16

    @torch.no_grad()
    def __call__(self, base: Base, reward: Reward, n: int, stream: Stream) -> Steered:
        """Return n samples."""
        _positive(count=self.count)
        run = _Run.of(base, reward, n, stream)
        best = run.base.sample(run.stream.fold(20, 0))
        value = run.reward.score(best)
        for k in range(1, self.count):
            x = run.base.sample(run.stream.fold(20, k))
            score = run.reward.score(x)
            best, value = torch.where((score > value)[:, None], x, best), torch.maximum(score, value)
        return run.steered(best)


@dataclass(eq=False)
class _Tilting(Around):
    """A solver around a solver whose predictions are tilted; between the steps that ask, the last tilt is held."""

    tilt: Tilt
    asks: Asking
    held: Tensor | None = None

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s."""
        if not self.revises and not bool(step.masked.any()):
            return step.x_t
        if self.held is not None and not self.asks(step):
            held = torch.where(step.masked[..., None], self.held, 0.0)
            return self.solver(tilted(step, step.raw.log_p + held))
        log_p = self.tilt(step)
        self.held = gained(step, log_p)
        return self.solver(tilted(step, log_p))


@dataclass(frozen=True)
class ByClassifier:
    """Classifier guidance."""

    alpha: float = 1.0
    scale: float = 1.0
    asks: int = 0

    @torch.no_grad()
    def __call__(self, base: Base, reward: Reward, n: int, stream: Stream) -> Steered:
        """Return n samples."""
        _positive(alpha=self.alpha)
        run = _Run.of(base, soft(reward), n, stream)
        return run.steered(run.denoise(_Tilting(base.solver, self.tilt(run), run.asking(self.asks))))

    def tilt(self, run: _Run) -> Classifier:
        """Return the tilt."""
        return Classifier(run.network, run.reward.soft, self.alpha, self.scale, precision(run.network))


@dataclass(frozen=True)
class Smc:
    """A population of particles proposed by the prior.

    Args:
        alpha: reward units per nat.
        particles: per population; n results need n / particles populations, rounded up.
        draws: draws of x_0 for each twist.
        share: draw anew when the effective number falls below this share.
        asks: steps that ask the reward, the end counted, the first not; 0: all.
    """

    alpha: float = 1.0
    particles: int = 64
    draws: int = 4
    share: float = 0.5
    asks: int = 0

    @torch.no_grad()
    def __call__(self, base: Base, reward: Reward, n: int, stream: Stream) -> Steered:
        """Return n samples of even weight within each population."""
        _positive(alpha=self.alpha, particles=self.particles, draws=self.draws)
        run = _Run.of(base, reward, -(-n // self.particles) * self.particles, stream)
        options = self.alpha, self.particles, self.draws, self.share, self.tilt(run), run.asking(self.asks)
        population = Population(base.solver, run.reward, *options)
        population.begin(len(run.stream.samples))
        x_0 = run.denoise(population)
        rows, evidence, ess = population.finish(x_0, run.stream)
        alive = int(population.ancestor[:n].unique().numel())
        weight = evidence.repeat_interleave(self.particles)[:n]
        return run.steered(x_0[rows][:n], alive, float(ess.sum()), weight)

    def tilt(self, run: _Run) -> Tilt | None:
        """Return the tilt of the proposal: none."""
        return None


@dataclass(frozen=True)
class Tds(Smc):
    """The twisted diffusion sampler: a population proposed by classifier guidance of strength `scale`."""

    scale: float = 1.0

    def tilt(self, run: _Run) -> Tilt | None:
        """Return the tilt of the proposal."""
        soft(run.reward.reward)
        return ByClassifier(self.alpha, self.scale).tilt(run)


@dataclass(frozen=True)
class Svdd:
    """Soft value-based decoding.

    Args:
        alpha: reward units per nat.
        proposals: next states proposed at each step.
        draws: draws of x_0 that a state's value is estimated from.
        asks: steps that pick among proposals; 0: all.
    """

    alpha: float = 1.0
    proposals: int = 8
    draws: int = 1
    asks: int = 0

    @torch.no_grad()
    def __call__(self, base: Base, reward: Reward, n: int, stream: Stream) -> Steered:
        """Return n samples."""
        _positive(alpha=self.alpha, proposals=self.proposals, draws=self.draws)
        run = _Run.of(base, reward, n, stream)
        return run.steered(run.denoise(_Picking(base.solver, self, run)))


@dataclass(eq=False)
class _Picking(Around):
    """A solver around a solver that proposes several next states and picks one."""

    rule: Svdd
    run: _Run

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s."""
        if not self.revises and not bool(step.masked.any()):
            return step.x_t
        base, count = self.run.base, self.rule.proposals
        if not self.run.asking(self.rule.asks)(step):
            return base.solver(afresh(step))
        rows = torch.arange(len(step.x_t)).repeat_interleave(count)
        samples = step.stream.samples[rows] * count + torch.arange(count).repeat(len(step.x_t))
        window, stream = base.law(len(rows)), replace(step.stream, samples=samples, turn=None)
        wide = replace(step, x_t=step.x_t[rows], hit=step.hit[rows], window=window, stream=stream.fold(1))
        wide.__dict__["raw"] = replace(step.raw, log_p=step.raw.log_p[rows])
        x_s = base.solver(afresh(wide))
        known = window.settle(torch.where(x_s == base.mask, -1, x_s))
        x_s = torch.where(known < 0, base.mask, known)
        raw = base.predict(x_s, torch.full((len(rows),), step.s)) if bool((known < 0).any()) else step.raw
        rule = self.rule
        value = lookahead(self.run.reward, rule.alpha, window, raw, known, stream.fold(2), rule.draws)
        cdf = value.view(-1, count).softmax(-1).cumsum(-1)
        u = step.stream.fold(3).uniform(1).to(cdf) * cdf[:, -1:]
        chosen = torch.searchsorted(cdf, u, right=True)[:, 0].clamp(max=count - 1)
        return x_s.view(-1, count, x_s.shape[1])[torch.arange(len(chosen)), chosen]


@dataclass(frozen=True)
class Gilc:
    """Logits corrected by the gradient of the reward at straight-through draws.

    Args:
        alpha: reward units per nat.
        draws: draws of x_0 at each step.
        temperature: of the Gumbel-softmax.
        scale: multiplies the correction; the gradient in logits carries a factor p(v), so more than 1 is common.
        asks: steps that ask the reward; 0: all.
    """

    alpha: float = 1.0
    draws: int = 5
    temperature: float = 1.0
    scale: float = 1.0
    asks: int = 0

    @torch.no_grad()
    def __call__(self, base: Base, reward: Reward, n: int, stream: Stream) -> Steered:
        """Return n samples."""
        _positive(alpha=self.alpha, draws=self.draws, temperature=self.temperature)
        run = _Run.of(base, self.needs(reward), n, stream)
        return run.steered(run.denoise(_Tilting(base.solver, lambda step: self.tilt(step, run), run.asking(self.asks))))

    def needs(self, reward: Reward) -> Reward:
        """Return the reward, or refuse it."""
        return soft(reward)

    def tilt(self, step: Step, run: _Run) -> Float[Tensor, "b s k"]:
        """Return the corrected logits."""
        with torch.enable_grad():
            eta = step.log_p.detach().requires_grad_()
            total = torch.zeros((), dtype=eta.dtype)
            for n in range(self.draws):
                y = straight_through(eta, step.stream.fold(15, n).uniform(*eta.shape[1:]), self.temperature)
                total = total + run.reward.soft(y.to(precision(run.network))).double().sum()
            (g,) = torch.autograd.grad(total / self.draws, eta)
        return eta.detach() + torch.where(step.masked[..., None], g, 0.0) * self.scale / self.alpha


@dataclass(frozen=True)
class GilcBlackBox(Gilc):
    """Logits corrected by a gradient that is estimated from scores alone; `draws` of 2 and more."""

    def needs(self, reward: Reward) -> Reward:
        """Return the reward: any will do, given two draws to compare.

        Raises:
            UsageError: there is one draw only.
        """
        if self.draws < 2:
            raise UsageError("needs 2 or more draws to compare", field="draws", value=self.draws)
        return reward

    def tilt(self, step: Step, run: _Run) -> Float[Tensor, "b s k"]:
        """Return the corrected logits."""
        eta, known = step.log_p, step.known
        drawn = [
            step.window.admit(step.raw.log_p, known, step.masked, step.stream.fold(15, n).uniform(known.shape[1]))
            for n in range(self.draws)
        ]
        score = torch.stack([run.reward.score(x) for x in drawn])
        live = score > -torch.inf
        least = torch.where(live, score, torch.inf).amin(0)
        score = torch.where(live, score, torch.where(live.any(0), least - self.alpha, 0.0))
        advantage = (score - score.mean(0)) * self.draws / (self.draws - 1)
        gaps = torch.stack([one_hot(x, eta.shape[-1]) - eta.exp() for x in drawn])
        g = (advantage[..., None, None] * gaps).mean(0)
        return eta + torch.where(step.masked[..., None], g, 0.0) * self.scale / self.alpha


STEERINGS: dict[str, Callable[..., Steering]] = {
    "best-of-n": BestOf, "classifier": ByClassifier, "smc": Smc, "tds": Tds, "svdd": Svdd, "gilc": Gilc,
    "gilc-black-box": GilcBlackBox,
}  # fmt: skip


def _positive(**options: float) -> None:
    for name, value in options.items():
        if not value > 0:
            raise UsageError("must be positive", field=name, value=value)
