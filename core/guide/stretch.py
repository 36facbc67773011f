"""A prediction that says too little of a slow quantity is stretched along it.

A network of limited sight predicts a mean that is shrunken where the evidence is spread over many numbers: of a linear
quantity u . x (the mean of a block, say) its `D` holds

    u . D = c + kappa (u . D* - c),    kappa < 1,

of what the exact posterior mean D* says about the centre c. Predictions drive the flow, so the quantity keeps less
than its variance in what is made: samples are all near the average. The remedy divides by kappa along u alone,

    D' = D + (gain - 1) (u . D - c) u / |u|^2,    gain = 1 / kappa,

and is exact where the shrinking is as written. Elsewhere the gain is that at which what is made varies as the data do.
Below the time `since` little noise is left, and predictions stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Stretch"]


@dataclass(frozen=True, eq=False)
class Stretch:
    """A map of predictions that stretches them along one direction.

    Args:
        direction: u, of the shape of a sample.
        gain: 1 changes nothing.
        centre: c, the mean of u . x in the data.
        since: times below it are left alone.
    """

    direction: Float[Tensor, "*x"]
    gain: float
    centre: float = 0.0
    since: float = 0.0

    def __call__(self, mean: Float[Tensor, "b ..."], t: Tensor | float) -> Float[Tensor, "b ..."]:
        """Return the means [B, ...], stretched.

        Args:
            mean: predictions D at time t.
            t: (), (B,), or one for each part of a sample, (B, ...).
        """
        u = self.direction.to(mean)
        size = u.square().sum()
        away = (mean * u).flatten(1).sum(1) - self.centre
        t = torch.as_tensor(t, device=mean.device)
        on = (t >= self.since).to(mean).reshape(*t.shape, *[1] * (mean.ndim - max(t.ndim, 1)))
        return mean + on * (self.gain - 1) * (away / size).reshape(-1, *[1] * (mean.ndim - 1)) * u
