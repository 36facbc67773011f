"""Are the trips real? The model against the fastest path, alternatives and chains on real taxi trips it never saw.

Trips of the test split (by identity; training and early stopping use the other parts). Every router answers the request
of every test trip: origin, destination, departure. Strict protocol: points are middles of segments, metres in UTM.
Differences are judged by the paired bootstrap over requests. Negative log-likelihoods are nats per trip given origin,
destination and departure, on trips cut at their first arrival (the law of the model ends there). The five samples of a
request are its choice set: the five of DRAWS samples that cover the others best (`apps.trajectory.choice`), chosen by
overlaps among samples alone; five samples as they come, strata and independent, stand beside.
"""

from __future__ import annotations

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
DRAWS = 40
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


def _routers(ours: TripModel, test: Trips, full: bool) -> dict[str, Trips]:
    """One set of trips per router, each answering the request of every test trip."""
    request = _request(test)
    greedy = ours.sample(*request, seed=SEED, greedy=True)
    return {
        "most_likely": ours.most_likely(*request, seed=SEED, draws=32 if full else 16),
        "greedy": greedy,
        "fastest": Fastest(test.network).sample(*request),
        "shortest": Shortest(test.network).sample(*request),
    }


def _samples(ours: TripModel, test: Trips) -> list[Trips]:
    """Draw TRIES trips for each request, site by site; strata spread them, each keeps the model's law."""
    fine = ours.set(solver="in-order", steps=ours.recipe.sample.block, strata=TRIES)
    return [fine.sample(*_request(test), seed=SEED, index=np.arange(len(test)) * TRIES + k) for k in range(TRIES)]


def _independent(ours: TripModel, test: Trips) -> float:
    """Best Jaccard of TRIES independent draws at the sampling defaults."""
    n = len(test)
    draws = [ours.sample(*_request(test), seed=SEED, index=np.arange(k * n, k * n + n)) for k in range(TRIES)]
    return best_of([score_pairs(d, test) for d in draws]).means()["jaccard"]


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


def run(full: bool) -> Result:
    """Answer the requests of all test trips."""
    single()
    ours, twin = model("porto"), model("porto-ar")
    train, _, test = parts()
    answers, samples = _routers(ours, test, full), _samples(ours, test)
    chosen = choice_set(ours, *_request(test), n=TRIES, draws=DRAWS, seed=SEED)
    answers["consensus_of_the_draws"] = chosen[0]
    scores = {name: score_pairs(trips, test) for name, trips in answers.items()}
    each = [score_pairs(s, test) for s in samples]
    penalty, tuning = tuned(train if full else train.select(slice(0, 200)))
    rivals, five = _alternatives(test, penalty), best_of([score_pairs(c, test) for c in chosen])
    likely = gain(scores["most_likely"], scores["fastest"])
    lead = paired_bootstrap(five.jaccard, rivals.jaccard)
    nll = _likelihoods(ours, twin, train, test)
    figures = {
        "routers": {k: v.means() for k, v in scores.items()},
        "one_sample": each[0].means(),
        "best_of_5_samples_choice_set": five.means(),
        "best_of_5_samples_strata": best_of(each).means(),
        "best_of_5_independent_samples_jaccard": _independent(ours, test),
        "best_of_5_alternatives": rivals.means() | {"penalty": penalty},
        "most_likely_against_fastest": likely,
        "one_sample_against_fastest": gain(each[0], scores["fastest"]),
        "samples_less_alternatives_jaccard": vars(lead),
        "consensus_against_fastest": gain(scores["consensus_of_the_draws"], scores["fastest"]),
        "nats_per_trip": nll,
        "crowd_of_one_sample": evaluate(samples[0], test),
    }
    peers = {
        "noise_floor": noise_floor(test), "penalty_tuning_on_training_trips": tuning,
        "hoser_protocol_one_sample": evaluate(samples[0], test, protocol="hoser"),
        "hoser_protocol_fastest": evaluate(answers["fastest"], test, protocol="hoser"),
    }  # fmt: skip
    notes = (
        f"{len(test)} test trips, all of them; {len(train)} trained (the recursive logit that simulated the "
        f"pre-training trips was fitted on these only). NLL: {nll['trips']} trips that move, "
        f"{nll['cut_at_first_arrival']} cut at their first arrival; the Markov chain is the better of two, counted on "
        "real training trips, or on these and 10,000 simulated ones, conditioned on the destination within the budget; "
        f"choice set: 5 of {DRAWS} samples of each request, by their overlaps with each other"
    )
    bars = _bars(likely, float(five.jaccard.mean()), lead.mean, nll)
    return Result(rounded(figures), bars, {"nats_per_trip": "nats"}, rounded(peers), SEED, notes)
