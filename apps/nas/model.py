"""What a recipe of the nas app can say, and the network it means.

`CellNet` lays the variables of a cell out as nodes and pairs of a graph (`core.nn.graph_transformer`), and reads the
logits of each variable from its place there. Pairs that may not be edges, and edges that are always there, have states
of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from apps.nas.space import NONE, Space, load
from core.nn.graph_transformer import GraphTransformer
from core.process.categorical import Categorical
from core.process.schedule import Cosine, Linear
from core.process.variables import Variables
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, setting

__all__ = ["CellNet", "DataConfig", "ModelConfig", "Recipe", "SampleConfig", "TuneConfig", "process_of"]


@dataclass
class ModelConfig:
    """Shape of the network; `directed` false is the symmetric form of DiGress. `noise`: absorbing, or marginal laws."""

    directed: bool = setting(True)
    noise: str = setting("absorbing", choices=("absorbing", "marginal"))
    schedule: str = setting("linear", choices=("linear", "cosine"))
    dim: int = setting(48, low=4)
    edge_dim: int = setting(24, low=4)
    layers: int = setting(2, low=1)
    heads: int = setting(4, low=2)


@dataclass
class DataConfig:
    """What is learned before any reward: cells of a `space` (a name or a YAML file), all alike.

    `below` keeps those whose `reward` (see `apps.nas.rewards`) stays below it; 0 keeps all. `cells` bounds how many
    are used; spaces with more are drawn from afresh in each batch.
    """

    space: str = setting("nb201")
    reward: str = setting("")
    below: float = setting(0.0)
    cells: int = setting(20000, low=1)
    batch: int = setting(128, low=1)


@dataclass
class SampleConfig:
    """Defaults of sampling."""

    steps: int = setting(8, low=1)
    solver: str = setting("ancestral", choices=("ancestral", "first-hitting", "confidence", "in-order", "remask"))
    temperature: float = setting(1.0, low=0.01)


@dataclass
class TuneConfig:
    """The policy gradient: rounds of `queries` cells each, `inner` steps between them.

    `form` eager or step; `states` of each cell's trajectory in a step; `clip` of the advantages; `kl` to the pretrained
    model; `entropy` weight below `floor` nats; `replay`: share of each step's cells drawn from the `top` share seen; in
    the end `settle` steps on the `keep` share seen.
    """

    form: str = setting("eager", choices=("eager", "step"))
    rounds: int = setting(60, low=1)
    queries: int = setting(16, low=1)
    inner: int = setting(8, low=1)
    states: int = setting(4, low=1)
    lr: float = setting(1e-3, low=0)
    clip: float = setting(5.0, low=0)
    kl: float = setting(0.02, low=0)
    entropy: float = setting(1.0, low=0)
    floor: float = setting(0.6, low=0)
    replay: float = setting(0.5, low=0, high=1)
    top: float = setting(0.2, low=0, high=1)
    frozen: float = setting(0.0, low=0, high=1)
    gradient: float = setting(1.0, low=0)
    settle: int = setting(800, low=0)
    keep: float = setting(0.1, low=0, high=1)


@dataclass
class Recipe:
    """A training run: everything that `quintet nas train` can be told.

    `edge_weight` 0 trains the evidence bound; a positive number the cross-entropies of nodes and, so weighted, edges.
    """

    seed: int = setting(0, low=0)
    edge_weight: float = setting(0.0, low=0)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


class CellNet(nn.Module):
    """From tokens [B, D] of a cell's variables (K is the mask) and times [B] to logits [B, D, K].

    Args:
        config: shape.
        space: the cells.
    """

    def __init__(self, config: ModelConfig, space: Space) -> None:
        super().__init__()
        self.space, self.K, n = space, space.K, space.nodes
        words = [v for v in space.variables if v.source is None]
        arcs = [v for v in space.variables if v.source is not None]
        self.kn, self.ke = max((len(v.values) for v in words), default=0), max((len(v.values) for v in arcs), default=1)
        present = [k for k, w in enumerate(arcs[0].values if arcs else ()) if w not in (NONE, "no")]
        self.graph = GraphTransformer(
            n, self.kn + 4, self.ke + 3, max(self.kn, 1), self.ke, config.dim, config.edge_dim, config.layers,
            config.heads, config.directed, (*present, self.ke + 2),
        )  # fmt: skip
        x, e = torch.full((n,), self.kn + 1), torch.full((n, n), self.ke + 1)
        x[0], x[-1] = self.kn + 2, self.kn + 3
        if space.given:
            e[tuple(zip(*space.pairs, strict=True))] = self.ke + 2
        allowed = torch.zeros(space.D, space.K, dtype=torch.bool)
        for d, v in enumerate(space.variables):
            allowed[d, : len(v.values)] = True
        at = [d for d, v in enumerate(space.variables) if v.source is None]
        on = [d for d, v in enumerate(space.variables) if v.source is not None]
        tables = {
            "x": x, "e": e, "allowed": allowed, "at": torch.tensor(at, dtype=torch.long),
            "on": torch.tensor(on, dtype=torch.long), "node": torch.tensor([v.node for v in words], dtype=torch.long),
            "low": torch.tensor([v.source or 0 for v in arcs], dtype=torch.long),
            "high": torch.tensor([v.node for v in arcs], dtype=torch.long),
        }  # fmt: skip
        for name, table in tables.items():
            self.register_buffer(f"_{name}", table, persistent=False)

    def forward(self, x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the logits, -inf beyond each variable's alphabet; `context` [B, dim] is added to every node."""
        b = len(x_t)
        x, e = self._x.repeat(b, 1), self._e.repeat(b, 1, 1)  # type: ignore[operator]
        x[:, self._node] = x_t[:, self._at].clamp(max=self.kn)  # type: ignore[index]
        e[:, self._low, self._high] = x_t[:, self._on].clamp(max=self.ke)  # type: ignore[index]
        nodes, pairs = self.graph(x, e, t, context)
        out = nodes.new_full((b, self.space.D, self.K), -torch.inf)
        out[:, self._at, : nodes.shape[-1]] = nodes[:, self._node]  # type: ignore[index]
        out[:, self._on, : self.ke] = pairs[:, self._low, self._high]  # type: ignore[index]
        return out.masked_fill(~self._allowed, -torch.inf)  # type: ignore[operator]


def process_of(config: ModelConfig, space: Space, x: Tensor | None = None) -> Categorical:
    """Return the noise of a model; marginal laws are the frequencies of cells x [n, D] (uniform without any)."""
    clock = Cosine() if config.schedule == "cosine" else Linear()
    if config.noise == "absorbing":
        return Categorical.absorbing(space.K, clock)
    allowed = torch.zeros(space.D, space.K, dtype=torch.float64)
    for d, v in enumerate(space.variables):
        allowed[d, : len(v.values)] = 1.0
    counts = allowed if x is None else torch.nn.functional.one_hot(x, space.K).sum(0) + 1e-3 * allowed
    groups = torch.tensor([int(v.source is not None) for v in space.variables])
    return Variables.of(counts, clock, groups)


def space_of(recipe: Recipe) -> Space:
    """Return the space of a recipe."""
    return load(recipe.data.space)
