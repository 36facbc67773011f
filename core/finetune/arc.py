"""ARC-Forcing: a few-step generator of blocks is trained on its own roll-outs by an adversary.

A flow that continues its own blocks drifts: in training its past was real. Here the past is its own. From a start the
generator plays N blocks; block n takes k steps, k drawn anew, of a solver without memory (ping-pong: predict, add fresh
noise, predict; or DDIM, which a flow already plays well), of which only the last keeps its gradient, and is detached
before it becomes past: no gradient runs through time or cache.

The adversary scores whole noisy sequences. Real and made ones get the same noise at the same time,
`x_t = alpha x_0 + sigma eps`, lambda_t uniform on [-6, 2], and what counts is the difference of their scores,

    gap = C(real_t, t, c) - C(made_t, t, c)
    L_generator = softplus(gap),   L_critic = softplus(-gap) + weight softplus(-(C(real_t, t, c) - C(real_t, t, c')))

with `c'` the condition of another sample (rolled, into a new tensor): a sequence that fits nothing that was asked for
is to score low, however good it sounds. Where `gap = 0` both losses are log 2. The critic reads an intermediate layer
of a flow model (`Critic`), which knows from its own training what is likely at each level of noise. Generator and
critic take turns, step by step (`turn`).

References: LMDM, 2026, arXiv:2605.22717 (ARC-Forcing); Novack et al., 2025, arXiv:2505.08175 (ARC); Huang et al., 2025,
arXiv:2506.08009 (Self-Forcing); Jolicoeur-Martineau, 2018, arXiv:1807.00734 (relativistic).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.blocks import VectorContext
from core.nn.block_flow import BlockFlow, Layout
from core.noise import Stream
from core.plan import Table
from core.process.categorical import at_sites
from core.process.gaussian import Gaussian
from core.sample import integrate

__all__ = ["Critic", "critic_loss", "frozen", "generator_loss", "level", "play", "rollout", "turn"]

Metrics = dict[str, Tensor]
GAIN = 8.0
"""Of the critic's scores: Adam's steps have one size, and a fresh head has to tell real from made in a hundred."""


class Score(Protocol):
    """An adversary."""

    def __call__(
        self, x_t: Float[Tensor, "b f d"], t: Float[Tensor, " b"], condition: Float[Tensor, "b ..."] | None
    ) -> Float[Tensor, "b ..."]:
        """Return scores [B, ...] of noisy sequences [B, F, d] at times [B]; higher is more real."""
        ...


def rollout(
    context: VectorContext, process: Gaussian, tables: Callable[[int], Table], shape: tuple[int, int], blocks: int,
    stream: Stream, *, most: int = 4, least: int = 1, before: Callable[[int], None] = lambda n: None, first: int = 0,
) -> Float[Tensor, "b f d"]:  # fmt: skip
    """Play blocks on their own past; return them, [B, blocks L, d], each with the gradient of its last step.

    Args:
        context: the generator and its memory; it is committed to.
        process: the corruption.
        tables: from a number of steps to a solver without memory, such as `ping_pong`.
        shape: of a block, (L, d).
        blocks: how many.
        stream: one stream per row.
        most, least: bounds of the number of steps k, drawn for each block.
        before: told the number of a block before it is made, to set its control.
        first: number of the first block.
    """
    made = []
    for number in range(first, first + blocks):
        before(number)
        here = stream.fold(number)
        k = least + int(float(here.fold(2).uniform(1)[0, 0]) * (most + 1 - least))
        x_0 = play(context, process, tables(k), shape, here)
        made.append(x_0)
        context.commit(x_0.detach())
    return torch.cat(made, 1)


def play(
    context: VectorContext, process: Gaussian, table: Table, shape: tuple[int, int], stream: Stream
) -> Float[Tensor, "b l d"]:
    """Return one block [B, L, d], differentiable through the last row of `table` only; the context is not committed."""
    head, tail = Table(table.rows[:-1], table.rows[-1].t), Table(table.rows[-1:], table.stop)
    with torch.no_grad():
        x = process.prior(shape, stream.fold(0), table.times[0]).to(torch.get_default_dtype())
        if head.rows:
            x = integrate(context.predict, head, x, stream.fold(1))
    return integrate(context.predict, tail, x.detach(), stream.fold(3))


def level(process: Gaussian, stream: Stream, low: float = -6.0, high: float = 2.0) -> Float[Tensor, " b"]:
    """Return times [B] at which lambda, half the log signal-to-noise ratio, is uniform on [low, high]."""
    u = stream.uniform(1)[:, 0]
    return process.schedule.inverse(low + (high - low) * u)


def _noisy(process: Gaussian, real: Tensor, made: Tensor, stream: Stream) -> tuple[Tensor, Tensor, Tensor]:
    """Return both corrupted by the same noise at the same times, and the times [B]."""
    t = level(process, stream.fold(0)).to(real.device)
    noise = process.couple(tuple(real.shape[1:]), stream.fold(1)).to(real)
    return process.corrupt(real, t, noise), process.corrupt(made, t, noise), t


def generator_loss(
    critic: Score,
    process: Gaussian,
    real: Float[Tensor, "b f d"],
    made: Float[Tensor, "b f d"],
    stream: Stream,
    condition: Float[Tensor, "b ..."] | None = None,
) -> tuple[Float[Tensor, ""], Metrics]:
    """Return the generator's loss and its metrics.

    Args:
        critic: the adversary, its weights frozen (`frozen`).
        process: the corruption.
        real: true sequences [B, F, d].
        made: those of the generator under the same conditions, differentiable.
        stream: one stream per row.
        condition: what was asked, [B, ...].
    """
    real_t, made_t, t = _noisy(process, real, made, stream)
    with torch.no_grad():
        right = critic(real_t, t, condition)
    gap = right - critic(made_t, t, condition)
    return F.softplus(gap).mean(), {"gap": gap.detach().mean()}


def critic_loss(
    critic: Score, process: Gaussian, real: Float[Tensor, "b f d"], made: Float[Tensor, "b f d"], stream: Stream,
    condition: Float[Tensor, "b ..."] | None = None,
    weight: float = 1.0,
) -> tuple[Float[Tensor, ""], Metrics]:  # fmt: skip
    """Return the critic's loss and its metrics (arguments as in `generator_loss`).

    Args:
        weight: of the contrast between right and wrong conditions.
    """
    real_t, made_t, t = _noisy(process, real, made.detach(), stream)
    right = critic(real_t, t, condition)
    gap = right - critic(made_t, t, condition)
    loss = F.softplus(-gap).mean()
    metrics = {"gap": gap.detach().mean()}
    if condition is not None and weight:
        contrast = right - critic(real_t, t, condition.roll(1, 0))
        loss = loss + weight * F.softplus(-contrast).mean()
        metrics["contrast"] = contrast.detach().mean()
    return loss, metrics


def turn(step: int, lead: int = 0) -> str:
    """Return whose turn it is: `critic` at even steps, `generator` at odd ones.

    The first `lead` steps are the critic's: one that cannot tell yet would push the generator anywhere.
    """
    return "generator" if step % 2 and step >= lead else "critic"


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module without reaching its weights."""
    learns = [p for p in module.parameters() if p.requires_grad]
    for p in learns:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learns:
            p.requires_grad_(True)


