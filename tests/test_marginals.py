"""Compiled marginals of a weighted window equal those of the differentiable law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from core.constrain.chain import Markov
from core.constrain.graph import StateGraph
from core.constrain.marginals import log_marginals
from core.constrain.trellis import unroll


def test_marginals_equal_the_law() -> None:
    """Random weights, random final weights, some sites known: forward-backward in numba against torch."""
    rng = np.random.default_rng(0)
    near = rng.random((7, 7)) < 0.5
    near[np.arange(7), (np.arange(7) + 1) % 7] = True
    ptr = np.concatenate([[0], np.cumsum(near.sum(1))])
    graph = StateGraph(ptr, np.concatenate([np.flatnonzero(a) for a in near]).astype(np.int32), 7)
    togo = graph.togo(np.array([3]))[None]
    window = unroll(graph, np.array([0, 1]), 5, 2, togo, np.zeros(2, np.int64))
    weight, final = rng.normal(size=len(window.edge)), rng.normal(size=len(window.state))
    known = np.full((2, 5), -1)
    known[0, 2] = np.flatnonzero(window.feasible(known)[0, 2])[1]
    found = log_marginals(window, weight, final, known)
    ends = np.concatenate([np.arange(lo, hi) for lo, hi in window.layer[:, -2:]])
    joined = weight + np.where(np.isin(window.edge, ends), final[window.edge], 0.0)
    phi = np.where(window.feasible(known), 0.0, -np.inf)
    law = Markov(replace(window, log_weight=joined), torch.from_numpy(phi))
    assert np.abs(np.exp(found) - law.marginals().numpy()).max() < 1e-6
