"""A scorecard: a model beside the baselines on the same requests, with noise floors and a privacy card.

Every router answers the requests (origin, destination, departure) of trips that were driven and that the model was not
trained on. Differences are judged by paired bootstrap over the same requests; each distance stands beside what real
trips score against other real trips. Negative log-likelihoods are nats per trip given origin and destination.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.trajectory.baselines import Fastest, KShortest, MarkovChain, Shortest, reachable
from apps.trajectory.data import Trips
from apps.trajectory.metrics import (
    Interval,
    best_of,
    evaluate,
    noise_floor,
    paired_bootstrap,
    score_pairs,
)
from apps.trajectory.privacy import PrivacyCard, privacy_card
from core.errors import UsageError
from core.run.report import Section, Table, Text

if TYPE_CHECKING:
    from apps.trajectory.generate import TripModel

__all__ = ["Scorecard", "answerable", "judge"]

STRICT = ("hausdorff_km", "dtw_km", "edr", "jaccard", "exact")
CROWD = ("jsd_distance", "jsd_radius", "od_reached", "illegal")
HOSER = ("pairs", "jsd_distance", "jsd_radius", "jsd_duration", "hausdorff_km", "dtw_km", "edr")
LIKELY, ONE, BEST, FAST = "model, most likely", "model, one sample", "model, best of 5", "fastest path"
TRIES = 5


QUIET = "No figure exceeds that of held-out real trips by more than two standard errors."
UNKNOWN = "the training trips are not known here: the requests stand in for them, so that no figure tells of a leak"


@dataclass(frozen=True)
class Scorecard:
    """What was found.

    Args:
        strict: figures of each router, paired by request, in metres of the network. hoser: by the published protocol.
        floor: what real trips score against other real trips.
        gain: the model's most likely trip minus the fastest path, per figure.
        nats: negative log-likelihood per trip.
        privacy: of the sampled trips.
        requests: number of requests.
    """

    strict: dict[str, dict[str, float | str]]
    hoser: dict[str, dict[str, Any]]
    floor: dict[str, float]
    gain: dict[str, Interval]
    nats: dict[str, float]
    privacy: PrivacyCard
    requests: int

    def result(self) -> dict[str, Any]:
        """Return everything as plain values."""
        gain = {k: {"mean": v.mean, "low": v.low, "high": v.high, "decided": v.decided} for k, v in self.gain.items()}
        card = {"figures": self.privacy.figures, "warnings": self.privacy.warnings}
        return {
            "requests": self.requests, "strict": self.strict, "hoser": self.hoser, "floor": self.floor,
            "gain_over_fastest": gain, "nats_per_trip": self.nats, "privacy": card,
        }  # fmt: skip

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Return the strict table: header and a row for each router, the floor last."""
        columns = [*STRICT, *CROWD]
        rows = [[name, *(row.get(c, "") for c in columns)] for name, row in self.strict.items()]
        floor = ["real against real", *(self.floor.get(f"{c}_floor", "") for c in columns)]
        return ["router", *columns], [*rows, floor]

    def text(self) -> str:
        """Return the strict table, the likelihoods and the warnings for a terminal."""
        header, rows = self.table()
        cells = [header, *([f"{c:.3g}" if isinstance(c, float) else str(c) for c in row] for row in rows)]
        width = [max(len(row[k]) for row in cells) for k in range(len(header))]
        fit = [[f"{c:<{w}}" if k == 0 else f"{c:>{w}}" for k, (c, w) in enumerate(zip(row, width, strict=True))]
               for row in cells]  # fmt: skip
        lines = ["  ".join(row) for row in fit]
        lines += ["", "nats per trip: " + ", ".join(f"{k} {v:.3f}" for k, v in self.nats.items())]
        lines += [f"{k}: {self._sentence(k)}" for k in self.gain]
        return "\n".join([*lines, *(f"privacy: {w}" for w in self.privacy.warnings)])

    def _sentence(self, name: str) -> str:
        g = self.gain[name]
        sure = "excludes zero" if g.decided else "includes zero"
        return f"most likely minus fastest {g.mean:+.4f}, 95 % interval [{g.low:+.4f}, {g.high:+.4f}] {sure}"

    def sections(self, title: str = "Beside the baselines") -> list[Section]:
        """Return the sections of a report."""
        header, rows = self.table()
        strict = (
            f"{self.requests} trips that the model was not trained on; every router answers the same requests. "
            "Hausdorff and DTW in kilometres, lower is better; EDR (100 m), lower; Jaccard index of segments, higher."
        )
        gain = [[k, g.mean, g.low, g.high, "yes" if g.decided else "no"] for k, g in self.gain.items()]
        hoser = [[name, *(row.get(k, "") for k in HOSER)] for name, row in self.hoser.items()]
        floor = next(iter(self.hoser.values()))
        hoser.append(["real against real", *(floor.get(f"{k}_floor", "") for k in HOSER)])
        found = self.privacy.figures
        audit = [[k.removeprefix("synthetic_"), v, found["held_out_" + k.removeprefix("synthetic_")]]
                 for k, v in found.items() if k.startswith("synthetic_")]  # fmt: skip
        rest = [[k, v] for k, v in found.items() if not k.startswith(("synthetic_", "held_out_"))]
        return [
            Section(title, [
                Text(strict), Table(header, rows, "strict protocol; last row: real trips against other real trips"),
                Table(["figure", "mean", "low", "high", "decided"], gain,
                      "the model's most likely trip minus the fastest path, paired bootstrap, 95 %"),
                Table(["law", "nats per trip"], [[k, v] for k, v in self.nats.items()],
                      "negative log-likelihood given origin and destination, lower is better"),
                Table(["router", *HOSER], hoser, "the published protocol (HOSER), oddities kept"),
            ]),
            Section("Privacy card", [
                *(Text(w) for w in self.privacy.warnings or [QUIET]),
                Table(["figure", "generated", "held-out real"], audit, "each set of trips against the training trips"),
                Table(["figure", "value"], rest),
            ]),
        ]  # fmt: skip


