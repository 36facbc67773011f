"""Fields as tensors: states of trajectories <-> float32 [n, N, C], without loss.

There is nothing to discretise: a state of the pde app is a real vector, its tokens are its values at the nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["decode", "encode"]


def encode(states: Sequence[np.ndarray]) -> Tensor:
    """Return states [N, C] as one tensor [n, N, C]."""
    return torch.from_numpy(np.stack([np.asarray(s, np.float32) for s in states]))


def decode(tensor: Tensor) -> list[np.ndarray]:
    """Return the states that a tensor [n, N, C] holds."""
    return list(tensor.detach().cpu().numpy())
