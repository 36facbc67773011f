"""Policy gradients of discrete diffusion: raise the probability of what was rewarded.

A sample x_0 with reward r has the advantage A = clip((r - mean) / std), mean and std running over the batches. Two
forms of the gradient, both on states x_t of the sample's own trajectory:

    eager      grad E[ A log p(x_0 | x_t) ]     what the network predicts from x_t is made more or less likely
    per step   grad E[ A log p(x_s | x_t) ]     the reverse transition, the exact policy gradient (DDPO)

The eager form (Liu et al. 2024) is no exact gradient, but its variance is so much smaller on graphs that it learns
where the exact one does not. For absorbing noise the states of a trajectory, given x_0, are x_0 with independent masks:
they are drawn afresh (`states`) and nothing needs to be stored. For other noise they are recorded (`record`).

Beside it, in the same expectation: `beta KL(p(x_0 | x_t) || p_pre(x_0 | x_t))`, which ties the policy to the
pretrained model, and `gamma max(0, floor - H)`, which holds the mean entropy of open variables above a floor. `Replay`
keeps what was paid for, so that good cells teach more than once.

References: Liu et al., 2024, arXiv:2402.16302 (GDPO); Black et al., 2023, arXiv:2305.13301 (DDPO); AlekseiLiu/DGPO.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.constrain.law import Window
from core.denoiser import Prediction
from core.noise import Stream
from core.plan import Plan
from core.process.categorical import Categorical
from core.sample import Solver, rollout
from core.transition import CategoricalTransition

__all__ = ["Advantage", "Penalties", "Replay", "Trajectory", "eager", "per_step", "record", "states"]

Predict = Callable[[Tensor, Tensor], Prediction]


@dataclass(eq=False)
class Advantage:
    """Rewards to advantages by a running mean and deviation, clipped; all 0 where the rewards are all alike.

    Args:
        clip: the greatest absolute advantage.
        momentum: weight of each new batch; the first one sets the statistics.
    """

    clip: float = 5.0
    momentum: float = 0.1
    mean: float | None = None
    std: float = 1.0

    def __call__(self, reward: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the advantages [B] and move the statistics."""
        r = reward.double()
        if self.mean is None:
            self.mean, self.std = float(r.mean()), float(r.std(correction=0))
        else:
            self.mean += self.momentum * (float(r.mean()) - self.mean)
            self.std += self.momentum * (float(r.std(correction=0)) - self.std)
        if bool((r == r[0]).all()):
            return torch.zeros_like(r)
        return ((r - self.mean) / max(self.std, 1e-8)).clamp(-self.clip, self.clip)


@dataclass(frozen=True)
class Penalties:
    """What holds the policy back: `kl` (beta) to the pretrained model, `entropy` (gamma) below `floor` nats."""

    kl: float = 0.0
    entropy: float = 0.0
    floor: float = 0.0

    def __call__(
        self, log_p: Float[Tensor, "b s k"], before: Float[Tensor, "b s k"] | None, open_: Bool[Tensor, "b s"]
    ) -> Float[Tensor, ""]:
        """Return the penalty of predictions [B, S, K] at the open variables [B, S], a scalar."""
        live = log_p > -torch.inf
        p, safe = log_p.exp(), torch.where(live, log_p, 0.0)
        count = open_.sum().clamp(min=1)
        total = log_p.new_zeros(())
        if self.kl and before is not None:
            gap = safe - torch.where(live, before.clamp_min(-60.0), 0.0)
            total = total + self.kl * ((p * gap).sum(-1) * open_).sum() / count
        if self.entropy:
            entropy = (-(p * safe).sum(-1) * open_).sum() / count
            total = total + self.entropy * (self.floor - entropy).clamp(min=0.0)
        return total


