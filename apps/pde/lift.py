"""Functions of the state at a node, of which the network sees derivatives too.

    phi_k(u) = tanh(w_k . (u - mean) / std + b_k),      lap phi_k,   |grad phi_k|^2,   each times 1, phi_k and u / std.

In the continuum these tell nothing new: lap phi(u) = phi' lap u + phi'' |grad u|^2. On a mesh whose edges are wider
than a front they do: stencils differentiate phi(u) of each node, which is steep elsewhere than u or hardly steep at
all, and what several of them say together places the front between the nodes. w and b are drawn once (random features;
Rahimi and Recht, 2007) and trained with the rest.

`nonlinear` takes off of phi what is constant and linear at u = 0, so that all of this is of second order there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Lift"]

STEEP, WIDE = 1.0, 1.0


class Lift(nn.Module):
    """m functions of C fields.

    Args:
        fields: C.
        size: m.
        nonlinear: of second order at u = 0.
        still: leave phi itself out, which does not vanish where derivatives do.
    """

    mean: Tensor
    std: Tensor
    unit: Tensor

    def __init__(self, fields: int, size: int, nonlinear: bool = False, still: bool = False) -> None:
        super().__init__()
        self.size, self.nonlinear, self.plain = size, nonlinear, not (still or nonlinear)
        self.map = nn.Linear(fields, size)
        nn.init.normal_(self.map.weight, std=STEEP)
        nn.init.uniform_(self.map.bias, -WIDE, WIDE)
        for name, value in (("mean", torch.zeros(fields)), ("std", torch.ones(fields)), ("unit", torch.ones(2, size))):
            self.register_buffer(name, value)

    @property
    def width(self) -> int:
        """How many values it adds."""
        return self.size * (2 * (2 + len(self.mean)) + self.plain)

    def forward(self, u: Tensor) -> Tensor:
        """Return phi [..., m] of u [..., C]."""
        phi = torch.tanh(self.map((u - self.mean.to(u)) / self.std.to(u)))
        if not self.nonlinear:
            return phi
        rest = torch.tanh(self.map(-self.mean / self.std)).to(u)
        slope = self.map.weight.to(u) / self.std.to(u)
        return phi - rest - (1 - rest**2) * nn.functional.linear(u, slope)

    def raw(self, derivatives: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return lap phi and |grad phi|^2 [..., m] from (dx phi, dy phi, lap phi)."""
        dx, dy, lap = derivatives
        return lap, dx**2 + dy**2

    def values(self, u: Tensor, phi: Tensor, derivatives: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return all of it [..., width] for u [..., C], phi [..., m] and its derivatives, in units of their spread."""
        own = [phi] if self.plain else []
        for value, unit in zip(self.raw(derivatives), self.unit.to(u), strict=True):
            q = value / unit
            own += [q, q * phi, *(q * c[..., None] for c in (u / self.std.to(u)).unbind(-1))]
        return torch.cat(own, -1)

    @torch.no_grad()
    def measure(self, u: Tensor) -> None:
        """Set mean and spread of the fields from states [..., C]."""
        flat = u.flatten(0, -2)
        self.mean.copy_(flat.mean(0))
        self.std.copy_(flat.std(0).clamp_min(1e-6))
