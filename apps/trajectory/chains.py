"""Reference chains of a window: what trips of the past, the clock and a fitted law say about its sites.

Each is a first-order chain over the states of a window: weights w along the transitions a -> k and a weight of what
remains after the window, so that it is route choice conditioned on reaching the goal:

    experience            log w = -surprise(k | a)                          rest: least surprise to go
    experience with time  log w = -surprise(k | a) - PER_MINUTE minutes     rest: the same with the least minutes to go
    calibrated prior      log w = v(k | a) in the period of the departure   rest: its value, the sum over all ways

Their exact site marginals given the known sites (`core.constrain.marginals`) are what the network corrects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apps.trajectory.field import Fields, Goals
from core.constrain.marginals import log_marginals
from core.constrain.trellis import Trellis
from core.jit import jit

__all__ = ["CHAINS", "Chains"]

CHAINS = 2
"""Reference chains that need no fit: experience alone, and experience with time. A calibrated prior adds one."""

PER_MINUTE = 2.0
"""What a minute of travel costs, in nats, in the chain of experience with time."""

LEAST = -30.0
"""Least log-marginal."""


@jit
def _weigh(layer, state, edge_ptr, edge, segment, roads, price, minutes, utility, which, out):  # noqa: ANN001, ANN202
    """Fill `out` [chains, edges]; row b has the `utility` [P, M] (P = 0: no prior) of period `which[b]`."""
    ptr, succ = roads
    for b in range(len(layer)):
        for n in range(layer[b, 0], layer[b, -1]):
            for e in range(edge_ptr[n], edge_ptr[n + 1]):
                d = edge[e]
                if state[d] == state[n]:
                    continue
                a, k = segment[state[n]], segment[state[d]]
                for t in range(ptr[a], ptr[a + 1]):
                    if succ[t] == k:
                        out[0, e] = -np.float64(price[t])
                        out[1, e] = -np.float64(price[t]) - minutes[k]
                        if len(utility) > 0:
                            out[2, e] = utility[which[b], t]
                        break


@dataclass(eq=False)
class Chains:
    """The chains of a window.

    Args:
        trellis: the window.
        log_weight, log_final: float64 [chains, edges], [chains, nodes].
    """

    trellis: Trellis
    log_weight: np.ndarray
    log_final: np.ndarray

    @classmethod
    def of(
        cls,
        fields: Fields,
        trellis: Trellis,
        segment: np.ndarray,
        goals: Goals,
        group: np.ndarray,
        when: np.ndarray | None = None,
    ) -> Chains:
        """Return the chains of a window (arguments as in `field.view`; `when` [B]: the period of each departure)."""
        net, state = fields.network, trellis.state
        period = np.zeros(len(group), np.int64) if when is None else when
        chains = CHAINS + (fields.prior is not None)
        weight, final = np.zeros((chains, len(trellis.edge))), np.zeros((chains, len(state)))
        used, which = np.unique(period, return_inverse=True)
        utility = np.empty((0, net.m))
        if fields.prior is not None:
            utility = np.stack([fields.prior.utility(int(p)) for p in used])
        _weigh(
            trellis.layer, state, trellis.edge_ptr, trellis.edge, segment, (net.succ_ptr, net.succ), fields.price,
            PER_MINUTE * fields.cost / 60.0, utility, which, weight,
        )  # fmt: skip
        for b, (low, high) in enumerate(trellis.layer[:, -2:]):
            goal, last = goals.each[group[b]], state[low:high]
            final[:CHAINS, low:high] = -goal.surprise[last]
            final[1, low:high] -= PER_MINUTE * goal.seconds[last] / 60.0
            if fields.prior is None:
                continue
            if goal.value is None:
                final[2, low:high] = fields.prior.value(goal.target, int(period[b]))[segment[last]]
            else:
                final[2, low:high] = goal.value[int(period[b]), last]
        return cls(trellis, weight, final)

    def marginals(self, known: np.ndarray) -> np.ndarray:
        """Return the log-marginals of the sites given `known` (int64 [B, L], -1 unknown), float32 [B, L, K, chains]."""
        parts = [log_marginals(self.trellis, w, f, known) for w, f in zip(self.log_weight, self.log_final, strict=True)]
        return np.maximum(np.stack(parts, -1), LEAST)
