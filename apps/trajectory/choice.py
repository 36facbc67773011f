"""Choice sets: a few trips of a request that stand for all of them.

Independent draws repeat themselves: where one route has half of the probability, five draws show it two or three times.
A navigator, an assignment model or a planner wants the n routes that cover the law best,

    S* = argmax_{|S| = n}  E_{r ~ p(. | o, d)} max_{s in S} J(s, r),       J the Jaccard index of their segments,

the p-median problem. The expectation is over draws of the model, the candidates are the same draws, and the greedy
choice reaches (1 - 1/e) of the best set. The first trip chosen is the **consensus**, the draw that overlaps most with
all the others (minimum Bayes risk), the second the one that adds most, and so on: a prefix of a set is a set.

References: Nemhauser, Wolsey, Fisher 1978, Math. Programming 14 (greedy bound); Prato 2009, J. Choice Modelling 2
(route choice sets).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from apps.trajectory.data import Trips
from core.errors import UsageError

if TYPE_CHECKING:
    from apps.trajectory.generate import TripModel
    from apps.trajectory.mixture import Mixture

__all__ = ["choice_set", "cover", "likeliest", "overlap"]


def overlap(walks: list[np.ndarray]) -> np.ndarray:
    """Return the Jaccard index of the sets of segments of every two walks, float64 [D, D]."""
    sets = [np.unique(w) for w in walks]
    size = np.array([len(s) for s in sets])
    ids, column = np.unique(np.concatenate(sets), return_inverse=True)
    inside = csr_matrix((np.ones(len(column)), column, np.concatenate([[0], np.cumsum(size)])), (len(sets), len(ids)))
    shared = (inside @ inside.T).toarray()
    return shared / (size[:, None] + size[None] - shared)


def cover(similarity: np.ndarray, n: int) -> list[int]:
    """Choose n candidates greedily so that the mean over columns of the largest chosen similarity grows most.

    Args:
        similarity: [C, D], of candidate c to draw d.
        n: number of candidates, at most C.

    Returns:
        Indices in the order of their choice; ties take the first.
    """
    best, chosen = np.full(similarity.shape[1], -np.inf), []
    left = np.ones(len(similarity), bool)
    for _ in range(n):
        worth = np.maximum(similarity, best).mean(1)
        chosen.append(int(np.where(left, worth, -np.inf).argmax()))
        left[chosen[-1]] = False
        best = np.maximum(best, similarity[chosen[-1]])
    return chosen


def choice_set(
    model: TripModel | Mixture,
    origin: Sequence[int] | np.ndarray | int,
    destination: Sequence[int] | np.ndarray | int,
    depart: np.ndarray | None = None,
    n: int = 5,
    draws: int = 40,
    seed: int = 0,
) -> list[Trips]:
    """Return n sets of trips: the k-th holds the k-th representative of every request.

    Args:
        model: the model; its rules hold for every trip.
        origin, destination: segments [R]; depart: unix seconds [R], NaN or None unknown.
        n: representatives of each request.
        draws: trips drawn for each request, at least n.
        seed: all randomness.

    Raises:
        UsageError: fewer draws than representatives.
        InfeasibleError: a request that no trip satisfies, before anything is sampled.
    """
    if not 1 <= n <= draws:
        raise UsageError(f"must be between 1 and the number of draws, {draws}", field="n", value=n)
    origin, destination = np.atleast_1d(origin), np.atleast_1d(destination)
    rows, spread = np.arange(len(origin)), model.set(strata=draws)
    found = [
        spread.sample(origin, destination, depart, seed, rows * draws + k, timed=False).lists() for k in range(draws)
    ]
    chosen: list[list[np.ndarray]] = [[] for _ in range(n)]
    for i in rows:
        walks = [walk[i] for walk in found]
        for k, c in enumerate(cover(overlap(walks), n)):
            chosen[k].append(walks[c])
    when = np.full(len(rows), np.nan) if depart is None else np.asarray(depart, float)
    return [model.time(Trips.from_lists(model.network, c, when), seed, rows * n + k) for k, c in enumerate(chosen)]


def likeliest(model: TripModel | Mixture, candidates: list[Trips]) -> Trips:
    """Return for each request the candidate of the largest exact likelihood, with median times; ties take the first.

    Args:
        model: judges; each different walk of a request once.
        candidates: sets of trips; the i-th trips of all sets answer request i.
    """
    n, depart = len(candidates[0]), candidates[0].depart
    sets = [t.lists() for t in candidates]
    owner, walks = [], []
    for i in range(n):
        own = {walk[i].tobytes(): walk[i] for walk in sets}
        owner += [i] * len(own)
        walks += own.values()
    nats = model.nll(Trips.from_lists(model.network, walks, depart[owner]))
    order = np.lexsort((np.arange(len(walks)), nats, owner))
    first = order[np.searchsorted(np.array(owner)[order], np.arange(n))]
    return model.time(Trips.from_lists(model.network, [walks[k] for k in first], depart), greedy=True)
