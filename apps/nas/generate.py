"""A trained model of cells: sampling under limits, and the cells that come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apps.nas.cell import Cell
from apps.nas.constraints import Constraint, compile_, violations
from apps.nas.data import window
from apps.nas.model import CellNet, Recipe, process_of
from apps.nas.space import Space, kept, load
from apps.nas.task import predictor
from core.constrain.layers import Layers
from core.finetune.base import Base
from core.nn.hosted import hosted
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.sample import denoise
from core.solvers.tokens import SOLVERS

__all__ = ["CellModel", "Cells", "restore"]


@dataclass(frozen=True, eq=False)
class Cells:
    """Sampled cells [n, D] of a space, and how they were made."""

    space: Space
    x: Tensor
    manifest: dict[str, Any]

    def __len__(self) -> int:
        """Return how many."""
        return len(self.x)

    def __iter__(self) -> Iterator[Cell]:
        """Yield each cell."""
        return (Cell.of(self.space, row) for row in self.x.tolist())

    def check(self, constraints: Sequence[Constraint] = ()) -> list[list[str]]:
        """Return what each cell breaks."""
        return [violations(cell, constraints) for cell in self]

    def unique(self) -> int:
        """Return the number of isomorphism classes."""
        return len({cell.key for cell in self})


@dataclass(eq=False)
class CellModel:
    """A network, its noise and its space.

    Args:
        net: weights.
        recipe: how they were trained, and the defaults of sampling.
        space: of the cells.
        process: the noise.
        name: in manifests.
    """

    net: nn.Module
    recipe: Recipe
    space: Space
    process: Categorical
    name: str = ""

    def __post_init__(self) -> None:
        """Set the network to inference."""
        self.net.eval()

    def set(self, **changes: Any) -> CellModel:
        """Return the same weights with other defaults (steps, solver, temperature); None changes none."""
        given = {k: v for k, v in changes.items() if v is not None}
        return replace(self, recipe=replace(self.recipe, sample=replace(self.recipe.sample, **given)))

    def predict(self, x_t: Tensor, t: Tensor) -> Any:
        """Return the posterior of each variable of tokens [B, D]."""
        return predictor(hosted(self.net), self.process, self.recipe.sample.temperature)(x_t, t)

    @torch.no_grad()
    def draw(self, layers: Layers, stream: Stream) -> Tensor:
        """Return one cell for each row of the stream, all accepted by the layers, int64 [n, D]."""
        n, settings = len(stream.samples), self.recipe.sample
        start = torch.full((n, self.space.D), self.process.states - 1)
        if self.process.mask is None:
            start = self.process.prior((self.space.D,), stream.fold(7))
        solver = SOLVERS[settings.solver]()
        law = window(layers, n)
        return denoise(self.predict, self.process, uniform_plan(settings.steps), law, solver, stream, start)

    def sample(
        self, n: int, *, constraints: Sequence[Constraint] = (), steps: int | None = None, solver: str | None = None,
        temperature: float | None = None, seed: int = 0, batch: int = 512,
    ) -> Cells:  # fmt: skip
        """Draw valid cells.

        Args:
            n: how many.
            constraints: of `apps.nas.constraints`; they hold in every sample.
            steps, solver, temperature: other than the recipe's defaults.
            seed: all randomness; cell i depends on seed and i alone.
            batch: cells at a time.

        Raises:
            InfeasibleError: limits that no cell keeps, before anything is sampled.
        """
        model = self.set(steps=steps, solver=solver, temperature=temperature)
        layers = compile_(self.space, constraints)
        parts = [model.draw(layers, Stream.of(seed, min(batch, n - a), a)) for a in range(0, n, batch)]
        x = torch.cat(parts) if parts else torch.empty(0, self.space.D, dtype=torch.long)
        manifest = {"model": self.name, "space": self.space.name, "seed": seed, **vars(model.recipe.sample)}
        return Cells(self.space, x, manifest | {"constraints": [str(c) for c in constraints]})

    def save(self, out: Path, queries: int, metrics: dict[str, float]) -> Path:
        """Write the weights as a checkpoint that `restore` reads (`queries` is its step)."""
        from core.run import checkpoint

        weights = {"pi": self.process.pi.clone(), **self.net.state_dict()}
        head = {"app": "nas", "config": asdict(self.recipe), "step": queries, "metrics": metrics, "optimizer": None}
        checkpoint.write(out, {"weights.safetensors": weights}, head)
        return out

    def base(self, constraints: Sequence[Constraint] = ()) -> Base:
        """Return the sampler that `core.finetune.steer` steers (absorbing noise)."""
        layers = compile_(self.space, constraints)
        return Base(hosted(self.net), self.process, uniform_plan(self.recipe.sample.steps), self.space.D,
                    window=lambda rows: window(layers, rows))  # fmt: skip


def untrained(recipe: Recipe, space: Space | None = None) -> CellModel:
    """Return a model with fresh weights: nearly uniform over the variables."""
    space = space or load(recipe.data.space)
    torch.manual_seed(recipe.seed)
    net = CellNet(recipe.model, space)
    for head in (net.graph.node_head, net.graph.edge_head):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return CellModel(net, recipe, space, process_of(recipe.model, space), "untrained")


def restore(name: str | Path, device: str = "cpu") -> CellModel:
    """Return the model of a checkpoint (see `apps.nas.load`)."""
    from omegaconf import OmegaConf

    from core.run.config import instance
    from core.run.models import fill, find

    saved = find(name, "nas")
    recipe = instance(OmegaConf.create(saved.config), Recipe)
    recipe.data.space = kept(recipe.data.space)
    space = load(recipe.data.space)
    process = process_of(recipe.model, space)
    net = CellNet(recipe.model, space)
    net.register_buffer("pi", process.pi.clone())
    fill(net, saved.inference, saved.path)
    process = replace(process, pi=net.get_buffer("pi").double())
    return CellModel(net.to(device), recipe, space, process, str(name))
