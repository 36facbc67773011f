"""Matplotlib pictures of sequences for reports: letters site by site, distances of two motifs, reward against price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

__all__ = ["COLOURS", "gaps_picture", "letters_picture", "price_picture"]

COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#7b4b94", "#00798c", "#8c5e3c")
BASES = ("#4c9a52", "#4575b4", "#e0a526", "#c8443f")
SHOWN = 40


def letters_picture(sets: Mapping[str, np.ndarray], parts: Mapping[str, tuple[int, int]], title: str) -> Figure:
    """Draw the first sequences of each set, tokens [B, L], one coloured square per letter.

    Args:
        sets: by name.
        parts: names of stretches, each with its first and last letter from 1; they are bracketed.
        title: above all.
    """
    figure = Figure(figsize=(10, 1.2 + 2.4 * len(sets)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(sets), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, tokens) in zip(axes, sets.items(), strict=True):
        some = tokens[:SHOWN]
        extent = (0.5, some.shape[1] + 0.5, len(some), 0.0)
        axis.imshow(some, ListedColormap(BASES), vmin=0, vmax=3, aspect="auto", extent=extent, interpolation="nearest")
        axis.set(ylabel=name, yticks=[])
    for name, (first, last) in parts.items():
        for axis in axes:
            axis.axvline(first - 0.5, color="black", lw=1.4)
            axis.axvline(last + 0.5, color="black", lw=1.4)
        axes[0].annotate(name, ((first + last) / 2, -0.6), ha="center", va="bottom", annotation_clip=False, fontsize=9)
    axes[-1].set_xlabel("letter")
    key = [Patch(color=colour, label=base) for base, colour in zip("ACGT", BASES, strict=True)]
    figure.legend(handles=key, loc="outside lower center", ncols=4, frameon=False)
    return figure


def gaps_picture(gaps: Sequence[int], shares: Mapping[str, np.ndarray], title: str) -> Figure:
    """Draw the share of sequences that have two motifs at each distance, one line a set."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    for (name, share), colour in zip(shares.items(), COLOURS, strict=False):
        axis.plot(gaps, share, marker="o", ms=3.5, color=colour, label=name)
    axis.set(title=title, xlabel="letters between TATA box and initiator", ylabel="share of sequences", ylim=(0, None))
    axis.legend(frameon=False)
    return figure


def price_picture(points: Mapping[str, tuple[float, float]], title: str, across: str, up: str) -> Figure:
    """Draw methods as named points: what they gain (up) against what it costs (across)."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    for (name, (x, y)), colour in zip(points.items(), COLOURS, strict=False):
        axis.scatter([x], [y], color=colour, s=45, zorder=3)
        axis.annotate(name, (x, y), xytext=(7, 5), textcoords="offset points", fontsize=9)
    axis.margins(0.18)
    axis.grid(alpha=0.3)
    axis.set(title=title, xlabel=across, ylabel=up)
    return figure
