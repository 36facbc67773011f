"""Calibration: the recursive logit of maximum likelihood on given trips.

The log-likelihood of one trip is `f . theta - log z_o(theta)`, with f the sums of the features along the path, and its
score is `f - E[f | o, d]`: what the traveller did minus what the law expects. The sum of outer products of the scores
estimates the information matrix, which gives both the step (Berndt, Hall, Hall, Hausman 1974) and, at the maximum, the
standard errors. A step that leaves the domain (walks no longer summable) or does not gain is halved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from apps.trajectory.data import Trips
from apps.trajectory.logit import FEATURES, Parameters, Period, features
from apps.trajectory.traffic import PERIODS, Traffic, period, segment_time
from core.errors import DataError, UsageError

__all__ = ["Fit", "fit", "fit_traffic"]


@dataclass(frozen=True)
class Fit:
    """What a calibration found.

    Args:
        parameters: of maximum likelihood, with the travel times fitted too.
        errors: [J] standard errors in the order of `FEATURES`.
        log_likelihood: nats per trip before and after each step.
        used, left_out: number of trips; those left out pass their destination before they end there, or are illegal.
    """

    parameters: Parameters
    errors: np.ndarray
    log_likelihood: list[float]
    used: int
    left_out: int


def fit(trips: Trips, start: Parameters | None = None, *, steps: int = 30, tolerance: float = 1e-4) -> Fit:
    """Estimate utilities and travel times; use training trips only.

    Args:
        trips: observed trips.
        start: where to begin; by default `Parameters()`.
        steps: at most so many iterations.
        tolerance: stop when a step gains less (nats per trip).

    Raises:
        DataError: no trip is usable.
    """
    begin = start or Parameters()
    begin = replace(begin, traffic=fit_traffic(trips, begin.traffic))
    usable = np.flatnonzero(_first_arrival(trips))
    if not len(usable):
        raise DataError("no trip ends at the first arrival at its last segment", field="trips")
    kept = trips.select(usable)
    theta = begin.vector()
    value, score = _likelihood(kept, begin.traffic, theta)
    history, scale = [float(value.mean())], 0.5
    for _ in range(steps):
        direction = np.linalg.solve(score.T @ score + 1e-9 * np.eye(len(theta)), score.sum(axis=0))
        for length in 2.0 * scale * 0.5 ** np.arange(12):
            found = _gain(kept, begin.traffic, theta + length * direction, value.mean())
            if found is not None:
                break
        else:
            break
        theta, scale, (value, score) = theta + length * direction, length, found
        history.append(float(value.mean()))
        if history[-1] - history[-2] < tolerance:
            break
    errors = np.sqrt(np.diag(np.linalg.inv(score.T @ score + 1e-9 * np.eye(len(theta)))))
    best = replace(begin, **dict(zip(FEATURES, theta.tolist(), strict=True)))
    return Fit(best, errors, history, len(kept), len(trips) - len(kept))


def fit_traffic(trips: Trips, start: Traffic | None = None) -> Traffic:
    """Estimate `pace` and the spread of travel times from the times of entry; unchanged where there are none."""
    start = start or Traffic()
    when, last = period(trips.depart), trips.ptr[1:] - 1
    free = np.stack([segment_time(trips.network, start, p) for p in range(len(PERIODS))])
    along = np.concatenate([[0.0], np.cumsum(free[when[trips.owner], trips.segment])])
    expected = along[last] - along[trips.ptr[:-1]]
    taken = trips.enter[last].astype(np.float64)
    timed = np.isfinite(taken) & (taken > 30.0) & (expected > 30.0)
    if timed.sum() < 10:
        return start
    ratio = np.log(taken[timed] / expected[timed])
    low, middle, high = np.quantile(ratio, (0.16, 0.5, 0.84))
    spread = float((high - low) / 2)
    return replace(start, pace=float(np.exp(middle + 0.5 * spread**2)), trip_noise=spread)


def _first_arrival(trips: Trips) -> np.ndarray:
    visits = np.bincount(trips.owner, trips.segment == trips.destination[trips.owner], minlength=len(trips))
    return (visits == 1) & (trips.hops() > 1) & trips.legal()


def _gain(trips: Trips, traffic: Traffic, theta: np.ndarray, before: float) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        value, score = _likelihood(trips, traffic, theta)
    except UsageError:
        return None
    return (value, score) if value.mean() > before else None


def _likelihood(trips: Trips, traffic: Traffic, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log P [n] and score [n, J] of each trip."""
    net, when = trips.network, period(trips.depart)
    value, score = np.zeros(len(trips)), np.zeros((len(trips), len(theta)))
    inner = np.ones(len(trips.segment), dtype=bool)
    inner[trips.ptr[1:] - 1] = False
    at = np.flatnonzero(inner)
    step, owner = net.transition(trips.segment[at], trips.segment[at + 1]), trips.owner[at]
    for p in np.unique(when):
        x = features(net, traffic, int(p))
        law = Period(net, x @ theta)
        mine = when[owner] == p
        for j in range(len(theta)):
            score[:, j] += np.bincount(owner[mine], x[step[mine], j], minlength=len(trips))
        rows = np.flatnonzero(when == p)
        for d in np.unique(trips.destination[rows]):
            to_d = rows[trips.destination[rows] == d]
            o = trips.origin[to_d]
            z, y = law.partition(int(d), x)
            if (z[o] == 0).any():
                raise UsageError("a trip has no representable probability", field="parameters")
            value[to_d] = score[to_d] @ theta - np.log(z[o])
            score[to_d] -= y[o] / z[o, None]
    return value, score
