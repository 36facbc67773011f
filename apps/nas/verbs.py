"""What the commands do: load, ask, search, write. Results are returned, progress goes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.nas import constraints as limits
from apps.nas.cell import Cell, resources
from apps.nas.space import Space
from apps.nas.tokenizer import from_string
from core.errors import UsageError
from core.run import outputs

if TYPE_CHECKING:
    from apps.nas.generate import CellModel
    from core.run.report import Section

__all__ = ["demo", "evaluate", "export", "pareto", "sample", "search", "table", "wishes"]


def say(line: str) -> None:
    """Tell the user how far it is."""
    print(line, file=sys.stderr)


def load(name: str) -> CellModel:
    """Return a model on one thread (small networks wait for each other on more)."""
    import torch

    from apps import nas

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    return nas.load(name)


def wishes(
    *, forbid: Sequence[str] | None = None, require: Sequence[str] | None = None, fix: Sequence[str] | None = None,
    max_params: float | None = None, max_flops: float | None = None, min_depth: int = 0, max_depth: int | None = None,
    max_edges: int | None = None, limit: Sequence[str] | None = None,
) -> list[limits.Constraint]:  # fmt: skip
    """Return the constraints that the words of the command line make."""
    out: list[limits.Constraint] = [limits.Forbid(op) for op in forbid or ()]
    for word in require or ():
        op, _, count = word.partition(":")
        if count and not count.isdigit():
            raise UsageError("must be OPERATION or OPERATION:COUNT", field="require", value=word)
        out.append(limits.Require(op, int(count or 1)))
    for word in fix or ():
        variable, equals, value = word.partition("=")
        if not equals:
            raise UsageError("must be VARIABLE=VALUE", field="fix", value=word, hint='as in "0-3=skip_connect"')
        out.append(limits.Fix(variable, value))
    out += [limits.Limit("params", millions(max_params))] if max_params is not None else []
    out += [limits.Limit("flops", millions(max_flops))] if max_flops is not None else []
    if min_depth or max_depth is not None:
        out.append(limits.Depth(min_depth, 10**9 if max_depth is None else max_depth))
    out += [limits.Edges(0, max_edges)] if max_edges is not None else []
    for word in limit or ():
        resource, _, most = word.partition("<=")
        try:
            out.append(limits.Limit(resource.strip(), float(most)))
        except ValueError:
            raise UsageError("must be RESOURCE<=NUMBER", field="limit", value=word) from None
    return out


def millions(value: float) -> float:
    """Return so many millions; the whole number where six decimals name one."""
    return round(value * 1e6, 3)


def sample(name: str, asked: Sequence[limits.Constraint], *, n: int, seed: int, settings: dict[str, Any],
           out: Path | None) -> dict[str, Any] | None:  # fmt: skip
    """Draw cells; write them to `out` (.txt or .jsonl), or print them and return None."""
    if out is not None and out.suffix not in {".txt", ".jsonl"}:
        raise UsageError("no such format", field="out", value=str(out), choices=[".txt", ".jsonl"])
    if out is not None:
        outputs.file(out)
    cells = load(name).sample(n, constraints=asked, seed=seed, **settings)
    lines = [str(c) for c in cells]
    if out is None:
        print("\n".join(lines))
        return None
    if out.suffix == ".jsonl":
        lines = [json.dumps(described(c)) for c in cells]
    outputs.save(out, "".join(f"{line}\n" for line in lines))
    return {"out": str(out), "cells": len(cells), "unique": cells.unique()}


def described(cell: Cell) -> dict[str, Any]:
    """Return a cell with its size and cost."""
    params, flops = resources(cell)
    return {"cell": str(cell), "class": cell.key, "params": params, "flops": flops}


def search(
    name: str, asked: Sequence[limits.Constraint], *, reward: str, method: str, budget: int, seed: int,
    out: Path | None, folder: str, scouts: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Search, and return the best cell and what it cost; with `out`, a folder of queries, module and policy."""
    from apps.nas import search as searches
    from apps.nas.baselines import Field
    from apps.nas.fidelity import Ladder
    from apps.nas.proxies import controls
    from apps.nas.rewards import Queries
    from apps.nas.rewards import load as load_reward

    if out is not None:
        outputs.folder(out)
    model = load(name)
    queries = Queries(load_reward(reward, model.space, folder))
    field = Field(model.space, asked, seed)
    say(f"{method} on {model.space.name}, {budget} queries of {queries.name}")
    tuner = searches.method(method, model, scouts)(queries, field, budget)
    best, value = queries.best()
    cell = Cell.of(model.space, best)
    found = {"method": method, "reward": reward, "best": value, **described(cell), "queries": queries.unique,
             "asked": queries.asked, "found_at": queries.reached(value)}  # fmt: skip
    if queries.beyond:
        found["beyond"] = len(queries.beyond)
    if queries.failed:
        found["failed"] = queries.failed
    found["controls"] = controls(model.space, queries.history)
    if isinstance(queries.reward, Ladder):
        found["fidelities"] = queries.reward.spent()
    if out is not None:
        keep(out, model.space, queries.history, cell, found)
        found["out"] = str(out)
        if isinstance(tuner, searches.Tuner):
            found["policy"] = str(tuner.settle().save(out / "policy", queries.unique, {"best": value}))
    return found


