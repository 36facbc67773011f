"""Rewards: composition, counting, fronts, and loading a user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from core.errors import UsageError
from core.finetune.reward import Counted, GeometricMean, Threshold, Weighted, hypervolume, load, pareto, soft


@dataclass(frozen=True)
class Linear:
    """Share of one token."""

    token: int = 0
    name: str = "share"

    def score(self, x: Tensor) -> Tensor:
        return (x == self.token).double().mean(-1)

    def soft(self, p: Tensor) -> Tensor:
        return p[..., self.token].mean(-1)


class BlackBox:
    """A reward without gradients; made without arguments."""

    name = "black-box"

    def score(self, x: Tensor) -> Tensor:
        return x.double().sum(-1)


class Barred:
    """A reward that rules everything out."""

    name = "barred"

    def score(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), -torch.inf, dtype=torch.float64)


def test_what_is_ruled_out_stays_so_under_any_weight() -> None:
    """Minus a reward of -inf is no best of all; without a weight it says nothing."""
    found = [Weighted([Linear(0), Barred()], [1.0, w]).score(X) for w in (-1.0, 0.0, 2.0)]
    assert torch.isneginf(found[0]).all() and torch.isneginf(found[2]).all()
    torch.testing.assert_close(found[1], Linear(0).score(X))
    p = one_hot(X, 3).double().requires_grad_()
    Weighted([Linear(0), Linear(1)], [1.0, -2.0]).soft(p).sum().backward()
    assert p.grad is not None and p.grad[0, 0].tolist() == [0.25, -0.5, 0.0]


@pytest.mark.parametrize(("level", "width"), [(0.0, 0.0), (0.0, -1.0), (torch.nan, 1.0), (0.0, torch.inf)])
def test_a_threshold_has_a_width(level: float, width: float) -> None:
    with pytest.raises(UsageError, match="positive width"):
        Threshold(Linear(0), level, width)


X = torch.tensor([[0, 0, 1, 2], [1, 1, 1, 1], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    "reward",
    [Weighted([Linear(0), Linear(1)], [2.0, -1.0]), GeometricMean([Linear(0), Linear(1)], [1.0, 2.0]),
     Threshold(Linear(0), 0.5, 0.1)],
)  # fmt: skip
def test_soft_at_one_hots_is_the_score(reward) -> None:  # noqa: ANN001
    assert torch.allclose(reward.soft(one_hot(X, 3).double()), reward.score(X), atol=1e-12)


def test_compositions_by_hand() -> None:
    assert Weighted([Linear(0), Linear(1)], [2.0, -1.0]).score(X).tolist() == [0.75, -1.0, 2.0]
    mean = GeometricMean([Linear(0), Linear(1)], [1.0, 1.0]).score(X)
    assert mean.tolist() == pytest.approx([(0.5 * 0.25) ** 0.5, 0.0, 0.0])
    assert float(Threshold(Linear(0), 0.5, 0.1).score(X)[0]) == 0.5
    assert Weighted([Barred(), Linear(1)], [0.0, 1.0]).score(X).tolist() == [0.25, 1.0, 0.0]
    for weights in ([1.0], [1.0, float("nan")]):
        with pytest.raises(UsageError, match="weights"):
            Weighted([Linear(0), Linear(1)], weights)
    with pytest.raises(UsageError, match="negative"):
        GeometricMean([Linear(0)], [-1.0])


def test_calls_and_gradients_are_counted() -> None:
    counted = Counted(Linear())
    counted.score(X)
    counted.score(X[:1])
    counted.soft(one_hot(X, 3).double())
    assert (counted.calls, counted.gradients, counted.name) == (4, 3, "share")
    with pytest.raises(UsageError, match="no gradients"):
        soft(BlackBox())


def test_front_and_hypervolume_agree_with_counting() -> None:
    g = torch.Generator().manual_seed(0)
    v = torch.randint(0, 6, (12, 3), generator=g)
    front = pareto(v)
    worse = [any(bool((o >= p).all() and (o > p).any()) for o in v) for p in v]
    assert front.tolist() == [not w for w in worse] and 0 < int(front.sum()) < 12
    cells = torch.cartesian_prod(*[torch.arange(6)] * 3) + 1
    dominated = (cells[:, None] <= v[None]).all(-1).any(1).sum()
    assert hypervolume(v.double(), torch.zeros(3)) == pytest.approx(float(dominated))
    assert hypervolume(v[front].double(), torch.zeros(3)) == pytest.approx(float(dominated))


def test_a_users_own_reward_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    (tmp_path / "broken_reward.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    assert load("mine:BlackBox").score(X).tolist() == [3.0, 4.0, 0.0]
    assert load("mine:Linear").name == "share"
    for name, message in [("mine:absent", "imported"), ("no.module:x", "imported"), ("nothing", "no such"),
                          ("broken_reward:x", "division by zero"), ("builtins:dict", "no `name`")]:  # fmt: skip
        with pytest.raises(UsageError, match=message):
            load(name)
