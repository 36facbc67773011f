"""The training task: windows of trajectories, rolled out over M states from a noisy start.

    loss = mean over the window's states of ((prediction - truth) / std)^2 on the nodes that no boundary row sets.

A batch is a pure function of (`trainer.seed`, step, rank): its windows, and the noise of their first states, fresh each
time.

A refiner learns beside it, from true states and the physics' steps from them (`refine.py`); no gradient of its loss
reaches the physics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apps.pde.data import Splits, interval, splits, units
from apps.pde.dynamics import Dynamics
from apps.pde.model import Recipe
from core.errors import UsageError
from core.run import checkpoint
from core.run.lane import noise

__all__ = ["FieldTask", "make"]

REFINED = 3  # steps of a window that the refiner learns from at once


@dataclass(eq=False)
class Batch:
    """Noisy starts [B, N, C], the window's true states [B, M - 1, N, C], times [B, 1], parameters name -> [B, 1]."""

    start: Tensor
    target: Tensor
    time: Tensor
    parameters: dict[str, Tensor]


@dataclass(eq=False)
class FieldTask:
    """Roll-out training, for `core.run.train`.

    Args:
        recipe: the run.
        data: its trajectories.
    """

    recipe: Recipe
    data: Splits

    def __post_init__(self) -> None:
        """Measure the training trajectories."""
        if (self.recipe.window - 1) * self.recipe.stride >= self.data.train.states.shape[1]:
            raise UsageError("longer than the trajectories", field="window", value=self.recipe.window)
        if self.recipe.stride > 1 and self.recipe.model.integrator == "imex":
            raise UsageError("IMEX steps have one length", field="stride", value=self.recipe.stride)
        self.std = torch.from_numpy(units(self.data.train.states)["std"]).float()

    def module(self) -> Dynamics:
        """Build the model on the recipe's mesh."""
        torch.manual_seed(self.recipe.trainer.seed)
        train, d = self.data.train, self.recipe.data
        net = Dynamics(self.recipe.model, self.data.system, train.mesh, train.dt, d.substeps)
        given = {k: torch.from_numpy(v).float() for k, v in train.parameters.items()}
        net.calibrate(torch.from_numpy(train.states), given, t=float(train.times[0]))
        if self.recipe.base:
            self._take(net)
        if net.refiner is not None:
            before, after, truth, span = self._pairs(net, self.batch(0, 0, 1), self.recipe.window - 2)
            net.refiner.measure(before, after, truth, span)
        return net

    def _take(self, net: Dynamics) -> None:
        """Put the weights of the run `base` into the model and keep them as they are."""
        found = checkpoint.load(Path(self.recipe.base) / "model", app="pde").inference
        own = {k: v.shape for k, v in net.state_dict().items() if not k.startswith("refiner.")}
        lacking = own != {k: v.shape for k, v in found.items()}
        if net.refiner is None or lacking:
            hint = "model.refine=3 and otherwise the settings of that run"
            raise UsageError("is of a model of another shape", field="base", value=self.recipe.base, hint=hint)
        net.load_state_dict(dict(found), strict=False)
        for name, weight in net.named_parameters():
            weight.requires_grad_(name.startswith("refiner."))

    def batch(self, step: int, rank: int, world: int) -> Batch:
        """Return some windows with noise on their first states."""
        r, train = self.recipe, self.data.train
        rng = np.random.default_rng([r.trainer.seed, step, rank])
        rows = rng.integers(len(train), size=r.batch)
        span = (r.window - 1) * r.stride + 1
        begin = rng.integers(train.states.shape[1] - span + 1, size=r.batch)
        window = np.stack([train.states[i, a : a + span : r.stride] for i, a in zip(rows, begin, strict=True)])
        noise = r.noise * rng.standard_normal(window[:, 0].shape).astype(np.float32)
        start = torch.from_numpy(window[:, 0]) + torch.from_numpy(noise) * self.std
        given = {k: torch.from_numpy(v[rows]).float()[:, None] for k, v in train.parameters.items()}
        time = torch.from_numpy(train.times[begin]).float()[:, None]
        return Batch(start, torch.from_numpy(window[:, 1:].copy()), time, given)

    @torch.no_grad()
    def _pairs(self, net: Dynamics, batch: Batch, count: int) -> tuple[Tensor, Tensor, Tensor, float]:
        """Return states, the physics' steps from them and the truth of `count` places in each window, and the span."""
        stride, most = self.recipe.stride, batch.target.shape[1] - 1
        span = net.dt * net.substeps * stride
        at = torch.arange(count) * most // count
        given = {k: v.repeat_interleave(count, 0) for k, v in batch.parameters.items()}
        t = (batch.time + (at.to(batch.time) + 1) * span).reshape(-1, 1)
        before, truth = (batch.target[:, at + k].flatten(0, 1) for k in (0, 1))
        return before, net.step(before, t, given, stride), truth, span

    def _refining(self, net: Dynamics, batch: Batch, step: int) -> Tensor:
        """Return the refiner's loss at `REFINED` places in each window."""
        assert net.refiner is not None
        before, after, truth, span = self._pairs(net, batch, min(REFINED, batch.target.shape[1] - 1))
        stream = noise(self.recipe.trainer.seed, len(before)).fold(8, step).to(before.device)
        return net.refiner.loss(before, after, truth, span, stream)

    def loss(self, module: torch.nn.Module, batch: Batch, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the mean square error of the roll-out in units of the fields' spread."""
        ends = self.recipe.loss == "ends"
        net: Dynamics = getattr(module, "module", module)  # type: ignore[assignment]
        more = self._refining(net, batch, step) if net.refiner is not None else None
        if more is not None and self.recipe.base:
            return more, {"refiner": more.detach()}
        out = module(batch.start, batch.target.shape[1], batch.time, batch.parameters, ends, self.recipe.stride)
        error = ((out - batch.target) / self.std.to(out)).square()
        free = net.free
        error = error[:, :, free]
        frames = error.mean((0, 2, 3))
        if weight := self.recipe.model.totals:
            frames = frames + weight * self.totals(out, batch.target).square().mean((0, 2))
        value = (frames[0] + frames[-1]) / 2 if ends else frames.mean()
        figures = {"first": frames[0].detach(), "last": frames[-1].detach()}
        if more is None:
            return value, figures
        return value + more, figures | {"refiner": more.detach()}

    def totals(self, out: Tensor, target: Tensor) -> Tensor:
        """Return the errors of the fields' means over the domain [B, M - 1, C], in units of the fields' spread."""
        area = torch.from_numpy(self.data.train.mesh.node_area).to(out)
        return ((out - target) / self.std.to(out) * (area / area.sum())[:, None]).sum(2)

    @torch.no_grad()
    def validate(self, module: torch.nn.Module, step: int) -> dict[str, float]:
        """Return the mean square error (in the fields' own units) of whole validation trajectories, rolled out."""
        net: Dynamics = getattr(module, "module", module)  # type: ignore[assignment]
        valid, stride = self.data.valid, self.recipe.stride
        truth = torch.from_numpy(valid.states[:, ::stride]).to(net.points.device)
        given = {k: torch.from_numpy(v).float()[:, None].to(truth) for k, v in valid.parameters.items()}
        out = net(truth[:, 0], truth.shape[1] - 1, float(valid.times[0]), given, stride=stride)
        mse = (out - truth[:, 1:]).square().mean(-1).mean(-1)  # [n, T], beyond all bounds where a roll-out blows up
        most = {"nan": 1e12, "posinf": 1e12}
        return {"loss": float(mse.mean().nan_to_num(**most)), "last": float(mse[:, -1].mean().nan_to_num(**most))}


def make(recipe: Recipe) -> FieldTask:
    """Return the task of a recipe.

    `data.dt` becomes that of the recipe's file where it has one: a checkpoint keeps the recipe, so that its model steps
    as it was trained to when the file is gone.

    Raises:
        UsageError: the model is the known terms alone.
    """
    if recipe.model.kind == "operators" and not recipe.model.refine:
        raise UsageError("has nothing to learn", field="model.kind", value=recipe.model.kind,
                         hint="`quintet pde evaluate` any run: known_operators is this")  # fmt: skip
    found = splits(recipe.data, recipe.seed)
    if recipe.data.file:
        recipe.data.dt = interval(recipe.data, found.train)
    return FieldTask(recipe, found)
