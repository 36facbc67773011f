"""Inverse folding as masked diffusion on a graph of residues.

A backbone is a graph whose nodes are residues and whose edges join each residue to its nearest neighbours. With `x_t`
a sequence of which some letters are masked, the network gives at every masked site

    log D_i(a) = f_a(surroundings of i) + c_ia(known letters),       D_i(a) = p(x_i = a | x_t, backbone),

up to a constant. **f** is a small network on what a residue sees (`geometry`, `environment`, and above all how each
kind of side chain would fit, `rotamers`): with some hundred folds to learn from, physics in the features is worth more
than depth. **c** comes from rounds of message passing that start at the known letters,

    m_i = sum_j [ g(h_i, e_ij, s_j) - g(h_i, e_ij, 0) ],       s_j: the letter where known, else 0, and messages,

so that c = 0 where nothing is known. Features are invariant to rotation and translation.

One recipe trains several **members** of the same shape, cross-fitted: member k never sees the clusters of fold k. A
protein of fold k is read by member k alone; one of no fold (the test clusters, anything new) by the mean of all, and
of some more that saw all folds.

References: Ingraham et al., 2019 (graph features of backbones); Dauparas et al., 2022, doi 10.1126/science.add2187
(atom-pair distances, coordinate noise); Wang et al., 2024, arXiv:2410.13643 (masked diffusion for inverse folding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from apps.bio.protein import environment, geometry, rotamers
from apps.bio.protein.model import ProteinConfig

__all__ = ["LETTERS", "NODE", "Graph", "Member", "ProteinNet", "graph", "join", "surroundings"]

LETTERS, REACH, OTHER, SCALE = 20, 24, 49, 12.0
"""Letters; farthest place along the chain that is told apart; the code of another chain; divisor of sums."""

WINDOW = 2
"""Neighbours along the chain, either side, whose local features a residue reads."""

NODE = (2 * WINDOW + 1) * environment.LOCAL + environment.ENVIRONMENT + rotamers.ROTAMERS
"""Features of a residue."""

JITTER, LIMIT = 0.1, 5.0
"""Noise of standardised features in training, and where they are cut."""


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
    node, bonds = surroundings(coords, bonded)
    edge = geometry.edge_features(coords, index, bonds)
    j, i = index
    gap = (place[j] - place[i]).clamp(-REACH, REACH) + REACH
    return Graph(node, edge, index, torch.where(chain[i] == chain[j], gap, OTHER))


def surroundings(coords: Tensor, bonded: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each residue sees [N, NODE], and the hydrogen-bond energies [N, N] (arguments as in `graph`)."""
    node, bonds = geometry.node_features(coords, bonded)
    near, helix, strand = environment.local(node, bonds)
    padded = nn.functional.pad(near, (0, 0, WINDOW, WINDOW))
    window = padded.unfold(0, 2 * WINDOW + 1, 1).transpose(1, 2).flatten(1)
    return torch.cat([window, environment.environment(coords, node, helix, strand), rotamers.fits(coords)], 1), bonds


def join(graphs: Sequence[Graph]) -> Graph:
    """Lay graphs side by side."""
    start = torch.tensor([0, *(len(g.node) for g in graphs)]).cumsum(0)
    index = torch.cat([g.index + int(s) for g, s in zip(graphs, start, strict=False)], 1)
    parts = [torch.cat([getattr(g, name) for g in graphs]) for name in ("node", "edge", "gap")]
    return Graph(parts[0], parts[1], index, parts[2])


class Round(MessagePassing):
    """One round: what is known at the sources changes what the targets hear; where nothing is known, nothing is said.

    Args:
        dim: width.
        dropout: of what is heard.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(aggr="sum")
        self.own, self.along = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.said, self.mix = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.out, self.drop = nn.Linear(dim, dim, bias=False), nn.Dropout(dropout)

    def forward(self, h: Tensor, e: Tensor, index: Tensor, s: Tensor) -> Tensor:
        """Return what the nodes [N, d] hear along edges [E, d], `s` [..., N, d] being what is known: [..., N, d]."""
        heard = self.propagate(index, own=self.own(h), said=self.said(s), along=self.along(e), size=None)
        return self.drop(self.out(nn.functional.silu(self.mix(heard / SCALE))))

    def message(self, own_i: Tensor, said_j: Tensor, along: Tensor) -> Tensor:
        """Return what goes along each edge, less what would go if nothing were known."""
        alone = own_i + along
        return nn.functional.silu(alone + said_j) - nn.functional.silu(alone)


class Member(nn.Module):
    """One network: what a residue's surroundings say, corrected by known letters.

    Args:
        config: its shape.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, config: ProteinConfig) -> None:
        super().__init__()
        d, wide = config.dim, 2 * config.dim
        self.register_buffer("centre", torch.zeros(NODE))
        self.register_buffer("scale", torch.ones(NODE))
        self.site = nn.Sequential(nn.Dropout(config.dropout / 4))
        for a, b in zip([NODE, *[wide] * (config.encoder - 1)], [wide] * config.encoder, strict=True):
            self.site.extend([nn.Linear(a, b), nn.LayerNorm(b), nn.SiLU(), nn.Dropout(config.dropout)])
        self.plain = nn.Linear(wide, LETTERS)
        self.node, self.edge = nn.Linear(wide, d), nn.Linear(geometry.EDGE, d)
        self.gap = nn.Embedding(OTHER + 1, d)
        self.token = nn.Linear(LETTERS, d, bias=False)
        self.rounds = nn.ModuleList(Round(d, config.dropout) for _ in range(config.decoder))
        self.head = nn.Linear(d, LETTERS, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def encode(self, g: Graph) -> tuple[Tensor, Tensor]:
        """Read structures: residues [N, 2 d] and edges [E, d]."""
        z = ((g.node - self.centre) / self.scale).clamp(-LIMIT, LIMIT)
        if self.training:
            z = z + JITTER * torch.randn_like(z)
        return self.site(z), nn.functional.silu(self.edge(g.edge) + self.gap(g.gap))

    def decode(self, h: Tensor, e: Tensor, index: Tensor, x: Tensor) -> Tensor:
        """Return logits [..., N, 20] of noisy sequences: tokens int64 [..., N], or laws [..., N, 21]."""
        return self.plain(h) + self.told(h, e, index, x)

    def told(self, h: Tensor, e: Tensor, index: Tensor, x: Tensor) -> Tensor:
        """Return what the known letters add to the logits (arguments as in `decode`); 0 where nothing is known."""
        if not x.is_floating_point():
            x = nn.functional.one_hot(x, LETTERS + 1)
        letters, near = self.token(x[..., :LETTERS].to(h)), nn.functional.silu(self.node(h))
        heard = torch.zeros_like(letters)
        for layer in self.rounds:
            heard = heard + layer(near, e, index, letters + heard)
        return self.head(heard)


class ProteinNet(nn.Module):
    """The cross-fitted members, and those that saw all folds.

    Args:
        config: their shape and number.
    """

    def __init__(self, config: ProteinConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(config) for _ in range(config.members + config.whole))

    def forward(self, g: Graph, x: Tensor, member: int) -> Tensor:
        """Return one member's logits [..., N, 20] of noisy sequences `x` [..., N] of structures."""
        net = self.members[member]
        assert isinstance(net, Member)
        return net.decode(*net.encode(g), g.index, x)
