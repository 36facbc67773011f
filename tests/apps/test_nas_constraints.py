"""Limits against enumeration: the law admits exactly the cells that obey, and refuses what none can."""

import itertools
from functools import lru_cache

import networkx as nx
import numpy as np
import pytest
import torch

from apps.nas.cell import Cell, resources
from apps.nas.constraints import (
    Depth,
    Edges,
    Fix,
    Forbid,
    Limit,
    Listed,
    Require,
    admissible,
    compile_,
    violations,
)  # fmt: skip
from apps.nas.data import uniform, window
from apps.nas.space import Space, load, make
from apps.nas.verbs import wishes
from core.errors import InfeasibleError, UsageError
from core.noise import Stream

CONVS = ("nor_conv_1x1", "nor_conv_3x3")
SMALL = make({"name": "small", "place": "nodes", "nodes": 4, "operations": ["nor_conv_3x3", "max_pool_3x3"],
              "optional": True, "connected": "all", "max_edges": 4})  # fmt: skip


def every(space: Space) -> list[Cell]:
    return [Cell(space, x) for x in itertools.product(*(range(len(v.values)) for v in space.variables))]


def longest(cell: Cell, counted: tuple[str, ...]) -> int:
    graph, last = nx.DiGraph(), cell.space.nodes - 1
    graph.add_nodes_from(range(last + 1))
    for i, j, op in cell.edges:
        weight = op in counted if op else j < last and cell.ops[j - 1] in counted
        graph.add_edge(i, j, w=int(weight))
    keep = {0, *nx.descendants(graph, 0)} & {last, *nx.ancestors(graph, last)}
    return nx.dag_longest_path_length(graph.subgraph(keep), weight="w", default_weight=0) if last in keep else -1


def connected(cell: Cell) -> bool:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(cell.space.nodes))
    graph.add_edges_from((i, j) for i, j, _ in cell.edges)
    return nx.has_path(graph, 0, cell.space.nodes - 1)


NB201 = load("nb201")
CASES = [
    ([], lambda c: True),
    ([Limit("params", 0.4e6)], lambda c: resources(c)[0] <= 0.4e6),
    ([Limit("flops", 60e6, 40e6)], lambda c: 40e6 <= resources(c)[1] <= 60e6),
    ([Forbid("nor_conv_3x3")], lambda c: "nor_conv_3x3" not in c.words.values()),
    ([Require("avg_pool_3x3", 2, 3)], lambda c: 2 <= list(c.words.values()).count("avg_pool_3x3") <= 3),
    ([Depth(3, 3, CONVS)], lambda c: longest(c, CONVS) == 3),
    ([Depth(1, 1, CONVS), Edges(0, 3)], lambda c: longest(c, CONVS) == 1 and len(c.edges) <= 3),
    ([Fix("0-3", "skip_connect"), Fix("1-2", "none")], lambda c: c.x[3] == 1 and c.x[2] == 0),
]


@pytest.mark.parametrize("wishes, obeys", CASES)
def test_law_is_the_enumeration_on_edges(wishes: list, obeys) -> None:  # noqa: ANN001
    found = {tuple(row) for row in admissible(NB201, wishes).tolist()}
    for cell, joined in judged():
        assert (cell.x in found) == (joined and obeys(cell)), str(cell)


@lru_cache(maxsize=1)
def judged() -> list[tuple[Cell, bool]]:
    """Return every seventh cell (prime to the alphabet's five) and whether it connects input and output."""
    return [(c, connected(c)) for c in every(NB201)[::7]]


def test_law_is_the_enumeration_on_nodes() -> None:
    def valid(cell: Cell) -> bool:
        present = [op != "absent" for op in cell.ops]
        graph = nx.DiGraph([(i, j) for i, j, _ in cell.edges])
        nodes = {0, 3, *(j for j, p in enumerate(present, 1) if p)}
        if present != sorted(present, reverse=True) or set(graph) != nodes or len(cell.edges) > 4:
            return False
        return nodes == ({0, *nx.descendants(graph, 0)} & {3, *nx.ancestors(graph, 3)})

    cells = [c for c in every(SMALL) if valid(c)]
    assert {tuple(r) for r in admissible(SMALL).tolist()} == {c.x for c in cells}
    convs = ("nor_conv_3x3",)
    deep = {c.x for c in cells if longest(c, convs) == 1}
    assert {tuple(r) for r in admissible(SMALL, [Depth(1, 1, convs)]).tolist()} == deep


def test_draws_are_uniform_over_valid_cells() -> None:
    x = uniform(SMALL, 40 * 64, 0)
    codes, counts = np.unique(x.numpy(), axis=0, return_counts=True)
    n = len(admissible(SMALL))
    assert len(codes) == n
    expected = len(x) / n
    assert ((counts - expected) ** 2 / expected).sum() < n + 5 * np.sqrt(2 * n)


