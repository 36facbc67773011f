"""An accelerator that is not there, so that machines without one can test what is meant for one.

Its tensors live on the host inside a wrapper that says `elsewhere` of itself. As on a real device, an operation on
tensors of two devices is an error (scalars and indices may stay behind), and so is `numpy()`; what is computed is
what the processor computes. Out of its reach are `torch.stft`, which changes shapes in place, and modules moved with
their gradients; an error inside a backward pass ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

__all__ = ["NAME", "accelerator"]

NAME = "elsewhere"
ATEN = torch.ops.aten
MOVES = (ATEN._to_copy.default, ATEN.copy_.default)
INDEXED = (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default)

_setup_privateuseone_for_python_backend(NAME)
getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]


class Elsewhere(Tensor):
    """A tensor of the pretended device; sparse ones have no strides to tell."""

    inner: Tensor

    @staticmethod
    def __new__(cls: type[Elsewhere], inner: Tensor) -> Elsewhere:
        """Wrap a tensor of the host."""
        place = (inner.stride(), inner.storage_offset()) if inner.layout == torch.strided else ()
        out = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, *place, dtype=inner.dtype, device=torch.device(NAME, 0), requires_grad=False
        )
        out.inner = inner
        return out

    def tolist(self) -> Any:
        """Return the values, which are brought back for it."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the host."""
        return carried(func, args, kwargs or {})


class Operations(TorchDispatchMode):
    """Sees what makes tensors of the device from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the host."""
        return carried(func, args, kwargs or {})


@torch.inference_mode(False)
@torch.no_grad()
def carried(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return what an operation gives, on the device that it gives it on.

    Raises:
        RuntimeError: its tensors are on two devices.
    """
    if func in (ATEN.to.other, ATEN.to.device):
        return moved(*args)
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    asked = [args[0], *args[2:]] if func in INDEXED else tensors
    here = [t for t in asked if isinstance(t, Tensor) and not isinstance(t, Elsewhere) and t.dim()]
    if there and here and func not in MOVES:
        raise RuntimeError(f"{func}: {[tuple(t.shape) for t in here]} here, {[tuple(t.shape) for t in there]} {NAME}")
    device = kwargs.get("device")
    goes = bool(there) if device is None else torch.device(device).type == NAME
    if func is ATEN.copy_.default:
        goes = isinstance(args[0], Elsewhere)
    if device is not None and goes:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if any(t.inner.layout != torch.strided for t in there):
        kwargs = {k: v for k, v in kwargs.items() if k != "layout"}
    found = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    known = {id(t.inner): t for t in there}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return known[id(value)] if id(value) in known else Elsewhere(value)

    return tree_map(wrapped, found) if goes else found


def bare(value: Any) -> Any:
    """Return the tensor of the host that a wrapper holds; anything else passes."""
    return value.inner if isinstance(value, Elsewhere) else value


def moved(x: Tensor, target: Any, *options: Any) -> Tensor:
    """Return a tensor on the device, and maybe of the type, of another."""
    goes = isinstance(target, Elsewhere) or (isinstance(target, torch.device) and target.type == NAME)
    dtype = target.dtype if isinstance(target, Tensor) else options[0]
    if goes == isinstance(x, Elsewhere) and x.dtype == dtype:
        return x
    return Elsewhere(bare(x).to(dtype)) if goes else bare(x).to(dtype)


def made(maker: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `torch.tensor` and its like with the device as a second step: they do not ask the dispatcher."""

    def make(*args: Any, device: Any = None, **options: Any) -> Tensor:
        found = maker(*args, **options)
        return found if device is None else found.to(device)

    return make


@contextmanager
def accelerator() -> Iterator[str]:
    """Pretend that there is one; the name of its device."""
    with ExitStack() as stack:
        for name in ("tensor", "as_tensor", "asarray"):
            stack.enter_context(mock.patch.object(torch, name, made(getattr(torch, name))))
        stack.enter_context(Operations())
        yield NAME
