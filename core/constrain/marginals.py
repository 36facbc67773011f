"""Site marginals of a weighted window, given the tokens that are known: forward-backward in one compiled pass.

    P(x_i = v | known) ∝ sum over admissible windows through v at site i of  prod_i w(s_{i-1}, s_i)  f(s_L)

with edge weights w and a weight f of the state after the window ("how good is it to stop here"). The same law as
`chain.Markov`, without gradients and without potentials, at a cost of microseconds: it is what a network is shown of
the reference chain at each step.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int

from core.constrain.trellis import Trellis
from core.jit import jit

__all__ = ["log_marginals"]


def log_marginals(
    trellis: Trellis,
    log_weight: Float64[np.ndarray, " edges"],
    log_final: Float64[np.ndarray, " nodes"],
    known: Int[np.ndarray, "b l"],
) -> Float32[np.ndarray, "b l k"]:
    """Return log P(x_i = v | known), float32 [B, L, K]; -inf where v is inadmissible.

    Args:
        trellis: the window.
        log_weight: float64 [edges].
        log_final: float64 [nodes]; only the last layer's entries count.
        known: int64 [B, L], local token or -1.
    """
    return _log_marginals(
        trellis.layer,
        trellis.token,
        trellis.edge_ptr,
        trellis.edge,
        log_weight,
        log_final,
        known,
        trellis.alphabet.shape[1],
    )


@jit
def _backward(layer, token, edge_ptr, edge, log_weight, log_final, known, b, back):  # noqa: ANN001, ANN202
    """Backward messages of row b, each layer scaled to a largest value of one."""
    length, base = layer.shape[1] - 2, layer[b, 0]
    for i in range(length, -1, -1):
        top = -np.inf
        for n in range(layer[b, i], layer[b, i + 1]):
            value = -np.inf
            if i == 0 or known[b, i - 1] < 0 or known[b, i - 1] == token[n]:
                if i == length:
                    value = log_final[n]
                else:
                    peak = -np.inf
                    for e in range(edge_ptr[n], edge_ptr[n + 1]):
                        peak = max(peak, log_weight[e] + back[edge[e] - base])
                    if peak > -np.inf:
                        total = 0.0
                        for e in range(edge_ptr[n], edge_ptr[n + 1]):
                            total += np.exp(log_weight[e] + back[edge[e] - base] - peak)
                        value = peak + np.log(total)
            back[n - base] = value
            top = max(top, value)
        if top > -np.inf:
            for n in range(layer[b, i], layer[b, i + 1]):
                back[n - base] -= top


@jit
def _log_marginals(layer, token, edge_ptr, edge, log_weight, log_final, known, k):  # noqa: ANN001, ANN202
    rows, length = layer.shape[0], layer.shape[1] - 2
    out = np.full((rows, length, k), -np.inf, np.float32)
    mass = np.zeros(k)
    for b in range(rows):
        base, total = layer[b, 0], layer[b, length + 1] - layer[b, 0]
        back, ahead = np.empty(total), np.zeros(total)
        _backward(layer, token, edge_ptr, edge, log_weight, log_final, known, b, back)
        ahead[0] = 1.0
        for i in range(length):
            for n in range(layer[b, i], layer[b, i + 1]):
                if ahead[n - base] > 0.0:
                    peak = -np.inf
                    for e in range(edge_ptr[n], edge_ptr[n + 1]):
                        peak = max(peak, log_weight[e] + back[edge[e] - base])
                    if peak == -np.inf:
                        continue
                    norm = 0.0
                    for e in range(edge_ptr[n], edge_ptr[n + 1]):
                        norm += np.exp(log_weight[e] + back[edge[e] - base] - peak)
                    for e in range(edge_ptr[n], edge_ptr[n + 1]):
                        p = np.exp(log_weight[e] + back[edge[e] - base] - peak) / norm
                        ahead[edge[e] - base] += ahead[n - base] * p
            mass[:] = 0.0
            for n in range(layer[b, i + 1], layer[b, i + 2]):
                mass[token[n]] += ahead[n - base]
            for v in range(k):
                if mass[v] > 0.0:
                    out[b, i, v] = np.log(mass[v])
    return out
