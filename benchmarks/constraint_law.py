"""What law does a whole sampling run have, under constraints? Enumerable toys, exact denoisers.

Sequences of 6 tokens over 3 symbols, so the exact denoiser is a table and every target a vector. Two data laws live on
a *learned* support (a ring of allowed transitions): a Markov chain, and a mixture of two. One *imposed* constraint
conditions dense data: no "0 1" anywhere and exactly two "2"s. Each joint law of `core.constrain` runs at 1, 2, 3 and
all sites per step; `independent` is the sampler without constraint, its share of valid sequences beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._laws import Lookup
from benchmarks._oracle import Oracle, index, sequences, total_variation
from benchmarks.harness import Bar, Result
from core.constrain.automaton import Automaton, counter, forbid
from core.constrain.law import Free
from core.constrain.regular import law
from core.finetune.particles import impose
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.sample import denoise
from core.solvers.tokens import FirstHitting

__all__ = ["run"]

K, LENGTH, CHUNK, PARTICLES = 3, 6, 20_000, 256


@dataclass(eq=False)
class Toy:
    """A data law, its learned support with reference chain, and what is imposed (None: nothing)."""

    name: str
    data: Tensor
    learned: Automaton
    imposed: Automaton | None = None

    @property
    def target(self) -> Tensor:
        """Return the data law conditioned on what is imposed, [K^L]."""
        if self.imposed is None:
            return self.data
        held = torch.from_numpy(self.imposed.accepts(sequences(K, LENGTH).numpy()))
        return torch.where(held, self.data, 0.0) / self.data[held].sum()

    def constraint(self, rows: int, mode: Any):  # noqa: ANN201
        """Return the law for the sampler."""
        if self.imposed is None:
            return replace(law(self.learned, rows, LENGTH, mode), tolerance=1e-6, sweeps=20)
        return replace(law(self.imposed, rows, LENGTH, mode, learned=self.learned), tolerance=1e-6, sweeps=20)


class Still(Lookup):
    """The exact denoiser of absorbing noise, which does not depend on time."""

    def all(self, t: float) -> Tensor:
        """Return its log-probabilities at every state."""
        return super().all(0.5)


def chain(seed: int, ring: bool) -> Automaton:
    """Return a random Markov chain as a weighted automaton; on the ring no token follows its predecessor modulo 3."""
    rng = np.random.default_rng(seed)
    move = rng.random((K + 1, K)) ** 2 + 0.05
    if ring:
        move[np.arange(1, K + 1), (np.arange(K) + 2) % K] = 0
    move /= move.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        weight = np.where(move > 0, np.log(move), 0.0)
    return Automaton(np.where(move > 0, np.arange(1, K + 1), -1), np.ones(K + 1, bool), 0, weight)


def law_of(automaton: Automaton) -> Tensor:
    """Return the law of a chain over all sequences, [K^L]."""
    return torch.from_numpy(np.exp(automaton.log_prob(sequences(K, LENGTH).numpy())))


def toys() -> list[Toy]:
    """Return the learned Markov law, the learned mixture, and the imposed law on dense data."""
    one, two, dense = chain(0, True), chain(5, True), chain(1, False)
    assert one.log_weight is not None and two.log_weight is not None
    pooled = replace(one, log_weight=np.logaddexp(one.log_weight, two.log_weight) - np.log(2))
    rule = forbid([(0, 1)], K) & counter([0, 0, 1], 2, 2)
    return [
        Toy("learned support, Markov data", law_of(one), one),
        Toy("learned support, mixture of chains", (law_of(one) + law_of(two)) / 2, pooled),
        Toy("imposed on dense data", law_of(dense), dense, rule),
    ]


def sampled(toy: Toy, net: Lookup, mode: str, count: int, draws: int) -> tuple[float, float]:
    """Return total variation to the target and the share of valid draws, at `count` sites per step."""
    seen = torch.zeros(K**LENGTH, dtype=torch.float64)
    rows, steps = min(CHUNK, draws), -(-LENGTH // count)
    constraint = Free(rows, K) if mode == "independent" else toy.constraint(rows, mode)
    window = constraint.window(constraint.begin(), np.arange(rows), LENGTH, 0)
    for first in range(0, draws, rows):
        x = torch.full((rows, LENGTH), K)
        stream = Stream.of(0, rows, first)
        x = denoise(net, net.oracle.process, uniform_plan(steps), window, FirstHitting(count), stream, x)
        seen += torch.bincount(index(x, K), minlength=K**LENGTH)
    return total_variation(seen / seen.sum(), toy.target), float(seen[toy.target > 0].sum() / seen.sum())


def steered(toy: Toy, net: Lookup, groups: int) -> float:
    """Return the total variation of a weighted particle, one site per step, averaged over independent groups."""
    seen, batch = torch.zeros(K**LENGTH, dtype=torch.float64), 40
    constraint = toy.constraint(batch * PARTICLES, "product")
    window = constraint.window(constraint.begin(), np.arange(batch * PARTICLES), LENGTH, 0)
    for first in range(0, groups, batch):
        stream = Stream.of(0, batch * PARTICLES, first * PARTICLES)
        x = torch.full((batch * PARTICLES, LENGTH), K)
        x, log_w = impose(net, net.oracle.process, uniform_plan(LENGTH), window, FirstHitting(), stream, x, PARTICLES)
        seen.index_add_(0, index(x, K), log_w.softmax(-1).reshape(-1))
    return total_variation(seen / seen.sum(), toy.target)


def run(full: bool) -> Result:
    """Measure; `full` draws five times as often."""
    draws, groups = (1_000_000, 2000) if full else (200_000, 200)
    figures: dict[str, dict[str, list[float]]] = {}
    best = {}
    for toy in toys():
        net = Still(Oracle(toy.data, Categorical.absorbing(K), LENGTH))
        found: dict[str, list[float]] = {}
        for mode in ("independent", "product", "exists", "reference", "reference-all"):
            most = draws if mode == "exists" else draws // 10
            pairs = [sampled(toy, net, mode, n, most if n == 1 else draws // 10) for n in (1, 2, 3, LENGTH)]
            found[mode] = [p[0] for p in pairs]
            found[f"{mode}, valid"] = [p[1] for p in pairs]
        if toy.imposed is not None:
            found["256 particles"] = [steered(toy, net, groups)]
        figures[toy.name], best[toy.name] = found, found
    names = list(best)
    bars = [Bar(f"{n}: exists, one site per step: total variation to the data", best[n]["exists"][0], "<=", 0.01)
            for n in names[:2]]  # fmt: skip
    claim = f"{names[2]}: 256 particles: total variation to the conditioned data"
    bars.append(Bar(claim, best[names[2]]["256 particles"][0], "<=", 0.05))
    valid = min(min(v) for f in figures.values() for k, v in f.items() if "valid" in k and "independent" not in k)
    bars.append(Bar("valid sequences, every joint law and number of sites", valid, "==", 1.0))
    units = {"*": "total variation at 1, 2, 3 and 6 sites per step", "*, valid": "share of admissible draws"}
    notes = f"{draws} draws of `exists` at one site per step, a tenth elsewhere; particles: {groups} x 256, weighted."
    return Result(figures, bars, units, notes=notes)
