"""A model of how fields move: known terms, network, boundary and time step on one mesh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.pde.boundary import Condition, Padding, insulated, read_conditions
from apps.pde.laplacian import LaplaceBlock
from apps.pde.mesh import Mesh
from apps.pde.model import ModelConfig
from apps.pde.network import CorrectedOperators, Derivatives, Known, LearnedOperators, Phympgn, Plus, node_types
from apps.pde.operators import Correction, Operators, SparseMap
from apps.pde.refine import Refiner
from apps.pde.stepping import Imex, chebyshev, explicit
from apps.pde.submesh import interpolation, refined
from apps.pde.systems import System
from core.errors import DataError, UsageError
from core.noise import Stream

__all__ = ["Dynamics"]

LIFTED = 120_000  # nodes times states of a trajectory that a regression with many regressors is to hold
FORGET = 0.05  # share of a trajectory in which an analysis forgets its interpolated start


class Dynamics(nn.Module):
    """The learned solver on a mesh.

    Args:
        config: its shape.
        system: the equations.
        mesh: where.
        dt: time between two states.
        substeps: steps in between.
    """

    def __init__(self, config: ModelConfig, system: System, mesh: Mesh, dt: float, substeps: int = 1) -> None:
        super().__init__()
        self.config, self.system, self.mesh, self.n = config, system, mesh, len(mesh)
        self.dt, self.substeps, fields = dt / substeps, substeps, system.fields
        mesh, self.between = _finer(mesh, config)
        names = tuple(system.parameters)
        conditions = read_conditions(mesh, system.boundary if mesh.groups else {}, fields, names)
        self.known = Known(self._told(), fields, names)
        sides = insulated(conditions) if config.operators == "rbf" and not self.known.sloped else []
        conditions = [{p: Condition("free") if p in sides else c for p, c in own.items()} for own in conditions]
        plain = Operators(mesh, config.operators, config.k, config.degree, sides)  # type: ignore[arg-type]
        slopes = plain.stencils if config.operators != "cotangent" else None
        self.boundary = Padding(mesh, conditions, fields, slopes, system.parameters)
        fixed = self.boundary.dirichlet.all(-1)
        self.operators: nn.Module = plain
        self.net: nn.Module | None = None
        if config.kind == "phympgn":
            if low := [k for k, least in (("rounds", 1), ("width", 4)) if getattr(config, k) < least]:
                raise UsageError("is too small for the paper's network", field=f"model.{low[0]}",
                                 value=getattr(config, low[0]), hint="model.rounds=5 model.width=128")  # fmt: skip
            if config.laplace == "block":
                self.operators = LearnedOperators(mesh, plain, LaplaceBlock(mesh, len(fields), config.block))
            held = fixed if config.padding else torch.zeros_like(fixed)
            kinds = node_types(mesh, conditions)
            self.net = Phympgn(mesh, len(fields), kinds, held, config.width, config.rounds, config.split)
        elif config.kind == "plus":
            if config.correct and plain.stencils is not None:
                own = Correction(mesh, plain.stencils, ("dx", "dy", "lap"), max(2, plain.stencils.index.shape[1] // 16))
                self.operators = CorrectedOperators(plain, own)
            c = config
            self.net = Plus(mesh, len(fields), c.width, c.rounds, c.inputs, c.still, c.nonlinear, c.lift)
        blind = not isinstance(self.net, Plus) or self.net.blind
        self.alone = plain.lap if self.operators is plain and self.known.curved and blind else None
        self.refiner = Refiner(mesh, len(fields), config.refine) if config.refine else None
        self.register_buffer("points", torch.from_numpy(mesh.points), persistent=False)
        self.imex = self._implicit(plain) if config.integrator == "imex" else None

    points: Tensor

    @property
    def free(self) -> Tensor:
        """The given nodes that no boundary condition gives all values, bool [N]."""
        return ~self.boundary.dirichlet[: self.n].all(-1)

    def enter(self, u: Tensor, t: Any = 0.0, parameters: Mapping[str, Any] | None = None) -> Tensor:
        """Return the state inside [B, M, C] of values at the given nodes [B, N, C], its boundary conditions met."""
        return self.pad(self.inside(u), t, parameters)

    def leave(self, w: Tensor) -> Tensor:
        """Return the values at the given nodes [B, N, C] of a state inside [B, M, C], which they do not keep alive."""
        return w[:, : self.n].clone() if self.between else w

    def inside(self, u: Tensor) -> Tensor:
        """Return values [B, M, C] on the mesh inside, interpolated from those at the given nodes [B, N, C]."""
        for P in self.between:
            u = P(u)
        return u

    def _told(self) -> Mapping[str, Any]:
        if unknown := [name for name in self.config.terms if name not in self.system.fields]:
            raise UsageError("no such field", field="model.terms", value=unknown[0], choices=self.system.fields)
        told = {"none": {}, "diffusion": self.system.known, "full": self.system.full}[self.config.knowledge]
        return {**told, **self.config.terms}

    def _implicit(self, operators: Operators) -> Imex:
        """Make the implicit part: the constant diffusion of each field."""
        s = self.system
        coefficients = []
        for name in s.fields:
            term = self._told().get(name, "")
            found = [v for v in s.parameters if f"{v}*lap({name})" in str(term).replace(" ", "")]
            if not found:
                hint = "IMEX needs a known term PARAMETER*lap(FIELD)"
                raise UsageError("has no constant diffusion", field=f"terms.{name}", value=term, hint=hint)
            coefficients.append(s.parameters[found[0]])
        rows = self.boundary.dirichlet.numpy().copy()
        return Imex(operators.matrices["lap"], coefficients, self.dt, rows)

    def pad(self, u: Tensor, t: Any = 0.0, parameters: Mapping[str, Any] | None = None) -> Tensor:
        """Return the state with its boundary conditions met."""
        return self.boundary(u, t, {**self.system.parameters, **(parameters or {})}) if self.config.padding else u

    def parts(self, u: Tensor, t: Any, parameters: Mapping[str, Any] | None = None) -> tuple[Tensor, Tensor]:
        """Return the known and the learned part of du/dt, [B, N, C] each."""
        given = {**self.system.parameters, **(parameters or {})}
        known, scene = self.known(u, t, self.points, given, self.operators, self.alone)
        if self.net is None:
            return known, torch.zeros_like(u)
        if isinstance(self.net, Phympgn) or (isinstance(self.net, Plus) and self.net.blind):
            return known, self.net(u)
        each = [scene.derivatives(f, u[..., k], u.shape[:2]) for k, f in enumerate(self.system.fields)]
        dx, dy, lap = (torch.stack(part, -1) for part in zip(*each, strict=True))
        return known, self.net(u, self._lifted(u, (dx, dy, lap)))

    def _lifted(self, u: Tensor, own: Derivatives) -> Derivatives:
        """Return derivatives with those of the network's functions of u beside them."""
        if not isinstance(self.net, Plus) or self.net.lift is None:
            return own
        more = self.operators(self.net.lift(u))
        dx, dy, lap = (torch.cat(pair, -1) for pair in zip(own, more, strict=True))
        return dx, dy, lap

    def rate(self, u: Tensor, t: Any, parameters: Mapping[str, Any] | None = None) -> Tensor:
        """Return du/dt [B, N, C]."""
        known, learned = self.parts(u, t, parameters)
        return known + learned

    def step(self, u: Tensor, t: Any, parameters: Mapping[str, Any] | None = None, stride: int = 1) -> Tensor:
        """Return the state `stride` states later, by as many steps as one takes: `stride` times as long."""

        def pad(v: Tensor, s: Any) -> Tensor:
            return self.pad(v, s, parameters)

        dt = self.dt * stride
        for k in range(self.substeps):
            s = t + k * dt
            if self.imex is not None:
                u = self.imex(lambda v, r: self.rate(v, r, parameters) - self._stiff(v), pad, u, s)
            elif self.config.integrator == "chebyshev":
                u = chebyshev(lambda v, r: self.rate(v, r, parameters), pad, u, s, dt, self.config.stages)
            else:
                u = explicit(lambda v, r: self.rate(v, r, parameters), pad, u, s, dt, self.config.integrator)
        return u

    def _stiff(self, u: Tensor) -> Tensor:
        from apps.pde.stepping import _Multiply

        assert self.imex is not None
        columns = [_Multiply.apply(u[..., k].T.contiguous(), L).T for k, L in enumerate(self.imex.matrices)]  # type: ignore[union-attr]
        return torch.stack(columns, -1)

    def refined(
        self, u: Tensor, t: Any, parameters: Mapping[str, Any] | None = None, stride: int = 1,
        stream: Stream | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the state `stride` states later, by `step` and, where there is one, the refiner.

        `stream` is of the refiner's noise (`refine.py`).
        """
        after = self.step(u, t, parameters, stride)
        if self.refiner is None:
            return after
        span = self.dt * self.substeps * stride
        return self.pad(self.refiner(u, after, span, float(t), stream), t + span, parameters)

    def forward(
        self,
        u: Tensor,
        steps: int,
        t: Any = 0.0,
        parameters: Mapping[str, Any] | None = None,
        detach_first: bool = False,
        stride: int = 1,
    ) -> Tensor:
        """Return the states after 1 ... `steps` steps of `stride` states each, [B, steps, N, C], from u [B, N, C].

        With gradients they are steps of the physics alone, and only the state of each is kept; what is inside is
        computed again.
        `detach_first` cuts the gradient after the first step, as the paper's code does.
        """
        with torch.autocast(u.device.type, enabled=False):  # derivatives do not survive half precision
            out, u = [], self.enter(u, t, parameters)
            for k in range(steps):
                at = t + k * self.dt * self.substeps * stride
                if torch.is_grad_enabled() and self.config.checkpoint and steps > 1:
                    u = _Again.apply(lambda v, r=at: self.step(v, r, parameters, stride), u, *self.parameters())  # type: ignore[assignment]
                else:
                    u = (self.step if torch.is_grad_enabled() else self.refined)(u, at, parameters, stride)
                out.append(self.leave(u))
                if k == 0 and detach_first:
                    u = u.detach()
            return torch.stack(out, 1) if out else self.leave(u)[:, None][:, :0]

    @torch.no_grad()
    def calibrate(
        self, u: Tensor, parameters: Mapping[str, Any] | None = None, frames: int = 100, t: float = 0.0
    ) -> None:
        """Set the units of PhyMPGN+'s network from trajectories u [n, T, N, C], and its polynomial by regression.

        The regression is of the change over two states, Simpson's rule in time of the rates (exact to the fourth order
        in dt), at about `frames` states of each trajectory (fewer where nodes are many); nodes with given values are
        left out. With a finer mesh inside, its states are first those that the data spread to, then `sweeps`
        times those of `analysed` by the model so far, unless these leave what is finite; of an analysis
        the first `FORGET` of a trajectory is left out. `t` is the time of the first states.

        Raises:
            DataError: a trajectory has fewer than three states.
        """
        if not isinstance(self.net, Plus):
            return
        if u.shape[1] < 3:
            raise DataError("needs three at least, of which rates are measured", field="states", value=u.shape[1])
        if self.net.lift is not None:
            self.net.lift.measure(u)
            frames = min(frames, max(20, LIFTED // self.n))
        last, stride = u.shape[1] - 2, max(1, (u.shape[1] - 2) // frames)
        area = torch.from_numpy(self.mesh.node_area)[self.free, None]
        at = torch.zeros(len(self.points), dtype=torch.bool)
        at[: self.n] = self.free
        for sweep in range(1 + self.config.sweeps * bool(self.between)):
            begins = torch.arange(int(FORGET * last) if sweep else 0, last, stride)
            wanted, place = torch.unique(begins + torch.arange(3)[:, None], return_inverse=True)
            given = {k: v[:, None] for k, v in (parameters or {}).items()}
            times = t + (begins + torch.arange(3)[:, None]).double() * (self.dt * self.substeps)
            followed = self.analysed(u, wanted.tolist(), given, t) if sweep else None
            seen = []
            for row, path in enumerate(u):
                kept = self.inside(path[wanted]) if followed is None else followed[row]
                if not finite(kept, path):
                    return
                own = {k: v[row : row + 1] for k, v in given.items()}
                seen.append(self._regressors(kept[place], own, at, times))
            self.net.fit(seen, at, area / area.mean(), self.config.totals, self.config.relative)

    def _regressors(
        self, now: Tensor, own: Mapping[str, Tensor], at: Tensor, times: Tensor
    ) -> tuple[Tensor, Derivatives | None, Tensor]:
        """Return states, derivatives and the unknown rate at some nodes, from successive states [3, T, M, C].

        `times` [3, T] are theirs.
        """
        assert isinstance(self.net, Plus)
        flat, span = now.flatten(0, 1), self.dt * self.substeps
        given = {**self.system.parameters, **{k: v.expand(len(flat), 1) for k, v in own.items()}}
        known = self.known(flat, times.reshape(-1, 1), self.points, given, self.operators, self.alone)[0]
        rest = (now[2] - now[0]) / (2 * span) - simpson(known.reshape(now.shape))
        if self.net.blind:
            return flat[:, at], None, rest[:, at]
        dx, dy, lap = (d[:, at] for d in self._lifted(flat, self.operators(flat)))
        return flat[:, at], (dx, dy, lap), rest[:, at]

    @torch.no_grad()
    def analysed(
        self, u: Tensor, keep: Sequence[int], parameters: Mapping[str, Any] | None = None, t: float = 0.0
    ) -> Tensor:
        """Return states inside [n, len(keep), M, C] that follow trajectories u [n, T, N, C] (`submesh.py`).

        Args:
            u: the trajectories.
            keep: which of their states, ascending.
            parameters: name -> values [n, 1].
            t: time of their first states.
        """
        w, out, span = self.enter(u[:, 0], t, parameters), [], self.dt * self.substeps
        kept = set(keep)
        for k in range(max(keep) + 1):
            if k:
                w = self.step(w, t + (k - 1) * span, parameters)
                w = self.pad(w + self.inside(u[:, k] - self.leave(w)), t + k * span, parameters)
            if k in kept:
                out.append(w)
        return torch.stack(out, 1)


def _finer(mesh: Mesh, config: ModelConfig) -> tuple[Mesh, nn.ModuleList]:
    """Return the mesh inside, and the maps that lead there."""
    if config.fine and config.refine:
        message = "learns from true states, and a finer mesh has none"
        raise UsageError(message, field="model.refine", value=config.refine, hint="model.fine=0")
    maps = nn.ModuleList()
    for _ in range(config.fine):
        maps.append(SparseMap(interpolation(mesh)))
        mesh = refined(mesh)
    return mesh, maps


def simpson(value: Tensor) -> Tensor:
    """Return the mean over an interval of what has the values [3, ...] at its ends and its middle."""
    return (value[0] + 4 * value[1] + value[2]) / 6


class _Again(torch.autograd.Function):
    """A step whose inside is not kept but computed again for the gradient."""

    @staticmethod
    def forward(ctx: Any, step: Callable[[Tensor], Tensor], u: Tensor, *weights: Tensor) -> Tensor:
        ctx.step = step
        ctx.save_for_backward(u, *weights)
        return step(u)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        u, *weights = ctx.saved_tensors
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            wanted = [u, *(w for w in weights if w.requires_grad)]
            found = iter(torch.autograd.grad(ctx.step(u), wanted, grad[0], allow_unused=True))
        first = next(found)
        return None, first, *(next(found) if w.requires_grad else None for w in weights)


def finite(u: Tensor | np.ndarray, like: Tensor | np.ndarray | None = None) -> bool:
    """Tell whether a state is usable: finite, and not absurdly large beside one in the same units."""
    value, usual = torch.as_tensor(u), 0.0 if like is None else float(torch.as_tensor(like).abs().max())
    return bool(torch.isfinite(value).all()) and float(value.abs().max()) < max(1e6, 1e3 * usual)
