"""PhyMPGN and PhyMPGN+: what is known through operators, what is not through a network.

    u_t = known(u, dx u, dy u, lap u, x, t) + scale * net(u, ...).

**PhyMPGN** (`Phympgn`; Zeng et al., 2025, arXiv:2410.01337), as released: the Laplacian of the known terms is the
learnable Laplace block; the net encodes nodes [u, x, one-hot type] and edges [u_j - u_i, length, direction], passes
messages L times with mean aggregation (residual and padding of the latent state in all but the last), and decodes.
On the cylinder (L = 5, width 128, block width 24) it has 950,228 parameters.

**PhyMPGN+** (`Plus`): the operators are RBF-FD or least squares of high order, and the net is local: at each node it
sees u, grad u and lap u in units of their spread over the training data,

    z = [u / s_0, dx u / s_1, dy u / s_1, lap u / s_2],     net = (A z) (B z) W + mlp([z, h]),

a product (convection is one) beside a perceptron, with h from `rounds` of message passing where a term is not local.
It sees no coordinates, so it may be moved to another mesh. Its output starts at zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from apps.pde.boundary import Condition
from apps.pde.expressions import Expression, Scene
from apps.pde.laplacian import LaplaceBlock
from apps.pde.mesh import Mesh
from apps.pde.operators import Correction, Operators
from apps.pde.passing import MessageLayer, edge_geometry, mlp

__all__ = ["Known", "Phympgn", "Plus", "node_types"]


class Known:
    """The known terms: one expression for each field, or none."""

    def __init__(self, terms: Mapping[str, Any], fields: tuple[str, ...], parameters: tuple[str, ...]) -> None:
        self.fields = fields
        names = (*fields, *parameters)
        self.terms = [terms[f] if callable(terms.get(f)) else Expression(terms[f], names) if f in terms else None
                      for f in fields]  # fmt: skip

    def __call__(
        self, u: Tensor, t: Tensor | float, points: Tensor, parameters: Mapping[str, Any], operators: Any
    ) -> tuple[Tensor, Scene]:
        """Return the known rate [B, N, C] and the scene, whose derivatives the network reads again."""
        scene = Scene.of(self.fields, u, points.to(u), t, parameters, operators)
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
            kind[nodes] = 1 if all(c.g is not None and c.g.text == "0" for c in own) else 2
        elif all(c.kind == "free" for c in own):
            kind[nodes] = 3
    return nn.functional.one_hot(kind, 4).float()


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
        width, rank: of the perceptron and of the product.
        rounds: of message passing (0: purely local).
        inputs: 0: u; 1: u and its gradient; 2: and its Laplacian.
    """

    scale: Tensor
    out: Tensor
    geometry: Tensor
    graph: Tensor

    def __init__(
        self, mesh: Mesh, fields: int, width: int = 64, rank: int = 16, rounds: int = 0, inputs: int = 2
    ) -> None:
        super().__init__()
        self.fields, self.inputs = fields, inputs
        size = fields * (1, 3, 4)[inputs]
        self.a, self.b = nn.Linear(size, rank), nn.Linear(size, rank)
        self.product = nn.Linear(rank, fields, bias=False)
        self.encode = mlp(size, width)
        self.layers = nn.ModuleList(MessageLayer(width, 3, 2) for _ in range(rounds))
        self.head = mlp(size + (width if rounds else 0), width, width, fields)
        for last in (self.product, self.head[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.head[-1].bias)  # type: ignore[arg-type]
        if not rounds:
            del self.encode
        self.register_buffer("scale", torch.ones(3, fields))
        self.register_buffer("out", torch.ones(fields))
        self.register_buffer("geometry", torch.from_numpy(edge_geometry(mesh)).float(), persistent=False)
        self.register_buffer("graph", torch.from_numpy(mesh.graph()), persistent=False)

    def forward(self, u: Tensor, derivatives: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Return the unknown rate [B, N, C] from u and (dx u, dy u, lap u)."""
        dx, dy, lap = derivatives
        s = self.scale.to(u)
        z = torch.cat([u / s[0], dx / s[1], dy / s[1], lap / s[2]][: (1, 3, 4)[self.inputs]], -1)
        seen = z
        if len(self.layers):
            h = self.encode(z)
            edge = self.geometry.to(u).expand(u.shape[0], -1, -1)
            for layer in self.layers:
                h = h + layer(h, edge, self.graph)
            seen = torch.cat([z, h], -1)
        return self.out.to(u) * (self.product(self.a(z) * self.b(z)) + self.head(seen))
