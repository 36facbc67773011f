"""DRAKES: tune a sampler to a differentiable reward by back-propagation through its own trajectories.

Wanted is the policy that maximises `E[r(x_0)] - alpha KL(path || path_pre)`. Its law of `x_0` is

    p*(x_0) ∝ p_pre(x_0) exp(r(x_0) / alpha).

**Hard on-policy paths.** A path is sampled without gradients and then walked again (`core.finetune.base.Path`). States
have the value of the hard one-hots and, in the last `truncate` steps, the gradient of a Gumbel-softmax: at a site
uncovered with token y under the prediction p,

    z = one_hot(y) + soft - stop(soft),        soft = softmax((log p + g) / temperature),

with Gumbel noise g drawn given that y is the argmax of log p + g (Maddison et al. 2014), `soft` the mean over some
`draws` of it: that takes the variance of the noise away and asks the reward nothing (Paulus et al. 2020). Hence y may
be drawn in any way, also jointly by a constraint, and network and reward only ever see real sequences. The gradient
is that of the surrogate in which the hard values are constants; it can be checked by finite differences, and it is
biased as every straight-through gradient is.

**The exact path KL.** Which sites are uncovered is the same law for both networks, so by the chain rule

    KL(path || path_pre) = E_path sum_k sum_{masked i} u_k^i KL(p_theta(. | x_k)_i || p_pre(. | x_k)_i),

u the probability of being uncovered in that step: a finite sum of categorical KLs at hard states, no soft relaxation.
(With a constraint that draws several sites of one step jointly it is the KL of the independent draws.) Taking m of the
T steps of each path at random, weight T / m, keeps it unbiased; paths stay independent, so their standard error holds.

**Nats that are held.** The same sum with cross-entropies in place of the KLs is what the path costs under the prior,

    C = E_path sum_k sum_{masked i} u_k^i (-sum_v p_theta(v | x_k)_i log p_pre(v | x_k)_i),     KL = C - entropy,

and p* is free to lower it: where reward and likelihood agree, it draws what the prior finds likelier than nearly all
that the prior draws (by equipartition those have C near its own entropy H, `path_entropy`). With `hold` = c > 0 a
batch whose mean C is below H pays c (H - C)^2 / 2, and the optimum becomes

    p*(x_0) ∝ p_pre(x_0)^(1 - mu) exp(r(x_0) / alpha),       mu = c (H - C) / alpha,

the law of least KL among those of its mean reward and C: the prior's weight shrinks until C is held. It asks the
reward nothing. The released method has no such term; with c = 0 the loss has none of it.

**Memory.** Each step is checkpointed: what it needs is computed again on the way back, and only its input, a one-hot
state, is kept.

References: Wang et al., 2024, arXiv:2410.13643; Jang et al., 2017, arXiv:1611.01144; Paulus et al., 2020,
arXiv:2010.04838. The KL of the released code of the former vanishes on hard states and is not used.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.checkpoint import checkpoint

from core.constrain.law import Window
from core.draw import gumbel
from core.errors import UsageError
from core.finetune.base import Base, Path, address, precision, record, uncovering
from core.finetune.reward import SoftReward
from core.noise import Stream

__all__ = ["PathKL", "cross_entropy", "divergence", "frozen", "gumbel_given", "loss", "path_entropy", "path_kl", "walk"]


@dataclass(frozen=True, eq=False)
class PathKL:
    """An estimate of the path KL in nats per sequence: its mean, standard error and the value of each path [B]."""

    value: float
    error: float
    paths: Float[Tensor, " b"]

    @classmethod
    def of(cls, paths: Float[Tensor, " b"]) -> PathKL:
        """Return the estimate of independent paths."""
        paths = paths.detach()
        error = float(paths.std()) / math.sqrt(len(paths)) if len(paths) > 1 else math.inf
        return cls(float(paths.mean()), error, paths)


def frozen(network: nn.Module) -> nn.Module:
    """Return a copy that is not trained: the prior."""
    return copy.deepcopy(network).eval().requires_grad_(False)


def gumbel_given(
    y: Int[Tensor, "*x"], log_p: Float[Tensor, "*#x k"], u: Float[Tensor, "*x k"]
) -> Float[Tensor, "*x k"]:
    """Return Gumbel noise `g` [..., K], conditioned on `y` being the argmax of `log p + g`; 0 where p = 0.

    Args:
        y: tokens [...].
        log_p: normalised log-probabilities [..., K].
        u: uniforms in [0, 1), [..., K].
    """
    own = one_hot(y, log_p.shape[-1]).bool()
    g = gumbel(u)
    top = torch.where(own, g, 0.0).sum(-1, keepdim=True)  # the maximum of all is a standard Gumbel variable
    live = log_p > -torch.inf
    scale = torch.where(live, log_p, 0.0)
    below = -torch.logaddexp(-top, -(g + scale))  # truncated at the maximum
    return torch.where(live, torch.where(own, top, below) - scale, 0.0)


def divergence(log_p: Float[Tensor, "*x k"], log_q: Float[Tensor, "*x k"]) -> Float[Tensor, "*x"]:
    """Return KL(p || q) over the last axis in nats; inf where q forbids what p allows."""
    live = log_p > -torch.inf
    log_p = torch.where(live, log_p, 0.0)
    return (torch.where(live, log_p.exp(), 0.0) * (log_p - torch.where(live, log_q, 0.0))).sum(-1)


def cross_entropy(log_p: Float[Tensor, "*x k"], log_q: Float[Tensor, "*x k"]) -> Float[Tensor, "*x"]:
    """Return -E_p log q over the last axis in nats; inf where q forbids what p allows."""
    live = log_p > -torch.inf
    return -(torch.where(live, log_p.exp(), 0.0) * torch.where(live, log_q, 0.0)).sum(-1)


@dataclass(eq=False)
class Walk:
    """A hard path walked again, with gradients.

    Args:
        policy, prior: networks from one-hot states [B, S, K + 1] and times to logits.
        base: the sampler; its own network is not used.
        path: the hard path of the policy.
        chosen: bool [B, T], at which steps the KL is taken.
        temperature: of the Gumbel-softmax.
        draws: noises that it is averaged over.
        stream: the noise of the Gumbel-softmax.
    """

    policy: nn.Module
    prior: nn.Module
    base: Base
    path: Path
    chosen: Bool[Tensor, "b steps"]
    temperature: float
    draws: int
    stream: Stream
    windows: dict[int, Window] = field(default_factory=dict)

    def window(self, rows: int) -> Window:
        """Return the law over some number of rows, built once."""
        if rows not in self.windows:
            self.windows[rows] = self.base.law(rows)
        return self.windows[rows]

    def hard(self, k: int) -> Float[Tensor, "b s states"]:
        """Return the one-hot state that step k sees, float [B, S, K + 1]."""
        return one_hot(self.path.state(k), self.base.mask + 1).to(precision(self.policy))

    def laws(self, network: nn.Module, z: Tensor, k: int, rows: Tensor) -> Tensor:
        """Return the restricted log-predictions of some rows, float64 [rows, S, K]."""
        t = torch.full((len(z),), float(self.base.plan.times[k]), device=z.device)
        x_t = self.path.state(k)[rows]
        log_p = network(z, t)[..., : self.base.mask].double().log_softmax(-1)
        return self.window(len(rows)).restrict(log_p, torch.where(x_t == self.base.mask, -1, x_t))

    def gap(self, z: Float[Tensor, "b s states"], k: int) -> Float[Tensor, "b 2"]:
        """Return KL and cross-entropy of step k alone at the rows that chose it [B, 2], 0 elsewhere."""
        rows = self.chosen[:, k].nonzero()[:, 0]
        return self._gap(self.laws(self.policy, z[rows], k, rows), z, k, rows)

    def move(self, z: Float[Tensor, "b s states"], k: int) -> tuple[Float[Tensor, "b s states"], Float[Tensor, "b 2"]]:
        """Return the state after step k [B, S, K + 1], its KL and cross-entropy [B, 2]."""
        everyone = torch.arange(len(z), device=z.device)
        log_p = self.laws(self.policy, z, k, everyone)
        sites = self.path.uncovered(k)
        y = self.path.x_0
        u = self.stream.fold(k).uniform(self.draws, *log_p.shape[1:])
        g = gumbel_given(y[:, None].expand(u.shape[:-1]), log_p.detach()[:, None], u)
        soft = ((log_p[:, None] + g) / self.temperature).softmax(-1).mean(1)
        soft = torch.cat([soft, torch.zeros_like(soft[..., :1])], -1).to(z.dtype)
        after = one_hot(self.path.state(k + 1), self.base.mask + 1).to(z.dtype)
        z_s = torch.where(sites[..., None], after + (soft - soft.detach()), after + (z - z.detach()))
        rows = self.chosen[:, k].nonzero()[:, 0]
        return z_s, self._gap(log_p[rows], z, k, rows)

    def _gap(self, log_p: Tensor, z: Tensor, k: int, rows: Tensor) -> Tensor:
        none = torch.zeros(len(z), 2, dtype=torch.float64, device=z.device)
        if not len(rows):
            return none
        log_q = self.laws(self.prior, z[rows], k, rows)
        weight = uncovering(self.base, self.path, torch.full((len(z),), k, device=z.device))[rows]
        sites = divergence(log_p, log_q), cross_entropy(log_p, log_q)
        return none.index_add(0, rows, torch.stack([_expected(weight, v) for v in sites], -1))

    def run(self, truncate: int) -> tuple[Float[Tensor, "b s k"], Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Return the final state [B, S, K] with the gradient of the last `truncate` steps, path KL and C, [B] each."""
        steps = self.base.plan.steps
        total = torch.zeros(len(self.path.x_0), 2, dtype=torch.float64, device=self.path.x_0.device)
        for k in range(steps - truncate):
            if bool(self.chosen[:, k].any()):
                total = total + _again(self.gap, self.hard(k), k)
        z = self.hard(steps - truncate)
        for k in range(steps - truncate, steps):
            z, gap = _again(self.move, z, k)
            total = total + gap
        kl, nats = (total * (steps / self.chosen.sum(-1, keepdim=True).double())).unbind(-1)
        return z[..., : self.base.mask], kl, nats


