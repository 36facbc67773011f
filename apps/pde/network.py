"""PhyMPGN and PhyMPGN+: what is known through operators, what is not through a network.

    u_t = known(u, dx u, dy u, lap u, x, t) + scale * net(u, ...).

**PhyMPGN** (`Phympgn`; Zeng et al., 2025, arXiv:2410.01337), as released: the Laplacian of the known terms is the
learnable Laplace block; the net encodes nodes [u, x, one-hot type] and edges [u_j - u_i, length, direction], passes
messages L times with mean aggregation (residual and padding of the latent state in all but the last), and decodes.
On the cylinder (L = 5, width 128, block width 24) it has 950,228 parameters.

**PhyMPGN+** (`Plus`): the operators are RBF-FD or least squares of high order, and the net is local: at each node it
sees u, grad u and lap u in units of their spread over the training data,

    z = [u / s_0, dx u / s_1, dy u / s_1, lap u / s_2],     net = W p(z) + mlp([z, h]),

with p all products of two of them and of three fields (convection and the reactions of the paper are some) and of one
with the nearness of the boundary, where stencils are one-sided; h comes from `rounds` of message passing where a term
is not local. `lift` adds values and derivatives of functions of the state (`lift.py`) to p. W starts at the ridge
regression of the measured rates, the rest at zero; roll-outs train both. The net sees no coordinates, so it may be
moved to another mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags, identity
from torch import Tensor, nn

from apps.pde.boundary import Condition
from apps.pde.expressions import Expression, Scene
from apps.pde.laplacian import LaplaceBlock
from apps.pde.lift import Lift
from apps.pde.mesh import Mesh
from apps.pde.operators import Correction, Operators
from apps.pde.passing import MessageLayer, edge_geometry, mlp
from core.errors import DataError

__all__ = ["Known", "Phympgn", "Plus", "node_types"]

Derivatives = tuple[Tensor, Tensor, Tensor]


class Known:
    """The known terms: one expression for each field, or none."""

    def __init__(self, terms: Mapping[str, Any], fields: tuple[str, ...], parameters: tuple[str, ...]) -> None:
        self.fields = fields
        names = (*fields, *parameters)
        self.terms = [terms[f] if callable(terms.get(f)) else Expression(terms[f], names) if f in terms else None
                      for f in fields]  # fmt: skip

    @property
    def curved(self) -> bool:
        """Whether the terms ask for Laplacians at most (a function may ask for anything)."""
        return all(t is None or (isinstance(t, Expression) and t.asked <= {"lap"}) for t in self.terms)

    @property
    def sloped(self) -> bool:
        """Whether a term differentiates what may have a flux through sides where the fields have none."""
        return any(isinstance(t, Expression) and t.sloped for t in self.terms)

    def __call__(
        self, u: Tensor, t: Tensor | float, points: Tensor, parameters: Mapping[str, Any], operators: Any,
        alone: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Scene]:  # fmt: skip
        """Return the known rate [B, N, C] and the scene, whose derivatives the network reads again.

        `alone` gives Laplacians, where nothing else is asked for.
        """
        scene = Scene.of(self.fields, u, points.to(u), t, parameters, operators, alone)
        zero = u.new_zeros(u.shape[:2])
        parts = [zero if term is None else zero + term(scene).to(u) for term in self.terms]
        return torch.stack(parts, -1), scene


def node_types(mesh: Mesh, conditions: list[dict[str, Condition]]) -> Tensor:
    """Return the paper's one-hot types [N, 4]: normal, obstacle (zero values), inlet (other values), outlet (free)."""
    kind = torch.zeros(len(mesh), dtype=torch.int64)
    for part in mesh.groups:
        own = [c[part] for c in conditions]
        nodes = torch.from_numpy(mesh.nodes(part))
        if all(c.kind == "dirichlet" for c in own):
            kind[nodes] = 1 if all(c.g is not None and c.g.number == 0 for c in own) else 2
        elif all(c.kind == "free" for c in own):
            kind[nodes] = 3
    return nn.functional.one_hot(kind, 4).float()


def nearness(mesh: Mesh) -> np.ndarray:
    """Return how near each node is to the boundary: the share of it among neighbours and among theirs, [N, 2]."""
    step = mesh.adjacency + identity(len(mesh), format="csr")
    mean = csr_matrix(diags(1 / np.asarray(step.sum(1)).ravel()) @ step)
    held = np.zeros(len(mesh))
    held[mesh.boundary_nodes] = 1
    return np.stack([mean @ held, mean @ (mean @ held)], 1)


