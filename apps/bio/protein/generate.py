"""The model that a user holds: sequences for a backbone, under hard rules, written on the backbone.

The structure is read once; each step of the reverse loop (`core.sample`) reads the noisy sequences on top of it. At
temperature T a site is drawn from `D^(1/T)`, normalised. Fixed residues and residue alphabets are a law of
`core.constrain`: they hold in every sample, whatever the temperature or the reward.

A letter that was drawn is right about three times in ten, one that was given always. The messages of drawn letters
therefore count by `trust` alone while a design is drawn (a law between the letter and the mask); scores are exact.

The confidence of a residue is the probability (at temperature 1) of its letter when it and every eighth other residue
are hidden; the score of a design is the mean of its negative logarithm over designed residues, in nats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from apps.bio.protein.designs import ProteinDesigns
from apps.bio.protein.network import LETTERS, Graph, Member, ProteinNet, graph
from apps.bio.protein.potential import bound
from apps.bio.protein.sites import Sites, choose
from apps.bio.protein.structure import Structure, read_structure
from core.denoiser import subs
from core.errors import CheckpointError, UsageError
from core.nn.hosted import hosted
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.run.models import fill
from core.solvers.tokens import SOLVERS

if TYPE_CHECKING:
    from core.finetune.base import Base
    from core.run.checkpoint import Checkpoint

__all__ = ["Conditioned", "InverseFolder", "restore", "restored"]

HIDDEN = 8
"""Groups of residues that are hidden in turn to score a sequence."""


class Conditioned(nn.Module):
    """Members that have read one structure: noisy sequences to logits.

    Args:
        members: the networks.
        g: the structure.
        temperature: of the posterior.
        trust: how much of a letter is told; 1 at the residues `given`, bool [N], and everywhere where there is none.
    """

    def __init__(
        self, members: Sequence[Member], g: Graph, temperature: float = 1.0, trust: float = 1.0,
        given: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.members, self.index, self.temperature = nn.ModuleList(members), g.index, temperature
        self.told = None if given is None or trust == 1 else torch.where(given, 1.0, trust)[:, None].to(g.node.device)
        self.read = [m.encode(g) for m in members]

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Return log-probabilities [B, N, 20], the mean over members, of tokens [B, N] or laws [B, N, 21]."""
        if self.told is not None:
            law = x if x.is_floating_point() else nn.functional.one_hot(x, LETTERS + 1).to(self.told)
            letters = self.told.to(law) * law[..., :LETTERS]
            x = torch.cat([letters, 1 - letters.sum(-1, keepdim=True)], -1)
        total: Any = 0.0
        for member, (h, e) in zip(self.members, self.read, strict=True):
            total = total + member.decode(h, e, self.index, x).log_softmax(-1)  # type: ignore[operator]
        return (total / len(self.read)).log_softmax(-1) / self.temperature


