"""Message passing on a mesh, and an exact way to make it cheaper.

One layer of MeshGraphNet style (Pfaff et al., 2021, arXiv:2010.03409), as PhyMPGN uses it:

    m_ij = phi([h_i, h_j - h_i, e_ij]),      h_i <- h_i + gamma([h_i, mean_j m_ij]).

**Splitting.** The first map of phi is linear and so is the mean, so

    W [h_i, h_j - h_i, e_ij] = (W_1 - W_2) h_i + W_2 h_j + W_3 e_ij,        mean_j (V a_ij + c) = V mean_j a_ij + c:

the wide products are made at the N nodes instead of the 6 N edges. The same function up to rounding, with the same
parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from apps.pde.mesh import Mesh

__all__ = ["MessageLayer", "edge_geometry", "mean_at", "mlp"]


def mlp(*widths: int) -> nn.Sequential:
    """Return linear maps with ELU between them."""
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(a, b), nn.ELU()]
    return nn.Sequential(*layers[:-1])


def edge_geometry(mesh: Mesh) -> np.ndarray:
    """Return the paper's three features of each edge i <- j: length / longest, and the direction mapped to [0, 1]."""
    i, j = mesh.graph()
    d = mesh.shortest(mesh.points[j] - mesh.points[i])
    length = np.linalg.norm(d, axis=1)
    return np.column_stack([length / length.max(), d / (2 * np.abs(d).max(0)) + 0.5])


def mean_at(message: Tensor, i: Tensor, n: int) -> Tensor:
    """Return the mean of messages [B, E, H] at their receivers i [E], [B, n, H]."""
    total = message.new_zeros(message.shape[0], n, message.shape[-1]).index_add(1, i, message)
    count = torch.bincount(i, minlength=n).clamp(min=1)
    return total / count[:, None].to(message)


class MessageLayer(nn.Module):
    """One layer of message passing.

    Args:
        width: of nodes and messages.
        edge: of the edges' features.
        depth: linear maps in phi and in gamma.
        split: make the first and the last map of phi at the nodes.
    """

    def __init__(self, width: int, edge: int, depth: int = 4, split: bool = True) -> None:
        super().__init__()
        inner = [width] * depth
        self.phi, self.gamma = mlp(2 * width + edge, *inner), mlp(2 * width, *inner)
        self.width, self.split = width, split

    def forward(self, h: Tensor, edge: Tensor, graph: Tensor) -> Tensor:
        """Return gamma([h, mean m]) for nodes h [B, N, H], edges [B, E, F] and graph [2, E]."""
        i, j = graph
        n = h.shape[1]
        if not self.split:
            sent = self.phi(torch.cat([h[:, i], h[:, j] - h[:, i], edge], -1))
            return self.gamma(torch.cat([h, mean_at(sent, i, n)], -1))
        first, last, width = self.phi[0], self.phi[-1], self.width
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        own, other, rest = first.weight.split([width, width, first.in_features - 2 * width], 1)
        at_i = nn.functional.linear(h, own - other, first.bias)
        at_j = nn.functional.linear(h, other)
        a = at_i[:, i] + at_j[:, j] + nn.functional.linear(edge, rest)
        mean = last(mean_at(self.phi[1:-1](a), i, n))
        alone = torch.bincount(i, minlength=n) == 0  # without neighbours there is no message, not even its constant
        return self.gamma(torch.cat([h, mean.masked_fill(alone[:, None], 0.0)], -1))
