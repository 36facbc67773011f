"""Checkpoints: atomic, checksummed, free of pickle; the newest complete one always loads.

A checkpoint is a folder:

    weights.safetensors  ema.safetensors  optimizer.safetensors   tensors
    manifest.json        format, app, config, step, metrics, version, the optimiser's scalars, sha256 of each file

It is written under a temporary name, each file and the folder are flushed to disk, and a rename makes it appear:
a reader sees all of it or nothing. What it replaces is moved aside first, and put back if the writer dies before its
own is in place. The manifest is written last; sha256 is needed because safetensors itself does not notice changed
bytes of data. Older checkpoints are pruned only after the new one stands.

A run keeps them under `checkpoints/step-<number>`; an inference checkpoint (`export`) holds the averaged weights only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

import core
from core.errors import CheckpointError, QuintetError, UsageError

__all__ = ["FORMAT", "Checkpoint", "export", "load", "newest", "prune", "replaceable", "save", "write"]

FORMAT = 1
MANIFEST = "manifest.json"
FILES = ("weights.safetensors", "ema.safetensors", "optimizer.safetensors")


@dataclass(eq=False)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        app: the domain that wrote it.
        config: the recipe as plain JSON values.
        step: optimiser steps done.
        weights, ema: module states; `ema` is empty in an inference checkpoint.
        optimizer: nested state as given to `save`, or None.
        metrics: the last validation figures and the loop's own counters.
        path: where it was read.
    """

    app: str
    config: dict[str, Any]
    step: int
    weights: dict[str, Tensor]
    ema: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    path: Path | None = None

    @property
    def inference(self) -> dict[str, Tensor]:
        """The weights to sample with: the averaged ones where there are any."""
        return self.ema or self.weights


def save(
    folder: Path,
    *,
    app: str,
    config: Mapping[str, Any],
    step: int,
    module_state: Mapping[str, Tensor],
    ema_state: Mapping[str, Tensor] | None = None,
    optimizer_state: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    keep: int = 2,
) -> Path:
    """Write `folder/step-<step>` atomically, prune to the `keep` newest, and return the new folder.

    Raises:
        QuintetError: the disk refused (no space, no permission), or a value is not finite, which could not be loaded
            again; earlier checkpoints are untouched.
    """
    tensors, scalars = split_optimizer(optimizer_state)
    content = {"weights.safetensors": module_state, "ema.safetensors": ema_state, "optimizer.safetensors": tensors}
    finite(module_state, "weights")
    head = {"app": app, "config": dict(config), "step": step, "metrics": dict(metrics or {}), "optimizer": scalars}
    target = folder / f"step-{step:09d}"
    write(target, {name: value for name, value in content.items() if value}, head)
    prune(folder, keep, target)
    return target


def export(path_out: Path, checkpoint: Checkpoint, *, dtype: Literal["float32", "float16"] = "float32") -> Path:
    """Write an inference checkpoint: the averaged weights only, floating tensors as `dtype`.

    Raises:
        CheckpointError: a value is not finite, or not as `dtype`, and could not be loaded again; nothing is written.
    """
    kind = {"float32": torch.float32, "float16": torch.float16}[dtype]
    weights = {k: v.to(kind) if v.is_floating_point() else v for k, v in checkpoint.inference.items()}
    finite(weights, f"weights as {dtype}")
    head = {"app": checkpoint.app, "config": checkpoint.config, "step": checkpoint.step}
    head |= {"metrics": checkpoint.metrics, "optimizer": None}
    write(path_out, {"weights.safetensors": weights}, head)
    return path_out


def load(path: Path | str, *, app: str | None = None) -> Checkpoint:
    """Read a checkpoint folder, or the newest complete one of a run folder, and verify every byte.

    Args:
        path: a checkpoint, an inference checkpoint, or the folder of a run.
        app: the domain that it must belong to.
    Raises:
        CheckpointError: absent, damaged, of an unknown format, or of another app.
    """
    path = root = Path(path)
    if not (path / MANIFEST).is_file():
        recover(path.parent)
    if not (path / MANIFEST).is_file():
        found = newest(path / "checkpoints") or newest(path)
        if found is None:
            raise CheckpointError("no complete checkpoint here", field="checkpoint", value=str(path))
        path = found
    manifest, blobs = read(path)
    if app is not None and manifest["app"] != app:
        hint = f"give {root / 'model'}" if (root / "model" / MANIFEST).is_file() else ""
        raise CheckpointError(f"belongs to app {manifest['app']!r}, not {app!r}", field=str(path), hint=hint)
    tensors = {name: parse(path / name, blob) for name, blob in blobs.items()}
    return Checkpoint(
        app=manifest["app"],
        config=manifest["config"],
        step=manifest["step"],
        weights=tensors["weights.safetensors"],
        ema=tensors.get("ema.safetensors", {}),
        optimizer=join_optimizer(tensors.get("optimizer.safetensors", {}), manifest["optimizer"]),
        metrics=manifest["metrics"],
        path=path,
    )


