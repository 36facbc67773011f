"""The table of rewards: nothing asks more than its calls, and the two rows of DRAKES are not taken for each other."""

from __future__ import annotations

import pytest

from benchmarks import dna_rewards
from benchmarks._steering import ALPHAS, CALLS, FEW, MANY, OWN, SHARED, UPDATES, WEIGHTS, Cell, before, spent


def test_no_tuning_asks_more_than_its_calls_the_warm_start_included() -> None:
    for regime in (FEW, MANY):
        cells = [c for c in regime.cells if c.method in WEIGHTS]
        assert {c.method for c in cells} == set(WEIGHTS) and all(0 < spent(c) <= CALLS for c in cells)
    last = Cell("drakes-warm", ALPHAS["drakes-warm"][-1], 0)
    assert spent(last) == OWN["drakes-warm"]["warm"] + SHARED["batch"] * sum(UPDATES["drakes-warm"]) == CALLS
    assert [c.strength for c in before(last)] == list(ALPHAS["drakes-warm"][:-1])
    assert spent(Cell("drakes", ALPHAS["drakes"][0], 0)) == SHARED["batch"] * UPDATES["drakes"][0]


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
    plain, variant = (dna_rewards.standing(rows, volume, method) for method in ALPHAS)
    assert plain["hypervolume_over_others"] == pytest.approx(1.1 / 2.0)
    assert variant["hypervolume_over_others"] == pytest.approx((warm + 1) / 2)
    assert set(sum(plain["dominated"].values(), [])) == {"classifier 0.05"}
    free = [k for k, v in variant["dominated"].items() if not v]
    assert free == (["drakes-warm 0.015"] if warm > 1 else [])
    assert variant["chosen"] == "drakes-warm 0.015"  # the smallest alpha that is typical
    assert variant["dominated_by_judge"] == variant["dominated"]  # the judges of this table agree
    rows["drakes-warm 0.04"]["judge"] = 9.0
    assert not dna_rewards.standing(rows, volume, "drakes-warm")["dominated_by_judge"]["drakes-warm 0.04"]


def test_a_point_that_ties_dominates_nothing() -> None:
    assert dna_rewards.dominated({"drakes 0.2": point(1.0), "smc 0.2": point(1.0, -0.1)}) == {"drakes 0.2": []}
    assert dna_rewards.dominated({"drakes 0.2": point(1.0, 0.1), "smc 0.2": point(1.0)}) == {"drakes 0.2": ["smc 0.2"]}
    assert dna_rewards.rivals("drakes-warm", "drakes 0.2") and not dna_rewards.rivals("drakes", "drakes-warm 0.02")
