"""What the GB1 benchmark trains, all on variants of fitness 1 (the wild type's) and below.

**Surrogate.** Kernel ridge on the logarithm of fitness (at least 0.01) of 1,000 variants, with the product kernel

    k(x, y) = prod_i (1 + a S(x_i, y_i)),    S = (1 - m) 1(v = w) + m exp(-d(v, w)^2 / 8),

d a distance of physico-chemical properties: effects of single sites and of all their combinations. Its mean is
multilinear in the sites' laws, so it is also its own expectation under independent sites. Its few constants are those
of the smallest error on other low variants.

**Prior.** A perceptron as denoiser, trained by the count form on the low variants that do not validate, but 2,000.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import one_hot

from apps.bio.protein.landscape import LETTERS, Landscape, variants
from core.denoiser import subs
from core.noise import Stream
from core.objective.elbo import count_form, count_terms
from core.process.categorical import Categorical

__all__ = ["Kernel", "Network", "Split", "fit", "pretrain", "split", "surrogate"]

K, SITES = 20, 4
EDGES = (-math.inf, 0.0101, 0.03, 0.1, 0.3, 1.0)  # strata of fitness, 200 variants of each
VOLUME = {
    "A": 88.6, "R": 173.4, "N": 114.1, "D": 111.1, "C": 108.5, "Q": 143.8, "E": 138.4, "G": 60.1, "H": 153.2,
    "I": 166.7, "L": 166.7, "K": 168.6, "M": 162.9, "F": 189.9, "P": 112.7, "S": 89.0, "T": 116.1, "W": 227.8,
    "Y": 193.6, "V": 140.0,
}  # fmt: skip
HYDROPATHY = {
    "A": 1.8, "R": -4.5, "N": -3.5, "D": -3.5, "C": 2.5, "Q": -3.5, "E": -3.5, "G": -0.4, "H": -3.2, "I": 4.5,
    "L": 3.8, "K": -3.9, "M": 1.9, "F": 2.8, "P": -1.6, "S": -0.8, "T": -0.7, "W": -0.9, "Y": -1.3, "V": 4.2,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Split:
    """Places of low variants: 1,000 to fit the surrogate, 3,000 to validate it, and the others for the prior."""

    fit: Tensor
    validate: Tensor
    learn: Tensor
    held: Tensor


def split(land: Landscape, seed: int) -> Split:
    """Draw a split: 200 and 600 variants of each stratum of fitness, none above 1, and 2,000 held from the prior."""
    rng, fit, validate = np.random.default_rng(seed), [], []
    for low, high in itertools.pairwise(EDGES):
        rows = ((land.fitness > low) & (land.fitness <= high)).nonzero()[:, 0].numpy()
        rng.shuffle(rows)
        fit.append(rows[:200])
        validate.append(rows[200:800])
    kept = np.concatenate(validate)
    rest = rng.permutation(np.setdiff1d((land.fitness <= 1).nonzero()[:, 0].numpy(), kept))
    return Split(*(torch.from_numpy(v) for v in (np.concatenate(fit), kept, rest[2000:], rest[:2000])))


@dataclass(frozen=True, eq=False)
class Kernel:
    """The surrogate: log-fitness by kernel ridge.

    Args:
        similarity: 1 + a S, [K, K].
        x: variants that it was fitted on [N, 4].
        weight: of each [N].
        mean: what is far from all of them.
    """

    similarity: Tensor
    x: Tensor
    weight: Tensor
    mean: float
    name: str = "log-fitness surrogate"

    def score(self, x: Tensor) -> Tensor:
        """Return predicted log-fitness [B] of tokens [B, 4]."""
        return _gram(x, self.x, self.similarity) @ self.weight + self.mean

    def soft(self, p: Tensor) -> Tensor:
        """Return its expectation [B] under independent sites [B, 4, K]."""
        gram = torch.ones((), dtype=torch.float64)
        for i in range(SITES):
            gram = gram * (p[:, i].double() @ self.similarity[:, self.x[:, i]])
        return gram @ self.weight + self.mean


def surrogate(land: Landscape, parts: Split) -> tuple[Kernel, dict[str, float]]:
    """Fit the surrogate and return it with its error on the validating variants."""
    x, log_f = variants(), land.fitness.clamp_min(0.01).log()
    y, want, found = log_f[parts.fit], log_f[parts.validate], []
    for m, a, ridge in itertools.product((0.0, 0.5, 0.8), (0.1, 0.3, 1.0, 3.0), (0.01, 0.1, 0.3)):
        made = fit(m, a, x[parts.fit], y, ridge)
        found.append((float((made.score(x[parts.validate]) - want).square().mean().sqrt()), len(found), made))
    error, _, best = min(found)
    rank = float(np.asarray(spearmanr(best.score(x[parts.validate]), want))[0])
    return best, {"validation error": error, "validation Spearman": rank, "spread": float(want.std())}


def fit(m: float, a: float, x: Tensor, y: Tensor, ridge: float) -> Kernel:
    """Fit the surrogate to log-fitness y [N] of variants x [N, 4]; `ridge` is relative to the kernel's diagonal."""
    similarity = 1 + a * ((1 - m) * torch.eye(K).double() + m * torch.exp(-(_distance() ** 2) / 8))
    gram, mean = _gram(x, x, similarity), float(y.mean())
    scale = gram.diagonal().mean()
    weight = torch.linalg.solve(gram + ridge * scale * torch.eye(len(x)).double(), y - mean)
    return Kernel(similarity, x, weight, mean)


