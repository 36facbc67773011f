"""Spaces, cells, their classes, networks and files."""

import itertools
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

from apps.nas import export
from apps.nas.cell import Cell, resources
from apps.nas.constraints import everything
from apps.nas.data import uniform
from apps.nas.modules import build
from apps.nas.rewards import columns
from apps.nas.space import load, make
from apps.nas.table import COLUMNS, GROUP, compute, merge, read, unique
from apps.nas.tokenizer import from_string
from core.errors import DataError, UsageError

REAL = Path("../shared/data/nas")
MINE = {
    "name": "mine", "place": "nodes", "nodes": 5, "operations": ["nor_conv_3x3", "skip_connect"], "in_degree": [1, 2],
    "connected": "all", "fixed": {"1": "nor_conv_3x3"},
}  # fmt: skip


def sample(name: str, n: int = 40) -> list[Cell]:
    space = make(MINE) if name == "mine" else load(name)
    return [Cell.of(space, row) for row in uniform(space, n, 3).tolist()]


@pytest.mark.parametrize("name", ["nb201", "nb101", "nb101-5", "chain", "mine"])
def test_text_round_trips_and_parameters_are_the_closed_form(name: str) -> None:
    for cell in sample(name, 12):
        assert from_string(cell.space, str(cell)) == cell
        net = build(cell.literal(), channels=8, cells=1, stages=2)
        assert resources(cell, channels=8, cells=1, stages=2)[0] == sum(p.numel() for p in net.parameters())
        assert net.eval()(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
        graph = cell.to_networkx()
        assert nx.is_directed_acyclic_graph(graph) and nx.has_path(graph, 0, cell.space.nodes - 1)


def test_classes_of_graphs_are_isomorphism_classes() -> None:
    cells = sample("nb101-5", 60)
    graphs = []
    for cell in cells:
        graph = nx.DiGraph([(i, j) for i, j, _ in cell.edges])
        nx.set_node_attributes(graph, {j: {"op": cell.to_networkx().nodes[j]["op"]} for j in graph})
        graphs.append(graph)
    match = nx.algorithms.isomorphism.categorical_node_match("op", "")
    for a, b in itertools.combinations(range(len(cells)), 2):
        assert (cells[a].key == cells[b].key) == nx.is_isomorphic(graphs[a], graphs[b], node_match=match)


def test_number_of_classes() -> None:
    assert len(unique(load("nb101-5"))) == 1 + 6 + 84 + 2441
    assert len(everything(load("nb201"))) == 15284


@pytest.mark.skipif(not REAL.is_dir(), reason="the real NAS-Bench-201 files are not here")
def test_classes_and_costs_agree_with_the_benchmark() -> None:
    space, found = load("nb201"), {}
    for code, row in itertools.islice(columns("nb201").items(), 0, None, 3):
        cell = from_string(space, code)
        assert found.setdefault(row["iso"], cell.key) == cell.key  # what the benchmark calls equal is equal here
        params, flops = resources(cell)
        assert params == round(float(row["params_M"]) * 1e6) and flops == round(float(row["flops_M"]) * 1e6)


def test_sums_are_equal_in_any_order_and_nothing_is_nothing() -> None:
    space = load("nb201")
    assert from_string(space, "310000").key == from_string(space, "300000").key == "0"
    a, b = from_string(space, "301210"), from_string(space, "301210")
    assert a.key == b.key
    assert from_string(space, "230310").key != from_string(space, "320310").key
    assert from_string(space, "000300").key == from_string(space, "100030").key


@pytest.mark.parametrize("change, field", [
    ({"place": "leaves"}, "place"), ({"operations": ["conv"]}, "operations"), ({"nodes": 1}, "nodes"),
    ({"fixed": {"9": "skip_connect"}}, "fixed"), ({"colour": 1}, "space"), ({"in_degree": [3, 1]}, "in_degree"),
])  # fmt: skip
def test_a_malformed_space_names_the_field(change: dict, field: str) -> None:
    with pytest.raises(UsageError) as error:
        make({**MINE, **change})
    assert error.value.field == field


def test_text_that_is_no_cell_is_refused() -> None:
    with pytest.raises(UsageError):
        from_string(load("nb201"), "|conv~0|")
    with pytest.raises(UsageError):
        from_string(load("nb101"), "a,b;0-1")


def test_exported_file_runs_alone_and_program_agrees(tmp_path: Path) -> None:
    cell = from_string(load("nb201"), "333132")
    export.write(cell, tmp_path / "cell.py")
    done = subprocess.run([sys.executable, "-I", "cell.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == str(resources(cell)[0])
    net = export.network(cell, channels=4, cells=1).eval()
    x = torch.randn(1, 3, 32, 32)
    program = torch.export.export(net, (x,))
    assert torch.allclose(program.module()(x), net(x), atol=1e-5)
    for suffix in (".dot", ".json", ".png", ".txt"):
        export.write(cell, tmp_path / f"c{suffix}")
    assert (tmp_path / "c.dot").read_text().startswith("digraph")
    with pytest.raises(UsageError):
        export.write(cell, tmp_path / "c.gif")


def test_table_resumes_where_a_crash_cut_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apps.nas import digits

    def quick(cells: list[Cell], seed: int) -> list[digits.Score]:
        return [digits.Score(float(len(cell.edges)), 1.0, 2.0, 3.0, 4.0, 5.0, 0.0) for cell in cells]

    monkeypatch.setattr(digits, "train_all", quick)
    assert compute(tmp_path, limit=3)["trained"] == GROUP
    path = tmp_path / "part-0.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert len(read(path)) == GROUP - 1
    assert compute(tmp_path, limit=1)["trained"] == 1
    assert path.read_bytes() == whole
    compute(tmp_path, part=1, parts=2, limit=2)
    assert merge(tmp_path, tmp_path / "t.csv.gz")["rows"] == len(read(tmp_path / "t.csv.gz"))
    first = (tmp_path / "t.csv.gz").read_bytes()
    merge(tmp_path, tmp_path / "t.csv.gz")
    assert (tmp_path / "t.csv.gz").read_bytes() == first
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError):
        read(tmp_path / "bad.csv")
    assert COLUMNS[0] == "space"


def test_training_is_deterministic_for_cell_and_seed() -> None:
    from dataclasses import replace

    from apps.nas.digits import train

    torch.set_num_threads(1)
    cell = from_string(load("nb201"), "000300")
    a, b, c = (replace(train(cell, s, epochs=1), seconds=0.0) for s in (0, 0, 1))
    assert a == b and a != c and np.isfinite(a.valid_loss)


@pytest.mark.parametrize("name", ["nb201", "nb101-5"])
def test_a_cell_trained_in_a_group_is_the_cell_trained_alone(name: str) -> None:
    from apps.nas.digits import network
    from apps.nas.lockstep import Lockstep

    torch.set_num_threads(1)
    cells = sample(name, 6) + ([from_string(load(name), c) for c in ("000000", "330000")] if name == "nb201" else [])
    nets = [network(c, 0).double() for c in cells]
    group = Lockstep(nets, 8)
    kind = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    together, apart = (
        torch.optim.SGD(group.parameters(), **kind),
        [torch.optim.SGD(n.parameters(), **kind) for n in nets],
    )
    x, y = torch.randn(4, 12, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (4, 12))
    for k in range(4):
        found = group(x[k])
        alone = torch.stack([net(x[k]) for net in nets])
        assert torch.allclose(found, alone, atol=1e-12)
        for out, optimisers in ((found, [together]), (alone, apart)):
            for sgd in optimisers:
                sgd.zero_grad()
            torch.nn.functional.cross_entropy(out.flatten(0, 1), y[k].repeat(len(nets)), reduction="sum").backward()
            for sgd in optimisers:
                sgd.step()
    alone = torch.stack([net.eval()(x[0]) for net in nets])
    assert torch.allclose(group.eval()(x[0]), alone, atol=1e-12)


@pytest.mark.slow
def test_rows_of_the_table_are_what_training_gives() -> None:
    from apps.nas.digits import train_all
    from apps.nas.rewards import digits_table
    from apps.nas.table import work

    path = digits_table()
    parts = [path] if path.is_file() else sorted(path.glob("part-*.csv"))
    known = {(r.space, r.cell, r.seed): r for part in parts for r in read(part)}
    groups = [(c, s) for c, s in work() if all((x.space.name, str(x), s) in known for x in c)]
    if not groups:
        pytest.skip("the digits table has no whole group yet")
    torch.set_num_threads(1)
    cells, seed = groups[0]
    for cell, score in zip(cells, train_all(cells, seed), strict=True):
        row = known[cell.space.name, str(cell), seed]
        assert abs(score.valid - row.valid) < 3 and abs(score.valid_loss - row.valid_loss) < 0.06, str(cell)


def test_onnx_computes_what_the_module_does(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    text = "|nor_conv_1x1~0|+|avg_pool_3x3~0|none~1|+|skip_connect~0|none~1|none~2|"
    cell, out = from_string(load("nb201"), text), tmp_path / "cell.onnx"
    torch.manual_seed(0)
    export.write(cell, out)
    torch.manual_seed(0)
    net, x = export.network(cell).eval(), torch.randn(3, 3, 32, 32)
    (logits,) = reference.ReferenceEvaluator(str(out)).run(None, {"images": x.numpy()})
    assert list(tmp_path.iterdir()) == [out], "weights inside, one file"
    assert torch.allclose(torch.from_numpy(logits), net(x), atol=1e-4)


def test_a_program_takes_any_number_of_images(tmp_path: Path) -> None:
    cell, out = from_string(load("nb201"), "333132"), tmp_path / "cell.pt2"
    torch.manual_seed(0)
    net = export.network(cell).eval()
    torch.manual_seed(0)
    export.write(cell, out)
    program = torch.export.load(out).module()
    for count in (1, 2, 5):
        images = torch.randn(count, 3, 32, 32)
        torch.testing.assert_close(program(images), net(images))
