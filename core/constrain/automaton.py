"""Finite automata: laws over sequences of a small alphabet, and their algebra.

A deterministic automaton reads tokens 0 ... K-1. In state q it reads v and goes to delta(q, v), or refuses (-1); it
accepts a sequence that ends in an accepting state. Whatever can be said by finite memory is one:

    contains(P)    somewhere a window matches the pattern P, a list of allowed token sets   (sets of positions of P)
    avoids(P)      nowhere does                                                             (its complement)
    forbid(words)  none of these words occurs                   (a trie with falls, Aho and Corasick 1975)
    counter(c)     low <= sum c(x_i) <= high                    (the sum so far, held at low if unbounded)
    sites(A)       x_i in A_i at every site                     (the site's number)

and so is every intersection `a & b`, union `a | b` and complement `~a` (pairs of states; only those reachable are
made). `minimise` merges states with equal futures (Moore 1956, partition refinement) and prunes those without one.

An automaton may carry log-weights, the *reference chain* of the `reference` laws: `count` estimates an order-k Markov
chain from sequences, its states the last k tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from core.errors import UsageError

__all__ = ["Automaton", "anything", "avoids", "contains", "count", "counter", "forbid", "product", "sites"]


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic finite automaton.

    Args:
        delta: int64 [Q, K], the next state; -1 refuses.
        accept: bool [Q].
        start: the first state.
        log_weight: float64 [Q, K] reference chain, or None.
    """

    delta: Int[np.ndarray, "q k"]
    accept: Bool[np.ndarray, " q"]
    start: int = 0
    log_weight: Float[np.ndarray, "q k"] | None = None

    @property
    def states(self) -> int:
        """Number of states Q."""
        return len(self.delta)

    @property
    def tokens(self) -> int:
        """Size of the alphabet K."""
        return self.delta.shape[1]

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the state after each sequence of x [..., L], -1 where refused."""
        x = np.asarray(x, np.int64)
        q = np.full(x.shape[:-1], self.start)
        for i in range(x.shape[-1]):
            q = np.where(q >= 0, self.delta[q, x[..., i]], -1)
        return q

    def accepts(self, x: np.ndarray) -> np.ndarray:
        """Return which sequences of x [..., L] are accepted, bool [...]."""
        q = self.run(x)
        return (q >= 0) & self.accept[q]

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return the summed log-weights of sequences [..., L], -inf where refused on the way."""
        x = np.asarray(x, np.int64)
        q, total = np.full(x.shape[:-1], self.start), np.zeros(x.shape[:-1])
        for i in range(x.shape[-1]):
            step = 0.0 if self.log_weight is None else self.log_weight[q, x[..., i]]
            total, q = total + step, np.where(q >= 0, self.delta[q, x[..., i]], -1)
        return np.where(q >= 0, total, -np.inf)

    def completable(self, length: int) -> Bool[np.ndarray, "lengths q"]:
        """Return from which states exactly r more tokens can end in acceptance, bool [length + 1, Q]."""
        out = np.empty((length + 1, self.states), bool)
        out[0] = self.accept
        for r in range(length):
            out[r + 1] = (out[r][self.delta] & (self.delta >= 0)).any(1)
        return out

    def complete(self) -> Automaton:
        """Return the same law with a refusing state in the place of -1."""
        sink = np.full((1, self.tokens), self.states)
        delta = np.concatenate([np.where(self.delta < 0, self.states, self.delta), sink])
        return Automaton(delta, np.append(self.accept, False), self.start)

    def __invert__(self) -> Automaton:
        """Return the law that accepts what this one does not (the reference chain is dropped)."""
        whole = self.complete()
        return replace(whole, accept=~whole.accept)

    def __and__(self, other: Automaton) -> Automaton:
        """Return the intersection; reference chains multiply."""
        return product(self, other)[0]

    def __or__(self, other: Automaton) -> Automaton:
        """Return the union (reference chains are dropped)."""
        return product(self.complete(), other.complete(), np.logical_or)[0]

    def minimise(self) -> Automaton:
        """Return the smallest automaton of this law and reference chain, its start state 0."""
        live = self._alive()
        delta = np.where((self.delta >= 0) & live[self.delta], self.delta, -1)
        weight = np.zeros(delta.shape) if self.log_weight is None else np.where(delta < 0, 0.0, self.log_weight)
        kind = _classes(self.accept & live, live, weight)
        while True:
            following = np.where(delta >= 0, kind[delta], -1)
            finer = _classes(kind, following)
            if finer.max() == kind.max():
                break
            kind = finer
        _, first = np.unique(kind, return_index=True)
        small = Automaton(
            np.where(delta >= 0, kind[delta], -1)[first], (self.accept & live)[first], int(kind[self.start]),
            None if self.log_weight is None else weight[first],
        )  # fmt: skip
        return small._reachable()

    def _alive(self) -> np.ndarray:
        """Return which states have some accepted future, bool [Q]."""
        live = self.accept.copy()
        while True:
            more = live | (live[self.delta] & (self.delta >= 0)).any(1)
            if (more == live).all():
                return live
            live = more

    def _reachable(self) -> Automaton:
        """Return the automaton on the states that the start reaches, numbered as they are met."""
        return product(self, anything(self.tokens))[0]


