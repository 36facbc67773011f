"""Exact inference on a window: forward filtering, backward sampling, and the reference law.

For a trellis with edge weights w (the reference chain) and site potentials phi_i(token), the law over whole windows is

    P(x) = 1/Z  prod_i  w(s_{i-1}, s_i) phi_i(x_i),        s_i the state after x_1 ... x_i.

Backward messages  b_i(s) = sum_{s'} w(s, s') phi_{i+1}(x_{s'}) b_{i+1}(s')  give Z = b_0(start), exact draws, the
marginals and (with max for sum) the mode, in time linear in the number of edges. All of it is differentiable in phi.

**reference** draws. The sites R revealed now carry the prediction as *matched marginals*, not as a likelihood: iterate
phi_i <- D_i / (f_i b_i) for i in R (f, b the messages per token without phi_i), with phi = 1 elsewhere. This is the
I-projection of the reference chain on the marginals D (iterative proportional fitting, Sinkhorn on a chain).

Reference: Rabiner (1989) for the messages; Csiszar (1975), "I-divergence geometry", for the projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from core.constrain.trellis import Trellis

__all__ = ["Markov", "project"]


class _Layers:
    """Index tables of a trellis by layer, across rows (built once per window)."""

    def __init__(self, trellis: Trellis, device: torch.device) -> None:
        rows, width = trellis.layer.shape
        length = width - 2
        n = len(trellis.state)
        depth = np.zeros(n, np.int64)
        row = np.zeros(n, np.int64)
        for b in range(rows):
            sizes = np.diff(trellis.layer[b])
            depth[trellis.layer[b, 0] : trellis.layer[b, -1]] = np.repeat(np.arange(length + 1), sizes)
            row[trellis.layer[b, 0] : trellis.layer[b, -1]] = b
        source = np.repeat(np.arange(n), np.diff(trellis.edge_ptr))

        def put(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.nodes = n
        self.start = put(trellis.layer[:, 0])
        self.final = put(np.flatnonzero(depth == length))
        self.row, self.token, self.ptr = put(row), put(trellis.token.astype(np.int64)), put(trellis.edge_ptr)
        self.edge, self.weight = put(trellis.edge), put(trellis.log_weight)
        by_depth = [np.flatnonzero(depth[source] == i) for i in range(length)]
        self.edges = [put(e) for e in by_depth]
        self.source = [put(source[e]) for e in by_depth]
        self.target = [put(trellis.edge[e]) for e in by_depth]


def _scatter_lse(value: Tensor, index: Tensor, size: int) -> Tensor:
    """Log-sum-exp of `value` grouped by `index`; empty groups are -inf. Differentiable."""
    top = torch.full((size,), -torch.inf, dtype=value.dtype, device=value.device)
    top = top.scatter_reduce(0, index, value.detach(), "amax")
    safe = torch.where(top.isfinite(), top, torch.zeros_like(top))
    total = torch.zeros_like(top).index_add(0, index, (value - safe[index]).exp())
    live = total > 0
    return torch.where(live, torch.where(live, total, 1.0).log() + safe, -torch.inf)


@dataclass(eq=False)
class Markov:
    """The law P of a window under site potentials.

    Args:
        trellis: the admissible windows of B rows, L tokens, K local tokens.
        log_phi: float64 [B, L, K] log potentials (-inf forbids a token).
    """

    trellis: Trellis
    log_phi: Tensor

    @cached_property
    def _layers(self) -> _Layers:
        return _Layers(self.trellis, self.log_phi.device)

    def _score(self, i: int) -> Tensor:
        t = self._layers
        dst = t.target[i]
        return t.weight[t.edges[i]].to(self.log_phi.dtype) + self.log_phi[t.row[dst], i, t.token[dst]]

    @cached_property
    def backward(self) -> Tensor:
        """Log backward messages of every node, [nodes]."""
        t, length = self._layers, self.trellis.length
        out = torch.full((t.nodes,), -torch.inf, dtype=self.log_phi.dtype, device=self.log_phi.device)
        out = out.index_fill(0, t.final, 0.0)
        for i in range(length - 1, -1, -1):
            message = _scatter_lse(self._score(i) + out[t.target[i]], t.source[i], t.nodes)
            out = torch.where(message > -torch.inf, message, out)
        return out

    @cached_property
    def forward(self) -> Tensor:
        """Log forward messages of every node (its own potential included), [nodes]."""
        t = self._layers
        out = torch.full((t.nodes,), -torch.inf, dtype=self.log_phi.dtype, device=self.log_phi.device)
        out = out.index_fill(0, t.start, 0.0)
        for i in range(self.trellis.length):
            message = _scatter_lse(self._score(i) + out[t.source[i]], t.target[i], t.nodes)
            out = torch.where(message > -torch.inf, message, out)
        return out

    def log_partition(self) -> Tensor:
        """Return log Z of each row, [B]; differentiable in `log_phi`."""
        return self.backward[self._layers.start]

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log P(x) of local tokens [B, L], [B]; -inf where inadmissible."""
        t = self._layers
        node, total = t.start.clone(), torch.zeros(len(x), dtype=self.log_phi.dtype, device=x.device)
        degree = int((t.ptr[1:] - t.ptr[:-1]).max())
        for i in range(self.trellis.length):
            index, legal = self._fan(node, degree)
            hit = legal & (t.token[t.edge[index]] == x[:, i : i + 1])
            found, which = hit.max(-1)
            chosen = index.gather(1, which[:, None])[:, 0]
            step = t.weight[chosen].to(total.dtype) + self.log_phi[torch.arange(len(x)), i, x[:, i]]
            total = torch.where(found, total + step, -torch.inf)
            node = torch.where(found, t.edge[chosen], node)
        return total - self.log_partition()

    def marginals(self) -> Tensor:
        """Return P(x_i = v), float [B, L, K]."""
        t, out = self._layers, torch.zeros_like(self.log_phi)
        norm = self.log_partition()
        for i in range(self.trellis.length):
            nodes = t.target[i].unique()
            p = (self.forward[nodes] + self.backward[nodes] - norm[t.row[nodes]]).exp()
            out = out.index_put((t.row[nodes], torch.full_like(nodes, i), t.token[nodes]), p, accumulate=True)
        return out

    def mode(self) -> Tensor:
        """Return the most likely window of each row, local tokens [B, L] (max-product)."""
        t, length = self._layers, self.trellis.length
        best = torch.full((t.nodes,), -torch.inf, dtype=self.log_phi.dtype, device=self.log_phi.device)
        best[t.final] = 0.0
        with torch.no_grad():
            for i in range(length - 1, -1, -1):
                best = best.scatter_reduce(0, t.source[i], self._score(i) + best[t.target[i]], "amax")
            return self._walk(lambda score, legal: score.masked_fill(~legal, -torch.inf).argmax(-1), best)

    def sample(self, u: Tensor) -> Tensor:
        """Return one exact draw for each row, local tokens [B, L].

        Args:
            u: uniforms [B, L].
        """
        with torch.no_grad():
            draws = iter(u.unbind(1))

            def choose(score: Tensor, legal: Tensor) -> Tensor:
                p = score.masked_fill(~legal, -torch.inf).softmax(-1).cumsum(-1)
                last = p.shape[-1] - 1 - (p.diff(dim=-1, prepend=p.new_zeros(len(p), 1)) > 0).flip(-1).int().argmax(-1)
                return torch.minimum(torch.searchsorted(p, (next(draws) * p[:, -1])[:, None], right=True)[:, 0], last)

            return self._walk(choose, self.backward)

    def _fan(self, node: Tensor, degree: int) -> tuple[Tensor, Tensor]:
        t = self._layers
        low, high = t.ptr[node], t.ptr[node + 1]
        index = low[:, None] + torch.arange(degree, device=node.device)
        legal = index < high[:, None]
        return torch.where(legal, index, torch.zeros_like(index)), legal

    def _walk(self, choose, message: Tensor) -> Tensor:  # noqa: ANN001
        t = self._layers
        node, tokens = t.start, []
        degree = int((t.ptr[1:] - t.ptr[:-1]).max())
        rows = torch.arange(len(node), device=node.device)[:, None]
        for i in range(self.trellis.length):
            index, legal = self._fan(node, degree)
            dst = t.edge[index]
            score = t.weight[index].to(message.dtype) + self.log_phi[rows, i, t.token[dst]] + message[dst]
            node = dst.gather(1, choose(score, legal)[:, None])[:, 0]
            tokens.append(t.token[node])
        return torch.stack(tokens, 1)


