"""Three regressors of regulatory activity that have nothing in common but the sequence.

| kind | what it sees | how it learns |
|---|---|---|
| `conv` | letters, through learned filters, pooling and dilated convolutions; several members | gradient descent |
| | stacked with the counts of short words, `y = a y_conv + b y_words + c` | linear ridge; a, b, c by least squares |
| `motifs` | each known motif's occupancy: maximum and log-sum of its log-odds over sites, strands | kernel ridge |
| `gapped` | counts of two short words at a distance | linear ridge |

All predict the same for a sequence and its reverse complement. `conv` and `motifs` read laws p [B, L, 4], are
differentiable in them, and at one-hot laws give what they give for the letters; `gapped` looks letters up.

**Kernel ridge.** With features f standardised on the training rows, mean square m(a) = |f_a|^2 / F and product
g(a, b) = f_a . f_b / F,

    K(a, b) = g / 2 + exp(-rho (m(a) + m(b) - 2 g)) / 2,
    y(x) = mean + sum_n K(x, x_n) [(K + lambda)^-1 (y - mean)]_n,

a linear part that extrapolates beside a local one. lambda, rho and the ridge of `gapped` are chosen by cross-validation
within the training loci.

References: Agarwal et al., 2025, Nature, for the assay; Vorontsov et al., 2024, for HOCOMOCO; Ghandi et al., 2014, for
gapped k-mers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ConvEnsemble", "ConvShape", "ConvWords", "GappedKmers", "MotifKernel", "Regressor", "Words", "bank", "flip",
    "gapped", "ridge", "words",
]  # fmt: skip

UNIFORM, PSEUDO = 0.25, 0.01
SHARE = 0.5
"""Share of the local part in the kernel."""


def flip(p: Tensor) -> Tensor:
    """Return laws [B, L, 4] of the other strand."""
    return p.flip(1, 2)


def bank(motifs: Sequence[np.ndarray]) -> Tensor:
    """Return log-odds filters [M, 4, W] of probability matrices [w, 4], centred in an odd width W, 0 around."""
    width = max((len(m) for m in motifs), default=1) | 1
    out = torch.zeros(len(motifs), 4, width)
    for i, matrix in enumerate(motifs):
        law = (matrix + PSEUDO) / (matrix + PSEUDO).sum(1, keepdims=True)
        first = (width - len(matrix)) // 2
        out[i, :, first : first + len(matrix)] = torch.from_numpy(np.log(law / UNIFORM).T)
    return out


@dataclass
class ConvShape:
    """Shape of a `conv` member: filters and their width, dilated layers, dropout, pooling."""

    filters: int = 64
    width: int = 13
    depth: int = 2
    dropout: float = 0.2
    pool: int = 4


class ConvMember(nn.Module):
    """One convolutional network: laws [B, L, 4] to standardised activities [B], averaged over strands."""

    def __init__(self, shape: ConvShape) -> None:
        super().__init__()
        dim = shape.filters
        self.enter = nn.Conv1d(4, dim, shape.width, padding=shape.width // 2)
        self.norm, self.pool = nn.BatchNorm1d(dim), shape.pool
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(dim), nn.GELU(), nn.Dropout(shape.dropout),
                nn.Conv1d(dim, dim, 5, padding=2 * 2**i, dilation=2**i),
            )
            for i in range(shape.depth)
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(1.5 * shape.dropout), nn.Linear(2 * dim, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(self, p: Tensor) -> Tensor:
        """Return activities [B] of laws [B, L, 4]."""
        both = torch.cat([p, flip(p)]).transpose(1, 2)
        h = F.max_pool1d(F.gelu(self.norm(self.enter(both))), self.pool)
        for layer in self.layers:
            h = h + layer(h)
        out = self.head(torch.cat([h.mean(-1), h.amax(-1)], 1))[:, 0]
        return 0.5 * (out[: len(p)] + out[len(p) :])


class ConvEnsemble(nn.Module):
    """The mean of several `ConvMember`s, in the units of the labels."""

    differentiable = True
    centre: Tensor
    spread: Tensor

    def __init__(self, members: int, shape: ConvShape) -> None:
        super().__init__()
        self.members = nn.ModuleList(ConvMember(shape) for _ in range(members))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, p: Tensor) -> Tensor:
        """Return activities [B] of laws [B, L, 4]."""
        return self.centre + self.spread * torch.stack([m(p) for m in self.members]).mean(0)


class Words(nn.Module):
    """A weight for each word of k letters: the sum over both strands and all places.

    Args:
        k: letters of a word.
    """

    weight: Tensor
    centre: Tensor

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("weight", torch.zeros(4**k))
        self.register_buffer("centre", torch.zeros(()))

    def forward(self, p: Tensor) -> Tensor:
        """Return activities [B] of laws [B, L, 4]: the expectation where sites are independent."""
        both, places = torch.cat([p, flip(p)]), p.shape[1] - self.k + 1
        out = both[:, :places] @ self.weight.view(4, -1)
        for i in range(1, self.k):
            out = (both[:, i : i + places, :, None] * out.unflatten(-1, (4, -1))).sum(2)
        out = out[..., 0].sum(1)
        return self.centre + out[: len(p)] + out[len(p) :]


class ConvWords(nn.Module):
    """A `ConvEnsemble` stacked with `Words`.

    Args:
        conv, words: the two.
    """

    differentiable = True
    mix: Tensor

    def __init__(self, conv: ConvEnsemble, words: Words) -> None:
        super().__init__()
        self.conv, self.words = conv, words
        self.register_buffer("mix", torch.tensor([0.5, 0.5, 0.0]))

    def forward(self, p: Tensor) -> Tensor:
        """Return activities [B] of laws [B, L, 4]."""
        return self.mix[0] * self.conv(p) + self.mix[1] * self.words(p) + self.mix[2]


class MotifKernel(nn.Module):
    """Kernel ridge on motif occupancies.

    Args:
        motifs: number of motifs M.
        width: filter width W.
        rows: training rows N that the kernel is spanned by.
    """

    differentiable = True
    filters: Tensor
    mean: Tensor
    std: Tensor
    support: Tensor
    weight: Tensor
    centre: Tensor
    rho: Tensor

    def __init__(self, motifs: int, width: int, rows: int) -> None:
        super().__init__()
        self.register_buffer("filters", torch.zeros(motifs, 4, width))
        self.register_buffer("mean", torch.zeros(2 * motifs))
        self.register_buffer("std", torch.ones(2 * motifs))
        self.register_buffer("support", torch.zeros(rows, 2 * motifs))
        self.register_buffer("weight", torch.zeros(rows))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("rho", torch.ones(()))

    def features(self, p: Tensor) -> Tensor:
        """Return maximum and log-sum-exp of each motif's log-odds over sites and strands, [B, 2 M]."""
        pad = self.filters.shape[2] // 2
        both = torch.cat([p, flip(p)]).transpose(1, 2)
        odds = F.conv1d(both, self.filters, padding=pad)
        odds = torch.cat([odds[: len(p)], odds[len(p) :]], -1)
        return torch.cat([odds.amax(-1), odds.logsumexp(-1)], -1)

    def kernel(self, f: Tensor, g: Tensor) -> Tensor:
        """Return K [A, B] of standardised features [A, F] and [B, F]."""
        size = f.shape[1]
        product = f @ g.T / size
        apart = f.square().sum(1)[:, None] / size + g.square().sum(1) / size - 2 * product
        return (1 - SHARE) * product + SHARE * torch.exp(-self.rho * apart)

    def forward(self, p: Tensor) -> Tensor:
        """Return activities [B] of laws [B, L, 4]."""
        f = (self.features(p) - self.mean) / self.std
        return self.centre + self.kernel(f, self.support) @ self.weight


