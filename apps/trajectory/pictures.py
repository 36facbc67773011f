"""Matplotlib pictures for reports: a network with its flows, trips, route alternatives, and steps against quality.

Nothing here needs a display or the network. Axes are kilometres east and north of the middle of what is drawn; red is
more, blue is less, black crosses are closed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from apps.trajectory.data import Trips
from apps.trajectory.network import RoadNetwork

__all__ = [
    "ATTRIBUTION",
    "COLOURS",
    "credit",
    "difference_picture",
    "flow_picture",
    "png",
    "routes_picture",
    "steps_picture",
    "trips_picture",
    "uses",
]

ATTRIBUTION = "Map data © OpenStreetMap contributors, ODbL 1.0"
COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#7b4b94", "#00798c", "#8c5e3c")
MORE, LESS, ROAD, CLOSED = "#c1272d", "#2166ac", "#d4d4d4", "#111111"


def uses(trips: Trips) -> NDArray[np.int64]:
    """Return how often each segment `[N]` is driven."""
    return np.bincount(trips.segment, minlength=trips.network.n)


def credit(network: RoadNetwork) -> str:
    """Return the attribution that a picture of this network owes ("" for a synthetic city)."""
    return "" if network.name.startswith("synthetic") else ATTRIBUTION


def png(figure: Figure, dpi: int = 130) -> str:
    """Return a figure as a data URI for an HTML page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def flow_picture(network: RoadNetwork, flow: NDArray[np.number], title: str = "") -> Figure:
    """Draw the roads with line width and darkness growing with `flow` `[N]`."""
    figure, axes = _canvas(network, flow > 0, title or "Trips per segment")
    top = max(float(flow.max()), 1.0)
    used = np.flatnonzero(flow > 0)
    used = used[np.argsort(flow[used], kind="stable")]
    share = flow[used] / top
    colour = np.column_stack([np.tile([0.106, 0.424, 0.659], (len(used), 1)), 0.35 + 0.65 * np.sqrt(share)])
    _roads(axes, network, used, colour, 0.6 + 5.0 * np.sqrt(share))
    _key(axes, [(f"{v:,} trips", COLOURS[0], 0.6 + 5.0 * np.sqrt(v / top)) for v in _steps(top)])
    return figure


def difference_picture(
    network: RoadNetwork, change: NDArray[np.number], closed: NDArray[np.bool_], title: str = ""
) -> Figure:
    """Draw the change of flow `[N]` (after minus before), red more and blue less, and the closed segments."""
    figure, axes = _canvas(network, (change != 0) | closed, title or "Change of trips per segment")
    top = max(float(np.abs(change).max()), 1.0)
    moved = np.flatnonzero((change != 0) & ~closed)
    moved = moved[np.argsort(np.abs(change[moved]), kind="stable")]
    colour = np.where(change[moved] > 0, MORE, LESS)
    _roads(axes, network, moved, colour, 0.6 + 5.0 * np.sqrt(np.abs(change[moved]) / top))
    _roads(axes, network, np.flatnonzero(closed), CLOSED, 2.5)
    _crosses(axes, network, closed)
    _key(axes, [(f"+{int(top):,} trips", MORE, 5.6), (f"−{int(top):,} trips", LESS, 5.6), ("closed", CLOSED, 2.5)])
    return figure


def trips_picture(sets: Mapping[str, Trips], closed: NDArray[np.bool_] | None = None, title: str = "") -> Figure:
    """Draw the trips of each named set in a colour of its own."""
    network = next(iter(sets.values())).network
    seen = np.zeros(network.n, dtype=bool)
    for trips in sets.values():
        seen[trips.segment] = True
    figure, axes = _canvas(network, seen, title or "Trips")
    for k, trips in enumerate(sets.values()):
        lines = _walks(network, trips.lists())
        fade = float(np.clip(12.0 / max(len(lines), 1), 0.06, 0.9))
        axes.add_collection(LineCollection(lines, colors=COLOURS[k % 7], linewidths=1.6, alpha=fade, zorder=3 + k))
        ends = network.middle[np.concatenate([trips.origin, trips.destination])] / 1e3
        axes.plot(*(ends - _centre(network)).T, "o", ms=2.5, color=COLOURS[k % 7], alpha=max(fade, 0.4), zorder=9)
    if closed is not None:
        _crosses(axes, network, closed)
    _key(axes, [(f"{name} ({len(t)})", COLOURS[k % 7], 2.5) for k, (name, t) in enumerate(sets.items())])
    return figure