def project(trellis: Trellis, log_p: Tensor, known: Tensor, match: Tensor, sweeps: int = 3) -> Tensor:
    """Return log potentials that match the prediction's marginals at some sites under the reference chain.

    Args:
        trellis: the window, its edge weights the reference chain W.
        log_p: float64 [B, L, K], prediction D (need not be normalised over the admissible tokens).
        known: int64 [B, L], local token or -1.
        match: bool [B, L], the sites whose marginals are matched (those revealed now, or all unknown ones).
        sweeps: pairs of backward and forward half-sweeps; the first backward one takes f = 1, which is the locally
            normalised chain.

    Returns:
        float64 [B, L, K] log potentials, -inf for tokens that contradict `known`.
    """
    allowed = torch.from_numpy(trellis.feasible(known.cpu().numpy())).to(log_p.device)
    target = log_p.masked_fill(~allowed, -torch.inf).log_softmax(-1)
    target = torch.where(target.isnan(), allowed.to(log_p.dtype).log().log_softmax(-1), target)
    phi = torch.zeros_like(log_p).masked_fill(~allowed, -torch.inf)
    fit = _Fit(trellis, target, match, phi)
    forward = torch.zeros(fit.t.nodes, dtype=log_p.dtype, device=log_p.device)
    for _ in range(sweeps):
        backward = fit.backward(forward)
        forward = fit.forward(backward)
    return fit.phi


