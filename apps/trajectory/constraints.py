"""What a trip must obey, as one law over segments: a product of the roads with visits and counters.

| rule | how it enters the law |
|---|---|
| origin | the start state |
| destination (a segment, or any segment of a zone) | the accepting states; arriving ends the trip |
| via points, in order | product with a visit list |
| closed segments, a closed polygon, forbidden road classes | states that may not be entered |
| at most / at least so many hops or kilometres | product with a counter on the cone that the limit leaves |

Every rule holds by construction; a request that no trip can satisfy is refused before sampling with the first
reason found, from the cheapest check (a closed origin) to the full product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apps.trajectory.field import Fields, Goals
from apps.trajectory.limits import Rules, limited, shortest_metres, visit_product
from core.constrain.graph import UNREACHABLE
from core.constrain.law import Law, Mode
from core.errors import InfeasibleError

__all__ = ["Rules", "TripLaw", "trip_law"]


@dataclass(eq=False)
class TripLaw:
    """The law of a batch of trips.

    Args:
        law: for the block sampler; its tokens are segments.
        goals: the field of each group of rows.
        group: int64 [B].
        budget: most segments after the origin.
    """

    law: Law
    goals: Goals
    group: np.ndarray
    budget: int


def trip_law(
    fields: Fields,
    origin: np.ndarray,
    targets: Sequence[tuple[int, ...]],
    rules: Rules,
    *,
    budget: int,
    detour: float = np.inf,
    mode: Mode = "exists",
) -> TripLaw:
    """Return the law of B trips.

    Args:
        fields: the network's fields.
        origin: int64 [B] origin segments.
        targets: the accepted destination segments of each trip; all the same where a counter is needed.
        rules: what else they obey.
        budget: most segments after the origin.
        detour: seconds to go are explored up to this multiple of the fastest way plus five minutes.
        mode: the joint law of reveals.

    Raises:
        InfeasibleError: a request that no trip satisfies, with the reason.
    """
    budget = min(budget, rules.max_hops) if rules.max_hops else budget
    origin = np.asarray(origin, np.int64)
    product = limited(fields, origin, targets[0], rules) if rules.counted else visit_product(fields, rules)
    keys: dict[tuple[object, ...], int] = {}
    group, goals = np.empty(len(origin), np.int64), []
    start = product.start(origin)
    for row, (o, s, target) in enumerate(zip(origin, start, targets, strict=True)):
        key = (target, int(o) if np.isfinite(detour) and not rules.counted else -1)
        if key not in keys:
            keys[key] = len(goals)
            goals.append(product.field(fields, int(o), int(s), target, rules, detour))
        group[row] = keys[key]
        if s < 0 or goals[group[row]].hops[s] > budget or (rules.closed is not None and rules.closed[o]):
            _explain(fields, int(o), target, rules, budget)
    found = Goals(goals)
    return TripLaw(Law(product.graph, start, found.hops, group, mode=mode), found, group, budget)


def _explain(fields: Fields, origin: int, target: tuple[int, ...], rules: Rules, budget: int) -> None:
    """Raise InfeasibleError with the shortest reason why no trip exists."""
    name = "destination"
    closed = rules.closed if rules.closed is not None else np.zeros(fields.network.n, bool)
    if closed[origin]:
        raise InfeasibleError("the origin segment is closed", field="origin", value=origin)
    legs = [*rules.via, target]
    here: tuple[int, ...] = (origin,)
    hops = 0
    for index, leg in enumerate(legs):
        name = "destination" if index == len(legs) - 1 else f"via[{index}]"
        if closed[list(leg)].all():
            raise InfeasibleError("the segment is closed", field=name, value=leg[0])
        togo = fields.roads.togo(np.array(leg), closed)[list(here)].min()
        if togo >= UNREACHABLE:
            free = fields.roads.togo(np.array(leg))[list(here)].min() < UNREACHABLE
            why = "the closed segments cut it off" if free else "no road leads there"
            raise InfeasibleError(f"cannot be reached from segment {here[0]}: {why}", field=name, value=leg[0])
        hops, here = hops + int(togo), leg
    if hops > budget:
        hint = f"allow {hops} or more"
        raise InfeasibleError(f"needs at least {hops} segments", field="max_hops", value=budget, hint=hint)
    if rules.max_km:
        product = visit_product(fields, rules)
        rest = shortest_metres(fields.network, product, target, rules)[product.start(np.array([origin]))[0]]
        shortest = (rest + fields.network.length[origin]) / 1000
        if shortest > rules.max_km:
            reason = f"the shortest admissible trip is {shortest:.2f} km"
            raise InfeasibleError(reason, field="max_km", value=rules.max_km)
    asked = [k for k in ("min_hops", "min_km", "max_km") if getattr(rules, k)]
    limits = ["min_hops"] if rules.min_hops > budget else asked
    limits += ["max_hops"] if limits in ([], ["max_km"]) else []
    reason = f"no trip to segment {target[0]} satisfies all rules within {budget} segments"
    raise InfeasibleError(reason, field=" and ".join(limits))