def walk(
    policy: nn.Module, prior: nn.Module, base: Base, rows: Int[Tensor, " b"], stream: Stream,
    temperature: float = 1.0, kl_steps: int | None = None, draws: int = 1,
) -> Walk:  # fmt: skip
    """Sample hard paths of the policy, ready to be walked again.

    Args:
        policy, prior: networks.
        base: the sampler.
        rows: sample numbers [B].
        stream: of all noise.
        temperature: of the Gumbel-softmax.
        kl_steps: at how many steps of each path the KL is taken; None: all.
        draws: noises that the Gumbel-softmax is averaged over.

    Raises:
        UsageError: `kl_steps` is not within the plan, or the solver covers sites again.
    """
    stream, steps = replace(stream, samples=rows, turn=None), base.plan.steps
    if getattr(base.solver, "revises", False):
        raise UsageError("covers sites again, of which paths know nothing", field="solver", value=str(base.solver))
    if kl_steps is not None and not 0 < kl_steps <= steps:
        raise UsageError(f"must lie in 1..{steps}", field="kl_steps", value=kl_steps)
    path = record(replace(base, network=policy), stream.fold(0))
    chosen = stream.fold(1).permutation(steps) < (kl_steps or steps)
    return Walk(policy, prior, base, path, chosen, temperature, draws, stream.fold(2))


