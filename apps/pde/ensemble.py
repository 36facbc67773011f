"""How sure a roll-out is: members whose tendencies are perturbed, so much as the errors on validation data are large.

    d = step(u^k) - u^k,     u^{k+1} = pad(u^k + d + sigma r^k (d + floor rms(d))),

    r^{k+1} = rho r^k + sqrt(1 - rho^2) S xi,

with r a random field of unit variance, smooth over some rings of the mesh (S) and some time (rho = exp(-dt / memory)):
stochastically perturbed tendencies (Buizza, Miller and Palmer, 1999, Q. J. R. Meteorol. Soc. 125) with a floor for
places where little moves. Every member keeps its boundary values. Member m is a function of (seed, m) alone.

`calibrate` finds sigma so that spread equals error over validation trajectories (Fortin et al., 2014), and takes the
reach, memory and floor that cover the truth most nearly as often as they say, of those whose continuous ranked
probability score is within 3 % of the best there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags, identity
from torch import Tensor

from apps.pde import metrics
from apps.pde.operators import SparseMap
from core.noise import Stream

if TYPE_CHECKING:
    from apps.pde.data import Trajectories
    from apps.pde.dynamics import Dynamics
    from apps.pde.mesh import Mesh

__all__ = ["Spread", "calibrate", "members"]


@dataclass(frozen=True)
class Spread:
    """How members differ.

    Args:
        start: standard deviation of the first states' noise, relative to each field's over the mesh.
        tendency: sigma.
        rings: reach of r, in rings of the mesh.
        memory: of r, in units of time; infinite: a pattern for each member.
        floor: least disturbance, relative to the mean tendency of the moment.
    """

    start: float = 0.0
    tendency: float = 0.0
    floor: float = 0.0
    rings: int = 2
    memory: float = math.inf


TRIED = tuple(Spread(0.0, 0.1, floor, rings, memory)
              for floor in (0.0, 0.5, 2.0) for rings in (1, 3) for memory in (0.1, math.inf))  # fmt: skip


def smoother(mesh: Mesh, rings: int) -> csr_matrix:
    """Return S [N, N]: means over neighbours, `rings` times, with rows of unit norm."""
    near = mesh.adjacency + identity(len(mesh), format="csr")
    mean = csr_matrix(diags(1 / np.asarray(near.sum(1)).ravel()) @ near)
    S = identity(len(mesh), format="csr")
    for _ in range(rings):
        S = csr_matrix(S @ mean)
    return csr_matrix(diags(1 / np.sqrt(np.asarray(S.multiply(S).sum(1)).ravel())) @ S)


@torch.inference_mode()
def members(
    net: Dynamics, start: Tensor, steps: int, spread: Spread, n: int, seed: int = 0, t: float = 0.0,
    parameters: Mapping[str, Any] | None = None, every: int = 1, stride: int = 1,
) -> np.ndarray:  # fmt: skip
    """Return the members of ensembles from V states, [V, n, steps / every + 1, N, C].

    Args:
        net: the learned solver.
        start: [V, N, C].
        steps: of `stride` states each.
        spread: how members differ.
        n: members.
        seed: of their noise.
        t: time at the start.
        parameters: name -> value of each start [V, 1].
        every: keep every so many steps.
        stride: length of a step.
    """
    V, size = len(start), start.shape[1:]
    given = {k: torch.as_tensor(v).repeat_interleave(n, 0) for k, v in (parameters or {}).items()}
    stream = Stream(seed, torch.arange(n).repeat(V))
    span = net.dt * net.substeps * stride
    S, rho = SparseMap(smoother(net.mesh, spread.rings)).to(start.device), math.exp(-span / spread.memory)

    def draw(k: int) -> Tensor:
        return S(stream.fold(3, k).normal(*size).to(start))

    first = start.std(1, keepdim=True).repeat_interleave(n, 0)
    u = start.repeat_interleave(n, 0) + spread.start * first * stream.fold(2).normal(*size).to(start)
    u = net.pad(u, t, given)
    kept, r = [u], draw(0)
    for k in range(1, steps + 1):
        at = t + (k - 1) * span
        after = net.step(u, at, given, stride)
        if spread.tendency:
            move = after - u
            least = spread.floor * move.square().mean(1, keepdim=True).sqrt()
            after = net.pad(after + spread.tendency * r * (move + least), at + span, given)
            r = rho * r + math.sqrt(1 - rho**2) * draw(k) if rho < 1 else r
        u = after
        if k % every == 0:
            kept.append(u)
    return torch.stack(kept, 1).reshape(V, n, -1, *size).cpu().numpy()


def calibrate(
    net: Dynamics, valid: Trajectories, n: int = 16, seed: int = 1, frames: int = 20, stride: int = 1,
    tried: Sequence[Spread] = TRIED,
) -> Spread:  # fmt: skip
    """Return the spread whose ensembles are calibrated on whole validation trajectories.

    Args:
        net: the learned solver.
        valid: trajectories that it was not trained on.
        n: members.
        seed: of their noise, another than that of use.
        frames: states at which spread and error are compared.
        stride: length of a step, in states.
        tried: ways to disturb; memories as parts of the trajectories' span. sigma is searched for each.
    """
    steps = (valid.states.shape[1] - 1) // stride
    every = max(1, steps // frames)
    truth = valid.states[:, :: stride * every][:, 1 : steps // every + 1]
    start = torch.from_numpy(valid.states[:, 0]).to(net.points.device)
    given = {k: torch.from_numpy(v).float()[:, None] for k, v in valid.parameters.items()}
    whole = float(valid.times[-1] - valid.times[0])

    def judge(spread: Spread) -> tuple[float, float, float]:
        own = members(net, start, steps, spread, n, seed, float(valid.times[0]), given, every, stride)[:, :, 1:]
        own = own.swapaxes(0, 1)
        return metrics.spread_skill(own, truth), metrics.crps(own, truth), metrics.coverage(own, truth)

    found = []
    for one in tried:
        spread = replace(one, memory=one.memory * whole)
        for _ in range(4):
            ratio, score, share = judge(spread)
            if not math.isfinite(ratio) or abs(math.log(ratio)) < 0.02:
                break
            spread = replace(spread, tendency=spread.tendency / ratio)
        found.append((score if math.isfinite(score) else math.inf, abs(share - 0.9), spread))
    best = min(score for score, _, _ in found)
    return min((item for item in found if item[0] <= 1.03 * best), key=lambda item: item[1])[2]
