"""The graph transformer: directions, symmetry, positions."""

import networkx as nx
import pytest
import torch

from core.errors import UsageError
from core.nn.graph_transformer import GraphTransformer, depths


def test_heads_that_do_not_divide_the_width_are_one_line() -> None:
    with pytest.raises(UsageError, match="^heads: does not divide the width evenly; got 5; dim is 16"):
        GraphTransformer(5, 4, 3, 4, 2, dim=16, heads=5)


def net(directed: bool) -> GraphTransformer:
    torch.manual_seed(0)
    return GraphTransformer(5, 4, 3, 4, 2, dim=16, edge_dim=8, layers=2, heads=2, directed=directed).double()


def graphs(b: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randint(4, (b, 5), generator=g), torch.randint(3, (b, 5, 5), generator=g), torch.rand(b, generator=g)


def test_only_the_upper_triangle_is_read_and_rows_do_not_mix() -> None:
    x, e, t = graphs()
    for directed in (True, False):
        model = net(directed)
        nodes, pairs = model(x, e, t)
        assert nodes.shape == (3, 5, 4) and pairs.shape == (3, 5, 5, 2)
        again = model(x, e + torch.ones(5, 5, dtype=torch.long).tril(), t)
        assert torch.equal(nodes, again[0])
        one = model(x[1:2], e[1:2], t[1:2])
        assert torch.allclose(one[0], nodes[1:2], atol=1e-12)


def test_the_symmetric_form_cannot_tell_the_ends_of_a_pair() -> None:
    x, e, t = graphs()
    pairs = net(False)(x, e, t)[1]
    assert torch.allclose(pairs, pairs.transpose(1, 2), atol=1e-12)
    pairs = net(True)(x, e, t)[1]
    assert not torch.allclose(pairs, pairs.transpose(1, 2), atol=1e-3)


def test_reversing_the_order_permutes_the_symmetric_form_only() -> None:
    x, e, t = graphs()
    flip = torch.arange(4, -1, -1)
    turned = e.triu(1)
    turned = (turned + turned.transpose(1, 2))[:, flip][:, :, flip]
    for directed in (True, False):
        model = net(directed)
        model.sines.zero_()
        same = torch.allclose(model(x, e, t)[0][:, flip], model(x[:, flip], turned, t)[0], atol=1e-10)
        assert same != directed


def test_depth_is_the_longest_path_and_parameters_agree() -> None:
    known = torch.randint(2, (20, 6, 6), generator=torch.Generator().manual_seed(2)).triu(1)
    for adjacency, found in zip(known, depths(known), strict=True):
        graph = nx.DiGraph([(i, j) for i, j in adjacency.nonzero().tolist()])
        graph.add_nodes_from(range(6))
        for j in range(6):
            before = graph.subgraph({j, *nx.ancestors(graph, j)})
            assert int(found[j]) == nx.dag_longest_path_length(before)
    count = [sum(p.numel() for p in net(d).parameters()) for d in (True, False)]
    assert count[0] - count[1] == 2 * 5 * 16