def newest(
    folder: Path, complain: Callable[[str], None] = lambda line: None, aside: bool = False
) -> Path | None:  # fmt: skip
    """Return the newest checkpoint in `folder` whose every file has its checksum.

    Args:
        folder: of a run's checkpoints.
        complain: hears of newer ones that are damaged.
        aside: rename those to `damaged-step-...`, so that they do not count among those that are kept.
    """
    recover(folder)
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            read(path)
        except CheckpointError as error:
            complain(f"skipped: {error}")
            if aside:
                with contextlib.suppress(OSError):
                    os.rename(path, path.with_name(f"damaged-{path.name}"))
        else:
            return path
    return None


def prune(folder: Path, keep: int, last: Path) -> None:
    """Remove all but the `keep` newest checkpoints and the `last` one written, and what interrupted writers left."""
    recover(folder)
    for path in sorted(folder.glob("step-*"), reverse=True)[keep:]:
        if path != last:
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def write(target: Path, files: Mapping[str, Mapping[str, Tensor]], head: Mapping[str, Any]) -> None:
    """Make the folder `target` appear with all its files, or not at all; only a checkpoint gives way to it."""
    scratch = target.parent / f".tmp-{target.name}-{os.getpid()}"
    replaceable(target)
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        sums = {}
        for name, state in files.items():
            blob = dump_tensors({k: v.detach().contiguous().cpu().clone() for k, v in state.items()})
            sums[name] = hashlib.sha256(blob).hexdigest()
            flush(scratch / name, blob)
        manifest = {"format": FORMAT, "version": core.__version__, **head, "sha256": sums}
        flush(scratch / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
        replace(scratch, target)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise QuintetError(f"cannot write the checkpoint ({error.strerror or error})", field=str(target)) from error


def replaceable(target: Path) -> None:
    """See that a checkpoint may stand at `target`: where nothing is, an empty folder or another checkpoint.

    Raises:
        UsageError: something else stands there, which would be lost.
    """
    with contextlib.suppress(OSError, ValueError, TypeError):
        if not target.exists() or {p.name for p in target.iterdir()} <= {MANIFEST, *FILES}:
            return
        if {"format", "step", "sha256"} <= set(json.loads((target / MANIFEST).read_bytes())):
            return
    raise UsageError("holds what is no checkpoint", field="out", value=str(target), hint="choose another --out")


def flush(path: Path, blob: bytes) -> None:
    """Write bytes and wait until they are on the disk."""
    with path.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


def replace(scratch: Path, target: Path) -> None:
    """Rename a finished folder into place; one that stands there already is moved aside first, then removed."""
    aside = target.parent / f".tmp-old-{target.name}-{os.getpid()}"
    if target.exists():
        os.rename(target, aside)
    os.rename(scratch, target)
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    shutil.rmtree(aside, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back what a writer that died had moved aside and not yet replaced."""
    for aside in folder.glob(".tmp-old-*"):
        name, _, writer = aside.name.removeprefix(".tmp-old-").rpartition("-")
        if not (folder / name).exists() and not (writer.isdigit() and alive(int(writer))):
            with contextlib.suppress(OSError):
                os.rename(aside, folder / name)


def alive(process: int) -> bool:
    """Whether another process runs under this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest and the verified bytes of each file that it lists."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        kinds = {"app": str, "config": dict, "step": int, "metrics": dict, "sha256": dict}
        if not isinstance(manifest, dict) or any(not isinstance(manifest.get(k), t) for k, t in kinds.items()):
            raise CheckpointError("the manifest lacks a field", field=str(path))
        if manifest.get("format") != FORMAT:
            raise CheckpointError("unknown format", field=str(path), value=manifest.get("format"), choices=[FORMAT])
        sums = manifest["sha256"]
        if "weights.safetensors" not in sums or set(sums) - set(FILES):
            raise CheckpointError("the manifest lists other files than a checkpoint has", field=str(path))
        blobs = {name: (path / name).read_bytes() for name in sums}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"incomplete or unreadable ({type(error).__name__})", field=str(path)) from None
    for name, blob in blobs.items():
        if hashlib.sha256(blob).hexdigest() != sums[name]:
            raise CheckpointError("damaged: sha256 differs from the manifest", field=str(path / name))
    return manifest, blobs


def parse(path: Path, blob: bytes) -> dict[str, Tensor]:
    """Decode one safetensors file and refuse values that are not finite."""
    try:
        state = load_tensors(blob)
    except SafetensorError as error:
        raise CheckpointError(f"not a safetensors file ({error})", field=str(path)) from None
    finite(state, str(path))
    return state


def finite(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse values that are not finite."""
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            hint = "a buffer such as a mask of -inf is registered with persistent=False"
            raise CheckpointError("holds values that are not finite", field=f"{where}:{name}", hint=hint)


def split_optimizer(state: Mapping[str, Any] | None) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Split `{"state": {parameter: {slot: value}}, "param_groups": [...]}` into tensors and JSON values."""
    if state is None:
        return {}, None
    tensors, scalars = {}, {}
    for name, slots in state["state"].items():
        for slot, value in slots.items():
            (tensors if isinstance(value, Tensor) else scalars)[f"{name}/{slot}"] = value
    return tensors, {"scalars": scalars, "param_groups": state["param_groups"]}


def join_optimizer(tensors: Mapping[str, Tensor], scalars: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Undo `split_optimizer`."""
    if scalars is None:
        return None
    state: dict[str, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars["scalars"]}.items():
        name, _, slot = key.rpartition("/")
        state.setdefault(name, {})[slot] = value
    return {"state": state, "param_groups": scalars["param_groups"]}
