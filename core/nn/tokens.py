"""The stock network of tokens: embedding, block transformer, head; for training and for `core.blocks`.

Training lays a noisy and a clean copy of a sequence side by side, [x_t; x_0], under the one attention rule of
`core.nn.transformer`; sampling lays the committed tokens that are not in the cache yet before the noisy block. Both are
the same pass, and without a cache *all* committed tokens are "not in the cache yet": cached, uncached and training
agree by construction, to rounding.

The mask is token K of the embedding; the head gives K logits, and SUBS (`core.denoiser.subs`) makes them a posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.constrain.law import Window
from core.denoiser import Prediction, subs
from core.nn.transformer import BlockTransformer, KVCache, TransformerConfig

__all__ = ["TokenConfig", "TokenContext", "TokenNet"]


@dataclass
class TokenConfig:
    """Shape of the network.

    Args:
        tokens: alphabet size K.
        trunk: the transformer; `trunk.time` conditions every token on its time.
    """

    tokens: int = 2
    trunk: TransformerConfig = field(default_factory=TransformerConfig)


class TokenNet(nn.Module):
    """A denoiser of absorbing diffusion over K tokens, block by block.

    Args:
        config: its shape.
        cached: keep keys and values while sampling; off, every pass recomputes them (the reference of tests).
    """

    def __init__(self, config: TokenConfig, cached: bool = True) -> None:
        super().__init__()
        self.config, self.cached = config, cached
        self.embedding = nn.Embedding(config.tokens + 1, config.trunk.dim)
        self.trunk = BlockTransformer(config.trunk)
        self.head = nn.Linear(config.trunk.dim, config.tokens)

    def forward(
        self,
        x: Int[Tensor, "b s"],
        position: Int[Tensor, " s"],
        block: Int[Tensor, " s"],
        clean: Bool[Tensor, " s"],
        t: Float[Tensor, "b s"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "b s d"]:
        """Return hidden states [B, S, d] (arguments as in `BlockTransformer`; x tokens [B, S] with the mask at K)."""
        time = None if t is None or not self.config.trunk.time else torch.where(clean, 0.0, t.to(torch.float64))
        return self.trunk(self.embedding(x), position, block, clean, time=time, cache=cache)

    def beside(self, x_0: Int[Tensor, "b l"], block: int) -> Callable[..., Prediction]:
        """Return the denoiser of noisy copies of `x_0` [B, L]: each block sees itself and the clean blocks before."""
        length = x_0.shape[1]
        place = torch.arange(length, device=x_0.device)
        position = torch.cat([place, place])
        clean = torch.arange(2 * length, device=x_0.device) >= length

        def denoise(x_t: Tensor, t: Tensor, context: Any = None) -> Prediction:
            time = torch.as_tensor(t, device=x_0.device).reshape(-1, 1) if t.ndim < 2 else t.repeat(1, 2)
            both = torch.cat([x_t, x_0], 1)
            h = self(both, position, position // block, clean, time.expand(both.shape))
            return subs(self.head(h[:, :length]), x_t, self.config.tokens)

        return denoise

    def open(self, rows: int, length: int) -> TokenContext:
        """Return the context of `rows` empty sequences of at most `length` tokens."""
        weight = self.head.weight
        cache = KVCache(self.config.trunk, rows, length, weight.dtype, weight.device) if self.cached else None
        return TokenContext(self, torch.empty(rows, 0, dtype=torch.long, device=weight.device), cache)


@dataclass(eq=False)
class TokenContext:
    """Committed tokens `past` [B, n], of which the cache holds the first ones, and the blocks they came in."""

    net: TokenNet
    past: Tensor
    cache: KVCache | None
    number: list[int] = field(default_factory=list)
    alphabet: Tensor = field(default_factory=lambda: torch.empty(0))

    def enter(self, window: Window, state: np.ndarray) -> None:
        """Remember the window's alphabet."""
        self.alphabet = window.alphabet.to(self.past.device)

    def predict(self, x_t: Int[Tensor, "b l"], t: Float[Tensor, " ..."]) -> Prediction:
        """Predict the window's sites from local tokens [B, L]; the same pass caches tokens committed before."""
        home, device = x_t.device, self.past.device
        x_t, t = x_t.to(device), t.to(device)
        k, held = self.alphabet.shape[1], 0 if self.cache is None else self.cache.length
        ahead, size = self.past.shape[1] - held, x_t.shape[1]
        names = torch.cat([self.alphabet, self.alphabet.new_full((len(x_t), 1), self.net.config.tokens)], 1)
        x = torch.cat([self.past[:, held:], names.gather(1, x_t)], 1)
        position = torch.arange(held, held + ahead + size, device=x.device)
        last = self.number[-1] + 1 if self.number else 0
        block = torch.tensor(self.number[held:] + [last] * size, device=x.device)
        h = self.net(x, position, block, position < held + ahead, t.reshape(-1, 1).expand(x.shape), self.cache)
        if self.cache is not None:
            self.cache.commit(block[:ahead])
        logits = self.net.head(h[:, ahead:])
        local = logits.gather(-1, self.alphabet.clamp_min(0)[:, None].expand(-1, size, -1))
        found = subs(local.masked_fill(self.alphabet[:, None] < 0, -torch.inf), x_t, k)
        return replace(found, log_p=found.log_p.to(home))

    def commit(self, x_0: Int[Tensor, "b l"]) -> None:
        """Append the window's clean tokens; they enter the cache with the next pass."""
        last = self.number[-1] + 1 if self.number else 0
        self.past = torch.cat([self.past, self.alphabet.gather(1, x_0.to(self.past.device))], 1)
        self.number = self.number + [last] * x_0.shape[1]

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep some rows."""
        rows = rows.to(self.past.device)
        self.past = self.past[rows]
        if self.cache is not None:
            self.cache.select(rows)
