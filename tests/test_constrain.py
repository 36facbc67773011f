"""Constrained draws: enumeration, exactness on Markov data, zero violations whatever the prediction, the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks._enumerate import Case, cases, product_law, reference_law
from benchmarks._oracle import Oracle, index, total_variation
from benchmarks.constraint_exact import draw_figures, exact_figures, marginals, prediction, window
from benchmarks.constraint_law import LENGTH, K, Still, toys
from core.constrain.automaton import contains
from core.constrain.chain import Markov
from core.constrain.law import Mode
from core.constrain.regular import law
from core.denoiser import Prediction
from core.errors import InfeasibleError, UsageError
from core.finetune.particles import LawTwist, Particles, choose, impose, resample
from core.noise import Stream
from core.plan import uniform_plan
from core.process.categorical import Categorical
from core.sample import denoise
from core.solvers.tokens import FirstHitting, Remask

MODES: list[Mode] = ["exists", "reference", "reference-all", "product"]


@pytest.mark.parametrize("case", cases(), ids=lambda c: c.name)
def test_messages_equal_enumeration(case: Case) -> None:
    found = exact_figures(case, prediction(case, 7))
    assert max(found.values()) <= 1e-10, found


@pytest.mark.parametrize("number", [1, 4])
def test_draws_follow_enumeration(number: int) -> None:
    case = cases()[number]
    found = draw_figures(case, prediction(case, number), 20_000)
    assert found.pop("violations") == 0 and max(found.values()) < 0.04, found


def test_log_prob_is_normalised_and_refuses() -> None:
    case = cases()[5]
    log_p = prediction(case, 1)
    chain = Markov(window(case, len(case.x), "product").plain, log_p.expand(len(case.x), -1, -1))
    assert float(chain.log_prob(case.x).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert bool((chain.log_prob(case.x.flip(1))[(case.x[:, -1:] != case.x[:, :1])[:, 0]] == -torch.inf).all())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [cases()[i] for i in (0, 2, 5)], ids=lambda c: c.name)
def test_no_prediction_can_break_the_law(case: Case, mode: Mode) -> None:
    rows, legal = 2500, {tuple(x) for x in case.x.tolist()}
    g = torch.Generator().manual_seed(0)
    for trial in range(4):
        log_p = torch.randn(rows, case.length, case.tokens, generator=g, dtype=torch.float64) * 30
        zeros = torch.rand(log_p.shape, generator=g) < 0.4 * trial
        log_p = torch.where(zeros, -torch.inf, log_p)  # at the last trial every token is ruled out
        law = replace(case.build(rows), mode=mode)
        view, known = law.window(law.begin(), np.arange(rows), case.length, 0), torch.full((rows, case.length), -1)
        order = torch.rand(rows, case.length, generator=g).argsort(-1)
        for part in (order[:, :1], order[:, 1:4], order[:, 4:]):
            sites = torch.zeros_like(known, dtype=torch.bool).scatter(1, part, True) & (known < 0)
            known = view.admit(log_p, known, sites, torch.rand(known.shape, generator=g, dtype=torch.float64))
        assert {tuple(x) for x in known.tolist()} <= legal


@pytest.mark.parametrize("count", [1, 2, LENGTH])
@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("mode", ["reference", "reference-all"])
def test_markov_data_are_drawn_exactly_at_any_number_of_steps(which: int, mode: Mode, count: int) -> None:
    assert tv(which, mode, count) < 0.06


def test_the_product_law_counts_twice() -> None:
    assert tv(0, "product", 1) > 0.08 and tv(0, "exists", 1) < 0.06


def tv(which: int, mode: Mode, count: int, rows: int = 5000) -> float:
    toy = toys()[which]
    net = Still(Oracle(toy.data, Categorical.absorbing(K), LENGTH))
    law = toy.constraint(rows, mode)
    view, x = law.window(law.begin(), np.arange(rows), LENGTH, 0), torch.full((rows, LENGTH), K)
    stream = Stream.of(0, rows)
    x = denoise(net, net.oracle.process, uniform_plan(-(-LENGTH // count)), view, FirstHitting(count), stream, x)
    return total_variation(torch.bincount(index(x, K), minlength=K**LENGTH) / rows, toy.target)


def test_particles_reach_the_conditioned_law_and_do_not_depend_on_their_batch() -> None:
    toy, count = toys()[2], 64
    net = Still(Oracle(toy.data, Categorical.absorbing(K), LENGTH))

    def run(samples: int, first: int) -> tuple[Tensor, Tensor]:
        law = toy.constraint(samples * count, "exists")
        view = law.window(law.begin(), np.arange(samples * count), LENGTH, 0)
        x = torch.full((samples * count, LENGTH), K)
        stream = Stream.of(0, samples * count, first * count)
        return impose(net, net.oracle.process, uniform_plan(LENGTH), view, FirstHitting(), stream, x, count)

    x, log_w = run(150, 0)
    law = torch.zeros(K**LENGTH).double().index_add(0, index(x, K), log_w.softmax(-1).reshape(-1)) / 150
    assert total_variation(law, toy.target) < 0.06 and float(law[toy.target == 0].sum()) == 0
    again, w = run(2, 5)
    assert torch.equal(again, x[5 * count : 7 * count]) and torch.equal(w, log_w[5:7])
    one = choose(x, log_w, torch.rand(150))
    assert one.shape == (150, LENGTH) and bool((toy.target[index(one, K)] > 0).all())


def test_particles_that_the_model_rules_out_stay_dead() -> None:
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    move = torch.tensor([[0.0, 0.7, 0.3], [0.5, 0.0, 0.5], [0.2, 0.8, 0.0]]).double()  # some steps never happen
    weight = torch.tensor([0.5, 0.3, 0.2]).double()[every[:, 0]] * move[every[:, :-1], every[:, 1:]].prod(1)

    def predict(x: Tensor, t: Tensor) -> Prediction:
        fits = weight * ((x[:, None] == 3) | (x[:, None] == every)).all(-1)
        law = torch.einsum("bn,nlv->blv", fits, torch.nn.functional.one_hot(every, 3).double())
        return Prediction((law / law.sum(-1, keepdim=True)).nan_to_num(1 / 3).log())

    rule, rows = contains([{0}, {1}, {0}], 3), 200 * 16
    imposed = law(rule, rows, 4)
    window = imposed.window(imposed.begin(), np.arange(rows), 4, 0)
    start = torch.full((rows, 4), 3)
    process, stream = Categorical.absorbing(3), Stream.of(3, rows)
    x, log_w = impose(predict, process, uniform_plan(4), window, FirstHitting(), stream, start, 16)
    target = weight * torch.from_numpy(rule.accepts(every.numpy()))
    found = torch.zeros(81).double().index_add(0, index(x, 3), log_w.softmax(-1).reshape(-1)) / 200
    assert bool((log_w == -torch.inf).any()) and float(found[weight == 0].sum()) == 0
    assert total_variation(found, target / target.sum()) < 0.05


def test_solvers_that_cover_sites_again_are_refused_by_particles() -> None:
    with pytest.raises(UsageError, match="solver: covers sites again.*remask"):
        Particles(Remask(), LawTwist(), 4)


def test_resampling_keeps_each_particle_as_often_as_it_weighs() -> None:
    log_w = torch.randn(5, 40, dtype=torch.float64)
    rows = resample(log_w, torch.rand(5))
    kept = torch.stack([torch.bincount(r, minlength=200) for r in rows]).sum(0).view(5, 40)
    assert bool(((kept - 40 * log_w.softmax(-1)).abs() < 1).all())


def test_projection_meets_the_marginals() -> None:
    case = cases()[3]
    want = marginals(case, product_law(case, prediction(case, 2))[0])
    match = torch.tensor([[True, False, True, True, False]])
    view = window(case, 1, "reference")
    phi = view.potentials(want.log()[None], torch.full((1, 5), -1), match)
    got = Markov(view.trellis, phi)
    assert float((got.marginals()[0] - want)[match[0]].abs().max()) < 1e-12
    brute = reference_law(case, want.log(), match[0].nonzero()[:, 0])
    law = Markov(window(case, len(case.x), "reference").trellis, phi.expand(len(case.x), -1, -1)).log_prob(case.x).exp()
    assert float((law - brute).abs().max()) < 1e-12


def test_an_empty_law_is_refused() -> None:
    law = cases()[4].build(2)
    with pytest.raises(InfeasibleError, match="no admissible continuation"):
        law.window(law.begin(), np.arange(2), 1, 0)


@pytest.mark.slow
def test_compiles_where_nothing_can_be_written(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    shutil.copytree(root / "core", tmp_path / "core", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [tmp_path / "core", *(p for p in (tmp_path / "core").rglob("*") if p.is_dir())]:
        (folder / "__pycache__").write_text("a file where numba wants a folder")
    code = "import numpy as np; from core.constrain.graph import hops_to as h; z = np.zeros(1, np.int64);"
    code += "print(h(np.zeros(2, np.int64), z.astype(np.int32), z, np.zeros(1, bool)))"
    blocked = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "PYTHONDONTWRITEBYTECODE": "1"}
    env = {**{k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}, **blocked}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[0]", done.stderr