def answerable(trips: Trips, most: int, max_hops: int) -> Trips:
    """Return the first `most` trips that can serve as requests: they move, fit the budget, and can be driven."""
    fits = (trips.hops() > 1) & (trips.hops() <= max_hops) & (trips.origin != trips.destination) & trips.legal()
    rows = np.flatnonzero(fits)[: 2 * most]
    if len(rows):
        some = trips.select(rows)
        rows = rows[reachable(trips.network, some.origin, some.destination)]
    if not len(rows):
        raise UsageError("no trip that can serve as a request", field="trips")
    return trips.select(rows[:most])


def judge(
    model: TripModel, real: Trips, training: Trips, seed: int = 0, say: Callable[[str], None] | None = None
) -> Scorecard:
    """Judge a model.

    Args:
        model: to be judged.
        real: trips that it was not trained on, see `answerable`.
        training: trips that it was trained on (for the chain and the privacy card).
        seed: of all draws.
        say: hears of the progress; stderr by default.
    """
    tell = say or (lambda line: print(line, file=sys.stderr))
    ask = (real.origin.astype(np.int64), real.destination.astype(np.int64), real.depart)
    n, network = len(real), real.network
    tell(f"{n} requests: sampling {TRIES} trips of each")
    index = np.arange(n)
    draws = [model.sample(*ask, seed, index=index + k * n) for k in range(TRIES)]
    tell("searching the most likely trips")
    routed = {LIKELY: model.most_likely(*ask, seed=seed), ONE: draws[0]}
    tell("asking the baselines")
    routed |= {FAST: Fastest(network).sample(*ask), "shortest path": Shortest(network).sample(*ask)}
    chain = MarkovChain.fit(training) if len(training) else None
    if chain is not None:
        routed["Markov chain"] = chain.sample(*ask, seed)
    strict = {name: evaluate(trips, real) for name, trips in routed.items()}
    scores = {name: score_pairs(routed[name], real) for name in (LIKELY, FAST)}
    several = {BEST: draws, "best of 5 alternatives": KShortest(network, k=TRIES).alternatives(*ask)}
    strict |= {name: best_of([score_pairs(t, real) for t in trips]).means() for name, trips in several.items()}
    gain = {k: paired_bootstrap(getattr(scores[LIKELY], k), getattr(scores[FAST], k)) for k in STRICT[:4]}
    tell("likelihoods and privacy")
    reference = training if len(training) else real
    card = privacy_card(draws[0], reference, real, _losses(model, training, real))
    card = card if len(training) else replace(card, warnings=[UNKNOWN, *card.warnings])
    hoser = {name: evaluate(routed[name], real, "hoser") for name in routed}
    order = [LIKELY, ONE, BEST, FAST, "shortest path", "best of 5 alternatives", "Markov chain"]
    rows = {k: {c: v for c, v in strict[k].items() if not c.endswith(("_floor", "_floor_std"))}
            for k in order if k in strict}  # fmt: skip
    return Scorecard(rows, hoser, noise_floor(real, seed), gain, _nats(model, chain, real), card, n)


def _losses(model: TripModel, training: Trips, real: Trips) -> tuple[np.ndarray, np.ndarray] | None:
    if not len(training):
        return None
    members = answerable(training, len(real), model.recipe.data.max_hops)
    return model.nll(members), model.nll(real)


def _nats(model: TripModel, chain: MarkovChain | None, real: Trips) -> dict[str, float]:
    block = model.recipe.sample.block
    out = {"model, block 1 (exact)": float(model.nll(real).mean())}
    if block > 1:
        out[f"model, block {block} (bound)"] = float(model.nll(real, block, draws=2).mean())
    if chain is not None:
        budget = np.full(len(real), model.recipe.data.max_hops)
        out["Markov chain"] = float(-chain.log_prob_conditioned(real, budget).mean())
    return out
