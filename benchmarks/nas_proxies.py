"""Zero-cost proxies beside their controls: rank correlation with the real test accuracy of NAS-Bench-201.

No bar: the table says whether a proxy is worth its name. Cells are a random sample of the classes that connect; each
proxy sees one batch of digits through the small network of our own table, parameters and FLOPs see nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from apps.nas.cell import Cell
from apps.nas.constraints import admissible
from apps.nas.proxies import PROXIES, spearman
from apps.nas.rewards import load
from benchmarks._nas import COLUMNS, NB201, single, table
from benchmarks.harness import Result


def run(full: bool) -> Result:
    """Score the sample by every proxy and control."""
    single()
    classes = {Cell.of(NB201, row).key: row for row in admissible(NB201, ()).tolist()}
    rows = [classes[k] for k in sorted(classes)]
    take = np.random.default_rng(201).permutation(len(rows))[: 1000 if full else 250]
    x = torch.tensor([rows[k] for k in take])
    truth = {key: table(column).score(x).tolist() for key, column in COLUMNS.items()}
    figures = {}
    for name in (*(f"proxy:{kind}" for kind in PROXIES), "params", "flops"):
        values = load(name, NB201).score(x).tolist()
        figures[name] = {key: spearman(values, found) for key, found in truth.items()}
    notes = f"{len(x)} classes of cells; Spearman. params and flops are the controls."
    return Result(figures, [], notes=notes)
