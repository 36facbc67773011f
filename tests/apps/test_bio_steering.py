"""The table of rewards: nothing asks more than its calls, and the two rows of DRAKES are not taken for each other."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import dna_rewards
from benchmarks._steering import FEW, MANY, Cell
from benchmarks._weights import (
    ALPHAS,
    CALLS,
    OWN,
    REALIGNED,
    SHARED,
    UPDATES,
    WEIGHTS,
    before,
    depends,
    falling,
    source,
    spent,
)


def test_no_tuning_asks_more_than_its_calls_the_warm_start_included() -> None:
    for regime in (FEW, MANY):
        cells = [c for c in regime.cells if c.method in WEIGHTS]
        assert {c.method for c in cells} == set(WEIGHTS) and all(0 < spent(c) <= CALLS for c in cells)
    last = Cell("drakes-warm", ALPHAS["drakes-warm"][-1], 0)
    assert spent(last) == OWN["drakes-warm"]["warm"] + SHARED["batch"] * sum(UPDATES["drakes-warm"]) == CALLS
    assert [c.strength for c in before(last)] == list(ALPHAS["drakes-warm"][:-1])
    for alpha in ALPHAS["drakes"]:  # a run of its own, which spends them all
        own = Cell("drakes", alpha, 0)
        assert spent(own) == CALLS and not before(own)
        assert alpha in sum(depends(own)[2], []) and len(depends(own)[2]) == 1
    assert len(depends(last)[2]) == len(ALPHAS["drakes-warm"])


def test_the_rate_rises_for_a_tenth_and_falls_to_nothing() -> None:
    rate = [falling(step, 100) for step in range(100)]
    assert rate[0] == 0.1 and int(np.argmax(rate)) == 9 and 0 < rate[-1] < 0.011


def point(evaluation: float, loss: float = 0.0, typical: float = 1.0) -> dict[str, float]:
    same = dict.fromkeys(("evaluation", "judge", "tuning"), evaluation)
    return {**same, "elbo_loss": loss, "typical": typical, "diversity": 0.5}


def table(warm: float) -> dict[str, dict[str, float]]:
    found = {f"{m} {a:g}": point(0.1) for m in ALPHAS for a in ALPHAS[m]}
    found |= {"drakes-warm 0.015": point(warm), "drakes-warm 0.0125": point(9.0, typical=0.5)}
    return {"prior": point(-1.0), "classifier 0.05": point(1.0), **found}


@pytest.mark.parametrize("warm", [0.5, 2.0])
def test_the_variant_neither_helps_nor_hurts_drakes(warm: float) -> None:
    rows = table(warm)
    volume = dna_rewards.volumes(rows)
    plain, variant = (dna_rewards.standing(rows, volume, method) for method in UPDATES)
    assert plain["hypervolume_over_others"] == pytest.approx(1.1 / 2.0)
    assert variant["hypervolume_over_others"] == pytest.approx((warm + 1) / 2)
    assert set(sum(plain["dominated"].values(), [])) == {"classifier 0.05"}
    free = [k for k, v in variant["dominated"].items() if not v]
    assert free == (["drakes-warm 0.015"] if warm > 1 else [])
    assert variant["chosen"] == "drakes-warm 0.015"  # the smallest alpha that is typical
    assert variant["dominated_by_judge"] == variant["dominated"]  # the judges of this table agree
    rows["drakes-warm 0.04"]["judge"] = 9.0
    assert not dna_rewards.standing(rows, volume, "drakes-warm")["dominated_by_judge"]["drakes-warm 0.04"]


def test_what_is_realigned_asks_nothing_more_and_is_its_own_row() -> None:
    for regime in (FEW, MANY):
        cells = [c for c in regime.cells if c.method in REALIGNED]
        assert {c.method for c in cells} == set(REALIGNED) <= set(dna_rewards.OURS)
        for cell in cells:
            own = source(cell)
            assert own in regime.cells and own.strength == cell.strength * REALIGNED[cell.method][1]
            assert spent(cell) == spent(own) <= CALLS and depends(cell)[2:] == depends(own)
    assert not dna_rewards.rivals("drakes", "drakes-realigned 0.0125")
    assert dna_rewards.rivals("drakes-realigned", "drakes 0.1") and dna_rewards.rivals("drakes", "sdpo-realigned 0.025")
    rows = table(0.5) | {"drakes-realigned 0.0125": point(1.5)}
    found = dna_rewards.standing(rows, dna_rewards.volumes(rows), "drakes-realigned")
    assert found["dominated"]["drakes-realigned 0.0125"] == [] and found["chosen"] == "drakes-realigned 0.0125"
    assert found["dominated_by_published"]["drakes-realigned 0.025"] == ["classifier 0.05"]


def test_a_point_that_ties_dominates_nothing() -> None:
    assert dna_rewards.dominated({"drakes 0.2": point(1.0), "smc 0.2": point(1.0, -0.1)}) == {"drakes 0.2": []}
    assert dna_rewards.dominated({"drakes 0.2": point(1.0, 0.1), "smc 0.2": point(1.0)}) == {"drakes 0.2": ["smc 0.2"]}
    assert dna_rewards.rivals("drakes-warm", "drakes 0.2") and not dna_rewards.rivals("drakes", "drakes-warm 0.02")


def test_a_library_is_what_was_paid_for_and_the_prior() -> None:
    own = {"evaluation": [2.0] * 4, "elbo": [1.0, 1.0, 1.0, 9.0]}
    rest = {"evaluation": [float(v) for v in range(101)], "elbo": [1.2] * 101}
    whole = dna_rewards.mixture(own, rest, 1.0, (0.9, 1.3))
    assert whole == {"evaluation": 2.0, "elbo": 3.0, "typical": 0.75}
    none = dna_rewards.mixture(own, rest, 0.0, (0.9, 1.3))
    assert none == pytest.approx({"evaluation": 50.0, "elbo": 1.2, "typical": 1.0})
    part = dna_rewards.mixture(own, rest, 0.25, (0.9, 1.3))
    drawn = np.repeat([*own["evaluation"], *rest["evaluation"]], [101] * 4 + [12] * 101)  # 404, 1,212
    assert part["evaluation"] == np.sort(drawn)[len(drawn) // 2 - 1]
    assert part["elbo"] == pytest.approx(0.25 * 3.0 + 0.75 * 1.2) and part["typical"] == pytest.approx(0.9375)


def test_methods_that_do_not_count_dominate_nothing() -> None:
    rows = {"drakes 0.2": point(1.0), "distill 0.0125": point(2.0), "tds 0.2": point(1.5)}
    assert dna_rewards.dominated(rows) == {"drakes 0.2": ["distill 0.0125", "tds 0.2"]}
    assert dna_rewards.dominated(rows, but=dna_rewards.OURS) == {"drakes 0.2": ["tds 0.2"]}
    bars = dna_rewards.library_bars({"640": {}, "6400": rows}, "drakes")
    assert [(b.figure, "6400" in b.claim) for b in bars] == [(0.0, True), (0.0, True)]
    rows["tds 0.2"] = point(0.5)
    assert [b.figure for b in dna_rewards.library_bars({"6400": rows}, "drakes")] == [1.0, 0.0]
