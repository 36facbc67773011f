"""The one training loop.

Step s of process r draws everything from streams keyed by (seed, s, r): the batch is `task.batch(s, r, world)`, the
noise of its items is that of `core.run.lane`, and torch is reseeded from a hash of the key before the loss. So the
state of a run is (weights, averaged weights, optimiser, s) and nothing else; a run that was killed and resumed ends
with the same bits as one that was not (same machine, same number of threads).

One step, with A micro-batches on each of W processes (micro-batch a of process r counts as process r A + a of W A):

    g      = mean over the W A micro-batches of grad loss          clipped to norm `clip`
    theta <- optimiser(theta, g, lr(s))
    ema   <- d ema + (1 - d) theta,    d = min(decay, (1 + s) / (10 + s))

A loss or gradient that is not finite ends the run before the weights are touched. SIGTERM and SIGINT let the step
finish, save and end with 143 and 130. Devices, precision and distribution are Lightning Fabric's business.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from core.errors import CheckpointError, QuintetError, UsageError
from core.run import checkpoint as store
from core.run.config import LoggerConfig, OptimConfig, TrainerConfig, filled
from core.run.data import stream
from core.run.fabric import agree, average_figures, launch
from core.run.guard import Interrupted, reserved, signals
from core.run.lane import within
from core.run.log import Journal
from core.run.memory import Feed, scarce
from core.run.optim import learning_rate, make_optimizer, pace
from core.run.state import Average, Weights

__all__ = ["Interrupted", "Task", "TrainResult", "train"]


class Task(Protocol):
    """What an app hands to the loop. An attribute `forward_methods` may name methods that run the network."""

    def module(self) -> nn.Module:
        """Build the network afresh, deterministic in the recipe's seed."""
        ...

    def batch(self, step: int, rank: int, world: int) -> Any:
        """Return CPU arrays or tensors as a PURE function of the arguments; it may run ahead in a thread."""
        ...

    def loss(self, module: nn.Module, batch: Any, step: int) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the scalar to minimise and figures to log."""
        ...

    def validate(self, module: nn.Module, step: int) -> dict[str, float]:
        """Return figures under the averaged weights; `loss` drives `best` and early stopping."""
        ...


@dataclass
class TrainResult:
    """How a run ended: steps done, last validation figures, the run's folder, why, and the seconds it took."""

    step: int
    metrics: dict[str, float]
    folder: Path
    stopped: Literal["steps", "early", "time"]
    seconds: float


@dataclass(eq=False)
class Run:
    """The moving parts of one run, so that the loop reads as the mathematics above."""

    task: Task
    app: str
    config: dict[str, Any]
    trainer: TrainerConfig
    optim: OptimConfig
    out: Path
    fabric: Fabric
    module: Any
    optimizer: Any
    weights: Weights
    average: Average
    step: int = 0
    saved: int = -1
    metrics: dict[str, float] = field(default_factory=dict)
    best: float = math.inf
    stale: int = 0
    parts: int = 1


def train(
    task: Task,
    *,
    app: str,
    config: dict[str, Any],
    trainer: TrainerConfig,
    optim: OptimConfig,
    logger: LoggerConfig,
    out: Path,
    initial: Path | None = None,
    defaults: Mapping[str, Any] | None = None,
    smaller: Mapping[int, Callable[[], Task]] | None = None,
) -> TrainResult:
    """Train until the last step, an early stop, the clock or a signal; resume where `out` holds a checkpoint.

    Args:
        task: the app's task.
        app: the domain, written into each checkpoint.
        config: the recipe as plain JSON values, written into each checkpoint.
        trainer, optim, logger: the recipe's groups.
        out: the folder of the run; one run at a time may use it.
        initial: a checkpoint to start from instead of fresh weights (fine-tuning).
        defaults: of all settings, for those that a run made by an older version does not know.
        smaller: makes the task with a batch 2, 3, ... times smaller, for when memory runs out (`core/run/memory.py`).
    Raises:
        UsageError: `out` is in use, not writable, or holds a run with other settings or a `model` that is none.
        Interrupted: on SIGTERM or SIGINT, after saving.
        QuintetError: the loss was not finite; nothing was overwritten.
    """
    began = time.monotonic()
    config = json.loads(json.dumps(config, default=str))  # as a checkpoint gives it back
    known = json.loads(json.dumps(defaults or {}, default=str))
    fabric = launch(trainer)
    with reserved(out, fabric.is_global_zero), signals() as caught:
        run = prepare(task, app, config, trainer, optim, out, fabric, initial, known)
        journal = Journal(out, first=run.step, last=trainer.steps, name=logger.name, active=fabric.is_global_zero)
        if run.step:
            journal.note(f"resuming after step {run.step} from {out / 'checkpoints'}")
        try:
            stopped = loop(run, journal, caught, began, smaller or {})
        finally:
            journal.close()
    finish(run)
    return TrainResult(run.step, run.metrics, out, stopped, time.monotonic() - began)


