"""ARC-Forcing: a few-step generator of blocks is trained on its own roll-outs by an adversary.

A flow that continues its own blocks drifts: in training its past was real. Here the past is its own. From a start the
generator plays N blocks; block n takes k steps, k drawn anew, of the solver that will play, the last ones of which keep
their gradient, and is detached before it becomes past: no gradient runs through time or cache. With one step to learn
by (the paper's) only times near the end of the path are ever corrected where the solver is deterministic; small
networks afford them all.

The adversary scores whole noisy sequences. Real and made ones get the same noise at the same time,
`x_t = alpha x_0 + sigma eps`, lambda_t uniform on a span, and what counts is the difference of their scores,

    gap = C(real_t, t, c) - C(made_t, t, c)
    L_generator = softplus(gap),   L_critic = softplus(-gap) + weight softplus(-(C(real_t, t, c) - C(real_t, t, c')))

with `c'` the condition of another sample (rolled, into a new tensor): a sequence that fits nothing that was asked for
is to score low, however good it sounds; rows that are asked the same have no part in it. Where `gap = 0` both losses
are log 2. The critic reads an intermediate layer of a flow model (`Critic`), which knows from its own training what is
likely at each level of noise. The span decides what it can see: where alpha |x_0| is far below sigma real and made are
one. (The paper's [-6, 2] is for large latents; of frames of unit size three draws in four show nothing, the gap stays
at 0, and the generator follows noise.) A step teaches both from one roll-out: the critic is a function of it, the
generator of the critic held fixed (`frozen`).

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
from core.denoiser import GaussianPrediction
from core.nn.block_flow import BlockFlow, Layout
from core.noise import Stream
from core.plan import Table
from core.process.categorical import at_sites
from core.process.gaussian import Gaussian
from core.sample import integrate

__all__ = ["Critic", "critic_loss", "frozen", "generator_loss", "level", "play", "rollout"]

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
    stream: Stream, *, most: int = 4, least: int = 1, through: int = 1, before: Callable[[int], None] = lambda n: None,
    settle: Callable[[Tensor], Tensor] = lambda x: x, first: int = 0,
) -> Float[Tensor, "b f d"]:  # fmt: skip
    """Play blocks on their own past; return them, [B, blocks L, d], each with the gradient of its last steps.

    Args:
        context: the generator and its memory; it is committed to.
        process: the corruption.
        tables: from a number of steps to a solver, the one that will play.
        shape: of a block, (L, d).
        blocks: how many.
        stream: one stream per row.
        most, least: bounds of the number of steps k, drawn for each block.
        through: how many of the k steps, from the last, keep their gradient.
        before: told the number of a block before it is made, to set its control.
        settle: makes of a block what is remembered of it.
        first: number of the first block.
    """
    made = []
    for number in range(first, first + blocks):
        before(number)
        here = stream.fold(number)
        k = least + int(float(here.fold(2).uniform(1)[0, 0]) * (most + 1 - least))
        x_0 = play(context, process, tables(k), shape, here, through)
        made.append(x_0)
        context.commit(settle(x_0.detach()))
    return torch.cat(made, 1)


def play(
    context: VectorContext, process: Gaussian, table: Table, shape: tuple[int, int], stream: Stream, through: int = 1
) -> Float[Tensor, "b l d"]:
    """Return one block [B, L, d], differentiable through the last `through` rows of `table`; nothing is committed."""
    x = process.prior(shape, stream.fold(0), table.times[0]).to(torch.get_default_dtype())
    since = table.rows[-min(through, table.steps)].t

    def predict(x_t: Tensor, t: Tensor) -> GaussianPrediction:
        with torch.set_grad_enabled(torch.is_grad_enabled() and float(t) <= since):
            return context.predict(x_t, t)

    return integrate(predict, table, x, stream.fold(1))


def level(process: Gaussian, stream: Stream, low: float = -6.0, high: float = 2.0) -> Float[Tensor, " b"]:
    """Return times [B] at which lambda, half the log signal-to-noise ratio, is uniform on [low, high]."""
    u = stream.uniform(1)[:, 0]
    return process.schedule.inverse(low + (high - low) * u)


def _noisy(
    process: Gaussian, real: Tensor, made: Tensor, stream: Stream, span: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both corrupted by the same noise at the same times, and the times [B]."""
    t = level(process, stream.fold(0), *span).to(real.device)
    noise = process.couple(tuple(real.shape[1:]), stream.fold(1)).to(real)
    return process.corrupt(real, t, noise), process.corrupt(made, t, noise), t