def test_infilling_keeps_what_is_given_and_sampling_follows_the_prediction() -> None:
    wishes = [Limit("params", 0.4e6), Require("avg_pool_3x3")]
    cells = admissible(NB201, wishes)
    log_p = torch.log_softmax(torch.randn(NB201.D, NB201.K, generator=torch.Generator().manual_seed(1)).double(), -1)
    weight = np.exp(log_p.numpy()[np.arange(NB201.D), cells].sum(1))
    n = 20000
    u = Stream.of(0, n).uniform(NB201.D)
    unknown = torch.full((n, NB201.D), -1)
    law = window(compile_(NB201, wishes), n)
    x = law.admit(log_p.expand(n, -1, -1), unknown, unknown < 0, u).numpy()
    top = np.argsort(-weight)[:20]
    share = np.array([(x == cells[i]).all(1).mean() for i in top])
    exact = weight[top] / weight.sum()
    assert (np.abs(share - exact) < 5 * np.sqrt(exact / n)).all()
    known = unknown.clone()
    known[:, 0] = 4
    filled = law.admit(log_p.expand(n, -1, -1), known, known < 0, u)
    assert bool((filled[:, 0] == 4).all())
    assert not any(violations(Cell.of(NB201, row), wishes) for row in filled[:50].tolist())


@pytest.mark.parametrize("wishes, words", [
    ([Limit("params", 70000)], "73,306"), ([Depth(4, 9)], "0 to 3"),
    ([Forbid("nor_conv_3x3"), Limit("params", 9e9, 1e6)], "reaches from"),
    ([Require("nor_conv_1x1", 4), Require("nor_conv_3x3", 4)], "0 to 2"),
])  # fmt: skip
def test_what_no_cell_can_obey_is_refused_with_the_nearest_value(wishes: list, words: str) -> None:
    with pytest.raises(InfeasibleError, match=words):
        compile_(NB201, wishes)


def test_limits_in_millions_admit_the_value_that_they_name() -> None:
    costs = {resources(c)[k] for c in every(NB201)[::7] for k in (0, 1)} | {65_574_592, 158_328_832, 82_351_808}
    for cost in costs:
        for limit in (*wishes(max_params=float(f"{cost / 1e6}")), *wishes(max_flops=float(f"{cost / 1e6}"))):
            assert isinstance(limit, Limit) and cost <= limit.high < cost + 1
    dense = Cell.of(NB201, [2, 2, 2, 2, 2, 3])
    assert resources(dense)[1] == 65_574_592 and violations(dense, wishes(max_flops=65.574592)) == []
    assert violations(dense, wishes(max_flops=65.574591))


LOOSE = {"name": "loose", "place": "nodes", "nodes": 4, "operations": ["nor_conv_3x3", "max_pool_3x3"]}


@pytest.mark.parametrize("more", [
    {"connected": "path"}, {"connected": "no"}, {"connected": "path", "optional": True},
    {"connected": "path", "edges": [[0, 1], [1, 3], [0, 2]], "free_edges": False},
    {"connected": "no", "edges": [[0, 1], [0, 2]], "free_edges": False}, {"edges": "chain"},
])  # fmt: skip
def test_nodes_off_every_path_count_for_nothing(more: dict) -> None:
    space = make(LOOSE | more | {"costs": {"energy": {"nor_conv_3x3": 5, "base": 1}}})
    cells = [Cell.of(space, row) for row in admissible(space).tolist()]
    convs = [c.literal()["ops"].count("nor_conv_3x3") for c in cells]
    sizes = [resources(c)[0] for c in cells]

    def obey(wish: Limit | Require) -> set[tuple[int, ...]]:
        return {tuple(row) for row in admissible(space, [wish]).tolist()}

    for most in range(max(convs) + 1):
        assert obey(Require("nor_conv_3x3", 0, most)) == {c.x for c, n in zip(cells, convs, strict=True) if n <= most}
        assert obey(Require("nor_conv_3x3", most)) == {c.x for c, n in zip(cells, convs, strict=True) if n >= most}
        if space.given:
            wish = Limit("energy", 1 + 5 * most)
            assert obey(wish) == {c.x for c, n in zip(cells, convs, strict=True) if n <= most}
    for most in set(sizes):
        assert obey(Limit("params", most)) == {c.x for c, n in zip(cells, sizes, strict=True) if n <= most}
    with pytest.raises(InfeasibleError, match=f"reaches from 0 to {max(convs)}"):
        compile_(space, [Require("nor_conv_3x3", max(convs) + 1)])


def test_given_edges_count() -> None:
    chain = load("chain")
    assert violations(Cell.of(chain, [1] * chain.D), [Edges(9, 9)]) == []
    with pytest.raises(InfeasibleError, match="edges reaches from 9 to 9"):
        compile_(chain, [Edges(0, 3)])


def test_wrong_words_are_refused() -> None:
    for wish in (Forbid("conv"), Fix("7-8", "none"), Fix("0-1", "x"), Limit("watts", 1)):
        with pytest.raises(UsageError):
            compile_(NB201, [wish])


def test_a_list_is_a_law() -> None:
    x = admissible(NB201)[::100]
    assert (admissible(NB201, [Listed(x)]) == x[np.lexsort(x.T[::-1])]).all()
