"""A refiner around the physics step: what the step leaves is drawn by a few steps of denoising.

With v = step(u^k) the step of the known terms and the network, what it leaves in units of its spread s,

    r = (u^{k+1} - v) / (dt s),        u^{k+1} <- pad(v + dt s r),

is a sample of p(r | u^k, v), made by the continuous core: a Gaussian process that forgets r, a network that predicts it
from r_t at K levels of noise

    sigma_0 = 1,     sigma_j = LEAST^{j / (K - 1)},     j = 0 ... K - 1,

and the solver that predicts, adds noise anew at the next level, and predicts (`core.solvers.sde.ping_pong`). That is
PDE-Refiner (Lippe et al., 2023, arXiv:2308.05732) with the physics step as its first prediction: at sigma_0 the network
sees only u^k and v, at smaller noise parts of r of ever smaller size, which a squared error alone would leave out.
K = 0 is the physics step.

The network is PhyMPGN's encoder, messages and decoder in small, with the level of noise as scale and shift of the
latent state (FiLM; Perez et al., 2018, arXiv:1709.07871). The noise of a step is a function of (seed, time) alone and
the same for all trajectories of a batch, unless a stream says otherwise: a roll-out does not depend on its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apps.pde.mesh import Mesh
from apps.pde.passing import MessageLayer, edge_geometry, mlp
from core.denoiser import Preconditioned
from core.noise import Stream
from core.objective.flow import flow_loss
from core.plan import Table
from core.process.gaussian import Cosine, Gaussian
from core.sample import integrate
from core.solvers.sde import ping_pong

__all__ = ["Refiner", "levels"]

LEAST = 0.1  # least level of noise, relative to what the physics step leaves


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network knows of a step: u^k and (v - u^k) / dt in units of their spread, [B, N, C] each."""

    state: Tensor
    move: Tensor


def levels(process: Gaussian, calls: int) -> Tensor:
    """Return the times of the K calls and the end, float64 [K + 1], from 1 to 0."""
    share = torch.arange(calls, dtype=torch.float64) / max(1, calls - 1)
    sigma = LEAST**share
    times = process.schedule.inverse(0.5 * torch.log1p(-(sigma**2)) - sigma.log())
    times[0] = 1.0
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


class Refiner(nn.Module):
    """Draws what a step leaves.

    Args:
        mesh: where.
        fields: C.
        calls: K, of its network.
        width: of the latent state.
        rounds: of messages.
    """

    scale: Tensor
    geometry: Tensor
    graph: Tensor

    def __init__(self, mesh: Mesh, fields: int, calls: int, width: int = 32, rounds: int = 2) -> None:
        super().__init__()
        self.process = Gaussian(Cosine())
        self.node, self.edge = mlp(3 * fields, width, width), mlp(2 * fields + 3, width, width)
        self.layers = nn.ModuleList(MessageLayer(width, width, 2) for _ in range(rounds))
        self.film = nn.ModuleList(mlp(1, width, 2 * width) for _ in range(rounds))
        self.decoder = mlp(width, width, fields)
        nn.init.zeros_(self.decoder[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.decoder[-1].bias)  # type: ignore[arg-type]
        self.register_buffer("scale", torch.ones(3, fields))
        self.register_buffer("geometry", torch.from_numpy(edge_geometry(mesh)).float(), persistent=False)
        self.register_buffer("graph", torch.from_numpy(mesh.graph()), persistent=False)
        self.times = levels(self.process, calls)
        self.table: Table = ping_pong(self.process, self.times)

    def network(self, x: Tensor, c: Tensor, seen: Seen) -> Tensor:
        """Return the velocity [B, N, C] of x [B, N, C] at the noise labels c, () or (B,)."""
        i, j = self.graph
        known = torch.cat([seen.state, seen.move], -1)
        h = self.node(torch.cat([x, known], -1))
        shape = self.geometry.to(x).expand(len(x), -1, -1)
        e = self.edge(torch.cat([known[:, j] - known[:, i], shape], -1))
        label = c.reshape(-1, 1, 1).expand(len(x), 1, 1)
        for layer, film in zip(self.layers, self.film, strict=True):
            gain, shift = film(label).chunk(2, -1)
            h = h + layer(h * (1 + gain) + shift, e, self.graph)
        return self.decoder(h)

    def denoiser(self) -> Preconditioned:
        """Return the network as a denoiser of r."""
        return Preconditioned(self.network, self.process)

    def seen(self, before: Tensor, after: Tensor, span: float) -> Seen:
        """Return what is known of a step from `before` to `after`, `span` later."""
        s = self.scale.to(before)
        return Seen(before / s[0], (after - before) / (span * s[1]))

    def loss(self, before: Tensor, after: Tensor, truth: Tensor, span: float, stream: Stream) -> Tensor:
        """Return the mean square error of the velocity, at levels of noise that are drawn as often as each other.

        Args:
            before, after, truth: u^k, v and the true u^{k+1}, [B, N, C].
            span: time between them.
            stream: of B samples.
        """
        r = (truth - after) / (span * self.scale[2].to(after))
        row = (stream.fold(2).uniform(1)[:, 0] * (len(self.times) - 1)).long()
        seen = self.seen(before, after, span)
        return flow_loss(self.denoiser(), self.process, r, stream, kind="velocity", times=self.times[row],
                         context=seen)[0]  # fmt: skip

    def forward(self, before: Tensor, after: Tensor, span: float, t: float, stream: Stream | None = None) -> Tensor:
        """Return v with what the step leaves, drawn.

        Args:
            before, after: u^k and v, [B, N, C].
            span: time between them. t: time of u^k.
            stream: of B samples; the same noise for all of them if None.
        """
        stream = stream or Stream(0, torch.zeros(len(before), dtype=torch.int64))
        stream = stream.fold(9, round(t / span))
        seen, denoise = self.seen(before, after, span), self.denoiser()
        noise = self.process.prior(tuple(before.shape[1:]), stream).to(before)
        r = integrate(lambda x, time: denoise(x, time, seen), self.table, noise, stream)
        return after + span * self.scale[2].to(after) * r

    @torch.no_grad()
    def measure(self, before: Tensor, after: Tensor, truth: Tensor, span: float) -> None:
        """Set the units from steps [S, N, C]."""
        size = [before, (after - before) / span, (truth - after) / span]
        self.scale.copy_(torch.stack([v.square().mean((0, 1)).sqrt() for v in size]).clamp_min(math.ulp(1.0)))
