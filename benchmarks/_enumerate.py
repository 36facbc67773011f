"""Laws of constrained sequences by brute force: every sequence, its acceptance and its weight, nothing clever.

`accepts` and `weight` walk the tables token by token; the joint laws are vectors over all sequences.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.constrain.automaton import Automaton, avoids, contains, count, counter, forbid, sites
from core.constrain.graph import StateGraph
from core.constrain.law import Law
from core.constrain.regular import law

__all__ = ["Case", "cases", "exists_law", "product_law", "reference_law"]


@dataclass(eq=False)
class Case:
    """A small law: `build(rows)` the constraint, `x` [N, L] all admissible sequences, `log_w` [N] chain weights."""

    name: str
    tokens: int
    length: int
    build: Callable[[int], Law]
    x: Tensor
    log_w: Tensor


def regular_case(name: str, automaton: Automaton, length: int) -> Case:
    """Return the case of an automaton: sequences filtered by running it."""
    every = np.array(list(itertools.product(range(automaton.tokens), repeat=length)))
    x = every[automaton.accepts(every)]
    weight = torch.from_numpy(automaton.log_prob(x))
    return Case(name, automaton.tokens, length, lambda rows: law(automaton, rows, length), torch.from_numpy(x), weight)


def road_case(name: str, arrows: dict[int, list[int]], start: int, goal: int, budget: int, seed: int = 0) -> Case:
    """Return walks from `start` to `goal` within a budget of hops; who has arrived stays. Weights are random."""
    n = len(arrows)
    ptr = np.cumsum([0, *(len(arrows[s]) for s in range(n))])
    succ = np.array([t for s in range(n) for t in arrows[s]], np.int32)
    weight = np.log(np.random.default_rng(seed).random(len(succ)) + 0.1)
    price = {(s, t): weight[ptr[s] + j] for s in range(n) for j, t in enumerate(arrows[s])}
    graph = StateGraph(ptr.astype(np.int64), succ, n, log_weight=weight)
    walks, total = [], []
    for x in itertools.product(range(n), repeat=budget):
        steps = list(itertools.pairwise((start, *x)))
        if x[-1] == goal and all((s == t == goal) or (s != goal and (s, t) in price) for s, t in steps):
            walks.append(x)
            total.append(sum(price[p] for p in steps if p[0] != goal))
    togo = graph.togo(np.array([goal]))[None]

    def build(rows: int) -> Law:
        return Law(graph, np.full(rows, start), togo, np.zeros(rows, np.int64), full=True)

    return Case(name, n, budget, build, torch.tensor(walks), torch.tensor(total, dtype=torch.float64))


def cases() -> list[Case]:
    """Return four automata and three graphs with 30 to 200 admissible sequences each."""
    rng = np.random.default_rng(3)
    bigram = count(rng.integers(0, 3, (40, 6)), 3, order=2)
    words = forbid([(0, 1), (2, 2, 2), (1, 0, 2)], 3)
    pattern = contains([{0, 1}, {2}, {1, 2}], 3) & avoids([{2}, {0}], 3)
    budget = counter([0, 1, 2], 4, 6) & sites([{0, 1}, {0, 1, 2}, {1, 2}, {0, 1, 2}, {0, 2}, {0, 1, 2}], 3)
    ring = {0: [1, 2], 1: [2, 3], 2: [3, 0], 3: [4, 1], 4: [0, 3]}
    grid = {s: [t for t in (s - 1, s + 1, s - 3, s + 3) if 0 <= t < 6 and (abs(s - t) == 3 or s // 3 == t // 3)]
            for s in range(6)}  # fmt: skip
    web = {0: [1, 2, 3], 1: [0, 4], 2: [1, 3, 4], 3: [0, 2, 5], 4: [5, 2], 5: [3, 4]}
    return [
        regular_case("forbidden words", words, 6),
        regular_case("required and forbidden patterns", pattern, 6),
        regular_case("counter and allowed sets", budget, 6),
        regular_case("trigram chain and a union", bigram & (forbid([(1,)], 3) | contains([{0}, {0}], 3)), 5),
        road_case("one-way ring", ring, 0, 4, 7),
        road_case("two-way grid", grid, 0, 5, 7),
        road_case("web of roads", web, 1, 3, 6),
    ]


def product_law(case: Case, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the law of independent sites [L, K] conditioned on the case, [N], and the log-probability of the case."""
    score = log_p[torch.arange(case.length), case.x].sum(-1)
    return score.softmax(0), score.logsumexp(0)


def exists_law(case: Case, log_p: Tensor, reveal: Tensor) -> Tensor:
    """Return the law of the sites `reveal` [R] drawn left to right among values with a completion, [N] summed to R."""
    out = torch.ones(len(case.x), dtype=torch.float64)
    for j, site in enumerate(reveal.tolist()):
        for row in range(len(case.x)):
            same = (case.x[:, reveal[:j]] == case.x[row, reveal[:j]]).all(-1)
            options = case.x[same, site].unique()
            out[row] *= log_p[site, options].softmax(0)[options == case.x[row, site]].item()
    return out


def reference_law(case: Case, log_p: Tensor, reveal: Tensor, sweeps: int = 2000) -> Tensor:
    """Return the chain fitted to the prediction's marginals at `reveal` by scaling the whole vector, [N]."""
    p = case.log_w.softmax(0)
    for _ in range(sweeps):
        before = p
        for site in reveal.tolist():
            value = case.x[:, site]
            now = torch.zeros(case.tokens, dtype=torch.float64).index_add(0, value, p)
            want = log_p[site].masked_fill(now == 0, -torch.inf).softmax(0)
            p = p * (want / now.clamp_min(1e-300))[value]
        if float((p - before).abs().max()) < 1e-16:
            break
    return p
