"""What a model of trips and a mixture of them have in common: how trips are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Unpack

import numpy as np
import torch

from apps.trajectory.choice import likeliest
from apps.trajectory.data import Trips
from apps.trajectory.places import Place, several
from apps.trajectory.requests import LATEST, Request, Wishes, departure
from core.errors import UsageError

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
        depart: np.ndarray | np.datetime64 | Sequence[Any] | str | float | datetime | None = None,
        seed: int = 0,
        index: np.ndarray | Sequence[int] | None = None,
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
            depart: unix seconds [n], NaN or None unknown; or one departure of all (`requests.departure`).
            seed: all randomness.
            index: number of each trip's stream, int64 [n] (0 ... n - 1 by default; not with `n`): trip i is a function
                of (seed, index[i]) and its request, whatever the batch.
            greedy: the most likely value of each site instead of a draw.
            timed: give each segment the time at which it is entered.
            n: number of trips of one request; 1 by default where origin and destination are one place each, no arrays.
            wishes: with `n` the other fields of a `requests.Request` (via, closed, forbid, max_km, ...).

        Returns:
            Trips in the order of the requests.

        Raises:
            InfeasibleError: a request that no trip satisfies, before anything is sampled.
            UsageError: there is no such segment, the arrays are not of one length, or `index` stands beside `n`.
        """
        asked: Any = self
        if n is not None or wishes or (several(origin) is not origin and several(destination) is not destination):
            if index is not None:
                raise UsageError("goes with arrays of segments; trip i of one request has the stream i", field="index")
            moment: Any = depart
            if np.ndim(moment):
                raise UsageError("one request has one departure", field="depart", value=str(depart)[:60])
            request = Request(origin, destination, depart=moment, **wishes)
            return request.sample(asked, 1 if n is None else n, seed, greedy=greedy, timed=timed)
        start = _numbers(origin, "origin")
        targets = [tuple(_numbers(d, "destination").tolist()) for d in several(destination)]  # type: ignore[arg-type]
        moments: Any = departure(depart) if np.ndim(depart) == 0 else depart  # type: ignore[arg-type]
        when = np.full(len(start), moments) if np.ndim(moments) == 0 else _seconds(moments)
        streams = np.arange(len(start)) if index is None else np.asarray(index, np.int64)
        _check(asked.network.n, start, targets, depart=when, index=streams)
        trips = self.draw(start, targets, when, seed, streams, greedy)
        return self.time(trips, seed, streams, greedy=greedy) if timed else trips

    def most_likely(
        self,
        origin: np.ndarray | Sequence[int] | int,
        destination: np.ndarray | Sequence[int] | int,
        depart: np.ndarray | None = None,
        seed: int = 0,
        draws: int = 16,
    ) -> Trips:
        """Return for each request the likeliest trip found among greedy decodes and `draws` samples (exact `nll`)."""
        asked: Any = self
        origin, destination = np.atleast_1d(origin), np.atleast_1d(destination)
        return likeliest(asked, self.candidates(origin, destination, depart, seed, draws))


def _numbers(given: Any, name: str) -> np.ndarray:
    """Return the numbers of segments, int64 [k]; refuse what is a place."""
    try:
        found = np.atleast_1d(np.asarray(given, np.float64))
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if not (np.floor(found) == found).all():
        raise UsageError("segments in an array are whole numbers", field=name, value=str(given)[:60],
                         hint="for a place say how many trips: n=1")  # fmt: skip
    return found.astype(np.int64)


def _seconds(given: Any) -> np.ndarray:
    """Return departures that are given one by one, as unix seconds or datetime64, float64 [n]."""
    found = np.asarray(given)
    if found.dtype.kind == "M":
        return np.where(np.isnat(found), np.nan, found.astype("datetime64[us]").astype(np.int64) / 1e6)
    try:
        found = found.astype(np.float64)
    except (TypeError, ValueError):
        found = np.array([np.inf])
    if (abs(found) > LATEST).any():
        hint = 'use `requests.departure` on each, or give one of all ("08:15")'
        raise UsageError("an array holds unix seconds", field="depart", value=str(given)[:60], hint=hint)
    return found


def _check(segments: int, origin: np.ndarray, targets: list[tuple[int, ...]], **others: np.ndarray) -> None:
    """Refuse arrays of other lengths than that of the origins, and segments that do not exist."""
    for name, given in {"destination": targets, **others}.items():
        if len(given) != len(origin):
            raise UsageError(f"{len(given)} entries for {len(origin)} origins", field=name)
    for name, ids in (("origin", origin), ("destination", np.array([k for t in targets for k in t], np.int64))):
        wrong = ids[(ids < 0) | (ids >= segments)]
        if len(wrong):
            hint = f"segments are numbered 0 to {segments - 1}"
            raise UsageError("no such segment", field=name, value=int(wrong[0]), hint=hint)
