"""Few queries: unique evaluations until the optimum of the real NAS-Bench-201 table, beside five baselines."""

from __future__ import annotations

from dataclasses import asdict

from apps.nas.metrics import efficiency
from apps.nas.rewards import load
from apps.nas.space import load as load_space
from apps.nas.table import unique
from benchmarks._nas import COLUMNS, NB201, fresh, many, single, table
from benchmarks.harness import Bar, Result
from core.errors import DataError

SEEDS, BUDGET = 20, {"guided": 300, "policy": 500, "ridge": 300, "evolution": 1000, "local": 1000}
BUDGET |= {"reinforce": 500, "random": 1000}


def run(full: bool) -> Result:
    """Search from 20 seeds; a run that never reaches the optimum counts as one more than its budget."""
    single()
    model, figures, peers, bars = fresh(), {}, {}, []
    names = ["guided", "ridge", "evolution", "local", "random", "reinforce", "policy"]
    rewards = {key: table(column) for key, column in COLUMNS.items()}
    missing = ""
    try:
        digits = load("digits:valid", load_space("nb201"))
        if len(digits.values) == len(unique(NB201)):  # type: ignore[attr-defined]
            rewards["digits"] = digits
        else:
            missing = "The digits table is not complete yet. "
    except DataError:
        missing = "The digits table is not computed yet. "
    for key, reward in rewards.items():
        for name in names:
            seeds = range(SEEDS if full or name != "policy" else 3)
            runs = many(name, reward, NB201, BUDGET[name], seeds, model, goal=reward.best())
            found = asdict(efficiency(runs, reward.best(), BUDGET[name]))
            (figures if name == "guided" else peers)[f"{key} {name}"] = found
        median = figures[f"{key} guided"]["queries"]
        bars.append(Bar(f"{key}: median unique queries to the optimum, {SEEDS} seeds", median, "<=", 100))
    notes = (
        missing + "Test column of 200 epochs; nothing was tuned on it. Without --full the plain policy runs 3 seeds."
    )
    return Result(figures, bars, peers=peers, notes=notes)
