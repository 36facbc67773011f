"""From automata to samplers: the `Law` of an automaton on sequences of one length, and why there may be none.

A state graph labels its *states* with tokens, so the node (q, v) stands for "in state q, having read v". Sequences have
a fixed length, hence a node may be acceptable after exactly r more tokens for some r and not for others: the law
carries that whole table.

`law(imposed, learned=...)` tells apart what is asked for from what the data obey anyway. The learned law is a weighted
automaton, most simply `count(sequences)`; the prediction is fitted to it first and conditioned on the rest afterwards,
which is exact for Markov data at any number of sites at once.

**The shortest reason.** Of named constraints that together admit nothing, one after the other is left out; it stays out
if the rest still admit nothing. What remains is a conflict of which no part can be spared (a deletion filter). The
first site that blocks is the first at which no prefix leaves each of these constraints, taken alone, something to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np

from core.constrain.automaton import Automaton, product
from core.constrain.graph import StateGraph
from core.constrain.law import Law, Learned, Mode
from core.errors import InfeasibleError, UsageError

__all__ = ["conflict", "feasible", "law", "state_graph"]


def state_graph(automaton: Automaton) -> tuple[StateGraph, np.ndarray]:
    """Return the automaton as a state graph, and the pairs (q, last token) that its states are, int64 [S, 2].

    State 0 is the start, which has read nothing (token -1).
    """
    delta = automaton.delta
    q, v = np.nonzero(delta >= 0)
    pairs = np.unique(np.column_stack([delta[q, v], v]), axis=0)
    nodes = np.concatenate([[[automaton.start, -1]], pairs])
    code = pairs[:, 0] * automaton.tokens + pairs[:, 1]
    legal = delta[nodes[:, 0]] >= 0
    source, token = np.nonzero(legal)
    target = delta[nodes[source, 0], token]
    succ = 1 + np.searchsorted(code, target * automaton.tokens + token)
    ptr = np.concatenate([[0], np.cumsum(legal.sum(1))])
    weight = None if automaton.log_weight is None else automaton.log_weight[nodes[source, 0], token]
    label = np.maximum(nodes[:, 1], 0).astype(np.int32)
    return StateGraph(ptr, succ.astype(np.int32), automaton.tokens, label, weight), nodes


def law(imposed: Automaton, rows: int, length: int, mode: Mode = "exists", learned: Automaton | None = None) -> Law:
    """Return the constraint of B sequences of `length` tokens that an automaton accepts.

    Args:
        imposed: the law; its log-weights are the reference chain where `learned` is None.
        rows: batch size B.
        length: tokens of a sequence.
        mode: which joint law reveals are drawn from.
        learned: the law that the data obey anyway, with its reference chain.

    Raises:
        InfeasibleError: no sequence of this length is accepted.
    """
    whole, pair = (imposed, None) if learned is None else product(learned, imposed)
    graph, nodes = state_graph(whole)
    exact = whole.completable(length)[:, nodes[:, 0]]
    if not exact[length, 0]:
        raise InfeasibleError(f"no sequence of {length} tokens is accepted", field="constraint")
    togo = graph.togo(np.flatnonzero(exact[0]))[None]
    start, group = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    below = None
    if learned is not None and pair is not None:
        below = Learned(law(learned, rows, length), _below(nodes, pair, state_graph(learned)[1], learned.tokens))
    return Law(graph, start, togo, group, exact, mode, full=True, learned=below)


def _below(nodes: np.ndarray, pair: np.ndarray, base: np.ndarray, tokens: int) -> np.ndarray:
    """Return the learned law's state for each state of the product, int64 [S]."""
    code = base[1:, 0] * tokens + base[1:, 1]
    return np.where(nodes[:, 1] < 0, 0, 1 + np.searchsorted(code, pair[nodes[:, 0], 0] * tokens + nodes[:, 1]))


def feasible(constraints: Mapping[str, Automaton], length: int) -> Automaton:
    """Return the intersection of named constraints, minimised.

    Raises:
        UsageError: there are none, and hence no alphabet (`anything` is the law of no constraint).
        InfeasibleError: no sequence of `length` tokens obeys them all; names a smallest conflict and the first site.
    """
    if not constraints:
        raise UsageError("needs one or more", field="constraints", hint="`anything` admits every sequence")
    found = conflict(constraints, length)
    if found is None:
        return reduce(lambda a, b: (a & b).minimise(), constraints.values())
    names, site = found
    who = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    why = "cannot be met" if len(names) == 1 else "contradict each other"
    where = f"within {length} tokens" if site is None else f"at site {site} of {length}"
    raise InfeasibleError(f"{who} {why} {where}", field="constraints", hint=f"drop or relax {names[-1]}")


def conflict(constraints: Mapping[str, Automaton], length: int) -> tuple[list[str], int | None] | None:
    """Return a conflict of which no part can be spared and the first site that blocks; None where all is well.

    The site is None where a single constraint has no sequence of this length at all.
    """
    names = list(constraints)
    if not names or _admits([constraints[n] for n in names], length):
        return None
    for name in list(names):
        rest = [n for n in names if n != name]
        if rest and not _admits([constraints[n] for n in rest], length):
            names = rest
    return names, _first_block([constraints[n] for n in names], length)


def _admits(automata: list[Automaton], length: int) -> bool:
    whole = reduce(lambda a, b: (a & b).minimise(), automata)
    return bool(whole.completable(length)[length, whole.start])


def _first_block(automata: list[Automaton], length: int) -> int | None:
    ahead = [a.completable(length) for a in automata]
    here = {tuple(a.start for a in automata)}
    if not all(t[length, a.start] for t, a in zip(ahead, automata, strict=True)):
        return None
    for site in range(length):
        left = length - site - 1
        steps = (tuple(int(a.delta[q, v]) for a, q in zip(automata, state, strict=True))
                 for state in here for v in range(automata[0].tokens))  # fmt: skip
        here = {to for to in steps if all(q >= 0 and t[left, q] for t, q in zip(ahead, to, strict=True))}
        if not here:
            return site
    return length
