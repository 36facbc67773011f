"""Many small networks trained at once: the same numbers as one by one, for a fraction of the time.

A training of the digits table is some hundred steps on tensors of 100 x 8 x 8 x 8, where most of the time goes into the
handling of operations and into convolutions too narrow for their kernels. `Lockstep` runs the forward passes of many
networks side by side. Each pass is a generator that says which modules it needs next and on what; equal modules of all
networks (equal but for their weights) become one: a convolution with as many groups, one batch norm, one pooling over
the channels of all. Nothing is shared and nothing mixed: outputs and gradients of a network are those it has alone, up
to the rounding of sums.

An average of 3 x 3 windows is a depthwise sum divided by the number of pixels inside: the same mean, with a faster
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from apps.nas.modules import EdgeCell, Network, NodeCell, Reduction, add

__all__ = ["Lockstep", "stack"]

Job = tuple[nn.Module, Tensor]
Pass = Generator[list[Job], list[Tensor], Tensor]
WIDEST = 8
"""Networks in one convolution; more of them are slower again."""


class Box(nn.Module):
    """The mean of windows of `size` x `size` pixels, as far as they lie inside."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape."""
        c, half = x.shape[1], self.size // 2
        ones = x.new_ones(c, 1, self.size, self.size)
        inside = conv2d(x.new_ones(1, 1, *x.shape[2:]), ones[:1], padding=half)
        return conv2d(x, ones, padding=half, groups=c) * inside.reciprocal()


