"""Constraints as the samplers see them: a window of the law, what it allows, and draws that keep it.

A `Constraint` is a law over WHOLE sequences. Block by block it hands out a `Window` over the next L tokens, which

* `restrict`s a prediction to the values that still have an admissible completion (given the tokens known so far),
* `admit`s the sites that a sampler wants to reveal, drawn jointly from one of three laws:

  - ``exists``: the prediction at the revealed sites, the others contribute feasibility only. Right when the data
    obeys the law anyway (roads): one site at a time it is the model itself.
  - ``reference``: a counted chain over the law, the prediction entering as matched marginals. Right for laws imposed
    from outside and for few steps; exact at any number of steps when the data are Markov and the chain is theirs.
    ``reference-all`` matches the predictions at *all* unknown sites instead of those revealed now.
  - ``product``: all unknown sites weigh in with their predictions as likelihoods. Kept because it is what
    "condition the product of the site predictions" means, and because its bias is measured (`constraint_law`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from core.constrain.chain import Markov
from core.constrain.graph import StateGraph
from core.constrain.project import FLOOR, floored, project
from core.constrain.trellis import Trellis, unroll

__all__ = ["Constraint", "Free", "FreeWindow", "Law", "LawWindow", "Learned", "Mode", "Window", "restricted"]

Mode = Literal["exists", "reference", "reference-all", "product"]


class Window(Protocol):
    """What a law admits over the next L tokens of B rows, in a local alphabet of K tokens."""

    @property
    def alphabet(self) -> Int[Tensor, "b k"]:
        """The global tokens of each row, int64 [B, K], -1 where a row has fewer."""
        ...

    def settle(self, known: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Return `known` (-1 unknown) with the sites filled that have a single admissible value."""
        ...

    def restrict(self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"]) -> Float[Tensor, "b l k"]:
        """Return the prediction [B, L, K] renormalised over values with an admissible completion."""
        ...

    def admit(
        self,
        log_p: Float[Tensor, "b l k"],
        known: Int[Tensor, "b l"],
        reveal: Bool[Tensor, "b l"],
        u: Float[Tensor, "b l"],
        greedy: bool = False,
    ) -> Int[Tensor, "b l"]:
        """Return tokens int64 [B, L]: `known` where known (-1 unknown), draws at `reveal`."""
        ...


class Constraint(Protocol):
    """A law over whole sequences, read block by block."""

    def begin(self) -> Int[np.ndarray, " b"]:
        """Return the state of each row before the first token, int64 [B]."""
        ...

    def window(self, state: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"], length: int, remaining: int) -> Window:
        """Return the window of some rows over the next `length` tokens with `remaining` after it."""
        ...

    def advance(self, window: Window, tokens: Int[Tensor, "b l"]) -> Int[np.ndarray, " b"]:
        """Return the states after a window filled with local `tokens` [B, L]."""
        ...

    def finished(self, state: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        """Return which rows need no further tokens, bool [B]."""
        ...


@dataclass(eq=False)
class FreeWindow:
    """No law: every token everywhere, sites independent."""

    alphabet: Int[Tensor, "b k"]

    def settle(self, known: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Return `known`: nothing is forced."""
        return known

    def restrict(self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"]) -> Float[Tensor, "b l k"]:
        """Return the prediction, with known sites held."""
        return _hold(log_p.log_softmax(-1), known)

    def admit(
        self,
        log_p: Float[Tensor, "b l k"],
        known: Int[Tensor, "b l"],
        reveal: Bool[Tensor, "b l"],
        u: Float[Tensor, "b l"],
        greedy: bool = False,
    ) -> Int[Tensor, "b l"]:
        """Draw each revealed site from its own prediction by inverse CDF in float64."""
        if greedy:
            drawn = log_p.argmax(-1)
        else:
            cdf = log_p.double().softmax(-1).cumsum(-1)
            drawn = torch.searchsorted(cdf, (u[..., None] * cdf[..., -1:]), right=True)[..., 0]
            last = log_p.shape[-1] - 1 - log_p.isfinite().flip(-1).int().argmax(-1)
            drawn = torch.minimum(drawn, last)
        return torch.where(reveal, drawn, known)


@dataclass(frozen=True)
class Free:
    """The trivial constraint over a fixed alphabet.

    Args:
        rows: batch size B.
        tokens: alphabet size K.
    """

    rows: int
    tokens: int

    def begin(self) -> Int[np.ndarray, " b"]:
        """Return dummy states."""
        return np.zeros(self.rows, np.int64)

    def window(
        self, state: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"], length: int, remaining: int
    ) -> FreeWindow:
        """Return the window in which everything is allowed."""
        return FreeWindow(torch.arange(self.tokens).expand(len(state), -1))

    def advance(self, window: Window, tokens: Int[Tensor, "b l"]) -> Int[np.ndarray, " b"]:
        """Return dummy states."""
        return np.zeros(len(tokens), np.int64)

    def finished(self, state: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        """No row ever finishes early."""
        return np.zeros(len(state), bool)


@dataclass(eq=False)
class LawWindow:
    """A window of a `Law`.

    Args:
        trellis: its admissible continuations.
        mode: which joint law `admit` draws from.
        alphabet: int64 [B, K] global token of each local one, -1 where a row has fewer.
        tolerance, sweeps: when the projection of the reference laws stops.
        learned: the window of the learned law alone, where the law imposes more; in the same alphabet.
    """

    trellis: Trellis
    mode: Mode
    alphabet: Int[Tensor, "b k"]
    tolerance: float = 1e-4
    sweeps: int = 12
    learned: Trellis | None = None

    @cached_property
    def plain(self) -> Trellis:
        """The trellis without its reference chain."""
        return replace(self.trellis, log_weight=np.zeros_like(self.trellis.log_weight))

    def allowed(self, known: Int[Tensor, "b l"]) -> Bool[Tensor, "b l k"]:
        """Return which tokens have an admissible completion given `known` (-1 unknown), bool [B, L, K]."""
        return torch.from_numpy(self.trellis.feasible(known.cpu().numpy())).to(known.device)

    def settle(self, known: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """Return `known` with the sites filled that have a single admissible value."""
        allowed = self.allowed(known)
        forced = (known < 0) & (allowed.sum(-1) == 1)
        return torch.where(forced, allowed.int().argmax(-1), known)

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
        """Draw the revealed sites jointly from the mode's law."""
        if self.mode == "exists":
            out = self.trellis.exists(
                log_p.detach().double().cpu().numpy(), known.cpu().numpy(), reveal.cpu().numpy(),
                u.double().cpu().numpy(), greedy,
            )  # fmt: skip
            return torch.from_numpy(out).to(log_p.device)
        chain = self.plain if self.mode == "product" else self.trellis
        law = Markov(chain, self.potentials(log_p.double(), known, reveal))
        return torch.where(reveal, law.mode() if greedy else law.sample(u.double()), known)

    def potentials(
        self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"], reveal: Bool[Tensor, "b l"]
    ) -> Float64[Tensor, "b l k"]:
        """Return the site potentials of the `reference` or `product` laws, float64 [B, L, K]."""
        allowed = self.allowed(known)
        if self.mode == "product":
            return _hold(floored(log_p, allowed), known)
        match = reveal if self.mode == "reference" else known < 0
        phi = project(self.learned or self.trellis, log_p, known, match, self.tolerance, self.sweeps)
        return phi if self.learned is None else torch.where(allowed, phi.clamp_min(FLOOR), -torch.inf)

    def log_partition(self, log_p: Float[Tensor, "b l k"], known: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Return the log-probability [B] that independent draws of the unknown sites obey the law.

        Differentiable in `log_p`; -inf where the prediction rules out every completion.
        """
        return Markov(self.plain, _hold(log_p.double(), known)).log_partition()


@dataclass(frozen=True, eq=False)
class Learned:
    """The law that the data obey anyway, below a `Law` that imposes more.

    Args:
        law: over the same tokens; its `log_weight` is the reference chain.
        state: int64 [S], the learned law's state in each state of the larger one.
    """

    law: Law
    state: Int[np.ndarray, " s"]


@dataclass(eq=False)
class Law:
    """The constraint of a state graph: start somewhere, be accepted at the end.

    Args:
        graph: the state graph; its `log_weight` is the reference chain.
        start: int64 [B], state of each row before the first token.
        togo: int32 [G, S], tokens to acceptance for each group of rows (`StateGraph.togo`).
        group: int64 [B], the group of each row.
        exact: bool [R + 1, S], `exact[r]` the states acceptable after exactly r more tokens, for laws whose accepting
            states do not loop; None where they do.
        mode: which joint law `admit` draws from.
        tolerance, sweeps: when the projection of the reference laws stops.
        full: number tokens globally (small alphabets).
        learned: what of the law the data obey anyway (needs `full`): the reference laws are fitted there and then
            conditioned on the rest, which is exact for Markov data. None: all of it.
    """

    graph: StateGraph
    start: Int[np.ndarray, " b"]
    togo: Int[np.ndarray, "g s"]
    group: Int[np.ndarray, " b"]
    exact: Bool[np.ndarray, "r s"] | None = None
    mode: Mode = "exists"
    tolerance: float = 1e-4
    sweeps: int = 12
    full: bool = False
    learned: Learned | None = None

    def with_mode(self, mode: Mode) -> Law:
        """Return the same law drawn from in another mode."""
        return replace(self, mode=mode)

    def begin(self) -> Int[np.ndarray, " b"]:
        """Return the start states."""
        return np.asarray(self.start, np.int64)

    def window(
        self, state: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"], length: int, remaining: int
    ) -> LawWindow:
        """Return the cone of the next `length` tokens; raises InfeasibleError where it is empty."""
        exact = None if self.exact is None else self.exact[remaining]
        trellis = unroll(self.graph, state, length, remaining, self.togo, self.group[rows], exact, self.full)
        learned = None
        if self.learned is not None and self.mode.startswith("reference"):
            learned = self.learned.law.window(self.learned.state[state], rows, length, remaining).trellis
        alphabet = torch.from_numpy(np.array(trellis.alphabet, np.int64))
        return LawWindow(trellis, self.mode, alphabet, self.tolerance, self.sweeps, learned)

    def advance(self, window: Window, tokens: Int[Tensor, "b l"]) -> Int[np.ndarray, " b"]:
        """Return the states after the window; -1 would mean an inadmissible draw."""
        return window.trellis.arrive(tokens.cpu().numpy())  # type: ignore[attr-defined]

    def finished(self, state: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
        """Rows in an accepting state that loops have arrived."""
        if self.exact is not None:
            return np.zeros(len(state), bool)
        return self.togo[self.group[rows], state] == 0


def restricted(log_p: Float[Tensor, "b l k"], allowed: Bool[Tensor, "b l k"]) -> Float[Tensor, "b l k"]:
    """Return the prediction renormalised over `allowed`; uniform where it has no mass there."""
    out = log_p.masked_fill(~allowed, -torch.inf)
    empty = ~out.isfinite().any(-1, keepdim=True)
    return torch.where(empty & allowed, torch.zeros_like(out), out).log_softmax(-1)


def _hold(log_p: Tensor, known: Tensor) -> Tensor:
    """Give known sites all the mass."""
    one_hot = torch.nn.functional.one_hot(known.clamp_min(0), log_p.shape[-1]).bool()
    held = torch.where(one_hot, 0.0, -torch.inf).to(log_p.dtype)
    return torch.where((known >= 0)[..., None], held, log_p)
