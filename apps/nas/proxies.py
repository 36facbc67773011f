"""Zero-cost proxies: a guess of what a cell is worth from its untrained network and one batch of images.

    nwot       log |det K|, K_ab = number of ReLU units that are on or off alike for images a and b
               (Mellor et al. 2021, arXiv:2006.04647)
    synflow    sum of theta . dR/dtheta, R the sum of outputs on an image of ones, weights replaced by their absolute
               values, no batch norm (Tanaka et al. 2020, arXiv:2006.05467); its logarithm
    snip       sum of |theta . dL/dtheta| (Lee et al. 2019, arXiv:1810.02340); its logarithm
    gradnorm   norm of dL/dtheta (Abdelfattah et al. 2021, arXiv:2101.08134); its logarithm
    jacov      minus the Kullback-Leibler score of the correlation of input gradients (Mellor et al., first version)

A proxy that does not rank better than the number of parameters adds nothing: `controls` gives the rank correlations of
any reward with parameters and FLOPs, and every search prints them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from apps.nas import images
from apps.nas.cell import Cell, resources
from apps.nas.modules import Network, build
from apps.nas.space import Space
from apps.nas.training import settings

__all__ = ["PROXIES", "Proxy", "controls", "spearman"]

BATCH = 64


def nwot(net: Network, x: Tensor, y: Tensor) -> float:
    """Return log |det K| over all ReLU units."""
    kernel = torch.zeros(len(x), len(x), dtype=torch.float64)

    def hear(_module: nn.Module, _given: object, out: Tensor) -> None:
        nonlocal kernel
        on = (out > 0).flatten(1).double()
        kernel = kernel + on @ on.T + (1 - on) @ (1 - on).T

    hooks = [m.register_forward_hook(hear) for m in net.modules() if isinstance(m, nn.ReLU)]
    with torch.no_grad():
        net.train()(x)
    for hook in hooks:
        hook.remove()
    return float(torch.linalg.slogdet(kernel + 1e-6 * torch.eye(len(x))).logabsdet)


def synflow(net: Network, x: Tensor, y: Tensor) -> float:
    """Return the logarithm of the synaptic flow."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = lambda given: given  # type: ignore[method-assign]
    net = net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
    net(torch.ones_like(x[:1], dtype=torch.float64)).sum().backward()
    return _log(sum(float((p * p.grad).sum().detach()) for p in net.parameters() if p.grad is not None))


def snip(net: Network, x: Tensor, y: Tensor) -> float:
    """Return the logarithm of the connection sensitivity."""
    cross_entropy(net.train()(x), y).backward()
    return _log(sum(float((p * p.grad).abs().sum().detach()) for p in net.parameters() if p.grad is not None))


def gradnorm(net: Network, x: Tensor, y: Tensor) -> float:
    """Return the logarithm of the gradient's norm."""
    cross_entropy(net.train()(x), y).backward()
    return _log(math.sqrt(sum(float((p.grad**2).sum()) for p in net.parameters() if p.grad is not None)))


def jacov(net: Network, x: Tensor, y: Tensor) -> float:
    """Return -sum(log v + 1 / v) over the eigenvalues v of the correlation of input gradients."""
    x = x.clone().requires_grad_()
    net.train()(x).sum().backward()
    assert x.grad is not None
    rows = x.grad.flatten(1).double()
    rows = normalize(rows - rows.mean(1, keepdim=True), dim=1)
    values = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0) + 1e-5
    return -float((values.log() + 1 / values).sum())


def _log(value: float) -> float:
    return math.log(max(value, 1e-300))


PROXIES: dict[str, Callable[[Network, Tensor, Tensor], float]] = {
    "nwot": nwot, "synflow": synflow, "snip": snip, "gradnorm": gradnorm, "jacov": jacov,
}  # fmt: skip


@dataclass(frozen=True)
class Proxy:
    """A proxy as a reward.

    Args:
        kind: of `PROXIES`.
        space: of the cells.
        data: see `apps.nas.images`.
        seed: of weights and batch.
    """

    kind: str
    space: Space
    data: str = "digits"
    seed: int = 0

    @property
    def name(self) -> str:
        """Return the kind, and the data where it is the user's."""
        return f"proxy:{self.kind}" + ("" if self.data == "digits" else f":{self.data}")

    def score(self, x: Tensor) -> Tensor:
        """Return the values [B], float64."""
        data = images.load(self.data)
        given, y = data.part("train")
        rows = torch.randperm(len(given), generator=torch.Generator().manual_seed(self.seed))[:BATCH]
        found = []
        for row in x.tolist():
            torch.manual_seed(self.seed)
            net = build(Cell.of(self.space, row).literal(), **settings(data))
            found.append(PROXIES[self.kind](net, given[rows], y[rows]))
        return torch.tensor(found, dtype=torch.float64)


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the rank correlation, ties at their mean rank; None where one of them does not vary."""
    from scipy.stats import rankdata

    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def controls(space: Space, history: Sequence[tuple[tuple[int, ...], float]]) -> dict[str, float | None]:
    """Return the rank correlations of what was answered by a finite number with parameters and FLOPs."""
    told = [(row, value) for row, value in history if math.isfinite(value)]
    costs, values = [resources(Cell.of(space, row)) for row, _ in told], [value for _, value in told]
    return {name: spearman(values, [c[k] for c in costs]) for k, name in enumerate(("params", "flops"))}
