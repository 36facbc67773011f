"""Cells as files: text, graph, picture, a stand-alone Python module, an exported program.

The suffix of the file says what is written: .txt the string, .dot Graphviz, .json nodes and edges, .png/.svg/.pdf a
picture, .py a module that imports torch alone, .pt2 the program of `torch.export` with fresh weights, .onnx the same
for other runtimes (needs the package onnx).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

from apps.nas.cell import Cell
from apps.nas.modules import Network, build
from core.errors import UsageError
from core.run.outputs import replacing

__all__ = ["WRITERS", "network", "picture", "source", "write"]

IMAGE = (3, 32, 32)


def network(cell: Cell, **settings: int) -> Network:
    """Return the network of a cell as a `torch.nn.Module` (settings as in `modules.Network`)."""
    return build(cell.literal(), **settings)


def source(cell: Cell, **settings: int) -> str:
    """Return a Python file that builds the network and imports nothing but torch."""
    from apps.nas import modules

    text = Path(modules.__file__).read_text()
    given = "".join(f", {k}={v!r}" for k, v in settings.items())
    return (
        f"{text}\n\nCELL = {cell.literal()!r}\n\n\ndef model() -> Network:\n"
        f'    """Return the network of {cell}."""\n    return build(CELL{given})\n\n\n'
        'if __name__ == "__main__":\n    net = model().eval()\n'
        f"    print(sum(p.numel() for p in net.parameters()), tuple(net(torch.zeros(1, {settings.get('inputs', 3)}, "
        "32, 32)).shape))\n"
    )


def picture(cell: Cell, path: Path) -> None:
    """Draw the cell from left to right."""
    from matplotlib.figure import Figure

    graph = cell.to_networkx()
    figure = Figure(figsize=(1.7 * len(graph), 3.0))
    axes = figure.add_subplot()
    place = {j: (1.0 * n, 0.0) for n, j in enumerate(sorted(graph))}
    label = {"boxstyle": "round", "fc": "white", "ec": "black"}
    boxes = {}
    for j, data in graph.nodes(data=True):
        name = axes.text(*place[j], data["op"] or str(j), ha="center", va="center", fontsize=8, bbox=label)
        boxes[j] = name.get_bbox_patch()
    for i, j, data in graph.edges(data=True):
        (x, _), (y, _) = place[i], place[j]
        bend = 0.0 if y - x <= 1 else 0.28 * (1 if (i + j) % 2 else -1)
        style = {"arrowstyle": "-|>", "color": "black", "connectionstyle": f"arc3,rad={-bend}"}
        axes.annotate("", (y, 0), (x, 0), arrowprops={**style, "patchA": boxes[i], "patchB": boxes[j]})
        paper = {"boxstyle": "square,pad=0.1", "fc": "white" if bend else "none", "ec": "none"}
        where = ((x + y) / 2, bend * (y - x) / 2 + (0 if bend else 0.06))
        axes.text(*where, data.get("op", ""), ha="center", va="center", fontsize=7, bbox=paper)
    axes.set_xlim(-0.5, len(graph) - 0.5)
    axes.set_ylim(-0.8, 0.8)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.savefig(path, bbox_inches="tight", dpi=150)


def _json(cell: Cell, path: Path) -> None:
    graph = cell.to_networkx()
    nodes = [{"id": j, **data} for j, data in graph.nodes(data=True)]
    edges = [{"source": i, "target": j, **data} for i, j, data in graph.edges(data=True)]
    text = {"space": cell.space.name, "cell": str(cell), "directed": True, "nodes": nodes, "edges": edges}
    path.write_text(json.dumps(text, indent=1) + "\n")


def _program(cell: Cell, path: Path) -> None:
    import torch

    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network(cell).eval(), (torch.zeros(2, *IMAGE),), dynamic_shapes=sizes)
    torch.export.save(program, path)


def _onnx(cell: Cell, path: Path) -> None:
    import importlib.util

    import torch

    if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxscript") is None:
        hint = 'pip install "quintet[onnx]", or write .pt2'
        raise UsageError("needs the packages onnx and onnxscript", field="out", value=path.suffix, hint=hint)
    noisy = logging.getLogger("torch.onnx")
    level, _ = noisy.level, noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": ({0: "batch"},)}
            program = (network(cell).eval(), (torch.zeros(2, *IMAGE),))
            torch.onnx.export(*program, str(path), external_data=False, verbose=False, **given)
    finally:
        noisy.setLevel(level)


WRITERS: dict[str, Callable[[Cell, Path], object]] = {
    ".txt": lambda cell, path: path.write_text(f"{cell}\n"),
    ".dot": lambda cell, path: path.write_text(cell.to_dot()),
    ".json": _json,
    ".py": lambda cell, path: path.write_text(source(cell)),
    ".png": picture, ".svg": picture, ".pdf": picture,
    ".pt2": _program,
    ".onnx": _onnx,
}  # fmt: skip


def write(cell: Cell, out: Path) -> None:
    """Write a cell to a file of any known suffix; the file appears whole or not at all.

    Raises:
        UsageError: the suffix is not known, a package is missing, or the file cannot be written.
    """
    if out.suffix not in WRITERS:
        raise UsageError("no such format", field="out", value=out.name, choices=sorted(WRITERS))
    with replacing(out) as part:
        WRITERS[out.suffix](cell, part)
