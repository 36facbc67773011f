"""The training task of inverse folding: distinct chains drawn evenly, a random part of each sequence masked.

Step s trains member s mod K on chains outside its fold and outside the test fold (a member beyond the folds: outside
the test fold); of a cluster those that are not near copies of each other (`data.distinct`). The loss has two terms,
in nats per residue. The network at a residue learns from all residues of the batch alike, nothing else being known;
the messages learn what known letters add, by the count form of the bound (`core/objective/elbo.py`): with n ~ U{1..L}
masked sites of a chain of L, the mean over masked sites of -log D, averaged over chains. No gradient of the second
reaches the first.

Few backbones are known here, and letters that evolution exchanges are no great mistake: a share of the target is
spread over the letters like the native one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from apps.bio.protein.data import AMINO, Backbones, distinct, folds, joined, places, read_backbones, together
from apps.bio.protein.model import ProteinConfig
from apps.bio.protein.network import LETTERS, Graph, Member, ProteinNet, graph, join
from core.errors import DataError

__all__ = ["DRAWS", "FoldingTask", "Noised", "chain_graph", "make"]

NOWHERE = -1
"""The fold of clusters that only train."""

DRAWS = 2
"""Noisy sequences read with one encoding of a structure."""


class _Recipe(Protocol):
    """What is read of a recipe (`apps.bio.model.Recipe`)."""

    seed: int
    protein: Any


@dataclass(eq=False)
class Noised:
    """A batch: structures, noisy sequences [DRAWS, N], native letters [N], weights of sites, the member."""

    graph: Graph
    x_t: Tensor
    x_0: Tensor
    weight: Tensor
    member: int

    def to(self, device: torch.device | str) -> Noised:
        """Return the batch on a device."""
        x_t, x_0, weight = self.x_t.to(device), self.x_0.to(device), self.weight.to(device)
        return Noised(self.graph.to(device), x_t, x_0, weight, self.member)


def chain_graph(data: Backbones, i: int, neighbours: int, noise: np.ndarray | float = 0.0) -> Graph:
    """Return the graph of chain `i`, its coordinates moved by `noise`."""
    coords, bonded = data.coords[i], joined(data.coords[i])
    place = torch.from_numpy(places(data.number[i], bonded))
    clean = torch.from_numpy(coords)
    moved = torch.from_numpy((coords + noise).astype(np.float32))
    return graph(moved, torch.from_numpy(bonded), place, torch.zeros_like(place), neighbours, clean)


@dataclass(eq=False)
class FoldingTask:
    """Inverse folding, for `core.run.train`.

    Args:
        config: the recipe's part.
        seed: the recipe's.
        data: all backbones.
        own: how many of them, the first, are dealt to folds; the others have the fold of their cluster, or none.
    """

    config: ProteinConfig
    seed: int
    data: Backbones
    own: int | None = None
    kept: dict[int, Graph] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Deal the clusters out; fold 0 judges."""
        own = len(self.data) if self.own is None else self.own
        dealt = folds(self.data.first(own), self.config.members + 1)
        of = dict(zip(self.data.cluster[:own].tolist(), dealt.tolist(), strict=True))
        self.fold = np.array([of.get(c, NOWHERE) for c in self.data.cluster.tolist()])
        self.distinct = distinct(self.data)
        if not all(self.chains(k) for k in range(self.config.members + self.config.whole)):
            raise DataError("too few clusters: a network would see none", field="protein.data",
                            value=len(set(self.data.cluster.tolist())))  # fmt: skip

    def module(self) -> ProteinNet:
        """Build the members; each standardises features as they are on the chains that it may see."""
        net = ProteinNet(self.config)
        for k, member in enumerate(net.members):
            assert isinstance(member, Member)
            node = torch.cat([self.graph(int(rows[0])).node for rows in self.chains(k).values()])
            member.centre.copy_(node.mean(0))
            member.scale.copy_(node.std(0) + 1e-3)
        return net

    def chains(self, member: int) -> dict[int, np.ndarray]:
        """Return the distinct chains that a member may see, by cluster."""
        seen = (self.fold != 0) & (self.fold != member + 1) & self.distinct
        return {int(c): np.flatnonzero(seen & (self.data.cluster == c)) for c in np.unique(self.data.cluster[seen])}

    def graph(self, i: int) -> Graph:
        """Return the graph of chain `i`, its coordinates moved once; it is made once and kept in half precision."""
        if i not in self.kept:
            rng = np.random.default_rng([self.seed, 17, i])
            noise = rng.normal(0, self.config.noise, self.data.coords[i].shape) if self.config.noise else 0.0
            g = chain_graph(self.data, i, self.config.neighbours, noise)
            self.kept[i] = Graph(g.node.half(), g.edge.half(), g.index, g.gap)
        g = self.kept[i]
        return Graph(g.node.float(), g.edge.float(), g.index, g.gap)

    def batch(self, step: int, rank: int, world: int) -> Noised:
        """Return the batch of a step."""
        rng = np.random.default_rng([self.seed, step, rank])
        member = step % (self.config.members + self.config.whole)
        graphs, clean, noisy, weight, size = [], [], [], [], 0
        for i in rng.permutation(np.concatenate(list(self.chains(member).values()))).tolist():
            if size >= self.config.residues:
                break
            x = self.data.tokens[i]
            size += len(x)
            graphs.append(self.graph(i))
            masks = np.stack([rng.permutation(len(x)) < rng.integers(1, len(x) + 1) for _ in range(DRAWS)])
            clean.append(x)
            noisy.append(np.where(masks, LETTERS, x))
            weight.append(masks / masks.sum(1, keepdims=True))
        w = np.concatenate(weight, 1) / (len(weight) * DRAWS)
        x_t, x_0 = torch.from_numpy(np.concatenate(noisy, 1)), torch.from_numpy(np.concatenate(clean))
        return Noised(join(graphs), x_t, x_0, torch.from_numpy(w.astype(np.float32)), member)

    def loss(self, module: torch.nn.Module, batch: Noised, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return nats per residue of one member: nothing known, and with known letters."""
        net: Any = getattr(module, "module", module)
        member = net.members[batch.member]
        h, e = member.encode(batch.graph)
        plain = member.plain(h)
        log_p = (plain.detach() + member.told(h.detach(), e, batch.graph.index, batch.x_t)).log_softmax(-1)
        target = batch.x_0.expand_as(batch.x_t)
        law = similar().to(log_p) * self.config.smoothing + torch.eye(LETTERS).to(log_p) * (1 - self.config.smoothing)
        nothing = plain.log_softmax(-1)
        loss = -(law[batch.x_0] * nothing).sum(-1).mean() - ((law[target] * log_p).sum(-1) * batch.weight).sum()
        nats = -(log_p.gather(-1, target[..., None])[..., 0] * batch.weight).sum()
        right = (nothing.argmax(-1) == batch.x_0).float().mean()
        return loss, {"nats": nats.detach(), "recovery": right}

    def validate(self, module: torch.nn.Module, step: int) -> dict[str, float]:
        """Return nats per residue and recovery of one prediction from a bare backbone, of each member on its fold.

        One chain of each cluster; the mean over clusters.
        """
        net = getattr(module, "module", module)
        nats, right, device = [], [], next(net.parameters()).device
        for c in np.unique(self.data.cluster[self.fold > 0]):
            rows = np.flatnonzero((self.data.cluster == c) & self.distinct)[:1]
            parts = []
            for i in rows:
                g, x = self.graph(int(i)).to(device), torch.from_numpy(self.data.tokens[i]).to(device)
                log_p = net(g, torch.full_like(x, LETTERS), int(self.fold[i]) - 1).log_softmax(-1)
                nll = -log_p.gather(-1, x[:, None]).mean()
                parts.append((float(nll), float((log_p.argmax(-1) == x).float().mean())))
            nats.append(np.mean([p[0] for p in parts]))
            right.append(np.mean([p[1] for p in parts]))
        return {"loss": float(np.mean(nats)), "recovery": float(np.mean(right))}


@cache
@torch.inference_mode(False)
def similar() -> Tensor:
    """Return the law of the letter that replaces each letter in evolution, [20, 20]: q(b | a) ∝ p_b 2^(S_ab / 2).

    S is BLOSUM62 (Henikoff and Henikoff, 1992), in half bits; p_b the shares of letters that go with it.
    """
    from Bio.Align import substitution_matrices

    table: Any = substitution_matrices.load("BLOSUM62")
    score = torch.tensor([[float(table[a, b]) for b in AMINO] for a in AMINO])
    ratio = (2.0 ** (score / 2)).double()
    share = torch.linalg.solve(ratio, torch.ones(LETTERS, 1, dtype=torch.float64))[:, 0].clamp_min(1e-3)
    joint = share * ratio
    return (joint / joint.sum(1, keepdim=True)).float()


def make(recipe: _Recipe) -> FoldingTask:
    """Return the task of a recipe."""
    data = read_backbones(recipe.protein.data)
    whole = together(data, read_backbones(recipe.protein.more)) if recipe.protein.more else data
    return FoldingTask(recipe.protein, recipe.seed, whole, len(data))
