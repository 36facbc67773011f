"""The straight-through objective of DRAKES written out a second time, and its gradient by finite differences.

At a site uncovered with token y the state is `one_hot(y) + soft(theta) - soft(theta_0)`: at theta_0 a hard sequence,
and around it an ordinary smooth function of theta, whose central differences the gradient must match.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.finetune import drakes
from core.finetune.base import uncovering
from core.finetune.reward import SoftReward

__all__ = ["Surrogate", "gradient_errors"]


class Surrogate:
    """The surrogate of a walk: noise, hard values and the soft values at first use are constants."""

    def __init__(self, walk: drakes.Walk) -> None:
        self.walk, self.noise, self.anchor = walk, {}, {}

    def run(self, truncate: int) -> tuple[Tensor, Tensor]:
        """Return the final state [B, S, K] and the path KL [B]."""
        w, steps = self.walk, self.walk.base.plan.steps
        z, total = w.hard(0), torch.zeros(len(w.path.x_0), dtype=torch.float64)
        everyone = torch.arange(len(z))
        for k in range(steps):
            if k == steps - truncate:
                z = w.hard(k)
            state = z if k >= steps - truncate else w.hard(k)
            log_p, log_q = (w.laws(net, state, k, everyone) for net in (w.policy, w.prior))
            share = uncovering(w.base, w.path, torch.full((len(z),), k))
            total = total + w.chosen[:, k] * (share * (log_p.exp() * (log_p - log_q)).nan_to_num().sum(-1)).sum(-1)
            if k < steps - truncate:
                continue
            if k not in self.noise:
                u = w.stream.fold(k).uniform(w.draws, *log_p.shape[1:]).unbind(1)
                self.noise[k] = [drakes.gumbel_given(w.path.x_0, log_p.detach(), v) for v in u]
            soft = torch.stack([((log_p + g) / w.temperature).softmax(-1) for g in self.noise[k]]).mean(0)
            self.anchor.setdefault(k, soft.detach())
            shift = torch.cat([soft - self.anchor[k], torch.zeros_like(soft[..., :1])], -1)
            z = torch.where(w.path.uncovered(k)[..., None], w.hard(k + 1) + shift, z)
        return z[..., : w.base.mask], total * steps / w.chosen.sum(-1).double()


def gradient_errors(
    walk: drakes.Walk, reward: SoftReward, alpha: float, truncate: int, parameter: Tensor
) -> tuple[float, float]:
    """Return the relative errors of a walk's gradient in one parameter.

    The first is against the gradient of the surrogate, the second against its central differences along four
    directions.
    """

    def value(run) -> Tensor:  # noqa: ANN001
        x_0, kl = run(truncate)[:2]
        return alpha * kl.mean() - reward.soft(x_0).mean()

    surrogate = Surrogate(walk)
    (found,) = torch.autograd.grad(value(walk.run), parameter)
    (again,) = torch.autograd.grad(value(surrogate.run), parameter)
    g, pairs = torch.Generator().manual_seed(0), []
    for _ in range(4):
        d = torch.randn(parameter.shape, generator=g, dtype=parameter.dtype)
        values = []
        with torch.no_grad():
            for e in (1e-5, -2e-5):
                parameter.add_(e * d)
                values.append(float(value(surrogate.run)))
            parameter.add_(1e-5 * d)
        pairs.append((float((found * d).sum()), (values[0] - values[1]) / 2e-5))
    got, want = torch.tensor(pairs, dtype=torch.float64).T
    mine = (found - again).abs().max() / again.abs().max()
    return float(mine), float((got - want).abs().max() / want.abs().max())
