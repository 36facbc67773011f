"""Conversions between the three predictions, the masked parameterisation, wrappers and guidance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks._oracle import Oracle, markov_law
from core.denoiser import Prediction, Temperature, TopP, subs
from core.errors import UsageError
from core.guide.classifier_free import ClassifierFree, guided
from core.process.categorical import Categorical
from core.transition import CategoricalTransition

PROCESSES = {
    "absorbing": Categorical.absorbing(3),
    "uniform": Categorical.uniform(3),
    "marginal": Categorical.marginal(torch.tensor([0.2, 0.5, 0.3])),
}
NEG = -torch.inf


def oracle(noise: str, length: int = 3) -> Oracle:
    return Oracle(markov_law(3, length), PROCESSES[noise], length)


def constant(probabilities: list[float]) -> Prediction:
    return Prediction(torch.tensor(probabilities, dtype=torch.float64).log()[None, None])


@pytest.mark.parametrize("noise", PROCESSES)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_posterior_leave_one_out_and_score_convert_exactly(noise: str, t: float) -> None:
    exact, law = oracle(noise), PROCESSES[noise]
    x = exact.states
    D, loo = exact.prediction(x, t, "posterior"), exact.prediction(x, t, "leave_one_out")
    assert torch.allclose(loo.posterior(x, t, law).log_p.exp(), D.log_p.exp(), rtol=0, atol=1e-13)
    known = torch.zeros_like(x, dtype=torch.bool) if law.mask is None else x != law.mask
    back = D.leave_one_out(x, t, law)
    assert back.kind == "leave_one_out"
    assert torch.allclose(back.log_p.exp()[~known], loo.log_p.exp()[~known], rtol=0, atol=1e-12)
    again = Prediction.from_score(loo.score(x, t, law), t, law)
    assert torch.allclose(again.log_p.exp()[~known], loo.log_p.exp()[~known], rtol=0, atol=1e-12 / (1 - t))


@pytest.mark.parametrize("noise", PROCESSES)
def test_score_is_the_ratio_of_probabilities(noise: str) -> None:
    exact, law, t = oracle(noise), PROCESSES[noise], 0.4
    x, p = exact.states, exact.marginal(0.4)
    log_r = exact.prediction(x, t, "leave_one_out").score(x, t, law)
    place = law.states ** torch.arange(2, -1, -1)
    for i in range(3):
        for y in range(law.states):
            other = (torch.cat([x[:, :i], torch.full_like(x[:, :1], y), x[:, i + 1 :]], 1) * place).sum(-1)
            assert torch.allclose(log_r[:, i, y].exp() * p, p[other], rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("noise", PROCESSES)
def test_leave_one_out_does_not_see_its_own_token(noise: str) -> None:
    exact = oracle(noise)
    law = PROCESSES[noise]
    p = exact.prediction(exact.states, 0.3, "leave_one_out").log_p.exp().reshape([law.states] * 3 + [3, 3])
    for i in range(3):
        own = p.movedim(i, 0)[..., i, :]
        assert float((own - own[:1]).abs().max()) < 5e-16
    D = exact.prediction(exact.states, 0.3, "posterior").log_p.exp().reshape([law.states] * 3 + [3, 3])
    assert float((D[0] - D[1])[..., 0, :].abs().max()) > 0.1


def test_conversion_shifts_the_own_log_odds() -> None:
    law, t = PROCESSES["uniform"], 0.75
    x = torch.tensor([[1]])
    loo = Prediction(torch.tensor([[[0.5, 0.2, 0.3]]], dtype=torch.float64).log(), "leave_one_out")
    gap = (loo.posterior(x, t, law).log_p - loo.log_p)[0, 0]
    assert float(gap[1] - gap[0]) == pytest.approx(float(torch.log1p(torch.tensor(3 * 0.25 / 0.75))), abs=1e-7)
    assert float(gap[2] - gap[0]) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("extra", [0, 1])
def test_subs_never_predicts_the_mask_and_carries_over(extra: int) -> None:
    logits = torch.randn(2, 3, 4 + extra, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x_t = torch.tensor([[4, 1, 4], [0, 4, 3]])
    log_p = subs(logits, x_t, 4).log_p
    assert log_p.shape == (2, 3, 4)
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(2, 3))
    assert log_p[0, 1].tolist() == [NEG, 0.0, NEG, NEG]
    assert torch.allclose(log_p[0, 0], logits[0, 0, :4].log_softmax(-1))
    (grad,) = torch.autograd.grad(log_p[x_t == 4].sum(), logits)
    assert bool(grad.isfinite().all()) and bool((grad[x_t != 4] == 0).all()) and bool((grad[x_t == 4] != 0).any())


def fixed(prediction: Prediction):  # noqa: ANN201
    return lambda x_t, t, context=None: prediction


@pytest.mark.parametrize(
    ("p", "want"),
    [
        (0.9, [0.6 / 0.99, 0.39 / 0.99, 0.0]),
        (0.5, [1.0, 0.0, 0.0]),
        (0.0, [1.0, 0.0, 0.0]),
        (1.0, [0.6, 0.39, 0.01]),
    ],
)
def test_nucleus_keeps_the_token_that_crosses(p: float, want: list[float]) -> None:
    got = TopP(fixed(constant([0.6, 0.39, 0.01])), p)(
        torch.zeros(1, 1, dtype=torch.long), torch.tensor(0.5)
    ).log_p.exp()[0, 0]
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_nucleus_of_everything_leaves_nothing_out() -> None:
    law = torch.randn(64, generator=torch.Generator().manual_seed(0)).mul(4).softmax(0).tolist()
    got = TopP(fixed(constant(law)), 1.0)(torch.zeros(1, 1, dtype=torch.long), torch.tensor(0.5)).log_p
    assert bool(got.isfinite().all())


def test_temperature_sharpens_and_keeps_points() -> None:
    hot = Temperature(fixed(constant([0.5, 0.25, 0.25])), 0.5)(torch.zeros(1, 1, dtype=torch.long), torch.tensor(0.5))
    want = torch.tensor([4.0, 1.0, 1.0], dtype=torch.float64) / 6
    assert torch.allclose(hot.log_p.exp()[0, 0], want)
    assert hot.kind == "posterior"
    point = Temperature(fixed(constant([1.0, 0.0, 0.0])), 2.0)(
        torch.zeros(1, 1, dtype=torch.long), torch.tensor(0.5)
    ).log_p[0, 0]
    assert point.tolist() == [0.0, NEG, NEG]


class _Conditioned:
    """A denoiser whose context, when present, is an exact likelihood `p(y | x_0 of the site)` [K]."""

    def __init__(self, exact: Oracle, kind: str) -> None:
        self.exact, self.kind = exact, kind

    def __call__(self, x_t: Tensor, t: Tensor, context: Tensor | None = None) -> Prediction:
        base = self.exact.prediction(x_t, t, self.kind)
        return base if context is None else Prediction((base.log_p + context).log_softmax(-1), self.kind)


@pytest.mark.parametrize("noise", PROCESSES)
def test_guidance_is_the_same_in_both_parameterisations(noise: str) -> None:
    exact, law, t = oracle(noise), PROCESSES[noise], torch.tensor(0.6)
    evidence = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
    a, b = (ClassifierFree(_Conditioned(exact, kind), 2.5) for kind in ("posterior", "leave_one_out"))
    x = exact.states
    D, again = a(x, t, evidence).log_p.exp(), b(x, t, evidence).posterior(x, t, law).log_p.exp()
    assert torch.allclose(D, again, rtol=0, atol=1e-12)


def test_guidance_at_0_and_1_and_its_exponent() -> None:
    exact, t = oracle("uniform"), torch.tensor(0.6)
    evidence = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
    net, x = _Conditioned(exact, "posterior"), exact.states
    for scale, context in ((0.0, None), (1.0, evidence)):
        got = ClassifierFree(net, scale)(x, t, evidence).log_p
        assert torch.allclose(got, net(x, t, context).log_p, rtol=0, atol=1e-13)
    got = ClassifierFree(net, 3.0)(x, t, evidence).log_p
    assert torch.allclose(got, (net(x, t).log_p + 3 * evidence).log_softmax(-1), rtol=0, atol=1e-12)


def test_guidance_survives_zeros_and_refuses_mixed_kinds() -> None:
    free, told = constant([0.0, 0.5, 0.5]), constant([0.5, 0.5, 0.0])
    net = lambda x_t, t, context=None: told if context else free  # noqa: E731
    x, t = torch.zeros(1, 1, dtype=torch.long), torch.tensor(0.5)
    assert ClassifierFree(net, 2.0)(x, t, True).log_p.exp().tolist() == [[[0, 1, 0]]]
    loo = Prediction(free.log_p, "leave_one_out")
    with pytest.raises(UsageError, match="one kind"):
        ClassifierFree(lambda x_t, t, context=None: told if context else loo, 2.0)(x, t, True)


def test_guided_kernels_tilt_the_noisy_site() -> None:
    law, exact, t, s = PROCESSES["uniform"], oracle("uniform"), 0.9, 0.6
    x = exact.states
    free = exact.prediction(x, t, "leave_one_out")
    told = Prediction((free.log_p + torch.tensor([0.9, 0.05, 0.05]).log()).log_softmax(-1), "leave_one_out")
    steps = [CategoricalTransition.step(law, p, x, t, s) for p in (free, told)]
    log_p = guided(steps[0], steps[1], 2.0).log_p
    assert torch.allclose(log_p, (2 * steps[1].log_p - steps[0].log_p).log_softmax(-1), rtol=0, atol=1e-12)
    assert torch.allclose(guided(steps[0], steps[1], 1.0).log_p, steps[1].log_p, rtol=0, atol=1e-13)