class GappedKmers(nn.Module):
    """A weight for each pair of 3-mers at each distance: the sum over both strands and all places.

    Args:
        gaps: letters between the two are 0 ... gaps - 1.
    """

    differentiable = False
    weight: Tensor
    centre: Tensor

    def __init__(self, gaps: int = 4) -> None:
        super().__init__()
        self.gaps = gaps
        self.register_buffer("weight", torch.zeros(gaps * 4**6, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Return activities [B] of tokens [B, L]."""
        return self.centre + self.weight[gapped(x, self.gaps)].sum(-1)


Regressor = ConvWords | MotifKernel | GappedKmers


def gapped(x: Tensor, gaps: int) -> Tensor:
    """Return the numbers of all gapped words of tokens [B, L] and their reverse complements, int64 [B, words].

    Word (a, d, b), two 3-mers a and b with d letters between, has the number 4^6 d + 4^3 a + b.
    """
    found = []
    for strand in (x, 3 - x.flip(1)):
        triple = 16 * strand[:, :-2] + 4 * strand[:, 1:-1] + strand[:, 2:]
        for gap in range(gaps):
            left, right = triple[:, : -3 - gap], triple[:, 3 + gap :]
            found.append(4**6 * gap + 4**3 * left + right)
    return torch.cat(found, 1)


def words(x: Tensor, k: int) -> Tensor:
    """Return the numbers of all words of k letters of tokens [B, L] and their reverse complements, int64 [B, words]."""
    places = x.shape[1] - k + 1
    strands = [sum(s[:, i : i + places] * 4 ** (k - 1 - i) for i in range(k)) for s in (x, 3 - x.flip(1))]
    return torch.cat([torch.as_tensor(s) for s in strands], 1)


def ridge(gram: np.ndarray, y: np.ndarray, folds: np.ndarray, grid: Sequence[float]) -> tuple[np.ndarray, float, float]:
    """Fit dual ridge weights with the strength that predicts left-out folds best.

    Args:
        gram: kernel [N, N].
        y: labels [N].
        folds: the fold of each row, int [N].
        grid: strengths to try.

    Returns:
        The weights [N], the mean of the labels, and the squared error of left-out rows over their variance.
    """
    error = []
    for strength in grid:
        out = np.empty(len(y))
        for fold in np.unique(folds):
            i, j = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            mean = y[i].mean()
            out[j] = mean + gram[np.ix_(j, i)] @ np.linalg.solve(
                gram[np.ix_(i, i)] + strength * np.eye(len(i)), y[i] - mean
            )
        error.append(float(((out - y) ** 2).mean() / y.var()))
    best = grid[int(np.argmin(error))]
    weight = np.linalg.solve(gram + best * np.eye(len(y)), y - y.mean())
    return weight, float(y.mean()), min(error)
