"""Reference chains: order-k Markov laws of letters, and their exact site marginals given any known sites.

**Counts.** With n(c, a) the times that letter a followed context c, on both strands, the chain backs off from order k
to 0 by interpolation,

    P_j(a | c_j) = (n(c_j, a) + theta_j P_{j-1}(a | c_{j-1})) / (n(c_j) + theta_j),     P_{-1} = 1 / K,

c_j the last j letters, theta_j chosen on folds that the counts have not seen (Jelinek and Mercer 1980; MacKay and Peto
1995). In training each row is read with the counts of the other folds, so that the network never sees a chain that
has counted the very sequence it is to predict.

**Marginals.** Over states c = the last k letters, forward and backward messages

    alpha_{i+1}(c') = sum_{c, a: ca -> c'} alpha_i(c) P(a | c) e_i(a),
    beta_i(c) = sum_a P(a | c) e_i(a) beta_{i+1}(ca),         m_i(a) ∝ sum_c alpha_i(c) P(a | c) beta_{i+1}(ca),

give at each unknown site its exact law given all known ones. The evidence e_i(a) is the indicator of a known letter, 1
at a masked site, and law(a) + law(mask) for a law. What is returned is law(mask) log m, 0 at known sites. A masked
diffusion with this posterior has an evidence bound equal to the chain's entropy, sequence by sequence: each order of
revealing is the chain rule of the same law.

Hard tokens on the CPU take a compiled pass over the live states only; laws take dense tensors and carry gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from core.jit import jit

__all__ = ["Background", "chain_nll", "count", "fit_strengths", "interpolate", "marginals"]

FLOOR = -20.0
"""Least log-marginal: a letter that no training sequence could have still has some mass."""

GRID = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)


def count(x: np.ndarray, order: int, k: int = 4, both: bool = True) -> np.ndarray:
    """Return how often each letter followed each context of `order` letters, float64 [K^order, K].

    Args:
        x: tokens [B, L].
        order: letters of a context.
        k: alphabet size K.
        both: count the reverse complements too (K = 4).
    """
    x = np.asarray(x, np.int64)
    rows = [x, 3 - x[:, ::-1]] if both else [x]
    out = np.zeros(k ** (order + 1))
    for row in rows:
        if row.shape[1] > order:
            code = sum(row[:, j : row.shape[1] - order + j] * k ** (order - j) for j in range(order + 1))
            out += np.bincount(np.asarray(code).ravel(), minlength=len(out))
    return out.reshape(-1, k)


def interpolate(counts: np.ndarray, strengths: Sequence[float]) -> list[np.ndarray]:
    """Return the interpolated laws of order 0 ... k, float64 [K^j, K] each, from the counts of order k [K^k, K].

    Args:
        counts: of the highest order.
        strengths: theta_0 ... theta_k.
    """
    k, tables = counts.shape[1], [counts]
    while len(tables[0]) > 1:
        tables.insert(0, tables[0].reshape(k, -1, k).sum(0))
    out: list[np.ndarray] = []
    law = np.full((1, k), 1.0 / k)
    for table, theta in zip(tables, strengths, strict=True):
        lower = np.tile(law, (len(table) // len(law), 1))
        law = (table + (theta + 1e-6) * lower) / (table.sum(1, keepdims=True) + theta + 1e-6)
        out.append(law)
    return out


def fit_strengths(folds: Sequence[np.ndarray], sweeps: int = 2) -> list[float]:
    """Return the strengths theta that predict each fold best from the counts of the others.

    Args:
        folds: counts of the highest order of disjoint parts, [K^k, K] each.
    """
    total, k = np.sum(folds, 0), folds[0].shape[1]
    theta = [10.0] * (1 + round(np.log(len(total)) / np.log(k)))

    def loss(values: Sequence[float]) -> float:
        return -sum(float((fold * np.log(interpolate(total - fold, values)[-1])).sum()) for fold in folds)

    for _ in range(sweeps):
        for j in range(len(theta)):
            theta[j] = min(GRID, key=lambda v, j=j: loss([*theta[:j], v, *theta[j + 1 :]]))
    return theta


def chain_nll(x: np.ndarray, laws: Sequence[np.ndarray]) -> np.ndarray:
    """Return -log p of each sequence [B, L] under interpolated laws: nats, float64 [B]."""
    x, k, order = np.asarray(x, np.int64), laws[0].shape[1], len(laws) - 1
    out = np.zeros(len(x))
    for i in range(x.shape[1]):
        j = min(i, order)
        context = sum((x[:, i - j + m] * k ** (j - 1 - m) for m in range(j)), np.zeros(len(x), np.int64))
        out -= np.log(laws[j][context, x[:, i]])
    return out


class Background(nn.Module):
    """The chains of a model: one of all training sequences, and one for each fold without it.

    Args:
        tokens: alphabet size K.
        order: k, at least 1.
        folds: parts of the training data.
    """

    def __init__(self, tokens: int, order: int, folds: int) -> None:
        super().__init__()
        self.tokens, self.order = tokens, order
        states = tokens**order
        self.table: Tensor
        self.first: Tensor
        self.register_buffer("table", torch.full((folds + 1, states, tokens), 1.0 / tokens))
        self.register_buffer("first", torch.full((folds + 1, states), 1.0 / states))

    def fit(self, x: np.ndarray, fold: np.ndarray, both: bool = True) -> Background:
        """Count training tokens [B, L] in their folds int [B]; chain 0 is that of all, chain 1 + f lacks fold f."""
        parts = [count(x[fold == f], self.order, self.tokens, both) for f in range(len(self.table) - 1)]
        theta, total = fit_strengths(parts), np.sum(parts, 0)
        for number, counts in enumerate([total, *(total - part for part in parts)]):
            laws = interpolate(counts, theta)
            first = np.ones((1, 1))
            for law in laws[:-1]:
                first = first.reshape(-1, 1) * law
            self.table[number] = torch.from_numpy(laws[-1]).to(self.table)
            self.first[number] = torch.from_numpy(first.reshape(-1)).to(self.first)
        return self

    def laws(self) -> tuple[Tensor, Tensor]:
        """Return the chain of all training data: table [K^k, K] and law of the first k letters [K^k]."""
        return self.table[0], self.first[0]

    def nll(self, x: Tensor) -> Tensor:
        """Return -log p of tokens [B, L], L >= k, under the chain of all training data: nats, float64 [B]."""
        table, first = (v.double().log() for v in self.laws())
        code = torch.zeros_like(x[:, 0])
        for i in range(self.order):
            code = code * self.tokens + x[:, i]
        out = -first[code]
        for i in range(self.order, x.shape[1]):
            out = out - table[code, x[:, i]]
            code = (code * self.tokens + x[:, i]) % len(first)
        return out

    def forward(self, x: Tensor, fold: Tensor | None = None) -> Tensor:
        """Return law(mask) log m, [B, L, K], of tokens [B, L] (mask K) or laws [B, L, K + 1]; fold int64 [B]."""
        which = torch.zeros(len(x), dtype=torch.long, device=x.device) if fold is None else fold + 1
        if not x.is_floating_point() and not x.is_cuda:
            arrays = (v.detach().contiguous().numpy() for v in (x, self.table, self.first, which))
            return torch.from_numpy(_marginals(*arrays, self.order)).clamp_min(FLOOR)
        law = x if x.is_floating_point() else one_hot(x, self.tokens + 1).to(self.table.dtype)
        used = which.unique()
        if len(used) == 1:
            return marginals(law, self.table[used[0]], self.first[used[0]], self.order)
        out = [marginals(law[which == w], self.table[w], self.first[w], self.order) for w in used]
        order = torch.cat([(which == w).nonzero()[:, 0] for w in used])
        return torch.cat(out)[order.argsort()]


def marginals(law: Tensor, table: Tensor, first: Tensor, order: int) -> Tensor:
    """Return law(mask) log m, [B, L, K], differentiable in the laws [B, L, K + 1] (see the module)."""
    rows, length, k = law.shape[0], law.shape[1], law.shape[2] - 1
    open_, table = law[..., k], table.to(law.dtype)
    evidence = law[..., :k] + open_[..., None]
    evidence = torch.cat([evidence, evidence.new_ones(rows, max(order - length, 0), k)], 1)
    start = first.to(law.dtype).expand(rows, -1).reshape(rows, *[k] * order)
    for i in range(order):
        start = start * evidence[:, i].reshape(rows, *[1] * i, k, *[1] * (order - 1 - i))
    alpha = [_unit(start.reshape(rows, -1))]
    for i in range(order, length - 1):
        ahead = alpha[-1][..., None] * table * evidence[:, i, None, :]
        alpha.append(_unit(ahead.reshape(rows, k, -1, k).sum(1).reshape(rows, -1)))
    beta, found = torch.ones_like(alpha[0]), []
    for i in reversed(range(order, length)):
        joint = table * beta.reshape(rows, 1, -1, k).expand(-1, k, -1, -1).reshape(rows, -1, k)
        found.append((alpha[i - order][..., None] * joint).sum(1))
        beta = _unit((joint * evidence[:, i, None, :]).sum(-1))
    whole = alpha[0] * beta
    head = [whole.reshape(rows, k**i, k, -1).sum((1, 3)) for i in range(min(order, length))]
    head = [h / evidence[:, i].clamp_min(1e-12) for i, h in enumerate(head)]
    mass = torch.stack([*head, *reversed(found)], 1)
    log_m = (mass / mass.sum(-1, keepdim=True).clamp_min(1e-30)).clamp_min(1e-9).log()
    return open_[..., None] * log_m


def _unit(x: Tensor) -> Tensor:
    return x / x.sum(-1, keepdim=True).clamp_min(1e-30)


@jit
def _marginals(x, table, first, which, order):  # noqa: ANN001, ANN202
    """Log-marginals at masked sites, 0 at known ones, float32 [B, L, K]; only states that are live are visited."""
    rows, length = x.shape
    k, states = table.shape[2], table.shape[1]
    out = np.zeros((rows, length, k), np.float32)
    steps = max(length - order, 0)
    alpha = np.zeros((steps + 1, states), np.float32)
    beta = np.zeros((2, states), np.float32)
    for b in range(rows):
        law = table[which[b]]
        _begin(alpha[0], first[which[b]], x[b], order, k)
        for i in range(order, length - 1):
            _advance(alpha[i - order], alpha[i - order + 1], law, x[b, i], k)
        beta[steps % 2, :] = 1.0
        for i in range(length - 1, order - 1, -1):
            _retreat(alpha[i - order], beta[(i - order + 1) % 2], beta[(i - order) % 2], law, x[b, i], k, out[b, i])
        _head(alpha[0], beta[0], x[b], order, k, out[b])
    return out


@jit
def _begin(alpha, first, x, order, k):  # noqa: ANN001, ANN202
    """Law of the first k letters given those known."""
    total = np.float32(0.0)
    for c in range(len(first)):
        rest, weight = c, first[c]
        for i in range(order - 1, -1, -1):
            if i < len(x) and x[i] < k and x[i] != rest % k:
                weight = np.float32(0.0)
            rest //= k
        alpha[c] = weight
        total += weight
    for c in range(len(first)):
        alpha[c] /= total


@jit
def _advance(alpha, ahead, law, letter, k):  # noqa: ANN001, ANN202
    """One forward message; `letter` k is the mask."""
    states = len(alpha)
    ahead[:] = 0.0
    total = np.float32(0.0)
    for c in range(states):
        w = alpha[c]
        if w > 0.0:
            base = c * k % states
            if letter < k:
                ahead[base + letter] += w * law[c, letter]
                total += w * law[c, letter]
            else:
                for a in range(k):
                    ahead[base + a] += w * law[c, a]
                total += w
    scale = np.float32(1.0) / total
    for c in range(states):
        ahead[c] *= scale


@jit
def _retreat(alpha, after, before, law, letter, k, out):  # noqa: ANN001, ANN202
    """One backward message and, at a masked site, its log-marginal."""
    states = len(alpha)
    mass = np.zeros(k, np.float32)
    top = np.float32(0.0)
    for c in range(states):
        before[c] = 0.0
        if alpha[c] > 0.0:
            base = c * k % states
            if letter < k:
                before[c] = law[c, letter] * after[base + letter]
            else:
                total = np.float32(0.0)
                for a in range(k):
                    joint = law[c, a] * after[base + a]
                    mass[a] += alpha[c] * joint
                    total += joint
                before[c] = total
            top = max(top, before[c])
    scale = np.float32(1.0) / top
    for c in range(states):
        before[c] *= scale
    if letter >= k:
        total = mass.sum()
        for a in range(k):
            out[a] = np.log(max(mass[a] / total, np.float32(2e-9)))


@jit
def _head(alpha, beta, x, order, k, out):  # noqa: ANN001, ANN202
    """Log-marginals of the first sites."""
    mass = np.zeros((order, k), np.float32)
    for c in range(len(alpha)):
        w = alpha[c] * beta[c]
        if w > 0.0:
            rest = c
            for i in range(order - 1, -1, -1):
                mass[i, rest % k] += w
                rest //= k
    for i in range(min(order, len(x))):
        if x[i] >= k:
            total = mass[i].sum()
            for a in range(k):
                out[i, a] = np.log(max(mass[i, a] / total, np.float32(2e-9)))
