"""The figure of a comparison: how many images fool each defence as the budget grows, with intervals."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibration.comparing.records import Comparison, Defence
from calibration.report.inline_svg import inline_svg
from calibration.report.plots import INK, printable, settings

_LINES = ("#b3241c", "#1f5a96", "#1c7568", "#8a5a00", "#6b3fa0", "#5d5953", "#a0306b", "#3d6b1f")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")
_PAGE_COLOURS: Mapping[str, str] = {
    INK: "currentColor",
    **{colour: f"var(--line-{number})" for number, colour in enumerate(_LINES)},
}
_ACROSS = {"linf": "ε (L∞, pixels in [0, 1])", "l2": "ε (L2)"}
_PANEL_INCHES, _HEIGHT_INCHES, _LEGEND_INCHES = 3.6, 2.7, 0.19


def comparison_figure(comparison: Comparison, *, page: bool) -> str:
    """Draw fooled against ε, one line a defence, one panel a norm; empty where no budget was tried.

    Args:
        comparison: What to draw.
        page: Whether it goes into a page, in the page's colours; otherwise it is a file of its own on white.

    Returns:
        SVG text, the same for the same comparison.
    """
    norms = list(dict.fromkeys(norm for norm, _ in comparison.budgets))
    if not norms:
        return ""
    rows = [row for row in comparison.defences if row.at]
    with mpl.rc_context(settings("defences")):
        size = (_PANEL_INCHES * max(len(norms), 1.2), _HEIGHT_INCHES + _LEGEND_INCHES * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, len(norms), squeeze=False)[0]
        for norm, axes in zip(norms, panels, strict=True):
            _draw_panel(axes, rows, norm)
        handles = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower left", frameon=False, labelcolor=INK, handlelength=3
        )
        if not page:
            return _whole(figure)
        figure.patch.set_visible(False)
        for axes in panels:
            axes.patch.set_visible(False)
        return inline_svg(figure, colours=_PAGE_COLOURS)


def _draw_panel(axes: Axes, rows: Sequence[Defence], norm: str) -> None:
    single = all(len([one for one in row.at if one.norm == norm]) < 2 for row in rows)
    for number, row in enumerate(rows):
        points = [(one.epsilon, one.fooled) for one in row.at if one.norm == norm]
        if not points:
            continue
        places = [place for place, _ in points]
        values, low, high = ([100 * getattr(share, name) for _, share in points] for name in ("value", "low", "high"))
        colour = _LINES[number % len(_LINES)]
        style: Any = {
            "color": colour,
            "marker": _MARKS[number % len(_MARKS)],
            "linestyle": _DASHES[number // len(_LINES) % len(_DASHES)],
            "markersize": 4.5,
            "linewidth": 1.4,
            "label": printable(row.name),
        }
        if single:
            reach = [[value - least for value, least in zip(values, low, strict=True)]]
            reach.append([most - value for value, most in zip(values, high, strict=True)])
            axes.errorbar([number], values, yerr=reach, capsize=2.5, **style)
        else:
            axes.plot(places, values, **style)
            axes.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set(ylabel="% accepted and wrong", ylim=(-2, 102), yticks=range(0, 101, 25))
    if single:
        epsilons = sorted({one.epsilon for row in rows for one in row.at if one.norm == norm})
        axes.set(xlabel=f"{_ACROSS[norm]} = {', '.join(f'{epsilon:g}' for epsilon in epsilons)}", xticks=[])
        axes.set_xlim(-0.7, len(rows) - 0.3)
    else:
        axes.set_xlabel(_ACROSS[norm])
        axes.set_xlim(left=0)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)


def _whole(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return buffer.getvalue()
