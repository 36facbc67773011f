"""Several models that draw and judge as one: an equal mixture of their laws.

    p(r | o, d) = 1/M sum_m p_m(r | o, d)

Networks trained from other seeds, or on other parts of few trips, err in different places; their mean errs less (deep
ensembles: Lakshminarayanan, Pritzel, Blundell 2017, arXiv 1612.01474). The mixture is exact and needs no new sampler:
stream i is drawn by member i modulo M, so each draw keeps the rules by construction and is a function of its own stream
alone; log-likelihoods are averaged as probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apps.trajectory.constraints import Rules
from apps.trajectory.data import Trips
from apps.trajectory.field import Fields
from apps.trajectory.generate import TripModel
from apps.trajectory.likelihood import Order
from apps.trajectory.model import Recipe
from apps.trajectory.network import RoadNetwork
from apps.trajectory.sampler import Sampler
from core.errors import UsageError

__all__ = ["Mixture"]


@dataclass(eq=False)
class Mixture(Sampler):
    """An equal mixture of models of one road network; it is asked as a `TripModel` is.

    Args:
        members: the models; recipe, rules and fields that requests are resolved with are those of the first.

    Raises:
        UsageError: no member, or members of different road networks.
    """

    members: Sequence[TripModel]

    def __post_init__(self) -> None:
        """Check that all speak of the same segments."""
        if not self.members:
            raise UsageError("at least one model", field="members")
        first = self.members[0].network
        for i, other in enumerate(m.network for m in self.members):
            if other.n != first.n or not np.array_equal(other.succ, first.succ):
                raise UsageError("is a model of another road network", field=f"members[{i}]", value=other.name,
                                 hint=f"members[0] is of {first.name}")  # fmt: skip

    @property
    def network(self) -> RoadNetwork:
        """The roads."""
        return self.members[0].network

    @property
    def fields(self) -> Fields:
        """What requests are resolved with."""
        return self.members[0].fields

    @property
    def rules(self) -> Rules:
        """Rules that every trip obeys."""
        return self.members[0].rules

    @property
    def recipe(self) -> Recipe:
        """Defaults of sampling."""
        return self.members[0].recipe

    @property
    def most_hops(self) -> int:
        """Most segments after the origin that any member can draw."""
        return min(m.most_hops for m in self.members)

    def obeying(self, rules: Rules) -> Mixture:
        """Return the mixture under other rules."""
        return Mixture([m.obeying(rules) for m in self.members])

    def closing(self, closed: np.ndarray) -> Mixture:
        """Return the mixture with segments closed (bool [N]), beside each member's own rules."""
        return Mixture([m.closing(closed) for m in self.members])

    def set(self, **changes: object) -> Mixture:
        """Return the mixture with other sampling defaults (`TripModel.set`)."""
        return Mixture([m.set(**changes) for m in self.members])

    def draw(
        self, origin: np.ndarray, targets: list[tuple[int, ...]], depart: np.ndarray, seed: int, streams: np.ndarray,
        greedy: bool,
    ) -> Trips:  # fmt: skip
        """Return one trip for each request; stream k is drawn by member k modulo M (`Sampler.draw`)."""
        parts = self._shared(streams)
        drawn = [
            m.draw(origin[rows], [targets[i] for i in rows], depart[rows], seed, streams[rows], greedy)
            for m, rows in parts
        ]
        return self._in_order(drawn, [rows for _, rows in parts], [str(i) for i in range(len(origin))])

    def time(self, trips: Trips, seed: int = 0, index: np.ndarray | None = None, *, greedy: bool = False) -> Trips:
        """Return the trips with the times at which segments are entered, each by the member of its stream."""
        streams = np.arange(len(trips)) if index is None else np.asarray(index, np.int64)
        parts = self._shared(streams)
        timed = [m.time(trips.select(rows), seed, streams[rows], greedy=greedy) for m, rows in parts]
        return self._in_order(timed, [rows for _, rows in parts], trips.id)

    def nll(self, trips: Trips, block: int = 1, draws: int = 1, seed: int = 0, order: Order = "random") -> np.ndarray:
        """Return nats of each trip under the mixture, float64 [n]; exact where `TripModel.nll` is."""
        each = -np.stack([m.nll(trips, block, draws, seed, order) for m in self.members])
        return np.log(len(each)) - np.logaddexp.reduce(each, axis=0)

    def candidates(
        self, origin: np.ndarray, destination: np.ndarray, depart: np.ndarray | None, seed: int, draws: int
    ) -> list[Trips]:
        """Return each member's greedy decodes and its share of the draws (`TripModel.candidates`)."""
        share = -(-draws // len(self.members))
        return [found for m in self.members for found in m.candidates(origin, destination, depart, seed, share)]

    def _shared(self, streams: np.ndarray) -> list[tuple[TripModel, np.ndarray]]:
        """Return each member with the rows that are its own; members with none are left out."""
        owner = streams % len(self.members)
        found = [(m, np.flatnonzero(owner == k)) for k, m in enumerate(self.members)]
        return [(m, rows) for m, rows in found if len(rows)] or [(self.members[0], np.arange(0))]

    def _in_order(self, parts: list[Trips], rows: list[np.ndarray], names: list[str]) -> Trips:
        """Join parts whose trips have these places in the whole, and name them."""
        here = [replace(p, network=self.network) for p in parts]
        joined = Trips.concat(here).select(np.argsort(np.concatenate(rows), kind="stable"))
        return replace(joined, id=list(names))