def prepare(
    task: Task,
    app: str,
    config: dict[str, Any],
    trainer: TrainerConfig,
    optim: OptimConfig,
    out: Path,
    fabric: Fabric,
    initial: Path | None,
    defaults: Mapping[str, Any],
) -> Run:
    """Build or restore what a run consists of."""
    for name in ("best", "model"):
        store.replaceable(out / name)  # told before hours of training, not at their end
    reseed(trainer.seed, "module")
    module = fabric.setup_module(task.module())
    for name in getattr(task, "forward_methods", ()):
        module.mark_forward_method(name)
    optimizer: Any = fabric.setup_optimizers(make_optimizer(module, optim))
    weights = Weights(module.module, optimizer.optimizer)
    run = Run(
        task, app, config, trainer, optim, out, fabric, module, optimizer, weights, Average(module.module, trainer.ema)
    )
    store.finite(dict(module.module.named_buffers()), "network")
    first = fabric.is_global_zero
    found = store.newest(out / "checkpoints", fabric.print if first else lambda line: None, aside=first)
    if found is not None:
        restore(run, store.load(found, app=app), defaults)
    elif initial is not None:
        weights.put(store.load(initial, app=app).inference)
        run.average.reset()
    return run


def restore(run: Run, saved: store.Checkpoint, defaults: Mapping[str, Any]) -> None:
    """Put a checkpoint's state into a run; refuse one that was trained with other settings."""
    free = {"trainer", "logger"}
    known, added = filled(saved.config, defaults)
    for key in {**known, **run.config}:
        old, new = known.get(key), run.config.get(key)
        if key not in free and old != new:
            changed = difference(key, old, new)
            raise UsageError(
                f"{run.out} holds a run with other settings ({changed})", field="out", hint="choose another --out"
            )
    if (fresh := [line for line in added if line.partition(".")[0] not in free]) and run.fabric.is_global_zero:
        print(f"made before these settings were; their defaults are taken: {', '.join(fresh)}", file=sys.stderr)
    if saved.optimizer is None:
        raise CheckpointError("an inference checkpoint cannot be resumed", field=str(saved.path))
    run.average.put(run.weights, saved.inference)
    run.weights.put(saved.weights)
    run.weights.put_optimizer(saved.optimizer)
    run.step = run.saved = saved.step
    counters = {k: v for k, v in saved.metrics.items() if k in {"best", "stale", "parts"}}
    run.metrics = {k: v for k, v in saved.metrics.items() if k not in counters}
    run.best, run.stale = counters.get("best", math.inf), int(counters.get("stale", 0))
    run.parts = int(counters.get("parts", 1))


def difference(path: str, old: Any, new: Any) -> str:
    """Name the first setting in which two configs differ, as `path: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                return difference(f"{path}.{key}", old.get(key), new.get(key))
    return f"{path}: {old!r} -> {new!r}"


def loop(
    run: Run, journal: Journal, caught: list[int], began: float, smaller: Mapping[int, Callable[[], Task]]
) -> Literal["steps", "early", "time"]:
    """Do the steps that are left."""
    cfg, fabric = run.trainer, run.fabric
    feed = Feed(run.task, fabric.global_rank, fabric.world_size, cfg.accumulate, cfg.prefetch, smaller, run.parts)
    run.task, run.parts = feed.task, feed.parts
    clock = time.monotonic()
    if run.step < cfg.steps and exhausted_patience(run):
        return "early"
    try:
        while run.step < cfg.steps:
            figures = advance(run, feed, journal)
            if due(run.step, cfg.log_every, cfg.steps):
                seconds, clock = time.monotonic() - clock, time.monotonic()
                journal.step(run.step, {**average_figures(fabric, figures), "seconds": seconds})
            if due(run.step, cfg.validate_every, cfg.steps):
                validate(run, journal)
            late = cfg.max_minutes and time.monotonic() - began > 60 * cfg.max_minutes
            stop, late = agree(fabric, caught[-1] if caught else 0, float(bool(late)))
            early = exhausted_patience(run)
            if stop or late or early or due(run.step, cfg.checkpoint_every, cfg.steps):
                save(run)
            if stop:
                raise Interrupted(int(stop), run.step, run.out)
            if early or late:
                return "early" if early else "time"
    except Exception as error:
        if scarce(error):
            raise exhausted(run, error) from None
        raise
    finally:
        feed.close()
    return "steps"


def exhausted_patience(run: Run) -> bool:
    """Tell whether so many validations brought nothing that the run ends."""
    return bool(run.trainer.patience) and run.stale >= run.trainer.patience


def due(step: int, every: int, last: int) -> bool:
    """Tell whether something that happens each `every` steps (0: at the last only) happens after `step` steps."""
    return step == last or (every > 0 and step % every == 0)


def advance(run: Run, feed: Feed, journal: Journal) -> dict[str, float | Tensor]:
    """Make one optimiser step and return the last micro-batch's figures with the mean loss."""
    cfg, fabric, step = run.trainer, run.fabric, run.step
    run.module.train()
    while (found := gradient(run, feed)) is None:
        run.optimizer.zero_grad(set_to_none=True)
        feed.cut()
        run.task, run.parts = feed.task, feed.parts
        journal.note(f"out of memory at step {step}: it is made again in {feed.micro} smaller batches")
    batches, total, figures = found
    norm = clip(run)
    broken = not (math.isfinite(float(total)) and math.isfinite(norm))
    if agree(fabric, float(broken))[0]:
        dump(run, batches, float(total), norm)
    rate = learning_rate(run.optim, step, cfg.steps)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * pace(group["params"][0])
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.average.update(step)
    run.step += 1
    return {"loss": total, **{k: v for k, v in figures.items() if k != "loss"}, "norm": norm, "lr": rate}


