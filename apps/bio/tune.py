"""Tuning a model to a reward.

| method | loss of one update | asks of the reward |
|---|---|---|
| `drakes` | -E r + alpha KL(path || path_pre) of fresh paths (`core.finetune.drakes`) | gradients |
| `distill` | the prediction that guidance gives along some guided paths (`core.finetune.distill`) | gradients, once |
| `sdpo` | preferences among completions of the model's own noisy states (`core.finetune.offline`) | scores, once |
| `reward-weighted` | the evidence bound of the model's own draws, weighed by exp(r / alpha) | scores, once |

alpha has the unit of the reward per nat: the optimum of all but `distill`, which aims at the guided sampler, is
p_pre exp(r / alpha). The pool of all but the first has updates x batch sequences (of `distill`: states) unless told
otherwise, so that all ask the reward equally often.

DRAKES may **start warm**: its first `fits` updates fit the network to the predictions along guided paths that `warm`
gradients of the reward pay for, as `distill` does (few of its own would bring it as far), and back-propagation goes
on from there; the prior and the path KL stay those of the parent. With `hold` it keeps the nats of its paths under the
parent at the parent's own (`core.finetune.drakes`).

The loop is `core.run.train`: a run that was stopped goes on where it was, and its folder holds checkpoints, curves and
`model`, whose manifest names the parent, its checksum and what was done (`apps.bio.tuned`). Dropout is off. In a DNA
model the reference chain is read at the hard letters and carries no gradient (`straight`): its values, and the path KL,
stay exact.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.bio.tuned import checksum, write
from core.errors import UsageError
from core.finetune import distill, drakes, offline
from core.finetune.base import Base
from core.finetune.reward import Counted, Reward, soft
from core.nn.hosted import hosted
from core.noise import Stream

__all__ = ["METHODS", "TuneTask", "Tuning", "finetune", "straight"]

COMPLETIONS = 8
"""Completions of a noisy state that SDPO compares."""

FITTED, LEVEL = 48, 64
"""States of an update that fits a warm start, and the parent's paths whose entropy says what is held."""

KEPT = 128
"""Answers of a reference chain that are kept."""


@dataclass(frozen=True)
class Tuning:
    """How to tune.

    Args:
        method: a name of `METHODS`.
        alpha: reward units per nat.
        updates: gradient steps.
        batch: sequences of each.
        lr: learning rate.
        steps: sampling steps of a path.
        truncate: last steps that are back-propagated through.
        kl_steps: steps of each path at which the KL is taken.
        temperature: of the Gumbel-softmax.
        draws: noises that it is averaged over.
        pool: sequences scored, or states differentiated, by an offline method; 0: updates x batch.
        warm: gradients of the reward along guided paths that drakes starts from; 0: from the parent.
        fits: updates of that start, beside `updates`.
        guide: strength of that guidance; 0: alpha / 4.
        hold: reward units per squared nat of mean nats that the paths of drakes lose under the parent; 0: none.
        seed: all randomness.
    """

    method: str = "drakes"
    alpha: float = 0.05
    updates: int = 200
    batch: int = 32
    lr: float = 1e-3
    steps: int = 16
    truncate: int = 4
    kl_steps: int = 4
    temperature: float = 1.0
    draws: int = 8
    pool: int = 0
    warm: int = 0
    fits: int = 120
    guide: float = 0.0
    hold: float = 0.0
    seed: int = 0

    @property
    def fitting(self) -> int:
        """Return the updates before the first of `updates`: those that fit a warm start."""
        return self.fits if self.warm else 0


