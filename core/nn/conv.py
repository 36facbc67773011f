"""Dilated residual convolutions over sites.

    h <- h + dropout(gelu(conv_{kernel, dilation}(norm(h) [+ time])))

Dilations 1, 1, 4, 16, 64 in turn see hundreds of sites in a few layers at constant cost per site, in both directions.
The norm is over channels, site by site, so that a site's features do not depend on padding far away.

References: Stark et al., 2024, arXiv:2402.05841 (Dirichlet flow matching); Wang et al., 2024, arXiv:2410.13643.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ConvConfig", "ConvTrunk"]


@dataclass(frozen=True)
class ConvConfig:
    """Shape of the trunk.

    Args:
        dim: channels.
        depth: residual layers.
        kernel: sites of a convolution, odd.
        dilations: taken in turn by the layers.
        dropout: probability on each layer's update.
        time: add an embedding of t before each convolution.
    """

    dim: int = 64
    depth: int = 6
    kernel: int = 9
    dilations: tuple[int, ...] = (1, 1, 4, 16, 64)
    dropout: float = 0.0
    time: bool = False


class _Layer(nn.Module):
    def __init__(self, config: ConvConfig, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.conv = nn.Conv1d(
            config.dim, config.dim, config.kernel, dilation=dilation, padding=dilation * (config.kernel // 2)
        )
        self.time = nn.Linear(config.dim, config.dim) if config.time else None
        self.drop = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, time: Tensor | None) -> Tensor:
        x = self.norm(h.transpose(1, 2)).transpose(1, 2)
        if self.time is not None and time is not None:
            x = x + self.time(time)[:, :, None]
        return h + self.drop(nn.functional.gelu(self.conv(x)))


class ConvTrunk(nn.Module):
    """Residual convolutions, [B, dim, S] to [B, dim, S].

    Args:
        config: the shape.
    """

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        if config.kernel % 2 == 0:
            raise ValueError(f"kernel {config.kernel} must be odd")
        self.config = config
        cycle = config.dilations
        self.layers = nn.ModuleList(_Layer(config, cycle[i % len(cycle)]) for i in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, h: Float[Tensor, "b d s"], t: Float[Tensor, " b"] | None = None) -> Float[Tensor, "b d s"]:
        """Return hidden channels [B, dim, S] of h [B, dim, S] at times t [B]."""
        time = None
        if self.config.time and t is not None:
            half = self.config.dim // 2
            scale = torch.exp(torch.linspace(0.0, 6.9, half, dtype=torch.float64, device=h.device))
            angle = t.reshape(-1, 1).expand(len(h), 1).double() * scale
            pad = self.config.dim - 2 * half
            time = nn.functional.pad(torch.cat([angle.sin(), angle.cos()], -1), (0, pad)).to(h)
        for layer in self.layers:
            h = layer(h, time)
        return self.norm(h.transpose(1, 2)).transpose(1, 2)
