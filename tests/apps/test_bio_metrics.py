"""Metrics and baselines against counting by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from apps.bio import metrics, report
from apps.bio.baselines import Chain, interpolated, markov, shuffled
from apps.bio.tokenizer import Tokenizer
from apps.bio.verbs import apart

X = np.random.default_rng(0).choice(4, (50, 30), p=[0.4, 0.1, 0.2, 0.3])


def test_words_are_counted() -> None:
    counts = metrics.kmer_counts(X, 3)
    words = Counter(s[i : i + 3] for s in Tokenizer("ACGT").decode(X) for i in range(28))
    for word, n in words.items():
        assert counts[Tokenizer("ACGT", 3).encode([word])[0, 0]] == n
    assert counts.sum() == 50 * 28


def test_enrichment_is_zero_on_a_chain_of_order_one_and_sees_a_motif() -> None:
    long = markov(X, 1).sample(400, 300, 0)
    assert abs(metrics.enrichment(long, 4).mean()) < 0.05
    planted = long.copy()
    planted[:, 50:56] = [3, 0, 3, 0, 0, 0]
    word = int(Tokenizer("ACGT", 6).encode(["TATAAA"])[0, 0])
    assert metrics.enrichment(planted, 6)[word] > 0.5 + metrics.enrichment(long, 6)[word]
    assert metrics.enrichment_correlation(planted, planted) == pytest.approx(1)


def test_distances() -> None:
    x, y = np.array([[0, 1, 2], [0, 0, 0]]), np.array([[0, 1, 3]])
    assert metrics.hamming(x, y).tolist() == [[1], [2]]
    assert metrics.novelty(x, y).tolist() == [1 / 3, 2 / 3]
    assert metrics.gc_content(x).tolist() == [2 / 3, 0]
    assert metrics.longest_run(np.array([[0, 0, 1, 1, 1, 0], [0, 1, 2, 3, 0, 1]])).tolist() == [3, 1]
    assert metrics.copies(["AC", "GG"], ["GG"]) == 0.5
    assert metrics.total_variation(np.array([1.0, 1]), np.array([2.0, 0])) == 0.5
    assert metrics.diversity(np.zeros((5, 4), int)) == 0
    assert metrics.diversity(np.array([[0, 0], [1, 1]])) == 1


def test_shuffles_keep_dinucleotides() -> None:
    y = shuffled(X, 0)
    assert not np.array_equal(X, y)
    for a, b in zip(X, y, strict=True):
        np.testing.assert_array_equal(metrics.kmer_counts(a[None], 2), metrics.kmer_counts(b[None], 2))
        assert a[0] == b[0] and a[-1] == b[-1]


def test_chains_are_laws_and_sample_themselves() -> None:
    chain = markov(X, 2)
    drawn = chain.sample(3000, 30, 1)
    again = markov(drawn, 2)
    assert np.abs(again.laws[2] - chain.laws[2]).max() < 0.1
    assert isinstance(chain, Chain) and chain.nll(X).shape == (50,)
    by_hand = -np.log(chain.laws[0][0, X[0, 0]]) - np.log(chain.laws[1][X[0, 0], X[0, 1]])
    assert chain.nll(X[:1, :2])[0] == pytest.approx(by_hand)


def test_backing_off_beats_counting() -> None:
    fold = np.arange(50) % 5
    train, test = X[:40], X[40:]
    assert interpolated(train, 4, fold[:40]).nll(test).mean() < markov(train, 4).nll(test).mean()


def test_arrays_have_little_complexity() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 4, 200), np.tile([2, 2, 2, 2, 1], 40)])
    found = metrics.complexity(x)
    assert found[0] > 0.95 and found[1] == 5 / 195
    letters = ["".join("ACGT"[v] for v in row) for row in x]
    assert report.complexity(letters, 6) == pytest.approx(found.mean())


def test_novelty_looks_at_the_whole_reference() -> None:
    rng = np.random.default_rng(0)
    real = ["".join(rng.choice(list("ACGT"), 40)) for _ in range(3 * report.MOST)]
    row = report.basics("designs", real[1:10:3], real, dna=True)
    assert row[-2:] == [0.0, 3]
    assert report.differences(["ACGT", "AC"], ["ACGA", "AC"]).tolist() == [[0.25, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize(("count", "n", "size"), [(100, 20, 20), (100, 50, 50), (100, 51, 50), (7, 640, 3), (1, 5, 1)])
def test_real_is_compared_with_other_real(count: int, n: int, size: int) -> None:
    """A floor of a set against itself would be none."""
    held, others = apart(count, n, seed=3)
    assert len(held) == min(n, count) and len(others) == size
    assert count == 1 or not set(held[:size].tolist()) & set(others.tolist())
    assert held.tolist() == np.random.default_rng(3).permutation(count)[:n].tolist()
