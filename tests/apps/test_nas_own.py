"""Spaces, tables and images of the user: what is legitimate works, what is not is one line."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.nas import images, rewards
from apps.nas.cell import Cell, canonical_graph, resources
from apps.nas.constraints import Require, additive, everything, violations
from apps.nas.modules import build
from apps.nas.rewards import FOLDER
from apps.nas.space import Space, load, make
from apps.nas.tokenizer import from_string
from apps.nas.training import settings
from core.errors import UsageError

NB201 = load("nb201")


@pytest.mark.parametrize("size", [(9, 9), (15, 10), (50, 50)])
def test_images_of_any_size_pass_the_stages(tmp_path: Path, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(24, *size)), y=np.arange(24) % 2)
    data = images.load(str(tmp_path / "own.npz"))
    net = build(Cell.of(NB201, [3] * 6).literal(), **settings(data)).eval()
    assert net(data.x[:2]).shape == (2, 2)
    assert torch.isfinite(net(data.x[:2])).all()


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
    ("fixed: [1]", "malformed"), ("alphabets: {1: []}", r"alphabets.1: leaves no value"),
    ("costs: {energy: 3}", "malformed"),
    ("costs: {energy: {nor_conv_3x3: 0.5}}", r"costs.energy.nor_conv_3x3: must be a whole number"),
    ("costs: {energy: {nor_conv_3x4: 5}}", "did you mean 'nor_conv_3x3'"),
])  # fmt: skip
def test_malformed_spaces_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        yaml(tmp_path, text)


def test_a_space_without_variables_is_refused() -> None:
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


def test_every_operation_on_an_edge_is_part_of_the_network() -> None:
    dead, none = Cell.of(NB201, [3, 0, 0, 1, 0, 0]), Cell.of(NB201, [0, 0, 0, 1, 0, 0])  # 0-1 leads nowhere
    assert dead.key == none.key and resources(dead)[0] > resources(none)[0]
    assert sum(p.numel() for p in build(dead.literal()).parameters()) == resources(dead)[0]
    assert not violations(dead, [Require("nor_conv_3x3")]) and violations(none, [Require("nor_conv_3x3")])