class Together(nn.Module):
    """Residual reductions side by side."""

    def __init__(self, modules: Sequence[Reduction]) -> None:
        super().__init__()
        self.a, self.b = stack([m.a for m in modules]), stack([m.b for m in modules])
        self.shortcut = stack([m.shortcut for m in modules])

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, n C, H, W] to [B, n 2 C, H / 2, W / 2]."""
        return self.shortcut(x) + self.b(self.a(x.clone()))  # `a` begins with a ReLU in place


def stack(modules: Sequence[nn.Module]) -> nn.Module:
    """Return one module that does to n blocks of channels what n modules of one kind do to one block each."""
    first, n = modules[0], len(modules)
    if isinstance(first, nn.Sequential):
        return nn.Sequential(*(stack(column) for column in zip(*modules, strict=True)))  # type: ignore[arg-type]
    if isinstance(first, Reduction):
        return Together(modules)  # type: ignore[arg-type]
    if isinstance(first, nn.Conv2d):
        kind = {k: getattr(first, k) for k in ("kernel_size", "stride", "padding", "dilation")}
        wide = nn.Conv2d(n * first.in_channels, n * first.out_channels, groups=n * first.groups, bias=False, **kind)
        return _filled(wide, modules)
    if isinstance(first, nn.BatchNorm2d):
        return _filled(nn.BatchNorm2d(n * first.num_features), modules)
    if isinstance(first, nn.ReLU):
        return nn.ReLU(inplace=True)  # of what was just joined, or normalised
    if isinstance(first, nn.AvgPool2d) and first.stride == 1:
        return Box(int(first.kernel_size))  # type: ignore[arg-type]
    return first


def _filled(wide: nn.Module, modules: Iterable[nn.Module]) -> nn.Module:
    """Return a module with the tensors of others one below the other."""
    states = [m.state_dict() for m in modules]
    for name, tensor in wide.state_dict().items():
        tensor.copy_(states[0][name] if tensor.ndim == 0 else torch.cat([s[name] for s in states]))
    return wide.to(states[0]["weight"].dtype)


def edges(cell: EdgeCell, x: Tensor) -> Pass:
    """Pass through a cell with operations on edges, node by node."""
    h, heard = {0: x}, {cell.last}
    for j, i in reversed(cell.edges):
        heard |= {i} if j in heard else set()
    for i in range(cell.last):
        out = [j for j, k in sorted(cell.edges) if k == i and j in heard] if i in h else []
        terms = yield [(cell.ops[f"{i}-{j}"], h[i]) for j in out]
        for j, term in zip(out, terms, strict=True):
            h[j] = h[j] + term if j in h else term
    return h[cell.last] if cell.last in h else torch.zeros_like(x)


def nodes(cell: NodeCell, x: Tensor) -> Pass:
    """Pass through a cell with operations on nodes, node by node."""
    entered = list(cell.project)
    first = yield [(cell.project[j], x) for j in entered]
    into, h = dict(zip(entered, first, strict=True)), {0: x}

    def enter(i: int, j: int) -> Tensor:
        if not cell.concat:
            return h[i]
        return into[str(j)] if i == 0 else h[i][:, : cell.width[j]]

    for j in range(1, cell.last):
        heard = [enter(i, j) for i in cell.before[j] if i in h]
        done = yield ([(cell.ops[str(j)], add(heard))] if heard else [])
        if heard:
            h[j] = done[0]
    final = [i for i in cell.before[cell.last] if i in h]
    inner = [h[i] for i in final if i or not cell.concat]
    if not cell.concat:
        return add(inner) if inner else torch.zeros_like(x)
    terms = [torch.cat(inner, 1)] if inner else []
    terms += [enter(0, cell.last)] if 0 in final else []
    return add(terms) if terms else torch.zeros_like(x)


Work = Callable[[int, Sequence[Sequence[Job]]], list[list[Tensor]]]


def drive(passes: Sequence[Pass], work: Work) -> list[Tensor]:
    """Go through all passes in rounds; `work` maps a round and what each asks for to what each is given."""
    asked, out = [], [torch.empty(0)] * len(passes)

    def go(g: int, given: list[Tensor] | None) -> list[Job]:
        try:
            return passes[g].send(given)  # type: ignore[arg-type]
        except StopIteration as end:
            out[g] = end.value
            return []

    asked, turn, open_ = [go(g, None) for g in range(len(passes))], 0, set(range(len(passes)))
    while open_:
        given = work(turn, asked)
        asked, turn = [go(g, given[g]) if g in open_ else [] for g in range(len(passes))], turn + 1
        open_ = {g for g in open_ if not out[g].numel()}
    return out


def through(net: Network, x: Tensor) -> Pass:
    """Pass through the body of a network, from the stem's output to the head's input."""
    for layer in net.body:
        if isinstance(layer, EdgeCell):
            x = yield from edges(layer, x)
        elif isinstance(layer, NodeCell):
            x = yield from nodes(layer, x)
        else:
            x = (yield [(layer, x)])[0]
    return x


class Lockstep(nn.Module):
    """Networks of equal settings, with copies of their weights.

    Args:
        nets: of `apps.nas.modules`, the same channels, stages and classes; cells of any kind and form.
        size: height and width of the images, to try once which modules are needed together.
    """

    def __init__(self, nets: Sequence[Network], size: int) -> None:
        super().__init__()
        self.nets, n = list(nets), len(nets)
        stems, norms = [net.stem[0] for net in nets], [net.stem[1] for net in nets]
        c_in, c = stems[0].weight.shape[1], stems[0].weight.shape[0]  # type: ignore[union-attr]
        wide = nn.Conv2d(c_in, n * c, 3, padding=1, bias=False)  # type: ignore[arg-type]
        self.stem = nn.Sequential(_filled(wide, stems), stack(norms))
        self.norm = stack([net.head[0] for net in nets])
        self.weight = nn.Parameter(torch.stack([net.classify.weight.detach() for net in nets]))
        self.bias = nn.Parameter(torch.stack([net.classify.bias.detach() for net in nets]))
        self.chunks, self.plan = nn.ModuleList(), []
        with torch.no_grad():
            x = nets[0].classify.weight.new_zeros(1, c_in, size, size)  # type: ignore[arg-type]
            drive([through(net, net.eval().stem(x)) for net in nets], self._note)
        for net in nets:
            net.train()

    def _note(self, turn: int, asked: Sequence[Sequence[Job]]) -> list[list[Tensor]]:
        """Do a round one by one, and note who needs equal modules in it."""
        alike: dict[str, list[tuple[int, int, nn.Module]]] = {}
        for g, jobs in enumerate(asked):
            for k, (module, value) in enumerate(jobs):
                alike.setdefault(f"{module} {value.shape[1]}", []).append((g, k, module))
        self.plan.append([])
        for same in alike.values():
            count = -(-len(same) // WIDEST)
            for part in (same[a::count] for a in range(count)):
                self.plan[-1].append(([(g, k) for g, k, _ in part], len(self.chunks)))
                self.chunks.append(stack([module for _, _, module in part]))
        return [[module(value) for module, value in jobs] for jobs in asked]

    def _do(self, turn: int, asked: Sequence[Sequence[Job]]) -> list[list[Tensor]]:
        """Do a round, equal modules together."""
        given: list[list[Tensor]] = [[value for _, value in jobs] for jobs in asked]
        for places, index in self.plan[turn]:
            module = self.chunks[index]
            if not isinstance(module, nn.Identity):
                y = module(torch.cat([given[g][k] for g, k in places], 1))
                for (g, k), block in zip(places, y.chunk(len(places), 1), strict=True):
                    given[g][k] = block
        return given

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, inputs, H, W] to the logits of all networks [n, B, classes]."""
        n = len(self.nets)
        first = self.stem(x).chunk(n, 1)
        last = drive([through(net, h) for net, h in zip(self.nets, first, strict=True)], self._do)
        pooled = self.norm(torch.cat(last, 1)).relu().mean((2, 3)).view(len(x), n, -1)
        return torch.einsum("bnc,nkc->nbk", pooled, self.weight) + self.bias[:, None]
