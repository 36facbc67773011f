"""Few queries: unique evaluations until the optimum of a table is met, beside five baselines.

Tables: the real NAS-Bench-201 (test columns after 200 epochs, three data sets) and our own of the same cells trained on
digits, by test accuracy and by test loss, means over its seeds. How much of an optimum is luck of the seeds is shown by
`rank of one seed's best by the other`: how many classes a search that knew the other seed's value of every class would
ask before it met the best of this one.

What judges did not choose: settings come from columns after 12 epochs of NAS-Bench-201 and from the validation columns
of our table, with one exception: that cells of a class share one question was once chosen on our test accuracy, when
validation accuracy judged (its figures stand beside, without a bar).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict

import numpy as np

from apps.nas.metrics import efficiency
from apps.nas.rewards import Table, digits_table, load
from apps.nas.space import load as load_space
from apps.nas.table import read, unique
from benchmarks._nas import COLUMNS, NB201, fresh, many, single, table
from benchmarks.harness import Bar, Result
from core.errors import DataError
from core.finetune.reward import Reward

SEEDS, BUDGET = 20, {"guided": 300, "policy": 500, "ridge": 300, "evolution": 1000, "local": 1000}
BUDGET |= {"reinforce": 500, "random": 1000}
OURS = {"digits accuracy": "digits:test", "digits loss": "-digits:test_loss"}
CHOSE = {"digits validation accuracy": "digits:valid"}  # what settings were chosen by: shown, no bar
NAMES = OURS | CHOSE


def ours() -> dict[str, tuple[Reward, float]]:
    """Return the rewards of our own table and their optima; none where it is not complete."""
    try:
        found = {key: load(name.removeprefix("-"), load_space("nb201")) for key, name in NAMES.items()}
    except DataError:
        return {}
    tables = {key: t for key, t in found.items() if isinstance(t, Table) and len(t.values) == len(unique(NB201))}
    signs = {key: -1 if NAMES[key].startswith("-") else 1 for key in tables}
    best = {key: max(signs[key] * v for v in t.values.values()) for key, t in tables.items()}
    return {key: (load(NAMES[key], load_space("nb201")), best[key]) for key in tables}


def luck(column: str, sign: int) -> float | None:
    """Return the mean rank, by the other seed, of the best class of a seed; None where there is one seed only."""
    rows: dict[str, dict[int, float]] = defaultdict(dict)
    path = digits_table()
    for row in (r for part in ([path] if path.is_file() else path.glob("part-*.csv")) for r in read(part)):
        if row.space == NB201.name:
            rows[row.cell][row.seed] = sign * getattr(row, column)
    both = np.array([[v[0], v[1]] for v in rows.values() if {0, 1} <= set(v)]).T
    if not both.size:
        return None
    return float(np.mean([(a[b.argmax()] <= a).sum() for a, b in (both, both[::-1])]))


def run(full: bool) -> Result:
    """Search from 20 seeds; a run that never reaches the optimum counts as one more than its budget."""
    single()
    model, figures, peers, bars = fresh(), {}, {}, []
    names = ["guided", "ridge", "evolution", "local", "random", "reinforce", "policy"]
    rewards: dict[str, tuple[Reward, float]] = {k: (table(c), table(c).best()) for k, c in COLUMNS.items()}
    own = ours()
    for key, (reward, goal) in (rewards | own).items():
        for name in names[:2] if key in CHOSE else names:
            seeds = range(SEEDS if full or name != "policy" else 3)
            runs = many(name, reward, NB201, BUDGET[name], seeds, model, goal=goal)
            found = asdict(efficiency(runs, goal, BUDGET[name]))
            (figures if name == "guided" else peers)[f"{key} {name}"] = found
        median = figures[f"{key} guided"]["queries"]
        if key not in CHOSE:
            bars.append(Bar(f"{key}: median unique queries to the optimum, {SEEDS} seeds", median, "<=", 100))
    for key in own:
        sign, column = (-1 if NAMES[key].startswith("-") else 1), NAMES[key].rpartition(":")[2]
        peers[f"{key}: rank of one seed's best by the other"] = luck(column, sign)
    notes = "" if own else "The digits table is not complete. "
    return Result(figures, bars, peers=peers, notes=notes + "Without --full the plain policy runs 3 seeds.")
