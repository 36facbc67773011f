"""TrajDLM: block diffusion over road segments, conditioned on origin, destination and departure.

A trip  o = s_0, s_1, ..., s_n = d  is a sequence over segments that stays at d once it has arrived. It is cut into
blocks of L' tokens, and

    p(trip) = prod_b  p(s^b | s^{<b}, o, d, depart),     each factor an absorbing diffusion over the window of block b.

Within a window only the **cone** of segments that can be reached in the right number of hops is scored. A candidate x
is encoded from its road embedding and its view (`field.py`); a masked site j asks with its hidden state h_j:

    D_j(x) ∝ exp(q(h_j) . k(x) / sqrt(d) + b(x) + (w + G h_j) . m_j(x) + r(m_j(x)))     over the x with an admissible
                                                                                          completion,

where m_j(x) are the log-marginals of first-order reference chains given the known sites (`chains.Chains`): the network
corrects them, and decides by the context how far to trust each. The restriction to admissible completions and the
marginals are the same functions in training and in sampling (`core/constrain`).

References: Wongso et al. 2026, arXiv 2605.10020 (TrajDLM); Arriola et al. 2025, arXiv 2503.09573 (block diffusion).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from apps.trajectory.chains import CHAINS
from apps.trajectory.encoder import RoadEncoder
from apps.trajectory.field import VIEW
from apps.trajectory.prior import SIZE
from core.errors import UsageError
from core.nn.transformer import BlockTransformer, KVCache, TransformerConfig
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, setting

if TYPE_CHECKING:
    from apps.trajectory.batch import Batch

__all__ = ["DataConfig", "ModelConfig", "Recipe", "SampleConfig", "TripNet", "clock", "fitting"]


@dataclass
class ModelConfig:
    """Shape of the network.

    `dim`, `depth`, `heads` are the trunk's; `road` the width of segment embeddings and `rounds` their message-passing
    rounds (0 turns the encoder's messages off); `ids` adds a learned vector for each of so many segments. `block` is
    the longest block. `prior` adds a reference chain calibrated on training trips (`prior.py`).
    """

    dim: int = setting(128, low=8)
    depth: int = setting(4, low=1)
    heads: int = setting(4, low=1)
    road: int = setting(48, low=4)
    rounds: int = setting(2, low=0)
    ids: int = setting(0, low=0)
    dropout: float = setting(0.0, low=0, high=0.9)
    block: int = setting(32, low=1)
    prior: bool = setting(False)


@dataclass
class DataConfig:
    """Where trips come from.

    `network` is `city` (synthetic) or an OSM, GraphML or prepared file; `trips` a matched-trips file ("" for none);
    `simulated` the number of trips drawn from the recursive logit; `destinations` how many different goals they share;
    `fit` calibrates the logit on the training split. From step `real_from` on, a batch is real with probability `real`.
    `turn` turns the split of the real trips (`data.split`): 0, 0.25, 0.5, 0.75 hold out each quarter of them once.
    A share `strange` of the simulated batches is read without experience, as in a city where nobody drove before.
    With `whole` the trips that validate train too, for when nothing is left to choose; held-out simulated trips then
    validate.
    """

    network: str = setting("city")
    trips: str = setting("")
    cache: str = setting("")
    simulated: int = setting(20000, low=0)
    destinations: int = setting(400, low=1)
    fit: bool = setting(False)
    real: float = setting(0.0, low=0, high=1)
    real_from: int = setting(0, low=0)
    strange: float = setting(0.0, low=0, high=1)
    batch: int = setting(32, low=1)
    max_hops: int = setting(320, low=2)
    turn: float = setting(0.0, low=0, high=1)
    whole: bool = setting(False)


@dataclass
class SampleConfig:
    """Defaults of sampling: block length, steps per block, solver, guidance, temperature, nucleus, strata, detour.

    With `strata` > 1 that many consecutive streams share their noise, evenly turned: few trips of one request then
    show the proportions of many.
    """

    block: int = setting(16, low=1)
    steps: int = setting(4, low=1)
    solver: str = setting("confidence", choices=("ancestral", "first-hitting", "confidence", "in-order", "threshold"))
    guidance: float = setting(0.0, low=0)
    temperature: float = setting(1.0, low=0.01)
    top_p: float = setting(1.0, low=0.01, high=1)
    strata: int = setting(1, low=1)
    mode: str = setting("exists", choices=("exists", "reference", "product"))
    detour: float = setting(2.0, low=1)


@dataclass
class Recipe:
    """A training run: everything that `quintet trajectory train` can be told."""

    seed: int = setting(0, low=0)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    blocks: list[int] = setting([1, 4, 8, 16, 16, 16], low=1)
    unconditional: float = setting(0.1, low=0, high=1)
    time_weight: float = setting(0.1, low=0)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def fitting(block: int, recipe: Recipe, name: str = "block") -> int:
    """Return a block length that the network of a recipe can read.

    Raises:
        UsageError: longer than its places within a block (`model.block`).
    """
    longest = recipe.model.block
    if block > longest:
        hint = f"the network reads blocks of at most model.block = {longest}"
        raise UsageError("is too long", field=name, value=block, hint=hint)
    return block


def clock(depart: Tensor) -> Tensor:
    """Embed departures (unix seconds [B], NaN unknown) in time of day and of week, [B, 7]."""
    known = depart.isfinite()
    seconds = torch.where(known, depart, torch.zeros_like(depart)).double()
    day, week = seconds % 86400 / 86400 * 2 * math.pi, (seconds / 86400 + 3) % 7
    weekend = (week >= 5).double()
    parts = [day.sin(), day.cos(), (2 * day).sin(), (2 * day).cos(), weekend, torch.ones_like(day)]
    out = torch.stack(parts, -1) * known[:, None]
    return torch.cat([out, (~known)[:, None].double()], -1).float()


class TripNet(nn.Module):
    """The network: road encoder, candidate encoder, block trunk, pointer head, travel-time head.

    Args:
        config: its shape.
        transitions: number of transitions whose use by earlier trips the weights carry (0: none).
    """

    def __init__(self, config: ModelConfig, transitions: int = 0) -> None:
        super().__init__()
        d = config.dim
        self.experience: Tensor
        self.register_buffer("experience", torch.zeros(transitions))
        if config.prior:
            self.register_buffer("prior", torch.zeros(SIZE))
        chains = CHAINS + config.prior
        self.config = config
        self.trunk_config = TransformerConfig(d, config.depth, config.heads, dropout=config.dropout)
        self.roads = RoadEncoder(config.road, config.rounds, config.ids)
        self.level = nn.Embedding(config.block + 1, config.road)
        self.candidate = nn.Sequential(nn.Linear(2 * config.road + VIEW + 1, d), nn.GELU(), nn.Linear(d, d))
        self.token, self.query = nn.Linear(d, d), nn.Linear(d, d, bias=False)
        self.bias = nn.Linear(d, 1)
        self.chain = nn.Linear(chains, 1, bias=False)
        self.trust = nn.Linear(d, chains, bias=False)
        self.bend = nn.Sequential(nn.Linear(chains, 8), nn.GELU(), nn.Linear(8, 1))
        self.masked = nn.Parameter(torch.zeros(d))
        self.place = nn.Embedding(config.block + 1, d)
        self.condition = nn.Sequential(nn.Linear(7, d), nn.GELU(), nn.Linear(d, d))
        self.trunk = BlockTransformer(self.trunk_config)
        self.pace = nn.Sequential(nn.Linear(2 * d, d), nn.GELU(), nn.Linear(d, 2))
        for module in (self.level, self.place):
            nn.init.normal_(module.weight, std=0.02)
        nn.init.constant_(self.chain.weight, 1.0 / chains)
        nn.init.zeros_(self.trust.weight)
        last = self.bend[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.bias.weight)

    def bind(self, features: Tensor, edges: Tensor) -> TripNet:
        """Put the network on a city: segment features [N, STATIC] and transitions int64 [2, M]."""
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("edges", edges, persistent=False)
        return self

    def embed_roads(self) -> Tensor:
        """Return the embeddings of all segments as the candidate encoder takes them, [N, d]."""
        return self.as_candidates(self.roads(self.features, self.edges))

    def as_candidates(self, roads: Tensor) -> Tensor:
        """Return what embeddings [N, road] add to the candidate encoder's first layer, [N, d]."""
        return nn.functional.linear(roads, self._columns()[0])

    def _columns(self) -> tuple[Tensor, ...]:
        """Return the first layer of the candidate encoder, split: embeddings, level, view with flag."""
        road, first = self.config.road, self.candidate[0]
        assert isinstance(first, nn.Linear)
        return first.weight.split([road, road, VIEW + 1], 1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the count-form bound of each active block, nats [R], and the travel-time loss, a scalar."""
        log_p, clean, encoded = self.predict(batch)
        nll = -log_p.gather(-1, batch.target[..., None])[..., 0]
        nll = torch.where(batch.masked, nll, torch.zeros_like(nll)).sum(-1) * batch.weight
        return nll, self.pace_loss(clean, encoded, batch.pace)

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return log D [R, L', K] of each active block; hidden states and encodings of the clean tokens [B, S, d]."""
        b = batch
        encoded = self.encode(self.embed_roads()[b.segment], b.level, b.view, b.informed[b.trip][:, None])
        condition = self.condition(b.clock * b.informed[:, None])
        clean = self.embed(encoded[b.clean], torch.zeros_like(b.clean, dtype=torch.bool), b.place, condition)
        noisy = self.embed(encoded[b.clean[:, 1:]], b.noisy, b.place[1:], condition)
        position = torch.arange(b.clean.shape[1], device=clean.device)
        flags = torch.cat([torch.ones_like(b.place), torch.zeros_like(b.place[1:])]).bool()
        h = self.trunk(
            torch.cat([clean, noisy], 1), torch.cat([position, position[1:]]), torch.cat([b.block, b.block[1:]]), flags
        )
        width = len(b.place)
        hidden = h[:, width:].unflatten(1, (-1, b.masked.shape[1]))[b.row_trip, b.row_block]
        scores = self.scores(hidden, encoded[b.candidates], b.chains)
        log_p = scores.masked_fill(~b.allowed, -torch.inf).log_softmax(-1)
        return log_p, h[:, :width], encoded[b.clean]

    def pace_loss(self, hidden: Tensor, encoded: Tensor, target: Tensor) -> Tensor:
        """Return the mean Laplace loss of log travel times against `target` [B, S] (NaN unknown)."""
        known = target.isfinite()
        mean, scale = self.paces(hidden, encoded)
        loss = (torch.where(known, target, mean) - mean).abs() / scale + scale.log()
        return (loss * known).sum() / known.sum().clamp_min(1)

    def paces(self, hidden: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return median and Laplace scale of the log of (seconds on a segment / free-flow seconds), [B, S] each."""
        mean, raw = self.pace(torch.cat([hidden, encoded], -1)).unbind(-1)
        return mean, nn.functional.softplus(raw) + 0.05

    def encode(self, roads: Tensor, level: Tensor, view: Tensor, informed: Tensor) -> Tensor:
        """Encode candidates.

        Args:
            roads: of `embed_roads`, [..., d].
            level: hops from the window's start, int64 [...].
            view: [..., VIEW].
            informed: 1 where the goal is known, 0 for the unconditional branch, float [..., 1].

        Returns:
            [..., d].
        """
        _, at_level, seen = self._columns()
        levels = nn.functional.linear(self.level.weight, at_level, self.candidate[0].bias)  # type: ignore[arg-type]
        h = nn.functional.linear(torch.cat([view * informed, informed], -1), seen)
        h = h + roads + nn.functional.embedding(level.clamp_max(self.config.block), levels)
        return self.candidate[1:](h)

    def embed(self, encoded: Tensor, masked: Tensor, place: Tensor, condition: Tensor) -> Tensor:
        """Embed sites [B, S, d]: token or mask, its place in the block [S], the trip's condition [B, d]."""
        value = torch.where(masked[..., None], self.masked, self.token(encoded))
        return value + self.place(place) + condition[:, None]

    def scores(self, hidden: Tensor, encoded: Tensor, chains: Tensor) -> Tensor:
        """Return logits [R, L, K] of hidden states [R, L, d] over candidates [R, K, d].

        `chains` [R, L, K, chains] are the log-marginals of the reference chains, which an untrained network returns.
        """
        q = self.query(hidden) / math.sqrt(self.config.dim)
        prior = self.chain(chains) + self.bend(chains / 10) + (self.trust(hidden)[:, :, None] * chains).sum(-1, True)
        return q @ encoded.transpose(1, 2) + self.bias(encoded).transpose(1, 2) + prior[..., 0]

    def cache(self, rows: int, length: int) -> KVCache:
        """Return an empty cache for `rows` trips of at most `length` tokens and one more block."""
        p = self.masked
        return KVCache(self.trunk_config, rows, length + 2 * self.config.block + 2, p.dtype, p.device)
