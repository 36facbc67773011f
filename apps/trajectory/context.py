"""The network as a block denoiser: what it remembers of a batch of trips.

The context of a batch keeps the key-value cache, the candidates of the present window and the block just committed,
which enters the cache in the same pass that starts the next block. Guidance is two contexts, their predictions mixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from apps.trajectory.chains import Chains
from apps.trajectory.constraints import TripLaw
from apps.trajectory.field import alone, view
from apps.trajectory.model import clock
from apps.trajectory.traffic import period
from core.constrain.law import LawWindow, Window
from core.denoiser import Prediction, Temperature, TopP
from core.guide.classifier_free import mix

if TYPE_CHECKING:
    from apps.trajectory.generate import TripModel

__all__ = ["Guided", "Opener", "TripContext"]


class TripContext:
    """What the network remembers of a batch of trips.

    Args:
        model: the sampling model.
        law: the batch's law.
        condition: embedded departures [B, d].
        informed: whether the goal is known (False for the unconditional branch of guidance).
        length: most tokens of a trip.
        depart: unix seconds [B], NaN or None unknown.
    """

    def __init__(
        self,
        model: TripModel,
        law: TripLaw,
        condition: Tensor,
        informed: bool,
        length: int,
        depart: np.ndarray | None = None,
    ) -> None:
        unknown = np.full(len(law.group), np.nan)
        self.when = period(unknown if depart is None else depart)
        self.model, self.net, self.law = model, model.net, law
        self.condition, self.informed = condition, torch.full((1,), float(informed), device=condition.device)
        self.group = law.group
        self.cache = self.net.cache(len(law.group), length)
        start = law.law.begin()
        labels = law.law.graph.labels
        seen = self._tensor(alone(model.fields, labels, start, law.goals, law.group))
        origin = self._tensor(labels[start].astype(np.int64))
        encoded = self.net.encode(model.roads[origin], torch.zeros_like(origin), seen, self._flag(seen))
        self.pending = self._embed(encoded[:, None], torch.zeros(1, dtype=torch.long, device=origin.device))
        self.position, self.block = 0, 0

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.condition.device)

    def _flag(self, seen: Tensor) -> Tensor:
        return self.informed.expand(*seen.shape[:-1], 1)

    def _embed(self, encoded: Tensor, place: Tensor, masked: Tensor | None = None) -> Tensor:
        hidden = torch.zeros(encoded.shape[:2], dtype=torch.bool, device=encoded.device) if masked is None else masked
        return self.net.embed(encoded, hidden, place, self.condition)

    def enter(self, window: Window, state: np.ndarray) -> None:
        """Encode the candidates of a window."""
        assert isinstance(window, LawWindow)
        law, self.window = self.law, window
        labels = law.law.graph.labels
        level, seen = view(self.model.fields, window.trellis, labels, state, law.goals, self.group)
        self.chains = Chains.of(self.model.fields, window.trellis, labels, law.goals, self.group, self.when)
        ids = window.alphabet.clamp_min(0).to(self.condition.device)
        seen_t = self._tensor(seen)
        self.encoded = self.net.encode(self.model.roads[ids], self._tensor(level), seen_t, self._flag(seen_t))
        self.padded = torch.cat([self.encoded, torch.zeros_like(self.encoded[:, :1])], 1)
        self.place = torch.arange(1, window.trellis.length + 1, device=ids.device)

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        """Predict the window's segments, log-probabilities over its candidates [B, L, K]."""
        mask, here = self.encoded.shape[1], x_t.to(self.condition.device)
        noisy = self._embed(self._gather(here), self.place, here == mask)
        ahead = 0 if self.pending is None else self.pending.shape[1]
        h = noisy if self.pending is None else torch.cat([self.pending, noisy], 1)
        position = torch.arange(self.position, self.position + h.shape[1], device=h.device)
        block = self.block + (position >= self.position + ahead).long()
        h = self.net.trunk(h, position, block, torch.arange(len(block), device=h.device) < ahead, cache=self.cache)
        if self.pending is not None:
            self.cache.commit(block[:ahead])
            self.position, self.pending = self.position + ahead, None
        chains = self._tensor(self.chains.marginals(torch.where(x_t == mask, -1, x_t).cpu().numpy()))
        prediction = Prediction(self.net.scores(h[:, ahead:], self.encoded, chains).to(x_t.device))
        cfg = self.model.recipe.sample
        return prediction if cfg.temperature == cfg.top_p == 1.0 else self._sharpen(prediction, x_t, t)

    def _sharpen(self, prediction: Prediction, x_t: Tensor, t: Tensor) -> Prediction:
        """Return the admissible prediction at the sampling temperature, cut to its nucleus."""
        cfg = self.model.recipe.sample
        known = torch.where(x_t == self.encoded.shape[1], -1, x_t)
        admissible = Prediction(self.window.restrict(prediction.log_p, known))
        return TopP(Temperature(lambda x_t, t, context: admissible, cfg.temperature), cfg.top_p)(x_t, t)

    def _gather(self, x: Tensor) -> Tensor:
        return self.padded.gather(1, x[..., None].expand(-1, -1, self.padded.shape[2]))

    def commit(self, x_0: Tensor) -> None:
        """Stage the window's clean segments for the next pass."""
        if self.pending is not None:  # no pass was needed: the law left no choice
            self._flush()
        self.pending, self.block = self._embed(self._gather(x_0.to(self.place.device)), self.place), self.block + 1

    def _flush(self) -> None:
        n = self.pending.shape[1]
        position = torch.arange(self.position, self.position + n, device=self.pending.device)
        block = position.new_full((n,), self.block)
        self.net.trunk(self.pending, position, block, torch.ones_like(position, dtype=torch.bool), cache=self.cache)
        self.cache.commit(block)
        self.position += n

    def select(self, rows: Tensor) -> None:
        """Keep some rows."""
        self.cache.select(rows)
        self.group, self.when = self.group[rows.numpy()], self.when[rows.numpy()]
        self.condition = self.condition[rows]
        if self.pending is not None:
            self.pending = self.pending[rows]


@dataclass(eq=False)
class Guided:
    """Two contexts, mixed: (1 + w) log p(. | goal) - w log p(.)."""

    given: TripContext
    free: TripContext
    weight: float

    def enter(self, window: Window, state: np.ndarray) -> None:
        self.given.enter(window, state)
        self.free.enter(window, state)

    def predict(self, x_t: Tensor, t: Tensor) -> Prediction:
        given, free = self.given.predict(x_t, t), self.free.predict(x_t, t)
        return Prediction(mix(free.log_p.log_softmax(-1), given.log_p.log_softmax(-1), 1 + self.weight))

    def commit(self, x_0: Tensor) -> None:
        self.given.commit(x_0)
        self.free.commit(x_0)

    def select(self, rows: Tensor) -> None:
        self.given.select(rows)
        self.free.select(rows)


@dataclass(eq=False)
class Opener:
    """A block denoiser bound to a batch's law."""

    model: TripModel
    law: TripLaw
    depart: np.ndarray
    guidance: float

    def open(self, rows: int, length: int) -> TripContext | Guided:
        condition = self.model.net.condition(clock(torch.from_numpy(self.depart)).to(self.model.net.masked.device))
        given = TripContext(self.model, self.law, condition, True, length, self.depart)
        if not self.guidance:
            return given
        unknown = self.model.net.condition(torch.zeros(rows, 7, device=condition.device))
        return Guided(given, TripContext(self.model, self.law, unknown, False, length, self.depart), self.guidance)
