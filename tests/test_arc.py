"""Adversarial post-training on roll-outs: its losses, where its gradient runs, and that it mends a drift."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from core.denoiser import GaussianPrediction
from core.finetune import arc
from core.nn.block_flow import BlockFlow, BlockFlowConfig
from core.nn.flow_context import FlowContext
from core.nn.transformer import TransformerConfig
from core.noise import Stream
from core.plan import Table
from core.process.gaussian import Gaussian
from core.solvers import grid
from core.solvers.sde import ping_pong

RF = Gaussian()


def tables(k: int) -> Table:
    return ping_pong(RF, grid.uniform(RF, k))


class Walk(nn.Module):
    """A generator of blocks of one number: the mean of what follows `last`, and how much noise is let through."""

    def __init__(self, slope: float, shift: float, width: float) -> None:
        super().__init__()
        self.slope, self.shift, self.width = (nn.Parameter(torch.tensor(v)) for v in (slope, shift, width))
        self.last = torch.zeros(1, 1, 1)
        self.calls: list[bool] = []

    def open(self, rows: int) -> Walk:
        self.last = torch.zeros(rows, 1, 1)
        return self

    def predict(self, x_t: Tensor, t: Tensor) -> GaussianPrediction:
        self.calls.append(torch.is_grad_enabled())
        return GaussianPrediction(self.slope * self.last + self.shift + self.width * x_t)

    def commit(self, x_0: Tensor) -> None:
        assert not x_0.requires_grad
        self.last = x_0


def test_only_the_last_step_of_a_block_keeps_its_gradient() -> None:
    walk = Walk(0.5, 0.1, 0.7).open(3)
    made = arc.rollout(walk, RF, tables, (1, 1), 2, Stream.of(0, 3), most=3, least=3)
    assert walk.calls == [False, False, True, False, False, True]
    made.sum().backward()
    assert walk.shift.grad is not None and float(walk.shift.grad) == 6.0  # one a block and row, none through time
    assert walk.slope.grad is not None
    assert math.isclose(float(walk.slope.grad), float(made.detach()[:, 0].sum()), rel_tol=1e-5)


def test_as_many_steps_learn_as_are_asked_to() -> None:
    """Against the derivative of the whole block by differences: with all steps it is the solver's own."""

    def block(shift: float, through: int) -> tuple[Tensor, Walk]:
        walk = Walk(0.5, shift, 0.7).open(3)
        return arc.rollout(walk, RF, tables, (1, 1), 1, Stream.of(0, 3), most=3, least=3, through=through), walk

    (low, _), (high, _) = block(0.1 - 1e-3, 3), block(0.1 + 1e-3, 3)
    real = float((high - low).detach().sum()) / 2e-3
    for through, share in ((3, 1.0), (9, 1.0), (1, 3 / real)):
        made, walk = block(0.1, through)
        made.sum().backward()
        assert walk.calls == [k >= 3 - through for k in range(3)]
        assert walk.shift.grad is not None and math.isclose(float(walk.shift.grad), share * real, rel_tol=1e-3)
    assert real > 3.3


def test_what_is_remembered_can_be_settled() -> None:
    walk = Walk(1.0, 0.1, 0.7).open(2)
    made = arc.rollout(walk, RF, tables, (1, 1), 2, Stream.of(0, 2), most=1, settle=torch.sign)
    assert torch.equal(walk.last, made[:, 1:].detach().sign()) and not torch.equal(walk.last, made[:, 1:].detach())


def test_the_number_of_steps_is_drawn_for_each_block() -> None:
    walk = Walk(0.5, 0.1, 0.7).open(1)
    with torch.no_grad():
        arc.rollout(walk, RF, tables, (1, 1), 60, Stream.of(0, 1), most=4, least=2)
    assert 60 * 2 < len(walk.calls) < 60 * 4


