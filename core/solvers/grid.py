"""Time grids: where a solver asks the network.

A grid falls from `start` (noise) to `stop` (data) in `steps` steps, equal in a clock:

| name      | equal in                                   | suits |
|-----------|--------------------------------------------|-------|
| `uniform` | t                                          | rectified flow, smooth data such as latents |
| `shifted` | t, then `k t / (1 + (k - 1) t)`            | the same, more noise (Esser et al., 2024, arXiv:2403.03206) |
| `angle`   | phi                                        | smooth data on any path |
| `log_snr` | lambda                                     | sharp data, unknown data |
| `karras`  | rho ^ (1 / power)                          | sharp data (Karras et al., 2022, arXiv:2206.00364, eq. 5) |

The last two need finite ends: `start` short of pure noise and `stop` short of clean data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from core.errors import UsageError
from core.process.gaussian import Gaussian

__all__ = ["GRIDS", "angle", "grid", "karras", "log_snr", "shifted", "uniform"]


def _fall(steps: int, start: float, stop: float) -> Tensor:
    if steps < 1 or not 0 <= stop < start <= 1:
        raise UsageError("needs steps >= 1 and 0 <= stop < start <= 1", field="grid", value=(steps, start, stop))
    return torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)


def _pinned(times: Tensor, start: float, stop: float) -> Tensor:
    """Return `times` with exact ends: a round trip through a clock moves them by a rounding."""
    times[0], times[-1] = start, stop
    return times


def uniform(process: Gaussian, steps: int, start: float = 1.0, stop: float = 0.0) -> Float64[Tensor, " ends"]:
    """Return equal steps in t, float64 [steps + 1]."""
    return _pinned(stop + (start - stop) * _fall(steps, start, stop), start, stop)


def shifted(
    process: Gaussian, steps: int, start: float = 1.0, stop: float = 0.0, shift: float = 3.0
) -> Float64[Tensor, " ends"]:
    """Return equal steps in the time before it is shifted by `shift` > 0 (1: `uniform`)."""
    if not shift > 0:
        raise UsageError("must be positive", field="shift", value=shift)
    low, high = (v / (shift - (shift - 1) * v) for v in (stop, start))
    t = low + (high - low) * _fall(steps, start, stop)
    return _pinned(shift * t / (1 + (shift - 1) * t), start, stop)


def angle(process: Gaussian, steps: int, start: float = 1.0, stop: float = 0.0) -> Float64[Tensor, " ends"]:
    """Return equal steps in the angle."""
    high, low = process.angle(start), process.angle(stop)
    return _pinned(process.at_angle(low + (high - low) * _fall(steps, start, stop)), start, stop)


def log_snr(process: Gaussian, steps: int, start: float, stop: float) -> Float64[Tensor, " ends"]:
    """Return equal steps in the log-SNR.

    Raises:
        UsageError: it is infinite at an end.
    """
    high, low = process.schedule.log_snr(start), process.schedule.log_snr(stop)
    if not (bool(high.isfinite()) and bool(low.isfinite())):
        raise UsageError("the log-SNR is infinite at an end", field="grid", value=(start, stop))
    return _pinned(process.schedule.inverse(low + (high - low) * _fall(steps, start, stop)), start, stop)


def karras(process: Gaussian, steps: int, start: float, stop: float, power: float = 7.0) -> Float64[Tensor, " ends"]:
    """Return equal steps in `rho ^ (1 / power)`.

    Raises:
        UsageError: rho is infinite at `start`.
    """
    high, low = (torch.exp(-process.schedule.log_snr(v) / power) for v in (start, stop))
    if not bool(high.isfinite()):
        raise UsageError("sigma / alpha is infinite at the start", field="grid", value=(start, stop))
    root = low + (high - low) * _fall(steps, start, stop)
    return _pinned(process.schedule.inverse(-power * root.log()), start, stop)


GRIDS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform, "shifted": shifted, "angle": angle, "log_snr": log_snr, "karras": karras,
}  # fmt: skip


def grid(name: str, process: Gaussian, steps: int, **options: float) -> Float64[Tensor, " ends"]:
    """Return the grid `name` of `GRIDS`.

    Raises:
        UsageError: no grid has this name.
    """
    if name not in GRIDS:
        raise UsageError("unknown time grid", field="grid", value=name, choices=GRIDS)
    return GRIDS[name](process, steps, **options)
