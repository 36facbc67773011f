"""The network of a DNA model: the exact marginals of a reference chain, corrected by convolutions or a transformer.

    logits(x_t)_iv = log chain(x_i = v | known sites of x_t) + f(x_t)_iv,       f = 0 before training.

With `strands`, f is averaged over both strands: f(x)_iv = (g(x)_iv + g(rc x)_{rc(i), 3 - v}) / 2, which makes the model
equivariant (the chain counts both strands too). In training, random strands show g both at half the cost; averaging
logits afterwards can only lower the mean bound of the two, log-sum-exp being convex. Inputs are tokens [B, S] (mask K)
or laws [B, S, K + 1], in which everything is differentiable.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from apps.bio.dna.background import Background
from apps.bio.model import ModelConfig
from core.nn.conv import ConvConfig, ConvTrunk
from core.nn.tokens import TokenConfig, TokenNet
from core.nn.transformer import TransformerConfig

__all__ = ["ConvNet", "SequenceTransformer", "build", "laws"]


def laws(x: Tensor, states: int) -> Tensor:
    """Return tokens [B, S] as one-hot laws [B, S, states]; laws pass."""
    return x if x.is_floating_point() else one_hot(x, states).to(torch.get_default_dtype())


class ConvNet(nn.Module):
    """Dilated convolutions over a chain's marginals.

    Args:
        config: the shape.
        tokens: alphabet size K.
    """

    def __init__(self, config: ModelConfig, tokens: int) -> None:
        super().__init__()
        self.config, self.tokens = config, tokens
        self.background = Background(tokens, config.order, config.folds, config.classes) if config.order else None
        width = tokens + 1 + (tokens if config.order else 0)
        self.enter = nn.Conv1d(width, config.dim, config.kernel, padding=config.kernel // 2)
        self.place = nn.Embedding(config.places, config.dim) if config.places else None
        cycle = tuple(config.dilations)
        self.trunk = ConvTrunk(ConvConfig(config.dim, config.depth, config.kernel, cycle, config.dropout, config.time))
        self.head = nn.Linear(config.dim, tokens)
        if self.place is not None:
            nn.init.normal_(self.place.weight, std=0.02)
        if config.order:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(
        self, x: Tensor, t: Tensor | None = None, fold: Tensor | None = None, chain: Tensor | None = None
    ) -> Tensor:
        """Return logits [B, S, K].

        Args:
            x: tokens int64 [B, S], or laws [B, S, K + 1].
            t: times [B], read only by a network with `time`.
            fold: int64 [B], which part of the training data each row belongs to; its chain was counted on the others.
                None: the chain of all of them.
            chain: the chain's log-marginals [B, S, K] at x, where the caller has them already.
        """
        law = laws(x, self.tokens + 1).to(self.head.weight.dtype)
        if chain is None and self.background is not None:
            chain = self.background(x, fold)
        chain = None if chain is None else chain.to(law)
        both = law if chain is None else torch.cat([law, chain], -1)
        out = self.correct(both, t)
        if self.config.strands and not self.training:
            out = 0.5 * (out + self.mirror(self.correct(self.mirror(both), t)))
        return out if chain is None else chain + out

    def correct(self, features: Tensor, t: Tensor | None) -> Tensor:
        """Return the correction [B, S, K] of features [B, S, K + 1 (+ K)] on one strand."""
        h = self.enter(features.transpose(1, 2))
        if self.place is not None:
            at = torch.arange(h.shape[2], device=h.device).clamp_max(self.config.places - 1)
            h = h + self.place(at).T
        return self.head(self.trunk(h, t).transpose(1, 2))

    def mirror(self, features: Tensor) -> Tensor:
        """Return features of the other strand: sites and letters reversed, the mask kept."""
        k = self.tokens
        parts = [features[..., :k].flip(1, 2), features[..., k : k + 1].flip(1), features[..., k + 1 :].flip(1, 2)]
        return torch.cat(parts, -1)


class SequenceTransformer(TokenNet):
    """The block transformer as a denoiser of whole sequences, tokens or laws; blocks and cache as in `TokenNet`."""

    def forward(self, x: Tensor, *arguments: Any, **more: Any) -> Tensor:  # type: ignore[override]
        """Return logits [B, S, K] of (x, t); with positions, blocks and clean flags the trunk's hidden states."""
        if len(arguments) > 1 or more:
            return super().forward(x, *arguments, **more)
        weight = self.embedding.weight
        h = x.to(weight.dtype) @ weight if x.is_floating_point() else self.embedding(x)
        site = torch.arange(x.shape[1], device=x.device)
        noisy = torch.zeros_like(site, dtype=torch.bool)
        time = arguments[0].reshape(-1, 1).expand(x.shape[:2]) if arguments and self.config.trunk.time else None
        return self.head(self.trunk(h, site, torch.zeros_like(site), noisy, time=time))


def build(config: ModelConfig, letters: int = 4) -> ConvNet | SequenceTransformer:
    """Return the untrained network of a recipe over `letters` letters."""
    tokens = letters**config.kmer
    if config.backbone == "conv":
        return ConvNet(config, tokens)
    trunk = TransformerConfig(config.dim, config.depth, config.heads, dropout=config.dropout, time=config.time)
    return SequenceTransformer(TokenConfig(tokens, trunk))
