"""The memory of a block-wise flow while it plays: a `core.blocks.VectorContext` over `core.nn.block_flow`.

With the cache on, the clean frames are read once per block (`encoder-decoder`: all of the window; `diagonal` and
`block-causal`: the newest block only) and each of the K steps is over the L noisy frames. With it off, every step reads
everything again; the results are the same up to rounding, and slower.

Guidance mixes the predictions with and without the control of the block that is being made,

    D_w = D_free + w (D_told - D_free),

on one shared memory: the controls of earlier blocks are part of what was played.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from core.denoiser import GaussianPrediction
from core.nn.block_flow import BlockFlow, Layout, RingCache

__all__ = ["FlowContext"]


@dataclass(eq=False)
class FlowContext:
    """What has been played, and what is asked of the next block.

    Args:
        net: the network.
        rows: streams B that are played side by side.
        guidance: w; 1 obeys the control, 0 ignores it, more exaggerates it.
        cached: whether to remember keys and values.
        project: onto the admissible blocks [B, L, d], applied to every prediction.
        stretch: what is done to predictions [B, L, d] at times t before that (`core/guide/stretch.py`).
    """

    net: BlockFlow
    rows: int = 1
    guidance: float = 1.0
    cached: bool = True
    project: Callable[[Tensor], Tensor] | None = None
    stretch: Callable[[Tensor, Tensor], Tensor] | None = None
    control: Tensor | None = None
    """Asked of the next block, [B, L, c]; may change until its first prediction."""
    number: int = 0
    past: list[Tensor] = field(default_factory=list)
    told: list[Tensor | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Open an empty memory of the network's type."""
        self.weight = next(self.net.parameters())
        self.whole = self.net.config.mode == "block-causal" and not self.cached
        self.cached = self.cached and self.net.config.mode != "full"
        self.fresh = False
        self.cache: RingCache | None = None
        if self.cached:
            self.cache = RingCache(self.net.config, self.rows, self.weight.dtype, self.weight.device)

    def predict(self, x_t: Float[Tensor, "b l d"], t: Float[Tensor, " ..."]) -> GaussianPrediction:
        """Predict the clean block from the noisy one [B, L, d]."""
        if self.cached and not self.fresh and self.net.config.mode == "encoder-decoder":
            self._encode()
        home, x_t, t = x_t.device, x_t.to(self.weight), t.to(self.weight.device)
        mean = self._predict(x_t, t, self.control).mean
        if self.guidance != 1.0 and self.control is not None:
            free = self._predict(x_t, t, torch.zeros_like(self.control)).mean
            mean = free + self.guidance * (mean - free)
        mean = mean.to(home)
        if self.stretch is not None:
            mean = self.stretch(mean, t.to(home))
        return GaussianPrediction(mean if self.project is None else self.project(mean))

    def commit(self, x_0: Float[Tensor, "b l d"]) -> None:
        """Append the clean block [B, L, d], and the control it was made under, to the memory."""
        x_0 = x_0.detach().to(self.weight)
        if self.cache is not None and self.net.config.mode != "encoder-decoder":
            with torch.no_grad():
                self._read([x_0], [self.control], self.number, self.cache)
        self.past.append(x_0)
        self.told.append(self.control)
        self.number += 1
        self.fresh = False
        if not self.whole:
            del self.past[: -self.net.config.window], self.told[: -self.net.config.window]

    def copy(self) -> FlowContext:
        """Return an independent copy: a snapshot to go back to."""
        out = copy.copy(self)
        out.past, out.told = list(self.past), list(self.told)
        out.cache = None if self.cache is None else self.cache.copy()
        return out

    def _encode(self) -> None:
        assert self.cache is not None
        self.cache.clear()
        if self.past:
            with torch.no_grad():
                self._read(self.past, self.told, self.number - len(self.past), self.cache)
        self.fresh = True

    def _read(self, blocks: list[Tensor], told: list[Tensor | None], first: int, cache: RingCache) -> None:
        layout = self._layout(range(first, first + len(blocks)), range(0))
        x = torch.cat(blocks, 1)
        self.net.hidden(x, x.new_zeros(len(x), 1), layout, self._controls(told), cache)
        cache.commit(len(blocks))

    def _predict(self, x_t: Tensor, t: Tensor, control: Tensor | None) -> GaussianPrediction:
        here = range(self.number, self.number + 1)
        if self.cached:
            told = None if control is None else control.to(self.weight)
            return self.net(x_t, t, x_t[:, :0], self._layout(range(0), here), told, self.cache)
        past = torch.cat(self.past, 1) if self.past else x_t[:, :0]
        layout = self._layout(range(self.number - len(self.past), self.number), here)
        return self.net(x_t, t, past, layout, self._controls([*self.told, control]))

    def _controls(self, parts: list[Tensor | None]) -> Tensor | None:
        shape = (self.rows, self.net.config.block, self.net.config.control)
        if all(p is None for p in parts):
            return None
        nothing = torch.zeros(shape, dtype=self.weight.dtype, device=self.weight.device)
        return torch.cat([nothing if p is None else p.to(nothing) for p in parts], 1)

    def _layout(self, clean: range, noisy: range) -> Layout:
        return Layout.of(clean, noisy, self.net.config.block).to(self.weight.device)
