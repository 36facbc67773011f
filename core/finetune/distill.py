"""Guidance distilled into weights: a reward's gradients, asked for once, guide any number of sequences.

Classifier guidance tilts the prediction at each state of each sample by `exp(gain / alpha)`, gain the gradient of the
reward there (`core.guide.classifier`). Here the states of some guided paths and their gains are kept, and a network is
fitted to the tilted predictions at them,

    loss = mean over states, mean over masked sites i of KL( q_i || p_theta(. | x_t)_i ),
    q_i(v) ∝ p_pre(v | x_t)_i exp(gain_i(v) / alpha).

The states are those that guidance itself visits, so that a perfect fit draws from the law of the guided sampler. What
a gradient says of one state is shared with all like it: the fit averages the gradients' noise away, and further
samples ask the reward nothing. The strength need not be that of the paths.

Reference for distilling guidance: Meng et al., 2022, arXiv:2210.03142 (classifier-free, continuous).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.finetune.base import Around, Base
from core.finetune.drakes import divergence
from core.finetune.reward import Reward
from core.finetune.steer import ByClassifier
from core.noise import Stream
from core.sample import Step

__all__ = ["Guided", "distill", "guided"]


@dataclass(frozen=True, eq=False)
class Guided:
    """States of guided paths and what guidance says there.

    Attributes:
        x_t: tokens [N, S], masked somewhere.
        t: times [N].
        log_p: the prior's prediction, float32 [N, S, K].
        gain: what uncovering each site with each token gains, in units of the reward, float32 [N, S, K].
        calls: gradients of the reward that were asked for.
    """

    x_t: Int[Tensor, "n s"]
    t: Float[Tensor, " n"]
    log_p: Float[Tensor, "n s k"]
    gain: Float[Tensor, "n s k"]
    calls: int

    def select(self, rows: Tensor) -> Guided:
        """Return some states."""
        return Guided(self.x_t[rows], self.t[rows], self.log_p[rows], self.gain[rows], self.calls)


@dataclass(eq=False)
class _Noting(Around):
    """A solver around a solver that keeps the states that it sees and their predictions."""

    kept: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, step: Step) -> Tensor:
        """Return x_s."""
        rows = step.masked.any(-1)
        t = torch.full((int(rows.sum()),), step.t, device=step.x_t.device)
        self.kept.append((step.x_t[rows], t, step.raw.log_p[rows]))
        return self.solver(step)


@torch.no_grad()
def guided(base: Base, reward: Reward, alpha: float, n: int, stream: Stream) -> Guided:
    """Return the states with masked sites of `n` paths under classifier guidance of strength `alpha`."""
    notes = _Noting(base.solver)
    found = ByClassifier(alpha)(replace(base, solver=notes), reward, n, stream)
    x_t, t, tilted = (torch.cat(parts) for parts in zip(*notes.kept, strict=True))
    rows = torch.arange(len(x_t)).split(64)
    log_p = torch.cat([base.predict(x_t[r], t[r]).log_p for r in rows])
    gain = tilted - log_p
    gain = torch.where((x_t == base.mask)[..., None] & gain.isfinite(), gain, 0.0) * alpha  # -inf stays -inf
    return Guided(x_t, t, log_p.float(), gain.float(), found.gradients)


def distill(
    network: Callable[[Tensor, Tensor], Tensor], base: Base, states: Guided, alpha: float
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the mean KL of the tilted predictions to the network's, nats per masked site, and metrics.

    Args:
        network: what is tuned, from tokens and times to logits.
        base: the prior's sampler.
        states: with gains.
        alpha: reward units per nat.
    """
    logits = network(states.x_t, states.t)[..., : base.mask].double()
    target = (states.log_p.double() + states.gain / alpha).log_softmax(-1)
    masked = states.x_t == base.mask
    weight = masked / masked.sum(-1, keepdim=True).clamp_min(1)
    kl = torch.where(masked, divergence(target, logits.log_softmax(-1)), 0.0)
    loss = (kl * weight).sum(-1).mean()
    return loss, {"kl": loss.detach()}
