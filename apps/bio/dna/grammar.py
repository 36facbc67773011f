"""The embedded data of the toy: promoters of a motif grammar whose law is known, so that a model can be judged exactly.

A sequence of L letters is a background chain of order 1 with some of its stretches overwritten:

    class    promoter with probability 3/4, else background alone
    motifs   a promoter has a TATA box (TATAWAW) at one of 8 places from a third of the sequence on, uniformly, and
             downstream an initiator (YYANWYY); the gap between them is uniform on 18 ... 26 letters; each IUPAC letter
             is uniform on its set
    flank    with probability 1/2 one E-box (CACGTG), uniform on the places before the TATA box, one letter apart

`log_prob` sums over all placements (forward algorithm over the few that match), so that a generated sequence has an
exact probability and the entropy of the law can be estimated without bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["CHAIN", "EBOX", "GAPS", "INITIATOR", "PLACES", "TATA", "Grammar"]

IUPAC = {
    "A": "A", "C": "C", "G": "G", "T": "T", "W": "AT", "Y": "CT", "N": "ACGT",
}  # fmt: skip
TATA, INITIATOR, EBOX = "TATAWAW", "YYANWYY", "CACGTG"
GAPS, PLACES = range(18, 27), 8
PROMOTER, FLANKED = 0.75, 0.5

CHAIN = np.array(
    [[0.32, 0.18, 0.26, 0.24], [0.30, 0.28, 0.06, 0.36], [0.24, 0.24, 0.28, 0.24], [0.18, 0.24, 0.26, 0.32]]
)
"""The background: P(next | letter), letters ACGT; CG is rare, as in vertebrates."""


def weights(motif: str) -> np.ndarray:
    """Return the law of each letter of an IUPAC motif, [length, 4]."""
    rows = [[float(base in IUPAC[c]) for base in "ACGT"] for c in motif]
    return np.array(rows) / np.sum(rows, 1, keepdims=True)


@dataclass(frozen=True)
class Grammar:
    """The law of sequences of `length` letters, at least 72: room for everything."""

    length: int = 100

    def sample(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens int64 [n, L] and the places int64 [n, 3] of TATA box, initiator and E-box (-1: none)."""
        rng = np.random.default_rng([seed, self.length])
        x = np.empty((n, self.length), np.int64)
        x[:, 0], cdf = rng.integers(0, 4, n), CHAIN.cumsum(1)
        for i in range(1, self.length):
            x[:, i] = (rng.random(n)[:, None] > cdf[x[:, i - 1]]).sum(1).clip(max=3)
        places = np.full((n, 3), -1)
        for row in np.flatnonzero(rng.random(n) < PROMOTER):
            gap = int(rng.choice(GAPS))
            tata = self.first + int(rng.integers(0, PLACES))
            places[row, :2] = tata, tata + len(TATA) + gap
            if rng.random() < FLANKED and tata > len(EBOX):
                places[row, 2] = rng.integers(0, tata - len(EBOX))
            for motif, at in zip((TATA, INITIATOR, EBOX), places[row], strict=True):
                if at >= 0:
                    law = weights(motif)
                    x[row, at : at + len(motif)] = [rng.choice(4, p=p) for p in law]
        return x, places

    @property
    def first(self) -> int:
        """Return the first place of a TATA box."""
        return self.length // 3

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return the exact log-probability of each sequence [n, L], float64 [n]."""
        return np.array([_log_prob(self, row) for row in np.asarray(x, np.int64)])


def _log_prob(grammar: Grammar, x: np.ndarray) -> float:
    """Sum over class, gap and places; a motif's letters replace the background's, which is summed out beneath it."""
    plain = _Beneath.of(x)
    total = [np.log(1 - PROMOTER) + plain.log_p]
    hits = {m: np.flatnonzero(_matches(x, m)) for m in (TATA, INITIATOR, EBOX)}
    initiators = set(hits[INITIATOR].tolist())
    for tata in hits[TATA]:
        for gap in GAPS:
            at = int(tata) + len(TATA) + gap
            if at not in initiators or not 0 <= tata - grammar.first < PLACES:
                continue
            log_w = np.log(PROMOTER / len(GAPS) / PLACES)
            both = [(int(tata), TATA), (at, INITIATOR)]
            fits = tata > len(EBOX)
            total.append(log_w + (np.log(1 - FLANKED) if fits else 0.0) + plain.replaced(both))
            for box in hits[EBOX] if fits else ():
                if box < tata - len(EBOX):
                    spot = np.log(FLANKED) - np.log(tata - len(EBOX))
                    total.append(log_w + spot + plain.replaced([(int(box), EBOX), *both]))
    return float(np.logaddexp.reduce(total))


def _matches(x: np.ndarray, motif: str) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, len(motif))
    return np.asarray((weights(motif)[np.arange(len(motif)), windows] > 0).all(1))


@dataclass(frozen=True)
class _Beneath:
    """The background beneath motifs: its letters there are unseen, so the chain runs through them.

    Args:
        x: tokens [L].
        step: log P(x_i | x_{i-1}), [L], the first uniform.
        log_p: their sum.
        powers: CHAIN^m, m = 0 ... longest motif + 1.
    """

    x: np.ndarray
    step: np.ndarray
    log_p: float
    powers: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> _Beneath:
        """Return the background of a sequence."""
        step = np.concatenate([[np.log(0.25)], np.log(CHAIN[x[:-1], x[1:]])])
        powers = np.stack([np.linalg.matrix_power(CHAIN, m) for m in range(len(TATA) + 2)])
        return cls(x, step, float(step.sum()), powers)

    def replaced(self, motifs: list[tuple[int, str]]) -> float:
        """Return the log-probability of the letters with some stretches, in order, drawn from motifs."""
        out = self.log_p
        for at, motif in motifs:
            end, first = at + len(motif), np.full(4, 0.25)
            out -= self.step[at : end + 1].sum()
            law = weights(motif)
            out += float(np.log(law[np.arange(len(motif)), self.x[at:end]]).sum())
            if end < len(self.x):
                ahead = self.powers[len(motif) + 1][self.x[at - 1]] if at else first @ self.powers[len(motif)]
                out += float(np.log(ahead[self.x[end]]))
        return out
