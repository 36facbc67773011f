"""The stability of sequences on a backbone as a reward by name: `ddg(FOLDER)`, FOLDER a potential fitted here.

    quintet bio oracle stability                                    fits it to measured mutations (a minute)
    quintet bio design protein --template F.pdb --reward "ddg(runs/bio/oracle-stability)" --steering gilc
    quintet bio finetune protein --template F.pdb --reward "ddg(runs/bio/oracle-stability)" --alpha 0.25 --out DIR
    quintet bio score designs.fasta --model protein --template F.pdb --reward "ddg(runs/bio/oracle-stability)"

A potential says nothing without a backbone: `ddg` is bound to one (`bound`) where a template is read, by the networks
of the model that reads it. Its value is the sum over sites of `g(i, x_i) - g(i, native_i)` (`stability`), in kcal/mol,
positive = more stable than the native sequence; alpha is kcal/mol per nat.

It is fitted to single mutations of S2648 and the mega-scale subset whose wild type has a known backbone, with features
of networks that did not see the backbone's cluster. Of designs with many mutations it is an extrapolation.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from apps.bio.protein.data import AMINO, Backbones, folds, joined, read_backbones
from apps.bio.protein.stability import FEATURES, Potential, features, fit, oracle, surroundings
from apps.bio.protein.structure import Structure, of_chain
from apps.bio.protein.variants import Variants, read_variants
from core.errors import CheckpointError, UsageError
from core.run import checkpoint

if TYPE_CHECKING:
    from apps.bio.protein.generate import InverseFolder

__all__ = ["Stability", "bound", "differences", "fit_verb", "load"]

APP = "bio-stability"


@dataclass(frozen=True, eq=False)
class Stability:
    """A potential that waits for its backbone.

    Args:
        potential: fitted.
        name: of the reward.
    """

    potential: Potential
    name: str = "ddG"
    letters = AMINO
    unit = "kcal/mol"

    def score(self, x: Tensor) -> Tensor:
        """Refuse: there is no backbone.

        Raises:
            UsageError: always.
        """
        raise UsageError("speaks about a backbone", field="reward", value=self.name, hint="give --template FILE.pdb")

    soft = score

    def on(self, structure: Structure, model: InverseFolder) -> Any:
        """Return the reward of sequences on a backbone, a `StabilityOracle`."""
        network = model.condition(model.graph(structure))
        return oracle(self.potential, network, structure.tokens, structure.coords, structure.bonded)


def bound(reward: Any, structure: Structure, model: InverseFolder) -> Any:
    """Return a reward whose parts that speak about a backbone know it."""
    if isinstance(reward, Stability):
        return reward.on(structure, model)
    if dataclasses.is_dataclass(reward) and not isinstance(reward, type):
        held = {f.name: getattr(reward, f.name) for f in dataclasses.fields(reward)}
        if parts := held.get("rewards"):
            return dataclasses.replace(reward, rewards=tuple(bound(p, structure, model) for p in parts))  # type: ignore[call-arg]
        if (part := held.get("reward")) is not None:
            return dataclasses.replace(reward, reward=bound(part, structure, model))  # type: ignore[call-arg]
    return reward


def differences(model: InverseFolder, data: Backbones, found: Variants) -> np.ndarray:
    """Return phi(to) - phi(wild) of mutations, by networks that did not see the cluster, [n, FEATURES]."""
    out, fold = np.zeros((len(found.ddg), FEATURES)), folds(data, model.net.config.members + 1)
    for c in np.unique(found.chain).tolist():
        rows = np.flatnonzero(found.chain == c)
        sites, which = np.unique(found.site[rows], return_inverse=True)
        network = model.condition(model.graph(of_chain(data, c)), int(fold[c]) - 1 if fold[c] else None)
        around = surroundings(data.coords[c], joined(data.coords[c]))
        phi = features(network, data.tokens[c], around, sites)
        out[rows] = phi[which, found.to[rows]] - phi[which, found.wild[rows]]
    return out


def fit_verb(*, path: str, out: Path | None, model: str = "protein") -> dict[str, Any]:
    """Fit a potential as the command line asks for it, and write it to `out`.

    Args:
        path: folder of the protein data, with `stability` below it.
        out: where; by default `runs/bio/oracle-stability`.
        model: the inverse-folding model whose features it reads.

    Raises:
        DataError: the data are missing.
        CheckpointError: no such model.
    """
    from apps.bio.protein.generate import restore

    folder = out or Path("runs") / "bio" / "oracle-stability"
    checkpoint.replaceable(folder)
    data = read_backbones(path)
    found = read_variants(path, data, ("megascale", "S2648"))
    potential = fit(differences(restore(model), data, found), found.ddg, found.chain, data.cluster[found.chain])
    figures = {"rows": float(len(found.ddg)), "proteins": float(len(set(found.chain.tolist())))}
    head = {"app": APP, "config": {"model": model, "penalty": potential.penalty}, "step": 0, "metrics": figures,
            "optimizer": None}  # fmt: skip
    checkpoint.write(folder, {"weights.safetensors": {"weight": torch.from_numpy(potential.weight)}}, head)
    return {"out": str(folder), "role": "stability", **figures, "penalty": potential.penalty}


def load(folder: str | Path) -> Stability:
    """Return the potential of a folder.

    Raises:
        CheckpointError: absent, damaged, or no potential of this version.
    """
    saved = checkpoint.load(folder, app=APP)
    weight = saved.weights.get("weight")
    if weight is None or weight.shape != (FEATURES,):
        raise CheckpointError("is no potential of this version", field=str(folder))
    return Stability(Potential(weight.double().numpy(), float(saved.config["penalty"])))
