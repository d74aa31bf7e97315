"""Figures 4, 5 and 6: what C&W examples of growing confidence κ do to label and rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from cmt_export.reproduction.cell import Cell, Count, count
from cmt_export.reproduction.claims import benign_unit
from cmt_export.reproduction.figure_style import (
    SETTINGS,
    line_with_interval,
    percent_axis,
    say_nothing_there,
    styled,
    svg,
)
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import Judged, JudgeSet
from cmt_export.reproduction.preset import KAPPAS
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import BLACK_BOX, READINGS, Sets
from cmt_export.reproduction.training_units import Export
from cmt_export.reproduction.unit import Unit


class TransferFigure(Section):
    """Figure 4: how many black-box examples change the label through Z*."""

    name = "figure4"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the judgements of the original and the defended file."""
        return tuple(_unit(sets, file, BLACK_BOX) for file in _files(sets).values())

    def cells(self, found: Found) -> tuple[Cell, ...]:
        """Return one figure for each model and κ."""
        return tuple(cell for model in _files(found.sets) for cell in self._line(found, model))

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the curves."""
        lines = {model: self._line(found, model) for model in _files(found.sets)}
        return {"figures/figure4.svg": _curves(self.name, {"% that change the label through Z*": lines})}

    def _line(self, found: Found, model: str) -> list[Cell]:
        file = _files(found.sets)[model]
        unit = _unit(found.sets, file, BLACK_BOX)
        judged = found.judged(file, unit.parts)
        return [
            Cell(
                name=("figure 4", model, f"κ = {kappa:g}"),
                published=None,
                better="lower",
                found=None if judged is None else count(~judged.right[place]),
                unit=unit,
            )
            for place, kappa in enumerate(KAPPAS)
        ]


class DetectionFigure(Section):
    """Figure 5 or 6: precision and recall of rejection, as many benign images as adversarial ones mixed.

    Attributes:
        threat: Whose examples.
    """

    threat: ClassVar[str]

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the guard's judgements of each reading's examples, and of benign images."""
        guard = sets.lineup.guard
        return (benign_unit(sets, guard), *(_unit(sets, guard, reading) for reading in READINGS[self.threat]))

    def cells(self, found: Found) -> tuple[Cell, ...]:
        """Return precision and recall for each reading and κ."""
        return tuple(cell for lines in self._panels(found).values() for line in lines.values() for cell in line)

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the curves."""
        return {f"figures/{self.name}.svg": _curves(self.name, self._panels(found))}

    def _panels(self, found: Found) -> dict[str, dict[str, list[Cell]]]:
        return {
            f"% {measure} of detection": {
                reading: list(self._line(found, reading, measure)) for reading in READINGS[self.threat]
            }
            for measure in ("recall", "precision")
        }

    def _line(self, found: Found, reading: str, measure: str) -> Iterator[Cell]:
        guard = found.lineup.guard
        unit = _unit(found.sets, guard, reading)
        judged, benign = found.judged(guard, unit.parts), found.benign(benign_unit(found.sets, guard))
        for place, kappa in enumerate(KAPPAS):
            known, run = None, judged is not None and benign is not None
            if judged is not None and benign is not None:
                known = _measured(judged, benign.accepted[judged.rows], place, measure)
            yield Cell(
                name=(f"figure {self.name[-1]}", measure, f"κ = {kappa:g}", reading),
                published=None,
                better="higher",
                found=known,
                unit=unit,
                undefined=run and known is None,
            )


class BlackBoxDetection(DetectionFigure):
    """Figure 5."""

    name = "figure5"
    threat = "black-box"


class GreyBoxDetection(DetectionFigure):
    """Figure 6."""

    name = "figure6"
    threat = "grey-box"


def _measured(judged: Judged, accepted: np.ndarray, place: int, measure: str) -> Count | None:
    """Return precision or recall of rejection; None for a precision of no rejection."""
    true, false = int((~judged.accepted[place]).sum()), int((~accepted).sum())
    whole: int = judged.rows.size if measure == "recall" else true + false
    return Count(part=true, whole=whole) if whole else None


def _files(sets: Sets) -> dict[str, Export]:
    return {"original": sets.lineup.oracle, "defended": sets.lineup.guard}


def _unit(sets: Sets, judge: Export, reading: str) -> JudgeSet:
    return JudgeSet(judge=judge, parts=sets.transferred(reading, "cw"))


def _curves(name: str, panels: Mapping[str, Mapping[str, Sequence[Cell]]]) -> bytes:
    """Return curves over κ as SVG: panels beside each other, by what is on their vertical axis."""
    with mpl.rc_context(SETTINGS):
        figure = styled((4.6 if len(panels) == 1 else 7.2, 3.1))
        drawn: list[Artist] = []
        for axes, (label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            percent_axis(axes, label)
            axes.set(xlabel="κ of C&W", xticks=KAPPAS, xlim=(-1, KAPPAS[-1] + 1))
            drawn = [_curve(axes, line, cells, style) for style, (line, cells) in enumerate(lines.items())]
            empty = {cell.verdict for cells in lines.values() for cell in cells if cell.found is None}
            if not any(cell.found for cells in lines.values() for cell in cells):
                say_nothing_there(axes, " or ".join(sorted(empty)))
        if len(drawn) > 1:
            figure.legend(handles=drawn, loc="outside lower center", ncols=len(drawn))
        return svg(figure, key=name)


def _curve(axes: Axes, line: str, cells: Sequence[Cell], style: int) -> Artist:
    known = [(kappa, cell.found.interval) for kappa, cell in zip(KAPPAS, cells, strict=True) if cell.found]
    return line_with_interval(axes, [kappa for kappa, _ in known], [one for _, one in known], label=line, style=style)
