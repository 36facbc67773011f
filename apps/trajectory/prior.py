"""The calibrated prior: a recursive logit fitted on training trips, as a reference chain of the network.

Its transitions weigh exp(v(k | a)), and what remains after a window weighs z_d, the sum over ALL ways to the
destination (`logit.py`), both in the period of the departure. The site marginals of this chain are exact route choice
under the fitted utilities; the network corrects them. A dozen numbers, so it moves to other cities with the weights.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, fields

import numpy as np

from apps.trajectory.logit import FEATURES, Parameters, RecursiveLogit
from apps.trajectory.network import RoadNetwork
from apps.trajectory.traffic import Traffic

__all__ = ["SIZE", "RoutePrior", "from_vector", "to_vector"]

_TRAFFIC = tuple(f.name for f in fields(Traffic))
SIZE = len(FEATURES) + len(_TRAFFIC)
"""How many numbers describe a prior."""

LEAST = -600.0
"""Log-value of a segment from which the destination's sum underflows."""


def to_vector(parameters: Parameters) -> np.ndarray:
    """Return the parameters as float32 [SIZE], as checkpoints hold them."""
    traffic = [getattr(parameters.traffic, name) for name in _TRAFFIC]
    return np.concatenate([parameters.vector(), traffic]).astype(np.float32)


def from_vector(vector: np.ndarray) -> Parameters:
    """Invert `to_vector`."""
    values = [float(v) for v in vector]
    traffic = Traffic(**dict(zip(_TRAFFIC, values[len(FEATURES) :], strict=True)))
    return Parameters(**dict(zip(FEATURES, values, strict=False)), traffic=traffic)  # type: ignore[arg-type]


@dataclass(eq=False)
class RoutePrior:
    """A recursive logit on a network, with the values of recent destinations.

    Args:
        network: the roads.
        parameters: the fitted utilities.
        megabytes: memory for the values of recent destinations.
    """

    network: RoadNetwork
    parameters: Parameters
    megabytes: float = 300.0
    kept: OrderedDict[tuple[int, int], np.ndarray] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        """Prepare the law; each period is factorised when it is first needed."""
        self.law = RecursiveLogit(self.network, self.parameters)

    def utility(self, when: int) -> np.ndarray:
        """Return v of each transition in a period, float64 [M]."""
        return self.law.at(when).utility

    def value(self, target: int, when: int) -> np.ndarray:
        """Return log z of each segment towards a destination in a period, float32 [N]."""
        key = (target, when)
        if key not in self.kept:
            z = self.law.at(when).values(np.array([target]))[:, 0]
            self.kept[key] = np.where(z > 0, np.log(np.maximum(z, 1e-300)), LEAST).astype(np.float32)
            while len(self.kept) > max(64, self.megabytes * 1e6 / (4 * self.network.n)):
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]
