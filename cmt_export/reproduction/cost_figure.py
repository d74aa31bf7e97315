"""Figure 7: what the defence costs on benign images."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.axes import Axes

from calibration.results.phrasing import percent
from cmt_export.reproduction.cell import Cell
from cmt_export.reproduction.claims import Claims
from cmt_export.reproduction.figure_style import COLOURS, INK, SETTINGS, say_nothing_there, styled, svg
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import JudgeBenign
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.unit import Unit

_NAMES = (
    "oracle",
    "Z*, all images\n(black-box defence)",
    "Z, accepted images,\nno lock (grey-box)",
    "Z, accepted images,\ntrained lock",
)


class CostFigure(Section):
    """Accuracy of the oracle, through Z*, and through Z over accepted images."""

    name = "figure7"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the judgements of the benign test images."""
        return tuple(unit for unit in Claims().units(sets) if isinstance(unit, JudgeBenign))

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the accuracies with their intervals."""
        cells = [cell for cell in Claims().cells(found) if cell.name[1].startswith("accuracy")]
        with mpl.rc_context(SETTINGS):
            figure = styled((5.6, 3.0))
            axes = figure.add_subplot()
            known = [(place, cell) for place, cell in enumerate(cells) if cell.found is not None]
            if not known:
                say_nothing_there(axes)
                return {"figures/figure7.svg": svg(figure, key=self.name)}
            for place, cell in known:
                _draw(axes, place, cell)
            axes.set_xlim(-0.6, len(cells) - 0.4)
            axes.set(ylabel="% accuracy on benign images")
            axes.margins(y=0.15)
            axes.set_xticks(range(len(cells)), _NAMES, fontsize=7.5)
            axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
            if any(cell.published is not None for cell in cells):
                axes.plot([], [], color=INK, linestyle="--", linewidth=1, label="oracle less what the paper lost")
                figure.legend(loc="outside lower center")
            return {"figures/figure7.svg": svg(figure, key=self.name)}


def _draw(axes: Axes, place: int, cell: Cell) -> None:
    assert cell.found is not None  # only known cells are drawn
    interval = cell.found.interval
    value, low, high = (100 * one for one in interval)
    axes.errorbar(
        place, value, yerr=[[value - low], [high - value]], color=COLOURS[0], marker="o", capsize=3, linewidth=1.4
    )
    axes.annotate(percent(interval.value, digits=2), (place, value), xytext=(8, -3), textcoords="offset points")
    if cell.published is not None:
        axes.hlines(100 * cell.published, place - 0.3, place + 0.3, color=INK, linestyle="--", linewidth=1)
