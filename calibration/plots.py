"""What becomes of attacked images as the attack's budget grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibration.inline_svg import inline_svg
from calibration.metrics import Interval
from calibration.phrasing import attack_name
from calibration.results import Cell

Outcome = Literal["fooled", "rejected"]

_INK = "#000000"
_COLOURS: dict[Outcome, str] = {"fooled": "#b3241c", "rejected": "#e3a008"}
_PAGE_COLOURS = {_INK: "currentColor", **{colour: f"var(--{name})" for name, colour in _COLOURS.items()}}
_MARKS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."), ("v", "-"), ("P", "--"), ("X", ":"), ("*", "-."))
_SIZE_INCHES = (3.5, 2.9)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How one outcome of one attack grows with its budget.

    Attributes:
        name: The attack.
        epsilon: Budgets, ascending, in [0, 1].
        shares: What share of images came to the outcome at each of them.
    """

    name: str
    epsilon: tuple[float, ...]
    shares: tuple[Interval, ...]


def budget_curves(cells: Sequence[Cell], outcome: Outcome) -> tuple[Curve, ...]:
    """Return one curve for each attack that has an ε; nothing unless some attack was run with several.

    Args:
        cells: All attacks under one reading of one threat.
        outcome: Which share to follow.
    """
    by_attack: dict[str, list[tuple[float, Interval]]] = {}
    for cell in cells:
        epsilon = cell.parameters.get("epsilon")
        if isinstance(epsilon, float | int):
            by_attack.setdefault(cell.attack, []).append((float(epsilon), getattr(cell.rates, outcome)))
    if all(len({epsilon for epsilon, _ in points}) < 2 for points in by_attack.values()):
        return ()
    return tuple(_curve(attack, points) for attack, points in by_attack.items())


def draw_curves(curves: Sequence[Curve], *, outcome: Outcome, key: str) -> str:
    """Draw shares with their intervals against ε.

    Args:
        curves: At least one.
        outcome: Which colour of the page to take, ``var(--fooled)`` or ``var(--rejected)``.
        key: Text that no other figure of the page has; the identifiers inside the figure are derived from it.

    Returns:
        One ``<svg>`` element, the same text for the same curves.
    """
    with mpl.rc_context(_settings(key)):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for index, curve in enumerate(curves):
            _draw(axes, curve, _COLOURS[outcome], _MARKS[index % len(_MARKS)])
        axes.set(xlabel="ε (L∞, pixels in [0, 1])", ylabel="% of images", ylim=(-2, 102), yticks=range(0, 101, 25))
        axes.set_xlim(left=0)
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.6)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=_INK, handlelength=3)
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        return inline_svg(figure, colours=_PAGE_COLOURS)


def _curve(attack: str, points: Sequence[tuple[float, Interval]]) -> Curve:
    ordered = sorted(points)
    epsilon, shares = tuple(place for place, _ in ordered), tuple(share for _, share in ordered)
    return Curve(name=attack_name(attack), epsilon=epsilon, shares=shares)


def _draw(axes: Axes, curve: Curve, colour: str, mark: tuple[str, str]) -> None:
    low, values, high = ([100 * getattr(share, name) for share in curve.shares] for name in ("low", "value", "high"))
    marker, dash = mark
    style: Any = {"color": colour, "marker": marker, "linestyle": dash, "markersize": 4.5, "linewidth": 1.4}
    axes.fill_between(curve.epsilon, low, high, color=colour, alpha=0.14, linewidth=0)
    axes.plot(curve.epsilon, values, label=_printable(curve.name), **style)


def _printable(name: str) -> str:
    """Return a name that XML can hold and that does not hide from the legend, as a leading underscore does."""
    return "".join(letter if letter.isprintable() else "?" for letter in name).lstrip("_") or "?"


def _settings(key: str) -> Any:
    return {
        "svg.hashsalt": key,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 8.5,
        "axes.edgecolor": _INK,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
    }
