"""The road network encoder: segment features -> embeddings, by message passing along and against the traffic.

    e_x = MLP(features of x),    e_x <- e_x + GELU(W_0 e_x + W_+ mean_{successors} e + W_- mean_{predecessors} e)

with two rounds. Features are physical (length, speed, class, headings, curvature, degrees), never the segment's
number, so the same weights read any city; a learned vector per segment can be added where one city is all that counts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from apps.trajectory.network import ROAD_CLASSES, RoadNetwork

__all__ = ["STATIC", "RoadEncoder", "static_features"]

STATIC = 11 + len(ROAD_CLASSES)
"""Number of features of a segment."""


def static_features(network: RoadNetwork) -> np.ndarray:
    """Return the features of all segments, float32 [N, STATIC]."""
    straight = np.hypot(*(network.end - network.start).T)
    bend = np.log((network.length + 1.0) / (straight + 1.0))
    out_degree, in_degree = np.diff(network.succ_ptr), np.diff(network.pred_ptr)
    turn = network.heading_out - network.heading_in
    columns = [
        np.log(network.length + 1.0) - 4.0, network.speed / 50.0 - 1.0, np.log(network.travel_time + 1.0) - 2.0,
        np.minimum(bend, 3.0), np.cos(network.heading_in), np.sin(network.heading_in), np.cos(turn), np.sin(turn),
        out_degree / 3.0, in_degree / 3.0, (out_degree == 1).astype(float),
    ]  # fmt: skip
    classes = np.eye(len(ROAD_CLASSES))[network.road_class]
    return np.concatenate([np.stack(columns, 1), classes], 1).astype(np.float32)


class RoadEncoder(nn.Module):
    """Embed all segments of a network.

    Args:
        dim: width of the embedding.
        rounds: message-passing rounds (0: the features alone).
        segments: number of segments with a vector of their own (0: none).
    """

    def __init__(self, dim: int, rounds: int, segments: int = 0) -> None:
        super().__init__()
        from torch_geometric.nn import SAGEConv

        self.inputs = nn.Sequential(nn.Linear(STATIC, dim), nn.GELU(), nn.Linear(dim, dim))
        self.along = nn.ModuleList(SAGEConv(dim, dim) for _ in range(rounds))
        self.against = nn.ModuleList(SAGEConv(dim, dim, root_weight=False) for _ in range(rounds))
        self.ids = nn.Embedding(segments, dim) if segments else None
        if self.ids is not None:
            nn.init.zeros_(self.ids.weight)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """Return embeddings [N, dim] from features [N, STATIC] and transitions int64 [2, M]."""
        e = self.inputs(features)
        for along, against in zip(self.along, self.against, strict=True):
            e = e + nn.functional.gelu(along(e, edges) + against(e, edges.flip(0)))
        if self.ids is not None:
            e = e + self.ids.weight
        return self.norm(e)


def graph_tensors(network: RoadNetwork) -> tuple[Tensor, Tensor]:
    """Return (features [N, STATIC], transitions int64 [2, M]) of a network."""
    edges = np.stack([network.source, network.succ]).astype(np.int64)
    return torch.from_numpy(static_features(network)), torch.from_numpy(edges)
