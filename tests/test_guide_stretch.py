"""Stretched predictions: exact where the shrinking is known, nothing else is touched, rows and times are apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.denoiser import GaussianPrediction
from core.guide.stretch import Stretch
from core.nn.block_flow import BlockFlow, BlockFlowConfig
from core.nn.flow_context import FlowContext
from core.nn.transformer import TransformerConfig
from core.process.gaussian import Gaussian, Rectified
from core.sample import integrate
from core.solvers import grid
from core.solvers.presets import solver

D64 = torch.float64
RF = Gaussian(Rectified())
CENTRE, DEVIATION, KAPPA = 0.7, 1.5, 0.6
U = torch.tensor([1.0, -2.0, 0.5], dtype=D64)


def exact(x: Tensor, t: Tensor) -> Tensor:
    """Return the posterior mean of x_0 ~ N(m, S), of which u . x has mean CENTRE and DEVIATION, the rest those of 1."""
    v = U / U.norm()
    mean, along = v * CENTRE / U.norm(), DEVIATION / U.norm()
    alpha, sigma = 1 - t, t
    rest = x - alpha * mean
    part = (rest @ v)[:, None] * v
    gain = [alpha * s**2 / (alpha**2 * s**2 + sigma**2) for s in (along, torch.tensor(1.0, dtype=D64))]
    return mean + gain[0] * part + gain[1] * (rest - part)


def shrunken(x: Tensor, t: Tensor) -> Tensor:
    """Return the same, of whose u . D only KAPPA is left about the centre."""
    mean = exact(x, t)
    return mean + (KAPPA - 1) * ((mean @ U - CENTRE) / U.square().sum())[:, None] * U


def made(stretch: Stretch | None) -> Tensor:
    """Return what the flow of the shrunken predictions makes of noise, with or without the stretch."""
    x = torch.randn(4000, 3, dtype=D64, generator=torch.Generator().manual_seed(0))

    def predict(x_t: Tensor, t: Tensor) -> GaussianPrediction:
        mean = shrunken(x_t, t)
        return GaussianPrediction(mean if stretch is None else stretch(mean, t))

    return integrate(predict, solver("rk4", RF, grid.angle(RF, 64)), x, None)  # type: ignore[arg-type]


def test_the_inverse_of_the_shrinking_restores_the_posterior_mean() -> None:
    x = torch.randn(6, 3, dtype=D64, generator=torch.Generator().manual_seed(1))
    for t in (0.1, 0.5, 0.99):
        time = torch.tensor(t, dtype=D64)
        found = Stretch(U, 1 / KAPPA, CENTRE)(shrunken(x, time), time)
        assert torch.allclose(found, exact(x, time), atol=1e-12)


def test_what_is_made_has_the_data_s_variance_again() -> None:
    noise = torch.randn(4000, 3, dtype=D64, generator=torch.Generator().manual_seed(0)) @ U / U.norm()
    real = CENTRE + DEVIATION * noise  # the flow between Gaussians is linear
    assert torch.allclose(made(Stretch(U, 1 / KAPPA, CENTRE)) @ U, real, atol=5e-3)
    assert float((made(None) @ U).std()) < 0.8 * DEVIATION


def test_other_directions_and_late_times_are_left_alone() -> None:
    g = torch.Generator().manual_seed(2)
    u, mean = torch.randn(4, 3, generator=g, dtype=D64), torch.randn(5, 4, 3, generator=g, dtype=D64)
    out = Stretch(u, 3.0, 0.5, since=0.4)(mean, torch.tensor([0.1, 0.39, 0.4, 0.9, 1.0]))
    assert torch.equal(out[:2], mean[:2])
    change = (out - mean).flatten(1)
    across = change - (change @ u.flatten())[:, None] * u.flatten() / u.square().sum()
    assert float(across.abs().max()) < 1e-12
    before, after = ((v * u).flatten(1).sum(1) - 0.5 for v in (mean, out))
    assert torch.allclose(after[2:], 3 * before[2:])
    assert torch.allclose(Stretch(u, 3.0, 0.5)(mean[3:4], 0.9), out[3:4])


@pytest.mark.parametrize("cached", [True, False])
def test_a_context_stretches_before_it_projects(cached: bool) -> None:
    net = BlockFlow(BlockFlowConfig(3, 0, 4, 2, "diagonal", TransformerConfig(16, 1, 2, 2)))
    torch.nn.init.normal_(net.head.weight)
    x, t = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(3)), torch.tensor(0.6)
    stretch = Stretch(torch.ones(4, 3), 2.0)
    with torch.no_grad():
        plain = FlowContext(net, 2, cached=cached).predict(x, t).mean
        found = FlowContext(net, 2, cached=cached, project=lambda v: v.clamp(-1, 1), stretch=stretch).predict(x, t).mean
    assert torch.allclose(found, stretch(plain, t).clamp(-1, 1), atol=1e-6)