def routes_picture(
    network: RoadNetwork, routes: Sequence[tuple[NDArray[np.integer], float]], title: str = "", top: int = 7
) -> Figure:
    """Draw the main routes of one origin-destination pair side by side, each with its share in the legend."""
    routes = sorted(routes, key=lambda r: -r[1])[:top]
    seen = np.zeros(network.n, dtype=bool)
    seen[np.concatenate([r for r, _ in routes])] = True
    figure, axes = _canvas(network, seen, title or "Route alternatives")
    for k, (route, _) in reversed(list(enumerate(routes))):
        width = 3.0 + 1.8 * k
        line = _walks(network, [np.asarray(route)])
        axes.add_collection(LineCollection(line, colors=COLOURS[k], linewidths=width, alpha=0.85, zorder=9 - k))
    ends = network.middle[[routes[0][0][0], routes[0][0][-1]]] / 1e3 - _centre(network)
    axes.plot(*ends[0], "o", ms=9, mfc="white", mec="black", zorder=20)
    axes.plot(*ends[1], "s", ms=9, mfc="black", mec="black", zorder=20)
    entries = [(f"{100 * share:.0f} %", COLOURS[k], 3.0) for k, (_, share) in enumerate(routes)]
    _key(axes, entries, "○ origin, ■ destination")
    return figure


def steps_picture(
    steps: Sequence[int],
    series: Mapping[str, Sequence[float]],
    ylabel: str,
    references: Mapping[str, float],
    title: str,
) -> Figure:
    """Draw a quality against sampling steps, one line per series, with a dashed line for each reference."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for k, (name, values) in enumerate(series.items()):
        axes.plot(steps, values, "o-", color=COLOURS[k % 7], label=name)
    for k, (name, value) in enumerate(references.items()):
        axes.axhline(value, ls="--", lw=1.2, color=COLOURS[(k + len(series)) % 7], label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(steps), [str(s) for s in steps])
    axes.set(xlabel="sampling steps", ylabel=ylabel, title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def _centre(network: RoadNetwork) -> NDArray[np.float64]:
    return (network.geom_xy.min(axis=0) + network.geom_xy.max(axis=0)) / 2e3


def _walks(network: RoadNetwork, walks: Iterable[NDArray[np.integer]]) -> list[NDArray[np.float64]]:
    place, ptr = network.geom_xy / 1e3 - _centre(network), network.geom_ptr
    return [np.concatenate([place[ptr[s] : ptr[s + 1]] for s in walk]) for walk in walks]


def _roads(
    axes: Axes, network: RoadNetwork, ids: NDArray[np.integer], colour: ArrayLike, width: ArrayLike, zorder: float = 3.0
) -> None:
    lines = _walks(network, ids[:, None])
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=width, capstyle="round", zorder=zorder))


def _crosses(axes: Axes, network: RoadNetwork, closed: NDArray[np.bool_]) -> None:
    place = network.middle[closed] / 1e3 - _centre(network)
    axes.plot(*place.T, "x", color=CLOSED, ms=9, mew=2.2, zorder=12)


def _canvas(network: RoadNetwork, seen: NDArray[np.bool_], title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.6, 6.6), layout="constrained")
    axes = figure.subplots()
    _roads(axes, network, np.arange(network.n), ROAD, 0.5, zorder=1.0)
    points = network.middle[seen] if seen.any() else network.middle
    low, high = points.min(axis=0) / 1e3 - _centre(network), points.max(axis=0) / 1e3 - _centre(network)
    margin = 0.06 * float((high - low).max()) + 0.1
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(low[1] - margin, high[1] + margin)
    axes.set_aspect("equal")
    axes.set(xlabel="km east", ylabel="km north", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    note = " · ".join(t for t in (network.name, credit(network)) if t)
    axes.annotate(note, (1.0, 0.005), xycoords="axes fraction", ha="right", fontsize=7, color="#555555", zorder=30)
    return figure, axes


def _steps(top: float) -> list[int]:
    return sorted({int(round(v)) for v in (top, top / 4, max(top / 16, 1)) if v >= 1}, reverse=True)


def _key(axes: Axes, entries: Sequence[tuple[str, str, float]], heading: str | None = None) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, lw=width, label=text) for text, colour, width in entries]
    legend = axes.legend(handles=handles, loc="upper left", fontsize=8, title=heading, framealpha=0.9)
    legend.set_zorder(40)
