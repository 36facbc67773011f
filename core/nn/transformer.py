"""The block transformer: one attention rule for training, streaming and everything between.

A sequence is cut into blocks. Every token carries two numbers: its block and whether it is *clean* (committed data)
or *noisy* (being denoised). Who sees whom is one rule,

    a clean query sees clean keys of its own and earlier blocks,
    a noisy query sees clean keys of earlier blocks and noisy keys of its own block,

so a training pass over [noisy copy; clean copy] (Arriola et al. 2025, arXiv 2503.09573, section 3.2) and a streaming
pass over [cache; block just committed; block being denoised] are the same computation: cached = uncached exactly.
Keys are stored rotated (Su et al. 2021, arXiv 2104.09864), so a cache is appended to and never touched again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from core.errors import UsageError

__all__ = ["BlockTransformer", "KVCache", "TransformerConfig", "block_mask", "rotary"]


@dataclass
class TransformerConfig:
    """Shape of the trunk.

    Args:
        dim: width d.
        depth: number of layers.
        heads: attention heads; d / heads must be even (rotary pairs).
        mlp: hidden width of the feed-forward part in units of d.
        dropout: probability in attention and feed-forward outputs.
        time: condition every token on its own time t (adaptive layer norm) where the caller gives one.
    """

    dim: int = 128
    depth: int = 4
    heads: int = 4
    mlp: int = 4
    dropout: float = 0.0
    time: bool = False


def block_mask(
    query_block: Int[Tensor, "*x q"],
    query_clean: Bool[Tensor, "*x q"],
    key_block: Int[Tensor, "*x k"],
    key_clean: Bool[Tensor, "*x k"],
) -> Bool[Tensor, "*x q k"]:
    """Return who sees whom, bool [..., Q, K], from block numbers int [..., Q], [..., K] and clean flags bool."""
    qb, kb = query_block[..., :, None], key_block[..., None, :]
    qc, kc = query_clean[..., :, None], key_clean[..., None, :]
    return (kc & torch.where(qc, kb <= qb, kb < qb)) | (~qc & ~kc & (kb == qb))


def rotary(
    position: Shaped[Tensor, " s"], width: int, dtype: torch.dtype
) -> tuple[Float[Tensor, "s half"], Float[Tensor, "s half"]]:
    """Return cos and sin tables [S, width / 2] of rotary positions [S]."""
    half = width // 2
    frequency = 10000.0 ** (-torch.arange(half, device=position.device, dtype=torch.float64) / half)
    angle = position[:, None].double() * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    a, b = x.chunk(2, -1)
    cos, sin = table
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Cache(Protocol):
    """Keys and values of earlier tokens."""

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write those of a pass behind them, and return all that the pass may see."""
        ...