class Network(nn.Module):
    """The denoiser: a perceptron on the one-hot state."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(SITES * (K + 1), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, SITES * K),
        )  # fmt: skip

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return logits [B, 4, K]."""
        z = x_t if x_t.is_floating_point() else one_hot(x_t, K + 1)
        return self.layers(z.float().flatten(1)).view(-1, SITES, K)


def pretrain(parts: Split, steps: int, seed: int) -> tuple[Network, dict[str, float]]:
    """Train the prior on low variants and return it with its bound on those held out, nats per sequence."""
    torch.manual_seed(seed)
    network, process, x = Network(), Categorical.absorbing(K), variants()
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def predict(x_t: Tensor, t: Tensor, context: object = None):  # noqa: ANN202
        return subs(network(x_t, t), x_t, K)

    for n, rows in enumerate(batches(len(parts.learn), 256, steps, seed)):
        loss, _ = count_form(predict, process, x[parts.learn[rows]], Stream.of(seed, 256).fold(n))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slower.step()
    with torch.no_grad():
        kept = x[parts.held].repeat(8, 1)
        nats = count_terms(predict, process, kept, Stream.of(seed + 1, len(kept)))
    return network.eval(), {"held-out nats": float(nats.mean()), "uniform nats": SITES * math.log(K)}


def batches(rows: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield random rows."""
    for n in range(steps):
        yield torch.from_numpy(np.random.default_rng([seed, n]).integers(0, rows, size))


def _gram(x: Tensor, y: Tensor, similarity: Tensor) -> Tensor:
    gram = torch.ones((), dtype=torch.float64)
    for i in range(SITES):
        gram = gram * similarity[x[:, i]][:, y[:, i]]
    return gram


def _distance() -> Tensor:
    """Return distances of amino acids by hydropathy, volume, charge, and being aromatic, proline or branched."""
    charge = {"D": -1.5, "E": -1.5, "K": 1.5, "R": 1.5}
    rows = [
        [HYDROPATHY[v] / 3, VOLUME[v] / 40, charge.get(v, 0), 2.0 * (v in "FWYH"), 2.0 * (v == "P"), 1.0 * (v in "VIT")]
        for v in LETTERS
    ]
    points = torch.tensor(rows, dtype=torch.float64)
    return torch.cdist(points, points)
