"""A law that all samples share, as the samplers see it: `Constraint` and `Window` over a layered automaton.

`Law` unrolls a trellis for each row and window, which is right where each row has its own road to go. Here all rows
obey the same rules over the same L sites, so the product is unrolled and minimised once (`layers.py`) and every row and
step walks through the same tables. Two joint laws:

  - ``product``: the site predictions at all unknown sites, conditioned on the rules: exact for imposed rules where the
    prediction is right about sites one by one; a required motif is placed where the prediction likes it best.
  - ``exists``: revealed sites follow the prediction among values that can be completed; others count for nothing.

Sites behind the window weigh in uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from core.constrain import bits, sums
from core.constrain.law import restricted
from core.constrain.layers import Layers

__all__ = ["SharedLaw", "SharedWindow"]

Mode = Literal["product", "exists"]


@dataclass(eq=False)
class SharedWindow:
    """The next sites of B rows under a shared law.

    Args:
        law: the law.
        node, count: int64 [B], the rows' state and the budget they have spent.
        first: the first site of the window.
        length: sites in it.
    """

    law: SharedLaw
    node: Int[np.ndarray, " b"]
    count: Int[np.ndarray, " b"]
    first: int
    length: int

    @property
    def alphabet(self) -> Int[Tensor, "b k"]:
        """All tokens, for every row: int64 [B, K]."""
        return torch.arange(self.law.layers.tokens).expand(len(self.node), -1)

    @cached_property
    def _tables(self) -> tuple[Any, ...]:
        layers = self.law.layers
        rest = slice(self.first, layers.length)
        return layers.delta, layers.cost[rest], layers.letters[rest], layers.low, layers.high

    @cached_property
    def _forced(self) -> Tensor:
        letters = self.law.layers.letters[self.first : self.first + self.length]
        return torch.from_numpy(np.where(letters.sum(1) == 1, letters.argmax(1), -1))

    def _known(self, known: Tensor) -> np.ndarray:
        more = self.law.layers.length - self.first - self.length
        return np.pad(known.cpu().numpy().astype(np.int64), ((0, 0), (0, more)), constant_values=-1)

    def _log_p(self, log_p: Tensor) -> np.ndarray:
        more = self.law.layers.length - self.first - self.length
        tail = -np.log(self.law.layers.tokens)
        return np.pad(log_p.detach().double().cpu().numpy(), ((0, 0), (0, more), (0, 0)), constant_values=tail)

    def settle(self, known: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Return `known` with the sites filled to which the rules leave one value whatever the others are."""
        forced = self._forced.to(known.device)
        return torch.where((known < 0) & (forced >= 0), forced, known)

    def allowed(self, known: Int[Tensor, "b l"]) -> Bool[Tensor, "b l k"]:
        """Return which tokens have an admissible completion given `known` (-1 unknown), bool [B, L, K]."""
        out = bits.feasible(self._tables, self.node, self.count, self._known(known))
        return torch.from_numpy(out[:, : self.length]).to(known.device)

    def restrict(self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"]) -> Float[Tensor, "b l k"]:
        """Return the prediction renormalised over `allowed(known)`; uniform where it has no mass there."""
        return restricted(log_p, self.allowed(known))

    def admit(
        self,
        log_p: Float[Tensor, "b l k"],
        known: Int[Tensor, "b l"],
        reveal: Bool[Tensor, "b l"],
        u: Float[Tensor, "b l"],
        greedy: bool = False,
    ) -> Int[Tensor, "b l"]:
        """Draw the revealed sites jointly by the law's mode; rows that nothing completes, by *exists*."""
        more = self.law.layers.length - self.first - self.length
        held, weights = self._known(known), self._log_p(log_p)
        wanted = np.pad(reveal.cpu().numpy(), ((0, 0), (0, more)))
        uniform = np.pad(u.double().cpu().numpy(), ((0, 0), (0, more)))
        out, done = held, np.zeros(len(held), bool)
        if self.law.mode == "product":
            out, done = sums.draw(self._tables, self.node, self.count, weights, held, wanted, uniform, greedy)
        if not done.all():
            left = np.flatnonzero(~done)
            out[left] = bits.exists(self._tables, self.node[left], self.count[left], weights[left], held[left],
                                    wanted[left], uniform[left], greedy)  # fmt: skip
        return torch.from_numpy(out[:, : self.length]).to(log_p.device)

    def log_partition(self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Return the log-probability [B] that independent draws of the unknown sites obey the rules.

        Differentiable in `log_p`: the gradient is the conditioned law's marginals at the unknown sites.
        """
        return _LogPartition.apply(log_p, known, self)

    def marginals(self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"]) -> Float64[Tensor, "b l k"]:
        """Return P(x_i = v) under the conditioned product law, float64 [B, L, K]."""
        out = sums.marginals(self._tables, self.node, self.count, self._log_p(log_p), self._known(known), 0.0)
        return torch.from_numpy(out[:, : self.length]).to(log_p.device)


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_p: Tensor, known: Tensor, window: SharedWindow) -> Tensor:
        ctx.save_for_backward(log_p, known)
        ctx.window = window
        out = sums.total(window._tables, window.node, window.count, window._log_p(log_p), window._known(known))
        return torch.from_numpy(out).to(log_p)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        log_p, known = ctx.saved_tensors
        slope = ctx.window.marginals(log_p, known).to(log_p) * (known < 0)[..., None]
        return slope * grads[0][:, None, None], None, None


@dataclass(frozen=True, eq=False)
class SharedLaw:
    """The constraint of B rows that obey one layered automaton.

    A row's state is `node * (high + 1) + budget spent`.

    Args:
        layers: the rules.
        rows: batch size B.
        mode: which joint law reveals are drawn from.
    """

    layers: Layers
    rows: int
    mode: Mode = "product"

    def with_rows(self, rows: int) -> SharedLaw:
        """Return the same law for another number of rows."""
        return replace(self, rows=rows)

    def with_mode(self, mode: Mode) -> SharedLaw:
        """Return the same law drawn from in another mode."""
        return replace(self, mode=mode)

    def begin(self) -> Int[np.ndarray, " b"]:
        """Return the start states."""
        return np.zeros(self.rows, np.int64)

    def window(
        self, state: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"], length: int, remaining: int
    ) -> SharedWindow:
        """Return the window over the next `length` sites."""
        state = np.asarray(state, np.int64)
        node, count = np.divmod(state, self.layers.high + 1)
        return SharedWindow(self, node, count, self.layers.length - remaining - length, length)

    def whole(self, rows: int | None = None) -> SharedWindow:
        """Return the window over the whole sequence."""
        law = self if rows is None else self.with_rows(rows)
        return law.window(law.begin(), np.arange(law.rows), self.layers.length, 0)

    def advance(self, window: SharedWindow, tokens: Int[Tensor, "b l"]) -> Int[np.ndarray, " b"]:
        """Return the states after a window filled with `tokens` [B, L]; -1 would mean an inadmissible draw."""
        x, node, count = tokens.cpu().numpy(), window.node.copy(), window.count.copy()
        for i in range(window.length):
            count = count + self.layers.cost[window.first + i, x[:, i]]
            node = np.where(node >= 0, self.layers.delta[node, x[:, i]], -1)
        return np.where((node >= 0) & (count <= self.layers.high), node * (self.layers.high + 1) + count, -1)

    def finished(self, state: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        """No row ever finishes early: all have one length."""
        return np.zeros(len(state), bool)
