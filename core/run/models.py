"""Trained models by name: those that ship (`data/models/<domain>-<name>`), folders of runs, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from core.errors import CheckpointError
from core.run.fetch import data_root

if TYPE_CHECKING:  # completion of the command line asks for names only, without torch
    import torch

    from core.run.checkpoint import Checkpoint

__all__ = ["fill", "find", "shipped"]

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
