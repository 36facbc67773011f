"""The reference law: a chain that carries the prediction as marginals.

The sites R revealed now carry the prediction as *matched marginals*, not as a likelihood: iterate
phi_i <- D_i / (f_i b_i) for i in R (f, b the messages per token without phi_i), with phi = 1 elsewhere. This is the
I-projection of the reference chain on the marginals D (iterative proportional fitting, Sinkhorn on a chain). Every
update makes one marginal exact; the sweeps stop when all are, to a tolerance. With one site in R it is D itself, and
where D are the marginals of the chain given what is known, phi = 1: Markov data are drawn exactly, any number at once.

Reference: Csiszar (1975), "I-divergence geometry"; Deming and Stephan (1940) for the iteration.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from core.constrain.trellis import Trellis
from core.jit import jit

__all__ = ["FLOOR", "floored", "project"]

FLOOR = -1e4
"""Log potential of a token that the prediction rules out: zero beside any other way, finite where there is none."""


def project(
    trellis: Trellis,
    log_p: Float[Tensor, "b l k"],
    known: Int[Tensor, "b l"],
    match: Bool[Tensor, "b l"],
    tolerance: float,
    sweeps: int,
) -> Float64[Tensor, "b l k"]:
    """Return log potentials that match the prediction's marginals at some sites under the reference chain.

    Each row stops by itself, so that it does not depend on its batch. Marginals that no law on the window has (an
    imperfect network) are met as well as `sweeps` allow.

    Args:
        trellis: the window, its edge weights the reference chain W.
        log_p: float64 [B, L, K], prediction D (need not be normalised over the admissible tokens). A token that it
            rules out has the potential e^FLOOR: it is used only where nothing else can be completed.
        known: int64 [B, L], local token or -1.
        match: bool [B, L], the sites whose marginals are matched (those revealed now, or all unknown ones).
        tolerance: largest total variation, at any matched site, at which a row stops.
        sweeps: most pairs of backward and forward half-sweeps; the first backward one takes f = 1, which is the
            locally normalised chain.

    Returns:
        float64 [B, L, K] log potentials, -inf for tokens that contradict `known`.
    """
    allowed = trellis.feasible(known.cpu().numpy())
    target = floored(log_p.detach().double().cpu(), torch.from_numpy(allowed)).log_softmax(-1).numpy()
    phi = np.where(allowed, 0.0, -np.inf)
    sites = np.ascontiguousarray((match & (known < 0)).cpu().numpy())
    t = trellis
    _fit(t.layer, t.token, t.edge_ptr, t.edge, t.log_weight, target, sites, phi, tolerance, sweeps)
    return torch.from_numpy(phi).to(log_p.device)


def floored(log_p: Float[Tensor, "b l k"], allowed: Bool[Tensor, "b l k"]) -> Float[Tensor, "b l k"]:
    """Return the prediction on `allowed` [B, L, K], no less than FLOOR below its best there; -inf elsewhere."""
    top = log_p.masked_fill(~allowed, -torch.inf).amax(-1, keepdim=True)
    shifted = log_p - torch.where(top.isfinite(), top, 0.0)
    return torch.where(allowed, shifted.clamp_min(FLOOR), -torch.inf)


@jit
def _lse(value, index, peak, total):  # noqa: ANN001, ANN202
    """Write to `peak` the log-sum-exp of `value` by group `index`; groups that do not occur are -inf."""
    peak[:], total[:] = -np.inf, 0.0
    for n in range(len(value)):
        peak[index[n]] = max(peak[index[n]], value[n])
    for n in range(len(value)):
        if value[n] > -np.inf:
            total[index[n]] += np.exp(value[n] - peak[index[n]])
    for v in range(len(peak)):
        if total[v] > 0.0:
            peak[v] += np.log(total[v])


@jit
def _match(token, inside, target, phi, peak, total):  # noqa: ANN001, ANN202
    """Set phi <- D / (f b) at one site; return how far its marginal was from D, in total variation."""
    _lse(inside, token, peak, total)
    top, norm, gap = -np.inf, 0.0, 0.0
    for v in range(len(phi)):
        if phi[v] > -np.inf:
            top = max(top, phi[v] + peak[v])
    for v in range(len(phi)):
        if phi[v] > -np.inf:
            norm += np.exp(phi[v] + peak[v] - top)
    for v in range(len(phi)):
        if phi[v] > -np.inf:
            gap += abs(np.exp(phi[v] + peak[v] - top) / norm - np.exp(target[v]))
            phi[v] = target[v] - peak[v]
    return gap / 2


@jit
def _pull(low, high, edge_ptr, edge, weight, value, out):  # noqa: ANN001, ANN202
    """Write the log-sum-exp of weight + `value` over the edges out of each node of a layer."""
    for n in range(low, high):
        peak, total = -np.inf, 0.0
        for e in range(edge_ptr[n], edge_ptr[n + 1]):
            peak = max(peak, weight[e] + value[edge[e]])
        for e in range(edge_ptr[n], edge_ptr[n + 1]):
            if peak > -np.inf:
                total += np.exp(weight[e] + value[edge[e]] - peak)
        out[n] = peak + np.log(total) if total > 0.0 else -np.inf


@jit
def _push(low, high, stop, edge_ptr, edge, weight, value, out, total):  # noqa: ANN001, ANN202
    """Write the log-sum-exp of weight + `value` over the edges into each node of the next layer, high ... stop - 1."""
    out[high:stop] = -np.inf
    for n in range(low, high):
        for e in range(edge_ptr[n], edge_ptr[n + 1]):
            out[edge[e]] = max(out[edge[e]], weight[e] + value[n])
    for n in range(low, high):
        if value[n] > -np.inf:
            for e in range(edge_ptr[n], edge_ptr[n + 1]):
                total[edge[e] - high] += np.exp(weight[e] + value[n] - out[edge[e]])
    for n in range(high, stop):
        if total[n - high] > 0.0:
            out[n] += np.log(total[n - high])


@jit
def _backward(at, token, ptr, edge, weight, target, match, phi, f, b, value, peak, total):  # noqa: ANN001, ANN202
    """One half-sweep from the last site to the first; returns the largest gap it met."""
    gap = 0.0
    for i in range(len(match) - 1, -1, -1):
        low, high = at[i + 1], at[i + 2]
        if match[i]:
            gap = max(gap, _match(token[low:high], f[low:high] + b[low:high], target[i], phi[i], peak, total))
        for n in range(low, high):
            value[n] = phi[i, token[n]] + b[n]
        _pull(at[i], low, ptr, edge, weight, value, b)
    return gap


@jit
def _forward(at, token, ptr, edge, weight, target, match, phi, f, b, value, peak, total):  # noqa: ANN001, ANN202
    """One half-sweep from the first site to the last; returns the largest gap it met."""
    gap, sums = 0.0, np.zeros(at[-1] - at[0])
    value[at[0]] = 0.0
    for i in range(len(match)):
        low, high = at[i + 1], at[i + 2]
        _push(at[i], low, high, ptr, edge, weight, value, f, sums[low - at[0] : high - at[0]])
        if match[i]:
            gap = max(gap, _match(token[low:high], f[low:high] + b[low:high], target[i], phi[i], peak, total))
        for n in range(low, high):
            value[n] = phi[i, token[n]] + f[n]
    return gap


@jit
def _fit(layer, token, ptr, edge, weight, target, match, phi, tolerance, sweeps):  # noqa: ANN001, ANN202
    """Fit `phi` in place, row by row. Messages f and b exclude the potential of their own site."""
    peak, total = np.empty(phi.shape[2]), np.empty(phi.shape[2])
    f, b, value = np.zeros(len(token)), np.zeros(len(token)), np.zeros(len(token))
    for r in range(len(phi)):
        if not match[r].any():
            continue
        row = (layer[r], token, ptr, edge, weight, target[r], match[r], phi[r], f, b, value, peak, total)
        _backward(*row)
        for _ in range(sweeps):
            if _forward(*row) <= tolerance or _backward(*row) <= tolerance:
                break
