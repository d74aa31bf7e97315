"""What each part of the defence buys, against attackers who ignore the rule and who know it, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from calibration.availability import INVISIBLE
from calibration.results.phrasing import percent
from cmt_export.reproduction.cell import Cell, Count, count
from cmt_export.reproduction.claims import benign_unit
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import JudgeBenign, JudgeSet
from cmt_export.reproduction.markdown import NOT_RUN, ours, table
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.unit import Unit

IGNORES, KNOWS = "IGS on Z*", "PGD on the pair objective"

_NOISE = "uniform noise, 0.1"


class _Column(NamedTuple):
    """One measurement of one network."""

    heading: str
    unit: Unit
    found: Count | None


class Ablation(Section):
    """One row for each option of the defence."""

    name = "ablation"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the judgements of each network on its own attackers' examples, and of its benign images."""
        return tuple(dict.fromkeys(column.unit for row in sets.lineup.ablation for column in _columns(sets, row)))

    def cells(self, found: Found) -> tuple[Cell, ...]:
        """Return every figure."""
        return tuple(
            Cell(
                name=("ablation", row, column.heading),
                published=None,
                better="higher" if "rejected" in column.heading and "IGS" in column.heading else "lower",
                found=column.found,
                unit=column.unit,
            )
            for row in found.lineup.ablation
            for column in _columns(found.sets, row, found)
        )

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return the page."""
        rows = {row: _columns(found.sets, row, found) for row in found.lineup.ablation}
        headings = ["departs in", *(column.heading for column in next(iter(rows.values())))]
        shown = [[row, *map(_shown, columns)] for row, columns in rows.items()]
        noise = [[row, *_availability(found, row)] for row in rows]
        config, epochs = found.lineup.config, next(iter(found.lineup.ablation.values())).train.schedule.epochs
        page = (
            "# Ablation\n\nEach row departs in one option from the first: a trained lock, a one-to-one Classmap, "
            f"gamma 0.2, the bounded robust loss, FGS steps drawn up to {found.lineup.preset.training_epsilon:g}. "
            f"{epochs} epochs each.\n\n{table(headings, shown)}\n"
            f"Fooled: accepted and wrong. *{IGNORES}* ignores the rule ({config.igs_steps} steps); *{KNOWS}* knows it "
            f"({config.pgd_steps} steps, {config.pgd_restarts} starts). Each attacks the row's own file.\n\n"
            f"## Harmless changes\n\n{table(('departs in', 'worst harmless change', _NOISE), noise)}\n"
            "Share of benign images that are still accepted. A rule that rejects everything near a clean image looks "
            "like detection and is none.\n"
        )
        return {"ablation.md": page.encode()}


def _columns(sets: Sets, row: str, found: Found | None = None) -> list[_Column]:
    """Return the measurements of one row, those that are known counted."""
    return [*_attacked(sets, row, found), *_benign(sets, row, found)]


def _attacked(sets: Sets, row: str, found: Found | None) -> Iterator[_Column]:
    file = sets.lineup.ablation[row]
    for epsilon in sets.lineup.preset.epsilons:
        for name, parts in ((IGNORES, sets.igs(file, epsilon=epsilon)), (KNOWS, sets.pgd(file, epsilon=epsilon))):
            unit = JudgeSet(judge=file, parts=parts)
            judged = None if found is None else found.judged(file, parts)
            fooled = None if judged is None else count(judged.generated[0])
            yield _Column(f"fooled by {name}, ε = {epsilon:.3g}", unit, fooled)
            if name == IGNORES:
                rejected = None if judged is None else count(~judged.accepted[0])
                yield _Column(f"rejected under {name}, ε = {epsilon:.3g}", unit, rejected)


def _benign(sets: Sets, row: str, found: Found | None) -> Iterator[_Column]:
    unit = benign_unit(sets, sets.lineup.ablation[row])
    benign = None if found is None else found.benign(unit)
    yield _Column("benign, wrong label", unit, None if benign is None else count(benign.labels != benign.truth))
    yield _Column("benign, rejected", unit, None if benign is None else count(~benign.accepted))


def _availability(found: Found, row: str) -> tuple[str, str]:
    unit: JudgeBenign = benign_unit(found.sets, found.lineup.ablation[row])
    benign = found.benign(unit)
    if benign is None:
        return NOT_RUN, NOT_RUN
    worst = min(INVISIBLE, key=lambda change: benign.available[change])
    return f"{percent(benign.available[worst])} ({worst})", percent(benign.available[_NOISE])


def _shown(column: _Column) -> str:
    cell = Cell(name=(column.heading,), published=None, better="lower", found=column.found, unit=column.unit)
    return ours(cell).partition(", n")[0] + (")" if column.found else "")