def generator_loss(
    critic: Score, process: Gaussian, real: Float[Tensor, "b f d"], made: Float[Tensor, "b f d"], stream: Stream,
    condition: Float[Tensor, "b ..."] | None = None, span: tuple[float, float] = (-6.0, 2.0),
) -> tuple[Float[Tensor, ""], Metrics]:  # fmt: skip
    """Return the generator's loss and its metrics.

    Args:
        critic: the adversary, its weights frozen (`frozen`).
        process: the corruption.
        real: true sequences [B, F, d].
        made: those of the generator under the same conditions, differentiable.
        stream: one stream per row.
        condition: what was asked, [B, ...].
        span: of lambda.
    """
    real_t, made_t, t = _noisy(process, real, made, stream, span)
    with torch.no_grad():
        right = critic(real_t, t, condition)
    gap = right - critic(made_t, t, condition)
    return F.softplus(gap).mean(), {"gap": gap.detach().mean()}


def critic_loss(
    critic: Score, process: Gaussian, real: Float[Tensor, "b f d"], made: Float[Tensor, "b f d"], stream: Stream,
    condition: Float[Tensor, "b ..."] | None = None,
    weight: float = 1.0, span: tuple[float, float] = (-6.0, 2.0),
) -> tuple[Float[Tensor, ""], Metrics]:  # fmt: skip
    """Return the critic's loss and its metrics (arguments as in `generator_loss`).

    Args:
        weight: of the contrast between right and wrong conditions.
        span: of lambda.
    """
    real_t, made_t, t = _noisy(process, real, made.detach(), stream, span)
    right = critic(real_t, t, condition)
    gap = right - critic(made_t, t, condition)
    loss = F.softplus(-gap).mean()
    metrics = {"gap": gap.detach().mean()}
    if condition is not None and weight:
        wrong = condition.roll(1, 0)
        other = (wrong != condition).flatten(1).any(1)  # where nothing is asked there is nothing to confuse
        if bool(other.any()):
            contrast = right[other] - critic(real_t[other], t[other], wrong[other])
            loss = loss + weight * F.softplus(-contrast).sum() / right.numel()
            metrics["contrast"] = contrast.detach().mean()
    return loss, metrics


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
        self.body.head, self.body.clean = nn.Linear(1, 1), nn.Linear(1, 1)
        for part in self.unread:
            part.requires_grad_(False)
        self.skip = skip
        d = flow.config.trunk.dim
        self.first = nn.Conv1d(d, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.last = nn.Conv1d(width, 1, 3, padding=1)

    @property
    def unread(self) -> tuple[nn.Module, nn.Module]:
        """Parts of the body that no score depends on: nothing to learn, and no state of an optimiser to keep."""
        return self.body.head, self.body.clean

    def forward(
        self,
        x_t: Float[Tensor, "b f d"],
        t: Float[Tensor, " b"],
        condition: Float[Tensor, "b f c"] | None = None,
        skip: int | None = None,
    ) -> Float[Tensor, "b scores"]:
        """Return scores [B, about (F - skip) / 2] of noisy sequences [B, F, d] at times [B]; `condition` is [B, F, c].

        `skip` other than the critic's own is for sequences that begin otherwise.
        """
        process, frames = self.body.process, x_t.shape[1]
        place = torch.arange(frames, device=x_t.device)
        layout = Layout(torch.zeros_like(place), torch.zeros(frames, dtype=torch.bool, device=x_t.device), place)
        scaled = x_t / process.radius(at_sites(t, x_t)).to(x_t)
        time = (process.angle(t) * (2 / torch.pi)).to(x_t)[:, None]
        h = self.body.hidden(scaled, time, layout, condition)[:, self.skip if skip is None else skip :].transpose(1, 2)
        h = F.gelu(self.first(h))
        return GAIN * self.last(F.gelu(self.second(h)))[:, 0]
