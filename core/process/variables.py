"""Categorical diffusion of a set of variables, each with an alphabet and a noise law of its own.

The nodes and edges of a graph, say: variable d takes K_d values and, when it jumps, is drawn anew from `pi_d`. All
formulas of `core.process.categorical` hold with `pi_d` in the place of `pi`; tokens beyond a variable's alphabet have
probability 0 under data and noise alike and are never met. With `pi_d` the frequencies of the data this is the noise
of DiGress, which keeps graphs sparse on the way.

Reference: Vignac et al., 2022, arXiv:2209.14734.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from core.draw import inverse_cdf
from core.errors import UsageError
from core.process.categorical import Categorical, Uniforms
from core.process.schedule import Linear, Schedule

__all__ = ["Variables"]


@dataclass(frozen=True, eq=False)
class Variables(Categorical):
    """The corruption of D variables with noise laws `pi` [D, K]; never absorbing."""

    @classmethod
    def of(
        cls, weights: Tensor, schedule: Schedule | None = None, groups: Int[Tensor, " d"] | None = None
    ) -> Variables:
        """Return marginal noise.

        Args:
            weights: [D, K], counts or probabilities of each variable's values, 0 beyond its alphabet.
            schedule: of the jumps.
            groups: int [D]; variables of one group (all nodes, all edges) share their summed law. None: none share.

        Raises:
            UsageError: a weight is negative, or a variable has none.
        """
        w = torch.as_tensor(weights, dtype=torch.float64)
        if groups is not None:
            w = torch.zeros(int(groups.max()) + 1, w.shape[1], dtype=w.dtype).index_add_(0, groups, w)[groups]
        if w.ndim != 2 or bool((w < 0).any()) or not bool((w.sum(1) > 0).all()):
            raise UsageError("needs weights [D, K], not negative, some for each variable", field="weights")
        return cls(w / w.sum(1, keepdim=True), schedule or Linear())

    @property
    def states(self) -> int:
        """Return K, the size of the largest alphabet."""
        return self.pi.shape[1]

    def noise(self, x_t: Int[Tensor, "*x"]) -> Float64[Tensor, "*x"]:
        """Return `pi_d(x_t)` at each variable of tokens [..., D]."""
        return self.pi.to(x_t.device).expand(*x_t.shape, -1).gather(-1, x_t[..., None])[..., 0]

    def prior(self, shape: tuple[int, ...], stream: Uniforms) -> Int[Tensor, " ..."]:
        """Draw `x_1`, int64; the last axis of `shape` counts the variables."""
        u = stream.uniform(*shape)
        law = self.pi.to(u.device).expand(*u.shape, -1)
        return inverse_cdf(law, u[..., None])[..., 0]
