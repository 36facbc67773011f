"""Exact inference on a window: forward filtering, backward sampling.

For a trellis with edge weights w (the reference chain) and site potentials phi_i(token), the law over whole windows is

    P(x) = 1/Z  prod_i  w(s_{i-1}, s_i) phi_i(x_i),        s_i the state after x_1 ... x_i.

Backward messages  b_i(s) = sum_{s'} w(s, s') phi_{i+1}(x_{s'}) b_{i+1}(s')  give Z = b_0(start), exact draws, the
marginals and (with max for sum) the mode, in time linear in the number of edges. All of it is differentiable in phi.

Reference: Rabiner (1989), "A tutorial on hidden Markov models".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from core.constrain.trellis import Trellis

__all__ = ["Markov"]


class _Layers:
    """Index tables of a trellis by layer, across rows (built once per window).

    A layer has its nodes in the order of their numbers; `place` is where a node stands in its own.
    """

    def __init__(self, trellis: Trellis, device: torch.device) -> None:
        rows, width = trellis.layer.shape
        n, length = len(trellis.state), width - 2
        sizes = np.diff(trellis.layer)
        depth = np.repeat(np.tile(np.arange(length + 1), rows), sizes.reshape(-1))
        row = np.repeat(np.arange(rows), sizes.sum(1))
        source = np.repeat(np.arange(n), np.diff(trellis.edge_ptr))
        nodes, edges = depth.argsort(kind="stable"), depth[source].argsort(kind="stable")
        count = np.bincount(depth, minlength=length + 1)
        place = np.empty(n, np.int64)
        place[nodes] = np.arange(n) - np.repeat(np.cumsum(count) - count, count)

        def put(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.count = count.tolist()
        self.fan = np.bincount(depth[source], minlength=length + 1)[:length].tolist()
        self.degree = int(np.diff(trellis.edge_ptr).max())
        self.row, self.token, self.ptr = put(row), put(trellis.token.astype(np.int64)), put(trellis.edge_ptr)
        self.edge, self.weight = put(trellis.edge), put(trellis.log_weight)
        self.start, self.depth, self.order = put(trellis.layer[:, 0]), put(depth), put(nodes.argsort())
        self.reached, self.edges = put(np.unique(trellis.edge)), put(edges)
        self.first = put(place[trellis.layer[:, 0]])
        self.source = put(place[source[edges]]).split(self.fan)
        self.target = put(place[trellis.edge[edges]]).split(self.fan)


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
    log_phi: Float64[Tensor, "b l k"]

    @cached_property
    def _layers(self) -> _Layers:
        tables: dict[str, _Layers] = self.trellis.__dict__.setdefault("tables", {})  # one for all steps of a window
        device = str(self.log_phi.device)
        if device not in tables:
            tables[device] = _Layers(self.trellis, self.log_phi.device)
        return tables[device]

    @cached_property
    def _score(self) -> tuple[Tensor, ...]:
        """Log-weight and potential of the edges out of each layer."""
        t = self._layers
        dst = t.edge[t.edges]
        phi = self.log_phi[t.row[dst], t.depth[dst] - 1, t.token[dst]]
        return (t.weight[t.edges].to(phi.dtype) + phi).split(t.fan)

    def _full(self, size: int, value: float) -> Tensor:
        return torch.full((size,), value, dtype=self.log_phi.dtype, device=self.log_phi.device)

    @cached_property
    def backward(self) -> Float64[Tensor, " nodes"]:
        """Log backward messages of every node, [nodes]."""
        t, length = self._layers, self.trellis.length
        found = [self._full(t.count[length], 0.0)]
        for i in range(length - 1, -1, -1):
            found.append(_scatter_lse(self._score[i] + found[-1][t.target[i]], t.source[i], t.count[i]))
        return torch.cat(found[::-1])[t.order]

    @cached_property
    def forward(self) -> Float64[Tensor, " nodes"]:
        """Log forward messages of every node (its own potential included), [nodes]."""
        t = self._layers
        found = [self._full(t.count[0], -torch.inf).index_fill(0, t.first, 0.0)]
        for i in range(self.trellis.length):
            found.append(_scatter_lse(self._score[i] + found[-1][t.source[i]], t.target[i], t.count[i + 1]))
        return torch.cat(found)[t.order]

    def log_partition(self) -> Float64[Tensor, " b"]:
        """Return log Z of each row, [B]; differentiable in `log_phi`."""
        return self.backward[self._layers.start]

    def log_prob(self, x: Int[Tensor, "b l"]) -> Float64[Tensor, " b"]:
        """Return log P(x) of local tokens [B, L], [B]; -inf where inadmissible."""
        t = self._layers
        node, total = t.start.clone(), torch.zeros(len(x), dtype=self.log_phi.dtype, device=x.device)
        for i in range(self.trellis.length):
            index, legal = self._fan(node)
            hit = legal & (t.token[t.edge[index]] == x[:, i : i + 1])
            found, which = hit.max(-1)
            chosen = index.gather(1, which[:, None])[:, 0]
            step = t.weight[chosen].to(total.dtype) + self.log_phi[torch.arange(len(x)), i, x[:, i]]
            total = torch.where(found, total + step, -torch.inf)
            node = torch.where(found, t.edge[chosen], node)
        return total - self.log_partition()

    def marginals(self) -> Float[Tensor, "b l k"]:
        """Return P(x_i = v), float [B, L, K]."""
        t = self._layers
        nodes = t.reached
        p = (self.forward[nodes] + self.backward[nodes] - self.log_partition()[t.row[nodes]]).exp()
        at = t.row[nodes], t.depth[nodes] - 1, t.token[nodes]
        return torch.zeros_like(self.log_phi).index_put(at, p, accumulate=True)

    def mode(self) -> Int[Tensor, "b l"]:
        """Return the most likely window of each row, local tokens [B, L] (max-product)."""
        t, length = self._layers, self.trellis.length
        found = [self._full(t.count[length], 0.0)]
        with torch.no_grad():
            for i in range(length - 1, -1, -1):
                value, lowest = self._score[i] + found[-1][t.target[i]], self._full(t.count[i], -torch.inf)
                found.append(lowest.scatter_reduce(0, t.source[i], value, "amax"))
            best = torch.cat(found[::-1])[t.order]
            return self._walk(lambda score, legal: score.masked_fill(~legal, -torch.inf).argmax(-1), best)

    def sample(self, u: Float[Tensor, "b l"]) -> Int[Tensor, "b l"]:
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

    def _fan(self, node: Tensor) -> tuple[Tensor, Tensor]:
        t = self._layers
        low, high = t.ptr[node], t.ptr[node + 1]
        index = low[:, None] + torch.arange(t.degree, device=node.device)
        legal = index < high[:, None]
        return torch.where(legal, index, torch.zeros_like(index)), legal

    def _walk(self, choose, message: Tensor) -> Tensor:  # noqa: ANN001
        t = self._layers
        node, tokens = t.start, []
        rows = torch.arange(len(node), device=node.device)[:, None]
        for i in range(self.trellis.length):
            index, legal = self._fan(node)
            dst = t.edge[index]
            score = t.weight[index].to(message.dtype) + self.log_phi[rows, i, t.token[dst]] + message[dst]
            node = dst.gather(1, choose(score, legal)[:, None])[:, 0]
            tokens.append(t.token[node])
        return torch.stack(tokens, 1)