def test_equal_scores_cost_log_2() -> None:
    def indifferent(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return 0.0 * x_t.sum((1, 2))

    x, y = torch.randn(4, 6, 2), torch.randn(4, 6, 2)
    condition = torch.randn(4, 3)
    for loss in (arc.generator_loss(indifferent, RF, x, y, Stream.of(0, 4), condition)[0],
                 arc.critic_loss(indifferent, RF, x, y, Stream.of(0, 4), condition, weight=0)[0]):  # fmt: skip
        assert math.isclose(float(loss), math.log(2), rel_tol=1e-6)
    both = arc.critic_loss(indifferent, RF, x, y, Stream.of(0, 4), condition, weight=2)[0]
    assert math.isclose(float(both), 3 * math.log(2), rel_tol=1e-6)


def test_real_and_made_share_their_noise() -> None:
    seen: list[Tensor] = []

    def critic(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        seen.append(x_t)
        return x_t.mean((1, 2))

    x = torch.randn(4, 6, 2)
    loss, metrics = arc.generator_loss(critic, RF, x, x.clone(), Stream.of(0, 4))
    assert torch.equal(seen[0], seen[1]) and float(metrics["gap"]) == 0.0
    t = arc.level(RF, Stream.of(0, 2000))
    lam = RF.schedule.log_snr(t)
    assert -6 <= float(lam.min()) < -5.9 and 1.9 < float(lam.max()) <= 2 and abs(float(lam.mean()) + 2) < 0.15


def test_the_contrast_pairs_every_sample_with_another_condition() -> None:
    """The released code rolled in place, so that one sample met its own condition."""
    condition, met = torch.arange(5.0)[:, None], []

    def critic(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        assert condition is not None
        met.append(condition.clone())
        return x_t.mean((1, 2))

    x = torch.randn(5, 6, 2)
    arc.critic_loss(critic, RF, x, x, Stream.of(0, 5), condition)
    assert torch.equal(met[0], condition) and not bool((met[-1] == condition).any())
    met.clear()
    condition = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0])[:, None]
    arc.critic_loss(critic, RF, x, x, Stream.of(0, 5), condition)
    assert met[-1].tolist() == [[2.0], [1.0]]  # nothing to confuse in the others


def network() -> BlockFlow:
    torch.manual_seed(0)
    net = BlockFlow(BlockFlowConfig(2, 3, 2, 2, "diagonal", TransformerConfig(dim=16, depth=3, heads=2, mlp=2)))
    nn.init.normal_(net.head.weight, std=0.3)
    return net


def test_the_critic_reads_an_intermediate_layer_and_sees_all_frames() -> None:
    net = network()
    critic = arc.Critic(net, depth=2, width=8, skip=4)
    x = torch.randn(2, 12, 2, requires_grad=True)
    score = critic(x, torch.tensor([0.3, 0.6]), torch.randn(2, 12, 3))
    assert score.shape == (2, 4) and len(critic.body.trunk.layers) == 2
    (gradient,) = torch.autograd.grad(score[:, 0].sum(), x)
    assert bool((gradient.abs().sum(-1) > 0).all())
    assert all(p is not q for p, q in zip(critic.body.trunk.parameters(), net.trunk.parameters(), strict=False))


def test_a_loss_touches_one_player_only() -> None:
    net = network()
    critic = arc.Critic(net, depth=1, width=8)
    real = torch.randn(3, 8, 2)
    context = FlowContext(net, 3)
    context.control = torch.randn(3, 2, 3)
    made = arc.rollout(context, net.process, tables, (2, 2), 4, Stream.of(0, 3), most=2)
    with arc.frozen(critic):
        arc.generator_loss(critic, net.process, real, made, Stream.of(1, 3))[0].backward()
    assert all(p.grad is None for p in critic.parameters()) and net.noisy.weight.grad is not None
    assert net.trunk.layers[0].attention.qkv.weight.grad is not None  # type: ignore[union-attr]
    net.zero_grad(set_to_none=True)
    arc.critic_loss(critic, net.process, real, made, Stream.of(1, 3))[0].backward()
    assert all(p.grad is None for p in net.parameters()) and critic.first.weight.grad is not None


def test_it_mends_a_drift_and_a_lost_width() -> None:
    """A walk around 0 with spread 1; the generator begins with a shift that piles up to 1.5 and half the spread."""
    torch.manual_seed(0)
    walk = Walk(0.7, 0.45, 0.35)
    head = nn.Sequential(nn.Linear(9, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))

    def critic(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return head(torch.cat([x_t[..., 0], t[:, None].float()], 1))[:, 0]

    def real(step: int) -> Tensor:
        x, out = torch.zeros(128, 1), []
        for z in Stream.of(7, 128).fold(step).normal(8).float().unbind(1):
            x = 0.7 * x + math.sqrt(1 - 0.49) * z[:, None]
            out.append(x)
        return torch.stack(out, 1)

    def spread() -> tuple[float, float]:
        with torch.no_grad():
            made = arc.rollout(walk.open(2048), RF, tables, (1, 1), 24, Stream.of(99, 2048), most=1)
        return abs(float(made[:, -4:].mean())), float(made[:, -4:].std())

    drift, width = spread()
    players = {"critic": torch.optim.Adam(head.parameters(), 4e-3, (0.5, 0.9)),
               "generator": torch.optim.Adam(walk.parameters(), 1e-2, (0.5, 0.9))}  # fmt: skip
    for step in range(400):
        stream = Stream.of(step, 128)
        made = arc.rollout(walk.open(128), RF, tables, (1, 1), 8, stream.fold(0), most=1)
        loss = arc.critic_loss(critic, RF, real(step), made, stream.fold(1))[0]
        players["critic"].zero_grad()
        loss.backward(inputs=list(head.parameters()))
        players["generator"].zero_grad()
        arc.generator_loss(critic, RF, real(step), made, stream.fold(1))[0].backward(inputs=list(walk.parameters()))
        for player in players.values():
            player.step()
    after, wide = spread()
    assert drift > 1.2 and after < 0.4 * drift
    assert width < 0.6 and abs(wide - 1) < 0.3
