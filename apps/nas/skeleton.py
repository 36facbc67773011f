"""Parameters and FLOPs of the network around the cells, in closed form (`apps.nas.modules.Network` without cells)."""

from __future__ import annotations

__all__ = ["halved", "skeleton"]


def halved(size: int, stage: int) -> int:
    """Return the height of images in a stage: half as many pixels in each, rounded up."""
    return -(-size >> stage)


def skeleton(channels: int, stages: int, size: int, classes: int, inputs: int) -> tuple[int, int]:
    """Return parameters and FLOPs of stem, reductions and classifier on images of `size` x `size` pixels."""
    area = size * size
    params, flops = (9 * inputs + 2) * channels, (9 * inputs + 2) * channels * area
    for stage in range(1, stages):
        c, before, area = channels << (stage - 1), area, halved(size, stage) ** 2
        wide = 2 * c
        params += 9 * c * wide + 9 * wide * wide + c * wide + 4 * wide
        flops += (9 * c * wide + 9 * wide * wide + c * wide) * area  # the three convolutions
        flops += c * before + (2 + 1 + 2) * wide * area + 4 * c * area  # ReLU, norms, pooling
    wide = channels << (stages - 1)
    pooled = wide * (halved(size, stages - 1) + 1) ** 2  # the counter of NAS-Bench-201 takes a window one larger
    return params + 2 * wide + wide * classes + classes, flops + 3 * wide * area + pooled + wide * classes
