"""What a model of trips and a mixture of them have in common: how trips are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime
from typing import Any, Unpack

import numpy as np
import torch

from apps.trajectory.choice import likeliest
from apps.trajectory.data import Trips
from apps.trajectory.places import Place
from apps.trajectory.requests import Request, Wishes

__all__ = ["Sampler"]


class Sampler(ABC):
    """Draws trips between origins and destinations, stream by stream."""

    @property
    def most_hops(self) -> int:
        """Most segments after the origin that a trip can have."""
        asked: Any = self
        return min(asked.recipe.data.max_hops, asked.rules.max_hops or asked.recipe.data.max_hops)

    @abstractmethod
    def draw(
        self, origin: np.ndarray, targets: list[tuple[int, ...]], depart: np.ndarray, seed: int, streams: np.ndarray,
        greedy: bool,
    ) -> Trips:  # fmt: skip
        """Return one trip without times for each origin [n], accepted destinations, departure [n] and stream [n]."""

    @abstractmethod
    def time(self, trips: Trips, seed: int = 0, index: np.ndarray | None = None, *, greedy: bool = False) -> Trips:
        """Return the trips with the seconds at which each segment is entered: drawn, or the medians."""

    @abstractmethod
    def candidates(
        self, origin: np.ndarray, destination: np.ndarray, depart: np.ndarray | None, seed: int, draws: int
    ) -> list[Trips]:
        """Return sets of trips, one trip of each request in each, among which the most likely is looked for."""

    @torch.inference_mode()
    def sample(
        self,
        origin: Place,
        destination: Place,
        depart: np.ndarray | str | float | datetime | None = None,
        seed: int = 0,
        index: np.ndarray | None = None,
        *,
        greedy: bool = False,
        timed: bool = True,
        n: int | None = None,
        **wishes: Unpack[Wishes],
    ) -> Trips:
        """Draw one trip for each origin and destination, or `n` trips of one request.

        Args:
            origin: segments [n]; with `n` a place (`places.resolve`).
            destination: segments [n], or the accepted segments of each trip; with `n` a place.
            depart: unix seconds [n], NaN or None unknown.
            seed: all randomness.
            index: number of each trip's stream, int64 [n] (0 ... n - 1 by default): trip i is a function of
                (seed, index[i]) and its request, whatever the batch.
            greedy: the most likely value of each site instead of a draw.
            timed: give each segment the time at which it is entered.
            n: number of trips of one request; `depart` may then be a clock time.
            wishes: with `n` the other fields of a `requests.Request` (via, closed, forbid, max_km, ...).

        Returns:
            Trips in the order of the requests.

        Raises:
            InfeasibleError: a request that no trip satisfies, before anything is sampled.
        """
        asked: Any = self
        if n is not None or wishes:
            moment: Any = depart
            request = Request(origin, destination, depart=moment, **wishes)
            return request.sample(asked, 1 if n is None else n, seed, greedy=greedy, timed=timed)
        start = np.atleast_1d(np.asarray(origin, np.int64))
        ends: Any = destination
        targets = [tuple(int(v) for v in np.atleast_1d(np.asarray(d))) for d in ends]
        when = np.full(len(start), np.nan) if depart is None else np.asarray(depart, float)
        streams = np.arange(len(start)) if index is None else np.asarray(index, np.int64)
        trips = self.draw(start, targets, when, seed, streams, greedy)
        return self.time(trips, seed, streams, greedy=greedy) if timed else trips

    def most_likely(
        self,
        origin: np.ndarray,
        destination: np.ndarray,
        depart: np.ndarray | None = None,
        seed: int = 0,
        draws: int = 16,
    ) -> Trips:
        """Return for each request the likeliest trip found among greedy decodes and `draws` samples (exact `nll`)."""
        asked: Any = self
        return likeliest(asked, self.candidates(origin, destination, depart, seed, draws))
