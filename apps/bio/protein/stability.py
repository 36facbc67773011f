"""How much a mutation changes stability: a potential for each residue at each site.

The oracle gives a number `g(i, a)` to letter `a` at site `i` of a backbone, and predicts

    ddG(i: wt -> mut) = g(i, mut) - g(i, wt)          kcal/mol, positive = stabilising,

so it is antisymmetric by construction, adds up over mutations, and is linear in a sequence: the reward of a design is
`sum_i g(i, x_i) - g(i, native_i)`, the same for laws instead of letters. `g = w . phi(i, a)` with features

    log p(a | backbone) and log p(a | backbone, other residues) of the inverse-folding model, alone and times burial;
    hydropathy, volume, charge, helix and strand propensity of `a`, each alone, times burial, helix, strand;
    which letter it is, alone and times burial; glycine where phi is positive; proline where the amide gives a bond.

`w` is fitted by ridge regression on differences of `phi`, each protein weighted by the square root of its number of
mutations; the penalty is chosen by cross-validation over clusters within the training part.

References: Kyte and Doolittle 1982 (hydropathy); Pace and Scholtz 1998 (helix); Minor and Kim 1994 (strand);
Widatalla et al. 2024 (inverse-folding likelihoods for stability); Montanucci et al. 2019 (antisymmetry).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apps.bio.protein import geometry
from apps.bio.protein.data import AMINO
from apps.bio.protein.network import LETTERS

__all__ = ["FEATURES", "Potential", "StabilityOracle", "features", "fit", "oracle", "surroundings"]

SCALES = {
    "hydropathy": "1.8 2.5 -3.5 -3.5 2.8 -0.4 -3.2 4.5 -3.9 3.8 1.9 -3.5 -1.6 -3.5 -4.5 -0.8 -0.7 4.2 -0.9 -1.3",
    "volume": "89 108 111 138 190 60 153 167 169 167 163 114 113 144 173 89 116 140 228 194",
    "charge": "0 0 -1 -1 0 0 0.1 0 1 0 0 0 0 0 1 0 0 0 0 0",
    "helix": "0 0.68 0.69 0.40 0.54 1 0.61 0.41 0.26 0.21 0.24 0.65 3.16 0.39 0.21 0.50 0.66 0.61 0.49 0.53",
    "strand": "0 -0.52 0.94 -0.01 -0.86 1.2 0.02 -1 -0.27 -0.51 -0.72 0.08 3 -0.23 -0.45 -0.70 -1.1 -0.82 -0.54 -0.96",
}
"""Residue scales in the order of the alphabet; volume in cubic angstrom, propensities in kcal/mol."""

FEATURES = 4 + 4 * len(SCALES) + 2 * LETTERS + 2
PENALTIES = (30.0, 100.0, 300.0, 1000.0, 3000.0)


def scales() -> np.ndarray:
    """Return the scales, standardised over the twenty residues, float64 [20, P]."""
    table = np.array([[float(v) for v in row.split()] for row in SCALES.values()]).T
    return (table - table.mean(0)) / table.std(0)


def surroundings(coords: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """Return burial (standardised count of CB within 10 angstrom), helix, strand, positive phi, amide bond, [L, 5]."""
    backbone, joined = torch.from_numpy(coords), torch.from_numpy(bonded)
    node, bonds = geometry.node_features(backbone, joined)
    phi = torch.atan2(node[:, 0], node[:, 1]) * (node[:, :2].abs().sum(-1) > 0)
    psi = torch.atan2(node[:, 2], node[:, 3]) * (node[:, 2:4].abs().sum(-1) > 0)
    helix = ((phi + 1.1).abs() < 0.6) & ((psi + 0.75).abs() < 0.75)
    strand = (phi < -0.9) & ((psi > 1.3) | (psi < -2.9))
    buried = (geometry.burial(backbone) - 14.0) / 6.0
    columns = [buried, helix, strand, (phi > 0.2), bonds.amin(1) < -0.5]
    return torch.stack([c.float() for c in columns], -1).double().numpy()


@torch.no_grad()
def features(
    network: Any, tokens: np.ndarray, around: np.ndarray, sites: np.ndarray | None = None, batch: int = 32
) -> np.ndarray:
    """Return phi of every letter at some sites, float64 [n, 20, FEATURES].

    Args:
        network: noisy sequences [B, L] to log-probabilities [B, L, 20] on this backbone (`generate.Conditioned`).
        tokens: the native sequence, int64 [L].
        around: of `surroundings`.
        sites: int64 [n]; all by default.
        batch: sites hidden together in one call, each in a sequence of its own.
    """
    x, length = torch.from_numpy(tokens), len(tokens)
    where = np.arange(length) if sites is None else np.asarray(sites, np.int64)
    blank = network(torch.full((1, length), LETTERS))[0].log_softmax(-1)[torch.from_numpy(where)]
    known = torch.empty(len(where), LETTERS)
    for a in range(0, len(where), batch):
        part = torch.from_numpy(where[a : a + batch])
        noisy, row = x.repeat(len(part), 1), torch.arange(len(part))
        noisy[row, part] = LETTERS
        known[a : a + batch] = network(noisy)[row, part].log_softmax(-1)
    logs = np.stack([blank.double().numpy(), known.double().numpy()], -1)
    letters = np.concatenate([scales(), np.eye(LETTERS)], 1)
    letters = np.broadcast_to(letters, (len(where), *letters.shape))
    props, hot, here = letters[..., : len(SCALES)], letters[..., len(SCALES) :], around[where]
    buried, helix, strand = (here[:, None, None, k] for k in range(3))
    special = [hot[..., AMINO.index("G")] * here[:, 3:4], hot[..., AMINO.index("P")] * here[:, 4:5]]
    parts = [logs, logs * buried, props, props * buried, props * helix, props * strand, hot, hot * buried]
    return np.concatenate([*parts, np.stack(special, -1)], -1)


@dataclass(frozen=True, eq=False)
class Potential:
    """A fitted potential: weights of the features, float64 [FEATURES], and the penalty that was chosen."""

    weight: np.ndarray
    penalty: float

    def predict(self, difference: np.ndarray) -> np.ndarray:
        """Return ddG of differences of features [n, FEATURES], kcal/mol."""
        return difference @ self.weight


def _ridge(x: np.ndarray, y: np.ndarray, w: np.ndarray, penalty: float) -> np.ndarray:
    size = np.sqrt((w[:, None] * x**2).sum(0) / w.sum()) + 1e-3
    z = x / size
    gram = (z * w[:, None]).T @ z / w.sum()
    return np.linalg.solve(gram + penalty / len(x) * np.eye(x.shape[1]), (z * w[:, None]).T @ y / w.sum()) / size


def fit(x: np.ndarray, y: np.ndarray, protein: np.ndarray, cluster: np.ndarray) -> Potential:
    """Fit a potential.

    Args:
        x: phi(mut) - phi(wt), [n, FEATURES].
        y: measured ddG, kcal/mol, positive = stabilising.
        protein, cluster: int [n]; proteins are weighted, clusters are kept together when the penalty is chosen.
    """
    _, which, count = np.unique(protein, return_inverse=True, return_counts=True)
    w = 1.0 / np.sqrt(count[which])
    part = np.unique(cluster, return_inverse=True)[1] % 5
    loss = []
    for penalty in PENALTIES:
        guess = np.zeros(len(y))
        for k in np.unique(part):
            train = part != k
            guess[~train] = x[~train] @ _ridge(x[train], y[train], w[train], penalty)
        loss.append(float((w * (guess - y) ** 2).sum()))
    best = PENALTIES[int(np.argmin(loss))]
    return Potential(_ridge(x, y, w, best), best)


@dataclass(frozen=True, eq=False)
class StabilityOracle:
    """Predicted change of stability against the native sequence of one backbone: a linear, differentiable reward.

    Args:
        table: g(i, a) - g(i, native_i), kcal/mol, float64 [N, 20].
        name: of the reward.
    """

    table: Tensor
    name: str = "ddG"

    def score(self, x: Tensor) -> Tensor:
        """Return kcal/mol [B] of tokens [B, N], positive = more stable than the native sequence."""
        return self.table.expand(len(x), -1, -1).gather(-1, x.cpu()[..., None])[..., 0].sum(-1)

    def soft(self, p: Tensor) -> Tensor:
        """Return the mean [B] under independent sites with laws `p` [B, N, 20]."""
        return (p * self.table.to(p)).sum((-1, -2))


def oracle(potential: Potential, network: Any, tokens: np.ndarray, coords: np.ndarray, bonded: np.ndarray) -> Any:
    """Return the stability of sequences on one backbone as a `StabilityOracle` (arguments as in `features`)."""
    g = features(network, tokens, surroundings(coords, bonded)) @ potential.weight
    return StabilityOracle(torch.from_numpy(g - g[np.arange(len(tokens)), tokens][:, None]))