@dataclass(eq=False)
class InverseFolder:
    """A trained inverse-folding model.

    Args:
        net: the cross-fitted members.
        recipe: the run that trained them (`apps.bio.model.Recipe`).
        batch: most sequences sampled together.
        name: what it was loaded as, for manifests.
        last: the structure that was read last, and its graph.
    """

    net: ProteinNet
    recipe: Any
    batch: int = 16
    name: str = ""
    last: tuple[Structure, Graph] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Set the network to inference."""
        self.net.eval()
        self.process = Categorical.absorbing(LETTERS)

    def condition(
        self, g: Graph, member: int | None = None, temperature: float = 1.0, trust: float = 1.0,
        given: Tensor | None = None,
    ) -> nn.Module:  # fmt: skip
        """Read a structure with all members, or with the one that did not see its cluster (a hosted `Conditioned`)."""
        chosen = [self.net.members[member]] if member is not None else list(self.net.members)
        device = next(self.net.parameters()).device
        with torch.no_grad():
            found = Conditioned(chosen, g.to(device), temperature, trust, given)  # type: ignore[arg-type]
        return hosted(found.eval())

    def graph(self, structure: Structure) -> Graph:
        """Return the graph of a structure; the last one is kept."""
        if self.last is not None and self.last[0] is structure:
            return self.last[1]
        coords, bonded = torch.from_numpy(structure.coords), torch.from_numpy(structure.bonded)
        place, chain = torch.from_numpy(structure.place), torch.from_numpy(structure.chain)
        self.last = structure, graph(coords, bonded, place, chain, self.net.config.neighbours)
        return self.last[1]

    def base(
        self, sites: Sites, steps: int | None = None, temperature: float | None = None, solver: str = "ancestral"
    ) -> Base:
        """Return the sampler of one backbone as `core.finetune` steers it; the hard rules hold."""
        from core.finetune.base import Base

        cfg = self.recipe.protein
        heat, given = temperature or cfg.temperature, torch.from_numpy(sites.fixed)
        network = self.condition(self.graph(sites.structure), None, heat, cfg.trust, given)

        def window(rows: int) -> Any:
            rule = sites.law(rows)
            return rule.window(rule.begin(), np.arange(rows), len(sites.fixed), 0)

        return Base(
            network, self.process, uniform_plan(steps or cfg.steps), len(sites.fixed), torch.from_numpy(sites.start()),
            window, SOLVERS[solver](),
        )  # fmt: skip

    @torch.no_grad()
    def sample(
        self, n: int, structure: Structure | str | Path, *, fix: str = "", design: str = "",
        letters: Mapping[str, str] | None = None, exclude: str = "", chains: Sequence[str] | None = None,
        temperature: float | None = None, steps: int | None = None, solver: str | None = None, seed: int = 0,
        index: np.ndarray | None = None, reward: Any = None, steering: Any = None,
    ) -> ProteinDesigns:  # fmt: skip
        """Design sequences for a backbone.

        Args:
            n: how many.
            structure: a backbone, or the file that holds it.
            fix, design, letters, exclude: what may change, as in `sites.choose`.
            chains: those to read of a file; all by default.
            temperature, steps, solver: other than the recipe's defaults.
            seed: all randomness.
            index: number of each design's stream, int64 [n]; 0 ... n - 1 by default.
            reward: of `core.finetune`; it sees tokens [B, N] over all residues; `ddg` is bound to the structure.
            steering: a method of `core.finetune.steer`, or its name; by default the best of 16 draws.

        Raises:
            UsageError, InfeasibleError: selectors or letters are wrong, or leave nothing, before sampling.
            DataError: the file cannot be read.
        """
        whole = structure if isinstance(structure, Structure) else read_structure(structure, chains)
        sites = choose(whole, fix, design, letters, exclude)
        cfg = self.recipe.protein
        chosen = {
            "temperature": temperature or cfg.temperature, "steps": steps or cfg.steps, "solver": solver or cfg.solver
        }  # fmt: skip
        if chosen["solver"] not in SOLVERS:
            raise UsageError("no such solver", field="solver", value=solver, choices=SOLVERS)
        streams = np.arange(n) if index is None else np.asarray(index, np.int64)
        base = self.base(sites, **chosen)  # type: ignore[arg-type]
        if reward is not None:
            reward = bound(reward, whole, self)
            x = steered(base, reward, steering, n, Stream(seed, torch.from_numpy(streams)))
        else:
            x = torch.cat([base.sample(Stream(seed, torch.from_numpy(part))) for part in self._parts(streams)])
        network = replace(base, network=self.condition(self.graph(whole)))
        manifest = {"model": self.name, "structure": whole.name, "seed": seed, **chosen, "fix": fix, "design": design}
        manifest |= {"letters": dict(letters or {}), "exclude": exclude}
        manifest |= {"reward": reward.name, "steering": str(steering or "best-of-n")} if reward is not None else {}
        found = ProteinDesigns(sites, x.cpu().numpy(), self.confidence(network, x), manifest, streams)
        if reward is not None:
            found.scores[re.sub(r"\W+", "_", reward.name)] = reward.score(x).double().numpy()
        return found

    def design(
        self, *, rules: Mapping[str, Any], template: Path | None, n: int = 8, seed: int = 0, out: Path | None = None,
        fold: str = "", told: Mapping[str, Any] | None = None, **settings: Any,
    ) -> dict[str, Any] | None:  # fmt: skip
        """Design on the structure in `template` as the command line asks (`apps.bio.protein.order`)."""
        from apps.bio.protein.order import carried_out

        return carried_out(self, rules, template, out, fold, told or {}, n=n, seed=seed, **settings)

    @torch.no_grad()
    def evaluate(self, n: int, seed: int = 0) -> dict[str, Any]:
        """Return recovery and nats per residue on at most `n` test clusters, of one prediction from a bare backbone."""
        from apps.bio.protein.data import folds, read_backbones
        from apps.bio.protein.task import chain_graph

        data = read_backbones(self.recipe.protein.data)
        test = np.flatnonzero(folds(data, self.net.config.members + 1) == 0)
        _, first = np.unique(data.cluster[test], return_index=True)
        found = []
        for i in np.random.default_rng(seed).permutation(test[first])[:n]:
            x = torch.from_numpy(data.tokens[i])
            network = self.condition(chain_graph(data, int(i), self.net.config.neighbours))
            log_p = network(torch.full((1, len(x)), LETTERS))[0]
            found.append([float((log_p.argmax(-1) == x).float().mean()), -float(log_p.gather(-1, x[:, None]).mean())])
        recovery, nats = np.mean(found, 0)
        return {"clusters": len(found), "recovery": float(recovery), "nats_per_residue": float(nats)}

    def _parts(self, streams: np.ndarray) -> list[np.ndarray]:
        return [streams[a : a + self.batch] for a in range(0, len(streams), self.batch)]

    @torch.no_grad()
    def confidence(self, base: Base, x: Tensor) -> np.ndarray:
        """Return the probability of each letter of `x` [B, N] when its group is hidden, float64 [B, N]."""
        group = torch.arange(x.shape[1]) % HIDDEN
        out = torch.zeros(x.shape, dtype=torch.float64)
        for k in range(HIDDEN):
            for a in range(0, len(x), self.batch):
                rows = x[a : a + self.batch]
                hidden = (group == k).expand_as(rows)
                noisy = torch.where(hidden, LETTERS, rows)
                p = subs(base.network(noisy, torch.ones(len(rows))).double(), noisy, LETTERS).log_p.exp()
                found = p.gather(-1, rows[..., None])[..., 0].cpu()
                out[a : a + self.batch] = torch.where(hidden, found, out[a : a + self.batch])
        return out.numpy()

    def score(self, structure: Structure, sequences: Sequence[str]) -> np.ndarray:
        """Return the mean nats per residue of whole sequences on a backbone, float64 [B]."""
        from apps.bio.protein.data import AMINO
        from apps.bio.tokenizer import Tokenizer

        x = torch.from_numpy(Tokenizer(AMINO).encode(list(sequences)))
        if x.shape[1] != len(structure.residues):
            raise UsageError("differs from the structure in length", field="sequences", value=x.shape[1])
        base = self.base(choose(structure))
        sure = self.confidence(replace(base, network=self.condition(self.graph(structure))), x)
        return -np.log(np.maximum(sure, 1e-12)).mean(1)


def steered(base: Base, reward: Any, steering: Any, n: int, stream: Stream) -> Tensor:
    """Return n draws steered to a reward, tokens [n, N].

    Raises:
        UsageError: no such method.
    """
    from core.finetune.steer import STEERINGS

    if isinstance(steering, str) and steering not in ("", *STEERINGS):
        raise UsageError("no such steering", field="steering", value=steering, choices=STEERINGS)
    way = STEERINGS[steering or "best-of-n"]() if steering is None or isinstance(steering, str) else steering
    return way(base, reward, n, stream).x


def restored(saved: Checkpoint, recipe: Any, device: str = "cpu") -> InverseFolder:
    """Return the model of a checkpoint whose recipe is of kind `protein`.

    Raises:
        CheckpointError: its weights do not fit the recipe's network.
    """
    net = fill(ProteinNet(recipe.protein), saved.inference, saved.path)
    return InverseFolder(net.to(device), recipe)


def restore(name: str | Path, device: str = "cpu") -> InverseFolder:
    """Return an inverse-folding model by name or folder (see `apps.bio.protein.load`)."""
    from apps.bio.generate import restore as any_kind

    found = any_kind(name, device)
    if not isinstance(found, InverseFolder):
        raise CheckpointError("holds another kind of molecule", field="model", value=str(name))
    return found
