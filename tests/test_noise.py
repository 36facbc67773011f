"""Counter-based streams: known answers, independence of the batch, strata that keep their law."""

from __future__ import annotations

import numpy as np
import torch

from core.noise import Stream, philox


def test_known_answers() -> None:
    """Philox4x32-10 on all-zero and all-one counters and keys (the published test vectors)."""
    zero, ones = np.zeros(1, np.uint64), np.full(1, 2**64 - 1, np.uint64)
    low, high = philox(0, zero, zero)
    assert (hex(int(low[0])), hex(int(high[0]))) == ("0xe169c58d6627e8d5", "0x9b00dbd8bc57ac4c")
    low, high = philox(2**64 - 1, ones, ones)
    assert (hex(int(low[0])), hex(int(high[0]))) == ("0x41c83b0e408f276d", "0x6d5451fda20bc7c6")


def test_a_draw_is_a_function_of_its_address() -> None:
    """Rows, folds and calls do not disturb each other; moments are those of the uniform and the normal law."""
    streams = Stream.of(3, 64)
    assert torch.equal(streams.uniform(9)[5:6], Stream.of(3, 1, 5).uniform(9))
    assert torch.equal(streams.select(torch.tensor([7, 2])).fold(1).uniform(4), streams.fold(1).uniform(4)[[7, 2]])
    assert not torch.equal(streams.fold(1).uniform(4), streams.fold(2).uniform(4))
    u, z = streams.uniform(4001), streams.normal(4001)
    assert abs(float(u.mean()) - 0.5) < 2e-3 and abs(float(u.var()) - 1 / 12) < 1e-3
    assert abs(float(z.mean())) < 8e-3 and abs(float(z.var()) - 1) < 1e-2
    assert float(u.min()) >= 0 and float(u.max()) < 1


def test_strata_are_even_and_keep_their_law() -> None:
    """Within a group each draw falls once into each of n cells; every sample by itself is uniform and uncorrelated."""
    count, groups = 5, 4000
    u = Stream.strata(1, torch.arange(count * groups), count).uniform(3)
    cells = (u.view(groups, count, 3) * count).long().sort(1).values
    assert torch.equal(cells, torch.arange(count)[None, :, None].expand_as(cells))
    each = u.view(groups, count, 3)[:, 2]
    assert (each.mean(0) - 0.5).abs().max() < 0.02
    assert torch.corrcoef(each.T).triu(1).abs().max() < 0.05
    assert torch.equal(Stream.strata(1, torch.arange(4), 1).uniform(2), Stream(1, torch.arange(4)).uniform(2))
