"""Spaces, tables and images of the user: what is legitimate works, what is not is one line."""

import itertools
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from apps.nas import cell, images, rewards
from apps.nas.cell import Cell, canonical_graph, resources
from apps.nas.constraints import Require, additive, everything, violations
from apps.nas.generate import CellModel, restore
from apps.nas.modules import build
from apps.nas.rewards import FOLDER
from apps.nas.space import Space, load, make
from apps.nas.task import make as make_task
from apps.nas.tokenizer import from_string
from apps.nas.training import Training, settings
from core.errors import DataError, UsageError
from core.run.config import load_recipe

NB201 = load("nb201")


@pytest.mark.parametrize("size", [(9, 9), (15, 10), (50, 50)])
def test_images_of_any_size_pass_the_stages(tmp_path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(24, *size)), y=np.arange(24) % 2)
    data = images.load(str(tmp_path / "own.npz"))
    net = build(Cell.of(NB201, [3] * 6).literal(), **settings(data)).eval()
    assert net(data.x[:2]).shape == (2, 2)
    assert torch.isfinite(net(data.x[:2])).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_that_come_last_are_said(tmp_path: Path, channels: int) -> None:
    y = np.arange(24) % 2
    np.savez(tmp_path / "own.npz", x=np.zeros((24, 8, 9, channels)), y=y)
    with pytest.raises(DataError, match="channels last.*moveaxis"):
        images.load(str(tmp_path / "own.npz"))
    np.savez(tmp_path / "first.npz", x=np.moveaxis(np.zeros((24, 8, 9, channels)), 3, 1), y=y)
    assert images.load(str(tmp_path / "first.npz")).x.shape == (24, channels, 8, 9)


def test_images_may_lie_in_a_folder_whose_name_ends_in_a_digit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in "ab":
        (tmp_path / "pics2" / kind).mkdir(parents=True)
        for n in range(10):
            picture = Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8))
            picture.save(tmp_path / "pics2" / kind / f"{n}.png")
    for name, epochs in ((f"train:{tmp_path}/pics2", 30), (f"train:{tmp_path}/pics2:3", 3)):
        found = rewards.load(name, NB201)
        assert isinstance(found, Training) and (found.data, found.epochs) == (f"{tmp_path}/pics2", epochs)
    with pytest.raises(UsageError, match="number of epochs"):
        rewards.load(f"train:{tmp_path}/pics2:x3", NB201)


def yaml(folder: Path, text: str) -> Space:
    (folder / "own.yaml").write_text(
        f"name: own\nplace: nodes\nnodes: 5\noperations: [nor_conv_3x3, skip_connect]\n{text}\n"
    )
    return load(folder / "own.yaml")


def test_yes_and_no_of_yaml_are_the_words_of_a_space(tmp_path: Path) -> None:
    assert yaml(tmp_path, "connected: no").connected == "no"
    found = yaml(tmp_path, "fixed: {0-1: yes, 1: skip_connect}\nalphabets: {0-4: [no]}\ncosts: {wires: {yes: 2}}")
    x = everything(found)
    assert np.all(x[:, found.index["0-1"]] == 1) and np.all(x[:, found.index["1"]] == 1)
    assert not x[:, found.index["0-4"]].any()
    added = additive(found, "wires", {})
    assert added is not None and int(added[0][found.index["0-1"], 1]) == 2


@pytest.mark.parametrize(("text", "words"), [
    ("edges: [[0, 1, 2]]", "malformed"), ("edges: [0, 1]", "malformed"), ("edges: nowhere", "edges: not a valid"),
    ("max_edges: many", "max_edges: must be"), ("max_edges: -1", "max_edges: must be"),
    ("max_edges: 4.5", "max_edges: must be"), ("optional: maybe", "optional: must be true or false"),
    ("in_degree: [0.5, 2]", "in_degree: needs whole"), ("in_degree: [2, 1]", "in_degree: needs whole"),
    ("optional: true\nfree_edges: false", "optional: needs"), ("alphabets: {1: skip_connect}", "must be a list"),
    ("fixed: [1]", "malformed"), ("alphabets: {1: []}", r"alphabets.1: leaves no value"),
    ("costs: {energy: 3}", "malformed"),
    ("costs: {energy: {nor_conv_3x3: 0.5}}", r"costs.energy.nor_conv_3x3: must be a whole number"),
    ("costs: {energy: {nor_conv_3x4: 5}}", "did you mean 'nor_conv_3x3'"),
])  # fmt: skip
def test_malformed_spaces_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        yaml(tmp_path, text)


