"""The state of a module and its optimiser, whole or sharded, and the running average of its weights.

torch's distributed state dictionaries give the same full, CPU-side state by parameter name for a plain module, a
replicated one (DDP) and a sharded one (FSDP2), so a checkpoint does not know how it was trained.

The average is ema_{s+1} = d_s ema_s + (1 - d_s) theta_{s+1} with d_s = min(decay, (1 + s) / (10 + s)), a short memory
at the start (as in TensorFlow's ExponentialMovingAverage with `num_updates`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as full
from torch.distributed.tensor import DTensor, distribute_tensor

from core.errors import CheckpointError

__all__ = ["Average", "Weights", "shard"]


class Weights:
    """Reads and replaces the full state of a module and its optimiser."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.module, self.optimizer = module, optimizer
        self.options = full.StateDictOptions(full_state_dict=True, cpu_offload=True)

    def get(self) -> dict[str, Tensor]:
        """Return a copy of the module's state on the CPU, whole on the first process."""
        state: dict[str, Any] = full.get_model_state_dict(self.module, options=self.options)
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def put(self, state: Mapping[str, Tensor]) -> None:
        """Load a full state.

        Raises:
            CheckpointError: names that differ, or the first shape that does.
        """
        own = self.module.state_dict()
        if missing := sorted(set(own) ^ set(state)):
            raise CheckpointError("does not fit this network", field=missing[0], hint="was it trained by this recipe?")
        for name, value in own.items():
            if value.shape != state[name].shape:
                shapes = f"shape {tuple(state[name].shape)}, the network has {tuple(value.shape)}"
                raise CheckpointError(f"does not fit this network: {shapes}", field=name)
        # shards are sent tensor by tensor: one order for all processes
        ordered: dict[str, Any] = {name: state[name] for name in own}
        full.set_model_state_dict(self.module, ordered, options=full.StateDictOptions(full_state_dict=True))

    def get_optimizer(self) -> dict[str, Any]:
        """Return the optimiser's state by parameter name."""
        return full.get_optimizer_state_dict(self.module, self.optimizer, options=self.options)

    def put_optimizer(self, state: dict[str, Any]) -> None:
        """Load an optimiser's state."""
        options = full.StateDictOptions(full_state_dict=True)
        slots = {name: dict(sorted(state["state"][name].items())) for name in sorted(state["state"])}
        ordered: dict[str, Any] = {**state, "state": slots}
        full.set_optimizer_state_dict(self.module, self.optimizer, ordered, options=options)


class Average:
    """The exponential moving average of a module's parameters; `decay` 0 keeps none.

    Of parameters in half precision it is kept in float32: a step towards them is smaller than their last digit.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.names, self.parameters = [n for n, _ in module.named_parameters()], list(module.parameters())
        self.decay = decay
        self.shadow: list[Tensor] = []
        self.reset()

    def reset(self) -> None:
        """Start from the module's present weights."""
        self.shadow = [wide(p.detach()).clone() for p in self.parameters] if self.decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step `step` into the average."""
        if self.decay:
            weight = 1 - min(self.decay, (1 + step) / (10 + step))
            for average, parameter in zip(self.shadow, self.parameters, strict=True):
                average.lerp_(wide(parameter), weight)

    def get(self, weights: Weights) -> dict[str, Tensor]:
        """Return the module's full state with the average in place of its weights, on the CPU."""
        with self.applied():
            state = weights.get()
        return state | {name: whole(self.shadow[i]).cpu().clone() for i, name in self.halves()}

    def put(self, weights: Weights, state: Mapping[str, Tensor]) -> None:
        """Start from a full state, with which the module is left."""
        weights.put(state)
        self.reset()
        for i, name in self.halves():
            self.shadow[i].copy_(alike(state[name], self.shadow[i]))

    def halves(self) -> list[tuple[int, str]]:
        """Return number and name of the parameters whose average is kept in another precision."""
        every = zip(self.names, self.parameters, self.shadow, strict=bool(self.decay))
        return [(i, name) for i, (name, p, average) in enumerate(every) if p.dtype != average.dtype]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module hold the average for a while; its own weights come back bit for bit."""
        if not self.decay:
            yield
            return
        own = [p.detach().clone() for p in self.parameters]
        self.copy(self.shadow)
        try:
            yield
        finally:
            self.copy(own)

    @torch.no_grad()
    def copy(self, values: list[Tensor]) -> None:
        """Overwrite the module's parameters."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def wide(value: Tensor) -> Tensor:
    """Return half precision as float32, anything else as it is."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def whole(value: Tensor) -> Tensor:
    """Return a tensor, of a sharded one all of it (every process has to ask)."""
    return value.full_tensor() if isinstance(value, DTensor) else value  # type: ignore[no-any-return]


def alike(value: Tensor, pattern: Tensor) -> Tensor:
    """Return a whole tensor on the device of another, sharded as that one is."""
    value = value.to(pattern.device)
    if isinstance(pattern, DTensor):
        return distribute_tensor(value, pattern.device_mesh, pattern.placements)
    return value


def shard(module: nn.Module, mesh: Any) -> nn.Module:
    """Shard each block of a module's lists, then the rest, over the devices (FSDP2)."""
    from torch.distributed.fsdp import fully_shard

    part = mesh["data_parallel"]
    for child in module.modules():
        if isinstance(child, nn.ModuleList):
            for block in child:
                fully_shard(block, mesh=part)
    fully_shard(module, mesh=part)
    return module
