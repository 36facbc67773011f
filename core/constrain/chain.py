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
    """Index tables of a trellis by layer, across rows (built once per window)."""

    def __init__(self, trellis: Trellis, device: torch.device) -> None:
        rows, width = trellis.layer.shape
        n, length = len(trellis.state), width - 2
        sizes = np.diff(trellis.layer)
        depth = np.repeat(np.tile(np.arange(length + 1), rows), sizes.reshape(-1))
        row = np.repeat(np.arange(rows), sizes.sum(1))
        source = np.repeat(np.arange(n), np.diff(trellis.edge_ptr))

        def put(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.nodes, self.degree = n, int(np.diff(trellis.edge_ptr).max())
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
    log_phi: Float64[Tensor, "b l k"]

    @cached_property
    def _layers(self) -> _Layers:
        tables: dict[str, _Layers] = self.trellis.__dict__.setdefault("tables", {})  # one for all steps of a window
        device = str(self.log_phi.device)
        if device not in tables:
            tables[device] = _Layers(self.trellis, self.log_phi.device)
        return tables[device]

    def _score(self, i: int) -> Tensor:
        t = self._layers
        dst = t.target[i]
        return t.weight[t.edges[i]].to(self.log_phi.dtype) + self.log_phi[t.row[dst], i, t.token[dst]]

    @cached_property
    def backward(self) -> Float64[Tensor, " nodes"]:
        """Log backward messages of every node, [nodes]."""
        t, length = self._layers, self.trellis.length
        out = torch.full((t.nodes,), -torch.inf, dtype=self.log_phi.dtype, device=self.log_phi.device)
        out = out.index_fill(0, t.final, 0.0)
        for i in range(length - 1, -1, -1):
            message = _scatter_lse(self._score(i) + out[t.target[i]], t.source[i], t.nodes)
            out = torch.where(message > -torch.inf, message, out)
        return out

    @cached_property
    def forward(self) -> Float64[Tensor, " nodes"]:
        """Log forward messages of every node (its own potential included), [nodes]."""
        t = self._layers
        out = torch.full((t.nodes,), -torch.inf, dtype=self.log_phi.dtype, device=self.log_phi.device)
        out = out.index_fill(0, t.start, 0.0)
        for i in range(self.trellis.length):
            message = _scatter_lse(self._score(i) + out[t.source[i]], t.target[i], t.nodes)
            out = torch.where(message > -torch.inf, message, out)
        return out

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
        t, out = self._layers, torch.zeros_like(self.log_phi)
        norm = self.log_partition()
        for i in range(self.trellis.length):
            nodes = t.target[i].unique()
            p = (self.forward[nodes] + self.backward[nodes] - norm[t.row[nodes]]).exp()
            out = out.index_put((t.row[nodes], torch.full_like(nodes, i), t.token[nodes]), p, accumulate=True)
        return out

    def mode(self) -> Int[Tensor, "b l"]:
        """Return the most likely window of each row, local tokens [B, L] (max-product)."""
        t, length = self._layers, self.trellis.length
        best = torch.full((t.nodes,), -torch.inf, dtype=self.log_phi.dtype, device=self.log_phi.device)
        best[t.final] = 0.0
        with torch.no_grad():
            for i in range(length - 1, -1, -1):
                best = best.scatter_reduce(0, t.source[i], self._score(i) + best[t.target[i]], "amax")
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
