"""A cheap guess of the reward from few queries: Bayesian linear regression on what a cell is made of.

Features are the one-hot values of all variables, those of all pairs of variables, so that synergies count, and how
often each sequence of computing operations occurs among the paths from input to output (0, 1, 2 or more times), which
is alike for cells that are alike. With a Gaussian prior on the weights the posterior is exact. `thompson` draws whole
functions from it (Matheron's rule: a draw from the prior, corrected by what it gets wrong at the data),

    f(x) = w.phi(x) + phi(x).Phi^T (Phi Phi^T + s^2 I)^-1 (y - Phi w - e),     w ~ N(0, c^2 I),  e ~ N(0, c^2 s^2),

and the best of each draw is what to ask for next (Thompson 1933); c < 1 asks more greedily. Rewards enter as scores of
an exponential law by rank, so that the best ones stand apart and the worst ones do not matter.

Where a reward has one value for all cells of a class (`Cell.key`), so has the guess: features are then averaged over
the class, as if each answer had been given for all of its cells at once.

How far to trust an answer differs from table to table: where trainings scatter more than good cells differ, a search
that believes each answer chases luck. The noise s is therefore the likeliest of `NOISE` given all answers so far, the
amplitude of the weights profiled out (empirical Bayes; MacKay 1992, Neural Computation 4),

    log p(y | s) = -1/2 sum_i log(l_i + s^2) - n/2 log mean_i (u_i.y)^2 / (l_i + s^2),    Phi Phi^T = U diag(l) U^T.

The prior deviations of the three kinds, c and the scores were chosen by the median queries that a search over all
cells needs on four columns of NAS-Bench-201 which judge nothing (the validation accuracies after 12 epochs, and that
of one seed after 200), the noise by evidence instead of a fixed 0.15 on the validation columns of our digits table.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from apps.nas.cell import Cell
from apps.nas.space import NONE, Space

__all__ = ["NOISE", "Surrogate", "averages", "features", "likeliest", "sequences"]

NOISE = (0.05, 0.1, 0.15, 0.25, 0.4, 0.7, 1.0, 1.5, 2.5)
PAIRS, PATHS = 0.3, 2.0
LENGTH, WIDEST, LISTED = 4, 600, 50_000
IDLE = (NONE, "skip_connect")


def features(space: Space, x: np.ndarray) -> np.ndarray:
    """Return the features of cells x [n, D], float32 [n, F]."""
    hot = np.eye(space.K, dtype=np.float32)[x]
    first, second = np.triu_indices(space.D, 1)
    used = np.concatenate([np.arange(len(v.values)) + d * space.K for d, v in enumerate(space.variables)])
    joint = (hot[:, first, :, None] * hot[:, second, None, :]).reshape(len(x), -1)
    one = hot.reshape(len(x), -1)[:, used] / np.sqrt(space.D)
    return np.concatenate([one, PAIRS / np.sqrt(max(len(first), 1)) * joint, PATHS * sequences(space, x)], 1)


def averages(space: Space, x: np.ndarray) -> np.ndarray:
    """Return the features of cells x [n, D], each the mean over all cells of its class, float32 [n, F].

    Where the space has too many cells to list, they are those of the cells alone.
    """
    if math.prod(len(space.choices(v)) for v in space.variables) > LISTED:
        return features(space, x)
    if (name := repr(space)) not in _AVERAGES:
        from apps.nas.constraints import everything

        every = everything(space)
        keys = [Cell.of(space, row).key for row in every.tolist()]
        place = {key: n for n, key in enumerate(dict.fromkeys(keys))}
        member = np.array([place[key] for key in keys])
        mean = np.zeros((len(place), features(space, every[:1]).shape[1]), np.float32)
        np.add.at(mean, member, features(space, every))
        mean /= np.bincount(member)[:, None]
        _AVERAGES[name] = {tuple(row): mean[k] for row, k in zip(every.tolist(), member, strict=True)}
    return np.stack([_AVERAGES[name][tuple(row)] for row in x.tolist()])


_AVERAGES: dict[str, dict[tuple[int, ...], np.ndarray]] = {}


def sequences(space: Space, x: np.ndarray) -> np.ndarray:
    """Return how often each sequence of computing operations leads from input to output, float32 [n, S].

    Counts end at 2 and are divided by the root of the number of nodes; of long sequences only the last operations are
    told apart.
    """
    words = [op for op in space.operations if op not in IDLE]
    length = min(LENGTH, space.nodes - 1)
    while length > 1 and len(words) ** (length + 1) > WIDEST:
        length -= 1
    texts = itertools.chain(*(itertools.product(words, repeat=r) for r in range(length + 1)))
    place = {text: k for k, text in enumerate(texts)}
    out = np.zeros((len(x), len(place)), np.float32)
    for row, tokens in zip(out, x.tolist(), strict=True):
        for text, count in _paths(Cell.of(space, tokens), length).items():
            row[place[text]] = min(count, 2)
    return out / np.sqrt(space.nodes)


def _paths(cell: Cell, length: int) -> dict[tuple[str, ...], int]:
    """Return the number of paths to the output by their last computing operations."""
    last = cell.space.nodes - 1
    at: dict[int, dict[tuple[str, ...], int]] = {0: {(): 1}}
    for j in range(1, last + 1):
        own = cell.ops[j - 1] if cell.ops and j < last else ""
        here: dict[tuple[str, ...], int] = {}
        for i, k, op in cell.edges:
            if k == j:
                step = tuple(word for word in (op, own) if word and word not in IDLE)
                for text, count in at.get(i, {}).items():
                    ends = (*text, *step)[-length:]
                    here[ends] = here.get(ends, 0) + count
        at[j] = here
    return at[last]


@dataclass(eq=False)
class Surrogate:
    """The regression.

    Args:
        space: of the cells.
        scores: of rewards by rank: "best" of an exponential law, "normal" of a normal one, where all levels count.
        noise: standard deviation s of an observation, in deviations of the weighted features; None: the likeliest.
        calm: the factor c of the draws.
        by_class: all cells of a class have one value.
    """

    space: Space
    scores: str = "best"
    noise: float | None = None
    calm: float = 0.5
    by_class: bool = False

    def describe(self, x: np.ndarray) -> np.ndarray:
        """Return the features of cells x [n, D], float32 [n, F]."""
        return (averages if self.by_class else features)(self.space, x)

    def fit(self, x: np.ndarray, y: np.ndarray) -> Surrogate:
        """Learn from cells x [n, D] with rewards y [n], in any order: equal ones share the mean of their scores.

        All that have -inf share the lowest rank.
        """
        rank = np.where(np.isfinite(y), np.argsort(np.argsort(y, kind="stable"), kind="stable"), 0)
        above = (len(y) - rank) / (len(y) + 1.0)
        scores = -np.log(above) if self.scores == "best" else -torch.special.ndtri(torch.from_numpy(above)).numpy()
        _, group = np.unique(y, return_inverse=True)
        scores = (np.bincount(group, scores) / np.bincount(group))[group]
        self.y = (scores - scores.mean()) / max(float(scores.std()), 1e-9)
        self.phi = self.describe(x).astype(np.float64)
        self.scale = 1.0 / np.sqrt(float((self.phi**2).sum(1).mean()))
        self.phi *= self.scale
        gram = self.phi @ self.phi.T
        self.deviation = likeliest(gram, self.y) if self.noise is None else self.noise
        self.gram = gram + self.deviation**2 * np.eye(len(y))
        return self

    def mean(self, phi: np.ndarray) -> np.ndarray:
        """Return the posterior mean at features [n, F]."""
        return phi @ (self.scale * (self.phi.T @ np.linalg.solve(self.gram, self.y)))

    def thompson(self, phi: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Return draws of the function at features [n, F]: float64 [draws, n]."""
        w = self.calm * rng.normal(size=(self.phi.shape[1], draws))
        e = self.calm * self.deviation * rng.normal(size=(len(self.y), draws))
        fix = np.linalg.solve(self.gram, self.y[:, None] - self.phi @ w - e)
        return (phi @ (self.scale * (w + self.phi.T @ fix)).astype(phi.dtype)).T

    def screen(self, pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return `count` different rows of a pool [n, D], each the best of its own draw."""
        values = self.thompson(self.describe(pool), count, rng)
        chosen: list[int] = []
        for row in values:
            order = np.argsort(-row)
            chosen.append(int(next(i for i in order[: count + 1] if i not in chosen)))
        return pool[chosen]


def likeliest(gram: np.ndarray, y: np.ndarray) -> float:
    """Return the value of `NOISE` under which answers y [n] with kernel [n, n] are most probable, any amplitude."""
    values, vectors = np.linalg.eigh(gram)
    spread = np.maximum(values, 0.0)[:, None] + np.square(NOISE)
    share = np.square(vectors.T @ y)[:, None] / spread
    evidence = -0.5 * np.log(spread).sum(0) - 0.5 * len(y) * np.log(np.maximum(share.mean(0), 1e-300))
    return NOISE[int(evidence.argmax())]
