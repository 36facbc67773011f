"""Reference chains: order-k Markov laws of letters, and their exact site marginals given any known sites.

**Counts.** With n(c, a) the times that letter a followed context c, on both strands, the chain backs off from order k
to 0 by interpolation,

    P_j(a | c_j) = (n(c_j, a) + theta_j P_{j-1}(a | c_{j-1})) / (n(c_j) + theta_j),     P_{-1} = 1 / K,

c_j the last j letters, theta_j chosen on folds that the counts have not seen (Jelinek and Mercer 1980; MacKay and Peto
1995). In training each row is read with the counts of the other folds, so that the network never sees a chain that
has counted the very sequence it is to predict.

**Classes.** Sequences differ: islands of CG, coding and other stretches, strands. A mixture of M chains says so. Each
bends the one chain, P_m(a | c) ∝ P(a | c) r_m(a | last 3 letters of c), r_m the counts of the class over those expected
(pseudo-counts BEND), memberships by expectation-maximisation. The classes' marginals below are averaged with weights
share_m p_m(known sites), which is the exact marginal of the mixture.

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

__all__ = ["Background", "bent", "chain_nll", "count", "fit_strengths", "interpolate", "marginals", "memberships"]

FLOOR = -20.0
"""Least log-marginal: a letter that no training sequence could have still has some mass."""

BEND = 30.0
"""Pseudo-counts of a class's departures from the one chain."""

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
    """The chains of a model: one mixture of all training sequences, and one for each fold without it.

    Args:
        tokens: alphabet size K.
        order: k, at least 1.
        folds: parts of the training data.
        classes: chains of the mixture M.
    """

    def __init__(self, tokens: int, order: int, folds: int, classes: int = 1) -> None:
        super().__init__()
        self.tokens, self.order, self.classes = tokens, order, classes
        states = tokens**order
        self.table: Tensor
        self.first: Tensor
        self.share: Tensor
        self.register_buffer("table", torch.full((folds + 1, classes, states, tokens), 1.0 / tokens))
        self.register_buffer("first", torch.full((folds + 1, classes, states), 1.0 / states))
        self.register_buffer("share", torch.full((folds + 1, classes), -float(np.log(classes))))

    def fit(self, x: np.ndarray, fold: np.ndarray, both: bool = True) -> Background:
        """Learn from training tokens [B, L] in folds int [B]; mixture 0 is that of all, mixture 1 + f lacks fold f."""
        x = np.asarray(x, np.int64)
        if both:
            x, fold = np.concatenate([x, 3 - x[:, ::-1]]), np.concatenate([fold, fold])
        parts = [count(x[fold == f], self.order, self.tokens, False) for f in range(len(self.table) - 1)]
        theta = fit_strengths(parts)
        member = memberships(x, interpolate(np.sum(parts, 0), theta), self.classes)
        for number in range(len(self.table)):
            rows = fold != number - 1
            counts = np.sum([p for f, p in enumerate(parts) if f != number - 1], 0)
            laws = interpolate(counts, theta)
            for m, mixed in enumerate(bent(x[rows], laws, member[rows])):
                first = np.ones((1, 1))
                for law in mixed[:-1]:
                    first = first.reshape(-1, 1) * law
                self.table[number, m] = torch.from_numpy(mixed[-1]).to(self.table)
                self.first[number, m] = torch.from_numpy(first.reshape(-1)).to(self.first)
            self.share[number] = torch.from_numpy(np.log(member[rows].mean(0))).to(self.share)
        return self

    def nll(self, x: Tensor) -> Tensor:
        """Return -log p of tokens [B, L] under the mixture of all training data: nats, float64 [B]."""
        table, first = (v[0].double().log() for v in (self.table, self.first))
        code, known = torch.zeros_like(x[:, 0]), min(self.order, x.shape[1])
        for i in range(known):
            code = code * self.tokens + x[:, i]
        if known < self.order:  # all that may follow
            first = first.unflatten(1, (self.tokens**known, -1)).logsumexp(-1)
        log_p = first[:, code]
        for i in range(self.order, x.shape[1]):
            log_p = log_p + table[:, code, x[:, i]]
            code = (code * self.tokens + x[:, i]) % first.shape[1]
        return -(log_p + self.share[0].double()[:, None]).logsumexp(0)

    def forward(self, x: Tensor, fold: Tensor | None = None) -> Tensor:
        """Return law(mask) log m, [B, L, K], of tokens [B, L] (mask K) or laws [B, L, K + 1]; fold int64 [B]."""
        which = torch.zeros(len(x), dtype=torch.long, device=x.device) if fold is None else fold + 1
        hard = not x.is_floating_point()
        law = one_hot(x, self.tokens + 1).to(self.table.dtype) if hard else x
        found = [self._of(x if hard and x.device.type == "cpu" else law, which, m) for m in range(self.classes)]
        log_w = self.share[which].T.to(law.dtype) + torch.stack([z.to(law.dtype) for _, z in found])
        mixed = torch.stack([log_m for log_m, _ in found]) + log_w.log_softmax(0)[..., None, None]
        return law[..., self.tokens :] * mixed.logsumexp(0).clamp_min(FLOOR)

    def _of(self, x: Tensor, which: Tensor, m: int) -> tuple[Tensor, Tensor]:
        """Return log-marginals [B, L, K] and the log-probability of the evidence [B] under class m."""
        if not x.is_floating_point():
            arrays = (v.detach().contiguous().numpy() for v in (x, self.table[:, m], self.first[:, m], which))
            log_m, log_z = _marginals(*arrays, self.order)
            return torch.from_numpy(log_m), torch.from_numpy(log_z)
        used = which.unique()
        parts = [marginals(x[which == w], self.table[w, m], self.first[w, m], self.order) for w in used]
        back = torch.cat([(which == w).nonzero()[:, 0] for w in used]).argsort()
        return torch.cat([p for p, _ in parts])[back], torch.cat([z for _, z in parts])[back]


