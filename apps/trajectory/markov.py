r"""The first-order Markov chain over segments, and the same chain conditioned on where it must end.

Counted from trips, with additive smoothing over the legal successors only:

    P(j | i) = (c_ij + a) / Σ_k (c_ik + a),      e_i = (ends_i + κ ē) / (visits_i + κ)

where `e_i` is the probability that a trip ends on segment i and `ē` its overall mean. The plain law of a trip given its
first segment is `Π_t (1 − e_{s_t}) P(s_{t+1} | s_t) · e_{s_L}`.

Conditioned on ending at d within H hops, it stays exact: with the backward messages

    B_h(i) = [i = d] e_d + (1 − e_i) Σ_j P(j | i) B_{h−1}(j)

a trip ends with probability `[i = d] e_d / B_h(i)` and else moves to j with probability
`(1 − e_i) P(j | i) B_{h−1}(j) / B_h(i)`; its log-probability is the plain one less `log B_H(origin)`. Closed segments
are left out of the sums, which conditions on avoiding them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from apps.trajectory.data import Trips
from apps.trajectory.network import RoadNetwork
from core.errors import InfeasibleError, UsageError

__all__ = ["MarkovChain"]

Integers = NDArray[np.integer]
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class MarkovChain:
    """A first-order chain over the segments of a network.

    Args:
        network: the roads.
        move: `[M]` `P(j | i)` of each transition, in the order of `network.succ`.
        end: `[N]` `e_i`.
        factor, slack: the hop budget of a request is `ceil(factor * fewest hops) + slack` transitions.
        closed: `[N]` segments that must not be used.
    """

    network: RoadNetwork
    move: NDArray[np.float64]
    end: NDArray[np.float64]
    factor: float = 2.0
    slack: int = 32
    closed: NDArray[np.bool_] | None = None

    @classmethod
    def fit(cls, trips: Trips, smoothing: float = 0.5, kappa: float = 10.0) -> MarkovChain:
        """Count a chain.

        Args:
            trips: what was driven.
            smoothing: `a`, pseudo-count of each legal transition.
            kappa: `κ`, strength with which the end probabilities are drawn to their mean.

        Raises:
            UsageError: no trips, or one with an illegal transition.
        """
        network, n = trips.network, trips.network.n
        if not len(trips):
            raise UsageError("a chain cannot be counted from no trips", field="trips")
        inside = np.ones(len(trips.segment) - 1, dtype=bool)
        inside[trips.ptr[1:-1] - 1] = False
        steps = network.transition(trips.segment[:-1][inside], trips.segment[1:][inside])
        if (steps < 0).any():
            raise UsageError("a trip has an illegal transition", field="trips", hint="see Trips.check()")
        count = np.bincount(steps, minlength=network.m) + smoothing
        total = np.bincount(network.source, weights=count, minlength=n)
        visits = np.bincount(trips.segment, minlength=n)
        ends = np.bincount(trips.segment[trips.ptr[1:] - 1], minlength=n)
        mean = len(trips) / len(trips.segment)
        return cls(network, count / total[network.source], (ends + kappa * mean) / (visits + kappa))

    def closing(self, closed: NDArray[np.bool_]) -> MarkovChain:
        """Return the chain conditioned on avoiding the closed segments `[N]`."""
        closed = np.asarray(closed, dtype=bool)
        return replace(self, closed=closed if self.closed is None else self.closed | closed)

    def log_prob(self, trips: Trips) -> NDArray[np.float64]:
        """Return the plain log-probability `[n]` (nats) of each trip given its first segment; -inf if illegal."""
        log_step = np.zeros(len(trips.segment))
        at = self.network.transition(trips.segment[:-1], trips.segment[1:])
        with np.errstate(divide="ignore"):
            log_move = np.append(np.log(self._weight()), -np.inf)
        log_step[:-1] = log_move[at]
        log_step[trips.ptr[1:] - 1] = np.log(self.end[trips.segment[trips.ptr[1:] - 1]])
        return np.add.reduceat(log_step, trips.ptr[:-1])

    def log_prob_conditioned(self, trips: Trips, budget: Integers | None = None) -> NDArray[np.float64]:
        """Return the log-probability `[n]` (nats) of each trip given its origin, its destination and the hop budget.

        Args:
            trips: n trips; one that is longer than its budget gets -inf.
            budget: `[n]` most hops; the chain's own rule by default.
        """
        origin, destination = trips.segment[trips.ptr[:-1]], trips.segment[trips.ptr[1:] - 1]
        result = self.log_prob(trips)
        for rows, messages in self._groups(origin, destination, budget):
            result[rows] -= np.log(messages.backward[messages.budget, messages.local[origin[rows]]])
            result[rows[trips.hops()[rows] - 1 > messages.budget]] = -np.inf
        return result

    def sample(
        self, origin: Integers, destination: Integers, depart: Floats | None = None, seed: int = 0,
        index: Integers | None = None,
    ) -> Trips:  # fmt: skip
        """Draw one trip per request from the exact conditioned law. See `Router.sample`."""
        origin, destination = np.asarray(origin), np.asarray(destination)
        index = np.arange(len(origin)) if index is None else np.asarray(index)
        walks: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(origin)
        weight, network = self._weight(), self.network
        for rows, m in self._groups(origin, destination, None):
            for k, row in enumerate(rows):
                stream = np.random.Generator(np.random.Philox(key=[seed, int(index[row])]))
                uniform = stream.random(int(m.budget[k]) + 1)
                walks[row] = _draw(network.succ_ptr, network.succ, weight, self.end, m.local, m.backward, origin[row],
                                   destination[row], uniform)  # fmt: skip
        return Trips.from_lists(network, walks, depart=depart)

    def _weight(self) -> NDArray[np.float64]:
        weight = self.move * (1.0 - self.end)[self.network.source]
        if self.closed is not None:
            weight = np.where(self.closed[self.network.source] | self.closed[self.network.succ], 0.0, weight)
        return weight

    def _groups(self, origin: Integers, destination: Integers, budget: Integers | None):  # type: ignore[no-untyped-def]
        order = np.argsort(destination, kind="stable")
        cuts = np.flatnonzero(np.diff(destination[order])) + 1
        weight = self._weight()
        for rows in np.split(order, cuts):
            if len(rows):
                most = None if budget is None else np.asarray(budget)[rows]
                yield rows, self._messages(weight, origin[rows], int(destination[rows[0]]), most)

    def _messages(self, weight: Floats, origin: Integers, destination: int, budget: Integers | None) -> _Messages:
        network = self.network
        shut = np.zeros(network.n, dtype=bool) if self.closed is None else self.closed
        to_go = _hops(network.pred_ptr, network.pred, shut, destination)
        if (to_go[origin] < 0).any():
            lost = int(origin[to_go[origin] < 0][0])
            raise InfeasibleError(f"segment {destination} cannot be reached from segment {lost}", field="destination",
                                  hint="open a segment or choose another destination")  # fmt: skip
        if budget is None:
            budget = np.ceil(self.factor * to_go[origin]).astype(np.int64) + self.slack
        if (to_go[origin] > budget).any():
            k = int(np.flatnonzero(to_go[origin] > budget)[0])
            few = f"{int(budget[k])} hops are too few, {int(to_go[origin[k]])} are needed"
            raise InfeasibleError(few, field="budget")
        useful = np.zeros(network.n, dtype=bool)
        for start in np.unique(origin):
            gone = _hops(network.succ_ptr, network.succ, shut, int(start))
            useful |= (gone >= 0) & (to_go >= 0) & (gone + to_go <= budget[origin == start].max())
        active = np.flatnonzero(useful)
        active = active[np.argsort(to_go[active], kind="stable")]
        local = np.full(network.n, -1, np.int32)
        local[active] = np.arange(len(active))
        backward = _backward(network.succ_ptr, network.succ, weight, self.end[destination], active, local, to_go,
                             int(budget.max()))  # fmt: skip
        return _Messages(budget, local, backward)


@dataclass(frozen=True)
class _Messages:
    budget: Integers
    local: NDArray[np.int32]
    backward: NDArray[np.float64]


@njit(nogil=True, cache=True)
def _hops(ptr, neighbour, shut, start):  # type: ignore[no-untyped-def]
    hops = np.full(len(ptr) - 1, -1, np.int64)
    if shut[start]:
        return hops
    queue = np.empty(len(ptr) - 1, np.int64)
    queue[0], hops[start], head, tail = start, 0, 0, 1
    while head < tail:
        at = queue[head]
        head += 1
        for k in range(ptr[at], ptr[at + 1]):
            onward = neighbour[k]
            if hops[onward] < 0 and not shut[onward]:
                hops[onward] = hops[at] + 1
                queue[tail] = onward
                tail += 1
    return hops


@njit(nogil=True, cache=True)
def _backward(succ_ptr, succ, weight, stop, active, local, to_go, budget):  # type: ignore[no-untyped-def]
    messages = np.zeros((budget + 1, len(active)))
    messages[:, 0] = stop
    for h in range(1, budget + 1):
        for a in range(len(active)):
            at = active[a]
            if to_go[at] > h:
                break
            total = stop if a == 0 else 0.0
            for k in range(succ_ptr[at], succ_ptr[at + 1]):
                onward = local[succ[k]]
                if onward >= 0:
                    total += weight[k] * messages[h - 1, onward]
            messages[h, a] = total
    return messages


@njit(nogil=True, cache=True)
def _draw(succ_ptr, succ, weight, end, local, messages, origin, destination, uniform):  # type: ignore[no-untyped-def]
    budget = len(uniform) - 1
    walk = np.empty(budget + 1, np.int32)
    at = origin
    for t in range(budget + 1):
        walk[t] = at
        left = uniform[t] * messages[budget - t, local[at]]
        if at == destination:
            left -= end[at]
            if left < 0.0 or t == budget:
                return walk[: t + 1].copy()
        chosen = -1
        for k in range(succ_ptr[at], succ_ptr[at + 1]):
            onward = local[succ[k]]
            share = weight[k] * messages[budget - t - 1, onward] if onward >= 0 else 0.0
            if share > 0.0:
                chosen = succ[k]
                left -= share
                if left < 0.0:
                    break
        at = chosen
    return walk
