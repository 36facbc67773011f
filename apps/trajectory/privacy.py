r"""What a set of generated trips gives away about the trips that a model was trained on.

"Generated" does not mean "private". Each figure stands beside the same figure of held-out REAL trips, which the
training cannot have leaked: only an excess over them (by more than two standard errors) is a leak.

- exact copies: share of trips that equal a training trip, segment by segment;
- longest shared sub-path: the longest run of segments that a trip has in common with any one training trip, as a share
  of the trip's own segments;
- nearest training trip: the largest Jaccard index of the trip's set of segments with any training trip's;
- membership inference: an attacker who sees the model's loss on a trip guesses "member" if it is low. The area under
  the ROC curve is `P(loss_member < loss_other) + ½ P(equal)`; ½ is blind guessing. The true-positive rate at 1 % false
  positives tells what the attacker is sure of;
- k-anonymity: how many training trips share the (origin, destination) cells of a generated trip; below k the request
  itself may point at a person.

References: Carlini et al., arXiv 2112.03570 (membership inference, rates at low false-positive rate); Sweeney (2002).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.stats import rankdata

from apps.trajectory.data import Trips
from apps.trajectory.network import RoadNetwork
from core.errors import UsageError

__all__ = [
    "PrivacyCard",
    "anonymity",
    "copies",
    "longest_shared_path",
    "membership_auc",
    "nearest_jaccard",
    "privacy_card",
]

Array = NDArray[np.float64]
CELL = 500.0
BATCH = 256
LEAKING_AUC = 0.6


@dataclass(frozen=True)
class PrivacyCard:
    """Figures of a privacy audit and the sentences that a user must read."""

    figures: dict[str, float | int]
    warnings: list[str]


def copies(trips: Trips, training: Trips) -> NDArray[np.bool_]:
    """Tell for each trip `[n]` whether it equals a training trip."""
    known = {t.astype(np.int32).tobytes() for t in training.lists()}
    return np.array([t.astype(np.int32).tobytes() in known for t in trips.lists()], dtype=bool)


def longest_shared_path(trips: Trips, training: Trips, seed: int = 0) -> NDArray[np.int64]:
    """Return for each trip `[n]` the most consecutive segments that it shares with any one training trip.

    Runs of k segments are compared through 64-bit polynomial hashes for k = 1, 2, … until none is shared: a false match
    has a probability of about (number of runs)² / 2⁶⁴.
    """
    generator = np.random.default_rng(seed)
    code = generator.integers(1, 2**63, size=trips.network.n, dtype=np.uint64)
    base = np.uint64(generator.integers(2**32, 2**63) | 1)
    longest = np.zeros(len(trips), dtype=np.int64)
    mine, theirs = _Runs(trips, code), _Runs(training, code)
    k = 0
    while len(mine.start) and len(theirs.start):
        k += 1
        shared = np.isin(mine.hash, np.unique(theirs.hash))
        if not shared.any():
            break
        longest[np.unique(mine.owner[shared])] = k
        # a run of k+1 can only be shared if its first k segments are
        mine.extend(k, base, shared)
        theirs.extend(k, base, np.ones(len(theirs.start), dtype=bool))
    return longest


class _Runs:
    """All runs of k consecutive segments of a set of trips, as hashes."""

    def __init__(self, trips: Trips, code: NDArray[np.uint64]) -> None:
        self.code = code[trips.segment]
        self.owner = np.repeat(np.arange(len(trips)), np.diff(trips.ptr))
        self.stop = trips.ptr[1:][self.owner]
        self.start = np.arange(len(trips.segment))
        self.hash = self.code.copy()

    def extend(self, k: int, base: np.uint64, keep: NDArray[np.bool_]) -> None:
        """Make each kept run of k one segment longer; those at the end of their trip fall away."""
        keep = keep & (self.start + k < self.stop)
        self.start, self.owner, self.stop = self.start[keep], self.owner[keep], self.stop[keep]
        self.hash = self.hash[keep] * base + self.code[self.start + k]


def nearest_jaccard(trips: Trips, training: Trips) -> Array:
    """Return for each trip `[n]` the largest plain Jaccard index with any training trip."""
    reference = _incidence(training)
    size = np.asarray(reference.sum(axis=1)).ravel()
    best = np.zeros(len(trips))
    for start in range(0, len(trips), BATCH):
        some = _incidence(trips.select(slice(start, start + BATCH)))
        shared = (some @ reference.T).tocoo()
        mine = np.asarray(some.sum(axis=1)).ravel()
        index = shared.data / (mine[shared.row] + size[shared.col] - shared.data)
        np.maximum.at(best, start + shared.row, index)
    return best


def _incidence(trips: Trips) -> sp.csr_matrix:
    rows = np.repeat(np.arange(len(trips)), np.diff(trips.ptr))
    shape = (len(trips), trips.network.n)
    table = sp.csr_matrix((np.ones(len(rows)), (rows, trips.segment)), shape=shape)
    table.data[:] = 1.0
    return table


def membership_auc(members: Array, others: Array, false_positives: float = 0.01) -> tuple[float, float]:
    """Return the area under the ROC curve of "low loss means member", and the true-positive rate at few false ones.

    Args:
        members: `[m]` losses of training trips.
        others: `[o]` losses of real trips that were not trained on.
        false_positives: the rate at which the second figure is read.

    Raises:
        UsageError: one of the sets is empty or not finite.
    """
    members, others = np.asarray(members, dtype=np.float64), np.asarray(others, dtype=np.float64)
    for name, losses in (("members", members), ("others", others)):
        if losses.ndim != 1 or not len(losses) or not np.isfinite(losses).all():
            raise UsageError("finite losses, one per trip, are needed", field=name)
    rank = rankdata(np.concatenate([members, others]))
    below = rank[len(members) :].sum() - len(others) * (len(others) + 1) / 2
    allowed = int(np.floor(false_positives * len(others)))
    threshold = np.sort(others)[min(allowed, len(others) - 1)]
    return float(below / (len(members) * len(others))), float((members < threshold).mean())


def anonymity(trips: Trips, training: Trips, cell: float = CELL) -> NDArray[np.int64]:
    """Return for each trip `[n]` how many training trips start and end in its cells of `cell` metres."""
    known, count = np.unique(_ends(training, cell), axis=0, return_counts=True)
    table = {tuple(row): int(k) for row, k in zip(known.tolist(), count, strict=True)}
    return np.array([table.get(tuple(row), 0) for row in _ends(trips, cell).tolist()], dtype=np.int64)


def _ends(trips: Trips, cell: float) -> NDArray[np.int64]:
    network: RoadNetwork = trips.network
    place = np.floor(network.middle / cell).astype(np.int64)
    return np.concatenate([place[trips.origin], place[trips.destination]], axis=1)


def privacy_card(
    synthetic: Trips,
    training: Trips,
    held_out: Trips,
    losses: tuple[Array, Array] | None = None,
    k: int = 5,
    cell: float = CELL,
) -> PrivacyCard:
    """Audit generated trips.

    Args:
        synthetic: what would be published.
        training: what the model saw.
        held_out: real trips that it did not see.
        losses: the model's loss per trip of (training, held-out) trips, for the membership attack.
        k: fewest training trips that should share a generated trip's cells.
        cell: side of the cells in metres.

    Raises:
        UsageError: one of the sets is empty.
    """
    for name, trips in (("synthetic", synthetic), ("training", training), ("held_out", held_out)):
        if not len(trips):
            raise UsageError("no trips to audit", field=name)
    figures: dict[str, float | int] = {}
    found = {name: _found(trips, training, cell) for name, trips in (("synthetic", synthetic), ("held_out", held_out))}
    for name, values in found.items():
        for key in ("exact_copies", "shared_path", "nearest_jaccard"):
            figures |= {f"{name}_{key}": float(values[key].mean())}
        for key in ("shared_path", "nearest_jaccard"):
            figures |= {f"{name}_{key}_p95": float(np.quantile(values[key], 0.95))}
        figures |= {f"{name}_below_k": float((values["crowd"] < k).mean()), f"{name}_trips": len(values["crowd"])}
        figures |= {f"{name}_anonymity_median": float(np.median(values["crowd"]))}
    figures |= {"training_trips": len(training), "k": k, "cell_m": cell}
    if losses is not None:
        figures["membership_auc"], figures["membership_tpr_at_1pct_fpr"] = membership_auc(*losses)
    return PrivacyCard(figures, _excess(found) + _warnings(figures))


def _found(trips: Trips, training: Trips, cell: float) -> dict[str, Array]:
    return {
        "exact_copies": copies(trips, training).astype(np.float64),
        "shared_path": longest_shared_path(trips, training) / np.diff(trips.ptr),
        "nearest_jaccard": nearest_jaccard(trips, training),
        "crowd": anonymity(trips, training, cell).astype(np.float64),
    }


def _excess(found: dict[str, dict[str, Array]]) -> list[str]:
    words = {
        "exact_copies": "exact copies of training trips",
        "shared_path": "of their length in one run shared with a training trip",
        "nearest_jaccard": "likeness to the nearest training trip",
    }
    sentences = []
    for key, text in words.items():
        ours, real = found["synthetic"][key], found["held_out"][key]
        error = np.sqrt(ours.var() / len(ours) + real.var() / len(real))
        if ours.mean() > real.mean() + 2.0 * error:
            sentences.append(f"more {text} than held-out real trips have: {ours.mean():.3f} against {real.mean():.3f}")
    return sentences


def _warnings(figures: dict[str, float | int]) -> list[str]:
    sentences = []
    if "membership_auc" not in figures:
        sentences.append("membership inference was not tried: no losses were given")
    elif figures["membership_auc"] > LEAKING_AUC:
        auc = figures["membership_auc"]
        sentences.append(f"training trips can be told from others: AUC {auc:.3f} > {LEAKING_AUC}")
    if figures["synthetic_below_k"] > 0:
        rare = 100 * figures["synthetic_below_k"]
        sentences.append(f"{rare:.1f} % of the trips have origin and destination cells with fewer than "
                         f"{figures['k']} training trips")  # fmt: skip
    return sentences
