"""A small transformer over whole peptides: every residue sees every other, and how far it is from both ends.

Rows of different lengths share a batch: places after the end hold the token END, which nobody looks at. With laws in
the place of tokens the embedding is the mean one, so that gradients reach them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apps.bio.peptide.model import PeptideConfig
from core.errors import UsageError

__all__ = ["END", "PeptideNet"]

LETTERS, END = 20, 21


class PeptideNet(nn.Module):
    """A denoiser of peptides.

    Args:
        config: its shape.
        outputs: numbers for each residue: logits of twenty letters, or others for a classifier.

    Raises:
        UsageError: the heads do not share the width evenly.
    """

    def __init__(self, config: PeptideConfig, outputs: int = LETTERS) -> None:
        super().__init__()
        d = config.dim
        if d % config.heads:
            raise UsageError("must be a multiple of peptide.heads", field="peptide.dim", value=(d, config.heads))
        self.token = nn.Linear(LETTERS + 1, d, bias=False)
        self.left, self.right = nn.Embedding(config.longest, d), nn.Embedding(config.longest, d)
        layer = nn.TransformerEncoderLayer(
            d, config.heads, 2 * d, config.dropout, nn.functional.gelu, batch_first=True, norm_first=True
        )
        self.trunk = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, outputs)
        for module in (self.token, self.left, self.right):
            nn.init.normal_(module.weight, std=0.1)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Return logits [B, L, outputs] of tokens int64 [B, L] (mask 20, END after the end), or laws [B, L, 21]."""
        if x.is_floating_point():
            length, soft, over = torch.full(x.shape[:1], x.shape[1], device=x.device), x, None
        else:
            over = x == END
            length, soft = (~over).sum(1), nn.functional.one_hot(x.clamp_max(LETTERS), LETTERS + 1)
        place = torch.arange(x.shape[1], device=x.device)
        most = self.left.num_embeddings - 1
        behind = (length[:, None] - 1 - place).clamp(0, most)
        h = self.token(soft.to(self.token.weight)) + self.left(place.clamp_max(most)) + self.right(behind)
        return self.head(self.norm(self.trunk(h, src_key_padding_mask=over)))
