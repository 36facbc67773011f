"""Always valid: 10,000 samples each from NB201, NB101 and a user's space, and 1,000 under each limit of the oracle."""

from __future__ import annotations

from apps.nas.cell import Cell
from apps.nas.constraints import violations
from apps.nas.generate import untrained
from apps.nas.space import make
from benchmarks._nas import ORACLE, fresh, single
from benchmarks.harness import Bar, Result
from core.run.config import load_recipe

USER = {
    "name": "mine", "place": "nodes", "nodes": 6, "operations": ["nor_conv_3x3", "sep_conv_5x5", "skip_connect"],
    "in_degree": [1, 2], "max_edges": 8, "connected": "all", "fixed": {"1": "nor_conv_3x3", "0-5": "yes"},
}  # fmt: skip


def valid(cell: Cell) -> bool:
    """Judge without the law that drew it: paths by search, counts by hand."""
    space, present = cell.space, [op != "absent" for op in cell.ops]
    nodes = {0, space.nodes - 1, *(j for j, p in enumerate(present, 1) if p)}
    nodes |= set(range(space.nodes)) if space.place == "edges" else set()
    low, high = space.in_degree
    degrees = [sum(j == k for _, j, _ in cell.edges) for k in nodes - {0}]
    ok = all(low <= d <= high for d in degrees) and present == sorted(present, reverse=True)
    ok &= not space.max_edges or len(cell.edges) <= space.max_edges
    ok &= all(i < j and i in nodes and j in nodes for i, j, _ in cell.edges)
    ok &= all(cell.words[k] == v for k, v in (space.fixed or {}).items())
    return ok and (cell.live == nodes if space.connected == "all" else bool(cell.live))


def run(full: bool) -> Result:
    """Sample and judge."""
    single()
    n, few = 10_000, 10_000 if full else 1_000
    spaces = {"nb201": fresh(), "nb101": fresh("nb101")}
    spaces["user"] = untrained(load_recipe("nas", "toy"), make(USER))
    figures, bars = {}, []
    for name, model in spaces.items():
        cells = model.sample(n, seed=0, batch=2000)
        figures[f"{name} invalid"] = sum(not valid(c) for c in cells)
        figures[f"{name} classes"] = cells.unique()
        bars.append(Bar(f"{name}: invalid of {n} samples", figures[f"{name} invalid"], "==", 0))
    broken = {}
    for name, limits in ORACLE().items():
        cells = spaces["nb201"].sample(few, constraints=limits, seed=1, batch=2000)
        broken[name] = sum(bool(violations(c, limits)) for c in cells)
    figures["violations"] = broken
    bars.append(Bar(f"violations of the oracle's limits, {few} samples each", sum(broken.values()), "==", 0))
    notes = (
        "Networks without training (uniform over what is valid); validity holds by construction whatever they learn."
    )
    return Result(figures, bars, notes=notes)
