"""Trained models by name: those that ship (`data/models/<domain>-<name>`), folders of runs, checkpoints.

Models that went on from the same one by different roads lie in one valley: the mean of their weights,

    theta = (theta_1 + ... + theta_n) / n,

is a model too, often better than each of them, at the price of one (`average`). Models that were trained from scratch
do not: their units stand in another order.

Reference: Wortsman et al., 2022, arXiv 2203.05482, for the mean of fine-tuned models.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import CheckpointError, UsageError
from core.run.fetch import data_root

if TYPE_CHECKING:  # completion of the command line asks for names only, without torch
    import torch

    from core.run.checkpoint import Checkpoint

__all__ = ["average", "fill", "find", "shipped"]

Net = TypeVar("Net", bound="torch.nn.Module")


def shipped(domain: str) -> dict[str, Path]:
    """Return the folders of the models of an application that ship, by name."""
    return {p.name.removeprefix(f"{domain}-"): p for p in sorted((data_root() / "models").glob(f"{domain}-*"))}


def find(name: str | Path, domain: str) -> Checkpoint:
    """Read the model that a user means: one that ships goes before a folder of that name.

    Args:
        name: a model that ships, or the folder of a run or of a checkpoint.
        domain: the application that it must belong to.

    Raises:
        CheckpointError: no such model, damaged, or of another application.
    """
    from core.run import checkpoint

    known = shipped(domain)
    folder = known.get(str(name), Path(name))
    if not folder.is_dir():
        hint = f"give the folder of a run or a checkpoint; `quintet {domain} train` makes one"
        raise CheckpointError("no such model", field="model", value=str(name), choices=known or None, hint=hint)
    return checkpoint.load(folder, app=domain)


def fill(net: Net, weights: Mapping[str, torch.Tensor], source: str | Path | None) -> Net:
    """Copy all weights of a checkpoint into a network, converted to its types, and return it.

    Raises:
        CheckpointError: names or shapes differ; names the first.
    """
    try:
        net.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"its weights do not fit the network ({reason})", field=str(source)) from None
    return net


def average(
    names: Sequence[str | Path], domain: str, out: Path | None, changes: Sequence[str] = (), schema: str | None = None
) -> dict[str, Any]:
    """Write the mean of models as a new one, with the recipe of the first, and return what was done.

    Numbers that are no fractions are those of the first.

    Args:
        names: at least two models of one shape, as in `find`.
        domain: the application that they belong to.
        out: the folder of the new model.
        changes: of that recipe, `key=value`: how the mean is sampled is its own choice.
        schema: the dotted path of the recipe's dataclass, as in `load_recipe`.

    Raises:
        UsageError: fewer than two models, no folder or one of other things, or a change that the recipe does not know.
        CheckpointError: one is missing or damaged, or its tensors have other names or shapes; names the first.
    """
    import torch

    from core.run import checkpoint

    if len(names) < 2:
        raise UsageError("names at least two models", field="models", value=" ".join(map(str, names)))
    if out is None:
        raise UsageError("is needed: where to write the mean", field="out")
    checkpoint.replaceable(out)
    first, *others = (find(name, domain) for name in names)
    total = {k: v.double() if v.is_floating_point() else v for k, v in first.inference.items()}
    for name, other in zip(names[1:], others, strict=True):
        shapes = [{k: tuple(v.shape) for k, v in c.inference.items()} for c in (first, other)]
        unlike = [k for k in sorted(shapes[0].keys() | shapes[1].keys()) if shapes[0].get(k) != shapes[1].get(k)]
        if unlike:
            mine, its = (s.get(unlike[0], "nothing") for s in shapes)
            reason = f"{unlike[0]} is {its} where {names[0]} has {mine}"
            raise CheckpointError(f"is no model of the same shape ({reason})", field=str(name))
        for k, v in other.inference.items():
            if v.is_floating_point():
                total[k] += v
    weights = {k: (total[k] / len(names)).to(v) if v.is_floating_point() else v for k, v in first.inference.items()}
    if bad := [k for k, v in weights.items() if v.is_floating_point() and not torch.isfinite(v).all()]:
        raise CheckpointError("the mean is not finite", field=bad[0])
    parents = [str(name) for name in names]
    config, step = changed(first.config, domain, changes, schema), max(c.step for c in (first, *others))
    head = {"app": domain, "config": config, "step": step, "metrics": {}}
    checkpoint.write(out, {"weights.safetensors": weights}, head | {"optimizer": None, "mean_of": parents})
    return {"model": str(out), "mean_of": parents, "step": step}


def changed(config: dict[str, Any], domain: str, changes: Sequence[str], schema: str | None) -> dict[str, Any]:
    """Return the recipe of a checkpoint with some settings changed, checked as a recipe that is trained is.

    Raises:
        UsageError: names the setting, the value and the nearest valid choice.
    """
    from core.run.config import load_recipe

    if not changes:
        return config
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return dataclasses.asdict(load_recipe(domain, str(path), changes, schema))
