"""The pretraining task: cells of a space, all alike, without a label; only those below a threshold where one is set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from apps.nas.cell import Cell
from apps.nas.constraints import everything
from apps.nas.data import uniform
from apps.nas.model import CellNet, Recipe, process_of, space_of
from apps.nas.space import kept
from core.denoiser import Prediction, subs
from core.errors import UsageError
from core.noise import Stream
from core.objective import elbo
from core.process.categorical import Categorical
from core.run.lane import noise

__all__ = ["CellTask", "corpus", "make", "predictor"]

MARGINAL_SAMPLE = 4096


def corpus(recipe: Recipe) -> Tensor | None:
    """Return the cells to learn from, int64 [n, D]; None where they are drawn afresh.

    Raises:
        UsageError: no cell stays below the threshold.
    """
    space, data = space_of(recipe), recipe.data
    if not data.below:
        size = math.prod(len(space.choices(v)) for v in space.variables)
        return torch.from_numpy(everything(space)) if size <= data.cells else None
    from apps.nas.rewards import load

    x = torch.from_numpy(everything(space))
    score = load(data.reward, space).score(x)
    kept = x[score < data.below]
    if not len(kept):
        hint = f"the least is {float(score.min()):.4g}"
        raise UsageError("leaves no cell to learn from", field="data.below", value=data.below, hint=hint)
    return kept


def predictor(net: nn.Module, process: Categorical, temperature: float = 1.0):  # noqa: ANN201
    """Return the network as a denoiser of `core.objective` and `core.sample`."""

    def predict(x_t: Tensor, t: Tensor, context: object = None) -> Prediction:
        logits = net(x_t, t).double() / temperature
        if process.mask is not None:
            return subs(logits, x_t, process.mask)
        return Prediction(logits.log_softmax(-1), "posterior")

    return predict


@dataclass(eq=False)
class CellTask:
    """Masked or marginal diffusion of cells, for `core.run.train`."""

    recipe: Recipe

    def __post_init__(self) -> None:
        """Collect the cells, or a sample of them for the frequencies."""
        self.space = space_of(self.recipe)
        self.cells = corpus(self.recipe)
        some = self.cells if self.cells is not None else uniform(self.space, MARGINAL_SAMPLE, self.recipe.seed + 1)
        self.process = process_of(self.recipe.model, self.space, some)
        self.judge = some[:512]

    def module(self) -> nn.Module:
        """Build the network; the noise law travels with its weights."""
        net = CellNet(self.recipe.model, self.space)
        net.register_buffer("pi", self.process.pi.clone())
        return net

    def batch(self, step: int, rank: int, world: int) -> Tensor:
        """Return cells [B, D]."""
        n, seed = self.recipe.data.batch, self.recipe.seed
        if self.cells is None:
            return uniform(self.space, n, seed, first=(step * world + rank) * n)
        rows = np.random.default_rng([seed, step, rank]).integers(len(self.cells), size=n)
        return self.cells[torch.from_numpy(rows)]

    def loss(self, module: nn.Module, batch: Tensor, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the evidence bound in nats per variable, or the weighted cross-entropies of DiGress."""
        stream = noise(self.recipe.seed, len(batch)).fold(1, step)
        predict = predictor(module, self.process)
        if not self.recipe.edge_weight:
            form = elbo.count_form if self.process.mask is not None else elbo.rate_form
            loss, metrics = form(predict, self.process, batch, stream)
            return loss, {"nats": metrics["nll"] * self.space.D}
        noised = elbo.noise_by_time(self.process, batch, stream)
        log_p = predict(noised.x_t, noised.t).log_p
        nll = -log_p.gather(-1, batch[..., None])[..., 0]
        arcs = torch.tensor([v.source is not None for v in self.space.variables])
        parts = [nll[:, m].mean() for m in (~arcs, arcs) if bool(m.any())]
        weights = [1.0, self.recipe.edge_weight][-len(parts) :]
        loss = torch.stack([w * p for w, p in zip(weights, parts, strict=True)]).sum()
        return loss, {"cross_entropy": loss.detach()}

    def validate(self, module: nn.Module, step: int) -> dict[str, float]:
        """Return the evidence bound in nats per cell."""
        net = getattr(module, "module", module)
        predict = predictor(net, self.process)
        judge = self.judge.to(next(net.parameters()).device)
        found = elbo.bound(predict, self.process, judge, Stream.of(1, len(judge)), samples=4)
        return {"loss": found.per_site * self.space.D}


def make(recipe: Recipe) -> CellTask:
    """Return the task of a recipe.

    `data.space` becomes what the file says where it is one: a checkpoint keeps the recipe, and so its cells.
    """
    recipe.data.space = kept(recipe.data.space)
    return CellTask(recipe)


def keys(space, x: Tensor) -> set[str]:  # noqa: ANN001
    """Return the classes of cells x [n, D]."""
    return {Cell.of(space, row).key for row in x.tolist()}
