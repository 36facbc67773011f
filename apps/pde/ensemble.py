"""How sure a roll-out is: members whose tendencies are perturbed, so much as the errors on validation data are large.

    d = step(u^k) - u^k,     u^{k+1} = pad(u^k + d + sigma r^k (d + floor rms(d))),

    r^{k+1} = rho r^k + sqrt(1 - rho^2) S xi,

with r a random field of unit variance, smooth over some rings of the mesh (S) and some time (rho = exp(-dt / memory)):
stochastically perturbed tendencies (Buizza, Miller and Palmer, 1999, Q. J. R. Meteorol. Soc. 125) with a floor for
places where little moves. Every member keeps its boundary values. Before it is dressed (below), member m is a function
of (seed, m) alone.

`calibrate` finds sigma so that spread equals error over validation trajectories (Fortin et al., 2014), and takes the
reach, memory and floor that cover the truth most nearly as often as they say, of those whose continuous ranked
probability score is within 3 % of the best there. `conform` then dresses the members:
their distances from their mean gain a smooth pattern of each member's own, `least` times the mean spread of the moment,
and are scaled as a function of time until 90 % intervals hold 90 % of the truth of further validation trajectories
(split conformal prediction; Papadopoulos et al., 2002; here marginal over the nodes, fields and trajectories that stand
near in time; dressing: Roulston and Smith, 2003, Tellus A 55). `least` is the one with which spread then equals error
most nearly. The result is a few numbers, which `save` puts beside a model's weights and `read` finds there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags, identity
from torch import Tensor

from apps.pde import metrics
from apps.pde.dynamics import finite
from apps.pde.operators import SparseMap
from core.errors import CheckpointError, QuintetError
from core.noise import Stream

if TYPE_CHECKING:
    from apps.pde.data import Trajectories
    from apps.pde.dynamics import Dynamics
    from apps.pde.mesh import Mesh

__all__ = ["Spread", "calibrate", "conform", "members", "read", "save"]

FILE, LEVEL, LEAST = "spread.json", 0.9, (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Spread:
    """How members differ.

    Args:
        start: standard deviation of the first states' noise, relative to each field's over the mesh.
        tendency: sigma.
        rings: reach of r, in rings of the mesh.
        memory: of r, in units of time; infinite: a pattern for each member.
        floor: least disturbance, relative to the mean tendency of the moment.
        least: pattern that is added to the members' distance from their mean, relative to the mean spread.
        scale: factors on that distance, at the times since the start `times`; constant before the first and after the
            last.
    """

    start: float = 0.0
    tendency: float = 0.0
    floor: float = 0.0
    rings: int = 2
    memory: float = math.inf
    least: float = 0.0
    times: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def dress(self, states: np.ndarray, times: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        """Return members [V, n, T, N, C] at times [T] since the start, dressed with patterns [n, N, C]."""
        if not self.times:
            return states
        factor = np.interp(times, self.times, self.scale).astype(states.dtype)[:, None, None]
        mean = states.mean(1, keepdims=True)
        return mean + factor * patterned(states - mean, pattern, self.least)


def patterned(apart: np.ndarray, pattern: np.ndarray, least: float) -> np.ndarray:
    """Return distances [V, n, T, N, C] from the mean plus `least` times their mean size times patterns [n, N, C]."""
    size = np.sqrt(np.square(apart).mean((1, 3), keepdims=True))
    return apart + least * size * (pattern - pattern.mean(0))[None, :, None]


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
        return net.inside(S(stream.fold(3, k).normal(*size).to(start)))

    first = start.std(1, keepdim=True).repeat_interleave(n, 0)
    u = start.repeat_interleave(n, 0) + spread.start * first * stream.fold(2).normal(*size).to(start)
    u = net.enter(u, t, given)
    kept, r = [net.leave(u)], draw(0)
    for k in range(1, steps + 1):
        at = t + (k - 1) * span
        after = net.refined(u, at, given, stride, stream.fold(6))
        if spread.tendency:
            move = after - u
            least = spread.floor * move.square().mean(1, keepdim=True).sqrt()
            after = net.pad(after + spread.tendency * r * (move + least), at + span, given)
            r = rho * r + math.sqrt(1 - rho**2) * draw(k) if rho < 1 else r
        u = after
        if k % every == 0:
            kept.append(net.leave(u))
    out = torch.stack(kept, 1).reshape(V, n, -1, *size).cpu().numpy()
    if not spread.times:
        return out
    pattern = S(stream.fold(5).normal(*size).to(start))[:n].cpu().numpy()
    out = torch.from_numpy(spread.dress(out, np.arange(out.shape[2]) * every * span, pattern)).to(start)
    frames = out.flatten(0, 1).unbind(1)
    held = [net.leave(net.enter(v, t + k * every * span, given)) for k, v in enumerate(frames)]
    return torch.stack(held, 1).reshape(V, n, -1, *size).cpu().numpy()


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
            if not 0 < ratio < math.inf or abs(math.log(ratio)) < 0.02:
                break
            spread = replace(spread, tendency=spread.tendency / ratio)
        found.append((score if math.isfinite(score) else math.inf, abs(share - 0.9), spread))
    best = min(score for score, _, _ in found)
    return min((item for item in found if item[0] <= 1.03 * best), key=lambda item: item[1])[2]


def conform(
    net: Dynamics, valid: Trajectories, spread: Spread, n: int = 32, seed: int = 2, frames: int = 20, blocks: int = 5,
    stride: int = 1,
) -> Spread:  # fmt: skip
    """Return the spread with the scale at which 90 % intervals hold 90 % of the truth.

    Args:
        net: the learned solver.
        valid: trajectories that it was neither trained nor tuned on.
        spread: how members differ.
        n: members.
        seed: of their noise.
        frames: states that are compared. blocks: of them, each with a scale of its own.
        stride: length of a step, in states.

    Raises:
        QuintetError: members left what is finite or do not differ, so that no scale covers the truth.
    """
    steps = (valid.states.shape[1] - 1) // stride
    every = max(1, steps // frames)
    truth = valid.states[:, :: stride * every][:, 1 : steps // every + 1]
    start = torch.from_numpy(valid.states[:, 0]).to(net.points.device)
    given = {k: torch.from_numpy(v).float()[:, None] for k, v in valid.parameters.items()}
    plain = replace(spread, least=0.0, times=(), scale=())
    own = members(net, start, steps, plain, n, seed, float(valid.times[0]), given, every, stride)[:, :, 1:]
    if lost := sum(not all(finite(one, start) for one in each) for each in own):
        raise QuintetError(f"members are not finite on {lost} of {len(own)} validation trajectories", field="ensemble",
                           hint="train with longer windows")  # fmt: skip
    if not np.ptp(own, axis=1).any():
        raise QuintetError("members do not differ: the model's states do not move", field="ensemble",
                           hint="train it, or tell it more terms")  # fmt: skip
    free = net.free.cpu().numpy()
    own, truth = own[..., free, :].astype(np.float64), truth[..., free, :]
    noise = Stream(seed, torch.arange(n)).fold(5).normal(*valid.states.shape[2:]).to(start)
    pattern = SparseMap(smoother(net.mesh, spread.rings)).to(start.device)(noise).cpu().numpy()[:, free]
    mean = own.mean(1, keepdims=True)
    times = (np.arange(truth.shape[1]) + 1) * net.dt * net.substeps * stride * every
    parts = np.array_split(np.arange(len(times)), min(blocks, len(times)))
    at = tuple(float(times[part].mean()) for part in parts)
    found = []
    for least in LEAST:
        apart = patterned(own - mean, pattern, least)
        scale = tuple(_scale(truth[:, part] - mean[:, 0, part], apart[:, :, part]) for part in parts)
        made = replace(spread, least=least, times=at, scale=scale)
        dressed = made.dress(own, times, pattern).swapaxes(0, 1)
        found.append((abs(math.log(metrics.spread_skill(dressed, truth))), made))
    return min(found, key=lambda item: item[0])[1]


def _scale(gap: np.ndarray, apart: np.ndarray) -> float:
    """Return the factor on distances [V, n, T, N, C] at which intervals hold gaps [V, T, N, C] as often as they say."""
    low, high = np.quantile(apart, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], 1, method="weibull")
    need = np.where(gap > 0, gap / high.clip(1e-12), gap / low.clip(max=-1e-12))
    return float(np.quantile(need, LEVEL))


def save(spread: Spread, folder: Path) -> Path:
    """Write a spread beside a model's weights, whole or not at all."""
    own = asdict(spread) | {"memory": None if math.isinf(spread.memory) else spread.memory}
    path = folder / FILE
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    part.write_text(json.dumps(own, indent=1) + "\n")
    os.replace(part, path)
    return path


def read(folder: Path) -> Spread | None:
    """Return the spread that stands beside a model's weights, or None.

    Raises:
        CheckpointError: there is one, but it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        own = json.loads(path.read_text())
        memory = math.inf if own["memory"] is None else float(own["memory"])
        lists = {k: tuple(float(x) for x in own[k]) for k in ("times", "scale")}
        if len(lists["times"]) != len(lists["scale"]):
            raise ValueError
        return Spread(**{**own, **lists, "memory": memory})
    except (ValueError, KeyError, TypeError):
        raise CheckpointError("is damaged", field="spread", value=str(path), hint="calibrate again") from None