class KVCache:
    """Rotated keys and values of all clean tokens so far, in buffers that are written once and never copied.

    Args:
        config: the trunk's shape.
        batch: rows B.
        capacity: most tokens ever held, the block being denoised included.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.depth, 2, batch, config.heads, capacity, config.dim // config.heads)
        self.buffer = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0
        self.block = torch.empty(capacity, dtype=torch.long, device=device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write S new keys and values behind the committed ones; return views of all of them."""
        stop = self.length + k.shape[2]
        if stop > self.buffer.shape[4]:
            raise ValueError(f"the cache holds {self.buffer.shape[4]} tokens, {stop} are needed")
        self.buffer[layer, 0, :, :, self.length : stop] = k
        self.buffer[layer, 1, :, :, self.length : stop] = v
        return self.buffer[layer, 0, :, :, :stop], self.buffer[layer, 1, :, :, :stop]

    def commit(self, block: Int[Tensor, " n"]) -> None:
        """Keep the first tokens written by the last pass, whose block numbers are `block` [n]."""
        self.block[self.length : self.length + len(block)] = block
        self.length += len(block)

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        self.length = min(self.length, length)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep only some rows of the batch."""
        kept = torch.empty_like(self.buffer[:, :, : len(rows)])
        kept[..., : self.length, :] = self.buffer[..., : self.length, :][:, :, rows]
        self.buffer = kept


class _Attention(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor], mask: object, cache: Cache | None, layer: int) -> Tensor:
        b, s, d = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = _rotate(q, table), _rotate(k, table)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        if mask is None or isinstance(mask, Tensor):
            dropout = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        else:
            from torch.nn.attention.flex_attention import flex_attention

            y = flex_attention(q, k, v, block_mask=mask)  # type: ignore[arg-type]
        return self.out(y.transpose(1, 2).reshape(b, s, d))


class _Layer(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d = config.dim
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = _Attention(config)
        hidden = config.mlp * d
        self.mlp = nn.Sequential(nn.Linear(d, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, d))
        self.drop = nn.Dropout(config.dropout)
        self.modulate = nn.Linear(d, 6 * d) if config.time else None
        if self.modulate is not None:
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        time: Tensor | None,
        mask: object,
        cache: Cache | None,
        layer: int,
    ) -> Tensor:
        if self.modulate is None or time is None:
            x = x + self.drop(self.attention(self.norm1(x), table, mask, cache, layer))
            return x + self.drop(self.mlp(self.norm2(x)))
        a1, b1, g1, a2, b2, g2 = self.modulate(time).chunk(6, -1)
        h = self.norm1(x) * (1 + a1) + b1
        x = x + (1 + g1) * self.drop(self.attention(h, table, mask, cache, layer))
        return x + (1 + g2) * self.drop(self.mlp(self.norm2(x) * (1 + a2) + b2))


class BlockTransformer(nn.Module):
    """A pre-norm transformer trunk over embedded tokens.

    Args:
        config: the trunk's shape.

    Raises:
        UsageError: the heads do not divide the width evenly.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.dim % (2 * config.heads):
            hint = f"heads must divide dim / 2 = {config.dim / 2:g}"
            raise UsageError("does not divide the width into heads of even size", field="heads", value=config.heads,
                             hint=hint)  # fmt: skip
        self.config = config
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.time = nn.Sequential(nn.Linear(128, config.dim), nn.SiLU()) if config.time else None

    def forward(
        self,
        h: Float[Tensor, "b s d"],
        position: Int[Tensor, " s"],
        block: Int[Tensor, " s"],
        clean: Bool[Tensor, " s"],
        *,
        time: Float[Tensor, " b #s"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b s d"]:
        """Return hidden states [B, S, d].

        Args:
            h: embedded tokens [B, S, d].
            position: their places in the sequence, [S].
            block: their block numbers, int [S].
            clean: which are clean, bool [S]; clean ones come first when there is a cache.
            time: corruption time of each token, [B, S], 0 for clean ones.
            cache: earlier clean tokens; this pass's keys are written behind them (the caller commits).
        """
        embedded = None if self.time is None or time is None else self.time(_fourier(time).to(h.dtype))
        mask = self._mask(block, clean, cache)
        table = rotary(position, self.config.dim // self.config.heads, h.dtype)
        for i, layer in enumerate(self.layers):
            h = layer(h, table, embedded, mask, cache, i)
        return self.norm(h)

    def _mask(self, block: Tensor, clean: Tensor, cache: Any) -> object:
        n = 0 if cache is None else cache.length
        if cache is None and block.is_cuda and _flex_ready():
            return _flex_mask(block, clean)
        key_block = block if cache is None else torch.cat([cache.block[:n], block])
        key_clean = torch.cat([torch.ones(n, dtype=torch.bool, device=clean.device), clean])
        mask = block_mask(block, clean, key_block, key_clean)
        return None if bool(mask.all()) else mask


def _fourier(t: Tensor) -> Tensor:
    """Embed times [B, S] in sines and cosines [B, S, 128]."""
    angle = t[..., None].double() * torch.exp(torch.linspace(0.0, 6.9, 64, dtype=torch.float64, device=t.device))
    return torch.cat([angle.sin(), angle.cos()], -1)


def _flex_ready() -> bool:
    try:
        import torch.nn.attention.flex_attention  # noqa: F401
    except ImportError:
        return False
    return True


def _flex_mask(block: Tensor, clean: Tensor) -> object:
    from torch.nn.attention.flex_attention import create_block_mask

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = clean[k] & torch.where(clean[q], block[k] <= block[q], block[k] < block[q])
        return seen | (~clean[q] & ~clean[k] & (block[k] == block[q]))

    s = len(block)
    return create_block_mask(rule, B=None, H=None, Q_LEN=s, KV_LEN=s, device=str(block.device))
