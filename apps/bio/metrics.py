"""How good sequences are: k-mers, composition, diversity, novelty. Every distance has a floor, real against real.

On regulatory DNA raw 3-mer counts of any two sets agree (correlation 0.89 between all sequences and the best 1 %), so
enrichment over the background is compared instead: log of a k-mer's frequency over that of a chain of order 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apps.bio.dna.background import count

__all__ = [
    "complexity", "copies", "diversity", "enrichment", "enrichment_correlation", "gc_content", "hamming", "kmer_counts",
    "longest_run", "novelty", "total_variation",
]  # fmt: skip


def kmer_counts(x: np.ndarray, k: int, tokens: int = 4) -> np.ndarray:
    """Return how often each of the K^k words of k letters occurs in tokens [B, L], float64 [K^k]."""
    return count(x, k - 1, tokens, both=False).reshape(-1)


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Return half the sum of absolute differences of two tables of counts or frequencies, each normalised; 0 to 1."""
    return float(np.abs(p / p.sum() - q / q.sum()).sum() / 2)


def enrichment(x: np.ndarray, k: int = 6, tokens: int = 4, pseudo: float = 1.0) -> np.ndarray:
    """Return log(observed / expected) of each word of k letters, expected by the set's own chain of order 1."""
    seen = kmer_counts(x, k, tokens) + pseudo
    pairs = kmer_counts(x, 2, tokens).reshape(tokens, tokens) + pseudo
    first, step = pairs.sum(1) / pairs.sum(), pairs / pairs.sum(1, keepdims=True)
    expected = first
    for _ in range(k - 1):
        expected = (expected.reshape(-1, tokens)[..., None] * step).reshape(-1)
    return np.log(seen / seen.sum()) - np.log(expected)


def enrichment_correlation(x: np.ndarray, y: np.ndarray, k: int = 6) -> float:
    """Return the Pearson correlation of the enrichments of two sets."""
    return float(np.corrcoef(enrichment(x, k), enrichment(y, k))[0, 1])


def gc_content(x: np.ndarray) -> np.ndarray:
    """Return the share of G and C in each DNA sequence, float64 [B]."""
    return ((x == 1) | (x == 2)).mean(1)


def complexity(x: np.ndarray, k: int = 6) -> np.ndarray:
    """Return the share of different words among the words of k letters of each sequence, float64 [B]; 1: no repeats.

    Random DNA of 200 letters has 0.98; arrays of one motif, which a likelihood prefers to promoters, have little.
    """
    words = np.lib.stride_tricks.sliding_window_view(np.asarray(x), min(k, np.shape(x)[1]), axis=1)
    return np.array([len(np.unique(row, axis=0)) / len(row) for row in words])


def longest_run(x: np.ndarray) -> np.ndarray:
    """Return the length of the longest run of one letter in each sequence, int64 [B]."""
    best = run = np.ones(len(x), np.int64)
    for i in range(1, x.shape[1]):
        run = np.where(x[:, i] == x[:, i - 1], run + 1, 1)
        best = np.maximum(best, run)
    return best


def hamming(x: np.ndarray, y: np.ndarray, tokens: int = 4) -> np.ndarray:
    """Return the number of sites in which each x [A, L] differs from each y [B, L], int64 [A, B]."""
    same = sum((x == a).astype(np.float32) @ (y == a).astype(np.float32).T for a in range(tokens))
    return (x.shape[1] - np.rint(np.asarray(same))).astype(np.int64)


def diversity(x: np.ndarray, seed: int = 0, pairs: int = 2000) -> float:
    """Return the mean share of sites in which two sequences of a set differ, over at most so many random pairs."""
    rng = np.random.default_rng([seed, len(x)])
    a = rng.integers(0, len(x), pairs)
    b = (a + rng.integers(1, max(len(x), 2), pairs)) % len(x)
    return float((x[a] != x[b]).mean())


def novelty(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return for each sequence the least share of sites in which it differs from one of the reference, float64 [B]."""
    step = max(int(2e7 // max(len(reference), 1)), 1)
    least = [hamming(x[a : a + step], reference).min(1) for a in range(0, len(x), step)]
    return np.concatenate(least) / x.shape[1]


def copies(sequences: Sequence[str], reference: Sequence[str]) -> float:
    """Return the share of sequences that stand in the reference letter by letter."""
    known = set(reference)
    return float(np.mean([s in known for s in sequences])) if len(sequences) else 0.0
