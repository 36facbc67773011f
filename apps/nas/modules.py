"""Cells as networks. This file imports torch alone: an exported architecture is this file and one literal.

A cell is a directed acyclic graph, node 0 its input and the last node its output. Operations stand on the edges or on
the nodes:

    on edges   h_j = sum over edges (i, j) of op_ij(h_i)                              (NAS-Bench-201)
    on nodes   h_j = op_j(sum over edges (i, j) of h_i),  the output sums or concatenates      (NAS-Bench-101)

With `concat` the output's channels are shared out among the nodes that feed it, every node has as many channels as the
widest of its successors needs, and edges from the input pass a 1 x 1 projection, as in NAS-Bench-101. What never
hears of the input is zero and stays zero.

The network around the cell is that of NAS-Bench-201: a stem, stages of equal cells, a residual reduction between
stages that halves the resolution and doubles the channels, and a linear classifier on the pooled features.

References: Dong and Yang, 2020, arXiv:2001.00326; Ying et al., 2019, arXiv:1902.09635.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["OPERATIONS", "EdgeCell", "Network", "NodeCell", "build"]


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution, batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        super().__init__(nn.ReLU(), conv, nn.BatchNorm2d(c_out))


class ConvBNReLU(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        conv = nn.Conv2d(c_in, c_out, kernel, 1, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class SeparableConv(nn.Sequential):
    """ReLU, depthwise convolution, pointwise convolution, batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int, dilation: int = 1) -> None:
        pad = dilation * (kernel // 2)
        depth = nn.Conv2d(c_in, c_in, kernel, 1, pad, dilation, groups=c_in, bias=False)
        super().__init__(nn.ReLU(), depth, nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))


OPERATIONS: dict[str, Callable[[int], nn.Module]] = {
    "skip_connect": lambda c: nn.Identity(),
    "nor_conv_1x1": lambda c: ReLUConvBN(c, c, 1),
    "nor_conv_3x3": lambda c: ReLUConvBN(c, c, 3),
    "nor_conv_5x5": lambda c: ReLUConvBN(c, c, 5),
    "sep_conv_3x3": lambda c: SeparableConv(c, c, 3),
    "sep_conv_5x5": lambda c: SeparableConv(c, c, 5),
    "dil_conv_3x3": lambda c: SeparableConv(c, c, 3, 2),
    "avg_pool_3x3": lambda c: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "max_pool_3x3": lambda c: nn.MaxPool2d(3, 1, 1),
    "conv1x1-bn-relu": lambda c: ConvBNReLU(c, c, 1),
    "conv3x3-bn-relu": lambda c: ConvBNReLU(c, c, 3),
    "maxpool3x3": lambda c: nn.MaxPool2d(3, 1, 1),
}
"""From the name of an operation to its module on `c` channels; `none` is the absence of an edge."""


class EdgeCell(nn.Module):
    """A cell with operations on edges.

    Args:
        nodes: number of nodes.
        edges: (i, j, operation) with i < j.
        channels: of every node.
    """

    def __init__(self, nodes: int, edges: Sequence[tuple[int, int, str]], channels: int) -> None:
        super().__init__()
        self.last = nodes - 1
        self.edges = sorted((j, i) for i, j, _ in edges)
        self.ops = nn.ModuleDict({f"{i}-{j}": OPERATIONS[op](channels) for i, j, op in edges})

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        h = {0: x}
        for j, i in self.edges:
            if i in h:
                term = self.ops[f"{i}-{j}"](h[i])
                h[j] = h[j] + term if j in h else term
        return h[self.last] if self.last in h else torch.zeros_like(x)


