"""How likely a trip is: exactly, or as a bound.

    block size 1       -log p(trip) = sum_i -log p(s_i | s_{<i})                                 exact
    order "random"     the count form of the bound, averaged over drawn masks                    an upper bound
    order "in-order"   the sites of a block from left to right, one at a time                    exact
    order "confidence" the most certain open site first, as the default sampler does             exact

An order that depends only on what is already known makes the law of one site at a time a product of predictions,
-log p = sum_k -log D(x_{i_k} | known after k - 1), and this is the law of the sampler with as many steps as sites.
Trips are cut at their first arrival: there the law of the model ends. What this law cannot draw (a step that the roads
do not have, a round trip without via points) has infinitely many nats. It is the law on the open roads: the rules that
a model obeys do not enter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from apps.trajectory.batch import Batch, Collator
from apps.trajectory.tokenizer import trim

if TYPE_CHECKING:
    from apps.trajectory.data import Trips
    from apps.trajectory.generate import TripModel

__all__ = ["Order", "bound", "exact", "nll"]

Order = Literal["random", "in-order", "confidence"]


def nll(model: TripModel, trips: Trips, block: int, draws: int, seed: int, order: Order) -> np.ndarray:
    """Return nats of each trip given origin, destination and departure, float64 [n] (see the module)."""
    walks = [trim(t) for t in trips.lists()]
    drawn = trips.legal() & ((trips.origin != trips.destination) | (trips.hops() == 1))
    collate = Collator(model.fields, max(model.recipe.data.max_hops, int(trips.hops().max(initial=2)) - 1))
    out = np.where(drawn, 0.0, np.inf)
    for rows in _by_length(walks, model.batch):
        first, rows = int(rows[0]), rows[[drawn[i] and len(walks[i]) > 1 for i in rows]]
        if not len(rows):
            continue  # a trip that stays where it is has one way to do so
        some, depart = [walks[i] for i in rows], trips.depart[rows]
        if order == "random":
            nats, trip = bound(model, collate, some, depart, block, 1 if block == 1 else draws, [seed, first])
        else:
            nats, trip = exact(model, collate, some, depart, block, order)
        np.add.at(out, rows[trip], nats)
    return out


def bound(
    model: TripModel,
    collate: Collator,
    walks: Sequence[np.ndarray],
    depart: np.ndarray,
    block: int,
    draws: int,
    seed: list[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the count form of each block's bound, averaged over masks, and the trip of each block."""
    total: np.ndarray | float = 0.0
    batch: Batch | None = None
    for draw in range(draws):
        batch = collate(walks, block, np.random.default_rng([*seed, draw]), depart=depart).to(model.net.masked.device)
        total = total + model.net(batch)[0].double().cpu().numpy()
    assert batch is not None
    return np.asarray(total) / draws, batch.row_trip.cpu().numpy()


def exact(
    model: TripModel, collate: Collator, walks: Sequence[np.ndarray], depart: np.ndarray, block: int, order: Order
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact nats of each block under an order, and the trip of each block."""
    rows = sum(-(-(len(w) - 1) // block) for w in walks)
    open_ = np.ones((rows, block), bool)
    total = torch.zeros(rows, dtype=torch.float64)
    trip = np.zeros(rows, np.int64)
    for _ in range(block):
        batch = collate(walks, block, np.random.default_rng(0), depart=depart, masks=open_).to(model.net.masked.device)
        log_p = model.net.predict(batch)[0].double().cpu()
        trip = batch.row_trip.cpu().numpy()
        site = _next(log_p, torch.from_numpy(open_), order)
        total -= log_p.gather(-1, batch.target.cpu()[..., None])[torch.arange(rows), site, 0]
        open_ = open_.copy()
        open_[np.arange(rows), site.numpy()] = False
    return total.numpy(), trip


def _next(log_p: Tensor, open_: Tensor, order: Order) -> Tensor:
    """Return the open site of each row that the order takes next, [R]."""
    place = torch.arange(open_.shape[1], dtype=torch.float64).expand(open_.shape)
    score = log_p.amax(-1) if order == "confidence" else -place
    return score.masked_fill(~open_, -torch.inf).argmax(-1)


def _by_length(walks: Sequence[np.ndarray], size: int) -> Iterator[np.ndarray]:
    order = np.argsort([len(w) for w in walks], kind="stable")
    for a in range(0, len(order), size):
        yield order[a : a + size]
