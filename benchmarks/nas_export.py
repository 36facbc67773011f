"""Runs anywhere: string, graph, module, exported program, stand-alone file."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import networkx as nx
import torch

from apps.nas.cell import Cell, resources
from apps.nas.data import uniform
from apps.nas.export import network, source
from apps.nas.space import load
from apps.nas.tokenizer import from_string
from benchmarks._nas import single
from benchmarks.harness import Bar, Result

SMALL = {"channels": 4, "cells": 1, "stages": 2}


def namespace(text: str) -> Any:
    """Return a stand-alone file as a module of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "alone.py")
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("alone", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def check(cell: Cell, program: bool) -> tuple[float, bool, bool]:
    """Return the greatest difference of outputs, whether the parameters are as computed, and the graph a DAG."""
    again = from_string(cell.space, str(cell))
    torch.manual_seed(0)
    net = network(again, **SMALL).eval()
    x = torch.randn(2, 3, 8, 8)
    alone = namespace(source(cell, **SMALL)).model().eval()
    alone.load_state_dict(net.state_dict())
    with torch.no_grad():
        y = net(x)
        gap = float((alone(x) - y).abs().max())
        if program:
            gap = max(gap, float((torch.export.export(net, (x,)).module()(x) - y).abs().max()))
    params = sum(p.numel() for p in net.parameters()) == resources(cell, **SMALL)[0]
    graph = cell.to_networkx()
    return gap, params, again == cell and nx.is_directed_acyclic_graph(graph) and len(graph.edges) == len(cell.edges)


def run(full: bool) -> Result:
    """Take 1,000 random cells of each space through everything; torch.export on 1,000 with --full, else on 25."""
    single()
    figures, bars, n, few = {}, [], 1000, 1000 if full else 25
    for name in ("nb201", "nb101", "chain"):
        space = load(name)
        rows = uniform(space, n, 0).tolist()
        found = [check(Cell.of(space, row), i < few) for i, row in enumerate(rows)]
        figures[name] = {"gap": max(f[0] for f in found), "parameters": sum(f[1] for f in found),
                         "round trips": sum(f[2] for f in found), "programs": few}  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "cell.py").write_text(source(Cell.of(space, rows[0])))
            done = subprocess.run([sys.executable, "-I", "cell.py"], cwd=folder, capture_output=True)
        figures[name]["alone"] = done.returncode
        bars += [
            Bar(f"{name}: greatest difference of outputs", figures[name]["gap"], "<=", 1e-5),
            Bar(f"{name}: parameters equal to the closed form", figures[name]["parameters"], "==", n),
            Bar(f"{name}: round trips through text and graph", figures[name]["round trips"], "==", n),
            Bar(f"{name}: exit code of the stand-alone file without this project", done.returncode, "==", 0),
        ]
    return Result(figures, bars, notes="torch.export on the first 25 cells of each space; on all with --full.")