def test_a_space_without_variables_is_refused() -> None:
    with pytest.raises(UsageError, match="operations: must be a list"):
        make({"name": "own", "place": "nodes", "nodes": 4, "operations": "skip_connect"})
    with pytest.raises(UsageError, match="leave nothing to choose"):
        make({"name": "own", "place": "nodes", "nodes": 2, "operations": ["skip_connect"], "edges": "chain"})


def test_measured_values_are_of_the_space_that_ships_and_no_other_of_its_name() -> None:
    fewer = make({"name": "nb201", "place": "edges", "nodes": 4, "operations": list(NB201.operations[1:])})
    for reward in ("digits:valid", "nb201:c10_test_200", "hw:c10_raspi4_latency"):
        if reward[0] != "d" and not (Path(FOLDER) / "nb201_main.csv.gz").is_file():
            continue
        with pytest.raises(UsageError, match="is about the space nb201.*has other operations"):
            rewards.load(reward, fewer)
    narrow = make({"name": "nb201", "place": "edges", "nodes": 4, "operations": list(NB201.operations),
                   "fixed": {"0-1": "skip_connect"}})  # fmt: skip
    x = torch.tensor([[1, 3, 3, 3, 3, 3]])
    assert rewards.load("digits:valid", narrow).score(x) == rewards.load("digits:valid", NB201).score(x)
    summed = replace(load("nb101-5"), merge="sum")
    with pytest.raises(UsageError, match="is about the space nb101-5"):
        rewards.load("digits:valid", summed)


def test_classes_of_wide_cells_are_found_at_once() -> None:
    n = 14  # 12 equal branches, which change places in 479 million ways
    pairs = [[0, j] for j in range(1, n - 1)] + [[j, n - 1] for j in range(1, n - 1)]
    space = make({"name": "wide", "place": "nodes", "nodes": n, "operations": ["skip_connect", "avg_pool_3x3"],
                  "edges": pairs, "free_edges": False})  # fmt: skip
    keys = {Cell.of(space, [0] * a + [1] * (12 - a)).key for a in range(13)}
    assert len(keys) == 13 and Cell.of(space, [1, 0] * 6).key in keys


def test_the_least_code_is_that_of_all_orders() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = int(rng.integers(3, 7))
        arcs = tuple((i, j) for j in range(n) for i in range(j) if rng.random() < 0.5)
        labels = ("in", *rng.choice(["a", "b"], n - 2).tolist(), "out")
        key = canonical_graph(labels, arcs)
        shown, best = key.split(";")
        codes = []
        for place in itertools.permutations(range(n)):
            if all(shown.split(",")[place[v]] == labels[v] for v in range(n)):
                codes.append(" ".join(f"{a}-{b}" for a, b in sorted((place[i], place[j]) for i, j in arcs)))
        assert best in codes
        turn = [0, *(1 + rng.permutation(n - 2)).tolist(), n - 1]
        moved = tuple(labels[turn.index(v)] for v in range(n))
        assert canonical_graph(moved, tuple((turn[i], turn[j]) for i, j in arcs)) == key


def test_text_of_cells_on_listed_edges_is_read_again() -> None:
    space = make({"name": "own", "place": "edges", "nodes": 5, "operations": ["none", "nor_conv_3x3", "skip_connect"],
                  "edges": [[0, 1], [1, 4], [0, 3], [3, 4]]})  # fmt: skip
    for row in everything(space).tolist():
        assert from_string(space, str(Cell.of(space, row))) == Cell.of(space, row)
    for text in ("|none~0|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|", "\u00b2" * 6):
        with pytest.raises(UsageError, match="cell: "):
            from_string(NB201, text)