def product(
    a: Automaton, b: Automaton, accept: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.logical_and
) -> tuple[Automaton, Int[np.ndarray, "q 2"]]:
    """Return the automaton of reachable pairs, and the pairs themselves, int64 [Q, 2].

    Args:
        a, b: automata over one alphabet; a pair refuses where either does.
        accept: how their acceptance combines.

    Raises:
        UsageError: the alphabets differ.
    """
    if a.tokens != b.tokens:
        raise UsageError("the automata read different alphabets", field="tokens", value=(a.tokens, b.tokens))
    number = {(a.start, b.start): 0}
    pairs, rows = [(a.start, b.start)], []
    for p, q in pairs:  # grows while it is read
        row = []
        for to in zip(a.delta[p].tolist(), b.delta[q].tolist(), strict=True):
            if min(to) >= 0 and to not in number:
                number[to] = len(pairs)
                pairs.append(to)
            row.append(number[to] if min(to) >= 0 else -1)
        rows.append(row)
    pair = np.array(pairs, np.int64)
    weights = [w.log_weight[pair[:, i]] for i, w in enumerate((a, b)) if w.log_weight is not None]
    both = accept(a.accept[pair[:, 0]], b.accept[pair[:, 1]])
    joined = np.sum(weights, axis=0) if weights else None
    return Automaton(np.array(rows, np.int64), both, 0, joined), pair


def anything(tokens: int) -> Automaton:
    """Return the law that accepts every sequence."""
    return Automaton(np.zeros((1, tokens), np.int64), np.ones(1, bool))


def contains(pattern: Sequence[Iterable[int]], tokens: int) -> Automaton:
    """Return the law of sequences in which some window matches a pattern: token x_{i+j} is in `pattern[j]`.

    States are the sets of pattern positions reached so far; the last one, once a match is complete, absorbs.
    """
    allowed = [frozenset(p) for p in pattern]
    _check({v for p in allowed for v in p}, tokens, "pattern")
    done = frozenset([len(allowed)])
    number, order, rows = {frozenset([0]): 0}, [frozenset([0])], []
    if not allowed:
        return anything(tokens)
    for state in order:  # grows while it is read
        row = []
        for v in range(tokens):
            to = frozenset([0, *(j + 1 for j in state if j < len(allowed) and v in allowed[j])])
            to = done if len(allowed) in to or state == done else to
            if to not in number:
                number[to] = len(order)
                order.append(to)
            row.append(number[to])
        rows.append(row)
    return Automaton(np.array(rows, np.int64), np.array([s == done for s in order]))


def avoids(pattern: Sequence[Iterable[int]], tokens: int) -> Automaton:
    """Return the law of sequences in which no window matches a pattern."""
    return (~contains(pattern, tokens)).minimise()


