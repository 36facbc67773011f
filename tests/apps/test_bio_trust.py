"""Letters that were drawn are told in part, letters that were given whole."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from apps.bio.protein.data import Backbones
from apps.bio.protein.generate import Conditioned
from apps.bio.protein.model import ProteinConfig
from apps.bio.protein.network import Member, ProteinNet, graph
from apps.bio.protein.sites import choose
from apps.bio.protein.structure import Structure, of_chain

SIZE = 20
CONFIG = ProteinConfig(members=2, dim=16, neighbours=6, dropout=0.0)


def chain() -> Structure:
    """Return a stretched chain with letters of no meaning."""
    rng = np.random.default_rng(0)
    step = np.array([[0, 0, 0], [1.46, 0, 0], [2.0, 1.42, 0], [1.3, 2.4, 0.3]])
    coords = np.stack([step + [3.3 * i, 0.8 * (i % 2), 0] for i in range(SIZE)]).astype(np.float32)
    tokens = [rng.integers(0, 20, SIZE)]
    return of_chain(Backbones(["x"], [coords], [np.arange(SIZE)], tokens, np.zeros(1, int), np.ones(1)), 0)


def test_a_told_letter_is_a_law_between_the_letter_and_the_mask() -> None:
    """Trust 1 changes nothing, trust 0 tells given letters alone, and between them a mixed law is read."""
    torch.manual_seed(0)
    s, net = chain(), cast("list[Member]", list(ProteinNet(CONFIG).eval().members)[:1])
    bonded, place = torch.from_numpy(s.bonded), torch.from_numpy(s.place)
    g = graph(torch.from_numpy(s.coords), bonded, place, torch.zeros_like(place), CONFIG.neighbours)
    generator = torch.Generator().manual_seed(2)
    x, given = torch.randint(0, 21, (2, SIZE), generator=generator), torch.arange(SIZE) < 10
    none, part, whole = (Conditioned(net, g, 1.0, t, given)(x) for t in (0.0, 0.3, 1.0))
    plain = Conditioned(net, g)
    assert torch.equal(whole, plain(x))
    assert torch.allclose(none, plain(torch.where(given, x, 20)), atol=1e-6)
    letter, mask = torch.nn.functional.one_hot(x, 21).float(), torch.nn.functional.one_hot(torch.tensor(20), 21)
    mixed = torch.where(given[:, None], letter, 0.3 * letter + 0.7 * mask)
    assert torch.allclose(part, plain(mixed), atol=1e-6)
    assert not torch.allclose(part, whole, atol=1e-4)


def test_sites_say_which_letters_were_given() -> None:
    """What is fixed is told whole."""
    sites = choose(chain(), "A0-4", "", None, "")
    assert sites.fixed.tolist() == [True] * 5 + [False] * (SIZE - 5)
