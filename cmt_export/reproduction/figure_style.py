"""How every figure looks: one type size, one order of colours, no box, on white so that it reads anywhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#24292f"
COLOURS = ("#2b5c8f", "#b3241c", "#e3a008", "#3f7d4e")
MARKS = ("o", "s", "^", "D")
_DOTS = 110
SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
}


def styled(size: tuple[float, float]) -> Figure:
    """Return an empty figure of so many inches; to be drawn on inside ``matplotlib.rc_context(SETTINGS)``."""
    return Figure(figsize=size, layout="constrained", facecolor="white")


def svg(figure: Figure, *, key: str) -> bytes:
    """Return a figure as SVG, the same bytes for the same content.

    Args:
        figure: What to write.
        key: Name of the figure; identifiers inside are derived from it.
    """
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": key, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, for pictures."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": None})
    return buffer.getvalue()


def percent_axis(axes: Axes, label: str) -> None:
    """Make the vertical axis one of shares, in percent."""
    axes.set(ylabel=label, ylim=(-2, 102), yticks=range(0, 101, 25))
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)


def line_with_interval(
    axes: Axes, places: Sequence[float], intervals: Sequence[tuple[float, float, float]], *, label: str, style: int
) -> Artist:
    """Draw shares with their intervals, each ``(value, low, high)`` in [0, 1], and return what the legend shows."""
    values, low, high = ([100 * one[place] for one in intervals] for place in range(3))
    colour = COLOURS[style % len(COLOURS)]
    axes.fill_between(places, low, high, color=colour, alpha=0.14, linewidth=0)
    look: Any = {"color": colour, "marker": MARKS[style % len(MARKS)], "markersize": 4, "linewidth": 1.4}
    (line,) = axes.plot(places, values, label=label, **look)
    return line


def say_nothing_there(axes: Axes, why: str = "not run yet") -> None:
    """Write in the middle of empty axes why they are empty."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", alpha=0.6)