def forbid(words: Iterable[Sequence[int]], tokens: int) -> Automaton:
    """Return the law of sequences in which none of the words occurs.

    States are the prefixes of words; a state falls to its longest suffix that is a prefix (Aho and Corasick 1975).
    """
    texts = [tuple(int(v) for v in w) for w in words]
    _check({v for w in texts for v in w}, tokens, "words")
    prefixes = sorted({w[:n] for w in texts for n in range(len(w) + 1)} | {()}, key=lambda p: (len(p), p))
    number = {p: i for i, p in enumerate(prefixes)}
    delta = np.zeros((len(prefixes), tokens), np.int64)
    fall = np.zeros(len(prefixes), np.int64)
    bad = np.array([p in set(texts) for p in prefixes])
    for i, p in enumerate(prefixes):  # shorter prefixes first, so that where they fall to is known
        bad[i] |= bad[fall[i]]
        for v in range(tokens):
            child = number.get((*p, v))
            delta[i, v] = child if child is not None else (delta[fall[i], v] if p else 0)
            if child is not None:
                fall[child] = delta[fall[i], v] if p else 0
    return Automaton(np.where(bad[delta], -1, delta), ~bad)._reachable()


def counter(cost: Sequence[int], low: int = 0, high: int | None = None) -> Automaton:
    """Return the law low <= sum of costs <= high.

    Args:
        cost: int >= 0 of each token; its length is the alphabet.
        low, high: bounds, `high` None for none.

    Raises:
        UsageError: a negative cost or bound, or low > high.
    """
    price = np.asarray(cost, np.int64)
    if (price < 0).any():
        raise UsageError("costs may not be negative", field="cost", value=int(price.min()))
    if low < 0 or (high is not None and low > high):
        raise UsageError("must lie between 0 and the high bound", field="low", value=low)
    top = low if high is None else high
    total = np.arange(top + 1)[:, None] + price
    delta = np.minimum(total, top) if high is None else np.where(total > top, -1, total)
    return Automaton(delta, np.arange(top + 1) >= low)


def sites(allowed: np.ndarray | Sequence[Iterable[int]], tokens: int) -> Automaton:
    """Return the law of sequences of one length whose token at site i is in `allowed[i]` (sets, or bool [L, K])."""
    table = np.zeros((len(allowed), tokens), bool)
    for i, values in enumerate(allowed):
        values = np.asarray(list(values))
        values = values if len(values) else values.astype(np.int64)  # a site that nothing may stand at
        _check(set() if values.dtype == bool else set(values.tolist()), tokens, f"sites[{i}]")
        table[i, values] = True
    length = len(table)
    delta = np.where(table, np.arange(1, length + 1)[:, None], -1)
    return Automaton(np.concatenate([delta, np.full((1, tokens), -1)]), np.arange(length + 1) == length)


def count(
    sequences: np.ndarray | Sequence[Sequence[int]], tokens: int, order: int = 1, prior: float = 0.1
) -> Automaton:
    """Return the order-k Markov chain of some sequences as a weighted automaton that accepts everything.

    States are the last tokens read, at most `order` of them, so the first tokens have their own law.

    Args:
        sequences: token sequences.
        tokens: size of the alphabet.
        order: length k of the memory.
        prior: count added to every transition; 0 forbids what never occurred.
    """
    words = [tuple(int(v) for v in x) for x in sequences]
    total: dict[tuple[int, ...], np.ndarray] = {(): np.full(tokens, prior)}
    for x in words:
        for i, v in enumerate(x):
            past = x[max(0, i - order) : i]
            total.setdefault(past, np.full(tokens, prior))[v] += 1
    states: list[tuple[int, ...]] = [()]
    rows = []
    number: dict[tuple[int, ...], int] = {(): 0}
    for past in states:  # grows while it is read
        seen = total.get(past, np.full(tokens, prior))
        row = []
        for v in range(tokens):
            to = (*past, v)[-order:] if order else ()
            if seen[v] > 0 and to not in number:
                number[to] = len(states)
                states.append(to)
            row.append(number[to] if seen[v] > 0 else -1)
        rows.append(row)
    weight = np.stack([total.get(past, np.full(tokens, prior)) for past in states])
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.log(weight / weight.sum(1, keepdims=True))
    return Automaton(np.array(rows, np.int64), np.ones(len(states), bool), 0, np.where(np.isnan(weight), 0.0, weight))


def _classes(*columns: np.ndarray) -> np.ndarray:
    """Number the distinct rows of some columns: int64 [Q]."""
    return np.unique(np.column_stack(columns), axis=0, return_inverse=True)[1].reshape(-1)


def _check(values: set[int], tokens: int, field: str) -> None:
    wrong = [v for v in values if not 0 <= v < tokens]
    if wrong:
        raise UsageError(f"tokens are 0 ... {tokens - 1}", field=field, value=wrong[0])
