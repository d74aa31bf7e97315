"""The first thing to know: what somebody who knows the rule gets past the guard."""

from __future__ import annotations

from collections.abc import Mapping

from calibration.findings import FALLS_ABOVE
from calibration.results.phrasing import percent, with_bounds
from cmt_export.reproduction.cell import Cell, count
from cmt_export.reproduction.found import Found
from cmt_export.reproduction.judging import JudgeSet
from cmt_export.reproduction.section import Section
from cmt_export.reproduction.sets import Sets
from cmt_export.reproduction.unit import Unit


class Headline(Section):
    """PGD on the pair objective against the guard, at every ε."""

    name = "headline"

    def units(self, sets: Sets) -> tuple[Unit, ...]:
        """Return the guard's judgements of its own adaptive examples."""
        return tuple(_unit(sets, epsilon) for epsilon in sets.lineup.preset.epsilons)

    def cells(self, found: Found) -> tuple[Cell, ...]:
        """Return one figure for each ε."""
        return tuple(_cell(found, epsilon) for epsilon in found.lineup.preset.epsilons)

    def files(self, found: Found) -> Mapping[str, bytes]:
        """Return nothing: it stands in the summary."""
        return {}


def sentence(found: Found) -> str:
    """Return whether the defence holds, in one sentence."""
    known = {
        epsilon: cell.found.interval
        for epsilon in found.lineup.preset.epsilons
        if (cell := _cell(found, epsilon)).found is not None
    }
    if not known:
        return "**Whether the defence holds is not known yet**: the attack by somebody who knows the rule is not run."
    strongest = max(known, key=lambda epsilon: known[epsilon].value)
    gets = f"{with_bounds(known[strongest])} of the images accepted and wrong at ε = {strongest:.3g}"
    who = "somebody who knows the rule and runs PGD on both heads at once"
    if known[strongest].value > FALLS_ABOVE:
        return f"**The defence falls**: {who} gets {gets}."
    if known[strongest].high > FALLS_ABOVE:
        return f"**Whether the defence holds is undecided**: {who} gets {gets}."
    return (
        f"**The defence holds against what was tried**, and only that: {who} gets {gets}, under {percent(FALLS_ABOVE)}."
    )


def _unit(sets: Sets, epsilon: float) -> JudgeSet:
    guard = sets.lineup.guard
    return JudgeSet(judge=guard, parts=sets.pgd(guard, epsilon=epsilon))


def _cell(found: Found, epsilon: float) -> Cell:
    unit = _unit(found.sets, epsilon)
    judged = found.judged(unit.judge, unit.parts)
    return Cell(
        name=("headline", "PGD on the pair objective, fooled", f"ε = {epsilon:.3g}"),
        published=None,
        better="lower",
        found=None if judged is None else count(judged.generated[0]),
        unit=unit,
    )