def loss(
    policy: nn.Module, prior: nn.Module, base: Base, reward: SoftReward, alpha: float, truncate: int,
    temperature: float, batch: int, stream: Stream, kl_steps: int | None = None, draws: int = 1, hold: float = 0.0,
    level: float = 0.0,
) -> tuple[Float[Tensor, ""], dict[str, float]]:  # fmt: skip
    """Return `-mean r + alpha KL` of a batch of fresh paths, with its straight-through gradient, and metrics.

    Args:
        policy: the network that is tuned, without dropout.
        prior: where it started (`frozen`).
        base: the sampler.
        reward: differentiable.
        alpha: reward units per nat.
        truncate: how many last steps are back-propagated through.
        temperature: of the Gumbel-softmax.
        batch: paths B; a stream of other than B rows gives consecutive ones from its first.
        stream: of all noise; fold in the number of the update.
        kl_steps: at how many steps of each path the KL is taken; None: all.
        draws: noises that the Gumbel-softmax is averaged over.
        hold: reward units per squared nat that a batch pays for mean nats C below `level`; 0: none.
        level: nats of a sequence, the prior's own (`path_entropy`).

    Raises:
        UsageError: `truncate` or `kl_steps` is not within the plan.
    """
    if not 0 < truncate <= base.plan.steps:
        raise UsageError(f"must lie in 1..{base.plan.steps}", field="truncate", value=truncate)
    found = walk(policy, prior, base, address(stream, batch).samples, stream, temperature, kl_steps, draws)
    x_0, kl, nats = found.run(truncate)
    value = reward.soft(x_0).double()
    estimate = PathKL.of(kl)
    metrics = {"reward": float(value.detach().mean()), "kl": estimate.value, "kl_error": estimate.error,
               "nats": float(nats.detach().mean())}  # fmt: skip
    total = alpha * kl.mean() - value.mean()
    if hold:
        total = total + hold / 2 * (level - nats.mean()).clamp_min(0.0) ** 2
    return total, metrics


@torch.no_grad()
def path_kl(
    policy: nn.Module, prior: nn.Module, base: Base, n: int, stream: Stream, kl_steps: int | None = None
) -> PathKL:
    """Estimate KL(path || path_pre) from `n` hard paths of the policy, unbiased, with its standard error."""
    found = walk(policy, prior, base, torch.arange(n), stream, kl_steps=kl_steps)
    steps = base.plan.steps
    total = sum((found.gap(found.hard(k), k)[:, 0] for k in range(steps)), torch.zeros(n, dtype=torch.float64))
    return PathKL.of(total * (steps / found.chosen.sum(-1).double()))


@torch.no_grad()
def path_entropy(network: nn.Module, base: Base, n: int, stream: Stream) -> float:
    """Estimate the entropy of a network's own paths from `n` of them, in nats of a sequence, unbiased."""
    found = walk(network, network, base, torch.arange(n), stream)
    return float(sum(found.gap(found.hard(k), k)[:, 1].mean() for k in range(base.plan.steps)))


def _expected(weight: Tensor, sites: Tensor) -> Tensor:
    return (weight * torch.where(weight > 0, sites, 0.0)).sum(-1)


def _again(step, z: Tensor, k: int):  # noqa: ANN001, ANN202
    return checkpoint(step, z, k, use_reentrant=False, preserve_rng_state=False)