@pytest.mark.parametrize("text", [
    "absent,conv3x3-bn-relu,absent;0-1 1-4", "conv3x3-bn-relu,absent,absent;0-1 1-4 0-2", "3130030001000",
])  # fmt: skip
def test_edges_of_absent_nodes_are_refused(text: str) -> None:
    space = load("nb101-5")
    with pytest.raises(UsageError, match="^cell: has an edge of a node that is absent; got '(0-1|0-2)'"):
        from_string(space, text)
    for row in everything(space)[::97].tolist():
        assert from_string(space, "".join(map(str, row))).x == from_string(space, str(Cell.of(space, row))).x


def test_every_operation_on_an_edge_is_part_of_the_network() -> None:
    dead, none = Cell.of(NB201, [3, 0, 0, 1, 0, 0]), Cell.of(NB201, [0, 0, 0, 1, 0, 0])  # 0-1 leads nowhere
    assert dead.key == none.key and resources(dead)[0] > resources(none)[0]
    assert sum(p.numel() for p in build(dead.literal()).parameters()) == resources(dead)[0]
    assert not violations(dead, [Require("nor_conv_3x3")]) and violations(none, [Require("nor_conv_3x3")])


def test_copies_of_copies_have_a_short_key() -> None:
    ops = ["none", "skip_connect", "nor_conv_3x3"]
    space = make({"name": "deep", "place": "edges", "nodes": 40, "operations": ops})
    rng = np.random.default_rng(0)
    once = Cell.of(space, [1] * space.D)  # 2^38 copies of the input
    assert len(once.key) < 40 and once.key == f"{2**38}*x"
    rows = rng.integers(1, 3, (20, space.D))
    keys = {Cell.of(space, row).key for row in rows.tolist()}
    assert len(keys) == 20 and max(map(len, keys)) < 5000
    twin = dict(zip(space.index, rows[0].tolist(), strict=True))  # nodes 1 and 2 change places
    for j in range(3, 40):
        twin[f"1-{j}"], twin[f"2-{j}"] = twin[f"2-{j}"], twin[f"1-{j}"]
    twin |= {"1-2": 0}
    plain = dict(zip(space.index, rows[0].tolist(), strict=True)) | {"1-2": 0}
    twin["0-1"], twin["0-2"] = plain["0-2"], plain["0-1"]
    assert Cell.of(space, list(twin.values())).key == Cell.of(space, list(plain.values())).key


@pytest.mark.parametrize("orders", [-1, 1000])
def test_codes_tell_isomorphic_graphs_from_others(monkeypatch: pytest.MonkeyPatch, orders: int) -> None:
    monkeypatch.setattr(cell, "ORDERS", orders)
    canonical_graph.cache_clear()
    rng, pieces = np.random.default_rng(1), ([(0, 1)], [(0, 1), (1, 2)], [(0, 2), (0, 3), (1, 2), (1, 3)],
                                             [(0, 3), (0, 4), (1, 4), (1, 5), (2, 5), (2, 3)])  # fmt: skip

    def joined(which: np.ndarray) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
        """Return some pieces beside each other, or random arcs, numbered at random."""
        arcs, n = [], 0
        for k in which:
            own = [(i, j) for j in range(5) for i in range(j) if rng.random() < 0.4] if k == 4 else pieces[k]
            arcs += [(i + n, j + n) for i, j in own]
            n += 1 + max([4 * (k == 4), *(j for _, j in own)])
        place = rng.permutation(n).tolist()
        return ("c",) * n, tuple((place[i], place[j]) for i, j in arcs)

    alike = 0
    for _ in range(60):
        which = rng.integers(5, size=rng.integers(1, 3))
        first, other = joined(which), joined(rng.permutation(which))
        graphs = [nx.DiGraph(arcs) for _, arcs in (first, other)]
        for graph, (labels, _) in zip(graphs, (first, other), strict=True):
            graph.add_nodes_from(range(len(labels)))
        same = nx.is_isomorphic(graphs[0], graphs[1])
        assert (canonical_graph(*first) == canonical_graph(*other)) == same
        alike += same
    assert 10 < alike < 60
    canonical_graph.cache_clear()


