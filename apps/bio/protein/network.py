"""Inverse folding as masked diffusion on a graph of residues.

A backbone is a graph whose nodes are residues and whose edges join each residue to its nearest neighbours. With `x_t`
a sequence of which some letters are masked, the network gives at every masked site

    D_i(a) = p(x_i = a | x_t, backbone),

from rounds of message passing: the **encoder** reads the structure alone (once per backbone), the **decoder** reads
its result and the noisy sequence (once per step). Features are invariant to rotation and translation.

One recipe trains several **members** of the same shape, cross-fitted: member k never sees the clusters of fold k. A
protein of fold k is read by member k alone; one of no fold (the test clusters, anything new) by the mean of all.

References: Ingraham et al., 2019 (graph features of backbones); Dauparas et al., 2022, doi 10.1126/science.add2187
(atom-pair distances, coordinate noise); Wang et al., 2024, arXiv:2410.13643 (masked diffusion for inverse folding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from apps.bio.protein import geometry
from apps.bio.protein.model import ProteinConfig

__all__ = ["LETTERS", "Graph", "Member", "ProteinNet", "graph", "join"]

LETTERS, REACH, OTHER, SCALE = 20, 24, 49, 12.0
"""Letters; farthest place along the chain that is told apart; the code of another chain; divisor of sums."""


@dataclass(eq=False)
class Graph:
    """Structures end to end, ready for the network.

    Args:
        node: features [N, NODE].
        edge: features [E, EDGE].
        index: int64 [2, E], from and to.
        gap: positions along the chain between the two ends, int64 [E]; OTHER for another chain.
    """

    node: Tensor
    edge: Tensor
    index: Tensor
    gap: Tensor

    def to(self, device: torch.device | str) -> Graph:
        """Return the graph on a device."""
        return Graph(self.node.to(device), self.edge.to(device), self.index.to(device), self.gap.to(device))


def graph(
    coords: Tensor, bonded: Tensor, place: Tensor, chain: Tensor, neighbours: int = 24, reference: Tensor | None = None
) -> Graph:
    """Return the graph of one structure.

    Args:
        coords: N, CA, C, O, float [N, 4, 3].
        bonded: joined to the residue before, bool [N].
        place: position along the chain, int64 [N].
        chain: number of the chain, int64 [N].
        neighbours: edges of a residue.
        reference: coordinates that decide who is near (those without noise), by default `coords`.
    """
    index = geometry.neighbours(coords if reference is None else reference, neighbours)
    node, bonds = geometry.node_features(coords, bonded)
    edge = geometry.edge_features(coords, index, bonds)
    j, i = index
    gap = (place[j] - place[i]).clamp(-REACH, REACH) + REACH
    return Graph(node, edge, index, torch.where(chain[i] == chain[j], gap, OTHER))


def join(graphs: Sequence[Graph]) -> Graph:
    """Lay graphs side by side."""
    start = torch.tensor([0, *(len(g.node) for g in graphs)]).cumsum(0)
    index = torch.cat([g.index + int(s) for g, s in zip(graphs, start, strict=False)], 1)
    parts = [torch.cat([getattr(g, name) for g in graphs]) for name in ("node", "edge", "gap")]
    return Graph(parts[0], parts[1], index, parts[2])


class Round(MessagePassing):
    """One round: messages along edges, summed at their targets, and a small network at each node.

    Args:
        dim: width.
        dropout: of what is added to the node.
        edges: update the edges afterwards.
    """

    def __init__(self, dim: int, dropout: float, edges: bool) -> None:
        super().__init__(aggr="sum")
        self.own, self.other = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.along, self.mix = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        self.edge = EdgeUpdate(dim, dropout) if edges else None

    def forward(self, h: Tensor, e: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return nodes [..., N, d] and edges [E, d] after the round."""
        sent = self.propagate(index, own=self.own(h), other=self.other(h), along=self.along(e), size=None)
        h = self.first(h + self.drop(self.out(sent / SCALE)))
        h = self.second(h + self.drop(self.feed(h)))
        return h, e if self.edge is None else self.edge(h, e, index)

    def message(self, own_i: Tensor, other_j: Tensor, along: Tensor) -> Tensor:
        """Return what goes along each edge."""
        return nn.functional.silu(self.mix(nn.functional.silu(own_i + other_j + along)))


class EdgeUpdate(nn.Module):
    """Edges read their two ends."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.out, self.norm, self.drop = nn.Linear(dim, dim), nn.LayerNorm(dim), nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor, index: Tensor) -> Tensor:
        """Return the new edges [E, d]."""
        inner = nn.functional.silu(self.a(h)[index[1]] + self.b(h)[index[0]] + self.c(e))
        return self.norm(e + self.drop(self.out(inner)))


class Member(nn.Module):
    """One network: encoder of the structure, decoder of the noisy sequence.

    Args:
        config: its shape.
    """

    def __init__(self, config: ProteinConfig) -> None:
        super().__init__()
        d = config.dim
        self.node = nn.Sequential(nn.Linear(geometry.NODE, d), nn.LayerNorm(d))
        self.edge = nn.Linear(geometry.EDGE, d)
        self.gap = nn.Embedding(OTHER + 1, d)
        self.norm, self.drop = nn.LayerNorm(d), nn.Dropout(config.dropout)
        self.token = nn.Linear(LETTERS + 1, d, bias=False)
        self.encoder = nn.ModuleList(Round(d, config.dropout, True) for _ in range(config.encoder))
        self.decoder = nn.ModuleList(Round(d, config.dropout, False) for _ in range(config.decoder))
        self.head = nn.Linear(d, LETTERS)
        nn.init.normal_(self.token.weight, std=0.3)

    def encode(self, g: Graph) -> tuple[Tensor, Tensor]:
        """Read structures: nodes [N, d] and edges [E, d]."""
        h, e = self.node(g.node), self.norm(self.drop(self.edge(g.edge)) + self.gap(g.gap))
        for layer in self.encoder:
            h, e = layer(h, e, g.index)
        return h, e

    def decode(self, h: Tensor, e: Tensor, index: Tensor, x: Tensor) -> Tensor:
        """Return logits [..., N, 20] of noisy sequences: tokens int64 [..., N], or laws [..., N, 21]."""
        if not x.is_floating_point():
            x = nn.functional.one_hot(x, LETTERS + 1)
        h = h + self.token(x.to(h))
        for layer in self.decoder:
            h, _ = layer(h, e, index)
        return self.head(h)


class ProteinNet(nn.Module):
    """The cross-fitted members.

    Args:
        config: their shape and number.
    """

    def __init__(self, config: ProteinConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(config) for _ in range(config.members))

    def forward(self, g: Graph, x: Tensor, member: int) -> Tensor:
        """Return one member's logits [N, 20] of the noisy sequences `x` [N] of structures."""
        net = self.members[member]
        assert isinstance(net, Member)
        return net.decode(*net.encode(g), g.index, x)
