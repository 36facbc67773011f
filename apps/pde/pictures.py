"""Pictures of fields: panels and animations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from apps.pde.formats import unfolded
from apps.pde.mesh import Mesh

__all__ = ["animate", "fields", "trade"]


def _tiled(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points, triangles and node numbers of the mesh and, where it is periodic, of its neighbours' copies."""
    points, triangles, index = unfolded(mesh)
    steps = [(-p, 0.0, p) if p else (0.0,) for p in mesh.period]
    shifts = np.array([(x, y) for x in steps[0] for y in steps[1]])
    whole = np.concatenate([triangles + k * len(points) for k in range(len(shifts))])
    return (points + shifts[:, None]).reshape(-1, 2), whole, np.tile(index, len(shifts))


def _draw(figure: Figure, mesh: Mesh, panels: Mapping[str, np.ndarray], limits: tuple[float, float] | None) -> None:
    points, triangles, index = _tiled(mesh)
    grid = Triangulation(points[:, 0], points[:, 1], triangles)
    corner = mesh.points.min(0)
    for k, (name, value) in enumerate(panels.items()):
        axis = figure.add_subplot(1, len(panels), k + 1)
        low, high = limits or (float(value.min()), float(value.max()))
        drawn = axis.tripcolor(grid, value[index], shading="gouraud", vmin=low, vmax=max(high, low + 1e-12))
        axis.set_title(name, fontsize=9)
        axis.set_aspect("equal")
        for side, start, length in zip("xy", corner, mesh.period, strict=True):
            if length:
                axis.set(**{f"{side}lim": (start, start + length)})
        axis.set_axis_off()
        figure.colorbar(drawn, ax=axis, shrink=0.6)


def fields(mesh: Mesh, panels: Mapping[str, np.ndarray], path: Path) -> Path:
    """Draw fields [N] side by side, each on its own scale."""
    figure = Figure(figsize=(3.4 * len(panels), 3), layout="constrained")
    _draw(figure, mesh, panels, None)
    figure.savefig(path, dpi=110)
    return path


def trade(points: Mapping[str, tuple[float, float]], path: Path) -> Path:
    """Draw errors against seconds: name -> (processor seconds, mean square error), both on logarithmic scales.

    What is not finite is left out.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = figure.add_subplot()
    for name, (seconds, error) in points.items():
        if np.isfinite(error) and error > 0:
            ours = name.startswith("model")
            axis.plot(seconds, error, "o", color="tab:red" if ours else "tab:blue")
            label, place = name.replace("_", " "), (5, -11 if ours else 4)
            axis.annotate(label, (seconds, error), place, textcoords="offset points", fontsize=8)
    axis.set(xscale="log", yscale="log", xlabel="processor seconds of a trajectory", ylabel="mean square error")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(x=0.25, y=0.15)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


def animate(mesh: Mesh, times: np.ndarray, panels: Mapping[str, np.ndarray], path: Path, most: int = 40) -> Path:
    """Write series [T, N] side by side as an animated GIF, all frames on one scale."""
    from matplotlib.animation import PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    every = max(1, len(times) // most)
    low, high = (float(f([f(v) for v in panels.values()])) for f in (np.min, np.max))
    figure = Figure(figsize=(3.2 * len(panels), 3))
    FigureCanvasAgg(figure)
    writer = PillowWriter(fps=10)
    with writer.saving(figure, str(path), dpi=90):
        for k in range(0, len(times), every):
            figure.clear()
            _draw(figure, mesh, {f"{n}, t = {times[k]:.2f}": v[k] for n, v in panels.items()}, (low, high))
            writer.grab_frame()
    return path