def test_classes_of_parallel_branches_are_found_at_once() -> None:
    n, pairs = 26, []
    for j in range(1, n - 1, 2):  # 12 branches of two nodes each, in 10^17 orders
        pairs += [[0, j], [j, j + 1], [j + 1, n - 1]]
    space = make({"name": "wide", "place": "nodes", "nodes": n, "operations": ["skip_connect", "avg_pool_3x3"],
                  "edges": pairs, "free_edges": False})  # fmt: skip
    keys = {Cell.of(space, [0, 1] * a + [1, 1] * b + [0, 0] * (12 - a - b)).key for a in range(5) for b in range(5)}
    assert len(keys) == 25
    assert Cell.of(space, [0, 0] * 8 + [0, 1, 1, 1] * 2).key == Cell.of(space, [0, 1] * 2 + [1] * 4 + [0] * 16).key


def flops(net: nn.Module, size: int) -> int:
    """Return what a forward pass costs, counted layer by layer as NAS-Bench-201 does."""
    total = 0

    def count(layer: nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal total
        x = given[0]
        if isinstance(layer, nn.Conv2d):
            total += layer.weight.numel() * out[0, 0].numel()
        elif isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
            total += int(layer.kernel_size) ** 2 * out.numel()  # type: ignore[arg-type]
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            total += x.shape[1] * (x.shape[2] + 1) * (x.shape[3] + 1)
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()
        else:
            total += x.numel() * {nn.BatchNorm2d: 2, nn.ReLU: 1}.get(type(layer), 0)

    for layer in net.modules():
        if not list(layer.children()):
            layer.register_forward_hook(count)  # type: ignore[arg-type]
    net.eval()(torch.zeros(1, 3, size, size))
    return total


@pytest.mark.parametrize("size", [8, 9, 15, 30, 33])
def test_costs_are_those_of_images_of_any_size(size: int) -> None:
    one = Cell.of(NB201, [3, 4, 2, 1, 3, 2])
    found = resources(one, size=size, channels=4, cells=1)
    assert found[1] == flops(build(one.literal(), channels=4, cells=1), size)
    added = additive(NB201, "flops", {"size": size, "channels": 4, "cells": 1})
    assert added is not None and added[0][range(6), one.x].sum() + added[1] == found[1]


def test_outputs_that_would_share_out_too_few_channels_are_refused() -> None:
    text = {"name": "own", "place": "nodes", "nodes": 20, "operations": ["nor_conv_3x3"], "merge": "concat"}
    with pytest.raises(UsageError, match="merge: shares 16 channels among up to 18 nodes.*max_edges"):
        make(text)
    assert make({**text, "merge": "sum"}).widest == 0 and make({**text, "max_edges": 24}).widest == 12
    few = make({**text, "in_degree": [1, 10]})
    assert few.widest == 10 and load("nb101").widest == 4
    rewards.load("train", load("nb101"))
    with pytest.raises(UsageError, match="shares 8 channels among up to 10 nodes"):
        rewards.load("train:3", few)
    star = [[0, j] for j in range(1, 17)] + [[j, 17] for j in range(1, 17)]
    most = make({**text, "nodes": 18, "edges": star, "free_edges": False})
    assert build(Cell.of(most, [0] * 16).literal(), cells=1, stages=1)(torch.zeros(2, 3, 4, 4)).shape == (2, 10)


def test_a_model_keeps_the_cells_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "fixed: {0-1: yes}\nmax_edges: 6\nin_degree: [0, 3]\ncosts: {wires: {yes: 2}}\nedges: [[0, 1], [1, 4], [0, 3]]"
    )
    space = yaml(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("nas", "toy", ["data.space=own.yaml", "data.batch=4", "model.dim=8", "model.edge_dim=4"])
    task = make_task(recipe)
    assert load(recipe.data.space) == space and repr(load(recipe.data.space)) == repr(space)
    model = CellModel(task.module(), recipe, space, task.process)
    saved = model.save(tmp_path / "run", 0, {})
    (tmp_path / "own.yaml").write_text("name: own\nplace: nodes\nnodes: 5\noperations: [avg_pool_3x3, skip_connect]\n")
    again = restore(saved)
    assert again.space == space and [c.x for c in again.sample(3)] == [c.x for c in model.sample(3)]
    make_task(recipe)  # a second time changes nothing
    assert load(recipe.data.space) == space
    assert make_task(load_recipe("nas", "toy", ["data.batch=4"])).recipe.data.space == "nb201"
    with pytest.raises(UsageError, match="space: is no JSON"):
        load("{nodes: 3")