class LearnedOperators(nn.Module):
    """Gradients of the plain operators, the Laplacian of the paper's block."""

    def __init__(self, mesh: Mesh, base: Operators, block: LaplaceBlock) -> None:
        super().__init__()
        self.base, self.block = base, block

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (dx u, dy u, lap u)."""
        dx, dy, _ = self.base(u)
        return dx, dy, self.block(u)


class CorrectedOperators(nn.Module):
    """Operators plus a learned correction that keeps their moments."""

    def __init__(self, base: Operators, correction: Correction) -> None:
        super().__init__()
        self.base, self.correction = base, correction

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (dx u, dy u, lap u)."""
        dx, dy, lap = self.base(u)
        more = self.correction(u)
        return dx + more[..., 0], dy + more[..., 1], lap + more[..., 2]


class Phympgn(nn.Module):
    """The paper's network block.

    Args:
        mesh: where.
        fields: components of the state.
        types: one-hot node types [N, 4].
        fixed: nodes whose latent state is overwritten, bool [N]; all False turns the padding off.
        width, layers: of the processor.
        split: use the exact splitting of linear maps (`passing.py`).
    """

    geometry: Tensor
    graph: Tensor
    static: Tensor
    fixed: Tensor

    def __init__(
        self, mesh: Mesh, fields: int, types: Tensor, fixed: Tensor, width: int = 128, layers: int = 5,
        split: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        w = width
        self.node = mlp(fields + 6, w // 4, w // 2, w)
        self.edge = mlp(fields + 3, w // 4, w // 2, w)
        self.layers = nn.ModuleList(MessageLayer(w, w, 4, split) for _ in range(layers))
        self.decoder = mlp(w, w // 2, w // 4, fields)
        static = torch.cat([torch.from_numpy(mesh.points).float(), types], -1)
        buffers = {"static": static, "fixed": fixed, "graph": torch.from_numpy(mesh.graph())}
        buffers["geometry"] = torch.from_numpy(edge_geometry(mesh)).float()
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        """Return the unknown rate [B, N, C]."""
        i, j = self.graph
        batch = u.shape[0]
        h = start = self.node(torch.cat([u, self.static.to(u).expand(batch, -1, -1)], -1))
        e = self.edge(torch.cat([u[:, j] - u[:, i], self.geometry.to(u).expand(batch, -1, -1)], -1))
        keep = self.fixed[:, None]
        for layer in self.layers[:-1]:
            h = torch.where(keep, start, h + layer(h, e, self.graph))
        return self.decoder(self.layers[-1](h, e, self.graph))


class Plus(nn.Module):
    """The local network of PhyMPGN+.

    Args:
        mesh: where.
        fields: components of the state.
        width: of the perceptron (0: none, the polynomial alone).
        rounds: of message passing (0: purely local).
        inputs: 0: u; 1: u and its gradient; 2: and its Laplacian.
        still: take off what the net gives where all derivatives are zero, so that uniform states stay as they are.
        nonlinear: leave out what is linear in the state near zero: the known terms are all that is linear.
        lift: functions of the state whose derivatives it sees too.
    """

    scale: Tensor
    out: Tensor
    geometry: Tensor
    graph: Tensor
    near: Tensor
    pairs: Tensor
    triples: Tensor

    def __init__(
        self, mesh: Mesh, fields: int, width: int = 64, rounds: int = 0, inputs: int = 2, still: bool = False,
        nonlinear: bool = False, lift: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.fields, self.inputs, self.width = fields, inputs, width
        self.still, self.nonlinear = still, nonlinear
        self.lift = Lift(fields, lift, nonlinear, still) if lift else None
        size = fields * (1, 3, 4)[inputs]
        powers = {"pairs": combinations_with_replacement(range(size), 2),
                  "triples": combinations_with_replacement(range(fields), 3)}  # fmt: skip
        for name, rows in powers.items():
            self.register_buffer(name, torch.tensor(list(rows)).T.contiguous(), persistent=False)
        wide = 3 * size + self.pairs.shape[1] + self.triples.shape[1] + (self.lift.width if self.lift else 0)
        self.polynomial = nn.Linear(wide, fields)
        nn.init.zeros_(self.polynomial.weight)
        nn.init.zeros_(self.polynomial.bias)
        if width:
            self.layers = nn.ModuleList(MessageLayer(width, 3, 2) for _ in range(rounds))
            self.encode = mlp(size + 2, width) if rounds else None
            self.head = mlp(size + 2 + (width if rounds else 0), width, width, fields)
            nn.init.zeros_(self.head[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.head[-1].bias)  # type: ignore[arg-type]
        self.register_buffer("scale", torch.ones(3, fields))
        self.register_buffer("out", torch.ones(fields))
        self.register_buffer("geometry", torch.from_numpy(edge_geometry(mesh)).float(), persistent=False)
        self.register_buffer("graph", torch.from_numpy(mesh.graph()), persistent=False)
        self.register_buffer("near", torch.from_numpy(nearness(mesh)).float(), persistent=False)
        self.edged = len(mesh.boundary) > 0

    @property
    def blind(self) -> bool:
        """Whether it sees the state alone and asks for no derivatives."""
        return not self.inputs and self.lift is None

    def see(self, u: Tensor, derivatives: Derivatives | None) -> Tensor:
        """Return z [B, N, S] of u and (dx u, dy u, lap u)."""
        s = self.scale.to(u)
        if derivatives is None:
            return u / s[0]
        dx, dy, lap = (d[..., : self.fields] for d in derivatives)
        return torch.cat([u / s[0], dx / s[1], dy / s[1], lap / s[2]][: (1, 3, 4)[self.inputs]], -1)

    def powers(self, u: Tensor, derivatives: Derivatives | None, at: Tensor | None = None) -> Tensor:
        """Return p [B, N, P] at all nodes, or at some (bool [N]); if `still`, less what it is of u alone.

        The derivatives are those of u and, where there is a lift, of phi(u), [B, N, C + m].
        """
        z = self.see(u, derivatives)
        own = self._powers(z, at) - self._powers(self.uniform(z), at) if self.still else self._powers(z, at)
        if self.lift is None or derivatives is None:
            return own
        more = tuple(d[..., self.fields :] for d in derivatives)
        return torch.cat([own, self.lift.values(u, self.lift(u), more)], -1)  # type: ignore[arg-type]

    def uniform(self, z: Tensor) -> Tensor:
        """Return z [B, N, S] with all derivatives set to zero."""
        return torch.cat([z[..., : self.fields], torch.zeros_like(z[..., self.fields :])], -1)

    def _powers(self, z: Tensor, at: Tensor | None) -> Tensor:
        (a, b), (i, j, k) = self.pairs, self.triples
        one, two = (self.near if at is None else self.near[at]).to(z).unbind(-1)
        more = [z, z * one[:, None], z * two[:, None]]
        if self.nonlinear:
            more = [torch.zeros_like(v) for v in more]
        return torch.cat([more[0], z[..., a] * z[..., b], z[..., i] * z[..., j] * z[..., k], *more[1:]], -1)

    def reaction(self, u: Tensor) -> Tensor:
        """Return W p(z) [B, N, C] of the state alone: what `powers` gives, by columns, several times faster."""
        z = [column.contiguous() for column in self.see(u, None).unbind(-1)]
        terms = [] if self.nonlinear else [*z]
        terms += [a * b for a, b in combinations_with_replacement(z, 2)]
        terms += [a * b * c for a, b, c in combinations_with_replacement(z, 3)]
        if self.edged and not self.nonlinear:
            terms += [column * near for near in self.near.to(u).unbind(-1) for column in z]
        first = self.fields if self.nonlinear else 0
        W = self.polynomial.weight[:, first : first + len(terms)]
        x = torch.stack(terms).flatten(1)
        rate = W @ x if self.nonlinear else torch.addmm(self.polynomial.bias[:, None], W, x)
        return rate.unflatten(1, u.shape[:2]).permute(1, 2, 0).contiguous()

    def forward(self, u: Tensor, derivatives: Derivatives | None = None) -> Tensor:
        """Return the unknown rate [B, N, C] from u and the derivatives of `powers` (none where it is `blind`)."""
        if self.blind and not self.width and not self.still:
            return self.out.to(u) * self.reaction(u)
        bias = None if self.still or self.nonlinear else self.polynomial.bias
        rate = nn.functional.linear(self.powers(u, derivatives), self.polynomial.weight, bias)
        if not self.width:
            return self.out.to(u) * rate
        z = self.see(u, derivatives)
        more = self._head(u, z)
        if self.still:
            more = more - self._head(u, self.uniform(z))
        if self.nonlinear:
            size = z.square().sum(-1, keepdim=True)
            more = more * size / (1 + size)
        return self.out.to(u) * (rate + more)

    def _head(self, u: Tensor, z: Tensor) -> Tensor:
        seen = torch.cat([z, self.near.to(u).expand(*u.shape[:2], -1)], -1)
        if self.encode is not None:
            h = self.encode(seen)
            edge = self.geometry.to(u).expand(u.shape[0], -1, -1)
            for layer in self.layers:
                h = h + layer(h, edge, self.graph)
            seen = torch.cat([seen, h], -1)
        return self.head(seen)

    @torch.no_grad()
    def fit(
        self, seen: Sequence[tuple[Tensor, Derivatives | None, Tensor]], at: Tensor, area: Tensor, totals: float = 0.0,
        relative: bool = False, ridge: float = 1e-6,
    ) -> None:  # fmt: skip
        """Set the units and the polynomial from (u, derivatives, unknown rate) of some trajectories.

        Args:
            seen: of each trajectory, states [3 T, N, C] at three times of T intervals, their derivatives, and the mean
                over the interval of what the network shall return [T, N, C].
            at: nodes that these are of, bool [N].
            area: their weights in integrals, of mean 1.
            totals: weight of the error of a state's integral, beside the mean square error at its nodes.
            relative: count each state's error in units of its own rate.
            ridge: relative to the mean square of the regressors.
        """
        self._measure(seen)
        size = self.polynomial.in_features + 1
        gram, moment = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, self.fields, dtype=torch.float64)
        for u, d, rest in seen:
            X = self.powers(u, d, at).unflatten(0, (3, -1))
            X = ((X[0] + 4 * X[1] + X[2]) / 6).double()
            X, Y = torch.cat([X, torch.ones_like(X[..., :1])], -1), (rest / self.out).double()
            if relative:
                unit = Y.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-6)
                X, Y = X / unit, Y / unit
            for x, y, weight in ((X, Y, 1.0), ((X * area).mean(1), (Y * area).mean(1), totals)):
                x, y = x.flatten(0, -2), y.flatten(0, -2)
                gram += weight / len(x) * x.T @ x
                moment += weight / len(x) * x.T @ y
        unit = (gram.diagonal() / len(seen)).sqrt().clamp_min(1e-12)
        A = gram / len(seen) / unit / unit[:, None] + ridge * torch.eye(size, dtype=torch.float64)
        w = torch.linalg.solve(A, moment / len(seen) / unit[:, None]) / unit[:, None]
        self.polynomial.weight.copy_(w[:-1].T)
        self.polynomial.bias.copy_(w[-1])

    def _measure(self, seen: Sequence[tuple[Tensor, Derivatives | None, Tensor]]) -> None:
        """Set the units of all that the network sees and returns.

        Raises:
            DataError: they are beyond float32.
        """
        C = self.fields
        spread = [torch.stack([(u - u.mean((0, 1))).square().mean((0, 1)),
                               *([(d[0] ** 2 + d[1] ** 2).mean((0, 1))[:C], d[2].square().mean((0, 1))[:C]] if d else
                                 [torch.ones(C)] * 2)]) for u, d, _ in seen]  # fmt: skip
        self.scale.copy_(torch.stack(spread).mean(0).sqrt().clamp_min(1e-6))
        self.out.copy_(torch.stack([r.square().mean((0, 1)) for _, _, r in seen]).mean(0).sqrt().clamp_min(1e-6))
        if not bool(torch.isfinite(self.scale).all() and torch.isfinite(self.out).all()):
            raise DataError("or their derivatives are beyond what float32 holds", field="states",
                            hint="give lengths, times and values in units nearer to their size")  # fmt: skip
        if self.lift is not None:
            raw = [self.lift.raw(tuple(v[..., C:] for v in d)) for _, d, _ in seen if d]  # type: ignore[arg-type]
            size = torch.stack([torch.stack([v.square().mean((0, 1)) for v in pair]) for pair in raw]).mean(0)
            self.lift.unit.copy_(size.sqrt().clamp_min(1e-6))