@dataclass(eq=False)
class Replay:
    """What was scored so far, each once, best first.

    Args:
        capacity: how many are kept.
    """

    capacity: int = 256
    x: list[tuple[int, ...]] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)

    def add(self, x: Int[Tensor, "b s"], reward: Float[Tensor, " b"]) -> None:
        """Remember samples [B, S] with their rewards [B]."""
        known = dict(zip(self.x, self.reward, strict=True))
        known |= {tuple(row): float(r) for row, r in zip(x.tolist(), reward, strict=True)}
        best = sorted(known.items(), key=lambda item: (-item[1], item[0]))[: self.capacity]
        self.x, self.reward = [b[0] for b in best], [b[1] for b in best]

    def best(self, n: int) -> Int[Tensor, "n s"]:
        """Return the n best, int64 [n', S]."""
        return torch.tensor(self.x[:n], dtype=torch.long)

    def draw(self, n: int, share: float, rng: np.random.Generator) -> Int[Tensor, "n s"]:
        """Draw n of the best share with replacement, int64 [n, S]."""
        top = max(1, round(share * len(self.x)))
        return torch.tensor([self.x[i] for i in rng.integers(top, size=n)], dtype=torch.long)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States x_t of T steps [T + 1, B, S], from noise to data, and their times [T + 1]."""

    x: Int[Tensor, "states b s"]
    t: Float[Tensor, " states"]

    @property
    def x_0(self) -> Int[Tensor, "b s"]:
        """The samples [B, S]."""
        return self.x[-1]


@torch.no_grad()
def record(
    predict: Predict,
    process: Categorical,
    plan: Plan,
    window: Window,
    solver: Solver,
    stream: Stream,
    x: Int[Tensor, "b s"],
) -> Trajectory:
    """Sample and keep every state (arguments as in `core.sample.rollout`)."""
    kept, times = [x], [1.0]
    for step, x_s in rollout(predict, process, plan, window, solver, stream, x):
        kept.append(x_s)
        times.append(step.s)
    return Trajectory(torch.stack(kept), torch.tensor(times, dtype=torch.float64))


def states(
    process: Categorical, x_0: Int[Tensor, "b s"], stream: Stream, draws: int
) -> tuple[Int[Tensor, "n s"], Int[Tensor, "n s"], Float[Tensor, " n"]]:
    """Return (x_t, x_0, t) of `draws` states of each sample's trajectory under absorbing noise, [draws B, ...].

    Times are spread evenly over the draws of a sample, and no state is free of masks: such states teach nothing.
    """
    xs, ts = [], []
    for k in range(draws):
        u = stream.fold(k, 0).uniform()
        t = ((k + u) / draws).clamp(1e-3, 1.0).to(x_0.device)
        x_t = process.corrupt(x_0, t, process.couple(x_0.shape[1:], stream.fold(k, 1)))
        at = (stream.fold(k, 2).uniform() * x_0.shape[1]).long().to(x_0.device)
        none = (x_t == x_0).all(-1)
        forced = torch.nn.functional.one_hot(at, x_0.shape[1]).bool() & none[:, None]
        xs.append(x_t if process.mask is None else x_t.masked_fill(forced, process.mask))
        ts.append(t)
    return torch.cat(xs), x_0.repeat(draws, 1), torch.cat(ts)


def eager(
    predict: Predict, process: Categorical, x_t: Int[Tensor, "b s"], x_0: Int[Tensor, "b s"],
    t: Float[Tensor, " b"], advantage: Float[Tensor, " b"],
    penalties: Penalties = Penalties(), before: Predict | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:  # fmt: skip
    """Return the eager loss and its metrics.

    Args:
        predict: the policy, from (x_t, t) to its prediction.
        process: the noise.
        x_t, x_0: states and the samples they led to, [B, S].
        t: times [B].
        advantage: [B].
        penalties: see there.
        before: the pretrained model.
    """
    log_p = predict(x_t, t).posterior(x_t, t, process).log_p
    open_ = torch.ones_like(x_t, dtype=torch.bool) if process.mask is None else x_t == process.mask
    nll = -log_p.gather(-1, x_0[..., None])[..., 0].clamp_min(-60.0)
    nll = torch.where(open_, nll.clamp(max=60.0), 0.0)
    policy = (advantage.to(nll) * nll.sum(-1) / open_.sum(-1).clamp(min=1)).mean()
    old = None
    if before is not None and penalties.kl:
        with torch.no_grad():
            old = before(x_t, t).posterior(x_t, t, process).log_p
    penalty = penalties(log_p, old, open_)
    return policy + penalty, {"policy": policy.detach(), "penalty": penalty.detach()}


def per_step(
    predict: Predict, process: Categorical, path: Trajectory, step: int, advantage: Float[Tensor, " b"]
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the DDPO loss of one step of recorded trajectories: `-mean A log p(x_s | x_t)`."""
    x_t, x_s = path.x[step], path.x[step + 1]
    t, s = float(path.t[step]), float(path.t[step + 1])
    prediction = predict(x_t, torch.full(x_t.shape[:1], t, dtype=torch.float64, device=x_t.device))
    log_prob = CategoricalTransition.step(process, prediction, x_t, t, s).log_prob(x_s).clamp_min(-60.0)
    loss = -(advantage.to(log_prob) * log_prob).mean()
    return loss, {"policy": loss.detach()}
