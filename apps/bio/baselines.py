"""What one would use instead: Markov chains, and shuffles that keep the composition.

`Markov` is the chain of a fixed order with a pseudo-count, as in the notes; `Interpolated` backs off through all
orders with strengths fitted on folds (`apps.bio.dna.background`). `shuffled` keeps every dinucleotide count of each
sequence (Altschul and Erickson 1985): the composition-matched control of motif and reward figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apps.bio.dna.background import chain_nll, count, fit_strengths, interpolate

__all__ = ["Chain", "euler", "interpolated", "markov", "shuffled"]


@dataclass(frozen=True, eq=False)
class Chain:
    """A Markov chain: `laws[j]` float64 [K^j, K] is the law of a letter after j letters, j = 0 ... order."""

    laws: list[np.ndarray]

    def nll(self, x: np.ndarray) -> np.ndarray:
        """Return nats of each sequence [B, L], float64 [B]."""
        return chain_nll(x, self.laws)

    def sample(self, n: int, length: int, seed: int) -> np.ndarray:
        """Return n sequences, int64 [n, length]."""
        rng, k, order = np.random.default_rng([seed, length]), self.laws[0].shape[1], len(self.laws) - 1
        x, code = np.empty((n, length), np.int64), np.zeros(n, np.int64)
        for i in range(length):
            cdf = self.laws[min(i, order)][code].cumsum(1)
            x[:, i] = (rng.random(n)[:, None] > cdf).sum(1).clip(max=k - 1)
            code = (code * k + x[:, i]) % k ** min(i + 1, order)
        return x


def markov(x: np.ndarray, order: int, pseudo: float = 0.5, k: int = 4) -> Chain:
    """Return the chain of counts plus `pseudo`, each order j <= `order` counted by itself, on the given strand."""
    laws = [count(x, j, k, both=False) + pseudo for j in range(order + 1)]
    return Chain([law / law.sum(1, keepdims=True) for law in laws])


def interpolated(x: np.ndarray, order: int, fold: np.ndarray, both: bool = True, k: int = 4) -> Chain:
    """Return the interpolated chain of tokens [B, L] whose strengths were fitted on folds int [B]."""
    parts = [count(x[fold == f], order, k, both) for f in np.unique(fold)]
    return Chain(interpolate(np.sum(parts, 0), fit_strengths(parts)))


def shuffled(x: np.ndarray, seed: int) -> np.ndarray:
    """Return each sequence [B, L] shuffled so that it keeps its first and last letter and all dinucleotide counts."""
    rng = np.random.default_rng([seed, len(x)])
    return np.stack([euler(row, rng) for row in np.asarray(x, np.int64)])


def euler(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return codes int64 [L] in another order with the same pairs of neighbours, drawn evenly among all such.

    An Eulerian path of the multigraph of pairs: last exits that form a tree to the end, by rejection, then any order.
    """
    if len(x) < 3:
        return x
    last, letters = int(x[-1]), np.unique(x)
    after = {int(a): x[1:][x[:-1] == a] for a in letters}
    while True:
        exits = {a: int(rng.integers(len(b))) for a, b in after.items() if a != last and len(b)}
        if all(_reaches(a, last, after, exits) for a in exits):
            break
    queue = {}
    for a, b in after.items():
        rest = rng.permutation(np.delete(b, exits[a]) if a in exits else b)
        queue[a] = [*rest.tolist(), *([int(b[exits[a]])] if a in exits else [])]
    out, used = [int(x[0])], dict.fromkeys(queue, 0)
    while len(out) < len(x):
        a = out[-1]
        out.append(queue[a][used[a]])
        used[a] += 1
    return np.array(out)


def _reaches(a: int, end: int, after: dict[int, np.ndarray], exits: dict[int, int]) -> bool:
    for _ in range(len(after) + 1):
        if a == end:
            return True
        a = int(after[a][exits[a]])
    return False
