"""The phase on a cycle: its frequency, fields at other parameters, no horizon, boundaries, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from apps.pde import cycle, shapes
from apps.pde.data import Trajectories
from core.errors import DataError, UsageError

MESH = shapes.make("hole", 80)
FREE = np.setdiff1d(np.arange(len(MESH)), MESH.nodes("hole"))


def flow(numbers: tuple[float, ...], T: int = 400, phase: float = 0.0) -> Trajectories:
    """Return cycles of three harmonics whose frequency and fields are smooth in a parameter, zero on the hole."""
    rng, t = np.random.default_rng(0), np.arange(T) * 0.05
    shape = rng.standard_normal((7, len(MESH), 2))
    shape[:, MESH.nodes("hole")] = 0
    rows = []
    for n, p in enumerate(numbers):
        theta = frequency(p) * t + phase + n
        waves = [np.ones(T)] + [f(k * theta) for k in (1, 2, 3) for f in (np.cos, np.sin)]
        size = np.array([1, 1, 1, 0.3, 0.3, 0.1, 0.1]) * (1 + 20 / p)
        rows.append(np.einsum("kt,k,knc->tnc", np.stack(waves), size, shape))
    return Trajectories(MESH, ("u", "v"), t, np.stack(rows).astype(np.float32), {"Re": np.array(numbers)})


def frequency(p: float) -> float:
    return 2 - 60 / p


def test_it_foretells_the_cycle_between_and_beyond() -> None:
    made = cycle.fit(flow((160.0, 240.0, 320.0, 400.0)), harmonics=4)
    assert made.omega == pytest.approx([frequency(p) for p in made.values], rel=1e-5)
    assert made.scale == "1/p"  # the law of the example, found on the last trajectory alone
    for number in (200.0, 480.0):
        test = flow((number,), phase=2.0)
        own = made.rollout(test.states[:, 0], 399, test.parameters)
        assert np.square(own - test.states).mean() < 1e-5 * test.states.var()
        assert np.allclose(own[:, 0], test.states[:, 0], atol=1e-5)
        assert not np.abs(own[:, :, MESH.nodes("hole")]).max() > 1e-6
    long = made.rollout(test.states[:, 0], 20_000, test.parameters)[:, :, FREE]
    assert np.isfinite(long).all() and np.square(long[:, -400:]).mean() == pytest.approx(
        np.square(long[:, :400]).mean(), rel=0.05
    )


def test_a_start_off_the_cycle_fades_onto_it() -> None:
    data = flow((160.0, 240.0, 320.0))
    made = cycle.fit(data, harmonics=4)
    off = data.states[1:2, 0] + np.float32(0.3) * data.states[0:1, 50]
    own = made.rollout(off, 200, {"Re": np.array([240.0])})
    _, waves = made.at(240.0)
    near = cycle.turned(waves, np.array([made.phase(own[0, -1].astype(float), waves)]))[0]
    assert np.abs(own[0, 0] - off[0]).max() < 1e-5
    assert np.abs(own[0, -1] - near).max() < 0.1 * np.abs(off - cycle.turned(waves, np.array([0.0]))).max()


def test_it_refuses_what_has_no_cycle() -> None:
    with pytest.raises(DataError, match="two periods"):
        cycle.fit(flow((160.0, 240.0), T=60))
    with pytest.raises(UsageError, match="one and no other"):
        cycle.fit(flow((200.0,)))
    made = cycle.fit(flow((160.0, 240.0)), harmonics=3, scale="1/p")
    with pytest.raises(UsageError, match="Re"):
        made.rollout(np.zeros((1, len(MESH), 2)), 2, {})
