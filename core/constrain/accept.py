"""How likely a law is under a Markov chain: what a rule costs before anything has been learned about it.

    log P(accept) = log sum over accepted x of  prod_i  w(q_{i-1}, x_i)

for a weighted automaton w such as `automaton.count(sequences)`. `-log P` is the cost of the rule in nats: so much
likelihood, under that law, must every conditioned sample give up on average at least (it is the Kullback-Leibler
divergence of the conditioned law from the chain).
"""

from __future__ import annotations

import numpy as np

from core.constrain.automaton import Automaton
from core.constrain.layers import Layers
from core.jit import jit

__all__ = ["log_accept"]


def log_accept(layers: Layers, chain: Automaton) -> float:
    """Return the log-probability that a sequence of the chain is accepted by the layers."""
    weight = np.zeros(chain.delta.shape) if chain.log_weight is None else chain.log_weight
    weight = np.where(chain.delta >= 0, np.exp(weight), 0.0)
    return float(_forward(
        layers.ptr, layers.delta, layers.cost, layers.low, layers.high, chain.delta, weight, chain.start,
    ))  # fmt: skip


@jit
def _forward(ptr, delta, cost, low, high, step, weight, start):  # noqa: ANN001, ANN202
    mass, scale = np.zeros((1, len(step), high + 1)), 0.0
    mass[0, start, 0] = 1.0
    for i in range(len(ptr) - 2):
        ahead = np.zeros((ptr[i + 2] - ptr[i + 1], len(step), high + 1))
        for n in range(len(mass)):
            for s in range(len(step)):
                top = 0
                for c in range(high + 1):
                    top = c + 1 if mass[n, s, c] > 0.0 else top
                for v in range(delta.shape[1]):
                    t, w = delta[ptr[i] + n, v], weight[s, v]
                    if t >= 0 and w > 0.0:
                        for c in range(min(top, high + 1 - cost[i, v])):
                            ahead[t - ptr[i + 1], step[s, v], c + cost[i, v]] += w * mass[n, s, c]
        total = ahead.sum()
        if total <= 0.0:
            return -np.inf
        scale += np.log(total)
        mass = ahead / total
    return scale + np.log(mass[:, :, low:].sum())
