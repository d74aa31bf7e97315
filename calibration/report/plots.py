"""The figures of a report: curves with their intervals, in the colours of the page."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibration.report.curves import Curve
from calibration.report.inline_svg import inline_svg

Kind = Literal["fooled", "rejected", "distance", "together", "roc"]


class _Look(NamedTuple):
    """What is on the axes of one kind of figure, and which colour of the page its curves take."""

    colour: str
    across: str
    up: str
    marked: bool


INK = "#000000"
_PAGE_COLOURS = {
    INK: "currentColor",
    "#b3241c": "var(--fooled)",
    "#e3a008": "var(--rejected)",
    "#2b5c8f": "var(--heat)",
}
_LINF, _L2 = "ε (L∞, pixels in [0, 1])", "L2 length of the change"
_LOOKS: Mapping[Kind, _Look] = {
    "fooled": _Look("#b3241c", _LINF, "% of images", marked=True),
    "rejected": _Look("#e3a008", _LINF, "% of images", marked=True),
    "distance": _Look("#b3241c", _L2, "% of images", marked=False),
    "together": _Look("#b3241c", _LINF, "% of images", marked=False),
    "roc": _Look("#2b5c8f", "% of successful attacks accepted", "% of benign images accepted", marked=False),
}
_MARKS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."), ("v", "-"), ("P", "--"), ("X", ":"), ("*", "-."))
_SIZE_INCHES = (3.5, 2.9)


def draw_curves(curves: Sequence[Curve], *, kind: Kind, key: str) -> str:
    """Draw shares with their intervals.

    Args:
        curves: At least one.
        kind: What they are about.
        key: Text that no other figure of the page has; the identifiers inside the figure are derived from it.

    Returns:
        One ``<svg>`` element, the same text for the same curves.
    """
    look = _LOOKS[kind]
    with mpl.rc_context(settings(key)):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for index, curve in enumerate(curves):
            _draw(axes, curve, look, _MARKS[index % len(_MARKS)], percent=kind == "roc")
        axes.set(xlabel=look.across, ylabel=look.up, ylim=(-2, 102), yticks=range(0, 101, 25))
        axes.set_xlim(left=0)
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        figure.legend(loc="outside lower center", ncols=_columns(curves), frameon=False, labelcolor=INK, handlelength=3)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        return inline_svg(figure, colours=_PAGE_COLOURS)


def _columns(curves: Sequence[Curve]) -> int:
    """Return how many names stand beside each other without being cut off."""
    longest = max(len(curve.name) for curve in curves)
    return 3 if longest <= 8 else 2 if longest <= 16 else 1


def _draw(axes: Axes, curve: Curve, look: _Look, mark: tuple[str, str], *, percent: bool) -> None:
    low, values, high = ([100 * getattr(share, name) for share in curve.shares] for name in ("low", "value", "high"))
    places = [100 * place for place in curve.places] if percent else curve.places
    marker, dash = mark
    style: Any = {"color": look.colour, "linestyle": dash, "markersize": 4.5, "linewidth": 1.4}
    axes.fill_between(
        places, low, high, color=look.colour, alpha=0.14, linewidth=0, step=None if look.marked else "post"
    )
    name = printable(curve.name)
    if look.marked:
        axes.plot(places, values, label=name, marker=marker, **style)
    else:
        axes.plot(places, values, label=name, drawstyle="steps-post", **style)


def printable(name: str) -> str:
    """Return a name that XML can hold and that does not hide from the legend, as a leading underscore does."""
    spaced = (" " if unicodedata.category(letter) == "Zs" else letter for letter in name)
    return "".join(letter if letter.isprintable() else "?" for letter in spaced).lstrip("_") or "?"


def settings(key: str) -> Any:
    """Return what matplotlib is told for every figure; identifiers are derived from `key`."""
    return {
        "svg.hashsalt": key,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 8.5,
        "axes.edgecolor": INK,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
    }