def straight(net: nn.Module) -> nn.Module:
    """Return a copy without dropout whose reference chains, where it has any, read one-hot states as letters."""
    out = copy.deepcopy(net)
    for module in list(out.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        chain = getattr(module, "background", None)
        if chain is not None:
            chain.forward = _AtLetters(chain)
    return out


@dataclass(eq=False)
class _AtLetters:
    """A reference chain at the most likely letters of its input; the last answers are kept, copies share them.

    Policy, prior and recomputation ask for the same states; the chain is fixed, and half the cost of a small network.
    """

    chain: nn.Module
    kept: OrderedDict[bytes, Tensor] = field(default_factory=OrderedDict)

    @torch.no_grad()
    def __call__(self, x: Tensor, fold: Tensor | None = None) -> Tensor:
        own = next(self.chain.buffers()).device  # a copy of the network may have moved
        letters = (x.argmax(-1) if x.is_floating_point() else x).to(own)
        if fold is not None:
            return type(self.chain).forward(self.chain, letters, fold.to(own)).to(x.device)
        key = letters.to(torch.uint8).cpu().numpy().tobytes()
        if key not in self.kept:
            self.kept[key] = type(self.chain).forward(self.chain, letters, None)
            if len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        return self.kept[key].to(x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> _AtLetters:
        return self


@dataclass(eq=False)
class TuneTask:
    """One tuning run, for `core.run.train`.

    Args:
        base: the parent as it is steered; its network is the prior.
        reward: what to raise.
        tuning: how.
    """

    base: Base
    reward: Reward
    tuning: Tuning

    def __post_init__(self) -> None:
        """Fix the prior."""
        if self.tuning.method not in METHODS:
            raise UsageError("no such method", field="method", value=self.tuning.method, choices=METHODS)
        if self.tuning.alpha <= 0 and (self.tuning.method != "drakes" or self.tuning.fitting):
            raise UsageError("must be positive", field="alpha", value=self.tuning.alpha, hint="0 is for plain drakes")
        for name in ("warm", "hold"):
            if getattr(self.tuning, name) and self.tuning.method != "drakes":
                raise UsageError("is an option of drakes", field=name, value=getattr(self.tuning, name))
        if 0 < self.tuning.warm < self.base.plan.steps:
            hint = f"a guided path asks {self.base.plan.steps} times"
            raise UsageError("pays for no path", field="warm", value=self.tuning.warm, hint=hint)
        self.start = straight(self.base.network)  # type: ignore[arg-type]
        self.prior = drakes.frozen(self.start)

    def module(self) -> nn.Module:
        """Return the network that is tuned, a copy of the parent's."""
        return copy.deepcopy(self.start).requires_grad_(True)

    def batch(self, step: int, rank: int, world: int) -> Tensor:
        """Return the address of the noise of a step."""
        return torch.tensor([step, rank])

    def loss(self, module: nn.Module, batch: Tensor, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the loss of the method and its figures."""
        module.eval()
        stream = Stream.of(self.tuning.seed, self.tuning.batch).fold(*batch.tolist())
        way = by_distillation if step < self.tuning.fitting else METHODS[self.tuning.method]
        self.prior.to(next(module.parameters()).device)
        return way(self, hosted(module), stream)

    def validate(self, module: nn.Module, step: int) -> dict[str, float]:
        """Return nothing: what judges a tuned model is no part of its training."""
        return {}

    @cached_property
    def pool(self) -> offline.Pool:
        """The parent's draws and their rewards, drawn when first asked for."""
        x = self.drawn(self.tuning.pool or self.tuning.updates * self.tuning.batch)
        score = Counted(self.reward).score(x)
        self.told(score > -torch.inf)
        return offline.Pool(x, score)

    @cached_property
    def groups(self) -> offline.Groups:
        """Noisy states of the parent's draws with `COMPLETIONS` scored completions each, one of them not -inf."""
        size = (self.tuning.pool or self.tuning.updates * self.tuning.batch) // COMPLETIONS
        x = self.drawn(max(size, 1))
        stream = Stream.of(self.tuning.seed, 1).fold(9, 8)
        found = offline.complete(self.base, Counted(self.reward), x, COMPLETIONS, stream)
        return found.select(self.told((found.reward > -torch.inf).any(1)))

    def told(self, live: Tensor) -> Tensor:
        """Return the rows of which the reward says something, bool [n] to int64.

        Raises:
            UsageError: there are none.
        """
        if not bool(live.any()):
            raise UsageError(f"is -inf or no number for all of {len(live)} draws", field="reward",
                             value=self.reward.name, hint="give it a value for what it does not know")  # fmt: skip
        return live.nonzero()[:, 0]

    @property
    def strength(self) -> float:
        """The strength of the guidance that is distilled."""
        return (self.tuning.guide or self.tuning.alpha / 4) if self.tuning.warm else self.tuning.alpha

    @cached_property
    def guided(self) -> list[distill.Guided]:
        """States of guided paths, in batches that stay together: the chain answers each of them once."""
        size = self.tuning.warm or self.tuning.pool or self.tuning.updates * self.tuning.batch
        stream = Stream.of(self.tuning.seed, 1).fold(9, 7)
        paths = max(size // self.base.plan.steps, 1)
        found = distill.guided(self.base, self.reward, self.strength, paths, stream)
        order = stream.fold(1).permutation(len(found.t))[0]
        return [found.select(rows) for rows in order.split(FITTED if self.tuning.warm else self.tuning.batch)]

    @cached_property
    def level(self) -> float:
        """The nats of the parent's own paths, for `hold`."""
        return drakes.path_entropy(hosted(self.prior), self.base, LEVEL, Stream.of(self.tuning.seed, 1).fold(9, 6))

    def drawn(self, size: int) -> Tensor:
        """Return draws of the parent, 64 at a time: tokens [size, S]."""
        stream = Stream.of(self.tuning.seed, size).fold(9, 9)
        rows = [torch.arange(a, min(a + 64, size)) for a in range(0, size, 64)]
        return torch.cat([self.base.sample(stream.select(r)) for r in rows])

    def some(self, size: int, stream: Stream) -> Tensor:
        """Return `batch` different rows of a pool of `size`, at random."""
        return stream.fold(2).select(torch.zeros(1, dtype=torch.long)).permutation(size)[0, : self.tuning.batch]


def by_drakes(task: TuneTask, module: nn.Module, stream: Stream) -> tuple[Tensor, dict[str, Any]]:
    """Return the loss of DRAKES."""
    t = task.tuning
    return drakes.loss(
        module, hosted(task.prior), task.base, soft(task.reward), t.alpha, min(t.truncate, task.base.plan.steps),
        t.temperature, t.batch, stream, min(t.kl_steps, task.base.plan.steps), t.draws,
        t.hold, task.level if t.hold else 0.0,
    )  # fmt: skip


def by_sdpo(task: TuneTask, module: nn.Module, stream: Stream) -> tuple[Tensor, dict[str, Any]]:
    """Return the loss of SDPO on some groups."""
    groups = task.groups.select(task.some(len(task.groups.t), stream))
    return offline.sdpo(module, hosted(task.prior), task.base, groups, task.tuning.alpha)


def by_weight(task: TuneTask, module: nn.Module, stream: Stream) -> tuple[Tensor, dict[str, Any]]:
    """Return the reward-weighted bound of some sequences."""
    rows = task.some(len(task.pool.reward), stream)
    weight = task.pool.weights(task.tuning.alpha)[rows]
    return offline.reward_weighted(module, task.base, task.pool.x_0[rows], weight, stream)


def by_distillation(task: TuneTask, module: nn.Module, stream: Stream) -> tuple[Tensor, dict[str, Any]]:
    """Return how far a batch of predictions is from the guided ones."""
    one = stream.fold(2).select(torch.zeros(1, dtype=torch.long))
    states = task.guided[int(one.permutation(len(task.guided))[0, 0])]
    return distill.distill(module, task.base, states, task.strength)


METHODS: dict[str, Callable[[TuneTask, nn.Module, Stream], tuple[Tensor, dict[str, Any]]]] = {
    "drakes": by_drakes, "sdpo": by_sdpo, "reward-weighted": by_weight, "distill": by_distillation,
}  # fmt: skip
"""Ways to tune, by name."""


def finetune(
    model: str, *, reward: Sequence[str] | None, method: str = "drakes", alpha: float = 0.05, updates: int = 200,
    batch: int = 32, seed: int = 0, out: Path | None = None, template: Path | None = None,
    keep: Sequence[str] | None = None, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Tune a model and write the tuned one to `out/model`.

    Args:
        model: a model that ships, or a run's folder.
        reward: expressions of `apps.bio.expressions`, added.
        method, alpha, updates, batch, seed, more: of `Tuning`.
        out: the folder of the run; one that was stopped goes on.
        template, keep: of a model of proteins the backbone that it is tuned on, and residues that stay native.

    Raises:
        UsageError: no reward or no folder is given, the method does not exist, or the reward gives no gradients.
    """
    from apps.bio.expressions import compose
    from apps.bio.verbs import load
    from core.run.config import LoggerConfig, OptimConfig, TrainerConfig
    from core.run.train import train

    if out is None:
        raise UsageError("is needed: where to write the tuned model", field="out")
    compose(list(reward or ()))  # a misspelt reward is refused before the model is read
    parent = load(model)
    tuning = Tuning(method, alpha, updates, batch, seed=seed, **more)
    base, wanted = aimed(parent, list(reward or ()), tuning.steps, template, keep)
    task = TuneTask(base, wanted, tuning)
    if method in ("drakes", "distill"):
        soft(wanted)
    asked = [" ".join(text.split()) for text in reward or ()]  # a name says nothing of arguments
    settings = {"parent": model, "parent_sha256": checksum(parent.net), "reward": asked}
    settings |= dataclasses.asdict(tuning) | ({"template": str(template), "keep": list(keep or ())} if template else {})
    done = train(
        task, app="bio-tuning", config={"tuning": settings}, out=out, logger=LoggerConfig(),
        trainer=TrainerConfig(steps=tuning.fitting + updates, seed=seed, ema=0.9, validate_every=0, checkpoint_every=20,
                              threads=torch.get_num_threads(), log_every=5),
        optim=OptimConfig(lr=tuning.lr, weight_decay=0.0, warmup=5, schedule="constant"),
    )  # fmt: skip
    write(parent, out, settings)
    return {"model": str(out / "model"), "step": done.step, "seconds": round(done.seconds, 1), **settings}


def aimed(
    parent: Any, reward: list[str], steps: int, template: Path | None, keep: Sequence[str] | None
) -> tuple[Base, Reward]:
    """Return the sampler that is tuned and what it is tuned to; a model of proteins is tuned on one backbone.

    Its temperature is 1 there: at the low ones of designs hardly a path differs from another.

    Raises:
        UsageError: a model of proteins without a backbone, or a backbone for another.
    """
    from apps.bio.expressions import compose
    from apps.bio.model import LETTERS

    if parent.recipe.kind != "protein":
        if template or keep:
            kind = parent.recipe.kind
            raise UsageError(f"means nothing for a model of {kind}", field="template", value=str(template))
        return parent.base(steps=steps), compose(reward, parent.alphabet)
    from apps.bio.protein.order import wishes
    from apps.bio.protein.potential import bound
    from apps.bio.protein.sites import choose, select
    from apps.bio.protein.structure import read_structure

    if template is None:
        raise UsageError("proteins are tuned on a backbone", field="template", hint="give a PDB or mmCIF file")
    structure = read_structure(template)
    for text in keep or ():
        select(structure, text, "keep")  # a mistake is told by the word that was written
    base = parent.base(choose(structure, **wishes({"keep": keep})), steps, 1.0)
    return base, bound(compose(reward, LETTERS["protein"]), structure, parent)
