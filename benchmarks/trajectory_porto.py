"""Are the trips real? The model against the fastest path, alternatives and chains on real taxi trips it never saw.

Cross-fitted: the circle of trip identities is turned four times (`data.turn`), so that each quarter of the trips is
judged once, by a model that trained on others; the recipe was chosen on validation trips of turn 0. Every router
answers the request of every trip: origin, destination, departure. Strict protocol: points are middles of segments,
metres in UTM. Differences are judged by the paired bootstrap over requests. The five samples of a request are its
choice set: the five of DRAWS samples that cover the others best (`apps.trajectory.choice`), chosen by overlaps among
samples alone; five samples as they come stand beside. Many taxis cruise: the gains on **directed** trips (driven at
most twice the shortest way, no segment twice) stand beside those on all.

Negative log-likelihoods are nats per trip given origin, destination and departure, on the trips of turn 0 cut at their
first arrival (the law of the model ends there), where the autoregressive twin was trained too.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from apps.trajectory.baselines import Fastest, KShortest, Shortest
from apps.trajectory.choice import choice_set
from apps.trajectory.data import Trips
from apps.trajectory.generate import TripModel
from apps.trajectory.logit import RecursiveLogit, simulate
from apps.trajectory.markov import MarkovChain
from apps.trajectory.metrics import PairScores, best_of, evaluate, noise_floor, paired_bootstrap, score_pairs
from benchmarks._trips import cut, fitted, gain, model, parts, rounded, single
from benchmarks.harness import Bar, Result

__all__ = ["run"]

SEED = 5
TRIES = 5
DRAWS = 64
TURNS = (0.0, 0.25, 0.5, 0.75)
PENALTIES = (1.05, 1.1, 1.2, 1.4, 1.8)


def _request(trips: Trips) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return trips.origin.astype(np.int64), trips.destination.astype(np.int64), trips.depart


def _alternatives(trips: Trips, penalty: float) -> PairScores:
    ways = KShortest(trips.network, TRIES, penalty).alternatives(*_request(trips))
    return best_of([score_pairs(way, trips) for way in ways])


def tuned(train: Trips) -> tuple[float, dict[str, float]]:
    """Return the penalty whose five alternatives are best on training trips, and the Jaccard of each penalty."""
    table = {f"{p}": float(_alternatives(train, p).jaccard.mean()) for p in PENALTIES}
    return float(max(table, key=lambda k: table[k])), table


def _likelihoods(ours: TripModel, twin: TripModel, train: Trips, test: Trips) -> dict[str, Any]:
    """Nats per trip of every law on the cut test trips that fit the budget."""
    trips, changed = cut(test)
    budget = ours.recipe.data.max_hops
    trips = trips.select(trips.hops() <= budget)
    block = ours.recipe.sample.block
    parameters = fitted(train)
    more = simulate(train.network, 10000, seed=SEED, parameters=parameters, like=train, jitter=1500.0, pairs=500)
    chains = {
        "markov_real": MarkovChain.fit(train),
        "markov_real_and_simulated": MarkovChain.fit(Trips.concat([train, more])),
    }
    nats = {
        "model_bound_at_sampling_block": ours.nll(trips, block, draws=8),
        "model_exact_in_sampling_order": ours.nll(trips, block, order="confidence"),
        "model_exact_left_to_right": ours.nll(trips, block, order="in-order"),
        "model_exact_at_block_1": ours.nll(trips, 1),
        "autoregressive_twin": twin.nll(trips, 1),
        "recursive_logit": -RecursiveLogit(train.network, parameters).log_probs(trips),
    }
    nats |= {k: -c.log_prob_conditioned(trips, np.full(len(trips), budget)) for k, c in chains.items()}
    usable = np.isfinite(np.stack(list(nats.values()))).all(0)
    table: dict[str, Any] = {k: float(v[usable].mean()) for k, v in nats.items()}
    first = nats["model_bound_at_sampling_block"][usable]
    best = min(chains, key=lambda k: table[k])
    table["bound_less_markov"] = vars(paired_bootstrap(first, nats[best][usable]))
    table["bound_less_twin"] = vars(paired_bootstrap(first, nats["autoregressive_twin"][usable]))
    table["exact_less_markov"] = vars(paired_bootstrap(nats["model_exact_at_block_1"][usable], nats[best][usable]))
    return table | {"trips": int(usable.sum()), "cut_at_first_arrival": changed, "markov": table[best], "block": block}


def _answers(ours: TripModel, test: Trips) -> dict[str, PairScores]:
    """Score one trip per request of every router, and the best of five of each way to draw or to find five."""
    request = _request(test)
    chosen = choice_set(ours, *request, n=TRIES, draws=DRAWS, seed=SEED)
    spread = ours.set(strata=TRIES)
    rows = np.arange(len(test))
    strata = [spread.sample(*request, seed=SEED, index=rows * TRIES + k, timed=False) for k in range(TRIES)]
    plain = [ours.sample(*request, seed=SEED, index=k * len(test) + rows, timed=False) for k in range(TRIES)]
    found = {
        "most_likely": ours.most_likely(*request, seed=SEED),
        "greedy": ours.sample(*request, seed=SEED, greedy=True, timed=False),
        "consensus": chosen[0],
        "one_sample": plain[0],
        "fastest": Fastest(test.network).sample(*request),
        "shortest": Shortest(test.network).sample(*request),
    }
    scores = {name: score_pairs(trips, test) for name, trips in found.items()}
    sets = {"choice_set": chosen, "strata": strata, "independent": plain}
    return scores | {name: best_of([score_pairs(t, test) for t in five]) for name, five in sets.items()}


def _quarter(turn: float, full: bool) -> tuple[dict[str, PairScores], np.ndarray, dict[str, float]]:
    """Return the scores on the test trips of a turn, which of them are directed, and the tuned penalties."""
    train, _, test = parts(turn)
    ours = model("porto", turn)
    penalty, table = tuned(train if full else train.select(slice(0, 200)))
    scores = _answers(ours, test) | {"alternatives": _alternatives(test, penalty)}
    shortest = Shortest(test.network).sample(*_request(test)).kilometres()
    once = np.array([len(np.unique(w)) == len(w) for w in test.lists()])
    return scores, once & (test.kilometres() <= 2 * shortest), table


def _some(scores: PairScores, rows: np.ndarray) -> PairScores:
    return PairScores(**{f.name: getattr(scores, f.name)[rows] for f in fields(PairScores)})


def _joined(parts: list[PairScores]) -> PairScores:
    return PairScores(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(PairScores)})


def _bars(likely: dict, best: float, lead: float, nll: dict[str, Any]) -> list[Bar]:
    names = {"hausdorff_km": "Hausdorff (km)", "dtw_km": "DTW (km)", "edr": "EDR", "jaccard": "Jaccard"}
    bars = [
        Bar(
            f"Porto, most likely trip over the fastest path: low end of the 95 % gain in {v}",
            likely[k]["low"],
            ">",
            0.0,
        )
        for k, v in names.items()
    ]
    bars += [
        Bar("Porto, best of 5 samples (choice set): Jaccard", best, ">=", 0.70),
        Bar("Porto, best of 5 samples (choice set) less best of 5 penalised alternatives: Jaccard", lead, ">", 0.0),
    ]
    kinds = {
        "model_bound_at_sampling_block": "bound, sampling block",
        "model_exact_in_sampling_order": "exact, sampling block and order",
        "model_exact_at_block_1": "exact, block 1",
    }
    for key, label in kinds.items():
        less, over = nll[key] - nll["markov"], nll[key] / nll["autoregressive_twin"]
        bars.append(Bar(f"Porto, nats per trip ({label}) less the first-order Markov chain's", less, "<", 0.0))
        bars.append(Bar(f"Porto, nats per trip ({label}) over the autoregressive twin's", over, "<=", 1.05))
    return bars


def _crowd(ours: TripModel, test: Trips) -> dict[str, Any]:
    """Return how samples and fastest paths look as crowds, under both protocols, with the floors of the data."""
    drawn, fastest = ours.sample(*_request(test), seed=SEED), Fastest(test.network).sample(*_request(test))
    return {
        "noise_floor": noise_floor(test), "one_sample": evaluate(drawn, test),
        "hoser_protocol_one_sample": evaluate(drawn, test, protocol="hoser"),
        "hoser_protocol_fastest": evaluate(fastest, test, protocol="hoser"),
    }  # fmt: skip


def run(full: bool) -> Result:
    """Answer the requests of all real trips, a quarter at a time."""
    single()
    quarters = [_quarter(turn, full) for turn in TURNS]
    scores = {name: _joined([q[0][name] for q in quarters]) for name in quarters[0][0]}
    directed = np.concatenate([q[1] for q in quarters])
    ours, (train, _, test) = model("porto"), parts()
    nll = _likelihoods(ours, model("porto-ar"), train, test)
    likely = gain(scores["most_likely"], scores["fastest"])
    lead = paired_bootstrap(scores["choice_set"].jaccard, scores["alternatives"].jaccard)
    straight = {name: _some(s, directed) for name, s in scores.items()}
    figures = {
        "all_trips": {name: s.means() for name, s in scores.items()},
        "most_likely_against_fastest": likely,
        "consensus_against_fastest": gain(scores["consensus"], scores["fastest"]),
        "one_sample_against_fastest": gain(scores["one_sample"], scores["fastest"]),
        "choice_set_less_alternatives_jaccard": vars(lead),
        "directed_trips": {name: s.means() for name, s in straight.items()},
        "directed_most_likely_against_fastest": gain(straight["most_likely"], straight["fastest"]),
        "nats_per_trip": nll,
    }
    penalties = {str(turn): table for turn, (_, _, table) in zip(TURNS, quarters, strict=True)}
    peers = _crowd(ours, test) | {"penalty_tuning_on_training_trips": penalties}
    notes = (
        f"{len(directed)} trips, each judged by the model that did not train on it ({len(train)} trained in turn 0; "
        f"the recursive logit of a turn was fitted on its training trips); {int(directed.sum())} are directed. NLL: "
        f"{nll['trips']} trips that move, {nll['cut_at_first_arrival']} cut at their first arrival; the Markov chain "
        "is the better of two, counted on real training trips, or on these and 10,000 simulated ones, conditioned on "
        f"the destination within the budget; choice set: 5 of {DRAWS} samples of each request"
    )
    bars = _bars(likely, float(scores["choice_set"].jaccard.mean()), lead.mean, nll)
    return Result(rounded(figures), bars, {"nats_per_trip": "nats"}, rounded(peers), SEED, notes)
