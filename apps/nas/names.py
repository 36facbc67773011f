"""What is known about each operation without building it: parameters and floating point operations on C channels.

FLOPs count as NAS-Bench-201 does: one for each multiply-add of a convolution, two for each element of a batch norm,
one for a ReLU, k^2 for a pooling.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["COST", "SYMBOL"]


def _conv(kernel: int) -> Callable[[int, int], tuple[int, int]]:
    def cost(c: int, area: int) -> tuple[int, int]:
        weights = kernel * kernel * c * c
        return weights + 2 * c, weights * area + 3 * c * area

    return cost


def _separable(kernel: int) -> Callable[[int, int], tuple[int, int]]:
    def cost(c: int, area: int) -> tuple[int, int]:
        weights = kernel * kernel * c + c * c
        return weights + 2 * c, weights * area + 3 * c * area

    return cost


def _pool(c: int, area: int) -> tuple[int, int]:
    return 0, 9 * c * area


COST: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "skip_connect": lambda c, area: (0, 0),
    "nor_conv_1x1": _conv(1),
    "nor_conv_3x3": _conv(3),
    "nor_conv_5x5": _conv(5),
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "dil_conv_3x3": _separable(3),
    "avg_pool_3x3": _pool,
    "max_pool_3x3": _pool,
    "conv1x1-bn-relu": _conv(1),
    "conv3x3-bn-relu": _conv(3),
    "maxpool3x3": _pool,
}
"""From an operation to (parameters, FLOPs) on `c` channels and `area` pixels."""

SYMBOL = {"none": "0", "skip_connect": "s", "nor_conv_1x1": "c1", "nor_conv_3x3": "c3", "avg_pool_3x3": "p"}
