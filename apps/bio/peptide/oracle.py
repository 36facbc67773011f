"""Whether a peptide looks like those of a set: a classifier that can be tuned to, and one that judges.

The tuned one is a small convolution with a mean over places, differentiable in laws; the judge is a logistic
regression on composition, residue pairs and helical moments, trained on other families. Their agreement on sequences
that neither has seen says how much of a gain is real. A probability here is of the data set's label, not of activity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.bio.peptide.data import Peptides
from apps.bio.peptide.task import padded
from apps.bio.protein.data import AMINO

__all__ = ["Judge", "TunedClassifier", "auc", "fit_judge", "fit_tuned"]

LETTERS = 20


class TunedClassifier(nn.Module):
    """Log-odds of the label: a reward on tokens and on laws.

    Args:
        width: channels.
        name: of the reward.
    """

    def __init__(self, width: int = 48, name: str = "label") -> None:
        super().__init__()
        self.name = name
        self.first, self.second = nn.Conv1d(LETTERS, width, 5, padding=2), nn.Conv1d(width, width, 5, padding=2)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(width + LETTERS, 1)

    def forward(self, p: Tensor, inside: Tensor) -> Tensor:
        """Return log-odds [B] of laws [B, L, 20], `inside` [B, L] being 1 up to the end."""
        p = p.to(self.out.weight) * inside[..., None]
        h = nn.functional.silu(self.first(p.transpose(1, 2)))
        h = nn.functional.silu(self.second(self.drop(h))) * inside[:, None]
        count = inside.sum(1, keepdim=True)
        pooled = torch.cat([h.sum(2) / count, p.sum(1) / count], 1)
        return self.out(self.drop(pooled))[:, 0]

    def soft(self, p: Tensor) -> Tensor:
        """Return the log-odds [B] of laws [B, L, 20] over whole peptides."""
        return self(p, torch.ones(p.shape[:2], device=p.device)).to(p)

    def score(self, x: Tensor) -> Tensor:
        """Return the log-odds [B], float64, of tokens [B, L]; places of 20 or more are after the end."""
        inside = (x < LETTERS).float()
        p = nn.functional.one_hot(x.clamp_max(LETTERS - 1), LETTERS).float()
        with torch.no_grad():
            return self(p, inside).double()


def fit_tuned(data: Peptides, steps: int = 600, seed: int = 0) -> TunedClassifier:
    """Train the classifier that rewards use."""
    torch.manual_seed(seed)
    net, rng = TunedClassifier(), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    for step in range(steps):
        rows = rng.integers(0, len(data.tokens), 64)
        x = padded([data.tokens[i] for i in rows])
        p = nn.functional.one_hot(x.clamp_max(LETTERS - 1), LETTERS).float()
        logit = net(p, (x < LETTERS).float())
        target = torch.from_numpy(data.label[rows]).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logit, 0.95 * target + 0.025)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net.eval()


def _describe(words: list[str]) -> np.ndarray:
    """Return composition, counts of residue classes, class pairs and helical moment of each peptide."""
    from Bio.SeqUtils.ProtParamData import kd

    groups = ["AVILMC", "FWYH", "KR", "DE", "STNQ", "GP"]
    code = {a: k for k, g in enumerate(groups) for a in g}
    out = []
    for word in words:
        n = len(word)
        letters = np.bincount([AMINO.index(a) for a in word], minlength=LETTERS) / n
        pairs = np.zeros((6, 6))
        for gap in (1, 3, 4):
            for a, b in zip(word, word[gap:], strict=False):
                pairs[code[a], code[b]] += 1 / (3 * n)
        angle = np.deg2rad(100.0 * np.arange(n))
        water = np.array([kd[a] for a in word])
        moment = np.abs((water * np.exp(1j * angle)).mean())
        charge = sum(a in "KR" for a in word) - sum(a in "DE" for a in word)
        out.append([*letters, *pairs.ravel(), moment, water.mean(), charge / 5, n / 20, charge / n])
    return np.array(out)


@dataclass(frozen=True, eq=False)
class Judge:
    """A fitted judge: probabilities of the label."""

    model: Any
    name: str = "judge"

    def probability(self, words: list[str]) -> np.ndarray:
        """Return the probability of the label of each peptide, float64 [n]."""
        return self.model.predict_proba(_describe(words))[:, 1]


def fit_judge(data: Peptides) -> Judge:
    """Train the classifier that judges."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2000))
    return Judge(model.fit(_describe(data.strings()), data.label))


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Return the area under the receiver's curve."""
    from scipy.stats import rankdata

    rank, positive = rankdata(score), label == 1
    n, m = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * m))
