"""Traffic: how long a segment takes at a time of day, and when a trip enters each of its segments.

Free-flow time times a congestion factor that depends on the period (peak: working days 7:30-9:30 and 17:00-19:00, in
the clock of the departure times) and on the rank of the road: arterials suffer more than local streets, so that the
best route, and not only its duration, depends on the time of departure. A simulated driver then takes

    t_k = free_k * congestion(period, k) * pace * exp(s_trip * e_trip + s_segment * e_k - s^2 / 2),    e ~ N(0, 1),

with `s^2 = s_trip^2 + s_segment^2`, so that the mean over drivers is the first three factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from apps.trajectory.network import ROAD_CLASSES, RoadNetwork

__all__ = ["ARTERIAL", "PERIODS", "Traffic", "noise", "normal", "period", "segment_time"]

PERIODS: tuple[str, ...] = ("off-peak", "peak")
ARTERIAL = np.array([c.removesuffix("_link") in ("motorway", "trunk", "primary", "secondary") for c in ROAD_CLASSES])
_DAY = 86400.0
_PEAKS = ((7.5, 9.5), (17.0, 19.0))


@dataclass(frozen=True)
class Traffic:
    """The law of travel times.

    Args:
        arterial_peak, local_peak: congestion factors in the peak; 1 off the peak.
        pace: the typical driver's time relative to free flow (stops, signals); fitted on real trips.
        trip_noise, segment_noise: standard deviations of the log time, per trip and per segment.
    """

    arterial_peak: float = 1.8
    local_peak: float = 1.1
    pace: float = 1.2
    trip_noise: float = 0.15
    segment_noise: float = 0.25


def period(depart: np.ndarray | float) -> Any:
    """Return the index into `PERIODS` of a departure or of several in unix seconds; unknown (NaN) is off-peak."""
    t = np.nan_to_num(np.asarray(depart, dtype=np.float64), nan=0.0)
    hour = (t % _DAY) / 3600.0
    working = (t // _DAY + 3) % 7 < 5  # 1970-01-01 was a Thursday
    return (working & np.any([(a <= hour) & (hour < b) for a, b in _PEAKS], axis=0)).astype(np.int64)


def segment_time(network: RoadNetwork, traffic: Traffic, when: int) -> np.ndarray:
    """Return [N] float64 seconds that each segment takes in a period, before `pace` and noise."""
    peak = np.where(ARTERIAL[network.road_class], traffic.arterial_peak, traffic.local_peak)
    return network.travel_time.astype(np.float64) * (peak if when == 1 else 1.0)


def noise(seed: int, *counters: np.ndarray | int) -> np.ndarray:
    """Return uniform numbers in (0, 1), each a pure function of the seed and its counters (splitmix64)."""
    state = np.asarray(np.uint64(seed % 2**64))
    with np.errstate(over="ignore"):
        for c in (0, *counters):
            state = state * np.uint64(0xD1342543DE82EF95) + np.asarray(c).astype(np.int64).view(np.uint64)
            state = state + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return ((state >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52


def normal(seed: int, *counters: np.ndarray | int) -> np.ndarray:
    """Return standard normal numbers, each a pure function of the seed and its counters (Box-Muller)."""
    radius = np.sqrt(-2.0 * np.log(noise(seed, *counters, 1)))
    return radius * np.cos(2.0 * np.pi * noise(seed, *counters, 2))