class NodeCell(nn.Module):
    """A cell with operations on nodes.

    Args:
        ops: operation of each interior node, in topological order.
        edges: (i, j) with i < j; node 0 is the input, the last one the output.
        channels: of the cell.
        concat: whether the output concatenates, as in NAS-Bench-101, or sums.
    """

    def __init__(self, ops: Sequence[str], edges: Sequence[tuple[int, int]], channels: int, concat: bool) -> None:
        super().__init__()
        self.last = len(ops) + 1
        self.before = [[i for i, k in edges if k == j] for j in range(self.last + 1)]
        width = vertex_channels(self.last + 1, edges, channels) if concat else [channels] * (self.last + 1)
        self.concat, self.width = concat, width
        self.ops = nn.ModuleDict({str(j): OPERATIONS[op](width[j]) for j, op in enumerate(ops, 1)})
        entered = [j for i, j in edges if i == 0] if concat else []
        self.project = nn.ModuleDict({str(j): ConvBNReLU(channels, width[j], 1) for j in entered})

    def enter(self, i: int, j: int, h: dict[int, Tensor]) -> Tensor:
        """Return what node j receives from node i."""
        if not self.concat:
            return h[i]
        return self.project[str(j)](h[0]) if i == 0 else h[i][:, : self.width[j]]

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        h = {0: x}
        for j in range(1, self.last):
            heard = [self.enter(i, j, h) for i in self.before[j] if i in h]
            if heard:
                h[j] = self.ops[str(j)](add(heard))
        final = [i for i in self.before[self.last] if i in h]
        if not final:
            return torch.zeros_like(x)
        if not self.concat:
            return add([h[i] for i in final])
        inner = [h[i] for i in final if i]
        if not inner:
            return self.enter(0, self.last, h)
        out = torch.cat(inner, 1)
        return out + self.enter(0, self.last, h) if 0 in final else out


def add(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of at least one tensor."""
    out = terms[0]
    for term in terms[1:]:
        out = out + term
    return out


def vertex_channels(nodes: int, edges: Sequence[tuple[int, int]], channels: int) -> list[int]:
    """Return the channels of each node (Ying et al. 2019, `compute_vertex_channels`).

    Nodes that feed the output share its channels evenly, the first ones one more where it does not come out even;
    any other node is as wide as its widest successor.
    """
    last = nodes - 1
    width = [channels] * nodes
    final = [i for i, j in edges if j == last and i]
    for rank, i in enumerate(final):
        width[i] = channels // len(final) + (rank < channels % len(final))
    for i in range(last - 1, 0, -1):
        if i not in final:
            width[i] = max((width[j] for k, j in edges if k == i and j != last), default=channels)
    return width


class Reduction(nn.Module):
    """The residual block between stages: half the resolution (rounded up), twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = ReLUConvBN(channels, 2 * channels, 3, 2)
        self.b = ReLUConvBN(2 * channels, 2 * channels, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, 2 C, H / 2, W / 2]."""
        return self.shortcut(x) + self.b(self.a(x))


class Network(nn.Module):
    """The whole classifier.

    Args:
        cell: from a number of channels to a cell.
        channels: of the first stage.
        cells: in each stage.
        stages: resolutions.
        classes: outputs.
        inputs: channels of the images.
    """

    def __init__(
        self, cell: Callable[[int], nn.Module], channels: int = 16, cells: int = 5, stages: int = 3,
        classes: int = 10, inputs: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        layers: list[nn.Module] = []
        for stage in range(stages):
            layers += [Reduction(channels << (stage - 1))] if stage else []
            layers += [cell(channels << stage) for _ in range(cells)]
        self.body = nn.Sequential(*layers)
        width = channels << (stages - 1)
        self.head = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, inputs, H, W] to logits [B, classes]."""
        return self.classify(self.head(self.body(self.stem(x))))


def build(cell: dict[str, Any], **settings: int) -> Network:
    """Return the network of a cell written as a literal.

    Args:
        cell: `nodes` and `edges` [(i, j, op)], or `ops`, `edges` [(i, j)] and `merge` ("sum" or "concat").
        settings: of `Network`.
    """
    edges: list[Any] = [tuple(edge) for edge in cell["edges"]]
    if "ops" in cell:
        concat = cell["merge"] == "concat"
        return Network(lambda c: NodeCell(cell["ops"], edges, c, concat), **settings)
    return Network(lambda c: EdgeCell(cell["nodes"], edges, c), **settings)