class Critic(nn.Module):
    """An adversary on the hidden states of a flow model, in which every frame sees every frame.

    Args:
        flow: a trained model; its first `depth` layers are copied.
        depth: layers that are read.
        width: channels of the head.
        skip: frames at the beginning, given as context, that are not scored.
    """

    def __init__(self, flow: BlockFlow, depth: int, width: int = 64, skip: int = 0) -> None:
        super().__init__()
        self.body = copy.deepcopy(flow)
        layers = list(self.body.trunk.layers)[:depth]
        self.body.trunk.layers = nn.ModuleList(layers)
        self.body.head, self.body.clean = nn.Linear(1, 1), nn.Linear(1, 1)  # not read
        for p in (*self.body.head.parameters(), *self.body.clean.parameters()):
            p.requires_grad_(False)
        self.skip = skip
        d = flow.config.trunk.dim
        self.first = nn.Conv1d(d, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.last = nn.Conv1d(width, 1, 3, padding=1)

    def forward(
        self, x_t: Float[Tensor, "b f d"], t: Float[Tensor, " b"], condition: Float[Tensor, "b f c"] | None = None
    ) -> Float[Tensor, "b scores"]:
        """Return scores [B, about F / 2] of noisy sequences [B, F, d] at times [B]; `condition` is [B, F, c]."""
        process, frames = self.body.process, x_t.shape[1]
        place = torch.arange(frames, device=x_t.device)
        layout = Layout(torch.zeros_like(place), torch.zeros(frames, dtype=torch.bool, device=x_t.device), place)
        scaled = x_t / process.radius(at_sites(t, x_t)).to(x_t)
        time = (process.angle(t) * (2 / torch.pi)).to(x_t)[:, None]
        h = self.body.hidden(scaled, time, layout, condition)[:, self.skip :].transpose(1, 2)
        h = F.gelu(self.first(h))
        return GAIN * self.last(F.gelu(self.second(h)))[:, 0]
