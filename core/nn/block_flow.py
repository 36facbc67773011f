"""Block-wise flows of real vectors: who may remember what, in training and in streaming alike.

A stream of frames in R^d is cut into blocks of L frames. Frames are *clean* (played) or *noisy* (being made); a noisy
frame of block n sees its own block and the clean frames of the W blocks before it. What clean frames see is the mode:

| mode              | a clean frame of block n sees the clean blocks | a new block costs, besides its K noisy passes |
|-------------------|------------------------------------------------|-----------------------------------------------|
| `diagonal`        | n                                              | one pass over L frames                        |
| `block-causal`    | n - W + 1 ... n                                | one pass over L frames                        |
| `encoder-decoder` | all of the window                              | one pass over W L frames                      |
| `full`            | all of the window, and its noisy block         | nothing, but each pass is over (W + 1) L      |

`visible` is this table. Training and streaming call this one function, so that what was trained is what is played; a
cache (`RingCache`) only remembers what the function would give again. `full` is outpainting as usual, kept as the
reference: its clean frames change with the noise, so nothing can be remembered.

Cached equals uncached against the window for `diagonal` and `encoder-decoder`, and against the whole history for
`block-causal`, whose stacked layers reach (W - 1) times the depth back. Clean frames are embedded by their own matrix
and told t = 0; controls are added to frames and so are remembered with them. Positions count from the beginning and
enter by rotation, which depends on differences only.

References: LMDM, 2026, arXiv:2605.22717; Arriola et al., 2025, arXiv:2503.09573; Su et al., 2021, arXiv:2104.09864.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.denoiser import GaussianPrediction
from core.nn.transformer import BlockTransformer, TransformerConfig
from core.process.categorical import at_sites
from core.process.gaussian import Gaussian

__all__ = ["MODES", "BlockFlow", "BlockFlowConfig", "Layout", "Mode", "RingCache", "visible"]

Mode = Literal["encoder-decoder", "block-causal", "diagonal", "full"]
MODES: tuple[Mode, ...] = get_args(Mode)

PAST: dict[str, Callable[[Tensor, int], Tensor]] = {
    "diagonal": lambda gap, window: gap == 0,
    "block-causal": lambda gap, window: (gap >= 0) & (gap < window),
    "encoder-decoder": lambda gap, window: gap.abs() < window,
    "full": lambda gap, window: gap.abs() < window,
}
"""Which clean blocks a clean block sees, from `gap` = its number less theirs."""


def visible(
    mode: str,
    window: int,
    query_block: Int[Tensor, " q"],
    query_clean: Bool[Tensor, " q"],
    key_block: Int[Tensor, " k"],
    key_clean: Bool[Tensor, " k"],
) -> Bool[Tensor, "q k"]:
    """Return who sees whom, bool [Q, K], from block numbers int [Q], [K] and clean flags bool [Q], [K]."""
    gap = query_block[:, None] - key_block
    qc, kc = query_clean[:, None], key_clean[None, :]
    seen = (qc & kc & PAST[mode](gap, window)) | (~qc & kc & (gap >= 1) & (gap <= window)) | (~qc & ~kc & (gap == 0))
    return seen | (qc & ~kc & (gap <= -1) & (gap >= -window)) if mode == "full" else seen


@dataclass
class BlockFlowConfig:
    """Shape of the network.

    Args:
        latent: d, numbers in a frame.
        control: numbers that describe a frame from outside; 0 for none.
        block: L, frames in a block.
        window: W, clean blocks that a noisy one sees.
        mode: what clean frames see.
        trunk: the transformer; its `time` is always on.
    """

    latent: int = 8
    control: int = 0
    block: int = 8
    window: int = 4
    mode: str = "diagonal"
    trunk: TransformerConfig = field(default_factory=TransformerConfig)


@dataclass(frozen=True)
class Layout:
    """Which frames a pass is over: block numbers, clean flags and positions, all [S]."""

    block: Int[Tensor, " s"]
    clean: Bool[Tensor, " s"]
    position: Int[Tensor, " s"]

    @classmethod
    def of(cls, clean: range, noisy: range, length: int) -> Layout:
        """Return the layout of some clean blocks followed by some noisy ones, each of `length` frames."""
        number = torch.tensor([*clean, *noisy], dtype=torch.long).repeat_interleave(length)
        flag = torch.arange(len(number)) < len(clean) * length
        within = torch.arange(length).repeat(len(clean) + len(noisy))
        return cls(number, flag, number * length + within)

    def to(self, device: torch.device) -> Layout:
        """Return the same on a device."""
        return Layout(self.block.to(device), self.clean.to(device), self.position.to(device))


class RingCache:
    """Keys and values of the last W clean blocks, in slots that are overwritten in turn, and room for one noisy block.

    Keys carry their rotation and attention does not ask for an order, so nothing is ever moved.

    Args:
        config: the network's shape.
        batch: rows B.
    """

    def __init__(
        self, config: BlockFlowConfig, batch: int, dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        trunk, self.length, self.window = config.trunk, config.block, config.window
        capacity = (config.window + 1) * config.block
        shape = (trunk.depth, 2, batch, trunk.heads, capacity, trunk.dim // trunk.heads)
        self.buffer = torch.zeros(shape, dtype=dtype, device=device)
        self.block = torch.zeros(capacity, dtype=torch.long, device=device)
        self.count, self.start, self.stop = 0, 0, 0

    @property
    def held(self) -> int:
        """Number of clean frames remembered."""
        return min(self.count, self.window) * self.length

    def enter(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Prepare for a pass over `layout`, all clean or all noisy; return blocks and clean flags of its keys [K]."""
        n, clean = len(layout.block), bool(layout.clean.all())
        self.start = self.count % self.window * self.length if clean else self.held
        self.stop = max(self.held, self.start + n)
        self.block[self.start : self.start + n] = layout.block
        flag = torch.ones(self.stop, dtype=torch.bool, device=self.block.device)
        flag[self.start : self.start + n] = clean
        return self.block[: self.stop], flag

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write a pass's keys and values; return all that it may see. With gradients nothing is written."""
        here = slice(self.start, self.start + k.shape[2])
        if k.requires_grad:
            old = self.buffer[layer, :, :, :, : self.start]
            return torch.cat([old[0], k], 2), torch.cat([old[1], v], 2)
        self.buffer[layer, 0, :, :, here] = k
        self.buffer[layer, 1, :, :, here] = v
        return self.buffer[layer, 0, :, :, : self.stop], self.buffer[layer, 1, :, :, : self.stop]

    def commit(self, blocks: int = 1) -> None:
        """Keep the clean blocks that the last pass wrote."""
        self.count += blocks

    def clear(self) -> None:
        """Forget everything."""
        self.count = 0

    def copy(self) -> RingCache:
        """Return an independent copy."""
        out = object.__new__(RingCache)
        out.__dict__.update(self.__dict__, buffer=self.buffer.clone(), block=self.block.clone())
        return out


