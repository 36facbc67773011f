"""Answers that are no number: counted, the worst to learn from, never a result."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.nas import verbs
from apps.nas.baselines import BASELINES, Field
from apps.nas.constraints import Forbid
from apps.nas.fidelity import Ladder
from apps.nas.generate import CellModel, untrained
from apps.nas.model import TuneConfig
from apps.nas.pareto import Front, search
from apps.nas.proxies import controls
from apps.nas.rewards import Queries, Table, columns, floored, load
from apps.nas.search import Guided, Policy, Tuner, method
from apps.nas.space import Space, make
from apps.nas.space import load as load_space
from apps.nas.surrogate import Surrogate
from core.errors import UsageError
from core.run.config import load_recipe

NB201 = load_space("nb201")
SMALL = make({"name": "small", "place": "edges", "nodes": 3, "operations": list(NB201.operations)})
BAD = [math.nan, math.inf, -math.inf]


class Broken:
    """Counts convolutions; cells with `gap` of them (any number where None) get `answer`."""

    name = "broken"

    def __init__(self, answer: float = math.nan, gap: int | None = 2) -> None:
        self.answer, self.gap = answer, gap

    def score(self, x: torch.Tensor) -> torch.Tensor:
        count = (x == 3).double().sum(-1)
        hit = torch.ones_like(count, dtype=torch.bool) if self.gap is None else count == self.gap
        return torch.where(hit, self.answer, count)


class Silent(Broken):
    """Never answers."""

    def __init__(self) -> None:
        super().__init__(gap=None)


def model(space: Space = NB201) -> CellModel:
    return untrained(load_recipe("nas", "toy", ["tune.inner=1"]), space)


@pytest.mark.parametrize("answer", BAD)
def test_what_is_no_number_is_counted_and_never_wins(answer: float) -> None:
    q = Queries(Broken(answer))
    x = torch.tensor([[3, 3, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0], [0, 3, 0, 3, 0, 0], [3, 3, 3, 0, 0, 0]])
    assert q.score(x).tolist() == [-math.inf, 1, -math.inf, 3]
    assert (q.unique, q.failed, q.best()[1], q.reached(2.0)) == (4, 2, 3.0, 4) and q.known(x[0].tolist())
    assert q.curve().tolist() == [-math.inf, 1, 1, 3]
    assert floored(q.score(x)).tolist() == [1, 1, 1, 3] and floored(torch.tensor([-math.inf])).isinf().all()
    assert controls(NB201, q.history) == controls(NB201, [q.history[1], q.history[3]])
    silent = Queries(Silent())
    silent.score(x)
    with pytest.raises(UsageError, match="no finite number for any of 4 cells"):
        silent.best()


@pytest.mark.parametrize("name", [*BASELINES, "guided", "policy"])
@pytest.mark.parametrize("gap", [1, None])
def test_every_search_goes_on_past_what_is_no_number(name: str, gap: int | None) -> None:
    q, m, tune = Queries(Broken(gap=gap)), model(SMALL), TuneConfig(queries=8, inner=1, states=1)
    searches = {"guided": Guided(m, tune, pool=8, mutants=8), "policy": Policy(m, tune)}
    (searches.get(name) or method(name))(q, Field(SMALL, seed=1), 24)
    assert q.unique == 24 and q.failed == (24 if gap is None else sum(row.count(3) == 1 for row, _ in q.history)) > 0
    if gap is not None:
        assert q.best()[1] == q.curve()[-1] == max(n for row, _ in q.history if (n := row.count(3)) != 1)


def test_a_policy_learns_from_the_numbers_of_a_batch() -> None:
    tuner = Tuner(model(), model().recipe.tune, Field(NB201))
    x = tuner.sample(4)
    before = [p.clone() for p in tuner.model.net.parameters()]
    tuner.learn(x, torch.full((4,), -math.inf, dtype=torch.float64))
    tuner.learn_per_step(4, lambda x: torch.full((len(x),), -math.inf, dtype=torch.float64))
    assert tuner.advantage.mean is None and not tuner.replay.x
    assert all(torch.equal(a, b) for a, b in zip(before, tuner.model.net.parameters(), strict=True))
    tuner.learn(x, torch.tensor([1.0, -math.inf, 4.0, -math.inf], dtype=torch.float64))
    assert tuner.replay.reward == [4.0, 1.0] and tuner.advantage.mean == 1.75
    assert all(bool(p.isfinite().all()) for p in tuner.model.net.parameters())


def test_the_surrogate_ranks_all_failures_lowest_and_alike() -> None:
    x = np.array([[k, 0, 0, 0, 0, 3] for k in range(5)])
    y = Surrogate(NB201).fit(x, np.array([2.0, -np.inf, 1.0, -np.inf, 3.0])).y
    assert y[1] == y[3] < y[2] < y[0] < y[4]


@pytest.mark.parametrize("rungs", [("cheap", "dear"), ("dear", "cheap")])
def test_a_ladder_climbs_past_what_is_no_number(rungs: tuple[str, str]) -> None:
    rows = torch.tensor([[k, 0, 0, 0, 0, 3] for k in range(5)])
    cells = [tuple(row) for row in rows.tolist()]
    told = dict.fromkeys(cells, 0.0) | {cell: float(k) for k, cell in enumerate(cells)}
    broken = told | {cells[0]: math.nan, cells[3]: math.inf}
    values = {"cheap": broken, "dear": told}
    ladder = Ladder([Table(name, NB201, values[name]) for name in rungs], keep=0.5)  # type: ignore[arg-type]
    scores = ladder.score(rows)
    assert scores.isinf().tolist() == [True, False, False, True, False] and scores[4] == 4
    assert scores[1] < scores[2] < scores[4]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_front_holds_numbers_only(bad: float) -> None:
    values = torch.tensor([[bad, 5.0], [1.0, 1.0], [2.0, bad], [0.0, 2.0]], dtype=torch.float64)
    assert Front.of(torch.arange(4)[:, None], values).x.flatten().tolist() == [1, 3]


def test_front_searches_ask_only_for_cells_with_a_price() -> None:
    q, cost = Queries(Broken(gap=3)), Broken(-math.inf, gap=1)
    front, _ = search(model(SMALL), q, cost, Field(SMALL, seed=0), 30, pool=32, steps=1)
    assert q.unique == 30 and q.failed > 0 and 1 not in {row.count(3) for row, _ in q.history}
    assert {(int(a), int(b)) for a, b in front.values} == {(k, -k) for k in (front.x == 3).sum(1).tolist()}
    assert bool(front.values.isfinite().all()) and len(front.x) > 1
    for reward, price in ((Silent(), Broken()), (Broken(), Silent())):
        with pytest.raises(UsageError, match="no finite value beside a finite broken"):
            search(model(SMALL), Queries(reward), price, Field(SMALL, seed=0), 25, pool=16, steps=1)


def test_verbs_report_failures_and_refuse_where_there_is_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "load", lambda name: model(SMALL))
    monkeypatch.setattr("apps.nas.rewards.load", lambda name, *_: Silent() if name == "silent" else Broken(gap=1))
    asked = {"method": "random", "budget": 20, "seed": 0, "folder": ""}
    found = verbs.search("toy", [], reward="broken", out=tmp_path / "found", **asked)
    rows = [json.loads(line) for line in (tmp_path / "found" / "queries.jsonl").read_text().splitlines()]
    assert found["failed"] == sum(row["value"] is None for row in rows) > 0 and math.isfinite(found["best"])
    with pytest.raises(UsageError, match="no finite number"):
        verbs.search("toy", [Forbid("skip_connect")], reward="silent", out=tmp_path / "none", **asked)
    with pytest.raises(UsageError, match="no finite number"):
        verbs.evaluate("toy", reward="silent", budget=5, seeds=1, folder="")
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(not Path("../shared/data/nas").is_dir(), reason="the real NAS-Bench-201 files are not here")
def test_what_was_not_measured_is_no_number() -> None:
    missing = [code for code, row in columns("hw").items() if row["c10_edgetpu_latency"] == "-1.0"]
    cell = torch.tensor([[int(c) for c in missing[0]]])
    assert len(missing) == 4699 and load("-hw:c10_edgetpu_latency", NB201).score(cell).isnan()