def gradient(run: Run, feed: Feed) -> tuple[list[Any], Tensor, dict[str, Any]] | None:
    """Add up the gradient of a step's micro-batches; None where memory ran out and there are smaller ones."""
    fabric, total, figures = run.fabric, torch.zeros((), device=run.fabric.device), {}
    try:
        batches = feed.get(run.step, run.trainer.steps)
        for number, batch in enumerate(batches):
            at = fabric.global_rank * len(batches) + number
            reseed(run.trainer.seed, run.step, at)
            with within(at), fabric.no_backward_sync(run.module, enabled=number < len(batches) - 1):
                loss, figures = run.task.loss(run.module, fabric.to_device(batch), run.step)
                fabric.backward(loss / len(batches))
            total += loss.detach().float() / len(batches)
    except Exception as error:
        if feed.smaller and scarce(error):
            return None
        raise
    return batches, total, figures


def clip(run: Run) -> float:
    """Clip the gradient to the recipe's norm (0: measure only) and return the norm before."""
    most = run.trainer.clip or math.inf
    norm = run.fabric.clip_gradients(run.module, run.optimizer, max_norm=most, error_if_nonfinite=False)
    return float(getattr(norm, "full_tensor", lambda: norm)())  # type: ignore[arg-type]


def validate(run: Run, journal: Journal) -> None:
    """Measure under the averaged weights; keep the best so far as `out/best`."""
    reseed(run.trainer.seed, run.step, run.fabric.global_rank, "validate")
    run.module.eval()
    with run.average.applied(), torch.no_grad():
        found = {k: float(v) for k, v in run.task.validate(run.module, run.step).items()}
    if not found:
        return
    run.metrics = average_figures(run.fabric, found)
    journal.validation(run.step, run.metrics)
    loss = run.metrics.get("loss")
    if loss is not None and loss < run.best:
        run.best, run.stale = loss, 0
        export(run, run.out / "best")
    elif loss is not None:
        run.stale += 1


def save(run: Run) -> None:
    """Save a checkpoint of this step unless it stands already."""
    if run.saved == run.step:
        return
    weights, optimizer = run.weights.get(), run.weights.get_optimizer()
    ema = run.average.get(run.weights) if run.average.decay else {}
    if run.fabric.is_global_zero:
        counters = {"stale": run.stale} | ({"best": run.best} if math.isfinite(run.best) else {})
        counters |= {"parts": run.parts} if run.parts > 1 else {}
        store.save(
            run.out / "checkpoints",
            app=run.app,
            config=run.config,
            step=run.step,
            module_state=weights,
            ema_state=ema,
            optimizer_state=optimizer,
            metrics=run.metrics | counters,
            keep=run.trainer.keep,
        )
    run.fabric.barrier()
    run.saved = run.step


def export(run: Run, path: Path) -> None:
    """Write the averaged weights as an inference checkpoint."""
    weights = run.average.get(run.weights)
    if run.fabric.is_global_zero:
        store.export(path, store.Checkpoint(run.app, run.config, run.step, weights, metrics=run.metrics))


def finish(run: Run) -> None:
    """Leave `out/model`: the averaged weights to sample with."""
    export(run, run.out / "model")


def dump(run: Run, batches: Sequence[Any], loss: float, norm: float) -> None:
    """Write what is needed to look into a step that was not finite, and end the run."""
    report = {"step": run.step, "loss": str(loss), "norm": str(norm), "seed": run.trainer.seed, "config": run.config}
    folder = run.out / f"not-finite-{run.step:09d}"
    if run.fabric.is_global_zero:
        folder.mkdir(exist_ok=True)
        (folder / "report.json").write_text(json.dumps(report, indent=1))
        (folder / "batch.txt").write_text("\n".join(repr(batch) for batch in batches))
    what = "loss" if not math.isfinite(loss) else "gradient"
    raise QuintetError(
        f"the {what} of step {run.step} is not finite; no checkpoint was overwritten",
        field="train",
        hint=f"see {folder}; try a lower optim.lr or trainer.clip",
    )


def exhausted(run: Run, error: Exception) -> QuintetError:
    """Say that the memory did not suffice; the last checkpoint stands, and the run goes on from it."""
    hint = (
        "in another --out: a smaller batch with more trainer.accumulate, a smaller model, trainer.precision=bf16-mixed"
    )
    said = (str(error) or type(error).__name__).splitlines()[0]
    return QuintetError(f"out of memory at step {run.step} ({said})", field="train", hint=hint)


def reseed(*key: int | str) -> None:
    """Seed the global generators of torch, numpy and Python from a key."""
    number = stream(*key)
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)