def keep(out: Path, space: Space, history: Sequence[tuple[tuple[int, ...], float]], cell: Cell, found: Any) -> None:
    """Write what a search found into a folder."""
    from apps.nas.export import write
    from core.run.cli import finite

    rows = [json.dumps(finite({"cell": str(Cell.of(space, x)), "value": v})) for x, v in history]
    outputs.save(out / "queries.jsonl", "".join(f"{row}\n" for row in rows))
    outputs.save(out / "search.json", json.dumps(finite(found), indent=1) + "\n")
    for file in ("cell.py", "cell.dot", "cell.png", "cell.txt"):
        write(cell, out / file)


def evaluate(name: str, *, reward: str, budget: int, seeds: int, folder: str) -> dict[str, Any]:
    """Run every search from several seeds, and return the median best value at the budget."""
    import numpy as np

    from apps.nas import search as searches
    from apps.nas.baselines import Field
    from apps.nas.rewards import Queries
    from apps.nas.rewards import load as load_reward

    model = load(name)
    out: dict[str, Any] = {"reward": reward, "budget": budget, "seeds": seeds}
    for method in searches.METHODS:
        values = []
        for seed in range(seeds):
            queries = Queries(load_reward(reward, model.space, folder))
            searches.method(method, model)(queries, Field(model.space, seed=seed), budget)
            values.append(queries.best()[1])
            if queries.failed:
                say(f"{method}, seed {seed}: {queries.failed} of {queries.unique} answers are no finite number")
        out[method] = float(np.median(values))
        say(f"{method}: {out[method]:.3f}")
    return out


def export(space: Space, text: str, out: Path | None) -> dict[str, Any]:
    """Read a cell and write it, or describe it."""
    from apps.nas.export import write

    cell = from_string(space, text)
    found = {**described(cell), "valid": not limits.violations(cell)}
    if out is not None:
        write(cell, out)
        found["out"] = str(out)
    return found


def pareto(
    name: str, asked: Sequence[limits.Constraint], *, reward: str, cost: str, budget: int, seed: int, folder: str,
    out: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Search for the front of a reward against a cost; write it to `out`, or return its cells."""
    from apps.nas import pareto as fronts
    from apps.nas.baselines import Field
    from apps.nas.rewards import Queries
    from apps.nas.rewards import load as load_reward

    if out is not None:
        outputs.file(out)
    model = load(name)
    queries = Queries(load_reward(reward, model.space, folder))
    price = load_reward(cost, model.space, folder)
    front, _ = fronts.search(model, queries, price, Field(model.space, asked, seed), budget)
    rows = [{"cell": str(Cell.of(model.space, x)), reward: float(v[0]), cost: -float(v[1])}
            for x, v in zip(front.x.tolist(), front.values, strict=True)]  # fmt: skip
    failed = {"failed": queries.failed} if queries.failed else {}
    found = {"front": len(rows), "queries": queries.unique, **failed}
    if out is None:
        return found | {"cells": rows}
    outputs.save(out, json.dumps(rows, indent=1) + "\n")
    return found | {"out": str(out)}


def table(folder: Path, part: str, limit: int, out: Path | None) -> dict[str, Any]:
    """Train what is missing of our own benchmark; with `out`, join the parts into one file instead."""
    from apps.nas import table as tables

    if out is not None:
        return {**tables.merge(folder, outputs.file(out)), "out": str(out)}
    first, slash, parts = part.partition("/")
    if not (slash and first.isdigit() and parts.isdigit() and int(parts)):
        raise UsageError("must be I/N, as 0/2 and 1/2 for two processes", field="part", value=part)
    return dict(tables.compute(folder, int(first), int(parts), limit))


def demo(folder: Path) -> list[Section]:
    """Run the app's main job on embedded data."""
    from apps.nas.demo import sections

    return sections(folder)
