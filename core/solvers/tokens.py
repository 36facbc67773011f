"""Solvers for tokens: which sites are uncovered at each step, and which are covered again.

The *where* (a Bernoulli, an order, a confidence) is decoupled from the *what* (`Step.admit`, an exact inverse-CDF
draw), so no token competes with "stay masked" and no rare token is lost to rounding.

| solver | uncovers | reference |
|---|---|---|
| `Ancestral` | each masked site with probability (alpha_s - alpha_t) / sigma_t | Sahoo et al. 2024, arXiv 2406.07524 |
| `FirstHitting` | the next `count` sites in the order of their hit times | Zheng et al. 2024, arXiv 2409.02908 |
| `Confidence` | an even share of the open sites, most certain first | Chang et al. 2022, arXiv 2202.04200 |
| `Threshold` | all sites more certain than a threshold, at least one | Wu et al. 2025, arXiv 2505.22618 |
| `InOrder` | an even share of the open sites, left to right | |
| `Remask` | ancestral, and covers uncovered sites again at rate sigma (ReMDM) | Wang et al. 2025, arXiv 2503.00307 |
| `Corrected` | any predictor, then Gibbs steps that keep the law of x_s | Gourevitch et al. 2026, arXiv 2605.22765 |

For uniform and marginal noise `Ancestral` takes one exact reverse step (Schiff et al. 2024, arXiv 2412.10193).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from core.draw import categorical
from core.sample import Solver, Step
from core.transition import CategoricalTransition

__all__ = ["SOLVERS", "Ancestral", "Confidence", "Corrected", "FirstHitting", "InOrder", "Remask", "Threshold"]


@dataclass(frozen=True)
class Ancestral:
    """Follow the reverse process on the plan's grid."""

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s."""
        if step.process.mask is not None:
            alpha = step.process.schedule.alpha(step.s)
            return step.admit(step.masked & (step.hit < alpha.to(step.hit)))
        if step.s == 0:  # clean data: the law speaks about whole objects, so it is drawn jointly
            log_p = step.raw.posterior(step.x_t, step.t, step.process).log_p
            unknown = torch.full_like(step.x_t, -1)
            log_p = step.window.restrict(log_p, unknown)
            u = step.stream.uniform(step.x_t.shape[1])
            return step.window.admit(log_p, unknown, torch.ones_like(unknown, dtype=torch.bool), u, step.greedy)
        return CategoricalTransition.step(step.process, step.raw, step.x_t, step.t, step.s).sample(step.stream)


@dataclass(frozen=True)
class FirstHitting:
    """Uncover `count` sites a step in the (uniformly random) order of their hit times; the last step takes the rest."""

    count: int = 1

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s."""
        return step.admit(_first(-step.hit, step.masked, self.count if step.left > 1 else step.x_t.shape[1]))


@dataclass(frozen=True)
class Confidence:
    """Uncover an even share of the open sites, those whose likeliest value is most probable first."""

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s."""
        if not bool(step.masked.any()):
            return step.x_t
        share = step.masked.sum(-1, keepdim=True).add(step.left - 1) // step.left
        return step.admit(_first(step.log_p.amax(-1), step.masked, share))


@dataclass(frozen=True)
class InOrder:
    """Uncover an even share of the open sites from left to right."""

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s."""
        share = step.masked.sum(-1, keepdim=True).add(step.left - 1) // step.left
        place = torch.arange(step.x_t.shape[1], device=step.x_t.device)
        return step.admit(_first(-place.expand_as(step.x_t).double(), step.masked, share))


@dataclass(frozen=True)
class Threshold:
    """Uncover every site whose likeliest value has probability `p` or more, at least one; the last step the rest."""

    p: float = 0.9

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s."""
        if not bool(step.masked.any()):
            return step.x_t
        if step.left == 1:
            return step.admit(step.masked)
        confidence = step.log_p.amax(-1)
        sure = step.masked & (confidence.exp() >= self.p)
        return step.admit(sure | _first(confidence, step.masked, 1))


@dataclass(frozen=True)
class Remask:
    """ReMDM with the rescaled rate sigma = eta min(1, (1 - alpha_s) / alpha_t); keeps the marginals q(x_s | x_0).

    An uncovered site is covered again with probability sigma, a masked one stays so with probability
    (1 - alpha_s - sigma alpha_t) / (1 - alpha_t).
    """

    eta: float = 0.1
    revises: bool = True

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s."""
        alpha_t, alpha_s = (float(step.process.schedule.alpha(v)) for v in (step.t, step.s))
        sigma = self.eta * min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 0.0
        stay = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
        u = step.stream.fold(0).uniform(step.x_t.shape[1])
        x = step.admit(step.masked & (u >= stay))
        return x.masked_fill(~step.masked & (u < sigma), step.process.K)


@dataclass(frozen=True)
class Corrected:
    """A predictor and then `rounds` of single-site Gibbs steps at time s, for uniform and marginal noise.

    Resampling a site from p_s(x^i | the others) = alpha_s l(x^i) + sigma_s pi(x^i) leaves the law of x_s unchanged.
    """

    predictor: Solver = Ancestral()
    rounds: int = 1

    def __call__(self, step: Step) -> Int[Tensor, "b l"]:
        """Return x_s."""
        x = self.predictor(step)
        if step.s == 0:
            return x
        rows = torch.arange(len(x), device=x.device)
        time = torch.full(x.shape[:1], step.s, dtype=torch.float64, device=x.device)
        for n in range(self.rounds):
            u = step.stream.fold(2, n).uniform(2)
            site = (u[:, 0] * x.shape[1]).long()
            law = step.predict(x, time).conditional(x, time, step.process)[rows, site]
            x = x.index_put((rows, site), categorical(law, u[:, 1]))
        return x


SOLVERS = {
    "ancestral": Ancestral, "first-hitting": FirstHitting, "confidence": Confidence, "in-order": InOrder,
    "threshold": Threshold, "remask": Remask,
}  # fmt: skip


def _first(score: Tensor, among: Tensor, count: Tensor | int) -> Tensor:
    """Mark the `count` sites of highest score among some, bool [B, L]."""
    rank = score.masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return among & (rank < count)