class _Fit:
    """Half-sweeps of the projection. Messages exclude the potential of their own site."""

    def __init__(self, trellis: Trellis, target: Tensor, match: Tensor, phi: Tensor) -> None:
        self.t, self.length = _Layers(trellis, phi.device), trellis.length
        self.target, self.match, self.phi = target, match, phi
        self.nodes = [t.unique() for t in self.t.target]

    def update(self, i: int, forward: Tensor, backward: Tensor) -> None:
        """Set phi_i <- D_i / (f_i b_i) at the matched rows."""
        t, nodes, k = self.t, self.nodes[i], self.phi.shape[-1]
        index = t.row[nodes] * k + t.token[nodes]
        message = _scatter_lse(forward[nodes] + backward[nodes], index, len(self.phi) * k).view(-1, k)
        step = torch.where(self.target[:, i].isfinite() & message.isfinite(), self.target[:, i] - message, -torch.inf)
        self.phi[:, i] = torch.where(self.match[:, i, None], step, self.phi[:, i])

    def at(self, i: int, node: Tensor) -> Tensor:
        return self.phi[self.t.row[node], i, self.t.token[node]]

    def backward(self, forward: Tensor) -> Tensor:
        t = self.t
        out = torch.full((t.nodes,), -torch.inf, dtype=self.phi.dtype, device=self.phi.device)
        out[t.final] = 0.0
        for i in range(self.length - 1, -1, -1):
            self.update(i, forward, out)
            dst = t.target[i]
            message = _scatter_lse(t.weight[t.edges[i]] + self.at(i, dst) + out[dst], t.source[i], t.nodes)
            out = torch.where(message > -torch.inf, message, out)
        return out

    def forward(self, backward: Tensor) -> Tensor:
        t = self.t
        out = torch.full((t.nodes,), -torch.inf, dtype=self.phi.dtype, device=self.phi.device)
        entered = out.index_fill(0, t.start, 0.0)
        for i in range(self.length):
            dst = t.target[i]
            message = _scatter_lse(t.weight[t.edges[i]] + entered[t.source[i]], dst, t.nodes)
            out = torch.where(message > -torch.inf, message, out)
            self.update(i, out, backward)
            nodes = self.nodes[i]
            entered = entered.index_put((nodes,), out[nodes] + self.at(i, nodes))
        return out
