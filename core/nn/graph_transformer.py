"""A transformer on directed acyclic graphs, and the symmetric one that it is compared with.

Nodes carry vectors h_i, pairs i < j vectors e_ij. **Directed:** half of the heads of each layer look along the
edges (node j reads its sources i < j), half against them (node i reads its targets j > i), each with its own maps, so
that "before" and "after" are different words; a head's logit and value take the pair's vector in,

    a_ij = q_j . (k_i + A e_ij) / sqrt(d),      h_j <- h_j + O sum_i softmax_i(a_ij) (v_i + B e_ij),
    e_ij <- e_ij + MLP[e_ij, h_i, h_j].

Every node also reads itself. Positions are the topological place, learned, and the depth: the longest path from the
input over the edges that are known at the moment. **Symmetric** (DiGress, and DGPO's use of it): pairs have one vector
for both directions, every head reads all nodes, logits and values do not know which end of a pair is the source, and
the order enters only through sines of the place added to the nodes.

Both have the same parameters up to the position tables. Reference designs: Vignac et al., 2022, arXiv:2209.14734;
Carballo-Castro et al., 2025, arXiv:2506.16404 (attention along and against edges); Li et al., 2024, arXiv:2411.02322.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from core.errors import UsageError

__all__ = ["GraphTransformer", "depths", "sines"]


def sines(n: int, dim: int, base: float = 1e4) -> Float[Tensor, "n d"]:
    """Return sinusoidal positions [n, dim] (Vaswani et al. 2017)."""
    angle = torch.arange(n)[:, None] / base ** (torch.arange(0, dim, 2) / dim)
    return torch.cat([angle.sin(), angle.cos()], -1)[:, :dim]


def depths(known: Int[Tensor, "b n n"]) -> Int[Tensor, "b n"]:
    """Return the longest path from node 0 to each node over edges `known` [B, n, n] (i to j, i < j), int64 [B, n]."""
    n = known.shape[1]
    out = [torch.zeros(len(known), dtype=torch.long, device=known.device)]
    for j in range(1, n):
        before = torch.stack(out, 1)
        out.append((known[:, :j, j] * (before + 1)).amax(1))
    return torch.stack(out, 1)


class _Layer(nn.Module):
    def __init__(self, dim: int, edge_dim: int, heads: int, directed: bool) -> None:
        super().__init__()
        self.heads, self.directed = heads, directed
        self.norm, self.norm_e, self.norm_f = nn.LayerNorm(dim), nn.LayerNorm(edge_dim), nn.LayerNorm(dim)
        self.qkv, self.pair, self.out = nn.Linear(dim, 3 * dim), nn.Linear(edge_dim, 2 * dim), nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.ends, self.own = nn.Linear(2 * dim, edge_dim), nn.Linear(edge_dim, edge_dim)
        self.write = nn.Linear(edge_dim, edge_dim)

    def forward(self, h: Tensor, e: Tensor, reads: Tensor) -> tuple[Tensor, Tensor]:
        """Map nodes [B, n, d] and pairs [B, n, n, d'] given who reads whom, bool [heads, n, n] (reader first)."""
        b, n, d = h.shape
        q, k, v = (t.view(b, n, self.heads, -1) for t in self.qkv(self.norm(h)).chunk(3, -1))
        normal = self.norm_e(e)
        to_k, to_v = (t.view(b, n, n, self.heads, -1) for t in self.pair(normal).chunk(2, -1))
        logits = torch.einsum("brhc,bshc->bhrs", q, k) + torch.einsum("brhc,brshc->bhrs", q, to_k)
        a = (logits / math.sqrt(d // self.heads)).masked_fill(~reads, -torch.inf).softmax(-1)
        heard = torch.einsum("bhrs,bshc->brhc", a, v) + torch.einsum("bhrs,brshc->brhc", a, to_v)
        h = h + self.out(heard.reshape(b, n, d))
        h = h + self.feed(self.norm_f(h))
        first, second = self.ends.weight.chunk(2, -1)
        if self.directed:  # e[b, r, s] stands for the pair whatever the reader; the source is the lower node
            source, target = h @ first.T, h @ second.T
            low = torch.ones(n, n, dtype=torch.bool, device=h.device).tril(-1)[..., None]  # the reader comes later
            ends = torch.where(low, source[:, None] + target[:, :, None], source[:, :, None] + target[:, None])
        else:
            both = h @ (first + second).T / 2
            ends = both[:, None] + both[:, :, None]
        return h, e + self.write(nn.functional.gelu(self.own(normal) + ends + self.ends.bias))


class GraphTransformer(nn.Module):
    """From a noisy graph to logits of each node and of each pair.

    Args:
        nodes: n.
        node_states, edge_states: sizes of the alphabets that come in (masks included).
        node_out, edge_out: of those that go out.
        dim, edge_dim, layers, heads: of the network; `heads` even.
        directed: whether edges have a direction.
        present: which edge states mean that there is an edge, for the depth.

    Raises:
        UsageError: the heads do not divide the width evenly.
    """

    def __init__(
        self, nodes: int, node_states: int, edge_states: int, node_out: int, edge_out: int, dim: int = 64,
        edge_dim: int = 32, layers: int = 3, heads: int = 4, directed: bool = True, present: tuple[int, ...] = (1,),
    ) -> None:  # fmt: skip
        if dim % heads:
            raise UsageError("does not divide the width evenly", field="heads", value=heads, hint=f"dim is {dim}")
        super().__init__()
        self.nodes, self.directed = nodes, directed
        self.node_in, self.edge_in = nn.Embedding(node_states, dim), nn.Embedding(edge_states, edge_dim)
        self.time = nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, dim))
        self.place = nn.Embedding(nodes, dim) if directed else None
        self.depth = nn.Embedding(nodes, dim) if directed else None
        self.layers = nn.ModuleList(_Layer(dim, edge_dim, heads, directed) for _ in range(layers))
        self.norm, self.node_head = nn.LayerNorm(dim), nn.Linear(dim, node_out)
        self.ends, self.edge_head = nn.Linear(2 * dim, edge_dim), nn.Linear(edge_dim, edge_out)
        here, before = torch.eye(nodes, dtype=torch.bool), torch.ones(nodes, nodes, dtype=torch.bool).tril(-1)
        half = torch.stack([here | before] * (heads // 2) + [here | before.T] * (heads - heads // 2))
        self.register_buffer("reads", half if directed else torch.ones_like(half), persistent=False)
        self.register_buffer("sines", sines(nodes, dim), persistent=False)
        self.register_buffer("present", one_hot(torch.tensor(present), edge_states).sum(0).bool(), persistent=False)

    def forward(
        self,
        x: Int[Tensor, "b n"],
        e: Int[Tensor, "b n n"],
        t: Float[Tensor, " b"],
        context: Float[Tensor, "b d"] | None = None,
    ) -> tuple[Float[Tensor, "b n x_out"], Float[Tensor, "b n n e_out"]]:
        """Return node logits [B, n, node_out] and pair logits [B, n, n, edge_out] (entry i, j for i < j).

        Args:
            x: node tokens [B, n].
            e: pair tokens [B, n, n], read above the diagonal.
            t: times [B].
            context: [B, dim], added to every node.
        """
        upper = e.triu(1)
        h = self.node_in(x) + self.time(t.to(self.node_head.weight.dtype)[:, None])[:, None]
        if self.place is not None and self.depth is not None:
            known = self.present[upper].triu(1).long()  # type: ignore[index]
            h = h + self.place.weight + self.depth(depths(known))
        else:
            h = h + self.sines
        if context is not None:
            h = h + context[:, None]
        pair = self.edge_in(upper + upper.transpose(1, 2))
        for layer in self.layers:
            h, pair = layer(h, pair, self.reads)
        h = self.norm(h)
        first, second = self.ends.weight.chunk(2, -1)
        if self.directed:
            ends = (h @ first.T)[:, :, None] + (h @ second.T)[:, None]
        else:
            both = h @ (first + second).T / 2
            ends = both[:, None] + both[:, :, None]
        return self.node_head(h), self.edge_head(nn.functional.gelu(pair + ends + self.ends.bias))
