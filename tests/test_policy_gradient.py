"""Policy gradients against enumeration, and the parts around them."""

import numpy as np
import torch
from torch import Tensor

from core.constrain.law import Free
from core.denoiser import Prediction, subs
from core.finetune.policy_gradient import Advantage, Penalties, Replay, eager, per_step, record, states
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.process.variables import Variables
from core.solvers.tokens import Ancestral

K, D = 3, 2
REWARD = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 4.0], [3.0, 1.0, 0.0]], dtype=torch.float64)


def test_advantages_are_clipped_and_vanish_without_spread() -> None:
    a = Advantage(clip=2.0)
    first = a(torch.tensor([0.0] * 99 + [100.0]))
    assert float(first.max()) == 2.0 and abs(float(first.median())) < 0.2
    assert not a(torch.full((4,), 7.0)).any()
    mean = a.mean
    a(torch.tensor([1.0, 3.0]))
    assert a.mean != mean


def test_replay_keeps_the_best_once() -> None:
    r = Replay(3)
    r.add(torch.tensor([[0, 0], [1, 1], [0, 0]]), torch.tensor([1.0, 5.0, 2.0]))
    r.add(torch.tensor([[2, 2], [1, 2]]), torch.tensor([9.0, -1.0]))
    assert r.best(9).tolist() == [[2, 2], [1, 1], [0, 0]] and r.reward == [9.0, 5.0, 2.0]
    assert r.draw(8, 0.34, np.random.default_rng(0)).tolist() == [[2, 2]] * 8


def test_penalties_are_the_kl_and_the_missing_entropy() -> None:
    p, q = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    open_ = torch.tensor([[True, False]])
    both = Penalties(kl=2.0)(p.expand(1, 2, 3), q.expand(1, 2, 3), open_)
    assert torch.allclose(both, 2 * (p.exp() * (p - q)).sum())
    entropy = -(p.exp() * p).sum()
    assert torch.allclose(Penalties(entropy=3.0, floor=1.0)(p.expand(1, 2, 3), None, open_), 3 * (1.0 - entropy))
    assert float(Penalties(entropy=3.0, floor=0.1)(p.expand(1, 2, 3), None, open_)) == 0.0


def test_states_are_those_of_trajectories() -> None:
    process = Categorical.absorbing(K)
    x_t, x_0, t = states(process, torch.tensor([[0, 1, 2, 0]] * 500), Stream.of(0, 500), 4)
    masked = x_t == K
    assert bool(masked.any(-1).all()) and bool(((x_t == x_0) | masked).all())
    late = t > 0.75
    assert abs(float(masked[late].double().mean()) - float(t[late].mean())) < 0.02


def test_per_step_form_is_the_exact_policy_gradient() -> None:
    """Its mean over trajectories is the gradient of the expected reward, by enumeration of a one-step sampler."""
    torch.manual_seed(0)
    theta = torch.randn(D, K, dtype=torch.float64, requires_grad=True)
    process, n = Categorical.absorbing(K), 40000

    def predict(x_t: Tensor, t: Tensor) -> Prediction:
        return subs(theta.expand(len(x_t), -1, -1), x_t, K)

    law = Free(n, K).window(np.zeros(n, np.int64), np.arange(n), D, 0)
    start = torch.full((n, D), K)
    path = record(predict, process, uniform_plan(3), law, Ancestral(), Stream.of(0, n), start)
    r = REWARD[path.x_0[:, 0], path.x_0[:, 1]]
    total = sum(per_step(predict, process, path, k, r - r.mean())[0] for k in range(len(path.x) - 1))
    (found,) = torch.autograd.grad(-total, theta)  # type: ignore[arg-type]
    p = theta.softmax(-1)
    (exact,) = torch.autograd.grad(torch.einsum("i,j,ij->", p[0], p[1], REWARD), theta)
    assert torch.allclose(found, exact, atol=0.03)


def test_eager_form_moves_towards_the_reward_under_marginal_noise() -> None:
    theta = torch.zeros(D, K, dtype=torch.float64, requires_grad=True)
    process = Variables.of(torch.ones(D, K))

    def predict(x_t: Tensor, t: Tensor) -> Prediction:
        return Prediction(theta.log_softmax(-1).expand(len(x_t), -1, -1), "posterior")

    x_0 = torch.cartesian_prod(torch.arange(K), torch.arange(K))
    r = REWARD.flatten()
    loss, _ = eager(predict, process, x_0, x_0, torch.full((9,), 0.5), r - r.mean())
    loss.backward()
    assert theta.grad is not None
    assert int((-theta.grad[1]).argmax()) == 2  # the best column


def test_variables_keep_their_alphabets() -> None:
    weights = torch.tensor([[1.0, 3.0, 0.0], [1.0, 1.0, 2.0]])
    process = Variables.of(weights)
    x_0 = torch.tensor([[1, 2]] * 4000)
    x_t = process.corrupt(x_0, 0.6, process.couple((2,), Stream.of(0, 4000)))
    assert int(x_t[:, 0].max()) == 1
    law = process.forward(torch.tensor([[1, 2]]), 0.6)[0]
    for d in range(2):
        share = torch.bincount(x_t[:, d], minlength=3) / 4000
        assert torch.allclose(share.double(), law[d], atol=0.04)
    bridge = process.bridge(torch.tensor([[0, 1]]), torch.tensor([[1, 2]]), 0.6, 0.3).exp()
    s = process.forward(torch.tensor([[1, 2]]), 0.3)[0]
    a = (1 - 0.6) / (1 - 0.3)
    for d, x in enumerate((0, 1)):
        ahead = (1 - a) * process.pi[d, x] + a * torch.nn.functional.one_hot(torch.tensor(x), 3)
        assert torch.allclose(bridge[0, d], ahead * s[d] / (ahead * s[d]).sum())
    grouped = Variables.of(weights, groups=torch.tensor([0, 0])).pi
    assert torch.equal(grouped[0], grouped[1])