class _Trunk(BlockTransformer):
    """The block transformer under the rule of a mode."""

    def __init__(self, config: BlockFlowConfig) -> None:
        super().__init__(replace(config.trunk, time=True))
        self.mode, self.window = config.mode, config.window

    def _mask(self, block: Tensor, clean: Tensor, cache: RingCache | None) -> object:  # type: ignore[override]
        keys = (block, clean) if cache is None else cache.enter(Layout(block, clean, block))
        mask = visible(self.mode, self.window, block, clean, *keys)
        return None if bool(mask.all()) else mask


class BlockFlow(nn.Module):
    """A network that predicts the velocity of noisy blocks, given clean ones.

    Args:
        config: its shape.
        process: the corruption; inputs are scaled to unit radius and the output is read as `velocity`.
    """

    def __init__(self, config: BlockFlowConfig, process: Gaussian | None = None) -> None:
        super().__init__()
        self.config, self.process = config, process or Gaussian()
        d = config.trunk.dim
        self.noisy, self.clean = nn.Linear(config.latent, d), nn.Linear(config.latent, d)
        self.control = nn.Linear(config.control, d, bias=False) if config.control else None
        self.trunk = _Trunk(config)
        self.head = nn.Linear(d, config.latent)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def hidden(
        self,
        x: Float[Tensor, "b s d"],
        t: Tensor,
        layout: Layout,
        control: Float[Tensor, "b s c"] | None = None,
        cache: RingCache | None = None,
    ) -> Float[Tensor, "b s width"]:
        """Return hidden states [B, S, width].

        Args:
            x: frames [B, S, d], noisy ones scaled to unit radius.
            t: what is told of the time: [B, S], or [B, 1] where all frames share it; 0 for clean ones.
            layout: which frames these are; with a cache all clean or all noisy.
            control: [B, S, c], 0 where nothing is asked; None for nothing at all.
            cache: earlier clean frames; the caller commits.
        """
        clean = layout.clean
        if bool(clean.all()) or not bool(clean.any()):
            h = (self.clean if bool(clean.all()) else self.noisy)(x)
        else:
            h = torch.where(clean[:, None], self.clean(x), self.noisy(x))
        if self.control is not None and control is not None:
            h = h + self.control(control.to(h))
        return self.trunk(h, layout.position, layout.block, clean, time=t.to(h), cache=cache)  # type: ignore[arg-type]

    def forward(
        self, x_t: Float[Tensor, "b n d"], t: Tensor | float, past: Float[Tensor, "b p d"],
        layout: Layout, control: Float[Tensor, "b s c"] | None = None,
        cache: RingCache | None = None,
    ) -> GaussianPrediction:  # fmt: skip
        """Predict the noisy frames from themselves and the clean ones before them.

        Args:
            x_t: noisy frames [B, T, d].
            t: their times, (), (B,) or (B, T).
            past: clean frames [B, P, d] of this pass, which come first in `layout` (none with a cache).
            layout: of the P + T frames.
            control: of all of them, [B, P + T, c].
            cache: what was remembered instead of `past`.
        """
        angle = self.process.angle(t) * (2 / torch.pi)
        scaled = x_t / self.process.radius(at_sites(t, x_t)).to(x_t)
        time = at_sites(angle, x_t)[..., 0].to(x_t).expand(len(x_t), -1 if past.shape[1] == 0 else x_t.shape[1])
        if past.shape[1]:
            time = torch.cat([time.new_zeros(len(x_t), past.shape[1]), time], 1)
            scaled = torch.cat([past.to(x_t), scaled], 1)
        h = self.hidden(scaled, time, layout, control, cache)
        return GaussianPrediction.of(self.head(h[:, past.shape[1] :]), "velocity", x_t, t, self.process)

    def plan(self, blocks: int) -> tuple[range, range]:
        """Return which of `blocks` blocks are clean and which are noisy in a training pass.

        Where clean frames do not depend on what is predicted, every block is a target of the same pass.
        """
        first = 0 if self.config.mode in {"diagonal", "block-causal"} else blocks - 1
        return range(blocks - 1), range(first, blocks)

    def trainer(
        self, x_0: Float[Tensor, "b l d"], control: Float[Tensor, "b l c"] | None = None
    ) -> tuple[Callable[..., GaussianPrediction], Tensor]:
        """Return the denoiser of a training pass and its targets, for `core.objective.flow.flow_loss`.

        Args:
            x_0: clean frames of whole blocks [B, N L, d].
            control: of each frame, [B, N L, c].
        """
        length = self.config.block
        clean, noisy = self.plan(x_0.shape[1] // length)
        layout = Layout.of(clean, noisy, length).to(x_0.device)
        ahead, behind = slice(0, len(clean) * length), slice(noisy.start * length, None)
        told = None if control is None else torch.cat([control[:, ahead], control[:, behind]], 1)

        def denoiser(x_t: Tensor, t: Tensor, context: object = None) -> GaussianPrediction:
            return self(x_t, t, x_0[:, ahead], layout, told)

        return denoiser, x_0[:, behind]
