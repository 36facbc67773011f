"""Devices and processes: what Lightning Fabric is asked for, and how processes come to one mind.

All processes must take the same branch, or one waits for ever for a gradient that never comes: flags are joined by
their largest value, figures by their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision
from torch import Tensor

from core.errors import UsageError
from core.run.config import TrainerConfig
from core.run.state import shard

__all__ = ["Mixed", "agree", "average_figures", "launch"]


class Mixed(MixedPrecision):
    """Half precision operation by operation, as autocast decides.

    Times, laws and the states of fields enter and leave a network as they are: rounded at the door, as the parent
    class has it, a time of day or a state is worth two digits.
    """

    def convert_input(self, data: Any) -> Any:
        """Return what enters the network."""
        return data

    def convert_output(self, data: Any) -> Any:
        """Return what leaves it."""
        return data


def launch(trainer: TrainerConfig) -> Fabric:
    """Start Fabric on the recipe's devices, with its other processes if there are to be any."""
    strategy: Any = trainer.strategy
    precision: Any = {"precision": trainer.precision}
    if trainer.precision == "bf16-mixed":
        precision = {"plugins": [Mixed("bf16-mixed", kind(trainer.accelerator))]}
    if strategy == "fsdp":
        from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

        strategy = ModelParallelStrategy(shard, data_parallel_size=trainer.devices, tensor_parallel_size=1)
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    try:
        fabric = Fabric(accelerator=trainer.accelerator, devices=trainer.devices, strategy=strategy, **precision)
    except (RuntimeError, ValueError) as error:  # Lightning's MisconfigurationException is a RuntimeError
        raise UsageError(str(error), field="trainer.accelerator", value=trainer.accelerator) from None
    fabric.launch()
    return fabric


def kind(accelerator: str) -> str:
    """Return the type of device that a recipe's accelerator is on this machine."""
    if accelerator == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def agree(fabric: Fabric, *flags: float) -> list[float]:
    """Return the largest value of each flag over all processes, so that they all take the same branch."""
    if fabric.world_size == 1:
        return list(flags)
    return fabric.all_reduce(torch.tensor(flags), reduce_op="max").tolist()  # type: ignore[union-attr]


def average_figures(fabric: Fabric, figures: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Average figures over processes."""
    values = torch.tensor([float(v) for v in figures.values()], dtype=torch.float64)
    if fabric.world_size > 1:
        values = fabric.all_reduce(values.float(), reduce_op="mean").double()  # type: ignore[union-attr]
    return dict(zip(figures, values.tolist(), strict=True))
