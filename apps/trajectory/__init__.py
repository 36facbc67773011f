"""Trips on real road networks: block diffusion over road segments whose trips are legal by construction.

    from apps import trajectory
    model = trajectory.load("toy")
    trips = model.sample([3] * 100, [200] * 100, seed=0)

Nothing heavy is imported before `load` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from apps.trajectory.generate import TripModel
    from apps.trajectory.network import RoadNetwork

__all__ = ["load"]


def load(name: str | Path, network: RoadNetwork | str | None = None, device: str = "cpu") -> TripModel:
    """Return a trained model.

    Args:
        name: a model that ships with the package (`toy`), a run's folder or a checkpoint's.
        network: the roads to sample on (a network, or a file); by default those it was trained on.
        device: where the network runs.

    Raises:
        CheckpointError: damaged, or of another app.
        DataError: the road network's file is missing.
    """
    from apps.trajectory.generate import restore

    return restore(name, network, device)
