"""What `finetune` leaves: a model whose manifest names its parent and what was done, drawn from at any price of a nat.

The parent stands in the manifest as it was named, and as a path from the tuned model: a run is found again from another
directory, and wherever both are moved together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from core.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from apps.bio.generate import SequenceModel
    from apps.bio.protein.generate import InverseFolder

__all__ = ["checksum", "realigned", "write"]


def write(parent: SequenceModel | InverseFolder, out: Path, settings: dict[str, Any]) -> None:
    """Turn the averaged weights of a finished run into a model that `load` reads, its manifest naming the parent."""
    from core.run import checkpoint
    from core.run.models import shipped

    named, folder = settings["parent"], out / "model"
    own = named not in shipped("bio") and Path(named).is_dir()
    beside = {"parent_beside": os.path.relpath(Path(named).resolve(), folder.resolve())} if own else {}
    tuned = checkpoint.load(folder, app="bio-tuning")
    recipe = json.loads(json.dumps(dataclasses.asdict(parent.recipe), default=str))
    head = {"app": "bio", "config": recipe, "step": tuned.step, "metrics": {}, "optimizer": None}
    checkpoint.write(folder, {"weights.safetensors": tuned.weights}, head | {"tuning": settings | beside})


def parent_of(made: Mapping[str, Any], folder: Path) -> str | Path:
    """Return the parent of the tuned model in `folder`: where it stands beside the model, else as it was named."""
    beside = folder / made.get("parent_beside", ".")
    return beside if "parent_beside" in made and beside.is_dir() else made["parent"]


def realigned(model: str | Path, strength: float, device: str = "cpu") -> SequenceModel:
    """Return a tuned model that draws at the price alpha / strength of a nat, alpha being that of its tuning.

    It asks the reward nothing and computes two networks a step (`core.guide.realign` says what of it is exact): 0 is
    the parent, 1 what was tuned, between them less of it and above 1 more.

    Args:
        model: the folder of a tuned model of DNA or peptides (`model` of a run of `finetune`).
        strength, device: at least 0; where the networks run.

    Raises:
        UsageError: the model was not tuned, is one of proteins, or the strength is negative.
        CheckpointError: the parent is not where it was, or not what it was.
    """
    from apps.bio.generate import SequenceModel, restore
    from core.guide.realign import Realigned
    from core.run.models import find

    tuned, folder = restore(model, device), find(model, "bio").path
    made = json.loads((folder / "manifest.json").read_text()).get("tuning") if folder else None
    if not isinstance(tuned, SequenceModel):
        raise UsageError(f"means nothing for a model of {tuned.recipe.kind}", field="strength", value=strength)
    if made is None or folder is None:
        raise UsageError("is of models that `finetune` tuned, unlike this", field="strength", value=str(model))
    parent = restore(parent_of(made, folder), device)
    if checksum(parent.net) != made["parent_sha256"]:
        raise CheckpointError("is not the parent that was tuned: its weights have changed", field=made["parent"])
    both = Realigned(parent.net, tuned.net, strength, tuned.tokenizer.tokens)
    for name, counts in tuned.net.named_buffers(recurse=False):  # such as the lengths of peptides
        both.register_buffer(name, counts)
    return dataclasses.replace(tuned, net=both)


def checksum(net: nn.Module) -> str:
    """Return the sha256 of all values of a network."""
    total = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
