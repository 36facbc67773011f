"""Training of the convolutional regressor on few sequences.

Each member is trained by itself: mean squared error of standardised labels, AdamW, one-cycle rate, a random shift of
each batch (letters that leave are lost, empty sites are zero). After each epoch the member is judged on the
validation part; the state of its best epoch is kept. Every random number is a function of (seed, member).

Reference: Smith and Topin, 2019, arXiv:1708.07120 (one cycle).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from apps.bio.dna.regressors import ConvEnsemble, ConvMember, ConvShape

__all__ = ["ConvTraining", "shifted", "train_conv"]

Labelled = tuple[Tensor, np.ndarray]


@dataclass(frozen=True)
class ConvTraining:
    """How the members are trained: rate, decay, batch, largest shift in letters."""

    members: int = 8
    epochs: int = 20
    seed: int = 0
    lr: float = 2e-3
    weight_decay: float = 1e-2
    batch: int = 64
    shift: int = 6


def shifted(p: Tensor, by: int) -> Tensor:
    """Return laws [B, L, 4] moved by so many letters to the right, zeros where nothing came from."""
    if not by:
        return p
    empty = torch.zeros_like(p[:, : abs(by)])
    return torch.cat([empty, p[:, :-by]], 1) if by > 0 else torch.cat([p[:, -by:], empty], 1)


def train_conv(
    job: ConvTraining, train: Labelled, valid: Labelled, say: Callable[[str], None]
) -> tuple[ConvEnsemble, float]:
    """Return the trained ensemble and its validation correlation.

    Args:
        job: how.
        train, valid: tokens [N, L] and labels [N].
        say: hears of the progress.
    """
    torch.manual_seed(job.seed)
    body = ConvEnsemble(job.members, ConvShape())
    centre, spread = float(train[1].mean()), float(train[1].std()) or 1.0
    body.centre.fill_(centre)
    body.spread.fill_(spread)
    target = torch.from_numpy((train[1] - centre) / spread).float()
    for number, member in enumerate(body.members):
        best, epoch = train_member(job, number, member, one_hot(train[0], 4).float(), target, valid)  # type: ignore[arg-type]
        say(f"member {number + 1} of {job.members}: validation correlation {best:.3f} at epoch {epoch}")
    return body, judge(body, valid)


def train_member(
    job: ConvTraining, number: int, member: ConvMember, x: Tensor, y: Tensor, valid: Labelled
) -> tuple[float, int]:
    """Train one member in place, leave it in the state of its best epoch, and return that correlation and epoch."""
    torch.manual_seed(1000 * job.seed + number)
    rng = np.random.default_rng([job.seed, number])
    size = min(job.batch, len(x))
    each = len(x) // size
    optimizer = torch.optim.AdamW(member.parameters(), job.lr, weight_decay=job.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, job.lr, total_steps=job.epochs * each, pct_start=0.2)
    best, state, at = -np.inf, copy.deepcopy(member.state_dict()), 0
    for epoch in range(1, job.epochs + 1):
        member.train()
        for rows in rng.permutation(len(x))[: each * size].reshape(each, size):
            out = member(shifted(x[rows], int(rng.integers(-job.shift, job.shift + 1))))
            loss = (out - y[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(member.parameters(), 1.0)
            optimizer.step()
            rate.step()
        found = judge(member.eval(), valid)
        if found > best:
            best, state, at = found, copy.deepcopy(member.state_dict()), epoch
    member.load_state_dict(state)
    return best, at


@torch.no_grad()
def judge(body: nn.Module, valid: Labelled) -> float:
    """Return the correlation of predictions and labels; 0 where there is nothing to correlate."""
    body.eval()
    x, y = valid
    parts = [body(one_hot(x[a : a + 256], 4).float()) for a in range(0, len(x), 256)]
    if len(x) < 2:
        return 0.0
    found = float(np.corrcoef(torch.cat(parts).double().numpy(), y)[0, 1])
    return found if np.isfinite(found) else 0.0
