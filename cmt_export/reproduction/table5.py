"""Table 5: how often C&W succeeds when the attacker knows the defence, and what a better objective makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from cmt_export.reproduction import published
from cmt_export.reproduction.cell import Cell, count
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.goals import Goal
from cmt_export.reproduction.judging import JudgeSet
from cmt_export.reproduction.lineup import FROZEN, GUARD, UNLOCKED
from cmt_export.reproduction.markdown import failures, legend, ours, table
from cmt_export.reproduction.preset import KAPPAS
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.unit import Unit

EQUATION_10, PAIR = "Eq. 10", "pair objective"
"""Readings of the attacker: the paper's sum of both heads' losses, and the worse of both margins."""

Model = Literal["original", "defended"]


class _Row(NamedTuple):
    """One row of the table."""

    kind: str
    model: Model
    reading: str
    option: str
    unit: JudgeSet


class Table5(Section):
    """Success of nearly-white-box C&W for κ = 0, 5, …, 40."""

    name = "table5"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the judgements of each file on its own attacker's examples."""
        return tuple(row.unit for row in _rows(sets))

    def cells(self, found: Found) -> tuple[Cell, ...]:
        """Return one figure for each row and κ."""
        return tuple(cell for row in _rows(found.sets) for cell in _cells(found, row))

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the page."""
        cells = self.cells(found)
        rows = []
        for row in _rows(found.sets):
            mine = _cells(found, row)
            if not row.option and mine[0].published is not None:
                rows.append([row.kind, row.model, "published", *map(_paper, mine)])
            who = row.reading if row.model == "defended" else "C&W"
            rows.append([row.kind, row.model, f"{who}{f', {row.option}' if row.option else ''}", *map(_short, mine)])
        headings = ("attack", "model", "attacker", *(f"κ = {kappa:g}" for kappa in KAPPAS))
        n = max((cell.found.whole for cell in cells if cell.found), default=0)
        page = (
            "# Table 5: success of nearly-white-box C&W\n\n"
            f"{_adaptive_first(cells)}\n\n{table(headings, rows)}\n{_NOTES.format(n=n)}\n{legend(cells)}\n"
            f"## Cells that do not reproduce\n\n{failures(cells)}\n"
            f"## Every figure with its interval\n\n{table(_HEADINGS, [_line(cell) for cell in cells])}"
        )
        return {"table5.md": page.encode()}


_HEADINGS = ("attack", "model", "κ", "attacker", "option", "published", "ours", "verdict")
_NOTES = (
    "{n} test images. A success is an image that the file under attack accepts under a wrong label, the target where "
    "there is one, with all pixels in [0, 1], however large the change. The undefended network accepts everything. "
    "Equation 10 cuts each head's loss off at κ, as Equation 4 does, and needs a target: non-targeted it takes the "
    "wrong class that the file finds likeliest. The pair objective is the worse of both heads' margins.\n"
)


def _rows(sets: Sets) -> Iterator[_Row]:
    lineup = sets.lineup
    for kind, targeted in (("non-targeted", False), ("targeted", True)):

        def row(model: Model, reading: str, option: str, name: str | None, goal: Goal) -> _Row:
            file = lineup.oracle if name is None else lineup.defended[name]
            parts = sets.generated(file, goal, targeted=targeted)  # noqa: B023, called in this round
            return _Row(kind, model, reading, option, JudgeSet(judge=file, parts=parts))  # noqa: B023

        yield row("original", "label", "", None, "label")
        yield row("defended", EQUATION_10, "", GUARD, "eq-10")
        yield row("defended", PAIR, "knows the rule", GUARD, "pair")
        yield row("defended", EQUATION_10, FROZEN, FROZEN, "eq-10")
        yield row("defended", EQUATION_10, UNLOCKED, UNLOCKED, "eq-10")


def _cells(found: Found, row: _Row) -> list[Cell]:
    judged = found.judged(row.unit.judge, row.unit.parts)
    key = found.lineup.preset.name, row.kind, row.model
    return [
        Cell(
            name=(row.kind, row.model, f"κ = {kappa:g}", row.reading),
            option=row.option,
            published=published.published(published.TABLE5, key, place),
            better="higher" if row.model == "original" else "lower",
            found=None if judged is None else count(judged.generated[place]),
            unit=row.unit,
        )
        for place, kappa in enumerate(KAPPAS)
    ]


def _adaptive_first(cells: tuple[Cell, ...]) -> str:
    """Return what an attacker with a better objective gets, to be read before the table."""
    known = [cell for cell in cells if cell.name[-1] == PAIR and cell.found]
    if not known:
        return "What an attacker who optimises for the rule gets is not run yet: read nothing into Equation 10 alone."
    best = max(known, key=lambda cell: cell.found.interval.value if cell.found else 0)
    return f"An attacker who optimises for the rule succeeds on {ours(best)}, {best.name[0]}, {best.name[2]}."


def _short(cell: Cell) -> str:
    if cell.found is None:
        return "not run yet"
    mark = {"beats": "", "matches": "", "does not reproduce": " ✗"}.get(cell.verdict, "")
    return f"**{100 * cell.found.interval.value:.0f} %**{mark}"


def _paper(cell: Cell) -> str:
    return "" if cell.published is None else f"{100 * cell.published:.0f} %"


def _line(cell: Cell) -> list[str]:
    kind, model, kappa, reading = cell.name
    return [kind, model, kappa, reading, cell.option, _paper(cell), ours(cell), cell.verdict]
