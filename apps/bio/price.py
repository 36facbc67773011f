"""What hard rules cost, in nats: `-log P(rule)` under the model, of each rule and of all together.

    first   letters independent, as the model's first prediction draws them: one network call, exact for that law
    full    under the model's own sampler: the rule's evidence by sequential Monte Carlo (`core.finetune.particles`)

The evidence of a population is unbiased, `E Z = P(rule)`; the full price is `-log` of the mean over `GROUPS`
populations, its standard error that of the mean divided by it. It is what the designs lose in likelihood: conditioned
exactly on the rule, the model's law differs from its own by KL = `-log P(rule)`, the least that any sampler under the
rule can pay. Where a rule never happens in any population the price is infinite as far as these particles can see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from apps.bio import constraints
from core.constrain.shared import SharedLaw
from core.finetune.particles import LawTwist, Particles, Patient
from core.noise import Stream
from core.plan import uniform_plan
from core.sample import denoise
from core.solvers.tokens import SOLVERS

if TYPE_CHECKING:
    from apps.bio.generate import SequenceModel

__all__ = ["GROUPS", "Price", "prices"]

GROUPS = 4
"""Populations that the error of the full price comes from."""


@dataclass(frozen=True)
class Price:
    """Nats that a rule costs: under the first prediction, under the sampler, and the latter's standard error.

    The last two are NaN where they were not asked for.
    """

    first: float
    full: float = math.nan
    error: float = math.nan

    @property
    def nats(self) -> float:
        """Return the full price where it is known, else the first."""
        return self.first if math.isnan(self.full) else self.full


@torch.inference_mode()
def prices(
    model: SequenceModel, specs: Sequence[Any], start: Tensor, particles: int = 0, seed: int = 0
) -> dict[str, Price]:
    """Return the price of each rule by name, and of all together where there are several.

    Args:
        model: with the sampling defaults that count.
        specs: the rules.
        start: tokens [S], the mask where open.
        particles: of each population; 0: the first prediction only.
        seed: of the populations.
    """
    mask, out = model.tokenizer.tokens, {}
    log_p = model.predict(start[None], torch.ones(1)).log_p.double()
    known = torch.where(start == mask, -1, start)[None]
    atoms = constraints.atoms(specs, len(start), model.alphabet)
    words = [a.name for a in atoms]  # annotations of one kind have places of their own, and one name
    named = [w if words.index(w) == i else f"{w} ({words[: i + 1].count(w)})" for i, w in enumerate(words)]
    alone = [(name, [atom]) for name, atom in zip(named, atoms, strict=True)]
    for name, some in [*alone, *([("all together", atoms)] if len(atoms) > 1 else [])]:
        layers = constraints.assemble(some, len(start), mask)
        if layers is None:
            continue
        law = SharedLaw(layers, 1)
        first = -float(law.whole().log_partition(log_p, known))
        out[name] = Price(first, *(sampled(model, law, start, particles, seed) if particles else ()))
    return out


def sampled(model: SequenceModel, law: SharedLaw, start: Tensor, particles: int, seed: int) -> tuple[float, float]:
    """Return `-log P(law)` under the model's sampler and its standard error, in nats."""
    cfg, rows = model.recipe.sample, GROUPS * particles
    weighed = Particles(SOLVERS[cfg.solver](), LawTwist(), particles)
    window, x = Patient(law.whole(rows)), start.expand(rows, -1).clone()
    stream = Stream.of(seed, rows).fold(31)
    denoise(model.predict, model.process, uniform_plan(cfg.steps), window, weighed, stream, x)
    log_z = weighed.log_w.logsumexp(-1) - math.log(particles)
    top = float(log_z.max())
    if top == -math.inf:
        return math.inf, math.nan
    z = (log_z - top).exp()
    return -top - math.log(float(z.mean())), float(z.std() / z.mean()) / math.sqrt(GROUPS)
