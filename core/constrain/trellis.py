"""The window of a law: all admissible continuations of L tokens as a layered graph, row by row.

Layer 0 holds the row's present state, layer i the states that i further tokens can lead to and from which the
whole sequence can still be accepted within its budget. Only this cone is ever scored, so the cost of a window does
not grow with the size of the city. Nodes lie row by row and layer by layer; tokens are renumbered per row into a
local alphabet of the tokens that occur in the window.

**exists** draws. Let R be the sites revealed now, `known` the tokens fixed before. Going left to right, a site of R is
drawn from the prediction restricted to the tokens from which an admissible completion exists given everything known
and drawn so far; the other sites contribute feasibility only. One site at a time this is the prediction itself
(conditioned on admissibility), so an exact denoiser yields the exact law.

*Invariant*: after any reveal some completion exists, since each value is drawn among those that have one. Hence no
dead ends, at any number of steps and in any order of sites.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from core.constrain.graph import StateGraph
from core.errors import InfeasibleError
from core.jit import jit

__all__ = ["Trellis", "unroll"]


@dataclass(eq=False)
class Trellis:
    """Layered continuations of B rows over a window of L tokens.

    Args:
        layer: int64 [B, L + 2]; nodes of row b in layer i are `layer[b, i]:layer[b, i + 1]`.
        state: int64 [nodes], state of each node in the law's state graph.
        token: int32 [nodes], local token of each node (-1 in layer 0).
        edge_ptr: int64 [nodes + 1]; edges of a node are `edge[edge_ptr[n]:edge_ptr[n + 1]]`.
        edge: int64 [edges], destination nodes.
        log_weight: float64 [edges], the reference law's weights (zeros where the law has none).
        alphabet: int64 [B, K], global token of each local one, -1 where a row has fewer.
    """

    layer: Int[np.ndarray, "b layers"]
    state: Int[np.ndarray, " nodes"]
    token: Int[np.ndarray, " nodes"]
    edge_ptr: Int[np.ndarray, " ptr"]
    edge: Int[np.ndarray, " edges"]
    log_weight: Float[np.ndarray, " edges"]
    alphabet: Int[np.ndarray, "b k"]

    @property
    def length(self) -> int:
        """Number of tokens L in the window."""
        return self.layer.shape[1] - 2

    def feasible(self, known: Int[np.ndarray, "b l"]) -> Bool[np.ndarray, "b l k"]:
        """Return which tokens lie on an admissible completion, bool [B, L, K].

        Args:
            known: int64 [B, L], local token or -1 where unknown.
        """
        return _feasible(self.layer, self.token, self.edge_ptr, self.edge, known, self.alphabet.shape[1])

    def exists(
        self,
        log_p: Float[np.ndarray, "b l k"],
        known: Int[np.ndarray, "b l"],
        reveal: Bool[np.ndarray, "b l"],
        u: Float[np.ndarray, "b l"],
        greedy: bool = False,
    ) -> Int[np.ndarray, "b l"]:
        """Draw the sites of `reveal` by the *exists* law; int64 [B, L] with `known` elsewhere.

        Args:
            log_p: float64 [B, L, K], the prediction.
            known: int64 [B, L], local token or -1.
            reveal: bool [B, L].
            u: float64 [B, L] uniforms.
            greedy: take the most likely value instead of a draw.
        """
        return _exists(self.layer, self.token, self.edge_ptr, self.edge, log_p, known, reveal, u, greedy)

    def arrive(self, tokens: Int[np.ndarray, "b l"]) -> Int[np.ndarray, " b"]:
        """Return the state after a whole window of local `tokens` [B, L], int64 [B]; -1 where inadmissible."""
        return _arrive(self.layer, self.token, self.state, self.edge_ptr, self.edge, tokens)


def unroll(
    law: StateGraph,
    start: Int[np.ndarray, " b"],
    length: int,
    remaining: int | np.ndarray,
    togo: Int[np.ndarray, "g s"],
    group: Int[np.ndarray, " b"],
    exact: Bool[np.ndarray, " s"] | None = None,
    full: bool = False,
) -> Trellis:
    """Unroll `length` tokens of a law from each row's state, keeping only what can still be accepted.

    Args:
        law: the state graph.
        start: int64 [B] present states.
        length: tokens in the window.
        remaining: tokens left after the window, one number or int64 [B].
        togo: int32 [G, S], tokens to acceptance (`StateGraph.togo`) of each group of rows.
        group: int64 [B], the group of each row.
        exact: bool [S], states that are acceptable after exactly `remaining` more tokens; None: those with
            `togo <= remaining`, accepting states (`togo = 0`) only looping on themselves ("arrived").
        full: number tokens globally (small alphabets) instead of locally.

    Raises:
        InfeasibleError: a row has no admissible continuation.
    """
    table = np.zeros(0, np.bool_) if exact is None else np.asarray(exact, np.bool_)
    weights = np.zeros(0) if law.log_weight is None else law.log_weight
    more = np.broadcast_to(np.asarray(remaining, np.int64), (len(start),)).copy()
    bad, layer, state, edge_ptr, edge, weight = _unroll(
        law.succ_ptr, law.succ, weights, np.asarray(start, np.int64), length, more,
        togo, np.asarray(group, np.int64), table,
    )  # fmt: skip
    if bad >= 0:
        raise InfeasibleError(f"row {bad}: no admissible continuation of {length} tokens with {more[bad]} more to come")
    word = law.labels[state]
    if full:
        token, alphabet = word.copy(), np.broadcast_to(np.arange(law.tokens), (len(start), law.tokens))
        token[layer[:, 0]] = -1
    else:
        token, sizes, words = _number(layer, word, law.tokens)
        alphabet = np.full((len(start), int(sizes.max())), -1, np.int64)
        alphabet[np.arange(alphabet.shape[1]) < sizes[:, None]] = words
    return Trellis(layer, state, token, edge_ptr, edge, weight, alphabet)


@jit
def _grow(array: np.ndarray, size: int) -> np.ndarray:
    if size <= len(array):
        return array
    out = np.empty(max(size, 2 * len(array)), array.dtype)
    out[: len(array)] = array
    return out


@jit
def _arrows(succ_ptr, state, togo, loops):
    """Return the arrows out of a state; an accepting state of a looping law has one, to itself."""
    if loops and togo[state] == 0:
        return 0, 1, True
    return succ_ptr[state], succ_ptr[state + 1], False


@jit
def _spread(succ_ptr, succ, start, length, remaining, togo, loops, layers, nodes, stamp, clock):
    """Breadth-first layers of one row; `stamp` remembers in which layer a state was last met."""
    nodes = _grow(nodes, 1)
    nodes[0], layers[0], layers[1], size = start, 0, 1, 1
    for i in range(length):
        clock += 1
        for a in range(layers[i], layers[i + 1]):
            low, high, arrived = _arrows(succ_ptr, nodes[a], togo, loops)
            for e in range(low, high):
                s = nodes[a] if arrived else succ[e]
                if stamp[s] != clock and togo[s] <= remaining + length - 1 - i:
                    stamp[s] = clock
                    nodes = _grow(nodes, size + 1)
                    nodes[size] = s
                    size += 1
        layers[i + 2] = size
    return nodes, clock


@jit
def _prune(succ_ptr, succ, length, togo, loops, layers, nodes, alive, stamp, where, clock):
    """Mark in `alive` (given for the last layer) the nodes of one row that lead on; return how many edges do."""
    edges = 0
    for i in range(length - 1, -1, -1):
        clock += 1
        for a in range(layers[i + 1], layers[i + 2]):
            stamp[nodes[a]], where[nodes[a]] = clock, a
        for a in range(layers[i], layers[i + 1]):
            low, high, arrived = _arrows(succ_ptr, nodes[a], togo, loops)
            for e in range(low, high):
                t = nodes[a] if arrived else succ[e]
                if stamp[t] == clock and alive[where[t]]:
                    alive[a] = True
                    edges += 1
    return edges, clock


@jit
def _connect(
    succ_ptr, succ, weights, togo, loops, layers, nodes, alive, stamp, where, clock,
    layer, state, ptr, edge, weight, n_nodes, n_edges,
):  # fmt: skip
    """Write the living nodes and edges of one row behind those of the rows before."""
    length = len(layers) - 2
    number = np.cumsum(alive) - 1 + n_nodes
    for i in range(length + 1):
        layer[i] = n_nodes
        if i < length:
            clock += 1
            for a in range(layers[i + 1], layers[i + 2]):
                stamp[nodes[a]], where[nodes[a]] = clock, a
        for a in range(layers[i], layers[i + 1]):
            if not alive[a]:
                continue
            low, high, arrived = _arrows(succ_ptr, nodes[a], togo, loops)
            for e in range(low, high if i < length else low):
                t = nodes[a] if arrived else succ[e]
                if stamp[t] == clock and alive[where[t]]:
                    edge[n_edges] = number[where[t]]
                    weight[n_edges] = weights[e] if len(weights) and not arrived else 0.0
                    n_edges += 1
            state[n_nodes] = nodes[a]
            n_nodes += 1
            ptr[n_nodes] = n_edges
    layer[length + 1] = n_nodes
    return n_nodes, n_edges, clock


@jit
def _unroll(succ_ptr, succ, weights, start, length, remaining, togo, group, table):
    rows, n_states = len(start), len(succ_ptr) - 1
    stamp, where = np.zeros(n_states, np.int64), np.zeros(n_states, np.int64)
    layers, buffer = np.zeros(length + 2, np.int64), np.empty(64, np.int64)
    layer, state = np.zeros((rows, length + 2), np.int64), np.empty(256, np.int64)
    ptr, edge, weight = np.zeros(257, np.int64), np.empty(512, np.int64), np.empty(512, np.float64)
    n_nodes, n_edges, clock, loops = 0, 0, 0, len(table) == 0
    for b in range(rows):
        reach = togo[group[b]]
        buffer, clock = _spread(
            succ_ptr, succ, start[b], length, remaining[b], reach, loops, layers, buffer, stamp, clock
        )
        alive = np.zeros(layers[length + 1], np.bool_)
        for a in range(layers[length], layers[length + 1]):
            alive[a] = reach[buffer[a]] <= remaining[b] if loops else table[buffer[a]]
        more, clock = _prune(succ_ptr, succ, length, reach, loops, layers, buffer, alive, stamp, where, clock)
        if not alive[0]:
            return b, layer, state, ptr, edge, weight
        size = n_nodes + np.sum(alive)
        state, ptr = _grow(state, size), _grow(ptr, size + 1)
        edge, weight = _grow(edge, n_edges + more), _grow(weight, n_edges + more)
        n_nodes, n_edges, clock = _connect(
            succ_ptr, succ, weights, reach, loops, layers, buffer, alive, stamp, where, clock,
            layer[b], state, ptr, edge, weight, n_nodes, n_edges,
        )  # fmt: skip
    return -1, layer, state[:n_nodes], ptr[: n_nodes + 1], edge[:n_edges], weight[:n_edges]


@jit
def _number(layer, word, tokens):
    """Number the words of each row in the order in which its nodes meet them; the start node has none."""
    local, seen = np.zeros(tokens, np.int32), np.full(tokens, -1, np.int64)
    token, sizes = np.empty(len(word), np.int32), np.zeros(len(layer), np.int64)
    alphabet, total = np.empty(256, np.int64), 0
    for b in range(len(layer)):
        token[layer[b, 0]] = -1
        for n in range(layer[b, 1], layer[b, -1]):
            if seen[word[n]] != b:
                alphabet = _grow(alphabet, total + 1)
                alphabet[total], seen[word[n]], local[word[n]] = word[n], b, sizes[b]
                total += 1
                sizes[b] += 1
            token[n] = local[word[n]]
    return token, sizes, alphabet[:total]


@jit
def _completable(layer, token, edge_ptr, edge, known, b, ok):
    """Mark the nodes of row b from which a completion consistent with `known` exists."""
    length = layer.shape[1] - 2
    base = layer[b, 0]
    for i in range(length, -1, -1):
        for n in range(layer[b, i], layer[b, i + 1]):
            fits = i == 0 or known[b, i - 1] < 0 or known[b, i - 1] == token[n]
            if fits and i < length:
                fits = False
                for e in range(edge_ptr[n], edge_ptr[n + 1]):
                    if ok[edge[e] - base]:
                        fits = True
                        break
            ok[n - base] = fits


@jit
def _feasible(layer, token, edge_ptr, edge, known, k):
    rows, length = layer.shape[0], layer.shape[1] - 2
    out = np.zeros((rows, length, k), np.bool_)
    for b in range(rows):
        base, total = layer[b, 0], layer[b, length + 1] - layer[b, 0]
        ok, here = np.zeros(total, np.bool_), np.zeros(total, np.bool_)
        _completable(layer, token, edge_ptr, edge, known, b, ok)
        here[0] = ok[0]
        for i in range(length):
            for n in range(layer[b, i], layer[b, i + 1]):
                if here[n - base]:
                    for e in range(edge_ptr[n], edge_ptr[n + 1]):
                        d = edge[e]
                        if ok[d - base]:
                            here[d - base] = True
                            out[b, i, token[d]] = True
    return out


@jit
def _pick(words, mass, count, u, greedy):
    """Inverse-CDF draw (or arg max) among `count` words; uniform where the prediction has no mass at all."""
    total, best = 0.0, 0
    for j in range(count):
        total += mass[j]
        if mass[j] > mass[best]:
            best = j
    if greedy and total > 0.0:
        return words[best]
    if total <= 0.0:
        return words[min(int(u * count), count - 1)]
    target, run, last = u * total, 0.0, best
    for j in range(count):
        run += mass[j]
        if mass[j] > 0.0:
            last = j
            if run > target:
                return words[j]
    return words[last]


@jit
def _exists(layer, token, edge_ptr, edge, log_p, known, reveal, u, greedy):
    rows, length, k = log_p.shape
    out = known.copy()
    seen = np.zeros(k, np.int64)
    words, mass = np.empty(k, np.int64), np.empty(k, np.float64)
    clock = 0
    for b in range(rows):
        base, total = layer[b, 0], layer[b, length + 1] - layer[b, 0]
        ok, here = np.zeros(total, np.bool_), np.zeros(total, np.bool_)
        _completable(layer, token, edge_ptr, edge, known, b, ok)
        here[0] = True
        for i in range(length):
            clock += 1
            count, peak = 0, -np.inf
            for n in range(layer[b, i], layer[b, i + 1]):
                if here[n - base]:
                    for e in range(edge_ptr[n], edge_ptr[n + 1]):
                        d = edge[e]
                        if ok[d - base]:
                            here[d - base] = True
                            if reveal[b, i] and seen[token[d]] != clock:
                                seen[token[d]] = clock
                                words[count] = token[d]
                                mass[count] = log_p[b, i, token[d]]
                                peak = max(peak, mass[count])
                                count += 1
            if reveal[b, i]:
                for j in range(count):
                    mass[j] = np.exp(mass[j] - peak) if peak > -np.inf else 0.0
                out[b, i] = _pick(words, mass, count, u[b, i], greedy)
                for n in range(layer[b, i + 1], layer[b, i + 2]):
                    here[n - base] = here[n - base] and token[n] == out[b, i]
    return out


@jit
def _arrive(layer, token, state, edge_ptr, edge, tokens):
    rows, length = layer.shape[0], layer.shape[1] - 2
    out = np.full(rows, -1, np.int64)
    for b in range(rows):
        n = layer[b, 0]
        for i in range(length):
            step = np.int64(-1)
            for e in range(edge_ptr[n], edge_ptr[n + 1]):
                if token[edge[e]] == tokens[b, i]:
                    step = edge[e]
                    break
            n = step
            if n < 0:
                break
        if n >= 0:
            out[b] = state[n]
    return out