def memberships(x: np.ndarray, laws: Sequence[np.ndarray], classes: int, rounds: int = 12) -> np.ndarray:
    """Return the probability of each class for tokens [B, L], [B, M], by expectation-maximisation from GC ranks.

    Args:
        laws: of the one chain that all classes bend.
    """
    rank = ((x == 1) | (x == 2)).mean(1).argsort(kind="stable").argsort(kind="stable")
    out = 0.8 * np.eye(classes)[rank * classes // len(x)] + 0.2 * np.random.default_rng(0).dirichlet(
        np.ones(classes), len(x)
    )
    for _ in range(rounds if classes > 1 else 0):
        log_p = -np.stack([chain_nll(x, mixed) for mixed in bent(x, laws, out)], 1) + np.log(out.mean(0))
        out = np.exp(log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True))
    return out


def bent(x: np.ndarray, laws: Sequence[np.ndarray], member: np.ndarray) -> list[list[np.ndarray]]:
    """Return the laws of each class: those of the one chain times how much more often the class has the last 4 letters.

    Args:
        x: tokens [B, L].
        laws: of the one chain, order 0 ... k.
        member: probabilities of the classes [B, M].
    """
    k, order = laws[0].shape[1], len(laws) - 1
    if member.shape[1] == 1:
        return [list(laws)]
    code = sum(x[:, j : x.shape[1] - order + j] * k ** (order - j) for j in range(order + 1))
    code = np.asarray(code).ravel()
    out = []
    for weight in member.T:
        seen = np.bincount(code, np.repeat(weight, x.shape[1] - order), k ** (order + 1)).reshape(-1, k)
        expected = seen.sum(1, keepdims=True) * laws[-1]
        mixed = []
        for law in laws:
            short = min(len(law), k ** min(order, 3))
            ratio = [(v.reshape(-1, short, k).sum(0) + BEND) for v in (seen, expected)]
            tilted = law * np.tile(ratio[0] / ratio[1], (len(law) // short, 1))
            mixed.append(tilted / tilted.sum(1, keepdims=True))
        out.append(mixed)
    return out


def marginals(law: Tensor, table: Tensor, first: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Return log m [B, L, K] and the log-probability of the evidence [B], differentiable in the laws [B, L, K + 1]."""
    rows, length, k = law.shape[0], law.shape[1], law.shape[2] - 1
    table = table.to(law.dtype)
    evidence = law[..., :k] + law[..., k:]
    evidence = torch.cat([evidence, evidence.new_ones(rows, max(order - length, 0), k)], 1)
    start = first.to(law.dtype).expand(rows, -1).reshape(rows, *[k] * order)
    for i in range(order):
        start = start * evidence[:, i].reshape(rows, *[1] * i, k, *[1] * (order - 1 - i))
    alpha, log_z = _unit(start.reshape(rows, -1))
    alphas = [alpha]
    for i in range(order, length):
        ahead = alphas[-1][..., None] * table * evidence[:, i, None, :]
        alpha, more = _unit(ahead.reshape(rows, k, -1, k).sum(1).reshape(rows, -1))
        alphas.append(alpha)
        log_z = log_z + more
    beta, found = torch.ones_like(alpha), []
    for i in reversed(range(order, length)):
        joint = table * beta.reshape(rows, 1, -1, k).expand(-1, k, -1, -1).reshape(rows, -1, k)
        found.append((alphas[i - order][..., None] * joint).sum(1))
        beta = _unit((joint * evidence[:, i, None, :]).sum(-1))[0]
    whole = alphas[0] * beta
    head = [whole.reshape(rows, k**i, k, -1).sum((1, 3)) for i in range(min(order, length))]
    head = [h / evidence[:, i].clamp_min(1e-12) for i, h in enumerate(head)]
    mass = torch.stack([*head, *reversed(found)], 1)
    return (mass / mass.sum(-1, keepdim=True).clamp_min(1e-30)).clamp_min(1e-9).log(), log_z


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    total = x.sum(-1, keepdim=True).clamp_min(1e-30)
    return x / total, total.log()[..., 0]


@jit
def _marginals(x, table, first, which, order):  # noqa: ANN001, ANN202
    """Log-marginals at masked sites, 0 at known ones, float32 [B, L, K], and log p(known) [B]; live states only."""
    rows, length = x.shape
    k, states = table.shape[2], table.shape[1]
    out = np.zeros((rows, length, k), np.float32)
    evidence = np.zeros(rows, np.float64)
    steps = max(length - order, 0)
    alpha = np.zeros((steps + 1, states), np.float32)
    beta = np.zeros((2, states), np.float32)
    for b in range(rows):
        law = table[which[b]]
        evidence[b] = np.log(_begin(alpha[0], first[which[b]], x[b], order, k))
        for i in range(order, length):
            evidence[b] += np.log(_advance(alpha[i - order], alpha[i - order + 1], law, x[b, i], k))
        beta[steps % 2, :] = 1.0
        for i in range(length - 1, order - 1, -1):
            _retreat(alpha[i - order], beta[(i - order + 1) % 2], beta[(i - order) % 2], law, x[b, i], k, out[b, i])
        _head(alpha[0], beta[0], x[b], order, k, out[b])
    return out, evidence


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
    return total


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
    return total


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
